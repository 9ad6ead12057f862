//! What a page on a running grid reads.
#![expect(clippy::unwrap_used, reason = "a test ends where something unexpected happens")]

mod common;

use std::time::Duration;

use common::{Home, NOW, complete, epoch, loaded, records, spec, specs, started, succeeded};
use sweep_core::event::FailureClass;
use sweep_store::{At, Failure, Metric, Outcome, Settlement, Stage, State};

#[tokio::test]
async fn a_change_of_anybody_is_noticed_and_nothing_else() {
    let home = Home::new().await;
    let mut watch = home.store.reader().watch().await.unwrap();
    let before = watch.version().await.unwrap();
    home.store.reader().state_counts(None).await.unwrap();
    assert_eq!(watch.version().await.unwrap(), before);
    home.register(&[spec(0)]).await;
    let after = watch.version().await.unwrap();
    assert_ne!(after, before);
    assert_eq!(watch.version().await.unwrap(), after);
}

#[tokio::test]
async fn a_statement_ends_when_its_time_is_up() {
    let home = Home::new().await;
    let (sweep, runs) = home.register(&specs(1_000)).await;
    let hurried = home.store.reader().limited(Duration::ZERO);
    for _ in 0..2 {
        let error = hurried.measured(Some(sweep), &[Metric::Delay], At::Last).await.unwrap_err();
        assert!(error.is_timed_out(), "{error}");
    }
    let patient = home.store.reader().limited(Duration::from_mins(1));
    for _ in 0..2 {
        assert_eq!(
            patient.measured(Some(sweep), &[Metric::Delay], At::Last).await.unwrap().len(),
            runs.len()
        );
    }
}

#[tokio::test]
async fn who_works_what_is_done_and_what_happened() {
    let home = Home::new().await;
    let all: Vec<_> = (0..4).map(spec).collect();
    let (sweep, runs) = home.register(&all).await;
    let store = &home.store;
    for run in &runs[..3] {
        store.claim(*run, "test", NOW).await.unwrap();
    }
    store.ingest(runs[0], 1, &complete(runs[0], 1), 1).await.unwrap();
    store.settle(runs[0], 1, &succeeded(), NOW + 5_000).await.unwrap();
    let failure = Failure { class: FailureClass::Diverged, message: "not finite".to_owned() };
    let failed = Settlement::new(Outcome::Failed { failure: failure.clone(), retry: false });
    store.settle(runs[1], 1, &failed, NOW + 7_000).await.unwrap();
    let events = records([started(runs[2], 1, 0), loaded(), epoch(0, 3)]);
    store.ingest(runs[2], 1, &events, 1).await.unwrap();

    let reader = store.reader();
    let paces = reader.paces(sweep, NOW + 9_000).await.unwrap();
    let found: Vec<_> = paces.iter().map(|pace| (pace.stage, pace.runs, pace.spent_ms)).collect();
    let expected = [
        (Stage::Done, 1, 5_000),
        (Stage::Running, 1, 9_000),
        (Stage::Waiting, 1, 0),
        (Stage::GivenUp, 1, 7_000),
    ];
    assert_eq!(found, expected);
    assert_eq!((paces[1].epochs_done, paces[0].epochs_done), (1, paces[0].epochs));

    let workers = reader.workers(sweep).await.unwrap();
    assert_eq!(workers.running, 1);
    assert!(workers.quietest_ms.is_some() && workers.news_ms >= Some(NOW + 7_000));
    let running = reader.running_in(sweep, 9).await.unwrap();
    assert_eq!((running.len(), running[0].run, running[0].epochs.1), (1, runs[2], 1));
    let ended = reader.ended_in(sweep, 9).await.unwrap();
    let found: Vec<_> = ended.iter().map(|news| (news.run, news.state)).collect();
    assert_eq!(found, [(runs[1], State::Failed), (runs[0], State::Succeeded)]);
    assert_eq!(ended[0].failure, Some(failure));
    assert_eq!(reader.ended_in(sweep, 1).await.unwrap(), ended[..1]);

    let some = [runs[2], runs[0]];
    let ids: Vec<_> = reader.results_of(&some).await.unwrap().iter().map(|result| result.id).collect();
    assert_eq!(ids, some);
    let lists = reader.sweeps_of(runs[0]).await.unwrap();
    assert_eq!(lists.iter().map(|(found, _)| *found).collect::<Vec<_>>(), [sweep]);
}
