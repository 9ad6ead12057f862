//! From a source and a split policy to the rows of three splits.

use std::collections::BTreeMap;
use std::sync::Arc;

use sweep_core::dataset::{DatasetSource, Decoding, SplitPolicy, Subset, ValidationPolicy};

use crate::cache::{CacheKey, ImageFile};
use crate::dataset::{LoadOptions, digest_source};
use crate::error::{Error, Result};
use crate::folder_source::FolderSplit;
use crate::layout::ALL_SPLITS;
use crate::parquet_source::{Columns, Files, ParquetSplit, Reach};
use crate::picture::Reader;
use crate::procedural::ProceduralSplit;
use crate::source::{Classes, ImageSource, Progress};
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
    digest: String,
    /// Whether the files are known to have the digest.
    verified: bool,
    /// Pictures left out, by the source's split.
    skipped: BTreeMap<String, u64>,
}

impl<'a> Source<'a> {
    pub(crate) fn new(spec: &'a DatasetSource, options: LoadOptions<'a>) -> Result<Self> {
        let declared = match spec {
            DatasetSource::Parquet { digest, .. } | DatasetSource::Folder { digest, .. } => digest.clone(),
            DatasetSource::Procedural { .. } | DatasetSource::Hub { .. } => None,
        };
        let verified = declared.is_none();
        let digest = declared.map_or_else(|| digest_source(spec, options.base), Ok)?;
        Ok(Self { spec, options, digest, verified, skipped: BTreeMap::new() })
    }

    /// Returns what identifies the source's content, and the pictures left out of each of its splits.
    pub(crate) fn finish(self) -> (String, BTreeMap<String, u64>) {
        (self.digest, self.skipped)
    }

    /// Returns the images of a split of the source.
    fn images(&mut self, split: &str, progress: &mut dyn FnMut(Progress<'_>)) -> Result<ImageFile> {
        let LoadOptions { image_size, cache, .. } = self.options;
        let key = self.cache_key(split);
        let mut report = |done, total| progress(Progress { split, done, total });
        let images =
            ImageFile::open_or_build(cache, &key, image_size, &mut || self.open(split), &mut report)?;
        self.skipped.insert(split.to_owned(), images.skipped());
        Ok(images)
    }

    fn cache_key(&self, split: &str) -> CacheKey {
        let (columns, decoding) = match self.spec {
            DatasetSource::Parquet { image_column, label_column, decoding, .. }
            | DatasetSource::Hub { image_column, label_column, decoding, .. } => {
                ([image_column.as_str(), label_column], *decoding)
            }
            DatasetSource::Folder { decoding, .. } => (["", ""], *decoding),
            DatasetSource::Procedural { .. } => (["", ""], Decoding::default()),
        };
        let decoding = serde_json::json!(decoding).to_string();
        CacheKey::new(&[&self.digest, columns[0], columns[1], &decoding, split], self.options.image_size)
    }

    fn open<'s>(&mut self, split: &'s str) -> Result<Box<dyn ImageSource + 's>> {
        self.verify()?;
        let base = self.options.base;
        match self.spec {
            DatasetSource::Procedural { family, seed, train, test } => {
                Ok(Box::new(ProceduralSplit::new(*family, *seed, split, *train, *test)?))
            }
            DatasetSource::Folder { path, decoding, .. } => {
                let reader = Reader { split, decoding: *decoding };
                Ok(Box::new(FolderSplit::open(&base.join(path), reader)?))
            }
            DatasetSource::Parquet { path, image_column, label_column, decoding, .. } => {
                let files = Files { folder: &base.join(path), reach: Reach::Data, config: None };
                let columns = Columns { image: image_column, label: label_column };
                let reader = Reader { split, decoding: *decoding };
                Ok(Box::new(ParquetSplit::open(files, columns, reader)?))
            }
            DatasetSource::Hub {
                repository, folder, config, image_column, label_column, decoding, ..
            } => {
                let unavailable = || Error::HubUnavailable { repository: repository.clone() };
                let folder = base.join(folder.as_ref().ok_or_else(unavailable)?);
                let files = Files { folder: &folder, reach: Reach::Repository, config: config.as_deref() };
                let columns = Columns { image: image_column, label: label_column };
                let reader = Reader { split, decoding: *decoding };
                Ok(Box::new(ParquetSplit::open(files, columns, reader)?))
            }
        }
    }

    /// Compares local files with the digest that the specification has for them, once.
    fn verify(&mut self) -> Result<()> {
        if self.verified {
            return Ok(());
        }
        let found = digest_source(self.spec, self.options.base)?;
        if let DatasetSource::Parquet { path, .. } | DatasetSource::Folder { path, .. } = self.spec
            && found != self.digest
        {
            let (folder, expected) = (self.options.base.join(path), self.digest.clone());
            return Err(Error::DigestMismatch { folder, expected, found });
        }
        self.verified = true;
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
            let mut all = source.images(ALL_SPLITS, progress)?;
            let class_names = unify_classes(&mut [("train", &mut all)])?;
            let all = Arc::new(all);
            let drawn = pool(&all, &class_names).three_way(*seed, *train_per_class, *validation_per_class)?;
            let [train, validation, test] = drawn.map(|rows| (Arc::clone(&all), rows));
            Ok(Parts { class_names, train, validation, test })
        }
    }
}

