//! What was done to a round, and with that what it may show: which attempts may have failed, and how many epochs each run
//! may have trained again.

use std::collections::{BTreeMap, BTreeSet};

use sweep_core::spec::RunId;

use crate::chaos::traces::Attempt;

/// What was done to an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cause {
    /// Its worker was killed, or its scheduler was while it was alive.
    Killed,
    /// It was alive while the disk was full.
    FullDisk,
    /// Its event file was cut short.
    Cut,
}

/// What was done to the runs of a round.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    hit: BTreeMap<Attempt, BTreeSet<Cause>>,
    /// Epochs that damaged files may cost a run.
    lost: BTreeMap<RunId, usize>,
}

impl Ledger {
    /// Notes that something was done to an attempt.
    pub(crate) fn hit(&mut self, attempt: Attempt, cause: Cause) {
        self.hit.entry(attempt).or_default().insert(cause);
    }

    /// Notes that the same was done to several.
    pub(crate) fn hit_all(&mut self, attempts: &BTreeSet<Attempt>, cause: Cause) {
        for attempt in attempts {
            self.hit(*attempt, cause);
        }
    }

    /// Notes that a damaged file may cost a run so many epochs.
    pub(crate) fn lose(&mut self, run: RunId, epochs: usize) {
        *self.lost.entry(run).or_default() += epochs;
    }

    /// Returns how many epochs a run may have trained again: one an attempt that was hit, for however often it was hit it
    /// ended once, and what damaged files cost.
    pub(crate) fn allowance(&self, run: RunId) -> usize {
        let hit = self.hit.keys().filter(|attempt| attempt.run == run).count();
        hit + self.lost.get(&run).copied().unwrap_or(0)
    }

    /// Returns whether an attempt may have failed with this class: a killed worker dies without a last word, and on a full
    /// disk anything may go wrong that is said.
    pub(crate) fn excuses(&self, attempt: Attempt, class: &str) -> bool {
        self.hit
            .get(&attempt)
            .is_some_and(|causes| causes.contains(&Cause::FullDisk) || class == "worker_died")
    }
}

#[cfg(test)]
mod tests {
    use sweep_testkit::id_of;

    use super::*;

    fn attempt(seed: u64, number: u32) -> Attempt {
        Attempt { run: id_of(seed), number }
    }

    #[test]
    fn an_attempt_that_was_hit_costs_one_epoch_however_often() {
        let mut ledger = Ledger::default();
        for (number, cause) in [(1, Cause::Killed), (1, Cause::Killed), (1, Cause::Cut), (2, Cause::FullDisk)]
        {
            ledger.hit(attempt(0, number), cause);
        }
        ledger.lose(id_of(0), 5);
        ledger.lose(id_of(0), 1);
        assert_eq!([0, 1].map(|run| ledger.allowance(id_of(run))), [8, 0]);
    }

    #[test]
    fn only_what_was_done_excuses_a_failure() {
        let mut ledger = Ledger::default();
        ledger.hit(attempt(0, 1), Cause::Killed);
        ledger.hit(attempt(0, 2), Cause::FullDisk);
        for (number, class, excused) in
            [(1, "worker_died", true), (1, "data", false), (2, "data", true), (3, "worker_died", false)]
        {
            assert_eq!(ledger.excuses(attempt(0, number), class), excused, "{number} {class}");
        }
    }
}
