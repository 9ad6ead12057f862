//! Events that lie: refused with a reason, without harm to what is stored, to other runs, and to those who read.
#![expect(clippy::unwrap_used, reason = "a test ends where something unexpected happens")]

mod common;

use common::{
    Home, NOW, checkpoint, complete, epoch, evaluated, loaded, model, progress, records, spec, specs, started,
};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use sweep_core::epsilon::Epsilon;
use sweep_core::event::{Event, FailureClass, Record};
use sweep_core::spec::RunId;
use sweep_store::{Error, Outcome, Report, Settlement, State};

/// Cases of arbitrary events: each is a transaction or two.
const CASES: u32 = 200;

/// An event of [`common`] with something changed.
fn with(mut event: Event, change: impl FnOnce(&mut Event)) -> Event {
    change(&mut event);
    event
}

fn trained(change: impl FnOnce(&mut u32, &mut u32, &mut f64, &mut f64)) -> Event {
    with(epoch(1, 10), |event| {
        let Event::EpochFinished { epoch, train_correct, epsilon, train_seconds, .. } = event else {
            unreachable!("it is that event")
        };
        change(epoch, train_correct, epsilon, train_seconds);
    })
}

fn saved(name: &str, size: u64) -> Event {
    with(model(), |event| {
        if let Event::ModelSaved { file, bytes, .. } = event {
            (*file, *bytes) = (name.to_owned(), size);
        }
    })
}

/// Events that cannot be, and a word of what must be said about each.
fn impossible(run: RunId) -> Vec<(Event, &'static str)> {
    vec![
        (evaluated(Epsilon::ZERO, 33, 32), "correct"),
        (epoch(1, 101), "clean_correct"),
        (trained(|_, correct, _, _| *correct = u32::MAX), "train_correct"),
        (trained(|epoch, _, _, _| *epoch = 3), "epoch 3 of a run of 3 epochs"),
        (trained(|epoch, _, _, _| *epoch = u32::MAX), "epoch 4294967295"),
        (trained(|_, _, epsilon, _| *epsilon = f64::NAN), "epsilon NaN"),
        (trained(|_, _, epsilon, _| *epsilon = 1.5), "epsilon 1.5"),
        (trained(|_, _, _, seconds| *seconds = -1.0), "train_seconds -1"),
        (trained(|_, _, _, seconds| *seconds = f64::INFINITY), "train_seconds inf"),
        (checkpoint(4), "epochs 4"),
        (saved("../../elsewhere", 1), "`../../elsewhere`"),
        (saved("/etc/passwd", 1), "`/etc/passwd`"),
        (saved("", 1), "``"),
        (saved("model", u64::MAX), "bytes 18446744073709551615"),
        (started(run, 2, 0), "attempt 2"),
        (started(spec(99).id(), 1, 0), "of run"),
        (started(run, 1, 4), "resumed_from 4"),
    ]
}

#[tokio::test]
async fn what_cannot_be_is_refused_with_its_place_and_nothing_behind_it_is_believed() {
    let home = Home::new().await;
    let kinds = impossible(spec(0).id()).len() as u64;
    let (_, runs) = home.register(&specs(kinds)).await;
    for (index, run) in runs.into_iter().enumerate() {
        home.store.claim(run, "test", NOW).await.unwrap();
        let (event, words) = impossible(run).swap_remove(index);
        let batch =
            records([started(run, 1, 0), epoch(0, 10), event.clone(), epoch(2, 30), Event::Succeeded]);
        let ingested = home.store.ingest(run, 1, &batch, 9).await.unwrap();
        let reason = ingested.refused.clone().unwrap();
        let place = format!("event 2 of attempt 1 of run {run} cannot be: ");
        assert!(reason.starts_with(&place) && reason.contains(words), "{reason}");
        let Some(Report::Failed(failure)) = ingested.report.clone() else { panic!("{ingested:?}") };
        assert_eq!((failure.class, &failure.message), (FailureClass::WorkerDied, &reason));
        assert_eq!(ingested.new_records, 2);

        // The same again, from the start or from behind, changes nothing.
        let again = home.store.ingest(run, 1, &batch, 9).await.unwrap();
        assert_eq!((again.new_records, &again.refused), (0, &Some(reason.clone())));
        let behind = home.store.ingest(run, 1, &batch[3..], 99).await.unwrap();
        assert_eq!((behind.new_records, &behind.report), (0, &ingested.report));
        let epochs = home.store.reader().epochs_of(run).await.unwrap();
        assert_eq!(epochs.iter().map(|row| row.epoch).collect::<Vec<_>>(), [0], "{event:?}");

        // The scheduler hears of it as of any other failure, and the attempt comes to its end.
        let decide = |report| match report {
            Some(Report::Failed(failure)) => Settlement::new(Outcome::Failed { failure, retry: true }),
            other => panic!("{other:?}"),
        };
        assert!(home.store.ingest_and_settle(run, 1, &batch[3..], 99, NOW, decide).await.unwrap());
        assert_eq!(home.store.claim(run, "test", NOW).await.unwrap(), Some(2));
        let next = home.store.ingest(run, 2, &complete(run, 2), 9).await.unwrap();
        assert_eq!(next.report, Some(Report::Succeeded), "the next attempt is believed");
    }
    assert_eq!(home.store.reader().results(None).await.unwrap().len() as u64, kinds);
}

