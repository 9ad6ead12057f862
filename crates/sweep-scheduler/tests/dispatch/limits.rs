//! What ends an attempt before its time: the clock, the memory, the disk, the user.

use std::time::Duration;

use sweep_core::event::{Event, FailureClass};
use sweep_core::micro_batch::MicroBatch;
use sweep_core::spec::{Architecture, ResnetBlock, RunSpec};
use sweep_core::verdict::{self, Verdict};
use sweep_scheduler::{DiskNeed, Halt, OomKills, RetryPolicy, Settings, Summary, Update};
use sweep_store::{State, now_ms};
use sweep_testkit::{Action, Script, sample_run};

use crate::fixture::{Fixture, Session};

/// A limit that is over at once.
const AT_ONCE: Duration = Duration::from_millis(1);

fn verdict(fixture: &Fixture, position: usize, attempt: u32) -> Option<Verdict> {
    let path = fixture.workspace.layout().verdict(fixture.id(position), attempt);
    let text = std::fs::read(path).ok()?;
    Some(serde_json::from_slice(&text).unwrap())
}

/// Returns class and message of the failure of an attempt, after checking that its verdict says the same.
async fn failure(fixture: &Fixture, attempt: u32) -> (FailureClass, String) {
    let failure = fixture.attempts(0).await[attempt as usize - 1].failure.clone().unwrap();
    let verdict::Outcome::Failed { cause, .. } = verdict(fixture, 0, attempt).unwrap().outcome else {
        panic!("its verdict says otherwise");
    };
    assert_eq!((cause.class, &cause.message), (failure.class, &failure.message));
    (failure.class, failure.message)
}

#[tokio::test]
async fn an_attempt_that_takes_too_long_is_stopped_and_tried_again() {
    let fixture = Fixture::new(1).await;
    fixture.script(0, &Script::first(1, &[Action::Start, Action::Hang]));
    // However slow the machine is, some attempt is fast enough in the end.
    let retry = RetryPolicy { attempts: u32::MAX, first_delay: Duration::ZERO, ..RetryPolicy::default() };
    let settings = Settings { timeout: Some(Duration::from_millis(500)), retry, ..fixture.settings("cpu") };
    let summary = fixture.session(&settings).await.summary;
    assert_eq!(summary.succeeded, 1);
    assert!(summary.retried >= 1);
    let (class, message) = failure(&fixture, 1).await;
    assert_eq!(class, FailureClass::Timeout);
    assert!(message.contains("longer than 500ms"), "{message}");
}

#[tokio::test]
async fn a_worker_that_is_overdue_and_deaf_is_killed_after_its_grace() {
    let fixture = Fixture::new(1).await;
    fixture.script(0, &Script::always([Action::BeDeaf, Action::Start, Action::Stall { step: 1 }]));
    let settings = Settings {
        stall: Some(AT_ONCE),
        grace: AT_ONCE,
        retry: RetryPolicy { attempts: 1, ..RetryPolicy::default() },
        ..fixture.settings("cpu")
    };
    assert_eq!(fixture.session(&settings).await.summary.failed, 1);
    assert_eq!(failure(&fixture, 1).await.0, FailureClass::Timeout);
    assert_eq!(fixture.attempts(0).await[0].signal, Some(9));
}

#[tokio::test]
async fn a_worker_that_says_the_same_for_long_hangs() {
    let fixture = Fixture::new(1).await;
    fixture.script(0, &Script::first(1, &[Action::Start, Action::Stall { step: 17 }]));
    let settings = Settings { stall: Some(Duration::from_millis(100)), ..fixture.settings("cpu") };
    let summary = fixture.session(&settings).await.summary;
    assert_eq!((summary.succeeded, summary.retried), (1, 1));
    let (class, message) = failure(&fixture, 1).await;
    assert_eq!(class, FailureClass::Timeout);
    assert!(message.contains("training, epoch 0, step 17 of 100"), "{message}");
}

#[tokio::test]
async fn a_silent_worker_is_suspect_once_and_left_alone() {
    let fixture = Fixture::new(1).await;
    let wait = Action::WaitFor { file: "suspected".to_owned() };
    fixture.script(0, &Script::always([Action::Start, wait, Action::Succeed]));
    let settings =
        Settings { silence: AT_ONCE, stall: Some(Duration::from_hours(1)), ..fixture.settings("cpu") };
    let let_go = |update: &Update| {
        if matches!(update, Update::Silent { .. }) {
            fixture.workspace.raise("suspected");
        }
        None
    };
    let session = fixture.session_until(&settings, let_go).await;
    assert_eq!(session.summary.succeeded, 1);
    let suspected = session.updates.iter().filter(|update| matches!(update, Update::Silent { .. }));
    assert_eq!(suspected.count(), 1);
    assert_eq!(verdict(&fixture, 0, 1), None);
}

