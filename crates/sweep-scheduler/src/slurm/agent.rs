//! One task of an array: what the batch process on a compute node does.
//!
//! It knows no database. It reads its line of the manifest and does the runs in it one after the other, each as an attempt
//! that it claims by making the attempt's folder, which only one can. How the worker is followed, when it is made to leave
//! and killed, is that of local schedulers: the same [`Supervisor`], whose findings it writes down for the controller.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sweep_core::event::Event;
use sweep_core::home::Home;
use sweep_core::spec::RunId;
use sweep_core::verdict::{Outcome, Verdict};
use sweep_store::{Failure, now_ms};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{self, Instant};

use super::job::Job;
use super::orders::{Claim, Departure, Folder, Order, Orders, Place, read_json, read_orders};
use super::signs::is_alive;
use super::states::HELD;
use crate::error::Error;
use crate::evidence::Process;
use crate::executor::local::{Assignment, Worker, WorkerCommand};
use crate::executor::lock::LockedLog;
use crate::files::write_durably;
use crate::gpus;
use crate::launch::start_failure;
use crate::memory::OomKills;
use crate::settle::INTERRUPTED;
use crate::slots::{Slot, SlotRequest};
use crate::supervise::{Message, Stop, Supervisor};
use crate::tail::Tail;
use crate::verdict::Ending;
use crate::watch::Limits;

/// How often a worker's events are looked at: only for what they say about its health.
const POLL: time::Duration = time::Duration::from_secs(1);

/// Signs of life for which a run that somebody else is at is awaited: longer than the dead seem alive.
const PATIENCE: u32 = 4;

/// How a task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskEnd {
    /// All its runs have ended, here or elsewhere, as far as they can.
    Done,
    /// The same, and some of them failed here.
    SomeFailed,
    /// It was asked to leave before all were done.
    Interrupted,
    /// Somebody else is at one of its runs.
    Held,
}

impl TaskEnd {
    /// Returns the exit code: 0, 1, 76 as that of a worker that was stopped, 80.
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::SomeFailed => 1,
            Self::Interrupted => INTERRUPTED as u8,
            Self::Held => HELD as u8,
        }
    }
}

/// Carries out line `task` of a manifest. SIGTERM, SIGINT, SIGHUP and SIGUSR1, however often they come, make its worker save
/// and leave. Needs a Tokio runtime with time and I/O.
///
/// # Errors
/// [`Error::Orders`] for a manifest that says nothing to this task, [`Error::Task`] where a file cannot be written, and
/// [`Error::Devices`] where Slurm gave no GPU.
pub async fn carry_out(home: &Home, manifest: &Path, task: u32) -> Result<TaskEnd, Error> {
    let orders = read_orders(manifest, task).map_err(|reason| Error::Orders {
        path: manifest.to_owned(),
        task,
        reason,
    })?;
    let job = Job::of_this_process().await;
    let slot = slot(&orders, job.processors())?;
    let stop = stop_on_signals().map_err(|source| Error::Task { path: manifest.to_owned(), source })?;
    let agent = Agent { home, folder: Folder::of_manifest(manifest), task, orders: &orders, job, slot, stop };
    agent.work().await
}

/// Returns the slot that a task is: one device and the processors that Slurm gave it.
fn slot(orders: &Orders, processors: Option<u32>) -> Result<Slot, Error> {
    let visible = std::env::var("CUDA_VISIBLE_DEVICES").ok();
    let devices = match orders.device {
        Place::Cpu => "cpu",
        Place::Cuda => "cuda:0",
    };
    let gpus = match orders.device {
        Place::Cpu => None,
        Place::Cuda => gpus::listed(),
    };
    let request = SlotRequest {
        devices,
        threads: orders.threads.or(processors),
        cores: std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32),
        visible_devices: visible.as_deref(),
        gpus: gpus.as_deref(),
    };
    let slots = Slot::plan(&request).map_err(|source| Error::Devices { source })?;
    Ok(slots.into_iter().next().expect("every device asked for makes a slot"))
}

/// However often they come: a shell around this process passes signals on that come to it anyway.
fn stop_on_signals() -> io::Result<watch::Receiver<Stop>> {
    let (sender, receiver) = watch::channel(Stop::None);
    for kind in
        [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup(), SignalKind::user_defined1()]
    {
        let (mut stream, sender) = (signal(kind)?, sender.clone());
        tokio::spawn(async move {
            while stream.recv().await.is_some() {
                sender.send_replace(Stop::Graceful);
            }
        });
    }
    Ok(receiver)
}

