//! The bytes of a checkpoint. Whatever is read is checked before it is believed: a file that says impossible things is
//! refused, costs no more memory than a small multiple of its length, and never ends the worker.

use std::collections::HashMap;

use candle_core::safetensors::Load as _;
use candle_core::{Device, Tensor};
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};
use sweep_core::spec::RunId;
use sweep_core::trajectory::{CheckpointName, Prefix};

use super::position::Position;

/// Version of the content. Files of another version are left alone.
const FORMAT: &str = "2";

/// The metadata beside the format, as JSON.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    /// The hash of the trajectory, which binds the file to its name.
    prefix: String,
    /// The run whose worker wrote it.
    run: RunId,
    position: Position,
}

/// What a checkpoint holds.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) position: Position,
    pub(super) tensors: Tensors,
}

/// The tensors of a checkpoint by name.
#[derive(Debug, Default)]
pub(super) struct Tensors {
    pub(super) parameters: HashMap<String, Tensor>,
    pub(super) averages: HashMap<String, Tensor>,
    pub(super) moments: HashMap<String, Tensor>,
}

/// Kinds of tensors, by the beginning of their names.
pub(super) const PARAMETERS: &str = "model.";
pub(super) const AVERAGES: &str = "average.";
pub(super) const MOMENTS: &str = "optimizer.";

/// Why bytes are no checkpoint.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// They may be one to another version of this program.
    OtherFormat(String),
    /// They are none to anybody.
    Damaged(String),
}

impl Fault {
    fn damaged(reason: &impl ToString) -> Self {
        Self::Damaged(reason.to_string())
    }
}

/// Returns the bytes of a checkpoint.
///
/// # Errors
/// Why the tensors cannot be written.
pub(super) fn encode(
    prefix: Prefix,
    run: RunId,
    position: &Position,
    tensors: Vec<(String, Tensor)>,
) -> Result<Vec<u8>, String> {
    let header = Header { prefix: prefix.to_string(), run, position: position.clone() };
    let header = serde_json::to_string(&header).map_err(|error| error.to_string())?;
    let metadata = [("format", FORMAT.to_owned()), ("checkpoint", header)];
    let metadata = metadata.map(|(key, value)| (key.to_owned(), value)).into();
    safetensors::serialize(tensors, Some(metadata)).map_err(|error| error.to_string())
}

/// Reads bytes whose digest is that of their `name`.
///
/// # Errors
/// What is wrong with them.
pub(super) fn decode(bytes: &[u8], name: &CheckpointName) -> Result<Content, Fault> {
    check_offsets(bytes).map_err(Fault::Damaged)?;
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|error| Fault::damaged(&error))?;
    let position = read_header(metadata.metadata().as_ref(), name)?;
    let tensors = read_tensors(bytes).map_err(Fault::Damaged)?;
    Ok(Content { position, tensors })
}

/// What the header of a safetensors file says about one tensor, as far as it matters here; nothing for the metadata.
#[derive(Deserialize)]
struct Entry {
    data_offsets: Option<[u64; 2]>,
}

/// Refuses offsets beyond the end of the file: the library adds them up unchecked.
fn check_offsets(bytes: &[u8]) -> Result<(), String> {
    let (length, rest) = bytes.split_first_chunk().ok_or("it is too short")?;
    let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|error| error.to_string())?;
    let header = rest.get(..length).ok_or("its header is longer than the file")?;
    let entries: HashMap<String, Entry> =
        serde_json::from_slice(header).map_err(|error| error.to_string())?;
    let mut ends = entries.values().filter_map(|entry| entry.data_offsets).flatten();
    if ends.any(|end| end > rest.len() as u64) {
        Err("its tensors are longer than the file".to_owned())
    } else {
        Ok(())
    }
}

fn read_header(metadata: Option<&HashMap<String, String>>, name: &CheckpointName) -> Result<Position, Fault> {
    let text = |key: &str| {
        let text = metadata.and_then(|metadata| metadata.get(key));
        text.ok_or_else(|| Fault::Damaged(format!("its metadata has no `{key}`")))
    };
    let format = text("format")?;
    if format != FORMAT {
        return Err(Fault::OtherFormat(format.clone()));
    }
    let Header { prefix, run, position } =
        serde_json::from_str(text("checkpoint")?).map_err(|error| Fault::damaged(&error))?;
    if prefix != name.prefix.to_string() || run != name.run || position.step != name.step.unwrap_or(0) {
        return Err(Fault::Damaged("its name speaks of another checkpoint".to_owned()));
    }
    position.check().map_err(Fault::Damaged)?;
    Ok(position)
}

