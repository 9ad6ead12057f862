//! Whatever goes wrong once is overcome; what goes wrong for ever ends in an error of its own; and neither leaves anything
//! unsound in the cache.

#![expect(clippy::unwrap_used, reason = "test helpers outside of test functions")]

mod support;

use std::time::Duration;

use support::*;
use sweep_hub::{Class, Error, Hub, Settings};
use sweep_testkit::hub::{Content, FaultKind, Kind, Origin, Step};

/// Patience of the tests in which a connection hangs: spent whole where one does, and longer than any step takes otherwise.
const SHORT: Duration = Duration::from_secs(5);

fn status(code: u16) -> FaultKind {
    FaultKind::Status { code, retry_after: None }
}

fn header(name: &str, value: &str) -> FaultKind {
    FaultKind::Header { name: name.to_owned(), value: Some(value.to_owned()) }
}

/// Every place and kind of fault that may pass by itself.
fn passing() -> Vec<(Step, FaultKind)> {
    let retry_at_once = FaultKind::Status { code: 429, retry_after: Some(0) };
    let mut faults = vec![
        (Step::Cdn, FaultKind::ExpiredUrl),
        (Step::Cdn, status(404)),
        (Step::Head, header("X-Linked-Etag", &format!("\"{}\"", "0".repeat(64)))),
        (Step::Head, header("ETag", &format!("\"{}\"", "0".repeat(40)))),
    ];
    for step in [Step::Api, Step::Head, Step::Get, Step::Cdn] {
        faults.extend([408, 500, 502, 503, 504].map(|code| (step, status(code))));
        faults.extend(
            [retry_at_once.clone(), FaultKind::Close, FaultKind::Reset { after: 0 }].map(|kind| (step, kind)),
        );
    }
    for step in [Step::Api, Step::Get, Step::Cdn] {
        faults.extend(
            [
                FaultKind::Truncate { after: 10 },
                FaultKind::Reset { after: 10 },
                FaultKind::Shrink { to: 10 },
                FaultKind::Shrink { to: 0 },
                FaultKind::Corrupt { at: 10 },
            ]
            .map(|kind| (step, kind)),
        );
    }
    faults
}

#[tokio::test]
async fn what_fails_once_is_overcome() {
    for (step, kind) in passing() {
        let fixture = Fixture::new();
        fixture.fault(step, None, kind.clone(), Some(1));
        let paths = fixture.fetch(&[WEIGHTS, CONFIG]).await;
        let paths = paths.unwrap_or_else(|error| panic!("{step:?} {kind:?}: {error}"));
        assert_eq!(std::fs::read(&paths[0]).unwrap(), weights(), "{step:?} {kind:?}");
        assert_eq!(std::fs::read(&paths[1]).unwrap(), config(), "{step:?} {kind:?}");
        fixture.assert_sound();
    }
}

