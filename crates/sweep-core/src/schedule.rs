//! Epsilon schedules and learning-rate schedules: functions of the progress in epochs.
//!
//! All are pure: there is no counter to save or to lose. [`AutoRamp`] looks at the recorded validation accuracies of the
//! epochs before, and at nothing else.

mod auto;

pub use auto::AutoRamp;

use serde::{Deserialize, Serialize};

use crate::epsilon::Epsilon;
use crate::random::{Purpose, Stream};

/// How epsilon moves from 0 to the target epsilon while training (paper, section C.4 of the reconstruction).
///
/// An epoch `t` is the number of completed epochs, so the first epoch is 0. Epsilon is constant within an epoch, as in
/// the paper, unless a schedule says `per: step`.
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
        /// How often epsilon changes on the way.
        // Not written where it is the paper's, so that runs from before there was a choice keep their identity.
        #[serde(default, skip_serializing_if = "Granularity::is_epoch")]
        per: Granularity,
    },
    /// A ramp that starts at once (T1 = 0).
    Warmup {
        /// First epoch at the target.
        end: u32,
        /// How often epsilon changes on the way.
        #[serde(default, skip_serializing_if = "Granularity::is_epoch")]
        per: Granularity,
    },
    /// 0 before `start`, then the target at once (T1 = T2; the paper shows that it collapses).
    Step {
        /// First epoch at the target.
        start: u32,
    },
    /// One draw an epoch, uniform on [0, target] (paper, Table 8).
    Uniform,
    /// Straight lines between points, constant before the first and after the last.
    Piecewise {
        /// In order of epochs.
        points: Vec<SchedulePoint>,
    },
    /// A ramp whose ends are found from validation accuracy (paper, Table 4).
    Auto(AutoRamp),
}

/// A moment of training at which an epsilon schedule is asked.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moment<'a> {
    /// Completed epochs: the epoch being trained, from 0.
    pub epoch: u32,
    /// Optimizer steps done in it, below `steps`.
    pub step: u32,
    /// Optimizer steps of an epoch; 0 where only whole epochs matter.
    pub steps: u32,
    /// Epochs of the budget.
    pub epochs: u32,
    /// Seed of the run; only [`EpsilonSchedule::Uniform`] looks at it.
    pub seed: u64,
    /// Clean accuracy on the validation split after each epoch from 0 on, in [0, 1]. Only [`EpsilonSchedule::Auto`] looks
    /// at it, and only at the epochs before `epoch`, all of which must be there.
    pub accuracies: &'a [f64],
}

impl Moment<'_> {
    /// Returns the progress in epochs.
    fn position(self, per: Granularity) -> f64 {
        let part = match per {
            Granularity::Step if self.steps > 0 => f64::from(self.step) / f64::from(self.steps),
            _ => 0.0,
        };
        f64::from(self.epoch) + part
    }
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
    /// Returns the fraction of the target epsilon at `moment`, in [0, 1].
    ///
    /// ```
    /// use sweep_core::schedule::{EpsilonSchedule, Granularity, Moment};
    /// let ramp = EpsilonSchedule::Ramp { start: 12, end: 37, per: Granularity::Epoch };
    /// let at = |epoch| ramp.fraction_at(Moment { epoch, epochs: 50, ..Moment::default() });
    /// assert_eq!([at(12), at(17), at(37)], [0.0, 0.2, 1.0]);
    /// ```
    pub fn fraction_at(&self, moment: Moment<'_>) -> f64 {
        let epoch = moment.epoch;
        match self {
            Self::None => 0.0,
            Self::Fixed => 1.0,
            Self::Ramp { start, end, per } => ramp(moment.position(*per), *start, *end),
            Self::Warmup { end, per } => ramp(moment.position(*per), 0, *end),
            Self::Step { start } => ramp(f64::from(epoch), *start, *start),
            Self::Uniform => Stream::new(moment.seed, Purpose::EpsilonSchedule, epoch.into(), 0).uniform(),
            Self::Piecewise { points } => piecewise(epoch, points),
            Self::Auto(auto) => auto.fraction(moment),
        }
    }

    /// Returns the radius used at `moment` as a number: the fraction times the target.
    pub fn epsilon_at(&self, moment: Moment<'_>, target: Epsilon) -> f64 {
        self.fraction_at(moment) * target.value()
    }

    /// Returns whether the schedule looks at the accuracies of earlier epochs.
    pub const fn needs_history(&self) -> bool {
        matches!(self, Self::Auto(_))
    }

    /// Returns the short text that tables print, such as `ramp 12-37`.
    pub fn label(&self) -> String {
        match self {
            Self::None => "none".to_owned(),
            Self::Fixed => "fixed".to_owned(),
            Self::Ramp { start, end, per } => format!("ramp {start}-{end}{}", per.suffix()),
            Self::Warmup { end, per } => format!("warmup {end}{}", per.suffix()),
            Self::Step { start } => format!("step {start}"),
            Self::Uniform => "uniform".to_owned(),
            Self::Piecewise { points } => {
                let corners: Vec<String> =
                    points.iter().map(|point| format!("{}:{}", point.epoch, point.fraction)).collect();
                format!("piecewise {}", corners.join(","))
            }
            Self::Auto(auto) => auto.label(),
        }
    }
}

