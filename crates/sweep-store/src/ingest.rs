//! Ingestion: what workers report becomes rows.
//!
//! Event files are not trusted. An event that cannot be (more correct answers than questions, an epoch beyond the budget,
//! another run's name) is refused with a reason, and nothing behind it is believed: for the database the attempt has then
//! failed, and its scheduler hears so as of any other failure. Other attempts are not concerned.

mod check;
mod rows;

use sqlx::{Connection as _, Row as _, SqliteConnection};
use sweep_core::event::{FailureClass, Phase, Record};
use sweep_core::spec::RunId;

pub(crate) use self::check::{Stored, Teller, Trouble, check};
use crate::attempts::{self, Progress, Report, Settlement};
use crate::error::{Error, Result};
use crate::state::Failure;
use crate::store::Store;

/// What ingesting did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ingested {
    /// Records that were not ingested before.
    pub new_records: usize,
    /// The worker's last word so far, whether it came now or before. A failure of class `worker_died` where an event was
    /// refused.
    pub report: Option<Report>,
    /// Which event of the attempt cannot be, and why, if any: neither it nor anything behind it is stored.
    pub refused: Option<String>,
}

impl Store {
    /// Stores the next records of an attempt's event file, in one transaction, together with how far the file has been
    /// read. Records must come in the order of the file. What was ingested before is skipped by its sequence number,
    /// so that reading a file twice, or from the start, changes nothing; events of newer versions are passed over.
    ///
    /// Settled attempts take events too: a late scheduler may read what is left, and a rebuild reads everything.
    ///
    /// # Errors
    /// [`Error::UnknownAttempt`], [`Error::Database`]. An event that cannot be is no error: see [`Ingested::refused`].
    pub async fn ingest(
        &self,
        run: RunId,
        attempt: u32,
        records: &[Record],
        byte_offset: u64,
    ) -> Result<Ingested> {
        let failed = self.failed("ingest events");
        let mut writer = self.writer.lock().await;
        let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        let target = Target::new(run, attempt);
        let stored = ingest_within(&mut transaction, &target, records, byte_offset).await.map_err(failed)?;
        let ingested = stored.ok_or(Error::UnknownAttempt { run, attempt })?;
        transaction.commit().await.map_err(failed)?;
        Ok(ingested)
    }

    /// Ingests the last records of an attempt and settles it in the same transaction: [`Self::ingest`], then
    /// [`Self::settle`] with what `decide` makes of the worker's last word. Returns whether the settlement took effect.
    pub async fn ingest_and_settle(
        &self,
        run: RunId,
        attempt: u32,
        records: &[Record],
        byte_offset: u64,
        now_ms: i64,
        decide: impl FnOnce(Option<Report>) -> Settlement + Send,
    ) -> Result<bool> {
        let failed = self.failed("ingest the end of an attempt");
        let mut writer = self.writer.lock().await;
        let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        let target = Target::new(run, attempt);
        let stored = ingest_within(&mut transaction, &target, records, byte_offset).await.map_err(failed)?;
        let ingested = stored.ok_or(Error::UnknownAttempt { run, attempt })?;
        let settlement = decide(ingested.report);
        let settled = attempts::settle_within(&mut transaction, run, attempt, &settlement, now_ms).await;
        let settled = settled.map_err(failed)?;
        transaction.commit().await.map_err(failed)?;
        Ok(settled)
    }
}

/// The attempt that rows belong to.
struct Target {
    run: String,
    attempt: u32,
    teller: Teller,
}

impl Target {
    fn new(run: RunId, attempt: u32) -> Self {
        Self { run: run.to_string(), attempt, teller: Teller::attempt(run, attempt) }
    }
}

/// Returns `None` for an attempt that does not exist.
async fn ingest_within(
    connection: &mut SqliteConnection,
    target: &Target,
    records: &[Record],
    byte_offset: u64,
) -> sqlx::Result<Option<Ingested>> {
    let Some(mark) = high_water(connection, target).await? else {
        return Ok(None);
    };
    let mut latest = Latest { sequence: mark.sequence, heard_ms: None, progress: mark.progress };
    let mut ingested = Ingested { new_records: 0, report: mark.report, refused: mark.refused };
    for record in records {
        // A number beyond the largest one is no old one: it is refused.
        let is_old = i64::try_from(record.sequence).is_ok_and(|sequence| sequence <= latest.sequence);
        if is_old {
            continue;
        }
        if ingested.refused.is_some() {
            break;
        }
        match believe(connection, target, mark.epochs, record, &mut latest).await {
            Ok(report) => {
                ingested.new_records += 1;
                ingested.report = report.or(ingested.report);
            }
            Err(Trouble::Failed(error)) => return Err(error),
            Err(Trouble::Impossible(reason)) => {
                let reason = target.teller.refuses(record, &reason);
                ingested.report = Some(refuse(connection, target, &reason).await?);
                ingested.refused = Some(reason);
            }
        }
    }
    advance(connection, target, &latest, byte_offset).await?;
    Ok(Some(ingested))
}

