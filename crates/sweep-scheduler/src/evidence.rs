//! Whether the process that an attempt's events name is still there: a second witness beside the lock on its log.
//!
//! A process is known by host, process id and the time it started; the id alone may be somebody else's by now. Only what
//! concerns this host is evidence: on a shared disk, workers of other hosts are judged by their lock alone.

use std::fs;
use std::path::Path;

use sweep_core::event::Event;

use crate::tail::Tail;

/// A process of some host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) host: String,
    pub(crate) pid: u32,
    /// Clock ticks from the start of the machine to its own.
    pub(crate) start: u64,
}

impl Process {
    /// Returns the process that wrote an event file, if it says so.
    pub(crate) fn that_wrote(events: &Path) -> Option<Self> {
        let chunk = Tail::new(events.to_owned()).read();
        chunk.records.into_iter().find_map(|record| match record.event {
            Event::Started { host, pid, process_start: Some(start), .. } => Some(Self { host, pid, start }),
            _ => None,
        })
    }

    /// Returns this process; `None` where the system does not say when it started.
    pub(crate) fn this() -> Option<Self> {
        let host = nix::unistd::gethostname().ok()?.into_string().ok()?;
        let pid = std::process::id();
        Some(Self { host, pid, start: start_of(pid)? })
    }

    /// Returns whether it runs on this host, beyond doubt.
    pub(crate) fn is_alive_here(&self) -> bool {
        self.is_of_this_host() && start_of(self.pid) == Some(self.start)
    }

    /// Returns whether it is, or was, a process of this host.
    pub(crate) fn is_of_this_host(&self) -> bool {
        nix::unistd::gethostname().is_ok_and(|here| here.to_str() == Some(&self.host))
    }
}

/// Returns when a process of this host started; `None` where there is none, or only its remains.
fn start_of(pid: u32) -> Option<u64> {
    start_in(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Reads field 22 of a process's `stat`. Fields are counted from the last parenthesis, since the second one, the
/// program's name in parentheses, may contain spaces and parentheses itself. Zombies hold nothing any more.
fn start_in(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    let start = fields.nth(18)?.parse().ok()?;
    (!matches!(state, "Z" | "X" | "x")).then_some(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(name: &str, state: &str) -> String {
        // Fields 4 to 21 are not looked at.
        format!("42 ({name}) {state} {} 9001 4096 17\n", ["0"; 18].join(" "))
    }

    #[test]
    fn the_start_is_read_whatever_the_program_is_called() {
        for name in ["sweep", "a b", ") R 1 (", "(((", ""] {
            assert_eq!(start_in(&stat(name, "S")), Some(9001), "{name}");
        }
        for dead in ["Z", "X"] {
            assert_eq!(start_in(&stat("sweep", dead)), None);
        }
        for garbage in ["", "42", "42 (sweep", "42 (sweep) R 1 2"] {
            assert_eq!(start_in(garbage), None);
        }
    }

    #[test]
    fn this_process_is_alive_and_one_that_only_shares_its_number_is_not() {
        let this = Process::this().unwrap();
        assert!(this.is_alive_here());
        assert!(!Process { start: this.start + 1, ..this.clone() }.is_alive_here());
        assert!(!Process { host: "elsewhere.invalid".to_owned(), ..this.clone() }.is_alive_here());
        assert!(!Process { pid: u32::MAX, ..this }.is_alive_here());
    }
}
