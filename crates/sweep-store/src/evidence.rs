//! What was measured and stored for one run.

use std::collections::HashMap;

use serde::Serialize;
use serde_json::json;
use sqlx::sqlite::SqliteRow;
use sqlx::{FromRow, Row as _};
use sweep_core::epsilon::Epsilon;
use sweep_core::event::Split;
use sweep_core::metrics::Count;
use sweep_core::spec::{Norm, RunId};

use crate::error::Result;
use crate::reader::Reader;
use crate::row;

/// A trained and validated epoch.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EpochRow {
    /// From 0.
    pub epoch: u32,
    /// The attempt that trained it, or took it over.
    pub attempt: u32,
    /// Radius used in it, in [0, 1].
    pub epsilon: f64,
    /// Of the backbone, at its last step.
    pub learning_rate: Option<f64>,
    /// Mean over the training images; `None` where it was not finite, like every loss here.
    pub train_loss: Option<f64>,
    /// Training images classified correctly.
    pub train_correct: u32,
    /// Training images.
    pub train_total: u32,
    /// Validation images classified correctly.
    pub clean_correct: u32,
    /// Validation images classified correctly under attack at the target epsilon.
    pub robust_correct: u32,
    /// Validation images.
    pub validation_total: u32,
    /// Mean validation loss on clean images.
    pub clean_loss: Option<f64>,
    /// Mean validation loss under attack.
    pub robust_loss: Option<f64>,
    /// Spent training.
    pub train_seconds: f64,
    /// Spent validating.
    pub validation_seconds: f64,
    /// When it was complete, in milliseconds since 1970 (UTC).
    pub finished_ms: i64,
    /// The run that trained it, if another one.
    pub trained_by: Option<RunId>,
}

/// An accuracy measured on a complete split.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EvaluationRow {
    /// Completed epochs of the weights.
    pub epochs: u32,
    /// The split.
    pub split: Split,
    /// The attack's label; `none` at epsilon 0.
    pub attack: String,
    /// Norm of the ball.
    pub norm: Norm,
    /// Radius.
    pub epsilon: Epsilon,
    /// How many images were classified correctly.
    pub count: Count,
    /// Seconds it took.
    pub seconds: f64,
    /// The attempt that measured it; `None` for `sweep evaluate`.
    pub attempt: Option<u32>,
    /// The use of `sweep evaluate` that measured it; `None` for an attempt.
    pub measurement: Option<u32>,
    /// SHA-256 of the weights, where it is known.
    pub model_digest: Option<String>,
}

/// A checkpoint that a worker wrote. Whether the file is still there is not known here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckpointRow {
    /// Completed epochs.
    pub epochs: u32,
    /// Optimizer steps done in the epoch after those.
    pub step: u32,
    /// The file, relative to the home folder.
    pub file: String,
    /// SHA-256 of the file.
    pub digest: String,
    /// Size of the file.
    pub bytes: u64,
    /// The attempt that wrote it.
    pub attempt: u32,
}

/// The final model of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ModelRow {
    /// The file, relative to the run's folder.
    pub file: String,
    /// SHA-256 of the file.
    pub digest: String,
    /// Size of the file.
    pub bytes: u64,
    /// The attempt that wrote it.
    pub attempt: u32,
}

