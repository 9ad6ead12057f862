//! Datasets from parquet folders: layouts, encodings, splits, and what is refused.

#![expect(clippy::unwrap_used, reason = "test helpers outside of test functions")]

mod common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use common::picture::png;
use common::{Layout, NAMES, PLAIN, Row, rows, write};
use parquet::basic::{Compression, ZstdLevel};
use sweep_core::dataset::{
    DatasetSource, DatasetSpec, Decoding, ExpectedCounts, OnBadImage, SplitPolicy, Subset, ValidationPolicy,
};
use sweep_data::{Dataset, Error, LoadOptions, Result, Split, contact_sheet, digest_parquet};

fn spec(path: &Path, splits: SplitPolicy) -> DatasetSpec {
    let (image_column, label_column) = ("image".to_owned(), "label".to_owned());
    let (path, decoding) = (path.to_owned(), Decoding::default());
    let source = DatasetSource::Parquet { path, digest: None, image_column, label_column, decoding };
    DatasetSpec { source, splits, expected: None }
}

fn given(validation: ValidationPolicy, test_subset: Option<Subset>) -> SplitPolicy {
    SplitPolicy::Given { train: "train".to_owned(), validation, test: "test".to_owned(), test_subset }
}

fn per_class(count: u32) -> SplitPolicy {
    given(ValidationPolicy::PerClass { count, seed: 1 }, None)
}

fn load(folder: &Path, spec: &DatasetSpec) -> Result<Dataset> {
    let cache = folder.join("cache");
    let options = LoadOptions { image_size: 8, cache: &cache, base: folder };
    Dataset::load("small", spec, options, &mut |_| ())
}

/// The numbers that [`png`] wrote into the colours, in the order of positions.
fn numbers(split: &Split) -> Vec<u32> {
    let number = |position| {
        let pixels = split.image(position).unwrap();
        u32::from(pixels[0]) + 256 * u32::from(pixels[1])
    };
    (0..split.len()).map(number).collect()
}

fn folder_with(train: &[Row], test: &[Row]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("train.parquet"), train, Some(&NAMES), PLAIN);
    write(&folder.path().join("test.parquet"), test, Some(&NAMES), PLAIN);
    folder
}

#[test]
fn every_layout_and_encoding_reads_the_same() {
    let zstd = Compression::ZSTD(ZstdLevel::default());
    let layouts = [
        PLAIN,
        Layout {
            compression: Compression::SNAPPY,
            dictionary: true,
            label: "int32",
            rows_per_group: 7,
            ..PLAIN
        },
        Layout {
            compression: zstd,
            dictionary: true,
            label: "int32 (INTEGER(8, true))",
            rows_per_group: 11,
            nested: false,
        },
        Layout { compression: zstd, label: "int32 (INTEGER(16, true))", rows_per_group: 1, ..PLAIN },
        Layout {
            compression: Compression::SNAPPY,
            dictionary: true,
            label: "int64 (INTEGER(64, true))",
            rows_per_group: 9,
            nested: true,
        },
        Layout { compression: Compression::SNAPPY, label: "binary (STRING)", rows_per_group: 8, ..PLAIN },
        Layout { dictionary: true, label: "binary (STRING)", nested: false, ..PLAIN },
    ];
    let shards: [&[(&str, u32, u32)]; 3] = [
        &[("train.parquet", 0, 30), ("test.parquet", 300, 12)],
        &[("train-0-of-2.parquet", 0, 10), ("train-1-of-2.parquet", 10, 20), ("test-0.parquet", 300, 12)],
        &[("data/train-0.parquet", 0, 29), ("data/train-1.parquet", 29, 1), ("data/test-0.parquet", 300, 12)],
    ];
    for (layout, files) in layouts.iter().flat_map(|layout| shards.map(|files| (layout, files))) {
        let folder = tempfile::tempdir().unwrap();
        for (name, first, count) in files {
            write(&folder.path().join(name), &rows(*first, *count, 3), Some(&NAMES), *layout);
        }
        let dataset = load(folder.path(), &spec(Path::new("."), per_class(2))).unwrap();
        assert_eq!(dataset.class_names(), NAMES);
        assert_eq!(
            dataset.counts(),
            ExpectedCounts { classes: 3, train: 24, validation: 6, test: 12 },
            "{layout:?} {files:?}"
        );
        assert_eq!(numbers(dataset.test()), (300..312).collect::<Vec<_>>());
        let mut training = [numbers(dataset.train()), numbers(dataset.validation())].concat();
        for split in [dataset.train(), dataset.validation(), dataset.test()] {
            assert!(numbers(split).iter().zip(split.labels()).all(|(number, label)| number % 3 == label));
            assert!((0..split.len()).all(|position| split.label(position).unwrap() < split.classes()));
        }
        training.sort_unstable();
        assert_eq!(training, (0..30).collect::<Vec<_>>());
    }
}

