//! A view as a Parquet file.
//!
//! Texts are UTF-8 strings, whole numbers 64-bit integers, fractions doubles, flags booleans, and moments timestamps in
//! milliseconds, UTC. Numbers are the database's to the bit. A column that is never NULL is required, the others are optional.

use std::sync::Arc;

use parquet::basic::{Compression, LogicalType, Repetition, TimeUnit, Type as Physical, ZstdLevel};
use parquet::column::writer::ColumnWriterImpl;
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, DoubleType, Int64Type};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{WriterProperties, WriterPropertiesPtr};
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use parquet::schema::types::{Type, TypePtr};
use sweep_store::{Kind, Values, View, ViewColumn, ViewRows};

use crate::error::{Error, Result};

/// Rows of a row group: a few megabytes of the widest view, so that readers can skip and share work.
const GROUP: usize = 100_000;

/// Returns the rows of a view as a Parquet file, compressed with Zstandard. The key `sweep.view` in the file's metadata names
/// the view.
pub fn parquet(rows: &ViewRows) -> Result<Vec<u8>> {
    written(rows).map_err(|source| Error::Parquet { view: rows.view.name(), source })
}

fn written(rows: &ViewRows) -> ParquetResult<Vec<u8>> {
    let mut file = SerializedFileWriter::new(Vec::new(), schema(rows.view)?, properties(rows.view))?;
    for first in (0..rows.count).step_by(GROUP) {
        let last = rows.count.min(first + GROUP);
        let mut group = file.next_row_group()?;
        for values in &rows.values {
            let surplus = || ParquetError::General("more columns than the schema has".to_owned());
            write(group.next_column()?.ok_or_else(surplus)?, values, first..last)?;
        }
        group.close()?;
    }
    file.into_inner()
}

fn properties(view: View) -> WriterPropertiesPtr {
    let note = |key: &str, value: &str| KeyValue::new(key.to_owned(), value.to_owned());
    let version = env!("CARGO_PKG_VERSION");
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_created_by(format!("sweep {version}"))
        .set_key_value_metadata(Some(vec![note("sweep.view", view.name()), note("sweep.version", version)]));
    Arc::new(properties.build())
}

fn schema(view: View) -> ParquetResult<TypePtr> {
    let fields: Vec<TypePtr> =
        view.columns().iter().map(|column| field(column).map(Arc::new)).collect::<ParquetResult<_>>()?;
    Ok(Arc::new(Type::group_type_builder(view.name()).with_fields(fields).build()?))
}

fn field(column: &ViewColumn) -> ParquetResult<Type> {
    let (physical, logical) = match column.kind {
        Kind::Text => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
        Kind::Integer => (Physical::INT64, None),
        Kind::Real => (Physical::DOUBLE, None),
        Kind::Flag => (Physical::BOOLEAN, None),
        Kind::Moment => (Physical::INT64, Some(LogicalType::timestamp(true, TimeUnit::MILLIS))),
    };
    let repetition = if column.is_optional { Repetition::OPTIONAL } else { Repetition::REQUIRED };
    Type::primitive_type_builder(column.name, physical)
        .with_logical_type(logical)
        .with_repetition(repetition)
        .build()
}

fn write(
    mut column: SerializedColumnWriter<'_>,
    values: &Values,
    rows: std::ops::Range<usize>,
) -> ParquetResult<()> {
    match values {
        Values::Text(values) => {
            let bytes = |value: &String| ByteArray::from(value.as_bytes());
            put(column.typed::<ByteArrayType>(), &values[rows], bytes)?;
        }
        Values::Integer(values) => put(column.typed::<Int64Type>(), &values[rows], |value| *value)?,
        Values::Real(values) => put(column.typed::<DoubleType>(), &values[rows], |value| *value)?,
        Values::Flag(values) => put(column.typed::<BoolType>(), &values[rows], |value| *value)?,
    }
    column.close()
}

/// Writes the values that are there, and of each row whether it has one. A required column takes no such levels; a hole in it
/// leaves fewer values than rows, which the writer refuses when the group is closed.
fn put<T: DataType, V>(
    column: &mut ColumnWriterImpl<'_, T>,
    values: &[Option<V>],
    convert: impl Fn(&V) -> T::T,
) -> ParquetResult<()> {
    let is_optional = column.get_descriptor().max_def_level() > 0;
    let levels: Option<Vec<i16>> =
        is_optional.then(|| values.iter().map(|value| i16::from(value.is_some())).collect());
    let there: Vec<T::T> = values.iter().flatten().map(convert).collect();
    column.write_batch(&there, levels.as_deref(), None).map(drop)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use parquet::file::reader::{FileReader as _, SerializedFileReader};
    use parquet::record::Field;

    use super::*;

    /// Rows of `gates`, which has a column of every optional kind but numbers.
    fn gates(count: usize) -> ViewRows {
        let texts =
            |prefix: &str| Values::Text((0..count).map(|row| Some(format!("{prefix}{row}"))).collect());
        let passed = (0..count).map(|row| [Some(true), Some(false), None][row % 3]).collect();
        let violations = (0..count).map(|row| (row % 3 == 1).then(|| "4/255, ü".to_owned())).collect();
        let values =
            vec![texts("id"), texts("short"), texts("gate"), Values::Flag(passed), Values::Text(violations)];
        ViewRows { view: View::Gates, count, values }
    }

    fn read(bytes: &[u8]) -> (usize, Vec<Vec<Field>>) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        let reader = SerializedFileReader::new(file).unwrap();
        let groups = reader.num_row_groups();
        let fields = |row: parquet::record::Row| {
            row.get_column_iter().map(|(_, field)| field.clone()).collect::<Vec<_>>()
        };
        (groups, reader.into_iter().map(|row| fields(row.unwrap())).collect())
    }

    #[test]
    fn every_group_has_its_rows() {
        for (count, groups) in [(0, 0), (1, 1), (GROUP, 1), (GROUP + 2, 2)] {
            let (found, rows) = read(&parquet(&gates(count)).unwrap());
            assert_eq!((found, rows.len()), (groups, count));
            for (place, row) in
                rows.iter().enumerate().filter(|(place, _)| place % 9_999 == 0 || *place >= GROUP)
            {
                let passed = [Field::Bool(true), Field::Bool(false), Field::Null][place % 3].clone();
                let violations =
                    if place % 3 == 1 { Field::Str("4/255, ü".to_owned()) } else { Field::Null };
                assert_eq!(row[0], Field::Str(format!("id{place}")));
                assert_eq!(row[3..], [passed, violations]);
            }
        }
    }

    #[test]
    fn a_hole_in_a_required_column_is_an_error() {
        let mut rows = gates(3);
        rows.values[0] = Values::Text(vec![Some("a".to_owned()), None, Some("c".to_owned())]);
        assert!(matches!(parquet(&rows), Err(Error::Parquet { view: "gates", .. })));
    }
}
