//! Ingestion: nothing twice, nothing lost, and the event files alone are enough.
#![expect(clippy::unwrap_used, reason = "a test ends where something unexpected happens")]

mod common;

use std::collections::HashMap;
use std::time::Duration;

use common::{
    Home, NOW, checkpoint, complete, epoch, evaluated, loaded, progress, records, spec, specs, started,
    succeeded,
};
use sweep_core::epsilon::Epsilon;
use sweep_core::event::{Event, FailureClass, Phase, Record};
use sweep_core::spec::{RunId, RunSpec};
use sweep_store::{DeviceUse, Error, Failure, Limits, Outcome, Settlement, Table};

const TABLES: [&str; 12] = [
    "runs",
    "specs",
    "attempts",
    "measurements",
    "epochs",
    "evaluations",
    "checkpoints",
    "models",
    "provenance",
    "results",
    "gates",
    "severity",
];

/// Everything that is stored about runs.
async fn tables(home: &Home) -> Vec<Table> {
    let limits = Limits { rows: 1_000_000, time: Duration::from_mins(1) };
    let mut all = Vec::new();
    for table in TABLES {
        let mut table = home.store.reader().query(&format!("SELECT * FROM {table}"), limits).await.unwrap();
        table.rows.sort_by_key(|row| format!("{row:?}"));
        all.push(table);
    }
    all
}

fn worker_died() -> Settlement {
    let failure = Failure { class: FailureClass::WorkerDied, message: "no last word".to_owned() };
    let settlement = Settlement::new(Outcome::Failed { failure, retry: true });
    Settlement { signal: Some(9), log_tail: Some("killed".to_owned()), ..settlement }
}

#[tokio::test]
async fn every_event_finds_its_place() {
    let home = Home::new().await;
    let run = home.running(&spec(0)).await;
    let ingested = home.store.ingest(run, 1, &complete(run, 1), 5_000).await.unwrap();
    assert_eq!(ingested.new_records, 20);
    let reader = home.store.reader();
    assert_eq!(
        reader.epochs_of(run).await.unwrap().iter().map(|row| row.clean_correct).collect::<Vec<_>>(),
        [10, 20, 30]
    );
    let evaluations = reader.evaluations_of(run).await.unwrap();
    assert_eq!(evaluations.len(), 9);
    assert_eq!((evaluations[4].epsilon, evaluations[4].count.correct), (Epsilon::from_255ths(4), 26));
    assert_eq!(
        reader.checkpoints_of(run).await.unwrap().iter().map(|row| row.epochs).collect::<Vec<_>>(),
        [3, 2, 1]
    );
    assert_eq!(reader.model_of(run).await.unwrap().unwrap().bytes, 900);
    let provenance = reader.provenance_of(run).await.unwrap().remove(0);
    assert_eq!((provenance.parameters, provenance.skipped), (12_345, 2));
    let attempt = &reader.attempts_of(run).await.unwrap()[0];
    assert_eq!((attempt.pid, attempt.threads, attempt.resumed_from), (Some(77), Some(2), Some(0)));
    let progress = attempt.progress.unwrap();
    assert_eq!((progress.phase, progress.step, progress.time_ms), (Phase::Training, 1, NOW + 2_000));
    assert_eq!((attempt.micro_batch_size, attempt.heard_ms), (Some(8), Some(NOW + 19_000)));
}

#[tokio::test]
async fn what_a_worker_finds_out_is_kept_with_its_attempt() {
    let home = Home::new().await;
    let run = home.running(&spec(0)).await;
    let used =
        |memory_bytes, utilization| Event::DeviceUsed { memory_bytes, memory_total_bytes: 80, utilization };
    let found = Event::MicroBatchFound { micro_batch_size: 48 };
    let events = records([started(run, 1, 0), found, used(20, 0.5), used(70, 0.75)]);
    assert_eq!(home.store.ingest(run, 1, &events, 1).await.unwrap().refused, None);
    let attempt = home.store.reader().attempts_of(run).await.unwrap().remove(0);
    assert_eq!(attempt.micro_batch_size, Some(48));
    let expected = DeviceUse { memory_bytes: 70, memory_total_bytes: 80, utilization: 0.75 };
    assert_eq!(attempt.device_use, Some(expected));
}

#[tokio::test]
async fn a_use_that_cannot_be_is_refused() {
    for utilization in [-0.1, 1.5, f64::NAN] {
        let home = Home::new().await;
        let run = home.running(&spec(0)).await;
        let used = Event::DeviceUsed { memory_bytes: 1, memory_total_bytes: 2, utilization };
        let refused = home.store.ingest(run, 1, &records([used]), 1).await.unwrap().refused;
        assert!(refused.unwrap().contains("utilization"), "{utilization}");
    }
}

