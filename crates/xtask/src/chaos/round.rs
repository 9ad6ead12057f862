//! One grid from an empty home folder to its last run, through everything that is done to it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::Result;
use sweep_core::home::Home;
use sweep_core::spec::RunId;

use crate::chaos::damage::harm;
use crate::chaos::disk::SmallDisk;
use crate::chaos::journal::Journal;
use crate::chaos::ledger::{Cause, Ledger};
use crate::chaos::outcome::Outcome;
use crate::chaos::plan::{Blow, Moment, Ordeal, Plan, Target};
use crate::chaos::report::Tally;
use crate::chaos::session::{End, Session, Start, Waited, wait_for_orphans};
use crate::chaos::traces::Attempt;
use crate::chaos::verify;
use crate::program::{Program, text};

/// Sessions that may be needed to complete a grid once nobody kills any more: an interrupted run or one that has died too
/// often goes on in the next session.
const FINISHING: usize = 4;
/// One harm in so many may hit any run, the others one that is not done yet.
const ANY_RUN: u64 = 4;

/// What all rounds have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting<'a> {
    pub(crate) program: &'a Program,
    pub(crate) file: &'a Path,
    pub(crate) expected: &'a Outcome,
    pub(crate) seed: u64,
    /// Time that most blows fall into.
    pub(crate) span: Duration,
    /// Kills of all rounds.
    pub(crate) kills: usize,
}

/// A round.
pub(crate) struct Round<'a> {
    setting: Setting<'a>,
    number: u64,
    home: Home,
    outputs: PathBuf,
    disk: Option<&'a SmallDisk>,
    ledger: Ledger,
    tally: &'a mut Tally,
    journal: &'a mut Journal,
    sessions: u64,
}

/// What was found wrong, in words.
pub(crate) type Faults = Vec<String>;

