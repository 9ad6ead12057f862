//! The attempt's event file: one JSON object a line, appended, never rewritten.
//!
//! Two threads write: the one that works, and the [heartbeat](crate::heartbeat), which tells where the work is.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{SystemTime, UNIX_EPOCH};

use sweep_core::event::{Event, Phase, Record};

use crate::fence::Fence;
use crate::{Error, Result};

/// Writes the events of one attempt. Clones write to the same file.
#[derive(Clone, Debug)]
pub struct EventLog {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    writer: Mutex<Writer>,
    place: Mutex<Option<Place>>,
    /// `None` where nobody else can take over, as in a measurement.
    fence: Option<Fence>,
}

#[derive(Debug)]
struct Writer {
    file: File,
    path: PathBuf,
    /// Bytes up to the end of the last whole line.
    length: u64,
    next: u64,
}

/// Where an attempt is: the fields of [`Event::Progress`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) phase: Phase,
    pub(crate) epoch: u32,
    pub(crate) step: u32,
    pub(crate) steps: u32,
}

impl EventLog {
    /// Creates the file; an attempt has one writer, so a file that is there already is an error.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn create(path: &Path) -> Result<Self> {
        Self::open(path, None)
    }

    /// Like [`Self::create`], for an attempt that writes nothing more once it has lost its run.
    pub(crate) fn fenced(path: &Path, fence: Fence) -> Result<Self> {
        Self::open(path, Some(fence))
    }

    fn open(path: &Path, fence: Option<Fence>) -> Result<Self> {
        let file =
            OpenOptions::new().append(true).create_new(true).open(path).map_err(Error::io("create", path))?;
        Ok(Self::over(file, path, fence))
    }

    fn over(file: File, path: &Path, fence: Option<Fence>) -> Self {
        let writer = Mutex::new(Writer { file, path: path.to_owned(), length: 0, next: 0 });
        Self { shared: Arc::new(Shared { writer, place: Mutex::new(None), fence }) }
    }

    /// Appends an event in one write, so that a reader sees a whole line or an unfinished last one. A line that could not
    /// be finished (full disk) is taken back, so that the next event is a line of its own.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::DiskFull`]; [`Error::Fenced`], and then nothing is written.
    pub fn write(&self, event: Event) -> Result<()> {
        self.check_claim()?;
        self.writer().append(event)
    }

    /// Appends an event and waits until it is on disk: for what must survive a power failure.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn write_durably(&self, event: Event) -> Result<()> {
        self.write(event)?;
        let writer = self.writer();
        writer.file.sync_data().map_err(Error::io("sync", &writer.path))
    }

    /// Says where the attempt is, for the heartbeat to tell. Costs no more than a lock that is hardly ever contended.
    pub(crate) fn at(&self, phase: Phase, epoch: u32, step: u32, steps: u32) {
        *lock(&self.shared.place) = Some(Place { phase, epoch, step, steps });
    }

    /// Returns where the attempt was last said to be.
    pub(crate) fn place(&self) -> Option<Place> {
        *lock(&self.shared.place)
    }

    /// Looks whether this worker still has its run.
    ///
    /// # Errors
    /// [`Error::Fenced`].
    pub(crate) fn check_claim(&self) -> Result<()> {
        self.shared.fence.as_ref().map_or(Ok(()), Fence::check)
    }

    /// Returns whether a look has found that it has not.
    pub(crate) fn has_lost_claim(&self) -> bool {
        self.shared.fence.as_ref().is_some_and(Fence::is_lost)
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        lock(&self.shared.writer)
    }
}

impl Writer {
    fn append(&mut self, event: Event) -> Result<()> {
        let record = Record { sequence: self.next, time_ms: now_ms(), event };
        let mut line = serde_json::to_vec(&record).expect("events are plain data");
        line.push(b'\n');
        if let Err(error) = self.file.write_all(&line) {
            if let Err(error) = self.file.set_len(self.length) {
                tracing::error!("an unfinished line stays in `{}`: {error}", self.path.display());
            }
            return Err(Error::write(&self.path, line.len())(error));
        }
        self.length += line.len() as u64;
        self.next += 1;
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nobody panics while it holds the event file")
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::conclude;

    /// However it ended: without a last word the exit code is all that is left to say it.
    #[test]
    fn an_end_that_the_full_disk_does_not_take_is_told_by_the_exit_code() {
        let path = Path::new("/dev/full");
        let full = || EventLog::over(OpenOptions::new().append(true).open(path).unwrap(), path, None);
        let error = full().write(Event::Succeeded).unwrap_err();
        assert!(matches!(error, Error::DiskFull { needed, .. } if needed > 0), "{error:?}");
        for outcome in [Ok(()), Err(Error::Stopped { epochs: 1 }), Err(error)] {
            assert_eq!(conclude(outcome, &full()).code(), 74);
        }
    }
}