/// Where validation images come from, once the source's files are open.
enum Validation {
    /// All images of a file.
    Whole(ImageFile),
    /// Drawn from training with a seed.
    Drawn(Share, u64),
}

/// How many images are taken out of training: of each class, or of all.
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
}

fn given(
    mut train: ImageFile,
    mut validation: Validation,
    mut test: ImageFile,
    subset: Option<Subset>,
) -> Result<Parts> {
    let mut files = vec![("train", &mut train), ("test", &mut test)];
    if let Validation::Whole(held) = &mut validation {
        files.push(("validation", held));
    }
    let class_names = unify_classes(&mut files)?;
    let (train, test) = (Arc::new(train), Arc::new(test));
    let (validation, train_rows) = match validation {
        Validation::Whole(held) => (all_rows(Arc::new(held)), rows(&train)),
        Validation::Drawn(share, seed) => {
            let pool = pool(&train, &class_names);
            let (taken, left) = match share {
                Share::Count(count) => pool.hold_out(Draw::Validation, seed, |_| count)?,
                Share::Fraction(fraction) => pool.hold_out_fraction(Draw::Validation, seed, fraction)?,
            };
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

/// Returns the names of the classes, by label, of files with the names of their splits, training first: the names that all
/// files list; all names that were found, by which the labels are then numbered; or, where there are no names, the
/// numbers up to the largest label.
fn unify_classes(files: &mut [(&'static str, &mut ImageFile)]) -> Result<Vec<String>> {
    let names = match files[0].1.classes() {
        Classes::Found(trained) => trained.clone(),
        first => {
            if let Some((other, _)) = files.iter().find(|(_, file)| file.classes() != first) {
                let (first, second) = ("the training split".to_owned(), format!("the {other} split"));
                return Err(Error::ClassNamesDiffer { first, second });
            }
            return Ok(match first {
                Classes::Listed(names) => names.clone(),
                Classes::Numbered | Classes::Found(_) => numbers(files),
            });
        }
    };
    for (split, file) in files.iter_mut() {
        check_trained(split, file, &names)?;
        file.renumber(&names);
    }
    Ok(names)
}

/// Refuses a split with classes that the training split does not have.
fn check_trained(split: &'static str, file: &ImageFile, trained: &[String]) -> Result<()> {
    let Classes::Found(found) = file.classes() else {
        let (first, second) = ("the training split".to_owned(), format!("the {split} split"));
        return Err(Error::ClassNamesDiffer { first, second });
    };
    match found.iter().find(|name| trained.binary_search(name).is_err()) {
        Some(class) => Err(Error::Untrained { class: class.clone(), split }),
        None => Ok(()),
    }
}

fn numbers(files: &[(&'static str, &mut ImageFile)]) -> Vec<String> {
    let largest = files.iter().flat_map(|(_, file)| file.labels()).max();
    (0..largest.map_or(0, |label| label + 1)).map(|class| class.to_string()).collect()
}