/// A fault that stays, the file it befalls, and whether an error is the right one for it.
type Lasting = (Step, FaultKind, &'static str, fn(&Error) -> bool);

fn lasting() -> Vec<Lasting> {
    use Step::{Api, Cdn, Get, Head};
    let hostile = |error: &Error| matches!(error, Error::Hostile { .. });
    let server = |error: &Error| matches!(error, Error::Server { status: 503, .. });
    let limited = |error: &Error| matches!(error, Error::RateLimited { .. });
    let broken = |error: &Error| matches!(error, Error::Unreachable { .. });
    let damaged = |error: &Error| matches!(error, Error::Damaged { .. });
    let transfer = |error: &Error| matches!(error, Error::Transfer { .. });
    let other = format!("\"{}\"", "0".repeat(64));
    let no_etag = FaultKind::Header { name: "X-Linked-Etag".to_owned(), value: None };
    vec![
        (Api, status(503), WEIGHTS, server),
        (Head, status(503), WEIGHTS, server),
        (Get, status(503), WEIGHTS, server),
        (Get, status(503), CONFIG, server),
        (Cdn, status(503), WEIGHTS, server),
        (Api, status(429), WEIGHTS, limited),
        (Head, status(429), WEIGHTS, limited),
        (Cdn, status(429), WEIGHTS, limited),
        (Api, status(401), WEIGHTS, |error| matches!(error, Error::NeedsToken { .. })),
        (Head, status(403), WEIGHTS, |error| matches!(error, Error::NeedsToken { .. })),
        (Api, status(404), WEIGHTS, |error| matches!(error, Error::RevisionMissing { .. })),
        (Head, status(404), WEIGHTS, |error| matches!(error, Error::FileMissing { .. })),
        (Head, status(418), WEIGHTS, |error| matches!(error, Error::Server { status: 418, .. })),
        (Cdn, FaultKind::ExpiredUrl, WEIGHTS, transfer),
        (Api, FaultKind::Close, WEIGHTS, broken),
        (Head, FaultKind::Close, WEIGHTS, broken),
        (Cdn, FaultKind::Close, WEIGHTS, broken),
        (Head, FaultKind::Reset { after: 0 }, WEIGHTS, broken),
        (Cdn, FaultKind::Reset { after: 1000 }, WEIGHTS, broken),
        (Cdn, FaultKind::Truncate { after: 1000 }, WEIGHTS, broken),
        (Get, FaultKind::Truncate { after: 10 }, CONFIG, broken),
        (Api, FaultKind::Shrink { to: 10 }, WEIGHTS, damaged),
        (Cdn, FaultKind::Shrink { to: 1000 }, WEIGHTS, damaged),
        (Cdn, FaultKind::Corrupt { at: 200_000 }, WEIGHTS, damaged),
        (Get, FaultKind::Shrink { to: 10 }, CONFIG, damaged),
        (Get, FaultKind::Corrupt { at: 10 }, CONFIG, damaged),
        (Head, header("X-Linked-Etag", &other), WEIGHTS, damaged),
        (Head, header("X-Linked-Etag", "\"../../../../evil\""), WEIGHTS, hostile),
        (Head, header("X-Linked-Etag", "\"/tmp/evil\""), WEIGHTS, hostile),
        (Head, header("X-Linked-Etag", "W/\"evil\""), WEIGHTS, hostile),
        (Head, header("ETag", "\"../evil\""), CONFIG, hostile),
        (Head, header("X-Repo-Commit", "../../../evil"), WEIGHTS, hostile),
        (Head, no_etag, WEIGHTS, |error| matches!(error, Error::Unexpected { .. })),
        // Xet is announced, but its service does not answer.
        (Head, header("X-Xet-Hash", &"1".repeat(64)), WEIGHTS, transfer),
    ]
}

#[tokio::test]
async fn what_fails_for_ever_ends_in_its_own_error() {
    for (step, kind, path, right) in lasting() {
        let fixture = Fixture::new();
        fixture.fault(step, None, kind.clone(), None);
        let error = fixture.fetch(&[path]).await.unwrap_err();
        assert!(right(&error), "{step:?} {kind:?}: {error:?}");
        assert_clear(&error);
        fixture.assert_sound();
        assert_eq!(fixture.client().cached(&model(), &fixture.commit, path).unwrap(), None);
        fixture.hub.clear_faults();
        let paths = fixture.fetch(&[path]).await;
        paths.unwrap_or_else(|error| panic!("after {step:?} {kind:?}: {error}"));
        fixture.assert_sound();
    }
}

#[tokio::test]
async fn permanent_errors_are_not_tried_again_and_transient_ones_as_often_as_told() {
    for (code, tries) in [(401, 1), (404, 1), (418, 1), (429, 3), (503, 3)] {
        let fixture = Fixture::new();
        fixture.fault(Step::Api, None, status(code), None);
        let error = fixture.client().resolve(&model(), "main").await.unwrap_err();
        assert_eq!(error.class() == Class::Transient, tries > 1, "{code}");
        assert_eq!(fixture.hub.requests().len(), tries, "{code}");
    }
}

#[tokio::test]
async fn a_wait_that_is_too_long_is_told_instead() {
    let fixture = Fixture::new();
    fixture.fault(Step::Api, None, FaultKind::Status { code: 429, retry_after: Some(100_000) }, None);
    let error = fixture.client().resolve(&model(), "main").await.unwrap_err();
    assert!(error.to_string().contains("100000 s"), "{error}");
    assert_eq!(fixture.hub.requests().len(), 1);
}

#[tokio::test]
async fn connections_that_hang_are_given_up() {
    let cases = [(Step::Api, 0), (Step::Api, 10), (Step::Head, 0), (Step::Get, 0), (Step::Cdn, 100_000)];
    futures_util::future::join_all(cases.map(|(step, after)| a_hang(step, after))).await;
}

async fn a_hang(step: Step, after: u64) {
    let fixture = Fixture::new();
    let path = if step == Step::Get { CONFIG } else { WEIGHTS };
    let settings = Settings { patience: SHORT, retries: 0, ..fixture.settings() };
    fixture.fault(step, None, FaultKind::Stall { after }, Some(1));
    let hub = Hub::new(settings).unwrap();
    let error = fetch(&hub, &model(), &fixture.commit, &[path]).await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { patience: SHORT, .. }), "{step:?}: {error:?}");
    assert_clear(&error);
    fixture.assert_sound();
    // One retry is enough.
    fixture.fault(step, None, FaultKind::Stall { after }, Some(1));
    let settings = Settings { retries: 1, ..hub.settings().clone() };
    fetch(&Hub::new(settings).unwrap(), &model(), &fixture.commit, &[path]).await.unwrap();
    fixture.assert_sound();
}

