//! `sweep status`: how the runs stand.

use std::collections::HashMap;

use anyhow::Result;
use serde_json::Value;
use sweep_core::home::Home;
use sweep_core::spec::RunId;
use sweep_store::{ResultRow, State, Submission};

use crate::cli::StatusArgs;
use crate::exit::Exit;
use crate::table::{Rows, percent};
use crate::{printer, sweeps};

pub(crate) fn run(home: &Home, arguments: &StatusArgs) -> Result<Exit> {
    let (results, submissions) = sweeps::block_on(async {
        let reader = sweeps::open(home).await?;
        let sweep = sweeps::named(&reader, arguments.sweep.as_deref()).await?;
        Ok((reader.results(sweep).await?, reader.open_submissions().await?))
    })?;
    let with_slurm: HashMap<RunId, String> =
        submissions.iter().map(|submission| (submission.run, place(submission))).collect();
    let mut columns = vec![
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
    ];
    let any = results.iter().any(|result| with_slurm.contains_key(&result.id));
    if any {
        columns.push("slurm");
    }
    let mut rows = Rows::new(&columns);
    for result in &results {
        let mut row = row(result);
        if any {
            row.push(with_slurm.get(&result.id).map_or(Value::Null, |place| place.as_str().into()));
        }
        rows.push(row);
    }
    printer::rows(&rows, arguments.output.format)?;
    printer::note(&summary(&results, &with_slurm));
    Ok(Exit::Success)
}

/// Returns which task a run is, and why it does not run where that is known.
fn place(submission: &Submission) -> String {
    let job = submission.job.map_or_else(|| submission.generation.clone(), |job| job.to_string());
    match &submission.reason {
        Some(reason) => format!("{job}_{}: {reason}", submission.task),
        None => format!("{job}_{}", submission.task),
    }
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

fn summary(results: &[ResultRow], with_slurm: &HashMap<RunId, String>) -> String {
    let count = |state| results.iter().filter(|result| result.state == state).count();
    let counts = State::ALL.map(|state| (state, count(state)));
    let parts: Vec<String> = counts
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(state, count)| format!("{count} {state}"))
        .collect();
    let submitted = results.iter().filter(|result| with_slurm.contains_key(&result.id)).count();
    let submitted = if submitted > 0 { format!("; {submitted} with Slurm") } else { String::new() };
    format!("{} runs: {}{submitted}", results.len(), parts.join(", "))
}
