//! A database that takes the place of another one.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode};
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection};

use crate::error::{Error, Result};
use crate::store::Store;
use crate::upgrade::{beside, remove};

/// How long somebody who has the file open just now is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// Files that SQLite keeps beside a database.
const COMPANIONS: [&str; 3] = ["", "-wal", "-shm"];

/// A new database beside the one that it is to replace. Dropped before [`Self::finish`], it changes nothing.
#[derive(Debug)]
pub struct Replacement {
    path: PathBuf,
    unfinished: PathBuf,
    store: Store,
}

impl Replacement {
    /// Creates an empty database beside the one at `path`, which may be missing or damaged.
    ///
    /// # Errors
    /// [`Error::InUse`] where somebody has the old one open; those of [`Store::open`].
    pub async fn begin(path: &Path) -> Result<Self> {
        let_go(hold(path).await?).await;
        let unfinished = beside(path, ".rebuild");
        for companion in COMPANIONS {
            let left_over = beside(&unfinished, companion);
            remove(&left_over)?;
        }
        Ok(Self { path: path.to_owned(), store: Store::open(&unfinished).await?, unfinished })
    }

    /// Returns the new database.
    pub const fn store(&self) -> &Store {
        &self.store
    }

    /// Puts the new database in its place and returns where the old one is kept, if there was one: `<file>.before-rebuild-1`,
    /// or the next number that is free.
    ///
    /// # Errors
    /// [`Error::InUse`] where somebody has opened the old one meanwhile; [`Error::File`].
    pub async fn finish(self) -> Result<Option<PathBuf>> {
        let Self { path, unfinished, store } = self;
        store.close().await?;
        // Held until the end: whoever opens the old file now waits, and finds it gone.
        let held = hold(&path).await?;
        let kept = set_aside(&path).map_err(|source| Error::File {
            path: path.clone(),
            action: "set aside",
            source,
        })?;
        let moved = fs::rename(&unfinished, &path).and_then(|()| sync_folder(&path));
        moved.map_err(|source| Error::File { path: path.clone(), action: "replace", source })?;
        let_go(held).await;
        Ok(kept)
    }
}

/// Makes sure that nobody else has a database open, and keeps others out while the value lives. A file that is missing or
/// no sound database is nobody's.
///
/// To leave write-ahead logging, SQLite needs the file for itself, whether others read it or write it. It also brings
/// everything into one file.
async fn hold(path: &Path) -> Result<Option<SqliteConnection>> {
    if !path.exists() {
        return Ok(None);
    }
    let options = SqliteConnectOptions::new().filename(path).busy_timeout(PATIENCE);
    let held = async {
        let mut connection = options.journal_mode(SqliteJournalMode::Delete).connect().await?;
        sqlx::query("BEGIN EXCLUSIVE").execute(&mut connection).await?;
        Ok(connection)
    };
    match held.await {
        Ok(connection) => Ok(Some(connection)),
        Err(error) if is_busy(&error) => Err(Error::InUse { path: path.to_owned() }),
        Err(_) => Ok(None),
    }
}

async fn let_go(held: Option<SqliteConnection>) {
    if let Some(connection) = held {
        // Nothing was written through it: where closing fails, the system closes it.
        let _ = connection.close().await;
    }
}

fn is_busy(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code()?.parse::<i32>().ok());
    // The low byte is the kind of error: SQLITE_BUSY or SQLITE_LOCKED.
    matches!(code.map(|code| code & 0xff), Some(5 | 6))
}

/// Gives the old database another name. It keeps its own as well until the new one takes that, so that whoever is killed in
/// between leaves a database there; its companions must be gone by then, because they fit no other file.
fn set_aside(path: &Path) -> io::Result<Option<PathBuf>> {
    if !path.exists() {
        return Ok(None);
    }
    let name = |number: u32| beside(path, &format!(".before-rebuild-{number}"));
    let mut number = 1;
    while name(number).exists() {
        number += 1;
    }
    // Where the file system knows no second names, it is gone for a moment.
    fs::hard_link(path, name(number)).or_else(|_| fs::rename(path, name(number)))?;
    for companion in &COMPANIONS[1..] {
        let file = beside(path, companion);
        if file.exists() {
            fs::rename(file, beside(&name(number), companion))?;
        }
    }
    Ok(Some(name(number)))
}

fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        Some(folder) => File::open(folder)?.sync_all(),
        None => File::open(".")?.sync_all(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_database_at_every_moment() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.db");
        assert_eq!(set_aside(&path).unwrap(), None);
        for companion in COMPANIONS {
            fs::write(beside(&path, companion), companion).unwrap();
        }
        let kept = set_aside(&path).unwrap().unwrap();
        assert!(path.exists() && !beside(&path, "-wal").exists());
        for companion in COMPANIONS {
            assert_eq!(fs::read_to_string(beside(&kept, companion)).unwrap(), companion);
        }
    }
}
