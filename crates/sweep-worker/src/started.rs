//! The first event of an attempt: who works, where, and from what on.

use nix::unistd::gethostname;
use sweep_core::event::Event;

use crate::Arguments;
use crate::session::Past;

/// Returns the event of an attempt that goes on from `past`; `None` where that could not be read. `gpu` is the name of its
/// GPU, where it has one that is known.
pub(crate) fn event(arguments: &Arguments, past: Option<&Past>, gpu: Option<String>) -> Event {
    Event::Started {
        run: arguments.run,
        attempt: arguments.attempt,
        pid: std::process::id(),
        host: host(),
        device: gpu.unwrap_or_else(|| arguments.device.clone()),
        threads: arguments.threads as u32,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        resumed_from: past.map_or(0, Past::epochs),
        resumed_run: past.and_then(Past::other),
        micro_batch_size: past.and_then(|past| past.spec().micro_batch_size.images()),
        process_start: process_start(),
    }
}

/// Returns the name of this machine.
pub(crate) fn host() -> String {
    gethostname().map_or_else(|_| "unknown".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// Returns when this process started, in clock ticks since the machine did; `None` where the system has no `/proc`.
fn process_start() -> Option<u64> {
    parse_start(&std::fs::read_to_string("/proc/self/stat").ok()?)
}

/// Field 22 of proc(5)'s `stat`. The second field is the program's name in parentheses, which may contain anything.
fn parse_start(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(22 - 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_programs_name_does_not_shift_the_fields() {
        let rest = "S 1 2 3 0 -1 4194560 100 0 0 0 5 6 0 0 20 0 1 0 987654 1000 50";
        for name in ["sweep", "a b) (c", ") 1 2"] {
            assert_eq!(parse_start(&format!("17 ({name}) {rest}")), Some(987_654), "{name}");
        }
        assert_eq!(parse_start("17 (sweep) S 1"), None);
        assert_eq!(process_start().is_some(), cfg!(target_os = "linux"));
    }
}