struct Agent<'a> {
    home: &'a Home,
    folder: Folder,
    task: u32,
    orders: &'a Orders,
    job: Job,
    slot: Slot,
    stop: watch::Receiver<Stop>,
}

/// How a run stands when a task comes to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It needs an attempt of this number.
    Free(u32),
    /// It has ended, or is for the controller to judge.
    Over,
    /// Somebody is at it.
    Taken,
}

/// What became of a run in a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Done,
    Failed,
    Left,
    Held,
}

impl Agent<'_> {
    async fn work(&self) -> Result<TaskEnd, Error> {
        let mut end = TaskEnd::Done;
        for order in &self.orders.runs {
            match self.run(*order).await? {
                Step::Done => {}
                Step::Failed => end = TaskEnd::SomeFailed,
                Step::Left => return Ok(TaskEnd::Interrupted),
                Step::Held => return Ok(TaskEnd::Held),
            }
        }
        Ok(end)
    }

    /// Does one run, or waits for whoever is at it: as long as somebody who has died seems to be alive, and a little longer.
    async fn run(&self, order: Order) -> Result<Step, Error> {
        let patience = Instant::now() + self.orders.beat * PATIENCE;
        let mut stop = self.stop.clone();
        loop {
            if *stop.borrow() > Stop::None {
                return Ok(Step::Left);
            }
            if self.is_withdrawn(order.run) {
                return Ok(Step::Done);
            }
            match self.standing(order)? {
                Standing::Over => return Ok(Step::Done),
                Standing::Free(attempt) => {
                    if let Some(step) = self.attempt(order.run, attempt).await? {
                        return Ok(step);
                    }
                }
                Standing::Taken if Instant::now() >= patience => return Ok(Step::Held),
                Standing::Taken => {
                    let raised = stop.wait_for(|level| *level > Stop::None);
                    // Both ends of this lead to another look.
                    let _ = time::timeout(self.orders.beat, raised).await;
                }
            }
        }
    }

    fn is_withdrawn(&self, run: RunId) -> bool {
        self.folder.withdrawal(run).exists()
    }

    /// Looks how a run stands, by its newest attempt.
    fn standing(&self, order: Order) -> Result<Standing, Error> {
        let Order { run, after } = order;
        let newest = newest_attempt(self.home, run).map_err(|source| failed(&self.home.run(run), source))?;
        if newest <= after {
            return Ok(Standing::Free(after + 1));
        }
        match how_it_ended(self.home, run, newest) {
            Some(true) => Ok(Standing::Free(newest + 1)),
            Some(false) => Ok(Standing::Over),
            None => {
                let alive = is_alive(self.home, run, newest);
                let alive = alive.map_err(|source| failed(&self.home.slurm(), source))?;
                Ok(if alive { Standing::Taken } else { Standing::Free(newest + 1) })
            }
        }
    }

    /// Makes an attempt; `None` where somebody else was faster.
    async fn attempt(&self, run: RunId, attempt: u32) -> Result<Option<Step>, Error> {
        let folder = self.home.attempt(run, attempt);
        match fs::create_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
            made => made.map_err(|source| failed(&folder, source))?,
        }
        let path = self.home.claim(run, attempt);
        write_json(&path, &self.claim()).map_err(|source| failed(&path, source))?;
        let path = self.home.log(run, attempt);
        let log = match LockedLog::acquire(&path) {
            Ok(Some(log)) => log,
            Ok(None) => return Ok(None),
            Err(error) if is_unsupported(&error) => {
                LockedLog::without_lock(&path).map_err(|source| failed(&path, source))?
            }
            Err(source) => return Err(failed(&path, source)),
        };
        let ending = self.let_work(run, attempt, log).await?;
        let left = ending.dismissed && *self.stop.borrow() > Stop::None;
        let stopped = ending.exit.and_then(|exit| exit.code) == Some(INTERRUPTED);
        let departure = Departure::of(&ending, now_ms());
        // A worker that leaves with this code was asked to, or has lost its run to somebody: neither is a death.
        let departure = Departure { dismissed: departure.dismissed || stopped, ..departure };
        let path = self.home.departure(run, attempt);
        write_json(&path, &departure).map_err(|source| failed(&path, source))?;
        Ok(Some(match ending.exit.and_then(|exit| exit.code) {
            Some(0) => Step::Done,
            _ if self.is_withdrawn(run) => Step::Done,
            _ if left || stopped => Step::Left,
            _ => Step::Failed,
        }))
    }

    fn claim(&self) -> Claim {
        let process = Process::this();
        Claim {
            generation: self.folder.token(),
            job: self.job.array.clone(),
            task: self.task.to_string(),
            job_id: self.job.id.clone(),
            restart: self.job.restart.clone(),
            node: self.job.node.clone(),
            host: process.as_ref().map(|process| process.host.clone()).unwrap_or_default(),
            pid: std::process::id(),
            process_start: process.map_or(0, |process| process.start),
            devices: std::env::var("CUDA_VISIBLE_DEVICES").ok(),
            beat: self.orders.beat,
            started_ms: now_ms(),
        }
    }

    fn worker(&self) -> Result<PathBuf, Error> {
        let own = || std::env::current_exe();
        let program = self.orders.worker.clone().map_or_else(own, Ok);
        program.map_err(|source| Error::Task { path: "/proc/self/exe".into(), source })
    }

    /// Starts a worker and follows it to its end.
    async fn let_work(&self, run: RunId, attempt: u32, log: LockedLog) -> Result<Ending, Error> {
        let command = WorkerCommand { program: self.worker()?, arguments: Vec::new() };
        let assignment = Assignment {
            home: self.home,
            run,
            attempt,
            slot: &self.slot,
            checkpoint_every: self.orders.checkpoint_every,
            until: self.job.end,
        };
        let worker = match Worker::start(&command, &assignment, log) {
            Ok(worker) => worker,
            Err(error) => return Ok(not_started(start_failure(&command, &error))),
        };
        let (outbox, mut inbox) = mpsc::channel(16);
        let cancel = Arc::new(Notify::new());
        let Orders { timeout, stall, grace, beat, .. } = *self.orders;
        let supervisor = Supervisor {
            run,
            worker,
            tail: Tail::new(self.home.events(run, attempt)),
            stop: self.stop.clone(),
            cancel: Arc::clone(&cancel),
            limits: Limits { timeout, stall, silence: time::Duration::MAX },
            oom_kills: OomKills::of_this_system(),
            grace,
            poll: POLL.min(beat),
            outbox,
        };
        let supervision = tokio::spawn(supervisor.supervise());
        let mut beats = time::interval(beat);
        let mut count = 0_u64;
        loop {
            tokio::select! {
                message = inbox.recv() => match message {
                    Some(Message::Ended { ending, .. }) => return Ok(ending),
                    Some(_) => {}
                    None => propagate(supervision.await),
                },
                _ = beats.tick() => {
                    count += 1;
                    self.beat(run, attempt, count);
                    if self.is_withdrawn(run) {
                        cancel.notify_one();
                    }
                }
            }
        }
    }

    /// Gives a sign of life. It is the file server that says when: what is written does not matter.
    fn beat(&self, run: RunId, attempt: u32, count: u64) {
        let path = self.home.pulse(run, attempt);
        if let Err(error) = fs::write(&path, count.to_string()) {
            tracing::warn!(path = %path.display(), %error, "no sign of life could be given");
        }
    }
}

