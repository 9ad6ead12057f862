//! `sweep run`: everything a sweep still needs, from wherever it was left.

use std::collections::HashSet;
use std::fs;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use sweep_core::home::Home;
use sweep_core::spec::{RunId, RunSpec};
use sweep_core::{Execution, Executor, Grid, SlurmOptions, Sweep};
use sweep_scheduler::slurm::SlurmSettings;
use sweep_scheduler::{Halt, RetryPolicy, Settings, Slot, Summary, WorkerCommand, dispatch, slurm};
use sweep_store::{Reader, State, Store, SweepFile, now_ms};

use crate::cli::RunArgs;
use crate::commands::compare;
use crate::devices;
use crate::disk::{self, Forecast, Room};
use crate::exit::{Exit, bad_input};
use crate::hub::Unknown;
use crate::progress::Display;
use crate::signals::stop_on_signals;
use crate::size::Size;
use crate::sweeps::{self, Loaded};
use crate::{printer, support};

pub(crate) fn run(home: &Home, arguments: &RunArgs) -> Result<Exit> {
    let mut loaded = sweeps::load(&arguments.sweep, home, Unknown::Refuse)?;
    support::check(&loaded.grid)?;
    loaded.tell();
    let execution = &loaded.sweep.execution;
    let executor = arguments.executor.merged(&execution.executor)?;
    let worker = match &arguments.worker {
        Some(program) => program.clone(),
        None => std::env::current_exe().context("failed to find this program's own file")?,
    };
    let (home, engine) = match executor {
        Executor::Local => {
            (home.clone(), Engine::Local { slots: devices::slots(arguments, execution, &loaded.grid)? })
        }
        Executor::Slurm(options) => {
            (absolute(home)?, Engine::Slurm(Box::new(plan(arguments, execution, *options, &loaded.grid)?)))
        }
    };
    let home = &home;
    let settings = settings(home, arguments, execution, worker, &engine);
    if let Engine::Slurm(plan) = &engine {
        if arguments.executor.print {
            return sweeps::block_on(print(home, &settings, plan, &loaded.grid));
        }
        sweeps::block_on(ask_slurm(home, &settings, plan))?;
    }
    loaded.sources.hub().bring(&mut loaded.grid)?;
    fs::create_dir_all(home.root())
        .with_context(|| format!("failed to create `{}`", home.root().display()))?;
    loaded.sources.store()?;
    let Loaded { sweep, grid, text, .. } = loaded;
    sweeps::block_on(carry_out(home, arguments, Registration { sweep, grid, text }, settings, &engine))
}

/// What runs the workers.
enum Engine {
    /// This process, in these slots.
    Local { slots: Vec<Slot> },
    /// Slurm.
    Slurm(Box<SlurmSettings>),
}

impl Engine {
    /// Returns how many of so many runs there may be at work at the same time.
    fn most_at_once(&self, runs: usize) -> usize {
        match self {
            Self::Local { slots } => slots.len(),
            Self::Slurm(plan) => {
                plan.options.array_limit.map_or(runs, |limit| runs.min(limit.get() as usize))
            }
        }
    }
}

fn settings(
    home: &Home,
    arguments: &RunArgs,
    execution: &Execution,
    worker: PathBuf,
    engine: &Engine,
) -> Settings {
    let slots = match engine {
        Engine::Local { slots } => slots.clone(),
        Engine::Slurm(_) => Vec::new(),
    };
    Settings {
        grace: Duration::from_secs(arguments.grace),
        retry: RetryPolicy {
            first_delay: Duration::from_secs(arguments.retry_delay),
            ..RetryPolicy::default()
        },
        max_failures: arguments.max_fail.map(|count| count as usize),
        stop_if_all_fail: !arguments.no_early_stop,
        timeout: execution.timeout,
        stall: execution.stall,
        checkpoint_every: Some(execution.checkpoint_every),
        keep_checkpoints: execution.keep_checkpoints,
        disk_budget: execution.disk_budget,
        ..Settings::new(home.clone(), WorkerCommand { program: worker, arguments: Vec::new() }, slots)
    }
}

/// What the store is told about a sweep.
struct Registration {
    sweep: Sweep,
    grid: Grid,
    text: String,
}