/// Returns the height of a ramp at `position`, in epochs; a ramp without length is a step.
fn ramp(position: f64, start: u32, end: u32) -> f64 {
    let (start, end) = (f64::from(start), f64::from(end));
    if position >= end {
        1.0
    } else if position < start {
        0.0
    } else {
        (position - start) / (end - start)
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

/// Whether a rate or a radius is constant within an epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Granularity {
    /// Constant within an epoch.
    #[default]
    Epoch,
    /// Changes with every optimizer step.
    Step,
}

impl Granularity {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
    const fn is_epoch(&self) -> bool {
        matches!(self, Self::Epoch)
    }

    /// Returns what the label of a schedule ends with.
    const fn suffix(self) -> &'static str {
        match self {
            Self::Epoch => "",
            Self::Step => " per step",
        }
    }
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

    /// The fraction at the beginning of an epoch.
    fn at(schedule: &EpsilonSchedule, epoch: u32) -> f64 {
        schedule.fraction_at(Moment { epoch, epochs: 50, ..Moment::default() })
    }

    fn ramp_between(start: u32, end: u32, per: Granularity) -> EpsilonSchedule {
        EpsilonSchedule::Ramp { start, end, per }
    }

    #[test]
    fn edges_of_the_ramp() {
        let fraction = |start, end, epoch| at(&ramp_between(start, end, Granularity::Epoch), epoch);
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
    fn a_ramp_by_steps_goes_straight_through_the_beginnings_of_the_epochs() {
        let (by_epochs, by_steps) =
            (ramp_between(12, 37, Granularity::Epoch), ramp_between(12, 37, Granularity::Step));
        let within = |epoch, step| {
            let moment = Moment { epoch, step, steps: 4, epochs: 50, ..Moment::default() };
            [by_epochs.fraction_at(moment), by_steps.fraction_at(moment)]
        };
        for epoch in 0..50 {
            let [constant, begins] = within(epoch, 0);
            assert_eq!(constant, begins);
        }
        assert_eq!(within(11, 3), [0.0, 0.0]);
        assert_eq!(within(12, 1), [0.0, 0.01]);
        assert_eq!(within(36, 3), [0.96, 0.99]);
        let warmup = EpsilonSchedule::Warmup { end: 2, per: Granularity::Step };
        let moment = Moment { epoch: 1, step: 1, steps: 2, ..Moment::default() };
        assert_eq!(warmup.fraction_at(moment), 0.75);
    }

    #[test]
    fn warmup_step_and_piecewise_are_ramps_in_other_words() {
        let points =
            vec![SchedulePoint { epoch: 12, fraction: 0.0 }, SchedulePoint { epoch: 37, fraction: 1.0 }];
        let piecewise = EpsilonSchedule::Piecewise { points };
        for epoch in 0..50 {
            let ramp = |start, end| at(&ramp_between(start, end, Granularity::Epoch), epoch);
            let warmup = EpsilonSchedule::Warmup { end: 10, per: Granularity::Epoch };
            assert_eq!(at(&warmup, epoch), ramp(0, 10));
            assert_eq!(at(&EpsilonSchedule::Step { start: 10 }, epoch), ramp(10, 10));
            assert!((at(&piecewise, epoch) - ramp(12, 37)).abs() < 1e-12);
        }
    }

    #[test]
    fn labels_tell_schedules_apart() {
        let auto = |patience, end| {
            let auto = AutoRamp { patience, tolerance: 0.02, end, per: Granularity::Epoch };
            EpsilonSchedule::Auto(auto).label()
        };
        assert_eq!(ramp_between(3, 9, Granularity::Epoch).label(), "ramp 3-9");
        assert_eq!(ramp_between(3, 9, Granularity::Step).label(), "ramp 3-9 per step");
        assert_eq!([auto(5, Some(50)), auto(5, None)], ["ramp auto-50", "ramp auto-auto"]);
        assert_eq!(auto(3, None), "ramp auto-auto (3, 0.02)");
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
            let ramp = ramp_between(start, start + length, Granularity::Epoch);
            let (now, next) = (at(&ramp, epoch), at(&ramp, epoch + 1));
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
