//! How often Slurm, files and tasks are looked at.

use std::time::Duration;

use super::signs::BEAT;

/// The times of a session. Slurm's controller serves a whole cluster, so it is asked as seldom as does no harm: workers' files
/// tell what there is to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pace {
    /// Between two looks at what workers have written.
    pub(crate) look: Duration,
    /// Between two questions to Slurm while things change, and while nothing does.
    pub(crate) shortest: Duration,
    pub(crate) longest: Duration,
    /// Between two signs of life of a task.
    pub(crate) beat: Duration,
    /// For how long a job may still turn up that was about to be submitted: longer than `sbatch` is waited for.
    pub(crate) uncertain: Duration,
}

impl Pace {
    /// Returns the usual times, all divided by `hurry`, which tests raise.
    pub(crate) fn new(hurry: u32) -> Self {
        let of = |seconds: u64| Duration::from_secs(seconds) / hurry.max(1);
        Self { look: of(1), shortest: of(5), longest: of(30), beat: BEAT / hurry.max(1), uncertain: of(35) }
    }

    /// Returns how long to wait before the next question, after this long before the last one.
    pub(crate) fn next(&self, last: Duration, changed: bool) -> Duration {
        if changed { self.shortest } else { (last * 3 / 2).clamp(self.shortest, self.longest) }
    }

    /// Returns how long to wait before trying again what Slurm did not do, after this long before the last try.
    pub(crate) fn back_off(&self, last: Duration) -> Duration {
        (last * 2).clamp(self.shortest, self.longest * 4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_become_rarer_while_nothing_changes() {
        let pace = Pace::new(1);
        let ladder = std::iter::successors(Some(pace.shortest), |last| Some(pace.next(*last, false)));
        let seconds: Vec<u64> = ladder.take(7).map(|time| time.as_secs()).collect();
        assert_eq!(seconds, [5, 7, 11, 16, 25, 30, 30]);
        assert_eq!(pace.next(pace.longest, true), pace.shortest);
        assert_eq!(pace.back_off(Duration::ZERO), pace.shortest);
        assert_eq!(pace.back_off(Duration::from_hours(1)), Duration::from_mins(2));
        assert_eq!(Pace::new(10).longest, Duration::from_secs(3));
    }
}
