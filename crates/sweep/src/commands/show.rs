//! `sweep show`: everything about one run.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use sweep_core::home::Home;
use sweep_core::spec::RunId;
use sweep_store::{Attempt, EpochRow, EvaluationRow, Gate, Reader, ResultRow};

use crate::cli::{Format, ShowArgs};
use crate::exit::{Exit, bad_input};
use crate::table::{Rows, percent, rounded};
use crate::{printer, sweeps};

/// What the store knows of one run.
struct Facts {
    result: ResultRow,
    spec: Value,
    attempts: Vec<Attempt>,
    epochs: Vec<EpochRow>,
    evaluations: Vec<EvaluationRow>,
    gates: Vec<Gate>,
    rest: Value,
}

pub(crate) fn run(home: &Home, arguments: &ShowArgs) -> Result<Exit> {
    let facts = sweeps::block_on(async {
        let reader = sweeps::open(home).await?;
        let run = reader.resolve_run(&arguments.run).await.map_err(bad_input)?;
        gather(&reader, run).await
    })?;
    let text = match arguments.output.format {
        Format::Json => json_text(&facts)?,
        Format::Csv => {
            let hint =
                "json has everything in one document; `sweep query` and `sweep export` print one table";
            return Err(bad_input(format!("a run is several tables, which csv cannot hold\n  hint: {hint}")));
        }
        format => tables(&facts, home, format)?,
    };
    printer::data(&text)?;
    Ok(Exit::Success)
}

async fn gather(reader: &Reader, run: RunId) -> Result<Facts> {
    let rest = json!({
        "checkpoints": reader.checkpoints_of(run).await?,
        "model": reader.model_of(run).await?,
        "provenance": reader.provenance_of(run).await?,
    });
    Ok(Facts {
        result: reader.result_of(run).await?.context("the run was there a moment ago")?,
        spec: serde_json::to_value(reader.spec(run).await?).context("failed to write the spec")?,
        attempts: reader.attempts_of(run).await?,
        epochs: reader.epochs_of(run).await?,
        evaluations: reader.evaluations_of(run).await?,
        gates: reader.gates_of(run).await?,
        rest,
    })
}

fn json_text(facts: &Facts) -> Result<String> {
    let value = json!({
        "result": facts.result,
        "spec": facts.spec,
        "attempts": facts.attempts,
        "epochs": facts.epochs,
        "evaluations": facts.evaluations,
        "gates": facts.gates,
        "files": facts.rest,
    });
    Ok(serde_json::to_string_pretty(&value).context("failed to write JSON")? + "\n")
}

fn tables(facts: &Facts, home: &Home, format: Format) -> Result<String> {
    let result = &facts.result;
    let mut text = format!(
        "run {}\n{} on {}, target epsilon {}, {}, seed {}: {}, {} of {} epochs\nfolder {}\n",
        result.id,
        result.backbone,
        result.dataset,
        result.target_epsilon,
        result.epsilon_schedule,
        result.seed,
        result.state,
        result.epochs_done,
        result.epochs,
        home.run(result.id).display(),
    );
    if let Some(failure) = &result.failure {
        text.push_str(&format!("failure: {}: {}\n", failure.class.label(), failure.message));
    }
    for (title, rows) in [
        ("attempts", attempts(&facts.attempts)),
        ("epochs (validation split, %)", epochs(&facts.epochs)),
        ("evaluations", evaluations(&facts.evaluations)),
        (
            "sanity gates (perturbations inside the ball and the range of pixels: checked while measuring)",
            gates(&facts.gates),
        ),
    ] {
        if !rows.rows.is_empty() {
            text.push_str(&format!("\n{title}\n{}", rows.render(format)?));
        }
    }
    Ok(text)
}

fn attempts(attempts: &[Attempt]) -> Rows {
    let mut rows = Rows::new(&[
        "attempt",
        "state",
        "host",
        "pid",
        "device",
        "threads",
        "from epoch",
        "seconds",
        "exit",
        "failure",
    ]);
    for attempt in attempts {
        let seconds = attempt.ended_ms.map(|ended| (ended - attempt.started_ms) as f64 / 1e3);
        rows.push(vec![
            attempt.number.into(),
            attempt.state.label().into(),
            json!(attempt.host),
            json!(attempt.pid),
            json!(attempt.device),
            json!(attempt.threads),
            json!(attempt.resumed_from),
            seconds.map_or(Value::Null, |seconds| rounded(seconds, 1)),
            json!(attempt.exit_code.or(attempt.signal.map(|signal| 128 + signal))),
            attempt.failure.as_ref().map_or(Value::Null, |failure| failure.class.label().into()),
        ]);
    }
    rows
}

fn epochs(epochs: &[EpochRow]) -> Rows {
    let mut rows = Rows::new(&[
        "epoch",
        "epsilon·255",
        "rate",
        "loss",
        "train %",
        "clean %",
        "robust %",
        "train s",
        "validation s",
    ]);
    for epoch in epochs {
        let share = |part: u32, whole: u32| percent(f64::from(part) / f64::from(whole));
        rows.push(vec![
            (epoch.epoch + 1).into(),
            rounded(epoch.epsilon * 255.0, 2),
            epoch.learning_rate.map_or(Value::Null, |rate| format!("{rate:.2e}").into()),
            epoch.train_loss.map_or(Value::Null, |loss| rounded(loss, 4)),
            share(epoch.train_correct, epoch.train_total),
            share(epoch.clean_correct, epoch.validation_total),
            share(epoch.robust_correct, epoch.validation_total),
            rounded(epoch.train_seconds, 1),
            rounded(epoch.validation_seconds, 1),
        ]);
    }
    rows
}

fn evaluations(evaluations: &[EvaluationRow]) -> Rows {
    let mut rows = Rows::new(&["split", "epochs", "attack", "norm", "epsilon", "correct", "total", "%"]);
    for evaluation in evaluations {
        rows.push(vec![
            evaluation.split.label().into(),
            evaluation.epochs.into(),
            evaluation.attack.as_str().into(),
            evaluation.norm.label().into(),
            evaluation.epsilon.to_string().into(),
            evaluation.count.correct.into(),
            evaluation.count.total.into(),
            percent(evaluation.count.accuracy()),
        ]);
    }
    rows
}

fn gates(gates: &[Gate]) -> Rows {
    let mut rows = Rows::new(&["gate", "passed", "violated at"]);
    for gate in gates {
        let passed = match gate.passed {
            Some(true) => "yes",
            Some(false) => "no",
            None => "nothing to check yet",
        };
        rows.push(vec![gate.gate.as_str().into(), passed.into(), json!(gate.violations)]);
    }
    rows
}
