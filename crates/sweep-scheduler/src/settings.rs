//! How a scheduler works: what the command line decides and a sweep file does not.

use std::time::Duration;

use crate::executor::local::WorkerCommand;
use crate::retry::RetryPolicy;
use crate::slots::Slot;
use sweep_core::home::Home;

/// How a scheduler works.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where everything lies.
    pub home: Home,
    /// The program that does the work.
    pub worker: WorkerCommand,
    /// Where workers may run; at least one.
    pub slots: Vec<Slot>,
    /// How transient failures are retried.
    pub retry: RetryPolicy,
    /// How long a worker may take to save and leave when it is asked to; any length, [`Duration::MAX`] is for ever.
    pub grace: Duration,
    /// How often events are read and the attempts of others are looked at.
    pub poll: Duration,
    /// Start nothing more once that many runs have failed for good.
    pub max_failures: Option<usize>,
    /// Start nothing more once three runs have failed for good while no run of the sweep has succeeded, now or before.
    pub stop_if_all_fail: bool,
}

impl Settings {
    /// Returns the usual settings: [`RetryPolicy::default`], 30 s of grace, events read five times a second, no limit
    /// on failures but the check for failures from the start.
    pub fn new(home: Home, worker: WorkerCommand, slots: Vec<Slot>) -> Self {
        Self {
            home,
            worker,
            slots,
            retry: RetryPolicy::default(),
            grace: Duration::from_secs(30),
            poll: Duration::from_millis(200),
            max_failures: None,
            stop_if_all_fail: true,
        }
    }
}
