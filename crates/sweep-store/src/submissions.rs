//! Runs that are with Slurm: which array, which task, and why it does not run.

use std::collections::HashMap;

use serde::Serialize;
use serde_json::json;
use sqlx::sqlite::SqliteRow;
use sqlx::{Connection as _, FromRow, Row as _, SqliteConnection};
use sweep_core::spec::RunId;

use crate::attempts::insert_attempt;
use crate::error::Result;
use crate::reader::Reader;
use crate::row;
use crate::store::Store;

/// A run as a task of an array is to do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Submitted {
    /// The run.
    pub run: RunId,
    /// Attempts of the run before: later ones are the array's.
    pub after: u32,
}

/// A run that is with Slurm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Submission {
    /// Token of the array: its job's name.
    pub generation: String,
    /// Slurm's number of the array; `None` while that is not known.
    pub job: Option<u64>,
    /// Number of the task, from 0.
    pub task: u32,
    /// The run's place in the task, from 0.
    pub place: u32,
    /// The run.
    pub run: RunId,
    /// Attempts of the run before: later ones are the array's.
    pub after: u32,
    /// When the array was about to be submitted.
    pub created_ms: i64,
    /// Why the task does not run, in Slurm's words.
    pub reason: Option<String>,
}

/// What adopting an attempt came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adopted {
    /// The attempt is in the database from now on, and runs.
    Now,
    /// It was there already, and runs.
    Before,
    /// It was there already and is settled, or the run is over, runs elsewhere, or has later attempts.
    Never,
}

impl Store {
    /// Enters an array that is about to be submitted: `tasks` with their runs, in order. Runs that are not pending or
    /// interrupted, or are in another array already, are left out, and tasks without runs with them; what is left is
    /// returned. Where that is nothing, nothing is written.
    pub async fn open_generation(
        &self,
        token: &str,
        tasks: &[Vec<RunId>],
        now_ms: i64,
    ) -> Result<Vec<Vec<Submitted>>> {
        let failed = self.failed("enter an array");
        let mut writer = self.writer.lock().await;
        let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        let free = free_runs(&mut transaction, tasks).await.map_err(failed)?;
        let taken = |run: &RunId| free.get(run).map(|after| Submitted { run: *run, after: *after });
        let tasks: Vec<Vec<Submitted>> = tasks
            .iter()
            .map(|runs| runs.iter().filter_map(taken).collect::<Vec<_>>())
            .filter(|runs| !runs.is_empty())
            .collect();
        if !tasks.is_empty() {
            insert_generation(&mut transaction, token, &tasks, |_| true, now_ms).await.map_err(failed)?;
        }
        transaction.commit().await.map_err(failed)?;
        Ok(tasks)
    }

    /// Enters an array that was submitted, by its folder, as after a rebuild from files: runs that are free, in the places and
    /// after the attempts that the folder names. Returns whether any is.
    pub async fn restore_generation(
        &self,
        token: &str,
        tasks: &[Vec<Submitted>],
        now_ms: i64,
    ) -> Result<bool> {
        let failed = self.failed("restore an array");
        let runs: Vec<Vec<RunId>> =
            tasks.iter().map(|task| task.iter().map(|submitted| submitted.run).collect()).collect();
        let mut writer = self.writer.lock().await;
        let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        let free = free_runs(&mut transaction, &runs).await.map_err(failed)?;
        if !free.is_empty() {
            insert_generation(&mut transaction, token, tasks, |run| free.contains_key(run), now_ms)
                .await
                .map_err(failed)?;
        }
        transaction.commit().await.map_err(failed)?;
        Ok(!free.is_empty())
    }

    /// Notes that an array was submitted, and under which number.
    pub async fn generation_submitted(&self, token: &str, job: u64) -> Result<()> {
        let mut writer = self.writer.lock().await;
        sqlx::query("UPDATE generations SET state = 'open', job = ?2 WHERE token = ?1 AND ended_ms IS NULL")
            .bind(token.to_owned())
            .bind(job as i64)
            .execute(&mut *writer)
            .await
            .map(drop)
            .map_err(self.failed("note the number of an array"))
    }

