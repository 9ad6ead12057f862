//! Small parquet files in the Hub's layout.

#![expect(clippy::unwrap_used, reason = "test helpers outside of test functions")]

pub(crate) mod picture;

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, Int32Type, Int64Type};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;

use picture::png;

/// A row: the encoded image and the label, `None` for null.
pub(crate) type Row = (Option<Vec<u8>>, Option<i64>);

/// How a file is written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub(crate) compression: Compression,
    pub(crate) dictionary: bool,
    pub(crate) label: &'static str,
    pub(crate) rows_per_group: usize,
    /// Whether the image column is a struct of `bytes` and `path`, not plain binary.
    pub(crate) nested: bool,
}

pub(crate) const PLAIN: Layout = Layout {
    compression: Compression::UNCOMPRESSED,
    dictionary: false,
    label: "int64",
    rows_per_group: 1000,
    nested: true,
};

/// What a text column has in place of 0, 1, 2.
pub(crate) const NAMES: [&str; 3] = ["ant", "bee", "cat"];

/// Returns `count` rows from number `first` on; labels are the number modulo `classes`.
pub(crate) fn rows(first: u32, count: u32, classes: u32) -> Vec<Row> {
    (first..first + count).map(|number| (Some(png(number)), Some(i64::from(number % classes)))).collect()
}

/// Writes `rows` to the file at `path`, with class names where given.
pub(crate) fn write(path: &Path, rows: &[Row], names: Option<&[&str]>, layout: Layout) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let (physical, annotation) = layout.label.split_once(' ').unwrap_or((layout.label, ""));
    let image = if layout.nested {
        "optional group image { optional binary bytes; optional binary path (STRING); }"
    } else {
        "optional binary image;"
    };
    let schema = format!("message schema {{ {image} optional {physical} label {annotation}; }}");
    let properties = WriterProperties::builder()
        .set_compression(layout.compression)
        .set_dictionary_enabled(layout.dictionary)
        .set_key_value_metadata(names.map(|names| vec![class_label(names)]))
        .build();
    let schema = Arc::new(parse_message_type(&schema).unwrap());
    let file = File::create(path).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties)).unwrap();
    for rows in rows.chunks(layout.rows_per_group) {
        let mut group = writer.next_row_group().unwrap();
        write_group(&mut group, rows, layout);
        group.close().unwrap();
    }
    writer.close().unwrap();
}

fn class_label(names: &[&str]) -> KeyValue {
    let label = serde_json::json!({"names": names, "_type": "ClassLabel"});
    let info = serde_json::json!({"info": {"features": {"image": {"_type": "Image"}, "label": label}}});
    KeyValue::new("huggingface".to_owned(), info.to_string())
}

fn write_group(group: &mut SerializedRowGroupWriter<'_, File>, rows: &[Row], layout: Layout) {
    let images: Vec<ByteArray> = rows.iter().filter_map(|row| row.0.clone().map(ByteArray::from)).collect();
    let depth = i16::from(layout.nested);
    let levels: Vec<i16> = rows.iter().map(|row| depth + i16::from(row.0.is_some())).collect();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<ByteArrayType>().write_batch(&images, Some(&levels), None).unwrap();
    column.close().unwrap();
    if layout.nested {
        let mut column = group.next_column().unwrap().unwrap();
        let paths = vec![ByteArray::from("a path that is not read"); rows.len()];
        column.typed::<ByteArrayType>().write_batch(&paths, Some(&vec![2; rows.len()]), None).unwrap();
        column.close().unwrap();
    }
    let levels: Vec<i16> = rows.iter().map(|row| i16::from(row.1.is_some())).collect();
    let labels: Vec<i64> = rows.iter().filter_map(|row| row.1).collect();
    let mut column = group.next_column().unwrap().unwrap();
    if layout.label.starts_with("binary") {
        let texts: Vec<ByteArray> =
            labels.iter().map(|label| ByteArray::from(NAMES[usize::try_from(*label).unwrap()])).collect();
        column.typed::<ByteArrayType>().write_batch(&texts, Some(&levels), None).unwrap();
    } else if layout.label.starts_with("int64") {
        column.typed::<Int64Type>().write_batch(&labels, Some(&levels), None).unwrap();
    } else {
        let labels: Vec<i32> = labels.iter().map(|label| i32::try_from(*label).unwrap()).collect();
        column.typed::<Int32Type>().write_batch(&labels, Some(&levels), None).unwrap();
    }
    column.close().unwrap();
}
