//! Waiting for something to become true.

use std::time::{Duration, Instant};

/// How long tests wait before they call something stuck: far above anything a loaded machine needs, since it is only
/// ever spent by a test that fails.
pub const PATIENCE: Duration = Duration::from_mins(5);

/// How often a condition is looked at.
pub(crate) const INTERVAL: Duration = Duration::from_millis(5);

/// Waits until `condition` gives something and returns it.
///
/// # Panics
/// Panics with `what` after [`PATIENCE`].
pub fn wait_until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {} s in vain for {what}", PATIENCE.as_secs());
        std::thread::sleep(INTERVAL);
    }
}
