//! A real Slurm on this machine: `slurmctld`, a `slurmd` for each node and `munged`, on 127.0.0.1 and in a temporary
//! folder, with what goes wrong in a cluster on demand.
//!
//! Nodes are fictions: they claim the processors, memory and GPUs that a test asks for, and jobs are ordinary processes of
//! this machine. There are three partitions: `main` (the default), `low`, whose jobs the others push out and Slurm
//! requeues, and `high`. Delays are short: jobs start within a second, a requeued one after five.
//!
//! Needs Debian's packages `slurm-wlm` and `munge`, or what they hold, on the `PATH`; no privilege.

mod configuration;
mod processes;

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tempfile::TempDir;

use crate::wait::wait_until;
use configuration::{Ports, Site};
use processes::{Daemon, end_jobs};

/// The programs without which there is no cluster.
const PROGRAMS: [&str; 7] = ["munged", "munge", "slurmctld", "slurmd", "sbatch", "scontrol", "sinfo"];

/// Longest path of the folder: names of Unix sockets in it must stay below 108 bytes.
const LONGEST_FOLDER: usize = 70;

/// How often other ports are tried, where somebody took ours in the meantime.
const TRIES: usize = 3;

/// What a cluster claims to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterSize {
    /// Nodes, `n1`, `n2`, …; at least 1.
    pub nodes: u32,
    /// Processors of a node. More than this machine has is well: jobs of tests mostly wait.
    pub cpus: u32,
    /// GPUs of a node; 0 for none.
    pub gpus: u32,
}

/// A running cluster. Dropping it ends its daemons and whatever its jobs have left; a `static` is never dropped, so keep
/// it in the test.
#[derive(Debug)]
pub struct Cluster {
    site: Site,
    daemons: Mutex<HashMap<String, Daemon>>,
    // Last, so that the folder goes after what works in it.
    _folder: TempDir,
}

impl Cluster {
    /// Starts a cluster and waits until its nodes take jobs, half a second. Returns `None`, and says so on standard error,
    /// where Slurm is not installed.
    ///
    /// # Panics
    /// Panics if Slurm is installed and does not start.
    pub fn start(size: &ClusterSize) -> Option<Self> {
        if let Some(missing) = PROGRAMS.iter().find(|program| !is_installed(program)) {
            let line = format!(
                "NOT CHECKED: no Slurm here, `{missing}` is missing (packages slurm-wlm and munge)\n"
            );
            // Past the test harness, which keeps what passing tests print to itself.
            std::io::stderr().write_all(line.as_bytes()).expect("standard error can be written");
            return None;
        }
        let tries = (1..=TRIES).find_map(|number| Self::try_start(*size, number == TRIES));
        Some(tries.expect("the last try succeeds or panics"))
    }

    /// Returns `None` where the daemons could not have their ports, unless it is the last try.
    fn try_start(size: ClusterSize, last: bool) -> Option<Self> {
        let folder = temporary_folder();
        let site = Site::new(folder.path(), size, Ports::free(size.nodes));
        site.write();
        let cluster = Self { site, daemons: Mutex::default(), _folder: folder };
        match cluster.start_daemons() {
            Ok(()) => Some(cluster),
            Err(words) if !last && words.contains("Address already in use") => None,
            Err(words) => panic!("the cluster did not start: {words}"),
        }
    }

    fn start_daemons(&self) -> Result<(), String> {
        self.spawn("munged", &self.site.munged(), &[]);
        self.until(&["munged"], "munged", || {
            self.run("munge", ["--no-input", "--socket", &self.site.socket()])
        })?;
        self.spawn("slurmctld", &["slurmctld".to_owned(), "-D".to_owned()], &[]);
        self.until(&["slurmctld"], "slurmctld", || self.ping())?;
        let nodes: Vec<String> = (1..=self.site.size.nodes).map(node_name).collect();
        for node in &nodes {
            self.spawn_node(node);
        }
        self.until_nodes_work(&nodes)
    }

