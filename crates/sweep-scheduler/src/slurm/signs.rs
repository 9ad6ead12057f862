//! Signs of life of an attempt that a task of Slurm has made, perhaps on another machine.
//!
//! Witnesses, the surest first: the lock on its log, as far as the file system keeps locks across machines; on the same
//! machine, the processes that its claim and its events name; from elsewhere, how long ago anything in its folder was
//! written. Times are compared by the clock of the file server alone: machines need not agree on theirs.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use sweep_core::home::Home;
use sweep_core::spec::RunId;

use super::orders::{Claim, read_json};
use crate::evidence::Process;

/// How often a task gives a sign of life, unless told otherwise.
pub(crate) const BEAT: Duration = Duration::from_secs(15);

/// Signs of life that may be missing before an attempt counts as dead.
const BEATS: u32 = 3;

/// Returns whether somebody is alive in an attempt, as far as anybody can tell. One that has neither claim nor events yet is
/// alive as long as its folder is new: its task has just made it.
pub(crate) fn is_alive(home: &Home, run: RunId, attempt: u32) -> io::Result<bool> {
    if is_locked(&home.log(run, attempt)) {
        return Ok(true);
    }
    let claim: Option<Claim> = read_json(&home.claim(run, attempt));
    let here = [claim.as_ref().map(Claim::process), Process::that_wrote(&home.events(run, attempt))];
    if here.iter().flatten().any(Process::is_alive_here) {
        return Ok(true);
    }
    // The task outlives its worker, so that one look at this machine's processes settles it.
    if claim.as_ref().is_some_and(|claim| claim.process().is_of_this_host()) {
        return Ok(false);
    }
    let beat = claim.map_or(BEAT, |claim| claim.beat);
    is_fresh(home, run, attempt, beat)
}

/// Returns whether an attempt that a task of another machine has made gives signs of life. Attempts of local schedulers give
/// none of this kind.
pub(crate) fn is_heard_from_elsewhere(home: &Home, run: RunId, attempt: u32) -> io::Result<bool> {
    match read_json::<Claim>(&home.claim(run, attempt)) {
        Some(claim) if !claim.process().is_of_this_host() => is_fresh(home, run, attempt, claim.beat),
        _ => Ok(false),
    }
}

/// A file system that knows no locks keeps nobody out: other witnesses decide.
fn is_locked(log: &Path) -> bool {
    File::open(log).is_ok_and(|log| matches!(log.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

fn is_fresh(home: &Home, run: RunId, attempt: u32, beat: Duration) -> io::Result<bool> {
    let files = [
        home.attempt(run, attempt),
        home.claim(run, attempt),
        home.pulse(run, attempt),
        home.events(run, attempt),
    ];
    let written = files.iter().filter_map(|path| modified(path)).max();
    let Some(written) = written else { return Ok(false) };
    let age = server_time(home)?.duration_since(written).unwrap_or_default();
    Ok(age < beat * BEATS)
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

/// Returns the time by the clock of the file server: that of a file just written.
fn server_time(home: &Home) -> io::Result<SystemTime> {
    let folder = home.slurm();
    fs::create_dir_all(&folder)?;
    let host = nix::unistd::gethostname().unwrap_or_default();
    let probe = folder.join(format!(".clock-{}-{}", host.to_string_lossy(), std::process::id()));
    fs::write(&probe, "tick")?;
    let time = fs::metadata(&probe).and_then(|metadata| metadata.modified());
    fs::remove_file(&probe)?;
    time
}

#[cfg(test)]
mod tests {
    use sweep_testkit::{Workspace, id_of};

    use super::*;
    use crate::executor::lock::LockedLog;

    fn claim(process: &Process) -> Claim {
        Claim {
            generation: "sweep-ab-g1".to_owned(),
            job: "7".to_owned(),
            task: "3".to_owned(),
            job_id: "9".to_owned(),
            restart: "0".to_owned(),
            node: "n1".to_owned(),
            host: process.host.clone(),
            pid: process.pid,
            process_start: process.start,
            devices: None,
            beat: Duration::from_hours(1),
            started_ms: 0,
        }
    }

    fn write(home: &Home, claim: &Claim) {
        let path = home.claim(id_of(0), 1);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, serde_json::to_vec(claim).unwrap()).unwrap();
    }

    /// Makes everything in an attempt's folder, and the folder itself, as old as that.
    fn age(home: &Home, by: Duration) {
        let then = SystemTime::now() - by;
        let folder = home.attempt(id_of(0), 1);
        for entry in fs::read_dir(&folder).unwrap() {
            File::options().append(true).open(entry.unwrap().path()).unwrap().set_modified(then).unwrap();
        }
        File::open(folder).unwrap().set_modified(then).unwrap();
    }

    #[test]
    fn a_process_of_this_machine_is_looked_at_and_no_file_keeps_it_alive() {
        let workspace = Workspace::new();
        let home = workspace.layout();
        let this = Process::this().unwrap();
        write(&home, &claim(&this));
        assert!(is_alive(&home, id_of(0), 1).unwrap());
        write(&home, &claim(&Process { start: this.start + 1, ..this }));
        assert!(!is_alive(&home, id_of(0), 1).unwrap(), "its files are new, but it is gone");
        assert!(!is_heard_from_elsewhere(&home, id_of(0), 1).unwrap());
        let _lock = LockedLog::acquire(&home.log(id_of(0), 1)).unwrap().unwrap();
        assert!(is_alive(&home, id_of(0), 1).unwrap(), "its worker has outlived it");
    }

    #[test]
    fn from_elsewhere_it_lives_as_long_as_it_writes() {
        let workspace = Workspace::new();
        let home = workspace.layout();
        write(&home, &claim(&Process { host: "elsewhere.invalid".to_owned(), pid: 1, start: 1 }));
        assert!(is_alive(&home, id_of(0), 1).unwrap());
        age(&home, Duration::from_mins(179));
        assert!(is_alive(&home, id_of(0), 1).unwrap());
        assert!(is_heard_from_elsewhere(&home, id_of(0), 1).unwrap());
        age(&home, Duration::from_mins(181));
        assert!(!is_alive(&home, id_of(0), 1).unwrap());
        fs::write(home.pulse(id_of(0), 1), "1").unwrap();
        assert!(is_alive(&home, id_of(0), 1).unwrap());
    }

    #[test]
    fn a_folder_that_somebody_has_just_made_is_taken() {
        let workspace = Workspace::new();
        let home = workspace.layout();
        assert!(!is_alive(&home, id_of(0), 1).unwrap(), "there is none");
        fs::create_dir_all(home.attempt(id_of(0), 1)).unwrap();
        assert!(is_alive(&home, id_of(0), 1).unwrap());
        // Clocks of files may tick some milliseconds behind this one.
        age(&home, BEAT * (BEATS + 1));
        assert!(!is_alive(&home, id_of(0), 1).unwrap());
        assert_eq!(fs::read_dir(home.slurm()).unwrap().count(), 0, "a probe of the clock was left");
    }
}
