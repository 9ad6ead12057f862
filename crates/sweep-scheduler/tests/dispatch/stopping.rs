//! Stop requests: once to save and leave, twice to be killed.

use std::time::Duration;

use sweep_core::event::Event;
use sweep_scheduler::{Halt, Settings, Stop, Summary, Update};
use sweep_store::State;
use sweep_testkit::{Action, Script};

use crate::fixture::Fixture;

/// A worker that says where it is and then waits for ever.
fn stuck() -> Vec<Action> {
    vec![Action::Start, Action::Epoch { clean: 5, robust: 1 }, Action::Progress { step: 1 }, Action::Hang]
}

fn deaf_and_stuck() -> Vec<Action> {
    [vec![Action::BeDeaf], stuck()].concat()
}

const fn is_stuck(update: &Update) -> bool {
    matches!(update, Update::Event { event: Event::Progress { .. }, .. })
}

#[tokio::test]
async fn asked_to_stop_workers_leave_and_the_next_session_goes_on() {
    let fixture = Fixture::new(3).await;
    fixture.script(1, &Script::first(1, &stuck()));
    let graceful = |update: &Update| is_stuck(update).then_some(Stop::Graceful);
    let first = fixture.session_until(&fixture.settings("cpu"), graceful).await;
    let expected =
        Summary { total: 3, succeeded: 1, interrupted: 1, pending: 1, attempts: 2, ..Summary::default() };
    assert_eq!(first.summary, Summary { halted: Some(Halt::Requested), ..expected });
    assert_eq!(fixture.states().await, [State::Succeeded, State::Interrupted, State::Pending]);
    assert_eq!(fixture.attempts(1).await[0].exit_code, Some(76));

    let second = fixture.session(&fixture.settings("cpu")).await;
    assert_eq!((second.summary.already_succeeded, second.summary.succeeded), (1, 2));
    fixture.assert_complete().await;
    let states: Vec<State> = fixture.attempts(1).await.iter().map(|attempt| attempt.state).collect();
    assert_eq!(states, [State::Interrupted, State::Succeeded]);
    assert_eq!(fixture.workspace.starts(fixture.id(0)), 1);
}

#[tokio::test]
async fn a_worker_that_does_not_listen_is_killed_when_asked_twice() {
    let fixture = Fixture::new(1).await;
    fixture.script(0, &Script::always(deaf_and_stuck()));
    let (mut said, mut level) = (0, Stop::None);
    let twice = |update: &Update| {
        said += usize::from(is_stuck(update) || matches!(update, Update::Halted { .. }));
        level = [Stop::None, Stop::Graceful, Stop::Now][said];
        (level > Stop::None).then_some(level)
    };
    let session = fixture.session_until(&fixture.settings("cpu"), twice).await;
    assert_eq!((session.summary.interrupted, session.summary.halted), (1, Some(Halt::Requested)));
    let attempt = &fixture.attempts(0).await[0];
    assert_eq!((attempt.state, attempt.signal), (State::Interrupted, Some(9)));
}

#[tokio::test]
async fn a_worker_that_does_not_listen_is_killed_when_its_grace_is_over() {
    let fixture = Fixture::new(1).await;
    fixture.script(0, &Script::always(deaf_and_stuck()));
    let settings = Settings { grace: Duration::from_millis(1), ..fixture.settings("cpu") };
    let session = fixture.session_until(&settings, |update| is_stuck(update).then_some(Stop::Graceful)).await;
    assert_eq!(session.summary.interrupted, 1);
    assert_eq!(fixture.attempts(0).await[0].signal, Some(9));
}

#[tokio::test]
async fn grace_beyond_the_end_of_the_clock_is_for_ever() {
    let fixture = Fixture::new(1).await;
    fixture.script(0, &Script::always(stuck()));
    let settings = Settings { grace: Duration::MAX, ..fixture.settings("cpu") };
    let session = fixture.session_until(&settings, |update| is_stuck(update).then_some(Stop::Graceful)).await;
    assert_eq!(session.summary.interrupted, 1);
    assert_eq!(fixture.attempts(0).await[0].exit_code, Some(76));
}

#[tokio::test]
async fn now_kills_at_once() {
    let fixture = Fixture::new(4).await;
    fixture.workspace.script(&Script::always(deaf_and_stuck()));
    let mut stuck = 0;
    let both_are_stuck = |update: &Update| {
        stuck += usize::from(is_stuck(update));
        (stuck == 2).then_some(Stop::Now)
    };
    let session = fixture.session_until(&fixture.settings("cpu:2"), both_are_stuck).await;
    assert_eq!((session.summary.interrupted, session.summary.pending), (2, 2));
    assert_eq!(fixture.store.reader().running_attempts().await.unwrap(), []);
}

#[tokio::test]
async fn a_session_that_is_stopped_from_the_beginning_starts_nothing() {
    let fixture = Fixture::new(2).await;
    let (_, stop) = tokio::sync::watch::channel(Stop::Graceful);
    let listed = crate::fixture::listed(&fixture.runs);
    let settings = fixture.settings("cpu");
    let summary =
        sweep_scheduler::dispatch(&fixture.store, &listed, &settings, stop, &mut |_| {}).await.unwrap();
    assert_eq!((summary.pending, summary.attempts, summary.halted), (2, 0, Some(Halt::Requested)));
}
