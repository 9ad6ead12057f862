//! How far training has come.

use serde::{Deserialize, Serialize};

use super::record::{EpochRecord, EpochSums, Probe};

/// The epochs behind, and the steps done in the one after them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Position {
    /// One entry a completed epoch.
    epochs: Vec<EpochRecord>,
    /// Optimizer steps done in the epoch after those.
    pub(crate) step: u32,
    /// What those steps added up.
    pub(crate) sums: EpochSums,
}

impl Position {
    /// Returns the number of completed epochs, which is that of the epoch that `step` and `sums` speak of.
    pub(crate) fn epoch(&self) -> u32 {
        self.epochs.len() as u32
    }

    /// Returns what is recorded of the completed epochs, from 0 on.
    pub(crate) fn epochs(&self) -> &[EpochRecord] {
        &self.epochs
    }

    /// Returns where this is: completed epochs and steps.
    pub(crate) fn place(&self) -> (u32, u32) {
        (self.epoch(), self.step)
    }

    /// Completes the current epoch.
    pub(crate) fn complete(&mut self, record: EpochRecord) {
        self.epochs.push(record);
        (self.step, self.sums) = (0, EpochSums::default());
    }

    /// Returns whether every epoch tells what `probe` asks for.
    pub(crate) fn answers(&self, probe: Option<&Probe>) -> bool {
        self.epochs.iter().all(|record| record.robust(probe).is_some())
    }

    /// Says what is impossible about a position read from a file.
    pub(super) fn check(&self) -> Result<(), String> {
        for (number, record) in self.epochs.iter().enumerate() {
            record.check(number)?;
        }
        let has_sums = self.sums.seen > 0;
        if !self.sums.is_sound() || has_sums != (self.step > 0) {
            return Err(format!("its sums are impossible after {} steps", self.step));
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::record::tests::{probe, record};
    use super::*;

    /// `epochs` complete ones and `step` steps of 8 images.
    pub(in crate::checkpoint) fn position(epochs: u32, step: u32) -> Position {
        let sums = EpochSums { loss: 0.3 * f64::from(step), correct: step, seen: 8 * step, seconds: 0.25 };
        let sums = if step == 0 { EpochSums::default() } else { sums };
        Position { epochs: (0..epochs).map(record).collect(), step, sums }
    }

    #[test]
    fn completing_an_epoch_begins_the_next() {
        let mut position = position(1, 3);
        position.complete(record(1));
        assert_eq!((position.place(), position.sums), ((2, 0), EpochSums::default()));
        assert!(
            position.answers(None) && position.answers(Some(&probe(4))) && !position.answers(Some(&probe(3)))
        );
    }

    #[test]
    fn impossible_positions_are_refused() {
        for (epochs, step) in [(0, 0), (2, 0), (2, 5)] {
            assert_eq!(position(epochs, step).check(), Ok(()));
        }
        let unordered = Position { epochs: vec![record(1), record(0)], ..Position::default() };
        let without_sums = Position { sums: EpochSums::default(), ..position(1, 3) };
        let without_steps = Position { step: 0, ..position(1, 3) };
        let mut lossy = position(1, 3);
        lossy.sums.loss = f64::INFINITY;
        for position in [unordered, without_sums, without_steps, lossy] {
            assert!(position.check().is_err(), "{position:?}");
        }
    }
}