/// What an attempt really used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Provenance {
    /// The attempt.
    pub attempt: u32,
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
    /// Returns the epochs of a run, in order.
    pub async fn epochs_of(&self, run: RunId) -> Result<Vec<EpochRow>> {
        sqlx::query_as("SELECT * FROM epochs WHERE run = ? ORDER BY epoch")
            .bind(run.to_string())
            .fetch_all(self.pool())
            .await
            .map_err(self.failed("read the epochs of a run"))
    }

    /// Returns every accuracy measured for a run, by epochs, split, attack and radius.
    pub async fn evaluations_of(&self, run: RunId) -> Result<Vec<EvaluationRow>> {
        let statement =
            "SELECT * FROM evaluations WHERE run = ? ORDER BY epochs, split, norm, epsilon_value, attack";
        sqlx::query_as(statement)
            .bind(run.to_string())
            .fetch_all(self.pool())
            .await
            .map_err(self.failed("read the evaluations of a run"))
    }

    /// Returns the checkpoints of a run, the newest first.
    pub async fn checkpoints_of(&self, run: RunId) -> Result<Vec<CheckpointRow>> {
        sqlx::query_as("SELECT * FROM checkpoints WHERE run = ? ORDER BY epochs DESC, step DESC")
            .bind(run.to_string())
            .fetch_all(self.pool())
            .await
            .map_err(self.failed("read the checkpoints of a run"))
    }

    /// Returns for each of `runs` that has a checkpoint between epochs how many whole epochs the furthest one has. The
    /// file may be gone.
    pub async fn checkpoint_epochs(&self, runs: &[RunId]) -> Result<HashMap<RunId, u32>> {
        sqlx::query(
            "SELECT run, max(epochs) AS epochs FROM checkpoints
             WHERE step = 0 AND run IN (SELECT value FROM json_each(?)) GROUP BY run",
        )
        .bind(json!(runs).to_string())
        .try_map(|row: SqliteRow| Ok((row::run_id(&row, "run")?, row.try_get("epochs")?)))
        .fetch_all(self.pool())
        .await
        .map(|rows| rows.into_iter().collect())
        .map_err(self.failed("read how far checkpoints are"))
    }

    /// Returns the final model of a run, if it has one.
    pub async fn model_of(&self, run: RunId) -> Result<Option<ModelRow>> {
        sqlx::query_as("SELECT * FROM models WHERE run = ?")
            .bind(run.to_string())
            .fetch_optional(self.pool())
            .await
            .map_err(self.failed("read the model of a run"))
    }

    /// Returns what each attempt of a run really used, the first attempt first.
    pub async fn provenance_of(&self, run: RunId) -> Result<Vec<Provenance>> {
        sqlx::query_as("SELECT * FROM provenance WHERE run = ? ORDER BY attempt")
            .bind(run.to_string())
            .fetch_all(self.pool())
            .await
            .map_err(self.failed("read the provenance of a run"))
    }
}

impl FromRow<'_, SqliteRow> for EpochRow {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        Ok(Self {
            epoch: row.try_get("epoch")?,
            attempt: row.try_get("attempt")?,
            epsilon: row.try_get("epsilon")?,
            learning_rate: row.try_get("learning_rate")?,
            train_loss: row.try_get("train_loss")?,
            train_correct: row.try_get("train_correct")?,
            train_total: row.try_get("train_total")?,
            clean_correct: row.try_get("clean_correct")?,
            robust_correct: row.try_get("robust_correct")?,
            validation_total: row.try_get("validation_total")?,
            clean_loss: row.try_get("clean_loss")?,
            robust_loss: row.try_get("robust_loss")?,
            train_seconds: row.try_get("train_seconds")?,
            validation_seconds: row.try_get("validation_seconds")?,
            finished_ms: row.try_get("finished_ms")?,
            trained_by: row::optional_run_id(row, "trained_by")?,
        })
    }
}

impl FromRow<'_, SqliteRow> for EvaluationRow {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        Ok(Self {
            epochs: row.try_get("epochs")?,
            split: row::label(row.try_get("split")?, "split")?,
            attack: row.try_get("attack")?,
            norm: row::label(row.try_get("norm")?, "norm")?,
            epsilon: row::parse(row.try_get("epsilon")?, "epsilon")?,
            count: Count { correct: row.try_get("correct")?, total: row.try_get("total")? },
            seconds: row.try_get("seconds")?,
            attempt: row.try_get("attempt")?,
            measurement: row.try_get("measurement")?,
            model_digest: row.try_get("model_digest")?,
        })
    }
}

impl FromRow<'_, SqliteRow> for CheckpointRow {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        Ok(Self {
            epochs: row.try_get("epochs")?,
            step: row.try_get("step")?,
            file: row.try_get("file")?,
            digest: row.try_get("digest")?,
            bytes: row::unsigned(row, "bytes")?,
            attempt: row.try_get("attempt")?,
        })
    }
}

impl FromRow<'_, SqliteRow> for ModelRow {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        Ok(Self {
            file: row.try_get("file")?,
            digest: row.try_get("digest")?,
            bytes: row::unsigned(row, "bytes")?,
            attempt: row.try_get("attempt")?,
        })
    }
}

impl FromRow<'_, SqliteRow> for Provenance {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        Ok(Self {
            attempt: row.try_get("attempt")?,
            dataset_digest: row.try_get("dataset_digest")?,
            weights_digest: row.try_get("weights_digest")?,
            classes: row.try_get("classes")?,
            train: row.try_get("train")?,
            validation: row.try_get("validation")?,
            test: row.try_get("test")?,
            parameters: row::unsigned(row, "parameters")?,
            skipped: row::unsigned(row, "skipped")?,
        })
    }
}
