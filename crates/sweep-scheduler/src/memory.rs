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
    /// Returns the count of this process's own control group (`memory.events` of cgroup v2, `memory.oom_control` of v1). Only
    /// where there is none it is that of the whole machine (`/proc/vmstat`), which other programs raise as well: a worker
    /// that somebody kills just then would be taken for one that was too large.
    pub fn of_this_system() -> Self {
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let counts = |file: &PathBuf| Self::at(file).count().is_some();
        let own = own_groups(&groups).into_iter().find(counts);
        Self { file: own.unwrap_or_else(|| PathBuf::from("/proc/vmstat")) }
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

/// Returns the files that may count for a process's own control group, the best first, from its `/proc/<pid>/cgroup`: a line
/// `0::/path` for version 2, `<number>:<controllers>:/path` for version 1. In a container the path can be that of the host,
/// while the mount shows the container's own group.
fn own_groups(text: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in text.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (mounts, file): (&[&str], _) = match controllers {
            "" => (&["", "unified"], "memory.events"),
            _ if controllers.split(',').any(|name| name == "memory") => (&["memory"], "memory.oom_control"),
            _ => continue,
        };
        for mount in mounts {
            let mount = Path::new("/sys/fs/cgroup").join(mount);
            files.extend([mount.join(path.trim_start_matches('/')).join(file), mount.join(file)]);
        }
    }
    files
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
    fn the_own_group_comes_before_that_of_its_container() {
        let paths = |text: &str| -> Vec<String> {
            own_groups(text).iter().map(|path| path.display().to_string()).collect()
        };
        let second = "/sys/fs/cgroup/user.slice/a.scope/memory.events";
        assert_eq!(paths("0::/user.slice/a.scope\n")[..2], [second, "/sys/fs/cgroup/memory.events"]);
        let first =
            ["/sys/fs/cgroup/memory/legacy/memory.oom_control", "/sys/fs/cgroup/memory/memory.oom_control"];
        assert_eq!(paths("6:cpu,cpuacct:/x\n5:memory:/legacy\n"), first);
        assert!(paths("nonsense\n7:memories:/x\n").is_empty());
    }

    #[test]
    fn a_missing_file_counts_nothing() {
        assert_eq!(OomKills::at("/nonexistent/memory.events").count(), None);
    }
}
