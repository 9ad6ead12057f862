//! Whether there is time for another epoch before the attempt must be gone.

use std::time::{Duration, SystemTime};

/// How much longer than the longest epoch so far the next one may take, as a divisor of that: an eighth.
const MARGIN: u32 = 8;

/// When an attempt must be gone, and how long its epochs take with validation and checkpoint.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    until: Option<SystemTime>,
    /// The longest epoch that this attempt has done from its beginning; only that one tells what this machine needs.
    longest: Option<Duration>,
}

impl Deadline {
    pub(crate) const fn new(until: Option<SystemTime>) -> Self {
        Self { until, longest: None }
    }

    /// Takes over how long an epoch took.
    pub(crate) fn learn(&mut self, epoch: Duration) {
        self.longest = self.longest.max(Some(epoch));
    }

    /// Returns whether an epoch that begins `now` would not be over in time. Before the first epoch nobody knows: an attempt
    /// that never begins one would never get anywhere.
    pub(crate) fn is_too_near(&self, now: SystemTime) -> bool {
        let (Some(until), Some(longest)) = (self.until, self.longest) else { return false };
        let left = until.duration_since(now).unwrap_or_default();
        left < longest + longest / MARGIN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn an_epoch_is_begun_only_if_it_can_be_over_in_time() {
        let now = SystemTime::UNIX_EPOCH + 1000 * SECOND;
        let mut deadline = Deadline::new(Some(now + 90 * SECOND));
        assert!(!deadline.is_too_near(now + 89 * SECOND), "nobody knows how long an epoch takes");
        deadline.learn(80 * SECOND);
        deadline.learn(40 * SECOND);
        assert!(!deadline.is_too_near(now), "an eighth more than the longest is left");
        assert!(deadline.is_too_near(now + SECOND));
        assert!(deadline.is_too_near(now + 500 * SECOND), "it is past");
        let mut endless = Deadline::new(None);
        endless.learn(80 * SECOND);
        assert!(!endless.is_too_near(now));
    }
}