async fn carry_out(
    home: &Home,
    arguments: &RunArgs,
    registration: Registration,
    settings: Settings,
    engine: &Engine,
) -> Result<Exit> {
    let Registration { sweep, grid, text } = registration;
    let runs: Vec<(RunId, &RunSpec)> = grid.runs.iter().map(|(run, spec)| (*run, spec)).collect();
    check_room(home, &runs, engine, &sweep.execution).await?;
    let store = sweep_scheduler::open(home).await?;
    let registered = store.register_sweep(&sweep.name, &text, &runs, now_ms()).await?;
    if registered.unlisted > 0 {
        printer::note(&format!(
            "note: sweep {} listed {} other runs before; they stay in the results\n  hint: --set name=… gives this list a name of its own and keeps both",
            sweep.name, registered.unlisted
        ));
    }
    SweepFile::write(home, &sweep.name, &text, runs.iter().map(|(run, _)| *run).collect(), now_ms())?;
    if arguments.retry_failed {
        reset_failed(&store, &grid).await?;
    }
    let states = store.reader().run_states(registered.sweep).await?;
    let open: Vec<_> =
        runs.iter().zip(&states).filter(|(_, state)| !state.state.is_final()).map(|(run, _)| *run).collect();
    let mut display = Display::new(open.iter().copied());
    printer::note(&format!(
        "sweep {}: {} runs, {} finished before, in `{}`",
        sweep.name,
        runs.len(),
        runs.len() - open.len(),
        home.root().display()
    ));
    let settings = Settings {
        disk_need: open
            .iter()
            .map(|(run, spec)| (*run, Size::of(spec).need(sweep.execution.keep_checkpoints)))
            .collect(),
        ..settings
    };
    let stop = stop_on_signals()?;
    let mut observe = |update| display.update(update);
    let summary = match engine {
        Engine::Local { .. } => dispatch(&store, &runs, &settings, stop, &mut observe).await?,
        Engine::Slurm(plan) => {
            let summary = slurm::dispatch(&store, &runs, &settings, plan, stop, &mut observe).await;
            summary.map_err(|error| match error {
                sweep_scheduler::Error::Followed { .. } => bad_input(error),
                error => error.into(),
            })?
        }
    };
    display.finish();
    if matches!(summary.halted, Some(Halt::DiskFull { .. } | Halt::DiskFilled { .. })) {
        let left = still_open(store.reader(), &runs).await?;
        let forecast = Forecast::of(&left, engine.most_at_once(left.len()), sweep.execution.keep_checkpoints);
        let room = Room::of(home, sweep.execution.disk_budget, disk::used(home));
        printer::note(&format!(
            "the runs that are left need: {}; {}",
            forecast.in_words(),
            room.judge(forecast).0
        ));
    }
    let table = compare::of_sweep(store.reader(), registered.sweep).await?;
    let failed_gates = store.reader().failed_gates(registered.sweep).await?;
    store.close().await?;
    if let Some(table) = table {
        printer::data(&table)?;
    }
    for gate in failed_gates {
        let radii = gate.violations.unwrap_or_default();
        printer::note(&format!(
            "warning: run {} fails the sanity gate {} at {radii}",
            gate.run.short(),
            gate.gate
        ));
    }
    printer::note(&in_words(&summary, &sweep.name));
    Ok(exit(&summary, arguments.executor.detach))
}

/// Refuses a grid that cannot fit the disk, before anything is written.
async fn check_room(
    home: &Home,
    runs: &[(RunId, &RunSpec)],
    engine: &Engine,
    execution: &Execution,
) -> Result<()> {
    let open = match Reader::open(home.database()).await {
        Ok(reader) => still_open(&reader, runs).await?,
        // Without a database of this version every run is taken to be left.
        Err(_) => runs.to_vec(),
    };
    let forecast = Forecast::of(&open, engine.most_at_once(open.len()), execution.keep_checkpoints);
    Room::of(home, execution.disk_budget, disk::used(home)).check(forecast)
}

/// Returns the runs that are not over.
async fn still_open<'a>(reader: &Reader, runs: &[(RunId, &'a RunSpec)]) -> Result<Vec<(RunId, &'a RunSpec)>> {
    let ids: Vec<RunId> = runs.iter().map(|(run, _)| *run).collect();
    let states = reader.states_of(&ids).await?;
    let over: HashSet<RunId> =
        states.into_iter().filter(|state| state.state.is_final()).map(|state| state.id).collect();
    Ok(runs.iter().filter(|(run, _)| !over.contains(run)).copied().collect())
}

/// Returns how Slurm is used.
fn plan(
    arguments: &RunArgs,
    execution: &Execution,
    options: SlurmOptions,
    grid: &Grid,
) -> Result<SlurmSettings> {
    let devices = arguments.devices.as_deref().or(execution.devices.as_deref());
    let on_gpu = match devices {
        None => options.gpus.is_some(),
        Some("cpu") => false,
        Some("cuda") => true,
        Some(other) => {
            return Err(bad_input(format!(
                "`{other}` cannot be asked of Slurm, which chooses devices itself\n  hint: --gpus says how many a job gets; --devices cpu computes on its processors all the same"
            )));
        }
    };
    // What is called in a container may well have GPUs where this build has none.
    if on_gpu && arguments.worker.is_none() && options.program.is_empty() {
        devices::check_build("GPUs are not available", "leave `gpus` out, or add --devices cpu")?;
    }
    devices::check_precision(grid, !on_gpu)?;
    Ok(SlurmSettings {
        options,
        program: std::env::current_exe().context("failed to find this program's own file")?,
        on_gpu,
        threads: arguments.threads.or(execution.threads),
        variables: PASSED_TO_JOBS
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?)))
            .collect(),
        detach: arguments.executor.detach,
        hurry: arguments.hurry,
    })
}

