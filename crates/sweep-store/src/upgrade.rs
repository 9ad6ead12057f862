//! Bringing a file's schema up to date, with a copy of what was there before.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use sqlx::migrate::Migrator;
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection};

use crate::connection::{failed, reading_options};
use crate::error::{Error, Result};

/// The migrations at the top level of the repository.
static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations");

/// Returns the schema version that this program writes.
pub(crate) fn known_version() -> i64 {
    MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0)
}

/// Returns the newest migration applied to the file; 0 for a new file.
pub(crate) async fn schema_version(connection: &mut SqliteConnection) -> sqlx::Result<i64> {
    if !has_table(connection, "_sqlx_migrations").await? {
        return Ok(0);
    }
    sqlx::query_scalar("SELECT coalesce(max(version), 0) FROM _sqlx_migrations").fetch_one(connection).await
}

/// Refuses a file that only a newer program may write to.
pub(crate) fn check_not_newer(path: &Path, found: i64) -> Result<()> {
    let known = known_version();
    if found > known { Err(Error::Newer { path: path.to_owned(), found, known }) } else { Ok(()) }
}

/// Returns whether the file, of a newer schema than this program's, says that this program can read it.
pub(crate) async fn is_readable(connection: &mut SqliteConnection) -> sqlx::Result<bool> {
    if !has_table(connection, "meta").await? {
        return Ok(false);
    }
    let least: Option<String> = sqlx::query_scalar("SELECT value FROM meta WHERE key = 'min_reader'")
        .fetch_optional(connection)
        .await?;
    let least = least.and_then(|text| text.parse::<i64>().ok());
    Ok(least.is_some_and(|least| least <= known_version()))
}

async fn has_table(connection: &mut SqliteConnection, name: &'static str) -> sqlx::Result<bool> {
    sqlx::query_scalar("SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = ?")
        .bind(name)
        .fetch_one(connection)
        .await
}

/// Applies what is missing, all of it or nothing: a process that is killed meanwhile leaves the file as it was. The write
/// lock is taken before looking at what is there, so that two processes never apply a migration twice. Before a file that
/// is not new is changed, a copy of it is made beside it.
pub(crate) async fn migrate(path: &Path, connection: &mut SqliteConnection) -> Result<()> {
    let failed = failed(path, "lock for migration");
    let mut transaction = connection.begin_with("BEGIN EXCLUSIVE").await.map_err(failed)?;
    let found = schema_version(&mut transaction).await.map_err(failed)?;
    check_not_newer(path, found)?;
    if found == known_version() {
        return Ok(());
    }
    if found > 0 {
        back_up(path, found).await?;
    }
    // `Migrator::run` would do, but its bounds make a future that no task can be spawned from.
    let applied = MIGRATIONS.run_direct(None, &mut *transaction, false).await;
    applied.map_err(|source| Error::Migrate { path: path.to_owned(), source })?;
    transaction.commit().await.map_err(failed)
}

/// Copies the database, as it was when the write lock was taken, to `<file>.schema-<found>.bak`. The caller holds that
/// lock, so that nobody else makes a copy at the same time. Copies are never overwritten: a second one that differs from
/// the first is called `….bak.2`, and so on; one that does not differ is not kept.
async fn back_up(path: &Path, found: i64) -> Result<()> {
    let temporary = beside(path, &format!(".schema-{found}.bak.tmp"));
    // Left by a process that was killed here.
    remove(&temporary)?;
    vacuum_into(path, &temporary).await?;
    let io = |source| Error::File { path: temporary.clone(), action: "write", source };
    File::open(&temporary).and_then(|file| file.sync_all()).map_err(io)?;
    keep(path, found, &temporary).map_err(io)
}

/// Copies through a connection of its own, which sees what was committed before the lock was taken. Pages that nothing
/// uses are left out, and the copy needs no write-ahead log.
async fn vacuum_into(path: &Path, copy: &Path) -> Result<()> {
    let failed = failed(path, "copy before the migration");
    // `query_only` would forbid to write even the copy; the connection cannot write to the file all the same.
    let options = reading_options(path).pragma("query_only", "OFF");
    let mut connection = options.connect().await.map_err(failed)?;
    let target = copy.to_string_lossy().into_owned();
    sqlx::query("VACUUM INTO ?").bind(target).execute(&mut connection).await.map_err(failed)?;
    connection.close().await.map_err(failed)
}

/// Gives a finished copy its name, or removes it where the last copy of that schema is the same.
fn keep(path: &Path, found: i64, temporary: &Path) -> io::Result<()> {
    let name = |number: u32| match number {
        1 => beside(path, &format!(".schema-{found}.bak")),
        _ => beside(path, &format!(".schema-{found}.bak.{number}")),
    };
    let mut number = 1;
    while name(number).exists() {
        number += 1;
    }
    if number > 1 && are_equal(&name(number - 1), temporary)? {
        return fs::remove_file(temporary);
    }
    fs::rename(temporary, name(number))
}

fn are_equal(first: &Path, second: &Path) -> io::Result<bool> {
    let (first, second) = (File::open(first)?, File::open(second)?);
    if first.metadata()?.len() != second.metadata()?.len() {
        return Ok(false);
    }
    let mut pairs = io::BufReader::new(first).bytes().zip(io::BufReader::new(second).bytes());
    pairs.try_fold(true, |same, (one, other)| Ok(same && one? == other?))
}

/// Removes a file if it is there.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(Error::File { path: path.to_owned(), action: "remove", source })
        }
        _ => Ok(()),
    }
}

/// Returns the path of a file that lies beside another and is called after it.
pub(crate) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}
