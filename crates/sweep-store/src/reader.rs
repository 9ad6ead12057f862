//! The reading side.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::json;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqliteRow};
use sqlx::{FromRow, Row as _};
use sweep_core::spec::{RunId, RunSpec};

use crate::connection;
use crate::error::{Error, Result};
use crate::register::SweepId;
use crate::row;
use crate::state::{RunState, State};

/// The results database, open for reading only: nothing called through it can change the file.
#[derive(Clone, Debug)]
pub struct Reader {
    path: PathBuf,
    pool: SqlitePool,
    options: SqliteConnectOptions,
    /// Schema version of the file, where it is newer than this program's.
    newer: Option<i64>,
}

impl Reader {
    /// Opens an existing database.
    ///
    /// A file of a newer schema is read where it says that this program can (`meta.min_reader`; see [`Self::note`]). On a
    /// network's file system a file is read as it is, provided that nobody writes it.
    ///
    /// # Errors
    /// [`Error::Missing`]; [`Error::Older`], which a writer repairs; [`Error::Newer`]; [`Error::NetworkDatabase`] for a file
    /// that somebody writes there; [`Error::Database`] for one that cannot be read.
    ///
    /// SQLite coordinates readers and writers through files next to the database. In a folder where none can be
    /// created, such as a read-only copy of somebody's results, a file that no writer has open is read as it is.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        if connection::is_remote(path)? {
            return Self::as_it_is(path).await;
        }
        let reader = Self::unchecked(path);
        match connection::check_readable(path, &reader.pool).await {
            Err(error) if connection::is_lone_file(path, &error) => Self::as_it_is(path).await,
            checked => checked.map(|newer| Self { newer, ..reader }),
        }
    }

    /// Opens a file that nobody writes, without files beside it.
    async fn as_it_is(path: &Path) -> Result<Self> {
        let lone = Self::with(path, connection::reading_options(path).immutable(true));
        let newer = connection::check_readable(path, &lone.pool).await?;
        Ok(Self { newer, ..lone })
    }

    /// Returns a reader of a file that is known to be up to date.
    pub(crate) fn unchecked(path: &Path) -> Self {
        Self::with(path, connection::reading_options(path))
    }

    fn with(path: &Path, options: SqliteConnectOptions) -> Self {
        Self { path: path.to_owned(), pool: connection::reading_pool(options.clone()), options, newer: None }
    }

    /// Returns a reader of the same file through other connections.
    pub(crate) fn with_pool(&self, pool: SqlitePool) -> Self {
        Self { pool, ..self.clone() }
    }

    /// Returns the settings of this reader's connections.
    pub(crate) fn options(&self) -> SqliteConnectOptions {
        self.options.clone()
    }

    /// Returns the database file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns what people should know about the file, if anything.
    pub fn note(&self) -> Option<String> {
        let newer = self.newer?;
        Some(format!(
            "{}: written by a newer version of sweep (schema {newer}); this one shows what it understands of it",
            self.path.display()
        ))
    }

    /// Closes every connection of this reader and its clones.
    pub async fn close(self) {
        self.pool.close().await;
    }

    /// Returns where every run of a sweep stands, in the order of expansion.
    pub async fn run_states(&self, sweep: SweepId) -> Result<Vec<RunState>> {
        sqlx::query_as(
            "SELECT r.id, s.position, r.state, r.attempts, r.transient_failures, r.depends_on, r.failure_class,
                    r.failure_message, r.micro_batch_limit,
                    EXISTS (SELECT 1 FROM submissions u WHERE u.run = r.id AND u.is_open = 1) AS is_submitted
             FROM sweep_runs s JOIN runs r ON r.id = s.run
             WHERE s.sweep = ? ORDER BY s.position",
        )
        .bind(sweep.0)
        .fetch_all(&self.pool)
        .await
        .map_err(self.failed("read where the runs of a sweep stand"))
    }

    /// Returns where these runs stand, in the order asked for; runs that are not stored are left out.
    pub async fn states_of(&self, runs: &[RunId]) -> Result<Vec<RunState>> {
        sqlx::query_as(
            "SELECT r.id, s.key AS position, r.state, r.attempts, r.transient_failures, r.depends_on,
                    r.failure_class, r.failure_message, r.micro_batch_limit,
                    EXISTS (SELECT 1 FROM submissions u WHERE u.run = r.id AND u.is_open = 1) AS is_submitted
             FROM json_each(?) s JOIN runs r ON r.id = s.value
             ORDER BY s.key",
        )
        .bind(json!(runs).to_string())
        .fetch_all(&self.pool)
        .await
        .map_err(self.failed("read where runs stand"))
    }

    /// Returns how many runs are in each state, of one sweep or of all; states without runs are left out.
    pub async fn state_counts(&self, sweep: Option<SweepId>) -> Result<HashMap<State, u64>> {
        let counts: Vec<(State, i64)> = sqlx::query_as(
            "SELECT state, count(*) FROM runs
             WHERE ?1 IS NULL OR id IN (SELECT run FROM sweep_runs WHERE sweep = ?1) GROUP BY state",
        )
        .bind(sweep.map(|sweep| sweep.0))
        .fetch_all(&self.pool)
        .await
        .map_err(self.failed("count runs"))?;
        Ok(counts.into_iter().map(|(state, count)| (state, count.unsigned_abs())).collect())
    }

    /// Returns the specification of a run as it was first registered, or `None` for an unknown run.
    pub async fn spec(&self, run: RunId) -> Result<Option<RunSpec>> {
        let text: Option<String> = sqlx::query_scalar("SELECT spec FROM specs WHERE run = ?")
            .bind(run.to_string())
            .fetch_optional(&self.pool)
            .await
            .map_err(self.failed("read the specification of a run"))?;
        let parse = |text: String| serde_json::from_str(&text);
        text.map(parse).transpose().map_err(|source| Error::Spec { run, source })
    }

    /// Returns every stored run that is in one of `states`, of all sweeps, in the order of their ids.
    ///
    /// # Errors
    /// [`Error::Spec`] for a specification that this program does not understand.
    pub async fn specs_of(&self, states: &[State]) -> Result<Vec<(RunId, State, RunSpec)>> {
        let labels: Vec<&str> = states.iter().map(|state| state.label()).collect();
        let rows: Vec<(RunId, State, String)> = sqlx::query(
            "SELECT r.id, r.state, s.spec FROM runs r JOIN specs s ON s.run = r.id
             WHERE r.state IN (SELECT value FROM json_each(?)) ORDER BY r.id",
        )
        .bind(json!(labels).to_string())
        .try_map(|row: SqliteRow| Ok((row::run_id(&row, "id")?, row.try_get("state")?, row.try_get("spec")?)))
        .fetch_all(&self.pool)
        .await
        .map_err(self.failed("read the specifications of runs"))?;
        let parse = |(run, state, text): (RunId, State, String)| match serde_json::from_str(&text) {
            Ok(spec) => Ok((run, state, spec)),
            Err(source) => Err(Error::Spec { run, source }),
        };
        rows.into_iter().map(parse).collect()
    }

    pub(crate) const fn pool(&self) -> &SqlitePool {
        &self.pool
    }

    pub(crate) fn failed(&self, operation: &'static str) -> impl Fn(sqlx::Error) -> Error + Copy {
        connection::failed(&self.path, operation)
    }
}

impl FromRow<'_, SqliteRow> for RunState {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        Ok(Self {
            id: row::run_id(row, "id")?,
            position: row.try_get("position")?,
            state: row.try_get("state")?,
            attempts: row.try_get("attempts")?,
            transient_failures: row.try_get("transient_failures")?,
            depends_on: row::optional_run_id(row, "depends_on")?,
            failure: row::failure(row)?,
            micro_batch_limit: row.try_get("micro_batch_limit")?,
            is_submitted: row.try_get("is_submitted")?,
        })
    }
}
