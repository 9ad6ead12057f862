//! `sweep schema`: the JSON Schema of a sweep file.

use anyhow::{Context as _, Result};

use crate::exit::Exit;
use crate::printer;

pub(crate) fn run() -> Result<Exit> {
    let schema =
        serde_json::to_string_pretty(&sweep_core::json_schema()).context("failed to write the schema")?;
    printer::data(&(schema + "\n"))?;
    Ok(Exit::Success)
}
