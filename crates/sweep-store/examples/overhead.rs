//! What the store costs: registering, reading and following runs, at 100 and at 10,000 of them.
//!
//! `cargo run --release -p sweep-store --example overhead`
//!
//! Prints wall time and, on Linux, processor time of all threads: the steadier figure on a machine that others use.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a program that prints measurements")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::Instant;

use common::{NOW, complete, records, started, succeeded};
use sweep_core::event::Event;
use sweep_core::spec::{RunId, RunSpec};
use sweep_store::{At, Metric, Store};

#[tokio::main]
async fn main() {
    let small = measure(100).await;
    let large = measure(10_000).await;
    println!("claim+ingest+settle a run, 10,000 against 100: {:.2}", large / small);
}

/// Returns the milliseconds a run of claim, ingest and settle.
async fn measure(count: u64) -> f64 {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("results.db");
    let specs = common::specs(count);
    let runs: Vec<(RunId, &RunSpec)> = specs.iter().map(|spec| (spec.id(), spec)).collect();
    println!("{count} runs");

    let start = Clock::start();
    let store = Store::open(&path).await.unwrap();
    line("create the database", &start);

    let start = Clock::start();
    let sweep = store.register_sweep("overhead", "name: overhead", &runs, NOW).await.unwrap().sweep;
    line("register", &start);
    let start = Clock::start();
    store.register_sweep("overhead", "name: overhead", &runs, NOW).await.unwrap();
    line("register again", &start);

    let a_run = follow(&store, &runs).await;

    store.close().await.unwrap();
    let start = Clock::start();
    let store = Store::open(&path).await.unwrap();
    line("open", &start);
    let start = Clock::start();
    assert_eq!(store.reader().run_states(sweep).await.unwrap().len(), runs.len());
    line("states of the sweep", &start);
    let start = Clock::start();
    store.reader().results(Some(sweep)).await.unwrap();
    line("results", &start);
    let start = Clock::start();
    let metrics = [Metric::Clean, Metric::Robust, Metric::ExpectedRobustness];
    store.reader().measured(Some(sweep), &metrics, At::Last).await.unwrap();
    line("measured, to compare", &start);
    store.close().await.unwrap();
    println!(
        "  {:<34}{:>9.1} kB",
        "file, a run",
        std::fs::metadata(&path).unwrap().len() as f64 / 1e3 / count as f64
    );
    a_run
}

/// Takes half of the runs through a worker that does nothing, a quarter through one that reports everything.
async fn follow(store: &Store, runs: &[(RunId, &RunSpec)]) -> f64 {
    let (idle, full) = runs.split_at(runs.len() / 2);
    let start = Clock::start();
    for (run, _) in idle {
        let attempt = store.claim(*run, "overhead", NOW).await.unwrap().unwrap();
        let events = records([started(*run, attempt, 0), Event::Succeeded]);
        store.ingest(*run, attempt, &events, 400).await.unwrap();
        assert!(store.settle(*run, attempt, &succeeded(), NOW).await.unwrap());
    }
    let a_run = each("claim, ingest, settle", &start, idle.len());
    let (separate, combined) = full.split_at(full.len() / 2);
    let start = Clock::start();
    for (run, _) in separate {
        let attempt = store.claim(*run, "overhead", NOW).await.unwrap().unwrap();
        store.ingest(*run, attempt, &complete(*run, attempt), 4_000).await.unwrap();
        assert!(store.settle(*run, attempt, &succeeded(), NOW).await.unwrap());
    }
    each("the same, with 20 events", &start, separate.len());
    let start = Clock::start();
    for (run, _) in combined {
        let attempt = store.claim(*run, "overhead", NOW).await.unwrap().unwrap();
        let events = records([started(*run, attempt, 0), Event::Succeeded]);
        assert!(store.ingest_and_settle(*run, attempt, &events, 400, NOW, |_| succeeded()).await.unwrap());
    }
    each("claim, ingest_and_settle", &start, combined.len());
    a_run
}

/// When something began, in wall and processor time.
struct Clock {
    wall: Instant,
    processor: f64,
}

impl Clock {
    fn start() -> Self {
        Self { wall: Instant::now(), processor: processor_ms() }
    }

    /// Returns the milliseconds since the start: wall, processor.
    fn elapsed(&self) -> (f64, f64) {
        (self.wall.elapsed().as_secs_f64() * 1e3, processor_ms() - self.processor)
    }
}

/// Returns the processor time of the threads that live, in milliseconds; 0 where the system does not tell.
fn processor_ms() -> f64 {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let nanoseconds = |thread: std::fs::DirEntry| {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<f64>().ok()
    };
    threads.filter_map(nanoseconds).sum::<f64>() / 1e6
}

fn line(what: &str, start: &Clock) {
    let (wall, processor) = start.elapsed();
    println!("  {what:<34}{wall:>9.2} ms wall {processor:>9.2} ms processor");
}

fn each(what: &str, start: &Clock, count: usize) -> f64 {
    let (wall, processor) = start.elapsed();
    let (wall, processor) = (wall / count as f64, processor / count as f64);
    println!("  {what:<34}{wall:>9.3} ms wall {processor:>9.3} ms processor a run");
    wall
}
