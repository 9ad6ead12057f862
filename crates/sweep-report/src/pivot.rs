//! Rows × columns: runs of a cell folded to mean and spread, the best of a row marked, what is missing named.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;
use sweep_core::event::FailureClass;
use sweep_core::metrics::Count;
use sweep_store::{Metric, State, Unit};

use crate::error::{Error, Result};
use crate::key::{Key, Value};
use crate::runs::{Column, Groups, Run, Runs, listed};
use crate::statistics::{Interval, Summary, summary, wilson};

/// A table of summaries, one a row, column and metric.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pivot {
    /// What is compared.
    pub metrics: Vec<Metric>,
    /// What rows are grouped by.
    pub row_keys: Vec<Key>,
    /// What columns are grouped by.
    pub column_keys: Vec<Key>,
    /// One value a column key in each; a single empty one without column keys.
    pub columns: Vec<Vec<Value>>,
    /// In order of their values: numbers by size, names in the order of the sweep.
    pub rows: Vec<Row>,
    /// Keys, other than the seed, that are not grouped by and yet differ between runs of one cell. A mean over those
    /// mixes different experiments; tell the reader.
    pub mixed: Vec<Key>,
}

/// A row of the table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// One value a row key.
    pub names: Vec<Value>,
    /// One a column.
    pub cells: Vec<Cell>,
}

/// The runs of one row and column.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cell {
    /// How many there are, finished or not.
    pub runs: usize,
    /// One a metric.
    pub numbers: Vec<Number>,
    /// Images of the splits that its accuracies are fractions of: one where all runs agree.
    pub totals: BTreeSet<u32>,
    /// What keeps the cell from being complete, with the number of runs; empty where nothing does.
    pub missing: Vec<(Missing, usize)>,
}

/// One metric of the runs of one cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Number {
    /// Over the runs that have the metric; `None` without any.
    pub summary: Option<Summary>,
    /// What was counted, where the number is an accuracy of one run.
    pub count: Option<Count>,
    /// Whether no other cell of the row is better at the digits that are printed, and some are there to compare with.
    pub best: bool,
}

/// Why a number is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Missing {
    /// The sweep has no such run.
    NotInSweep,
    /// It waits for its turn.
    Pending,
    /// It waits for a run that failed or was cancelled.
    Blocked,
    /// It runs; epochs done so far.
    Running(u32),
    /// It was stopped after this many epochs, and goes on with the next attempt.
    Interrupted(u32),
    /// It was given up.
    Failed(Option<FailureClass>),
    /// Somebody took it out.
    Cancelled,
    /// It is complete, but this was not measured or is not defined for it.
    NotMeasured,
}

/// A cell that is not complete.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Hole {
    /// The row.
    pub row: Vec<Value>,
    /// The column.
    pub column: Vec<Value>,
    /// Runs of the cell.
    pub runs: usize,
    /// Why, with the number of runs.
    pub missing: Vec<(Missing, usize)>,
}

/// Cells of a table, at most: far more than anybody reads, and what a mistaken choice of keys may cost.
pub const MOST_CELLS: u64 = 250_000;

/// Groups runs by `rows` and `columns` and folds the rest (meant: the seeds). Every metric that was read is a number of each
/// cell.
///
/// # Errors
/// Keys that no run has, and keys that make more than [`MOST_CELLS`].
pub fn pivot(runs: &Runs, rows: &[Key], columns: &[Key]) -> Result<Pivot> {
    let (row_names, row_of) = axis(runs, rows)?;
    let (column_names, column_of) = axis(runs, columns)?;
    let (many_rows, many_columns) = (u64::from(row_of.count), u64::from(column_of.count));
    if many_rows * many_columns > MOST_CELLS {
        return Err(Error::TooManyCells { rows: many_rows, columns: many_columns });
    }
    let mut members: BTreeMap<(u32, u32), Vec<&Run>> = BTreeMap::new();
    for (run, place) in runs.runs().iter().zip(row_of.of.iter().copied().zip(column_of.of.iter().copied())) {
        members.entry(place).or_default().push(run);
    }
    let metrics = runs.metrics();
    let row = |(row, names): (u32, Vec<Value>)| {
        let mut cells: Vec<Cell> = (0..column_of.count)
            .map(|column| Cell::of(members.get(&(row, column)).map_or(&[][..], Vec::as_slice), metrics))
            .collect();
        mark_best(&mut cells, metrics);
        Row { names, cells }
    };
    Ok(Pivot {
        metrics: metrics.to_vec(),
        row_keys: rows.to_vec(),
        column_keys: columns.to_vec(),
        columns: column_names,
        rows: (0..).zip(row_names).map(row).collect(),
        mixed: runs.separating(&row_of.refined(&column_of.of), &[]),
    })
}

