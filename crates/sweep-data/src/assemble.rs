//! From a source and a split policy to the rows of three splits.

use std::path::PathBuf;
use std::sync::Arc;

use sweep_core::dataset::{DatasetSource, SplitPolicy, Subset, ValidationPolicy};

use crate::cache::{CacheKey, ImageFile};
use crate::dataset::{LoadOptions, digest_source};
use crate::error::{Error, Result};
use crate::parquet_source::{ALL_SPLITS, Columns, ParquetSplit, digest_parquet};
use crate::procedural::ProceduralSplit;
use crate::source::{ImageSource, Progress};
use crate::split::{Draw, Pool};

/// Rows of an image file.
pub(crate) type Part = (Arc<ImageFile>, Vec<u32>);

/// The three splits before they have names.
pub(crate) struct Parts {
    pub(crate) class_names: Vec<String>,
    pub(crate) train: Part,
    pub(crate) validation: Part,
    pub(crate) test: Part,
}

/// Reads the splits of a source through the cache.
pub(crate) struct Source<'a> {
    spec: &'a DatasetSource,
    options: LoadOptions<'a>,
    folder: PathBuf,
    digest: String,
    /// Whether the files are known to have the digest.
    verified: bool,
}

impl<'a> Source<'a> {
    pub(crate) fn new(spec: &'a DatasetSource, options: LoadOptions<'a>) -> Result<Self> {
        let (folder, declared) = match spec {
            DatasetSource::Parquet { path, digest, .. } => (options.base.join(path), digest.clone()),
            _ => (PathBuf::new(), None),
        };
        let verified = declared.is_none();
        let digest = declared.map_or_else(|| digest_source(spec, options.base), Ok)?;
        Ok(Self { spec, options, folder, digest, verified })
    }

    /// Returns what identifies the source's content.
    pub(crate) fn into_digest(self) -> String {
        self.digest
    }

