//! Sweeps as MLflow shows them: a sweep is an experiment, a run a run.
//!
//! | MLflow | here |
//! |---|---|
//! | run id | the run's id; in a second sweep that lists the same run, a hash of sweep and run, for MLflow has one place for an id |
//! | status | `FINISHED` succeeded, `FAILED` failed, `RUNNING` running, `KILLED` cancelled, `SCHEDULED` pending or interrupted |
//! | parameters | the keys of the specification as a sweep file writes them; epsilons are fractions such as `4/255` |
//! | metrics `epoch/…` | the columns of the view `curves`, one point an epoch: the step is the number of completed epochs |
//! | metrics without a prefix | the numbers of the view `results`; the step is the budget in epochs |
//! | metric `accuracy_over_255ths` | accuracy on the test split over epsilon: the step is the radius in 255ths |
//! | tags `sweep.…` | state, schedule, attempts (each as JSON), version of the program, digests of weights and data |
//! | artifact `spec.json` | the specification |
//!
//! Accuracies are fractions, times seconds. The folder has the layout of MLflow's file store. Newer versions (3.17 was tried) open
//! one only with `MLFLOW_ALLOW_FILE_STORE=true`, or after `mlflow migrate-filestore` has made a database of it.

mod folder;
mod record;

pub use folder::write;
pub use record::read;

use std::collections::BTreeMap;

use sweep_core::spec::RunId;

/// What an export holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Tracking {
    pub(crate) experiments: Vec<Experiment>,
    /// Runs that no sweep lists any more; they are in no experiment.
    pub left_out: usize,
}

impl Tracking {
    /// Returns the number of experiments, one a sweep.
    pub const fn experiments(&self) -> usize {
        self.experiments.len()
    }

    /// Returns the number of runs of all experiments.
    pub fn runs(&self) -> usize {
        self.experiments.iter().map(|experiment| experiment.runs.len()).sum()
    }
}

/// A sweep.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Experiment {
    /// Digits: the database that MLflow migrates to wants a number.
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) created_ms: i64,
    pub(crate) updated_ms: i64,
    pub(crate) tags: BTreeMap<String, String>,
    pub(crate) runs: Vec<Tracked>,
}

/// A run.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tracked {
    /// 32 hexadecimal digits.
    pub(crate) id: String,
    pub(crate) run: RunId,
    pub(crate) name: String,
    pub(crate) status: Status,
    pub(crate) started_ms: i64,
    pub(crate) ended_ms: Option<i64>,
    pub(crate) parameters: BTreeMap<String, String>,
    pub(crate) tags: BTreeMap<String, String>,
    pub(crate) metrics: BTreeMap<String, Vec<Point>>,
    /// The specification as JSON.
    pub(crate) spec: String,
}

/// A point of a metric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Point {
    pub(crate) time_ms: i64,
    pub(crate) value: f64,
    pub(crate) step: u32,
}

/// Where a run stands; the numbers are those of MLflow's protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Running = 1,
    Scheduled = 2,
    Finished = 3,
    Failed = 4,
    Killed = 5,
}