    /// Notes that an array never was submitted: its runs are free again.
    pub async fn void_generation(&self, token: &str, now_ms: i64) -> Result<()> {
        let failed = self.failed("take an array back");
        let mut writer = self.writer.lock().await;
        let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        sqlx::query("UPDATE submissions SET is_open = 0 WHERE generation = ?")
            .bind(token.to_owned())
            .execute(&mut *transaction)
            .await
            .map_err(failed)?;
        sqlx::query(
            "UPDATE generations SET state = 'void', ended_ms = ?2 WHERE token = ?1 AND ended_ms IS NULL",
        )
        .bind(token.to_owned())
        .bind(now_ms)
        .execute(&mut *transaction)
        .await
        .map_err(failed)?;
        transaction.commit().await.map_err(failed)
    }

    /// Notes that Slurm has nothing more to do with these runs; an array with no other run left is closed. Returns the tokens
    /// of the arrays that are closed now.
    pub async fn end_submissions(&self, runs: &[RunId], now_ms: i64) -> Result<Vec<String>> {
        let failed = self.failed("end submissions");
        let mut writer = self.writer.lock().await;
        let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        sqlx::query(
            "UPDATE submissions SET is_open = 0, reason = NULL
             WHERE is_open = 1 AND run IN (SELECT value FROM json_each(?))",
        )
        .bind(json!(runs).to_string())
        .execute(&mut *transaction)
        .await
        .map_err(failed)?;
        let closed = sqlx::query_scalar(
            "UPDATE generations SET state = 'closed', ended_ms = ?1 WHERE ended_ms IS NULL
                AND NOT EXISTS (SELECT 1 FROM submissions s WHERE s.generation = token AND s.is_open = 1)
             RETURNING token",
        )
        .bind(now_ms)
        .fetch_all(&mut *transaction)
        .await
        .map_err(failed)?;
        transaction.commit().await.map_err(failed)?;
        Ok(closed)
    }

    /// Notes why runs that are with Slurm do not run; `None` for those that have no reason any more.
    pub async fn note_reasons(&self, reasons: &[(RunId, Option<String>)]) -> Result<()> {
        let mut writer = self.writer.lock().await;
        sqlx::query(
            "UPDATE submissions SET reason = given.value ->> 1
             FROM json_each(?) AS given WHERE run = given.value ->> 0 AND is_open = 1",
        )
        .bind(json!(reasons).to_string())
        .execute(&mut *writer)
        .await
        .map(drop)
        .map_err(self.failed("note why runs wait"))
    }

    /// Enters an attempt that a task on another machine has made, under the number that its folder has. It is running from
    /// then on. Doing it again changes nothing, and a run that is over is not touched.
    pub async fn adopt(
        &self,
        run: RunId,
        attempt: u32,
        claimed_by: &str,
        started_ms: i64,
    ) -> Result<Adopted> {
        let failed = self.failed("adopt an attempt");
        let mut writer = self.writer.lock().await;
        let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        let known: Option<bool> =
            sqlx::query_scalar("SELECT state = 'running' FROM attempts WHERE run = ? AND number = ?")
                .bind(run.to_string())
                .bind(attempt)
                .fetch_optional(&mut *transaction)
                .await
                .map_err(failed)?;
        if let Some(is_running) = known {
            return Ok(if is_running { Adopted::Before } else { Adopted::Never });
        }
        let taken = sqlx::query(
            "UPDATE runs SET state = 'running', attempts = ?2, failure_class = NULL, failure_message = NULL,
                updated_ms = ?3
             WHERE id = ?1 AND state IN ('pending', 'interrupted') AND attempts < ?2",
        )
        .bind(run.to_string())
        .bind(attempt)
        .bind(started_ms)
        .execute(&mut *transaction)
        .await
        .map_err(failed)?;
        if taken.rows_affected() == 0 {
            return Ok(Adopted::Never);
        }
        insert_attempt(&mut transaction, run, attempt, claimed_by, started_ms).await.map_err(failed)?;
        transaction.commit().await.map_err(failed)?;
        Ok(Adopted::Now)
    }
}

