//! What a worker says about its attempt: one JSON object a line in the attempt's `events.jsonl`.
//!
//! Readers ignore fields they do not know and event kinds they do not know (as [`Event::Unknown`]), so that an older
//! scheduler can read a newer worker's file.

use serde::{Deserialize, Serialize};

use crate::epsilon::Epsilon;
use crate::spec::{Norm, RunId};

/// One line of `events.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// 0, 1, 2, … within the attempt; (run, attempt, sequence) is unique, so reading a file twice changes nothing.
    pub sequence: u64,
    /// Milliseconds since the Unix epoch, by the worker's clock.
    pub time_ms: i64,
    /// What happened.
    pub event: Event,
}

/// What happened in an attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Event {
    /// The worker began; always the first event.
    Started {
        /// The run.
        run: RunId,
        /// Number of the attempt, from 1.
        attempt: u32,
        /// Process id of the worker.
        pid: u32,
        /// Host name.
        host: String,
        /// Device, such as `cpu` or a GPU's name.
        device: String,
        /// Threads that compute.
        threads: u32,
        /// Version of the program.
        version: String,
        /// Number of completed epochs in the checkpoint that the attempt goes on from; 0 where it starts anew.
        resumed_from: u32,
        /// The run that wrote that checkpoint, where it was another one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        resumed_run: Option<RunId>,
        /// Images a forward pass; `None` where they are still to be found ([`Event::MicroBatchFound`]).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        micro_batch_size: Option<u32>,
        /// When the process started, in clock ticks since the machine did: with the host and the process id, evidence of
        /// which process this is. `None` where the system does not say.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        process_start: Option<u64>,
    },
    /// Data and weights are loaded.
    Loaded {
        /// Digest of the prepared dataset.
        dataset_digest: String,
        /// Number of classes.
        classes: u32,
        /// Training images.
        train: u32,
        /// Validation images.
        validation: u32,
        /// Test images.
        test: u32,
        /// SHA-256 of the weights file; `None` for random weights.
        weights_digest: Option<String>,
        /// Number of parameters, head included.
        parameters: u64,
        /// Pictures of the source that could not be read and were left out; they count in no split.
        #[serde(default, skip_serializing_if = "is_zero")]
        skipped: u64,
    },
    /// The micro batch is `auto`, and this is what the worker computes with.
    MicroBatchFound {
        /// Images a forward pass.
        micro_batch_size: u32,
    },
    /// What the GPU of the attempt was asked for since the attempt began, other programs on it included. Each such event
    /// stands for all before it.
    DeviceUsed {
        /// Most memory in use at any look, in bytes.
        memory_bytes: u64,
        /// Its memory, in bytes.
        memory_total_bytes: u64,
        /// Share of the time in which it computed anything, in [0, 1]: the mean over all looks.
        utilization: f64,
    },
    /// Where the attempt is: when that changes, at most once a second, and every few seconds while it does not. It comes
    /// from a thread apart from the work, so that a hang (it comes, and says the same) is told from a death (it does not
    /// come). Not kept in the database beyond the latest.
    Progress {
        /// What it does.
        phase: Phase,
        /// The epoch, from 0 (training), or the epochs trained (evaluation).
        epoch: u32,
        /// Steps done in this phase.
        step: u32,
        /// Steps of this phase.
        steps: u32,
    },
    /// An epoch was trained and validated.
    EpochFinished {
        /// The epoch, from 0.
        epoch: u32,
        /// Epsilon at its last step, as a number on pixels in [0, 1].
        epsilon: f64,
        /// Learning rate of the backbone at its last step.
        learning_rate: f64,
        /// Mean of what training minimises over the epoch's images: cross entropy on perturbed images, or TRADES' sum.
        train_loss: f64,
        /// Training images classified correctly in the training forward pass.
        train_correct: u32,
        /// Training images seen.
        train_total: u32,
        /// Validation images classified correctly.
        clean_correct: u32,
        /// Validation images classified correctly under attack at the target epsilon.
        robust_correct: u32,
        /// Validation images.
        validation_total: u32,
        /// Mean validation loss on clean images.
        clean_loss: f64,
        /// Mean validation loss under attack.
        robust_loss: f64,
        /// Seconds spent training.
        train_seconds: f64,
        /// Seconds spent validating.
        validation_seconds: f64,
        /// The run that trained the epoch, where it was another one: this run has gone on from its checkpoint.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        trained_by: Option<RunId>,
    },
    /// A checkpoint lies on disk.
    CheckpointSaved {
        /// Completed epochs.
        epochs: u32,
        /// Optimizer steps done in the epoch after those.
        #[serde(default, skip_serializing_if = "is_no_step")]
        step: u32,
        /// File, relative to the home folder.
        file: String,
        /// SHA-256 of the file.
        digest: String,
        /// Size.
        bytes: u64,
    },
    /// One accuracy was measured on a complete split.
    Evaluated {
        /// Completed epochs of the weights.
        epochs: u32,
        /// The split.
        split: Split,
        /// The attack's label; `none` at epsilon 0.
        attack: String,
        /// Norm of the ball.
        norm: Norm,
        /// Radius.
        epsilon: Epsilon,
        /// Images classified correctly.
        correct: u32,
        /// Images.
        total: u32,
        /// Seconds it took.
        seconds: f64,
    },
    /// The final model lies on disk.
    ModelSaved {
        /// File, relative to the run's folder.
        file: String,
        /// SHA-256 of the file.
        digest: String,
        /// Size.
        bytes: u64,
    },
    /// The run is complete; always the last event of a successful attempt.
    Succeeded,
    /// The attempt stopped on request after saving what it had; the run goes on later.
    Interrupted {
        /// Completed epochs in the newest checkpoint.
        epochs: u32,
    },
    /// The attempt failed.
    Failed {
        /// What kind of failure.
        class: FailureClass,
        /// What happened, in words.
        message: String,
    },
    /// An event of a newer version.
    #[serde(other)]
    Unknown,
}

