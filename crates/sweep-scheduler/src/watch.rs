//! What the times of a worker's records say: that it takes too long, that it hangs, that it has fallen silent.
//!
//! Pure: it is told what was said and what time it is. Only times of arrival count, by this machine's monotonic clock;
//! workers' clocks are not believed.

use std::fmt;
use std::time::Duration;

use sweep_core::event::{Event, FailureClass, Phase};
use sweep_store::Failure;
use tokio::time::Instant;

/// How long workers may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Longest attempt.
    pub(crate) timeout: Option<Duration>,
    /// Longest time at one position.
    pub(crate) stall: Option<Duration>,
    /// Longest time without a record before a worker is suspect.
    pub(crate) silence: Duration,
}

/// Where a worker says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Position {
    phase: Phase,
    epoch: u32,
    step: u32,
    steps: u32,
}

impl fmt::Display for Position {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { phase, epoch, step, steps } = self;
        let doing = match phase {
            Phase::Loading => "loading",
            Phase::Training => "training",
            Phase::Validation => "validation",
            Phase::Evaluation => "evaluation",
        };
        write!(formatter, "{doing}, epoch {epoch}, step {step} of {steps}")
    }
}

/// What is known of the times of one attempt.
#[derive(Debug)]
pub(crate) struct Watch {
    limits: Limits,
    begun: Instant,
    /// When the latest record came.
    heard: Instant,
    /// When the worker said something new last.
    moved: Instant,
    position: Option<Position>,
    silence_noted: bool,
    saved: bool,
}

/// What is wrong with a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Concern {
    /// It said nothing for long; told once an attempt.
    Silent(Duration),
    /// It must leave.
    Overdue(Failure),
}

impl Watch {
    /// Begins with a worker that was started `now`.
    pub(crate) const fn new(limits: Limits, now: Instant) -> Self {
        Self {
            limits,
            begun: now,
            heard: now,
            moved: now,
            position: None,
            silence_noted: false,
            saved: false,
        }
    }

    /// Notes a record that came `now`. Anything but the same position once more is news.
    pub(crate) fn hear(&mut self, event: &Event, now: Instant) {
        self.heard = now;
        self.saved |= matches!(event, Event::CheckpointSaved { .. });
        let position = match *event {
            Event::Progress { phase, epoch, step, steps } => Some(Position { phase, epoch, step, steps }),
            _ => None,
        };
        if position.is_none() || position != self.position {
            self.moved = now;
            self.position = position.or(self.position);
        }
    }

    /// Returns whether the attempt has saved a checkpoint: failures after that are not the same one over and over.
    pub(crate) const fn has_saved(&self) -> bool {
        self.saved
    }

    /// Returns what is wrong `now`. A worker that is overdue stays so.
    pub(crate) fn look(&mut self, now: Instant) -> Option<Concern> {
        if let Some(message) = self.too_long(now).or_else(|| self.hangs()) {
            return Some(Concern::Overdue(Failure { class: FailureClass::Timeout, message }));
        }
        let silent = now - self.heard;
        (!self.silence_noted && silent >= self.limits.silence).then(|| {
            self.silence_noted = true;
            Concern::Silent(silent)
        })
    }

    fn too_long(&self, now: Instant) -> Option<String> {
        let timeout = self.limits.timeout.filter(|timeout| now - self.begun >= *timeout)?;
        Some(format!("the attempt took longer than {timeout:?}"))
    }

    /// A worker that says nothing at all is silent, not hanging: only what it says itself counts.
    fn hangs(&self) -> Option<String> {
        let stall = self.limits.stall.filter(|stall| self.heard - self.moved >= *stall)?;
        let position = self.position?;
        Some(format!("the worker is alive but finished no step within {stall:?} ({position})"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(step: u32) -> Event {
        Event::Progress { phase: Phase::Training, epoch: 3, step, steps: 40 }
    }

    fn watch(timeout: Option<Duration>, stall: Option<Duration>) -> (Watch, Instant) {
        let now = Instant::now();
        (Watch::new(Limits { timeout, stall, silence: 120 * SECOND }, now), now)
    }

    fn overdue(concern: Option<Concern>) -> Option<String> {
        match concern? {
            Concern::Overdue(failure) => {
                assert_eq!(failure.class, FailureClass::Timeout);
                Some(failure.message)
            }
            Concern::Silent(_) => None,
        }
    }

    #[test]
    fn an_attempt_is_overdue_when_its_time_is_over_whatever_it_says() {
        let (mut watch, begun) = watch(Some(100 * SECOND), None);
        for second in 0..100 {
            watch.hear(&at(second), begun + second * SECOND);
            assert_eq!(watch.look(begun + second * SECOND), None, "{second}");
        }
        assert!(overdue(watch.look(begun + 100 * SECOND)).unwrap().contains("longer than 100s"));
    }

    #[test]
    fn one_position_for_long_is_a_hang_and_any_change_is_not() {
        let (mut watch, begun) = watch(None, Some(60 * SECOND));
        for second in 0..300 {
            watch.hear(&at(second / 59), begun + second * SECOND);
            assert_eq!(watch.look(begun + second * SECOND), None, "{second}");
        }
        let (last, since) = (at(299 / 59), 59 * (299 / 59));
        watch.hear(&last, begun + (since + 59) * SECOND);
        assert_eq!(watch.look(begun + (since + 59) * SECOND), None);
        watch.hear(&last, begun + (since + 60) * SECOND);
        let message = overdue(watch.look(begun + (since + 60) * SECOND)).unwrap();
        assert!(message.contains("training, epoch 3, step 5 of 40"), "{message}");
    }

    #[test]
    fn other_records_are_progress_too() {
        let (mut watch, begun) = watch(None, Some(60 * SECOND));
        watch.hear(&at(1), begun);
        watch.hear(&Event::Interrupted { epochs: 1 }, begun + 59 * SECOND);
        watch.hear(&at(1), begun + 118 * SECOND);
        assert_eq!(watch.look(begun + 118 * SECOND), None);
    }

    #[test]
    fn silence_is_noted_once_and_is_no_hang() {
        let (mut watch, begun) = watch(None, Some(60 * SECOND));
        watch.hear(&at(1), begun);
        assert_eq!(watch.look(begun + 119 * SECOND), None);
        assert_eq!(watch.look(begun + 120 * SECOND), Some(Concern::Silent(120 * SECOND)));
        assert_eq!(watch.look(begun + 500 * SECOND), None);
    }
}