impl Reader {
    /// Returns every run that is with Slurm, by array, task and place.
    pub async fn open_submissions(&self) -> Result<Vec<Submission>> {
        sqlx::query_as(
            "SELECT s.generation, g.job, s.task, s.place, s.run, s.after, s.reason, g.created_ms
             FROM submissions s JOIN generations g ON g.token = s.generation
             WHERE s.is_open = 1 ORDER BY g.created_ms, s.generation, s.task, s.place",
        )
        .fetch_all(self.pool())
        .await
        .map_err(self.failed("list what is with Slurm"))
    }

    /// Returns whether an array was entered, whatever became of it.
    pub async fn knows_generation(&self, token: &str) -> Result<bool> {
        sqlx::query_scalar("SELECT count(*) > 0 FROM generations WHERE token = ?")
            .bind(token.to_owned())
            .fetch_one(self.pool())
            .await
            .map_err(self.failed("look for an array"))
    }

    /// Returns how many arrays were entered so far, those that never were submitted among them.
    pub async fn generation_count(&self) -> Result<u64> {
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM generations")
            .fetch_one(self.pool())
            .await
            .map_err(self.failed("count arrays"))?;
        Ok(count.unsigned_abs())
    }
}

/// Returns which of these runs are free, and how many attempts each has had.
async fn free_runs(
    connection: &mut SqliteConnection,
    tasks: &[Vec<RunId>],
) -> sqlx::Result<HashMap<RunId, u32>> {
    let runs: Vec<RunId> = tasks.iter().flatten().copied().collect();
    let found = sqlx::query(
        "SELECT id, attempts FROM runs
         WHERE id IN (SELECT value FROM json_each(?)) AND state IN ('pending', 'interrupted')
            AND NOT EXISTS (SELECT 1 FROM submissions s WHERE s.run = runs.id AND s.is_open = 1)",
    )
    .bind(json!(runs).to_string())
    .try_map(|row: SqliteRow| Ok((row::run_id(&row, "id")?, row.try_get("attempts")?)))
    .fetch_all(connection)
    .await?;
    Ok(found.into_iter().collect())
}

async fn insert_generation(
    connection: &mut SqliteConnection,
    token: &str,
    tasks: &[Vec<Submitted>],
    is_in: impl Fn(&RunId) -> bool,
    now_ms: i64,
) -> sqlx::Result<()> {
    sqlx::query("INSERT INTO generations (token, tasks, created_ms) VALUES (?, ?, ?)")
        .bind(token.to_owned())
        .bind(tasks.len() as i64)
        .bind(now_ms)
        .execute(&mut *connection)
        .await?;
    let mut rows = Vec::new();
    for (task, runs) in tasks.iter().enumerate() {
        let entered = runs.iter().enumerate().filter(|(_, submitted)| is_in(&submitted.run));
        for (place, Submitted { run, after }) in entered {
            rows.push(json!([task, place, run, after]));
        }
    }
    sqlx::query(
        "INSERT INTO submissions (generation, task, place, run, after)
         SELECT ?, value ->> 0, value ->> 1, value ->> 2, value ->> 3 FROM json_each(?)",
    )
    .bind(token.to_owned())
    .bind(json!(rows).to_string())
    .execute(connection)
    .await
    .map(drop)
}

impl FromRow<'_, SqliteRow> for Submission {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        Ok(Self {
            generation: row.try_get("generation")?,
            job: row::optional_unsigned(row, "job")?,
            task: row.try_get("task")?,
            place: row.try_get("place")?,
            run: row::run_id(row, "run")?,
            after: row.try_get("after")?,
            created_ms: row.try_get("created_ms")?,
            reason: row.try_get("reason")?,
        })
    }
}
