//! Slurm's words for a task, and what they mean for a run whose worker has not said how it ended.

use std::convert::Infallible;
use std::str::FromStr;

use super::rows::TaskRow;
use crate::settle::INTERRUPTED;

/// Exit code of a task whose run somebody else is at; beside those of workers (`sweep_worker::Ending::code`).
pub(crate) const HELD: i32 = 80;

/// Exit codes of a shell that could not start a program: not executable, not there.
const NOT_STARTED: [i32; 2] = [126, 127];

/// What stands for a signal where Slurm could not open the files of a job (0:53).
const NO_FILES: i32 = 53;

/// State of a task as Slurm writes it in full (`squeue(1)`, "JOB STATE CODES").
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TaskState {
    BootFail,
    Cancelled,
    Completed,
    Completing,
    Configuring,
    Deadline,
    Failed,
    LaunchFailed,
    NodeFail,
    OutOfMemory,
    Pending,
    Preempted,
    RequeueFed,
    RequeueHold,
    Requeued,
    Resizing,
    ReservationHold,
    Revoked,
    Running,
    Signaling,
    SpecialExit,
    StageOut,
    Stopped,
    Suspended,
    Timeout,
    /// One that this list does not have; it counts as running, which is the word that does no harm.
    Unlisted(String),
}

const STATES: [(&str, TaskState); 25] = [
    ("BOOT_FAIL", TaskState::BootFail),
    ("CANCELLED", TaskState::Cancelled),
    ("COMPLETED", TaskState::Completed),
    ("COMPLETING", TaskState::Completing),
    ("CONFIGURING", TaskState::Configuring),
    ("DEADLINE", TaskState::Deadline),
    ("FAILED", TaskState::Failed),
    ("LAUNCH_FAILED", TaskState::LaunchFailed),
    ("NODE_FAIL", TaskState::NodeFail),
    ("OUT_OF_MEMORY", TaskState::OutOfMemory),
    ("PENDING", TaskState::Pending),
    ("PREEMPTED", TaskState::Preempted),
    ("REQUEUED", TaskState::Requeued),
    ("REQUEUE_FED", TaskState::RequeueFed),
    ("REQUEUE_HOLD", TaskState::RequeueHold),
    ("RESIZING", TaskState::Resizing),
    ("RESV_DEL_HOLD", TaskState::ReservationHold),
    ("REVOKED", TaskState::Revoked),
    ("RUNNING", TaskState::Running),
    ("SIGNALING", TaskState::Signaling),
    ("SPECIAL_EXIT", TaskState::SpecialExit),
    ("STAGE_OUT", TaskState::StageOut),
    ("STOPPED", TaskState::Stopped),
    ("SUSPENDED", TaskState::Suspended),
    ("TIMEOUT", TaskState::Timeout),
];

impl FromStr for TaskState {
    type Err = Infallible;

    /// Reads the first word, since a state may carry more, as in `CANCELLED by 1000` or `RUNNING+`.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        let end = |c: char| !(c.is_ascii_uppercase() || c == '_');
        let word = text.trim().split(end).next().unwrap_or_default();
        let found = STATES.iter().find(|(name, _)| *name == word);
        Ok(found.map_or_else(|| Self::Unlisted(text.trim().to_owned()), |(_, state)| state.clone()))
    }
}

/// What a task's state means for a run that has no final event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// It will start.
    Queued,
    /// It will not start by itself.
    Blocked { block: Block, reason: String },
    /// It is at work, or about to be or just over.
    Running,
    /// It ended well without a word: an attempt is lost.
    Lost,
    /// It was taken from its node or left on request, through no fault of its own.
    Interrupted,
    /// Somebody else had the run: nothing changed, look again.
    Look,
    /// It failed. Where it is `hopeless`, it would fail again in the same way.
    Failed { hopeless: bool },
    /// It took more memory than it had asked for, and would again.
    OutOfMemory,
    /// Its time was up: interrupted if it got further, else failed.
    TimedOut,
    /// Somebody cancelled it.
    Cancelled,
}

/// Why a task does not start by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Block {
    /// Slurm could not launch it and holds it: it is to be cancelled and submitted again.
    LaunchFailed,
    /// Somebody holds it and can release it.
    Held,
    /// What it asks for is not to be had.
    Never,
}