    /// Returns the variables with which Slurm's commands find this cluster, to be laid over the environment of a test's
    /// processes: `SLURM_CONF`, and `PATH` with the folders of system programs.
    pub fn environment(&self) -> Vec<(OsString, OsString)> {
        vec![("SLURM_CONF".into(), self.site.configuration().into()), ("PATH".into(), search_path())]
    }

    /// Returns the folder that jobs can write to as they like. It goes with the cluster.
    pub fn work(&self) -> PathBuf {
        self.site.folder.join("work")
    }

    /// Runs one of Slurm's commands and returns what it prints.
    ///
    /// # Panics
    /// Panics if it fails.
    pub fn command<A: AsRef<OsStr>>(&self, program: &str, arguments: impl IntoIterator<Item = A>) -> String {
        let output = self.client(program).args(arguments).output().expect("Slurm's commands can be started");
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program}: {words}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Kills a node with everything on it, as if its power were cut. Slurm takes it for dead about half a minute later.
    ///
    /// # Panics
    /// Panics if there is no such node or it does not run.
    pub fn kill_node(&self, number: u32) {
        let node = self.node(number);
        self.kill(&node);
        end_jobs(&self.site.configuration(), Some(&node));
    }

    /// Starts a node that was killed and waits until it takes jobs.
    ///
    /// # Panics
    /// Panics if there is no such node or it does not start.
    pub fn start_node(&self, number: u32) {
        let node = self.node(number);
        self.spawn_node(&node);
        self.until_nodes_work(&[node]).expect("a node that ran before starts again");
    }

    /// Tells Slurm that a node is down: its jobs end at once, and are requeued where they may be. It stays so until
    /// [`Cluster::resume_node`].
    ///
    /// # Panics
    /// Panics if there is no such node or no controller.
    pub fn down_node(&self, number: u32) {
        let node = format!("NodeName={}", self.node(number));
        self.command("scontrol", ["update", &node, "State=DOWN", "Reason=test"]);
    }

    /// Tells Slurm that a node is well again, and waits until it takes jobs.
    ///
    /// # Panics
    /// Panics if there is no such node, or it was not down, or there is no controller.
    pub fn resume_node(&self, number: u32) {
        let node = self.node(number);
        self.command("scontrol", ["update", &format!("NodeName={node}"), "State=RESUME"]);
        self.until_nodes_work(&[node]).expect("a node whose daemon runs takes jobs again");
    }

    /// Kills the controller. Jobs go on; the last seconds of its state may be lost. Commands then block for 9 s before they
    /// give up.
    ///
    /// # Panics
    /// Panics if it does not run.
    pub fn kill_controller(&self) {
        self.kill("slurmctld");
    }

    /// Lets the controller end in order: it saves its state first, and nothing is lost.
    ///
    /// # Panics
    /// Panics if it does not run.
    pub fn stop_controller(&self) {
        let daemon = self.daemons().remove("slurmctld");
        daemon.expect("the controller runs").stop();
    }

    /// Starts the controller again and waits until it answers.
    ///
    /// # Panics
    /// Panics if it does not start.
    pub fn start_controller(&self) {
        self.spawn("slurmctld", &["slurmctld".to_owned(), "-D".to_owned()], &[]);
        self.until(&["slurmctld"], "slurmctld", || self.ping())
            .expect("a controller that ran before starts again");
    }

    fn node(&self, number: u32) -> String {
        assert!((1..=self.site.size.nodes).contains(&number), "the cluster has no node {number}");
        node_name(number)
    }

    fn spawn_node(&self, node: &str) {
        let command = ["slurmd", "-D", "-N", node].map(str::to_owned);
        self.spawn(node, &command, &[(processes::NODE_VARIABLE, node)]);
    }

