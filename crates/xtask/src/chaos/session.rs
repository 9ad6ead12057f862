//! One `sweep run` as a real process, and what is done to it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use sweep_core::home::Home;

use crate::chaos::disk::SmallDisk;
use crate::chaos::plan::{Blow, Force, Moment, Target};
use crate::chaos::processes::{Worker, send, workers};
use crate::chaos::traces::{Attempt, Watch, attempts};
use crate::program::Program;

/// How often a session is looked at.
const POLL: Duration = Duration::from_millis(2);
/// How often a full disk is topped up.
const TOP_UP: Duration = Duration::from_millis(20);
/// A session in which no worker has said a word for so long hangs: an epoch of the grid takes a second or two, and a pause
/// before a retry at most half a minute.
const STUCK: Duration = Duration::from_mins(2);
/// What no output of the program may contain.
const FORBIDDEN: [&str; 2] = ["panicked at", "database is locked"];

/// Lines of its output that are told of a session that ended wrong.
const TAIL: usize = 12;

/// How a session starts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start<'a> {
    pub(crate) program: &'a Program,
    pub(crate) home: &'a Home,
    pub(crate) file: &'a Path,
    pub(crate) retry_failed: bool,
    /// Where its standard error goes.
    pub(crate) output: &'a Path,
}

/// A `sweep run` that is alive, and is killed where the harness gives up.
#[derive(Debug)]
pub(crate) struct Session {
    home: Home,
    child: Child,
    output: PathBuf,
    watch: Watch,
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waited {
    /// The moment has come.
    Reached,
    /// The session was over before.
    Over(ExitStatus),
}

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Every run has succeeded.
    Complete,
    /// Runs are left.
    Incomplete,
    /// It ended as it must not, in words.
    Wrong(String),
}

impl Session {
    /// Starts `sweep run` with two workers of a thread each.
    ///
    /// It stays in the harness's process group, so that Ctrl-C ends both; its workers lead groups of their own anyway.
    pub(crate) fn start(start: &Start<'_>) -> Result<Self> {
        let watch = Watch::new(start.home)?;
        let file = start.file.to_str().context("the sweep file's path is text")?;
        let mut arguments = vec!["run", file, "--devices", "cpu:2", "--threads", "1", "--no-early-stop"];
        if start.retry_failed {
            arguments.push("--retry-failed");
        }
        let mut command = start.program.command(start.home.root(), &arguments);
        let child =
            command.stderr(File::create(start.output)?).spawn().context("failed to start the program")?;
        Ok(Self { home: start.home.clone(), child, output: start.output.to_owned(), watch })
    }

    /// Waits for a moment, and for a worker where one is to be struck. `span` is what [`Moment::Part`] is a part of.
    pub(crate) fn wait(&mut self, moment: Moment, span: Duration, for_worker: bool) -> Result<Waited> {
        self.watch = Watch::new(&self.home)?;
        match moment {
            Moment::Part(part) => {
                let due = Instant::now() + span.mul_f64(part);
                self.wait_until(|_| Ok(Instant::now() >= due))
            }
            Moment::Lines { count, then } => match self.wait_until(|watch| Ok(watch.lines()? >= count))? {
                Waited::Reached => {
                    thread::sleep(then);
                    Ok(Waited::Reached)
                }
                over @ Waited::Over(_) => Ok(over),
            },
        }
        .and_then(|waited| match waited {
            Waited::Reached if for_worker => {
                let home = self.home.clone();
                self.wait_until(|_| Ok(!workers(home.root()).is_empty()))
            }
            waited => Ok(waited),
        })
    }

    /// Waits until the session is over.
    pub(crate) fn finish(&mut self) -> Result<ExitStatus> {
        match self.wait_until(|_| Ok(false))? {
            Waited::Over(status) => Ok(status),
            Waited::Reached => bail!("the end of a session cannot be reached before it"),
        }
    }

