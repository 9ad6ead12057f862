//! The way from a ready run to a running worker: claim, lock, look again, write the spec, start.

use std::fs;
use std::io;

use sweep_core::event::FailureClass;
use sweep_core::spec::{RunId, RunSpec};
use sweep_core::trajectory::Sharing;
use sweep_store::{Failure, State, now_ms};

use crate::error::Error;
use crate::executor::local::{Assignment, Worker, WorkerCommand};
use crate::executor::lock::LockedLog;
use crate::families::write_sharing;
use crate::files::write_atomically;
use crate::settings::Settings;
use crate::settle::Settler;
use sweep_core::home::Home;

/// Starts workers.
#[derive(Debug)]
pub(crate) struct Launcher<'a> {
    settler: Settler<'a>,
    settings: &'a Settings,
    /// Who claims, for people who look into the database.
    name: String,
}

/// What is to be done.
#[derive(Debug)]
pub(crate) struct Task<'a> {
    pub(crate) run: RunId,
    pub(crate) spec: &'a RunSpec,
    /// What its worker does for other runs.
    pub(crate) sharing: Sharing,
}

/// What became of a run that should start.
#[derive(Debug)]
pub(crate) enum Launch {
    /// Its worker runs.
    Started { attempt: u32, worker: Worker },
    /// Somebody else has it.
    Taken,
    /// It is claimed, but a file or the process could not be made.
    Failed { attempt: u32, failure: Failure },
}

impl<'a> Launcher<'a> {
    pub(crate) fn new(settler: Settler<'a>, settings: &'a Settings) -> Self {
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_else(|_| "localhost".to_owned());
        Self { settler, settings, name: format!("{}:{}", host.trim(), std::process::id()) }
    }

    /// Claims a run and starts its worker in a slot.
    pub(crate) async fn launch(&self, task: &Task<'_>, slot: usize) -> Result<Launch, Error> {
        match self.settler.store.claim(task.run, &self.name, now_ms()).await? {
            Some(attempt) => self.start(task, attempt, slot).await,
            None => Ok(Launch::Taken),
        }
    }

    /// Starts the worker of a claimed attempt.
    async fn start(&self, task: &Task<'_>, attempt: u32, slot: usize) -> Result<Launch, Error> {
        let (home, run) = (&self.settings.home, task.run);
        let log = match LockedLog::acquire(&home.log(run, attempt)) {
            Ok(Some(log)) => log,
            Ok(None) => return Ok(Launch::Taken),
            Err(error) => return Ok(Launch::Failed { attempt, failure: storage_failure(&error) }),
        };
        // Between claim and lock another scheduler may have taken us for dead and settled the attempt; it held the
        // lock for that, so from here on nobody can.
        let state = self.settler.state(run).await?;
        if state.state != State::Running || state.attempts != attempt {
            return Ok(Launch::Taken);
        }
        // The database is behind its files: a power failure has cost it the latest transactions, or an older copy was put in
        // its place. What is there tells what became of the attempt; the run then goes on with the next one.
        if home.events(run, attempt).exists() || home.verdict(run, attempt).exists() {
            drop(log);
            self.settler.settle_if_dead(run, attempt).await?;
            return Ok(Launch::Taken);
        }
        let written = write_spec(home, run, task.spec, state.micro_batch_limit)
            .and_then(|()| write_sharing(home, run, &task.sharing));
        if let Err(error) = written {
            return Ok(Launch::Failed { attempt, failure: storage_failure(&error) });
        }
        let command = &self.settings.worker;
        let assignment = Assignment {
            home,
            run,
            attempt,
            slot: &self.settings.slots[slot],
            checkpoint_every: self.settings.checkpoint_every,
            until: None,
        };
        Ok(match Worker::start(command, &assignment, log) {
            Ok(worker) => Launch::Started { attempt, worker },
            Err(error) => Launch::Failed { attempt, failure: start_failure(command, &error) },
        })
    }
}

