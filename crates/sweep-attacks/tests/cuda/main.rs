//! Attacks on a GPU against the same attacks on the CPU, and against the reference.
//!
//! Runs on a real GPU, or on the emulated device (`cargo xtask emulate -- cargo test -p sweep-attacks --features cuda`).
#![cfg(feature = "cuda")]
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod equality;
mod errors;
mod evaluation;
#[path = "../attacks/fixture.rs"]
mod fixture;
#[path = "../attacks/parity.rs"]
mod parity;
mod support;
mod waiting;
