//! Signals that end `sweep run`.

use std::fs;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use sweep_scheduler::Stop;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// How soon after the first signal another one is the same wish: a terminal, a shell and whoever stops them may each pass
/// one on.
const SAME_WISH: Duration = Duration::from_secs(1);

/// The first SIGINT, SIGTERM or SIGHUP asks workers to save and leave; a later SIGINT or SIGTERM kills them. A signal that is
/// ignored from outside, as SIGHUP under `nohup`, stays ignored.
pub(crate) fn stop_on_signals() -> Result<watch::Receiver<Stop>> {
    let (sender, receiver) = watch::channel(Stop::None);
    let first = Arc::new(OnceLock::new());
    let ignored = ignored_signals();
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
    for kind in kinds.into_iter().filter(|kind| ignored & (1 << (kind.as_raw_value() - 1)) == 0) {
        let mut stream = signal(kind).context("failed to listen for signals")?;
        let (sender, first) = (sender.clone(), Arc::clone(&first));
        tokio::spawn(async move {
            while stream.recv().await.is_some() {
                let since_first = first.get_or_init(Instant::now).elapsed();
                sender.send_modify(|level| *level = raised(*level, kind, since_first));
            }
        });
    }
    Ok(receiver)
}

/// Returns the level after a signal that came so long after the first one. When a connection drops, the shell and the system
/// both send SIGHUP, and nobody is there who could want workers killed.
fn raised(level: Stop, kind: SignalKind, since_first: Duration) -> Stop {
    match level {
        Stop::None => Stop::Graceful,
        Stop::Graceful if kind != SignalKind::hangup() && since_first >= SAME_WISH => Stop::Now,
        level => level,
    }
}

/// Returns the signals that this process was told to ignore when it was started, a bit each; none where the system does
/// not say.
fn ignored_signals() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_later_signal_of_somebody_kills() {
        let at = Duration::from_millis;
        let (hangup, interrupt) = (SignalKind::hangup(), SignalKind::interrupt());
        let after = |signals: &[(SignalKind, u64)]| {
            signals.iter().fold(Stop::None, |level, (kind, time)| raised(level, *kind, at(*time)))
        };
        assert_eq!(after(&[(hangup, 0)]), Stop::Graceful);
        assert_eq!(after(&[(hangup, 0), (hangup, 1), (hangup, 60_000)]), Stop::Graceful);
        assert_eq!(after(&[(interrupt, 0), (SignalKind::terminate(), 999)]), Stop::Graceful);
        assert_eq!(after(&[(hangup, 0), (interrupt, 1_000)]), Stop::Now);
        assert_eq!(after(&[(interrupt, 0), (interrupt, 1_000), (hangup, 1_001)]), Stop::Now);
    }
}
