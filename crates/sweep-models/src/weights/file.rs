//! Reading files of weights, whose content tells their format.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use candle_core::pickle::PthTensors;
use candle_core::{Device, Tensor};

use crate::{Error, Result};

/// Where a state dictionary may lie in a larger one.
const KEYS: [&str; 2] = ["state_dict", "model"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Safetensors,
    /// PyTorch's since version 1.6: a zip archive of a pickle and the bytes of each storage.
    Zip,
    /// PyTorch's before, and what `pickle.dump` writes.
    BarePickle,
    /// What stands in for a file that was not downloaded.
    LfsPointer,
    Unknown,
}

impl Format {
    fn of(start: &[u8]) -> Self {
        match start {
            [b'P', b'K', 3, 4, ..] => Self::Zip,
            // The length of a JSON object as a 64-bit number, then the object.
            [_, _, _, _, _, _, 0, 0, b'{', ..] => Self::Safetensors,
            [0x80, 2..=5, ..] => Self::BarePickle,
            _ if start.starts_with(b"version ") => Self::LfsPointer,
            _ => Self::Unknown,
        }
    }
}

/// All tensors of a file under the names they have there.
pub(super) fn read(path: &Path) -> Result<HashMap<String, Tensor>> {
    match Format::of(&start(path)?) {
        Format::Safetensors => {
            candle_core::safetensors::load(path, &Device::Cpu).map_err(|error| problem(path, &error))
        }
        // candle's reader executes nothing, but panics at pickles that are not well formed.
        Format::Zip => std::panic::catch_unwind(|| read_pickle(path))
            .unwrap_or_else(|_| Err(problem(path, &"its pickle is damaged or of an unknown form"))),
        Format::BarePickle => Err(problem(
            path,
            &"a pickle outside a zip archive, which PyTorch wrote before version 1.6; load it there and save it again",
        )),
        Format::LfsPointer => Err(problem(path, &"a Git LFS pointer, not the weights themselves")),
        Format::Unknown => Err(problem(path, &"neither a safetensors file nor a PyTorch zip archive")),
    }
}

fn problem(path: &Path, problem: &impl ToString) -> Error {
    Error::Weights { path: path.to_owned(), problem: problem.to_string() }
}

/// The first bytes, as many as [`Format::of`] looks at.
fn start(path: &Path) -> Result<Vec<u8>> {
    let mut start = Vec::new();
    File::open(path)
        .and_then(|file| file.take(16).read_to_end(&mut start))
        .map_err(|source| Error::File { path: path.to_owned(), source })?;
    Ok(start)
}

fn read_pickle(path: &Path) -> Result<HashMap<String, Tensor>> {
    let whole = PthTensors::new(path, None).map_err(|error| problem(path, &error))?;
    // An absent key is an error like any other here; the archive itself was readable, so nothing else is expected.
    let mut inner = KEYS.iter().filter_map(|key| PthTensors::new(path, Some(key)).ok());
    let archive = inner.find(|inner| !inner.tensor_infos().is_empty()).unwrap_or(whole);
    if archive.tensor_infos().is_empty() {
        let keys = KEYS.map(|key| format!("`{key}`")).join(" or ");
        return Err(problem(path, &format!("no tensors, neither in the dictionary itself nor under {keys}")));
    }
    tensors(path, &archive)
}

fn tensors(path: &Path, archive: &PthTensors) -> Result<HashMap<String, Tensor>> {
    let mut tensors = HashMap::new();
    for name in archive.tensor_infos().keys() {
        let tensor = archive.get(name).map_err(|error| problem(path, &format!("`{name}`: {error}")))?;
        tensors.extend(tensor.map(|tensor| (name.clone(), tensor)));
    }
    Ok(tensors)
}

#[cfg(test)]
mod tests {
    use super::Format;

    #[test]
    fn the_first_bytes_tell_the_format() {
        for (start, format) in [
            (&b"PK\x03\x04\0\0"[..], Format::Zip),
            (b"\x40\0\0\0\0\0\0\0{\"a\"", Format::Safetensors),
            (b"\x80\x02\x8a\x0a", Format::BarePickle),
            (b"version https://", Format::LfsPointer),
            (b"<!DOCTYPE html>", Format::Unknown),
            (b"\x40\0\0\0\0\0\0\0[", Format::Unknown),
            (b"", Format::Unknown),
        ] {
            assert_eq!(Format::of(start), format, "{start:?}");
        }
    }
}
