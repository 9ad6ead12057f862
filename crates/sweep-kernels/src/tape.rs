//! What a forward pass leaves behind for its backward pass.
//!
//! A tape is a plain stack: layers push in forward order and pop in the opposite order. It holds values only; which
//! layer pushed what is fixed by the composition of the model, so there is no graph to build or to walk.

use candle_core::Tensor;

use crate::{Error, Result};

/// Whether a forward pass trains the model or measures it.
///
/// Layers that behave alike in both (linear, layer norm, attention) ignore it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Batch statistics in batch norm, stochastic depth on.
    Train,
    /// Running statistics in batch norm, stochastic depth off. Attacks use it.
    Evaluation,
}

/// The stack of values saved by one forward pass, consumed by one backward pass.
///
/// Saved tensors share storage with the activations they came from; nothing is copied.
#[derive(Debug)]
pub struct Tape {
    recording: bool,
    saved: Vec<Tensor>,
}

impl Tape {
    /// A tape that keeps nothing: for a forward pass without a backward pass.
    pub fn off() -> Self {
        Self { recording: false, saved: Vec::new() }
    }

    /// A tape that keeps what layers push.
    pub fn recording() -> Self {
        Self { recording: true, saved: Vec::new() }
    }

    /// Whether pushed values are kept. Layers use it to skip work that only serves a backward pass.
    pub fn is_recording(&self) -> bool {
        self.recording
    }

    /// Saves `value` for the backward pass, or drops it when the tape is off.
    pub fn push(&mut self, value: Tensor) {
        if self.recording {
            self.saved.push(value);
        }
    }

    /// Takes back the value saved last.
    ///
    /// # Errors
    /// [`Error::EmptyTape`] if nothing is left.
    pub fn pop(&mut self) -> Result<Tensor> {
        self.saved.pop().ok_or(Error::EmptyTape)
    }

    /// Checks that a backward pass consumed everything its forward pass saved.
    ///
    /// # Errors
    /// [`Error::UnusedTape`] if saved values are left.
    pub fn finish(self) -> Result<()> {
        if self.saved.is_empty() { Ok(()) } else { Err(Error::UnusedTape { left: self.saved.len() }) }
    }
}