impl<'a> Round<'a> {
    /// Prepares a round in `folder`, or with its home on a small disk.
    pub(crate) fn new(
        setting: Setting<'a>,
        number: u64,
        folder: &Path,
        disk: Option<(&'a SmallDisk, &Path)>,
        tally: &'a mut Tally,
        journal: &'a mut Journal,
    ) -> Result<Self> {
        let outputs = folder.join("output");
        fs::create_dir_all(&outputs)?;
        let home = Home::new(disk.map_or(folder, |(_, root)| root).join("home"));
        let (disk, ledger) = (disk.map(|(disk, _)| disk), Ledger::default());
        Ok(Self { setting, number, home, outputs, disk, ledger, tally, journal, sessions: 0 })
    }

    /// Kills until the grid is complete or enough was killed, completes the grid, and checks everything.
    pub(crate) fn run(mut self) -> Result<Faults> {
        // Each plan has a blow or fills the disk, so that this bound is far away.
        let most_sessions = 20 + 4 * self.setting.kills as u64;
        while self.tally.kills() < self.setting.kills && self.sessions < most_sessions {
            let plan = Plan::draw(self.setting.seed, self.number, self.sessions, self.disk.is_some());
            match self.suffer(&plan)? {
                End::Complete => return self.verify(),
                End::Wrong(fault) => return Ok(vec![fault]),
                End::Incomplete => self.aftermath(&plan)?,
            }
        }
        self.complete()
    }

    /// Lets the grid end undisturbed.
    fn complete(mut self) -> Result<Faults> {
        for _ in 0..FINISHING {
            let mut session = self.start()?;
            let status = session.finish()?;
            match session.judge(status, None) {
                End::Complete => return self.verify(),
                End::Wrong(fault) => return Ok(vec![fault]),
                End::Incomplete => {}
            }
        }
        let mut faults = vec![format!("the grid is not complete after {FINISHING} undisturbed sessions")];
        faults.extend(self.verify()?);
        Ok(faults)
    }

    fn verify(self) -> Result<Faults> {
        wait_for_orphans(&self.home)?;
        let found = verify::round(self.setting.program, &self.home, self.setting.expected, &self.ledger)?;
        self.tally.add_round(&found);
        Ok(found.faults)
    }

    /// Runs a session through its ordeal.
    fn suffer(&mut self, plan: &Plan) -> Result<End> {
        let mut session = self.start()?;
        match &plan.ordeal {
            Ordeal::Blows(blows) => self.take_blows(&mut session, blows),
            Ordeal::FullDisk(moment) => self.fill_disk(&mut session, *moment),
        }
    }

    fn start(&mut self) -> Result<Session> {
        let failed = self.failed_runs();
        self.tally.given_up += failed;
        self.sessions += 1;
        self.tally.sessions += 1;
        let output = self.outputs.join(format!("session-{:03}.txt", self.sessions));
        self.journal.note(&format!(
            "round {} session {}: starts, {failed} runs have failed",
            self.number + 1,
            self.sessions
        ));
        Session::start(&Start {
            program: self.setting.program,
            home: &self.home,
            file: self.setting.file,
            retry_failed: failed > 0,
            output: &output,
        })
    }

    fn take_blows(&mut self, session: &mut Session, blows: &[Blow]) -> Result<End> {
        for blow in blows {
            if self.tally.kills() >= self.setting.kills {
                break;
            }
            let waited = session.wait(blow.moment, self.setting.span, blow.target == Target::Worker)?;
            if let Waited::Over(status) = waited {
                return Ok(self.judge(session, status));
            }
            let hit = session.strike(*blow)?;
            self.journal.note(&format!("  {:?} {}: {}", blow.force, blow.target, listed(&hit)));
            if blow.target == Target::Worker {
                self.count(*blow, !hit.is_empty());
            }
            self.ledger.hit_all(&hit, Cause::Killed);
            if blow.target != Target::Worker {
                return self.felled(session, *blow);
            }
        }
        let status = session.finish()?;
        Ok(self.judge(session, status))
    }

    /// Judges a session that ended by itself: it goes on as long as there is a run that can.
    fn judge(&mut self, session: &Session, status: ExitStatus) -> End {
        let end = session.judge(status, None);
        let explained = !self.runs("failed").is_empty() || !self.runs("interrupted").is_empty();
        if end == End::Incomplete && !explained {
            return session.wrong("no run has failed or was interrupted", status);
        }
        end
    }

    /// Sees a struck scheduler end. One that was through before the blow was not killed.
    fn felled(&mut self, session: &mut Session, blow: Blow) -> Result<End> {
        let status = session.finish()?;
        let end = session.judge(status, Some(blow.force));
        self.count(blow, !matches!(status.code(), Some(0 | 3)));
        Ok(end)
    }

    fn count(&mut self, blow: Blow, landed: bool) {
        if landed {
            self.tally.count_kill(blow.target, blow.force);
        }
    }

    fn fill_disk(&mut self, session: &mut Session, moment: Moment) -> Result<End> {
        let Some(disk) = self.disk else { return Ok(End::Wrong("no small disk to fill".to_owned())) };
        if let Waited::Over(status) = session.wait(moment, self.setting.span, false)? {
            return Ok(self.judge(session, status));
        }
        let (status, hit) = session.fill_disk(disk)?;
        self.journal.note(&format!("  disk full: {status}, {}", listed(&hit)));
        self.tally.filled += 1;
        self.ledger.hit_all(&hit, Cause::FullDisk);
        Ok(session.judge_full_disk(status))
    }

    /// Damages what the plan says, if nobody is alive.
    fn aftermath(&mut self, plan: &Plan) -> Result<()> {
        if !plan.wait_for_orphans {
            return Ok(());
        }
        wait_for_orphans(&self.home)?;
        for planned in &plan.harms {
            let any = planned.pick.is_multiple_of(ANY_RUN);
            let spared = if any { BTreeSet::new() } else { self.runs("succeeded") };
            let runs = self.setting.expected.runs().difference(&spared).copied().collect();
            if let Some(done) = harm(&self.home, &runs, *planned, &mut self.ledger)? {
                self.journal.note(&format!("  {}: {done}", planned.kind));
                self.tally.count_harm(planned.kind);
            }
        }
        Ok(())
    }

    fn failed_runs(&mut self) -> usize {
        self.runs("failed").len()
    }

    /// Returns the runs in a state. None as long as there is no database, or only the beginning of one; whether it can be
    /// read in the end is checked there.
    fn runs(&mut self, state: &str) -> BTreeSet<RunId> {
        if !self.home.database().exists() {
            return BTreeSet::new();
        }
        let sql = format!("SELECT id FROM runs WHERE state = '{state}'");
        match self.setting.program.query(self.home.root(), &sql) {
            Ok(rows) => rows.iter().filter_map(|row| text(row, "id").parse().ok()).collect(),
            Err(error) => {
                self.journal.note(&format!("  the states of the runs cannot be read: {error:#}"));
                BTreeSet::new()
            }
        }
    }
}

fn listed(attempts: &BTreeSet<Attempt>) -> String {
    attempts.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
