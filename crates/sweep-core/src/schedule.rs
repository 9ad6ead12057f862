//! Epsilon schedules (functions of the epoch) and learning-rate schedules (functions of the progress in epochs).
//!
//! All are pure: there is no counter to save or to lose.

use serde::{Deserialize, Serialize};

use crate::epsilon::Epsilon;
use crate::random::{Purpose, Stream};

/// How epsilon moves from 0 to the target epsilon while training (paper, section C.4 of the reconstruction).
///
/// An epoch `t` is the number of completed epochs, so the first epoch is 0. Epsilon is constant within an epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum EpsilonSchedule {
    /// Always 0: standard fine-tuning.
    None,
    /// Always the target: the paper's RFT-fix.
    Fixed,
    /// The paper's Epsilon-Scheduling: 0 before `start` (T1), linear until `end` (T2), then the target.
    Ramp {
        /// First epoch of the ramp, T1.
        start: u32,
        /// First epoch at the target, T2.
        end: u32,
    },
    /// A ramp that starts at once (T1 = 0).
    Warmup {
        /// First epoch at the target.
        end: u32,
    },
    /// 0 before `start`, then the target at once (T1 = T2; the paper shows that it collapses).
    Step {
        /// First epoch at the target.
        start: u32,
    },
    /// One draw a epoch, uniform on [0, target] (paper, Table 8).
    Uniform,
    /// Straight lines between points, constant before the first and after the last.
    Piecewise {
        /// In order of epochs.
        points: Vec<SchedulePoint>,
    },
}

/// One corner of a piecewise schedule.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SchedulePoint {
    /// The epoch.
    pub epoch: u32,
    /// Fraction of the target epsilon, in [0, 1].
    pub fraction: f64,
}

impl EpsilonSchedule {
    /// Returns the fraction of the target epsilon used in `epoch`, in [0, 1]. Only [`Self::Uniform`] looks at `seed`.
    ///
    /// ```
    /// use sweep_core::schedule::EpsilonSchedule;
    /// let ramp = EpsilonSchedule::Ramp { start: 12, end: 37 };
    /// assert_eq!(ramp.fraction_at(12, 0), 0.0);
    /// assert_eq!(ramp.fraction_at(17, 0), 0.2);
    /// assert_eq!(ramp.fraction_at(37, 0), 1.0);
    /// ```
    pub fn fraction_at(&self, epoch: u32, seed: u64) -> f64 {
        match self {
            Self::None => 0.0,
            Self::Fixed => 1.0,
            Self::Ramp { start, end } => ramp(epoch, *start, *end),
            Self::Warmup { end } => ramp(epoch, 0, *end),
            Self::Step { start } => ramp(epoch, *start, *start),
            Self::Uniform => Stream::new(seed, Purpose::EpsilonSchedule, u64::from(epoch), 0).uniform(),
            Self::Piecewise { points } => piecewise(epoch, points),
        }
    }

    /// Returns the radius used in `epoch` as a number: the fraction times the target.
    pub fn epsilon_at(&self, epoch: u32, target: Epsilon, seed: u64) -> f64 {
        self.fraction_at(epoch, seed) * target.value()
    }

    /// Returns the short text that tables print, such as `ramp 12-37`.
    pub fn label(&self) -> String {
        match self {
            Self::None => "none".to_owned(),
            Self::Fixed => "fixed".to_owned(),
            Self::Ramp { start, end } => format!("ramp {start}-{end}"),
            Self::Warmup { end } => format!("warmup {end}"),
            Self::Step { start } => format!("step {start}"),
            Self::Uniform => "uniform".to_owned(),
            Self::Piecewise { points } => {
                let corners: Vec<String> =
                    points.iter().map(|point| format!("{}:{}", point.epoch, point.fraction)).collect();
                format!("piecewise {}", corners.join(","))
            }
        }
    }
}

fn ramp(epoch: u32, start: u32, end: u32) -> f64 {
    if epoch >= end {
        1.0
    } else if epoch < start {
        0.0
    } else {
        f64::from(epoch - start) / f64::from(end - start)
    }
}

fn piecewise(epoch: u32, points: &[SchedulePoint]) -> f64 {
    let after = points.partition_point(|point| point.epoch <= epoch);
    match (after.checked_sub(1).map(|before| points[before]), points.get(after)) {
        (None, None) => 0.0,
        (None, Some(first)) => first.fraction,
        (Some(last), None) => last.fraction,
        (Some(left), Some(right)) => {
            let part = f64::from(epoch - left.epoch) / f64::from(right.epoch - left.epoch);
            left.fraction + part * (right.fraction - left.fraction)
        }
    }
}

