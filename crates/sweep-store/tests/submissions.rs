//! Runs that are with Slurm.
#![expect(clippy::unwrap_used, reason = "a test ends where something unexpected happens")]

mod common;

use common::{Home, NOW, specs, succeeded};
use sweep_core::spec::RunId;
use sweep_store::{Adopted, Outcome, Settlement, State, Submitted};

async fn state(home: &Home, run: RunId) -> (State, u32, bool) {
    let state = home.store.reader().states_of(&[run]).await.unwrap().remove(0);
    (state.state, state.attempts, state.is_submitted)
}

#[tokio::test]
async fn a_run_is_in_one_array_at_a_time_and_nobody_claims_it() {
    let home = Home::new().await;
    let (_, runs) = home.register(&specs(4)).await;
    let store = &home.store;
    store.claim(runs[3], "here", NOW).await.unwrap();
    let tasks = [vec![runs[0]], vec![runs[1], runs[3]], vec![runs[3]]];
    let taken = store.open_generation("one", &tasks, NOW).await.unwrap();
    let fresh = |run| Submitted { run, after: 0 };
    assert_eq!(taken, [vec![fresh(runs[0])], vec![fresh(runs[1])]]);
    assert_eq!(store.claim(runs[0], "here", NOW).await.unwrap(), None, "it is with Slurm");
    assert_eq!(state(&home, runs[0]).await, (State::Pending, 0, true));

    let again = store.open_generation("two", &[vec![runs[0], runs[2]]], NOW + 1).await.unwrap();
    assert_eq!(again, [vec![fresh(runs[2])]]);
    let nothing = store.open_generation("three", &[vec![runs[0]]], NOW + 2).await.unwrap();
    assert!(nothing.is_empty());
    assert_eq!(store.reader().generation_count().await.unwrap(), 2);

    store.generation_submitted("one", 17).await.unwrap();
    let open = store.reader().open_submissions().await.unwrap();
    let seen: Vec<_> = open.iter().map(|row| (row.generation.as_str(), row.job, row.task, row.run)).collect();
    assert_eq!(
        seen,
        [("one", Some(17), 0, runs[0]), ("one", Some(17), 1, runs[1]), ("two", None, 0, runs[2])]
    );
    store.void_generation("two", NOW + 3).await.unwrap();
    assert_eq!(store.claim(runs[2], "here", NOW).await.unwrap(), Some(1));
    assert_eq!(store.end_submissions(&[runs[0]], NOW + 4).await.unwrap(), Vec::<String>::new());
    assert_eq!(store.end_submissions(&[runs[1]], NOW + 4).await.unwrap(), ["one"]);
    assert_eq!(store.reader().open_submissions().await.unwrap(), []);
}

#[tokio::test]
async fn reasons_are_kept_while_a_run_is_with_slurm() {
    let home = Home::new().await;
    let (_, runs) = home.register(&specs(2)).await;
    let store = &home.store;
    store.open_generation("one", &[vec![runs[0]], vec![runs[1]]], NOW).await.unwrap();
    let held = "launch failed, requeued | held";
    store.note_reasons(&[(runs[0], Some(held.to_owned())), (runs[1], None)]).await.unwrap();
    let reasons = || async {
        let open = store.reader().open_submissions().await.unwrap();
        open.into_iter().map(|row| row.reason).collect::<Vec<_>>()
    };
    assert_eq!(reasons().await, [Some(held.to_owned()), None]);
    store.note_reasons(&[(runs[0], None)]).await.unwrap();
    assert_eq!(reasons().await, [None, None]);
}

#[tokio::test]
async fn attempts_are_adopted_once_and_never_by_a_run_that_is_over() {
    let home = Home::new().await;
    let (_, runs) = home.register(&specs(1)).await;
    let (store, run) = (&home.store, runs[0]);
    store.open_generation("one", &[vec![run]], NOW).await.unwrap();
    assert_eq!(store.adopt(run, 1, "n1", NOW).await.unwrap(), Adopted::Now);
    assert_eq!(store.adopt(run, 1, "n1", NOW).await.unwrap(), Adopted::Before);
    assert_eq!(store.adopt(run, 2, "n2", NOW).await.unwrap(), Adopted::Never, "the first still runs");
    store.settle(run, 1, &Settlement::new(Outcome::Interrupted), NOW).await.unwrap();
    assert_eq!(store.adopt(run, 1, "n1", NOW).await.unwrap(), Adopted::Never, "it is settled");
    assert_eq!(store.adopt(run, 3, "n3", NOW).await.unwrap(), Adopted::Now, "a folder in between was lost");
    assert_eq!(store.adopt(run, 2, "n2", NOW).await.unwrap(), Adopted::Never);
    assert_eq!(state(&home, run).await, (State::Running, 3, true));
    store.settle(run, 3, &succeeded(), NOW).await.unwrap();
    assert_eq!(store.adopt(run, 4, "n1", NOW).await.unwrap(), Adopted::Never, "the run is over");
    assert_eq!(state(&home, run).await, (State::Succeeded, 3, true));
}

#[tokio::test]
async fn an_array_that_only_its_folder_remembers_is_entered_again() {
    let home = Home::new().await;
    let (_, runs) = home.register(&specs(3)).await;
    let store = &home.store;
    store.claim(runs[1], "here", NOW).await.unwrap();
    let tasks = [
        vec![Submitted { run: runs[0], after: 2 }],
        vec![Submitted { run: runs[1], after: 0 }, Submitted { run: runs[2], after: 0 }],
    ];
    assert!(!store.reader().knows_generation("old").await.unwrap());
    assert!(store.restore_generation("old", &tasks, NOW).await.unwrap());
    assert!(store.reader().knows_generation("old").await.unwrap());
    let open = store.reader().open_submissions().await.unwrap();
    let seen: Vec<_> = open.iter().map(|row| (row.task, row.place, row.run, row.after)).collect();
    assert_eq!(seen, [(0, 0, runs[0], 2), (1, 1, runs[2], 0)]);
    assert!(!store.restore_generation("older", &tasks, NOW).await.unwrap(), "no run is free");
}
