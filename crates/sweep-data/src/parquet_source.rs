//! Parquet files in the Hub's layout: finding them, naming their content, reading images and labels.
//!
//! Only the label column and the `bytes` of the image column are read. Files are found by name
//! (see [`DatasetSource::Parquet`](sweep_core::dataset::DatasetSource::Parquet)); of one split they are read in the
//! order of their names.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use parquet::basic::Type as Physical;
use parquet::column::reader::ColumnReaderImpl;
use parquet::data_type::{ByteArray, ByteArrayType, DataType, Int32Type, Int64Type};
use parquet::file::reader::{FileReader as _, RowGroupReader};
use parquet::file::serialized_reader::SerializedFileReader;
use rayon::prelude::*;

use crate::decode::decode;
use crate::error::{Error, Result};
use crate::resize::resize_square;
use crate::sha::{FieldHasher, hex, sha256};
use crate::source::{ImageSource, Record};
use crate::split::Key;

/// Rows decoded at once: enough for every core, few enough that encoded images stay small in memory.
const CHUNK: usize = 256;

/// The name under which all splits are read together.
pub(crate) const ALL_SPLITS: &str = "*";

/// Returns the SHA-256 (lower-case hexadecimal) over the names, sizes and contents of the parquet files of a folder.
///
/// The files are those in the folder itself and in its `data` folder, in the order of their relative names; other
/// files do not count. Fails where there is none.
pub fn digest_parquet(path: &Path) -> Result<String> {
    let names = parquet_files(path)?;
    if names.is_empty() {
        return Err(no_files(path, ALL_SPLITS, names));
    }
    let mut hasher = FieldHasher::new("sweep parquet folder");
    for name in names {
        hasher.field(name.as_bytes());
        hash_file(&mut hasher, &path.join(name))?;
    }
    Ok(hex(&hasher.finish()))
}

fn hash_file(hasher: &mut FieldHasher, path: &Path) -> Result<()> {
    let mut file = File::open(path).map_err(Error::io("open", path))?;
    let size = file.metadata().map_err(Error::io("read", path))?.len();
    hasher.length(size);
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut buffer).map_err(Error::io("read", path))?;
        if read == 0 {
            return Ok(());
        }
        hasher.raw(&buffer[..read]);
    }
}

fn no_files(folder: &Path, split: &str, found: Vec<String>) -> Error {
    Error::NoFiles { folder: folder.to_owned(), split: split.to_owned(), found }
}

/// Returns the names, relative to `folder`, of its parquet files and those in its `data` folder, sorted.
fn parquet_files(folder: &Path) -> Result<Vec<String>> {
    let mut names = names_in(folder, "")?;
    if folder.join("data").is_dir() {
        names.extend(names_in(&folder.join("data"), "data/")?);
    }
    names.sort_unstable();
    Ok(names)
}

fn names_in(folder: &Path, prefix: &str) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io("list", folder))? {
        let path = entry.map_err(Error::io("list", folder))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.ends_with(".parquet") && path.is_file() {
            names.push(format!("{prefix}{name}"));
        }
    }
    Ok(names)
}

/// Returns the names of the files that hold `split`.
fn split_files(folder: &Path, split: &str) -> Result<Vec<String>> {
    let all = parquet_files(folder)?;
    if split == ALL_SPLITS && !all.is_empty() {
        return Ok(all);
    }
    let matching = |test: &dyn Fn(&str) -> bool| all.iter().filter(|name| test(name)).cloned().collect();
    let candidates: [Vec<String>; 3] = [
        matching(&|name| name == format!("{split}.parquet")),
        matching(&|name| name.starts_with(&format!("{split}-"))),
        matching(&|name| name.starts_with(&format!("data/{split}-"))),
    ];
    let mut present = candidates.into_iter().filter(|names| !names.is_empty());
    let first = present.next().ok_or_else(|| no_files(folder, split, all.clone()))?;
    let others: Vec<String> = present.flatten().collect();
    if others.is_empty() {
        return Ok(first);
    }
    let found = [first, others].concat();
    Err(Error::AmbiguousFiles { folder: folder.to_owned(), split: split.to_owned(), found })
}

/// The columns of a dataset.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Columns<'a> {
    pub(crate) image: &'a str,
    pub(crate) label: &'a str,
}

/// One split of a folder of parquet files.
pub(crate) struct ParquetSplit {
    files: Vec<Shard>,
    class_names: Option<Vec<String>>,
}

