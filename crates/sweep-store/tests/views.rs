//! The view `results` against the definitions in `sweep_core::metrics`.
#![expect(clippy::unwrap_used, reason = "a test ends where something unexpected happens")]

mod common;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use common::{Home, NOW, epoch, evaluated, records, spec, started, succeeded};
use proptest::prelude::*;
use sweep_core::epsilon::Epsilon;
use sweep_core::event::{Event, FailureClass};
use sweep_core::metrics::{DELAY_THRESHOLD, delay, expected_robustness};
use sweep_core::spec::{RunId, RunSpec, WeightsSource};
use sweep_store::{Failure, Outcome, ResultRow, Settlement};
use tokio::runtime::Runtime;

/// Both sides add the same few terms in another order: a handful of roundings of numbers below 1.
const TOLERANCE: f64 = 1e-12;

/// Images in the test split.
const TOTAL: u32 = 40;

/// One database for all cases of a property; every case gets a run of its own.
struct Bench {
    runtime: Runtime,
    home: Home,
    next: AtomicU64,
}

impl Bench {
    fn new() -> Self {
        let runtime = Runtime::new().unwrap();
        let home = runtime.block_on(Home::new());
        Self { runtime, home, next: AtomicU64::new(0) }
    }

    /// Stores a run at `target` that reported `events`, succeeded if asked, and returns its results.
    fn result(&self, target: Epsilon, events: Vec<Event>, is_complete: bool) -> ResultRow {
        let mut spec = spec(self.next.fetch_add(1, Ordering::Relaxed));
        spec.target_epsilon = target;
        self.runtime.block_on(async {
            let run = self.home.running(&spec).await;
            let events = std::iter::once(started(run, 1, 0)).chain(events);
            self.home.store.ingest(run, 1, &records(events), 1).await.unwrap();
            if is_complete {
                self.home.store.settle(run, 1, &succeeded(), NOW).await.unwrap();
            }
            self.home.store.reader().result_of(run).await.unwrap().unwrap()
        })
    }
}

fn close(found: Option<f64>, expected: Option<f64>) -> bool {
    match (found, expected) {
        (Some(found), Some(expected)) => (found - expected).abs() <= TOLERANCE,
        (found, expected) => found == expected,
    }
}

/// Targets on the grid of 255ths and between its points.
fn targets() -> impl Strategy<Value = Epsilon> {
    let on_the_grid = (0_u8..=9).prop_map(Epsilon::from_255ths);
    let between = (1_u32..40, 900_u32..1_000)
        .prop_map(|(numerator, denominator)| Epsilon::new(numerator, denominator).unwrap());
    prop_oneof![on_the_grid, between]
}

#[test]
fn expected_robustness_agrees_with_its_definition() {
    let bench = Bench::new();
    let cases = (targets(), prop::collection::vec(0..=TOTAL, 14), prop::option::of(0_usize..14), 0_u32..100);
    proptest!(ProptestConfig::with_cases(200), |((target, counts, missing, stray) in cases)| {
        // The grid up to and beyond the target, the target itself, and a point that is on neither grid.
        let mut points: BTreeMap<Epsilon, u32> = (0_u8..12).map(Epsilon::from_255ths).zip(counts.iter().copied()).collect();
        points.insert(target, points.get(&target).copied().unwrap_or(counts[12]));
        points.entry(Epsilon::new(stray, 9_973).unwrap()).or_insert(counts[13]);
        if let Some(missing) = missing.and_then(|index| points.keys().nth(index).copied()) {
            points.remove(&missing);
        }
        let events = points.iter().map(|(epsilon, correct)| evaluated(*epsilon, *correct, TOTAL)).collect();
        let accuracies: Vec<(Epsilon, f64)> =
            points.iter().map(|(epsilon, correct)| (*epsilon, f64::from(*correct) / f64::from(TOTAL))).collect();
        let at = |wanted: Epsilon| accuracies.iter().find(|(epsilon, _)| *epsilon == wanted).map(|(_, value)| *value);
        let row = bench.result(target, events, false);
        let expected = expected_robustness(&accuracies, target);
        prop_assert!(close(row.expected_robustness, expected), "{:?} instead of {expected:?}", row.expected_robustness);
        prop_assert_eq!(row.clean, at(Epsilon::ZERO));
        prop_assert_eq!(row.robust, at(target));
    });
}

