//! The lock on an attempt's log: whoever holds it decides over the attempt.
//!
//! A scheduler takes it before it starts the worker, which inherits it as its standard output and error; the system
//! lets it go when the last of them is gone, however that came about. A scheduler that wants to clean up after a dead
//! one must take it too. So "locked" means that somebody is alive in the attempt, with no guessing about process ids.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::Path;

/// A log file that this process has locked.
#[derive(Debug)]
pub(crate) struct LockedLog(File);

impl LockedLog {
    /// Opens and locks the log at `path`, and creates it with its folder where it is missing. `None` where somebody
    /// else holds the lock.
    pub(crate) fn acquire(path: &Path) -> io::Result<Option<Self>> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let log = File::options().append(true).create(true).open(path)?;
        match log.try_lock() {
            Ok(()) => Ok(Some(Self(log))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Opens the log at `path` on a file system that keeps no locks; other signs of life stand for the lock there.
    pub(crate) fn without_lock(path: &Path) -> io::Result<Self> {
        File::options().append(true).create(true).open(path).map(Self)
    }

    /// Returns another handle to the same open file; the lock is let go with the last one.
    pub(crate) fn handle(&self) -> io::Result<File> {
        self.0.try_clone()
    }

    /// Returns the first handle.
    pub(crate) fn into_file(self) -> File {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_at_a_time_and_every_handle_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("attempt-1/log.txt");
        let log = LockedLog::acquire(&path).unwrap().unwrap();
        assert!(LockedLog::acquire(&path).unwrap().is_none());
        let inherited = log.handle().unwrap();
        drop(log);
        assert!(LockedLog::acquire(&path).unwrap().is_none());
        drop(inherited);
        assert!(LockedLog::acquire(&path).unwrap().is_some());
    }
}
