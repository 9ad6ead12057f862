//! One run: what it is, where it stands, its curves, attempts and where its numbers come from.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use sweep_core::event::Split;
use sweep_core::spec::RunId;
use sweep_store::{
    Attempt, CheckpointRow, EpochRow, EvaluationRow, Gate, ModelRow, Provenance, ResultRow, State, SweepId,
};

use super::Page;
use super::grid::{paragraph, phase, run_link, share};
use crate::app::{App, Haste, stopped};
use crate::cell::Standing;
use crate::charts;
use crate::error::Failure;
use crate::html::{Html, Table, duration, short};

/// Bytes at the end of a log that are shown.
const LOG: u64 = 6_000;
/// Sweeps of a run that its page links to, at most.
const SWEEPS: usize = 5;
/// Attempts and epochs that are listed, at most: the latest.
const LISTED: usize = 50;

/// What the store knows of a run.
struct Facts {
    result: ResultRow,
    sweeps: Vec<(SweepId, String)>,
    attempts: Vec<Attempt>,
    epochs: Vec<EpochRow>,
    evaluations: Vec<EvaluationRow>,
    /// `None` where they are not looked up yet.
    gates: Option<Vec<Gate>>,
    provenance: Vec<Provenance>,
    checkpoints: Vec<CheckpointRow>,
    model: Option<ModelRow>,
    depends_on: Option<RunId>,
    spec: String,
    log: Option<String>,
}

/// Returns the page of a run.
pub(super) async fn page(app: &App, run: RunId, haste: Haste) -> Result<Page, Failure> {
    let change = app.look().await?;
    let facts = gather(app, run, haste).await?;
    // A page without its checks belongs to no change, so that whoever follows it is sent everything once.
    let change = if facts.gates.is_some() { change } else { u64::MAX };
    let page = tokio::task::spawn_blocking(move || written(&facts)).await.map_err(|_| stopped())?;
    Ok(Page { change, ..page })
}

async fn gather(app: &App, run: RunId, haste: Haste) -> Result<Facts, Failure> {
    let reader = &app.reader;
    let gone = || Failure::not_found("The run is not in the database any more.");
    let result = reader.result_of(run).await?.ok_or_else(gone)?;
    let attempts = reader.attempts_of(run).await?;
    let log = attempts.last().map(|attempt| app.home.log(run, attempt.number));
    let spec = reader.spec(run).await?;
    let evaluations = reader.evaluations_of(run).await?;
    Ok(Facts {
        sweeps: reader.sweeps_of(run).await?,
        epochs: reader.epochs_of(run).await?,
        gates: app.gates(run, evaluations.len(), haste).await?,
        evaluations,
        provenance: reader.provenance_of(run).await?,
        checkpoints: reader.checkpoints_of(run).await?,
        model: reader.model_of(run).await?,
        depends_on: reader.states_of(&[run]).await?.first().and_then(|state| state.depends_on),
        spec: spec.and_then(|spec| serde_json::to_string_pretty(&spec).ok()).unwrap_or_default(),
        log: match log {
            Some(path) => tokio::task::spawn_blocking(move || tail(path)).await.map_err(|_| stopped())?,
            None => None,
        },
        result,
        attempts,
    })
}