#[tokio::test]
async fn failures_after_progress_are_not_counted_together() {
    let fixture = Fixture::new(1).await;
    let epoch = Action::Epoch { clean: 1, robust: 1 };
    let saves = |epochs| {
        let saved = Action::CheckpointSaved { epochs };
        vec![Action::Start, epoch.clone(), saved, Action::Die { signal: 9 }]
    };
    // An epoch that was not saved is trained again.
    let nowhere = vec![Action::Start, epoch.clone(), Action::Die { signal: 9 }];
    let ends = [saves(1), saves(2), saves(3), nowhere.clone(), nowhere];
    fixture.script(0, &Script { first: ends.to_vec(), ..Script::default() });
    let policy = RetryPolicy { attempts: 3, first_delay: Duration::ZERO, ..RetryPolicy::default() };
    let settings = Settings { retry: policy, ..fixture.settings("cpu") };
    let summary = fixture.session(&settings).await.summary;
    // Three that got further, then the third one's count goes on: 1, 2, 3.
    assert_eq!(summary, Summary { total: 1, failed: 1, attempts: 5, retried: 4, ..Summary::default() });
}

fn out_of_memory() -> Vec<Action> {
    let message = "out of memory".to_owned();
    vec![Action::Start, Action::Fail { class: FailureClass::OutOfMemory, message }]
}

/// Micro batches that the attempts of the run at position 0 were given, by their own account.
fn micro_batches(session: &Session) -> Vec<u32> {
    let said = session.updates.iter().filter_map(|update| match update {
        Update::Event { event: Event::Started { micro_batch_size, .. }, .. } => *micro_batch_size,
        _ => None,
    });
    said.collect()
}

#[tokio::test]
async fn without_memory_a_run_goes_on_with_half_the_micro_batch_and_keeps_it() {
    let fixture = Fixture::new(1).await;
    let first = vec![out_of_memory(), out_of_memory(), vec![Action::Start, Action::Interrupt]];
    fixture.script(0, &Script { first, ..Script::default() });
    // A backoff that no test would outlive: memory is no matter of waiting.
    let retry = RetryPolicy {
        first_delay: Duration::from_hours(1),
        longest_delay: Duration::from_hours(1),
        attempts: 1,
    };
    let settings = Settings { retry, ..fixture.settings("cpu") };
    let session = fixture.session(&settings).await;
    assert_eq!(session.summary.interrupted, 1);
    assert_eq!(micro_batches(&session), [8, 4, 2]);
    assert_eq!(verdict(&fixture, 0, 2).unwrap().micro_batch_limit, Some(2));
    let session = fixture.session(&settings).await;
    assert_eq!(session.summary.succeeded, 1);
    assert_eq!(micro_batches(&session), [2]);
}

#[tokio::test]
async fn what_a_worker_has_found_is_halved_where_it_does_not_fit_after_all() {
    let auto = RunSpec { micro_batch_size: MicroBatch::Auto, ..sample_run(0) };
    let fixture = Fixture::with(vec![auto]).await;
    let first = vec![out_of_memory(), out_of_memory(), vec![Action::Start, Action::Interrupt]];
    fixture.script(0, &Script { first, ..Script::default() });
    let settings = fixture.settings("cpu");
    let session = fixture.session(&settings).await;
    assert_eq!(session.summary.interrupted, 1);
    let batch = sample_run(0).batch_size;
    assert_eq!(
        micro_batches(&session),
        [batch / 2, batch / 4],
        "the first says nothing before it has found out"
    );
    let attempts = fixture.attempts(0).await;
    let sizes: Vec<_> = attempts.iter().map(|attempt| attempt.micro_batch_size).collect();
    assert_eq!(sizes, [Some(batch), Some(batch / 2), Some(batch / 4)]);
}

