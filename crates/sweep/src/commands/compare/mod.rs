//! `sweep compare`: rows × columns, seeds folded to mean ± standard deviation; pairs and their tests; the published numbers.

mod against_paper;
mod paired;
mod table;

use anyhow::Result;
use sweep_core::home::Home;
use sweep_report::pivot::{Pivot, pivot, printing};
use sweep_report::{Key, Runs};
use sweep_store::{At, Metric, Reader, SweepId};

use crate::cli::{CompareArgs, Format};
use crate::exit::{Exit, bad_input};
use crate::{printer, sweeps};

/// The metrics that `sweep run` ends with.
const USUAL: [Metric; 3] = [Metric::Clean, Metric::Robust, Metric::ExpectedRobustness];

/// Those of them that every epoch has.
const USUAL_AT_EPOCH: [Metric; 2] = [Metric::Clean, Metric::Robust];

/// Lines about single runs or cells that are printed below a table at most.
const LISTED: usize = 20;

/// What is printed: rows for standard output, notes for standard error.
struct Answer {
    text: String,
    notes: Vec<String>,
}

pub(crate) fn run(home: &Home, arguments: &CompareArgs) -> Result<Exit> {
    let metrics = metrics(arguments)?;
    let runs = sweeps::block_on(async {
        let reader = sweeps::open(home).await?;
        let Some(sweep) = sweeps::named_or_latest(&reader, arguments.sweep.as_deref()).await? else {
            return Err(bad_input("there is no sweep to compare yet\n  hint: sweep run quickstart"));
        };
        Ok(Runs::read(&reader, Some(sweep), &metrics, arguments.at).await?)
    })?;
    let answer = answer(runs, arguments).map_err(told)?;
    printer::data(&answer.text)?;
    for note in &answer.notes {
        printer::note(note);
    }
    Ok(Exit::Success)
}

fn answer(runs: Runs, arguments: &CompareArgs) -> Result<Answer> {
    let runs = runs.matching(&arguments.conditions)?;
    let format = arguments.output.format;
    if arguments.paper {
        return against_paper::answer(&runs, format);
    }
    if let Some(pairing) = &arguments.pair {
        return paired::answer(&runs, pairing, arguments);
    }
    let columns: &[Key] = if arguments.lists() { &[] } else { &arguments.columns };
    let rows = if arguments.rows.is_empty() { usual_rows(&runs, columns) } else { arguments.rows.clone() };
    let mut pivot = pivot(&runs, &rows, columns)?;
    if let Some(metric) = arguments.sort {
        pivot.sort(metric)?;
    }
    table::answer(&pivot, runs.at(), format, arguments.interval)
}

/// Returns the usual comparison of a sweep as a table, or nothing while no run has results.
pub(crate) async fn of_sweep(reader: &Reader, sweep: SweepId) -> Result<Option<String>> {
    let runs = Runs::read(reader, Some(sweep), &USUAL, At::Last).await?;
    if runs.runs().iter().all(|run| run.values.iter().all(Option::is_none)) {
        return Ok(None);
    }
    let columns = [Key::new(Key::EPSILON_SCHEDULE)];
    let pivot: Pivot = pivot(&runs, &usual_rows(&runs, &columns), &columns)?;
    let Answer { text, notes } = table::answer(&pivot, At::Last, Format::Table, false)?;
    Ok(Some(format!("{text}{}\n", notes.join("\n"))))
}

/// Returns the keys that vary, but those of the columns and the seed; the dataset where none does.
fn usual_rows(runs: &Runs, columns: &[Key]) -> Vec<Key> {
    let keys = runs.varying(columns);
    if keys.is_empty() { vec![Key::new(Key::DATASET)] } else { keys }
}

/// Returns the metrics that are asked for, or the usual ones.
fn metrics(arguments: &CompareArgs) -> Result<Vec<Metric>> {
    let metrics = match (&arguments.metric[..], arguments.at) {
        ([], At::Last) => USUAL.to_vec(),
        ([], At::Epoch(_)) => USUAL_AT_EPOCH.to_vec(),
        (metrics, _) => metrics.to_vec(),
    };
    if let Some(metric) = metrics.iter().find(|metric| !metric.is_known_at(arguments.at)) {
        return Err(bad_input(format!(
            "{metric} is not recorded for every epoch; --at epoch:N knows clean, robust and train_seconds"
        )));
    }
    Ok(metrics)
}

/// Tells errors of the user's making from damage.
fn told(error: anyhow::Error) -> anyhow::Error {
    use sweep_report::Error;
    match error.downcast_ref::<Error>() {
        None | Some(Error::Store(_) | Error::Specification { .. }) => error,
        Some(wish) => bad_input(wish),
    }
}

/// Returns the name of a metric as people read it in a heading.
fn heading(metric: Metric) -> String {
    match metric {
        Metric::ExpectedRobustness => "expected".to_owned(),
        Metric::CleanDrop => "drop".to_owned(),
        Metric::TrainSeconds => "train s".to_owned(),
        other => other.to_string().replace('_', " "),
    }
}

/// Returns a number of a metric for reading.
fn shown(metric: Metric, value: f64) -> String {
    let (decimals, factor) = printing(metric);
    format!("{:.decimals$}", value * factor)
}

/// Returns a number of a metric for programs: in the unit that people read, to a millionth.
fn exact(metric: Metric, value: f64) -> serde_json::Value {
    let (_, factor) = printing(metric);
    crate::table::rounded(value * factor, 6)
}

/// Returns whether rows are for people.
const fn is_for_reading(format: Format) -> bool {
    matches!(format, Format::Table | Format::Markdown | Format::Latex)
}

/// Returns lines under a title, not too many of them.
fn list(title: &str, lines: &[String], more: &str) -> Vec<String> {
    if lines.is_empty() {
        return Vec::new();
    }
    let shown = lines.iter().take(LISTED).map(|line| format!("  {line}"));
    let hidden = lines.len().saturating_sub(LISTED);
    let rest = (hidden > 0).then(|| format!("  and {hidden} more{more}"));
    std::iter::once(title.to_owned()).chain(shown).chain(rest).collect()
}

/// Returns what accuracies are fractions of.
fn split(at: At) -> String {
    match at {
        At::Last => "the test split, weights of the last epoch".to_owned(),
        At::Epoch(epoch) => format!("the validation split after {epoch} epochs"),
    }
}
