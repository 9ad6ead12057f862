//! `sweep export`: the results, one row a run.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::Value;
use sweep_core::home::Home;
use sweep_store::ResultRow;

use crate::cli::ExportArgs;
use crate::exit::Exit;
use crate::table::Rows;
use crate::{printer, sweeps};

pub(crate) fn run(home: &Home, arguments: &ExportArgs) -> Result<Exit> {
    let results = sweeps::block_on(async {
        let reader = sweeps::open(home).await?;
        let sweep = sweeps::named(&reader, arguments.sweep.as_deref()).await?;
        Ok(reader.results(sweep).await?)
    })?;
    let text = rows(&results)?.render(arguments.format)?;
    match &arguments.output {
        Some(path) => write_whole(path, &text)?,
        None => printer::data(&text)?,
    }
    Ok(Exit::Success)
}

/// One column a field, accuracies as fractions with every digit.
fn rows(results: &[ResultRow]) -> Result<Rows> {
    let mut rows = Rows::new(&[
        "id",
        "backbone",
        "dataset",
        "input_size",
        "target_epsilon",
        "epsilon_schedule",
        "seed",
        "epochs",
        "batch_size",
        "learning_rate",
        "state",
        "failure",
        "attempts",
        "epochs_done",
        "clean",
        "robust",
        "expected_robustness",
        "delay",
        "delay_above_chance",
        "validation_clean",
        "clean_drop",
        "train_seconds",
        "test_total",
    ]);
    for result in results {
        let value = serde_json::to_value(result).context("failed to write a result")?;
        let field = |column: &String| match (column.as_str(), &value[column]) {
            ("failure", Value::Object(failure)) => failure["class"].clone(),
            (_, value) => value.clone(),
        };
        let row = rows.columns.iter().map(field).collect();
        rows.push(row);
    }
    Ok(rows)
}

/// Writes a file that appears whole or not at all.
pub(crate) fn write_whole(path: &Path, text: &str) -> Result<()> {
    let temporary = path.with_extension(format!("tmp-{}", std::process::id()));
    let write = || -> std::io::Result<()> {
        let mut file = fs::File::create(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().with_context(|| format!("failed to write `{}`", path.display()))
}