/// Writes what the run is. Always anew: paths and batch splitting are no part of a run's identity and may have changed since
/// an earlier attempt. `micro_batch_limit` is what the memory allows, as earlier attempts found out; with batch norm the
/// size is part of the identity and stays.
pub(crate) fn write_spec(
    home: &Home,
    run: RunId,
    spec: &RunSpec,
    micro_batch_limit: Option<u32>,
) -> io::Result<()> {
    let limit = micro_batch_limit.filter(|_| !spec.backbone.definition.architecture.has_batch_norm());
    let micro_batch_size = spec.micro_batch_size.limited(limit);
    write_atomically(&home.spec(run), &serde_json::to_vec(&RunSpec { micro_batch_size, ..spec.clone() })?)
}

fn storage_failure(error: &io::Error) -> Failure {
    let class = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => FailureClass::DiskFull,
        _ => FailureClass::Storage,
    };
    Failure { class, message: format!("the attempt's files could not be made: {error}") }
}

/// A program that is not there will not be there next time; anything else, such as too many processes, may pass.
pub(crate) fn start_failure(command: &WorkerCommand, error: &io::Error) -> Failure {
    let class = match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => FailureClass::Configuration,
        _ => FailureClass::WorkerDied,
    };
    Failure { class, message: format!("`{}` could not be started: {error}", command.program.display()) }
}

#[cfg(test)]
mod tests {
    use sweep_core::event::{Event, Record};
    use sweep_store::Store;
    use sweep_testkit::{Workspace, sample_run};

    use super::*;
    use crate::retry::RetryPolicy;
    use crate::slots::{Slot, SlotRequest};

    fn settings(home: Home) -> Settings {
        let request =
            SlotRequest { devices: "cpu", threads: None, cores: 1, visible_devices: None, gpus: None };
        let worker = WorkerCommand { program: "true".into(), arguments: Vec::new() };
        Settings::new(home, worker, Slot::plan(&request).unwrap())
    }

    #[tokio::test]
    async fn a_claim_that_was_settled_before_its_log_was_locked_starts_nothing() {
        let workspace = Workspace::new();
        let settings = settings(workspace.layout());
        let store = Store::open(settings.home.database()).await.unwrap();
        let spec = sample_run(0);
        let run = spec.id();
        store.register_runs(&[(run, &spec)], now_ms()).await.unwrap();
        let settler = Settler { store: &store, home: &settings.home, retry: RetryPolicy::default() };
        let launcher = Launcher::new(settler, &settings);

        let slow = store.claim(run, "slow", now_ms()).await.unwrap().unwrap();
        settler.settle_if_dead(run, slow).await.unwrap();
        let task = Task { run, spec: &spec, sharing: Sharing::default() };
        assert!(matches!(launcher.start(&task, slow, 0).await.unwrap(), Launch::Taken));
        let fast = store.claim(run, "fast", now_ms()).await.unwrap().unwrap();
        assert!(matches!(launcher.start(&task, slow, 0).await.unwrap(), Launch::Taken));
        assert!(matches!(launcher.start(&task, fast, 0).await.unwrap(), Launch::Started { attempt: 2, .. }));
    }

    #[tokio::test]
    async fn an_attempt_that_the_database_has_forgotten_is_settled_by_its_files() {
        let workspace = Workspace::new();
        let settings = settings(workspace.layout());
        let store = Store::open(settings.home.database()).await.unwrap();
        let settler = Settler { store: &store, home: &settings.home, retry: RetryPolicy::default() };
        let launcher = Launcher::new(settler, &settings);
        let spec = sample_run(0);
        let run = spec.id();
        store.register_runs(&[(run, &spec)], now_ms()).await.unwrap();
        let ends = [Event::Interrupted { epochs: 1 }, Event::Succeeded];
        for (attempt, event) in (1..).zip(ends) {
            let record = Record { sequence: 0, time_ms: 1, event };
            fs::create_dir_all(settings.home.attempt(run, attempt)).unwrap();
            let line = [serde_json::to_vec(&record).unwrap(), b"\n".to_vec()].concat();
            fs::write(settings.home.events(run, attempt), line).unwrap();
        }
        let task = Task { run, spec: &spec, sharing: Sharing::default() };
        for state in [State::Interrupted, State::Succeeded] {
            assert!(matches!(launcher.launch(&task, 0).await.unwrap(), Launch::Taken));
            assert_eq!(settler.state(run).await.unwrap().state, state);
        }
    }
}