/// Returns the end of a log from its first whole line on; `None` where there is no such file, as on another machine.
fn tail(path: impl Into<PathBuf>) -> Option<String> {
    let read = |path: &Path| -> std::io::Result<String> {
        let mut file = std::fs::File::open(path)?;
        let length = file.metadata()?.len();
        let begin = length.saturating_sub(LOG);
        file.seek(SeekFrom::Start(begin))?;
        let mut bytes = Vec::new();
        file.take(LOG).read_to_end(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Ok(if begin > 0 {
            text.split_once('\n').map_or(text.clone(), |(_, rest)| rest.to_owned())
        } else {
            text
        })
    };
    read(&path.into()).ok()
}

fn written(facts: &Facts) -> Page {
    let result = &facts.result;
    let mut page = Page {
        title: format!("Run {}", result.id.short()),
        way: facts
            .sweeps
            .iter()
            .take(SWEEPS)
            .map(|(sweep, name)| (format!("/sweep/{}", sweep.number()), name.clone()))
            .collect(),
        events: format!("/run/{}/events", result.id),
        ..Page::default()
    };
    page.body.labelled(
        "p",
        &[("class", "what")],
        format!(
            "{} on {}, target epsilon {}, {}, seed {}",
            result.backbone, result.dataset, result.target_epsilon, result.epsilon_schedule, result.seed
        ),
    );
    page.part("p", "state", &[("aria-live", "polite")], state(facts));
    page.part("dl", "numbers", &[("class", "numbers")], numbers(result));
    page.body
        .raw("<section aria-labelledby=\"curves\"><h2 id=\"curves\">Curves</h2>\n<div class=\"charts\">");
    chart(
        &mut page,
        "accuracy",
        "Validation accuracy and the radius of training",
        charts::accuracy(&facts.epochs, result.epochs),
    );
    chart(&mut page, "losses", "Losses", charts::losses(&facts.epochs, result.epochs));
    chart(&mut page, "radii", "Test accuracy over the radius", charts::over_epsilon(&measured(facts)));
    page.body.raw("</div>\n<details><summary>The numbers behind them</summary>\n");
    page.part("div", "epochs", &[], epochs(&facts.epochs));
    page.part("div", "evaluations", &[], evaluations(&facts.evaluations));
    page.body
        .raw("</details></section>\n<section aria-labelledby=\"tries\"><h2 id=\"tries\">Attempts</h2>\n");
    page.part("div", "attempts", &[], attempts(&facts.attempts));
    page.body.raw("<h3>End of the last attempt's log</h3>\n");
    page.part("pre", "log", &[("tabindex", "0")], log(facts));
    page.body.raw("</section>\n<section aria-labelledby=\"checks\"><h2 id=\"checks\">Checks</h2>\n");
    page.part("div", "gates", &[], gates(facts.gates.as_deref()));
    page.body.raw(
        "</section>\n<section aria-labelledby=\"from\"><h2 id=\"from\">Where the numbers come from</h2>\n",
    );
    page.part("div", "provenance", &[], provenance(facts));
    page.body
        .raw("<details><summary>The specification</summary><pre tabindex=\"0\">")
        .text(&facts.spec)
        .raw("</pre></details></section>\n");
    page
}

fn chart(page: &mut Page, id: &str, title: &'static str, figure: String) {
    page.body.raw("<figure class=\"plot\"><figcaption>").raw(title).raw("</figcaption>");
    page.chart(id, title, figure);
    page.body.raw("</figure>");
}

fn state(facts: &Facts) -> Html {
    let result = &facts.result;
    let standing = if result.blocked { Standing::Blocked } else { Standing::of_state(result.state) };
    let mut html = standing.html();
    html.text(format!(", {} of {} epochs", result.epochs_done, result.epochs));
    if let Some(attempt) = facts.attempts.last().filter(|_| result.state == State::Running) {
        if let Some(progress) = &attempt.progress {
            html.text("; ")
                .text(phase(progress))
                .text(format!(", step {} of {}", progress.step, progress.steps));
        }
        html.text("; heard ").moment(attempt.heard_ms.unwrap_or(attempt.started_ms));
    }
    if let Some(failure) = &result.failure {
        html.text(". ").labelled(
            "span",
            &[("class", "wrong")],
            format!("{}: {}", failure.class.label(), failure.message),
        );
    }
    if let Some(dependency) = facts.depends_on {
        html.text(". It starts from the model of ").html(&run_link(dependency));
    }
    html
}

fn numbers(result: &ResultRow) -> Html {
    let mut html = Html::new();
    let mut pair = |name: &'static str, value: Html| {
        html.raw("<div><dt>").raw(name).raw("</dt><dd>").html(&value).raw("</dd></div>");
    };
    pair("clean %", share(result.clean));
    pair("robust %", share(result.robust));
    pair("expected robustness %", share(result.expected_robustness));
    pair("clean validation %", share(result.validation_clean));
    pair("delay, epochs", Html::of(result.delay.map_or_else(|| "–".to_owned(), |delay| delay.to_string())));
    pair("clean drop %", share(result.clean_drop));
    pair("training time", Html::of(result.train_seconds.map_or_else(|| "–".to_owned(), duration)));
    pair("learning rate", Html::of(result.learning_rate));
    pair("batch size", Html::of(result.batch_size));
    html
}