    fn spawn(&self, name: &str, command: &[String], variables: &[(&str, &str)]) {
        let mut process = self.client(&command[0]);
        process.args(&command[1..]).envs(variables.iter().copied());
        let daemon = Daemon::spawn(process, &self.site.log(name));
        let before = self.daemons().insert(name.to_owned(), daemon);
        assert!(before.is_none(), "{name} runs already");
    }

    fn kill(&self, name: &str) {
        let daemon = self.daemons().remove(name);
        daemon.unwrap_or_else(|| panic!("{name} does not run")).kill();
    }

    fn daemons(&self) -> MutexGuard<'_, HashMap<String, Daemon>> {
        self.daemons.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `ready`, or one of the daemons has ended: then its last words are the error.
    fn until(&self, daemons: &[&str], what: &str, ready: impl Fn() -> bool) -> Result<(), String> {
        wait_until(what, || {
            if ready() {
                return Some(Ok(()));
            }
            let mut running = self.daemons();
            let ended = daemons.iter().find(|name| running.get_mut(**name).is_none_or(Daemon::has_ended));
            ended.map(|name| Err(self.site.last_words(name)))
        })
    }

    fn until_nodes_work(&self, nodes: &[String]) -> Result<(), String> {
        let names: Vec<&str> = nodes.iter().map(String::as_str).collect();
        self.until(&names, "nodes that take jobs", || {
            let Some(states) =
                self.ask("sinfo", ["--noheader", "--Node", "--partition=main", "--format=%N %T"])
            else {
                return false;
            };
            let works = |line: &str| {
                let (node, state) = line.split_once(' ').unwrap_or_default();
                nodes.iter().any(|name| name == node)
                    && ["idle", "mixed", "allocated", "completing"].contains(&state.trim())
            };
            states.lines().filter(|line| works(line)).count() == nodes.len()
        })
    }

    fn ping(&self) -> bool {
        self.ask("scontrol", ["ping"]).is_some_and(|answer| answer.contains(" is UP"))
    }

    fn run<const N: usize>(&self, program: &str, arguments: [&str; N]) -> bool {
        self.ask(program, arguments).is_some()
    }

    fn ask<const N: usize>(&self, program: &str, arguments: [&str; N]) -> Option<String> {
        let output: Output =
            self.client(program).args(arguments).output().expect("Slurm's commands can be started");
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Returns a command in this cluster's environment, without what a Slurm around this process would tell it.
    fn client(&self, program: &str) -> Command {
        let mut command = Command::new(found(program).unwrap_or_else(|| program.into()));
        let foreign = |name: &OsStr| {
            let bytes = name.as_encoded_bytes();
            [&b"SLURM"[..], b"SBATCH_", b"SQUEUE_", b"SCANCEL_", b"SACCT_"]
                .iter()
                .any(|part| bytes.starts_with(part))
        };
        for (name, _) in std::env::vars_os().filter(|(name, _)| foreign(name)) {
            command.env_remove(name);
        }
        command.envs(self.environment()).current_dir(self.work());
        command
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let mut daemons = std::mem::take(&mut *self.daemons());
        let munged = daemons.remove("munged");
        for (_, daemon) in daemons {
            daemon.kill();
        }
        end_jobs(&self.site.configuration(), None);
        if let Some(munged) = munged {
            munged.kill();
        }
    }
}

fn node_name(number: u32) -> String {
    format!("n{number}")
}

fn temporary_folder() -> TempDir {
    let base = Some(std::env::temp_dir()).filter(|path| path.as_os_str().len() + 20 < LONGEST_FOLDER);
    let base = base.unwrap_or_else(|| "/tmp".into());
    tempfile::Builder::new().prefix("slurm-").tempdir_in(base).expect("the temporary folder is writable")
}

/// Daemons lie in folders that an ordinary user's `PATH` may lack.
fn search_path() -> OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");
    path
}

fn found(program: &str) -> Option<PathBuf> {
    let path = search_path();
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

fn is_installed(program: &str) -> bool {
    found(program).is_some()
}
