//! `sweep compare`: rows × columns, seeds folded to mean ± standard deviation.

use std::collections::HashSet;

use anyhow::Result;
use serde_json::Value;
use sweep_core::home::Home;
use sweep_core::spec::RunId;
use sweep_store::{Key, Metric, Pivot, Reader, ResultRow, Summary, SweepId, pivot};

use crate::cli::{CompareArgs, Format};
use crate::exit::{Exit, bad_input};
use crate::table::{Rows, percent, rounded};
use crate::{printer, sweeps};

/// The metrics that `sweep run` ends with.
const USUAL: [Metric; 3] = [Metric::Clean, Metric::Robust, Metric::ExpectedRobustness];

pub(crate) fn run(home: &Home, arguments: &CompareArgs) -> Result<Exit> {
    let results = sweeps::block_on(async {
        let reader = sweeps::open(home).await?;
        let named = sweeps::named(&reader, arguments.sweep.as_deref()).await?;
        let latest = reader.sweeps().await?.first().map(|sweep| sweep.id);
        let Some(sweep) = named.or(latest) else {
            return Err(bad_input("there is no sweep to compare yet\n  hint: sweep run quickstart"));
        };
        results(&reader, sweep).await
    })?;
    let comparison = Comparison::new(&results, &arguments.rows, arguments.columns, &arguments.metric);
    printer::rows(&comparison.rows(arguments.output.format), arguments.output.format)?;
    for note in comparison.notes() {
        printer::note(&note);
    }
    Ok(Exit::Success)
}

/// Returns the usual comparison of a sweep as a table, or nothing while no run has results.
pub(crate) async fn of_sweep(reader: &Reader, sweep: SweepId) -> Result<Option<String>> {
    let results = results(reader, sweep).await?;
    if results.iter().all(|result| result.clean.is_none()) {
        return Ok(None);
    }
    let comparison = Comparison::new(&results, &[], Key::EpsilonSchedule, &USUAL);
    let table = comparison.rows(Format::Table).render(Format::Table)?;
    Ok(Some(format!("{table}{}\n", comparison.notes().join("\n"))))
}

/// Returns the results of a sweep without the runs that only train a backbone for others.
async fn results(reader: &Reader, sweep: SweepId) -> Result<Vec<ResultRow>> {
    let states = reader.run_states(sweep).await?;
    let pretraining: HashSet<RunId> = states.iter().filter_map(|state| state.depends_on).collect();
    let mut results = reader.results(Some(sweep)).await?;
    results.retain(|result| !pretraining.contains(&result.id));
    Ok(results)
}

/// One pivot a metric, over the same rows and columns.
struct Comparison {
    pivots: Vec<Pivot>,
}

impl Comparison {
    fn new(results: &[ResultRow], rows: &[Key], columns: Key, metrics: &[Metric]) -> Self {
        let rows = if rows.is_empty() { varying(results, columns) } else { rows.to_vec() };
        Self { pivots: metrics.iter().map(|metric| pivot(results, &rows, &[columns], *metric)).collect() }
    }

    /// One column a row key, then for every column of the comparison one a metric; below, the mean of each column over
    /// the rows that are complete.
    fn rows(&self, format: Format) -> Rows {
        let Some(first) = self.pivots.first() else { return Rows::default() };
        let mut columns: Vec<String> = first.row_keys.iter().map(|key| key.label().to_owned()).collect();
        for column in &first.columns {
            columns.extend(
                self.pivots.iter().map(|pivot| format!("{} {}", column.join(" "), heading(pivot.metric))),
            );
        }
        let mut rows = Rows { columns, rows: Vec::new() };
        for (row, names) in first.rows.iter().enumerate() {
            let mut values: Vec<Value> = names.iter().map(|name| Value::from(name.as_str())).collect();
            values.extend(
                self.cells()
                    .map(|(pivot, column)| cell(pivot.metric, pivot.cells[row][column].as_ref(), format)),
            );
            rows.push(values);
        }
        if first.rows.len() > 1
            && !first.row_keys.is_empty()
            && matches!(format, Format::Table | Format::Markdown)
        {
            rows.push(self.means());
        }
        rows
    }

