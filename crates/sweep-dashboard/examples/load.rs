//! A dashboard on 10,000 runs of 50 epochs: how long its pages take.
//!
//! `cargo run --release -p sweep-dashboard --example load [FOLDER] [serve]`
//!
//! Writes a database of that size into the folder (some minutes), or uses the one that is there. `serve` then stays, for a
//! browser. Figures are medians of several requests; the first request after a change reads all runs, later ones do not.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a program that prints measurements")]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Instant;

use sweep_core::epsilon::Epsilon;
use sweep_core::event::{Event, Record, Split};
use sweep_core::home::Home;
use sweep_core::schedule::{EpsilonSchedule, Granularity};
use sweep_core::spec::{Norm, RunId, RunSpec};
use sweep_dashboard::{Access, Server, Settings};
use sweep_store::{Outcome, Reader, Settlement, Store, now_ms};
use sweep_testkit::{Browser, chromium, sample_run};

const EPOCHS: u32 = 50;
const BACKBONES: usize = 10;
const READINGS: usize = 5;

#[tokio::main]
async fn main() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = std::env::args().nth(1).map_or_else(|| temporary.path().to_owned(), PathBuf::from);
    let path = folder.join("10000.db");
    if !path.exists() {
        fill(&path).await;
    }
    let reader = Reader::open(&path).await.unwrap();
    let sweep = reader.sweep_named("speed").await.unwrap();
    let host = serve(&reader, &folder).await;
    let number = sweep.number();
    let run = reader.run_states(sweep).await.unwrap()[0].id;
    let own = host.clone();
    let measuring = tokio::task::spawn_blocking(move || {
        let pages = [
            ("grid", format!("/sweep/{number}")),
            ("grid, delay", format!("/sweep/{number}?metric=delay")),
            ("runs, by robust accuracy", format!("/sweep/{number}/runs?sort=-robust")),
            (
                "runs, page 50 of a filter",
                format!("/sweep/{number}/runs?where=target_epsilon%3D8%2F255&page=50"),
            ),
            ("compare", format!("/compare?sweep={number}")),
            ("run", format!("/run/{run}")),
        ];
        for (name, page) in pages {
            measure(&own, name, &page);
        }
    });
    measuring.await.unwrap();
    for page in [format!("/sweep/{number}"), format!("/sweep/{number}/runs"), format!("/run/{run}")] {
        // A server of its own, that has read nothing yet.
        let host = serve(&reader, &folder).await;
        tokio::task::spawn_blocking(move || paint(&host, &page)).await.unwrap();
    }
    if std::env::args().nth(2).as_deref() == Some("serve") {
        println!("http://{host}/");
        std::future::pending::<()>().await;
    }
}

/// Starts a server and returns where it is.
async fn serve(reader: &Reader, folder: &Path) -> String {
    let access = Access::new("127.0.0.1:0".parse().unwrap(), Vec::new(), None).unwrap();
    let settings = Settings { sweep: None, home: Home::new(folder) };
    let server = Server::bind(reader, settings, access).await.unwrap();
    let url = server.url();
    tokio::spawn(server.serve());
    url.trim_start_matches("http://").trim_end_matches('/').to_owned()
}

/// Prints when a browser shows something of a page that nobody has asked for before.
fn paint(host: &str, page: &str) {
    let Some(program) = chromium() else { return println!("no Chromium: nothing was painted") };
    let folder = tempfile::tempdir().unwrap();
    let mut browser = Browser::start(&program, folder.path());
    browser.open(&format!("http://{host}{page}"));
    let painted = "new Promise((done) => new PerformanceObserver((list) => list.getEntriesByName('first-contentful-paint')
        .forEach((entry) => done(entry.startTime))).observe({ type: 'paint', buffered: true }))";
    let shown = browser.evaluate(painted);
    println!("{page:<28} first contentful paint after {shown} ms, in a cold server");
}

/// Prints how long a page takes to its first byte and to its end: the first time, and the median of the next.
fn measure(host: &str, name: &str, page: &str) {
    let (first, _, size) = fetch(host, page);
    let mut times: Vec<(f64, f64)> =
        (0..READINGS).map(|_| fetch(host, page)).map(|(byte, end, _)| (byte, end)).collect();
    times.sort_by(|one, other| one.0.total_cmp(&other.0));
    let (byte, end) = times[READINGS / 2];
    println!(
        "{name:<28} first {first:>7.1} ms, then {byte:>7.1} ms to the first byte, {end:>7.1} ms to the end, {size:>8} bytes"
    );
}

fn fetch(host: &str, page: &str) -> (f64, f64, usize) {
    let begin = Instant::now();
    let mut stream = TcpStream::connect(host).unwrap();
    write!(stream, "GET {page} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
    let mut bytes = vec![0];
    stream.read_exact(&mut bytes).unwrap();
    let first = begin.elapsed().as_secs_f64() * 1e3;
    stream.read_to_end(&mut bytes).unwrap();
    assert!(
        bytes.starts_with(b"HTTP/1.1 200"),
        "{}",
        String::from_utf8_lossy(&bytes[..200.min(bytes.len())])
    );
    (first, begin.elapsed().as_secs_f64() * 1e3, bytes.len())
}

/// Stores 10 backbones × 10 datasets × 2 targets × 10 schedules × 5 seeds, all complete.
async fn fill(path: &Path) {
    let specs = specs();
    let runs: Vec<(RunId, &RunSpec)> = specs.iter().map(|spec| (spec.id(), spec)).collect();
    let store = Store::open(path).await.unwrap();
    store.register_sweep("speed", "name: speed", &runs, now_ms()).await.unwrap();
    for (run, spec) in &runs {
        let attempt = store.claim(*run, "speed", now_ms()).await.unwrap().unwrap();
        let succeeded = |_: Option<sweep_store::Report>| Settlement {
            exit_code: Some(0),
            ..Settlement::new(Outcome::Succeeded)
        };
        assert!(
            store.ingest_and_settle(*run, attempt, &records(spec), 1, now_ms(), succeeded).await.unwrap()
        );
    }
    store.close().await.unwrap();
}

fn specs() -> Vec<RunSpec> {
    let point = |index: usize| {
        let (seed, schedule, target) = (index % 5, index / 5 % 10, index / 50 % 2);
        let (dataset, backbone) = (index / 100 % 10, index / 1000);
        let mut spec = sample_run(seed as u64);
        spec.backbone.name = format!("b{backbone}");
        spec.backbone.definition.normalization.mean = [0.1 * backbone as f64; 3];
        spec.dataset.name = format!("d{dataset}");
        spec.input_size = 16 + dataset as u32;
        spec.target_epsilon = Epsilon::from_255ths(if target == 0 { 4 } else { 8 });
        spec.epsilon_schedule = match schedule {
            0 => EpsilonSchedule::Fixed,
            start => EpsilonSchedule::Ramp { start: start as u32, end: 20, per: Granularity::Epoch },
        };
        spec.epochs = EPOCHS;
        spec.evaluation.max_epsilon = Epsilon::from_255ths(16);
        spec
    };
    (0..BACKBONES * 1000).map(point).collect()
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
