//! Folders of pictures, `<split>/<class>/<any name>`: finding them, naming their content, reading them.
//!
//! Every folder at the top is a split, every folder in it a class, and every file below that a picture, whatever its
//! name says. Files elsewhere do not count; hidden files and folders are left out.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::decode::MOST_ENCODED_BYTES;
use crate::error::{Error, Result};
use crate::files::{digest, entries, walk};
use crate::layout::{ALL_SPLITS, ambiguous};
use crate::picture::{Place, Reader};
use crate::source::{Classes, ImageSource, Record, Sink};

/// Pictures decoded at once.
const CHUNK: usize = 256;
/// Folders below a class that are walked; more is a mistake.
const MOST_FOLDERS: u32 = 16;
/// Names that the split `validation` may have.
const VALIDATION: [&str; 3] = ["validation", "val", "valid"];

/// Returns the SHA-256 (lower-case hexadecimal) over the names, sizes and contents of the pictures of a folder (see
/// [`DatasetSource::Folder`](sweep_core::dataset::DatasetSource::Folder)), in the order of their relative names.
///
/// # Errors
/// A folder that cannot be read or has no pictures; links to folders, and names that are not UTF-8.
pub fn digest_pictures(path: &Path) -> Result<String> {
    let mut names = Vec::new();
    for split in folders(path)? {
        for class in classes(path, &split)? {
            pictures(path, &split, &class, &mut names)?;
        }
    }
    if names.is_empty() {
        return Err(no_pictures(path, ALL_SPLITS));
    }
    digest("sweep picture folder", path, &names)
}

fn no_pictures(folder: &Path, split: &str) -> Error {
    Error::NoPictures { folder: folder.to_owned(), split: split.to_owned() }
}

/// Returns the names of the folders in `path`, sorted.
fn folders(path: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for (name, entry) in entries(path)? {
        let kind = entry.file_type().map_err(Error::io("read", &entry.path()))?;
        if kind.is_symlink() && entry.path().is_dir() {
            return Err(Error::FolderLink { path: entry.path() });
        }
        if kind.is_dir() {
            names.push(name);
        }
    }
    Ok(names)
}

fn classes(path: &Path, split: &str) -> Result<Vec<String>> {
    folders(&path.join(split))
}

/// Adds the names of the pictures of a class, relative to `path`.
fn pictures(path: &Path, split: &str, class: &str, names: &mut Vec<String>) -> Result<()> {
    walk(&path.join(split).join(class), &format!("{split}/{class}/"), MOST_FOLDERS, names)
}

/// Returns the folders that hold `split`: one, or all.
fn split_folders(path: &Path, split: &str) -> Result<Vec<String>> {
    let all = folders(path)?;
    let wanted = |name: &String| match split {
        ALL_SPLITS => true,
        "validation" => VALIDATION.contains(&name.as_str()),
        _ => name == split,
    };
    let found: Vec<String> = all.iter().filter(|name| wanted(name)).cloned().collect();
    match found.len() {
        0 => Err(Error::UnknownSplit { name: split.to_owned(), available: all }),
        1 => Ok(found),
        _ if split == ALL_SPLITS => Ok(found),
        _ => Err(ambiguous(path, split, found)),
    }
}

/// One split of a folder of pictures.
pub(crate) struct FolderSplit<'a> {
    folder: PathBuf,
    /// Relative names and classes, class by class within each folder of the split.
    pictures: Vec<(String, u32)>,
    classes: Classes,
    reader: Reader<'a>,
}

impl<'a> FolderSplit<'a> {
    /// Lists the pictures of a split (of all splits for [`ALL_SPLITS`]).
    pub(crate) fn open(folder: &Path, reader: Reader<'a>) -> Result<Self> {
        let (mut found, mut names) = (Vec::new(), BTreeSet::new());
        for split in split_folders(folder, reader.split)? {
            for class in classes(folder, &split)? {
                let mut files = Vec::new();
                pictures(folder, &split, &class, &mut files)?;
                found.extend(files.into_iter().map(|file| (file, class.clone())));
                names.insert(class);
            }
        }
        if found.is_empty() {
            return Err(no_pictures(folder, reader.split));
        }
        let classes: Vec<String> = names.into_iter().collect();
        let number = |class: &String| {
            classes.binary_search(class).expect("every picture lies in the folder of a class")
        };
        let pictures = found.into_iter().map(|(file, class)| (file, number(&class) as u32)).collect();
        Ok(Self { folder: folder.to_owned(), pictures, classes: Classes::Found(classes), reader })
    }

    fn record(&self, name: &str, label: u32, size: u32) -> Result<Option<Record>> {
        let path = self.folder.join(name);
        let mut bytes = Vec::new();
        // One byte beyond the longest picture is enough to refuse it.
        let file = File::open(&path).map_err(Error::io("open", &path))?;
        file.take(MOST_ENCODED_BYTES + 1).read_to_end(&mut bytes).map_err(Error::io("read", &path))?;
        self.reader.record(&bytes, label, size, &Place { path: &path, row: None })
    }
}

impl ImageSource for FolderSplit<'_> {
    fn count(&self) -> u64 {
        self.pictures.len() as u64
    }

    fn classes(&self) -> &Classes {
        &self.classes
    }

    fn read(&self, size: u32, sink: &mut Sink<'_>) -> Result<()> {
        self.pictures.chunks(CHUNK).try_for_each(|chunk| {
            let records: Vec<Result<_>> =
                chunk.par_iter().map(|(name, label)| self.record(name, *label, size)).collect();
            // Of several bad pictures the first is told, whichever thread was faster.
            sink(records.into_iter().collect::<Result<_>>()?)
        })
    }
}
