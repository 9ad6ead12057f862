//! What the dispatcher tells its caller while it works, and at the end.

use std::time::Duration;

use sweep_core::event::Event;
use sweep_core::spec::RunId;
use sweep_store::{Outcome, State};

use crate::devices::Device;
use crate::retention::Size;

/// Something that happened; the caller renders it. Updates of one attempt come in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Update {
    /// A worker was started.
    Started {
        /// The run.
        run: RunId,
        /// The attempt, from 1.
        attempt: u32,
        /// Where.
        device: Device,
        /// Threads that it computes with.
        threads: u32,
    },
    /// A run of this sweep is in the hands of another scheduler, or of a worker whose scheduler is gone; its end is
    /// awaited.
    Elsewhere {
        /// The run.
        run: RunId,
        /// The attempt.
        attempt: u32,
    },
    /// A run of this sweep is with Slurm, which this session does not follow.
    WithSlurm {
        /// The run.
        run: RunId,
    },
    /// An array was submitted to Slurm.
    Submitted {
        /// Its name, which is that of its folder.
        token: String,
        /// Slurm's number of it.
        job: u64,
        /// Runs in it.
        runs: usize,
    },
    /// An array that an earlier session submitted is followed from here on.
    Resumed {
        /// Its name.
        token: String,
        /// Runs in it that are not over.
        runs: usize,
    },
    /// Runs that are with Slurm wait for a reason that was not heard before.
    Waiting {
        /// How many.
        runs: usize,
        /// Slurm's words.
        reason: String,
        /// Whether that does not pass by itself.
        blocked: bool,
    },
    /// A task of Slurm has begun an attempt.
    Adopted {
        /// The run.
        run: RunId,
        /// The attempt.
        attempt: u32,
        /// The task, and its node.
        place: String,
    },
    /// Slurm does not answer, or takes nothing more for now; it is asked again.
    Unavailable {
        /// Its words.
        message: String,
        /// In how long it is asked again.
        retry_in: Duration,
    },
    /// A worker said something; it is in the database.
    Event {
        /// The run.
        run: RunId,
        /// The attempt.
        attempt: u32,
        /// What it said.
        event: Event,
    },
    /// An attempt ended and that is in the database.
    Settled {
        /// The run.
        run: RunId,
        /// The attempt.
        attempt: u32,
        /// How it ended.
        outcome: Outcome,
        /// When the run is tried again, counted from now, if it is.
        retry_in: Option<Duration>,
        /// Most images a forward pass in the next attempts, where memory ran out in this one.
        micro_batch_limit: Option<u32>,
        /// Last lines of the log of a failed attempt.
        log_tail: Option<String>,
    },
    /// A worker of this scheduler lives but has said nothing for long. It is left alone; said once an attempt.
    Silent {
        /// The run.
        run: RunId,
        /// The attempt.
        attempt: u32,
        /// For how long it has been silent.
        since: Duration,
    },
    /// Checkpoints were deleted to make room: those that nobody needs, and perhaps last ones of succeeded runs.
    Reclaimed {
        /// How many, and their bytes.
        size: Size,
    },
    /// A run of this sweep is over, but another scheduler settled it, or its worker's scheduler is gone. There is no
    /// [`Update::Settled`] for it.
    FinishedElsewhere {
        /// The run.
        run: RunId,
        /// Succeeded, failed for good or cancelled.
        state: State,
    },
    /// A run will not start because the run that it depends on did not succeed.
    Blocked {
        /// The run.
        run: RunId,
        /// The other one.
        dependency: RunId,
    },
    /// Nothing more will be started.
    Halted {
        /// Why.
        reason: Halt,
    },
}

/// Why nothing more is started although runs are left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Halt {
    /// The user said so.
    Requested,
    /// As many runs have failed as the settings allow.
    TooManyFailures,
    /// The first runs all failed for good, so the others would as well.
    FailsFromTheStart,
    /// Several workers in a row could not be started. Runs that may be tried again go on in the next session.
    NothingStarts {
        /// Why the last one could not.
        message: String,
    },
    /// The next run does not fit on the disk, or not into its budget, even with everything deleted that may be.
    DiskFull {
        /// Bytes that it will write.
        needed: u64,
        /// Bytes that it may write.
        available: u64,
    },
    /// Slurm refuses what is submitted, and would again.
    Refused {
        /// Its words.
        message: String,
    },
    /// A worker found the disk full. Its run goes on in the next session.
    DiskFilled {
        /// What it said.
        message: String,
    },
}

/// How a session ended. Every run of the sweep is counted once: in `total` and in one of the fields from
/// `already_succeeded` to `pending`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Runs of the sweep.
    pub total: usize,
    /// Runs that had succeeded before.
    pub already_succeeded: usize,
    /// Runs that had failed before and are left alone.
    pub already_failed: usize,
    /// Runs that are cancelled.
    pub cancelled: usize,
    /// Runs that succeeded now, in this scheduler or in another one that worked on the sweep meanwhile.
    pub succeeded: usize,
    /// Runs that failed for good now.
    pub failed: usize,
    /// Runs that were stopped and go on in the next session.
    pub interrupted: usize,
    /// Runs that will not start because the run that they depend on did not succeed.
    pub blocked: usize,
    /// Runs that somebody else is still working on.
    pub elsewhere: usize,
    /// Runs that are with Slurm, and go on there.
    pub submitted: usize,
    /// Runs that were not started, or wait for another try.
    pub pending: usize,
    /// Attempts that this scheduler started.
    pub attempts: usize,
    /// Attempts that failed and were followed, or are to be followed, by another.
    pub retried: usize,
    /// Why nothing more was started, if the session ended before its time.
    pub halted: Option<Halt>,
}

impl Summary {
    /// Returns whether every run of the sweep has succeeded, now or before.
    pub const fn is_complete(&self) -> bool {
        self.already_succeeded + self.succeeded == self.total
    }

    /// Returns whether nothing is left but runs that were cancelled and what waits for them: the next session would do
    /// nothing.
    pub const fn only_cancelled_are_left(&self) -> bool {
        let open = self.all_failed() + self.interrupted + self.elsewhere + self.submitted + self.pending;
        self.cancelled > 0 && open == 0
    }

    /// Returns the number of failed runs, now or before.
    pub const fn all_failed(&self) -> usize {
        self.already_failed + self.failed
    }
}
