//! From the store to experiments and runs.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::json;
use sweep_core::epsilon::Epsilon;
use sweep_core::spec::{RunId, RunSpec};
use sweep_store::{Attempt, EpochRow, Provenance, Reader, ResultRow, State, SweepId, SweepRow};

use crate::error::{Error, Result};
use crate::export::mlflow::{Experiment, Point, Status, Tracked, Tracking};
use crate::fold::grouped;
use crate::specification::{Member, OPTIONAL, members};

/// Most characters of a parameter, of a tag, and of one text within a tag, so that MLflow takes them.
const PARAMETER: usize = 6_000;
const TAG: usize = 8_000;
const MESSAGE: usize = 1_000;

/// Experiment ids have 18 digits, as MLflow's own.
const SMALLEST_ID: u64 = 100_000_000_000_000_000;

/// Everything that is stored of one run.
struct Facts<'a> {
    sweep: &'a SweepRow,
    result: ResultRow,
    spec: RunSpec,
    attempts: Vec<Attempt>,
    epochs: Vec<EpochRow>,
    accuracy: Vec<(Epsilon, f64)>,
    provenance: Option<Provenance>,
}

/// Reads a sweep, or all of them, the oldest first.
pub async fn read(reader: &Reader, only: Option<SweepId>) -> Result<Tracking> {
    let mut sweeps = reader.sweeps().await?;
    sweeps.sort_by_key(|sweep| (sweep.created_ms, sweep.name.clone()));
    let mut taken = BTreeSet::new();
    let mut experiments = Vec::new();
    for sweep in sweeps.iter().filter(|sweep| only.is_none_or(|only| only == sweep.id)) {
        experiments.push(experiment(reader, sweep, &mut taken).await?);
    }
    let left_out = match only {
        Some(_) => 0,
        None => reader.results(None).await?.iter().filter(|row| !taken.contains(&row.id)).count(),
    };
    Ok(Tracking { experiments, left_out })
}

/// Reads a sweep; `taken` are the runs that have their place already.
async fn experiment(reader: &Reader, sweep: &SweepRow, taken: &mut BTreeSet<RunId>) -> Result<Experiment> {
    let mut specs: HashMap<RunId, RunSpec> = reader.specs_of_sweep(sweep.id).await?.into_iter().collect();
    let points = reader.accuracies_of_sweep(sweep.id).await?;
    let mut accuracies: HashMap<RunId, Vec<_>> = grouped(points, |point| point.run).into_iter().collect();
    let mut runs = Vec::new();
    for result in reader.results(Some(sweep.id)).await? {
        let run = result.id;
        let points = accuracies.remove(&run).unwrap_or_default();
        let facts = Facts {
            sweep,
            result,
            spec: specs.remove(&run).ok_or(Error::Gone)?,
            attempts: reader.attempts_of(run).await?,
            epochs: reader.epochs_of(run).await?,
            accuracy: points.into_iter().map(|point| (point.epsilon, point.accuracy)).collect(),
            provenance: reader.provenance_of(run).await?.pop(),
        };
        runs.push(facts.tracked(taken.insert(run))?);
    }
    Ok(Experiment {
        id: experiment_id(&sweep.name),
        name: sweep.name.clone(),
        created_ms: sweep.created_ms,
        updated_ms: sweep.updated_ms,
        tags: BTreeMap::from([("sweep.digest".to_owned(), sweep.digest.clone())]),
        runs,
    })
}

fn experiment_id(name: &str) -> String {
    (SMALLEST_ID + hash(&["experiment", name]) % (9 * SMALLEST_ID)).to_string()
}

/// A run's id in a sweep that is not the first with it.
fn second_id(sweep: &str, run: RunId) -> String {
    let run = run.to_string();
    format!("{:016x}{:016x}", hash(&[sweep, &run]), hash(&[&run, sweep]))
}

