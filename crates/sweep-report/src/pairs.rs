//! Pairs of runs that are equal in everything but one key: differences, who wins, and whether that is chance.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::Serialize;
use sweep_store::Metric;

use crate::error::{Error, Result};
use crate::filter::unknown_value;
use crate::key::{Key, Value};
use crate::pivot::Missing;
use crate::runs::{Column, Run, Runs, listed};
use crate::statistics::{Signs, Summary, TTest, Wilcoxon, paired_t, signs, summary, wilcoxon};

/// What is paired: `epsilon_schedule=fixed,ramp:12-37`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pairing {
    key: Key,
    text: String,
}

/// A text that is no pairing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not KEY=FIRST,SECOND")]
pub struct NotAPairing(String);

/// What becomes of seeds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Seeds {
    /// One pair a configuration: both sides are means over the seeds that both have. Runs of one configuration are no
    /// independent evidence about configurations, so this is what tests should see.
    #[default]
    Folded,
    /// One pair a seed.
    Separate,
}

/// Runs in pairs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pairs {
    /// The key in which the two sides of a pair differ.
    pub key: Key,
    /// Its value on the first side.
    pub first: Value,
    /// Its value on the second side.
    pub second: Value,
    /// What became of seeds.
    pub seeds: Seeds,
    /// The keys that tell pairs apart.
    pub names: Vec<Key>,
    /// The keys of the groups.
    pub by: Vec<Key>,
    /// What is compared.
    pub metrics: Vec<Metric>,
    /// The pairs, ordered by their groups, then like the sweep.
    pub pairs: Vec<Pair>,
    /// Runs of either side that are in no pair, or in none for some metric.
    pub unpaired: Vec<Unpaired>,
}

/// Two sides that differ in one key only.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pair {
    /// One value a key of [`Pairs::by`].
    pub group: Vec<Value>,
    /// One value a key of [`Pairs::names`].
    pub names: Vec<Value>,
    /// One a metric.
    pub numbers: Vec<Sides>,
}

/// A metric on both sides of a pair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Sides {
    /// Means of the first and of the second side over the same seeds; `None` where no seed has both.
    pub values: Option<(f64, f64)>,
    /// How many seeds they are means of.
    pub seeds: usize,
}

/// A run without its counterpart.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Unpaired {
    /// One value a key of [`Pairs::names`].
    pub names: Vec<Value>,
    /// Its seed.
    pub seed: Value,
    /// Why.
    pub reason: Reason,
}

/// Why a run is in no pair.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// There is no run that is equal but for the key; the value is that of the run there is.
    NoCounterpart(Value),
    /// One side, given by its value, lacks numbers of these metrics.
    Lacking {
        /// The side.
        side: Value,
        /// Why.
        missing: Missing,
        /// The metrics.
        metrics: Vec<Metric>,
    },
    /// Several runs of one side, given by its value, are equal in everything but the key: it does not tell them apart.
    Several(Value),
}

/// The pairs of one group and one metric.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// One value a key of [`Pairs::by`].
    pub group: Vec<Value>,
    /// What is compared.
    pub metric: Metric,
    /// Mean of the first sides, in the metric's unit; `None` without pairs.
    pub first: Option<f64>,
    /// Mean of the second sides.
    pub second: Option<f64>,
    /// Of the differences, second less first.
    pub difference: Option<Summary>,
    /// How often the second side is better.
    pub wins: usize,
    /// How often the first side is better.
    pub losses: usize,
    /// How often both are equal.
    pub ties: usize,
    /// `None` for fewer than two pairs, and where all differences are equal.
    pub t_test: Option<TTest>,
    /// `None` where no difference is left.
    pub wilcoxon: Option<Wilcoxon>,
}

impl FromStr for Pairing {
    type Err = NotAPairing;

    fn from_str(text: &str) -> Result<Self, NotAPairing> {
        let parts =
            text.split_once('=').filter(|(key, values)| !key.trim().is_empty() && values.contains(','));
        let (key, values) = parts.ok_or_else(|| NotAPairing(text.to_owned()))?;
        Ok(Self { key: Key::new(key.trim()), text: values.trim().to_owned() })
    }
}

impl Pairing {
    /// Pairs runs with the first and with the second of these values.
    pub fn new(key: Key, first: &str, second: &str) -> Self {
        Self { key, text: format!("{first},{second}") }
    }

    /// Returns the key in which the sides differ.
    pub const fn key(&self) -> &Key {
        &self.key
    }

