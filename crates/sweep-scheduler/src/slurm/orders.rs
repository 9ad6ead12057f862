//! What passes between the controller and the tasks of an array, all of it files: what a task is to do, what it says about
//! an attempt that it makes, and how that attempt's worker left.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sweep_core::home::Home;
use sweep_core::spec::RunId;
use sweep_core::verdict::Cause;
use sweep_store::{Failure, Submitted};

use crate::evidence::Process;
use crate::executor::local::Exit;
use crate::files::write_durably;
use crate::verdict::Ending;

/// One line of an array's manifest: what one task does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Orders {
    /// The runs, one after the other.
    pub(crate) runs: Vec<Order>,
    /// The program of the workers; `None`: the task's own, wherever that lies for it.
    pub(crate) worker: Option<PathBuf>,
    pub(crate) device: Place,
    /// Threads of a worker; `None`: the processors that Slurm gives the task.
    pub(crate) threads: Option<u32>,
    /// As in [`crate::Settings`]; likewise the next three.
    pub(crate) checkpoint_every: Option<Duration>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) stall: Option<Duration>,
    pub(crate) grace: Duration,
    /// How often a task gives a sign of life.
    pub(crate) beat: Duration,
}

/// One run of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) run: RunId,
    /// Attempts before: what they came to is decided. Later ones are those of this array.
    pub(crate) after: u32,
}

/// What workers compute on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Place {
    Cpu,
    /// The first GPU that Slurm gives the task.
    Cuda,
}

/// What a task says about an attempt that it has made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claim {
    /// Token of the array.
    pub(crate) generation: String,
    /// Slurm's number of the array, of the task within it, of the task as a job of its own, and how often it was requeued.
    pub(crate) job: String,
    pub(crate) task: String,
    pub(crate) job_id: String,
    pub(crate) restart: String,
    /// Slurm's name of the node.
    pub(crate) node: String,
    /// The task's own process.
    pub(crate) host: String,
    pub(crate) pid: u32,
    pub(crate) process_start: u64,
    /// GPUs that Slurm gave it.
    pub(crate) devices: Option<String>,
    /// How often it gives a sign of life.
    pub(crate) beat: Duration,
    pub(crate) started_ms: i64,
}

impl Claim {
    pub(crate) fn process(&self) -> Process {
        Process { host: self.host.clone(), pid: self.pid, start: self.process_start }
    }

    /// Returns who has the attempt, for people.
    pub(crate) fn name(&self) -> String {
        format!("slurm:{}_{} on {}", self.job, self.task, self.node)
    }
}

/// What a task saw of the end of its worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Departure {
    pub(crate) exit_code: Option<i32>,
    pub(crate) signal: Option<i32>,
    /// Why it had to leave before its time, where it hung or took too long.
    pub(crate) overdue: Option<Cause>,
    /// Whether it was asked or forced to leave.
    pub(crate) dismissed: bool,
    /// Whether the kernel killed processes for want of memory meanwhile.
    pub(crate) memory_ran_out: bool,
    pub(crate) ended_ms: i64,
}

impl Departure {
    pub(crate) fn of(ending: &Ending, ended_ms: i64) -> Self {
        let exit = ending.exit.unwrap_or_default();
        let overdue = ending.overdue.clone().map(|Failure { class, message }| Cause { class, message });
        Self {
            exit_code: exit.code,
            signal: exit.signal,
            overdue,
            dismissed: ending.dismissed,
            memory_ran_out: ending.memory_ran_out,
            ended_ms,
        }
    }

    /// Returns the end that this was, as far as the worker's events do not tell it. `fault` is what is wrong with those.
    pub(crate) fn ending(&self, fault: Option<Failure>) -> Ending {
        let overdue = self.overdue.clone().map(|Cause { class, message }| Failure { class, message });
        Ending {
            exit: Some(Exit { code: self.exit_code, signal: self.signal }),
            fault,
            overdue,
            dismissed: self.dismissed,
            saved: false,
            memory_ran_out: self.memory_ran_out,
        }
    }
}

/// The folder of one array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Folder {
    path: PathBuf,
}

impl Folder {
    pub(crate) fn new(home: &Home, token: &str) -> Self {
        Self { path: home.slurm().join(token) }
    }

    /// Returns the folder that a manifest lies in.
    pub(crate) fn of_manifest(manifest: &Path) -> Self {
        Self { path: manifest.parent().unwrap_or(Path::new(".")).to_owned() }
    }

