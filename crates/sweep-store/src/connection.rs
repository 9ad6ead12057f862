//! Opening the file: where it may lie, settings of the connections, and which schemas are accepted.

use std::path::Path;
use std::time::{Duration, Instant};

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{Connection as _, SqliteConnection};

use crate::error::{Error, Result};
use crate::mount;
use crate::upgrade::{self, beside, check_not_newer, known_version, schema_version};

/// How long a connection waits for another process's lock. Write transactions last milliseconds.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);

/// Pause before a connection is tried again.
const BETWEEN_CONNECTIONS: Duration = Duration::from_millis(20);

/// Pages in the write-ahead log before they are merged into the file: 16 MiB, four times SQLite's default. Runs are
/// spread over the file by their ids, and the rarer the merges, the fewer pages they write (`examples/overhead.rs`: a
/// third less time a run with 10,000 runs).
const CHECKPOINT_PAGES: &str = "4000";

/// Rows that a reading thread may be ahead of who asked for them: on a busy machine, every time one waits for the other costs
/// more than the rows.
const ROWS_AHEAD: usize = 8192;

/// Connections of the reading pool; each has a thread of its own.
pub(crate) const READERS: u32 = 4;

/// Opens the writing connection: creates the file, and brings its schema up to date.
///
/// Write-ahead log with `synchronous = NORMAL`: a crash of the program loses nothing; a power failure can lose the last
/// transactions but never damages the file, and what is lost is still in the event files.
pub(crate) async fn open_writer(path: &Path) -> Result<SqliteConnection> {
    mount::check_local(path)?;
    let failed = failed(path, "open");
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .foreign_keys(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Normal)
        .busy_timeout(BUSY_TIMEOUT)
        .pragma("wal_autocheckpoint", CHECKPOINT_PAGES);
    let mut connection = connect(&options).await.map_err(failed)?;
    let found = schema_version(&mut connection).await.map_err(failed)?;
    check_not_newer(path, found)?;
    if found < known_version() {
        upgrade::migrate(path, &mut connection).await?;
    }
    Ok(connection)
}

/// Connects. SQLite does not wait for others while a file changes to the write-ahead log, as two programs that create one
/// database do at the same time, so that is tried again as long as other locks are waited for.
async fn connect(options: &SqliteConnectOptions) -> sqlx::Result<SqliteConnection> {
    let begin = Instant::now();
    loop {
        match SqliteConnection::connect_with(options).await {
            Err(error) if is_busy(&error) && begin.elapsed() < BUSY_TIMEOUT => {
                tokio::time::sleep(BETWEEN_CONNECTIONS).await;
            }
            result => return result,
        }
    }
}

/// Returns whether somebody else had the file: SQLITE_BUSY, of any kind.
fn is_busy(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code()?.parse::<u32>().ok());
    code.is_some_and(|code| code & 0xff == 5)
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
        .row_buffer_size(ROWS_AHEAD)
        .busy_timeout(BUSY_TIMEOUT)
}

/// Checks that the pool's file is there and has a schema that this program can read. Returns its version where it is newer
/// than the one that this program knows.
pub(crate) async fn check_readable(path: &Path, pool: &SqlitePool) -> Result<Option<i64>> {
    if !path.exists() {
        return Err(Error::Missing { path: path.to_owned() });
    }
    let failed = failed(path, "open for reading");
    let mut connection = pool.acquire().await.map_err(failed)?;
    let found = schema_version(&mut connection).await.map_err(failed)?;
    if found < known_version() {
        return Err(Error::Older { path: path.to_owned(), found, known: known_version() });
    }
    if found == known_version() {
        return Ok(None);
    }
    if !upgrade::is_readable(&mut connection).await.map_err(failed)? {
        check_not_newer(path, found)?;
    }
    Ok(Some(found))
}

/// Returns whether the file must be read without SQLite's coordination of readers and writers, because it lies on a
/// network's file system, where that does not work. Nobody may write it: this program never does there.
///
/// # Errors
/// [`Error::NetworkDatabase`] where it does not look so.
pub(crate) fn is_remote(path: &Path) -> Result<bool> {
    match mount::check_local(path) {
        Err(_) if !is_being_written(path) => Ok(true),
        checked => checked.map(|()| false),
    }
}

/// Returns whether somebody has the file open for writing, or died while writing it.
fn is_being_written(path: &Path) -> bool {
    beside(path, "-wal").metadata().is_ok_and(|log| log.len() > 0)
}

/// Returns whether reading failed because the files next to the database could not be created, and nobody writes.
pub(crate) fn is_lone_file(path: &Path, error: &Error) -> bool {
    let Error::Database { source, .. } = error else {
        return false;
    };
    let code = source.as_database_error().and_then(|error| error.code()?.parse::<i32>().ok());
    // The low byte is the kind of error: SQLITE_READONLY or SQLITE_CANTOPEN.
    matches!(code.map(|code| code & 0xff), Some(8 | 14)) && !beside(path, "-wal").exists()
}

/// Returns what makes an error of a failed operation on the file.
pub(crate) fn failed(path: &Path, operation: &'static str) -> impl Fn(sqlx::Error) -> Error + Copy {
    move |source| Error::Database { path: path.to_owned(), operation, source }
}
