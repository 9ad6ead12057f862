//! `sweep logs`: what a worker printed, or its events.

use std::fs;

use anyhow::{Context as _, Result};
use sweep_core::home::Home;

use crate::cli::LogsArgs;
use crate::exit::{Exit, bad_input};
use crate::{printer, sweeps};

pub(crate) fn run(home: &Home, arguments: &LogsArgs) -> Result<Exit> {
    let (run, attempts) = sweeps::block_on(async {
        let reader = sweeps::open(home).await?;
        let run = reader.resolve_run(&arguments.run).await.map_err(bad_input)?;
        Ok((run, reader.attempts_of(run).await?.len() as u32))
    })?;
    if attempts == 0 {
        let run = run.short();
        return Err(bad_input(format!(
            "run {run} has not started, so it has no log\n  hint: `sweep explain {run}` says what it waits for"
        )));
    }
    let attempt = arguments.attempt.unwrap_or(attempts);
    if attempt == 0 || attempt > attempts {
        return Err(bad_input(format!(
            "run {} has {attempts} attempts, not an attempt {attempt}",
            run.short()
        )));
    }
    let path = if arguments.events { home.events(run, attempt) } else { home.log(run, attempt) };
    let text = fs::read(&path).with_context(|| format!("failed to read `{}`", path.display()))?;
    printer::data(&String::from_utf8_lossy(&text))?;
    if text.is_empty() {
        printer::note(&format!("note: `{}` is empty: the worker had nothing to warn about", path.display()));
    }
    Ok(Exit::Success)
}
