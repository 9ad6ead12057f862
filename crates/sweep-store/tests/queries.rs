//! Queries, prefixes and comparisons.
#![expect(clippy::unwrap_used, reason = "a test ends where something unexpected happens")]

mod common;

use std::time::Duration;

use common::{Home, NOW, evaluated, records, spec, specs, started, succeeded};
use sweep_core::epsilon::Epsilon;
use sweep_core::schedule::{EpsilonSchedule, Granularity};
use sweep_core::spec::RunSpec;
use sweep_store::{Cell, Error, Key, Limits, Metric, Reader, Summary};

const LIMITS: Limits = Limits { rows: 1_000, time: Duration::from_mins(1) };

#[tokio::test]
async fn every_kind_of_value_comes_back() {
    let home = Home::new().await;
    let table = home.store.reader().query("SELECT 1 AS a, 2.5 b, 'c', x'00ff', NULL;", LIMITS).await.unwrap();
    assert_eq!(table.columns, ["a", "b", "'c'", "x'00ff'", "NULL"]);
    let expected =
        [Cell::Integer(1), Cell::Real(2.5), Cell::Text("c".to_owned()), Cell::Blob(vec![0, 255]), Cell::Null];
    assert_eq!(table.rows, [expected]);
    let none = home.store.reader().query("SELECT id, state FROM runs", LIMITS).await.unwrap();
    assert_eq!((none.columns, none.rows.len()), (vec!["id".to_owned(), "state".to_owned()], 0));
}

#[tokio::test]
async fn rows_and_time_are_limited() {
    let home = Home::new().await;
    let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n";
    let some = home.store.reader().query(endless, Limits { rows: 3, ..LIMITS }).await.unwrap();
    assert_eq!((some.rows.len(), some.truncated), (3, true));
    let exact =
        home.store.reader().query("VALUES (1), (2), (3)", Limits { rows: 3, ..LIMITS }).await.unwrap();
    assert_eq!((exact.rows.len(), exact.truncated), (3, false));
    let forever = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n";
    let time = Duration::from_millis(20);
    let error = home.store.reader().query(forever, Limits { time, ..LIMITS }).await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { limit } if limit == time), "{error}");
}

#[tokio::test]
async fn a_query_cannot_change_anything() {
    let home = Home::new().await;
    home.register(&specs(2)).await;
    let reader = Reader::open(home.database()).await.unwrap();
    for sql in [
        "DELETE FROM runs",
        "WITH a AS (SELECT 1) DELETE FROM runs",
        "VACUUM INTO 'copy.db'",
        "SELECT 1; SELECT 2",
    ] {
        assert!(reader.query(sql, LIMITS).await.is_err(), "{sql}");
    }
    assert_eq!(reader.state_counts(None).await.unwrap().values().sum::<u64>(), 2);
    let error = reader.query("SELECT bakbone FROM runs", LIMITS).await.unwrap_err();
    assert!(matches!(&error, Error::Query { message } if message.contains("bakbone")), "{error}");
}

#[tokio::test]
async fn prefixes_fit_one_run_or_say_which() {
    let home = Home::new().await;
    let (_, runs) = home.register(&specs(40)).await;
    let reader = home.store.reader();
    for run in &runs {
        assert_eq!(reader.resolve_run(&run.short()).await.unwrap(), *run);
        assert_eq!(reader.resolve_run(&run.to_string().to_uppercase()).await.unwrap(), *run);
    }
    let error = reader.resolve_run("").await.unwrap_err();
    assert!(
        matches!(&error, Error::AmbiguousRun { count: 40, candidates, .. } if candidates.len() == 5),
        "{error}"
    );
    assert!(error.to_string().contains("vit shapes 4/255 ramp 1-3 seed"), "{error}");
    let error = reader.resolve_run("nonsense").await.unwrap_err();
    assert!(matches!(error, Error::UnknownRun { .. }), "{error}");
    let near = format!("{}!", runs[0].short());
    let error = reader.resolve_run(&near).await.unwrap_err();
    assert!(error.to_string().contains(&runs[0].short()), "{error}");
    for wild in ["%", "_", "'", "g"] {
        assert!(matches!(reader.resolve_run(wild).await, Err(Error::UnknownRun { .. })), "{wild}");
    }
}

