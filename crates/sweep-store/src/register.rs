//! Registering sweeps and their runs.

use std::collections::HashSet;

use serde_json::json;
use sha2::{Digest as _, Sha256};
use sqlx::sqlite::Sqlite;
use sqlx::{Connection as _, QueryBuilder, SqliteConnection};
use sweep_core::schedule::EpsilonSchedule;
use sweep_core::spec::{OptimizerSpec, RunId, RunSpec};

use crate::error::{Error, Result};
use crate::reader::Reader;
use crate::store::Store;
use crate::sweep_file::SweepFile;

/// Rows an INSERT: large enough that the cost of a statement vanishes, small enough for SQLite's 32,766 parameters.
const CHUNK: usize = 500;

/// The key of a sweep in this database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SweepId(pub(crate) i64);

/// What registering a sweep did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registered {
    /// The sweep.
    pub sweep: SweepId,
    /// Runs that were not stored before.
    pub new_runs: usize,
    /// Runs that a sweep of this name listed before and lists no more; they stay stored.
    pub unlisted: usize,
}

/// A registered sweep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SweepRow {
    /// Its key.
    pub id: SweepId,
    /// Its name.
    pub name: String,
    /// Its file as it was read.
    pub yaml: String,
    /// SHA-256 of the file.
    pub digest: String,
    /// Number of runs that it lists.
    pub runs: u32,
    /// When it was registered first.
    pub created_ms: i64,
    /// When it last ran: every session registers it.
    pub updated_ms: i64,
}

/// One point of a grid, as it is registered.
type Listed<'a> = (RunId, &'a RunSpec);

impl Store {
    /// Stores a sweep and its runs, in the order of expansion, in one transaction.
    ///
    /// A sweep of the same name gets the new text and the new list. Runs that are already stored are not touched,
    /// whatever their state. Where the same text with the same runs is registered already, only the time is written.
    /// A run must not be listed twice, and the run that it starts from must be listed or stored.
    pub async fn register_sweep(
        &self,
        name: &str,
        yaml: &str,
        runs: &[Listed<'_>],
        now_ms: i64,
    ) -> Result<Registered> {
        let digests = Digests::of(yaml, runs);
        if let Some(sweep) = self.reader().registered_as(name, &digests).await? {
            self.touch_sweep(sweep, now_ms).await?;
            return Ok(Registered { sweep, new_runs: 0, unlisted: 0 });
        }
        let rows = self.new_rows(runs).await?;
        let failed = self.failed("register a sweep");
        let mut writer = self.writer.lock().await;
        let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        let new_runs = insert(&mut transaction, &rows, now_ms, failed).await?;
        let sweep = upsert_sweep(&mut transaction, name, yaml, &digests, now_ms).await.map_err(failed)?;
        let unlisted = replace_listing(&mut transaction, sweep, runs).await.map_err(failed)?;
        transaction.commit().await.map_err(failed)?;
        Ok(Registered { sweep, new_runs, unlisted })
    }

    /// Writes down when a sweep last ran.
    async fn touch_sweep(&self, sweep: SweepId, now_ms: i64) -> Result<()> {
        let mut writer = self.writer.lock().await;
        sqlx::query("UPDATE sweeps SET updated_ms = ? WHERE id = ?")
            .bind(now_ms)
            .bind(sweep.0)
            .execute(&mut *writer)
            .await
            .map(drop)
            .map_err(self.failed("write down when a sweep ran"))
    }

    /// Stores a sweep that was registered and changed earlier, as a rebuild does; its runs must be stored. Where the list
    /// lacks some of its runs, registering the sweep again finds it changed.
    ///
    /// # Errors
    /// [`Error::ListedTwice`], [`Error::Database`].
    pub async fn restore_sweep(&self, file: &SweepFile, runs: &[Listed<'_>]) -> Result<SweepId> {
        let registered = self.register_sweep(&file.name, &file.yaml, runs, file.created_ms).await?;
        self.touch_sweep(registered.sweep, file.updated_ms).await?;
        Ok(registered.sweep)
    }

    /// Stores runs that no sweep lists, as a rebuild from event files does; returns how many were new.
    pub async fn register_runs(&self, runs: &[Listed<'_>], now_ms: i64) -> Result<usize> {
        let rows = self.new_rows(runs).await?;
        let failed = self.failed("register runs");
        let mut writer = self.writer.lock().await;
        let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        let new_runs = insert(&mut transaction, &rows, now_ms, failed).await?;
        transaction.commit().await.map_err(failed)?;
        Ok(new_runs)
    }

    /// Prepares the rows of the runs that are not stored yet. Another process may store some of them meanwhile.
    async fn new_rows<'a>(&self, runs: &[Listed<'a>]) -> Result<Vec<NewRow<'a>>> {
        check_listed_once(runs)?;
        let stored: Vec<String> =
            sqlx::query_scalar("SELECT id FROM runs WHERE id IN (SELECT value FROM json_each(?))")
                .bind(ids_as_json(runs))
                .fetch_all(self.reader().pool())
                .await
                .map_err(self.failed("find runs"))?;
        let stored: HashSet<String> = stored.into_iter().collect();
        let is_new = |(id, _): &&Listed<'_>| !stored.contains(&id.to_string());
        prepare(&runs.iter().filter(is_new).copied().collect::<Vec<_>>())
    }
}

