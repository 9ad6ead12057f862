//! The wish that a worker stop: a flag raised by signals or by the end of its standard input.

use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A flag that an attempt looks at between micro batches, in training, validation and evaluation alike.
#[derive(Clone, Debug)]
pub struct Stop {
    flag: Arc<AtomicBool>,
    /// How often the flag may still be looked at before it goes up by itself.
    looks: Arc<AtomicU64>,
}

impl Default for Stop {
    fn default() -> Self {
        Self::after(u64::MAX)
    }
}

impl Stop {
    /// Returns a flag that nobody has raised.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns a flag that goes up by itself after it was found down `looks` times: so tests stop a worker at a place
    /// that does not depend on its speed.
    pub fn after(looks: u64) -> Self {
        Self { flag: Arc::default(), looks: Arc::new(AtomicU64::new(looks)) }
    }

    /// Raises the flag on SIGTERM, SIGINT and SIGHUP.
    ///
    /// # Errors
    /// The operating system's, if a handler cannot be set.
    pub fn on_signals(&self) -> std::io::Result<()> {
        for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT, signal_hook::consts::SIGHUP]
        {
            signal_hook::flag::register(signal, Arc::clone(&self.flag))?;
        }
        Ok(())
    }

    /// Raises the flag when standard input ends: the scheduler holds its other end and never writes, so the end means that
    /// the scheduler is gone, however it went.
    ///
    /// # Errors
    /// The operating system's, if no thread can be started.
    pub fn on_end_of_input(&self) -> std::io::Result<()> {
        let stop = self.clone();
        let watch = move || {
            let mut buffer = [0; 64];
            while matches!(std::io::stdin().lock().read(&mut buffer), Ok(count) if count > 0) {}
            stop.request();
        };
        std::thread::Builder::new().name("lifeline".to_owned()).spawn(watch).map(drop)
    }

    /// Raises the flag.
    pub fn request(&self) {
        self.flag.store(true, Ordering::Relaxed);
    }

    /// Returns whether somebody has raised the flag, for those who look as often as time allows: such looks do not count
    /// for [`Self::after`].
    pub(crate) fn is_raised(&self) -> bool {
        self.flag.load(Ordering::Relaxed)
    }

    /// Returns whether the flag is up.
    pub fn is_requested(&self) -> bool {
        let left = self.looks.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        left.is_err() || self.is_raised()
    }
}
