//! Everything that ends an attempt, and the class that the scheduler acts on.

use std::path::{Path, PathBuf};

use sweep_core::event::FailureClass;
use sweep_core::spec::RunId;

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an attempt ended before its run was complete.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody asked for it; everything up to here is saved.
    #[error("stopped on request after {epochs} epochs")]
    Stopped {
        /// Completed epochs in the newest checkpoint.
        epochs: u32,
    },
    /// A file could not be read or written.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// The run's description cannot be read.
    #[error("`{}` does not describe a run", path.display())]
    Spec {
        /// The file.
        path: PathBuf,
        /// The reader's answer.
        source: serde_json::Error,
    },
    /// The run's description is that of another run.
    #[error("`{}` describes run {found}, expected {expected}", path.display())]
    OtherRun {
        /// The file.
        path: PathBuf,
        /// The run that was asked for.
        expected: RunId,
        /// The run that is described.
        found: RunId,
    },
    /// This build cannot compute there.
    #[error("device `{device}` is not available in this build, expected `cpu`")]
    Device {
        /// The device.
        device: String,
    },
    /// This build cannot train such a network.
    #[error("this build cannot train {family} yet, only vit")]
    Family {
        /// The family of architectures.
        family: &'static str,
    },
    /// The weights are on the Hub.
    #[error(
        "weights of `{repository}` cannot be fetched by this build: give a local file with {{kind: file, path: …}}"
    )]
    HubWeights {
        /// `owner/name`.
        repository: String,
    },
    /// The weights file is not the one that the run was planned with.
    #[error("`{}` has digest {found}, expected {expected}", path.display())]
    WeightsChanged {
        /// The file.
        path: PathBuf,
        /// The digest in the run's description.
        expected: String,
        /// The digest of the file.
        found: String,
    },
    /// The model could not be built, loaded or saved.
    #[error("the model failed")]
    Model(#[from] sweep_models::Error),
    /// A layer or an optimizer failed.
    #[error("a layer failed")]
    Kernel(#[from] sweep_kernels::Error),
    /// candle failed.
    #[error("a tensor operation failed")]
    Tensor(#[from] candle_core::Error),
    /// The data could not be read.
    #[error("the dataset failed")]
    Data(#[from] sweep_data::Error),
    /// An attack failed.
    #[error("the attack failed")]
    Attack(#[from] sweep_attacks::Error),
    /// The training loss is not finite.
    #[error("the training loss is {loss} in epoch {epoch}, step {step}")]
    Diverged {
        /// The epoch, from 0.
        epoch: u32,
        /// The optimizer step within it, from 0.
        step: u32,
        /// The loss.
        loss: f64,
    },
    /// A checkpoint cannot be written or does not fit the run.
    #[error("checkpoint `{}`: {reason}", path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl Error {
    /// Returns a function that wraps the operating system's answer to `action` on `path`.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }

    /// Returns what kind of failure it is.
    pub fn class(&self) -> FailureClass {
        use sweep_attacks::Error as Attack;
        match self {
            Self::Diverged { .. }
            | Self::Attack(Attack::NonFiniteLoss { .. } | Attack::NonFiniteGradient { .. }) => {
                FailureClass::Diverged
            }
            Self::Data(_) => FailureClass::Data,
            Self::HubWeights { .. } => FailureClass::Hub,
            Self::WeightsChanged { .. } | Self::Model(_) => FailureClass::Weights,
            Self::Io { .. } | Self::Checkpoint { .. } => FailureClass::Storage,
            Self::Stopped { .. }
            | Self::Spec { .. }
            | Self::OtherRun { .. }
            | Self::Device { .. }
            | Self::Family { .. }
            | Self::Kernel(_)
            | Self::Tensor(_)
            | Self::Attack(_) => FailureClass::Configuration,
        }
    }

    /// Returns the exit code of a worker that ends with this failure.
    pub(crate) fn exit_code(&self) -> u8 {
        match self.class() {
            FailureClass::Diverged => 79,
            FailureClass::Configuration => 78,
            FailureClass::OutOfMemory => 77,
            FailureClass::Hub => 75,
            _ => 1,
        }
    }

    /// Returns the message with every cause behind it.
    pub(crate) fn with_causes(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}
