//! Comparisons: results folded over seeds into a table of means.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use crate::error::Result;
use crate::reader::Reader;
use crate::register::SweepId;
use crate::results::ResultRow;

/// What results are grouped by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Key {
    /// Name of the backbone.
    Backbone,
    /// Name of the dataset.
    Dataset,
    /// The radius that training ends at.
    TargetEpsilon,
    /// How it gets there.
    EpsilonSchedule,
    /// The seed; folded unless it is asked for.
    Seed,
    /// Effective batch size.
    BatchSize,
    /// The budget.
    Epochs,
    /// Of the backbone.
    LearningRate,
}

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Accuracy without an attack, a fraction.
    Clean,
    /// Accuracy under attack at the target epsilon, a fraction.
    Robust,
    /// Area under accuracy over epsilon up to the target epsilon, a fraction.
    ExpectedRobustness,
    /// First epoch with validation clean accuracy above 5 %.
    Delay,
    /// The same against guessing, for few classes.
    DelayAboveChance,
    /// Clean accuracy of standard fine-tuning less the run's own, a fraction.
    CleanDrop,
    /// Training time in seconds.
    TrainSeconds,
}

/// A text that names no key or metric.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is none of {}", known.join(", "))]
pub struct UnknownName {
    /// The text.
    pub found: String,
    /// What is accepted.
    pub known: Vec<&'static str>,
}

/// The runs of one cell, folded.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Mean over the runs that have the metric; `None` without any.
    pub mean: Option<f64>,
    /// Sample standard deviation (over n - 1); `None` for fewer than two.
    pub standard_deviation: Option<f64>,
    /// Runs that have the metric.
    pub n: usize,
    /// Runs in the cell, finished or not.
    pub runs: usize,
}

/// A table of summaries.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pivot {
    /// What is compared.
    pub metric: Metric,
    /// What rows are grouped by.
    pub row_keys: Vec<Key>,
    /// What columns are grouped by.
    pub column_keys: Vec<Key>,
    /// One value a row key in each: numbers in increasing order, names in the order of the sweep.
    pub rows: Vec<Vec<String>>,
    /// One value a column key in each, ordered like rows.
    pub columns: Vec<Vec<String>>,
    /// One entry a column in each, `None` where there are no runs.
    pub cells: Vec<Vec<Option<Summary>>>,
    /// Keys, other than the seed, that are not grouped by and yet differ between runs of one cell. A mean over those
    /// mixes different experiments; tell the reader.
    pub mixed: Vec<Key>,
}

impl Key {
    /// Every key.
    pub const ALL: [Self; 8] = [
        Self::Backbone,
        Self::Dataset,
        Self::TargetEpsilon,
        Self::EpsilonSchedule,
        Self::Seed,
        Self::BatchSize,
        Self::Epochs,
        Self::LearningRate,
    ];

    /// Returns the name of the key in the sweep file and in the view `results`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Backbone => "backbone",
            Self::Dataset => "dataset",
            Self::TargetEpsilon => "target_epsilon",
            Self::EpsilonSchedule => "epsilon_schedule",
            Self::Seed => "seed",
            Self::BatchSize => "batch_size",
            Self::Epochs => "epochs",
            Self::LearningRate => "learning_rate",
        }
    }

    /// Returns a result's value as people read it.
    fn text(self, row: &ResultRow) -> String {
        match self {
            Self::Backbone => row.backbone.clone(),
            Self::Dataset => row.dataset.clone(),
            Self::TargetEpsilon => row.target_epsilon.to_string(),
            Self::EpsilonSchedule => row.epsilon_schedule.clone(),
            Self::Seed => row.seed.to_string(),
            Self::BatchSize => row.batch_size.to_string(),
            Self::Epochs => row.epochs.to_string(),
            Self::LearningRate => row.learning_rate.to_string(),
        }
    }

    /// Returns what values are ordered by before their first appearance: a number, or the same for all names.
    fn number(self, row: &ResultRow) -> f64 {
        match self {
            Self::Backbone | Self::Dataset | Self::EpsilonSchedule => 0.0,
            Self::TargetEpsilon => row.target_epsilon.value(),
            Self::Seed => row.seed as f64,
            Self::BatchSize => f64::from(row.batch_size),
            Self::Epochs => f64::from(row.epochs),
            Self::LearningRate => row.learning_rate,
        }
    }
}

impl Metric {
    /// Every metric.
    pub const ALL: [Self; 7] = [
        Self::Clean,
        Self::Robust,
        Self::ExpectedRobustness,
        Self::Delay,
        Self::DelayAboveChance,
        Self::CleanDrop,
        Self::TrainSeconds,
    ];