impl Reader {
    /// Returns every registered sweep, the one that ran last first.
    pub async fn sweeps(&self) -> Result<Vec<SweepRow>> {
        let rows: Vec<(i64, String, String, String, u32, i64, i64)> = sqlx::query_as(
            "SELECT id, name, yaml, digest, (SELECT count(*) FROM sweep_runs WHERE sweep = id), created_ms, updated_ms
             FROM sweeps ORDER BY updated_ms DESC, id DESC",
        )
        .fetch_all(self.pool())
        .await
        .map_err(self.failed("list sweeps"))?;
        Ok(rows.into_iter().map(sweep_row).collect())
    }

    /// Returns the sweep of a name; the error lists the names that there are.
    pub async fn sweep_named(&self, name: &str) -> Result<SweepId> {
        let failed = self.failed("find a sweep");
        let found: Option<i64> = sqlx::query_scalar("SELECT id FROM sweeps WHERE name = ?")
            .bind(name.to_owned())
            .fetch_optional(self.pool())
            .await
            .map_err(failed)?;
        if let Some(id) = found {
            return Ok(SweepId(id));
        }
        let names = sqlx::query_scalar("SELECT name FROM sweeps ORDER BY name").fetch_all(self.pool()).await;
        Err(Error::UnknownSweep { name: name.to_owned(), known: names.map_err(failed)? })
    }

    async fn registered_as(&self, name: &str, digests: &Digests) -> Result<Option<SweepId>> {
        let found: Option<i64> =
            sqlx::query_scalar("SELECT id FROM sweeps WHERE name = ? AND digest = ? AND listing_digest = ?")
                .bind(name.to_owned())
                .bind(digests.yaml.clone())
                .bind(digests.listing.clone())
                .fetch_optional(self.pool())
                .await
                .map_err(self.failed("find a sweep"))?;
        Ok(found.map(SweepId))
    }
}

fn sweep_row(row: (i64, String, String, String, u32, i64, i64)) -> SweepRow {
    let (id, name, yaml, digest, runs, created_ms, updated_ms) = row;
    SweepRow { id: SweepId(id), name, yaml, digest, runs, created_ms, updated_ms }
}

/// What tells whether a sweep is already registered as it is.
struct Digests {
    yaml: String,
    listing: String,
}

