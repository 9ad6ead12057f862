//! What tables cost: 10,000 runs of 50 epochs and 17 test points each, and 1,000 of them.
//!
//! `cargo run --release -p sweep-report --example speed [FOLDER]`
//!
//! Writes databases of these sizes into the folder (some minutes), or uses those that are there. Every figure is the median of several readings, and what `sweep compare` would do but for starting the
//! program and printing.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a program that prints measurements")]

use std::path::Path;
use std::time::Instant;

use sweep_core::epsilon::Epsilon;
use sweep_core::event::{Event, Record, Split};
use sweep_core::schedule::{EpsilonSchedule, Granularity};
use sweep_core::spec::{Norm, RunId, RunSpec};
use sweep_report::pairs::{Seeds, pairs};
use sweep_report::pivot::pivot;
use sweep_report::{Condition, Key, Runs};
use sweep_store::{At, Metric, Outcome, Reader, Settlement, Store};
use sweep_testkit::sample_run;

const EPOCHS: u32 = 50;
const READINGS: usize = 7;
const USUAL: [Metric; 3] = [Metric::Clean, Metric::Robust, Metric::ExpectedRobustness];

#[tokio::main]
async fn main() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = std::env::args().nth(1).map_or_else(|| temporary.path().to_owned(), Into::into);
    for backbones in [1, 10] {
        let path = folder.join(format!("{backbones}000.db"));
        if !path.exists() {
            fill(&path, backbones).await;
        }
        measure(&path).await;
    }
}

async fn measure(path: &Path) {
    let reader = Reader::open(path).await.unwrap();
    let sweep = Some(reader.sweep_named("speed").await.unwrap());
    let runs = Runs::read(&reader, sweep, &USUAL, At::Last).await.unwrap();
    println!("{} runs", runs.runs().len());
    let schedule = [Key::new(Key::EPSILON_SCHEDULE)];
    for (what, metrics) in [
        ("compare: clean, robust, expected robustness", &USUAL[..]),
        ("compare: delay, training time", &[Metric::Delay, Metric::TrainSeconds]),
        ("compare: clean drop", &[Metric::CleanDrop]),
    ] {
        let mut times = Vec::new();
        for _ in 0..READINGS {
            let start = Instant::now();
            let runs = Runs::read(&reader, sweep, metrics, At::Last).await.unwrap();
            let rows = runs.varying(&schedule);
            assert!(!pivot(&runs, &rows, &schedule).unwrap().rows.is_empty());
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        report(what, times);
    }
    in_memory(&runs, &schedule);
}

/// What is done with runs that are read already.
fn in_memory(runs: &Runs, schedule: &[Key]) {
    let conditions: Vec<Condition> =
        ["backbone=b0", "target_epsilon>=8/255"].map(|text| text.parse().unwrap()).into();
    repeat("filter, pivot and sort", || {
        let chosen = runs.clone().matching(&conditions).unwrap();
        let mut table = pivot(&chosen, &chosen.varying(schedule), schedule).unwrap();
        table.sort(Metric::Robust).unwrap();
        table.rows.len()
    });
    repeat("filter and sort, a row a run", || {
        let chosen = runs.clone().matching(&conditions[1..]).unwrap();
        let rows = [&chosen.varying(&[])[..], &[Key::new(Key::SEED)]].concat();
        let mut table = pivot(&chosen, &rows, &[]).unwrap();
        table.sort(Metric::Robust).unwrap();
        table.rows.len()
    });
    let pairing = "epsilon_schedule=fixed,ramp:1-20".parse().unwrap();
    repeat("pair and test", || {
        let pairs = pairs(runs, &pairing, &[Key::new(Key::TARGET_EPSILON)], Seeds::Folded).unwrap();
        pairs.comparisons().len()
    });
}

fn repeat(what: &str, work: impl Fn() -> usize) {
    let mut times = Vec::new();
    for _ in 0..READINGS {
        let start = Instant::now();
        assert!(work() > 0);
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    report(what, times);
}

fn report(what: &str, mut milliseconds: Vec<f64>) {
    milliseconds.sort_by(f64::total_cmp);
    println!("  {what:<46}{:>9.2} ms", milliseconds[milliseconds.len() / 2]);
}

/// Stores `backbones` × 10 datasets × 2 targets × 10 schedules × 5 seeds, all complete.
async fn fill(path: &Path, backbones: usize) {
    let specs = specs(backbones);
    let runs: Vec<(RunId, &RunSpec)> = specs.iter().map(|spec| (spec.id(), spec)).collect();
    let store = Store::open(path).await.unwrap();
    store.register_sweep("speed", "name: speed", &runs, 0).await.unwrap();
    for (run, spec) in &runs {
        let attempt = store.claim(*run, "speed", 0).await.unwrap().unwrap();
        let succeeded = |_: Option<sweep_store::Report>| Settlement {
            exit_code: Some(0),
            ..Settlement::new(Outcome::Succeeded)
        };
        assert!(store.ingest_and_settle(*run, attempt, &records(spec), 1, 0, succeeded).await.unwrap());
    }
    store.close().await.unwrap();
}

fn specs(backbones: usize) -> Vec<RunSpec> {
    let mut specs = Vec::new();
    for backbone in 0..backbones {
        for dataset in 0..10 {
            for point in 0..100 {
                let (target, schedule, seed) = (point / 50, point / 5 % 10, point % 5);
                let mut spec = sample_run(seed);
                spec.backbone.name = format!("b{backbone}");
                spec.backbone.definition.normalization.mean = [0.1 * backbone as f64; 3];
                spec.dataset.name = format!("d{dataset}");
                spec.input_size = 16 + dataset;
                spec.target_epsilon = Epsilon::from_255ths(if target == 0 { 4 } else { 8 });
                spec.epsilon_schedule = match schedule {
                    0 => EpsilonSchedule::Fixed,
                    start => EpsilonSchedule::Ramp { start: start as u32, end: 20, per: Granularity::Epoch },
                };
                spec.epochs = EPOCHS;
                spec.evaluation.max_epsilon = Epsilon::from_255ths(16);
                specs.push(spec);
            }
        }
    }
    specs
}

fn records(spec: &RunSpec) -> Vec<Record> {
    let epochs = (0..EPOCHS).map(|epoch| Event::EpochFinished {
        epoch,
        epsilon: 0.01,
        learning_rate: 1e-3,
        train_loss: 1.5,
        train_correct: 30,
        train_total: 60,
        clean_correct: 3 * epoch + spec.seed as u32,
        robust_correct: epoch,
        validation_total: 200,
        clean_loss: 1.25,
        robust_loss: 2.5,
        train_seconds: 2.0,
        validation_seconds: 0.5,
        trained_by: None,
    });
    let points = spec.evaluation.points(spec.target_epsilon).into_iter().zip(0..);
    let points = points.map(|(epsilon, place)| Event::Evaluated {
        epochs: EPOCHS,
        split: Split::Test,
        attack: if epsilon.is_zero() { "none".to_owned() } else { spec.evaluation.attack.label() },
        norm: Norm::Linf,
        epsilon,
        correct: 900 - 40 * place - 7 * spec.seed as u32 - spec.input_size,
        total: 1_000,
        seconds: 0.25,
    });
    let events = epochs.chain(points).chain([Event::Succeeded]);
    (0..).zip(events).map(|(sequence, event)| Record { sequence, time_ms: 0, event }).collect()
}