    /// Returns the name of its column in the view `results`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Robust => "robust",
            Self::ExpectedRobustness => "expected_robustness",
            Self::Delay => "delay",
            Self::DelayAboveChance => "delay_above_chance",
            Self::CleanDrop => "clean_drop",
            Self::TrainSeconds => "train_seconds",
        }
    }

    /// Returns a result's value, if it has one.
    pub fn of(self, row: &ResultRow) -> Option<f64> {
        match self {
            Self::Clean => row.clean,
            Self::Robust => row.robust,
            Self::ExpectedRobustness => row.expected_robustness,
            Self::Delay => row.delay.map(f64::from),
            Self::DelayAboveChance => row.delay_above_chance.map(f64::from),
            Self::CleanDrop => row.clean_drop,
            Self::TrainSeconds => row.train_seconds,
        }
    }
}

impl FromStr for Key {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        named(text, &Self::ALL, Self::label)
    }
}

impl FromStr for Metric {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        named(text, &Self::ALL, Self::label)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.label())
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.label())
    }
}

fn named<T: Copy>(text: &str, all: &[T], label: fn(T) -> &'static str) -> Result<T, UnknownName> {
    let unknown = || UnknownName { found: text.to_owned(), known: all.iter().copied().map(label).collect() };
    all.iter().copied().find(|one| label(*one) == text).ok_or_else(unknown)
}

impl Reader {
    /// Groups the results of a sweep, or of all runs, by `rows` and `columns`, and folds the rest (meant: the seeds)
    /// into mean, sample standard deviation and counts.
    pub async fn compare(
        &self,
        rows: &[Key],
        columns: &[Key],
        metric: Metric,
        sweep: Option<SweepId>,
    ) -> Result<Pivot> {
        Ok(pivot(&self.results(sweep).await?, rows, columns, metric))
    }
}

/// Folds results that are already read; see [`Reader::compare`].
pub fn pivot(results: &[ResultRow], row_keys: &[Key], column_keys: &[Key], metric: Metric) -> Pivot {
    let (rows, row_of) = groups(results, row_keys);
    let (columns, column_of) = groups(results, column_keys);
    let mut members: BTreeMap<(usize, usize), Vec<&ResultRow>> = BTreeMap::new();
    for (index, result) in results.iter().enumerate() {
        members.entry((row_of[index], column_of[index])).or_default().push(result);
    }
    let mut cells = vec![vec![None; columns.len()]; rows.len()];
    for ((row, column), runs) in &members {
        cells[*row][*column] = Some(summary(runs, metric));
    }
    let grouped: Vec<Key> = row_keys.iter().chain(column_keys).copied().collect();
    Pivot {
        metric,
        row_keys: row_keys.to_vec(),
        column_keys: column_keys.to_vec(),
        rows,
        columns,
        cells,
        mixed: mixed(&members, &grouped),
    }
}

/// Returns the distinct values of the keys in order, and for every result the index of its own.
fn groups(results: &[ResultRow], keys: &[Key]) -> (Vec<Vec<String>>, Vec<usize>) {
    let first_seen = keys.iter().map(|key| first_appearances(results, *key)).collect::<Vec<_>>();
    let order = |result: &ResultRow| -> Vec<usize> {
        keys.iter().zip(&first_seen).map(|(key, ranks)| ranks[&key.text(result)]).collect()
    };
    let mut distinct: BTreeMap<Vec<usize>, Vec<String>> = BTreeMap::new();
    for result in results {
        distinct.entry(order(result)).or_insert_with(|| keys.iter().map(|key| key.text(result)).collect());
    }
    let place: BTreeMap<&Vec<usize>, usize> = distinct.keys().zip(0..).collect();
    let places = results.iter().map(|result| place[&order(result)]).collect();
    (distinct.into_values().collect(), places)
}

/// Returns the rank of every value of a key: by number, then by first appearance.
fn first_appearances(results: &[ResultRow], key: Key) -> BTreeMap<String, usize> {
    let mut seen = BTreeSet::new();
    let mut values: Vec<(f64, String)> = Vec::new();
    for result in results {
        let text = key.text(result);
        if seen.insert(text.clone()) {
            values.push((key.number(result), text));
        }
    }
    values.sort_by(|left, right| left.0.total_cmp(&right.0));
    values.into_iter().map(|(_, text)| text).zip(0..).collect()
}

fn summary(runs: &[&ResultRow], metric: Metric) -> Summary {
    let values: Vec<f64> = runs.iter().filter_map(|run| metric.of(run)).collect();
    let n = values.len();
    let mean = (n > 0).then(|| values.iter().sum::<f64>() / n as f64);
    let deviation = |mean: f64| {
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        (squares / (n - 1) as f64).sqrt()
    };
    Summary { mean, standard_deviation: mean.filter(|_| n > 1).map(deviation), n, runs: runs.len() }
}

fn mixed(members: &BTreeMap<(usize, usize), Vec<&ResultRow>>, grouped: &[Key]) -> Vec<Key> {
    let differ = |runs: &Vec<&ResultRow>, key: Key| runs.iter().any(|run| key.text(run) != key.text(runs[0]));
    let differs = |key: &Key| members.values().any(|runs| differ(runs, *key));
    let folded = Key::ALL.into_iter().filter(|key| *key != Key::Seed && !grouped.contains(key));
    folded.filter(differs).collect()
}
