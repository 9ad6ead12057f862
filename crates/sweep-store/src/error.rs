//! What can go wrong, with the file and the operation.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use sweep_core::spec::RunId;

/// The result of an operation on the store.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation on the store failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// SQLite refused or failed.
    #[error("{}: cannot {operation}", path.display())]
    Database {
        /// The database file.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// What SQLite said.
        source: sqlx::Error,
    },
    /// There is no database file to read.
    #[error("{}: there are no results yet; `sweep run FILE` creates this file, `--home` says where to look", path.display())]
    Missing {
        /// The file that was looked for.
        path: PathBuf,
    },
    /// The file was written by a newer version of the program.
    #[error("{}: written by a newer version of sweep (schema {found}, this one knows {known}); update sweep to use it", path.display())]
    Newer {
        /// The database file.
        path: PathBuf,
        /// Schema version of the file.
        found: i64,
        /// Newest schema version that this program knows.
        known: i64,
    },
    /// The file is to be written on a network's file system.
    #[error(
        "{}: this is on a network file system ({kind}); the locks and the write-ahead log of SQLite do not work there, and \
         the file could be damaged\n  hint: keep the database on a local disk with `--database PATH` (or SWEEP_DATABASE); \
         everything else may stay in the home folder, and `sweep rebuild` makes the database again from there",
        path.display()
    )]
    NetworkDatabase {
        /// The database file.
        path: PathBuf,
        /// What the system calls the file system, such as `nfs4`.
        kind: String,
    },
    /// The file is to be replaced while somebody has it open.
    #[error(
        "{}: somebody has this database open; stop every `sweep run` on it (and other programs that read it), then repeat",
        path.display()
    )]
    InUse {
        /// The database file.
        path: PathBuf,
    },
    /// A file beside the database could not be read, written or removed.
    #[error("failed to {action} `{}`", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The file was written by an older version and must be brought up to date by a writer first.
    #[error("{}: has the older schema {found} (this version reads {known}); `sweep run FILE` brings it up to date", path.display())]
    Older {
        /// The database file.
        path: PathBuf,
        /// Schema version of the file; 0 for none.
        found: i64,
        /// Newest schema version that this program knows.
        known: i64,
    },
    /// A migration failed, or the file's migrations are not this program's.
    #[error("{}: cannot bring the schema up to date", path.display())]
    Migrate {
        /// The database file.
        path: PathBuf,
        /// What was wrong.
        source: sqlx::migrate::MigrateError,
    },
    /// A run is listed twice in one sweep.
    #[error("run {run} is listed twice")]
    ListedTwice {
        /// The run.
        run: RunId,
    },
    /// A run starts from a run that is neither listed nor stored.
    #[error("run {run} starts from run {missing}, which is neither listed nor stored")]
    MissingDependency {
        /// The run.
        run: String,
        /// The run that it starts from.
        missing: String,
    },
    /// A number does not fit SQLite's 64-bit signed integers.
    #[error(
        "{what} {value} of run {run} is larger than 2^63 - 1, the largest number that the database holds"
    )]
    TooLarge {
        /// What the number is.
        what: &'static str,
        /// The number.
        value: u64,
        /// Its run.
        run: RunId,
    },
    /// A stored specification is not one that this program understands.
    #[error("the stored specification of run {run} cannot be read")]
    Spec {
        /// The run.
        run: RunId,
        /// What was wrong.
        source: serde_json::Error,
    },
    /// Events came for an attempt that was never claimed.
    #[error("run {run} has no attempt {attempt}")]
    UnknownAttempt {
        /// The run.
        run: RunId,
        /// The attempt.
        attempt: u32,
    },
    /// An event cannot be: it contradicts itself or its run.
    #[error("{reason}")]
    ImpossibleEvent {
        /// Which event of which attempt or measurement of which run, and why.
        reason: String,
    },
    /// A measurement belongs to a run that was never registered.
    #[error("run {run} is not in the database")]
    NotStored {
        /// The run.
        run: RunId,
    },
    /// No run's id begins with a text.
    #[error("no run begins with `{prefix}`{}", listed(". The nearest are:", candidates))]
    UnknownRun {
        /// What was asked for.
        prefix: String,
        /// Runs with ids near to it.
        candidates: Vec<Candidate>,
    },
    /// Several runs' ids begin with a text.
    #[error("`{prefix}` fits {count} runs; give more digits{}", listed(":", candidates))]
    AmbiguousRun {
        /// What was asked for.
        prefix: String,
        /// How many runs fit.
        count: u64,
        /// The first of them.
        candidates: Vec<Candidate>,
    },
    /// There is no sweep of a name.
    #[error("there is no sweep `{name}`; there is {}", quoted(known))]
    UnknownSweep {
        /// What was asked for.
        name: String,
        /// The sweeps that there are.
        known: Vec<String>,
    },
    /// A query is not a single reading statement.
    #[error("only one statement that reads is accepted here: {reason}")]
    NotReadable {
        /// What is wrong with it.
        reason: String,
    },
    /// A query ran longer than allowed and was stopped.
    #[error("the query was stopped after {} s", limit.as_secs_f64())]
    TimedOut {
        /// What was allowed.
        limit: Duration,
    },
    /// A query is not valid SQL, or names what is not there.
    #[error("the query failed: {message}")]
    Query {
        /// What SQLite said.
        message: String,
    },
}

impl Error {
    /// Returns whether the database could not be written because its disk is full.
    pub fn is_disk_full(&self) -> bool {
        let Self::Database { source, .. } = self else { return false };
        let code = source.as_database_error().and_then(|error| error.code()?.parse::<u32>().ok());
        code.is_some_and(means_full)
    }
}

/// Returns whether a code of SQLite's means that there is no room: SQLITE_FULL; SQLITE_IOERR_SHMSIZE where the shared memory
/// beside the file cannot grow; and SQLITE_IOERR_WRITE, as which a quota that is used up arrives.
const fn means_full(code: u32) -> bool {
    code & 0xff == 13 || matches!(code, 4874 | 778)
}

/// A run as error messages list it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its id, in full.
    pub id: String,
    /// What it is, in a few words.
    pub description: String,
}

impl fmt::Display for Candidate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length = RunId::SHORT.min(self.id.len());
        write!(formatter, "{}  {}", &self.id[..length], self.description)
    }
}

fn listed(introduction: &str, candidates: &[Candidate]) -> String {
    if candidates.is_empty() {
        return String::new();
    }
    let lines: Vec<String> = candidates.iter().map(|candidate| format!("\n  {candidate}")).collect();
    format!("{introduction}{}", lines.concat())
}

fn quoted(names: &[String]) -> String {
    if names.is_empty() {
        return "none".to_owned();
    }
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_that_is_used_up_is_a_full_disk() {
        assert!([13, 4874, 778].into_iter().all(means_full));
        // SQLITE_BUSY, SQLITE_IOERR_READ, SQLITE_CORRUPT.
        assert!(![5, 266, 11].into_iter().any(means_full));
    }
}
