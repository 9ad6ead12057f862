//! `sweep explain`: where a run stands, why, and what happens next.

use anyhow::{Context as _, Result};
use indicatif::{BinaryBytes, DecimalBytes};
use sweep_core::event::{FailureClass, Phase};
use sweep_core::home::Home;
use sweep_core::spec::{RunId, RunSpec};
use sweep_core::trajectory::followers;
use sweep_store::{Attempt, DeviceUse, Reader, ResultRow, RunState, State, Submission, now_ms};

use crate::cli::ExplainArgs;
use crate::exit::{Exit, bad_input};
use crate::progress::duration;
use crate::{printer, sweeps};

pub(crate) fn run(home: &Home, arguments: &ExplainArgs) -> Result<Exit> {
    let text = sweeps::block_on(async {
        let reader = sweeps::open(home).await?;
        let run = reader.resolve_run(&arguments.run).await.map_err(bad_input)?;
        explain(home, &reader, run).await
    })?;
    printer::data(&text)?;
    Ok(Exit::Success)
}

/// What an explanation is made of.
struct Facts {
    result: ResultRow,
    state: RunState,
    attempts: Vec<Attempt>,
    /// Whether somebody is alive in the last attempt.
    alive: bool,
    /// Whether any attempt of the home folder is alive.
    somebody_works: bool,
    /// Where it is with Slurm.
    submission: Option<Submission>,
}

async fn explain(home: &Home, reader: &Reader, run: RunId) -> Result<String> {
    let running = reader.running_attempts().await?;
    let alive = |run, attempt| sweep_scheduler::is_alive(home, run, attempt);
    let state = reader.states_of(&[run]).await?.pop().context("the run was there a moment ago")?;
    let facts = Facts {
        result: reader.result_of(run).await?.context("the run was there a moment ago")?,
        attempts: reader.attempts_of(run).await?,
        alive: state.state == State::Running && alive(run, state.attempts)?,
        somebody_works: running
            .iter()
            .map(|at| alive(at.run, at.attempt))
            .collect::<Result<Vec<bool>, _>>()?
            .contains(&true),
        submission: reader.open_submissions().await?.into_iter().find(|row| row.run == run),
        state,
    };
    let mut text = String::new();
    let mut line = |label: &str, value: &str| text.push_str(&format!("{label:<10} {value}\n"));
    let result = &facts.result;
    line("run", &result.id.to_string());
    line(
        "what",
        &format!(
            "{} on {}, target epsilon {}, {}, seed {}, {} epochs",
            result.backbone,
            result.dataset,
            result.target_epsilon,
            result.epsilon_schedule,
            result.seed,
            result.epochs
        ),
    );
    line("state", &format!("{}, {} of {} epochs", result.state, result.epochs_done, result.epochs));
    let (why, next) = match facts.state.state {
        State::Pending | State::Interrupted if facts.submission.is_some() => with_slurm(&facts),
        State::Pending => pending(reader, &facts).await?,
        State::Running => running_words(&facts),
        State::Interrupted => (stopped(&facts), go_on(&facts)),
        State::Failed => (failure(&facts), remedy(&facts)),
        State::Cancelled => (
            "somebody took it out".to_owned(),
            format!("`sweep retry {}` takes it in again", result.id.short()),
        ),
        State::Succeeded => (finished(&facts), "nothing: it is complete".to_owned()),
    };
    line("why", &why);
    line("next", &next);
    for checkpoint in reader.checkpoints_of(run).await? {
        let path = home.root().join(&checkpoint.file);
        if path.exists() {
            let place =
                if checkpoint.step == 0 { String::new() } else { format!(" and {} steps", checkpoint.step) };
            line(
                "kept",
                &format!(
                    "a checkpoint after {} epochs{place} ({})",
                    checkpoint.epochs,
                    DecimalBytes(checkpoint.bytes)
                ),
            );
        }
    }
    for attempt in &facts.attempts {
        line(&format!("attempt {}", attempt.number), &history(attempt));
    }
    if let Some(tail) = facts
        .attempts
        .last()
        .and_then(|attempt| attempt.log_tail.as_deref())
        .filter(|tail| !tail.trim().is_empty())
    {
        text.push_str(&format!(
            "\nend of the last attempt's log (`sweep logs {}` has all of it)\n{tail}",
            result.id.short()
        ));
    }
    Ok(text)
}

