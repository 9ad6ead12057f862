//! Everything that ends an attempt, and the class that the scheduler acts on.

use std::io;
use std::path::{Path, PathBuf};

use sweep_core::event::{FailureClass, Phase};
use sweep_core::spec::{Precision, RunId};

use crate::compute::says_out_of_memory;

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
        source: io::Error,
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
    #[error("device `{device}` is not available in this build, expected {expected}")]
    Device {
        /// The device.
        device: String,
        /// Those that are.
        expected: &'static str,
    },
    /// The driver does not let this process compute on a GPU.
    #[error("`{device}` cannot be used")]
    Gpu {
        /// The device.
        device: String,
        /// The driver's answer.
        source: candle_core::Error,
    },
    /// The device does not compute with such numbers.
    #[error("precision `{precision}` is not available on `{device}`, expected `f32`")]
    Precision {
        /// What the run asks for.
        precision: Precision,
        /// The device.
        device: String,
    },
    /// Not even a training step of one image fits the memory.
    #[error("out of memory: a training step of a single image does not fit the device")]
    NothingFits,
    /// The operating system gave no threads.
    #[error("cannot start the threads that compute: {0}")]
    Threads(rayon::ThreadPoolBuildError),
    /// The weights are on the Hub.
    #[error(
        "the weights of `{repository}` are not here: `sweep run` and `sweep fetch` bring them before a worker starts"
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
        /// The digest in the run's description, or the one that the run which trained them reported.
        expected: String,
        /// The digest of the file.
        found: String,
    },
    /// The weights file could not be read.
    #[error("cannot read the weights `{}`", path.display())]
    WeightsFile {
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// The run whose final model is asked for has none.
    #[error("run {run} has no final model in `{}`: it has to succeed first", path.display())]
    NoModel {
        /// The run.
        run: RunId,
        /// Where its model would be.
        path: PathBuf,
    },
    /// The model could not be built, loaded or run.
    #[error("the model failed")]
    Model(#[from] sweep_models::Error),
    /// The final model could not be written.
    #[error("cannot save the model in `{}`", path.display())]
    SaveModel {
        /// The folder.
        path: PathBuf,
        /// What failed.
        source: sweep_models::Error,
    },
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
    /// The dataset has too few classes for an attack of the run.
    #[error(
        "the {purpose} attack maximises the DLR loss, which needs at least {needed} classes; the dataset has {classes}"
    )]
    TooFewClasses {
        /// What the attack is for.
        purpose: &'static str,
        /// Smallest number of classes.
        needed: u32,
        /// Classes of the dataset.
        classes: u32,
    },
    /// A loss is not finite.
    #[error("the mean {} loss is {loss} in epoch {epoch}, step {step}", adjective(*phase))]
    Diverged {
        /// What was being done.
        phase: Phase,
        /// The epoch, from 0; the epochs trained where the test split is measured.
        epoch: u32,
        /// The optimizer step within it, from 0.
        step: u32,
        /// The mean loss over the images of the batch.
        loss: f64,
    },
    /// A gradient that is to be clipped is not finite.
    #[error("the norm of the gradient is {norm} in epoch {epoch}, step {step}")]
    GradientNotFinite {
        /// The epoch, from 0.
        epoch: u32,
        /// The optimizer step within it, from 0.
        step: u32,
        /// The norm.
        norm: f64,
    },
    /// What the run does for others cannot be read.
    #[error("`{}` does not say what the run does for others", path.display())]
    Sharing {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
    /// The operating system gave no thread.
    #[error("cannot start the thread `{name}`")]
    Thread {
        /// What it is for.
        name: &'static str,
        /// The operating system's answer.
        source: io::Error,
    },
    /// The disk or the quota ran full while something was written.
    #[error("no room to write {needed} bytes to `{}`", path.display())]
    DiskFull {
        /// The file.
        path: PathBuf,
        /// Its length.
        needed: u64,
        /// The operating system's answer.
        source: io::Error,
    },
    /// Something would not fit on the disk, so that it was not begun.
    #[error("no room to write {needed} bytes to `{}`: its file system has {free} left", path.display())]
    NoRoom {
        /// The file or folder.
        path: PathBuf,
        /// Bytes that it needs.
        needed: u64,
        /// Bytes that are free for this user.
        free: u64,
    },
    /// Somebody else has the run: whoever it was judged this worker dead.
    #[error("this attempt has lost its run: `{}` {}", path.display(), if *exists { "exists" } else { "is gone" })]
    Fenced {
        /// The folder of the next attempt, or the event file of this one.
        path: PathBuf,
        /// Whether it is there.
        exists: bool,
    },
    /// A checkpoint cannot be written.
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
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }

    /// Returns a function that wraps the operating system's answer to writing `needed` bytes to `path`.
    pub(crate) fn write(path: &Path, needed: usize) -> impl FnOnce(io::Error) -> Self {
        let (path, needed) = (path.to_owned(), needed as u64);
        move |source| {
            if is_full(source.kind()) {
                Self::DiskFull { path, needed, source }
            } else {
                Self::Io { action: "write", path, source }
            }
        }
    }

    /// Returns what kind of failure it is.
    pub fn class(&self) -> FailureClass {
        use sweep_attacks::Error as Attack;
        if self.is_disk_full() {
            return FailureClass::DiskFull;
        }
        match self {
            Self::Diverged { .. }
            | Self::GradientNotFinite { .. }
            | Self::Attack(Attack::NonFiniteLoss { .. } | Attack::NonFiniteGradient { .. }) => {
                FailureClass::Diverged
            }
            Self::NothingFits => FailureClass::OutOfMemory,
            Self::Model(_) | Self::Kernel(_) | Self::Tensor(_) | Self::Attack(_) | Self::Gpu { .. }
                if self.is_out_of_memory() =>
            {
                FailureClass::OutOfMemory
            }
            // A card that is lost or in an error state may work for the next attempt, or another card may; and threads are
            // there again when others have ended.
            Self::Gpu { .. } | Self::Threads(_) | Self::Thread { .. } => FailureClass::WorkerDied,
            Self::Model(_) | Self::Kernel(_) | Self::Tensor(_) | Self::Attack(_) if self.is_of_a_driver() => {
                FailureClass::WorkerDied
            }
            Self::Data(sweep_data::Error::Io { action, .. }) if is_writing(action) => FailureClass::Storage,
            Self::Data(_) => FailureClass::Data,
            Self::WeightsChanged { .. }
            | Self::WeightsFile { .. }
            | Self::NoModel { .. }
            | Self::Model(_) => FailureClass::Weights,
            Self::Io { .. }
            | Self::Checkpoint { .. }
            | Self::SaveModel { .. }
            | Self::DiskFull { .. }
            | Self::NoRoom { .. } => FailureClass::Storage,
            Self::Stopped { .. }
            | Self::Fenced { .. }
            | Self::Spec { .. }
            | Self::OtherRun { .. }
            | Self::Device { .. }
            | Self::Precision { .. }
            | Self::Sharing { .. }
            | Self::HubWeights { .. }
            | Self::TooFewClasses { .. }
            | Self::Kernel(_)
            | Self::Tensor(_)
            | Self::Attack(_) => FailureClass::Configuration,
        }
    }

    /// Whether CUDA's driver or one of its libraries refused something: for shapes and settings it is never asked.
    fn is_of_a_driver(&self) -> bool {
        causes(self).filter_map(of_candle).any(is_of_cuda)
    }

    /// Only writing runs out of room, so that any such answer among the causes will do, whoever wrote.
    fn is_disk_full(&self) -> bool {
        matches!(self, Self::NoRoom { .. })
            || causes(self)
                .filter_map(|cause| cause.downcast_ref::<io::Error>())
                .any(|answer| is_full(answer.kind()))
    }

    /// Drivers of accelerators say it in words only.
    fn is_out_of_memory(&self) -> bool {
        says_out_of_memory(&self.with_causes())
    }

    /// Returns the exit code of a worker that ends with this failure.
    pub(crate) fn exit_code(&self) -> u8 {
        match self.class() {
            FailureClass::Diverged => 79,
            FailureClass::Configuration => 78,
            FailureClass::OutOfMemory => 77,
            FailureClass::Hub => 75,
            FailureClass::DiskFull => 74,
            _ => 1,
        }
    }

    /// Returns the message with every cause behind it.
    pub(crate) fn with_causes(&self) -> String {
        let mut texts: Vec<String> = causes(self).map(ToString::to_string).collect();
        // Some errors quote their cause.
        texts.dedup_by(|cause, error| error.ends_with(cause.as_str()));
        texts.join(": ")
    }
}

