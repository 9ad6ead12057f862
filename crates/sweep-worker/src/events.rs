//! The attempt's event file: one JSON object a line, appended, never rewritten.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sweep_core::event::{Event, Phase, Record};

use crate::{Error, Result};

/// Least time between two progress events.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// Writes the events of one attempt.
#[derive(Debug)]
pub struct EventLog {
    file: File,
    path: PathBuf,
    /// Bytes up to the end of the last whole line.
    length: u64,
    next: u64,
    last_progress: Option<Instant>,
}

impl EventLog {
    /// Creates the file; an attempt has one writer, so a file that is there already is an error.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn create(path: &Path) -> Result<Self> {
        let file =
            OpenOptions::new().append(true).create_new(true).open(path).map_err(Error::io("create", path))?;
        Ok(Self { file, path: path.to_owned(), length: 0, next: 0, last_progress: None })
    }

    /// Appends an event in one write, so that a reader sees a whole line or an unfinished last one. A line that could not
    /// be finished (full disk) is taken back, so that the next event is a line of its own.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&mut self, event: Event) -> Result<()> {
        let record = Record { sequence: self.next, time_ms: now_ms(), event };
        let mut line = serde_json::to_vec(&record).expect("events are plain data");
        line.push(b'\n');
        if let Err(error) = self.file.write_all(&line) {
            if let Err(error) = self.file.set_len(self.length) {
                tracing::error!("an unfinished line stays in `{}`: {error}", self.path.display());
            }
            return Err(Error::io("append to", &self.path)(error));
        }
        self.length += line.len() as u64;
        self.next += 1;
        Ok(())
    }

    /// Appends an event and waits until it is on disk: for what must survive a power failure.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write_durably(&mut self, event: Event) -> Result<()> {
        self.write(event)?;
        self.file.sync_data().map_err(Error::io("sync", &self.path))
    }

    /// Appends a progress event, at most one a second.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn progress(&mut self, phase: Phase, epoch: u32, step: u32, steps: u32) -> Result<()> {
        if self.last_progress.is_some_and(|last| last.elapsed() < PROGRESS_INTERVAL) {
            return Ok(());
        }
        self.last_progress = Some(Instant::now());
        self.write(Event::Progress { phase, epoch, step, steps })
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
