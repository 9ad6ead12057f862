//! Everything that a report of a sweep needs, read once.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::Value;
use sweep_core::epsilon::Epsilon;
use sweep_core::schedule::{EpsilonSchedule, Granularity};
use sweep_core::spec::{RunId, RunSpec};
use sweep_store::{At, CurvePoint, Gate, Metric, Origin, Reader, ResultRow, State, SweepId, SweepRow};

use crate::error::{Error, Result};
use crate::fold::grouped;
use crate::runs::Runs;

/// Classes from which on 5 % accuracy cannot be a guess: chance is at most 2 % there.
const MANY_CLASSES: u32 = 50;

/// Keys of a specification that have columns of their own, or that change no result.
const NAMED: [&str; 6] =
    ["backbone", "dataset", "target_epsilon", "epsilon_schedule", "seed", "micro_batch_size"];

/// A sweep with its runs and all that was measured of them.
#[derive(Clone, Debug)]
pub struct Material {
    /// The sweep.
    pub sweep: SweepRow,
    /// Its runs, in the order of expansion.
    pub runs: Vec<Run>,
    /// Checks that runs do not pass.
    pub failed_gates: Vec<Gate>,
    /// The runs that are compared, as `sweep compare` sees them: clean, robust and expected robustness.
    pub table: Runs,
}

/// What tables of a report compare.
const METRICS: [Metric; 3] = [Metric::Clean, Metric::Robust, Metric::ExpectedRobustness];

/// A run with what was measured of it.
#[derive(Clone, Debug)]
pub struct Run {
    /// What it is, where it stands, what came out.
    pub result: ResultRow,
    /// What sets it apart from runs of the same backbone, dataset, target epsilon and schedule, beside the seed: such as
    /// `batch_size=64`; empty where nothing does.
    pub variant: String,
    /// The ramp, of schedules that are one.
    pub ramp: Option<Ramp>,
    /// Validation after every epoch.
    pub curve: Vec<CurvePoint>,
    /// Accuracy on the test split by radius, fractions.
    pub accuracy: Vec<(Epsilon, f64)>,
    /// Where its numbers come from; `None` before its first attempt.
    pub origin: Option<Origin>,
    /// Whether it only trains a backbone that other runs start from: such runs are in no figure.
    pub is_pretraining: bool,
    /// Whether its radius is always 0: standard fine-tuning.
    pub is_standard: bool,
}

/// A ramp by its ends, as the paper's ablation (Table 7) speaks of schedules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ramp {
    /// First epoch of the ramp, the paper's T1.
    pub start: u32,
    /// First epoch at the target, the paper's T2.
    pub end: u32,
    /// How often epsilon changes on the way; `None` where there is no way.
    pub per: Option<Granularity>,
}

/// Which validation accuracy counts as the onset of learning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Onset {
    /// More than 5 %, as in the paper (see [`sweep_core::metrics::delay`]).
    FivePercent,
    /// More than 5 % of the way from chance to 1, for few classes (see [`sweep_core::metrics::delay_above_chance`]).
    AboveChance,
}

impl Material {
    /// Reads a sweep.
    pub async fn read(reader: &Reader, sweep: SweepId) -> Result<Self> {
        let sweeps = reader.sweeps().await?;
        let row = sweeps.into_iter().find(|row| row.id == sweep).ok_or(Error::Gone)?;
        let specs = reader.specs_of_sweep(sweep).await?;
        let mut variants = variants(&specs);
        let specs: HashMap<RunId, RunSpec> = specs.into_iter().collect();
        let pretraining: BTreeSet<RunId> =
            reader.run_states(sweep).await?.into_iter().filter_map(|state| state.depends_on).collect();
        let mut curves = by_run(reader.curves_of_sweep(sweep).await?, |point| point.run);
        let mut accuracies = by_run(reader.accuracies_of_sweep(sweep).await?, |point| point.run);
        let mut origins: HashMap<RunId, Origin> =
            reader.origins_of_sweep(sweep).await?.into_iter().map(|origin| (origin.run, origin)).collect();
        let run = |result: ResultRow| {
            let id = result.id;
            let schedule = specs.get(&id).map(|spec| &spec.epsilon_schedule);
            let points = accuracies.remove(&id).unwrap_or_default();
            Run {
                variant: variants.remove(&id).unwrap_or_default(),
                ramp: schedule.and_then(ramp),
                curve: curves.remove(&id).unwrap_or_default(),
                accuracy: points.into_iter().map(|point| (point.epsilon, point.accuracy)).collect(),
                origin: origins.remove(&id),
                is_pretraining: pretraining.contains(&id),
                is_standard: result.target_epsilon.is_zero()
                    || matches!(schedule, Some(EpsilonSchedule::None)),
                result,
            }
        };
        let runs = reader.results(Some(sweep)).await?.into_iter().map(run).collect();
        let table = Runs::read(reader, Some(sweep), &METRICS, At::Last).await?;
        Ok(Self { sweep: row, runs, failed_gates: reader.failed_gates(sweep).await?, table })
    }

    /// Returns the runs that the sweep compares: all but those that only train a backbone.
    pub fn compared(&self) -> impl Iterator<Item = &Run> + Clone {
        self.runs.iter().filter(|run| !run.is_pretraining)
    }

    /// Returns the standard fine-tuning that belongs to a run: same backbone, dataset and variant. One run a seed, see
    /// [`one_a_seed`].
    pub(crate) fn standard_of(&self, like: &Run) -> Vec<&Run> {
        let fits = |run: &&Run| {
            run.is_standard
                && run.result.backbone == like.result.backbone
                && run.result.dataset == like.result.dataset
                && run.variant == like.variant
        };
        one_a_seed(self.compared().filter(fits))
    }