/// Where a run waits that Slurm is to start, and why.
fn with_slurm(facts: &Facts) -> (String, String) {
    let Some(submission) = &facts.submission else { return (String::new(), String::new()) };
    let Submission { generation, job, task, reason, .. } = submission;
    let job = job.map_or_else(|| "a job that is being submitted".to_owned(), |job| format!("job {job}"));
    let why = reason.as_deref().map_or_else(String::new, |reason| format!(", which waits: {reason}"));
    (
        format!("it is task {task} of {job} ({generation}){why}"),
        "it runs when Slurm starts the task; `sweep run FILE` with executor slurm follows it".to_owned(),
    )
}

/// Why a pending run does not run, and what will change that.
async fn pending(reader: &Reader, facts: &Facts) -> Result<(String, String)> {
    let start = || {
        if facts.somebody_works {
            "it runs when a slot is free".to_owned()
        } else {
            "nobody works here now: `sweep run FILE` runs it".to_owned()
        }
    };
    if let Some(dependency) = facts.state.depends_on {
        let other = reader
            .states_of(&[dependency])
            .await?
            .pop()
            .context("a run starts from one that is not stored")?;
        if other.state != State::Succeeded {
            let short = dependency.short();
            let next = if other.state.is_final() {
                format!("`sweep retry {short}`, then `sweep run FILE`")
            } else {
                "it runs when that one has succeeded".to_owned()
            };
            return Ok((format!("it starts from the model of run {short}, which is {}", other.state), next));
        }
    }
    if let Some((leader, epochs)) = leader(reader, facts.result.id).await? {
        let short = leader.id.short();
        return Ok((
            format!(
                "run {short} ({}) trains its first {epochs} epochs as well, which are not done twice",
                leader.state
            ),
            "it runs when those are stored, or that run is over".to_owned(),
        ));
    }
    if let Some(failure) = &facts.state.failure {
        return Ok((
            format!(
                "attempt {} failed ({}): {}",
                facts.state.attempts,
                failure.class.label(),
                failure.message
            ),
            "it is tried again".to_owned(),
        ));
    }
    Ok(("it waits for its turn".to_owned(), start()))
}

/// Returns the run that trains the beginning of `run` as well, and how many epochs of it, while those are not stored.
async fn leader(reader: &Reader, run: RunId) -> Result<Option<(RunState, u32)>> {
    let open = reader.specs_of(&[State::Pending, State::Running, State::Interrupted]).await?;
    let runs: Vec<(RunId, &RunSpec)> = open.iter().map(|(run, _, spec)| (*run, spec)).collect();
    let Some(follower) = followers(&runs).into_iter().find(|follower| follower.run == run) else {
        return Ok(None);
    };
    let saved = reader.checkpoint_epochs(&[follower.leader]).await?;
    if saved.get(&follower.leader).is_some_and(|epochs| *epochs >= follower.epochs) {
        return Ok(None);
    }
    Ok(reader.states_of(&[follower.leader]).await?.pop().map(|state| (state, follower.epochs)))
}

fn running_words(facts: &Facts) -> (String, String) {
    let Some(attempt) = facts.attempts.last() else { return (String::new(), String::new()) };
    let place = format!(
        "attempt {}{} on {}, process {}, {}",
        attempt.number,
        attempt.scheduler.strip_prefix("slurm:").map_or_else(String::new, |task| format!(", task {task},")),
        attempt.host.as_deref().unwrap_or("an unknown host"),
        attempt.pid.map_or_else(|| "unknown".to_owned(), |pid| pid.to_string()),
        attempt.device.as_deref().unwrap_or("device unknown"),
    );
    if !facts.alive {
        let next = "the next `sweep run` notices, and goes on from the last checkpoint";
        return (format!("{place}: the process is gone and its scheduler did not see it"), next.to_owned());
    }
    let moved = attempt.progress.map_or_else(String::new, |at| {
        format!(
            "; {} epoch {}, step {} of {}, {} ago",
            verb(at.phase),
            at.epoch + 1,
            at.step,
            at.steps,
            ago(at.time_ms)
        )
    });
    let heard = attempt.heard_ms.map_or_else(String::new, |at| format!("; heard from {} ago", ago(at)));
    (format!("{place}, alive{moved}{heard}"), "nothing to do".to_owned())
}

