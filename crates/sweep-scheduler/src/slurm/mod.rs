//! Slurm as the engine that runs workers.
//!
//! ```text
//! controller (owns the database) → array: manifest.jsonl, job.sh → sbatch → task on a node → worker
//!     ← claim.json, pulse, events.jsonl, exit.json in the attempt's folder ←
//! ```
//!
//! The `controller` submits what is ready as one array and follows it; the `agent` is what a task does on its node. They
//! never talk but through files (`orders`), so either may die. Slurm is driven by its commands, without a library of it:
//! `client` runs them, `rows` reads what they print, `states` says what Slurm's words mean for a run, and `script`
//! writes what is submitted. What Slurm says is a hint and never a result: how a run ended is for its worker's events to say,
//! and whether an attempt lives for its `signs` of life.

pub(crate) mod agent;
pub(crate) mod check;
pub(crate) mod client;
pub(crate) mod controller;
pub(crate) mod error;
pub(crate) mod job;
pub(crate) mod orders;
pub(crate) mod pace;
pub(crate) mod rows;
pub(crate) mod script;
pub(crate) mod signs;
pub(crate) mod states;
pub(crate) mod withdraw;

#[cfg(test)]
mod tests;

pub use agent::{TaskEnd, carry_out};
pub use check::{Preview, check, preview};
pub use controller::{SlurmSettings, dispatch};
pub use withdraw::{Withdrawn, withdraw};