#[tokio::test]
async fn numbers_and_times_of_records_have_bounds_too() {
    let home = Home::new().await;
    let (_, runs) = home.register(&specs(4)).await;
    let record = |sequence, time_ms| Record { sequence, time_ms, event: progress(1) };
    let lies = [
        (record(u64::MAX, NOW), "sequence 18446744073709551615"),
        (record(0, -1), "time_ms -1"),
        (record(0, i64::MAX), "time_ms 9223372036854775807"),
        (record(0, i64::MIN), "time_ms -9223372036854775808"),
    ];
    for (run, (lie, words)) in runs.into_iter().zip(lies) {
        home.store.claim(run, "test", NOW).await.unwrap();
        let refused = home.store.ingest(run, 1, &[lie], 1).await.unwrap().refused.unwrap();
        assert!(refused.contains(words), "{refused}");
    }
}

#[tokio::test]
async fn a_measurement_that_lies_is_believed_up_to_there() {
    let home = Home::new().await;
    let run = home.running(&spec(0)).await;
    home.store.ingest(run, 1, &complete(run, 1), 1).await.unwrap();
    let loaded = with(loaded(), |event| {
        if let Event::Loaded { weights_digest, .. } = event {
            *weights_digest = Some("m".repeat(64));
        }
    });
    let point = |k, correct| evaluated(Epsilon::from_255ths(k), correct, 32);
    let events = records([started(run, 0, 3), loaded, point(9, 5), point(10, 99), point(11, 4)]);
    for _ in 0..2 {
        let error = home.store.ingest_measurement(run, 1, &events).await.unwrap_err();
        let place = format!("event 3 of measurement 1 of run {run} cannot be: ");
        assert!(matches!(&error, Error::ImpossibleEvent { reason } if reason.starts_with(&place)), "{error}");
    }
    let points = home.store.reader().evaluations_of(run).await.unwrap();
    assert_eq!(points.last().unwrap().epsilon, Epsilon::from_255ths(9));
}

/// Numbers at the edges of what they may be, and beyond.
fn number() -> impl Strategy<Value = u32> {
    prop_oneof![Just(0), Just(1), Just(3), Just(4), Just(i32::MAX as u32), Just(u32::MAX), any::<u32>()]
}

fn real() -> impl Strategy<Value = f64> {
    prop_oneof![Just(0.0), Just(0.5), Just(1.0), any::<f64>()]
}

fn event(run: RunId) -> impl Strategy<Value = Event> {
    let epochs = (number(), number(), number(), number(), real(), real()).prop_map(
        |(at, correct, of, validated, radius, spent)| {
            with(epoch(at, 0), |event| {
                if let Event::EpochFinished {
                    epsilon,
                    train_correct,
                    train_total,
                    robust_correct,
                    validation_total,
                    train_seconds,
                    train_loss,
                    ..
                } = event
                {
                    (*train_correct, *train_total) = (correct, of);
                    (*robust_correct, *validation_total) = (correct, validated);
                    (*epsilon, *train_seconds, *train_loss) = (radius, spent, spent);
                }
            })
        },
    );
    let points = (number(), number(), number(), 0..=255_u8, real()).prop_map(|(of, right, all, k, spent)| {
        with(evaluated(Epsilon::from_255ths(k), right, all), |event| {
            if let Event::Evaluated { epochs, seconds, .. } = event {
                (*epochs, *seconds) = (of, spent);
            }
        })
    });
    prop_oneof![
        (0..3_u32, 0..=100_u32).prop_map(|(number, correct)| epoch(number, correct)),
        epochs,
        points,
        (any::<String>(), any::<u64>()).prop_map(|(file, bytes)| saved(&file, bytes)),
        (number(), number()).prop_map(move |(attempt, from)| started(run, attempt, from)),
        number().prop_map(checkpoint),
        number().prop_map(progress),
        Just(Event::Unknown),
        Just(Event::Succeeded),
        any::<String>().prop_map(|message| Event::Failed { class: FailureClass::Data, message }),
    ]
}

/// Whatever an attempt says, storing it is no error, and everything that reads works for all runs.
#[test]
fn arbitrary_events_do_no_harm() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (home, runs) = runtime.block_on(async {
        let home = Home::new().await;
        let (_, runs) = home.register(&specs(u64::from(CASES))).await;
        (home, runs)
    });
    let free = std::cell::RefCell::new(runs);
    let mut runner =
        TestRunner::new(ProptestConfig { max_shrink_iters: 0, ..ProptestConfig::with_cases(CASES) });
    let anybody = spec(0).id();
    let strategy = prop::collection::vec((any::<Option<i64>>(), event(anybody)), 0..12);
    runner
        .run(&strategy, |said| {
            let run = free.borrow_mut().pop().unwrap();
            let record = |(sequence, (time, event)): (u64, (Option<i64>, Event))| Record {
                sequence,
                time_ms: time.filter(|_| sequence % 5 == 4).unwrap_or(NOW),
                event,
            };
            let records: Vec<Record> = (0..).zip(said).map(record).collect();
            runtime.block_on(is_survived(&home, run, &records));
            Ok(())
        })
        .unwrap();
}

async fn is_survived(home: &Home, run: RunId, records: &[Record]) {
    home.store.claim(run, "test", NOW).await.unwrap();
    home.store.ingest(run, 1, records, 5).await.unwrap();
    let end = |_| Settlement::new(Outcome::Interrupted);
    assert!(home.store.ingest_and_settle(run, 1, records, 5, NOW, end).await.unwrap());
    let reader = home.store.reader();
    reader.epochs_of(run).await.unwrap();
    reader.evaluations_of(run).await.unwrap();
    reader.checkpoints_of(run).await.unwrap();
    reader.model_of(run).await.unwrap();
    reader.attempts_of(run).await.unwrap();
    reader.gates_of(run).await.unwrap();
    assert_eq!(reader.result_of(run).await.unwrap().unwrap().state, State::Interrupted);
    assert!(reader.running_attempts().await.unwrap().is_empty());
}