impl ParquetSplit {
    /// Finds the files of `split` (all files for [`ALL_SPLITS`]) and checks their columns and class names.
    pub(crate) fn open(folder: &Path, split: &str, columns: Columns<'_>) -> Result<Self> {
        let names = split_files(folder, split)?;
        let files: Vec<Shard> =
            names.iter().map(|name| Shard::open(&folder.join(name), columns)).collect::<Result<_>>()?;
        let first = &files[0];
        if let Some(other) = files.iter().find(|file| file.class_names != first.class_names) {
            return Err(Error::ClassNamesDiffer {
                first: first.path.display().to_string(),
                second: other.path.display().to_string(),
            });
        }
        Ok(Self { class_names: first.class_names.clone(), files })
    }
}

impl ImageSource for ParquetSplit {
    fn count(&self) -> u64 {
        self.files.iter().map(Shard::rows).sum()
    }

    fn class_names(&self) -> Option<&[String]> {
        self.class_names.as_deref()
    }

    fn read(&self, size: u32, sink: &mut dyn FnMut(Vec<Record>) -> Result<()>) -> Result<()> {
        self.files.iter().try_for_each(|file| file.read(size, sink))
    }
}

/// One parquet file, its columns found.
struct Shard {
    path: PathBuf,
    reader: SerializedFileReader<File>,
    image: Leaf,
    label: Leaf,
    class_names: Option<Vec<String>>,
}

/// A column of values that are not nested in lists.
struct Leaf {
    index: usize,
    name: String,
    physical: Physical,
    /// The definition level of a value that is there.
    defined: i16,
}

impl Shard {
    fn open(path: &Path, columns: Columns<'_>) -> Result<Self> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        let reader = SerializedFileReader::new(file).map_err(Error::parquet(path))?;
        let image = find_leaf(path, &reader, &format!("{}.bytes", columns.image))?;
        let label = find_leaf(path, &reader, columns.label)?;
        let expect = |leaf: &Leaf, types: &[Physical], expected| {
            if types.contains(&leaf.physical) {
                return Ok(());
            }
            let found = leaf.physical.to_string();
            Err(Error::ColumnType { path: path.to_owned(), column: leaf.name.clone(), expected, found })
        };
        expect(&image, &[Physical::BYTE_ARRAY], "binary")?;
        expect(&label, &[Physical::INT32, Physical::INT64], "an integer")?;
        let class_names = class_names(path, &reader, columns.label)?;
        Ok(Self { path: path.to_owned(), reader, image, label, class_names })
    }

    fn rows(&self) -> u64 {
        self.reader.metadata().file_metadata().num_rows() as u64
    }

    fn read(&self, size: u32, sink: &mut dyn FnMut(Vec<Record>) -> Result<()>) -> Result<()> {
        let mut first_row = 0;
        for group in 0..self.reader.num_row_groups() {
            let group = self.reader.get_row_group(group).map_err(Error::parquet(&self.path))?;
            let rows = group.metadata().num_rows() as u64;
            let labels = self.labels(group.as_ref(), first_row)?;
            let mut images = self.column::<ByteArrayType>(group.as_ref(), &self.image)?;
            for (chunk, labels) in labels.chunks(CHUNK).enumerate() {
                let row = first_row + (chunk * CHUNK) as u64;
                let encoded = self.values(&mut images, labels.len(), &self.image, row)?;
                sink(self.records(row, labels, &encoded, size)?)?;
            }
            first_row += rows;
        }
        Ok(())
    }

    fn records(
        &self,
        first_row: u64,
        labels: &[u32],
        encoded: &[ByteArray],
        size: u32,
    ) -> Result<Vec<Record>> {
        let rows = labels.par_iter().zip(encoded).enumerate();
        rows.map(|(offset, (label, bytes))| {
            let failed = |source| Error::Decode {
                path: self.path.clone(),
                row: first_row + offset as u64,
                source: Box::new(source),
            };
            let image = decode(bytes.data()).map_err(failed)?;
            let pixels = resize_square(&image, size as usize);
            Ok(Record { pixels, label: *label, key: content_key(bytes.data()) })
        })
        .collect()
    }

