//! Ingestion: what workers report becomes rows.

use sqlx::{Connection as _, Row as _, SqliteConnection};
use sweep_core::event::{Event, Phase, Record};
use sweep_core::spec::RunId;

use crate::attempts::{self, Progress, Report, Settlement};
use crate::error::{Error, Result};
use crate::state::Failure;
use crate::store::Store;

/// What ingesting did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ingested {
    /// Records that were not ingested before.
    pub new_records: usize,
    /// The worker's last word so far, whether it came now or before.
    pub report: Option<Report>,
}

impl Store {
    /// Stores the next records of an attempt's event file, in one transaction, together with how far the file has been
    /// read. Records must come in the order of the file. What was ingested before is skipped by its sequence number,
    /// so that reading a file twice, or from the start, changes nothing; events of newer versions are passed over.
    ///
    /// Settled attempts take events too: a late scheduler may read what is left, and a rebuild reads everything.
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
        let target = Target { run: run.to_string(), attempt };
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
        let target = Target { run: run.to_string(), attempt };
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
    let mut ingested = Ingested { new_records: 0, report: mark.report };
    for record in records {
        if record.sequence as i64 <= latest.sequence {
            continue;
        }
        latest.sequence = record.sequence as i64;
        latest.heard_ms = Some(record.time_ms);
        ingested.new_records += 1;
        if let Some(report) = store(connection, target, record, &mut latest).await? {
            ingested.report = Some(report);
        }
    }
    advance(connection, target, &latest, byte_offset).await?;
    Ok(Some(ingested))
}

