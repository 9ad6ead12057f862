//! Attempts: claiming a run, following it, settling it.

use serde::Serialize;
use serde_json::json;
use sqlx::sqlite::SqliteRow;
use sqlx::{Connection as _, FromRow, Row as _, SqliteConnection};
use sweep_core::event::Phase;
use sweep_core::spec::RunId;

use crate::error::Result;
use crate::reader::Reader;
use crate::row;
use crate::state::{Failure, State};
use crate::store::Store;

/// How an attempt ended, and what that means for its run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The run is complete.
    Succeeded,
    /// The attempt stopped on request; the run waits for another.
    Interrupted,
    /// The attempt failed.
    Failed {
        /// Why.
        failure: Failure,
        /// Whether the run goes back to pending for another attempt, or is given up.
        retry: bool,
    },
    /// The run was taken out by somebody.
    Cancelled,
}

/// The end of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// How it ended.
    pub outcome: Outcome,
    /// Exit code of the worker, where it exited.
    pub exit_code: Option<i32>,
    /// Signal that ended the worker, where one did.
    pub signal: Option<i32>,
    /// Last lines of its log, worth keeping for a failure.
    pub log_tail: Option<String>,
    /// Largest micro batch that is worth another attempt, at least 1; `None` leaves what the run has.
    pub micro_batch_limit: Option<u32>,
}

impl Settlement {
    /// Returns a settlement with nothing known but the outcome.
    pub const fn new(outcome: Outcome) -> Self {
        Self { outcome, exit_code: None, signal: None, log_tail: None, micro_batch_limit: None }
    }
}

/// A worker's last word, as ingested; the truth about an attempt whose scheduler died.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Report {
    /// The run is complete.
    Succeeded,
    /// It stopped on request.
    Interrupted,
    /// It failed.
    Failed(Failure),
}

/// An attempt that nobody has settled yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningAttempt {
    /// The run.
    pub run: RunId,
    /// The attempt's number, from 1.
    pub attempt: u32,
    /// Who claimed it.
    pub scheduler: String,
    /// When it was claimed.
    pub started_ms: i64,
    /// How many bytes of its `events.jsonl` are ingested.
    pub byte_offset: u64,
    /// The worker's last word, if it is ingested.
    pub report: Option<Report>,
    /// Host of the worker, once it has said so; likewise the next two.
    pub host: Option<String>,
    /// Process id of the worker.
    pub pid: Option<u32>,
    /// When the worker's process started, in clock ticks since its host did.
    pub process_start: Option<u64>,
}

/// What cancelling did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cancelled {
    /// Runs that waited and are cancelled now.
    pub cancelled: u64,
    /// Runs that are running: whoever has their worker in hand is to stop it.
    pub asked_to_stop: u64,
}

/// What the GPU of an attempt was asked for, other programs on it included.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct DeviceUse {
    /// Most memory in use at any look, in bytes.
    pub memory_bytes: u64,
    /// Its memory, in bytes.
    pub memory_total_bytes: u64,
    /// Share of the time in which it computed anything, in [0, 1].
    pub utilization: f64,
}

/// Where an attempt is, by its progress events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// What it does.
    pub phase: Phase,
    /// The epoch, from 0 (training), or the epochs trained (evaluation).
    pub epoch: u32,
    /// Steps done in this phase.
    pub step: u32,
    /// Steps of this phase.
    pub steps: u32,
    /// When the worker said so first: since then it has not moved.
    pub time_ms: i64,
}