fn read_tensors(bytes: &[u8]) -> Result<Tensors, String> {
    let file = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
    let mut tensors = Tensors::default();
    for (name, view) in file.iter() {
        let (place, name) = tensors.place(name).ok_or_else(|| format!("`{name}` is no part of one"))?;
        // Parameters and moments are of the first kind, counters of the second.
        if !matches!(view.dtype(), Dtype::F32 | Dtype::I64) {
            return Err(format!("`{name}` has dtype {}", view.dtype()));
        }
        place.insert(name.to_owned(), view.load(&Device::Cpu).map_err(|error| error.to_string())?);
    }
    Ok(tensors)
}

impl Tensors {
    /// Returns where a tensor of this name belongs, and its name there.
    fn place<'a>(&mut self, name: &'a str) -> Option<(&mut HashMap<String, Tensor>, &'a str)> {
        let Self { parameters, averages, moments } = self;
        let places = [(PARAMETERS, parameters), (AVERAGES, averages), (MOMENTS, moments)];
        places.into_iter().find_map(|(kind, place)| Some((place, name.strip_prefix(kind)?)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sweep_core::spec::RunSpec;
    use sweep_kernels::Optimizer;
    use sweep_models::Model;
    use sweep_testkit::{Workspace, sample_run};

    use super::super::position::tests::position;
    use super::super::state::{Shape, State, tensors};
    use super::*;
    use crate::digest::digest_bytes;
    use crate::network;

    const EPOCHS: u32 = 2;
    const STEP: u32 = 3;

    struct Fixture {
        spec: RunSpec,
        model: Model,
        optimizer: Box<dyn Optimizer>,
    }

    impl Fixture {
        fn new() -> Self {
            let (spec, workspace) = (sample_run(0), Workspace::new());
            let model = network::load(&spec, 4, &workspace.layout()).unwrap().model;
            let optimizer = network::optimizer(&spec.optimizer, &model).unwrap();
            Self { spec, model, optimizer }
        }

        fn bytes(&self) -> Vec<u8> {
            let tensors = tensors(&self.model, None, self.optimizer.as_ref()).unwrap();
            let prefix = self.spec.trajectory()[EPOCHS as usize + 1];
            encode(prefix, self.spec.id(), &position(EPOCHS, STEP), tensors).unwrap()
        }

        /// The name that `bytes` would have if the worker had written them.
        fn name(&self, bytes: &[u8]) -> CheckpointName {
            let prefix = self.spec.trajectory()[EPOCHS as usize + 1];
            CheckpointName { prefix, run: self.spec.id(), step: Some(STEP), digest: digest_bytes(bytes) }
        }

        /// Reads bytes and puts them into the model, as far as they allow.
        fn read(&mut self, bytes: &[u8]) -> Result<Position, String> {
            let content = decode(bytes, &self.name(bytes)).map_err(|fault| format!("{fault:?}"))?;
            let shape = Shape { train: 50, validation: 10, batch_size: 8 };
            let mut state =
                State { model: &mut self.model, average: None, optimizer: self.optimizer.as_mut(), shape };
            content.check(&mut state)?;
            Ok(content.apply(&mut state).unwrap())
        }
    }

    /// Replaces the header and leaves the rest.
    fn with_header(bytes: &[u8], change: impl FnOnce(String) -> String) -> Vec<u8> {
        let end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header = change(String::from_utf8(bytes[8..end].to_vec()).unwrap());
        let length = (header.len() as u64).to_le_bytes();
        [&length, header.as_bytes(), &bytes[end..]].concat()
    }

    #[test]
    fn what_is_read_is_what_was_written_to_the_last_bit() {
        let mut fixture = Fixture::new();
        let bytes = fixture.bytes();
        assert_eq!(fixture.read(&bytes), Ok(position(EPOCHS, STEP)));
    }

    #[test]
    fn lies_of_the_header_are_refused() {
        let mut fixture = Fixture::new();
        let bytes = fixture.bytes();
        let largest = u64::MAX;
        // Nine tensors whose lengths add up to a little more than 64 bits can count.
        let wrapping: Vec<String> = (0..9_u128)
            .map(|index| {
                let (start, size) = (index * ((1 << 61) - 8), (1_u128 << 61) - 8);
                let end = (start + size).min(u128::from(largest));
                format!(
                    r#""model.{index}":{{"dtype":"F32","shape":[{}],"data_offsets":[{start},{end}]}}"#,
                    size / 4
                )
            })
            .collect();
        let headers = [
            format!("{{{}}}", wrapping.join(",")),
            format!(r#"{{"model.a":{{"dtype":"F32","shape":[{largest}],"data_offsets":[0,4]}}}}"#),
            format!(r#"{{"model.a":{{"dtype":"F32","shape":[1],"data_offsets":[0,{largest}]}}}}"#),
            format!(r#"{{"model.a":{{"dtype":"F32","shape":[{largest},{largest}],"data_offsets":[0,0]}}}}"#),
            r#"{"model.a":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}}"#.to_owned(),
            "[".repeat(100_000),
            String::new(),
        ];
        for header in headers {
            let lie = with_header(&bytes, |_| header.clone());
            assert!(fixture.read(&lie).is_err(), "{header:.200}");
        }
        for length in [largest, largest - 8, bytes.len() as u64] {
            let mut lie = bytes.clone();
            lie[..8].copy_from_slice(&length.to_le_bytes());
            assert!(fixture.read(&lie).is_err(), "{length}");
        }
    }

    #[test]
    fn a_name_and_a_content_that_do_not_belong_together_are_refused() {
        let fixture = Fixture::new();
        let bytes = fixture.bytes();
        let right = fixture.name(&bytes);
        let wrong = [
            CheckpointName { prefix: fixture.spec.trajectory()[1], ..right.clone() },
            CheckpointName { run: sample_run(1).id(), ..right.clone() },
            CheckpointName { step: None, ..right.clone() },
            CheckpointName { step: Some(STEP + 1), ..right.clone() },
        ];
        assert!(decode(&bytes, &right).is_ok());
        for name in wrong {
            assert!(matches!(decode(&bytes, &name), Err(Fault::Damaged(_))), "{name}");
        }
        let newer = with_header(&bytes, |header| header.replace(r#""format":"2""#, r#""format":"3""#));
        assert_eq!(decode(&newer, &right).unwrap_err(), Fault::OtherFormat("3".to_owned()));
    }

    /// What a number in the header may be replaced by.
    const NUMBERS: [&str; 9] = [
        "0",
        "1",
        "-1",
        "4294967295",
        "4294967296",
        "18446744073709551615",
        "1e308",
        "null",
        "\\\"7ff8000000000000\\\"",
    ];

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

        /// Bits that flip anywhere, but mostly in the header; and an end that is missing.
        #[test]
        fn mutated_bytes_are_refused_or_possible(
            flips in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>(), any::<u8>()), 1..8),
            cut in prop::option::of(any::<prop::sample::Index>()),
        ) {
            let mut fixture = Fixture::new();
            let mut bytes = fixture.bytes();
            let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            for (place, anywhere, change) in flips {
                let length = if anywhere { bytes.len() } else { header };
                bytes[place.index(length)] ^= change;
            }
            bytes.truncate(cut.map_or(bytes.len(), |cut| cut.index(bytes.len())));
            if let Ok(position) = fixture.read(&bytes) {
                prop_assert_eq!(position.check(), Ok(()));
                prop_assert_eq!(position.step, STEP);
            }
        }

        /// Any number of the header is another one: a shape, an offset, a count, a bit pattern of the history.
        #[test]
        fn mutated_numbers_are_refused_or_possible(
            place in any::<prop::sample::Index>(),
            number in prop::sample::select(&NUMBERS[..]),
        ) {
            let mut fixture = Fixture::new();
            let mutated = with_header(&fixture.bytes(), |header| {
                let starts: Vec<usize> = header
                    .char_indices()
                    .filter(|(at, digit)| digit.is_ascii_digit() && !header.as_bytes()[at - 1].is_ascii_alphanumeric())
                    .map(|(at, _)| at)
                    .collect();
                let start = starts[place.index(starts.len())];
                let end = start + header[start..].bytes().take_while(u8::is_ascii_alphanumeric).count();
                format!("{}{number}{}", &header[..start], &header[end..])
            });
            if let Ok(position) = fixture.read(&mutated) {
                prop_assert_eq!(position.check(), Ok(()));
                prop_assert_eq!(position.place(), (EPOCHS, STEP));
            }
        }
    }
}
