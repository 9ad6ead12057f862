//! One attempt at one run, in a process of its own: data, training, checkpoints, evaluation.
//!
//! The worker reads the run's `spec.json` and `sharing.json`, writes checkpoints, the final model and an append-only
//! `events.jsonl`, and ends with an exit code. It never opens the database and never talks to the scheduler but through
//! those files, its standard input (whose end means that the scheduler is gone) and signals. All of it is plain
//! synchronous code.
//!
//! It may be killed at any point: what is on the disk then is whole, and the next attempt comes to the same bits. And it
//! may be taken for dead while it lives: it looks whether the run is still its own before it writes anything.

mod average;
mod checkpoint;
pub mod compute;
mod deadline;
mod digest;
mod error;
mod evaluate;
mod events;
mod fence;
mod files;
mod gpu;
mod groups;
mod heartbeat;
mod history;
mod load;
mod measure;
mod network;
mod objective;
mod probe;
mod save;
mod session;
mod sharing;
mod started;
mod stop;
mod train;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use sweep_core::event::Event;
use sweep_core::home::Home;
use sweep_core::spec::{RunId, RunSpec};

pub use digest::digest_file;
pub use error::{Error, Result};
pub use events::EventLog;
pub use measure::{
    Measurement, MeasurementLog, NamedAttack, Outcome, ParseAttackError, Point, Progress, Subject, measure,
    measurements, use_threads,
};
pub use stop::Stop;

use fence::Fence;
use files::sync_folder;
use gpu::Gpu;
use heartbeat::Heartbeat;
use session::{Past, Session};

/// What a worker process is told.
#[derive(Clone, Debug)]
pub struct Arguments {
    /// The home folder.
    pub home: PathBuf,
    /// The run.
    pub run: RunId,
    /// Number of the attempt, from 1; its folder exists.
    pub attempt: u32,
    /// Threads that compute.
    pub threads: usize,
    /// Device: `cpu`, or `cuda:0` for the GPU in `CUDA_VISIBLE_DEVICES`.
    pub device: String,
    /// Time after which a checkpoint is written within an epoch. At zero there is one after every step.
    pub checkpoint_every: Duration,
    /// When it must be gone, if at some time: the attempt ends itself, as if somebody had asked it to, before an epoch that
    /// would take longer than that. An attempt that has not finished an epoch of its own goes on until it is stopped.
    pub until: Option<SystemTime>,
}

/// How an attempt ended, as an exit code (see [`Ending::code`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The run is complete.
    Succeeded,
    /// Asked to stop; what was done is saved.
    Interrupted,
    /// Somebody else has the run; nothing more was written.
    Fenced,
    /// Failed; the code says how.
    Failed(u8),
}

impl Ending {
    /// Returns the exit code: 0 done, 74 disk full, 75 transient, 76 stopped on request or because somebody else has the
    /// run, 77 out of memory, 78 configuration, 79 diverged, 1 any other failure.
    pub const fn code(self) -> u8 {
        match self {
            Self::Succeeded => 0,
            Self::Interrupted | Self::Fenced => 76,
            Self::Failed(code) => code,
        }
    }
}

/// Returns why this build cannot train a network of this shape, or `None` if it can.
pub fn unsupported(spec: &RunSpec) -> Option<String> {
    network::describable(spec).err().map(|error| error.with_causes())
}

/// Carries out one attempt and says how it ended, which is also the last event of the attempt: unless that cannot be
/// written, which is then how it ended, or somebody else has the run ([`Ending::Fenced`]).
pub fn run_attempt(arguments: &Arguments, stop: &Stop) -> Ending {
    let home = Home::new(&arguments.home);
    let fence = Fence::new(&home, arguments.run, arguments.attempt);
    match EventLog::fenced(&home.events(arguments.run, arguments.attempt), fence) {
        Ok(log) => conclude(attempt(arguments, &home, stop, &log), &log),
        Err(error) => unrecorded(&error),
    }
}

/// Writes the last event.
fn conclude(outcome: Result<()>, log: &EventLog) -> Ending {
    let (event, ending) = match outcome {
        Ok(()) => (Event::Succeeded, Ending::Succeeded),
        Err(Error::Stopped { epochs }) => (Event::Interrupted { epochs }, Ending::Interrupted),
        Err(error @ Error::Fenced { .. }) => return unrecorded(&error),
        Err(error) => {
            let message = error.with_causes();
            tracing::error!(class = error.class().label(), "{message}");
            (Event::Failed { class: error.class(), message }, Ending::Failed(error.exit_code()))
        }
    };
    log.write_durably(event).map_or_else(|error| unrecorded(&error), |()| ending)
}

/// Ends an attempt about which nothing more can be written but the log.
fn unrecorded(error: &Error) -> Ending {
    if matches!(error, Error::Fenced { .. }) {
        tracing::warn!("{error}");
        return Ending::Fenced;
    }
    tracing::error!(class = error.class().label(), "not recorded: {}", error.with_causes());
    Ending::Failed(error.exit_code())
}

fn attempt(arguments: &Arguments, home: &Home, stop: &Stop, log: &EventLog) -> Result<()> {
    let past = read_spec(home, arguments.run).and_then(|spec| Past::read(arguments, home, spec));
    let gpu = if arguments.device == "cpu" { None } else { Gpu::of_this_process() };
    // Whatever is wrong with the input, an attempt begins with this event.
    log.write(started::event(arguments, past.as_ref().ok(), gpu.as_ref().and_then(Gpu::name)))?;
    let past = past?;
    keep_folders(arguments, home)?;
    compute::check(&arguments.device, past.spec().precision)?;
    let _heartbeat = Heartbeat::start(log, gpu)?;
    // The loader prepares batches in the global pool. Fails only where that exists already, as in tests that run
    // several attempts in one process.
    if rayon::ThreadPoolBuilder::new().num_threads(arguments.threads).build_global().is_err() {
        tracing::debug!("the thread pool of the process exists already");
    }
    // The attempt itself runs on a thread of its own pool: handing every operation over to another thread would cost
    // more than a small operation, and a loader that shared the pool could wait for it forever.
    let pool =
        rayon::ThreadPoolBuilder::new().num_threads(arguments.threads).build().map_err(Error::Threads)?;
    pool.install(|| {
        let outcome = Session::open(past, arguments, home, stop, log).and_then(Session::run);
        // The process does not wait for the threads of the pool.
        sweep_kernels::leave_devices();
        outcome
    })
}

/// Waits until the folders of the run and the attempt are on disk, with the names of the files in them: events that are
/// written durably would be lost all the same where a power failure took their file's name.
fn keep_folders(arguments: &Arguments, home: &Home) -> Result<()> {
    let Arguments { run, attempt, .. } = *arguments;
    sync_folder(&home.attempt(run, attempt))?;
    sync_folder(&home.run(run))?;
    home.run(run).parent().map_or(Ok(()), sync_folder)
}

fn read_spec(home: &Home, run: RunId) -> Result<RunSpec> {
    let path = home.spec(run);
    let text = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
    let spec: RunSpec =
        serde_json::from_str(&text).map_err(|source| Error::Spec { path: path.clone(), source })?;
    let found = spec.id();
    if found != run {
        return Err(Error::OtherRun { path, expected: run, found });
    }
    Ok(spec)
}
