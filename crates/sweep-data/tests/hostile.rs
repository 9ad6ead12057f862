//! Datasets that lie: mutated and hand-made files end in an error that names them or in a correct picture, without a
//! panic, and without more memory than a picture of the documented size needs.

#![expect(clippy::unwrap_used, reason = "test helpers outside of test functions")]

mod common;

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::picture::png;
use common::{Layout, NAMES, PLAIN, rows, write};
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, GrayImage, ImageEncoder as _};
use parquet::basic::{Compression, ZstdLevel};
use proptest::prelude::*;
use sweep_core::dataset::{
    DatasetSource, DatasetSpec, Decoding, Exif, OnBadImage, SplitPolicy, ValidationPolicy,
};
use sweep_data::{Dataset, Error, LoadOptions, MOST_SIDE, decode_square};

/// Mutated pictures of each kind; below a millisecond each.
const PICTURES: u32 = 300;
/// Mutated datasets of each kind; some milliseconds each, for each is written and read.
const DATASETS: u32 = 100;
/// Memory in KiB of a process that reads pictures which unpack to gigabytes: what the test program itself needs, and twice
/// a picture of 64 MiB.
const MEMORY: u32 = 1 << 20;
/// Names the file that [`child_that_decodes_a_picture`] reads.
const FILE: &str = "SWEEP_HOSTILE_PICTURE";

fn decode(bytes: &[u8]) -> Result<Vec<u8>, String> {
    decode_square(bytes, 8, Exif::Apply).map_err(|error| error.to_string())
}

/// The checksum of a PNG chunk (ISO 3309), bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |sum: u32, _| if sum & 1 == 1 { sum >> 1 ^ 0xedb8_8320 } else { sum >> 1 };
    !bytes.iter().fold(u32::MAX, |sum, byte| (0..8).fold(sum ^ u32::from(*byte), step))
}

fn chunk(kind: [u8; 4], data: &[u8]) -> Vec<u8> {
    let body = [&kind, data].concat();
    [&(data.len() as u32).to_be_bytes(), &body[..], &crc32(&body).to_be_bytes()].concat()
}

/// A PNG whose header says that it is `width` x `height`.
fn sized_png(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = png(3);
    let mut header = bytes[16..29].to_vec();
    header[..4].copy_from_slice(&width.to_be_bytes());
    header[4..8].copy_from_slice(&height.to_be_bytes());
    bytes.splice(8..33, chunk(*b"IHDR", &header));
    bytes
}

/// A valid PNG of one colour; a megabyte of pixels takes a kilobyte.
fn grey_png(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let pixels = GrayImage::new(width, height);
    PngEncoder::new(&mut bytes).write_image(&pixels, width, height, ExtendedColorType::L8).unwrap();
    bytes
}

/// A PNG with a colour profile that unpacks to `side`² bytes.
fn profile_bomb(side: u32) -> Vec<u8> {
    let packed = grey_png(side, side);
    let mut data = b"x\0\0".to_vec();
    let mut rest = &packed[8..];
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = u32::from_be_bytes(*length) as usize;
        if &after[..4] == b"IDAT" {
            data.extend(&after[4..4 + length]);
        }
        rest = &after[length + 8..];
    }
    let mut bytes = png(3);
    bytes.splice(33..33, chunk(*b"iCCP", &data));
    bytes
}

fn fixture(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)).unwrap()
}

/// A JPEG whose frame says that it is `width` x `height`.
fn sized_jpeg(name: &str, width: u16, height: u16) -> Vec<u8> {
    let mut bytes = fixture(name);
    let frame = bytes.windows(2).position(|pair| pair[0] == 0xff && [0xc0, 0xc2].contains(&pair[1])).unwrap();
    bytes[frame + 5..][..2].copy_from_slice(&height.to_be_bytes());
    bytes[frame + 7..][..2].copy_from_slice(&width.to_be_bytes());
    bytes
}

