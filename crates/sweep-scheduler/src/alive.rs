//! Whether somebody is alive in an attempt, for those who only want to know.

use std::fs::{File, TryLockError};

use sweep_core::home::Home;
use sweep_core::spec::RunId;

use crate::error::Error;
use crate::evidence::Process;
use crate::slurm::signs;

/// Returns whether anybody is alive in an attempt, by the lock on its log, by the process that its events name and, where a
/// task of Slurm on another machine has made it, by its signs of life. Leaves everything as it is.
///
/// # Errors
/// Fails where the lock cannot be tried, or signs of life cannot be looked for.
pub fn is_alive(home: &Home, run: RunId, attempt: u32) -> Result<bool, Error> {
    let path = home.log(run, attempt);
    let locked = match File::open(&path).map(|log| log.try_lock_shared()) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
        Ok(Ok(())) => false,
        Ok(Err(TryLockError::WouldBlock)) => true,
        Ok(Err(TryLockError::Error(source))) | Err(source) => return Err(Error::Lock { path, source }),
    };
    Ok(locked
        || Process::that_wrote(&home.events(run, attempt)).is_some_and(|process| process.is_alive_here())
        || signs::is_heard_from_elsewhere(home, run, attempt)
            .map_err(|source| Error::Scan { path: home.slurm(), source })?)
}
