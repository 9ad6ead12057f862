//! How attempts end, and what follows from that.

use sweep_core::event::{Event, FailureClass};
use sweep_scheduler::{Error, Halt, RetryPolicy, Settings, Slot, Summary, Update};
use sweep_store::{Outcome, State, Store};
use sweep_testkit::{Action, Script, id_of, sample_run, sample_run_after};

use crate::fixture::{Fixture, listed, two_epochs};

fn fails(class: FailureClass) -> Vec<Action> {
    let text = "the last line of the log".to_owned();
    vec![Action::Start, Action::Print { text }, Action::Fail { class, message: "it broke".to_owned() }]
}

#[tokio::test]
async fn all_succeed_and_everything_said_is_stored_in_order() {
    let fixture = Fixture::new(5).await;
    fixture.workspace.script(&Script::always(two_epochs()));
    let session = fixture.session(&fixture.settings("cpu:2")).await;
    assert_eq!(session.summary, Summary { total: 5, succeeded: 5, attempts: 5, ..Summary::default() });
    assert!(session.summary.is_complete());
    fixture.assert_complete().await;
    let started = session.updates.iter().filter_map(|update| match update {
        Update::Started { run, .. } => Some(*run),
        _ => None,
    });
    assert_eq!(started.collect::<Vec<_>>(), (0..5).map(id_of).collect::<Vec<_>>());
    let mut events = session.updates.iter().filter_map(|update| match update {
        Update::Event { run, event, .. } if *run == id_of(3) => Some(event),
        _ => None,
    });
    let epochs = events.clone().filter_map(|event| match event {
        Event::EpochFinished { epoch, clean_correct, .. } => Some((*epoch, *clean_correct)),
        _ => None,
    });
    assert_eq!(epochs.collect::<Vec<_>>(), [(0, 50), (1, 60)]);
    assert_eq!(events.next_back(), Some(&Event::Succeeded));
    let attempt = &fixture.attempts(0).await[0];
    assert_eq!(
        (attempt.threads, attempt.device.as_deref(), attempt.exit_code),
        (Some(2), Some("cpu"), Some(0))
    );
}

#[tokio::test]
async fn a_second_session_has_nothing_to_do() {
    let fixture = Fixture::new(3).await;
    fixture.session(&fixture.settings("cpu")).await;
    let session = fixture.session(&fixture.settings("cpu")).await;
    assert_eq!(session.summary, Summary { total: 3, already_succeeded: 3, ..Summary::default() });
    assert_eq!(session.updates, []);
}

#[tokio::test]
async fn one_fails_for_good_and_the_others_go_on_but_not_what_depends_on_it() {
    let specs =
        vec![sample_run(0), sample_run_after(1, id_of(0)), sample_run(2), sample_run_after(3, id_of(2))];
    let fixture = Fixture::with(specs).await;
    fixture.script(0, &Script::always(fails(FailureClass::Diverged)));
    let session = fixture.session(&fixture.settings("cpu")).await;
    let expected =
        Summary { total: 4, succeeded: 2, failed: 1, blocked: 1, attempts: 3, ..Summary::default() };
    assert_eq!(session.summary, expected);
    assert_eq!(fixture.states().await, [State::Failed, State::Pending, State::Succeeded, State::Succeeded]);
    let attempt = &fixture.attempts(0).await[0];
    assert_eq!(attempt.exit_code, Some(79));
    assert_eq!(attempt.failure.as_ref().unwrap().message, "it broke");
    assert_eq!(attempt.log_tail.as_deref(), Some("the last line of the log\n"));
    assert!(session.updates.contains(&Update::Blocked { run: fixture.id(1), dependency: fixture.id(0) }));
    let again = fixture.session(&fixture.settings("cpu")).await.summary;
    assert_eq!(
        again,
        Summary { total: 4, already_succeeded: 2, already_failed: 1, blocked: 1, ..Summary::default() }
    );
}

#[tokio::test]
async fn a_dependent_starts_after_its_dependency_whatever_the_order() {
    let fixture = Fixture::with(vec![sample_run_after(1, id_of(0)), sample_run(0)]).await;
    let session = fixture.session(&fixture.settings("cpu:2")).await;
    assert_eq!(session.summary.succeeded, 2);
    let settled_and_started = session.updates.iter().filter_map(|update| match update {
        Update::Started { run, .. } => Some(("started", *run)),
        Update::Settled { run, .. } => Some(("settled", *run)),
        _ => None,
    });
    let (dependent, dependency) = (fixture.id(0), fixture.id(1));
    let order =
        [("started", dependency), ("settled", dependency), ("started", dependent), ("settled", dependent)];
    assert_eq!(settled_and_started.collect::<Vec<_>>(), order);
}

