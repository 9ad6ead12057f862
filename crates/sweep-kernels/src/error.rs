//! The one error type of the crate.

use candle_core::{DType, DeviceLocation};

/// `Result` with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong in a layer, a loss or an optimizer step.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// candle refused an operation (shape, dtype or device).
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// An operation got a tensor of a shape it cannot work on.
    #[error("{operation}: got shape {got:?}, expected {expected}")]
    Shape {
        /// The operation that refused.
        operation: &'static str,
        /// The shape it was given.
        got: Vec<usize>,
        /// What it would have accepted, in words.
        expected: String,
    },
    /// There is no implementation for this dtype.
    #[error("{operation}: dtype {dtype:?} is not supported, only F32 and F64 are")]
    UnsupportedDtype {
        /// The operation that refused.
        operation: &'static str,
        /// The dtype it was given.
        dtype: DType,
    },
    /// There is no implementation for this device.
    #[error("{operation}: device {device:?} is not supported, only the CPU is")]
    UnsupportedDevice {
        /// The operation that refused.
        operation: &'static str,
        /// Where the tensor lives.
        device: DeviceLocation,
    },
    /// Two parameters were registered under the same name.
    #[error("parameter `{name}` is registered twice")]
    DuplicateParameter {
        /// The name in question.
        name: String,
    },
    /// A backward pass asked for more saved values than its forward pass recorded.
    #[error("the tape is empty: the forward pass was not recorded, or ran through other layers")]
    EmptyTape,
    /// A backward pass ended with saved values left over.
    #[error("{left} saved values are left on the tape: it was recorded by other layers")]
    UnusedTape {
        /// How many values are left.
        left: usize,
    },
    /// A class label is outside `0..classes`.
    #[error("label {label} of sample {sample} is outside 0..{classes}")]
    Label {
        /// Position in the batch.
        sample: usize,
        /// The label.
        label: i64,
        /// Number of classes.
        classes: usize,
    },
    /// A setting is outside the range the operation accepts.
    #[error("{name} is {value}, expected {expected}")]
    Setting {
        /// The name of the setting.
        name: &'static str,
        /// The value it was given.
        value: f64,
        /// What it would have accepted, in words.
        expected: &'static str,
    },
    /// Stored optimizer state does not belong to this optimizer and these parameters.
    #[error("optimizer state: {problem}")]
    OptimizerState {
        /// What does not fit.
        problem: String,
    },
}
