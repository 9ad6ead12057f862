//! Claims, settlements and what moves a run from state to state.
#![expect(clippy::unwrap_used, reason = "a test ends where something unexpected happens")]

mod common;

use common::{Home, NOW, checkpoint, epoch, failed, records, spec, specs, started, succeeded};
use sweep_core::event::{Event, FailureClass};
use sweep_core::spec::RunId;
use sweep_store::{Cancelled, Failure, Outcome, Report, RunState, Settlement, State, Store};

async fn state(home: &Home, run: RunId) -> RunState {
    home.store.reader().states_of(&[run]).await.unwrap().remove(0)
}

fn failure(class: FailureClass, retry: bool) -> Settlement {
    let failure = Failure { class, message: "it broke".to_owned() };
    Settlement::new(Outcome::Failed { failure, retry })
}

/// Eight stores, as eight processes would, all go for all runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_run_is_claimed_exactly_once_however_many_try() {
    const RUNS: u64 = 2_000;
    let home = Home::new().await;
    let (_, runs) = home.register(&specs(RUNS)).await;
    let claimers: Vec<_> =
        (0..8).map(|number| tokio::spawn(claim_all(home.database(), runs.clone(), number))).collect();
    let mut won = Vec::new();
    for claimer in claimers {
        won.extend(claimer.await.unwrap());
    }
    won.sort_unstable();
    let mut expected = runs.clone();
    expected.sort_unstable();
    assert_eq!(won, expected, "a run was claimed twice or never");
    assert_eq!(home.store.reader().running_attempts().await.unwrap().len(), RUNS as usize);
}

/// Claims from a place of its own, so that claimers meet everywhere, and returns what it got.
async fn claim_all(database: std::path::PathBuf, mut runs: Vec<RunId>, number: usize) -> Vec<RunId> {
    let store = Store::open(database).await.unwrap();
    let middle = number * runs.len() / 8;
    runs.rotate_left(middle);
    let mut won = Vec::new();
    for run in runs {
        if store.claim(run, &format!("claimer {number}"), NOW).await.unwrap().is_some() {
            won.push(run);
        }
    }
    won
}

#[tokio::test]
async fn only_waiting_runs_can_be_claimed() {
    let home = Home::new().await;
    let run = home.running(&spec(0)).await;
    assert_eq!(home.store.claim(run, "other", NOW).await.unwrap(), None, "it runs");
    assert_eq!(home.store.claim(spec(1).id(), "other", NOW).await.unwrap(), None, "it is unknown");
    assert!(home.store.settle(run, 1, &Settlement::new(Outcome::Interrupted), NOW).await.unwrap());
    assert_eq!(home.store.claim(run, "other", NOW).await.unwrap(), Some(2), "it was interrupted");
    assert!(home.store.settle(run, 2, &succeeded(), NOW).await.unwrap());
    assert_eq!(home.store.claim(run, "other", NOW).await.unwrap(), None, "it is done");
    let attempts = home.store.reader().attempts_of(run).await.unwrap();
    let states: Vec<_> = attempts.iter().map(|attempt| (attempt.number, attempt.state)).collect();
    assert_eq!(states, [(1, State::Interrupted), (2, State::Succeeded)]);
}

#[tokio::test]
async fn only_the_first_settlement_counts() {
    let home = Home::new().await;
    let run = home.running(&spec(0)).await;
    assert!(home.store.settle(run, 1, &failure(FailureClass::WorkerDied, true), NOW + 1).await.unwrap());
    assert!(!home.store.settle(run, 1, &succeeded(), NOW + 2).await.unwrap(), "it was settled already");
    assert_eq!(home.store.claim(run, "other", NOW).await.unwrap(), Some(2));
    assert!(!home.store.settle(run, 1, &succeeded(), NOW + 3).await.unwrap(), "a later attempt runs");
    assert!(!home.store.settle(run, 3, &succeeded(), NOW + 3).await.unwrap(), "there is no such attempt");
    let now = state(&home, run).await;
    assert_eq!((now.state, now.attempts, now.transient_failures), (State::Running, 2, 1));
}