#[tokio::test]
async fn transient_failures_are_retried_until_they_pass() {
    let fixture = Fixture::new(2).await;
    fixture.script(
        0,
        &Script {
            first: vec![fails(FailureClass::Hub), vec![Action::Die { signal: 9 }]],
            ..Script::default()
        },
    );
    let session = fixture.session(&fixture.settings("cpu")).await;
    let expected = Summary { total: 2, succeeded: 2, attempts: 4, retried: 2, ..Summary::default() };
    assert_eq!(session.summary, expected);
    let attempts = fixture.attempts(0).await;
    let states: Vec<State> = attempts.iter().map(|attempt| attempt.state).collect();
    assert_eq!(states, [State::Failed, State::Failed, State::Succeeded]);
    let classes = attempts.iter().map(|attempt| attempt.failure.as_ref().map(|failure| failure.class));
    assert_eq!(classes.collect::<Vec<_>>(), [Some(FailureClass::Hub), Some(FailureClass::WorkerDied), None]);
    assert_eq!((attempts[0].exit_code, attempts[1].signal), (Some(75), Some(9)));
}

#[tokio::test]
async fn transient_failures_are_given_up_after_three() {
    let fixture = Fixture::new(1).await;
    fixture.script(0, &Script::always([Action::Start, Action::TornLine, Action::Exit { code: 3 }]));
    let session = fixture.session(&fixture.settings("cpu")).await;
    assert_eq!(
        session.summary,
        Summary { total: 1, failed: 1, attempts: 3, retried: 2, ..Summary::default() }
    );
    let attempts = fixture.attempts(0).await;
    assert_eq!(attempts.len(), 3);
    let failure = attempts[2].failure.as_ref().unwrap();
    assert_eq!(failure.class, FailureClass::WorkerDied);
    assert!(failure.message.contains("exit code 3"), "{}", failure.message);
    assert_eq!(fixture.states().await, [State::Failed]);
}

#[tokio::test]
async fn garbage_among_the_events_ends_the_attempt_with_its_line() {
    let fixture = Fixture::new(1).await;
    fixture.script(
        0,
        &Script::first(
            1,
            &[Action::Start, Action::Garbage, Action::Epoch { clean: 1, robust: 1 }, Action::Hang],
        ),
    );
    let session = fixture.session(&fixture.settings("cpu")).await;
    assert_eq!((session.summary.succeeded, session.summary.retried), (1, 1));
    let failure = fixture.attempts(0).await[0].failure.clone().unwrap();
    assert_eq!(failure.class, FailureClass::WorkerDied);
    assert!(failure.message.contains("line 3 of"), "{}", failure.message);
    let believed =
        |update: &Update| matches!(update, Update::Event { event: Event::EpochFinished { .. }, .. });
    assert!(!session.updates.iter().any(believed));
}

#[tokio::test]
async fn a_worker_that_stops_unasked_is_left_alone_for_the_session() {
    let fixture = Fixture::new(2).await;
    fixture.script(0, &Script::first(1, &[Action::Start, Action::Interrupt]));
    let first = fixture.session(&fixture.settings("cpu")).await;
    assert_eq!((first.summary.interrupted, first.summary.succeeded, first.summary.halted), (1, 1, None));
    let second = fixture.session(&fixture.settings("cpu")).await;
    assert_eq!((second.summary.already_succeeded, second.summary.succeeded), (1, 1));
}

#[tokio::test]
async fn nothing_more_starts_after_too_many_failures() {
    let fixture = Fixture::new(6).await;
    for position in [1, 3] {
        fixture.script(position, &Script::always(fails(FailureClass::Data)));
    }
    let settings = Settings { max_failures: Some(2), ..fixture.settings("cpu") };
    let summary = fixture.session(&settings).await.summary;
    let expected =
        Summary { total: 6, succeeded: 2, failed: 2, pending: 2, attempts: 4, ..Summary::default() };
    assert_eq!(summary, Summary { halted: Some(Halt::TooManyFailures), ..expected });
}

#[tokio::test]
async fn three_failures_from_the_start_halt_a_sweep_unless_told_otherwise() {
    let fixture = Fixture::new(5).await;
    fixture.workspace.script(&Script::always(fails(FailureClass::Data)));
    let session = fixture.session(&fixture.settings("cpu")).await;
    assert_eq!((session.summary.failed, session.summary.pending), (3, 2));
    assert_eq!(session.summary.halted, Some(Halt::FailsFromTheStart));
    assert_eq!(session.updates.last(), Some(&Update::Halted { reason: Halt::FailsFromTheStart }));
    let settings = Settings { stop_if_all_fail: false, ..fixture.settings("cpu") };
    let rest = fixture.session(&settings).await.summary;
    assert_eq!((rest.already_failed, rest.failed, rest.all_failed()), (3, 2, 5));
}

