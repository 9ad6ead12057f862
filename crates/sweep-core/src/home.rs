//! Where everything lies under the home folder (`runs/` unless told otherwise).
//!
//! Paths only: nothing here touches the disk.
//!
//! ```text
//! results.db                                 the store
//! sweeps/<name>.json                         every sweep that ran: its file and its runs
//! cache/                                     weights, data, prepared images
//! runs/<run id>/spec.json                    what the run is
//! runs/<run id>/attempt-<n>/events.jsonl     what its worker said
//! runs/<run id>/attempt-<n>/log.txt          what its worker printed; locked while anybody is alive in the attempt
//! runs/<run id>/attempt-<n>/verdict.json      what its scheduler saw of its end, where events do not say it
//! runs/<run id>/attempt-<n>/claim.json       with Slurm: which task of which array it is, and where
//! runs/<run id>/attempt-<n>/pulse            with Slurm: written every few seconds while its worker lives
//! runs/<run id>/attempt-<n>/exit.json        with Slurm: how its worker left
//! runs/<run id>/sharing.json                 what the run does for others that go on from its beginning
//! runs/<run id>/model/                       the final model, as timm loads it
//! slurm/<token>/                             an array: its script, what each of its tasks does, what they print
//! trajectories/                              checkpoints, named by what they are: any run may go on from any of them
//! ```

use std::path::{Path, PathBuf};

use crate::spec::RunId;

/// The home folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    root: PathBuf,
    /// Where the database lies, if not in the folder.
    database: Option<PathBuf>,
}

impl Home {
    /// Returns the layout under `root`; nothing is created.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), database: None }
    }

    /// Returns the same layout with the database at `path`: on a local disk where the folder is on a network.
    #[must_use]
    pub fn with_database(self, path: Option<PathBuf>) -> Self {
        Self { database: path, ..self }
    }

    /// Returns the folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the database.
    pub fn database(&self) -> PathBuf {
        self.database.clone().unwrap_or_else(|| self.root.join("results.db"))
    }

    /// Returns the folder of weights, data and prepared images that all runs share.
    pub fn cache(&self) -> PathBuf {
        self.root.join("cache")
    }

    /// Returns the folder of one run.
    pub fn run(&self, run: RunId) -> PathBuf {
        self.root.join("runs").join(run.to_string())
    }

    /// Returns the file that tells a worker what its run is.
    pub fn spec(&self, run: RunId) -> PathBuf {
        self.run(run).join("spec.json")
    }

    /// Returns the folder of one attempt, counted from 1.
    pub fn attempt(&self, run: RunId, attempt: u32) -> PathBuf {
        self.run(run).join(format!("attempt-{attempt}"))
    }

    /// Returns the events of one attempt.
    pub fn events(&self, run: RunId, attempt: u32) -> PathBuf {
        self.attempt(run, attempt).join("events.jsonl")
    }

    /// Returns the log of one attempt.
    pub fn log(&self, run: RunId, attempt: u32) -> PathBuf {
        self.attempt(run, attempt).join("log.txt")
    }

    /// Returns what the scheduler saw of the end of an attempt.
    pub fn verdict(&self, run: RunId, attempt: u32) -> PathBuf {
        self.attempt(run, attempt).join("verdict.json")
    }

    /// Returns what a task of Slurm says about the attempt that it has made.
    pub fn claim(&self, run: RunId, attempt: u32) -> PathBuf {
        self.attempt(run, attempt).join("claim.json")
    }

    /// Returns the file that a task of Slurm writes again and again while its worker lives.
    pub fn pulse(&self, run: RunId, attempt: u32) -> PathBuf {
        self.attempt(run, attempt).join("pulse")
    }

    /// Returns what a task of Slurm saw of the end of its worker.
    pub fn departure(&self, run: RunId, attempt: u32) -> PathBuf {
        self.attempt(run, attempt).join("exit.json")
    }

    /// Returns the folder of everything that concerns Slurm.
    pub fn slurm(&self) -> PathBuf {
        self.root.join("slurm")
    }

    /// Returns the file that tells a worker what it does for other runs.
    pub fn sharing(&self, run: RunId) -> PathBuf {
        self.run(run).join("sharing.json")
    }

    /// Returns the folder of the checkpoints of all runs.
    pub fn trajectories(&self) -> PathBuf {
        self.root.join("trajectories")
    }

    /// Returns the folder that remembers every sweep.
    pub fn sweeps(&self) -> PathBuf {
        self.root.join("sweeps")
    }

    /// Returns the folder of a run's final model.
    pub fn model(&self, run: RunId) -> PathBuf {
        self.run(run).join("model")
    }
}
