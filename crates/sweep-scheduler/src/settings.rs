//! How a scheduler works: what the command line decides and a sweep file does not.

use std::collections::HashMap;
use std::time::Duration;

use sweep_core::KeepCheckpoints;
use sweep_core::spec::RunId;

use crate::executor::local::WorkerCommand;
use crate::memory::OomKills;
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
    /// Longest time an attempt may take; then it is asked to leave, and killed after the grace. `None`: any.
    pub timeout: Option<Duration>,
    /// Longest time a worker may say that it is at one position; then the same happens. `None`: any.
    pub stall: Option<Duration>,
    /// Longest time without any record from a worker before it is reported as suspect; nothing else follows.
    pub silence: Duration,
    /// How often workers write a checkpoint within an epoch; `None`: as often as they like.
    pub checkpoint_every: Option<Duration>,
    /// What stays of the checkpoints of succeeded runs.
    pub keep_checkpoints: KeepCheckpoints,
    /// Most bytes of checkpoints and models in the home folder; `None`: what is free.
    pub disk_budget: Option<u64>,
    /// What runs will have on disk; a run without an entry needs nothing.
    pub disk_need: HashMap<RunId, DiskNeed>,
    /// Where the kernel counts what it kills for want of memory.
    pub oom_kills: OomKills,
}

/// Bytes of the checkpoints and the model of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskNeed {
    /// The most while a worker is at it.
    pub working: u64,
    /// What stays when it has succeeded; at most `working`.
    pub staying: u64,
}

/// How long a worker may be silent: its heart beats every 15 s, whatever it does.
const SILENCE: Duration = Duration::from_mins(2);

impl Settings {
    /// Returns the usual settings: [`RetryPolicy::default`], 30 s of grace, events read five times a second, no limit
    /// on failures but the check for failures from the start, none on time, and none on the disk but its size.
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
            timeout: None,
            stall: None,
            silence: SILENCE,
            checkpoint_every: None,
            keep_checkpoints: KeepCheckpoints::default(),
            disk_budget: None,
            disk_need: HashMap::new(),
            oom_kills: OomKills::of_this_system(),
        }
    }
}
