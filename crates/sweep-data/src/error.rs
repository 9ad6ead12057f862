//! Everything that can go wrong with a dataset, with the place where it went wrong.

use std::path::{Path, PathBuf};

use sweep_core::dataset::ExpectedCounts;

use crate::decode::DecodeError;

/// Result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A dataset that cannot be loaded or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb: `read`, `write`, `lock`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// A file is not readable as parquet.
    #[error("cannot read {} as parquet: {source}", path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// The reader's answer.
        source: Box<parquet::errors::ParquetError>,
    },
    /// A folder of pictures has none for a split.
    #[error("{} has no pictures <split>/<class>/<picture> for the split {split:?}", folder.display())]
    NoPictures {
        /// The dataset's folder.
        folder: PathBuf,
        /// The split that was asked for; `*` where all are.
        split: String,
    },
    /// A folder has no parquet file for a split.
    #[error("{} has no parquet file for the split {split:?} (found: {})", folder.display(), list(found))]
    NoFiles {
        /// The dataset's folder.
        folder: PathBuf,
        /// The split that was asked for; `*` where all are.
        split: String,
        /// The parquet files that are there, relative to the folder.
        found: Vec<String>,
    },
    /// A split's files lie both in the folder and in its `data` folder, or both as one file and as shards, or under two
    /// names of the split.
    #[error("{} has more than one set of files for the split {split:?}: {}", folder.display(), list(found))]
    AmbiguousFiles {
        /// The dataset's folder.
        folder: PathBuf,
        /// The split.
        split: String,
        /// The candidates, relative to the folder.
        found: Vec<String>,
    },
    /// One of the numbered files of a split is missing.
    #[error("{} lacks {shard}, a part of the split {split:?}", folder.display())]
    MissingShard {
        /// The dataset's folder.
        folder: PathBuf,
        /// The split.
        split: String,
        /// The first missing file, relative to the folder.
        shard: String,
    },
    /// A split has files in several configurations, and none is chosen.
    #[error(
        "{} has several configurations with the split {split:?}: choose one with `config` ({})",
        folder.display(), list(available)
    )]
    SeveralConfigs {
        /// The dataset's folder.
        folder: PathBuf,
        /// The split.
        split: String,
        /// The configurations.
        available: Vec<String>,
    },
    /// The chosen configuration has no files of a split.
    #[error(
        "{} has no configuration {config:?} with the split {split:?} (configurations: {})",
        folder.display(), list(available)
    )]
    UnknownConfig {
        /// The dataset's folder.
        folder: PathBuf,
        /// The configuration that was asked for.
        config: String,
        /// The split.
        split: String,
        /// The configurations that have the split.
        available: Vec<String>,
    },
    /// A name in a dataset's folder is not UTF-8, so that no digest over names is the same everywhere.
    #[error("the name of {} is not UTF-8", path.display())]
    Name {
        /// The file or folder.
        path: PathBuf,
    },
    /// A folder of pictures has a link to another folder, which could lead round in a circle.
    #[error("{} is a link to a folder, which is not followed", path.display())]
    FolderLink {
        /// The link.
        path: PathBuf,
    },
    /// A parquet file lacks a column.
    #[error("{} has no column {column:?} (columns: {})", path.display(), list(found))]
    MissingColumn {
        /// The file.
        path: PathBuf,
        /// The column that was asked for.
        column: String,
        /// The columns that are there.
        found: Vec<String>,
    },
    /// A column holds values of another type than it should.
    #[error("{}: column {column:?} is {found}, not {expected}", path.display())]
    ColumnType {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
        /// What is needed.
        expected: &'static str,
        /// What the file says.
        found: String,
    },
    /// An image or a label is missing.
    #[error("{}, row {row}: column {column:?} is null", path.display())]
    Null {
        /// The file.
        path: PathBuf,
        /// Row in the file, counted from 0.
        row: u64,
        /// The column.
        column: String,
    },
    /// A label is not the number of a class.
    #[error("{}, row {row}: label {label} is not in 0..{classes}", path.display())]
    Label {
        /// The file.
        path: PathBuf,
        /// Row in the file, counted from 0.
        row: u64,
        /// The label.
        label: i64,
        /// Number of classes.
        classes: u32,
    },
    /// A file says that it has fewer than no rows, or more than any dataset.
    #[error("{}: it declares {rows} rows, expected 0 to {most}", path.display())]
    Rows {
        /// The file.
        path: PathBuf,
        /// The number it declares.
        rows: i64,
        /// The largest that is taken.
        most: i64,
    },
    /// A text in a label column is too long to be the name of a class.
    #[error("{}, row {row}: column {column:?} has a text of {length} bytes, expected a class name of at most {most}", path.display())]
    LongName {
        /// The file.
        path: PathBuf,
        /// Row in the file, counted from 0.
        row: u64,
        /// The column.
        column: String,
        /// The text's length in bytes.
        length: usize,
        /// The longest that is taken.
        most: usize,
    },
    /// A dataset has more classes than any real one.
    #[error("{}: it has more than {most} classes", path.display())]
    ManyClasses {
        /// The file.
        path: PathBuf,
        /// The most that are taken.
        most: usize,
    },
    /// A picture cannot be read.
    #[error("{}{} (split {split}): cannot decode the image: {source}", path.display(), in_row(*row))]
    Decode {
        /// The file.
        path: PathBuf,
        /// Row in the file, counted from 0, where the file holds many pictures.
        row: Option<u64>,
        /// The source's split.
        split: String,
        /// What is wrong.
        source: Box<DecodeError>,
    },
    /// The `huggingface` entry of a file's metadata is not what the `datasets` library writes.
    #[error("{}: the `huggingface` metadata is not readable: {reason}", path.display())]
    Metadata {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Two files of one dataset name its classes differently.
    #[error("the class names of {second} differ from those of {first}")]
    ClassNamesDiffer {
        /// The file or split read first.
        first: String,
        /// The one that disagrees.
        second: String,
    },
    /// A class was met in one split only; nothing could learn it.
    #[error("the class {class:?} of the {split} split is not in the training split")]
    Untrained {
        /// Name of the class.
        class: String,
        /// `validation` or `test`.
        split: &'static str,
    },
    /// The files are not the ones the specification was resolved to.
    #[error("{} has digest {found}, but the specification says {expected}", folder.display())]
    DigestMismatch {
        /// The dataset's folder.
        folder: PathBuf,
        /// The digest in the specification.
        expected: String,
        /// The digest of the files.
        found: String,
    },
    /// The dataset lies on the Hugging Face Hub, which this crate does not reach.
    #[error(
        "{repository} is on the Hub, which is not reached from here: download it and give `kind: parquet` with its folder"
    )]
    HubUnavailable {
        /// `owner/name`.
        repository: String,
    },
    /// The files of a repository are here, but not its commit: what they are is not known.
    #[error(
        "{repository} has a local folder but the revision {revision:?}, expected a commit of 40 hexadecimal digits"
    )]
    NotPinned {
        /// `owner/name`.
        repository: String,
        /// What stands in the commit's place.
        revision: String,
    },
    /// The source has no split of this name.
    #[error("there is no split {name:?} (splits: {})", list(available))]
    UnknownSplit {
        /// The split that was asked for.
        name: String,
        /// The splits that are there.
        available: Vec<String>,
    },
    /// One split of the source would serve two purposes, so that images would be shared.
    #[error("the source's split {name:?} is used for both {first} and {second}")]
    SplitReused {
        /// The source's split.
        name: String,
        /// Its first use.
        first: &'static str,
        /// Its second use.
        second: &'static str,
    },
    /// A class has too few images for the draw.
    #[error("class {class:?} has {available} images, but the split needs {needed} of them")]
    ClassTooSmall {
        /// Name of the class.
        class: String,
        /// Images it has.
        available: u32,
        /// Images that the draw needs, those that must be left over included.
        needed: u32,
    },
    /// A test subset is larger than the test split.
    #[error("a test subset of {wanted} images cannot be drawn from {available}")]
    SubsetTooLarge {
        /// Images wanted.
        wanted: u32,
        /// Images there are.
        available: u32,
    },
    /// A split has no images.
    #[error("the {split} split is empty")]
    EmptySplit {
        /// `train`, `validation` or `test`.
        split: &'static str,
    },
    /// A number of the specification is out of range.
    #[error("{field} is {value}, but must be {expected}")]
    OutOfRange {
        /// Which number.
        field: &'static str,
        /// Its value.
        value: f64,
        /// What would be accepted.
        expected: &'static str,
    },
    /// The splits do not have the published sizes.
    #[error("the dataset has {}, but {} were expected", counts(found), counts(expected))]
    Counts {
        /// Sizes in the specification.
        expected: ExpectedCounts,
        /// Sizes after loading.
        found: ExpectedCounts,
    },
    /// A position is past the end of a split.
    #[error("position {position} is past the end of the {split} split, which has {len} images")]
    Position {
        /// `train`, `validation` or `test`.
        split: &'static str,
        /// The position.
        position: u32,
        /// Images in the split.
        len: u32,
    },
    /// A cache file is damaged, also after it was built anew.
    #[error("the image cache {} is damaged: {reason}", path.display())]
    CacheDamaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        reason: &'static str,
    },
    /// A contact sheet could not be made.
    #[error("cannot encode the contact sheet: {source}")]
    ContactSheet {
        /// The encoder's answer.
        source: Box<image::ImageError>,
    },
    /// The loader's background thread ended without delivering every batch.
    #[error("the loader stopped before its last batch")]
    LoaderStopped,
}

