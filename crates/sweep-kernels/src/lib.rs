//! Differentiable layers with hand-written backward passes, losses, and optimizer steps.
//!
//! candle's [`Tensor`](candle_core::Tensor) holds the data; its autograd is not used. A [`Layer`] computes its output
//! and saves on a [`Tape`] what its backward pass needs. Parameters live outside the layers, in [`Parameters`];
//! their gradients are computed only where [`Gradients`] wants them, so an attack pays for the input gradient alone.
//!
//! Tensors are F32 (fast) or F64 (for checking) on the CPU, with any strides; others are refused with an error.
//! Results do not depend on the number of threads. They do depend on the processor, whose vector instructions decide
//! which matrix kernel runs.
//!
//! Knows no model, reads no files and draws no random numbers.

#![expect(
    clippy::inline_always,
    reason = "loops are compiled for the processor's vector instructions only where they are inlined into `vectorized`"
)]

mod activation;
mod attention;
mod element;
mod elementwise;
mod error;
mod host;
mod image;
mod layer;
mod layer_norm;
mod linear;
mod loss;
mod native;
mod optimizer;
mod parameters;
mod tape;
mod tokens;

pub use activation::Activation;
pub use attention::SelfAttention;
pub use error::{Error, Result};
pub use image::{Normalize, PatchEmbedding};
pub use layer::{Chain, Classifier, Layer, Residual};
pub use layer_norm::LayerNorm;
pub use linear::Linear;
pub use loss::{CrossEntropy, cross_entropy, mean_cross_entropy};
pub use optimizer::{AdamW, AdamWSettings, Optimizer, ParameterGroup, Sgd, SgdSettings};
pub use parameters::{Gradients, ParameterId, Parameters};
pub use tape::{Mode, Tape};
pub use tokens::{ClassTokenAndPositions, SelectToken};
