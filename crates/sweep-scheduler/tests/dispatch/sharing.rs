//! Several schedulers on one home folder.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};

use sweep_core::event::FailureClass;
use sweep_core::verdict::{Cause, Outcome, Verdict};
use sweep_scheduler::{Home, Settings, Stop, Summary, Update, dispatch};
use sweep_store::{State, Store, now_ms};
use sweep_testkit::{Action, PATIENCE, Script};
use tokio::sync::watch;

use crate::fixture::{Fixture, listed, within_patience};

#[tokio::test]
async fn two_schedulers_share_a_sweep_and_no_run_starts_twice() {
    let fixture = Fixture::new(30).await;
    let wait = Action::WaitFor { file: "both".to_owned() };
    fixture.workspace.script(&Script::always([Action::Start, wait, Action::Succeed]));
    let other_store = Store::open(Home::new(fixture.workspace.home()).database()).await.unwrap();
    let (_stop, stopped) = watch::channel(Stop::None);
    let runs = listed(&fixture.runs);
    let settings = fixture.settings("cpu:2");
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    // No worker ends before both schedulers have started some, so that neither can do everything alone.
    let (we_started, they_started) = (AtomicBool::new(false), AtomicBool::new(false));
    let note = |update: &Update, own: &AtomicBool| {
        own.fetch_or(matches!(update, Update::Started { .. }), Ordering::Relaxed);
        if we_started.load(Ordering::Relaxed) && they_started.load(Ordering::Relaxed) {
            fixture.workspace.raise("both");
        }
    };
    let mut observe_ours = |update| {
        note(&update, &we_started);
        ours.push(update);
    };
    let mut observe_theirs = |update| {
        note(&update, &they_started);
        theirs.push(update);
    };
    let both = async {
        tokio::join!(
            dispatch(&fixture.store, &runs, &settings, stopped.clone(), &mut observe_ours),
            dispatch(&other_store, &runs, &settings, stopped.clone(), &mut observe_theirs),
        )
    };
    let (one, two) = within_patience(Box::pin(both)).await;
    let (one, two) = (one.unwrap(), two.unwrap());
    assert!(one.is_complete() && two.is_complete(), "{one:?} {two:?}");
    assert_eq!(one.attempts + two.attempts, 30);
    for (run, _) in &fixture.runs {
        assert_eq!(fixture.workspace.starts(*run), 1);
    }
    let started = |updates: &[Update]| -> HashSet<_> {
        updates
            .iter()
            .filter_map(|update| if let Update::Started { run, .. } = update { Some(*run) } else { None })
            .collect()
    };
    assert!(started(&ours).is_disjoint(&started(&theirs)));
    fixture.assert_complete().await;
}

#[tokio::test]
async fn a_scheduler_waits_for_what_another_one_runs_and_does_not_take_it_over() {
    let fixture = Fixture::new(1).await;
    let wait = Action::WaitFor { file: "go".to_owned() };
    fixture.script(0, &Script::always([Action::Start, Action::Progress { step: 0 }, wait, Action::Succeed]));
    let other_store = Store::open(Home::new(fixture.workspace.home()).database()).await.unwrap();
    let (_stop, stopped) = watch::channel(Stop::None);
    let runs = listed(&fixture.runs);
    let settings = fixture.settings("cpu");
    let (said, mut hears) = tokio::sync::mpsc::unbounded_channel();
    let mut observe_ours = |update| {
        if matches!(update, Update::Event { .. }) {
            let _ = said.send(());
        }
    };
    let mut theirs = Vec::new();
    let mut observe_theirs = |update| {
        // Only now may the worker finish: the second scheduler has seen it alive.
        if matches!(update, Update::Elsewhere { attempt: 1, .. }) {
            fixture.workspace.raise("go");
        }
        theirs.push(update);
    };
    let second = async {
        hears.recv().await;
        dispatch(&other_store, &runs, &settings, stopped.clone(), &mut observe_theirs).await
    };
    let first = dispatch(&fixture.store, &runs, &settings, stopped.clone(), &mut observe_ours);
    let (one, two) = within_patience(Box::pin(async { tokio::join!(first, second) })).await;
    assert_eq!(one.unwrap(), Summary { total: 1, succeeded: 1, attempts: 1, ..Summary::default() });
    assert_eq!(two.unwrap(), Summary { total: 1, succeeded: 1, ..Summary::default() });
    assert_eq!(fixture.workspace.starts(fixture.id(0)), 1);
    let run = fixture.id(0);
    let finished = Update::FinishedElsewhere { run, state: State::Succeeded };
    assert_eq!(theirs, [Update::Elsewhere { run, attempt: 1 }, finished]);
}