#[test]
fn pictures_of_impossible_sizes_are_refused_with_their_size() {
    let largest = u32::MAX >> 1;
    let cases = [
        (sized_png(largest, largest), "2147483647 x 2147483647 pixels"),
        (sized_png(1, 100_000_000), "1 x 100000000 pixels"),
        (sized_png(100_000_000, 1), "100000000 x 1 pixels"),
        (grey_png(1, MOST_SIDE + 1), "1 x 65536 pixels"),
        (sized_png(60_000, 60_000), "60000 x 60000 pixels"),
        (sized_jpeg("rgb.jpg", 65_535, 65_535), "65535 x 65535 pixels"),
        (sized_jpeg("grey.jpg", 65_535, 65_535), "65535 x 65535 pixels"),
        (sized_jpeg("cmyk.jpg", 65_535, 65_535), "65535 x 65535 pixels"),
        (sized_jpeg("rgb.jpg", 0, 7), ""),
        (sized_jpeg("rgb.jpg", 7, 0), ""),
        (sized_png(0, 7), "0 x 7 pixels"),
        (sized_png(7, 0), "7 x 0 pixels"),
    ];
    for (bytes, expected) in cases {
        let error = decode(&bytes).unwrap_err();
        assert!(error.contains(expected), "expected {expected}: {error}");
    }
    assert!(decode(&grey_png(1, MOST_SIDE)).is_ok());
    assert!(decode(&grey_png(MOST_SIDE, 1)).is_ok());
}

#[test]
fn a_jpeg_that_paints_for_ever_is_refused() {
    // 8,000 × 8,000 pixels, three hundred scans of them.
    let mut bytes = sized_jpeg("rgb.jpg", 8000, 8000);
    let scan = bytes.windows(2).position(|pair| pair == [0xff, 0xda]).unwrap();
    let end = bytes.len() - 2;
    let again = bytes[scan..end].repeat(300);
    bytes.splice(end..end, again);
    assert_eq!(decode(&bytes).unwrap_err(), "it paints its 8000 x 8000 pixels 301 times");
}

/// What [`bombs_take_no_memory`] runs in a process of little memory; without a file there is nothing to do.
#[test]
#[expect(clippy::print_stdout, reason = "the parent reads it")]
fn child_that_decodes_a_picture() {
    if let Some(path) = std::env::var_os(FILE) {
        println!("done: {:?}", decode(&fs::read(path).unwrap()));
    }
}

#[test]
fn bombs_take_no_memory() {
    let folder = tempfile::tempdir().unwrap();
    let bombs = [
        (profile_bomb(16_384), "done"),
        (sized_png(1, 100_000_000), "1 x 100000000"),
        (sized_png(60_000, 60_000), "60000 x 60000"),
        (sized_jpeg("rgb.jpg", 65_535, 65_535), "65535 x 65535"),
        (grey_png(1, MOST_SIDE), "Ok"),
    ];
    for (number, (bytes, expected)) in bombs.iter().enumerate() {
        let path = folder.path().join(format!("picture{number}"));
        fs::write(&path, bytes).unwrap();
        let limited =
            format!("ulimit -v {MEMORY} && exec \"$0\" --exact child_that_decodes_a_picture --nocapture");
        let program = std::env::current_exe().unwrap();
        let output =
            Command::new("sh").args(["-c", &limited]).arg(program).env(FILE, &path).output().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && printed.contains(expected), "picture {number}: {printed}");
    }
}

fn spec(source: DatasetSource) -> DatasetSpec {
    let validation = ValidationPolicy::PerClass { count: 1, seed: 1 };
    let (train, test) = ("train".to_owned(), "test".to_owned());
    DatasetSpec {
        source,
        splits: SplitPolicy::Given { train, validation, test, test_subset: None },
        expected: None,
    }
}

fn parquet(label: &str) -> DatasetSpec {
    let (path, digest, image_column) = (PathBuf::from("data"), None, "image".to_owned());
    let (label_column, decoding) = (label.to_owned(), Decoding::default());
    spec(DatasetSource::Parquet { path, digest, image_column, label_column, decoding })
}

/// Loads the dataset in `data` of `base`; nothing appears but the cache.
fn load(base: &Path, spec: &DatasetSpec) -> Result<Dataset, Error> {
    let cache = base.join("cache");
    let options = LoadOptions { image_size: 4, cache: &cache, base };
    let loaded = Dataset::load("hostile", spec, options, &mut |_| ());
    let entries = fs::read_dir(base).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(entries.into_iter().all(|name| name == "cache" || name == "data"));
    loaded
}

/// Loads a dataset whose training file has these bytes; what is accepted is correct.
fn load_parquet(train: &[u8], test: &[u8]) -> Result<Dataset, Error> {
    let base = tempfile::tempdir().unwrap();
    fs::create_dir(base.path().join("data")).unwrap();
    fs::write(base.path().join("data/train.parquet"), train).unwrap();
    fs::write(base.path().join("data/test.parquet"), test).unwrap();
    let dataset = load(base.path(), &parquet("label"))?;
    for split in [dataset.train(), dataset.validation(), dataset.test()] {
        assert!(split.labels().all(|label| label < split.classes()));
        assert!((0..split.len()).all(|position| split.image(position).is_ok()));
    }
    Ok(dataset)
}

