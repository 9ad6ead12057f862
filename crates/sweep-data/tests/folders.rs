//! Datasets from folders of pictures.

#![expect(clippy::unwrap_used, reason = "test helpers outside of test functions")]

#[path = "common/picture.rs"]
mod picture;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use picture::png;
use sweep_core::dataset::{
    DatasetSource, DatasetSpec, Decoding, Exif, ExpectedCounts, OnBadImage, SplitPolicy, ValidationPolicy,
};
use sweep_data::{Dataset, Error, LoadOptions, Result, digest_pictures};

fn spec(validation: ValidationPolicy, decoding: Decoding) -> DatasetSpec {
    let source = DatasetSource::Folder { path: "pictures".into(), digest: None, decoding };
    let (train, test) = ("train".to_owned(), "test".to_owned());
    let splits = SplitPolicy::Given { train, validation, test, test_subset: None };
    DatasetSpec { source, splits, expected: None }
}

fn held_out() -> ValidationPolicy {
    ValidationPolicy::Split { name: "validation".to_owned() }
}

fn usual() -> DatasetSpec {
    spec(held_out(), Decoding::default())
}

fn load(base: &Path, spec: &DatasetSpec) -> Result<Dataset> {
    let cache = base.join("cache");
    Dataset::load("small", spec, LoadOptions { image_size: 8, cache: &cache, base }, &mut |_| ())
}