#[tokio::test]
async fn failures_are_counted_kept_and_forgotten_on_reset() {
    let home = Home::new().await;
    let run = home.running(&spec(0)).await;
    home.store.settle(run, 1, &failure(FailureClass::WorkerDied, true), NOW).await.unwrap();
    let waiting = state(&home, run).await;
    assert_eq!((waiting.state, waiting.transient_failures), (State::Pending, 1));
    assert_eq!(waiting.failure.unwrap().class, FailureClass::WorkerDied);
    home.store.claim(run, "test", NOW).await.unwrap();
    assert_eq!(state(&home, run).await.failure, None, "a new attempt has not failed yet");
    home.store.settle(run, 2, &failure(FailureClass::Diverged, false), NOW).await.unwrap();
    let given_up = state(&home, run).await;
    assert_eq!((given_up.state, given_up.transient_failures), (State::Failed, 1));
    assert_eq!(home.store.reset(&[run, spec(9).id()], NOW).await.unwrap(), 1);
    let fresh = state(&home, run).await;
    assert_eq!((fresh.state, fresh.attempts, fresh.transient_failures), (State::Pending, 2, 0));
    assert_eq!(home.store.claim(run, "test", NOW).await.unwrap(), Some(3), "numbers go on");
    let first = &home.store.reader().attempts_of(run).await.unwrap()[0];
    assert_eq!(first.failure.as_ref().unwrap().message, "it broke", "the history stays");
}

#[tokio::test]
async fn cancelling_takes_waiting_runs_only() {
    let home = Home::new().await;
    let (_, runs) = home.register(&specs(2)).await;
    home.store.claim(runs[0], "test", NOW).await.unwrap();
    let cancelled = Cancelled { cancelled: 1, asked_to_stop: 1 };
    assert_eq!(home.store.cancel(&runs, NOW).await.unwrap(), cancelled);
    assert_eq!(state(&home, runs[1]).await.state, State::Cancelled);
    assert_eq!(home.store.claim(runs[1], "test", NOW).await.unwrap(), None);
    let reader = home.store.reader();
    assert_eq!(reader.cancel_requests(&runs).await.unwrap(), [runs[0]]);
    assert_eq!(reader.cancel_requests(&runs[1..]).await.unwrap(), [], "only of the runs asked for");
    let again = Cancelled { cancelled: 0, asked_to_stop: 1 };
    assert_eq!(home.store.cancel(&runs, NOW).await.unwrap(), again);
    home.store.settle(runs[0], 1, &Settlement::new(Outcome::Cancelled), NOW).await.unwrap();
    assert_eq!(reader.cancel_requests(&runs).await.unwrap(), []);
    assert_eq!(home.store.cancel(&runs, NOW).await.unwrap(), Cancelled::default());
    assert_eq!(home.store.reset(&runs, NOW).await.unwrap(), 2);
}

/// Nobody may be there to stop the worker of a cancelled run: however its attempt ends, the run goes on no more.
#[tokio::test]
async fn a_cancelled_run_never_goes_on() {
    let home = Home::new().await;
    let ends = [
        (Settlement::new(Outcome::Interrupted), State::Cancelled, State::Cancelled),
        (failure(FailureClass::WorkerDied, true), State::Failed, State::Cancelled),
        (failure(FailureClass::Diverged, false), State::Failed, State::Failed),
        (succeeded(), State::Succeeded, State::Succeeded),
    ];
    let (_, runs) = home.register(&specs(ends.len() as u64)).await;
    for (run, (end, of_attempt, of_run)) in runs.into_iter().zip(ends) {
        home.store.claim(run, "test", NOW).await.unwrap();
        home.store.cancel(&[run], NOW).await.unwrap();
        assert!(home.store.settle(run, 1, &end, NOW).await.unwrap());
        let attempt = home.store.reader().attempts_of(run).await.unwrap().remove(0);
        assert_eq!((attempt.state, state(&home, run).await.state), (of_attempt, of_run), "{end:?}");
    }
}

#[tokio::test]
async fn failures_are_counted_since_the_last_progress() {
    let home = Home::new().await;
    let run = home.running(&spec(0)).await;
    let other = spec(1).id();
    let taken_over = |number| {
        let mut event = epoch(number, 1);
        if let Event::EpochFinished { trained_by, .. } = &mut event {
            *trained_by = Some(other);
        }
        event
    };
    let attempts = [
        (vec![], 1),
        (vec![taken_over(0)], 2),
        (vec![taken_over(0), epoch(1, 5)], 3),
        (vec![epoch(1, 5), checkpoint(2)], 1),
        (vec![], 2),
        (vec![epoch(2, 5), checkpoint(3)], 1),
    ];
    for (number, (events, failures)) in (1..).zip(attempts) {
        if number > 1 {
            assert_eq!(home.store.claim(run, "test", NOW).await.unwrap(), Some(number));
        }
        home.store.ingest(run, number, &records(events), 1).await.unwrap();
        home.store.settle(run, number, &failure(FailureClass::WorkerDied, true), NOW).await.unwrap();
        assert_eq!(state(&home, run).await.transient_failures, failures, "attempt {number}");
    }
    assert_eq!(home.store.reader().result_of(run).await.unwrap().unwrap().shared_epochs, 1);
}