/// FNV-1a over texts and their ends: the same on every machine and in every version.
fn hash(texts: &[&str]) -> u64 {
    let bytes = texts.iter().flat_map(|text| text.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

impl Facts<'_> {
    fn tracked(&self, is_first: bool) -> Result<Tracked> {
        let run = self.result.id;
        let spec = serde_json::to_string_pretty(&self.spec)
            .map_err(|source| Error::Specification { run, source })?;
        Ok(Tracked {
            id: if is_first { run.to_string() } else { second_id(&self.sweep.name, run) },
            run,
            name: self.name(),
            status: status(self.result.state),
            started_ms: self.attempts.first().map_or(self.sweep.created_ms, |attempt| attempt.started_ms),
            ended_ms: self.ended_ms(),
            parameters: self.parameters(&spec).map_err(|source| Error::Specification { run, source })?,
            tags: self.tags(),
            metrics: self.metrics(),
            spec,
        })
    }

    fn name(&self) -> String {
        let ResultRow { backbone, dataset, target_epsilon, epsilon_schedule, seed, .. } = &self.result;
        format!("{backbone} {dataset} {target_epsilon} {epsilon_schedule} s{seed}")
    }

    /// When the last attempt ended; `None` while another may come.
    fn ended_ms(&self) -> Option<i64> {
        self.attempts.last().and_then(|attempt| attempt.ended_ms).filter(|_| self.result.state.is_final())
    }

    fn parameters(&self, spec: &str) -> serde_json::Result<BTreeMap<String, String>> {
        let written = members(spec)?;
        let names: BTreeSet<&str> = written.keys().copied().chain(OPTIONAL).collect();
        let mut parameters = BTreeMap::new();
        for name in names {
            let member = Member::read(name, written.get(name).map(|text| text.get()))?;
            let leaves = member.leaves.into_iter();
            parameters.extend(leaves.map(|(key, value)| (key, limited(&value.to_string(), PARAMETER))));
        }
        parameters.insert("epsilon_schedule".to_owned(), self.result.epsilon_schedule.clone());
        Ok(parameters)
    }

    fn tags(&self) -> BTreeMap<String, String> {
        let last = self.attempts.last();
        let loaded = self.provenance.as_ref();
        let failure = self.result.failure.as_ref();
        let of_last =
            |field: fn(&Attempt) -> &Option<String>| last.and_then(|attempt| field(attempt).clone());
        let known = [
            ("mlflow.runName", Some(self.name())),
            ("mlflow.source.name", Some("sweep".to_owned())),
            ("mlflow.source.type", Some("LOCAL".to_owned())),
            ("sweep.run", Some(self.result.id.to_string())),
            ("sweep.state", Some(self.result.state.to_string())),
            ("sweep.epsilon_schedule", Some(self.result.epsilon_schedule.clone())),
            ("sweep.attempts", Some(self.result.attempts.to_string())),
            (
                "sweep.failure",
                failure.map(|failure| format!("{}: {}", failure.class.label(), failure.message)),
            ),
            ("sweep.version", of_last(|attempt| &attempt.version)),
            ("sweep.host", of_last(|attempt| &attempt.host)),
            ("sweep.device", of_last(|attempt| &attempt.device)),
            ("sweep.dataset_digest", loaded.map(|loaded| loaded.dataset_digest.clone())),
            ("sweep.weights_digest", loaded.and_then(|loaded| loaded.weights_digest.clone())),
            ("sweep.classes", loaded.map(|loaded| loaded.classes.to_string())),
            ("sweep.parameters", loaded.map(|loaded| loaded.parameters.to_string())),
        ];
        let known =
            known.into_iter().filter_map(|(key, value)| Some((key.to_owned(), limited(&value?, TAG))));
        let attempts =
            self.attempts.iter().map(|attempt| (format!("sweep.attempt.{}", attempt.number), told(attempt)));
        known.chain(attempts).collect()
    }

    fn metrics(&self) -> BTreeMap<String, Vec<Point>> {
        let mut metrics = BTreeMap::new();
        for epoch in &self.epochs {
            for (name, value) in curve(epoch) {
                let point =
                    value.map(|value| Point { time_ms: epoch.finished_ms, value, step: epoch.epoch + 1 });
                put(&mut metrics, name, point);
            }
        }
        let time_ms = self.last_ms();
        for (name, value) in final_numbers(&self.result) {
            put(&mut metrics, name, value.map(|value| Point { time_ms, value, step: self.result.epochs }));
        }
        for (epsilon, value) in &self.accuracy {
            // A step is a whole number, so a target between two 255ths is only in the numbers without a prefix.
            let point = epsilon.in_255ths().map(|step| Point { time_ms, value: *value, step });
            put(&mut metrics, "accuracy_over_255ths", point);
        }
        metrics
    }

    /// When anything of it was measured last, as far as that is known.
    fn last_ms(&self) -> i64 {
        let attempt = self.attempts.last();
        attempt.map_or(self.sweep.created_ms, |attempt| attempt.ended_ms.unwrap_or(attempt.started_ms))
    }
}

fn put(metrics: &mut BTreeMap<String, Vec<Point>>, name: &str, point: Option<Point>) {
    if let Some(point) = point.filter(|point| point.value.is_finite()) {
        metrics.entry(name.to_owned()).or_default().push(point);
    }
}

/// The numbers of the view `curves`; an accuracy over no images is none.
fn curve(epoch: &EpochRow) -> [(&'static str, Option<f64>); 10] {
    let share = |part: u32, whole: u32| (whole > 0).then(|| f64::from(part) / f64::from(whole));
    [
        ("epoch/epsilon", Some(epoch.epsilon)),
        ("epoch/learning_rate", epoch.learning_rate),
        ("epoch/train_loss", epoch.train_loss),
        ("epoch/train_accuracy", share(epoch.train_correct, epoch.train_total)),
        ("epoch/clean_loss", epoch.clean_loss),
        ("epoch/clean_accuracy", share(epoch.clean_correct, epoch.validation_total)),
        ("epoch/robust_loss", epoch.robust_loss),
        ("epoch/robust_accuracy", share(epoch.robust_correct, epoch.validation_total)),
        ("epoch/train_seconds", Some(epoch.train_seconds)),
        ("epoch/validation_seconds", Some(epoch.validation_seconds)),
    ]
}

/// The numbers of the view `results`.
fn final_numbers(result: &ResultRow) -> [(&'static str, Option<f64>); 9] {
    [
        ("clean", result.clean),
        ("robust", result.robust),
        ("expected_robustness", result.expected_robustness),
        ("validation_clean", result.validation_clean),
        ("delay", result.delay.map(f64::from)),
        ("delay_above_chance", result.delay_above_chance.map(f64::from)),
        ("clean_drop", result.clean_drop),
        ("train_seconds", result.train_seconds),
        ("epochs_done", Some(f64::from(result.epochs_done))),
    ]
}

const fn status(state: State) -> Status {
    match state {
        State::Succeeded => Status::Finished,
        State::Failed => Status::Failed,
        State::Running => Status::Running,
        State::Cancelled => Status::Killed,
        State::Pending | State::Interrupted => Status::Scheduled,
    }
}

/// An attempt in one tag.
fn told(attempt: &Attempt) -> String {
    let failure = attempt.failure.as_ref();
    let told = json!({
        "state": attempt.state,
        "started_ms": attempt.started_ms,
        "ended_ms": attempt.ended_ms,
        "host": attempt.host,
        "device": attempt.device,
        "threads": attempt.threads,
        "version": attempt.version,
        "resumed_from": attempt.resumed_from,
        "exit_code": attempt.exit_code,
        "signal": attempt.signal,
        "failure": failure.map(|failure| failure.class.label()),
        "message": failure.map(|failure| limited(&failure.message, MESSAGE)),
    });
    limited(&told.to_string(), TAG)
}

/// The beginning of a text, with dots where the rest is missing.
fn limited(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_what_mlflow_takes_and_stay() {
        let id = experiment_id("quickstart");
        assert_eq!(id, experiment_id("quickstart"));
        assert_ne!(id, experiment_id("quickstart-2"));
        assert!(id.len() == 18 && id.bytes().all(|digit| digit.is_ascii_digit()), "{id}");
        let run: RunId = "0123456789abcdef0123456789abcdef".parse().unwrap();
        let (one, two) = (second_id("one", run), second_id("two", run));
        assert!(one.len() == 32 && one.parse::<RunId>().is_ok(), "{one}");
        assert_ne!(one, two);
    }

    #[test]
    fn long_texts_are_cut_between_letters() {
        assert_eq!(limited("äöü", 3), "äöü");
        assert_eq!(limited("äöüß", 3), "äö…");
    }
}