/// Returns the accuracies of the final model on the test split, under the attack that has the most of them, by radius.
fn measured(facts: &Facts) -> Vec<&EvaluationRow> {
    let is_final = |row: &&EvaluationRow| row.split == Split::Test && row.epochs == facts.result.epochs;
    let rows: Vec<&EvaluationRow> = facts.evaluations.iter().filter(is_final).collect();
    let count = |row: &EvaluationRow| {
        rows.iter().filter(|other| other.attack == row.attack && other.norm == row.norm).count()
    };
    let Some(most) = rows.iter().filter(|row| !row.epsilon.is_zero()).max_by_key(|row| count(row)) else {
        return rows;
    };
    rows.iter()
        .filter(|row| row.norm == most.norm && (row.epsilon.is_zero() || row.attack == most.attack))
        .copied()
        .collect()
}

fn epochs(epochs: &[EpochRow]) -> Html {
    if epochs.is_empty() {
        return paragraph("No epoch is done yet.");
    }
    let columns = [
        "#epoch",
        "#epsilon · 255",
        "#rate",
        "#training loss",
        "#clean %",
        "#robust %",
        "#clean loss",
        "#robust loss",
        "#seconds",
    ];
    let mut table = Table::new("Epochs", &columns);
    let loss = |loss: Option<f64>| Html::of(loss.map_or_else(|| "–".to_owned(), |loss| format!("{loss:.4}")));
    for epoch in epochs.iter().rev().take(LISTED) {
        let part = |part: u32| share(Some(f64::from(part) / f64::from(epoch.validation_total)));
        table.rows.push(vec![
            Html::of(epoch.epoch + 1),
            Html::of(format!("{:.2}", epoch.epsilon * 255.0)),
            Html::of(epoch.learning_rate.map_or_else(|| "–".to_owned(), |rate| format!("{rate:.2e}"))),
            loss(epoch.train_loss),
            part(epoch.clean_correct),
            part(epoch.robust_correct),
            loss(epoch.clean_loss),
            loss(epoch.robust_loss),
            Html::of(format!("{:.1}", epoch.train_seconds + epoch.validation_seconds)),
        ]);
    }
    let mut html = table.written();
    if epochs.len() > LISTED {
        html.labelled("p", &[("class", "note")], format!("The last {LISTED} of {} epochs.", epochs.len()));
    }
    html
}

fn evaluations(rows: &[EvaluationRow]) -> Html {
    if rows.is_empty() {
        return paragraph("Nothing is measured on the test split yet.");
    }
    let mut table = Table::new(
        "Measurements",
        &["radius", "attack", "norm", "split", "#epochs", "#correct", "#images", "#%"],
    );
    for row in rows.iter().take(4 * LISTED) {
        table.rows.push(vec![
            Html::of(row.epsilon),
            Html::of(&row.attack),
            Html::of(row.norm.label()),
            Html::of(row.split.label()),
            Html::of(row.epochs),
            Html::of(row.count.correct),
            Html::of(row.count.total),
            share(Some(row.count.accuracy())),
        ]);
    }
    table.written()
}