/// Stores an event if it can be; returns the worker's last word where it is one.
async fn believe(
    connection: &mut SqliteConnection,
    target: &Target,
    epochs: u32,
    record: &Record,
    latest: &mut Latest,
) -> Stored<Option<Report>> {
    let sequence = check(record, &target.teller, epochs)?;
    let report = rows::store(connection, target, record, latest).await?;
    latest.sequence = sequence;
    latest.heard_ms = Some(record.time_ms);
    Ok(report)
}

/// Keeps that an event was refused: what is behind it is not believed later either.
async fn refuse(connection: &mut SqliteConnection, target: &Target, reason: &str) -> sqlx::Result<Report> {
    sqlx::query("UPDATE attempts SET refused = ?3 WHERE run = ?1 AND number = ?2")
        .bind(target.run.clone())
        .bind(target.attempt)
        .bind(reason.to_owned())
        .execute(&mut *connection)
        .await?;
    let failure = Failure { class: FailureClass::WorkerDied, message: reason.to_owned() };
    rows::reported(connection, target, Report::Failed(failure)).await
}

/// How far an attempt's events have been ingested.
struct HighWater {
    sequence: i64,
    /// The budget of the run.
    epochs: u32,
    refused: Option<String>,
    progress: Option<Progress>,
    report: Option<Report>,
}

/// What is kept of a batch beyond its rows.
struct Latest {
    sequence: i64,
    heard_ms: Option<i64>,
    progress: Option<Progress>,
}

impl Latest {
    /// Takes a position over; the time of one that stays is when it was reached.
    fn be_at(&mut self, position: Progress) {
        let same = |before: &Progress| Progress { time_ms: position.time_ms, ..*before } == position;
        if !self.progress.as_ref().is_some_and(same) {
            self.progress = Some(position);
        }
    }
}

async fn high_water(connection: &mut SqliteConnection, target: &Target) -> sqlx::Result<Option<HighWater>> {
    sqlx::query(
        "SELECT a.last_sequence, a.refused, a.reported, a.failure_class, a.failure_message, a.progress_phase,
            a.progress_epoch, a.progress_step, a.progress_steps, a.progress_ms, r.epochs
         FROM attempts a JOIN runs r ON r.id = a.run WHERE a.run = ? AND a.number = ?",
    )
    .bind(target.run.clone())
    .bind(target.attempt)
    .try_map(|row: sqlx::sqlite::SqliteRow| {
        Ok(HighWater {
            sequence: row.try_get("last_sequence")?,
            epochs: row.try_get("epochs")?,
            refused: row.try_get("refused")?,
            progress: attempts::progress(&row)?,
            report: attempts::report(&row)?,
        })
    })
    .fetch_optional(connection)
    .await
}

/// Advances the marks; they never go back, so that a replay from the start of a file leaves them where they are.
async fn advance(
    connection: &mut SqliteConnection,
    target: &Target,
    latest: &Latest,
    byte_offset: u64,
) -> sqlx::Result<()> {
    let progress = latest.progress;
    sqlx::query(
        "UPDATE attempts SET last_sequence = ?3, byte_offset = max(byte_offset, ?4), progress_phase = ?5,
            progress_epoch = ?6, progress_step = ?7, progress_steps = ?8, progress_ms = ?9,
            heard_ms = coalesce(?10, heard_ms)
         WHERE run = ?1 AND number = ?2",
    )
    .bind(target.run.clone())
    .bind(target.attempt)
    .bind(latest.sequence)
    .bind(byte_offset as i64)
    .bind(progress.map(|at| phase_label(at.phase)))
    .bind(progress.map(|at| at.epoch))
    .bind(progress.map(|at| at.step))
    .bind(progress.map(|at| at.steps))
    .bind(progress.map(|at| at.time_ms))
    .bind(latest.heard_ms)
    .execute(connection)
    .await
    .map(drop)
}

const fn phase_label(phase: Phase) -> &'static str {
    match phase {
        Phase::Loading => "loading",
        Phase::Training => "training",
        Phase::Validation => "validation",
        Phase::Evaluation => "evaluation",
    }
}