/// Returns the different combinations of values in order, and which of them each run has.
fn axis(runs: &Runs, keys: &[Key]) -> Result<(Vec<Vec<Value>>, Groups)> {
    let columns: Vec<Column> = keys.iter().map(|key| runs.column(key)).collect::<Result<_>>()?;
    let place = |run: usize| -> Vec<u32> { columns.iter().map(|column| column.of[run]).collect() };
    let places: Vec<Vec<u32>> = (0..runs.runs().len()).map(place).collect();
    let mut distinct: BTreeMap<&[u32], u32> = places.iter().map(|place| (place.as_slice(), 0)).collect();
    distinct.values_mut().zip(0..).for_each(|(number, index)| *number = index);
    let names = |place: &&[u32]| {
        let value = |(column, value): (&Column, &u32)| column.values[*value as usize].clone();
        columns.iter().zip(*place).map(value).collect()
    };
    let names = distinct.keys().map(names).collect();
    let of = places.iter().map(|place| distinct[place.as_slice()]).collect();
    Ok((names, Groups { of, count: distinct.len() as u32 }))
}

impl Cell {
    fn of(runs: &[&Run], metrics: &[Metric]) -> Self {
        let number = |metric: usize| {
            let measured: Vec<_> = runs.iter().filter_map(|run| run.values[metric]).collect();
            let values: Vec<f64> = measured.iter().map(|measured| measured.value).collect();
            let count = if let [one] = measured[..] { one.count } else { None };
            Number { summary: summary(&values), count, best: false }
        };
        let incomplete = runs.iter().filter(|run| run.values.iter().any(Option::is_none));
        let mut missing = counted(incomplete.map(|run| Missing::of(run)));
        if runs.is_empty() {
            missing.push((Missing::NotInSweep, 0));
        }
        let counts = runs.iter().flat_map(|run| &run.values).filter_map(|value| value.as_ref()?.count);
        Self {
            runs: runs.len(),
            numbers: (0..metrics.len()).map(number).collect(),
            totals: counts.map(|count| count.total).collect(),
            missing,
        }
    }
}

/// Counts equal reasons, in the order of their first appearance.
fn counted(reasons: impl Iterator<Item = Missing>) -> Vec<(Missing, usize)> {
    let mut counts: Vec<(Missing, usize)> = Vec::new();
    for reason in reasons {
        match counts.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, count)) => *count += 1,
            None => counts.push((reason, 1)),
        }
    }
    counts
}

/// Marks the best cells of a row for each metric; equal at the digits that are printed is equally good.
fn mark_best(cells: &mut [Cell], metrics: &[Metric]) {
    for (place, metric) in metrics.iter().enumerate() {
        let printed = |cell: &Cell| cell.numbers[place].summary.map(|summary| printed(*metric, summary.mean));
        let known: Vec<f64> = cells.iter().filter_map(printed).collect();
        let better = if metric.prefers_high() { f64::max } else { f64::min };
        let Some(best) = known.iter().copied().reduce(better).filter(|_| known.len() > 1) else { continue };
        let marks: Vec<bool> = cells.iter().map(|cell| printed(cell) == Some(best)).collect();
        for (cell, mark) in cells.iter_mut().zip(marks) {
            cell.numbers[place].best = mark;
        }
    }
}

/// Returns how many decimals a metric is printed with, and the factor to the unit that people read.
pub const fn printing(metric: Metric) -> (usize, f64) {
    match metric.unit() {
        Unit::Fraction => (2, 100.0),
        Unit::Epochs | Unit::Seconds => (1, 1.0),
    }
}

/// Returns a number of a metric as it is printed: accuracies in percent with two decimals, epochs and seconds with one.
pub fn printed(metric: Metric, value: f64) -> f64 {
    let (decimals, factor) = printing(metric);
    let scale = 10_f64.powi(decimals as i32);
    (value * factor * scale).round() / scale
}

