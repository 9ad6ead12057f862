//! The ramp that finds its own ends: T1, and if asked T2, from the validation accuracies of the epochs before.

use serde::{Deserialize, Serialize};

use super::{Granularity, Moment, ramp};
use crate::metrics::DELAY_THRESHOLD;

/// Epsilon 0 until the clean accuracy on the validation split has converged, then a ramp.
///
/// The paper's Table 4 keeps epsilon at 0 "until validation accuracy converges – patience 5 epochs, tolerance 2 % – that
/// epoch is T1", then ramps linearly to the last epoch. It gives no program, so this is what we take that to mean:
///
/// - *Accuracy* is that on clean validation images after each epoch, as a fraction of the complete split.
/// - It *improves* in an epoch if it exceeds the accuracy of the last improvement by more than `tolerance`. The
///   tolerance is absolute, 2 points of accuracy, as the minimal improvement of early stopping is; a relative one would
///   let noise at low accuracy count as improvement.
/// - The first improvement is the first epoch above [`DELAY_THRESHOLD`], the accuracy from which the paper calls a
///   network adapted: before that nothing has been learned that could have converged, and no epoch is counted.
/// - It *has converged* after the first `patience` epochs in a row without improvement. T1 is the number of epochs
///   completed then, so the next epoch is the first of the ramp (and still has epsilon 0, as in the paper's ramp).
///
/// If it never converges within the budget, epsilon stays 0.
///
/// T2 is an epoch of the sweep file (the paper's: the number of epochs of the budget), or it is found as well. The paper
/// leaves that open; our rule starts from two of its observations. Of its ablation (Table 7, SWIN-Cars) the ramps with
/// the largest expected robustness take 44 % and 47 % of the epochs after T1 ((5, 25) and (12, 30) of 50), while ramps to
/// the last epoch lose robust accuracy; and what goes wrong when epsilon rises too soon shows as a loss of clean
/// accuracy. So:
///
/// - With `n` epochs left at T1, the ramp rises by 2/n an epoch: it would be done after half of them.
/// - It is *held* for an epoch after every epoch whose accuracy fell by more than `tolerance` below that of the epoch
///   before: the network is not keeping up.
/// - It is never behind the paper's ramp from T1 to the last epoch, which also bounds how often it is held.
///
/// T2 is the first epoch at the target; it lies between T1 + n/2 and the end of the budget.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AutoRamp {
    /// Epochs in a row without improvement that mean convergence, at least 1.
    pub patience: u32,
    /// Smallest change of the accuracy that counts, in [0, 1).
    pub tolerance: f64,
    /// First epoch at the target, T2; `None`: found as well. If it has passed when T1 is found, the target is used at once.
    pub end: Option<u32>,
    /// How often epsilon changes on the way; by epochs where T2 is found.
    #[serde(default, skip_serializing_if = "Granularity::is_epoch")]
    pub per: Granularity,
}

impl AutoRamp {
    /// Returns T1, given the clean validation accuracies of the epochs from 0 on; `None` as long as they have not
    /// converged. More epochs never change a T1 that was found.
    ///
    /// ```
    /// use sweep_core::schedule::{AutoRamp, Granularity};
    /// let auto = AutoRamp { patience: 2, tolerance: 0.02, end: None, per: Granularity::Epoch };
    /// assert_eq!(auto.start(&[0.01, 0.3, 0.6, 0.61]), None);
    /// assert_eq!(auto.start(&[0.01, 0.3, 0.6, 0.61, 0.615]), Some(5));
    /// ```
    pub fn start(&self, accuracies: &[f64]) -> Option<u32> {
        let mut last_improvement = None;
        let mut waited = 0;
        for (completed, accuracy) in (1..).zip(accuracies) {
            let bar = last_improvement.map_or(DELAY_THRESHOLD, |best| best + self.tolerance);
            if *accuracy > bar {
                last_improvement = Some(*accuracy);
                waited = 0;
            } else if last_improvement.is_some() {
                waited += 1;
            }
            if waited >= self.patience && last_improvement.is_some() {
                return Some(completed);
            }
        }
        None
    }

    /// Returns the fraction of the target epsilon at `moment`, from the accuracies of the epochs before it alone.
    pub(super) fn fraction(&self, moment: Moment<'_>) -> f64 {
        let known = moment.accuracies.len().min(moment.epoch as usize);
        let accuracies = &moment.accuracies[..known];
        match (self.start(accuracies), self.end) {
            (None, _) => 0.0,
            (Some(start), Some(end)) => ramp(moment.position(self.per), start, end),
            (Some(start), None) => self.found_ramp(start, moment.epochs, accuracies),
        }
    }

    /// Returns the progress of the ramp whose end is found as well, after the epochs of `accuracies`. It is counted in
    /// whole parts of 1/n, so that no rounding adds up.
    fn found_ramp(&self, start: u32, epochs: u32, accuracies: &[f64]) -> f64 {
        let parts = epochs.saturating_sub(start).max(1);
        let mut done = 0;
        for (slowest, pair) in (1..).zip(accuracies[start as usize - 1..].windows(2)) {
            let is_held = pair[1] < pair[0] - self.tolerance;
            done = if is_held { done } else { done + 2 }.max(slowest).min(parts);
        }
        f64::from(done) / f64::from(parts)
    }