fn written(layout: Layout, names: Option<&[&str]>) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().unwrap();
    write(file.path(), &rows(0, 9, 3), names, layout);
    fs::read(file.path()).unwrap()
}

/// A parquet file with another footer of any length.
fn with_footer(file: &[u8], change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let end = file.len() - 8;
    let length = u32::from_le_bytes(file[end..][..4].try_into().unwrap()) as usize;
    let mut footer = file[end - length..end].to_vec();
    change(&mut footer);
    let length = (footer.len() as u32).to_le_bytes();
    [&file[..end - length_of(file)], &footer, &length[..], b"PAR1"].concat()
}

fn length_of(file: &[u8]) -> usize {
    u32::from_le_bytes(file[file.len() - 8..][..4].try_into().unwrap()) as usize
}

#[test]
fn numbers_of_rows_that_lie_are_refused() {
    let file = written(PLAIN, Some(&NAMES));
    // Nine rows as a zigzag number are 18; minus nine are 17, and five times 0xff with 0x0f are minus a billion and more.
    let places: Vec<usize> = {
        let footer = &file[file.len() - 8 - length_of(&file)..file.len() - 8];
        footer.iter().enumerate().filter(|(_, byte)| **byte == 18).map(|(place, _)| place).collect()
    };
    let mut refused = 0;
    for place in places {
        for number in [
            &[17][..],
            &[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
            &[0xff, 0xff, 0xff, 0xff, 0x7f],
        ] {
            let lying =
                with_footer(&file, |footer| drop(footer.splice(place..=place, number.iter().copied())));
            if let Err(Error::Rows { path, rows, most }) = load_parquet(&lying, &file) {
                assert!(path.ends_with("data/train.parquet") && !(0..=most).contains(&rows));
                refused += 1;
            }
        }
    }
    assert!(refused >= 3, "only {refused} of the lies were about rows");
}

#[test]
fn labels_and_names_that_lie_are_refused_with_their_row() {
    let base = tempfile::tempdir().unwrap();
    let refusal = |label: i64, names: Option<&[&str]>, layout: Layout| {
        let mut train = rows(0, 30, 3);
        train[4].1 = Some(label);
        write(&base.path().join("data/train.parquet"), &train, names, layout);
        write(&base.path().join("data/test.parquet"), &rows(0, 9, 3), names, layout);
        load(base.path(), &parquet("label")).unwrap_err().to_string()
    };
    let short = Layout { label: "int32", ..PLAIN };
    let cases = [
        (refusal(-1, Some(&NAMES), PLAIN), "data/train.parquet, row 4: label -1 is not in 0..3"),
        (refusal(i64::MIN, None, PLAIN), "row 4: label -9223372036854775808 is not in 0..1048576"),
        (refusal(i64::MAX, None, PLAIN), "row 4: label 9223372036854775807 is not in 0..1048576"),
        (refusal(i64::from(i32::MAX), None, short), "row 4: label 2147483647 is not in 0..1048576"),
        (refusal(0, Some(&[]), PLAIN), "the list of class names is empty"),
        (refusal(0, Some(&["a", "b", &"c".repeat(5000)]), PLAIN), "has more than 1024 bytes"),
    ];
    for (error, expected) in cases {
        assert!(error.contains(expected) && error.len() < 1000, "expected {expected}: {error}");
    }
    // The column of paths serves as one of labels; it has texts of 23 bytes, which a test makes longer.
    let file = written(Layout { label: "binary (STRING)", ..PLAIN }, None);
    assert_eq!(load_parquet(&file, &file).unwrap().class_names(), NAMES);
}

#[test]
fn a_picture_longer_than_any_is_refused_without_reading_it() {
    let base = tempfile::tempdir().unwrap();
    for (split, number) in [("train", 1), ("train", 2), ("test", 3)] {
        let folder = base.path().join("data").join(split).join("ant");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(format!("{number}.png")), png(number)).unwrap();
    }
    let bad = base.path().join("data/train/ant/0.png");
    let with = |on_bad_image| {
        let decoding = Decoding { exif: Exif::Ignore, on_bad_image };
        load(base.path(), &spec(DatasetSource::Folder { path: "data".into(), digest: None, decoding }))
    };
    for bytes in [Vec::new(), vec![0xff; 100], sized_png(60_000, 60_000), b"\x89PNG\r\n\x1a\n".to_vec()] {
        fs::write(&bad, bytes).unwrap();
        let error = with(OnBadImage::Fail).unwrap_err().to_string();
        assert!(error.contains("data/train/ant/0.png (split train): cannot decode the image"), "{error}");
        assert_eq!(with(OnBadImage::Skip).unwrap().skipped()["train"], 1);
    }
}

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
        prop::sample::select(vec![0, 1, u64::MAX, u64::MAX / 2, 0xff7f, 1 << 31, u64::from(u32::MAX)]);
    let number = (place(), numbers, prop::sample::select(vec![1, 2, 4, 8]));
    let mutation = prop_oneof![
        4 => (place(), 0_u8..8).prop_map(|(place, bit)| Mutation::Flip(place, bit)),
        1 => place().prop_map(Mutation::Cut),
        1 => (place(), place(), place()).prop_map(|(from, to, at)| Mutation::Splice(from, to, at)),
        2 => number.prop_map(|(place, value, width)| Mutation::Number(place, value, width)),
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

/// Whether the header of a mutated picture asks for no more than a test has time for.
fn is_small(bytes: &[u8]) -> bool {
    let small = |width: u32, height: u32| u64::from(width) * u64::from(height) < 1 << 20;
    if bytes.starts_with(b"\xff\xd8") {
        let side = |bytes: &[u8]| u32::from(bytes[0]) << 8 | u32::from(bytes[1]);
        let mut frames =
            bytes.windows(9).filter(|window| window[0] == 0xff && (0xc0..=0xc2).contains(&window[1]));
        return frames.all(|frame| small(side(&frame[5..]), side(&frame[7..])));
    }
    let reader = image::ImageReader::new(Cursor::new(bytes)).with_guessed_format().unwrap();
    reader.into_dimensions().is_ok_and(|(width, height)| small(width, height))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: PICTURES, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_a_picture_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300),
                                           start in prop::sample::select(vec![&b""[..], b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\x40\0\0\0WEBPVP8 ", b"RIFF\x40\0\0\0WEBPVP8L", b"RIFF\x40\0\0\0WEBPVP8X"])) {
        if let Ok(pixels) = decode(&[start, &bytes].concat()) {
            prop_assert_eq!(pixels.len(), 8 * 8 * 3);
        }
    }

    #[test]
    fn mutated_pictures_are_pictures_or_errors(
        name in prop::sample::select(vec!["rgb.jpg", "progressive.jpg", "subsampled.jpg", "cmyk.jpg", "turned.jpg", "grey16.png", "palette.png",
            "palette_alpha.png", "one_bit.png", "rgba.png", "lossy.webp", "lossless.webp"]),
        mutations in mutations(),
    ) {
        let bytes = mutated(fixture(name), &mutations);
        if let Ok(pixels) = if is_small(&bytes) { decode(&bytes) } else { Err(String::new()) } {
            prop_assert_eq!(pixels.len(), 8 * 8 * 3);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: DATASETS, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated_parquet_files(layout in 0_usize..4, whole in any::<bool>(), mutations in mutations()) {
        let layout = [
            PLAIN,
            Layout { compression: Compression::SNAPPY, dictionary: true, label: "int32", rows_per_group: 4, nested: false },
            Layout { compression: Compression::ZSTD(ZstdLevel::default()), dictionary: true, label: "binary (STRING)", ..PLAIN },
            Layout { rows_per_group: 2, nested: false, ..PLAIN },
        ][layout];
        let sound = written(layout, None);
        let lying = if whole { mutated(sound.clone(), &mutations) } else { with_footer(&sound, |footer| *footer = mutated(footer.clone(), &mutations)) };
        if let Err(error) = load_parquet(&lying, &sound) {
            prop_assert!(error.to_string().len() < 5000);
        }
    }

    #[test]
    fn any_bytes_as_parquet(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let sound = written(PLAIN, None);
        prop_assert!(load_parquet(&[b"PAR1", &bytes[..], b"PAR1"].concat(), &sound).is_err());
    }

    #[test]
    fn a_mutated_cache_is_built_anew(mutations in mutations()) {
        let base = tempfile::tempdir().unwrap();
        for name in ["train", "test"] {
            write(&base.path().join(format!("data/{name}.parquet")), &rows(0, 9, 3), Some(&NAMES), PLAIN);
        }
        let images = |dataset: &Dataset| -> Vec<u8> {
            let train = dataset.train();
            (0..train.len()).flat_map(|position| train.image(position).unwrap().to_vec()).collect()
        };
        let sound = images(&load(base.path(), &parquet("label")).unwrap());
        for entry in fs::read_dir(base.path().join("cache")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "bin") {
                fs::write(&path, mutated(fs::read(&path).unwrap(), &mutations)).unwrap();
            }
        }
        prop_assert_eq!(images(&load(base.path(), &parquet("label")).unwrap()), sound);
    }
}
