//! A dataset as a run uses it: class names, three complete splits, and a digest of its content.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use sweep_core::dataset::{DatasetSource, DatasetSpec, ExpectedCounts};

use crate::assemble::{Part, Parts, Source, assemble};
use crate::cache::ImageFile;
use crate::error::{Error, Result};
use crate::folder_source::digest_pictures;
use crate::parquet_source::digest_parquet;
use crate::procedural;
use crate::sha::{FieldHasher, hex};
use crate::source::Progress;

/// Where and how large images are kept; nothing here changes what the dataset is.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions<'a> {
    /// Side of the square images, in pixels; at least 1.
    pub image_size: u32,
    /// Folder of the image cache, made where it is missing.
    pub cache: &'a Path,
    /// Folder that relative paths of the specification start from.
    pub base: &'a Path,
}

/// A loaded dataset.
#[derive(Clone, Debug)]
pub struct Dataset {
    name: String,
    digest: String,
    skipped: BTreeMap<String, u64>,
    class_names: Arc<[String]>,
    image_size: u32,
    train: Split,
    validation: Split,
    test: Split,
}

impl Dataset {
    /// Loads the dataset that `spec` describes under `name`, which serves only to name it.
    ///
    /// Images are decoded, resized to a square (paper, B.2) and written to the cache on the first call, with `progress`
    /// called now and then; later calls, in any process, map the same files. Where the specification has a digest and
    /// the cache has its images, the files themselves are not read.
    pub fn load(
        name: &str,
        spec: &DatasetSpec,
        options: LoadOptions<'_>,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Self> {
        if !(1..=MOST_PIXELS).contains(&options.image_size) {
            let (field, value) = ("image_size", f64::from(options.image_size));
            return Err(Error::OutOfRange { field, value, expected: "in 1..=4096" });
        }
        let mut source = Source::new(&spec.source, options)?;
        let parts = assemble(&mut source, &spec.splits, progress)?;
        let dataset = Self::new(name, source.finish(), options.image_size, parts)?;
        dataset.check_counts(spec.expected)?;
        Ok(dataset)
    }

    fn new(
        name: &str,
        (digest, skipped): (String, BTreeMap<String, u64>),
        image_size: u32,
        parts: Parts,
    ) -> Result<Self> {
        let classes = parts.class_names.len() as u32;
        let split = |name, part| Split::new(name, part, classes);
        Ok(Self {
            name: name.to_owned(),
            digest,
            skipped,
            class_names: parts.class_names.into(),
            image_size,
            train: split("train", parts.train)?,
            validation: split("validation", parts.validation)?,
            test: split("test", parts.test)?,
        })
    }

    /// Compares the published sizes. A source may name classes that it has no image of (the converted FGVC-Aircraft is said
    /// to), which count for nothing here.
    fn check_counts(&self, expected: Option<ExpectedCounts>) -> Result<()> {
        let splits = [&self.train, &self.validation, &self.test];
        let populated: BTreeSet<u32> = splits.into_iter().flat_map(Split::labels).collect();
        let found = ExpectedCounts { classes: populated.len() as u32, ..self.counts() };
        match expected {
            Some(expected) if expected != found => Err(Error::Counts { expected, found }),
            _ => Ok(()),
        }
    }

    /// Returns the name the dataset was loaded under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns what identifies the source's content: SHA-256 in lower-case hexadecimal (see [`digest_source`]).
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Returns the number of pictures that could not be read and were left out (`on_bad_image: skip`), for each split of
    /// the source that was read; `*` stands for all of them pooled. They count in no other number.
    pub fn skipped(&self) -> &BTreeMap<String, u64> {
        &self.skipped
    }

    /// Returns the names of the classes, by label.
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }

    /// Returns the side of the square images, in pixels.
    pub fn image_size(&self) -> u32 {
        self.image_size
    }

    /// Returns the training split.
    pub fn train(&self) -> &Split {
        &self.train
    }

    /// Returns the validation split.
    pub fn validation(&self) -> &Split {
        &self.validation
    }

    /// Returns the test split.
    pub fn test(&self) -> &Split {
        &self.test
    }

    /// Returns the number of classes and the sizes of the splits.
    pub fn counts(&self) -> ExpectedCounts {
        ExpectedCounts {
            classes: self.class_names.len() as u32,
            train: self.train.len(),
            validation: self.validation.len(),
            test: self.test.len(),
        }
    }
}