fn stopped(facts: &Facts) -> String {
    match (&facts.state.failure, facts.attempts.last()) {
        (Some(failure), _) => format!("{}: {}", failure.class.label(), failure.message),
        (None, Some(attempt)) => format!(
            "attempt {} was stopped{}",
            attempt.number,
            attempt.ended_ms.map_or_else(String::new, |at| format!(" {} ago", ago(at)))
        ),
        (None, None) => "it was stopped before its first attempt".to_owned(),
    }
}

fn go_on(facts: &Facts) -> String {
    format!(
        "`sweep run FILE` goes on after {} epochs, or from the step of its newest checkpoint",
        facts.result.epochs_done
    )
}

fn finished(facts: &Facts) -> String {
    let attempts = facts.attempts.len();
    format!("complete after {attempts} {}", if attempts == 1 { "attempt" } else { "attempts" })
}

fn failure(facts: &Facts) -> String {
    facts.state.failure.as_ref().map_or_else(
        || "it failed".to_owned(),
        |failure| format!("{}: {}", failure.class.label(), failure.message),
    )
}

/// What can be done about a failure, by its class.
fn remedy(facts: &Facts) -> String {
    let class = facts.state.failure.as_ref().map(|failure| failure.class);
    let advice = match class {
        Some(FailureClass::Diverged) => {
            "a loss that is not finite is a result: a lower learning rate or `clip_norm` makes another run"
        }
        Some(FailureClass::OutOfMemory) => {
            "no smaller micro batch is left to try: fewer runs at once, a larger machine, or another `micro_batch_size` in the sweep file"
        }
        Some(FailureClass::Data | FailureClass::Weights | FailureClass::Hub) => {
            "mend the data or weights first"
        }
        Some(FailureClass::Configuration) => "mend the sweep file or the program first",
        Some(FailureClass::Timeout) => {
            "`execution.timeout` and `execution.stall` say how long an attempt may take"
        }
        Some(FailureClass::WorkerDied) => {
            "its process died again and again without saving a checkpoint in between; the log may say why"
        }
        Some(FailureClass::Storage | FailureClass::DiskFull) => "see to the disk first: `sweep doctor`",
        None => "",
    };
    format!("{advice}; then `sweep retry {}` and `sweep run FILE`", facts.result.id.short())
}

fn history(attempt: &Attempt) -> String {
    let mut text = attempt.state.label().to_owned();
    if let Some(ended) = attempt.ended_ms {
        text.push_str(&format!(" after {}", duration((ended - attempt.started_ms) as f64 / 1e3)));
    }
    if let Some(epochs) = attempt.resumed_from.filter(|epochs| *epochs > 0) {
        let whose = attempt.resumed_run.map_or_else(String::new, |run| format!(" of run {}", run.short()));
        text.push_str(&format!(", began at epoch {} from a checkpoint{whose}", epochs + 1));
    }
    if let Some(size) = attempt.micro_batch_size {
        text.push_str(&format!(", {size} images a pass"));
    }
    if let Some(DeviceUse { memory_bytes, memory_total_bytes, utilization }) = attempt.device_use {
        let (used, total) = (BinaryBytes(memory_bytes), BinaryBytes(memory_total_bytes));
        text.push_str(&format!(
            ", {used} of {total} GPU memory, {:.0} % of the time busy",
            100.0 * utilization
        ));
    }
    match (attempt.exit_code, attempt.signal) {
        (Some(code), _) => text.push_str(&format!(", exit code {code}")),
        (None, Some(signal)) => text.push_str(&format!(", signal {signal}")),
        (None, None) => {}
    }
    if let Some(failure) = &attempt.failure {
        text.push_str(&format!(", {}: {}", failure.class.label(), failure.message));
    }
    text
}

const fn verb(phase: Phase) -> &'static str {
    match phase {
        Phase::Loading => "loading,",
        Phase::Training => "training",
        Phase::Validation => "validating after",
        Phase::Evaluation => "measuring after",
    }
}

fn ago(time_ms: i64) -> String {
    duration((now_ms() - time_ms) as f64 / 1e3)
}
