//! Where a run stands.

use std::fmt;

use serde::Serialize;
use sweep_core::event::FailureClass;
use sweep_core::spec::RunId;

/// The state of a run, and of an attempt (which is never pending).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(rename_all = "snake_case")]
pub enum State {
    /// Waits for its turn, for another attempt, or for the run that it starts from.
    Pending,
    /// An attempt runs.
    Running,
    /// Complete.
    Succeeded,
    /// Given up.
    Failed,
    /// Was stopped, and goes on with the next attempt.
    Interrupted,
    /// Taken out by somebody; goes on only after a reset.
    Cancelled,
}

impl State {
    /// Every state, in the order in which summaries print them.
    pub const ALL: [Self; 6] =
        [Self::Succeeded, Self::Running, Self::Pending, Self::Interrupted, Self::Failed, Self::Cancelled];

    /// Returns the name used in the database and on the screen.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Interrupted => "interrupted",
            Self::Cancelled => "cancelled",
        }
    }

    /// Returns whether a claim can take a run in this state.
    pub const fn is_claimable(self) -> bool {
        matches!(self, Self::Pending | Self::Interrupted)
    }

    /// Returns whether nothing more happens to a run in this state by itself.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

impl fmt::Display for State {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.label())
    }
}

/// Why an attempt failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// What kind of failure.
    pub class: FailureClass,
    /// What happened, in words.
    pub message: String,
}

/// Where a run stands, as a scheduler needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunState {
    /// The run.
    pub id: RunId,
    /// Its place in the sweep's expansion; in [`crate::Reader::states_of`] its place among the ids asked for.
    pub position: u32,
    /// Where it stands.
    pub state: State,
    /// Number of the latest attempt; 0 before the first.
    pub attempts: u32,
    /// Attempts that failed with a transient class since the run was registered, last reset, or last saved a checkpoint.
    pub transient_failures: u32,
    /// The run that must have succeeded before.
    pub depends_on: Option<RunId>,
    /// Why the latest attempt failed, if it did; also there while a retry is pending.
    pub failure: Option<Failure>,
    /// Largest micro batch that is worth trying, after larger ones did not fit the memory.
    pub micro_batch_limit: Option<u32>,
    /// Whether it is with Slurm, whose tasks alone may start it.
    pub is_submitted: bool,
}