    fn labels(&self, group: &dyn RowGroupReader, first_row: u64) -> Result<Vec<u32>> {
        let rows = group.metadata().num_rows() as usize;
        let labels: Vec<i64> = if self.label.physical == Physical::INT32 {
            let mut column = self.column::<Int32Type>(group, &self.label)?;
            self.values(&mut column, rows, &self.label, first_row)?.into_iter().map(i64::from).collect()
        } else {
            let mut column = self.column::<Int64Type>(group, &self.label)?;
            self.values(&mut column, rows, &self.label, first_row)?
        };
        let checked = |(offset, label): (usize, i64)| self.check_label(first_row + offset as u64, label);
        labels.into_iter().enumerate().map(checked).collect()
    }

    fn check_label(&self, row: u64, label: i64) -> Result<u32> {
        // Without names any number up to a bound that no real dataset reaches is taken as a class.
        const MOST_CLASSES: u32 = 1 << 20;
        let classes = self.class_names.as_ref().map_or(MOST_CLASSES, |names| names.len() as u32);
        match u32::try_from(label) {
            Ok(class) if class < classes => Ok(class),
            _ => Err(Error::Label { path: self.path.clone(), row, label, classes }),
        }
    }

    fn column<T: DataType>(&self, group: &dyn RowGroupReader, leaf: &Leaf) -> Result<ColumnReaderImpl<T>> {
        let column = group.get_column_reader(leaf.index).map_err(Error::parquet(&self.path))?;
        Ok(parquet::column::reader::get_typed_column_reader(column))
    }

    /// Reads the next `count` values of a column; a null is an error that names its row.
    fn values<T: DataType>(
        &self,
        column: &mut ColumnReaderImpl<T>,
        count: usize,
        leaf: &Leaf,
        first_row: u64,
    ) -> Result<Vec<T::T>> {
        let (mut values, mut levels) = (Vec::with_capacity(count), Vec::new());
        while values.len() < count {
            let wanted = count - values.len();
            let (records, ..) = column
                .read_records(wanted, Some(&mut levels), None, &mut values)
                .map_err(Error::parquet(&self.path))?;
            if let Some(offset) = levels.iter().position(|level| *level < leaf.defined) {
                let row = first_row + offset as u64;
                return Err(Error::Null { path: self.path.clone(), row, column: leaf.name.clone() });
            }
            if records == 0 {
                let short = parquet::errors::ParquetError::EOF(format!("column {} ends early", leaf.name));
                return Err(Error::parquet(&self.path)(short));
            }
        }
        Ok(values)
    }
}

/// Returns what identifies an encoded image by its content.
fn content_key(bytes: &[u8]) -> Key {
    let digest = sha256(bytes);
    let (key, _) = digest.split_first_chunk().expect("a digest of 32 bytes is longer than a key");
    *key
}

fn find_leaf(path: &Path, reader: &SerializedFileReader<File>, name: &str) -> Result<Leaf> {
    let columns = reader.metadata().file_metadata().schema_descr().columns();
    let position = columns.iter().position(|column| column.path().string() == name);
    let Some(index) = position else {
        let found = columns.iter().map(|column| column.path().string()).collect();
        return Err(Error::MissingColumn { path: path.to_owned(), column: name.to_owned(), found });
    };
    let column = &columns[index];
    if column.max_rep_level() > 0 {
        let (column, expected, found) = (name.to_owned(), "one value a row", "a list".to_owned());
        return Err(Error::ColumnType { path: path.to_owned(), column, expected, found });
    }
    let (physical, defined) = (column.physical_type(), column.max_def_level());
    Ok(Leaf { index, name: name.to_owned(), physical, defined })
}

/// Returns the class names that the `datasets` library stores with a file:
/// `huggingface` → `info.features.<label>.names`; `None` where the file has no such entry.
fn class_names(path: &Path, reader: &SerializedFileReader<File>, label: &str) -> Result<Option<Vec<String>>> {
    let entries = reader.metadata().file_metadata().key_value_metadata();
    let entry = entries.and_then(|entries| entries.iter().find(|entry| entry.key == "huggingface"));
    let Some(text) = entry.and_then(|entry| entry.value.as_deref()) else {
        return Ok(None);
    };
    let unreadable = |reason: String| Error::Metadata { path: path.to_owned(), reason };
    let info: serde_json::Value =
        serde_json::from_str(text).map_err(|error| unreadable(error.to_string()))?;
    let names = &info["info"]["features"][label]["names"];
    if names.is_null() {
        return Ok(None);
    }
    let names: Vec<String> =
        serde_json::from_value(names.clone()).map_err(|error| unreadable(error.to_string()))?;
    if names.is_empty() {
        Err(unreadable("the list of class names is empty".to_owned()))
    } else {
        Ok(Some(names))
    }
}
