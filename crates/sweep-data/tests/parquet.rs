//! Datasets from parquet folders: layouts, encodings, splits, and what is refused.

#![expect(clippy::unwrap_used, reason = "test helpers outside of test functions")]

mod common;

use std::path::{Path, PathBuf};

use common::{Layout, PLAIN, Row, rows, write, zstd};
use parquet::basic::Compression;
use sweep_core::dataset::{
    DatasetSource, DatasetSpec, ExpectedCounts, SplitPolicy, Subset, ValidationPolicy,
};
use sweep_data::{Dataset, Error, LoadOptions, Result, Split, digest_parquet};

const NAMES: [&str; 3] = ["ant", "bee", "cat"];

fn spec(path: &Path, splits: SplitPolicy) -> DatasetSpec {
    let (image_column, label_column) = ("image".to_owned(), "label".to_owned());
    let source = DatasetSource::Parquet { path: path.to_owned(), digest: None, image_column, label_column };
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

/// The numbers that [`common::png`] wrote into the colours, in the order of positions.
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
    let layouts = [
        PLAIN,
        Layout { compression: Compression::SNAPPY, dictionary: true, label: "int32", rows_per_group: 7 },
        Layout {
            compression: zstd(),
            dictionary: true,
            label: "int32 (INTEGER(8, true))",
            rows_per_group: 11,
        },
        Layout {
            compression: zstd(),
            dictionary: false,
            label: "int32 (INTEGER(16, true))",
            rows_per_group: 1,
        },
        Layout {
            compression: Compression::SNAPPY,
            dictionary: true,
            label: "int64 (INTEGER(64, true))",
            rows_per_group: 9,
        },
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
    let png = || Some(common::png(5));
    assert_eq!(refused(&bad((png(), Some(3))), per_class(1)), "train.parquet, row 5: label 3 is not in 0..3");
    assert_eq!(
        refused(&bad((png(), Some(-1))), per_class(1)),
        "train.parquet, row 5: label -1 is not in 0..3"
    );
    assert_eq!(refused(&bad((png(), None)), per_class(1)), "train.parquet, row 5: column \"label\" is null");
    assert_eq!(
        refused(&bad((None, Some(0))), per_class(1)),
        "train.parquet, row 5: column \"image.bytes\" is null"
    );
    let broken = refused(&bad((Some(vec![1, 2, 3]), Some(0))), per_class(1));
    assert!(broken.starts_with("train.parquet, row 5: cannot decode the image: "), "{broken}");
    let cut = png().map(|bytes| bytes[..40].to_vec());
    let broken = refused(&bad((cut, Some(0))), per_class(1));
    assert!(broken.starts_with("train.parquet, row 5: cannot decode the image: "), "{broken}");
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
    assert!(
        error.contains("has no column \"picture.bytes\" (columns: image.bytes, image.path, label)"),
        "{error}"
    );
    assert!(matches!(with_columns("image", "image.path"), Error::ColumnType { .. }));

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
fn the_hub_is_refused_with_a_hint() {
    let folder = tempfile::tempdir().unwrap();
    let mut spec = spec(Path::new(""), per_class(2));
    spec.source = DatasetSource::Hub {
        repository: "owner/name".to_owned(),
        revision: "main".to_owned(),
        image_column: "image".to_owned(),
        label_column: "label".to_owned(),
    };
    let error = load(folder.path(), &spec).unwrap_err();
    assert!(matches!(error, Error::HubUnavailable { .. }) && error.to_string().contains("kind: parquet"));
}
