//! What a page on a running grid reads: bounded in time, in pages, and told when something has changed.

use std::time::Duration;

use serde_json::json;
use sqlx::sqlite::{SqliteConnection, SqlitePoolOptions, SqliteRow};
use sqlx::{ConnectOptions as _, FromRow, Row as _};
use sweep_core::spec::RunId;

use crate::attempts::{Progress, progress};
use crate::connection::READERS;
use crate::error::{Error, Result};
use crate::query::stop_in;
use crate::reader::Reader;
use crate::register::SweepId;
use crate::results::ResultRow;
use crate::row;
use crate::state::{Failure, State};

/// Says when anything in the file has changed, whoever changed it: SQLite's `data_version` on a connection of its own.
#[derive(Debug)]
pub struct Watch {
    connection: SqliteConnection,
    reader: Reader,
}

/// Runs of one sweep that are equal in what their time depends on most, and how long they took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Name of the backbone.
    pub backbone: String,
    /// Name of the dataset.
    pub dataset: String,
    /// Whether these runs are over (succeeded), still to be done (pending, running or interrupted), or given up.
    pub stage: Stage,
    /// Number of runs.
    pub runs: u64,
    /// Epochs that these runs are to train.
    pub epochs: u64,
    /// Epochs of those that are done.
    pub epochs_done: u64,
    /// Wall-clock time of all their attempts in milliseconds; of one that runs, up to the time asked for.
    pub spent_ms: i64,
}

/// An attempt as a list of news shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// The run.
    pub run: RunId,
    /// What the run is, in a few words.
    pub description: String,
    /// Number of the attempt.
    pub attempt: u32,
    /// Where the attempt stands.
    pub state: State,
    /// When it started.
    pub started_ms: i64,
    /// When it ended; `None` while it runs.
    pub ended_ms: Option<i64>,
    /// Why it failed, if it did.
    pub failure: Option<Failure>,
    /// The host and device of its worker, once that has said so.
    pub place: Option<String>,
    /// Epochs of the run, and how many of them are done.
    pub epochs: (u32, u32),
    /// Where it is, or was last.
    pub progress: Option<Progress>,
    /// When its worker said anything last.
    pub heard_ms: Option<i64>,
}

/// How far a run is from its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// It has succeeded.
    Done,
    /// It is running.
    Running,
    /// It waits, or was interrupted.
    Waiting,
    /// It failed or was cancelled.
    GivenUp,
}

/// Who works on a sweep now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Workers {
    /// Attempts that are not settled.
    pub running: u32,
    /// When the first of these that said anything last did so: a worker that hangs or has died makes this old.
    pub quietest_ms: Option<i64>,
    /// When anything of the sweep changed last: an event, a start or an end.
    pub news_ms: Option<i64>,
}

impl SweepId {
    /// Returns the key as a number, for addresses.
    pub const fn number(self) -> i64 {
        self.0
    }
}

impl Error {
    /// Returns whether a statement was stopped because its time was up.
    pub fn is_timed_out(&self) -> bool {
        match self {
            Self::TimedOut { .. } => true,
            Self::Database { source, .. } => {
                let code = source.as_database_error().and_then(|error| error.code()?.parse::<u32>().ok());
                code == Some(crate::query::INTERRUPTED_CODE)
            }
            _ => false,
        }
    }
}

impl Reader {
    /// Returns a reader of the same file whose statements are stopped when they have run for `time`; see
    /// [`Error::is_timed_out`]. It has connections of its own.
    #[must_use]
    pub fn limited(&self, time: Duration) -> Self {
        // A connection starts a new clock whenever it is taken from the pool, and each statement takes one.
        let pool = SqlitePoolOptions::new()
            .max_connections(READERS)
            .idle_timeout(None)
            .max_lifetime(None)
            .after_connect(move |connection, _| Box::pin(stop_in(connection, time)))
            .before_acquire(move |connection, _| {
                Box::pin(async move { stop_in(connection, time).await.map(|()| true) })
            })
            .connect_lazy_with(self.options());
        self.with_pool(pool)
    }

