//! Whether the kernel killed processes for want of memory.

use std::fs;
use std::path::{Path, PathBuf};

/// The line of both files that counts such kills.
const COUNTER: &str = "oom_kill";

/// A file of the kernel with a count of the processes that it killed for want of memory.
///
/// A worker that is killed so cannot say why it is gone; the count, before and after, can.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OomKills {
    file: PathBuf,
}

impl OomKills {
    /// Returns the count of this process's own control group (`memory.events` of cgroup v2), and where there is none that of
    /// the whole machine (`/proc/vmstat`).
    pub fn of_this_system() -> Self {
        let group = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let own = own_group(&group).map(|path| Path::new("/sys/fs/cgroup").join(path).join("memory.events"));
        let counts = |file: &PathBuf| Self::at(file).count().is_some();
        Self { file: own.filter(counts).unwrap_or_else(|| PathBuf::from("/proc/vmstat")) }
    }

    /// Returns the count in a file with a line `oom_kill <number>`.
    pub fn at(file: impl Into<PathBuf>) -> Self {
        Self { file: file.into() }
    }

    /// Returns the count now; `None` where the system does not tell.
    pub(crate) fn count(&self) -> Option<u64> {
        counted(&fs::read_to_string(&self.file).ok()?)
    }
}

/// Returns the path of a process's control group below the mount of cgroup v2, from its `/proc/<pid>/cgroup`: the line with
/// an empty list of controllers.
fn own_group(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::/"))
}

fn counted(text: &str) -> Option<u64> {
    let value = |line: &str| line.strip_prefix(COUNTER)?.strip_prefix(' ')?.trim().parse().ok();
    text.lines().find_map(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_is_found_among_its_like() {
        let events = "low 0\nhigh 12\nmax 7\noom 3\noom_kill 2\noom_group_kill 0\n";
        assert_eq!(counted(events), Some(2));
        assert_eq!(counted("nr_free_pages 17\noom_kill 0\n"), Some(0));
        for text in ["", "oom_group_kill 4\n", "oom_kill\n", "oom_kill many\n", "oom_kill -1\n"] {
            assert_eq!(counted(text), None, "{text}");
        }
    }

    #[test]
    fn the_own_group_is_that_of_version_two() {
        assert_eq!(own_group("0::/user.slice/a.scope\n"), Some("user.slice/a.scope"));
        assert_eq!(own_group("5:memory:/legacy\n0::/\n"), Some(""));
        assert_eq!(own_group("5:memory:/legacy\n"), None);
    }

    #[test]
    fn a_missing_file_counts_nothing() {
        assert_eq!(OomKills::at("/nonexistent/memory.events").count(), None);
    }
}