#[test]
fn classes_without_names_are_numbered() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("train.parquet"), &rows(0, 8, 4), None, PLAIN);
    write(&folder.path().join("test.parquet"), &rows(0, 5, 5), None, PLAIN);
    write(&folder.path().join("held.parquet"), &rows(50, 4, 2), None, PLAIN);
    let validation = ValidationPolicy::Split { name: "held".to_owned() };
    let dataset = load(folder.path(), &spec(Path::new(""), given(validation, None))).unwrap();
    assert_eq!(dataset.class_names(), ["0", "1", "2", "3", "4"]);
    assert_eq!(numbers(dataset.validation()), [50, 51, 52, 53]);
}

#[test]
fn fractions_subsets_and_pools_have_their_sizes() {
    let folder = folder_with(&rows(0, 60, 3), &rows(100, 30, 3));
    let fraction = ValidationPolicy::Fraction { fraction: 0.15, seed: 42 };
    let splits = given(fraction, Some(Subset { count: 10, seed: 0 }));
    let dataset = load(folder.path(), &spec(Path::new(""), splits)).unwrap();
    assert_eq!(dataset.counts(), ExpectedCounts { classes: 3, train: 51, validation: 9, test: 10 });

    let splits = SplitPolicy::Pooled { train_per_class: 20, validation_per_class: 4, seed: 0 };
    let dataset = load(folder.path(), &spec(Path::new(""), splits)).unwrap();
    assert_eq!(dataset.counts(), ExpectedCounts { classes: 3, train: 60, validation: 12, test: 18 });
    let splits = [dataset.train(), dataset.validation(), dataset.test()];
    let mut all: Vec<u32> = splits.into_iter().flat_map(numbers).collect();
    all.sort_unstable();
    assert_eq!(all, (0..60).chain(100..130).collect::<Vec<_>>());
}

#[test]
fn a_draw_does_not_depend_on_the_order_of_rows() {
    let original = folder_with(&rows(0, 60, 3), &rows(100, 9, 3));
    let mut reversed = rows(0, 60, 3);
    reversed.reverse();
    let reversed = folder_with(&reversed, &rows(100, 9, 3));
    let drawn = |folder: &tempfile::TempDir| {
        let dataset = load(folder.path(), &spec(Path::new(""), per_class(4))).unwrap();
        let mut drawn = numbers(dataset.validation());
        drawn.sort_unstable();
        drawn
    };
    assert_eq!(drawn(&original), drawn(&reversed));
}

#[test]
fn a_stable_index_is_the_row_in_the_source() {
    let folder = folder_with(&rows(0, 30, 3), &rows(100, 9, 3));
    let dataset = load(folder.path(), &spec(Path::new(""), per_class(2))).unwrap();
    for split in [dataset.train(), dataset.validation()] {
        let indices: Vec<u32> = (0..split.len()).map(|position| split.index(position).unwrap()).collect();
        assert_eq!(indices, numbers(split));
    }
    assert!(matches!(dataset.test().image(9), Err(Error::Position { split: "test", position: 9, len: 9 })));
}

#[test]
fn a_known_digest_needs_the_cache_only_and_a_wrong_one_is_refused() {
    let folder = folder_with(&rows(0, 30, 3), &rows(100, 9, 3));
    let digest = digest_parquet(folder.path()).unwrap();
    let with = |text: &str| {
        let mut spec = spec(Path::new(""), per_class(2));
        if let DatasetSource::Parquet { digest, .. } = &mut spec.source {
            *digest = Some(text.to_owned());
        }
        spec
    };
    let error = load(folder.path(), &with("0123")).unwrap_err();
    assert!(matches!(error, Error::DigestMismatch { found, .. } if found == digest));
    let dataset = load(folder.path(), &with(&digest)).unwrap();
    assert_eq!(dataset.digest(), digest);
    for name in ["train.parquet", "test.parquet"] {
        std::fs::remove_file(folder.path().join(name)).unwrap();
    }
    let again = load(folder.path(), &with(&digest)).unwrap();
    assert_eq!(numbers(again.train()), numbers(dataset.train()));
}

