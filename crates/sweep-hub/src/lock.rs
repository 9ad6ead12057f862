//! One downloader per repository and commit, across tasks and processes.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;
use std::time::Duration;

use crate::error::{Error, Result};

/// How often a lock that somebody else holds is tried. Asking instead of waiting inside the system keeps the task cancellable.
const INTERVAL: Duration = Duration::from_millis(50);

/// A held lock; the system frees it with the file, however the process ends.
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Waits for the lock at `path` as long as it takes. `what` tells whoever watches what is waited for.
    pub(crate) async fn acquire(path: &Path, what: &str) -> Result<Self> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path);
        let file = file.map_err(Error::cache("open the lock", path))?;
        let mut told = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { _file: file }),
                Err(TryLockError::Error(error)) => return Err(Error::cache("lock", path)(error)),
                Err(TryLockError::WouldBlock) => {}
            }
            if !std::mem::replace(&mut told, true) {
                tracing::info!("{what} is being fetched by somebody else; waiting for them");
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_second_waits_for_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let first = Lock::acquire(&path, "it").await.unwrap();
        let second = Lock::acquire(&path, "it");
        tokio::pin!(second);
        let early = tokio::time::timeout(3 * INTERVAL, &mut second).await;
        assert!(early.is_err());
        drop(first);
        second.await.unwrap();
    }
}
