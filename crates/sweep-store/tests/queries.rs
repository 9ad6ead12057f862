//! Queries and prefixes.
#![expect(clippy::unwrap_used, reason = "a test ends where something unexpected happens")]

mod common;

use std::time::Duration;

use common::{Home, specs};
use sweep_store::{Cell, Error, Limits, Reader};

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