/// What a worker is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Reading data and weights.
    Loading,
    /// Training an epoch.
    Training,
    /// Measuring on the validation split.
    Validation,
    /// Measuring on the test split.
    Evaluation,
}

/// A split that accuracies are measured on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// Training images.
    Train,
    /// Validation images.
    Validation,
    /// Test images.
    Test,
}

impl Split {
    /// Returns the name used in the database.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
            Self::Test => "test",
        }
    }
}

/// Why an attempt failed, and with that what is done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    /// A loss or gradient was not finite: a result, not retried.
    Diverged,
    /// The data could not be read or is not what was expected.
    Data,
    /// The weights could not be read or do not fit the architecture.
    Weights,
    /// The Hub did not give what was asked for.
    Hub,
    /// Memory ran out.
    OutOfMemory,
    /// A file could not be read or written, which passes where a file server did not answer.
    Storage,
    /// The disk is full: no fault of the run, which goes on where it was when there is room.
    DiskFull,
    /// The worker ended without a last word.
    WorkerDied,
    /// The attempt took longer than allowed.
    Timeout,
    /// The worker could not make sense of its own input.
    Configuration,
}

impl FailureClass {
    /// Returns the name used in the database and on the screen.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Diverged => "diverged",
            Self::Data => "data",
            Self::Weights => "weights",
            Self::Hub => "hub",
            Self::OutOfMemory => "out_of_memory",
            Self::Storage => "storage",
            Self::DiskFull => "disk_full",
            Self::WorkerDied => "worker_died",
            Self::Timeout => "timeout",
            Self::Configuration => "configuration",
        }
    }

    /// Returns whether another attempt may succeed with nothing changed.
    pub const fn is_transient(self) -> bool {
        matches!(self, Self::Hub | Self::Storage | Self::WorkerDied | Self::Timeout)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference over")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference over")]
fn is_no_step(step: &u32) -> bool {
    *step == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_of_a_newer_version_is_unknown_and_no_error() {
        let line = r#"{"sequence":3,"time_ms":5,"extra":1,"event":{"kind":"teleported","where":"moon"}}"#;
        let record: Record = serde_json::from_str(line).unwrap();
        assert_eq!((record.sequence, record.event), (3, Event::Unknown));
    }

    #[test]
    fn labels_are_what_serde_writes() {
        for class in [FailureClass::Diverged, FailureClass::OutOfMemory, FailureClass::DiskFull] {
            assert_eq!(serde_json::to_value(class).unwrap(), class.label());
        }
        assert_eq!(serde_json::to_value(Split::Test).unwrap(), Split::Test.label());
    }
}
