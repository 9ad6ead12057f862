//! What a grid costs beyond its runs: the real program with a worker that does nothing, at 2 slots.
//!
//! `cargo bench -p sweep --bench grid [-- --quick]` prints milliseconds a run for grids of 100, 1,000 and 10,000 runs beside
//! starting and awaiting `true`, and the time of `plan` and of a `run` with nothing left to do.
//! For comparison, wall time on two cores: HyperQueue 6 ms a task, a bare spawn with two durable transactions 9 ms, Optuna
//! on SQLite 14 ms a trial, Hydra 102 ms a job.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark prints, and stops at the first surprise"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use sweep_core::{Resolve, Sweep};
use sweep_store::{Store, now_ms};
use sweep_testkit::{Workspace, fake_worker};

/// The allocator of the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    expand_and_store(10_000);
    let quick = std::env::args().any(|argument| argument == "--quick");
    let sizes: &[usize] = if quick { &[100, 1_000] } else { &[100, 1_000, 10_000] };
    println!("bare spawn and wait of `true`, 2 at a time: {:.2} ms a run", bare(300));
    let mut costs = Vec::new();
    for &size in sizes {
        let workspace = grid(size);
        let seconds = timed(workspace.home(), &["run", "sweep.yaml", "--devices", "cpu:2"]);
        costs.push(seconds * 1e3 / size as f64);
        println!("grid of {size}: {seconds:.2} s, {:.2} ms a run", seconds * 1e3 / size as f64);
        report(&workspace, size);
    }
    println!(
        "flatness: {:.2} (cost a run of the largest grid over that of the smallest)",
        costs.last().unwrap() / costs[0]
    );
    let workspace = grid(1_440);
    timed(workspace.home(), &["run", "sweep.yaml", "--devices", "cpu:2"]);
    report(&workspace, 1_440);
}

/// Prints how long it takes to read, expand and store a grid that is new to the database: the median of five.
fn expand_and_store(size: usize) {
    let workspace = grid(size);
    let text = fs::read(workspace.home().join("sweep.yaml")).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut seconds: Vec<f64> = (0..5)
        .map(|round| {
            let begin = Instant::now();
            let grid = Sweep::parse(&text, &[]).unwrap().expand(&NoFiles).unwrap();
            let runs: Vec<_> = grid.runs.iter().map(|(run, spec)| (*run, spec)).collect();
            runtime.block_on(async {
                let store = Store::open(workspace.home().join(format!("{round}.db"))).await.unwrap();
                store.register_sweep("bench", "", &runs, now_ms()).await.unwrap();
            });
            begin.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    println!("expand and store {size} runs: {:.3} s", seconds[2]);
}

/// The grids here name no files.
struct NoFiles;

impl Resolve for NoFiles {
    fn weights(&self, _: &Path) -> Result<(PathBuf, String), String> {
        Err("no files here".to_owned())
    }

    fn dataset(&self, path: &Path) -> Result<(PathBuf, String), String> {
        self.weights(path)
    }
}

/// Prints what the verbs cost on a grid that is done: the median of five.
fn report(workspace: &Workspace, size: usize) {
    for arguments in
        [&["plan", "sweep.yaml", "--summary"][..], &["plan", "sweep.yaml"], &["run", "sweep.yaml"]]
    {
        let mut seconds: Vec<f64> = (0..5).map(|_| timed(workspace.home(), arguments)).collect();
        seconds.sort_by(f64::total_cmp);
        println!("  {} over {size} finished runs: {:.3} s", arguments.join(" "), seconds[2]);
    }
}

fn grid(size: usize) -> Workspace {
    let workspace = Workspace::new();
    let seeds: Vec<String> = (0..size).map(|seed| seed.to_string()).collect();
    let yaml = format!(
        "name: bench\nrun: {{backbone: b, dataset: shapes, target_epsilon: 4/255, epsilon_schedule: {{kind: fixed}}, epochs: 9}}\n\
         backbones: {{b: {{architecture: {{kind: vit, image_size: 32, patch_size: 8, embed_dim: 64, depth: 4, num_heads: 2}}, \
         weights: {{kind: random}}}}}}\nmatrix: {{seed: [{}]}}\n",
        seeds.join(", ")
    );
    fs::write(workspace.home().join("sweep.yaml"), yaml).unwrap();
    workspace
}

fn timed(home: &Path, arguments: &[&str]) -> f64 {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sweep"));
    command
        .args(arguments)
        .current_dir(home)
        .env("SWEEP_HOME", home.join("runs"))
        .env("SWEEP_WORKER", fake_worker());
    let begin = Instant::now();
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    let seconds = begin.elapsed().as_secs_f64();
    assert!(status.success(), "{arguments:?}: {status}");
    seconds
}

/// The floor: `true` started and awaited by two threads. Returns milliseconds a process.
fn bare(count: usize) -> f64 {
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..count / 2 {
                    Command::new("true").stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
                }
            });
        }
    });
    begin.elapsed().as_secs_f64() * 1e3 / count as f64
}
