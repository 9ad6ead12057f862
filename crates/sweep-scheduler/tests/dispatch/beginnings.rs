//! Runs that begin alike: one trains the beginning, the others wait for it and no longer.

use sweep_core::epsilon::Epsilon;
use sweep_core::event::{Event, FailureClass};
use sweep_core::spec::RunSpec;
use sweep_core::trajectory::Sharing;
use sweep_scheduler::{Home, Stop, Summary, Update, dispatch};
use sweep_store::Store;
use sweep_testkit::{Action, Script, sample_run};
use tokio::sync::watch;

use crate::fixture::{Fixture, listed, within_patience};

/// Epochs that the runs of a family have in common: the clean ones, of which the first of the ramp is one.
pub(crate) const COMMON: u32 = 2;

/// Runs that differ in their target only, and so have their clean epochs in common.
pub(crate) fn family() -> Vec<RunSpec> {
    [4, 2, 1].map(|target| RunSpec { target_epsilon: Epsilon::from_255ths(target), ..sample_run(0) }).to_vec()
}

const BEGINS: [Action; 3] =
    [Action::Start, Action::Epoch { clean: 50, robust: 20 }, Action::CheckpointSaved { epochs: COMMON }];

/// Trains the beginning and ends only when both followers have started.
fn leads() -> Vec<Action> {
    let wait = |file: &str| Action::WaitFor { file: file.to_owned() };
    [&BEGINS[..], &[wait("second"), wait("third"), Action::Succeed]].concat()
}

/// Raises a flag when a follower starts.
fn note_start(fixture: &Fixture, update: &Update) {
    for (position, flag) in [(1, "second"), (2, "third")] {
        if matches!(update, Update::Started { run, .. } if *run == fixture.id(position)) {
            fixture.workspace.raise(flag);
        }
    }
}

fn position_of(updates: &[Update], what: impl Fn(&Update) -> bool) -> usize {
    updates.iter().position(what).expect("it happened")
}

#[tokio::test]
async fn followers_start_when_their_beginning_is_saved_and_their_leader_works_on() {
    let fixture = Fixture::with(family()).await;
    fixture.script(0, &Script::always(leads()));
    let mut companions = Vec::new();
    let note = |update: &Update| {
        note_start(&fixture, update);
        if matches!(update, Update::Started { run, .. } if *run == fixture.id(0)) {
            let sharing = std::fs::read(fixture.workspace.layout().sharing(fixture.id(0))).unwrap();
            companions = serde_json::from_slice::<Sharing>(&sharing).unwrap().companions;
        }
        None
    };
    let session = fixture.session_until(&fixture.settings("cpu:3"), note).await;
    assert_eq!(session.summary, Summary { total: 3, succeeded: 3, attempts: 3, ..Summary::default() });
    let saved = position_of(&session.updates, |update| {
        matches!(update, Update::Event { event: Event::CheckpointSaved { epochs: COMMON, .. }, .. })
    });
    let follower_started = position_of(
        &session.updates,
        |update| matches!(update, Update::Started { run, .. } if *run != fixture.id(0)),
    );
    assert!(saved < follower_started);
    let served: Vec<_> = companions.iter().map(|companion| (companion.run, companion.epochs)).collect();
    assert_eq!(served, [(fixture.id(1), COMMON), (fixture.id(2), COMMON)]);
    assert_eq!(companions[1].target_epsilon, Epsilon::from_255ths(1));
    assert!(!fixture.workspace.layout().sharing(fixture.id(1)).exists());
}

#[tokio::test]
async fn followers_of_a_leader_that_fails_or_stops_train_their_beginning_themselves() {
    let fails = Action::Fail { class: FailureClass::Diverged, message: "it broke".to_owned() };
    for (end, failed, interrupted) in [(fails, 1, 0), (Action::Interrupt, 0, 1)] {
        let fixture = Fixture::with(family()).await;
        fixture.script(0, &Script::always([Action::Start, end]));
        let summary = fixture.session(&fixture.settings("cpu:3")).await.summary;
        let expected =
            Summary { total: 3, succeeded: 2, failed, interrupted, attempts: 3, ..Summary::default() };
        assert_eq!(summary, expected);
    }
}

#[tokio::test]
async fn what_a_leader_saved_in_an_earlier_session_is_remembered() {
    let fixture = Fixture::with(family()).await;
    let first = [&BEGINS[..], &[Action::Progress { step: 1 }, Action::Hang]].concat();
    let wait = |file: &str| Action::WaitFor { file: file.to_owned() };
    let then = vec![Action::Start, wait("second"), wait("third"), Action::Succeed];
    fixture.script(0, &Script { first: vec![first], then });
    let stop = |update: &Update| {
        let hangs = matches!(update, Update::Event { event: Event::Progress { .. }, .. });
        hangs.then_some(Stop::Graceful)
    };
    let before = fixture.session_until(&fixture.settings("cpu"), stop).await.summary;
    assert_eq!((before.interrupted, before.pending), (1, 2));
    let note = |update: &Update| {
        note_start(&fixture, update);
        None
    };
    let summary = fixture.session_until(&fixture.settings("cpu:3"), note).await.summary;
    assert!(summary.is_complete(), "{summary:?}");
}

#[tokio::test]
async fn a_leader_in_other_hands_is_waited_for_and_heard_of() {
    let fixture = Fixture::with(family()).await;
    let before_saving = Action::WaitFor { file: "awaited".to_owned() };
    fixture.script(0, &Script::always([vec![before_saving], leads()].concat()));
    let other_store = Store::open(Home::new(fixture.workspace.home()).database()).await.unwrap();
    let (_stop, stopped) = watch::channel(Stop::None);
    let runs = listed(&fixture.runs);
    let settings = fixture.settings("cpu:3");
    let (said, mut hears) = tokio::sync::mpsc::unbounded_channel();
    let mut observe_ours = |update| {
        if matches!(update, Update::Started { .. }) {
            let _ = said.send(());
        }
    };
    let mut started_by_them = 0;
    let mut observe_theirs = |update| {
        note_start(&fixture, &update);
        started_by_them += usize::from(matches!(update, Update::Started { .. }));
        if matches!(update, Update::Elsewhere { .. }) {
            fixture.workspace.raise("awaited");
        }
    };
    let first = dispatch(&fixture.store, &runs[..1], &settings, stopped.clone(), &mut observe_ours);
    let second = async {
        hears.recv().await;
        dispatch(&other_store, &runs, &settings, stopped.clone(), &mut observe_theirs).await
    };
    let (one, two) = within_patience(Box::pin(async { tokio::join!(first, second) })).await;
    assert!(one.unwrap().is_complete());
    assert!(two.unwrap().is_complete());
    assert_eq!(started_by_them, 2);
    for (run, _) in &fixture.runs {
        assert_eq!(fixture.workspace.starts(*run), 1);
    }
}

#[tokio::test]
async fn what_nobody_needs_any_more_is_gone_at_the_end() {
    let fixture = Fixture::with(family()).await;
    let saves = |epochs| Action::CheckpointSaved { epochs };
    fixture.workspace.script(&Script::always([Action::Start, saves(1), saves(2), saves(3), Action::Succeed]));
    fixture.session(&fixture.settings("cpu:3")).await;
    let names: Vec<String> = std::fs::read_dir(fixture.workspace.layout().trajectories())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(names.len(), 3, "{names:?}");
    for (run, spec) in &fixture.runs {
        let last = format!("{}-{run}-whole-", spec.trajectory()[3]);
        assert!(names.iter().any(|name| name.starts_with(&last)), "{last} in {names:?}");
    }
}