/// How far an attempt's events have been ingested.
struct HighWater {
    sequence: i64,
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
        "SELECT last_sequence, reported, failure_class, failure_message, progress_phase, progress_epoch, progress_step,
            progress_steps, progress_ms
         FROM attempts WHERE run = ? AND number = ?",
    )
    .bind(target.run.clone())
    .bind(target.attempt)
    .try_map(|row: sqlx::sqlite::SqliteRow| {
        Ok(HighWater {
            sequence: row.try_get("last_sequence")?,
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

/// Stores one event; returns the worker's last word where it is one.
async fn store(
    connection: &mut SqliteConnection,
    target: &Target,
    record: &Record,
    latest: &mut Latest,
) -> sqlx::Result<Option<Report>> {
    match &record.event {
        Event::Started { .. } => started(connection, target, &record.event).await?,
        Event::Loaded { .. } => loaded(connection, target, &record.event).await?,
        Event::Progress { phase, epoch, step, steps } => {
            let (phase, epoch, step, steps) = (*phase, *epoch, *step, *steps);
            latest.be_at(Progress { phase, epoch, step, steps, time_ms: record.time_ms });
        }
        Event::EpochFinished { .. } => epoch_finished(connection, target, record).await?,
        Event::CheckpointSaved { .. } => checkpoint_saved(connection, target, record).await?,
        Event::Evaluated { .. } => evaluated(connection, target, &record.event).await?,
        Event::ModelSaved { .. } => model_saved(connection, target, record).await?,
        Event::Succeeded => return reported(connection, target, Report::Succeeded).await.map(Some),
        Event::Interrupted { .. } => {
            return reported(connection, target, Report::Interrupted).await.map(Some);
        }
        Event::Failed { class, message } => {
            let failure = Failure { class: *class, message: message.clone() };
            return reported(connection, target, Report::Failed(failure)).await.map(Some);
        }
        Event::Unknown => {}
    }
    Ok(None)
}

async fn started(connection: &mut SqliteConnection, target: &Target, event: &Event) -> sqlx::Result<()> {
    let Event::Started {
        run: _,
        attempt: _,
        pid,
        host,
        device,
        threads,
        version,
        resumed_from,
        resumed_run,
        micro_batch_size,
        process_start,
    } = event
    else {
        return Ok(());
    };
    sqlx::query(
        "UPDATE attempts SET pid = ?3, host = ?4, device = ?5, threads = ?6, version = ?7, resumed_from = ?8,
            resumed_run = ?9, micro_batch_size = ?10, process_start = ?11
         WHERE run = ?1 AND number = ?2",
    )
    .bind(target.run.clone())
    .bind(target.attempt)
    .bind(*pid)
    .bind(host.clone())
    .bind(device.clone())
    .bind(*threads)
    .bind(version.clone())
    .bind(*resumed_from)
    .bind(resumed_run.map(|run| run.to_string()))
    .bind(*micro_batch_size)
    .bind(process_start.map(|ticks| ticks as i64))
    .execute(connection)
    .await
    .map(drop)
}

async fn loaded(connection: &mut SqliteConnection, target: &Target, event: &Event) -> sqlx::Result<()> {
    let Event::Loaded {
        dataset_digest,
        classes,
        train,
        validation,
        test,
        weights_digest,
        parameters,
        skipped,
    } = event
    else {
        return Ok(());
    };
    sqlx::query(
        "INSERT OR REPLACE INTO provenance
            (run, attempt, dataset_digest, weights_digest, classes, train, validation, test, parameters, skipped)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(target.run.clone())
    .bind(target.attempt)
    .bind(dataset_digest.clone())
    .bind(weights_digest.clone())
    .bind(*classes)
    .bind(*train)
    .bind(*validation)
    .bind(*test)
    .bind(*parameters as i64)
    .bind(*skipped as i64)
    .execute(connection)
    .await
    .map(drop)
}

async fn epoch_finished(
    connection: &mut SqliteConnection,
    target: &Target,
    record: &Record,
) -> sqlx::Result<()> {
    let Event::EpochFinished {
        epoch,
        epsilon,
        learning_rate,
        train_loss,
        train_correct,
        train_total,
        clean_correct,
        robust_correct,
        validation_total,
        clean_loss,
        robust_loss,
        train_seconds,
        validation_seconds,
        trained_by,
    } = &record.event
    else {
        return Ok(());
    };
    // The later attempt wins whichever way round event files are read.
    sqlx::query(
        "INSERT INTO epochs (run, epoch, attempt, epsilon, learning_rate, train_loss, train_correct, train_total,
            clean_correct, robust_correct, validation_total, clean_loss, robust_loss, train_seconds,
            validation_seconds, finished_ms, trained_by)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
         ON CONFLICT (run, epoch) DO UPDATE SET attempt = excluded.attempt, epsilon = excluded.epsilon,
            learning_rate = excluded.learning_rate, train_loss = excluded.train_loss,
            train_correct = excluded.train_correct, train_total = excluded.train_total,
            clean_correct = excluded.clean_correct, robust_correct = excluded.robust_correct,
            validation_total = excluded.validation_total, clean_loss = excluded.clean_loss,
            robust_loss = excluded.robust_loss, train_seconds = excluded.train_seconds,
            validation_seconds = excluded.validation_seconds, finished_ms = excluded.finished_ms,
            trained_by = excluded.trained_by
         WHERE excluded.attempt >= epochs.attempt",
    )
    .bind(target.run.clone())
    .bind(*epoch)
    .bind(target.attempt)
    .bind(*epsilon)
    .bind(finite(*learning_rate))
    .bind(finite(*train_loss))
    .bind(*train_correct)
    .bind(*train_total)
    .bind(*clean_correct)
    .bind(*robust_correct)
    .bind(*validation_total)
    .bind(finite(*clean_loss))
    .bind(finite(*robust_loss))
    .bind(*train_seconds)
    .bind(*validation_seconds)
    .bind(record.time_ms)
    .bind(trained_by.map(|run| run.to_string()))
    .execute(connection)
    .await
    .map(drop)
}

async fn checkpoint_saved(
    connection: &mut SqliteConnection,
    target: &Target,
    record: &Record,
) -> sqlx::Result<()> {
    let Event::CheckpointSaved { epochs, step, file, digest, bytes } = &record.event else {
        return Ok(());
    };
    sqlx::query(
        "INSERT INTO checkpoints (run, epochs, step, file, digest, bytes, attempt, saved_ms)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?)
         ON CONFLICT (run, epochs, step) DO UPDATE SET file = excluded.file, digest = excluded.digest,
            bytes = excluded.bytes, attempt = excluded.attempt, saved_ms = excluded.saved_ms
         WHERE excluded.attempt >= checkpoints.attempt",
    )
    .bind(target.run.clone())
    .bind(*epochs)
    .bind(*step)
    .bind(file.clone())
    .bind(digest.clone())
    .bind(*bytes as i64)
    .bind(target.attempt)
    .bind(record.time_ms)
    .execute(connection)
    .await
    .map(drop)
}

async fn evaluated(connection: &mut SqliteConnection, target: &Target, event: &Event) -> sqlx::Result<()> {
    let Event::Evaluated { epochs, split, attack, norm, epsilon, correct, total, seconds } = event else {
        return Ok(());
    };
    let (numerator, denominator) = epsilon.fraction();
    sqlx::query(
        "INSERT INTO evaluations (run, epochs, split, attack, norm, epsilon, epsilon_numerator, epsilon_denominator,
            epsilon_value, correct, total, seconds, attempt, model_digest)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, (SELECT digest FROM models WHERE run = ?1))
         ON CONFLICT (run, epochs, split, attack, norm, epsilon) DO UPDATE SET correct = excluded.correct,
            total = excluded.total, seconds = excluded.seconds, attempt = excluded.attempt, measurement = NULL,
            model_digest = excluded.model_digest
         WHERE evaluations.attempt IS NULL OR excluded.attempt >= evaluations.attempt",
    )
    .bind(target.run.clone())
    .bind(*epochs)
    .bind(split.label())
    .bind(attack.clone())
    .bind(norm.label())
    .bind(epsilon.to_string())
    .bind(numerator)
    .bind(denominator)
    .bind(epsilon.value())
    .bind(*correct)
    .bind(*total)
    .bind(*seconds)
    .bind(target.attempt)
    .execute(connection)
    .await
    .map(drop)
}

async fn model_saved(
    connection: &mut SqliteConnection,
    target: &Target,
    record: &Record,
) -> sqlx::Result<()> {
    let Event::ModelSaved { file, digest, bytes } = &record.event else {
        return Ok(());
    };
    sqlx::query(
        "INSERT INTO models (run, file, digest, bytes, attempt, saved_ms) VALUES (?, ?, ?, ?, ?, ?)
         ON CONFLICT (run) DO UPDATE SET file = excluded.file, digest = excluded.digest, bytes = excluded.bytes,
            attempt = excluded.attempt, saved_ms = excluded.saved_ms
         WHERE excluded.attempt >= models.attempt",
    )
    .bind(target.run.clone())
    .bind(file.clone())
    .bind(digest.clone())
    .bind(*bytes as i64)
    .bind(target.attempt)
    .bind(record.time_ms)
    .execute(&mut *connection)
    .await?;
    forget_other_models(connection, target).await
}

/// Removes the points of a model that another one has replaced: accuracy over epsilon never mixes two.
async fn forget_other_models(connection: &mut SqliteConnection, target: &Target) -> sqlx::Result<()> {
    sqlx::query(
        "DELETE FROM evaluations
         WHERE run = ?1 AND model_digest IS NOT NULL AND model_digest <> (SELECT digest FROM models WHERE run = ?1)",
    )
    .bind(target.run.clone())
    .execute(connection)
    .await
    .map(drop)
}

/// Keeps the worker's last word with the attempt: it must outlive a scheduler that dies before it settles.
async fn reported(
    connection: &mut SqliteConnection,
    target: &Target,
    report: Report,
) -> sqlx::Result<Report> {
    let (label, failure) = match &report {
        Report::Succeeded => ("succeeded", None),
        Report::Interrupted => ("interrupted", None),
        Report::Failed(failure) => ("failed", Some(failure)),
    };
    sqlx::query(
        "UPDATE attempts SET reported = ?3, failure_class = coalesce(?4, failure_class),
            failure_message = coalesce(?5, failure_message)
         WHERE run = ?1 AND number = ?2",
    )
    .bind(target.run.clone())
    .bind(target.attempt)
    .bind(label)
    .bind(failure.map(|failure| failure.class.label()))
    .bind(failure.map(|failure| failure.message.clone()))
    .execute(connection)
    .await?;
    Ok(report)
}

const fn phase_label(phase: Phase) -> &'static str {
    match phase {
        Phase::Loading => "loading",
        Phase::Training => "training",
        Phase::Validation => "validation",
        Phase::Evaluation => "evaluation",
    }
}

/// SQLite keeps no NaN; NULL says "not finite" for infinities as well.
fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}
