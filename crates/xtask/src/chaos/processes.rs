//! The workers of a home folder, found by their command lines, and signals to them.

use std::fs;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::chaos::traces::Attempt;

/// A worker that is alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Worker {
    pub(crate) pid: Pid,
    pub(crate) attempt: Attempt,
}

/// Returns the living workers of `home`, whoever started them. A process that has ended but was not waited for has no
/// command line any more, and so is none of them.
pub(crate) fn workers(home: &Path) -> Vec<Worker> {
    let processes = fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    let worker = |entry: fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let command = fs::read(entry.path().join("cmdline")).ok()?;
        Some(Worker { pid: Pid::from_raw(pid), attempt: attempt(&command, home)? })
    };
    let mut workers: Vec<Worker> = processes.filter_map(worker).collect();
    workers.sort_by_key(|worker| worker.attempt);
    workers
}

/// Returns the attempt that a command line asks for, if it is that of a worker of `home`.
fn attempt(command: &[u8], home: &Path) -> Option<Attempt> {
    let words: Vec<&str> =
        command.split(|byte| *byte == 0).filter_map(|word| str::from_utf8(word).ok()).collect();
    let value = |name: &str| words.iter().skip_while(|word| **word != name).nth(1).copied();
    if words.get(1) != Some(&"worker") || value("--home").map(Path::new) != Some(home) {
        return None;
    }
    Some(Attempt { run: value("--run")?.parse().ok()?, number: value("--attempt")?.parse().ok()? })
}

/// Sends a signal; returns whether the process was there to get it.
pub(crate) fn send(pid: Pid, signal: Signal) -> nix::Result<bool> {
    match kill(pid, signal) {
        Ok(()) => Ok(true),
        Err(Errno::ESRCH) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: &str = "00112233445566778899aabbccddeeff";

    fn line(words: &[&str]) -> Vec<u8> {
        words.iter().flat_map(|word| [word.as_bytes(), b"\0"].concat()).collect()
    }

    #[test]
    fn only_workers_of_the_home_folder_are_found() {
        let home = Path::new("/tmp/home");
        let worker =
            ["/bin/sweep", "worker", "--home", "/tmp/home", "--run", RUN, "--attempt", "3", "--threads", "1"];
        let found = Attempt { run: RUN.parse().unwrap(), number: 3 };
        assert_eq!(attempt(&line(&worker), home), Some(found));
        assert_eq!(attempt(&line(&worker), Path::new("/tmp/other")), None);
        for other in [&["/bin/sweep", "run", "--home", "/tmp/home"][..], &["worker"], &worker[..6], &[]] {
            assert_eq!(attempt(&line(other), home), None, "{other:?}");
        }
    }
}