    /// Returns the short text that tables print, such as `ramp auto-50`.
    pub(super) fn label(&self) -> String {
        let end = self.end.map_or_else(|| "auto".to_owned(), |end| end.to_string());
        let Self { patience, tolerance, .. } = self;
        let is_paper = *patience == 5 && *tolerance == 0.02;
        let rule = if is_paper { String::new() } else { format!(" ({patience}, {tolerance})") };
        format!("ramp auto-{end}{rule}{}", self.per.suffix())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EPOCHS: u32 = 20;

    fn auto(end: Option<u32>) -> AutoRamp {
        AutoRamp { patience: 3, tolerance: 0.02, end, per: Granularity::Epoch }
    }

    fn fraction(auto: &AutoRamp, epoch: u32, accuracies: &[f64]) -> f64 {
        auto.fraction(Moment { epoch, epochs: EPOCHS, accuracies, ..Moment::default() })
    }

    /// Learns for four epochs and stays at 60 %: converged after seven epochs.
    fn learned() -> Vec<f64> {
        let mut accuracies = vec![0.01, 0.2, 0.5, 0.6];
        accuracies.resize(EPOCHS as usize, 0.61);
        accuracies
    }

    #[test]
    fn convergence_is_a_number_of_epochs_without_improvement() {
        let cases: [(&[f64], Option<u32>); 7] = [
            (&[], None),
            // Below the threshold nothing is counted, however long.
            (&[0.01; 12], None),
            (&[0.05; 12], None),
            (&[0.06; 12], Some(4)),
            (&[0.5, 0.51, 0.52, 0.519, 0.6], Some(4)),
            // An improvement by small steps is one as soon as it adds up to more than the tolerance.
            (&[0.5, 0.51, 0.5201, 0.53, 0.53, 0.53], Some(6)),
            (&[f64::NAN; 6], None),
        ];
        for (accuracies, expected) in cases {
            assert_eq!(auto(None).start(accuracies), expected, "{accuracies:?}");
        }
    }

    #[test]
    fn after_convergence_it_is_the_ramp_to_the_given_end() {
        let (auto, accuracies) = (auto(Some(EPOCHS)), learned());
        let fractions: Vec<f64> = (0..EPOCHS).map(|epoch| fraction(&auto, epoch, &accuracies)).collect();
        assert_eq!(fractions[..8], [0.0; 8]);
        assert_eq!([fractions[8], fractions[19]], [1.0 / 13.0, 12.0 / 13.0]);
        let passed = AutoRamp { end: Some(3), ..auto };
        assert_eq!([fraction(&passed, 6, &accuracies), fraction(&passed, 7, &accuracies)], [0.0, 1.0]);
    }

    #[test]
    fn a_found_end_comes_after_half_of_the_epochs_that_are_left() {
        let (auto, accuracies) = (auto(None), learned());
        assert_eq!(fraction(&auto, 7, &accuracies), 0.0);
        assert_eq!(fraction(&auto, 8, &accuracies), 2.0 / 13.0);
        assert_eq!(fraction(&auto, 13, &accuracies), 12.0 / 13.0);
        assert_eq!(fraction(&auto, 14, &accuracies), 1.0);
    }

    #[test]
    fn the_found_ramp_waits_while_accuracy_falls_but_not_beyond_the_last_epoch() {
        let auto = auto(None);
        let mut accuracies = learned();
        accuracies[9..].fill(0.5);
        let at = |accuracies: &[f64], epoch| (fraction(&auto, epoch, accuracies) * 13.0).round();
        // The fall in epoch 9 holds the ramp in epoch 10, and the next epoch goes on.
        assert_eq!([8, 9, 10, 11].map(|epoch| at(&accuracies, epoch)), [2.0, 4.0, 4.0, 6.0]);
        let falling: Vec<f64> =
            (0..EPOCHS).map(|epoch| if epoch < 7 { 0.9 } else { 0.9 - 0.03 * f64::from(epoch) }).collect();
        let start = auto.start(&falling).unwrap();
        for epoch in start..EPOCHS {
            let slowest = ramp(f64::from(epoch), start, EPOCHS);
            assert!(fraction(&auto, epoch, &falling) >= slowest, "epoch {epoch}");
        }
        assert_eq!(fraction(&auto, 19, &falling), 15.0 / 16.0);
    }

    proptest! {
        /// What an interrupted run reads back is the history up to its epoch; what came later must not matter.
        #[test]
        fn only_epochs_before_count_and_epsilon_never_falls(
            accuracies in prop::collection::vec(0.0..1.0_f64, EPOCHS as usize),
            end in prop::option::of(0..=EPOCHS),
        ) {
            let auto = auto(end);
            let mut before = 0.0;
            for epoch in 0..EPOCHS {
                let now = fraction(&auto, epoch, &accuracies);
                prop_assert_eq!(now, fraction(&auto, epoch, &accuracies[..epoch as usize]));
                prop_assert!((before..=1.0).contains(&now));
                before = now;
            }
        }
    }
}