/// A checkpoint in the middle of an epoch counts like one at its end.
#[tokio::test]
async fn a_saved_part_of_an_epoch_is_progress() {
    let home = Home::new().await;
    let run = home.running(&spec(0)).await;
    home.store.settle(run, 1, &failure(FailureClass::WorkerDied, true), NOW).await.unwrap();
    home.store.claim(run, "test", NOW).await.unwrap();
    let mut saved = checkpoint(0);
    if let Event::CheckpointSaved { step, .. } = &mut saved {
        *step = 3;
    }
    home.store.ingest(run, 2, &records([saved]), 1).await.unwrap();
    home.store.settle(run, 2, &failure(FailureClass::WorkerDied, true), NOW).await.unwrap();
    assert_eq!(state(&home, run).await.transient_failures, 1);
}

#[tokio::test]
async fn a_smaller_micro_batch_is_kept_until_a_reset() {
    let home = Home::new().await;
    let run = home.running(&spec(0)).await;
    assert_eq!(state(&home, run).await.micro_batch_limit, None);
    let smaller = Settlement { micro_batch_limit: Some(4), ..failure(FailureClass::OutOfMemory, true) };
    home.store.settle(run, 1, &smaller, NOW).await.unwrap();
    home.store.claim(run, "test", NOW).await.unwrap();
    home.store.settle(run, 2, &failure(FailureClass::OutOfMemory, false), NOW).await.unwrap();
    assert_eq!(state(&home, run).await.micro_batch_limit, Some(4));
    home.store.reset(&[run], NOW).await.unwrap();
    assert_eq!(state(&home, run).await.micro_batch_limit, None);
}

#[tokio::test]
async fn specifications_are_found_by_state() {
    let home = Home::new().await;
    let (_, runs) = home.register(&specs(3)).await;
    home.store.claim(runs[1], "test", NOW).await.unwrap();
    let reader = home.store.reader();
    assert_eq!(reader.specs_of(&[State::Running]).await.unwrap(), [(runs[1], State::Running, spec(1))]);
    assert_eq!(reader.specs_of(&[State::Running, State::Pending]).await.unwrap().len(), 3);
    assert_eq!(reader.specs_of(&[]).await.unwrap(), []);
}

/// A scheduler that dies between the worker's last word and the settlement must not lose that word.
#[tokio::test]
async fn the_last_word_outlives_the_scheduler() {
    let home = Home::new().await;
    let words = [
        (Event::Succeeded, Report::Succeeded),
        (Event::Interrupted { epochs: 2 }, Report::Interrupted),
        (
            failed(FailureClass::Data),
            Report::Failed(Failure { class: FailureClass::Data, message: "it broke".to_owned() }),
        ),
    ];
    let (_, runs) = home.register(&specs(3)).await;
    for (run, (event, report)) in runs.iter().zip(words) {
        home.store.claim(*run, "dies", NOW).await.unwrap();
        let ingested = home.store.ingest(*run, 1, &records([started(*run, 1, 0), event]), 321).await.unwrap();
        assert_eq!(ingested.report.as_ref(), Some(&report));
        let running = home.store.reader().running_attempts().await.unwrap();
        let found = running.iter().find(|attempt| attempt.run == *run).unwrap();
        assert_eq!((found.attempt, found.byte_offset, found.report.as_ref()), (1, 321, Some(&report)));
        assert_eq!(found.scheduler, "dies");
    }
}

#[tokio::test]
async fn the_end_can_be_ingested_and_settled_at_once() {
    let home = Home::new().await;
    let run = home.running(&spec(0)).await;
    let events = records([started(run, 1, 0), failed(FailureClass::Hub)]);
    let decide = |report| match report {
        Some(Report::Failed(failure)) => Settlement::new(Outcome::Failed { failure, retry: true }),
        other => panic!("{other:?}"),
    };
    assert!(home.store.ingest_and_settle(run, 1, &events, 10, NOW, decide).await.unwrap());
    let now = state(&home, run).await;
    assert_eq!((now.state, now.transient_failures), (State::Pending, 1));
    assert!(!home.store.ingest_and_settle(run, 1, &events, 10, NOW, |_| succeeded()).await.unwrap());
}