#[test]
fn delay_agrees_with_its_definition() {
    let bench = Bench::new();
    let cases = (prop::collection::vec(0_u32..12, 3), 0_usize..=3, any::<bool>());
    proptest!(ProptestConfig::with_cases(100), |((correct, done, is_complete) in cases)| {
        let done = if is_complete { 3 } else { done };
        let events = (0..).zip(&correct[..done]).map(|(number, correct)| epoch(number, *correct)).collect();
        let accuracies: Vec<f64> = correct[..done].iter().map(|correct| f64::from(*correct) / 100.0).collect();
        let is_known = is_complete || accuracies.iter().any(|accuracy| *accuracy > DELAY_THRESHOLD);
        let row = bench.result(Epsilon::from_255ths(4), events, is_complete);
        prop_assert_eq!(row.delay, is_known.then(|| delay(&accuracies)));
        prop_assert_eq!(row.epochs_done as usize, done);
        prop_assert!(close(row.train_seconds, (done > 0).then_some(2.0 * done as f64)));
    });
}

#[test]
fn only_the_runs_own_attack_on_the_last_epochs_weights_counts() {
    let bench = Bench::new();
    let target = Epsilon::from_255ths(1);
    let other = |event: Event, change: fn(&mut u32, &mut String)| match event {
        Event::Evaluated { mut epochs, split, mut attack, norm, epsilon, correct, total, seconds } => {
            change(&mut epochs, &mut attack);
            Event::Evaluated { epochs, split, attack, norm, epsilon, correct, total, seconds }
        }
        event => event,
    };
    let events = vec![
        evaluated(Epsilon::ZERO, 20, TOTAL),
        evaluated(target, 10, TOTAL),
        other(evaluated(target, 1, TOTAL), |_, attack| *attack = "autoattack".to_owned()),
        other(evaluated(target, 2, TOTAL), |epochs, _| *epochs = 2),
        other(evaluated(Epsilon::ZERO, 3, TOTAL), |epochs, _| *epochs = 2),
    ];
    let row = bench.result(target, events, true);
    assert_eq!((row.clean, row.robust, row.expected_robustness), (Some(0.5), Some(0.25), Some(0.375)));
    assert_eq!(row.test_total, Some(TOTAL));
}

#[tokio::test]
async fn a_run_is_blocked_by_the_failure_of_what_it_starts_from() {
    let home = Home::new().await;
    let first = spec(1);
    let mut second: RunSpec = spec(2);
    second.backbone.definition.weights =
        WeightsSource::Run { run: first.id(), training: first.training_id() };
    let (sweep, runs) = home.register(&[first, second]).await;
    let blocked = async |run: RunId| home.store.reader().result_of(run).await.unwrap().unwrap().blocked;
    assert!(!blocked(runs[1]).await);
    home.store.claim(runs[0], "test", NOW).await.unwrap();
    let failure = Failure { class: FailureClass::Diverged, message: "not finite".to_owned() };
    home.store
        .settle(runs[0], 1, &Settlement::new(Outcome::Failed { failure, retry: false }), NOW)
        .await
        .unwrap();
    assert!(blocked(runs[1]).await);
    assert!(!blocked(runs[0]).await);
    home.store.reset(&runs, NOW).await.unwrap();
    assert!(!blocked(runs[1]).await);
    let results = home.store.reader().results(Some(sweep)).await.unwrap();
    assert_eq!(results.iter().map(|row| row.id).collect::<Vec<_>>(), runs);
}
