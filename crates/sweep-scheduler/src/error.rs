//! What can go wrong in the scheduler itself. What goes wrong in a run is data, not an error.

use std::io;
use std::path::PathBuf;

use sweep_core::spec::RunId;

use crate::devices::DevicesError;

/// Why the scheduler had to give up. Workers that were running leave by themselves, and the next session goes on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The database could not be read or written.
    #[error(transparent)]
    Store(#[from] sweep_store::Error),
    /// There is nowhere to run anything.
    #[error("no slots to run workers in")]
    NoSlots,
    /// A run is not in the database.
    #[error("run {run} is not registered")]
    Unregistered {
        /// The run.
        run: RunId,
    },
    /// A file of an attempt that must be cleaned up could not be opened.
    #[error("failed to lock `{}`", path.display())]
    Lock {
        /// The log whose lock was wanted.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The database cannot be made again while work goes on.
    #[error(
        "somebody is alive in attempt {attempt} of run {run}; stop every `sweep run` on this home folder, then repeat"
    )]
    Alive {
        /// The run.
        run: RunId,
        /// The attempt.
        attempt: u32,
    },
    /// A new database would know nothing of what was done.
    #[error(
        "`{}` is not there, but `{}` has runs that were begun\n  hint: `sweep rebuild` makes the database again from their \
         files; `--database` says where it is if it lies elsewhere",
        database.display(),
        home.display()
    )]
    Forgotten {
        /// The database.
        database: PathBuf,
        /// The home folder.
        home: PathBuf,
    },
    /// There is nothing that a database could be made from.
    #[error("`{}` has neither runs nor sweeps to make a database from", path.display())]
    NothingToRebuild {
        /// The home folder.
        path: PathBuf,
    },
    /// Runs went on while the database was made again.
    #[error("the runs in `{}` changed meanwhile; stop every `sweep run` on this home folder, then repeat", path.display())]
    Changed {
        /// The home folder.
        path: PathBuf,
    },
    /// A folder of checkpoints or models could not be looked at.
    #[error("failed to look at `{}`", path.display())]
    Scan {
        /// The folder, or a file in it.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A task of Slurm does not find what it is to do.
    #[error("task {task} finds no orders in `{}`: {reason}", path.display())]
    Orders {
        /// The manifest.
        path: PathBuf,
        /// Number of the task.
        task: u32,
        /// Why.
        reason: String,
    },
    /// A file of an array, or of an attempt that a task makes, could not be read or written.
    #[error("failed at `{}`", path.display())]
    Task {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A task was given no device that it could use.
    #[error("the job has no such device")]
    Devices {
        /// The cause.
        source: DevicesError,
    },
    /// Another session follows Slurm for this home folder.
    #[error("another `sweep run` follows Slurm for this home folder: {holder} (`{}` is locked)", path.display())]
    Followed {
        /// The lock.
        path: PathBuf,
        /// Who holds it: its host and process.
        holder: String,
    },
    /// Slurm refuses what would be submitted, or cannot be used at all; nothing was submitted.
    #[error("{message}")]
    Slurm {
        /// In Slurm's words.
        message: String,
    },
}
