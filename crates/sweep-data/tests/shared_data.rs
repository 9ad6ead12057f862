//! The real datasets beside the checkout, where they are there.

#![expect(clippy::unwrap_used, reason = "test helpers outside of test functions")]

use std::path::{Path, PathBuf};

use sweep_core::dataset::{
    DatasetSource, DatasetSpec, Decoding, ExpectedCounts, SplitPolicy, ValidationPolicy,
};
use sweep_data::{Dataset, LoadOptions};

#[expect(clippy::print_stderr, reason = "a test that does nothing should say so")]
fn folder(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data").join(name);
    if path.is_dir() {
        return Some(path);
    }
    eprintln!("skipped: {} is not there", path.display());
    None
}

fn check(name: &str, expected: ExpectedCounts) {
    let Some(path) = folder(name) else { return };
    let (image_column, label_column) = ("image".to_owned(), "label".to_owned());
    let decoding = Decoding::default();
    let source = DatasetSource::Parquet { path, digest: None, image_column, label_column, decoding };
    let validation = ValidationPolicy::PerClass { count: 3, seed: 0 };
    let (train, test) = ("train".to_owned(), "test".to_owned());
    let splits = SplitPolicy::Given { train, validation, test, test_subset: None };
    let spec = DatasetSpec { source, splits, expected: Some(expected) };
    let cache = tempfile::tempdir().unwrap();
    let options = LoadOptions { image_size: 32, cache: cache.path(), base: Path::new("") };
    let dataset = Dataset::load(name, &spec, options, &mut |_| ()).unwrap();
    for split in [dataset.train(), dataset.validation(), dataset.test()] {
        let mut per_class = vec![0; split.classes() as usize];
        split.labels().for_each(|label| per_class[label as usize] += 1);
        assert!(per_class.iter().all(|count| *count > 0), "{name} {}", split.name());
    }
    assert!(dataset.class_names().iter().all(|name| !name.is_empty()));
}

#[test]
fn cub20_has_its_published_counts() {
    check("cub20", ExpectedCounts { classes: 20, train: 828 - 60, validation: 60, test: 357 });
}

#[test]
fn cars98_has_its_published_counts() {
    check("cars98", ExpectedCounts { classes: 98, train: 3281 - 294, validation: 294, test: 825 });
}

#[test]
fn caltech101_has_its_published_counts() {
    check("caltech101", ExpectedCounts { classes: 101, train: 6503 - 303, validation: 303, test: 2174 });
}