/// One execution of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Attempt {
    /// From 1.
    pub number: u32,
    /// Where it stands; never pending.
    pub state: State,
    /// Who claimed it.
    pub scheduler: String,
    /// When it was claimed.
    pub started_ms: i64,
    /// When it was settled.
    pub ended_ms: Option<i64>,
    /// Host of the worker.
    pub host: Option<String>,
    /// Process id of the worker.
    pub pid: Option<u32>,
    /// Device of the worker.
    pub device: Option<String>,
    /// Threads of the worker.
    pub threads: Option<u32>,
    /// Version of the program.
    pub version: Option<String>,
    /// Completed epochs of the checkpoint that it went on from.
    pub resumed_from: Option<u32>,
    /// The run that wrote that checkpoint, if another one.
    pub resumed_run: Option<RunId>,
    /// Images a forward pass.
    pub micro_batch_size: Option<u32>,
    /// What its GPU was asked for, where it has one that says so.
    pub device_use: Option<DeviceUse>,
    /// Exit code of the worker.
    pub exit_code: Option<i32>,
    /// Signal that ended the worker.
    pub signal: Option<i32>,
    /// Why it failed.
    pub failure: Option<Failure>,
    /// Last lines of its log.
    pub log_tail: Option<String>,
    /// Where it is, or was last.
    pub progress: Option<Progress>,
    /// When the worker said anything last. A worker that hangs is heard and does not move; one that died is not heard.
    pub heard_ms: Option<i64>,
}

impl Store {
    /// Takes a run that is pending or interrupted: it is running from now on, and the number of the new attempt is
    /// returned. `None` where somebody else was faster, or the run is in another state, with Slurm, or unknown.
    ///
    /// Whether the run that it starts from has succeeded is for the caller to know.
    pub async fn claim(&self, run: RunId, scheduler: &str, now_ms: i64) -> Result<Option<u32>> {
        let failed = self.failed("claim a run");
        let mut writer = self.writer.lock().await;
        let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        let attempt = take(&mut transaction, run, now_ms).await.map_err(failed)?;
        if let Some(attempt) = attempt {
            insert_attempt(&mut transaction, run, attempt, scheduler, now_ms).await.map_err(failed)?;
        }
        transaction.commit().await.map_err(failed)?;
        Ok(attempt)
    }

    /// Enters an attempt under a number that is already on disk, as a rebuild from event files does. Attempts of a run
    /// must come in order. Returns whether the run was free and the number unused.
    pub async fn restore_attempt(
        &self,
        run: RunId,
        attempt: u32,
        scheduler: &str,
        started_ms: i64,
    ) -> Result<bool> {
        let failed = self.failed("restore an attempt");
        let mut writer = self.writer.lock().await;
        let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        let taken = sqlx::query(
            "UPDATE runs SET state = 'running', attempts = ?2, failure_class = NULL, failure_message = NULL,
                updated_ms = ?3
             WHERE id = ?1 AND state <> 'running' AND attempts < ?2",
        )
        .bind(run.to_string())
        .bind(attempt)
        .bind(started_ms)
        .execute(&mut *transaction)
        .await
        .map_err(failed)?;
        if taken.rows_affected() == 0 {
            return Ok(false);
        }
        insert_attempt(&mut transaction, run, attempt, scheduler, started_ms).await.map_err(failed)?;
        transaction.commit().await.map_err(failed)?;
        Ok(true)
    }

    /// Ends an attempt and moves its run on. Takes effect only while the attempt is running; returns whether it did, so
    /// that of two schedulers that settle one attempt, one wins and the other hears of it.
    ///
    /// A run that somebody has asked to cancel is cancelled where it would go on later otherwise: one that was interrupted,
    /// or failed with a retry to come. Transient failures are counted since the last progress: the count begins anew, at
    /// 1, with an attempt that has saved a checkpoint. Workers save none at the place where they began, so that each one lies
    /// further; what was trained without being saved is no progress, since the next attempt does it again.
    pub async fn settle(
        &self,
        run: RunId,
        attempt: u32,
        settlement: &Settlement,
        now_ms: i64,
    ) -> Result<bool> {
        let failed = self.failed("settle an attempt");
        let mut writer = self.writer.lock().await;
        let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        let settled =
            settle_within(&mut transaction, run, attempt, settlement, now_ms).await.map_err(failed)?;
        transaction.commit().await.map_err(failed)?;
        Ok(settled)
    }

