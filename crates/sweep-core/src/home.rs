//! Where everything lies under the home folder (`runs/` unless told otherwise).
//!
//! Paths only: nothing here touches the disk.
//!
//! ```text
//! results.db                                 the store
//! cache/                                     weights, data, prepared images
//! runs/<run id>/spec.json                    what the run is
//! runs/<run id>/attempt-<n>/events.jsonl     what its worker said
//! runs/<run id>/attempt-<n>/log.txt          what its worker printed; locked while anybody is alive in the attempt
//! runs/<run id>/checkpoints/                 what an interrupted run goes on from
//! runs/<run id>/model/                       the final model, as timm loads it
//! ```

use std::path::{Path, PathBuf};

use crate::spec::RunId;

/// The home folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    root: PathBuf,
}

impl Home {
    /// Returns the layout under `root`; nothing is created.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Returns the folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the database.
    pub fn database(&self) -> PathBuf {
        self.root.join("results.db")
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

    /// Returns the folder of a run's checkpoints.
    pub fn checkpoints(&self, run: RunId) -> PathBuf {
        self.run(run).join("checkpoints")
    }

    /// Returns the folder of a run's final model.
    pub fn model(&self, run: RunId) -> PathBuf {
        self.run(run).join("model")
    }
}
