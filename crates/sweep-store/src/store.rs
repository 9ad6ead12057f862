//! The single writer.

use std::path::Path;

use sqlx::{Connection as _, SqliteConnection};
use tokio::sync::Mutex;

use crate::connection;
use crate::error::Result;
use crate::reader::Reader;

/// The results database, open for writing.
///
/// All writes of a process go through one connection, one transaction at a time; a future that is dropped half-way
/// rolls its transaction back. Reads go through [`Self::reader`] and see every committed write. Several stores, in
/// several processes too, may be open on one file.
#[derive(Debug)]
pub struct Store {
    reader: Reader,
    pub(crate) writer: Mutex<SqliteConnection>,
}

impl Store {
    /// Opens the database at `path`, creates it where it is missing (its folder must exist), and brings its schema up
    /// to date; a copy of an older file is kept beside it, as `<file>.schema-<version>.bak`.
    ///
    /// # Errors
    /// [`crate::Error::NetworkDatabase`] on a network's file system, [`crate::Error::Newer`] for a file of a newer version;
    /// neither is changed. [`crate::Error::Migrate`], [`crate::Error::Database`] and [`crate::Error::File`] where something
    /// fails; a migration is applied as a whole or not at all.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let writer = connection::open_writer(path).await?;
        Ok(Self { reader: Reader::unchecked(path), writer: Mutex::new(writer) })
    }

    /// Returns the reading side.
    pub const fn reader(&self) -> &Reader {
        &self.reader
    }

    /// Closes every connection, so that the write-ahead log is merged into the file if nobody else has it open.
    pub async fn close(self) -> Result<()> {
        let failed = connection::failed(self.reader.path(), "close");
        self.reader.pool().close().await;
        self.writer.into_inner().close().await.map_err(failed)
    }

    pub(crate) fn failed(&self, operation: &'static str) -> impl Fn(sqlx::Error) -> crate::Error + Copy {
        connection::failed(self.reader.path(), operation)
    }
}