    /// Makes failed, cancelled and interrupted runs pending again, with a fresh allowance of transient failures and the
    /// micro batch of their specification; returns how many that were. Their attempts and measurements stay.
    pub async fn reset(&self, runs: &[RunId], now_ms: i64) -> Result<u64> {
        let mut writer = self.writer.lock().await;
        let done = sqlx::query(
            "UPDATE runs SET state = 'pending', transient_failures = 0, failure_class = NULL, failure_message = NULL,
                micro_batch_limit = NULL, updated_ms = ?2
             WHERE id IN (SELECT value FROM json_each(?1)) AND state IN ('failed', 'cancelled', 'interrupted')",
        )
        .bind(json!(runs).to_string())
        .bind(now_ms)
        .execute(&mut *writer)
        .await
        .map_err(self.failed("reset runs"))?;
        Ok(done.rows_affected())
    }

    /// Cancels runs that are pending or interrupted at once, and notes for running ones that they are to be stopped:
    /// see [`Reader::cancel_requests`]. Runs in other states are left alone.
    pub async fn cancel(&self, runs: &[RunId], now_ms: i64) -> Result<Cancelled> {
        let failed = self.failed("cancel runs");
        let runs = json!(runs).to_string();
        let mut writer = self.writer.lock().await;
        let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        let cancelled = sqlx::query(
            "UPDATE runs SET state = 'cancelled', updated_ms = ?2
             WHERE id IN (SELECT value FROM json_each(?1)) AND state IN ('pending', 'interrupted')",
        )
        .bind(runs.clone())
        .bind(now_ms)
        .execute(&mut *transaction)
        .await
        .map_err(failed)?;
        let asked = sqlx::query(
            "UPDATE runs SET cancel_requested_ms = coalesce(cancel_requested_ms, ?2)
             WHERE id IN (SELECT value FROM json_each(?1)) AND state = 'running'",
        )
        .bind(runs)
        .bind(now_ms)
        .execute(&mut *transaction)
        .await
        .map_err(failed)?;
        transaction.commit().await.map_err(failed)?;
        Ok(Cancelled { cancelled: cancelled.rows_affected(), asked_to_stop: asked.rows_affected() })
    }
}

impl Reader {
    /// Returns every attempt that is not settled, of all sweeps and schedulers.
    pub async fn running_attempts(&self) -> Result<Vec<RunningAttempt>> {
        sqlx::query_as(
            "SELECT run, number, scheduler, started_ms, byte_offset, reported, failure_class, failure_message, host, pid,
                process_start
             FROM attempts WHERE state = 'running' ORDER BY started_ms, run",
        )
        .fetch_all(self.pool())
        .await
        .map_err(self.failed("list running attempts"))
    }

    /// Returns which of `runs` are running and are to be stopped because somebody has cancelled them.
    pub async fn cancel_requests(&self, runs: &[RunId]) -> Result<Vec<RunId>> {
        // Few at any time, in an index of their own; the list of runs may be long.
        let asked = sqlx::query("SELECT id FROM runs WHERE cancel_requested_ms IS NOT NULL")
            .try_map(|row: SqliteRow| row::run_id(&row, "id"))
            .fetch_all(self.pool())
            .await
            .map_err(self.failed("find runs to stop"))?;
        Ok(asked.into_iter().filter(|run| runs.contains(run)).collect())
    }

    /// Returns every attempt of a run, the first one first.
    pub async fn attempts_of(&self, run: RunId) -> Result<Vec<Attempt>> {
        sqlx::query_as("SELECT * FROM attempts WHERE run = ? ORDER BY number")
            .bind(run.to_string())
            .fetch_all(self.pool())
            .await
            .map_err(self.failed("list the attempts of a run"))
    }
}

async fn take(connection: &mut SqliteConnection, run: RunId, now_ms: i64) -> sqlx::Result<Option<u32>> {
    sqlx::query_scalar(
        "UPDATE runs SET state = 'running', attempts = attempts + 1, failure_class = NULL, failure_message = NULL,
            updated_ms = ?2
         WHERE id = ?1 AND state IN ('pending', 'interrupted')
            AND NOT EXISTS (SELECT 1 FROM submissions s WHERE s.run = ?1 AND s.is_open = 1)
         RETURNING attempts",
    )
    .bind(run.to_string())
    .bind(now_ms)
    .fetch_optional(connection)
    .await
}