fn attempts(attempts: &[Attempt]) -> Html {
    if attempts.is_empty() {
        return paragraph("None yet.");
    }
    let columns = ["#attempt", "how", "began", "#took", "exit", "went on from", "worker", "why"];
    let mut table = Table::new("Attempts", &columns);
    for attempt in attempts.iter().rev().take(LISTED) {
        let mut began = Html::new();
        began.moment(attempt.started_ms);
        let took = attempt
            .ended_ms
            .map_or_else(|| "–".to_owned(), |end| duration((end - attempt.started_ms) as f64 / 1e3));
        let exit = match (attempt.exit_code, attempt.signal) {
            (_, Some(signal)) => format!("signal {signal}"),
            (Some(code), None) => format!("code {code}"),
            (None, None) => "–".to_owned(),
        };
        let from = match (attempt.resumed_from, attempt.resumed_run) {
            (Some(epochs), Some(run)) if epochs > 0 => format!("epoch {epochs} of {}", run.short()),
            (Some(epochs), None) if epochs > 0 => format!("epoch {epochs}"),
            _ => "the beginning".to_owned(),
        };
        let parts = [
            attempt.host.clone(),
            attempt.pid.map(|pid| format!("process {pid}")),
            attempt.device.clone(),
            attempt.threads.map(|count| format!("{count} threads")),
        ];
        let worker: Vec<String> = parts.into_iter().flatten().collect();
        let why = attempt
            .failure
            .as_ref()
            .map_or_else(String::new, |failure| format!("{}: {}", failure.class.label(), failure.message));
        table.rows.push(vec![
            Html::of(attempt.number),
            Standing::of_state(attempt.state).html(),
            began,
            Html::of(took),
            Html::of(exit),
            Html::of(from),
            Html::of(worker.join(", ")),
            Html::of(why),
        ]);
    }
    table.written()
}

/// Writes the end of the log file, or what the store kept of it.
fn log(facts: &Facts) -> Html {
    let kept = facts.attempts.last().and_then(|attempt| attempt.log_tail.as_deref());
    match facts.log.as_deref().or(kept).filter(|log| !log.trim().is_empty()) {
        Some(text) => Html::of(text.trim_end()),
        None => Html::of("Nothing was printed, or the log is not on this machine."),
    }
}

fn gates(gates: Option<&[Gate]>) -> Html {
    let Some(gates) = gates else { return paragraph("They are being looked up.") };
    if gates.is_empty() {
        return paragraph("Nothing to check yet.");
    }
    let mut table = Table::new("Checks", &["check", "passed", "fails at radius"]);
    for gate in gates {
        let passed = match gate.passed {
            Some(true) => "✓ yes",
            Some(false) => "✕ no",
            None => "nothing to check yet",
        };
        table.rows.push(vec![
            Html::of(gate.gate.replace('_', " ")),
            Html::of(passed),
            Html::of(gate.violations.as_deref().unwrap_or("")),
        ]);
    }
    table.written()
}

fn provenance(facts: &Facts) -> Html {
    let mut html = Html::new();
    html.raw("<dl class=\"facts\"><div><dt>run</dt><dd><code>")
        .text(facts.result.id)
        .raw("</code></dd></div>");
    let mut pair = |name: &'static str, value: String| {
        html.raw("<div><dt>").raw(name).raw("</dt><dd>").text(value).raw("</dd></div>");
    };
    if let Some(attempt) = facts.attempts.last() {
        let unknown = || "not said yet".to_owned();
        pair("code version", attempt.version.clone().unwrap_or_else(unknown));
        pair("machine", attempt.host.clone().unwrap_or_else(unknown));
        pair("device", attempt.device.clone().unwrap_or_else(unknown));
        pair("scheduler", attempt.scheduler.clone());
    }
    if let Some(used) = facts.provenance.last() {
        pair(
            "images",
            format!("{} training, {} validation, {} test", used.train, used.validation, used.test),
        );
        pair("classes", used.classes.to_string());
        pair("parameters", used.parameters.to_string());
        pair("dataset digest", short(&used.dataset_digest));
        pair(
            "weights digest",
            used.weights_digest.as_deref().map_or_else(|| "random weights".to_owned(), short),
        );
        pair("images left out", used.skipped.to_string());
    }
    if let Some(model) = &facts.model {
        pair("model", format!("{}, {} bytes, {}", model.file, model.bytes, short(&model.digest)));
    }
    if let Some(checkpoint) = facts.checkpoints.first() {
        pair(
            "last checkpoint",
            format!(
                "after {} epochs and {} steps, {} bytes",
                checkpoint.epochs, checkpoint.step, checkpoint.bytes
            ),
        );
    }
    html.raw("</dl>");
    html
}
