//! Checkpoints: what training goes on from, to the same bits, in the run that wrote them and in any other whose training
//! begins alike.
//!
//! A checkpoint is one safetensors file with the parameters (`model.…`), their moving average where there is one
//! (`average.…`), the optimizer's moments (`optimizer.…`) and, in its metadata, how far training has come with everything
//! that was recorded on the way. There is no generator state: all randomness is a function of (seed, purpose, epoch,
//! index).
//!
//! All runs' files lie in one folder under names that say what they are ([`CheckpointName`]): the hash of the trajectory
//! that produced them, who wrote them, and the digest of their content. So a name decides whether a file can be used, and
//! the file proves itself; no log is needed to trust it. A run deletes its own files only, but for damaged ones.
//!
//! [`CheckpointName`]: sweep_core::trajectory::CheckpointName

mod content;
mod position;
mod record;
mod state;
mod store;

pub(crate) use position::Position;
pub(crate) use record::{EpochRecord, Measured, Probe, Robust};
pub(crate) use state::{Shape, State};
pub(crate) use store::{Checkpoints, Found};
