//! Parquet files in the Hub's layout: finding them, naming their content, reading images and labels.
//!
//! Only the label column and the `bytes` of the image column (or the column itself, where it is binary) are read. Files
//! are found by name ([`crate::layout`]); of one split they are read in the order of their names.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};

use parquet::basic::Type as Physical;
use parquet::column::reader::ColumnReaderImpl;
use parquet::data_type::{ByteArray, ByteArrayType, DataType, Int32Type, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::reader::{FileReader as _, RowGroupReader};
use parquet::file::serialized_reader::SerializedFileReader;
use rayon::prelude::*;

use crate::error::{Error, Result, shortened};
use crate::files::{digest, walk};
use crate::layout::{ALL_SPLITS, no_files, split_files};
use crate::picture::{Place, Reader};
use crate::source::{Classes, ImageSource, MOST_CLASSES, Record, Sink};

/// Rows decoded at once: enough for every core, few enough that encoded images stay small in memory.
const CHUNK: usize = 256;
/// Most rows of a file: ten times the images of the largest labelled datasets.
const MOST_ROWS: i64 = 1 << 27;
/// Longest name of a class, in bytes.
const LONGEST_NAME: usize = 1024;

/// Returns the SHA-256 (lower-case hexadecimal) over the names, sizes and contents of the parquet files of a folder.
///
/// The files are those in the folder itself and in its `data` folder, in the order of their relative names; other
/// files do not count. Fails where there is none.
pub fn digest_parquet(path: &Path) -> Result<String> {
    let names = list_files(path, Reach::Data)?;
    if names.is_empty() {
        return Err(no_files(path, ALL_SPLITS, names));
    }
    digest("sweep parquet folder", path, &names)
}

/// Which folders below a dataset's folder may hold files of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// `data` alone: a folder that the user keeps.
    Data,
    /// All, two deep: the copy of a repository.
    Repository,
}

/// Returns the names of the parquet files of a dataset's folder, relative to it, sorted.
fn list_files(folder: &Path, reach: Reach) -> Result<Vec<String>> {
    let mut names = Vec::new();
    match reach {
        Reach::Repository => walk(folder, "", 2, &mut names)?,
        Reach::Data => {
            walk(folder, "", 0, &mut names)?;
            if folder.join("data").is_dir() {
                walk(&folder.join("data"), "data/", 0, &mut names)?;
            }
        }
    }
    names.retain(|name| name.ends_with(".parquet"));
    names.sort_unstable();
    Ok(names)
}

/// Where the files of a dataset lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Files<'a> {
    pub(crate) folder: &'a Path,
    pub(crate) reach: Reach,
    pub(crate) config: Option<&'a str>,
}

/// The columns of a dataset.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Columns<'a> {
    pub(crate) image: &'a str,
    pub(crate) label: &'a str,
}

/// One split of a folder of parquet files.
pub(crate) struct ParquetSplit<'a> {
    shards: Vec<Shard>,
    classes: Classes,
    reader: Reader<'a>,
}

impl<'a> ParquetSplit<'a> {
    /// Finds the files of a split (all files for [`ALL_SPLITS`]) and checks their columns and class names.
    pub(crate) fn open(files: Files<'_>, columns: Columns<'_>, reader: Reader<'a>) -> Result<Self> {
        let Files { folder, reach, config } = files;
        let names = split_files(&list_files(folder, reach)?, config, reader.split, folder)?;
        let shards: Vec<Shard> =
            names.iter().map(|name| Shard::open(&folder.join(name), columns)).collect::<Result<_>>()?;
        let classes = classes(&shards)?;
        Ok(Self { shards, classes, reader })
    }
}

/// Returns the classes that all shards have: those listed in their metadata, or the texts in their label columns.
fn classes(shards: &[Shard]) -> Result<Classes> {
    let first = &shards[0];
    let is_text = |shard: &Shard| shard.label.physical == Physical::BYTE_ARRAY;
    let differs = |other: &&Shard| other.class_names != first.class_names || is_text(other) != is_text(first);
    if let Some(other) = shards.iter().find(differs) {
        return Err(Error::ClassNamesDiffer {
            first: first.path.display().to_string(),
            second: other.path.display().to_string(),
        });
    }
    if is_text(first) {
        let mut found = BTreeSet::new();
        shards.iter().try_for_each(|shard| shard.collect_texts(&mut found))?;
        return Ok(Classes::Found(found.into_iter().collect()));
    }
    Ok(first.class_names.clone().map_or(Classes::Numbered, Classes::Listed))
}

impl ImageSource for ParquetSplit<'_> {
    fn count(&self) -> u64 {
        self.shards.iter().map(Shard::rows).sum()
    }

    fn classes(&self) -> &Classes {
        &self.classes
    }

    fn read(&self, size: u32, sink: &mut Sink<'_>) -> Result<()> {
        self.shards.iter().try_for_each(|shard| shard.read(size, &self.classes, self.reader, sink))
    }
}

