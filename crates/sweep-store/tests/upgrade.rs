//! Files of earlier and later versions: brought up to date whole or not at all, with a copy of what was there.
#![expect(clippy::unwrap_used, reason = "a test ends where something unexpected happens")]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use common::{Home, NOW, complete, older, spec, specs, succeeded};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection};
use sweep_core::spec::RunId;
use sweep_store::{Error, Reader, Store};
use tempfile::TempDir;

const KNOWN: i64 = 7;

/// Tells a child of this test which file to open.
const TO_OPEN: &str = "SWEEP_TEST_TO_OPEN";

/// Children that are killed while they bring a file up to date.
const KILLS: usize = 24;

/// A connection that can do what the store never does.
async fn raw(path: &Path) -> SqliteConnection {
    SqliteConnectOptions::new().filename(path).foreign_keys(true).connect().await.unwrap()
}

async fn schema(path: &Path) -> i64 {
    let mut connection = raw(path).await;
    let version = "SELECT max(version) FROM _sqlx_migrations";
    let version = sqlx::query_scalar(version).fetch_one(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    version
}

/// A folder with a file of an earlier version, which holds one complete run and some that wait.
struct Older {
    folder: TempDir,
    run: RunId,
}

impl Older {
    async fn with_runs(version: i64, runs: u64) -> Self {
        let home = Home::new().await;
        let (_, listed) = home.register(&specs(runs)).await;
        let run = listed[0];
        home.store.claim(run, "test", NOW).await.unwrap();
        home.store.ingest(run, 1, &complete(run, 1), 1).await.unwrap();
        home.store.settle(run, 1, &succeeded(), NOW).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        older::copy(&home.database(), &folder.path().join("results.db"), version).await;
        Self { folder, run }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("results.db")
    }

    /// Names of the files in the folder but the database and those that SQLite keeps beside it.
    fn others(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let own = ["results.db", "results.db-wal", "results.db-shm", "results.db-journal"];
        let mut names: Vec<String> = names.filter(|name| !own.contains(&name.as_str())).collect();
        names.sort();
        names
    }
}

#[tokio::test]
async fn files_of_every_earlier_version_keep_their_results() {
    for version in 1..KNOWN {
        let old = Older::with_runs(version, 1).await;
        let store = Store::open(old.path()).await.unwrap();
        let points = store.reader().evaluations_of(old.run).await.unwrap();
        assert_eq!((points.len(), points[0].count.correct), (9, 30), "version {version}");
        assert_eq!((points[0].attempt, points[0].measurement), (Some(1), None));
        // The first version did not keep it with the points; later ones know it only where the model was there before.
        assert_eq!(points[0].model_digest, (version == 1).then(|| "m".repeat(64)));
        let result = store.reader().result_of(old.run).await.unwrap().unwrap();
        assert!(result.expected_robustness.is_some());
        assert_eq!((result.epochs_done, result.shared_epochs), (3, 0));
        store.close().await.unwrap();

        assert_eq!(old.others(), [format!("results.db.schema-{version}.bak")]);
        let copy = old.path().with_extension(format!("db.schema-{version}.bak"));
        assert_eq!(schema(&copy).await, version);
        // Put back, it has everything.
        let again = Store::open(&copy).await.unwrap();
        assert_eq!(again.reader().evaluations_of(old.run).await.unwrap(), points);
        again.close().await.unwrap();
    }
}

#[tokio::test]
async fn the_same_copy_is_not_kept_twice() {
    let old = Older::with_runs(3, 1).await;
    let before = std::fs::read(old.path()).unwrap();
    for _ in 0..3 {
        std::fs::write(old.path(), &before).unwrap();
        Store::open(old.path()).await.unwrap().close().await.unwrap();
        assert_eq!(old.others(), ["results.db.schema-3.bak"]);
    }
}

#[tokio::test]
async fn a_copy_is_never_overwritten() {
    let old = Older::with_runs(3, 1).await;
    let first = old.folder.path().join("results.db.schema-3.bak");
    std::fs::write(&first, "of an earlier accident").unwrap();
    Store::open(old.path()).await.unwrap().close().await.unwrap();
    assert_eq!(old.others(), ["results.db.schema-3.bak", "results.db.schema-3.bak.2"]);
    assert_eq!(std::fs::read(first).unwrap(), b"of an earlier accident");
}

#[tokio::test]
async fn a_new_file_needs_no_copy() {
    let home = Home::new().await;
    let names = std::fs::read_dir(home.database().parent().unwrap()).unwrap();
    assert!(
        names.map(|entry| entry.unwrap().file_name()).all(|name| !name.to_str().unwrap().contains("bak"))
    );
}

/// Without a copy nothing is changed.
#[tokio::test]
async fn where_no_copy_can_be_made_the_file_stays_as_it_is() {
    let old = Older::with_runs(3, 1).await;
    let in_the_way = old.folder.path().join("results.db.schema-3.bak.tmp");
    std::fs::create_dir(&in_the_way).unwrap();
    let error = Store::open(old.path()).await.unwrap_err();
    assert!(matches!(&error, Error::File { path, .. } if *path == in_the_way), "{error}");
    assert_eq!(schema(&old.path()).await, 3);
    std::fs::remove_dir(in_the_way).unwrap();
    Store::open(old.path()).await.unwrap();
}

/// Opens the file that its parent names; not a test by itself.
#[tokio::test]
#[ignore = "started by other tests, as a process of its own"]
async fn child_opens() {
    if let Some(path) = std::env::var_os(TO_OPEN) {
        Store::open(path).await.unwrap().close().await.unwrap();
    }
}

fn open_in_a_child(path: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_opens", "--ignored"])
        .env(TO_OPEN, path)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[tokio::test]
async fn processes_that_come_at_once_do_it_once() {
    let old = Older::with_runs(3, 50).await;
    let children: Vec<Child> = (0..4).map(|_| open_in_a_child(&old.path())).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(schema(&old.path()).await, KNOWN);
    assert_eq!(old.others(), ["results.db.schema-3.bak"]);
}

/// Whenever the process is killed, the file is of one version or of the other, and sound.
#[tokio::test]
async fn a_kill_leaves_the_old_file_or_the_new_one() {
    let old = Older::with_runs(3, 300).await;
    let before = std::fs::read(old.path()).unwrap();
    let mut untouched = 0;
    for number in 0..KILLS {
        let mut child = open_in_a_child(&old.path());
        wait_for_a_sign(&old, number, &mut child);
        child.kill().unwrap();
        child.wait().unwrap();
        let version = schema(&old.path()).await;
        assert!([3, KNOWN].contains(&version), "version {version}");
        untouched += usize::from(version == 3);
        if version == KNOWN {
            // It was too fast, or the end was near: once more from the start.
            for ending in ["", "-wal", "-shm"] {
                let _ = std::fs::remove_file(old.folder.path().join(format!("results.db{ending}")));
            }
            std::fs::write(old.path(), &before).unwrap();
        }
    }
    let store = Store::open(old.path()).await.unwrap();
    assert_eq!(store.reader().faults(std::time::Duration::from_mins(1)).await.unwrap(), [""; 0]);
    assert_eq!(store.reader().evaluations_of(old.run).await.unwrap().len(), 9);
    store.close().await.unwrap();
    let others = old.others();
    assert!(others.iter().all(|name| !name.ends_with("tmp")), "{others:?}");
    assert_eq!(others.len(), 1, "{others:?} after {untouched} kills before the end");
}

/// Waits until a child has come to one of the places that are worth a kill, or has left.
fn wait_for_a_sign(old: &Older, number: usize, child: &mut Child) {
    let signs = ["results.db-wal", "results.db.schema-3.bak.tmp", "results.db.schema-3.bak"];
    let sign = old.folder.path().join(signs[number % signs.len()]);
    let mut spins = 0;
    while child.try_wait().unwrap().is_none() && spins < number * 20 {
        // The later kills come a little after the sign.
        spins += usize::from(sign.exists());
        std::thread::yield_now();
    }
}

/// Makes a file look as if a version that comes after this one had written it.
async fn make_newer(path: &Path, min_reader: &'static str) {
    let mut connection = raw(path).await;
    sqlx::raw_sql(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
             VALUES (999, 'from the future', TRUE, x'00', 0);
         ALTER TABLE runs ADD COLUMN mood TEXT;
         CREATE TABLE dreams (run TEXT) STRICT;",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    sqlx::query("UPDATE meta SET value = ? WHERE key = 'min_reader'")
        .bind(min_reader)
        .execute(&mut connection)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_newer_file_that_allows_it_is_read_but_never_written() {
    let home = Home::new().await;
    let (_, runs) = home.register(&specs(2)).await;
    assert_eq!(Reader::open(home.database()).await.unwrap().note(), None);
    make_newer(&home.database(), "4").await;
    let reader = Reader::open(home.database()).await.unwrap();
    assert_eq!(reader.states_of(&runs).await.unwrap().len(), 2);
    assert_eq!(reader.results(None).await.unwrap().len(), 2);
    let note = reader.note().unwrap();
    assert!(note.contains("newer version") && note.contains("999"), "{note}");
    let writer = Store::open(home.database()).await.unwrap_err();
    assert!(matches!(writer, Error::Newer { found: 999, known: KNOWN, .. }), "{writer}");
}

#[tokio::test]
async fn a_newer_file_that_does_not_say_so_is_not_read() {
    for least in ["8", "999", "", "four", "-"] {
        let home = Home::new().await;
        home.register(&[spec(0)]).await;
        make_newer(&home.database(), least).await;
        let error = Reader::open(home.database()).await.unwrap_err();
        assert!(matches!(error, Error::Newer { found: 999, .. }), "{least}: {error}");
    }
}
