//! What is done to one session: drawn from the seed before it starts, so that the same seed asks for the same again.
//!
//! Where a blow falls also depends on the speed of the machine; what is drawn does not.

use std::fmt;
use std::time::Duration;

use nix::sys::signal::Signal;
use sweep_core::random::{Purpose, Stream};

/// Most workers that are struck in a session before its scheduler is let alone.
const MOST_BLOWS: usize = 4;
/// Most event lines that a blow waits for: a worker writes some 30 in all.
const MOST_LINES: u64 = 60;
/// Longest wait after the last of these lines, in milliseconds: as long as it takes to write a checkpoint.
const MOST_AFTER: u64 = 20;
/// Part of the sessions on a small disk that are stopped by filling it.
const FULL: f64 = 0.25;

/// Everything that is done to one `sweep run`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plan {
    pub(crate) ordeal: Ordeal,
    /// Whether the next session waits until the workers of a felled scheduler are gone; otherwise it meets them.
    pub(crate) wait_for_orphans: bool,
    /// What is damaged while nobody is alive.
    pub(crate) harms: Vec<Harm>,
}

/// What ends a session, or tries to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Ordeal {
    /// Blows one after another; the last one fells the scheduler, unless all of them are at workers.
    Blows(Vec<Blow>),
    /// The disk is filled.
    FullDisk(Moment),
}

/// A kill.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Blow {
    pub(crate) moment: Moment,
    pub(crate) target: Target,
    pub(crate) force: Force,
    /// Chooses among the workers, and who is struck first.
    pub(crate) pick: u64,
}

/// When something is done, counted from what was done before it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Moment {
    /// After this part of the time that most blows fall into, from 0 to 1.
    Part(f64),
    /// Once the workers have said so many lines more, and then a little later.
    Lines { count: usize, then: Duration },
}

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    Scheduler,
    Worker,
    /// The scheduler and all of its workers, as the end of a machine does.
    All,
}

/// How.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Force {
    Kill,
    Terminate,
}

/// Damage to what lies on disk.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Harm {
    pub(crate) kind: HarmKind,
    /// Chooses the run.
    pub(crate) pick: u64,
    /// Where in the file, from 0 to 1.
    pub(crate) place: f64,
}

/// What kind of damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum HarmKind {
    /// The newest event file of a run ends early.
    CutEvents,
    /// Bytes of the newest checkpoint of a run are others.
    FlipCheckpoint,
    /// The newest checkpoint of a run ends early.
    CutCheckpoint,
}

impl Plan {
    /// Draws what happens in a session of a round; both count from 0. Only a `small_disk` is filled.
    pub(crate) fn draw(seed: u64, round: u64, session: u64, small_disk: bool) -> Self {
        // Nothing is trained from these streams, so that the purpose is no more than a name.
        let mut dice = Stream::new(seed, Purpose::Shuffle, round, session);
        let full = dice.uniform() < FULL;
        let ordeal = if full && small_disk { Ordeal::FullDisk(moment(&mut dice)) } else { blows(&mut dice) };
        Self { ordeal, wait_for_orphans: dice.uniform() < 0.7, harms: harms(&mut dice) }
    }
}

fn blows(dice: &mut Stream) -> Ordeal {
    let mut blows = Vec::new();
    while blows.len() < MOST_BLOWS && blows.last().is_none_or(|blow: &Blow| blow.target == Target::Worker) {
        blows.push(blow(dice));
    }
    Ordeal::Blows(blows)
}

fn blow(dice: &mut Stream) -> Blow {
    Blow {
        moment: moment(dice),
        target: [Target::Scheduler, Target::Worker, Target::Worker, Target::All][dice.below(4) as usize],
        force: if dice.uniform() < 0.6 { Force::Kill } else { Force::Terminate },
        pick: dice.bits(),
    }
}

fn moment(dice: &mut Stream) -> Moment {
    match dice.below(5) {
        // While the scheduler opens its database and starts its first workers.
        0 => Moment::Part(dice.uniform() / 20.0),
        1 => Moment::Part(dice.uniform()),
        _ => Moment::Lines {
            count: 1 + dice.below(MOST_LINES) as usize,
            then: Duration::from_millis(dice.below(MOST_AFTER)),
        },
    }
}

fn harms(dice: &mut Stream) -> Vec<Harm> {
    let count = [0, 0, 1, 2][dice.below(4) as usize];
    let kinds = [HarmKind::CutEvents, HarmKind::FlipCheckpoint, HarmKind::CutCheckpoint];
    (0..count)
        .map(|_| Harm { kind: kinds[dice.below(3) as usize], pick: dice.bits(), place: dice.uniform() })
        .collect()
}

impl Force {
    pub(crate) fn signal(self) -> Signal {
        match self {
            Self::Kill => Signal::SIGKILL,
            Self::Terminate => Signal::SIGTERM,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Scheduler => "scheduler",
            Self::Worker => "one worker",
            Self::All => "scheduler and workers",
        })
    }
}

impl fmt::Display for HarmKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::CutEvents => "event files cut short",
            Self::FlipCheckpoint => "checkpoints with wrong bytes",
            Self::CutCheckpoint => "checkpoints cut short",
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_plan_follows_from_its_coordinates_and_ends_with_its_scheduler(seed: u64, round in 0..50_u64, session in 0..50_u64) {
            let plan = Plan::draw(seed, round, session, false);
            prop_assert_eq!(&plan, &Plan::draw(seed, round, session, false));
            prop_assert_ne!(&plan, &Plan::draw(seed, round, session + 1, false));
            let Ordeal::Blows(blows) = plan.ordeal else { panic!("a large disk was filled") };
            let (last, before) = blows.split_last().unwrap();
            prop_assert!(before.iter().all(|blow| blow.target == Target::Worker));
            prop_assert!(last.target != Target::Worker || blows.len() == MOST_BLOWS);
            prop_assert!(plan.harms.iter().all(|harm| (0.0..1.0).contains(&harm.place)));
        }
    }

    #[test]
    fn every_kind_of_blow_harm_and_ordeal_is_drawn() {
        let plans: Vec<Plan> = (0..200).map(|session| Plan::draw(1, 0, session, true)).collect();
        let full = plans.iter().filter(|plan| matches!(plan.ordeal, Ordeal::FullDisk(_))).count();
        // A quarter of 200, give or take five standard deviations of 6.
        assert!((20..=80).contains(&full), "{full}");
        let blows: Vec<Blow> = plans
            .iter()
            .flat_map(|plan| if let Ordeal::Blows(blows) = &plan.ordeal { blows.clone() } else { Vec::new() })
            .collect();
        for target in [Target::Scheduler, Target::Worker, Target::All] {
            for force in [Force::Kill, Force::Terminate] {
                assert!(blows.iter().any(|blow| (blow.target, blow.force) == (target, force)));
            }
        }
        for kind in [HarmKind::CutEvents, HarmKind::FlipCheckpoint, HarmKind::CutCheckpoint] {
            assert!(plans.iter().flat_map(|plan| &plan.harms).any(|harm| harm.kind == kind));
        }
    }
}