/// How the learning rate moves (paper: cosine with warm-up, lengths not given; defaults in section G).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum LearningRateSchedule {
    /// Always the full rate.
    Constant,
    /// Linear warm-up, then a half cosine down to 0 at the end of the budget.
    Cosine {
        /// Length of the warm-up in epochs; the first epoch already has 1/`warmup_epochs` of the rate.
        warmup_epochs: u32,
        /// How often the rate changes.
        per: Granularity,
    },
}

/// Whether a rate is constant within an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Granularity {
    /// Constant within an epoch.
    Epoch,
    /// Changes with every optimizer step.
    Step,
}

impl LearningRateSchedule {
    /// Returns the multiplier of the learning rate, in [0, 1], for step `step` of `steps` in `epoch` of `epochs`.
    pub fn multiplier(&self, epoch: u32, epochs: u32, step: u32, steps: u32) -> f64 {
        let Self::Cosine { warmup_epochs, per } = self else {
            return 1.0;
        };
        let (position, resolution) = match per {
            Granularity::Epoch => (f64::from(epoch), 1.0),
            Granularity::Step => {
                (f64::from(epoch) + f64::from(step) / f64::from(steps), 1.0 / f64::from(steps))
            }
        };
        let warmup = f64::from(*warmup_epochs);
        if position < warmup {
            return (position + resolution) / warmup;
        }
        let part = (position - warmup) / (f64::from(epochs) - warmup);
        0.5 * (1.0 + (std::f64::consts::PI * part).cos())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn edges_of_the_ramp() {
        let fraction = |start, end, epoch| EpsilonSchedule::Ramp { start, end }.fraction_at(epoch, 0);
        assert_eq!(fraction(12, 37, 0), 0.0);
        assert_eq!(fraction(12, 37, 11), 0.0);
        assert_eq!(fraction(12, 37, 13), 0.04);
        assert_eq!(fraction(12, 37, 36), 0.96);
        assert_eq!(fraction(12, 37, 49), 1.0);
        assert_eq!(fraction(0, 0, 0), 1.0);
        assert_eq!(fraction(5, 5, 4), 0.0);
        assert_eq!(fraction(5, 5, 5), 1.0);
    }

    #[test]
    fn warmup_step_and_piecewise_are_ramps_in_other_words() {
        let points =
            vec![SchedulePoint { epoch: 12, fraction: 0.0 }, SchedulePoint { epoch: 37, fraction: 1.0 }];
        let piecewise = EpsilonSchedule::Piecewise { points };
        for epoch in 0..50 {
            let ramp = |start, end| EpsilonSchedule::Ramp { start, end }.fraction_at(epoch, 0);
            assert_eq!(EpsilonSchedule::Warmup { end: 10 }.fraction_at(epoch, 0), ramp(0, 10));
            assert_eq!(EpsilonSchedule::Step { start: 10 }.fraction_at(epoch, 0), ramp(10, 10));
            assert!((piecewise.fraction_at(epoch, 0) - ramp(12, 37)).abs() < 1e-12);
        }
    }

    #[test]
    fn cosine_warms_up_and_ends_near_zero() {
        let schedule = LearningRateSchedule::Cosine { warmup_epochs: 5, per: Granularity::Epoch };
        assert_eq!(schedule.multiplier(0, 50, 0, 4), 0.2);
        assert_eq!(schedule.multiplier(4, 50, 3, 4), 1.0);
        assert_eq!(schedule.multiplier(5, 50, 0, 4), 1.0);
        assert!(schedule.multiplier(49, 50, 0, 4) < 0.002);
    }

    proptest! {
        #[test]
        fn a_ramp_is_monotone_and_within_bounds(start in 0_u32..60, length in 0_u32..60, epoch in 0_u32..130) {
            let ramp = EpsilonSchedule::Ramp { start, end: start + length };
            let (now, next) = (ramp.fraction_at(epoch, 0), ramp.fraction_at(epoch + 1, 0));
            prop_assert!((0.0..=1.0).contains(&now));
            prop_assert!(now <= next);
        }

        #[test]
        fn multipliers_lie_in_the_unit_interval(epoch in 0_u32..50, step in 0_u32..7, warmup_epochs in 0_u32..50) {
            for per in [Granularity::Epoch, Granularity::Step] {
                let multiplier = LearningRateSchedule::Cosine { warmup_epochs, per }.multiplier(epoch, 50, step, 7);
                prop_assert!((0.0..=1.0).contains(&multiplier));
            }
        }
    }
}
