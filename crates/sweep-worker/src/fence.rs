//! Whether this worker still has its run.
//!
//! Whoever starts attempt n + 1 has judged the worker of attempt n dead. Where it was only cut off (a network file system
//! that hung, a suspended machine), it comes back to a run that is no longer its own, and must leave without a trace.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::OnceLock;

use sweep_core::home::Home;
use sweep_core::spec::RunId;

use crate::{Error, Result};

/// The claim of one attempt: lost once the folder of the next attempt exists or the attempt's own event file is gone.
#[derive(Debug)]
pub(crate) struct Fence {
    /// The attempt's event file.
    own: PathBuf,
    /// The folder of the next attempt.
    next: PathBuf,
    /// Which of the two was found; it stays so, whatever becomes of the files.
    lost: OnceLock<Loss>,
}

#[derive(Clone, Copy, Debug)]
enum Loss {
    TakenOver,
    Gone,
}

impl Fence {
    pub(crate) fn new(home: &Home, run: RunId, attempt: u32) -> Self {
        let next = home.attempt(run, attempt.saturating_add(1));
        Self { own: home.events(run, attempt), next, lost: OnceLock::new() }
    }

    /// Looks whether the claim still holds. What cannot be seen, because the file system does not answer, is no loss.
    ///
    /// # Errors
    /// [`Error::Fenced`], from the first time on.
    pub(crate) fn check(&self) -> Result<()> {
        let Some(loss) = self.lost.get().copied().or_else(|| self.look()) else { return Ok(()) };
        Err(match self.lost.get_or_init(|| loss) {
            Loss::TakenOver => Error::Fenced { path: self.next.clone(), exists: true },
            Loss::Gone => Error::Fenced { path: self.own.clone(), exists: false },
        })
    }

    fn look(&self) -> Option<Loss> {
        if fs::symlink_metadata(&self.next).is_ok() {
            return Some(Loss::TakenOver);
        }
        let own = fs::symlink_metadata(&self.own);
        own.is_err_and(|error| error.kind() == ErrorKind::NotFound).then_some(Loss::Gone)
    }

    /// Returns whether a look has found the claim lost, without another look.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost.get().is_some()
    }
}
