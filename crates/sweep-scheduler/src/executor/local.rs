//! A worker as a process of this machine.
//!
//! It leads a process group of its own, so that Ctrl-C at the terminal reaches the scheduler only, which then decides.
//! Its standard input is a pipe whose other end the scheduler holds and never writes to: the lifeline, whose end tells
//! the worker to leave even where the scheduler was killed and could say nothing.

use std::ffi::OsString;
use std::io::{self, PipeWriter};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use sweep_core::spec::RunId;

use crate::executor::lock::LockedLog;
use crate::slots::Slot;
use sweep_core::home::Home;

/// The program that does the work, with the arguments that come before `worker`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerCommand {
    /// The program, usually the running one itself.
    pub program: PathBuf,
    /// Its first arguments, usually none.
    pub arguments: Vec<OsString>,
}

/// What one worker is to do, and with what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Assignment<'a> {
    pub(crate) home: &'a Home,
    pub(crate) run: RunId,
    pub(crate) attempt: u32,
    pub(crate) slot: &'a Slot,
    /// How often it writes a checkpoint within an epoch, where that is not left to it.
    pub(crate) checkpoint_every: Option<Duration>,
    /// When it must be gone, in seconds since 1970, where somebody has set it an end.
    pub(crate) until: Option<u64>,
}

/// A running worker. Dropping it closes the lifeline, on which the worker leaves by itself.
#[derive(Debug)]
pub(crate) struct Worker {
    process: tokio::process::Child,
    lifeline: Option<PipeWriter>,
}

/// How a process ended. Both are `None` only where the system could not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Exit {
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
}

impl Worker {
    /// Starts a worker that inherits the lock on its log. Needs a Tokio runtime.
    pub(crate) fn start(
        command: &WorkerCommand,
        assignment: &Assignment<'_>,
        log: LockedLog,
    ) -> io::Result<Self> {
        let (lifeline_end, lifeline) = io::pipe()?;
        let Assignment { home, run, attempt, slot, checkpoint_every, until } = assignment;
        let mut process = Command::new(&command.program);
        process
            .args(&command.arguments)
            .arg("worker")
            .arg("--home")
            .arg(home.root())
            .args(["--run", &run.to_string(), "--attempt", &attempt.to_string()])
            .args(["--threads", &slot.threads().to_string(), "--device", slot.argument()])
            .env_clear()
            .envs(slot.environment(std::env::vars_os()))
            .stdin(lifeline_end)
            .stdout(log.handle()?)
            .stderr(log.into_file())
            .process_group(0);
        if let Some(interval) = checkpoint_every {
            process.args(["--checkpoint-every", &interval.as_secs().max(1).to_string()]);
        }
        if let Some(until) = until {
            process.args(["--until", &until.to_string()]);
        }
        let process = tokio::process::Command::from(process).spawn()?;
        Ok(Self { process, lifeline: Some(lifeline) })
    }

    /// Waits until the process has ended. May be dropped and called again.
    pub(crate) async fn wait(&mut self) -> io::Result<Exit> {
        self.process.wait().await.map(Exit::from)
    }

    /// Asks the worker to save what it has and leave: closes the lifeline and sends SIGTERM to its group.
    pub(crate) fn ask_to_leave(&mut self) {
        self.lifeline = None;
        self.signal(Signal::SIGTERM);
    }

    /// Kills the worker and its group.
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
    }

    fn signal(&self, signal: Signal) {
        // The id is gone once the process has been waited for, so no stranger with the same number is ever hit.
        let Some(pid) = self.process.id().and_then(|pid| i32::try_from(pid).ok()) else {
            return;
        };
        if let Err(error) = killpg(Pid::from_raw(pid), signal) {
            tracing::warn!(pid, %signal, %error, "a worker's process group could not be signalled");
        }
    }
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        Self { code: status.code(), signal: status.signal() }
    }
}