#[tokio::test]
async fn a_worker_that_stands_still_is_heard_and_does_not_move() {
    let home = Home::new().await;
    let run = home.running(&spec(0)).await;
    let events = records([progress(1), progress(2), progress(2), loaded(), progress(2), progress(1)]);
    let expected = [(0, 0), (1, 1), (1, 2), (1, 3), (1, 4), (5, 5)];
    for (record, (moved, heard)) in events.iter().zip(expected) {
        home.store.ingest(run, 1, std::slice::from_ref(record), 1).await.unwrap();
        let attempt = home.store.reader().attempts_of(run).await.unwrap().remove(0);
        let found = (attempt.progress.unwrap().time_ms, attempt.heard_ms.unwrap());
        assert_eq!(found, (NOW + 1_000 * moved, NOW + 1_000 * heard));
    }
}

#[tokio::test]
async fn checkpoints_within_an_epoch_are_apart_from_those_between() {
    let home = Home::new().await;
    let run = home.running(&spec(0)).await;
    let within = |epochs: u32, at: u32| {
        let mut event = checkpoint(epochs);
        if let Event::CheckpointSaved { step, .. } = &mut event {
            *step = at;
        }
        event
    };
    let events = records([checkpoint(1), within(1, 7), checkpoint(2), within(2, 3), within(2, 9)]);
    home.store.ingest(run, 1, &events, 1).await.unwrap();
    let reader = home.store.reader();
    let found = reader.checkpoints_of(run).await.unwrap();
    let positions: Vec<_> = found.iter().map(|row| (row.epochs, row.step)).collect();
    assert_eq!(positions, [(2, 9), (2, 3), (2, 0), (1, 7), (1, 0)]);
    let other = spec(1).id();
    assert_eq!(reader.checkpoint_epochs(&[run, other]).await.unwrap(), HashMap::from([(run, 2)]));
}

#[tokio::test]
async fn who_runs_where_is_known_of_running_attempts() {
    let home = Home::new().await;
    let run = home.running(&spec(0)).await;
    let mut event = started(run, 1, 2);
    if let Event::Started { process_start, resumed_run, .. } = &mut event {
        (*process_start, *resumed_run) = (Some(12_345), Some(spec(1).id()));
    }
    home.store.ingest(run, 1, &records([event]), 1).await.unwrap();
    let found = home.store.reader().running_attempts().await.unwrap().remove(0);
    let process = (found.host.as_deref(), found.pid, found.process_start);
    assert_eq!(process, (Some("here"), Some(77), Some(12_345)));
    let attempt = home.store.reader().attempts_of(run).await.unwrap().remove(0);
    assert_eq!(attempt.resumed_run, Some(spec(1).id()));
}

#[tokio::test]
async fn twice_is_once() {
    let home = Home::new().await;
    let run = home.running(&spec(0)).await;
    let events = complete(run, 1);
    home.store.ingest(run, 1, &events, 5_000).await.unwrap();
    let once = tables(&home).await;
    let again = home.store.ingest(run, 1, &events, 5_000).await.unwrap();
    assert_eq!(again.new_records, 0);
    assert_eq!(again.report, Some(sweep_store::Report::Succeeded), "the last word is known from before");
    home.store.ingest(run, 1, &events[3..9], 900).await.unwrap();
    assert_eq!(tables(&home).await, once);
}

#[tokio::test]
async fn it_does_not_matter_how_a_file_is_cut() {
    let mut results = Vec::new();
    for size in [1, 3, 7, 100] {
        let home = Home::new().await;
        let run = home.running(&spec(0)).await;
        let events = complete(run, 1);
        for (index, batch) in events.chunks(size).enumerate() {
            // An overlap, as after a crash between reading and noting how far.
            let overlap = (index * size).saturating_sub(2);
            home.store.ingest(run, 1, &events[overlap..index * size + batch.len()], 5_000).await.unwrap();
        }
        results.push(tables(&home).await);
    }
    assert!(results.windows(2).all(|pair| pair[0] == pair[1]));
}

/// What a run with an interrupted, a killed and a complete attempt leaves on disk.
fn history(run: RunId) -> Vec<(Vec<Record>, Settlement)> {
    let stopped = [
        started(run, 1, 0),
        loaded(),
        epoch(0, 3),
        checkpoint(1),
        epoch(1, 5),
        Event::Interrupted { epochs: 1 },
    ];
    let killed = [started(run, 2, 1), loaded(), progress(3), epoch(1, 6), epoch(2, 8)];
    vec![
        (records(stopped), Settlement { exit_code: Some(76), ..Settlement::new(Outcome::Interrupted) }),
        (records(killed), worker_died()),
        (complete(run, 3), succeeded()),
    ]
}