#[test]
fn the_digest_depends_on_names_and_contents_and_nothing_else() {
    let folder = folder_with(&rows(0, 6, 3), &rows(100, 3, 3));
    let digest = || digest_parquet(folder.path()).unwrap();
    let first = digest();
    std::fs::write(folder.path().join("README.md"), "not data").unwrap();
    assert_eq!(digest(), first);
    std::fs::rename(folder.path().join("train.parquet"), folder.path().join("train-0.parquet")).unwrap();
    let renamed = digest();
    assert_ne!(renamed, first);
    write(&folder.path().join("train-0.parquet"), &rows(1, 6, 3), Some(&NAMES), PLAIN);
    assert_ne!(digest(), renamed);
}

#[test]
fn progress_is_told_for_what_is_read() {
    let folder = folder_with(&rows(0, 30, 3), &rows(100, 9, 3));
    let cache = folder.path().join("cache");
    let options = LoadOptions { image_size: 8, cache: &cache, base: folder.path() };
    let spec = spec(Path::new(""), per_class(2));
    let mut told = Vec::new();
    let mut note = |progress: sweep_data::Progress<'_>| {
        told.push((progress.split.to_owned(), progress.done, progress.total));
    };
    Dataset::load("small", &spec, options, &mut note).unwrap();
    Dataset::load("small", &spec, options, &mut note).unwrap();
    assert_eq!(told, [("train".to_owned(), 30, 30), ("test".to_owned(), 9, 9)]);
}

/// Loads a folder whose training rows are given and returns what is said.
fn refused(train: &[Row], splits: SplitPolicy) -> String {
    let folder = folder_with(train, &rows(100, 9, 3));
    let error = load(folder.path(), &spec(Path::new(""), splits)).unwrap_err();
    error.to_string().replace(&format!("{}/", folder.path().display()), "")
}

#[test]
fn bad_rows_are_refused_with_file_and_row() {
    let bad = |row: Row| [rows(0, 5, 3), vec![row], rows(6, 5, 3)].concat();
    let sound = || Some(png(5));
    assert_eq!(
        refused(&bad((sound(), Some(3))), per_class(1)),
        "train.parquet, row 5: label 3 is not in 0..3"
    );
    assert_eq!(
        refused(&bad((sound(), Some(-1))), per_class(1)),
        "train.parquet, row 5: label -1 is not in 0..3"
    );
    assert_eq!(
        refused(&bad((sound(), None)), per_class(1)),
        "train.parquet, row 5: column \"label\" is null"
    );
    assert_eq!(
        refused(&bad((None, Some(0))), per_class(1)),
        "train.parquet, row 5: column \"image.bytes\" is null"
    );
    let broken = refused(&bad((Some(vec![1, 2, 3]), Some(0))), per_class(1));
    assert!(broken.starts_with("train.parquet, row 5 (split train): cannot decode the image: "), "{broken}");
    let cut = sound().map(|bytes| bytes[..40].to_vec());
    let broken = refused(&bad((cut, Some(0))), per_class(1));
    assert!(broken.starts_with("train.parquet, row 5 (split train): cannot decode the image: "), "{broken}");
}

#[test]
fn impossible_splits_are_refused() {
    let train = rows(0, 9, 3);
    let named = |name: &str| given(ValidationPolicy::Split { name: name.to_owned() }, None);
    let fraction = |fraction| given(ValidationPolicy::Fraction { fraction, seed: 0 }, None);
    let subset =
        |count| given(ValidationPolicy::PerClass { count: 1, seed: 0 }, Some(Subset { count, seed: 0 }));
    let pooled = SplitPolicy::Pooled { train_per_class: 3, validation_per_class: 3, seed: 0 };
    let cases = [
        (per_class(3), "class \"ant\" has 3 images, but the split needs 4 of them"),
        (per_class(0), "the validation split is empty"),
        (named("train"), "the source's split \"train\" is used for both train and validation"),
        (named("test"), "the source's split \"test\" is used for both validation and test"),
        (fraction(1.0), "validation.fraction is 1, but must be above 0 and below 1"),
        (fraction(0.9), "class \"ant\" has 3 images, but the split needs 4 of them"),
        (subset(10), "a test subset of 10 images cannot be drawn from 9"),
        (subset(0), "the test split is empty"),
        (pooled, "class \"ant\" has 6 images, but the split needs 7 of them"),
    ];
    for (splits, expected) in cases {
        assert_eq!(refused(&train, splits), expected);
    }
    let missing = refused(&train, named("valid"));
    assert!(
        missing.contains("no parquet file for the split \"valid\" (found: test.parquet, train.parquet)"),
        "{missing}"
    );
}