#[tokio::test]
async fn failures_that_are_retried_do_not_halt_a_sweep() {
    let fixture = Fixture::new(3).await;
    let patient = vec![Action::Start, Action::WaitFor { file: "all-failed".to_owned() }, Action::Succeed];
    let script = Script { first: vec![fails(FailureClass::Hub)], then: patient };
    fixture.workspace.script(&script);
    let mut retried = 0;
    let let_go = |update: &Update| {
        retried += usize::from(matches!(update, Update::Settled { retry_in: Some(_), .. }));
        if retried == 3 {
            fixture.workspace.raise("all-failed");
        }
        None
    };
    let summary = fixture.session_until(&fixture.settings("cpu:3"), let_go).await.summary;
    assert_eq!(summary, Summary { total: 3, succeeded: 3, attempts: 6, retried: 3, ..Summary::default() });
}

#[tokio::test]
async fn a_sweep_with_an_earlier_success_does_not_fail_from_the_start() {
    let fixture = Fixture::new(5).await;
    fixture.workspace.script(&Script::always(fails(FailureClass::Data)));
    fixture.script(4, &Script::default());
    let (_stop, stopped) = tokio::sync::watch::channel(sweep_scheduler::Stop::None);
    let last = &listed(&fixture.runs)[4..];
    sweep_scheduler::dispatch(&fixture.store, last, &fixture.settings("cpu"), stopped, &mut |_| {})
        .await
        .unwrap();
    let summary = fixture.session(&fixture.settings("cpu")).await.summary;
    let expected = Summary { total: 5, already_succeeded: 1, failed: 4, attempts: 4, ..Summary::default() };
    assert_eq!(summary, expected);
}

#[tokio::test]
async fn a_program_that_is_missing_fails_runs_at_once() {
    let fixture = Fixture::new(1).await;
    let mut settings = fixture.settings("cpu");
    settings.worker.program = "/nonexistent/sweep".into();
    let session = fixture.session(&settings).await;
    assert_eq!((session.summary.failed, session.summary.attempts), (1, 0));
    let [Update::Settled { outcome: Outcome::Failed { failure, retry: false }, .. }] =
        session.updates.as_slice()
    else {
        panic!("{:?}", session.updates);
    };
    assert_eq!(failure.class, FailureClass::Configuration);
    assert!(failure.message.contains("/nonexistent/sweep"), "{}", failure.message);
}

#[tokio::test]
async fn a_disk_that_takes_no_files_stops_the_sweep_before_it_fails_all_runs() {
    let fixture = Fixture::new(5).await;
    // A file where the folder of all runs should be stands for a file server that does not answer.
    let runs = fixture.workspace.home().join("runs");
    std::fs::write(&runs, "").unwrap();
    let hour = std::time::Duration::from_hours(1);
    let retry = RetryPolicy { first_delay: hour, longest_delay: hour, ..RetryPolicy::default() };
    let settings = Settings { retry, ..fixture.settings("cpu:2") };
    let summary = fixture.session(&settings).await.summary;
    assert!(matches!(&summary.halted, Some(Halt::NothingStarts { .. })), "{summary:?}");
    assert_eq!((summary.failed, summary.pending, summary.attempts), (0, 5, 0));
    let failures = fixture.attempts(0).await;
    assert_eq!(failures[0].failure.as_ref().unwrap().class, FailureClass::Storage);
    std::fs::remove_file(&runs).unwrap();
    assert!(fixture.session(&settings).await.summary.is_complete());
}

#[tokio::test]
async fn what_the_store_does_not_know_and_a_lack_of_slots_are_errors() {
    let fixture = Fixture::new(1).await;
    let (_, stop) = tokio::sync::watch::channel(sweep_scheduler::Stop::None);
    let stranger = sample_run(9);
    let dispatch = async |store: &Store, settings: &Settings| {
        sweep_scheduler::dispatch(store, &[(stranger.id(), &stranger)], settings, stop.clone(), &mut |_| {})
            .await
    };
    let error = dispatch(&fixture.store, &fixture.settings("cpu")).await.unwrap_err();
    assert!(matches!(error, Error::Unregistered { run } if run == id_of(9)), "{error}");
    let settings = Settings { slots: Vec::<Slot>::new(), ..fixture.settings("cpu") };
    assert!(matches!(dispatch(&fixture.store, &settings).await, Err(Error::NoSlots)));
}
