//! What tables are made of, against the view `results` and the definitions of the metrics.
#![expect(clippy::unwrap_used, reason = "a test ends where something unexpected happens")]

mod common;

use common::{Home, NOW, complete, epoch, evaluated, loaded, records, spec, started, succeeded};
use sweep_core::epsilon::Epsilon;
use sweep_core::event::FailureClass;
use sweep_core::metrics::Count;
use sweep_core::spec::{RunSpec, WeightsSource};
use sweep_store::{
    At, Failure, Measured, MeasuredRun, Metric, Outcome, ResultRow, Settlement, State, SweepId,
};

/// Three runs: complete, in its second epoch, given up. They start from a fourth.
async fn home() -> (Home, SweepId) {
    let home = Home::new().await;
    let first = spec(9);
    let after = |seed| {
        let mut spec: RunSpec = spec(seed);
        spec.backbone.definition.weights =
            WeightsSource::Run { run: first.id(), training: first.training_id() };
        spec
    };
    let (sweep, runs) = home.register(&[first.clone(), after(0), after(1), after(2)]).await;
    let store = &home.store;
    for (run, number) in runs.iter().zip(0..) {
        store.claim(*run, "test", NOW).await.unwrap();
        let events = match number {
            0 | 1 => complete(*run, 1),
            2 => records([started(*run, 1, 0), loaded(), epoch(0, 3), epoch(1, 30)]),
            _ => records([started(*run, 1, 0)]),
        };
        store.ingest(*run, 1, &events, 1).await.unwrap();
        if number < 2 {
            store.settle(*run, 1, &succeeded(), NOW).await.unwrap();
        }
    }
    let failure = Failure { class: FailureClass::Diverged, message: "not finite".to_owned() };
    let failed = Settlement::new(Outcome::Failed { failure, retry: false });
    store.settle(runs[3], 1, &failed, NOW).await.unwrap();
    (home, sweep)
}

fn value(metric: Metric, row: &ResultRow) -> Option<f64> {
    match metric {
        Metric::Clean => row.clean,
        Metric::Robust | Metric::RobustAt(_) => row.robust,
        Metric::ExpectedRobustness => row.expected_robustness,
        Metric::Delay => row.delay.map(f64::from),
        Metric::DelayAboveChance => row.delay_above_chance.map(f64::from),
        Metric::CleanDrop => row.clean_drop,
        Metric::ValidationClean => row.validation_clean,
        Metric::TrainSeconds => row.train_seconds,
    }
}

#[tokio::test]
async fn numbers_are_those_of_the_view() {
    let (home, sweep) = home().await;
    let reader = home.store.reader();
    let metrics = [&Metric::PLAIN[..], &[Metric::RobustAt(spec(0).target_epsilon)]].concat();
    for scope in [Some(sweep), None] {
        let measured = reader.measured(scope, &metrics, At::Last).await.unwrap();
        assert_eq!(measured.len(), 3, "what others start from is left out");
        for run in measured {
            let row = reader.result_of(run.id).await.unwrap().unwrap();
            for (metric, found) in metrics.iter().zip(&run.values) {
                assert_eq!(found.map(|found| found.value), value(*metric, &row), "{metric} of {}", run.state);
            }
            assert_eq!((run.state, run.epochs_done), (row.state, row.epochs_done));
            assert_eq!(run.failure, row.failure.map(|failure| failure.class));
            assert_eq!(run.depends_on, Some(spec(9).id()));
            let stored: RunSpec = serde_json::from_str(&run.spec).unwrap();
            assert_eq!(stored.id(), run.id);
        }
    }
}

#[tokio::test]
async fn accuracies_come_with_their_counts() {
    let (home, sweep) = home().await;
    let metrics = ["clean", "robust", "robust@6/255", "robust@0", "robust@0.5", "expected_robustness"];
    let metrics = metrics.map(|name| name.parse::<Metric>().unwrap());
    let runs = home.store.reader().measured(Some(sweep), &metrics, At::Last).await.unwrap();
    let count = |correct| Some(Some(Count { correct, total: 32 }));
    let found: Vec<_> = runs[0].values.iter().map(|value| value.map(|value| value.count)).collect();
    // `complete` counts 30 less one a 255th; nothing is measured beyond 8/255.
    assert_eq!(found, [count(30), count(26), count(24), count(30), None, Some(None)]);
    assert!(runs[1..].iter().all(|run| run.values.iter().all(Option::is_none)));
}

#[tokio::test]
async fn an_epoch_has_validation_numbers() {
    let (home, sweep) = home().await;
    let metrics = [Metric::Clean, Metric::Robust, Metric::TrainSeconds, Metric::Delay];
    let at = async |epoch| {
        let runs: Vec<MeasuredRun> =
            home.store.reader().measured(Some(sweep), &metrics, At::Epoch(epoch)).await.unwrap();
        runs.into_iter().map(|run| run.values).collect::<Vec<_>>()
    };
    let count = |correct| {
        let count = Count { correct, total: 100 };
        Some(Measured { value: count.accuracy(), count: Some(count) })
    };
    let seconds = |value| Some(Measured { value, count: None });
    let nothing = vec![None; 4];
    let second = at(2).await;
    assert_eq!(second[0], [count(20), count(10), seconds(4.0), None], "delay is not known at an epoch");
    assert_eq!(second[1], [count(30), count(15), seconds(4.0), None]);
    assert_eq!(second[2], nothing);
    let third = at(3).await;
    assert_eq!((third[0][0], &third[1]), (count(30), &nothing));
    assert_eq!(at(4).await, [nothing.clone(), nothing.clone(), nothing]);
}

#[tokio::test]
async fn a_run_without_perturbation_is_as_robust_as_clean() {
    let home = Home::new().await;
    let mut spec = spec(0);
    spec.target_epsilon = Epsilon::ZERO;
    let run = home.running(&spec).await;
    let events = records([started(run, 1, 0), evaluated(Epsilon::ZERO, 20, 40)]);
    home.store.ingest(run, 1, &events, 1).await.unwrap();
    let found = home.store.reader().measured(None, &[Metric::Robust], At::Last).await.unwrap();
    assert_eq!((found[0].state, found[0].values[0].unwrap().value), (State::Running, 0.5));
}

#[test]
fn names_of_metrics_and_moments() {
    for metric in [&Metric::PLAIN[..], &[Metric::RobustAt(Epsilon::from_255ths(8))]].concat() {
        assert_eq!(metric.to_string().parse(), Ok(metric));
        assert_eq!(serde_json::to_value(metric).unwrap(), metric.to_string());
    }
    assert!("robust@2".parse::<Metric>().unwrap_err().to_string().contains("outside [0, 1]"));
    assert!(
        "accuracy"
            .parse::<Metric>()
            .unwrap_err()
            .to_string()
            .contains("none of clean, robust, robust@EPSILON")
    );
    assert_eq!(("last".parse(), "epoch:7".parse()), (Ok(At::Last), Ok(At::Epoch(7))));
    for text in ["", "first", "epoch:", "epoch:0", "epoch:-1", "7"] {
        assert!(text.parse::<At>().is_err(), "{text}");
    }
}