#[test]
fn wrong_counts_name_both() {
    let folder = folder_with(&rows(0, 30, 3), &rows(100, 9, 3));
    let mut spec = spec(Path::new(""), per_class(2));
    spec.expected = Some(ExpectedCounts { classes: 3, train: 24, validation: 6, test: 9 });
    load(folder.path(), &spec).unwrap();
    spec.expected = Some(ExpectedCounts { classes: 3, train: 25, validation: 6, test: 9 });
    assert_eq!(
        load(folder.path(), &spec).unwrap_err().to_string(),
        "the dataset has 3 classes and 24/6/9 train/validation/test images, \
         but 3 classes and 25/6/9 train/validation/test images were expected"
    );
}

#[test]
fn wrong_files_and_columns_are_refused() {
    let folder = folder_with(&rows(0, 30, 3), &rows(100, 9, 3));
    let with_columns = |image: &str, label: &str| {
        let mut spec = spec(Path::new(""), per_class(2));
        if let DatasetSource::Parquet { image_column, label_column, .. } = &mut spec.source {
            (*image_column, *label_column) = (image.to_owned(), label.to_owned());
        }
        load(folder.path(), &spec).unwrap_err()
    };
    let error = with_columns("picture", "label").to_string();
    assert!(error.contains("has no column \"picture\" (columns: image.bytes, image.path, label)"), "{error}");
    assert!(matches!(with_columns("label", "label"), Error::ColumnType { expected: "binary", .. }));

    write(&folder.path().join("data/train-0.parquet"), &rows(0, 3, 3), Some(&NAMES), PLAIN);
    let error = load(folder.path(), &spec(Path::new(""), per_class(2))).unwrap_err();
    assert!(matches!(error, Error::AmbiguousFiles { .. }));

    std::fs::write(folder.path().join("test.parquet"), "not parquet").unwrap();
    std::fs::remove_dir_all(folder.path().join("data")).unwrap();
    let error = load(folder.path(), &spec(Path::new(""), per_class(2))).unwrap_err();
    assert!(matches!(error, Error::Parquet { path, .. } if path.ends_with("test.parquet")));

    write(&folder.path().join("test.parquet"), &rows(0, 9, 3), Some(&["x", "y", "z"]), PLAIN);
    let error = load(folder.path(), &spec(Path::new(""), per_class(2))).unwrap_err();
    assert!(matches!(error, Error::ClassNamesDiffer { .. }));

    let nowhere = spec(&PathBuf::from("nowhere"), per_class(2));
    assert!(matches!(load(folder.path(), &nowhere), Err(Error::Io { action: "list", .. })));
}

#[test]
fn texts_are_classes_in_the_order_of_their_names() {
    let folder = tempfile::tempdir().unwrap();
    let texts = Layout { label: "binary (STRING)", ..PLAIN };
    write(&folder.path().join("train.parquet"), &rows(0, 30, 3), None, texts);
    // The test split has the first and the last class only.
    let test: Vec<Row> = rows(100, 9, 3).into_iter().filter(|row| row.1 != Some(1)).collect();
    write(&folder.path().join("test.parquet"), &test, None, texts);
    for _ in ["built", "from the cache"] {
        let dataset = load(folder.path(), &spec(Path::new(""), per_class(2))).unwrap();
        assert_eq!(dataset.class_names(), NAMES);
        assert_eq!(dataset.test().labels().collect::<BTreeSet<_>>(), [0, 2].into());
        assert!(
            numbers(dataset.train()).iter().zip(dataset.train().labels()).all(|(n, label)| n % 3 == label)
        );
    }

    let train: Vec<Row> = rows(0, 30, 3).into_iter().filter(|row| row.1 != Some(2)).collect();
    write(&folder.path().join("train.parquet"), &train, None, texts);
    let error = load(folder.path(), &spec(Path::new(""), per_class(2))).unwrap_err().to_string();
    assert_eq!(error, "the class \"cat\" of the test split is not in the training split");

    write(&folder.path().join("test.parquet"), &rows(100, 9, 3), None, PLAIN);
    let error = load(folder.path(), &spec(Path::new(""), per_class(2))).unwrap_err();
    assert!(matches!(error, Error::ClassNamesDiffer { .. }));
}

