//! Ingestion of measurements: what `sweep evaluate` adds to runs that are trained already.
//!
//! A measurement speaks the protocol of an attempt: `Started`, `Loaded` (whose weights are the final model), `Evaluated`
//! for each point, and a last word. It is no attempt: the run's state stays what it is.

use sqlx::sqlite::SqliteRow;
use sqlx::{Connection as _, FromRow, Row as _, SqliteConnection};
use sweep_core::event::{Event, Record};
use sweep_core::spec::RunId;

use crate::error::{Error, Result};
use crate::ingest::{Stored, Teller, Trouble, check};
use crate::reader::Reader;
use crate::row;
use crate::store::Store;

/// One use of `sweep evaluate` on the final model of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measurement {
    /// From 1 within the run.
    pub number: u32,
    /// When it started.
    pub started_ms: i64,
    /// Whether it measured everything it was asked for.
    pub is_complete: bool,
    /// SHA-256 of the weights.
    pub model_digest: Option<String>,
    /// Digest of the prepared images.
    pub dataset_digest: Option<String>,
}

impl Store {
    /// Stores the next records of a measurement's event file, in one transaction; returns how many were new. Records must
    /// come in the order of the file; what was ingested before is skipped by its sequence number.
    ///
    /// Points count only while the model that was measured is the run's model, and never replace those of an attempt.
    ///
    /// # Errors
    /// [`Error::NotStored`] for a run that is not in the database; [`Error::ImpossibleEvent`] for an event that cannot be:
    /// what is before it is stored.
    pub async fn ingest_measurement(&self, run: RunId, number: u32, records: &[Record]) -> Result<usize> {
        let Some(first) = records.first() else { return Ok(0) };
        let failed = self.failed("ingest a measurement");
        let mut writer = self.writer.lock().await;
        let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        let target = Target { run: run.to_string(), number, teller: Teller::measurement(run, number) };
        let mark = begin(&mut transaction, &target, first.time_ms).await.map_err(failed)?;
        let (last, epochs) = mark.ok_or(Error::NotStored { run })?;
        let mut count = 0;
        let mut refused = None;
        for record in
            records.iter().filter(|record| !i64::try_from(record.sequence).is_ok_and(|it| it <= last))
        {
            match store(&mut transaction, &target, epochs, record).await {
                Ok(()) => count += 1,
                Err(Trouble::Failed(error)) => return Err(failed(error)),
                Err(Trouble::Impossible(reason)) => {
                    refused = Some(target.teller.refuses(record, &reason));
                    break;
                }
            }
        }
        transaction.commit().await.map_err(failed)?;
        match refused {
            Some(reason) => Err(Error::ImpossibleEvent { reason }),
            None => Ok(count),
        }
    }
}

impl Reader {
    /// Returns the measurements of a run, the first one first.
    pub async fn measurements_of(&self, run: RunId) -> Result<Vec<Measurement>> {
        sqlx::query_as("SELECT * FROM measurements WHERE run = ? ORDER BY number")
            .bind(run.to_string())
            .fetch_all(self.pool())
            .await
            .map_err(self.failed("list the measurements of a run"))
    }

    /// Returns the runs whose final model has this digest, the oldest first. Runs that differ in what is measured only
    /// train the same model.
    pub async fn runs_with_model(&self, digest: &str) -> Result<Vec<RunId>> {
        sqlx::query("SELECT run FROM models WHERE digest = ? ORDER BY saved_ms, run")
            .bind(digest.to_owned())
            .try_map(|row: SqliteRow| row::run_id(&row, "run"))
            .fetch_all(self.pool())
            .await
            .map_err(self.failed("find the run of a model"))
    }
}

/// The measurement that rows belong to.
struct Target {
    run: String,
    number: u32,
    teller: Teller,
}

/// Makes the measurement's row where it is missing and returns how far its file has been read, and the budget of its run;
/// `None` without the run.
async fn begin(
    connection: &mut SqliteConnection,
    target: &Target,
    now_ms: i64,
) -> sqlx::Result<Option<(i64, u32)>> {
    sqlx::query(
        "INSERT INTO measurements (run, number, started_ms) SELECT id, ?2, ?3 FROM runs WHERE id = ?1
         ON CONFLICT DO NOTHING",
    )
    .bind(target.run.clone())
    .bind(target.number)
    .bind(now_ms)
    .execute(&mut *connection)
    .await?;
    let mark = "SELECT m.last_sequence, r.epochs FROM measurements m JOIN runs r ON r.id = m.run
                WHERE m.run = ? AND m.number = ?";
    sqlx::query_as(mark).bind(target.run.clone()).bind(target.number).fetch_optional(connection).await
}

