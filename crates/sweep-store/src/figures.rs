//! What figures and reports read: the curves of all runs of a sweep at once, and where its numbers come from.

use sqlx::sqlite::SqliteRow;
use sqlx::{FromRow, Row as _};
use sweep_core::epsilon::Epsilon;
use sweep_core::spec::{RunId, RunSpec};

use crate::error::{Error, Result};
use crate::reader::Reader;
use crate::register::SweepId;
use crate::row;

/// What validation said after an epoch of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct CurvePoint {
    /// The run.
    pub run: RunId,
    /// Completed epochs, from 1.
    pub epoch: u32,
    /// Radius used while training in it, in [0, 1].
    pub epsilon: f64,
    /// Clean accuracy on the validation split, a fraction; not a number for an empty split.
    pub clean: f64,
    /// Accuracy on it under attack at the target epsilon.
    pub robust: f64,
}

/// An accuracy of a run's final model on the test split, under the attack that the run asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct AccuracyPoint {
    /// The run.
    pub run: RunId,
    /// Radius; 0 without an attack.
    pub epsilon: Epsilon,
    /// A fraction of the test split.
    pub accuracy: f64,
}

/// Where the numbers of a run come from: its latest attempt, as far as that has said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The run.
    pub run: RunId,
    /// Version of the program.
    pub version: Option<String>,
    /// The machine.
    pub host: Option<String>,
    /// What it computed on.
    pub device: Option<String>,
    /// Threads that computed.
    pub threads: Option<u32>,
    /// When it started, in milliseconds since 1970 (UTC).
    pub started_ms: i64,
    /// When it ended; `None` while it runs.
    pub ended_ms: Option<i64>,
    /// What it loaded; `None` where it ended before.
    pub loaded: Option<Loaded>,
}

/// What an attempt loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Digest of the prepared dataset.
    pub dataset_digest: String,
    /// SHA-256 of the weights; `None` for random weights.
    pub weights_digest: Option<String>,
    /// Number of classes.
    pub classes: u32,
    /// Training images.
    pub train: u32,
    /// Validation images.
    pub validation: u32,
    /// Test images.
    pub test: u32,
    /// Parameters of backbone and head.
    pub parameters: u64,
    /// Pictures of the source that could not be read and were left out.
    pub skipped: u64,
}

impl Reader {
    /// Returns the epochs of every run of a sweep: by place in the sweep, then by epoch.
    pub async fn curves_of_sweep(&self, sweep: SweepId) -> Result<Vec<CurvePoint>> {
        sqlx::query_as(
            "SELECT e.run, e.epoch + 1 AS epoch, e.epsilon, e.clean_correct, e.robust_correct, e.validation_total
             FROM sweep_runs s JOIN epochs e ON e.run = s.run WHERE s.sweep = ? ORDER BY s.position, e.epoch",
        )
        .bind(sweep.0)
        .fetch_all(self.pool())
        .await
        .map_err(self.failed("read the curves of a sweep"))
    }

    /// Returns accuracy over epsilon of every run of a sweep: by place in the sweep, then by radius.
    pub async fn accuracies_of_sweep(&self, sweep: SweepId) -> Result<Vec<AccuracyPoint>> {
        sqlx::query_as(
            "SELECT a.id, a.epsilon, a.accuracy FROM sweep_runs s JOIN accuracy_over_epsilon a ON a.id = s.run
             WHERE s.sweep = ? ORDER BY s.position, a.epsilon_value",
        )
        .bind(sweep.0)
        .fetch_all(self.pool())
        .await
        .map_err(self.failed("read the accuracies of a sweep"))
    }

    /// Returns where the numbers of a sweep's runs come from, by place in the sweep; runs without an attempt are left out.
    pub async fn origins_of_sweep(&self, sweep: SweepId) -> Result<Vec<Origin>> {
        sqlx::query_as(
            "SELECT a.run, a.version, a.host, a.device, a.threads, a.started_ms, a.ended_ms,
                    p.dataset_digest, p.weights_digest, p.classes, p.train, p.validation, p.test, p.parameters, p.skipped
             FROM sweep_runs s JOIN runs r ON r.id = s.run
             JOIN attempts a ON a.run = r.id AND a.number = r.attempts
             LEFT JOIN provenance p ON p.run = a.run AND p.attempt = a.number
             WHERE s.sweep = ? ORDER BY s.position",
        )
        .bind(sweep.0)
        .fetch_all(self.pool())
        .await
        .map_err(self.failed("read where the numbers of a sweep come from"))
    }

    /// Returns the specification of every run of a sweep, by place in the sweep.
    pub async fn specs_of_sweep(&self, sweep: SweepId) -> Result<Vec<(RunId, RunSpec)>> {
        let texts: Vec<(RunId, String)> = sqlx::query(
            "SELECT p.run, p.spec FROM sweep_runs s JOIN specs p ON p.run = s.run WHERE s.sweep = ? ORDER BY s.position",
        )
        .bind(sweep.0)
        .try_map(|row: SqliteRow| Ok((row::run_id(&row, "run")?, row.try_get("spec")?)))
        .fetch_all(self.pool())
        .await
        .map_err(self.failed("read the specifications of a sweep"))?;
        let parse = |(run, text): (RunId, String)| match serde_json::from_str(&text) {
            Ok(spec) => Ok((run, spec)),
            Err(source) => Err(Error::Spec { run, source }),
        };
        texts.into_iter().map(parse).collect()
    }
}

impl FromRow<'_, SqliteRow> for CurvePoint {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        let total: u32 = row.try_get("validation_total")?;
        let share =
            |column| Ok::<_, sqlx::Error>(f64::from(row.try_get::<u32, _>(column)?) / f64::from(total));
        Ok(Self {
            run: row::run_id(row, "run")?,
            epoch: row.try_get("epoch")?,
            epsilon: row.try_get("epsilon")?,
            clean: share("clean_correct")?,
            robust: share("robust_correct")?,
        })
    }
}

impl FromRow<'_, SqliteRow> for AccuracyPoint {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        Ok(Self {
            run: row::run_id(row, "id")?,
            epsilon: row::parse(row.try_get("epsilon")?, "epsilon")?,
            accuracy: row.try_get("accuracy")?,
        })
    }
}

impl FromRow<'_, SqliteRow> for Origin {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        let dataset_digest: Option<String> = row.try_get("dataset_digest")?;
        Ok(Self {
            run: row::run_id(row, "run")?,
            version: row.try_get("version")?,
            host: row.try_get("host")?,
            device: row.try_get("device")?,
            threads: row.try_get("threads")?,
            started_ms: row.try_get("started_ms")?,
            ended_ms: row.try_get("ended_ms")?,
            loaded: dataset_digest.map(|digest| loaded(row, digest)).transpose()?,
        })
    }
}

fn loaded(row: &SqliteRow, dataset_digest: String) -> sqlx::Result<Loaded> {
    Ok(Loaded {
        dataset_digest,
        weights_digest: row.try_get("weights_digest")?,
        classes: row.try_get("classes")?,
        train: row.try_get("train")?,
        validation: row.try_get("validation")?,
        test: row.try_get("test")?,
        parameters: row::unsigned(row, "parameters")?,
        skipped: row::unsigned(row, "skipped")?,
    })
}