#[test]
fn a_missing_shard_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    for number in [0, 2] {
        let name = format!("data/train-0000{number}-of-00003.parquet");
        write(&folder.path().join(name), &rows(0, 9, 3), Some(&NAMES), PLAIN);
    }
    write(&folder.path().join("data/test-00000-of-00001.parquet"), &rows(0, 9, 3), Some(&NAMES), PLAIN);
    let error = load(folder.path(), &spec(Path::new(""), per_class(1))).unwrap_err().to_string();
    assert!(
        error.ends_with("lacks data/train-00001-of-00003.parquet, a part of the split \"train\""),
        "{error}"
    );
}

#[test]
fn bad_images_are_left_out_and_counted_where_that_is_asked_for() {
    let mut train = rows(0, 30, 3);
    train[4].0 = Some(vec![1, 2, 3]);
    train[17].0 = Some(png(17)[..40].to_vec());
    let folder = folder_with(&train, &rows(100, 9, 3));
    let mut spec = spec(Path::new(""), per_class(2));
    assert!(matches!(load(folder.path(), &spec), Err(Error::Decode { row: Some(4), .. })));
    if let DatasetSource::Parquet { decoding, .. } = &mut spec.source {
        decoding.on_bad_image = OnBadImage::Skip;
    }
    for _ in ["built", "from the cache"] {
        let dataset = load(folder.path(), &spec).unwrap();
        assert_eq!(dataset.counts(), ExpectedCounts { classes: 3, train: 22, validation: 6, test: 9 });
        let skipped: Vec<(&str, u64)> =
            dataset.skipped().iter().map(|(name, n)| (name.as_str(), *n)).collect();
        assert_eq!(skipped, [("test", 0), ("train", 2)]);
        let mut all = [numbers(dataset.train()), numbers(dataset.validation())].concat();
        all.sort_unstable();
        assert_eq!(all, (0..30).filter(|number| ![4, 17].contains(number)).collect::<Vec<_>>());
    }
}

#[test]
fn a_pixel_bomb_is_refused_before_it_has_memory() {
    let mut train = rows(0, 30, 3);
    // The header of a PNG file says 60,000 x 60,000 pixels; its checksum is made to fit.
    let mut bomb = png(3);
    bomb[16..24].copy_from_slice(&[0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60]);
    let checksum = crc32(&bomb[12..29]);
    bomb[29..33].copy_from_slice(&checksum.to_be_bytes());
    train[7].0 = Some(bomb);
    let refused = refused(&train, per_class(1));
    let expected = "train.parquet, row 7 (split train): cannot decode the image: \
                    it has 60000 x 60000 pixels, expected sides of 1 to 65535 and at most 178956970 pixels in all";
    assert_eq!(refused, expected);
}

/// The checksum of a PNG chunk (ISO 3309), bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |sum: u32, _| if sum & 1 == 1 { sum >> 1 ^ 0xedb8_8320 } else { sum >> 1 };
    !bytes.iter().fold(u32::MAX, |sum, byte| (0..8).fold(sum ^ u32::from(*byte), step))
}

#[test]
fn the_sheet_shows_the_first_image_of_each_class() {
    let folder = folder_with(&rows(0, 30, 3), &rows(101, 7, 3));
    let dataset = load(folder.path(), &spec(Path::new(""), per_class(2))).unwrap();
    let sheet = image::load_from_memory(&contact_sheet(dataset.test(), 2, 2).unwrap()).unwrap().into_rgb8();
    // Two images of 8 pixels and 2 pixels between them.
    assert_eq!(sheet.dimensions(), (18, 18));
    // Rows 101, 102, 103, … have the classes 2, 0, 1, …
    for (x, y, expected) in [(0, 0, 102), (10, 7, 103), (7, 10, 101)] {
        assert_eq!(sheet.get_pixel(x, y).0, [expected, 0, 99]);
    }
    for (x, y) in [(8, 0), (0, 9), (17, 17)] {
        assert_eq!(sheet.get_pixel(x, y).0, [128; 3]);
    }
    for (columns, rows) in [(0, 1), (1, 0), (2000, 1)] {
        assert!(matches!(contact_sheet(dataset.test(), columns, rows), Err(Error::OutOfRange { .. })));
    }
}

/// The program's own tests read these files through the Hub. To write them anew:
/// `cargo test -p sweep-data --test parquet write_the_files -- --ignored`.
#[test]
#[ignore = "writes files of the repository"]
fn write_the_files_of_the_programs_tests() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sweep/tests/data");
    let files =
        [("train-00000-of-00002", 0, 18), ("train-00001-of-00002", 18, 18), ("test-00000-of-00001", 100, 12)];
    for (name, first, count) in files {
        write(&folder.join(format!("{name}.parquet")), &rows(first, count, 3), Some(&NAMES), PLAIN);
    }
}
