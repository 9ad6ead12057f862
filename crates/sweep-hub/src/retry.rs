//! When to try again, and how long to wait before.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use crate::error::{Class, Error, Result};
use crate::settings::Settings;

/// No wait of our own choice is longer.
const LONGEST_BACKOFF: Duration = Duration::from_mins(1);
/// A server that asks for a longer wait is told to the user instead.
const LONGEST_RETRY_AFTER: Duration = Duration::from_mins(5);

/// The tries at one request or file.
pub(crate) struct Attempts {
    delay: Duration,
    left: u32,
    failed: u32,
}

impl Attempts {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self { delay: settings.retry_delay, left: settings.retries, failed: 0 }
    }

    /// Waits until the next try is due, or gives the error back if there shall be none.
    pub(crate) async fn pause(&mut self, error: Error) -> Result<()> {
        let Some(wait) = self.next(&error) else { return Err(error) };
        // The hint is for whoever must act; here the program acts.
        let reason = error.to_string();
        let reason = reason.split_once("\nhint:").map_or(reason.as_str(), |(reason, _)| reason);
        tracing::warn!(seconds = wait.as_secs_f64(), tries_left = self.left, "trying again: {reason}");
        tokio::time::sleep(wait).await;
        Ok(())
    }

    fn next(&mut self, error: &Error) -> Option<Duration> {
        if error.class() == Class::Permanent || self.left == 0 {
            return None;
        }
        let wait = wait(self.delay, self.failed, jitter(self.failed), error.retry_after())?;
        self.left -= 1;
        self.failed += 1;
        Some(wait)
    }
}

/// The wait after `failed + 1` failures: exponential, shortened by up to half, at least what the server asks for.
fn wait(delay: Duration, failed: u32, jitter: f64, retry_after: Option<Duration>) -> Option<Duration> {
    let doubled = delay.saturating_mul(2_u32.saturating_pow(failed)).min(LONGEST_BACKOFF);
    let backoff = doubled.mul_f64(1.0 - jitter / 2.0);
    match retry_after {
        Some(asked) if asked > LONGEST_RETRY_AFTER => None,
        Some(asked) => Some(asked.max(backoff)),
        None => Some(backoff),
    }
}

/// A number in [0, 1) that differs between processes, so that those which failed together do not return together.
fn jitter(failed: u32) -> f64 {
    let mut hasher = DefaultHasher::new();
    (std::process::id(), failed).hash(&mut hasher);
    // 53 bits, which a double holds exactly.
    (hasher.finish() >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn waits_double_up_to_a_minute() {
        let waits: Vec<u64> =
            (0..8).map(|failed| wait(SECOND, failed, 0.0, None).unwrap().as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(wait(SECOND, u32::MAX, 0.0, None), Some(LONGEST_BACKOFF));
        assert_eq!(wait(SECOND, 1, 1.0, None), Some(SECOND));
    }

    #[test]
    fn the_server_may_ask_for_more_but_not_for_ever() {
        assert_eq!(wait(SECOND, 0, 0.0, Some(7 * SECOND)), Some(7 * SECOND));
        assert_eq!(wait(SECOND, 4, 0.0, Some(7 * SECOND)), Some(16 * SECOND));
        assert_eq!(wait(SECOND, 0, 0.0, Some(301 * SECOND)), None);
    }

    #[test]
    fn jitter_is_a_fraction_that_changes() {
        let values: Vec<f64> = (0..16).map(jitter).collect();
        assert!(values.iter().all(|value| (0.0..1.0).contains(value)), "{values:?}");
        assert!(values.windows(2).any(|pair| pair[0] != pair[1]), "{values:?}");
    }

    #[test]
    fn only_transient_errors_are_tried_again_and_only_so_often() {
        let settings = Settings { retries: 2, ..Settings::new("/nowhere") };
        let transient = Error::Transfer { what: String::new(), reason: String::new() };
        let permanent = Error::BadPath { given: String::new(), reason: "" };
        let mut attempts = Attempts::new(&settings);
        assert!(attempts.next(&permanent).is_none());
        assert!(attempts.next(&transient).is_some());
        assert!(attempts.next(&transient).is_some());
        assert!(attempts.next(&transient).is_none());
    }
}
