//! What a forward pass leaves behind for its backward pass.
//!
//! A tape is a plain stack: layers push in forward order and pop in the opposite order. It holds values only; which
//! layer pushed what is fixed by the composition of the model, so there is no graph to build or to walk.

use candle_core::Tensor;

use crate::{Error, ParameterId, Result};

/// Whether a forward pass trains the model or measures it.
///
/// Layers that behave alike in both (linear, layer norm, attention) ignore it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Batch statistics in batch norm, stochastic depth on.
    Train(Noise),
    /// Running statistics in batch norm, stochastic depth off. Attacks use it.
    Evaluation,
}

/// The randomness of one forward pass in training mode, as a pure function: the same noise gives the same pass.
///
/// A draw depends on the seed, on the layer that asks and on the position of the sample in the effective batch, so
/// that cutting a batch into micro batches changes no draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noise {
    seed: u64,
    first_sample: u64,
}

impl Noise {
    /// Randomness of the forward pass whose first sample has position `first_sample` in the batch that `seed` stands
    /// for. Seeds of different batches should look independent; they need no particular form.
    pub fn new(seed: u64, first_sample: u64) -> Self {
        Self { seed, first_sample }
    }

    /// What the position of a sample in this pass is added to: mixed once more, the sum gives the sample's random bits in
    /// layer `layer`.
    pub(crate) fn stream(self, layer: u64) -> u64 {
        mixed(mixed(self.seed).wrapping_add(layer)).wrapping_add(self.first_sample)
    }

    /// A number in [0, 1) for `sample` of this pass (counted from 0) in layer `layer`.
    pub(crate) fn uniform(self, layer: u64, sample: u64) -> f64 {
        let bits = mixed(self.stream(layer).wrapping_add(sample));
        (bits >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// One step of the SplitMix64 generator (Steele, Lea and Flood 2014): a bijection that spreads every bit.
fn mixed(value: u64) -> u64 {
    let z = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// What one batch norm saw in a forward pass in training mode.
///
/// [`Parameters::update_statistics`](crate::Parameters::update_statistics) puts it into the running statistics; as long
/// as nobody calls that, they stay as they are.
#[derive(Clone, Debug)]
pub struct BatchStatistics {
    pub(crate) buffers: StatisticsIds,
    /// Weight of this batch in the running statistics.
    pub(crate) momentum: f64,
    /// Mean of each channel.
    pub(crate) mean: Tensor,
    /// Unbiased variance of each channel.
    pub(crate) variance: Tensor,
}

/// Where the running statistics of a batch norm are kept.
#[derive(Clone, Copy, Debug)]
pub struct StatisticsIds {
    /// Running mean (C).
    pub mean: ParameterId,
    /// Running unbiased variance (C).
    pub variance: ParameterId,
    /// Number of updates, an I64 scalar.
    pub updates: ParameterId,
}

/// The stack of values saved by one forward pass, consumed by one backward pass.
///
/// Saved tensors share storage with the activations they came from; nothing is copied.
#[derive(Debug)]
pub struct Tape {
    recording: bool,
    saved: Vec<Tensor>,
    statistics: Vec<BatchStatistics>,
}

impl Tape {
    /// A tape that keeps nothing: for a forward pass without a backward pass.
    pub fn off() -> Self {
        Self { recording: false, saved: Vec::new(), statistics: Vec::new() }
    }

    /// A tape that keeps what layers push.
    pub fn recording() -> Self {
        Self { recording: true, saved: Vec::new(), statistics: Vec::new() }
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

    /// Notes what a batch norm saw, whether the tape records or not.
    pub(crate) fn note(&mut self, statistics: BatchStatistics) {
        self.statistics.push(statistics);
    }

    /// Takes what the batch norms of a forward pass in training mode saw, in forward order.
    pub fn take_statistics(&mut self) -> Vec<BatchStatistics> {
        std::mem::take(&mut self.statistics)
    }

    /// Checks that a backward pass consumed everything its forward pass saved.
    ///
    /// # Errors
    /// [`Error::UnusedTape`] if saved values are left.
    pub fn finish(self) -> Result<()> {
        if self.saved.is_empty() { Ok(()) } else { Err(Error::UnusedTape { left: self.saved.len() }) }
    }
}
