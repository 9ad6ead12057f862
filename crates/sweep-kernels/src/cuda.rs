//! The GPU side of the layers: launching our kernels, and products of matrices by cuBLAS.
//!
//! A layer looks where its input lives and calls its own module `cuda` for tensors on a GPU. Those functions only enqueue
//! work on the device's one stream: nothing here waits for the GPU, except where a number is read. All tensors are
//! contiguous. Activations are F32 or BF16; parameters, their gradients, statistics and losses are F32; arithmetic of
//! kernels and accumulation of products is in F32.
//!
//! Results of one build on one kind of GPU repeat bit for bit: no kernel adds by atomics, and the libraries are asked for
//! deterministic algorithms. They differ from the CPU's by rounding.

mod arguments;
pub mod attack;
mod channels;
mod columns;
mod context;
mod dnn;
mod locked;
mod operations;
mod product;
mod staging;
mod table;

pub(crate) use arguments::{Argument, Grid};
pub(crate) use channels::ChannelGrid;
pub(crate) use columns::{Columns, MOST_BLOCKS_DOWN, Samples, column_sums, is_packed, strided_column_sums};
pub(crate) use context::{Gpu, failure, leave_devices};
pub(crate) use dnn::{ConvolutionSizes, Pass, Plan, plan};
pub(crate) use locked::Download;
pub(crate) use operations::{add, convert, scale};
pub(crate) use product::{Matrix, Product};
pub(crate) use staging::Staging;
pub(crate) use table::{Table, clip_all, scale_all, sum_of_squares};
