//! The language of an experiment: sweep file, grid, runs and their identity, schedules, events, metrics.
//!
//! Pure code: no input or output, no clock, no async, no tensors, and no randomness but the keyed streams of
//! [`random`].

pub mod dataset;
pub mod epsilon;
pub mod event;
pub mod home;
pub mod metrics;
pub mod micro_batch;
pub mod random;
pub mod schedule;
pub mod spec;
pub mod trajectory;
pub mod verdict;

mod budget;
mod expand;
mod file;
mod grammar;
mod node;
mod problem;
mod quantity;
mod schema;
mod set;
mod slurm;
mod tables;
mod validate;

pub use expand::{Grid, HubKind, MAX_RUNS, Resolve};
pub use file::{Execution, KeepCheckpoints, Sweep};
pub use problem::{Problem, Problems};
pub use quantity::{bytes as parse_bytes, seconds as parse_seconds};
pub use schema::json_schema;
pub use set::Assignment;
pub use slurm::{
    Executor, Gpus, GpusError, SbatchFlagError, SlurmOptions, check_sbatch_flag, parse_memory,
    parse_time_limit,
};