    /// Returns the places of the two values. Values may contain commas, so every comma may be the one between them.
    fn resolve(&self, column: &Column) -> Result<(u32, u32)> {
        let not_two = || Error::NotTwoValues {
            key: self.key.clone(),
            text: self.text.clone(),
            known: listed(&column.values),
        };
        let mut problem = None;
        for (comma, _) in self.text.match_indices(',') {
            let one = |text: &str| one_value(column, text);
            match (one(&self.text[..comma]), one(&self.text[comma + 1..])) {
                (Ok(first), Ok(second)) if first != second => return Ok((first, second)),
                (Ok(_), Ok(_)) => return Err(not_two()),
                (Err(error), _) | (_, Err(error)) => problem = problem.or(Some(error)),
            }
        }
        Err(problem.unwrap_or_else(not_two))
    }
}

fn one_value(column: &Column, text: &str) -> Result<u32> {
    match column.meant(text)[..] {
        [one] => Ok(one),
        [] => Err(unknown_value(column, text)),
        ref several => {
            let known: Vec<String> =
                several.iter().map(|place| column.values[*place as usize].to_string()).collect();
            Err(Error::AmbiguousValue {
                key: column.key.clone(),
                value: text.trim().to_owned(),
                known: listed(&known),
            })
        }
    }
}

/// Pairs runs that are equal in everything that changes a result but the key of `pairing` (and, where seeds are folded,
/// the seed), and groups the pairs by the keys `by`. Runs with other values of the key are not looked at.
///
/// # Errors
/// Keys or values that no run has, and a value that fits several.
pub fn pairs(runs: &Runs, pairing: &Pairing, by: &[Key], seeds: Seeds) -> Result<Pairs> {
    let column = runs.column(&pairing.key)?;
    let (first, second) = pairing.resolve(&column)?;
    let folding = if by.iter().any(|key| key.name() == Key::SEED) { Seeds::Separate } else { seeds };
    let mut names = runs.varying(std::slice::from_ref(&pairing.key));
    if folding == Seeds::Separate {
        names.push(Key::new(Key::SEED));
    }
    let sorter = Sorter { runs, column: &column, first, second, names: columns(runs, &names)? };
    let by_columns = columns(runs, by)?;
    let (couples, unpaired) = sorter.couples(&runs.column(&Key::new(Key::SEED))?);
    let without = [pairing.key.clone(), Key::new(Key::SEED)];
    let units = runs.equal_but(if folding == Seeds::Folded { &without } else { &without[..1] });
    let mut members: BTreeMap<(Vec<u32>, u32), Vec<Couple>> = BTreeMap::new();
    for couple in couples {
        let group = by_columns.iter().map(|column| column.of[couple.first]).collect();
        members.entry((group, units.of[couple.first])).or_default().push(couple);
    }
    let pairs = members.into_values().map(|couples| Pair {
        group: values_of(&by_columns, couples[0].first),
        names: values_of(&sorter.names, couples[0].first),
        numbers: (0..runs.metrics().len()).map(|metric| sides(runs, &couples, metric)).collect(),
    });
    Ok(Pairs {
        pairs: pairs.collect(),
        key: pairing.key.clone(),
        first: column.values[first as usize].clone(),
        second: column.values[second as usize].clone(),
        seeds: folding,
        names,
        by: by.to_vec(),
        metrics: runs.metrics().to_vec(),
        unpaired,
    })
}

fn columns(runs: &Runs, keys: &[Key]) -> Result<Vec<Column>> {
    keys.iter().map(|key| runs.column(key)).collect()
}

fn values_of(columns: &[Column], run: usize) -> Vec<Value> {
    columns.iter().map(|column| column.values[column.of[run] as usize].clone()).collect()
}

/// Returns the means of both sides over the couples that have the metric.
fn sides(runs: &Runs, couples: &[Couple], metric: usize) -> Sides {
    let value = |run: usize| runs.runs()[run].values[metric].map(|measured| measured.value);
    let both: Vec<(f64, f64)> =
        couples.iter().filter_map(|couple| value(couple.first).zip(value(couple.second))).collect();
    let mean = |side: fn(&(f64, f64)) -> f64| summary(&both.iter().map(side).collect::<Vec<_>>());
    let means = mean(|both| both.0).zip(mean(|both| both.1));
    Sides { values: means.map(|(first, second)| (first.mean, second.mean)), seeds: both.len() }
}

/// Two runs that differ in the key only.
#[derive(Clone, Copy, Debug)]
struct Couple {
    first: usize,
    second: usize,
}

