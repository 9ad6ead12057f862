//! Files of weights and configurations that lie: each ends in an error that names what is wrong, without a panic, and
//! without more memory than the file itself justifies.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;

use std::path::Path;
use std::process::Command;

use candle_core::DType;
use common::data;
use proptest::prelude::*;
use sweep_models::{
    Architecture, ConvnextConfig, Error, Head, HubConfig, Model, ResnetConfig, SwinConfig, VitConfig,
};

/// Files mutated for each kind, a millisecond or two each.
const CASES: u32 = 256;
/// Memory in KiB that a process may have whose file says that it needs terabytes: a few hundred MiB are the test program's
/// own libraries and threads.
const MEMORY: u32 = 2 << 20;
/// Names the file that the child process of [`what_lies_about_its_size_takes_no_memory`] reads.
const FILE: &str = "SWEEP_HOSTILE_WEIGHTS";

fn load(path: &Path) -> Result<(), Error> {
    Model::load(Architecture::Swin(SwinConfig::tiny_32()), DType::F32, path, Head::Stored).map(drop)
}

/// Loads `bytes` as a file of weights of a network that they do not fit, and returns the error's text.
fn refusal(bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights");
    std::fs::write(&path, bytes).unwrap();
    let error = load(&path).unwrap_err().to_string();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "something was written");
    assert!(error.len() < 10_000, "{} bytes of error", error.len());
    error
}

fn safetensors(header: &str, bytes: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![0; bytes]].concat()
}

/// A zip archive with uncompressed entries.
fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, bytes) in entries {
        let numbers = |sizes: [u32; 2]| {
            let fields = [checksum(bytes), sizes[0], sizes[1]];
            [&fields.map(u32::to_le_bytes).concat(), &(name.len() as u16).to_le_bytes()[..]].concat()
        };
        let length = bytes.len() as u32;
        let start = (file.len() as u32).to_le_bytes();
        directory.extend(
            [b"PK\x01\x02\x14\0\x14\0\0\0\0\0\0\0\0\0", &numbers([length; 2])[..], &[0; 12], &start].concat(),
        );
        directory.extend(name.as_bytes());
        file.extend(
            [b"PK\x03\x04\x14\0\0\0\0\0\0\0\0\0", &numbers([length; 2])[..], &[0; 2], name.as_bytes(), bytes]
                .concat(),
        );
    }
    let count = (entries.len() as u16).to_le_bytes();
    let sizes = [directory.len() as u32, file.len() as u32].map(u32::to_le_bytes).concat();
    [&file, &directory, &b"PK\x05\x06\0\0\0\0"[..], &count, &count, &sizes, &[0; 2]].concat()
}

/// CRC-32, bit by bit.
fn checksum(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { 0xEDB8_8320 ^ (crc >> 1) } else { crc >> 1 };
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
}

fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

fn long(number: i64) -> Vec<u8> {
    [&b"\x8a\x08"[..], &number.to_le_bytes()].concat()
}

/// A pickled dictionary with one tensor `x` on the storage `key`.
fn pickle(class: &str, key: &str, offset: i64, shape: &[i64], stride: &[i64]) -> Vec<u8> {
    let numbers = |numbers: &[i64]| {
        [b"(", &numbers.iter().copied().flat_map(long).collect::<Vec<u8>>()[..], b"t"].concat()
    };
    let storage = [
        b"(",
        &text("storage")[..],
        format!("ctorch\n{class}\n").as_bytes(),
        &text(key),
        &text("cpu"),
        b"K\x01tQ",
    ]
    .concat();
    let arguments =
        [b"(", &storage[..], &long(offset), &numbers(shape), &numbers(stride), b"\x89)t"].concat();
    [b"\x80\x02}(", &text("x")[..], b"ctorch._utils\n_rebuild_tensor_v2\n", &arguments, b"Ru."].concat()
}

fn archive(pickle: &[u8]) -> Vec<u8> {
    zip(&[("a/data.pkl", pickle), ("a/data/0", &[0; 16])])
}

