//! When a failed attempt is followed by another.

use std::time::Duration;

use sweep_core::event::FailureClass;
use sweep_core::spec::RunId;

/// How transient failures are retried. There is no default clock in here: delays are plain numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts that may fail with a transient class before the run is given up; at least 1.
    pub attempts: u32,
    /// Delay after the first failure; it doubles with each further one.
    pub first_delay: Duration,
    /// Longest delay.
    pub longest_delay: Duration,
}

impl Default for RetryPolicy {
    /// Three attempts, 10 s doubling up to 5 minutes.
    fn default() -> Self {
        Self { attempts: 3, first_delay: Duration::from_secs(10), longest_delay: Duration::from_mins(5) }
    }
}

impl RetryPolicy {
    /// Returns whether a run goes on after a failure of `class`, its `failures`-th transient one, counted from 1.
    pub(crate) const fn allows(&self, class: FailureClass, failures: u32) -> bool {
        class.is_transient() && failures < self.attempts
    }

    /// Returns how long a run waits after its `failures`-th transient failure, counted from 1.
    ///
    /// The delay is shortened by up to a half so that runs that failed together do not come back together. By how much
    /// follows from the run and the count alone, so every scheduler computes the same.
    pub(crate) fn delay(&self, run: RunId, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        let full = self.first_delay.saturating_mul(1 << doublings).min(self.longest_delay);
        full.mul_f64(1.0 - 0.5 * unit_interval(run, failures))
    }
}

/// Returns a number in [0, 1) that depends on every bit of its arguments: FNV-1a, mixed once more because its high bits
/// change too little with the last byte.
fn unit_interval(run: RunId, failures: u32) -> f64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in format!("{run}/{failures}").bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (hash >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u128) -> RunId {
        format!("{number:032x}").parse().unwrap()
    }

    #[test]
    fn only_transient_failures_are_retried_and_only_so_often() {
        let policy = RetryPolicy::default();
        for class in [FailureClass::Hub, FailureClass::WorkerDied, FailureClass::Storage] {
            assert_eq!(
                [1, 2, 3, 4].map(|failures| policy.allows(class, failures)),
                [true, true, false, false]
            );
        }
        for class in [FailureClass::Diverged, FailureClass::Configuration, FailureClass::OutOfMemory] {
            assert!(!policy.allows(class, 1));
        }
    }

    #[test]
    fn delays_double_within_their_jitter_up_to_the_longest() {
        let policy = RetryPolicy::default();
        for (failures, full) in [(1, 10.0), (2, 20.0), (3, 40.0), (6, 300.0), (u32::MAX, 300.0)] {
            for run in 0..100 {
                let delay = policy.delay(id(run), failures).as_secs_f64();
                assert!(full / 2.0 < delay && delay <= full, "{delay} after {failures}");
            }
        }
    }

    #[test]
    fn jitter_depends_on_run_and_count_and_on_nothing_else() {
        let policy = RetryPolicy::default();
        let delays: Vec<Duration> = (0..100).map(|run| policy.delay(id(run), 1)).collect();
        assert_eq!(delays, (0..100).map(|run| policy.delay(id(run), 1)).collect::<Vec<_>>());
        let distinct: std::collections::HashSet<_> = delays.iter().collect();
        assert_eq!(distinct.len(), delays.len());
        let mean = delays.iter().sum::<Duration>().as_secs_f64() / 100.0;
        // Uniform on (5, 10]: the mean of 100 has a standard deviation of 0.15.
        assert!((mean - 7.5).abs() < 0.6, "{mean}");
    }
}
