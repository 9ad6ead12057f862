//! What the scheduler costs: wall time a run at 2 slots with a worker that does nothing, beside the bare cost of
//! starting that worker, and the costs of registering, resuming and looking at large sweeps.
//!
//! `cargo bench -p sweep-scheduler --bench overhead`; pass sizes to change 100, 1,000 and 10,000.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use sweep_core::spec::{RunId, RunSpec};
use sweep_scheduler::{Home, Settings, Slot, SlotRequest, Stop, WorkerCommand, dispatch};
use sweep_store::{Store, now_ms};
use sweep_testkit::{Workspace, fake_worker, sample_run};
use tokio::sync::watch;

/// Workers at a time.
const SLOTS: usize = 2;

/// Workers that are started without any scheduler, to know the floor.
const FLOOR_RUNS: u64 = 300;

/// Size of the sweep whose resumption is measured besides: the paper's.
const PAPER: u64 = 1440;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let asked: Vec<u64> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    let sizes = if asked.is_empty() { vec![100, 1_000, 10_000] } else { asked };
    // Built before anything is timed.
    fake_worker();
    let floor = floor(FLOOR_RUNS);
    say(&format!("bare start and wait, {SLOTS} at a time: {floor:.2} ms a run ({FLOOR_RUNS} runs)"));
    for size in sizes {
        measure(size).await;
    }
    measure(PAPER).await;
}

async fn measure(size: u64) {
    let workspace = Workspace::new();
    let expanding = Instant::now();
    let runs: Vec<(RunId, RunSpec)> = (0..size).map(sample_run).map(|spec| (spec.id(), spec)).collect();
    let listed: Vec<(RunId, &RunSpec)> = runs.iter().map(|(run, spec)| (*run, spec)).collect();
    let expanded = milliseconds(expanding);
    let opening = Instant::now();
    let store = Store::open(Home::new(workspace.home()).database()).await.expect("the store opens");
    let opened = milliseconds(opening);
    let registering = Instant::now();
    let registered =
        store.register_sweep("bench", "", &listed, now_ms()).await.expect("the runs are registered");
    let register = milliseconds(registering);

    let working = Instant::now();
    session(&store, &listed, workspace.home(), size as usize).await;
    let a_run = milliseconds(working) / size as f64;

    let resuming = Instant::now();
    store.register_sweep("bench", "", &listed, now_ms()).await.expect("the runs are registered");
    session(&store, &listed, workspace.home(), 0).await;
    let resume = milliseconds(resuming);
    let looking = Instant::now();
    let states = store.reader().run_states(registered.sweep).await.expect("the states are read");
    let look = milliseconds(looking);
    assert_eq!(states.len(), listed.len());
    say(&format!(
        "{size:>6} runs: {a_run:.2} ms a run; ids {expanded:.0} ms, open {opened:.0} ms, register {register:.0} ms; \
         when all are done: register and no-op session {resume:.0} ms, states {look:.0} ms"
    ));
}

/// Runs a session that must start `expected` workers and leave everything done.
async fn session(store: &Store, runs: &[(RunId, &RunSpec)], home: &Path, expected: usize) {
    let request = SlotRequest {
        devices: &format!("cpu:{SLOTS}"),
        threads: Some(1),
        cores: 1,
        visible_devices: None,
        gpus: None,
    };
    let slots = Slot::plan(&request).expect("these are slots");
    let worker = WorkerCommand { program: fake_worker().to_owned(), arguments: Vec::new() };
    let settings = Settings::new(Home::new(home), worker, slots);
    let (_stop, stopped) = watch::channel(Stop::None);
    let summary = dispatch(store, runs, &settings, stopped, &mut |_| {}).await.expect("the session ends");
    assert!(summary.is_complete() && summary.attempts == expected, "{summary:?}");
}

/// Returns the milliseconds a run that it takes to start the same worker and wait for it, with nothing around it.
fn floor(count: u64) -> f64 {
    let workspace = Workspace::new();
    for seed in 0..count {
        let (home, spec) = (workspace.layout(), sample_run(seed));
        std::fs::create_dir_all(home.attempt(spec.id(), 1)).expect("the workspace is writable");
        let json = serde_json::to_vec(&spec).expect("a spec becomes JSON");
        std::fs::write(home.spec(spec.id()), json).expect("the workspace is writable");
    }
    let starting = Instant::now();
    let mut running: Vec<Child> = Vec::new();
    for seed in 0..count {
        if running.len() == SLOTS {
            assert!(running.remove(0).wait().expect("the worker ends").success());
        }
        running.push(start(workspace.home(), sample_run(seed).id()));
    }
    for mut worker in running {
        assert!(worker.wait().expect("the worker ends").success());
    }
    milliseconds(starting) / count as f64
}

fn start(home: &Path, run: RunId) -> Child {
    Command::new(fake_worker())
        .args([
            "worker",
            "--run",
            &run.to_string(),
            "--attempt",
            "1",
            "--threads",
            "1",
            "--device",
            "cpu",
            "--home",
        ])
        .arg(home)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the worker starts")
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

#[expect(clippy::print_stdout, reason = "a benchmark reports to its caller")]
fn say(line: &str) {
    println!("{line}");
}
