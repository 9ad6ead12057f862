//! Queries that people write themselves.

use std::future::poll_fn;
use std::time::{Duration, Instant};

use serde::{Serialize, Serializer};
use sqlx::sqlite::SqliteRow;
use sqlx::{
    AssertSqlSafe, Column as _, ConnectOptions as _, Connection as _, Executor as _, Row as _,
    SqlSafeStr as _, SqliteConnection, Statement as _, TypeInfo as _, ValueRef as _,
};

use crate::error::{Error, Result};
use crate::reader::Reader;
use crate::statement::check_reads;

/// Virtual machine instructions of SQLite between two looks at the clock: well below a millisecond.
const INSTRUCTIONS_A_LOOK: i32 = 10_000;

/// SQLite's code for a statement that was interrupted.
const INTERRUPTED: &str = "9";

/// The same as a number.
pub(crate) const INTERRUPTED_CODE: u32 = 9;

/// What a query may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most rows that are returned.
    pub rows: usize,
    /// Longest time that it may take.
    pub time: Duration,
}

/// What a query returned.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Table {
    /// Names of the columns, as the query gives them.
    pub columns: Vec<String>,
    /// One entry a column in each.
    pub rows: Vec<Vec<Cell>>,
    /// Whether there were more rows than allowed.
    pub truncated: bool,
}

/// A value of SQLite.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// No value.
    Null,
    /// A whole number.
    Integer(i64),
    /// A floating point number.
    Real(f64),
    /// A text.
    Text(String),
    /// Bytes.
    Blob(Vec<u8>),
}

impl Serialize for Cell {
    /// Writes the value as it is; bytes as an array of numbers.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Integer(value) => serializer.serialize_i64(*value),
            Self::Real(value) => serializer.serialize_f64(*value),
            Self::Text(value) => serializer.serialize_str(value),
            Self::Blob(value) => value.serialize(serializer),
        }
    }
}

impl Reader {
    /// Runs one statement that reads (`SELECT`, `WITH`, `VALUES` or `EXPLAIN`), on a connection of its own that cannot
    /// write, and stops it when its time is up.
    pub async fn query(&self, sql: &str, limits: Limits) -> Result<Table> {
        check_reads(sql)?;
        let mut connection = self.options().connect().await.map_err(self.failed("open for reading"))?;
        stop_in(&mut connection, limits.time).await.map_err(self.failed("limit a query"))?;
        let table =
            fetch(&mut connection, sql, limits.rows).await.map_err(|error| refused(&error, limits.time));
        connection.close().await.map_err(self.failed("close"))?;
        table
    }
}

impl Reader {
    /// Returns what is wrong with the database file: damaged pages and indices, rows that refer to nothing. Nothing where
    /// it is sound. Reads the whole file.
    pub async fn faults(&self, time: Duration) -> Result<Vec<String>> {
        let limits = Limits { rows: 20, time };
        let damaged = "SELECT integrity_check FROM pragma_integrity_check WHERE integrity_check <> 'ok'";
        let dangling = "SELECT 'a row of ' || \"table\" || ' refers to a missing row of ' || parent FROM pragma_foreign_key_check";
        let mut faults = Vec::new();
        for sql in [damaged, dangling] {
            let rows = self.query(sql, limits).await?.rows;
            faults.extend(rows.into_iter().flatten().filter_map(|cell| match cell {
                Cell::Text(text) => Some(text),
                _ => None,
            }));
        }
        Ok(faults)
    }
}

/// Stops whatever runs on a connection `time` from now.
pub(crate) async fn stop_in(connection: &mut SqliteConnection, time: Duration) -> sqlx::Result<()> {
    let start = Instant::now();
    let mut handle = connection.lock_handle().await?;
    handle.set_progress_handler(INSTRUCTIONS_A_LOOK, move || start.elapsed() < time);
    Ok(())
}

async fn fetch(connection: &mut SqliteConnection, sql: &str, most: usize) -> sqlx::Result<Table> {
    let statement = connection.prepare(AssertSqlSafe(sql).into_sql_str()).await?;
    let columns = statement.columns().iter().map(|column| column.name().to_owned()).collect();
    let mut table = Table { columns, rows: Vec::new(), truncated: false };
    let mut rows = statement.query().fetch(connection);
    while let Some(row) = poll_fn(|context| rows.as_mut().poll_next(context)).await.transpose()? {
        if table.rows.len() == most {
            table.truncated = true;
            break;
        }
        table.rows.push(cells(&row)?);
    }
    Ok(table)
}

fn cells(row: &SqliteRow) -> sqlx::Result<Vec<Cell>> {
    (0..row.len()).map(|column| cell(row, column)).collect()
}

fn cell(row: &SqliteRow, column: usize) -> sqlx::Result<Cell> {
    let value = row.try_get_raw(column)?;
    if value.is_null() {
        return Ok(Cell::Null);
    }
    Ok(match value.type_info().name() {
        "INTEGER" => Cell::Integer(row.try_get_unchecked(column)?),
        "REAL" => Cell::Real(row.try_get_unchecked(column)?),
        "BLOB" => Cell::Blob(row.try_get_unchecked(column)?),
        _ => Cell::Text(row.try_get_unchecked(column)?),
    })
}

fn refused(error: &sqlx::Error, limit: Duration) -> Error {
    match error.as_database_error() {
        Some(error) if error.code().as_deref() == Some(INTERRUPTED) => Error::TimedOut { limit },
        Some(error) => Error::Query { message: error.message().to_owned() },
        None => Error::Query { message: error.to_string() },
    }
}