/// Calls `work` with the first row and the number of rows of each chunk of a row group.
fn for_each_chunk(
    group: &dyn RowGroupReader,
    first_row: u64,
    work: &mut dyn FnMut(u64, usize) -> Result<()>,
) -> Result<()> {
    // `Shard::open` has refused negative numbers.
    let end = first_row + group.metadata().num_rows().unsigned_abs();
    (first_row..end).step_by(CHUNK).try_for_each(|row| work(row, (end - row).min(CHUNK as u64) as usize))
}

/// The label column of a row group.
enum LabelColumn {
    Short(ColumnReaderImpl<Int32Type>),
    Long(ColumnReaderImpl<Int64Type>),
    Text(ColumnReaderImpl<ByteArrayType>),
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
        check_rows(path, &reader)?;
        check_places(path, &reader)?;
        let image = match find_leaf(path, &reader, &format!("{}.bytes", columns.image))? {
            Some(bytes) => bytes,
            None => required_leaf(path, &reader, columns.image)?,
        };
        let label = required_leaf(path, &reader, columns.label)?;
        let expect = |leaf: &Leaf, types: &[Physical], expected| {
            if types.contains(&leaf.physical) {
                return Ok(());
            }
            let found = leaf.physical.to_string();
            Err(Error::ColumnType { path: path.to_owned(), column: leaf.name.clone(), expected, found })
        };
        expect(&image, &[Physical::BYTE_ARRAY], "binary")?;
        let labels = [Physical::INT32, Physical::INT64, Physical::BYTE_ARRAY];
        expect(&label, &labels, "an integer or a text")?;
        let class_names = class_names(path, &reader, columns.label)?;
        Ok(Self { path: path.to_owned(), reader, image, label, class_names })
    }

    fn rows(&self) -> u64 {
        let groups = self.reader.metadata().row_groups().iter();
        groups.map(|group| group.num_rows().unsigned_abs()).sum()
    }

    fn read(&self, size: u32, classes: &Classes, reader: Reader<'_>, sink: &mut Sink<'_>) -> Result<()> {
        self.for_each_group(&mut |group, first_row| {
            let mut labels = self.label_column(group)?;
            let mut images = self.column::<ByteArrayType>(group, &self.image)?;
            for_each_chunk(group, first_row, &mut |row, count| {
                let labels = self.classes(&mut labels, row, count, classes)?;
                let encoded = self.values(&mut images, count, &self.image, row)?;
                sink(self.records(row, &labels, &encoded, size, reader)?)
            })
        })
    }

    /// Calls `work` with every row group and the number of its first row.
    fn for_each_group(&self, work: &mut dyn FnMut(&dyn RowGroupReader, u64) -> Result<()>) -> Result<()> {
        let mut first_row = 0;
        for group in 0..self.reader.num_row_groups() {
            let group = self.reader.get_row_group(group).map_err(Error::parquet(&self.path))?;
            work(group.as_ref(), first_row)?;
            first_row += group.metadata().num_rows().unsigned_abs();
        }
        Ok(())
    }

    fn records(
        &self,
        first_row: u64,
        labels: &[u32],
        encoded: &[ByteArray],
        size: u32,
        reader: Reader<'_>,
    ) -> Result<Vec<Option<Record>>> {
        let record = |(offset, (label, bytes)): (usize, (&u32, &ByteArray))| {
            let place = Place { path: &self.path, row: Some(first_row + offset as u64) };
            reader.record(bytes.data(), *label, size, &place)
        };
        let records: Vec<Result<_>> = labels.par_iter().zip(encoded).enumerate().map(record).collect();
        // Of several bad images the first is told, whichever thread was faster.
        records.into_iter().collect()
    }

    fn label_column(&self, group: &dyn RowGroupReader) -> Result<LabelColumn> {
        Ok(match self.label.physical {
            Physical::INT32 => LabelColumn::Short(self.column(group, &self.label)?),
            Physical::BYTE_ARRAY => LabelColumn::Text(self.column(group, &self.label)?),
            _ => LabelColumn::Long(self.column(group, &self.label)?),
        })
    }

    /// Returns the next labels as numbers of classes.
    fn classes(
        &self,
        column: &mut LabelColumn,
        row: u64,
        count: usize,
        classes: &Classes,
    ) -> Result<Vec<u32>> {
        let numbers = match column {
            LabelColumn::Short(column) => {
                let labels = self.values(column, count, &self.label, row)?;
                labels.into_iter().map(i64::from).collect()
            }
            LabelColumn::Long(column) => self.values(column, count, &self.label, row)?,
            LabelColumn::Text(column) => {
                let Classes::Found(names) = classes else { return Ok(Vec::new()) };
                let number = |text: String| names.binary_search(&text).map_or(u32::MAX, |class| class as u32);
                return Ok(self.texts(column, row, count)?.into_iter().map(number).collect());
            }
        };
        let labels = numbers.into_iter().zip(row..);
        labels.map(|(label, row)| self.check_label(row, label)).collect()
    }

    /// Returns the next texts of the label column.
    fn texts(
        &self,
        column: &mut ColumnReaderImpl<ByteArrayType>,
        row: u64,
        count: usize,
    ) -> Result<Vec<String>> {
        let text = |(label, row): (ByteArray, u64)| {
            let (path, length) = (self.path.clone(), label.len());
            if length > LONGEST_NAME {
                let column = self.label.name.clone();
                return Err(Error::LongName { path, row, column, length, most: LONGEST_NAME });
            }
            label.as_utf8().map(str::to_owned).map_err(Error::parquet(&self.path))
        };
        self.values(column, count, &self.label, row)?.into_iter().zip(row..).map(text).collect()
    }

    /// Adds the texts in the label column to `found`.
    fn collect_texts(&self, found: &mut BTreeSet<String>) -> Result<()> {
        self.for_each_group(&mut |group, first_row| {
            let mut column = self.column::<ByteArrayType>(group, &self.label)?;
            for_each_chunk(group, first_row, &mut |row, count| {
                found.extend(self.texts(&mut column, row, count)?);
                if found.len() > MOST_CLASSES {
                    return Err(Error::ManyClasses { path: self.path.clone(), most: MOST_CLASSES });
                }
                Ok(())
            })
        })
    }

    fn check_label(&self, row: u64, label: i64) -> Result<u32> {
        let classes = self.class_names.as_ref().map_or(MOST_CLASSES, Vec::len) as u32;
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

/// Refuses numbers of rows that no dataset has: a few bytes can stand for any number of equal values.
fn check_rows(path: &Path, reader: &SerializedFileReader<File>) -> Result<()> {
    let groups = reader.metadata().row_groups().iter().map(RowGroupMetaData::num_rows);
    let total = groups.clone().try_fold(0_i64, i64::checked_add).unwrap_or(i64::MAX);
    match groups.chain([total]).find(|rows| !(0..=MOST_ROWS).contains(rows)) {
        Some(rows) => Err(Error::Rows { path: path.to_owned(), rows, most: MOST_ROWS }),
        None => Ok(()),
    }
}

/// Refuses columns that begin before their file or have a negative length, where the library that reads them panics.
fn check_places(path: &Path, reader: &SerializedFileReader<File>) -> Result<()> {
    let columns = reader.metadata().row_groups().iter().flat_map(RowGroupMetaData::columns);
    let places = columns.flat_map(|column| {
        let start = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
        [start, column.data_page_offset(), column.compressed_size()]
    });
    if places.into_iter().any(|place| place < 0) {
        let what = "a column begins before the file or has a negative length";
        return Err(Error::parquet(path)(ParquetError::General(what.to_owned())));
    }
    Ok(())
}

/// Returns the column called `name`, if there is one.
fn find_leaf(path: &Path, reader: &SerializedFileReader<File>, name: &str) -> Result<Option<Leaf>> {
    let columns = reader.metadata().file_metadata().schema_descr().columns();
    let position = columns.iter().position(|column| column.path().string() == name);
    let Some(index) = position else { return Ok(None) };
    let column = &columns[index];
    if column.max_rep_level() > 0 {
        let (column, expected, found) = (name.to_owned(), "one value a row", "a list".to_owned());
        return Err(Error::ColumnType { path: path.to_owned(), column, expected, found });
    }
    let (physical, defined) = (column.physical_type(), column.max_def_level());
    Ok(Some(Leaf { index, name: name.to_owned(), physical, defined }))
}

fn required_leaf(path: &Path, reader: &SerializedFileReader<File>, name: &str) -> Result<Leaf> {
    find_leaf(path, reader, name)?.ok_or_else(|| {
        let columns = reader.metadata().file_metadata().schema_descr().columns();
        let found = columns.iter().map(|column| column.path().string()).collect();
        Error::MissingColumn { path: path.to_owned(), column: name.to_owned(), found }
    })
}

/// Returns the class names that the `datasets` library stores with a file:
/// `huggingface` → `info.features.<label>.names`; `None` where the file has no such entry.
fn class_names(path: &Path, reader: &SerializedFileReader<File>, label: &str) -> Result<Option<Vec<String>>> {
    let entries = reader.metadata().file_metadata().key_value_metadata();
    let entry = entries.and_then(|entries| entries.iter().find(|entry| entry.key == "huggingface"));
    let Some(text) = entry.and_then(|entry| entry.value.as_deref()) else {
        return Ok(None);
    };
    let unreadable = |reason: String| Error::Metadata { path: path.to_owned(), reason: shortened(&reason) };
    let info: serde_json::Value =
        serde_json::from_str(text).map_err(|error| unreadable(error.to_string()))?;
    let names = &info["info"]["features"][label]["names"];
    if names.is_null() {
        return Ok(None);
    }
    let names: Vec<String> =
        serde_json::from_value(names.clone()).map_err(|error| unreadable(error.to_string()))?;
    let fault = match names.len() {
        0 => "the list of class names is empty".to_owned(),
        count if count > MOST_CLASSES => {
            format!("it has {count} class names, expected at most {MOST_CLASSES}")
        }
        _ => match names.iter().find(|name| name.len() > LONGEST_NAME) {
            Some(name) => {
                format!("a class name has more than {LONGEST_NAME} bytes: {}", shortened(name))
            }
            None => return Ok(Some(names)),
        },
    };
    Err(unreadable(fault))
}