#[tokio::test]
async fn without_memory_for_a_single_image_a_run_fails() {
    let fixture = Fixture::new(1).await;
    fixture.script(0, &Script::always(out_of_memory()));
    let session = fixture.session(&fixture.settings("cpu")).await;
    assert_eq!(
        session.summary,
        Summary { total: 1, failed: 1, attempts: 4, retried: 3, ..Summary::default() }
    );
    assert_eq!(micro_batches(&session), [8, 4, 2, 1]);
}

#[tokio::test]
async fn with_batch_norm_the_micro_batch_is_never_halved() {
    let mut spec = sample_run(0);
    spec.backbone.definition.architecture = Architecture::Resnet {
        image_size: 16,
        block: ResnetBlock::Basic,
        layers: vec![1; 4],
        channels: vec![4, 4, 8, 8],
    };
    let fixture = Fixture::with(vec![spec]).await;
    fixture.script(0, &Script { first: vec![out_of_memory()], ..Script::default() });
    let session = fixture.session(&fixture.settings("cpu")).await;
    assert_eq!(session.summary, Summary { total: 1, failed: 1, attempts: 1, ..Summary::default() });
    assert_eq!(micro_batches(&session), [8]);
    let (class, message) = failure(&fixture, 1).await;
    assert_eq!(class, FailureClass::OutOfMemory);
    assert!(message.starts_with("out of memory; not tried with fewer images a pass"), "{message}");
    assert!(message.contains("hint: write a smaller `micro_batch_size`"), "{message}");
}

#[tokio::test]
async fn an_abort_for_want_of_memory_is_seen_in_the_log() {
    let fixture = Fixture::new(1).await;
    let text = "memory allocation of 68719476736 bytes failed".to_owned();
    fixture.script(0, &Script::first(1, &[Action::Start, Action::Abort { text }]));
    let session = fixture.session(&fixture.settings("cpu")).await;
    assert_eq!(micro_batches(&session), [8, 4]);
    let (class, message) = failure(&fixture, 1).await;
    assert_eq!(class, FailureClass::OutOfMemory);
    assert!(message.contains("68719476736 bytes"), "{message}");
}

#[tokio::test]
async fn a_kill_by_the_kernel_is_seen_in_its_count() {
    let fixture = Fixture::new(1).await;
    let counter = fixture.workspace.flag("memory.events");
    std::fs::write(&counter, "oom 3\noom_kill 3\n").unwrap();
    let wait = Action::WaitFor { file: "counted".to_owned() };
    fixture.script(0, &Script::first(1, &[Action::Start, wait, Action::Die { signal: 9 }]));
    let settings = Settings { oom_kills: OomKills::at(&counter), ..fixture.settings("cpu") };
    let count = |update: &Update| {
        if matches!(update, Update::Event { event: Event::Loaded { .. }, .. }) {
            std::fs::write(&counter, "oom 4\noom_kill 4\n").unwrap();
            fixture.workspace.raise("counted");
        }
        None
    };
    let session = fixture.session_until(&settings, count).await;
    assert_eq!(micro_batches(&session), [8, 4]);
    assert_eq!(failure(&fixture, 1).await.0, FailureClass::OutOfMemory);
}

#[tokio::test]
async fn a_full_disk_stops_the_sweep_and_blames_no_run() {
    let message = "no space left".to_owned();
    let fails = Action::Fail { class: FailureClass::DiskFull, message: message.clone() };
    for (end, words) in [(fails, message.as_str()), (Action::Exit { code: 74 }, "disk is full")] {
        let fixture = Fixture::new(3).await;
        fixture.script(1, &Script::first(1, &[Action::Start, end]));
        let session = fixture.session(&fixture.settings("cpu")).await;
        let Some(Halt::DiskFilled { message }) = &session.summary.halted else {
            panic!("{:?}", session.summary)
        };
        assert!(message.contains(words), "{message}");
        assert_eq!(
            (session.summary.succeeded, session.summary.interrupted, session.summary.pending),
            (1, 1, 1)
        );
        assert_eq!(fixture.attempts(1).await[0].exit_code, Some(74));
        let verdict = verdict(&fixture, 1, 1).unwrap();
        assert!(
            matches!(verdict.outcome, verdict::Outcome::Interrupted { cause: Some(cause) } if cause.class == FailureClass::DiskFull)
        );
        assert_eq!(fixture.session(&fixture.settings("cpu")).await.summary.succeeded, 2);
        fixture.assert_complete().await;
    }
}

/// A run of which nothing stays.
fn need(working: u64) -> DiskNeed {
    DiskNeed { working, staying: 0 }
}

