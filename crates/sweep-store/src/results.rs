//! The view `results` as a type.

use serde::Serialize;
use sqlx::sqlite::SqliteRow;
use sqlx::{FromRow, Row as _};
use sweep_core::epsilon::Epsilon;
use sweep_core::spec::RunId;

use crate::error::Result;
use crate::reader::Reader;
use crate::register::SweepId;
use crate::row;
use crate::state::{Failure, State};

/// What a run is, where it stands, and what came out. Accuracies are fractions of the test split in [0, 1].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ResultRow {
    /// The run.
    pub id: RunId,
    /// Name of its backbone.
    pub backbone: String,
    /// Name of its dataset.
    pub dataset: String,
    /// Side of the input in pixels.
    pub input_size: u32,
    /// The radius that training ends at.
    pub target_epsilon: Epsilon,
    /// The schedule's label, such as `ramp 12-37`.
    pub epsilon_schedule: String,
    /// Seed of everything random.
    pub seed: u64,
    /// The budget.
    pub epochs: u32,
    /// Effective batch size.
    pub batch_size: u32,
    /// Of the backbone, before its schedule.
    pub learning_rate: f64,
    /// Where it stands.
    pub state: State,
    /// Why its latest attempt failed, if it did.
    pub failure: Option<Failure>,
    /// Number of attempts.
    pub attempts: u32,
    /// Whether it waits for a run that failed or was cancelled.
    pub blocked: bool,
    /// Epochs trained and validated so far.
    pub epochs_done: u32,
    /// Accuracy without an attack.
    pub clean: Option<f64>,
    /// Accuracy under attack at the target epsilon.
    pub robust: Option<f64>,
    /// See [`sweep_core::metrics::expected_robustness`]; `None` while a point is missing.
    pub expected_robustness: Option<f64>,
    /// See [`sweep_core::metrics::delay`]; `None` while it is open.
    pub delay: Option<u32>,
    /// See [`sweep_core::metrics::delay_above_chance`]; `None` while it is open or the number of classes unknown.
    pub delay_above_chance: Option<u32>,
    /// Clean accuracy on the validation split after the last epoch.
    pub validation_clean: Option<f64>,
    /// See [`sweep_core::metrics::clean_drop`]; `None` without a finished run of standard fine-tuning.
    pub clean_drop: Option<f64>,
    /// Training time of all epochs, validation left out: also of those that another run trained, so that it is what the
    /// run's training costs by itself.
    pub train_seconds: Option<f64>,
    /// Epochs that another run trained: this one went on from its checkpoint.
    pub shared_epochs: u32,
    /// Images in the test split.
    pub test_total: Option<u32>,
}

impl Reader {
    /// Returns the results of a sweep's runs in the order of expansion, or of all runs in the order of their ids.
    pub async fn results(&self, sweep: Option<SweepId>) -> Result<Vec<ResultRow>> {
        let failed = self.failed("read results");
        let query = match sweep {
            Some(sweep) => sqlx::query_as(
                "SELECT r.* FROM sweep_runs s JOIN results r ON r.id = s.run WHERE s.sweep = ? ORDER BY s.position",
            )
            .bind(sweep.0),
            None => sqlx::query_as("SELECT * FROM results ORDER BY id"),
        };
        query.fetch_all(self.pool()).await.map_err(failed)
    }

    /// Returns the results of one run, or `None` for an unknown one.
    pub async fn result_of(&self, run: RunId) -> Result<Option<ResultRow>> {
        sqlx::query_as("SELECT * FROM results WHERE id = ?")
            .bind(run.to_string())
            .fetch_optional(self.pool())
            .await
            .map_err(self.failed("read the results of a run"))
    }
}

impl FromRow<'_, SqliteRow> for ResultRow {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        Ok(Self {
            id: row::run_id(row, "id")?,
            backbone: row.try_get("backbone")?,
            dataset: row.try_get("dataset")?,
            input_size: row.try_get("input_size")?,
            target_epsilon: row::parse(row.try_get("target_epsilon")?, "target_epsilon")?,
            epsilon_schedule: row.try_get("epsilon_schedule")?,
            seed: row::unsigned(row, "seed")?,
            epochs: row.try_get("epochs")?,
            batch_size: row.try_get("batch_size")?,
            learning_rate: row.try_get("learning_rate")?,
            state: row.try_get("state")?,
            failure: row::failure(row)?,
            attempts: row.try_get("attempts")?,
            blocked: row.try_get("blocked")?,
            epochs_done: row.try_get("epochs_done")?,
            clean: row.try_get("clean")?,
            robust: row.try_get("robust")?,
            expected_robustness: row.try_get("expected_robustness")?,
            delay: row.try_get("delay")?,
            delay_above_chance: row.try_get("delay_above_chance")?,
            validation_clean: row.try_get("validation_clean")?,
            clean_drop: row.try_get("clean_drop")?,
            train_seconds: row.try_get("train_seconds")?,
            shared_epochs: row.try_get("shared_epochs")?,
            test_total: row.try_get("test_total")?,
        })
    }
}
