//! One attempt at one run, in a process of its own: data, training, checkpoints, evaluation.
//!
//! The worker reads the run's `spec.json`, writes checkpoints, the final model and an append-only `events.jsonl`, and
//! ends with an exit code. It never opens the database and never talks to the scheduler but through those files, its
//! standard input (whose end means that the scheduler is gone) and signals. All of it is plain synchronous code.

mod average;
mod checkpoint;
mod digest;
mod error;
mod evaluate;
mod events;
mod files;
mod groups;
mod history;
mod measure;
mod network;
mod objective;
mod session;
mod stop;
mod train;

use std::fs;
use std::path::PathBuf;

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
    /// Device, such as `cpu`.
    pub device: String,
}

/// How an attempt ended, as an exit code (see [`Ending::code`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The run is complete.
    Succeeded,
    /// Asked to stop; what was done is saved.
    Interrupted,
    /// Failed; the code says how.
    Failed(u8),
}

impl Ending {
    /// Returns the exit code: 0 done, 75 transient, 76 stopped on request, 77 out of memory, 78 configuration,
    /// 79 diverged, 1 any other failure.
    pub const fn code(self) -> u8 {
        match self {
            Self::Succeeded => 0,
            Self::Interrupted => 76,
            Self::Failed(code) => code,
        }
    }
}

/// Returns why this build cannot train a network of this shape, or `None` if it can.
pub fn unsupported(spec: &RunSpec) -> Option<String> {
    network::describable(spec).err().map(|error| error.with_causes())
}

/// Carries out one attempt and says how it ended. Whatever goes wrong is also the last event of the attempt.
///
/// # Errors
/// Only where not even the event file can be written.
pub fn run_attempt(arguments: &Arguments, stop: &Stop) -> Result<Ending> {
    let home = Home::new(&arguments.home);
    let mut log = EventLog::create(&home.events(arguments.run, arguments.attempt))?;
    match attempt(arguments, &home, stop, &mut log) {
        Ok(()) => {
            log.write_durably(Event::Succeeded)?;
            Ok(Ending::Succeeded)
        }
        Err(Error::Stopped { epochs }) => {
            log.write_durably(Event::Interrupted { epochs })?;
            Ok(Ending::Interrupted)
        }
        Err(error) => {
            let message = error.with_causes();
            tracing::error!(class = error.class().label(), "{message}");
            log.write_durably(Event::Failed { class: error.class(), message })?;
            Ok(Ending::Failed(error.exit_code()))
        }
    }
}

fn attempt(arguments: &Arguments, home: &Home, stop: &Stop, log: &mut EventLog) -> Result<()> {
    let past = session::Past::read(arguments, home)?;
    log.write(session::started(arguments, past.position()))?;
    if arguments.device != "cpu" {
        return Err(Error::Device { device: arguments.device.clone() });
    }
    // The loader prepares batches in the global pool. Fails only where that exists already, as in tests that run
    // several attempts in one process.
    if rayon::ThreadPoolBuilder::new().num_threads(arguments.threads).build_global().is_err() {
        tracing::debug!("the thread pool of the process exists already");
    }
    let spec = read_spec(home, arguments.run)?;
    // The attempt itself runs on a thread of its own pool: handing every operation over to another thread would cost
    // more than a small operation, and a loader that shared the pool could wait for it forever.
    let pool =
        rayon::ThreadPoolBuilder::new().num_threads(arguments.threads).build().map_err(Error::Threads)?;
    pool.install(|| session::Session::open(past, home, spec, stop, log)?.run())
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