#[tokio::test]
async fn a_run_that_does_not_fit_the_budget_is_not_started() {
    let fixture = Fixture::new(2).await;
    let disk_need = [(fixture.id(1), need(1000))].into();
    let settings = Settings { disk_budget: Some(999), disk_need, ..fixture.settings("cpu") };
    let session = fixture.session(&settings).await;
    let expected = Summary { total: 2, succeeded: 1, pending: 1, attempts: 1, ..Summary::default() };
    let halted = Some(Halt::DiskFull { needed: 1000, available: 999 });
    assert_eq!(session.summary, Summary { halted, ..expected });
    assert_eq!(fixture.states().await, [State::Succeeded, State::Pending]);
}

#[tokio::test]
async fn room_is_made_from_what_succeeded_runs_have_left() {
    let fixture = Fixture::new(2).await;
    fixture
        .script(0, &Script::always([Action::Start, Action::CheckpointSaved { epochs: 3 }, Action::Succeed]));
    let disk_need = [(fixture.id(1), need(1000))].into();
    let settings = Settings { disk_budget: Some(1000), disk_need, ..fixture.settings("cpu") };
    let session = fixture.session(&settings).await;
    assert!(session.summary.is_complete(), "{:?}", session.summary);
    let made = |update: &Update| matches!(update, Update::Reclaimed { size } if size.files == 1);
    assert!(session.updates.iter().any(made));
}

#[tokio::test]
async fn a_run_waits_for_room_as_long_as_others_work() {
    let fixture = Fixture::new(2).await;
    // What the first may yet write leaves no room for the second, until it has ended without.
    let disk_need = [(fixture.id(0), need(600)), (fixture.id(1), need(600))].into();
    let settings = Settings { disk_budget: Some(1000), disk_need, ..fixture.settings("cpu:2") };
    let session = fixture.session(&settings).await;
    assert!(session.summary.is_complete(), "{:?}", session.summary);
}

#[tokio::test]
async fn a_cancelled_run_is_stopped_and_left_out() {
    let fixture = Fixture::new(2).await;
    fixture.script(0, &Script::always([Action::Start, Action::Progress { step: 1 }, Action::Hang]));
    let (asks, mut asked) = tokio::sync::mpsc::unbounded_channel();
    let ask = |update: &Update| {
        if matches!(update, Update::Event { event: Event::Progress { .. }, .. }) {
            let _ = asks.send(());
        }
        None
    };
    let settings = fixture.settings("cpu");
    let run = fixture.id(0);
    let user = async {
        asked.recv().await;
        fixture.store.cancel(&[run], now_ms()).await.unwrap();
    };
    let (session, ()) = tokio::join!(fixture.session_until(&settings, ask), user);
    assert_eq!((session.summary.cancelled, session.summary.succeeded), (1, 1));
    assert_eq!(fixture.states().await, [State::Cancelled, State::Succeeded]);
    assert_eq!(fixture.attempts(0).await[0].exit_code, Some(76));
    assert_eq!(verdict(&fixture, 0, 1).unwrap().outcome, verdict::Outcome::Cancelled);
    assert_eq!(fixture.workspace.starts(sample_run(0).id()), 1);
}

#[tokio::test]
async fn a_cancelled_run_whose_scheduler_is_gone_is_left_out_too() {
    let fixture = Fixture::new(2).await;
    let run = fixture.id(0);
    fixture.store.claim(run, "gone", now_ms()).await.unwrap();
    fixture.store.cancel(&[run], now_ms()).await.unwrap();
    let summary = fixture.session(&fixture.settings("cpu")).await.summary;
    assert_eq!((summary.cancelled, summary.succeeded, summary.attempts), (1, 1, 1));
    assert_eq!(verdict(&fixture, 0, 1).unwrap().outcome, verdict::Outcome::Cancelled);
}

#[tokio::test]
async fn the_end_of_a_killed_worker_lies_beside_its_events_and_that_of_a_good_one_does_not() {
    let fixture = Fixture::new(1).await;
    fixture.script(0, &Script::first(1, &[Action::Start, Action::Die { signal: 9 }]));
    fixture.session(&fixture.settings("cpu")).await;
    let killed = verdict(&fixture, 0, 1).unwrap();
    assert_eq!((killed.exit_code, killed.signal), (None, Some(9)));
    assert!(matches!(killed.outcome, verdict::Outcome::Failed { retry: true, .. }));
    assert_eq!(verdict(&fixture, 0, 2), None);
}