impl Missing {
    pub(crate) fn of(run: &Run) -> Self {
        match run.state {
            _ if run.blocked => Self::Blocked,
            State::Pending => Self::Pending,
            State::Running => Self::Running(run.epochs_done),
            State::Interrupted => Self::Interrupted(run.epochs_done),
            State::Failed => Self::Failed(run.failure),
            State::Cancelled => Self::Cancelled,
            State::Succeeded => Self::NotMeasured,
        }
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotInSweep => formatter.write_str("not in the sweep"),
            Self::Pending => formatter.write_str("not run yet"),
            Self::Blocked => formatter.write_str("blocked by a run that failed or was cancelled"),
            Self::Running(epochs) => write!(formatter, "running, {epochs} epochs done"),
            Self::Interrupted(epochs) => write!(formatter, "interrupted after {epochs} epochs"),
            Self::Failed(Some(class)) => write!(formatter, "failed: {}", class.label()),
            Self::Failed(None) => formatter.write_str("failed"),
            Self::Cancelled => formatter.write_str("cancelled"),
            Self::NotMeasured => formatter.write_str("complete, but not measured or not defined"),
        }
    }
}

impl fmt::Display for Hole {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.row.iter().chain(&self.column).map(ToString::to_string).collect();
        write!(formatter, "{}:", names.join(" · "))?;
        for (index, (missing, count)) in self.missing.iter().enumerate() {
            let separator = if index > 0 { ";" } else { "" };
            match (self.runs, missing) {
                (0 | 1, missing) => write!(formatter, "{separator} {missing}")?,
                (runs, missing) => write!(formatter, "{separator} {count} of {runs} {missing}")?,
            }
        }
        Ok(())
    }
}

impl Number {
    /// Returns the 95 % interval of an accuracy that one run counted.
    pub fn interval(&self) -> Option<Interval> {
        self.count.and_then(|count| wilson(count.accuracy(), count.total))
    }
}

impl Pivot {
    /// Returns the cells that lack runs or numbers, row by row.
    pub fn holes(&self) -> Vec<Hole> {
        let cells = self.rows.iter().flat_map(|row| {
            std::iter::zip(&self.columns, &row.cells).map(move |(column, cell)| (row, column, cell))
        });
        let hole = |(row, column, cell): (&Row, &Vec<Value>, &Cell)| Hole {
            row: row.names.clone(),
            column: column.clone(),
            runs: cell.runs,
            missing: cell.missing.clone(),
        };
        cells.filter(|(_, _, cell)| !cell.missing.is_empty()).map(hole).collect()
    }

    /// Orders rows by their mean of a metric over the columns, the best first; rows without it come last.
    ///
    /// # Errors
    /// A metric that the table does not have.
    pub fn sort(&mut self, by: Metric) -> Result<()> {
        let found = self.metrics.iter().position(|metric| *metric == by);
        let place = found.ok_or_else(|| Error::MetricNotRead { metric: by, known: listed(&self.metrics) })?;
        let sign = if by.prefers_high() { -1.0 } else { 1.0 };
        self.rows.sort_by(|left, right| {
            let key = |row: &Row| row.mean(place).map_or(f64::INFINITY, |mean| sign * mean);
            key(left).total_cmp(&key(right))
        });
        Ok(())
    }

    /// Returns the mean of a column over the rows that are complete in this metric, `None` without any. Rows are complete
    /// together, so that the means of two columns are over the same rows.
    pub fn mean(&self, column: usize, metric: usize) -> Option<f64> {
        let mean = |cell: &Cell| cell.numbers[metric].summary.map(|summary| summary.mean);
        let complete = self.rows.iter().filter(|row| row.cells.iter().all(|cell| mean(cell).is_some()));
        let means: Vec<f64> = complete.filter_map(|row| mean(&row.cells[column])).collect();
        summary(&means).map(|summary| summary.mean)
    }
}

impl Row {
    fn mean(&self, metric: usize) -> Option<f64> {
        let means = self.cells.iter().filter_map(|cell| cell.numbers[metric].summary);
        summary(&means.map(|summary| summary.mean).collect::<Vec<_>>()).map(|summary| summary.mean)
    }
}