#[tokio::test]
async fn event_files_alone_rebuild_the_tables() {
    let live = Home::new().await;
    let (_, runs) = live.register(&specs(3)).await;
    for run in &runs {
        for (number, (events, settlement)) in (1..).zip(history(*run)) {
            assert_eq!(live.store.claim(*run, "test", NOW).await.unwrap(), Some(number));
            for batch in events.chunks(2) {
                live.store.ingest(*run, number, batch, 4_000).await.unwrap();
            }
            live.store.settle(*run, number, &settlement, NOW + 1).await.unwrap();
        }
    }
    let rebuilt = Home::new().await;
    let specs = specs(3);
    let listed: Vec<(RunId, &RunSpec)> = specs.iter().map(|spec| (spec.id(), spec)).collect();
    assert_eq!(rebuilt.store.register_runs(&listed, NOW).await.unwrap(), 3);
    for run in runs.iter().rev() {
        for (number, (events, settlement)) in (1..).zip(history(*run)) {
            assert!(rebuilt.store.restore_attempt(*run, number, "test", NOW).await.unwrap());
            assert!(
                rebuilt
                    .store
                    .ingest_and_settle(*run, number, &events, 4_000, NOW + 1, |_| settlement)
                    .await
                    .unwrap()
            );
        }
    }
    assert_eq!(tables(&rebuilt).await, tables(&live).await);
}

#[tokio::test]
async fn a_later_attempt_replaces_what_it_redoes_and_an_earlier_one_never_does() {
    let home = Home::new().await;
    let run = home.running(&spec(0)).await;
    let first = [started(run, 1, 0), epoch(0, 3), epoch(1, 5), evaluated(Epsilon::ZERO, 1, 32)];
    home.store.ingest(run, 1, &records(first), 1).await.unwrap();
    home.store.settle(run, 1, &Settlement::new(Outcome::Interrupted), NOW).await.unwrap();
    home.store.claim(run, "test", NOW).await.unwrap();
    let second = [started(run, 2, 1), epoch(1, 6), evaluated(Epsilon::ZERO, 2, 32)];
    home.store.ingest(run, 2, &records(second), 1).await.unwrap();
    // The rest of the first attempt's file, found late.
    let rest: Vec<Record> =
        records([epoch(0, 0), epoch(0, 0), epoch(0, 0), epoch(0, 0), epoch(1, 9), epoch(2, 9)]);
    home.store.ingest(run, 1, &rest, 2).await.unwrap();
    let epochs = home.store.reader().epochs_of(run).await.unwrap();
    let found: Vec<_> = epochs.iter().map(|row| (row.epoch, row.attempt, row.clean_correct)).collect();
    assert_eq!(found, [(0, 1, 3), (1, 2, 6), (2, 1, 9)]);
    let evaluations = home.store.reader().evaluations_of(run).await.unwrap();
    assert_eq!(
        evaluations.iter().map(|row| (row.attempt, row.count.correct)).collect::<Vec<_>>(),
        [(Some(2), 2)]
    );
}

#[tokio::test]
async fn unknown_events_pass_and_unknown_attempts_do_not() {
    let home = Home::new().await;
    let run = home.running(&spec(0)).await;
    let ingested = home
        .store
        .ingest(run, 1, &records([started(run, 1, 0), Event::Unknown, epoch(0, 1)]), 9)
        .await
        .unwrap();
    assert_eq!((ingested.new_records, ingested.report), (3, None));
    assert_eq!(home.store.reader().epochs_of(run).await.unwrap().len(), 1);
    for (run, attempt) in [(run, 2), (spec(5).id(), 1)] {
        let error = home.store.ingest(run, attempt, &[], 0).await.unwrap_err();
        assert!(matches!(error, Error::UnknownAttempt { attempt: found, .. } if found == attempt), "{error}");
    }
}

#[tokio::test]
async fn what_is_not_finite_is_no_number() {
    let home = Home::new().await;
    let run = home.running(&spec(0)).await;
    let mut events = [epoch(0, 1)];
    if let Event::EpochFinished { train_loss, clean_loss, .. } = &mut events[0] {
        (*train_loss, *clean_loss) = (f64::NAN, f64::INFINITY);
    }
    home.store.ingest(run, 1, &records(events), 9).await.unwrap();
    let row = home.store.reader().epochs_of(run).await.unwrap().remove(0);
    assert_eq!((row.train_loss, row.clean_loss, row.robust_loss), (None, None, Some(2.5)));
}