#[test]
fn safetensors_that_lie_are_refused_with_the_reason() {
    let tensor = |shape: &str, offsets: &str, dtype: &str| {
        format!(r#"{{"x":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    let deep = format!(r#"{{"__metadata__":{}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    let cases = [
        (safetensors(&tensor("[4]", "[0,1000000]", "F32"), 16), "invalid shape"),
        (safetensors(&tensor("[4]", "[-8,8]", "F32"), 16), "invalid value"),
        (safetensors(&tensor("[4]", "[8,0]", "F32"), 16), "`x`: its offsets"),
        (safetensors(&tensor("[2]", "[8,16]", "F32"), 16), "`x`: its offsets"),
        (safetensors(&tensor("[-4]", "[0,16]", "F32"), 16), "invalid value"),
        (safetensors(&tensor("[9223372036854775807,9223372036854775807]", "[0,16]", "F32"), 16), "overflow"),
        (safetensors(&tensor("[1000000000000]", "[0,4000000000000]", "F32"), 16), "incomplete"),
        (safetensors(&tensor("[32]", "[0,16]", "F4"), 16), "`x`: numbers of type F4"),
        (safetensors(&tensor("[16]", "[0,16]", "F8_E4M3"), 16), "`x`: numbers of type F8_E4M3"),
        (safetensors(&tensor("[1]", "[0,16]", "C128"), 16), "C128"),
        (safetensors(&deep, 0), "JSON"),
        ([&u64::to_le_bytes(90_000_000)[..], b"{}"].concat(), "length"),
        ([&u64::to_le_bytes(1 << 40)[..], b"{}"].concat(), "large"),
        (safetensors(&tensor("[4]", "[0,16]", "F32"), 17), "incomplete"),
    ];
    for (bytes, expected) in cases {
        let error = refusal(&bytes);
        assert!(error.contains("weights: ") && error.contains(expected), "expected {expected}: {error}");
    }
}

#[test]
fn pickles_that_lie_are_refused_with_the_reason() {
    let (float, most) = ("FloatStorage", i64::MAX);
    let within_itself = [b"\x80\x02}q\0(".to_vec(), text("x"), b"h\0u.".to_vec()].concat();
    let entry = |pickle: &[u8], name: &str| zip(&[("a/data.pkl", pickle), (name, &[0; 16])]);
    let cases = [
        (
            archive(&pickle(float, "0", 0, &[5], &[1])),
            "`x`: shape [5], strides [1] and offset 0 do not lie within a storage of 4",
        ),
        (archive(&pickle(float, "0", 1, &[4], &[1])), "offset 1 do not lie within"),
        (archive(&pickle(float, "0", -1, &[4], &[1])), "`x`: its offset is no number of elements"),
        (archive(&pickle(float, "0", 0, &[-4], &[1])), "`x`: its shape is not one of numbers from 0 on"),
        (archive(&pickle(float, "0", 0, &[2], &[-1])), "`x`: its strides are not numbers from 0 on"),
        (archive(&pickle(float, "0", 0, &[2, 2], &[1])), "`x`: it has not as many strides as dimensions"),
        (archive(&pickle(float, "0", 0, &[most, most], &[1, 1])), "more elements than can be counted"),
        (archive(&pickle(float, "0", 0, &[most], &[0])), "its tensors have more than"),
        (archive(&pickle(float, "0", 0, &[1 << 20, 1 << 20], &[0, 0])), "its tensors have more than"),
        (archive(&pickle(float, "0", most, &[1], &[most])), "do not lie within"),
        (
            archive(&pickle(float, "../../../../etc/passwd", 0, &[1], &[1])),
            "no entry `a/data/../../../../etc/passwd`",
        ),
        (archive(&pickle("ComplexFloatStorage", "0", 0, &[1], &[1])), "`x`: its numbers are of a type"),
        (archive(b"\x80\x02cos\nsystem\nX\x02\0\0\0id\x85R."), "no tensors"),
        (archive(b"\x80\x02c__builtin__\neval\n(lp0\n."), "byte 22: unknown opcode 0x70"),
        (archive(b"X\xff\xff\xff\xff"), "byte 0: it breaks off"),
        (archive(&within_itself), "no tensors"),
        (archive(&[b"]".to_vec(), vec![0x85; 1_000_000], b".".to_vec()].concat()), "no tensors"),
        (entry(b"}.", "a/data.pkl"), "two entries `a/data.pkl`"),
        (entry(b"}.", "b/data.pkl"), "several entries `data.pkl`"),
        (zip(&[("a/other", b"")]), "without PyTorch's `data.pkl`"),
        (zip(&[("a/data.pkl", b"}."), ("a/byteorder", b"big")]), "the other byte order"),
        (b"PK\x03\x04 and no more".to_vec(), "its end, with the table of contents, is missing"),
    ];
    for (bytes, expected) in cases {
        let error = refusal(&bytes);
        assert!(error.contains("weights: ") && error.contains(expected), "expected {expected}: {error}");
    }
}

#[test]
fn archives_that_lie_are_refused_with_the_reason() {
    let sound = archive(&pickle("FloatStorage", "0", 0, &[4], &[1]));
    assert!(refusal(&sound).contains("unexpected: x"));
    let with = |position: usize, bytes: &[u8]| {
        let mut file = sound.clone();
        file[position..][..bytes.len()].copy_from_slice(bytes);
        refusal(&file)
    };
    let directory = sound.windows(4).position(|bytes| bytes == b"PK\x01\x02").unwrap();
    let end = sound.len() - 22;
    let cases = [
        (directory + 10, &[8, 0][..], "its entry `a/data.pkl` is compressed or encrypted"),
        (directory + 8, &[1, 0], "its entry `a/data.pkl` is compressed or encrypted"),
        (
            directory + 20,
            &[0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff, 0x7f],
            "its pickle has 2147483647 bytes",
        ),
        (directory + 20, &[0, 0xff, 0, 0, 0, 0xff, 0, 0], "its entry `a/data.pkl` has 65280 bytes from byte"),
        (directory + 42, &[0xff, 0xff, 0xff, 0xfe], "its entry `a/data.pkl` has 30 bytes from byte"),
        (directory + 42, &[1, 0, 0, 0], "does not lie where its table of contents says"),
        (directory + 28, &[0xff, 0xff], "its table of contents is damaged"),
        (directory + 16, &[0; 4], "has the checksum"),
        (end + 12, &[0xff, 0xff, 0xff, 0x7f], "its table of contents has 2147483647 bytes"),
        (end + 16, &[0xff, 0xff, 0xff, 0x7f], "its table of contents has"),
    ];
    for (position, bytes, expected) in cases {
        let error = with(position, bytes);
        assert!(error.contains(expected), "byte {position}, expected {expected}: {error}");
    }
}

#[test]
fn weights_that_are_no_numbers_are_named() {
    let architecture = VitConfig { depth: 1, embed_dim: 4, num_heads: 1, ..VitConfig::tiny_32() };
    let mut next = common::uniforms(1);
    let model = Model::new(Architecture::Vit(architecture.clone()), DType::F32, &mut next).unwrap();
    let sound = model.to_safetensors().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights");
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut bytes = sound.clone();
        let last = bytes.len() - 4;
        bytes[last..].copy_from_slice(&value.to_le_bytes());
        std::fs::write(&path, bytes).unwrap();
        let loaded = Model::load(Architecture::Vit(architecture.clone()), DType::F32, &path, Head::Stored);
        let error = loaded.map(drop).unwrap_err().to_string();
        assert!(error.contains("` has values that are no finite numbers in F32"), "{error}");
    }
}