/// Two schedules at two targets with three seeds; the accuracy is known.
async fn compared() -> Home {
    let home = Home::new().await;
    let mut specs: Vec<RunSpec> = Vec::new();
    for schedule in
        [EpsilonSchedule::Ramp { start: 1, end: 3, per: Granularity::Epoch }, EpsilonSchedule::Fixed]
    {
        for target in [10, 2] {
            let point = |seed| RunSpec {
                epsilon_schedule: schedule.clone(),
                target_epsilon: Epsilon::from_255ths(target),
                ..spec(seed)
            };
            specs.extend((0..3).map(point));
        }
    }
    let (_, runs) = home.register(&specs).await;
    // The last run of the fixed schedule never finishes.
    for (spec, run) in specs.iter().zip(&runs).take(11) {
        home.store.claim(*run, "test", NOW).await.unwrap();
        let correct = 10 + spec.seed as u32;
        let events = [started(*run, 1, 0), evaluated(spec.target_epsilon, correct, 100)];
        home.store.ingest(*run, 1, &records(events), 1).await.unwrap();
        home.store.settle(*run, 1, &succeeded(), NOW).await.unwrap();
    }
    home
}

#[tokio::test]
async fn seeds_are_folded_into_mean_and_deviation() {
    let home = compared().await;
    let reader = home.store.reader();
    let sweep = reader.sweep_named("test").await.unwrap();
    let pivot = reader
        .compare(&[Key::EpsilonSchedule], &[Key::TargetEpsilon], Metric::Robust, Some(sweep))
        .await
        .unwrap();
    assert_eq!(pivot.rows, [["ramp 1-3"], ["fixed"]], "names in the order of the sweep");
    assert_eq!(pivot.columns, [["2/255"], ["10/255"]], "numbers in increasing order");
    assert_eq!(pivot.mixed, []);
    let full = pivot.cells[0][0].unwrap();
    assert_eq!((full.n, full.runs), (3, 3));
    assert!((full.mean.unwrap() - 0.11).abs() < 1e-12);
    assert!((full.standard_deviation.unwrap() - 0.01).abs() < 1e-12, "sample deviation of 0.10, 0.11, 0.12");
    let partial = pivot.cells[1][0].unwrap();
    assert_eq!((partial.n, partial.runs), (2, 3));
    assert!((partial.mean.unwrap() - 0.105).abs() < 1e-12);
}

#[tokio::test]
async fn means_over_different_experiments_are_pointed_out() {
    let home = compared().await;
    let pivot = home.store.reader().compare(&[Key::Backbone], &[], Metric::Clean, None).await.unwrap();
    assert_eq!(pivot.mixed, [Key::TargetEpsilon, Key::EpsilonSchedule]);
    assert_eq!(pivot.columns, [Vec::<String>::new()]);
    assert_eq!(pivot.cells[0][0], Some(Summary { mean: None, standard_deviation: None, n: 0, runs: 12 }));
    let seeds = [Key::Backbone, Key::Seed];
    let pivot = home
        .store
        .reader()
        .compare(&seeds, &[Key::EpsilonSchedule, Key::TargetEpsilon], Metric::Delay, None)
        .await
        .unwrap();
    assert_eq!(pivot.rows, [["vit", "0"], ["vit", "1"], ["vit", "2"]]);
    assert_eq!((pivot.columns.len(), pivot.mixed.len()), (4, 0));
}

#[tokio::test]
async fn nothing_compared_is_an_empty_table() {
    let home = Home::new().await;
    let pivot =
        home.store.reader().compare(&[Key::Backbone], &[Key::Dataset], Metric::Robust, None).await.unwrap();
    assert_eq!((pivot.rows.len(), pivot.columns.len(), pivot.cells.len()), (0, 0, 0));
}

#[test]
fn names_of_keys_and_metrics_are_those_of_the_view() {
    for key in Key::ALL {
        assert_eq!(key.label().parse::<Key>(), Ok(key));
    }
    for metric in Metric::ALL {
        assert_eq!(metric.label().parse::<Metric>(), Ok(metric));
    }
    let error = "robustness".parse::<Metric>().unwrap_err();
    assert!(error.to_string().contains("expected_robustness"), "{error}");
}