#[tokio::test]
async fn a_worker_whose_log_was_deleted_lives_as_long_as_its_process() {
    let fixture = Fixture::new(1).await;
    let wait = Action::WaitFor { file: "go".to_owned() };
    fixture.script(0, &Script::always([Action::Start, Action::Progress { step: 0 }, wait, Action::Succeed]));
    let other_store = Store::open(Home::new(fixture.workspace.home()).database()).await.unwrap();
    let (_stop, stopped) = watch::channel(Stop::None);
    let runs = listed(&fixture.runs);
    let settings = fixture.settings("cpu");
    let (said, mut hears) = tokio::sync::mpsc::unbounded_channel();
    let mut observe_ours = |update| {
        if matches!(update, Update::Event { .. }) {
            let _ = said.send(());
        }
    };
    let mut theirs = Vec::new();
    let mut observe_theirs = |update| {
        if matches!(update, Update::Elsewhere { .. }) {
            fixture.workspace.raise("go");
        }
        theirs.push(update);
    };
    let run = fixture.id(0);
    let log = fixture.workspace.layout().log(run, 1);
    let second = async {
        hears.recv().await;
        std::fs::remove_file(&log).unwrap();
        dispatch(&other_store, &runs, &settings, stopped.clone(), &mut observe_theirs).await
    };
    let first = dispatch(&fixture.store, &runs, &settings, stopped.clone(), &mut observe_ours);
    let (one, two) = within_patience(Box::pin(async { tokio::join!(first, second) })).await;
    assert!(one.unwrap().is_complete() && two.unwrap().is_complete());
    // It was looked at twice before the session began to wait for it.
    assert_eq!(theirs[0], Update::Elsewhere { run, attempt: 1 });
    assert_eq!(fixture.workspace.starts(run), 1);
}

#[tokio::test]
async fn what_a_scheduler_had_judged_before_it_died_holds() {
    let fixture = Fixture::new(2).await;
    let run = fixture.id(0);
    let attempt = fixture.store.claim(run, "gone", now_ms()).await.unwrap().unwrap();
    let home = fixture.workspace.layout();
    let cause = Cause { class: FailureClass::Diverged, message: "a loss was not finite".to_owned() };
    let verdict = Verdict {
        outcome: Outcome::Failed { cause, retry: false },
        exit_code: Some(79),
        signal: None,
        micro_batch_limit: None,
        ended_ms: now_ms(),
    };
    std::fs::create_dir_all(home.attempt(run, attempt)).unwrap();
    std::fs::write(home.verdict(run, attempt), serde_json::to_vec(&verdict).unwrap()).unwrap();
    let summary = fixture.session(&fixture.settings("cpu")).await.summary;
    assert_eq!((summary.already_failed, summary.succeeded, summary.attempts), (1, 1, 1));
    let attempt = &fixture.attempts(0).await[0];
    assert_eq!(attempt.exit_code, Some(79));
    assert_eq!(attempt.failure.as_ref().unwrap().message, "a loss was not finite");
}

/// Far more turns at the database than settling takes.
const TURNS: usize = 50;

#[tokio::test]
async fn a_crash_that_its_own_scheduler_has_yet_to_settle_is_left_to_it() {
    let fixture = Fixture::new(1).await;
    let run = fixture.id(0);
    // Its worker is dead, but this scheduler, which knows how it died, has not written that down yet.
    let attempt = fixture.store.claim(run, "alive", now_ms()).await.unwrap().unwrap();
    let (_stop, stopped) = watch::channel(Stop::None);
    let runs = listed(&fixture.runs);
    let settings = Settings { poll: PATIENCE, ..fixture.settings("cpu") };
    let other_store = Store::open(Home::new(fixture.workspace.home()).database()).await.unwrap();
    let mut observe = |_| {};
    let other = dispatch(&other_store, &runs, &settings, stopped, &mut observe);
    let looked_at = fixture.workspace.layout().log(run, attempt);
    let still_running = async {
        while !looked_at.exists() {
            tokio::task::yield_now().await;
        }
        for _ in 0..TURNS {
            assert_eq!(fixture.states().await, [State::Running]);
        }
    };
    within_patience(async {
        tokio::select! {
            _ = Box::pin(other) => panic!("the attempt was given up at the first look"),
            () = still_running => {}
        }
    })
    .await;
}

#[tokio::test]
async fn a_claim_whose_scheduler_died_before_it_could_start_a_worker_is_given_up() {
    let fixture = Fixture::new(2).await;
    assert_eq!(fixture.store.claim(fixture.id(0), "gone", now_ms()).await.unwrap(), Some(1));
    let session = fixture.session(&fixture.settings("cpu")).await;
    assert_eq!((session.summary.succeeded, session.summary.attempts), (2, 2));
    let attempts = fixture.attempts(0).await;
    let states: Vec<State> = attempts.iter().map(|attempt| attempt.state).collect();
    assert_eq!(states, [State::Interrupted, State::Succeeded]);
    fixture.assert_complete().await;
}

#[tokio::test]
async fn what_another_sweep_left_behind_is_cleaned_up_too() {
    let fixture = Fixture::new(2).await;
    fixture.store.claim(fixture.id(1), "gone", now_ms()).await.unwrap();
    let (_stop, stopped) = watch::channel(Stop::None);
    let settings = fixture.settings("cpu");
    let only_first = &listed(&fixture.runs)[..1];
    dispatch(&fixture.store, only_first, &settings, stopped, &mut |_| {}).await.unwrap();
    assert_eq!(fixture.states().await, [State::Succeeded, State::Interrupted]);
}