    /// Returns the token of the array.
    pub(crate) fn token(&self) -> String {
        self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn manifest(&self) -> PathBuf {
        self.path.join("manifest.jsonl")
    }

    pub(crate) fn script(&self) -> PathBuf {
        self.path.join("job.sh")
    }

    /// Returns the folder of what the tasks print.
    pub(crate) fn logs(&self) -> PathBuf {
        self.path.join("logs")
    }

    /// Returns the file whose presence takes a run out of the array, wherever its task is.
    pub(crate) fn withdrawal(&self, run: RunId) -> PathBuf {
        self.path.join("withdrawn").join(run.to_string())
    }

    /// Takes a run out of the array.
    pub(crate) fn withdraw(&self, run: RunId) -> io::Result<()> {
        fs::create_dir_all(self.path.join("withdrawn"))?;
        fs::write(self.withdrawal(run), "")
    }

    /// Writes what the tasks are to do; it appears whole or not at all.
    pub(crate) fn write_manifest(&self, tasks: &[Orders]) -> io::Result<()> {
        let mut lines = Vec::new();
        for orders in tasks {
            serde_json::to_writer(&mut lines, orders)?;
            lines.push(b'\n');
        }
        write_durably(&self.manifest(), &lines)
    }

    /// Reads back which runs the tasks do. The error is in words.
    pub(crate) fn read_tasks(&self) -> Result<Vec<Vec<Submitted>>, String> {
        let text = fs::read_to_string(self.manifest()).map_err(|error| error.to_string())?;
        let runs = |orders: Orders| {
            orders.runs.into_iter().map(|Order { run, after }| Submitted { run, after }).collect::<Vec<_>>()
        };
        let task = |line: &str| serde_json::from_str(line).map(runs).map_err(|error| error.to_string());
        text.lines().map(task).collect()
    }

    /// Makes a job of this array that may still come do nothing.
    pub(crate) fn disarm(&self) -> io::Result<()> {
        match fs::rename(self.manifest(), self.path.join("manifest.void")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Returns what a task is to do, by a manifest's line.
pub(crate) fn read_orders(manifest: &Path, task: u32) -> Result<Orders, String> {
    let text = fs::read_to_string(manifest).map_err(|error| error.to_string())?;
    let line = text.lines().nth(task as usize).ok_or_else(|| format!("it has no line {}", task + 1))?;
    serde_json::from_str(line).map_err(|error| format!("line {}: {error}", task + 1))
}

/// Reads a small file that appears whole; `None` where it is not there, or is not what it should be, which is told.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "could not be read");
            return None;
        }
    };
    let read = serde_json::from_slice(&text);
    read.inspect_err(|error| tracing::warn!(path = %path.display(), %error, "is passed over")).ok()
}

#[cfg(test)]
mod tests {
    use sweep_core::event::FailureClass;
    use sweep_testkit::{Workspace, id_of};

    use super::*;

    fn orders(runs: &[u64]) -> Orders {
        Orders {
            runs: runs.iter().map(|seed| Order { run: id_of(*seed), after: 2 }).collect(),
            worker: Some("/opt/sweep".into()),
            device: Place::Cuda,
            threads: None,
            checkpoint_every: Some(Duration::from_mins(10)),
            timeout: None,
            stall: Some(Duration::from_mins(30)),
            grace: Duration::from_mins(1),
            beat: Duration::from_secs(15),
        }
    }

    #[test]
    fn a_task_reads_its_own_line() {
        let workspace = Workspace::new();
        let folder = Folder::new(&workspace.layout(), "sweep-ab-g1");
        fs::create_dir_all(folder.path()).unwrap();
        let tasks = [orders(&[0]), orders(&[1, 2])];
        folder.write_manifest(&tasks).unwrap();
        assert_eq!(read_orders(&folder.manifest(), 1).unwrap(), tasks[1]);
        assert!(read_orders(&folder.manifest(), 2).unwrap_err().contains("no line 3"));
        assert_eq!(Folder::of_manifest(&folder.manifest()), folder);
        assert_eq!(folder.token(), "sweep-ab-g1");
        let read = folder.read_tasks().unwrap();
        assert_eq!(read[1], [1, 2].map(|seed| Submitted { run: id_of(seed), after: 2 }));
        folder.disarm().unwrap();
        folder.disarm().unwrap();
        assert!(read_orders(&folder.manifest(), 0).is_err());
    }

    #[test]
    fn an_end_survives_being_written_down() {
        let failure = Failure { class: FailureClass::Timeout, message: "it hung".to_owned() };
        let ending = Ending {
            exit: Some(Exit { code: None, signal: Some(9) }),
            overdue: Some(failure.clone()),
            memory_ran_out: true,
            ..Ending::of_a_stranger(None)
        };
        let text = serde_json::to_string(&Departure::of(&ending, 5)).unwrap();
        let read: Departure = serde_json::from_str(&text).unwrap();
        let again = read.ending(None);
        assert_eq!((again.exit, again.overdue, again.dismissed), (ending.exit, Some(failure), true));
        assert!(again.memory_ran_out && again.fault.is_none());
    }
}