    fn cells(&self) -> impl Iterator<Item = (&Pivot, usize)> {
        let columns = self.pivots.first().map_or(0, |pivot| pivot.columns.len());
        (0..columns).flat_map(|column| self.pivots.iter().map(move |pivot| (pivot, column)))
    }

    fn means(&self) -> Vec<Value> {
        let keys = self.pivots.first().map_or(0, |pivot| pivot.row_keys.len());
        let mut values = vec![Value::from("mean")];
        values.resize(keys, Value::Null);
        let complete =
            |row: &Vec<Option<Summary>>| row.iter().all(|cell| cell.is_some_and(|cell| cell.mean.is_some()));
        for (pivot, column) in self.cells() {
            let rows = pivot.cells.iter().filter(|row| complete(row));
            let means: Vec<f64> = rows.filter_map(|row| row[column].and_then(|cell| cell.mean)).collect();
            let mean = means.iter().sum::<f64>() / means.len() as f64;
            values.push(if means.is_empty() { Value::Null } else { scaled(pivot.metric, mean) });
        }
        values
    }

    /// What a reader must know besides the numbers.
    fn notes(&self) -> Vec<String> {
        let mut notes = vec![
            "accuracies in % of the test split; robust: at the target epsilon; expected: expected robustness"
                .to_owned(),
        ];
        let Some(first) = self.pivots.first() else { return notes };
        if !first.mixed.is_empty() {
            let keys: Vec<&str> = first.mixed.iter().map(|key| key.label()).collect();
            notes.push(format!(
                "warning: cells mix runs that differ in {}; add them with --rows",
                keys.join(", ")
            ));
        }
        let all = first.cells.iter().flatten();
        let (holes, open) = (
            all.clone().filter(|cell| cell.is_none()).count(),
            all.flatten().map(|cell| cell.runs - cell.n).sum::<usize>(),
        );
        if holes + open > 0 {
            notes.push(format!("incomplete: {open} runs without results, {holes} cells without runs"));
        }
        notes
    }
}

/// Returns the keys that differ between the runs, but `columns` and the seed; the dataset where none does.
fn varying(results: &[ResultRow], columns: Key) -> Vec<Key> {
    let differs = |key: &Key| {
        *key != columns && *key != Key::Seed && pivot(results, &[*key], &[], Metric::Clean).rows.len() > 1
    };
    let keys: Vec<Key> = Key::ALL.into_iter().filter(differs).collect();
    if keys.is_empty() { vec![Key::Dataset] } else { keys }
}

const fn heading(metric: Metric) -> &'static str {
    match metric {
        Metric::Clean => "clean",
        Metric::Robust => "robust",
        Metric::ExpectedRobustness => "expected",
        Metric::Delay => "delay",
        Metric::DelayAboveChance => "delay above chance",
        Metric::CleanDrop => "drop",
        Metric::TrainSeconds => "train s",
    }
}

fn scaled(metric: Metric, value: f64) -> Value {
    match metric {
        Metric::Clean | Metric::Robust | Metric::ExpectedRobustness | Metric::CleanDrop => percent(value),
        Metric::Delay | Metric::DelayAboveChance | Metric::TrainSeconds => rounded(value, 1),
    }
}

/// A mean, with its spread where there are several seeds and the form is for reading.
fn cell(metric: Metric, summary: Option<&Summary>, format: Format) -> Value {
    let Some(Summary { mean: Some(mean), standard_deviation, n, .. }) = summary else { return Value::Null };
    let mean = scaled(metric, *mean);
    match (standard_deviation, format) {
        (Some(deviation), Format::Table | Format::Markdown) => {
            Value::from(format!("{mean} ± {} ({n})", scaled(metric, *deviation)))
        }
        _ => mean,
    }
}
