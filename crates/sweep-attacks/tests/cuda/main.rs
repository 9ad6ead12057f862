//! Attacks on a GPU against the same attacks on the CPU, and against the reference.
//!
//! Runs on a real GPU, or on the emulated device (`cargo xtask emulate -- cargo test -p sweep-attacks --features cuda`).
#![cfg(feature = "cuda")]

mod equality;
mod errors;
mod evaluation;
#[path = "../attacks/parity.rs"]
mod parity;
mod support;
mod waiting;
