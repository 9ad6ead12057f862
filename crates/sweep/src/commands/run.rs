//! `sweep run`: everything a sweep still needs, from wherever it was left.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use sweep_core::home::Home;
use sweep_core::spec::{RunId, RunSpec};
use sweep_core::{Execution, Executor, Grid, Sweep};
use sweep_scheduler::{
    Device, Halt, RetryPolicy, Settings, Slot, SlotRequest, Stop, Summary, WorkerCommand, dispatch,
};
use sweep_store::{Reader, State, Store, SweepFile, now_ms};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::cli::RunArgs;
use crate::commands::compare;
use crate::disk::{self, Forecast, Room};
use crate::exit::{Exit, bad_input};
use crate::hub::Unknown;
use crate::progress::Display;
use crate::size::Size;
use crate::sweeps::{self, Loaded};
use crate::{printer, support};

pub(crate) fn run(home: &Home, arguments: RunArgs) -> Result<Exit> {
    let mut loaded = sweeps::load(&arguments.sweep, home, Unknown::Refuse)?;
    support::check(&loaded.grid)?;
    if let Executor::Slurm(_) = arguments.executor.merged(&loaded.sweep.execution.executor)? {
        return Err(bad_input(
            "runs cannot be given to Slurm yet\n  hint: write --executor local, inside a job of your own",
        ));
    }
    let slots = slots(&arguments, &loaded.sweep.execution)?;
    let worker = match &arguments.worker {
        Some(program) => program.clone(),
        None => std::env::current_exe().context("failed to find this program's own file")?,
    };
    loaded.sources.hub().bring(&mut loaded.grid)?;
    fs::create_dir_all(home.root())
        .with_context(|| format!("failed to create `{}`", home.root().display()))?;
    loaded.sources.store()?;
    let Loaded { sweep, grid, text, .. } = loaded;
    sweeps::block_on(carry_out(home, arguments, Registration { sweep, grid, text }, worker, slots))
}

/// What the store is told about a sweep.
struct Registration {
    sweep: Sweep,
    grid: Grid,
    text: String,
}

async fn carry_out(
    home: &Home,
    arguments: RunArgs,
    registration: Registration,
    worker: PathBuf,
    slots: Vec<Slot>,
) -> Result<Exit> {
    let Registration { sweep, grid, text } = registration;
    let runs: Vec<(RunId, &RunSpec)> = grid.runs.iter().map(|(run, spec)| (*run, spec)).collect();
    let slots_count = slots.len();
    check_room(home, &runs, slots_count, &sweep.execution).await?;
    let store = Store::open(home.database()).await?;
    let registered = store.register_sweep(&sweep.name, &text, &runs, now_ms()).await?;
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
    let execution = &sweep.execution;
    let settings = Settings {
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
        disk_need: open.iter().map(|(run, spec)| (*run, Size::of(spec).running())).collect(),
        ..Settings::new(home.clone(), WorkerCommand { program: worker, arguments: Vec::new() }, slots)
    };
    let stop = stop_on_signals()?;
    let summary = dispatch(&store, &runs, &settings, stop, &mut |update| display.update(update)).await?;
    display.finish();
    if matches!(summary.halted, Some(Halt::DiskFull { .. } | Halt::DiskFilled { .. })) {
        let left = still_open(store.reader(), &runs).await?;
        let forecast = Forecast::of(&left, slots_count, sweep.execution.keep_checkpoints);
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
    printer::note(&in_words(&summary));
    Ok(exit(&summary))
}

/// Refuses a grid that cannot fit the disk, before anything is written.
async fn check_room(
    home: &Home,
    runs: &[(RunId, &RunSpec)],
    slots: usize,
    execution: &Execution,
) -> Result<()> {
    let open = match Reader::open(home.database()).await {
        Ok(reader) => still_open(&reader, runs).await?,
        // Without a database of this version every run is taken to be left.
        Err(_) => runs.to_vec(),
    };
    let forecast = Forecast::of(&open, slots, execution.keep_checkpoints);
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

/// Returns the slots of the command line, else those of the sweep file, else one on all cores.
fn slots(arguments: &RunArgs, execution: &Execution) -> Result<Vec<Slot>> {
    let visible = std::env::var("CUDA_VISIBLE_DEVICES").ok();
    let request = SlotRequest {
        devices: arguments.devices.as_deref().or(execution.devices.as_deref()).unwrap_or("cpu"),
        threads: arguments.threads.or(execution.threads),
        cores: std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32),
        visible_devices: visible.as_deref(),
    };
    let slots = Slot::plan(&request).map_err(bad_input)?;
    match slots.iter().find(|slot| slot.device() != Device::Cpu) {
        Some(slot) if arguments.worker.is_none() => {
            let device = slot.device();
            Err(bad_input(format!(
                "`{device}` is not available: this build computes on the CPU only\n  hint: write --devices cpu"
            )))
        }
        _ => Ok(slots),
    }
}

async fn reset_failed(store: &Store, grid: &Grid) -> Result<()> {
    let ids: Vec<RunId> = grid.runs.iter().map(|(run, _)| *run).collect();
    let states = store.reader().states_of(&ids).await?;
    let failed = states.into_iter().filter(|state| matches!(state.state, State::Failed | State::Cancelled));
    let failed: Vec<RunId> = failed.map(|state| state.id).collect();
    store.reset(&failed, now_ms()).await?;
    Ok(())
}

/// The first SIGINT, SIGTERM or SIGHUP asks workers to save and leave, the second kills them. A signal that is ignored from
/// outside, as SIGHUP under `nohup`, stays ignored.
fn stop_on_signals() -> Result<watch::Receiver<Stop>> {
    let (sender, receiver) = watch::channel(Stop::None);
    let ignored = ignored_signals();
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
    for kind in kinds.into_iter().filter(|kind| ignored & (1 << (kind.as_raw_value() - 1)) == 0) {
        let mut stream = signal(kind).context("failed to listen for signals")?;
        let sender = sender.clone();
        tokio::spawn(async move {
            while stream.recv().await.is_some() {
                sender.send_modify(|level| {
                    *level = if *level == Stop::None { Stop::Graceful } else { Stop::Now }
                });
            }
        });
    }
    Ok(receiver)
}

/// Returns the signals that this process was told to ignore when it was started, a bit each; none where the system does
/// not say.
fn ignored_signals() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

fn in_words(summary: &Summary) -> String {
    let parts = [
        (summary.already_succeeded + summary.succeeded, "succeeded"),
        (summary.all_failed(), "failed"),
        (summary.interrupted, "interrupted"),
        (summary.blocked, "blocked"),
        (summary.elsewhere, "elsewhere"),
        (summary.pending, "pending"),
        (summary.cancelled, "cancelled"),
    ];
    let counts: Vec<String> =
        parts.iter().filter(|(count, _)| *count > 0).map(|(count, word)| format!("{count} {word}")).collect();
    let hint = if summary.is_complete() {
        ""
    } else if summary.all_failed() > 0 {
        "\n  hint: `sweep logs RUN` shows why; --retry-failed runs failed runs again, --no-early-stop goes on whatever fails"
    } else {
        "\n  hint: the same command goes on where this one stopped"
    };
    format!("{} runs: {}{hint}", summary.total, counts.join(", "))
}

fn exit(summary: &Summary) -> Exit {
    match summary.halted {
        Some(sweep_scheduler::Halt::Requested) if !summary.is_complete() => Exit::Interrupted,
        _ if summary.is_complete() => Exit::Success,
        _ => Exit::SomeFailed,
    }
}
