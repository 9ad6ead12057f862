//! Datasets from the local copy of a repository on the Hub.

#![expect(clippy::unwrap_used, reason = "test helpers outside of test functions")]

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use common::{NAMES, PLAIN, rows, write};
use sweep_core::dataset::{
    DatasetSource, DatasetSpec, Decoding, ExpectedCounts, SplitPolicy, ValidationPolicy,
};
use sweep_data::{Dataset, Error, LoadOptions, Result, digest_source, parquet_files};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn spec(folder: Option<&Path>, revision: &str, config: Option<&str>) -> DatasetSpec {
    let source = DatasetSource::Hub {
        repository: "owner/name".to_owned(),
        revision: revision.to_owned(),
        config: config.map(str::to_owned),
        image_column: "image".to_owned(),
        label_column: "label".to_owned(),
        folder: folder.map(Path::to_owned),
        decoding: Decoding::default(),
    };
    let (train, test) = ("train".to_owned(), "test".to_owned());
    let validation = ValidationPolicy::PerClass { count: 2, seed: 1 };
    let splits = SplitPolicy::Given { train, validation, test, test_subset: None };
    DatasetSpec { source, splits, expected: None }
}

fn load(base: &Path, spec: &DatasetSpec) -> Result<Dataset> {
    let cache = base.join("cache");
    Dataset::load("small", spec, LoadOptions { image_size: 8, cache: &cache, base }, &mut |_| ())
}

/// A cache folder as `huggingface_hub` keeps it: the snapshot has links to blobs.
fn snapshot(base: &Path, files: &[(&str, u32, u32)]) -> std::path::PathBuf {
    let folder = base.join("snapshots").join(COMMIT);
    for (number, (name, first, count)) in files.iter().enumerate() {
        let (blob, link) = (base.join(format!("blobs/{number}")), folder.join(name));
        write(&blob, &rows(*first, *count, 3), Some(&NAMES), PLAIN);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        symlink(blob, link).unwrap();
    }
    folder
}

#[test]
fn the_files_of_a_snapshot_are_read() {
    let base = tempfile::tempdir().unwrap();
    let files = [
        ("default/test/0000.parquet", 100, 9),
        ("default/train/0000.parquet", 0, 20),
        ("default/train/0001.parquet", 20, 10),
    ];
    let folder = snapshot(base.path(), &files);
    let spec = spec(Some(&folder), COMMIT, None);
    let dataset = load(base.path(), &spec).unwrap();
    assert_eq!(dataset.counts(), ExpectedCounts { classes: 3, train: 24, validation: 6, test: 9 });
    assert_eq!(dataset.class_names(), NAMES);
    assert_eq!(dataset.digest(), digest_source(&spec.source, Path::new("")).unwrap());
    let names = files.map(|(name, ..)| name.to_owned());
    assert_eq!(parquet_files(&names, None, &spec.splits, Path::new("owner/name")).unwrap(), names);
    // The commit says what the files are: once they are in the cache, the copy is not needed.
    fs::remove_dir_all(&folder).unwrap();
    assert_eq!(load(base.path(), &spec).unwrap().digest(), dataset.digest());
}

#[test]
fn a_configuration_is_chosen_where_there_are_several() {
    let base = tempfile::tempdir().unwrap();
    let files = [
        ("a/test-00000-of-00001.parquet", 100, 9),
        ("a/train-00000-of-00001.parquet", 0, 30),
        ("b/test/0000.parquet", 100, 6),
        ("b/train/0000.parquet", 0, 15),
    ];
    let folder = snapshot(base.path(), &files);
    let count =
        |config| load(base.path(), &spec(Some(&folder), COMMIT, Some(config))).map(|data| data.counts());
    assert_eq!(count("a").unwrap(), ExpectedCounts { classes: 3, train: 24, validation: 6, test: 9 });
    assert_eq!(count("b").unwrap(), ExpectedCounts { classes: 3, train: 9, validation: 6, test: 6 });
    assert!(matches!(count("c"), Err(Error::UnknownConfig { available, .. }) if available == ["a", "b"]));
    let error = load(base.path(), &spec(Some(&folder), COMMIT, None)).unwrap_err();
    assert!(matches!(error, Error::SeveralConfigs { available, .. } if available == ["a", "b"]));
}

#[test]
fn what_identifies_a_copy_is_repository_commit_and_configuration() {
    let here = Path::new("here");
    let digest = |spec: DatasetSpec| digest_source(&spec.source, Path::new(""));
    let first = digest(spec(Some(here), COMMIT, None)).unwrap();
    assert_eq!(digest(spec(Some(Path::new("there")), COMMIT, None)).unwrap(), first);
    assert_ne!(digest(spec(Some(here), &COMMIT.replace('0', "1"), None)).unwrap(), first);
    assert_ne!(digest(spec(Some(here), COMMIT, Some("a"))).unwrap(), first);
    let error = digest(spec(Some(here), "main", None)).unwrap_err();
    assert!(matches!(error, Error::NotPinned { revision, .. } if revision == "main"));
}

#[test]
fn without_a_copy_the_hub_is_refused_with_a_hint() {
    let base = tempfile::tempdir().unwrap();
    let error = load(base.path(), &spec(None, "main", None)).unwrap_err();
    assert!(matches!(error, Error::HubUnavailable { .. }) && error.to_string().contains("kind: parquet"));
}
