//! Every operation on the GPU against the same operation on the CPU in f64: outputs, input gradients and parameter
//! gradients, in F32 and in BF16.
//!
//! Runs on a real GPU, or on the emulated device (`cargo xtask emulate -- cargo test -p sweep-kernels --features cuda`).
#![cfg(feature = "cuda")]
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod attention;
mod convolutions;
mod dense;
mod images;
mod support;
mod training;
mod uploads;
