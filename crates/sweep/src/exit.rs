//! Exit codes, in one place. `sweep --help` and the README name them.

use std::process::ExitCode;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All runs succeeded, or the command did what it was asked.
    Success,
    /// Something unexpected.
    Unexpected,
    /// Bad command line, sweep file or name; nothing was touched.
    BadInput,
    /// Some runs failed, are cancelled or were stopped by a limit.
    SomeFailed,
    /// Interrupted; the same command goes on.
    Interrupted,
    /// The own code of a worker (see `sweep_worker::Ending`) or of a task (`sweep_scheduler::slurm::TaskEnd`).
    Worker(u8),
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Success => Self::SUCCESS,
            Exit::Unexpected => Self::from(1),
            Exit::BadInput => Self::from(2),
            Exit::SomeFailed => Self::from(3),
            Exit::Interrupted => Self::from(130),
            Exit::Worker(code) => Self::from(code),
        }
    }
}

/// An error of the user's making: it ends the program with [`Exit::BadInput`].
#[derive(Debug)]
pub(crate) struct BadInput(pub(crate) String);

impl std::fmt::Display for BadInput {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for BadInput {}

/// Returns an error for bad input.
pub(crate) fn bad_input(message: impl std::fmt::Display) -> anyhow::Error {
    anyhow::Error::new(BadInput(message.to_string()))
}
