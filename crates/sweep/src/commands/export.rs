//! `sweep export`: the results, one row a run.

use anyhow::{Context as _, Result};
use serde_json::Value;
use sweep_core::home::Home;
use sweep_store::ResultRow;

use crate::cli::ExportArgs;
use crate::exit::Exit;
use crate::files::write_whole;
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
        Some(path) => write_whole(path, text.as_bytes())?,
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
