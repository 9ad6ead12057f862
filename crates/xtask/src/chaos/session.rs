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
const POLL: Duration = Duration::from_millis(4);
/// How often a full disk is topped up.
const TOP_UP: Duration = Duration::from_millis(20);
/// A session in which no worker has said a word for so long hangs: an epoch of the grid takes a second or two, and a pause
/// before a retry at most half a minute.
const STUCK: Duration = Duration::from_mins(2);
/// What no output of the program may contain.
const FORBIDDEN: [&str; 2] = ["panicked at", "database is locked"];

/// What it may say where the disk is full.
const MISSING: [&str; 3] = ["space", "full", "room"];
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
        let waited = self.wait_for(moment, span)?;
        if waited != Waited::Reached || !for_worker {
            return Ok(waited);
        }
        let home = self.home.clone();
        self.wait_until(|_| Ok(!workers(home.root()).is_empty()))
    }

    fn wait_for(&mut self, moment: Moment, span: Duration) -> Result<Waited> {
        self.watch = Watch::new(&self.home)?;
        let (lines, later) = match moment {
            Moment::Part(part) => (0, span.mul_f64(part)),
            Moment::Lines { count, then } => (count, then),
        };
        let said = self.wait_until(|watch| Ok(watch.lines()? >= lines))?;
        let due = Instant::now() + later;
        if said == Waited::Reached { self.wait_until(|_| Ok(Instant::now() >= due)) } else { Ok(said) }
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
        match end(status, felled) {
            _ if self.says(&FORBIDDEN) => self.wrong("its output says what it must not", status),
            Some(end) => end,
            None => self.wrong("that is no end that it may come to", status),
        }
    }

    /// Judges the end on a full disk. A code of 1 is what it ends with where the database itself has no room; whatever the
    /// code, it must say what is missing.
    pub(crate) fn judge_full_disk(&self, status: ExitStatus) -> End {
        match status.code() {
            Some(1 | 3) if !self.says(&MISSING) => {
                self.wrong("the disk was full, and it does not say so", status)
            }
            Some(1) if !self.says(&FORBIDDEN) => End::Incomplete,
            _ => self.judge(status, None),
        }
    }

    /// Returns an end that must not be.
    pub(crate) fn wrong(&self, what: &str, status: ExitStatus) -> End {
        End::Wrong(format!("a session ended with {status}: {what}\n{}", self.tail()))
    }

    fn says(&self, words: &[&str]) -> bool {
        let said = self.said();
        words.iter().any(|word| said.contains(word))
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