/// Largest side of an image; a larger number is a mistake.
const MOST_PIXELS: u32 = 4096;

/// A complete split of a dataset. Cloning is cheap: the images are shared.
#[derive(Clone, Debug)]
pub struct Split {
    name: &'static str,
    images: Arc<ImageFile>,
    /// Rows of the image file, ascending.
    rows: Arc<[u32]>,
    classes: u32,
}

impl Split {
    fn new(name: &'static str, (images, rows): Part, classes: u32) -> Result<Self> {
        if rows.is_empty() {
            return Err(Error::EmptySplit { split: name });
        }
        Ok(Self { name, images, rows: rows.into(), classes })
    }

    /// Returns `train`, `validation` or `test`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Returns the number of images.
    #[expect(clippy::len_without_is_empty, reason = "a split is never empty")]
    pub fn len(&self) -> u32 {
        self.rows.len() as u32
    }

    /// Returns the number of classes of the dataset.
    pub fn classes(&self) -> u32 {
        self.classes
    }

    /// Returns the side of the square images, in pixels.
    pub fn image_size(&self) -> u32 {
        self.images.size()
    }

    /// Returns the label, in 0..classes, of the image at `position`, or an error past the end.
    pub fn label(&self, position: u32) -> Result<u32> {
        Ok(self.images.labels()[self.row(position)? as usize])
    }

    /// Returns the labels in the order of positions.
    pub fn labels(&self) -> impl ExactSizeIterator<Item = u32> + '_ {
        self.rows.iter().map(|row| self.images.labels()[*row as usize])
    }

    /// Returns what numbers the image at `position` for keyed randomness: its row in the source's split, whichever other
    /// images were drawn with it. Unique within a split.
    pub fn index(&self, position: u32) -> Result<u32> {
        self.row(position)
    }

    /// Returns the image at `position`, 8-bit RGB, as (size, size, 3).
    pub fn image(&self, position: u32) -> Result<&[u8]> {
        Ok(self.images.pixels(self.row(position)?))
    }

    fn row(&self, position: u32) -> Result<u32> {
        let past_end = Error::Position { split: self.name, position, len: self.len() };
        self.rows.get(position as usize).copied().ok_or(past_end)
    }
}

/// Returns the digest of a source's content: [`digest_parquet`] or [`digest_pictures`] for a folder, a hash of repository,
/// commit and configuration for files from the Hub, one of the description for procedural images. A relative folder
/// starts from `base`.
pub fn digest_source(source: &DatasetSource, base: &Path) -> Result<String> {
    match source {
        DatasetSource::Procedural { family, seed, train, test } => {
            Ok(procedural::digest(*family, *seed, *train, *test))
        }
        DatasetSource::Parquet { path, .. } => digest_parquet(&base.join(path)),
        DatasetSource::Folder { path, .. } => digest_pictures(&base.join(path)),
        DatasetSource::Hub { repository, folder: None, .. } => {
            Err(Error::HubUnavailable { repository: repository.clone() })
        }
        DatasetSource::Hub { repository, revision, config, .. } => {
            digest_commit(repository, revision, config.as_deref().unwrap_or_default())
        }
    }
}

/// Returns what identifies the files of a commit, which names their content.
fn digest_commit(repository: &str, commit: &str, config: &str) -> Result<String> {
    if commit.len() != 40 || !commit.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        let (repository, revision) = (repository.to_owned(), commit.to_owned());
        return Err(Error::NotPinned { repository, revision });
    }
    let mut hasher = FieldHasher::new("sweep hub dataset");
    for field in [repository, commit, config] {
        hasher.field(field.as_bytes());
    }
    Ok(hex(&hasher.finish()))
}