type Cause = dyn std::error::Error + 'static;

/// Returns an error and everything behind it.
fn causes(error: &Cause) -> impl Iterator<Item = &Cause> {
    std::iter::successors(Some(error), |error| error.source())
}

/// Returns candle's error where a cause is one, or another crate's that stands for it: those do not name it as their cause.
fn of_candle(cause: &Cause) -> Option<&candle_core::Error> {
    use sweep_kernels::Error as Kernel;
    use sweep_models::Error as Model;
    match (cause.downcast_ref::<Model>(), cause.downcast_ref::<Kernel>()) {
        (Some(Model::Tensor(error) | Model::Kernel(Kernel::Tensor(error))), _)
        | (_, Some(Kernel::Tensor(error))) => Some(error),
        _ => cause.downcast_ref(),
    }
}

/// Returns whether an error of candle is CUDA's, whatever was added to it.
fn is_of_cuda(error: &candle_core::Error) -> bool {
    use candle_core::Error as Candle;
    match error {
        Candle::Cuda(_) => true,
        Candle::Context { inner, .. }
        | Candle::WithPath { inner, .. }
        | Candle::WithBacktrace { inner, .. } => is_of_cuda(inner),
        Candle::WrappedContext { wrapped, .. } => wrapped.downcast_ref::<Candle>().is_some_and(is_of_cuda),
        _ => false,
    }
}