    /// Returns the images of a split of the source.
    fn images(&mut self, split: &str, progress: &mut dyn FnMut(Progress<'_>)) -> Result<Arc<ImageFile>> {
        let LoadOptions { image_size, cache, .. } = self.options;
        let key = self.cache_key(split);
        let mut report = |done, total| progress(Progress { split, done, total });
        let images =
            ImageFile::open_or_build(cache, &key, image_size, &mut || self.open(split), &mut report)?;
        Ok(Arc::new(images))
    }

    fn cache_key(&self, split: &str) -> CacheKey {
        let columns = match self.spec {
            DatasetSource::Parquet { image_column, label_column, .. } => {
                [image_column.as_str(), label_column]
            }
            _ => ["", ""],
        };
        CacheKey::new(&[&self.digest, columns[0], columns[1], split], self.options.image_size)
    }

    fn open(&mut self, split: &str) -> Result<Box<dyn ImageSource>> {
        match self.spec {
            DatasetSource::Procedural { family, seed, train, test } => {
                Ok(Box::new(ProceduralSplit::new(*family, *seed, split, *train, *test)?))
            }
            DatasetSource::Parquet { image_column, label_column, .. } => {
                self.verify()?;
                let columns = Columns { image: image_column, label: label_column };
                Ok(Box::new(ParquetSplit::open(&self.folder, split, columns)?))
            }
            DatasetSource::Hub { repository, .. } => {
                Err(Error::HubUnavailable { repository: repository.clone() })
            }
        }
    }

    fn verify(&mut self) -> Result<()> {
        if !self.verified {
            let found = digest_parquet(&self.folder)?;
            if found != self.digest {
                let (folder, expected) = (self.folder.clone(), self.digest.clone());
                return Err(Error::DigestMismatch { folder, expected, found });
            }
            self.verified = true;
        }
        Ok(())
    }
}

/// Opens the splits of the source that `policy` needs and says which of their rows form which split.
pub(crate) fn assemble(
    source: &mut Source<'_>,
    policy: &SplitPolicy,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Parts> {
    match policy {
        SplitPolicy::Given { train, validation, test, test_subset } => {
            check_reuse(train, validation, test)?;
            let train = source.images(train, progress)?;
            let test = source.images(test, progress)?;
            let validation = match validation {
                ValidationPolicy::Split { name } => Validation::Whole(source.images(name, progress)?),
                ValidationPolicy::PerClass { count, seed } => Validation::Drawn(Share::Count(*count), *seed),
                ValidationPolicy::Fraction { fraction, seed } => {
                    Validation::Drawn(Share::fraction(*fraction)?, *seed)
                }
            };
            given(train, validation, test, *test_subset)
        }
        SplitPolicy::Pooled { train_per_class, validation_per_class, seed } => {
            let all = source.images(ALL_SPLITS, progress)?;
            let class_names = class_names(&[&all])?;
            let drawn = pool(&all, &class_names).three_way(*seed, *train_per_class, *validation_per_class)?;
            let [train, validation, test] = drawn.map(|rows| (Arc::clone(&all), rows));
            Ok(Parts { class_names, train, validation, test })
        }
    }
}

/// Where validation images come from, once the source's files are open.
enum Validation {
    /// All images of a file.
    Whole(Arc<ImageFile>),
    /// Drawn from training with a seed.
    Drawn(Share, u64),
}

/// How many images of a class are taken out of training.
#[derive(Clone, Copy)]
enum Share {
    Count(u32),
    Fraction(f64),
}

impl Share {
    fn fraction(fraction: f64) -> Result<Self> {
        if fraction > 0.0 && fraction < 1.0 {
            return Ok(Self::Fraction(fraction));
        }
        let (field, expected) = ("validation.fraction", "above 0 and below 1");
        Err(Error::OutOfRange { field, value: fraction, expected })
    }

    fn of(self, members: u32) -> u32 {
        match self {
            Self::Count(count) => count,
            Self::Fraction(fraction) => (f64::from(members) * fraction).round().max(1.0) as u32,
        }
    }
}

fn given(
    train: Arc<ImageFile>,
    validation: Validation,
    test: Arc<ImageFile>,
    subset: Option<Subset>,
) -> Result<Parts> {
    let class_names = match &validation {
        Validation::Whole(held) => class_names(&[&train, held, &test])?,
        Validation::Drawn(..) => class_names(&[&train, &test])?,
    };
    let (validation, train_rows) = match validation {
        Validation::Whole(held) => (all_rows(held), rows(&train)),
        Validation::Drawn(share, seed) => {
            let pool = pool(&train, &class_names);
            let (taken, left) = pool.hold_out(Draw::Validation, seed, |members| share.of(members))?;
            ((Arc::clone(&train), taken), left)
        }
    };
    let test_rows = match subset {
        Some(Subset { count, seed }) => pool(&test, &class_names).stratified(seed, count)?,
        None => rows(&test),
    };
    Ok(Parts { class_names, train: (train, train_rows), validation, test: (test, test_rows) })
}

fn check_reuse(train: &str, validation: &ValidationPolicy, test: &str) -> Result<()> {
    let reused = |name: &str, first, second| Err(Error::SplitReused { name: name.to_owned(), first, second });
    match validation {
        _ if train == test => reused(train, "train", "test"),
        ValidationPolicy::Split { name } if name == train => reused(name, "train", "validation"),
        ValidationPolicy::Split { name } if name == test => reused(name, "validation", "test"),
        _ => Ok(()),
    }
}

fn rows(images: &ImageFile) -> Vec<u32> {
    (0..images.labels().len() as u32).collect()
}

fn all_rows(images: Arc<ImageFile>) -> Part {
    let rows = rows(&images);
    (images, rows)
}

fn pool<'a>(images: &'a ImageFile, class_names: &'a [String]) -> Pool<'a> {
    Pool { labels: images.labels(), keys: images.keys(), class_names }
}

/// Returns the names that all files agree on; where none has any, the numbers up to the largest label.
fn class_names(files: &[&ImageFile]) -> Result<Vec<String>> {
    let names = files[0].class_names();
    if files.iter().any(|file| file.class_names() != names) {
        let (first, second) = ("the training split".to_owned(), "another split".to_owned());
        return Err(Error::ClassNamesDiffer { first, second });
    }
    if let Some(names) = names {
        return Ok(names.to_vec());
    }
    let largest = files.iter().flat_map(|file| file.labels()).max();
    Ok((0..largest.map_or(0, |label| label + 1)).map(|class| class.to_string()).collect())
}
