//! `sweep worker`: one attempt at one run.

use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use sweep_core::home::Home;
use sweep_worker::{Arguments, Ending, Stop, run_attempt};

use crate::cli::WorkerArgs;
use crate::exit::Exit;

pub(crate) fn run(home: &Home, arguments: &WorkerArgs) -> Result<Exit> {
    let stop = Stop::new();
    stop.on_signals().context("failed to set signal handlers")?;
    stop.on_end_of_input().context("failed to watch standard input")?;
    let arguments = Arguments {
        home: home.root().to_owned(),
        run: arguments.run,
        attempt: arguments.attempt,
        threads: arguments.threads.max(1),
        device: arguments.device.clone(),
        checkpoint_every: Duration::from_secs(arguments.checkpoint_every),
        until: arguments.until.map(|seconds| UNIX_EPOCH + Duration::from_secs(seconds)),
    };
    Ok(match run_attempt(&arguments, &stop) {
        Ending::Succeeded => Exit::Success,
        ending => Exit::Worker(ending.code()),
    })
}