    /// Begins to watch the file.
    pub async fn watch(&self) -> Result<Watch> {
        let connection = self.options().connect().await.map_err(self.failed("open for reading"))?;
        Ok(Watch { connection, reader: self.clone() })
    }

    /// Returns the results of these runs, in the order asked for; runs that are not stored are left out.
    pub async fn results_of(&self, runs: &[RunId]) -> Result<Vec<ResultRow>> {
        sqlx::query_as("SELECT r.* FROM json_each(?) s JOIN results r ON r.id = s.value ORDER BY s.key")
            .bind(json!(runs).to_string())
            .fetch_all(self.pool())
            .await
            .map_err(self.failed("read the results of runs"))
    }

    /// Returns how long the runs of a sweep took so far, by backbone, dataset and stage.
    pub async fn paces(&self, sweep: SweepId, now_ms: i64) -> Result<Vec<Pace>> {
        sqlx::query_as(
            "SELECT backbone, dataset, stage, count(*) AS runs, sum(epochs) AS epochs,
                    sum(CASE stage WHEN 0 THEN epochs ELSE done END) AS epochs_done, sum(spent) AS spent_ms
             FROM (
                 SELECT r.backbone, r.dataset, r.epochs,
                        CASE WHEN r.state = 'succeeded' THEN 0 WHEN r.state = 'running' THEN 1
                             WHEN EXISTS (SELECT 1 FROM runs d WHERE d.id = r.depends_on
                                          AND d.state IN ('failed', 'cancelled')) THEN 3
                             WHEN r.state IN ('pending', 'interrupted') THEN 2 ELSE 3 END AS stage,
                        (SELECT coalesce(max(e.epoch) + 1, 0) FROM epochs e WHERE e.run = r.id) AS done,
                        (SELECT coalesce(sum(max(coalesce(a.ended_ms, ?2) - a.started_ms, 0)), 0)
                         FROM attempts a WHERE a.run = r.id) AS spent
                 FROM sweep_runs s JOIN runs r ON r.id = s.run WHERE s.sweep = ?1)
             GROUP BY backbone, dataset, stage ORDER BY stage, backbone, dataset",
        )
        .bind(sweep.0)
        .bind(now_ms)
        .fetch_all(self.pool())
        .await
        .map_err(self.failed("read how long runs took"))
    }

    /// Returns who works on a sweep now.
    pub async fn workers(&self, sweep: SweepId) -> Result<Workers> {
        sqlx::query_as(
            "SELECT count(*) AS running, min(coalesce(a.heard_ms, a.started_ms)) AS quietest_ms,
                    (SELECT max(max(coalesce((SELECT max(coalesce(h.heard_ms, h.started_ms), coalesce(h.ended_ms, 0))
                                     FROM attempts h WHERE h.run = r.id AND h.number = r.attempts), 0), r.updated_ms))
                     FROM sweep_runs t JOIN runs r ON r.id = t.run WHERE t.sweep = ?1) AS news_ms
             FROM attempts a
             WHERE a.state = 'running' AND a.run IN (SELECT run FROM sweep_runs WHERE sweep = ?1)",
        )
        .bind(sweep.0)
        .fetch_one(self.pool())
        .await
        .map_err(self.failed("read who works on a sweep"))
    }

