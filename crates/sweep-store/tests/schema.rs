//! Opening, migrating, and what the schema itself refuses.
#![expect(clippy::unwrap_used, reason = "a test ends where something unexpected happens")]

mod common;

use std::path::Path;

use common::{Home, NOW, specs};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, SqliteConnection};
use sweep_store::{Error, Reader, Store};

/// A connection that can do what the store never does.
async fn raw(path: &Path) -> SqliteConnection {
    SqliteConnectOptions::new().filename(path).foreign_keys(true).connect().await.unwrap()
}

async fn run(connection: &mut SqliteConnection, sql: &'static str) -> sqlx::Result<u64> {
    sqlx::query(sql).execute(connection).await.map(|done| done.rows_affected())
}

#[tokio::test]
async fn a_new_file_has_the_tables_and_views_and_opens_again() {
    let home = Home::new().await;
    let (_, runs) = home.register(&specs(2)).await;
    let again = Store::open(home.database()).await.unwrap();
    assert_eq!(again.reader().states_of(&runs).await.unwrap().len(), 2);
    let mut connection = raw(&home.database()).await;
    let journal: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut connection).await.unwrap();
    assert_eq!(journal, "wal");
    for view in [
        "SELECT * FROM results",
        "SELECT * FROM curves",
        "SELECT * FROM accuracy_over_epsilon",
        "SELECT * FROM severity",
        "SELECT * FROM gates",
    ] {
        assert!(sqlx::query(view).fetch_all(&mut connection).await.is_ok(), "{view}");
    }
    let problems = sqlx::query("PRAGMA foreign_key_check").fetch_all(&mut connection).await.unwrap();
    assert!(problems.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn eight_openers_of_a_new_file_migrate_it_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("results.db");
    let openers: Vec<_> = (0..8)
        .map(|_| {
            let path = path.clone();
            tokio::spawn(async move { Store::open(path).await.map(drop) })
        })
        .collect();
    for opener in openers {
        opener.await.unwrap().unwrap();
    }
    let mut connection = raw(&path).await;
    let applied: Vec<i64> =
        sqlx::query_scalar("SELECT version FROM _sqlx_migrations").fetch_all(&mut connection).await.unwrap();
    assert_eq!(applied, [1, 2, 3, 4, 5, 6, 7]);
}

#[tokio::test]
async fn reading_needs_a_file_with_a_schema() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("results.db");
    assert!(matches!(Reader::open(&path).await, Err(Error::Missing { .. })));
    assert!(!path.exists(), "looking must not create the file");
    std::fs::write(&path, "").unwrap();
    assert!(matches!(Reader::open(&path).await, Err(Error::Older { found: 0, .. })));
    std::fs::write(&path, "this is no database, however long it may be ".repeat(100)).unwrap();
    let error = Reader::open(&path).await.unwrap_err();
    assert!(matches!(error, Error::Database { .. }), "{error}");
}

#[tokio::test]
async fn a_reader_sees_what_a_writer_commits() {
    let home = Home::new().await;
    let reader = Reader::open(home.database()).await.unwrap();
    let (_, runs) = home.register(&specs(1)).await;
    assert_eq!(reader.states_of(&runs).await.unwrap().len(), 1);
    home.store.claim(runs[0], "test", NOW).await.unwrap();
    assert_eq!(reader.running_attempts().await.unwrap().len(), 1);
}

#[tokio::test]
async fn the_schema_refuses_impossible_rows() {
    let home = Home::new().await;
    home.register(&specs(1)).await;
    let mut connection = raw(&home.database()).await;
    let run_of = "INSERT INTO attempts (run, number, scheduler, started_ms) SELECT id, 1, 'x', 0 FROM runs";
    run(&mut connection, run_of).await.unwrap();
    for (sql, why) in [
        (
            "INSERT INTO attempts (run, number, scheduler, started_ms) SELECT id, 2, 'x', 0 FROM runs",
            "two running attempts",
        ),
        (
            "INSERT INTO attempts (run, number, scheduler, started_ms) VALUES ('no such run', 1, 'x', 0)",
            "no run",
        ),
        ("UPDATE runs SET state = 'paused'", "no such state"),
        ("UPDATE runs SET state = 'failed'", "a failure without a class"),
        ("UPDATE runs SET epochs = 'many'", "text in a number"),
        ("UPDATE attempts SET state = 'succeeded'", "an end without a time"),
        (
            "INSERT INTO epochs SELECT id, 0, 1, 0, 0, 0, 5, 4, 0, 0, 1, 0, 0, 0, 0, 0 FROM runs",
            "more correct than there are",
        ),
        (
            "INSERT INTO epochs SELECT id, 0, 7, 0, 0, 0, 1, 4, 0, 0, 1, 0, 0, 0, 0, 0 FROM runs",
            "an attempt that is not there",
        ),
    ] {
        assert!(run(&mut connection, sql).await.is_err(), "{why} was accepted");
    }
}

/// Nothing can be created next to the file here (unless the test runs as root, who can).
#[tokio::test]
async fn a_copy_in_a_read_only_folder_can_be_read() {
    let home = Home::new().await;
    let (_, runs) = home.register(&specs(1)).await;
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("results.db");
    let mut connection = raw(&home.database()).await;
    run(&mut connection, "PRAGMA wal_checkpoint(TRUNCATE)").await.unwrap();
    std::fs::copy(home.database(), &copy).unwrap();
    let writable = std::fs::metadata(folder.path()).unwrap().permissions();
    let mut read_only = writable.clone();
    read_only.set_readonly(true);
    std::fs::set_permissions(folder.path(), read_only).unwrap();
    let reader = Reader::open(&copy).await;
    let found = match &reader {
        Ok(reader) => reader.states_of(&runs).await.unwrap().len(),
        Err(_) => 0,
    };
    std::fs::set_permissions(folder.path(), writable).unwrap();
    assert_eq!(found, 1, "{reader:?}");
}
