//! `sweep query`: SQL on the results, read-only and bounded.

use std::time::Duration;

use anyhow::Result;
use serde_json::Value;
use sweep_core::home::Home;
use sweep_store::{Cell, Error, Limits, Table};

use crate::cli::QueryArgs;
use crate::exit::{Exit, bad_input};
use crate::table::Rows;
use crate::{printer, sweeps};

pub(crate) fn run(home: &Home, arguments: &QueryArgs) -> Result<Exit> {
    let limits = Limits { rows: arguments.limit, time: Duration::from_secs(arguments.timeout) };
    let table = sweeps::block_on(async {
        let reader = sweeps::open(home).await?;
        reader.query(&arguments.sql, limits).await.map_err(|error| match error {
            Error::NotReadable { .. } | Error::Query { .. } => bad_input(error),
            // Nothing went wrong: the question costs more than the asker allowed, and only the asker can change either.
            Error::TimedOut { .. } => {
                bad_input(format!("{error}\n  hint: ask for less, or allow more with --timeout SECONDS"))
            }
            error => anyhow::Error::new(error),
        })
    })?;
    let truncated = table.truncated;
    printer::rows(&rows(table), arguments.output.format)?;
    if truncated {
        printer::note(&format!("note: only the first {} rows; --limit raises that", arguments.limit));
    }
    Ok(Exit::Success)
}

fn rows(table: Table) -> Rows {
    let value = |cell: Cell| match cell {
        Cell::Null => Value::Null,
        Cell::Integer(value) => Value::from(value),
        Cell::Real(value) => Value::from(value),
        Cell::Text(value) => Value::from(value),
        Cell::Blob(value) => Value::from(value),
    };
    let rows = table.rows.into_iter().map(|row| row.into_iter().map(value).collect()).collect();
    Rows { columns: table.columns, rows }
}
