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
//! Knows no model and reads no files. Its only randomness, stochastic depth, is a pure function of the [`Noise`] that
//! the caller gives.

#![expect(
    clippy::inline_always,
    reason = "loops are compiled for the processor's vector instructions only where they are inlined into `vectorized`"
)]

mod activation;
mod attention;
mod average;
mod batch_norm;
mod channels;
mod clipping;
mod convolution;
#[cfg(feature = "cuda")]
mod cuda;
mod depthwise;
mod divergence;
mod element;
mod elementwise;
mod error;
mod gather;
mod host;
mod image;
mod layer;
mod layer_norm;
mod linear;
mod loss;
mod native;
mod optimizer;
mod parameters;
mod pool;
mod reading;
mod scale;
mod softmax;
mod stochastic;
mod tape;
mod tokens;
mod upload;
mod window_bias;
mod windows;

pub use activation::Activation;
pub use attention::SelfAttention;
pub use average::move_average;
pub use batch_norm::BatchNorm;
pub use channels::ChannelsLast;
pub use clipping::{NormBefore, clip_norm};
pub use convolution::Convolution;
#[cfg(feature = "cuda")]
pub use cuda::attack as attack_steps;
pub use depthwise::DepthwiseConvolution;
pub use divergence::{Divergence, kullback_leibler};
pub use elementwise::{add, scale};
pub use error::{Error, Result};
pub use image::{Normalize, PatchEmbedding};
pub use layer::{Branches, Chain, Classifier, Layer, Residual};
pub use layer_norm::LayerNorm;
pub use linear::Linear;
pub use loss::{CrossEntropy, Labels, cross_entropy, cross_entropy_of, mean_cross_entropy};
pub use optimizer::{AdamW, AdamWSettings, Optimizer, ParameterGroup, Sgd, SgdSettings};
pub use parameters::{Compute, Gradients, ParameterId, Parameters, activations_to_full, full_to_activations};
pub use pool::{MaxPool, MeanPool, PatchMerging};
pub use reading::Reading;
pub use scale::LayerScale;
pub use stochastic::StochasticDepth;
pub use tape::{BatchStatistics, Mode, Noise, StatisticsIds, Tape};
pub use tokens::{ClassTokenAndPositions, SelectToken};
pub use upload::{Uploads, leave_devices, release_memory};
pub use windows::{WindowMerge, WindowPartition, Windows};