    /// Waits for a condition or the end, and fails if all workers fall silent meanwhile.
    fn wait_until(&mut self, mut reached: impl FnMut(&mut Watch) -> io::Result<bool>) -> Result<Waited> {
        let mut silence = Silence::new();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(Waited::Over(status));
            }
            if reached(&mut self.watch)? {
                return Ok(Waited::Reached);
            }
            silence.hears(self.watch.lines()?);
            if silence.is_long() {
                bail!(
                    "the session hangs: no worker has said a word for {} s\n{}",
                    STUCK.as_secs(),
                    self.tail()
                );
            }
            thread::sleep(POLL);
        }
    }

    /// Strikes; returns the attempts that were hit. None where the victims were gone already.
    pub(crate) fn strike(&mut self, blow: Blow) -> Result<BTreeSet<Attempt>> {
        let signal = blow.force.signal();
        let before = workers(self.home.root());
        match blow.target {
            Target::Worker => {
                let count = before.len() as u64;
                let victim = blow.pick.checked_rem(count).map(|index| before[index as usize]);
                return strike_workers(victim.as_slice(), signal);
            }
            Target::Scheduler => self.strike_scheduler(signal)?,
            Target::All if blow.pick.is_multiple_of(2) => {
                self.strike_scheduler(signal)?;
                strike_workers(&before, signal)?;
            }
            Target::All => {
                strike_workers(&before, signal)?;
                self.strike_scheduler(signal)?;
            }
        }
        // A worker may have been started while we looked.
        let after = workers(self.home.root());
        Ok(before.iter().chain(&after).map(|worker| worker.attempt).collect())
    }

    fn strike_scheduler(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).context("a process id fits")?;
        // Not waited for yet, so that the number cannot be another's.
        send(Pid::from_raw(pid), signal)?;
        Ok(())
    }

    /// Fills the disk until the session ends by itself, and makes room again. Returns how it ended and the attempts that
    /// were alive meanwhile.
    pub(crate) fn fill_disk(&mut self, disk: &SmallDisk) -> Result<(ExitStatus, BTreeSet<Attempt>)> {
        let alive: BTreeSet<Attempt> =
            workers(self.home.root()).iter().map(|worker| worker.attempt).collect();
        let before = attempts(&self.home);
        let mut filler = disk.fill()?;
        let mut topped_up = Instant::now();
        let waited = self.wait_until(|_| {
            if topped_up.elapsed() > TOP_UP {
                filler.top_up()?;
                topped_up = Instant::now();
            }
            Ok(false)
        })?;
        let Waited::Over(status) = waited else { bail!("a session on a full disk has no other end") };
        wait_for_orphans(&self.home)?;
        let hit = attempts(&self.home).difference(&before).copied().chain(alive).collect();
        Ok((status, hit))
    }

    /// Judges an end. `felled` says how the scheduler was struck, if it was.
    pub(crate) fn judge(&self, status: ExitStatus, felled: Option<Force>) -> End {
        let said = self.said();
        if let Some(word) = FORBIDDEN.iter().find(|word| said.contains(**word)) {
            return End::Wrong(format!("its output says `{word}`\n{}", self.tail()));
        }
        end(status, felled).unwrap_or_else(|| End::Wrong(format!("it ended with {status}\n{}", self.tail())))
    }

    /// Judges the end on a full disk: with an exit code of its own, and with words about room.
    pub(crate) fn judge_full_disk(&self, status: ExitStatus) -> End {
        let judged = if status.code() == Some(1) { End::Incomplete } else { self.judge(status, None) };
        let said = self.said().to_lowercase();
        let explains = ["space", "full", "room"].iter().any(|word| said.contains(word));
        if judged == End::Incomplete && !explains {
            return End::Wrong(format!(
                "the disk was full, and it does not say so ({status})\n{}",
                self.tail()
            ));
        }
        judged
    }

    fn said(&self) -> String {
        fs::read(&self.output).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Returns the last lines of what it said.
    fn tail(&self) -> String {
        let said = self.said();
        let lines: Vec<&str> = said.lines().collect();
        lines[lines.len().saturating_sub(TAIL)..].join("\n")
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // A session that was waited for is not touched by this.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How long nothing new was heard.
struct Silence {
    lines: usize,
    since: Instant,
}

impl Silence {
    fn new() -> Self {
        Self { lines: 0, since: Instant::now() }
    }

    fn hears(&mut self, lines: usize) {
        if lines != self.lines {
            *self = Self { lines, since: Instant::now() };
        }
    }

    fn is_long(&self) -> bool {
        self.since.elapsed() > STUCK
    }
}

fn strike_workers(victims: &[Worker], signal: Signal) -> Result<BTreeSet<Attempt>> {
    let mut hit = BTreeSet::new();
    for victim in victims {
        if send(victim.pid, signal)? {
            hit.insert(victim.attempt);
        }
    }
    Ok(hit)
}

/// Waits until no worker of the home folder is alive: without a scheduler they save and leave.
pub(crate) fn wait_for_orphans(home: &Home) -> Result<()> {
    let deadline = Instant::now() + STUCK;
    while let Some(worker) = workers(home.root()).first() {
        if Instant::now() > deadline {
            bail!("the worker of {} has outlived its scheduler by {} s", worker.attempt, STUCK.as_secs());
        }
        thread::sleep(POLL);
    }
    Ok(())
}

/// Returns what the end of a session means; `None` for one that must not be.
fn end(status: ExitStatus, felled: Option<Force>) -> Option<End> {
    match (status.code(), status.signal(), felled) {
        (Some(0), _, _) => Some(End::Complete),
        // Runs failed or were interrupted because their workers were struck; whether all of them, is asked later.
        (Some(3), _, _) | (Some(130), _, Some(_)) => Some(End::Incomplete),
        (None, Some(signal), Some(force)) if signal == force.signal() as i32 => Some(End::Incomplete),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(code: i32) -> ExitStatus {
        ExitStatus::from_raw(code << 8)
    }

    #[test]
    fn ends_are_what_was_done_to_the_session() {
        let killed = ExitStatus::from_raw(Signal::SIGKILL as i32);
        for (status, felled, expected) in [
            (code(0), None, Some(End::Complete)),
            (code(0), Some(Force::Terminate), Some(End::Complete)),
            (code(3), None, Some(End::Incomplete)),
            (code(130), Some(Force::Terminate), Some(End::Incomplete)),
            (killed, Some(Force::Kill), Some(End::Incomplete)),
            (code(130), None, None),
            (code(1), Some(Force::Kill), None),
            (code(101), None, None),
            (killed, None, None),
            (killed, Some(Force::Terminate), None),
        ] {
            assert_eq!(end(status, felled), expected, "{status} {felled:?}");
        }
    }
}
