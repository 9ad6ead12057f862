//! What `sweep evaluate` adds, and what compares a run with others: drop and severity.
#![expect(clippy::unwrap_used, reason = "a test ends where something unexpected happens")]

mod common;

use common::{Home, NOW, complete, epoch, evaluated, loaded, model, records, spec, started, succeeded};
use sweep_core::dataset::{DatasetSource, Decoding, ExpectedCounts};
use sweep_core::epsilon::Epsilon;
use sweep_core::event::{Event, Record};
use sweep_core::metrics::pearson;
use sweep_core::schedule::EpsilonSchedule;
use sweep_core::spec::{AttackSpec, RunId, RunSpec};
use sweep_store::Error;

/// The digest that `model` of the test events reports.
fn digest() -> String {
    "m".repeat(64)
}

/// The events of a measurement of a model.
fn measurement(run: RunId, model_digest: String, points: &[Event]) -> Vec<Record> {
    let Event::Loaded { dataset_digest, classes, train, validation, test, parameters, skipped, .. } =
        loaded()
    else {
        unreachable!("it is that event");
    };
    let weights_digest = Some(model_digest);
    let loaded = Event::Loaded {
        dataset_digest,
        classes,
        train,
        validation,
        test,
        weights_digest,
        parameters,
        skipped,
    };
    records([started(run, 0, 3), loaded].into_iter().chain(points.iter().cloned()).chain([Event::Succeeded]))
}

fn at(k: u8, correct: u32) -> Event {
    evaluated(Epsilon::from_255ths(k), correct, 32)
}

#[tokio::test]
async fn a_measurement_adds_points_and_leaves_the_run_alone() {
    let home = Home::new().await;
    let run = home.running(&spec(0)).await;
    home.store.ingest(run, 1, &complete(run, 1), 1).await.unwrap();
    home.store.settle(run, 1, &succeeded(), NOW).await.unwrap();
    let reader = home.store.reader();
    let before = reader.result_of(run).await.unwrap().unwrap();

    // A point that the attempt has measured already, one beyond its largest radius, and one twice.
    let events = measurement(run, digest(), &[at(8, 0), at(9, 7), at(10, 6)]);
    assert_eq!(home.store.ingest_measurement(run, 1, &events).await.unwrap(), 6);
    assert_eq!(home.store.ingest_measurement(run, 1, &events).await.unwrap(), 0, "nothing twice");
    let later = measurement(run, digest(), &[at(10, 5)]);
    home.store.ingest_measurement(run, 2, &later).await.unwrap();

    let points = reader.evaluations_of(run).await.unwrap();
    let found: Vec<_> =
        points[8..].iter().map(|row| (row.attempt, row.measurement, row.count.correct)).collect();
    assert_eq!(found, [(Some(1), None, 22), (None, Some(1), 7), (None, Some(2), 5)]);
    assert_eq!(points[9].model_digest, Some(digest()));
    let after = reader.result_of(run).await.unwrap().unwrap();
    assert_eq!((after.state, after.attempts, after.robust), (before.state, before.attempts, before.robust));
    let measurements = reader.measurements_of(run).await.unwrap();
    assert_eq!(measurements.iter().map(|one| one.number).collect::<Vec<_>>(), [1, 2]);
    assert!(measurements[0].is_complete);
    assert_eq!(reader.runs_with_model(&digest()).await.unwrap(), [run]);
    assert!(reader.runs_with_model("f").await.unwrap().is_empty());
}

#[tokio::test]
async fn a_measurement_in_pieces_is_the_same() {
    let home = Home::new().await;
    let run = home.running(&spec(0)).await;
    home.store.ingest(run, 1, &complete(run, 1), 1).await.unwrap();
    let events = measurement(run, digest(), &[at(9, 7)]);
    for size in 1..=events.len() {
        home.store.ingest_measurement(run, 1, &events[..size]).await.unwrap();
    }
    assert_eq!(home.store.reader().evaluations_of(run).await.unwrap()[9].count.correct, 7);
}

#[tokio::test]
async fn another_model_counts_neither_before_nor_after() {
    let home = Home::new().await;
    let run = home.running(&spec(0)).await;
    let first = [started(run, 1, 0), model(), at(0, 30)];
    home.store.ingest(run, 1, &records(first.clone()), 1).await.unwrap();
    let strange = measurement(run, "x".repeat(64), &[at(1, 20)]);
    home.store.ingest_measurement(run, 1, &strange).await.unwrap();
    let radii = async || -> Vec<String> {
        let points = home.store.reader().evaluations_of(run).await.unwrap();
        points.iter().map(|point| point.epsilon.to_string()).collect()
    };
    assert_eq!(radii().await, ["0"], "of a model that is not the run's");

    home.store.ingest_measurement(run, 2, &measurement(run, digest(), &[at(1, 20)])).await.unwrap();
    assert_eq!(radii().await, ["0", "1/255"]);
    let Event::ModelSaved { file, bytes, .. } = model() else { unreachable!("it is that event") };
    let replaced = Event::ModelSaved { file, bytes, digest: "y".repeat(64) };
    let rest: Vec<Event> = first.into_iter().chain([replaced, at(2, 10)]).collect();
    home.store.ingest(run, 1, &records(rest), 2).await.unwrap();
    assert_eq!(radii().await, ["2/255"], "the points of the replaced model are gone");
}