impl Digests {
    fn of(yaml: &str, runs: &[Listed<'_>]) -> Self {
        let mut listing = Sha256::new();
        for (id, _) in runs {
            listing.update(id.to_string());
        }
        Self { yaml: hexadecimal(&Sha256::digest(yaml)), listing: hexadecimal(&listing.finalize()) }
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |text, byte| text + &format!("{byte:02x}"))
}

fn check_listed_once(runs: &[Listed<'_>]) -> Result<()> {
    let mut seen = HashSet::with_capacity(runs.len());
    match runs.iter().find(|(id, _)| !seen.insert(*id)) {
        Some((run, _)) => Err(Error::ListedTwice { run: *run }),
        None => Ok(()),
    }
}

fn ids_as_json(runs: &[Listed<'_>]) -> String {
    json!(runs.iter().map(|(id, _)| id).collect::<Vec<_>>()).to_string()
}

/// Computes rows on all processors: the canonical forms of 10,000 runs take a good part of a second on one.
fn prepare<'a>(runs: &[Listed<'a>]) -> Result<Vec<NewRow<'a>>> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let share = runs.len().div_ceil(threads).max(CHUNK);
    let prepare_share = |share: &[Listed<'a>]| share.iter().map(|(id, spec)| NewRow::of(*id, spec)).collect();
    let shares: Vec<Result<Vec<NewRow<'a>>>> = std::thread::scope(|scope| {
        let handles: Vec<_> =
            runs.chunks(share).map(|share| scope.spawn(move || prepare_share(share))).collect();
        handles.into_iter().map(|handle| handle.join().expect("preparing a row does not panic")).collect()
    });
    shares.into_iter().collect::<Result<Vec<_>>>().map(|shares| shares.into_iter().flatten().collect())
}

/// Returns how many rows were new.
async fn insert(
    connection: &mut SqliteConnection,
    rows: &[NewRow<'_>],
    now_ms: i64,
    failed: impl Fn(sqlx::Error) -> Error,
) -> Result<usize> {
    let mut new = 0_u64;
    for chunk in rows.chunks(CHUNK) {
        new += insert_runs(connection, chunk, now_ms).await.map_err(&failed)?;
        insert_specs(connection, chunk).await.map_err(&failed)?;
    }
    if rows.iter().any(|row| row.depends_on.is_some()) {
        check_dependencies(connection, &failed).await?;
    }
    Ok(new as usize)
}

/// The deferred foreign key would notice too, but only say that some key is missing.
async fn check_dependencies(
    connection: &mut SqliteConnection,
    failed: impl Fn(sqlx::Error) -> Error,
) -> Result<()> {
    let missing: Option<(String, String)> = sqlx::query_as(
        "SELECT id, depends_on FROM runs WHERE depends_on IS NOT NULL AND depends_on NOT IN (SELECT id FROM runs)
         LIMIT 1",
    )
    .fetch_optional(connection)
    .await
    .map_err(failed)?;
    match missing {
        Some((run, missing)) => Err(Error::MissingDependency { run, missing }),
        None => Ok(()),
    }
}

/// A run's row, computed before any lock is held.
struct NewRow<'a> {
    id: String,
    spec: &'a RunSpec,
    json: String,
    training_id: String,
    depends_on: Option<String>,
    seed: i64,
}

impl<'a> NewRow<'a> {
    fn of(id: RunId, spec: &'a RunSpec) -> Result<Self> {
        let too_large = |_| Error::TooLarge { what: "seed", value: spec.seed, run: id };
        Ok(Self {
            id: id.to_string(),
            spec,
            json: serde_json::to_string(spec).map_err(|source| Error::Spec { run: id, source })?,
            training_id: spec.training_id().to_string(),
            depends_on: spec.depends_on().map(|run| run.to_string()),
            seed: i64::try_from(spec.seed).map_err(too_large)?,
        })
    }
}