/// Sorts runs into couples.
struct Sorter<'a> {
    runs: &'a Runs,
    column: &'a Column,
    first: u32,
    second: u32,
    names: Vec<Column>,
}

impl Sorter<'_> {
    /// Returns the couples, and what is in none, both in the order of the sweep.
    fn couples(&self, seeds: &Column) -> (Vec<Couple>, Vec<Unpaired>) {
        let groups = self.runs.equal_but(std::slice::from_ref(&self.column.key));
        let mut sides = vec![(Vec::new(), Vec::new()); groups.count as usize];
        for (run, (group, value)) in groups.of.iter().zip(&self.column.of).enumerate() {
            let (first, second) = &mut sides[*group as usize];
            if *value == self.first {
                first.push(run);
            } else if *value == self.second {
                second.push(run);
            }
        }
        let (mut couples, mut unpaired) = (Vec::new(), Vec::new());
        let seed = std::slice::from_ref(seeds);
        for (first, second) in sides {
            let mut leave = |run: usize, reason| {
                let names = values_of(&self.names, run);
                unpaired.push(Unpaired { names, seed: values_of(seed, run).remove(0), reason });
            };
            match (&first[..], &second[..]) {
                ([], []) => {}
                ([first], [second]) => {
                    let couple = Couple { first: *first, second: *second };
                    self.lacking(couple).into_iter().for_each(|reason| leave(*first, reason));
                    couples.push(couple);
                }
                ([run], []) | ([], [run]) => leave(*run, Reason::NoCounterpart(self.value(*run))),
                ([run, _, ..], _) | (_, [run, _, ..]) => leave(*run, Reason::Several(self.value(*run))),
            }
        }
        (couples, unpaired)
    }

    fn value(&self, run: usize) -> Value {
        self.column.values[self.column.of[run] as usize].clone()
    }

    /// Returns what keeps a couple from counting for every metric.
    fn lacking(&self, couple: Couple) -> Vec<Reason> {
        let of_side = |run: usize| {
            let Run { values, .. } = &self.runs.runs()[run];
            let missing = std::iter::zip(self.runs.metrics(), values).filter(|(_, value)| value.is_none());
            let metrics: Vec<Metric> = missing.map(|(metric, _)| *metric).collect();
            let missing = Missing::of(&self.runs.runs()[run]);
            (!metrics.is_empty()).then(|| Reason::Lacking { side: self.value(run), missing, metrics })
        };
        [couple.first, couple.second].into_iter().filter_map(of_side).collect()
    }
}

impl Pairs {
    /// Returns the tests of every group and metric, in the order of the groups.
    pub fn comparisons(&self) -> Vec<Comparison> {
        let groups = self.pairs.chunk_by(|left, right| left.group == right.group);
        groups
            .flat_map(|pairs| (0..self.metrics.len()).map(|metric| self.comparison(pairs, metric)))
            .collect()
    }

    fn comparison(&self, pairs: &[Pair], place: usize) -> Comparison {
        let metric = self.metrics[place];
        let both: Vec<(f64, f64)> = pairs.iter().filter_map(|pair| pair.numbers[place].values).collect();
        let differences: Vec<f64> = both.iter().map(|(first, second)| second - first).collect();
        let mean = |side: fn(&(f64, f64)) -> f64| summary(&both.iter().map(side).collect::<Vec<_>>());
        let Signs { positive, negative, zero } = signs(&differences);
        let (wins, losses) = if metric.prefers_high() { (positive, negative) } else { (negative, positive) };
        Comparison {
            group: pairs.first().map_or_else(Vec::new, |pair| pair.group.clone()),
            metric,
            first: mean(|both| both.0).map(|summary| summary.mean),
            second: mean(|both| both.1).map(|summary| summary.mean),
            difference: summary(&differences),
            wins,
            losses,
            ties: zero,
            t_test: paired_t(&differences),
            wilcoxon: wilcoxon(&differences),
        }
    }
}

impl fmt::Display for Unpaired {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.names.iter().map(ToString::to_string).collect();
        write!(formatter, "{} · seed {}: ", names.join(" · "), self.seed)?;
        match &self.reason {
            Reason::NoCounterpart(value) => write!(formatter, "{value} has no counterpart"),
            Reason::Several(value) => write!(formatter, "several runs with {value} differ in nothing else"),
            Reason::Lacking { side, missing, metrics } => {
                write!(formatter, "{side} lacks {}: {missing}", listed(metrics))
            }
        }
    }
}
