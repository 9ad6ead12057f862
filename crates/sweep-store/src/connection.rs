//! Opening the file: settings of the connections, and bringing the schema up to date.

use std::path::Path;
use std::time::Duration;

use sqlx::migrate::Migrator;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{Connection as _, SqliteConnection};

use crate::error::{Error, Result};

/// The migrations at the top level of the repository.
static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations");

/// How long a connection waits for another process's lock. Write transactions last milliseconds.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);

/// Pages in the write-ahead log before they are merged into the file: 16 MiB, four times SQLite's default. Runs are
/// spread over the file by their ids, and the rarer the merges, the fewer pages they write (`examples/overhead.rs`: a
/// third less time a run with 10,000 runs).
const CHECKPOINT_PAGES: &str = "4000";

/// Connections of the reading pool; each has a thread of its own.
const READERS: u32 = 4;

/// Opens the writing connection: creates the file, and brings its schema up to date.
///
/// Write-ahead log with `synchronous = NORMAL`: a crash of the program loses nothing; a power failure can lose the last
/// transactions but never damages the file, and what is lost is still in the event files.
pub(crate) async fn open_writer(path: &Path) -> Result<SqliteConnection> {
    let failed = failed(path, "open");
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .foreign_keys(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Normal)
        .busy_timeout(BUSY_TIMEOUT)
        .pragma("wal_autocheckpoint", CHECKPOINT_PAGES);
    let mut connection = SqliteConnection::connect_with(&options).await.map_err(failed)?;
    let found = schema_version(&mut connection).await.map_err(failed)?;
    check_not_newer(path, found)?;
    if found < known_version() {
        migrate(path, &mut connection).await?;
    }
    Ok(connection)
}

/// Opens the reading pool without touching the file yet.
pub(crate) fn reading_pool(options: SqliteConnectOptions) -> SqlitePool {
    SqlitePoolOptions::new()
        .max_connections(READERS)
        .test_before_acquire(false)
        .idle_timeout(None)
        .max_lifetime(None)
        .connect_lazy_with(options)
}

/// The settings of a connection that cannot change the file.
pub(crate) fn reading_options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .read_only(true)
        .pragma("query_only", "ON")
        .busy_timeout(BUSY_TIMEOUT)
}

/// Checks that the pool's file is there and has the schema that this program knows.
pub(crate) async fn check_readable(path: &Path, pool: &SqlitePool) -> Result<()> {
    if !path.exists() {
        return Err(Error::Missing { path: path.to_owned() });
    }
    let failed = failed(path, "open for reading");
    let mut connection = pool.acquire().await.map_err(failed)?;
    let found = schema_version(&mut connection).await.map_err(failed)?;
    check_not_newer(path, found)?;
    if found < known_version() {
        return Err(Error::Older { path: path.to_owned(), found, known: known_version() });
    }
    Ok(())
}

/// Returns whether reading failed because the files next to the database could not be created, and nobody writes.
pub(crate) fn is_lone_file(path: &Path, error: &Error) -> bool {
    let Error::Database { source, .. } = error else {
        return false;
    };
    let code = source.as_database_error().and_then(|error| error.code()?.parse::<i32>().ok());
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    // The low byte is the kind of error: SQLITE_READONLY or SQLITE_CANTOPEN.
    matches!(code.map(|code| code & 0xff), Some(8 | 14)) && !Path::new(&log).exists()
}

/// Takes the write lock before it looks at what is there, so that two processes never apply a migration twice.
async fn migrate(path: &Path, connection: &mut SqliteConnection) -> Result<()> {
    let failed = failed(path, "lock for migration");
    let mut transaction = connection.begin_with("BEGIN EXCLUSIVE").await.map_err(failed)?;
    let found = schema_version(&mut transaction).await.map_err(failed)?;
    check_not_newer(path, found)?;
    // `Migrator::run` would do, but its bounds make a future that no task can be spawned from.
    let applied = MIGRATIONS.run_direct(None, &mut *transaction, false).await;
    applied.map_err(|source| Error::Migrate { path: path.to_owned(), source })?;
    transaction.commit().await.map_err(failed)
}

/// Returns the newest migration applied to the file; 0 for a new file.
async fn schema_version(connection: &mut SqliteConnection) -> sqlx::Result<i64> {
    let has_table = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = '_sqlx_migrations'";
    let tables: i64 = sqlx::query_scalar(has_table).fetch_one(&mut *connection).await?;
    if tables == 0 {
        return Ok(0);
    }
    sqlx::query_scalar("SELECT coalesce(max(version), 0) FROM _sqlx_migrations").fetch_one(connection).await
}

fn check_not_newer(path: &Path, found: i64) -> Result<()> {
    let known = known_version();
    if found > known { Err(Error::Newer { path: path.to_owned(), found, known }) } else { Ok(()) }
}

fn known_version() -> i64 {
    MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0)
}

/// Returns what makes an error of a failed operation on the file.
pub(crate) fn failed(path: &Path, operation: &'static str) -> impl Fn(sqlx::Error) -> Error + Copy {
    move |source| Error::Database { path: path.to_owned(), operation, source }
}