const fn is_full(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

const fn adjective(phase: Phase) -> &'static str {
    match phase {
        Phase::Loading => "initial",
        Phase::Training => "training",
        Phase::Validation => "validation",
        Phase::Evaluation => "test",
    }
}

/// Returns whether `sweep-data` does this to files of its own cache only.
fn is_writing(action: &str) -> bool {
    matches!(action, "create" | "lock" | "write" | "synchronize" | "rename")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_is_to_blame_where_something_is_written_and_the_input_where_it_is_read() {
        let classes = |kind: io::ErrorKind| {
            let data = |action| {
                Error::Data(sweep_data::Error::Io { action, path: "x".into(), source: kind.into() }).class()
            };
            let file = || sweep_models::Error::File { path: "x".into(), source: kind.into() };
            let save = Error::SaveModel { path: "x".into(), source: file() };
            [data("write"), data("open"), save.class(), Error::from(file()).class()]
        };
        let (storage, data, weights) = (FailureClass::Storage, FailureClass::Data, FailureClass::Weights);
        assert_eq!(classes(io::ErrorKind::PermissionDenied), [storage, data, storage, weights]);
        for kind in [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded] {
            assert_eq!(classes(kind), [FailureClass::DiskFull; 4]);
        }
    }

    #[test]
    fn a_full_disk_has_a_code_of_its_own_and_says_what_was_wanted() {
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        let errors = [
            Error::write(Path::new("x"), 4711)(full()),
            Error::NoRoom { path: "x".into(), needed: 4711, free: 17 },
        ];
        for error in errors {
            assert_eq!((error.class(), error.exit_code()), (FailureClass::DiskFull, 74));
            assert!(error.to_string().contains("4711 bytes to `x`"), "{error}");
        }
        assert_eq!(Error::io("sync", Path::new("x"))(full()).exit_code(), 74);
    }

    #[test]
    fn an_accelerator_without_memory_is_told_from_a_wrong_operation() {
        let tensor = |text: &str| Error::from(candle_core::Error::Msg(text.to_owned()));
        let found = tensor("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")");
        assert_eq!((found.class(), found.exit_code()), (FailureClass::OutOfMemory, 77));
        let kernel =
            Error::Kernel(sweep_kernels::Error::Tensor(candle_core::Error::Msg("Out of memory".into())));
        assert_eq!(kernel.class(), FailureClass::OutOfMemory);
        assert_eq!(tensor("shape mismatch").class(), FailureClass::Configuration);
    }

    #[test]
    fn a_gpu_in_trouble_is_told_from_a_wrong_operation_wherever_it_shows() {
        use candle_core::Error as Candle;
        use sweep_kernels::Error as Kernel;
        use sweep_models::Error as Model;
        let kinds: [fn(Candle) -> Error; 6] = [
            Error::Tensor,
            |error| Error::Kernel(Kernel::Tensor(error)),
            |error| Error::Model(Model::Tensor(error)),
            |error| Error::Model(Model::Kernel(Kernel::Tensor(error))),
            |error| Error::Attack(sweep_attacks::Error::Tensor(error)),
            |error| Error::Attack(sweep_attacks::Error::Classifier(Kernel::Tensor(error))),
        ];
        let fault = || Candle::Cuda("CUDA_ERROR_ILLEGAL_ADDRESS".into());
        let shape = || Candle::Msg("shape mismatch".to_owned());
        let wrapped = |wrapped: Candle| Candle::WrappedContext {
            wrapped: Box::new(wrapped),
            context: "a layer".to_owned(),
        };
        for kind in kinds {
            let faults = [
                fault(),
                fault().bt(),
                fault().context("while attention ran"),
                fault().with_path("weights").context("more"),
                wrapped(fault()),
            ];
            for fault in faults {
                assert_eq!(kind(fault).class(), FailureClass::WorkerDied);
            }
            for other in [shape(), shape().context("while attention ran"), wrapped(shape())] {
                assert_ne!(kind(other).class(), FailureClass::WorkerDied);
            }
        }
    }

    #[test]
    fn a_cause_that_is_quoted_already_is_not_repeated() {
        let source = io::Error::other("no luck");
        let error = Error::Data(sweep_data::Error::Io { action: "read", path: "x".into(), source });
        assert_eq!(error.with_causes(), "the dataset failed: cannot read x: no luck");
    }

    #[test]
    fn a_loss_that_is_not_finite_is_named_after_its_split() {
        let error = Error::Diverged { phase: Phase::Validation, epoch: 2, step: 5, loss: f64::NAN };
        assert_eq!(error.to_string(), "the mean validation loss is NaN in epoch 2, step 5");
        assert_eq!((error.class(), error.exit_code()), (FailureClass::Diverged, 79));
    }

    #[test]
    fn what_the_system_does_not_give_now_it_may_give_later() {
        let refused = || io::Error::from(io::ErrorKind::WouldBlock);
        let errors = [
            Error::Thread { name: "heartbeat", source: refused() },
            Error::io("open", Path::new("x"))(refused()),
        ];
        for error in errors {
            assert!(error.class().is_transient(), "{error}");
        }
    }

    #[test]
    fn weights_on_the_hub_are_never_tried_again() {
        let error = Error::HubWeights { repository: "timm/vit".to_owned() };
        assert!(!error.class().is_transient());
        assert_eq!(error.exit_code(), 78);
    }
}