    /// Returns the attempts of a sweep that run now, the longest first, at most `most`.
    pub async fn running_in(&self, sweep: SweepId, most: u32) -> Result<Vec<News>> {
        sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "{NEWS} WHERE a.state = 'running' AND r.id IN (SELECT run FROM sweep_runs WHERE sweep = ?1)
             ORDER BY a.started_ms, a.run LIMIT ?2"
        )))
        .bind(sweep.0)
        .bind(most)
        .fetch_all(self.pool())
        .await
        .map_err(self.failed("list running attempts"))
    }

    /// Returns the attempts of a sweep that ended last, the latest first, at most `most`.
    pub async fn ended_in(&self, sweep: SweepId, most: u32) -> Result<Vec<News>> {
        sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "{NEWS} WHERE (a.run, a.number) IN (
                 SELECT l.run, l.number FROM sweep_runs s JOIN attempts l ON l.run = s.run
                 WHERE s.sweep = ?1 AND l.ended_ms IS NOT NULL ORDER BY l.ended_ms DESC, l.run LIMIT ?2)
             ORDER BY a.ended_ms DESC, a.run"
        )))
        .bind(sweep.0)
        .bind(most)
        .fetch_all(self.pool())
        .await
        .map_err(self.failed("list ended attempts"))
    }

    /// Returns the sweeps that list a run, by name.
    pub async fn sweeps_of(&self, run: RunId) -> Result<Vec<(SweepId, String)>> {
        sqlx::query(
            "SELECT s.id, s.name FROM sweep_runs t JOIN sweeps s ON s.id = t.sweep WHERE t.run = ? ORDER BY s.name",
        )
        .bind(run.to_string())
        .try_map(|row: SqliteRow| Ok((SweepId(row.try_get("id")?), row.try_get("name")?)))
        .fetch_all(self.pool())
        .await
        .map_err(self.failed("find the sweeps of a run"))
    }
}

/// Attempts with their runs.
const NEWS: &str = "SELECT a.run, a.number, a.state, a.started_ms, a.ended_ms, a.failure_class, a.failure_message, a.host,
        a.device, a.progress_phase, a.progress_epoch, a.progress_step, a.progress_steps, a.progress_ms, a.heard_ms,
        r.backbone || ' · ' || r.dataset || ' · ' || r.target_epsilon || ' · ' || r.epsilon_schedule || ' · seed ' || r.seed
            AS description,
        r.epochs, (SELECT coalesce(max(e.epoch) + 1, 0) FROM epochs e WHERE e.run = a.run) AS epochs_done
     FROM attempts a JOIN runs r ON r.id = a.run";

impl Watch {
    /// Returns a number that is another one whenever somebody has committed a change since the last call.
    pub async fn version(&mut self) -> Result<i64> {
        sqlx::query_scalar("PRAGMA data_version")
            .fetch_one(&mut self.connection)
            .await
            .map_err(self.reader.failed("look for changes"))
    }
}

impl FromRow<'_, SqliteRow> for Pace {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        let stage = match row.try_get::<u32, _>("stage")? {
            0 => Stage::Done,
            1 => Stage::Running,
            2 => Stage::Waiting,
            _ => Stage::GivenUp,
        };
        Ok(Self {
            backbone: row.try_get("backbone")?,
            dataset: row.try_get("dataset")?,
            stage,
            runs: row::unsigned(row, "runs")?,
            epochs: row::unsigned(row, "epochs")?,
            epochs_done: row::unsigned(row, "epochs_done")?,
            spent_ms: row.try_get("spent_ms")?,
        })
    }
}

impl FromRow<'_, SqliteRow> for Workers {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        Ok(Self {
            running: row.try_get("running")?,
            quietest_ms: row.try_get("quietest_ms")?,
            news_ms: row.try_get("news_ms")?,
        })
    }
}

impl FromRow<'_, SqliteRow> for News {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        let part = |column| row.try_get::<Option<String>, _>(column);
        let place: Vec<String> = [part("host")?, part("device")?].into_iter().flatten().collect();
        Ok(Self {
            run: row::run_id(row, "run")?,
            description: row.try_get("description")?,
            attempt: row.try_get("number")?,
            state: row.try_get("state")?,
            started_ms: row.try_get("started_ms")?,
            ended_ms: row.try_get("ended_ms")?,
            failure: row::failure(row)?,
            place: (!place.is_empty()).then(|| place.join(", ")),
            epochs: (row.try_get("epochs")?, row.try_get("epochs_done")?),
            progress: progress(row)?,
            heard_ms: row.try_get("heard_ms")?,
        })
    }
}
