//! `sweep status`: how the runs stand.

use anyhow::Result;
use serde_json::Value;
use sweep_core::home::Home;
use sweep_store::{ResultRow, State};

use crate::cli::StatusArgs;
use crate::exit::Exit;
use crate::table::{Rows, percent};
use crate::{printer, sweeps};

pub(crate) fn run(home: &Home, arguments: &StatusArgs) -> Result<Exit> {
    let results = sweeps::block_on(async {
        let reader = sweeps::open(home).await?;
        let sweep = sweeps::named(&reader, arguments.sweep.as_deref()).await?;
        Ok(reader.results(sweep).await?)
    })?;
    let mut rows = Rows::new(&[
        "run",
        "backbone",
        "dataset",
        "target",
        "schedule",
        "seed",
        "state",
        "attempts",
        "epochs",
        "clean %",
        "robust %",
        "expected %",
        "failure",
    ]);
    for result in &results {
        rows.push(row(result));
    }
    printer::rows(&rows, arguments.output.format)?;
    printer::note(&summary(&results));
    Ok(Exit::Success)
}

fn row(result: &ResultRow) -> Vec<Value> {
    let accuracy = |value: Option<f64>| value.map_or(Value::Null, percent);
    vec![
        result.id.short().into(),
        result.backbone.as_str().into(),
        result.dataset.as_str().into(),
        result.target_epsilon.to_string().into(),
        result.epsilon_schedule.as_str().into(),
        result.seed.into(),
        if result.blocked { "blocked".into() } else { result.state.label().into() },
        result.attempts.into(),
        format!("{}/{}", result.epochs_done, result.epochs).into(),
        accuracy(result.clean),
        accuracy(result.robust),
        accuracy(result.expected_robustness),
        result.failure.as_ref().map_or(Value::Null, |failure| failure.class.label().into()),
    ]
}

fn summary(results: &[ResultRow]) -> String {
    let count = |state| results.iter().filter(|result| result.state == state).count();
    let counts = State::ALL.map(|state| (state, count(state)));
    let parts: Vec<String> = counts
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(state, count)| format!("{count} {state}"))
        .collect();
    format!("{} runs: {}", results.len(), parts.join(", "))
}