#[tokio::test]
async fn a_transfer_may_take_longer_than_the_patience() {
    let fixture = Fixture::new();
    let settings = Settings { patience: SHORT, retries: 0, ..fixture.settings() };
    // At one piece a millisecond at most, this takes longer than the patience.
    fixture.fault(Step::Cdn, None, FaultKind::Slow { chunk: 100 }, None);
    fetch(&Hub::new(settings).unwrap(), &model(), &fixture.commit, &[WEIGHTS]).await.unwrap();
    fixture.assert_sound();
}

#[tokio::test]
async fn nothing_listens() {
    let fixture = Fixture::new();
    let settings = Settings { endpoint: "http://127.0.0.1:1".into(), ..fixture.settings() };
    let hub = Hub::new(settings).unwrap();
    for error in [hub.resolve(&model(), "main").await.unwrap_err(), hub.probe().await.unwrap_err()] {
        assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
        assert_clear(&error);
    }
}

#[tokio::test]
async fn a_dropped_download_leaves_nothing() {
    let fixture = Fixture::new();
    fixture.fault(Step::Cdn, None, FaultKind::Stall { after: 100_000 }, Some(1));
    let (client, repository, commit) = (fixture.client(), model(), fixture.commit.clone());
    let task = tokio::spawn(async move { fetch(&client, &repository, &commit, &[WEIGHTS]).await });
    until(|| fixture.hub.stalled() == 1).await;
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    fixture.assert_sound();
    fixture.fetch(&[WEIGHTS]).await.unwrap();
    fixture.assert_sound();
}

#[tokio::test]
async fn a_listing_that_would_lead_out_of_the_cache_is_refused() {
    for path in ["../evil", "a/../../evil", "a\\b", "."] {
        let fixture = Fixture::new();
        let commit = fixture.hub.commit(Kind::Model, "owner/evil", "main", &[(path, Content::Git(vec![1]))]);
        let repository = sweep_hub::Repository::new(sweep_hub::RepositoryKind::Model, "owner/evil").unwrap();
        let error = fixture.client().files(&repository, &commit.parse().unwrap()).await.unwrap_err();
        assert!(matches!(error, Error::Hostile { kind: "path", .. }), "{path}: {error:?}");
        let error =
            fetch(&fixture.client(), &repository, &commit.parse().unwrap(), &[path]).await.unwrap_err();
        assert!(matches!(error, Error::BadPath { .. }), "{path}: {error:?}");
        assert_clear(&error);
        fixture.assert_sound();
    }
}

#[tokio::test]
async fn a_server_that_repeats_secrets_is_not_repeated() {
    let fixture = Fixture::new();
    let token = sweep_hub::Token::new(TOKEN).unwrap();
    let hub = Hub::new(Settings { token, ..fixture.settings() }).unwrap();
    let words = format!("Bearer {TOKEN} may not see https://cdn.example/x?Signature=abc");
    for step in [Step::Api, Step::Head, Step::Get, Step::Cdn] {
        fixture.fault(step, None, FaultKind::Status { code: 500, retry_after: None }, None);
        fixture.fault(step, None, header("X-Error-Message", &words), None);
        let error = fetch(&hub, &model(), &fixture.commit, &[WEIGHTS]).await.unwrap_err();
        assert!(
            error.to_string().contains("Bearer … may not see https://cdn.example/x?…"),
            "{step:?}: {error}"
        );
        assert_clear(&error);
        fixture.hub.clear_faults();
    }
    fixture.fault(Step::Cdn, None, FaultKind::Corrupt { at: 10 }, None);
    let error = fetch(&hub, &model(), &fixture.commit, &[WEIGHTS]).await.unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error:?}");
    for request in fixture.hub.requests() {
        assert_eq!(request.authorized, request.origin == Origin::Hub, "{request:?}");
    }
}