/// Variables that jobs get from the environment of `sweep run`, which is not passed on otherwise.
const PASSED_TO_JOBS: [&str; 6] =
    ["SWEEP_LOG", "RUST_BACKTRACE", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "LD_LIBRARY_PATH"];

/// Returns the home folder by a path that means the same on compute nodes, as far as they have it.
fn absolute(home: &Home) -> Result<Home> {
    let root = std::path::absolute(home.root()).context("failed to find the working folder")?;
    let root = root.canonicalize().unwrap_or(root);
    let database = std::path::absolute(home.database()).context("failed to find the working folder")?;
    Ok(Home::new(root).with_database(Some(database)))
}

/// Shows what would be submitted, as far as one array goes.
async fn print(home: &Home, settings: &Settings, plan: &SlurmSettings, grid: &Grid) -> Result<Exit> {
    let runs: Vec<(RunId, &RunSpec)> = grid.runs.iter().map(|(run, spec)| (*run, spec)).collect();
    let left = match Reader::open(home.database()).await {
        Ok(reader) => still_open(&reader, &runs).await?.len(),
        Err(_) => runs.len(),
    };
    let tasks = left.div_ceil(plan.options.runs_per_job.get() as usize) as u32;
    let Some(tasks) = NonZeroU32::new(tasks) else {
        printer::note("every run is over: nothing would be submitted");
        return Ok(Exit::Success);
    };
    let slurm::Preview { script, command } = slurm::preview(settings, plan, tasks);
    printer::data(&format!("{script}\n# {command}\n"))?;
    printer::note(&format!(
        "{left} runs are left, {tasks} tasks; runs that wait for others come in later arrays"
    ));
    Ok(Exit::Success)
}

/// Has Slurm judge what would be submitted before anything is touched. Where jobs are with it already there is something to
/// come back to, whatever it thinks of further ones.
async fn ask_slurm(home: &Home, settings: &Settings, plan: &SlurmSettings) -> Result<()> {
    if let Ok(reader) = Reader::open(home.database()).await
        && !reader.open_submissions().await?.is_empty()
    {
        return Ok(());
    }
    match slurm::check(settings, plan).await {
        Ok(None) => Ok(()),
        Ok(Some(words)) => {
            printer::note(&format!("{words}; going on, it is asked again"));
            Ok(())
        }
        Err(error @ sweep_scheduler::Error::Slurm { .. }) => Err(bad_input(error)),
        Err(error) => Err(error.into()),
    }
}

async fn reset_failed(store: &Store, grid: &Grid) -> Result<()> {
    let ids: Vec<RunId> = grid.runs.iter().map(|(run, _)| *run).collect();
    let states = store.reader().states_of(&ids).await?;
    let failed = states.into_iter().filter(|state| state.state == State::Failed);
    let failed: Vec<RunId> = failed.map(|state| state.id).collect();
    store.reset(&failed, now_ms()).await?;
    Ok(())
}

fn in_words(summary: &Summary, sweep: &str) -> String {
    let parts = [
        (summary.already_succeeded + summary.succeeded, "succeeded"),
        (summary.all_failed(), "failed"),
        (summary.interrupted, "interrupted"),
        (summary.blocked, "blocked"),
        (summary.elsewhere, "elsewhere"),
        (summary.submitted, "with Slurm"),
        (summary.pending, "pending"),
        (summary.cancelled, "cancelled"),
    ];
    let counts: Vec<String> =
        parts.iter().filter(|(count, _)| *count > 0).map(|(count, word)| format!("{count} {word}")).collect();
    let hint = if summary.is_complete() {
        String::new()
    } else if summary.submitted > 0 {
        format!(
            "\n  hint: jobs go on; the same command comes back to them, `sweep cancel --sweep {sweep}` ends them"
        )
    } else if summary.all_failed() > 0 {
        "\n  hint: `sweep logs RUN` shows why; --retry-failed runs failed runs again, --no-early-stop goes on whatever fails".to_owned()
    } else if summary.only_cancelled_are_left() {
        format!("\n  hint: `sweep retry --sweep {sweep}` takes cancelled runs in again")
    } else {
        "\n  hint: the same command goes on where this one stopped".to_owned()
    };
    format!("{} runs: {}{hint}", summary.total, counts.join(", "))
}

/// Who detaches wants to leave while runs are left.
fn exit(summary: &Summary, detach: bool) -> Exit {
    match summary.halted {
        None if detach && summary.submitted > 0 && summary.all_failed() == 0 => Exit::Success,
        Some(sweep_scheduler::Halt::Requested) if !summary.is_complete() => Exit::Interrupted,
        _ if summary.is_complete() => Exit::Success,
        _ => Exit::SomeFailed,
    }
}
