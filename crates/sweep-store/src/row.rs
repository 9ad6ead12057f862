//! From database rows to this crate's types.

use serde::de::DeserializeOwned;
use sqlx::Row as _;
use sqlx::error::BoxDynError;
use sqlx::sqlite::SqliteRow;
use sweep_core::spec::RunId;

use crate::state::Failure;

/// Reads a run id.
pub(crate) fn run_id(row: &SqliteRow, column: &str) -> sqlx::Result<RunId> {
    parse(row.try_get::<&str, _>(column)?, column)
}

/// Reads a run id or NULL.
pub(crate) fn optional_run_id(row: &SqliteRow, column: &str) -> sqlx::Result<Option<RunId>> {
    row.try_get::<Option<&str>, _>(column)?.map(|text| parse(text, column)).transpose()
}

/// Reads `failure_class` and `failure_message`.
pub(crate) fn failure(row: &SqliteRow) -> sqlx::Result<Option<Failure>> {
    let Some(class) = row.try_get::<Option<&str>, _>("failure_class")? else {
        return Ok(None);
    };
    let class = label(class, "failure_class")?;
    let message: Option<String> = row.try_get("failure_message")?;
    Ok(Some(Failure { class, message: message.unwrap_or_default() }))
}

/// Reads an unsigned number that was stored as a signed one.
pub(crate) fn unsigned(row: &SqliteRow, column: &str) -> sqlx::Result<u64> {
    let number: i64 = row.try_get(column)?;
    u64::try_from(number).map_err(|error| undecodable(column, error.into()))
}

/// Reads an unsigned number that was stored as a signed one, or NULL.
pub(crate) fn optional_unsigned(row: &SqliteRow, column: &str) -> sqlx::Result<Option<u64>> {
    let number: Option<i64> = row.try_get(column)?;
    number.map(u64::try_from).transpose().map_err(|error| undecodable(column, error.into()))
}

/// Reads a type that is stored under the name that serde gives it.
pub(crate) fn label<T: DeserializeOwned>(text: &str, column: &str) -> sqlx::Result<T> {
    serde_json::from_value(text.into()).map_err(|error| undecodable(column, error.into()))
}

/// Reads a type that is stored as text.
pub(crate) fn parse<T>(text: &str, column: &str) -> sqlx::Result<T>
where
    T: std::str::FromStr<Err: Into<BoxDynError>>,
{
    text.parse().map_err(|error: T::Err| undecodable(column, error.into()))
}

fn undecodable(column: &str, source: BoxDynError) -> sqlx::Error {
    sqlx::Error::ColumnDecode { index: column.to_owned(), source }
}