fn failed(path: &Path, source: io::Error) -> Error {
    Error::Task { path: path.to_owned(), source }
}

/// Returns the number of a run's newest attempt; 0 where there is none.
pub(crate) fn newest_attempt(home: &Home, run: RunId) -> io::Result<u32> {
    let number = |entry: fs::DirEntry| entry.file_name().to_str()?.strip_prefix("attempt-")?.parse().ok();
    let mut newest = 0;
    for entry in fs::read_dir(home.run(run))? {
        newest = newest.max(number(entry?).unwrap_or(0));
    }
    Ok(newest)
}

/// Returns whether an attempt that has ended leaves the run to another one by itself; `None` where nothing says that it has
/// ended. A worker's last word comes first, then what the controller or its task saw of its end.
fn how_it_ended(home: &Home, run: RunId, attempt: u32) -> Option<bool> {
    let last = Tail::new(home.events(run, attempt)).read_to_end().records.pop().map(|record| record.event);
    let verdict: Option<Verdict> = read_json(&home.verdict(run, attempt));
    let departure: Option<Departure> = read_json(&home.departure(run, attempt));
    match (last, verdict, departure) {
        (Some(Event::Succeeded | Event::Failed { .. }), _, _) => Some(false),
        (_, Some(verdict), _) => Some(matches!(verdict.outcome, Outcome::Interrupted { .. })),
        (Some(Event::Interrupted { .. }), None, Some(_)) => Some(true),
        (_, None, Some(departure)) => Some(departure.dismissed && departure.overdue.is_none()),
        (_, None, None) => None,
    }
}