pub(crate) async fn insert_attempt(
    connection: &mut SqliteConnection,
    run: RunId,
    attempt: u32,
    scheduler: &str,
    now_ms: i64,
) -> sqlx::Result<()> {
    sqlx::query("INSERT INTO attempts (run, number, scheduler, started_ms) VALUES (?, ?, ?, ?)")
        .bind(run.to_string())
        .bind(attempt)
        .bind(scheduler.to_owned())
        .bind(now_ms)
        .execute(connection)
        .await
        .map(drop)
}

pub(crate) async fn settle_within(
    connection: &mut SqliteConnection,
    run: RunId,
    attempt: u32,
    settlement: &Settlement,
    now_ms: i64,
) -> sqlx::Result<bool> {
    let before = Before::of(connection, run, attempt).await?;
    let ends = Ends::of(&settlement.outcome).or_cancelled(before.is_cancelled);
    let settled = sqlx::query(
        "UPDATE attempts SET state = ?3, ended_ms = ?4, exit_code = ?5, signal = ?6, log_tail = ?7,
            failure_class = ?8, failure_message = ?9
         WHERE run = ?1 AND number = ?2 AND state = 'running'",
    )
    .bind(run.to_string())
    .bind(attempt)
    .bind(ends.attempt)
    .bind(now_ms)
    .bind(settlement.exit_code)
    .bind(settlement.signal)
    .bind(settlement.log_tail.clone())
    .bind(ends.class())
    .bind(ends.message())
    .execute(&mut *connection)
    .await?;
    if settled.rows_affected() == 0 {
        return Ok(false);
    }
    let limit = settlement.micro_batch_limit;
    move_run_on(connection, run, &ends, &before, limit, now_ms).await?;
    Ok(true)
}

/// What settling must know of the run and the attempt.
struct Before {
    /// Whether somebody has asked to cancel the run while it was running.
    is_cancelled: bool,
    /// Transient failures so far, without those before the last progress.
    transient_failures: u32,
}

impl Before {
    async fn of(connection: &mut SqliteConnection, run: RunId, attempt: u32) -> sqlx::Result<Self> {
        let found = sqlx::query_as(
            "SELECT cancel_requested_ms IS NOT NULL, CASE WHEN EXISTS (
                SELECT 1 FROM checkpoints WHERE run = ?1 AND attempt = ?2
             ) THEN 0 ELSE transient_failures END
             FROM runs WHERE id = ?1",
        )
        .bind(run.to_string())
        .bind(attempt)
        .fetch_optional(connection)
        .await?;
        let (is_cancelled, transient_failures) = found.unwrap_or_default();
        Ok(Self { is_cancelled, transient_failures })
    }
}

async fn move_run_on(
    connection: &mut SqliteConnection,
    run: RunId,
    ends: &Ends<'_>,
    before: &Before,
    micro_batch_limit: Option<u32>,
    now_ms: i64,
) -> sqlx::Result<()> {
    let is_transient = ends.failure.is_some_and(|failure| failure.class.is_transient());
    sqlx::query(
        "UPDATE runs SET state = ?2, failure_class = ?3, failure_message = ?4,
            transient_failures = coalesce(?5, transient_failures), updated_ms = ?6,
            micro_batch_limit = coalesce(?7, micro_batch_limit), cancel_requested_ms = NULL
         WHERE id = ?1",
    )
    .bind(run.to_string())
    .bind(ends.run)
    .bind(ends.class())
    .bind(ends.message())
    .bind(is_transient.then_some(before.transient_failures + 1))
    .bind(now_ms)
    .bind(micro_batch_limit)
    .execute(connection)
    .await
    .map(drop)
}

/// The states that an outcome leaves behind.
struct Ends<'a> {
    attempt: State,
    run: State,
    failure: Option<&'a Failure>,
}