impl Error {
    /// Returns a function that wraps an operating-system error met while trying to `action` the file at `path`.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }

    /// Returns a function that wraps a parquet error met in the file at `path`.
    pub(crate) fn parquet(path: &Path) -> impl FnOnce(parquet::errors::ParquetError) -> Self {
        let path = path.to_owned();
        move |source| Self::Parquet { path, source: Box::new(source) }
    }
}

fn in_row(row: Option<u64>) -> String {
    row.map_or_else(String::new, |row| format!(", row {row}"))
}

/// Names in a message: the first few, and how many more there are.
fn list(names: &[String]) -> String {
    const MOST: usize = 20;
    let shown: Vec<String> = names.iter().take(MOST).map(|name| shortened(name)).collect();
    match names.len().checked_sub(MOST) {
        None | Some(0) if names.is_empty() => "none".to_owned(),
        None | Some(0) => shown.join(", "),
        Some(rest) => format!("{} and {rest} more", shown.join(", ")),
    }
}

/// A name out of a file, short enough for a message and without what would move a terminal's cursor.
pub(crate) fn shortened(name: &str) -> String {
    const LONGEST: usize = 120;
    let mut characters =
        name.chars().map(|character| if character.is_control() { '\u{fffd}' } else { character });
    let mut short: String = characters.by_ref().take(LONGEST).collect();
    if characters.next().is_some() {
        short.push('…');
    }
    short
}

fn counts(counts: &ExpectedCounts) -> String {
    let ExpectedCounts { classes, train, validation, test } = counts;
    format!("{classes} classes and {train}/{validation}/{test} train/validation/test images")
}