/// Reasons to wait that do not pass by themselves (`squeue(1)`, "JOB REASON CODES"), by how they begin.
const NEVER: [&str; 9] = [
    "AccountNotAllowed",
    "BadConstraints",
    "DependencyNeverSatisfied",
    "Invalid",
    "PartitionConfig",
    "PartitionNodeLimit",
    "PartitionTimeLimit",
    "QOSNotAllowed",
    "ReservationDeleted",
];

impl Block {
    /// Returns why a pending task with this reason will not start by itself, or `None` if it will.
    pub(crate) fn of(reason: &str) -> Option<Self> {
        let words = reason.to_ascii_lowercase();
        if words.contains("launch failed") {
            Some(Self::LaunchFailed)
        } else if words.contains("held") {
            Some(Self::Held)
        } else if NEVER.iter().any(|never| reason.starts_with(never)) || is_limit_of_one_job(reason) {
            Some(Self::Never)
        } else {
            None
        }
    }
}

/// A limit of what one job may ask for, such as `QOSMaxWallDurationPerJobLimit`; limits of what all may have together,
/// such as `QOSMaxCpuPerUserLimit`, pass.
fn is_limit_of_one_job(reason: &str) -> bool {
    let word = reason.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
    (word.starts_with("Assoc") || word.starts_with("QOS")) && word.contains("PerJob")
}

impl TaskRow {
    /// Returns what the row means for a run that has no final event.
    pub(crate) fn meaning(&self) -> Meaning {
        match &self.state {
            TaskState::Pending => match Block::of(&self.reason) {
                Some(block) => self.blocked(block),
                None => Meaning::Queued,
            },
            TaskState::Configuring
            | TaskState::Requeued
            | TaskState::RequeueFed
            | TaskState::Resizing
            | TaskState::StageOut => Meaning::Queued,
            TaskState::RequeueHold | TaskState::SpecialExit | TaskState::ReservationHold => {
                self.blocked(Block::of(&self.reason).unwrap_or(Block::Held))
            }
            TaskState::Running
            | TaskState::Completing
            | TaskState::Suspended
            | TaskState::Stopped
            | TaskState::Signaling
            | TaskState::Unlisted(_) => Meaning::Running,
            TaskState::Completed => Meaning::Lost,
            TaskState::Preempted | TaskState::NodeFail | TaskState::Revoked => Meaning::Interrupted,
            TaskState::Timeout | TaskState::Deadline => Meaning::TimedOut,
            TaskState::Cancelled => Meaning::Cancelled,
            TaskState::OutOfMemory => Meaning::OutOfMemory,
            TaskState::BootFail | TaskState::LaunchFailed => Meaning::Failed { hopeless: false },
            TaskState::Failed => self.failure(),
        }
    }

    fn blocked(&self, block: Block) -> Meaning {
        Meaning::Blocked { block, reason: self.reason.clone() }
    }

