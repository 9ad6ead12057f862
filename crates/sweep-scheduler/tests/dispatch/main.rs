//! The scheduler with real processes: scripted workers, kills at awkward moments, two schedulers at once.

#![expect(clippy::unwrap_used, reason = "a test may end here")]

mod beginnings;
mod crash;
mod fixture;
mod limits;
mod outcomes;
mod sharing;
mod stopping;