#[tokio::test]
async fn a_run_that_is_not_stored_is_refused() {
    let home = Home::new().await;
    let run = spec(7).id();
    let events = measurement(run, digest(), &[]);
    let error = home.store.ingest_measurement(run, 1, &events).await.unwrap_err();
    assert!(matches!(error, Error::NotStored { run: found } if found == run), "{error}");
}

/// A finished run that reached `clean` of 32 test images, and passed 5 % of validation accuracy after `delay` epochs.
async fn finished(home: &Home, spec: &RunSpec, clean: u32, delay: u32) -> RunId {
    let run = home.running(spec).await;
    let accuracy = |number: u32| if number + 1 < delay { 4 } else { 3 * clean };
    let epochs = (0..3).map(|number| epoch(number, accuracy(number)));
    let events = [started(run, 1, 0), loaded()].into_iter().chain(epochs).chain([at(0, clean)]);
    home.store.ingest(run, 1, &records(events), 1).await.unwrap();
    home.store.settle(run, 1, &succeeded(), NOW).await.unwrap();
    run
}

fn robust(seed: u64, target: u8) -> RunSpec {
    let target_epsilon = Epsilon::from_255ths(target);
    RunSpec { target_epsilon, epsilon_schedule: EpsilonSchedule::Fixed, ..spec(seed) }
}

fn standard(seed: u64) -> RunSpec {
    RunSpec { epsilon_schedule: EpsilonSchedule::None, ..robust(seed, 0) }
}

#[tokio::test]
async fn the_drop_is_against_the_same_recipe_without_perturbations() {
    let home = Home::new().await;
    let drop_of = async |run| home.store.reader().result_of(run).await.unwrap().unwrap().clean_drop;
    let run = finished(&home, &robust(0, 4), 10, 1).await;
    assert_eq!(drop_of(run).await, None, "there is no standard run yet");
    finished(&home, &standard(1), 32, 1).await;
    finished(&home, &RunSpec { batch_size: 8, ..standard(0) }, 32, 1).await;
    assert_eq!(drop_of(run).await, None, "another seed, another batch size");

    // What perturbs and what is measured may differ: standard fine-tuning perturbs nothing.
    let mut other = standard(0);
    let AttackSpec::Apgd { steps, .. } = &mut other.attack;
    *steps = 9;
    other.evaluation.max_epsilon = Epsilon::from_255ths(1);
    other.dataset.name = "the same by another name".to_owned();
    let reference = finished(&home, &other, 26, 1).await;
    assert_eq!(drop_of(run).await, Some(0.5));
    assert_eq!(drop_of(reference).await, Some(0.0));
}

#[tokio::test]
async fn severity_has_a_point_for_every_target_and_standard_fine_tuning() {
    let home = Home::new().await;
    finished(&home, &standard(0), 30, 1).await;
    for (target, clean, delay) in [(1, 25, 1), (2, 16, 2), (4, 4, 3)] {
        finished(&home, &robust(0, target), clean, delay).await;
    }
    // Another seed and another schedule are series of their own; the latter has the standard run in common.
    finished(&home, &robust(1, 4), 9, 2).await;
    finished(&home, &RunSpec { epsilon_schedule: EpsilonSchedule::Uniform, ..robust(0, 4) }, 20, 1).await;

    let series = home.store.reader().severity().await.unwrap();
    let found: Vec<_> =
        series.iter().map(|one| (one.epsilon_schedule.as_str(), one.seed, one.points.len())).collect();
    assert_eq!(found, [("fixed", 0, 4), ("fixed", 1, 1), ("uniform", 0, 2)]);
    let fixed = &series[0];
    let targets: Vec<String> = fixed.points.iter().map(|point| point.target_epsilon.to_string()).collect();
    assert_eq!(targets, ["0", "1/255", "2/255", "4/255"]);
    let expected = pearson(&[(1.0, 0.9), (1.0, 0.75), (2.0, 0.48), (3.0, 0.12)]).unwrap();
    // The same numbers through the database.
    assert!((fixed.correlation.unwrap() - expected).abs() < 1e-12);
    assert!(expected < -0.9);
    assert_eq!(series[1].correlation, None);
}

#[tokio::test]
async fn a_recipe_is_the_same_wherever_its_images_lie() {
    let home = Home::new().await;
    let at = |folder: &str, expected, mut spec: RunSpec| {
        spec.dataset.definition.source = DatasetSource::Hub {
            repository: "some/birds".to_owned(),
            revision: "a".repeat(40),
            config: None,
            image_column: "image".to_owned(),
            label_column: "label".to_owned(),
            folder: Some(folder.into()),
            decoding: Decoding::default(),
        };
        spec.dataset.definition.expected = expected;
        spec
    };
    let counts = ExpectedCounts { classes: 4, train: 64, validation: 8, test: 32 };
    finished(&home, &at("/a", None, standard(0)), 30, 1).await;
    let run = finished(&home, &at("/b", None, robust(0, 2)), 20, 2).await;
    finished(&home, &at("/b", Some(counts), robust(0, 4)), 10, 3).await;

    let result = home.store.reader().result_of(run).await.unwrap().unwrap();
    assert_eq!(result.clean_drop, Some(10.0 / 32.0));
    let series = home.store.reader().severity().await.unwrap();
    assert_eq!(series.iter().map(|one| one.points.len()).collect::<Vec<_>>(), [3]);
}