    fn failure(&self) -> Meaning {
        let exit = self.exit.unwrap_or_default();
        match (exit.code, exit.signal) {
            (Some(INTERRUPTED), _) => Meaning::Interrupted,
            (Some(HELD), _) => Meaning::Look,
            (Some(code), _) if NOT_STARTED.contains(&code) => Meaning::Failed { hopeless: true },
            (_, Some(NO_FILES)) => Meaning::Failed { hopeless: true },
            _ => Meaning::Failed { hopeless: self.reason == "BadConstraints" },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::local::Exit;
    use crate::slurm::client::JobId;

    fn row(state: &str, reason: &str, exit: Option<Exit>) -> TaskRow {
        let Ok(state) = state.parse();
        let (restarts, node) = (None, None);
        TaskRow {
            job: JobId(1),
            task: Some(0),
            job_id: 1,
            state,
            restarts,
            exit,
            node,
            reason: reason.to_owned(),
        }
    }

    fn code(code: i32) -> Exit {
        Exit { code: Some(code), signal: None }
    }

    fn signal(signal: i32) -> Exit {
        Exit { code: None, signal: Some(signal) }
    }

    #[test]
    fn states_and_what_they_mean() {
        let hopeful = Meaning::Failed { hopeless: false };
        let hopeless = Meaning::Failed { hopeless: true };
        let cases = [
            ("PENDING", "Priority", None, Meaning::Queued),
            ("PENDING", "ReqNodeNotAvail, UnavailableNodes:n1", None, Meaning::Queued),
            ("PENDING", "JobArrayTaskLimit", None, Meaning::Queued),
            ("PENDING", "QOSMaxCpuPerUserLimit", None, Meaning::Queued),
            ("CONFIGURING", "None", None, Meaning::Queued),
            ("REQUEUED", "None", None, Meaning::Queued),
            ("REQUEUE_FED", "None", None, Meaning::Queued),
            ("RESIZING", "None", None, Meaning::Queued),
            ("STAGE_OUT", "None", None, Meaning::Queued),
            ("RUNNING", "None", None, Meaning::Running),
            ("COMPLETING", "None", None, Meaning::Running),
            ("SUSPENDED", "None", None, Meaning::Running),
            ("STOPPED", "None", None, Meaning::Running),
            ("SIGNALING", "None", None, Meaning::Running),
            ("SOMETHING_NEW", "None", None, Meaning::Running),
            ("", "None", None, Meaning::Running),
            ("COMPLETED", "None", Some(code(0)), Meaning::Lost),
            ("FAILED", "NonZeroExitCode", Some(code(INTERRUPTED)), Meaning::Interrupted),
            ("FAILED", "NonZeroExitCode", Some(code(HELD)), Meaning::Look),
            ("FAILED", "NonZeroExitCode", Some(code(1)), hopeful.clone()),
            ("FAILED", "NonZeroExitCode", Some(code(126)), hopeless.clone()),
            ("FAILED", "NonZeroExitCode", Some(code(127)), hopeless.clone()),
            ("FAILED", "JobLaunchFailure", Some(signal(9)), hopeful.clone()),
            ("FAILED", "JobLaunchFailure", Some(signal(53)), hopeless.clone()),
            ("FAILED", "BadConstraints", Some(code(1)), hopeless),
            ("FAILED", "None", None, hopeful.clone()),
            ("BOOT_FAIL", "None", None, hopeful.clone()),
            ("LAUNCH_FAILED", "None", None, hopeful),
            ("OUT_OF_MEMORY", "OutOfMemory", None, Meaning::OutOfMemory),
            ("TIMEOUT", "TimeLimit", Some(signal(9)), Meaning::TimedOut),
            ("DEADLINE", "DeadLine", None, Meaning::TimedOut),
            ("PREEMPTED", "None", None, Meaning::Interrupted),
            ("NODE_FAIL", "NodeDown", None, Meaning::Interrupted),
            ("REVOKED", "None", None, Meaning::Interrupted),
            ("CANCELLED by 1000", "None", Some(signal(15)), Meaning::Cancelled),
            ("CANCELLED+", "None", None, Meaning::Cancelled),
        ];
        for (state, reason, exit, meaning) in cases {
            assert_eq!(row(state, reason, exit).meaning(), meaning, "{state} {reason} {exit:?}");
        }
    }

    #[test]
    fn what_keeps_a_task_from_ever_starting() {
        let cases = [
            ("PENDING", "launch failed requeued held", Block::LaunchFailed),
            ("REQUEUE_HOLD", "launch failed requeued held", Block::LaunchFailed),
            ("PENDING", "job requeued in held state", Block::Held),
            ("PENDING", "JobHeldUser", Block::Held),
            ("PENDING", "JobHeldAdmin", Block::Held),
            ("REQUEUE_HOLD", "None", Block::Held),
            ("SPECIAL_EXIT", "None", Block::Held),
            ("RESV_DEL_HOLD", "None", Block::Held),
            ("PENDING", "PartitionConfig", Block::Never),
            ("PENDING", "BadConstraints", Block::Never),
            ("PENDING", "DependencyNeverSatisfied", Block::Never),
            ("PENDING", "PartitionTimeLimit", Block::Never),
            ("PENDING", "InvalidAccount", Block::Never),
            ("PENDING", "InvalidQOS", Block::Never),
            ("PENDING", "QOSMaxWallDurationPerJobLimit", Block::Never),
            ("PENDING", "AssocMaxCpuPerJobLimit", Block::Never),
        ];
        for (state, reason, block) in cases {
            let expected = Meaning::Blocked { block, reason: reason.to_owned() };
            assert_eq!(row(state, reason, None).meaning(), expected, "{state} {reason}");
        }
    }

    #[test]
    fn each_listed_state_is_read_as_itself() {
        for (name, state) in STATES {
            assert_eq!(name.parse(), Ok(state), "{name}");
        }
    }
}