impl<'a> Ends<'a> {
    fn of(outcome: &'a Outcome) -> Self {
        let same = |state| Self { attempt: state, run: state, failure: None };
        match outcome {
            Outcome::Succeeded => same(State::Succeeded),
            Outcome::Interrupted => same(State::Interrupted),
            Outcome::Cancelled => same(State::Cancelled),
            Outcome::Failed { failure, retry } => {
                let run = if *retry { State::Pending } else { State::Failed };
                Self { attempt: State::Failed, run, failure: Some(failure) }
            }
        }
    }

    /// Where the run would go on later: it does not if it `is_cancelled`.
    fn or_cancelled(mut self, is_cancelled: bool) -> Self {
        if is_cancelled && self.run.is_claimable() {
            self.run = State::Cancelled;
            if self.attempt == State::Interrupted {
                self.attempt = State::Cancelled;
            }
        }
        self
    }

    fn class(&self) -> Option<&'static str> {
        self.failure.map(|failure| failure.class.label())
    }

    fn message(&self) -> Option<String> {
        self.failure.map(|failure| failure.message.clone())
    }
}

impl FromRow<'_, SqliteRow> for RunningAttempt {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        Ok(Self {
            run: row::run_id(row, "run")?,
            attempt: row.try_get("number")?,
            scheduler: row.try_get("scheduler")?,
            started_ms: row.try_get("started_ms")?,
            byte_offset: row::unsigned(row, "byte_offset")?,
            report: report(row)?,
            host: row.try_get("host")?,
            pid: row.try_get("pid")?,
            process_start: row::optional_unsigned(row, "process_start")?,
        })
    }
}

/// Reads `reported` with its failure.
pub(crate) fn report(row: &SqliteRow) -> sqlx::Result<Option<Report>> {
    Ok(match row.try_get::<Option<State>, _>("reported")? {
        Some(State::Succeeded) => Some(Report::Succeeded),
        Some(State::Interrupted) => Some(Report::Interrupted),
        Some(State::Failed) => row::failure(row)?.map(Report::Failed),
        _ => None,
    })
}

impl FromRow<'_, SqliteRow> for Attempt {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        Ok(Self {
            number: row.try_get("number")?,
            state: row.try_get("state")?,
            scheduler: row.try_get("scheduler")?,
            started_ms: row.try_get("started_ms")?,
            ended_ms: row.try_get("ended_ms")?,
            host: row.try_get("host")?,
            pid: row.try_get("pid")?,
            device: row.try_get("device")?,
            threads: row.try_get("threads")?,
            version: row.try_get("version")?,
            resumed_from: row.try_get("resumed_from")?,
            resumed_run: row::optional_run_id(row, "resumed_run")?,
            micro_batch_size: row.try_get("micro_batch_size")?,
            device_use: device_use(row)?,
            exit_code: row.try_get("exit_code")?,
            signal: row.try_get("signal")?,
            failure: row::failure(row)?,
            log_tail: row.try_get("log_tail")?,
            progress: progress(row)?,
            heard_ms: row.try_get("heard_ms")?,
        })
    }
}

fn device_use(row: &SqliteRow) -> sqlx::Result<Option<DeviceUse>> {
    let Some(memory_bytes) = row.try_get::<Option<i64>, _>("device_memory_bytes")? else {
        return Ok(None);
    };
    Ok(Some(DeviceUse {
        memory_bytes: memory_bytes.unsigned_abs(),
        memory_total_bytes: row.try_get::<i64, _>("device_memory_total_bytes")?.unsigned_abs(),
        utilization: row.try_get("device_utilization")?,
    }))
}

/// Reads where an attempt was last.
pub(crate) fn progress(row: &SqliteRow) -> sqlx::Result<Option<Progress>> {
    let Some(phase) = row.try_get::<Option<&str>, _>("progress_phase")? else {
        return Ok(None);
    };
    Ok(Some(Progress {
        phase: row::label(phase, "progress_phase")?,
        epoch: row.try_get("progress_epoch")?,
        step: row.try_get("progress_step")?,
        steps: row.try_get("progress_steps")?,
        time_ms: row.try_get("progress_ms")?,
    }))
}
