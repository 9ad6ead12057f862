//! For tests only: temporary workspaces, sample runs, a scripted worker, a local Hub, a Slurm of their own, and waiting
//! without sleeping blindly.
//!
//! It knows the worker's protocol (command line, `events.jsonl`, exit codes) but neither the scheduler nor the store.

mod browser;
mod build;
pub mod hub;
mod sample;
mod script;
pub mod slurm;
mod wait;
pub mod worker;
mod workspace;

pub use browser::{Browser, chromium};
pub use build::{FAKE_WORKER_VARIABLE, fake_worker};
pub use sample::{id_of, sample_run, sample_run_after};
pub use script::{Action, SCRIPT_VARIABLE, Script};
pub use wait::{PATIENCE, wait_until};
pub use workspace::Workspace;