async fn store(
    connection: &mut SqliteConnection,
    target: &Target,
    epochs: u32,
    record: &Record,
) -> Stored<()> {
    let sequence = check(record, &target.teller, epochs)?;
    match &record.event {
        Event::Started { .. } => started(connection, target, &record.event).await?,
        Event::Loaded { dataset_digest, weights_digest, .. } => {
            loaded(connection, target, dataset_digest, weights_digest.as_deref()).await?;
        }
        Event::Evaluated { .. } => evaluated(connection, target, &record.event).await?,
        Event::Succeeded => reported(connection, target, "succeeded").await?,
        Event::Interrupted { .. } => reported(connection, target, "interrupted").await?,
        Event::Failed { .. } => reported(connection, target, "failed").await?,
        // A measurement trains nothing; what a newer version says besides is passed over.
        _ => {}
    }
    sqlx::query("UPDATE measurements SET last_sequence = ?3 WHERE run = ?1 AND number = ?2")
        .bind(target.run.clone())
        .bind(target.number)
        .bind(sequence)
        .execute(connection)
        .await
        .map(drop)
        .map_err(Into::into)
}

async fn started(connection: &mut SqliteConnection, target: &Target, event: &Event) -> sqlx::Result<()> {
    let Event::Started { pid, host, device, threads, version, .. } = event else {
        return Ok(());
    };
    sqlx::query(
        "UPDATE measurements SET pid = ?3, host = ?4, device = ?5, threads = ?6, version = ?7
         WHERE run = ?1 AND number = ?2",
    )
    .bind(target.run.clone())
    .bind(target.number)
    .bind(*pid)
    .bind(host.clone())
    .bind(device.clone())
    .bind(*threads)
    .bind(version.clone())
    .execute(connection)
    .await
    .map(drop)
}

async fn loaded(
    connection: &mut SqliteConnection,
    target: &Target,
    dataset_digest: &str,
    model_digest: Option<&str>,
) -> sqlx::Result<()> {
    sqlx::query(
        "UPDATE measurements SET dataset_digest = ?3, model_digest = ?4 WHERE run = ?1 AND number = ?2",
    )
    .bind(target.run.clone())
    .bind(target.number)
    .bind(dataset_digest.to_owned())
    .bind(model_digest.map(str::to_owned))
    .execute(connection)
    .await
    .map(drop)
}

async fn evaluated(connection: &mut SqliteConnection, target: &Target, event: &Event) -> sqlx::Result<()> {
    let Event::Evaluated { epochs, split, attack, norm, epsilon, correct, total, seconds, .. } = event else {
        return Ok(());
    };
    let (numerator, denominator) = epsilon.fraction();
    sqlx::query(
        "INSERT INTO evaluations (run, measurement, epochs, split, attack, norm, epsilon, epsilon_numerator,
            epsilon_denominator, epsilon_value, correct, total, seconds, model_digest)
         SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, m.model_digest
         FROM measurements m JOIN models d ON d.run = m.run AND d.digest = m.model_digest
         WHERE m.run = ?1 AND m.number = ?2
         ON CONFLICT (run, epochs, split, attack, norm, epsilon) DO UPDATE SET correct = excluded.correct,
            total = excluded.total, seconds = excluded.seconds, measurement = excluded.measurement,
            model_digest = excluded.model_digest
         WHERE excluded.measurement >= evaluations.measurement",
    )
    .bind(target.run.clone())
    .bind(target.number)
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
    .execute(connection)
    .await
    .map(drop)
}

async fn reported(
    connection: &mut SqliteConnection,
    target: &Target,
    word: &'static str,
) -> sqlx::Result<()> {
    sqlx::query("UPDATE measurements SET reported = ?3 WHERE run = ?1 AND number = ?2")
        .bind(target.run.clone())
        .bind(target.number)
        .bind(word)
        .execute(connection)
        .await
        .map(drop)
}

impl FromRow<'_, SqliteRow> for Measurement {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        Ok(Self {
            number: row.try_get("number")?,
            started_ms: row.try_get("started_ms")?,
            is_complete: row.try_get::<Option<&str>, _>("reported")? == Some("succeeded"),
            model_digest: row.try_get("model_digest")?,
            dataset_digest: row.try_get("dataset_digest")?,
        })
    }
}
