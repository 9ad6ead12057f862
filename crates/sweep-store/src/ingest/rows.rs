//! One function a kind of event: the rows that it becomes.

use sqlx::SqliteConnection;
use sweep_core::event::{Event, Record};

use super::check::{Stored, signed};
use super::{Latest, Target};
use crate::attempts::{Progress, Report};
use crate::state::Failure;

/// Stores one event; returns the worker's last word where it is one.
pub(super) async fn store(
    connection: &mut SqliteConnection,
    target: &Target,
    record: &Record,
    latest: &mut Latest,
) -> Stored<Option<Report>> {
    match &record.event {
        Event::Started { .. } => started(connection, target, &record.event).await?,
        Event::Loaded { .. } => loaded(connection, target, &record.event).await?,
        Event::MicroBatchFound { micro_batch_size } => {
            micro_batch_found(connection, target, *micro_batch_size).await?;
        }
        Event::DeviceUsed { .. } => device_used(connection, target, &record.event).await?,
        Event::Progress { phase, epoch, step, steps } => {
            let (phase, epoch, step, steps) = (*phase, *epoch, *step, *steps);
            latest.be_at(Progress { phase, epoch, step, steps, time_ms: record.time_ms });
        }
        Event::EpochFinished { .. } => epoch_finished(connection, target, record).await?,
        Event::CheckpointSaved { .. } => checkpoint_saved(connection, target, record).await?,
        Event::Evaluated { .. } => evaluated(connection, target, &record.event).await?,
        Event::ModelSaved { .. } => model_saved(connection, target, record).await?,
        Event::Succeeded => return Ok(Some(reported(connection, target, Report::Succeeded).await?)),
        Event::Interrupted { .. } => {
            return Ok(Some(reported(connection, target, Report::Interrupted).await?));
        }
        Event::Failed { class, message } => {
            let failure = Failure { class: *class, message: message.clone() };
            return Ok(Some(reported(connection, target, Report::Failed(failure)).await?));
        }
        Event::Unknown => {}
    }
    Ok(None)
}

async fn started(connection: &mut SqliteConnection, target: &Target, event: &Event) -> Stored<()> {
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
    let process_start = process_start.map(|ticks| signed("process_start", ticks)).transpose()?;
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
    .bind(process_start)
    .execute(connection)
    .await
    .map(drop)
    .map_err(Into::into)
}

async fn micro_batch_found(connection: &mut SqliteConnection, target: &Target, images: u32) -> Stored<()> {
    sqlx::query("UPDATE attempts SET micro_batch_size = ?3 WHERE run = ?1 AND number = ?2")
        .bind(target.run.clone())
        .bind(target.attempt)
        .bind(images)
        .execute(connection)
        .await
        .map(drop)
        .map_err(Into::into)
}

async fn device_used(connection: &mut SqliteConnection, target: &Target, event: &Event) -> Stored<()> {
    let Event::DeviceUsed { memory_bytes, memory_total_bytes, utilization } = event else {
        return Ok(());
    };
    sqlx::query(
        "UPDATE attempts SET device_memory_bytes = ?3, device_memory_total_bytes = ?4, device_utilization = ?5
         WHERE run = ?1 AND number = ?2",
    )
    .bind(target.run.clone())
    .bind(target.attempt)
    .bind(signed("memory_bytes", *memory_bytes)?)
    .bind(signed("memory_total_bytes", *memory_total_bytes)?)
    .bind(*utilization)
    .execute(connection)
    .await
    .map(drop)
    .map_err(Into::into)
}

async fn loaded(connection: &mut SqliteConnection, target: &Target, event: &Event) -> Stored<()> {
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
    let (parameters, skipped) = (signed("parameters", *parameters)?, signed("skipped", *skipped)?);
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
    .bind(parameters)
    .bind(skipped)
    .execute(connection)
    .await
    .map(drop)
    .map_err(Into::into)
}

async fn epoch_finished(connection: &mut SqliteConnection, target: &Target, record: &Record) -> Stored<()> {
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
    .map_err(Into::into)
}

async fn checkpoint_saved(connection: &mut SqliteConnection, target: &Target, record: &Record) -> Stored<()> {
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
    .bind(signed("bytes", *bytes)?)
    .bind(target.attempt)
    .bind(record.time_ms)
    .execute(connection)
    .await
    .map(drop)
    .map_err(Into::into)
}

async fn evaluated(connection: &mut SqliteConnection, target: &Target, event: &Event) -> Stored<()> {
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
    .map_err(Into::into)
}

async fn model_saved(connection: &mut SqliteConnection, target: &Target, record: &Record) -> Stored<()> {
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
    .bind(signed("bytes", *bytes)?)
    .bind(target.attempt)
    .bind(record.time_ms)
    .execute(&mut *connection)
    .await?;
    forget_other_models(connection, target).await
}

/// Removes the points of a model that another one has replaced: accuracy over epsilon never mixes two.
async fn forget_other_models(connection: &mut SqliteConnection, target: &Target) -> Stored<()> {
    sqlx::query(
        "DELETE FROM evaluations
         WHERE run = ?1 AND model_digest IS NOT NULL AND model_digest <> (SELECT digest FROM models WHERE run = ?1)",
    )
    .bind(target.run.clone())
    .execute(connection)
    .await
    .map(drop)
    .map_err(Into::into)
}

/// Keeps the worker's last word with the attempt: it must outlive a scheduler that dies before it settles.
pub(super) async fn reported(
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

/// SQLite keeps no NaN; NULL says "not finite" for infinities as well.
fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}
