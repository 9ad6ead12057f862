//! The processes of a cluster: daemons, which are our children, and what jobs leave, which is nobody's.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait::wait_until;

/// What marks processes of a node beside `SLURM_CONF`: `slurmstepd` has it from its `slurmd`. Jobs have a mark of Slurm.
pub(super) const NODE_VARIABLE: &str = "SWEEP_TEST_NODE";
const NODE_VARIABLE_OF_JOBS: &str = "SLURMD_NODENAME";

/// A process in a group of its own. As our child its id is its own until it was waited for.
#[derive(Debug)]
pub(super) struct Daemon {
    child: Child,
}

impl Daemon {
    pub(super) fn spawn(mut command: Command, log: &Path) -> Self {
        let log =
            File::options().create(true).append(true).open(log).expect("the temporary folder is writable");
        let errors = log.try_clone().expect("a file can be opened twice");
        command.stdin(Stdio::null()).stdout(log).stderr(errors).process_group(0);
        Self { child: command.spawn().expect("the caller has looked for the program") }
    }

    pub(super) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Asks the process to end, and waits until it has.
    pub(super) fn stop(mut self) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("ids of processes fit"));
        // Only fails where it has ended already.
        let _ = kill(pid, Signal::SIGTERM);
        wait_until("the end of a daemon", || self.has_ended().then_some(()));
    }

    pub(super) fn kill(mut self) {
        // Only fails where it has ended already.
        let _ = self.child.kill();
        self.child.wait().expect("a child can be waited for");
    }
}

/// Kills what the jobs of a cluster (on one node) left: `slurmstepd` and its children outlive their `slurmd`, and are known
/// by an environment that only this cluster gives. Its own daemons bear the same marks, so they must be gone.
pub(super) fn end_jobs(configuration: &Path, node: Option<&str>) {
    wait_until("the end of a cluster's jobs", || {
        let left = jobs(configuration, node);
        for pid in &left {
            // It may have ended in between.
            let _ = kill(*pid, Signal::SIGKILL);
        }
        left.is_empty().then_some(())
    });
}

fn jobs(configuration: &Path, node: Option<&str>) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| is_job(*pid, configuration, node)).map(Pid::from_raw).collect()
}

fn is_job(pid: i32, configuration: &Path, node: Option<&str>) -> bool {
    // Not readable where it is gone or somebody else's; empty where it has ended.
    let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else { return false };
    let value = |name: &str| {
        let mut variables = environment.split(|byte| *byte == 0);
        variables.find_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
    };
    let of_cluster = value("SLURM_CONF") == Some(configuration.as_os_str().as_encoded_bytes());
    let of_node = value(NODE_VARIABLE_OF_JOBS).or_else(|| value(NODE_VARIABLE));
    of_cluster
        && of_node.is_some_and(|found| node.is_none_or(|node| found == OsStr::new(node).as_encoded_bytes()))
}