#[test]
fn a_file_that_fits_in_nothing_is_named_in_few_words() {
    let entries: Vec<String> = (0..5000)
        .map(|number| {
            format!(
                r#""{}{number}":{{"dtype":"U8","shape":[],"data_offsets":[{number},{}]}}"#,
                "n".repeat(1000),
                number + 1
            )
        })
        .collect();
    let error = refusal(&safetensors(&format!("{{{}}}", entries.join(",")), 5000));
    assert!(error.contains("and 4980 more") && error.contains("missing: patch_embed.proj.weight"), "{error}");
}

/// A `config.json` of timm's with these entries of `model_args`.
fn config(name: &str, model_args: &str) -> String {
    format!(
        r#"{{"architecture": "{name}", "num_classes": 10, "num_features": 1, "model_args": {{{model_args}}},
            "pretrained_cfg": {{"mean": [0, 0, 0], "std": [1, 1, 1], "input_size": [3, 224, 224]}}}}"#
    )
}

fn model_refusal(json: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), json).unwrap();
    std::fs::write(folder.path().join("model.safetensors"), safetensors("{}", 0)).unwrap();
    Model::load_folder(folder.path(), DType::F32).map(drop).unwrap_err().to_string()
}

#[test]
fn configurations_beyond_any_machine_are_refused_before_they_have_memory() {
    let vit = "vit_base_patch16_224";
    let swin = "swin_base_patch4_window7_224";
    let cases = [
        (vit, r#""depth": 18446744073709551615"#, "depth is 18446744073709551615"),
        (vit, r#""depth": 1000000"#, "number of parameter"),
        (vit, r#""depth": -1"#, "`depth` is -1"),
        (vit, r#""depth": 1e3"#, "`depth` is 1000.0"),
        (vit, r#""embed_dim": 1000000, "num_heads": 1"#, "number of parameters is"),
        (vit, r#""img_size": 1048576, "patch_size": 1"#, "number of parameters is"),
        (vit, r#""img_size": 1099511627776"#, "image_size is 1099511627776"),
        (vit, r#""mlp_ratio": 1e300"#, "number of parameters is"),
        (vit, r#""num_classes": 9223372036854775807"#, "num_classes is 9223372036854775807"),
        (vit, r#""patch_size": 0"#, "patch_size is 0"),
        (swin, r#""depths": [1000000, 1000000, 1000000, 1000000]"#, "number of parameter"),
        (
            swin,
            r#""depths": [18446744073709551615, 18446744073709551615, 1, 1]"#,
            "depths is [18446744073709551615",
        ),
        (swin, r#""embed_dim": 1048576"#, "number of parameters is"),
        (swin, r#""window_size": 0"#, "window_size is 0"),
        ("convnext_base", r#""dims": [1048576, 1048576, 1048576, 1048576]"#, "number of parameters is"),
        ("convnext_base", r#""depths": [1048576, 1, 1, 1]"#, "number of parameter"),
        ("resnet50", r#""channels": [1048576, 1, 1, 1]"#, "number of parameters is"),
        ("resnet50", r#""layers": [9, 9]"#, "layers is [9, 9]"),
        ("../../resnet50", "", "architecture `../../resnet50` is unknown"),
    ];
    for (name, arguments, expected) in cases {
        let error = model_refusal(&config(name, arguments));
        assert!(error.contains(expected), "{arguments}, expected {expected}: {error}");
    }
    let deep = format!(r#""depth": {}1{}"#, "[".repeat(100_000), "]".repeat(100_000));
    assert!(model_refusal(&config(vit, &deep)).contains("recursion limit"));
    assert!(model_refusal(&" ".repeat((16 << 20) + 1)).contains("it has more than 16777216 bytes"));
    let std = config(vit, "").replace("[1, 1, 1]", "[1, 0, 1]");
    assert!(model_refusal(&std).contains("std is 0"));
}

/// What [`what_lies_about_its_size_takes_no_memory`] runs in a process of little memory; without a file there is nothing
/// to do.
#[test]
#[expect(clippy::print_stdout, reason = "the test that starts this process reads it")]
fn child_that_loads_a_file() {
    if let Some(path) = std::env::var_os(FILE) {
        println!("refused: {}", load(Path::new(&path)).unwrap_err());
    }
}

#[test]
fn what_lies_about_its_size_takes_no_memory() {
    let folder = tempfile::tempdir().unwrap();
    let doubled = [b"q\0h\0\x86".as_slice(); 1000].concat();
    let header = r#"{"x":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}"#;
    let files = [
        archive(&pickle("FloatStorage", "0", 0, &[1 << 40], &[0])),
        archive(b"X\xff\xff\xff\xff"),
        archive(b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7f"),
        archive(&[b")".as_slice(), &doubled, b"."].concat()),
        archive(&[b"\x80\x02", &b")".repeat(3_000_000)[..], b"."].concat()),
        safetensors(header, 0),
    ];
    for (number, bytes) in files.iter().enumerate() {
        let path = folder.path().join(format!("weights{number}"));
        std::fs::write(&path, bytes).unwrap();
        let program = std::env::current_exe().unwrap();
        let limited =
            format!("ulimit -v {MEMORY} && exec \"$0\" --exact child_that_loads_a_file --nocapture");
        let output =
            Command::new("sh").args(["-c", &limited]).arg(program).env(FILE, &path).output().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && printed.contains("refused: "), "file {number}: {printed}");
    }
}

/// What may become of a valid file on its way.
#[derive(Clone, Debug)]
enum Mutation {
    Flip(prop::sample::Index, u8),
    Cut(prop::sample::Index),
    Splice(prop::sample::Index, prop::sample::Index, prop::sample::Index),
    Number(prop::sample::Index, u64, usize),
}

fn mutations() -> impl Strategy<Value = Vec<Mutation>> {
    let place = any::<prop::sample::Index>;
    let numbers =
        prop::sample::select(vec![0, 1, u64::MAX, u64::MAX / 2, 1 << 31, u64::from(u32::MAX), 1 << 40]);
    let mutation = prop_oneof![
        4 => (place(), 0_u8..8).prop_map(|(place, bit)| Mutation::Flip(place, bit)),
        1 => place().prop_map(Mutation::Cut),
        1 => (place(), place(), place()).prop_map(|(from, to, at)| Mutation::Splice(from, to, at)),
        2 => (place(), numbers, prop::sample::select(vec![1, 2, 4, 8])).prop_map(|(place, value, width)| Mutation::Number(place, value, width)),
    ];
    prop::collection::vec(mutation, 1..4)
}

fn mutated(mut bytes: Vec<u8>, mutations: &[Mutation]) -> Vec<u8> {
    for mutation in mutations {
        if bytes.is_empty() {
            break;
        }
        let place = |index: &prop::sample::Index| index.index(bytes.len());
        match mutation {
            Mutation::Flip(index, bit) => {
                let place = place(index);
                bytes[place] ^= 1 << bit;
            }
            Mutation::Cut(index) => bytes.truncate(index.index(bytes.len())),
            Mutation::Splice(from, to, at) => {
                let (from, to, at) = (place(from), place(to), place(at));
                let piece = bytes[from.min(to)..from.max(to)].to_vec();
                bytes.splice(at..at, piece);
            }
            Mutation::Number(index, value, width) => {
                let place = place(index);
                let width = (*width).min(bytes.len() - place);
                bytes[place..][..width].copy_from_slice(&value.to_le_bytes()[..width]);
            }
        }
    }
    bytes
}

/// Loads a file that may be anything, and does not panic.
fn survives(bytes: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights");
    std::fs::write(&path, bytes).unwrap();
    if let Err(error) = load(&path) {
        assert!(error.to_string().len() < 10_000);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_after_a_known_beginning(start in prop::sample::select(vec![&b"PK\x03\x04"[..], b"\x40\0\0\0\0\0\0\0{", b""]),
                                         rest in prop::collection::vec(any::<u8>(), 0..200)) {
        survives(&[start, &rest].concat());
    }

    #[test]
    fn any_opcodes(opcodes in prop::collection::vec(prop::sample::select(b"\x80.(012NqrhjJKMGX)]}tlduaescRbQ\x85\x86\x87\x8a\x8b\x8c\x93\x94\x95\0\x01".to_vec()), 0..60)) {
        survives(&archive(&opcodes));
    }

    #[test]
    fn mutated_archives(mutations in mutations(), whole in any::<bool>()) {
        // With a checksum that fits, mutations of the pickle get through to its reader.
        let pickle = pickle("FloatStorage", "0", 0, &[2, 2], &[2, 1]);
        let bytes = if whole { mutated(archive(&pickle), &mutations) } else { archive(&mutated(pickle, &mutations)) };
        survives(&bytes);
    }

    #[test]
    fn mutated_safetensors(mutations in mutations()) {
        let header = r#"{"x":{"dtype":"F16","shape":[2,4],"data_offsets":[0,16]},"y":{"dtype":"I64","shape":[],"data_offsets":[16,24]}}"#;
        survives(&mutated(safetensors(header, 24), &mutations));
    }

    #[test]
    fn mutated_configurations(mutations in mutations()) {
        let sound = std::fs::read_to_string(data("swin/config.json")).unwrap();
        if let Ok(json) = String::from_utf8(mutated(sound.into_bytes(), &mutations)) {
            drop(HubConfig::parse(&json).and_then(|config| config.architecture()));
        }
    }

    #[test]
    fn any_numbers_of_an_architecture(numbers in prop::collection::vec(prop::sample::select(vec![0_usize, 1, 2, 3, 4, 7, 32, 1 << 20, 1 << 32, usize::MAX]), 8),
                                      ratio in prop::sample::select(vec![0.0, 1.0, -1.0, 1e300, f64::NAN, f64::INFINITY])) {
        let n = |index: usize| numbers[index];
        let vit = VitConfig { image_size: n(0), patch_size: n(1), embed_dim: n(2), depth: n(3), num_heads: n(4), num_classes: n(5), mlp_ratio: ratio, ..VitConfig::base() };
        let swin = SwinConfig { image_size: n(0), patch_size: n(1), embed_dim: n(2), depths: vec![n(3); 2], num_heads: vec![n(4); 2], window_size: n(6), num_classes: n(5), mlp_ratio: ratio, drop_path: ratio, ..SwinConfig::base() };
        let convnext = ConvnextConfig { image_size: n(0), depths: vec![n(3); 4], dims: vec![n(2); 4], num_classes: n(5), drop_path: ratio, ..ConvnextConfig::base() };
        let resnet = ResnetConfig { image_size: n(0), layers: vec![n(3); 4], channels: vec![n(2); 4], num_classes: n(5), ..ResnetConfig::base() };
        for architecture in [Architecture::Vit(vit), Architecture::Swin(swin), Architecture::Convnext(convnext), Architecture::Resnet(resnet)] {
            let none = std::collections::HashMap::new();
            prop_assert!(Model::from_tensors(architecture, DType::F32, none, Head::Stored).is_err());
        }
    }
}