fn not_started(failure: Failure) -> Ending {
    tracing::error!("{}", failure.message);
    Ending { overdue: Some(failure), dismissed: true, ..Ending::of_a_stranger(None) }
}

fn is_unsupported(error: &io::Error) -> bool {
    let code = error.raw_os_error().map(nix::errno::Errno::from_raw);
    matches!(
        code,
        Some(nix::errno::Errno::ENOSYS | nix::errno::Errno::EOPNOTSUPP | nix::errno::Errno::ENOLCK)
    )
}

fn write_json(path: &Path, value: &impl serde::Serialize) -> io::Result<()> {
    write_durably(path, &serde_json::to_vec(value)?)
}

/// A supervisor that ends without a message has panicked.
fn propagate(ended: Result<(), tokio::task::JoinError>) -> ! {
    match ended.map_err(tokio::task::JoinError::try_into_panic) {
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        _ => unreachable!("a supervisor says how its worker ended unless it panics"),
    }
}

#[cfg(test)]
mod tests {
    use sweep_core::event::{FailureClass, Record};
    use sweep_core::verdict::Cause;
    use sweep_testkit::{Workspace, id_of};

    use super::*;

    fn write(path: &Path, value: &impl serde::Serialize) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, [serde_json::to_vec(value).unwrap(), b"\n".to_vec()].concat()).unwrap();
    }

    fn says(home: &Home, event: Event) {
        write(&home.events(id_of(0), 1), &Record { sequence: 0, time_ms: 1, event });
    }

    fn departure(code: i32, dismissed: bool) -> Departure {
        let overdue = None;
        Departure {
            exit_code: Some(code),
            signal: None,
            overdue,
            dismissed,
            memory_ran_out: false,
            ended_ms: 2,
        }
    }

    fn verdict(outcome: Outcome) -> Verdict {
        Verdict { outcome, exit_code: None, signal: None, micro_batch_limit: None, ended_ms: 3 }
    }

    fn failed_for_good() -> Outcome {
        let cause = Cause { class: FailureClass::WorkerDied, message: String::new() };
        Outcome::Failed { cause, retry: true }
    }

    type Case = (Option<Event>, Option<Departure>, Option<Outcome>, Option<bool>);

    /// What a task that finds an attempt of its array makes of it: `Some(true)` begins another.
    #[test]
    fn only_an_attempt_that_was_interrupted_is_followed_by_another_of_the_same_task() {
        let failure = || Event::Failed { class: FailureClass::Hub, message: String::new() };
        let interrupted = || Event::Interrupted { epochs: 1 };
        let cases: [Case; 11] = [
            (None, None, None, None),
            (Some(interrupted()), None, None, None),
            (Some(Event::Succeeded), None, None, Some(false)),
            (Some(failure()), None, None, Some(false)),
            (Some(Event::Succeeded), Some(departure(0, false)), None, Some(false)),
            (Some(interrupted()), Some(departure(76, true)), None, Some(true)),
            (None, Some(departure(76, true)), None, Some(true)),
            (None, Some(departure(134, false)), None, Some(false)),
            (None, None, Some(Outcome::Interrupted { cause: None }), Some(true)),
            (None, None, Some(failed_for_good()), Some(false)),
            (Some(interrupted()), Some(departure(76, true)), Some(Outcome::Cancelled), Some(false)),
        ];
        for (number, (event, departure, outcome, expected)) in cases.into_iter().enumerate() {
            let workspace = Workspace::new();
            let home = workspace.layout();
            if let Some(event) = event {
                says(&home, event);
            }
            if let Some(departure) = departure {
                write(&home.departure(id_of(0), 1), &departure);
            }
            if let Some(outcome) = outcome {
                write(&home.verdict(id_of(0), 1), &verdict(outcome));
            }
            assert_eq!(how_it_ended(&home, id_of(0), 1), expected, "case {number}");
        }
    }

    #[test]
    fn attempts_are_counted_as_numbers() {
        let workspace = Workspace::new();
        let home = workspace.layout();
        assert!(newest_attempt(&home, id_of(0)).is_err(), "there is no run");
        for name in ["attempt-2", "attempt-10", "attempt-x", "model"] {
            fs::create_dir_all(home.run(id_of(0)).join(name)).unwrap();
        }
        assert_eq!(newest_attempt(&home, id_of(0)).unwrap(), 10);
    }

    #[test]
    fn exit_codes_are_told_apart() {
        let ends = [TaskEnd::Done, TaskEnd::SomeFailed, TaskEnd::Interrupted, TaskEnd::Held];
        assert_eq!(ends.map(TaskEnd::code), [0, 1, 76, 80]);
    }
}
