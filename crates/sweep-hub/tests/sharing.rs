//! Several that want the same file at once: one downloads it, whichever process it is in.

#![expect(clippy::unwrap_used, reason = "test helpers outside of test functions")]

mod support;

use std::fs::{OpenOptions, TryLockError};
use std::process::{Child, Command, Stdio};

use support::*;
use sweep_hub::{Hub, Settings};
use sweep_testkit::hub::{Content, FaultKind, Kind, Step};

const ENDPOINT: &str = "SWEEP_HUB_TEST_ENDPOINT";
const CACHE: &str = "SWEEP_HUB_TEST_CACHE";
const COMMIT: &str = "SWEEP_HUB_TEST_COMMIT";

/// What a further process does; nothing where it is run as one of the tests.
#[tokio::test]
async fn child() {
    let Ok(endpoint) = std::env::var(ENDPOINT) else { return };
    let settings = Settings { endpoint, ..Settings::new(std::env::var(CACHE).unwrap()) };
    let commit = std::env::var(COMMIT).unwrap().parse().unwrap();
    let paths = fetch(&Hub::new(settings).unwrap(), &model(), &commit, &[WEIGHTS]).await.unwrap();
    assert_eq!(std::fs::read(&paths[0]).unwrap(), weights());
}

fn process(fixture: &Fixture) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(ENDPOINT, fixture.hub.endpoint())
        .env(CACHE, fixture.cache())
        .env(COMMIT, fixture.commit.as_str())
        // Without a token in the settings none may be sent, wherever the library below would find one.
        .env("HF_TOKEN", TOKEN)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

fn is_locked(fixture: &Fixture) -> bool {
    let path = fixture.cache().join(format!(".locks/sweep/models--owner--model/{}.lock", fixture.commit));
    let file = OpenOptions::new().write(true).open(path);
    file.is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
}

#[tokio::test]
async fn two_processes_and_a_task_download_once() {
    let fixture = Fixture::new();
    fixture.fault(Step::Cdn, None, FaultKind::Stall { after: 100_000 }, Some(1));
    let mut first = process(&fixture);
    until(|| fixture.hub.stalled() == 1).await;
    assert!(is_locked(&fixture));
    let mut second = process(&fixture);
    let third = fixture.fetch(&[WEIGHTS]);
    tokio::pin!(third);
    // The third runs until it waits for the lock, which the first one holds while its download stands still.
    let early = tokio::time::timeout(std::time::Duration::from_millis(100), &mut third).await;
    assert!(early.is_err());
    fixture.hub.resume_stalled();
    let third = third.await.unwrap();
    assert_eq!(std::fs::read(&third[0]).unwrap(), weights());
    assert!(first.wait().unwrap().success());
    assert!(second.wait().unwrap().success());
    assert_eq!(fixture.downloads(), 1);
    assert!(fixture.hub.requests().iter().all(|request| !request.authorized));
    fixture.assert_sound();
}

#[tokio::test]
async fn many_tasks_download_once() {
    let fixture = Fixture::new();
    let (one, other, model) = (fixture.client(), fixture.client(), model());
    let fetched =
        futures_util::future::join_all((0..8).map(|index| {
            fetch(if index % 2 == 0 { &one } else { &other }, &model, &fixture.commit, &[WEIGHTS])
        }));
    for result in fetched.await {
        result.unwrap();
    }
    assert_eq!(fixture.downloads(), 1);
    fixture.assert_sound();
}

#[tokio::test]
async fn commits_do_not_wait_for_each_other() {
    let fixture = Fixture::new();
    let files = [(WEIGHTS, Content::Lfs(weights())), ("new", Content::Git(vec![1]))];
    let newer = fixture.hub.commit(Kind::Model, MODEL, "main", &files).parse().unwrap();
    fixture.fault(Step::Cdn, None, FaultKind::Stall { after: 100_000 }, Some(1));
    let (client, repository) = (fixture.client(), model());
    let first = fetch(&client, &repository, &fixture.commit, &[WEIGHTS]);
    let second = async {
        until(|| fixture.hub.stalled() == 1).await;
        let paths = fetch(&client, &repository, &newer, &[WEIGHTS]).await;
        fixture.hub.resume_stalled();
        paths
    };
    let (first, second) = futures_util::future::join(first, second).await;
    assert_eq!(std::fs::read(&first.unwrap()[0]).unwrap(), weights());
    assert_eq!(std::fs::read(&second.unwrap()[0]).unwrap(), weights());
    fixture.assert_sound();
}

#[tokio::test]
async fn what_a_killed_process_leaves_is_cleared_away() {
    let fixture = Fixture::new();
    fixture.fault(Step::Cdn, None, FaultKind::Stall { after: 100_000 }, Some(1));
    let mut killed = process(&fixture);
    until(|| fixture.hub.stalled() == 1).await;
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert!(files_below(&fixture.cache()).iter().any(|path| path.to_str().unwrap().contains(".incoming")));
    // Nothing that a reader of the cache looks at.
    assert!(files_below(&fixture.cache().join("models--owner--model")).is_empty());
    fixture.fetch(&[WEIGHTS]).await.unwrap();
    fixture.assert_sound();
}

#[tokio::test]
async fn many_that_find_the_same_damage_bring_it_once() {
    let fixture = Fixture::new();
    fixture.fetch(&[WEIGHTS]).await.unwrap();
    std::fs::write(fixture.blob(WEIGHTS), "damaged").unwrap();
    fixture.hub.forget_requests();
    let (client, model) = (fixture.client(), model());
    let all = (0..8).map(|_| fetch(&client, &model, &fixture.commit, &[WEIGHTS]));
    for result in futures_util::future::join_all(all).await {
        assert_eq!(std::fs::read(&result.unwrap()[0]).unwrap(), weights());
    }
    assert_eq!(fixture.downloads(), 1);
    fixture.assert_sound();
}