async fn insert_runs(
    connection: &mut SqliteConnection,
    rows: &[NewRow<'_>],
    now_ms: i64,
) -> sqlx::Result<u64> {
    let mut insert = QueryBuilder::<Sqlite>::new(
        "INSERT INTO runs (id, training_id, backbone, dataset, input_size, target_epsilon, target_epsilon_numerator,
            target_epsilon_denominator, target_epsilon_value, epsilon_schedule, epsilon_schedule_kind, seed, epochs,
            batch_size, optimizer, learning_rate, evaluation_attack, evaluation_norm, depends_on, created_ms,
            updated_ms) ",
    );
    insert.push_values(rows, |mut values, row| {
        let spec = row.spec;
        let (optimizer, learning_rate) = optimizer(&spec.optimizer);
        let (numerator, denominator) = spec.target_epsilon.fraction();
        values
            .push_bind(row.id.clone())
            .push_bind(row.training_id.clone())
            .push_bind(spec.backbone.name.clone())
            .push_bind(spec.dataset.name.clone())
            .push_bind(spec.input_size)
            .push_bind(spec.target_epsilon.to_string())
            .push_bind(numerator)
            .push_bind(denominator)
            .push_bind(spec.target_epsilon.value())
            .push_bind(spec.epsilon_schedule.label())
            .push_bind(schedule_kind(&spec.epsilon_schedule))
            .push_bind(row.seed)
            .push_bind(spec.epochs)
            .push_bind(spec.batch_size)
            .push_bind(optimizer)
            .push_bind(learning_rate)
            .push_bind(spec.evaluation.attack.label())
            .push_bind(spec.evaluation.attack.norm().label())
            .push_bind(row.depends_on.clone())
            .push_bind(now_ms)
            .push_bind(now_ms);
    });
    insert.push(" ON CONFLICT DO NOTHING");
    insert.build().execute(connection).await.map(|done| done.rows_affected())
}

async fn insert_specs(connection: &mut SqliteConnection, rows: &[NewRow<'_>]) -> sqlx::Result<()> {
    let mut insert = QueryBuilder::<Sqlite>::new("INSERT INTO specs (run, spec) ");
    insert.push_values(rows, |mut values, row| {
        values.push_bind(row.id.clone()).push_bind(row.json.clone());
    });
    insert.push(" ON CONFLICT DO NOTHING");
    insert.build().execute(connection).await.map(drop)
}

async fn upsert_sweep(
    connection: &mut SqliteConnection,
    name: &str,
    yaml: &str,
    digests: &Digests,
    now_ms: i64,
) -> sqlx::Result<SweepId> {
    let id = sqlx::query_scalar(
        "INSERT INTO sweeps (name, yaml, digest, listing_digest, created_ms, updated_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?5)
         ON CONFLICT (name) DO UPDATE SET yaml = excluded.yaml, digest = excluded.digest,
            listing_digest = excluded.listing_digest, updated_ms = excluded.updated_ms
         RETURNING id",
    )
    .bind(name.to_owned())
    .bind(yaml.to_owned())
    .bind(digests.yaml.clone())
    .bind(digests.listing.clone())
    .bind(now_ms)
    .fetch_one(connection)
    .await?;
    Ok(SweepId(id))
}

/// Returns how many runs were listed before and are no more.
async fn replace_listing(
    connection: &mut SqliteConnection,
    sweep: SweepId,
    runs: &[Listed<'_>],
) -> sqlx::Result<usize> {
    let unlisted: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM sweep_runs WHERE sweep = ? AND run NOT IN (SELECT value FROM json_each(?))",
    )
    .bind(sweep.0)
    .bind(ids_as_json(runs))
    .fetch_one(&mut *connection)
    .await?;
    sqlx::query("DELETE FROM sweep_runs WHERE sweep = ?").bind(sweep.0).execute(&mut *connection).await?;
    sqlx::query("INSERT INTO sweep_runs (sweep, position, run) SELECT ?, key, value FROM json_each(?)")
        .bind(sweep.0)
        .bind(ids_as_json(runs))
        .execute(connection)
        .await?;
    Ok(unlisted as usize)
}

const fn optimizer(optimizer: &OptimizerSpec) -> (&'static str, f64) {
    match optimizer {
        OptimizerSpec::Adamw { learning_rate, .. } => ("adamw", *learning_rate),
        OptimizerSpec::Sgd { learning_rate, .. } => ("sgd", *learning_rate),
    }
}

const fn schedule_kind(schedule: &EpsilonSchedule) -> &'static str {
    match schedule {
        EpsilonSchedule::None => "none",
        EpsilonSchedule::Fixed => "fixed",
        EpsilonSchedule::Ramp { .. } => "ramp",
        EpsilonSchedule::Warmup { .. } => "warmup",
        EpsilonSchedule::Step { .. } => "step",
        EpsilonSchedule::Uniform => "uniform",
        EpsilonSchedule::Piecewise { .. } => "piecewise",
        EpsilonSchedule::Auto(_) => "auto",
    }
}