    /// Returns which onset this report speaks of: one for all its runs.
    pub fn onset(&self) -> Onset {
        let mut classes =
            self.compared().filter_map(|run| Some(run.origin.as_ref()?.loaded.as_ref()?.classes));
        if classes.all(|count| count >= MANY_CLASSES) { Onset::FivePercent } else { Onset::AboveChance }
    }
}

impl Run {
    /// Returns the backbone with what else sets the run apart.
    pub fn subject(&self) -> String {
        if self.variant.is_empty() {
            self.result.backbone.clone()
        } else {
            format!("{} ({})", self.result.backbone, self.variant)
        }
    }

    /// Returns the schedule as figures call it.
    pub fn schedule(&self) -> &str {
        if self.is_standard { "standard" } else { &self.result.epsilon_schedule }
    }

    /// Returns the epochs to the onset of learning; see [`Onset`].
    pub fn delay(&self, onset: Onset) -> Option<u32> {
        match onset {
            Onset::FivePercent => self.result.delay,
            Onset::AboveChance => self.result.delay_above_chance,
        }
    }

    /// Returns delay and final clean validation accuracy of a run that has succeeded: of others at most one is known, and a
    /// mean over them would be one over other seeds.
    pub fn severity(&self, onset: Onset) -> Option<(u32, f64)> {
        if self.result.state != State::Succeeded {
            return None;
        }
        Some((self.delay(onset)?, self.result.validation_clean?))
    }

    /// Returns the target epsilon of training in 255ths; 0 for standard fine-tuning.
    pub fn target(&self) -> f64 {
        if self.is_standard { 0.0 } else { self.result.target_epsilon.value() * 255.0 }
    }
}

/// Returns one of the runs that train the same, a seed: such as standard fine-tuning, which has no use for the target epsilon
/// that it names. A mean would count their one training several times. Taken is the first that has succeeded, if any has.
pub(crate) fn one_a_seed<'a>(runs: impl IntoIterator<Item = &'a Run>) -> Vec<&'a Run> {
    let best = |(_, runs): (u64, Vec<&'a Run>)| {
        let succeeded = runs.iter().find(|run| run.result.state == State::Succeeded);
        succeeded.or(runs.first()).copied()
    };
    grouped(runs, |run| run.result.seed).into_iter().filter_map(best).collect()
}

fn by_run<T>(points: Vec<T>, run: impl Fn(&T) -> RunId) -> HashMap<RunId, Vec<T>> {
    grouped(points, run).into_iter().collect()
}

/// Returns the ramp that a schedule is; steps and fixed epsilon are ramps without length.
fn ramp(schedule: &EpsilonSchedule) -> Option<Ramp> {
    let (start, end, per) = match schedule {
        EpsilonSchedule::Fixed => (0, 0, None),
        EpsilonSchedule::Ramp { start, end, per } => (*start, *end, Some(*per)),
        EpsilonSchedule::Warmup { end, per } => (0, *end, Some(*per)),
        EpsilonSchedule::Step { start } => (*start, *start, None),
        _ => return None,
    };
    Some(Ramp { start, end, per: per.filter(|_| start < end) })
}

/// Returns for every run what sets it apart within its cell: the entries of its specification, other than names and seed,
/// that differ between runs of one backbone, dataset, target epsilon and schedule. A mean over runs never mixes two variants.
fn variants(specs: &[(RunId, RunSpec)]) -> HashMap<RunId, String> {
    let entries: Vec<BTreeMap<String, String>> = specs.iter().map(|(_, spec)| entries_of(spec)).collect();
    let cell = |index: &usize| {
        let spec = &specs[*index].1;
        let (numerator, denominator) = spec.target_epsilon.fraction();
        (
            spec.backbone.name.clone(),
            spec.dataset.name.clone(),
            numerator,
            denominator,
            spec.epsilon_schedule.label(),
        )
    };
    let mut varying = BTreeSet::new();
    for (_, members) in grouped(0..specs.len(), cell) {
        let first = &entries[members[0]];
        for entry in members.iter().map(|member| &entries[*member]) {
            let paths = first.keys().chain(entry.keys());
            varying.extend(paths.filter(|path| first.get(*path) != entry.get(*path)).cloned());
        }
    }
    let text = |entry: &BTreeMap<String, String>| {
        let shown = varying.iter().filter_map(|path| Some(format!("{path}={}", entry.get(path)?)));
        shown.collect::<Vec<_>>().join(", ")
    };
    specs.iter().zip(&entries).map(|((run, _), entry)| (*run, text(entry))).collect()
}

/// Returns the entries of a specification by path, but the named ones.
fn entries_of(spec: &RunSpec) -> BTreeMap<String, String> {
    let mut entries = BTreeMap::new();
    // A specification is plain data; were it not to become JSON, its runs would be told apart by their ids' rows alone.
    if let Ok(Value::Object(fields)) = serde_json::to_value(spec) {
        for (key, value) in fields.iter().filter(|(key, _)| !NAMED.contains(&key.as_str())) {
            flatten(key, value, &mut entries);
        }
    }
    entries
}

fn flatten(path: &str, value: &Value, entries: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                flatten(&format!("{path}.{key}"), value, entries);
            }
        }
        Value::String(text) => drop(entries.insert(path.to_owned(), text.clone())),
        other => drop(entries.insert(path.to_owned(), other.to_string())),
    }
}
