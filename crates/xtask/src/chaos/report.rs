//! What was done and found in all rounds, counted.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::chaos::plan::{Force, HarmKind, Target};
use crate::chaos::verify::Findings;
use crate::console;

/// The counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    kills: BTreeMap<(Target, Force), usize>,
    harms: BTreeMap<HarmKind, usize>,
    /// Sessions whose disk was filled.
    pub(crate) filled: usize,
    pub(crate) sessions: usize,
    /// Runs that a session left failed, because their workers were killed too often or the disk was full; the next session
    /// tried them again.
    pub(crate) given_up: usize,
    rounds: usize,
    attempts: usize,
    trained: usize,
    repeated: usize,
    allowed: usize,
}

impl Tally {
    pub(crate) fn count_kill(&mut self, target: Target, force: Force) {
        *self.kills.entry((target, force)).or_default() += 1;
    }

    pub(crate) fn count_harm(&mut self, kind: HarmKind) {
        *self.harms.entry(kind).or_default() += 1;
    }

    pub(crate) fn add_round(&mut self, found: &Findings) {
        self.rounds += 1;
        self.attempts += found.attempts;
        self.trained += found.trained;
        self.repeated += found.repeated;
        self.allowed += found.allowed;
    }

    /// Returns the number of kills so far.
    pub(crate) fn kills(&self) -> usize {
        self.kills.values().sum()
    }

    /// Returns the counts in one line.
    pub(crate) fn line(&self) -> String {
        let harms: usize = self.harms.values().sum();
        format!(
            "{} kills, {harms} files damaged, {} times a full disk; {} attempts, {} of {} epochs trained again",
            self.kills(),
            self.filled,
            self.attempts,
            self.repeated,
            self.trained
        )
    }

    /// Prints all counts.
    pub(crate) fn print(&self, wall: Duration) {
        let kills = |target, force| self.kills.get(&(target, force)).copied().unwrap_or(0).to_string();
        let harms = |kind| self.harms.get(&kind).copied().unwrap_or(0).to_string();
        console::table(&[
            ("kills", self.kills().to_string()),
            ("  scheduler, SIGKILL", kills(Target::Scheduler, Force::Kill)),
            ("  scheduler, SIGTERM", kills(Target::Scheduler, Force::Terminate)),
            ("  one worker, SIGKILL", kills(Target::Worker, Force::Kill)),
            ("  one worker, SIGTERM", kills(Target::Worker, Force::Terminate)),
            ("  scheduler and workers, SIGKILL", kills(Target::All, Force::Kill)),
            ("  scheduler and workers, SIGTERM", kills(Target::All, Force::Terminate)),
            ("event files cut short", harms(HarmKind::CutEvents)),
            ("checkpoints with wrong bytes", harms(HarmKind::FlipCheckpoint)),
            ("checkpoints cut short", harms(HarmKind::CutCheckpoint)),
            ("disks filled", self.filled.to_string()),
            ("rounds (grids completed and checked)", self.rounds.to_string()),
            ("sessions (`sweep run`)", self.sessions.to_string()),
            ("attempts", self.attempts.to_string()),
            ("runs given up and tried again", self.given_up.to_string()),
            ("epochs trained", self.trained.to_string()),
            ("epochs trained again", format!("{} ({} explained at most)", self.repeated, self.allowed)),
            ("wall time", format!("{:.0} s", wall.as_secs_f64())),
        ]);
    }
}
