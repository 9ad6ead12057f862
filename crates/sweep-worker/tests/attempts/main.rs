//! Whole attempts at small runs, in this process.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod claims;
mod complete;
mod interruption;
mod recipes;
mod support;
mod trajectories;