fn put(base: &Path, name: &str, bytes: &[u8]) {
    let path = base.join("pictures").join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// Three classes, 4 + 2 + 2 pictures of each, whose colours are numbers with the class as the remainder.
fn pictures(validation: &str) -> tempfile::TempDir {
    let base = tempfile::tempdir().unwrap();
    for (split, first, count) in [("train", 0, 12), (validation, 30, 6), ("test", 60, 6)] {
        for number in first..first + count {
            let class = ["ant", "bee", "cat"][number as usize % 3];
            put(base.path(), &format!("{split}/{class}/{number}.jpg"), &png(number));
        }
    }
    base
}

fn numbers(split: &sweep_data::Split) -> Vec<u8> {
    (0..split.len()).map(|position| split.image(position).unwrap()[0]).collect()
}

#[test]
fn folders_are_splits_and_classes() {
    for validation in ["validation", "val", "valid"] {
        let base = pictures(validation);
        put(base.path(), "README.md", b"not a picture");
        put(base.path(), "train/notes.txt", b"not in a class");
        put(base.path(), "train/ant/.hidden", b"not looked at");
        put(base.path(), ".git/ant/0.jpg", b"not a split");
        let dataset = load(base.path(), &usual()).unwrap();
        assert_eq!(dataset.class_names(), ["ant", "bee", "cat"]);
        assert_eq!(dataset.counts(), ExpectedCounts { classes: 3, train: 12, validation: 6, test: 6 });
        assert_eq!(numbers(dataset.test()), [60, 63, 61, 64, 62, 65]);
        for split in [dataset.train(), dataset.validation(), dataset.test()] {
            assert!(numbers(split).iter().zip(split.labels()).all(|(n, label)| u32::from(n % 3) == label));
        }
        assert_eq!(dataset.digest(), digest_pictures(&base.path().join("pictures")).unwrap());
    }
}

#[test]
fn the_content_says_what_a_file_is() {
    let base = pictures("val");
    let inputs = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    for (input, name) in [("rgb.jpg", "a.png"), ("lossy.webp", "b.jpg"), ("grey.png", "deeper/c")] {
        put(base.path(), &format!("train/bee/{name}"), &fs::read(inputs.join(input)).unwrap());
    }
    let dataset = load(base.path(), &usual()).unwrap();
    assert_eq!(dataset.counts(), ExpectedCounts { classes: 3, train: 15, validation: 6, test: 6 });
    put(base.path(), "train/bee/d.gif", b"GIF89a");
    let error = load(base.path(), &usual()).unwrap_err().to_string();
    let expected =
        "train/bee/d.gif (split train): cannot decode the image: it is not a JPEG, PNG or WebP image";
    assert!(error.ends_with(expected), "{error}");
    let skipping = Decoding { on_bad_image: OnBadImage::Skip, ..Decoding::default() };
    let dataset = load(base.path(), &spec(held_out(), skipping)).unwrap();
    assert_eq!(
        (dataset.train().len(), dataset.skipped()["train"], dataset.skipped()["validation"]),
        (15, 1, 0)
    );
}

#[test]
fn links_to_files_are_followed_and_links_to_folders_refused() {
    let base = pictures("val");
    let folder = base.path().join("pictures");
    symlink(folder.join("test/ant/60.jpg"), folder.join("train/ant/link")).unwrap();
    assert_eq!(load(base.path(), &usual()).unwrap().train().len(), 13);
    symlink(folder.join("test/ant"), folder.join("train/dog")).unwrap();
    assert!(
        matches!(load(base.path(), &usual()), Err(Error::FolderLink { path }) if path.ends_with("train/dog"))
    );
}

#[test]
fn the_digest_depends_on_names_and_contents_and_nothing_else() {
    let base = pictures("val");
    let digest = || digest_pictures(&base.path().join("pictures")).unwrap();
    let first = digest();
    put(base.path(), "README.md", b"not a picture");
    put(base.path(), "train/ant/.hidden", b"not looked at");
    assert_eq!(digest(), first);
    put(base.path(), "train/ant/new", &png(99));
    let second = digest();
    put(base.path(), "train/ant/new", &png(96));
    assert!(first != second && digest() != second);

    let mut spec = usual();
    if let DatasetSource::Folder { digest, .. } = &mut spec.source {
        *digest = Some(first);
    }
    assert!(matches!(load(base.path(), &spec), Err(Error::DigestMismatch { .. })));
}

#[test]
fn orientations_are_applied_where_that_is_asked_for() {
    let base = pictures("val");
    let inputs = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    put(base.path(), "test/ant/0", &fs::read(inputs.join("turned.jpg")).unwrap());
    let first = |exif| {
        let decoding = Decoding { exif, ..Decoding::default() };
        let dataset = load(base.path(), &spec(held_out(), decoding)).unwrap();
        dataset.test().image(0).unwrap().to_vec()
    };
    assert_ne!(first(Exif::Ignore), first(Exif::Apply));
}

#[test]
fn what_is_missing_or_twice_there_is_said() {
    let base = pictures("val");
    let refused = |spec: &DatasetSpec| load(base.path(), spec).unwrap_err();
    let missing = spec(ValidationPolicy::Split { name: "held".to_owned() }, Decoding::default());
    let error = refused(&missing).to_string();
    assert_eq!(error, "there is no split \"held\" (splits: test, train, val)");
    put(base.path(), "test/dog/1", &png(1));
    let error = refused(&usual()).to_string();
    assert_eq!(error, "the class \"dog\" of the test split is not in the training split");
    put(base.path(), "train/dog/1", &png(1));
    put(base.path(), "valid/dog/1", &png(1));
    let fresh = tempfile::tempdir().unwrap();
    fs::rename(base.path().join("pictures"), fresh.path().join("pictures")).unwrap();
    let error = load(fresh.path(), &usual()).unwrap_err();
    assert!(matches!(error, Error::AmbiguousFiles { found, .. } if found == ["val", "valid"]));
    let empty = fresh.path().join("empty");
    fs::create_dir(&empty).unwrap();
    assert!(matches!(digest_pictures(&empty), Err(Error::NoPictures { .. })));
}

#[test]
fn all_splits_can_be_pooled() {
    let base = pictures("anything");
    let mut pooled = usual();
    pooled.splits = SplitPolicy::Pooled { train_per_class: 4, validation_per_class: 1, seed: 0 };
    let dataset = load(base.path(), &pooled).unwrap();
    assert_eq!(dataset.counts(), ExpectedCounts { classes: 3, train: 12, validation: 3, test: 9 });
}
