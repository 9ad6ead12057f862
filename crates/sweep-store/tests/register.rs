//! Registering sweeps.
#![expect(clippy::unwrap_used, reason = "a test ends where something unexpected happens")]

mod common;

use common::{Home, NOW, spec, specs};
use sweep_core::spec::{RunId, RunSpec, WeightsSource};
use sweep_store::{Error, Limits, Registered, State, Table};

fn listed(specs: &[RunSpec]) -> Vec<(RunId, &RunSpec)> {
    specs.iter().map(|spec| (spec.id(), spec)).collect()
}

async fn select(home: &Home, sql: &str) -> Table {
    let limits = Limits { rows: 1_000_000, time: std::time::Duration::from_mins(1) };
    home.store.reader().query(sql, limits).await.unwrap()
}

fn starting_from(run: RunId) -> RunSpec {
    let mut after = spec(100);
    after.backbone.definition.weights = WeightsSource::Run { run, training: run };
    after
}

#[tokio::test]
async fn runs_come_back_in_the_order_of_expansion() {
    let home = Home::new().await;
    // More than one INSERT's worth.
    let specs = specs(1_201);
    let (sweep, runs) = home.register(&specs).await;
    let states = home.store.reader().run_states(sweep).await.unwrap();
    assert_eq!(states.iter().map(|run| run.id).collect::<Vec<_>>(), runs);
    assert!(states.iter().enumerate().all(|(index, run)| run.position as usize == index));
    assert!(
        states.iter().all(|run| run.state == State::Pending && run.attempts == 0 && run.failure.is_none())
    );
    assert_eq!(home.store.reader().spec(runs[7]).await.unwrap().as_ref(), Some(&specs[7]));
    let some = [runs[5], spec(99_999).id(), runs[2]];
    let states = home.store.reader().states_of(&some).await.unwrap();
    assert_eq!(
        states.iter().map(|run| (run.id, run.position)).collect::<Vec<_>>(),
        [(runs[5], 0), (runs[2], 2)]
    );
}

#[tokio::test]
async fn registering_again_changes_nothing_and_runs_keep_their_state() {
    let home = Home::new().await;
    let specs = specs(3);
    let (sweep, runs) = home.register(&specs).await;
    home.store.claim(runs[1], "test", NOW).await.unwrap();
    let columns = "SELECT id, name, yaml, digest, listing_digest, created_ms FROM sweeps";
    let before = select(&home, columns).await;
    let again = home.store.register_sweep("test", "name: test", &listed(&specs), NOW + 5).await.unwrap();
    assert_eq!(again, Registered { sweep, new_runs: 0, unlisted: 0 });
    assert_eq!(select(&home, columns).await, before);
    // Another text writes, and still leaves the runs alone.
    let more = common::specs(4);
    let again =
        home.store.register_sweep("test", "name: test # longer", &listed(&more), NOW + 9).await.unwrap();
    assert_eq!(again, Registered { sweep, new_runs: 1, unlisted: 0 });
    let states = home.store.reader().run_states(sweep).await.unwrap();
    assert_eq!(states.iter().map(|run| run.state).collect::<Vec<_>>(), {
        use State::{Pending, Running};
        [Pending, Running, Pending, Pending]
    });
}

#[tokio::test]
async fn a_new_list_replaces_the_old_one_and_runs_are_shared() {
    let home = Home::new().await;
    let specs = specs(4);
    home.register(&specs).await;
    let shared = home.store.register_sweep("other", "name: other", &listed(&specs[2..]), NOW).await.unwrap();
    assert_eq!(shared.new_runs, 0);
    let shorter =
        home.store.register_sweep("test", "name: test", &listed(&specs[..1]), NOW + 1).await.unwrap();
    assert_eq!(shorter.unlisted, 3);
    let reader = home.store.reader();
    assert_eq!(reader.run_states(shorter.sweep).await.unwrap().len(), 1);
    assert_eq!(reader.run_states(shared.sweep).await.unwrap().len(), 2);
    let sweeps = reader.sweeps().await.unwrap();
    assert_eq!(
        sweeps.iter().map(|sweep| (sweep.name.as_str(), sweep.runs)).collect::<Vec<_>>(),
        [("test", 1), ("other", 2)]
    );
    assert_eq!(reader.sweep_named("other").await.unwrap(), shared.sweep);
    let error = reader.sweep_named("tset").await.unwrap_err();
    assert!(matches!(&error, Error::UnknownSweep { known, .. } if known == &["other", "test"]), "{error}");
    assert_eq!(reader.state_counts(None).await.unwrap()[&State::Pending], 4);
    assert_eq!(reader.state_counts(Some(shared.sweep)).await.unwrap()[&State::Pending], 2);
}

#[tokio::test]
async fn the_sweep_that_ran_last_is_the_first() {
    let home = Home::new().await;
    let specs = specs(1);
    let run = async |name: &str, at| home.store.register_sweep(name, "", &listed(&specs), at).await.unwrap();
    run("one", NOW).await;
    run("two", NOW + 1).await;
    run("one", NOW + 2).await;
    let sweeps = home.store.reader().sweeps().await.unwrap();
    assert_eq!(sweeps.iter().map(|sweep| sweep.name.as_str()).collect::<Vec<_>>(), ["one", "two"]);
    assert_eq!((sweeps[0].created_ms, sweeps[0].updated_ms), (NOW, NOW + 2));
}

#[tokio::test]
async fn what_cannot_be_stored_is_refused_as_a_whole() {
    let home = Home::new().await;
    let twice = [spec(1), spec(2), spec(1)];
    let error = home.store.register_sweep("test", "", &listed(&twice), NOW).await.unwrap_err();
    assert!(matches!(error, Error::ListedTwice { run } if run == spec(1).id()), "{error}");
    let large = [spec(1), spec(u64::MAX)];
    let error = home.store.register_sweep("test", "", &listed(&large), NOW).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { value: u64::MAX, .. }), "{error}");
    let orphan = [spec(1), starting_from(spec(2).id())];
    let error = home.store.register_sweep("test", "", &listed(&orphan), NOW).await.unwrap_err();
    assert!(
        matches!(&error, Error::MissingDependency { missing, .. } if *missing == spec(2).id().to_string()),
        "{error}"
    );
    assert!(select(&home, "SELECT * FROM runs").await.rows.is_empty());
    assert!(home.store.reader().sweeps().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_run_may_start_from_a_stored_run_or_from_one_listed_after_it() {
    let home = Home::new().await;
    let first = [starting_from(spec(1).id()), spec(1)];
    let (sweep, runs) = home.register(&first).await;
    let states = home.store.reader().run_states(sweep).await.unwrap();
    assert_eq!(states[0].depends_on, Some(runs[1]));
    let stored = [starting_from(spec(1).id())];
    assert_eq!(home.store.register_sweep("later", "", &listed(&stored), NOW).await.unwrap().new_runs, 0);
}

#[tokio::test]
async fn the_columns_say_what_the_specification_says() {
    let home = Home::new().await;
    home.register(&[spec(7)]).await;
    let columns = "SELECT backbone, dataset, target_epsilon, target_epsilon_value, epsilon_schedule,
        epsilon_schedule_kind, seed, epochs, batch_size, optimizer, learning_rate, evaluation_attack FROM runs";
    let row = serde_json::to_string(&select(&home, columns).await.rows[0]).unwrap();
    let value = 4.0 / 255.0;
    let expected =
        format!(r#"["vit","shapes","4/255",{value},"ramp 1-3","ramp",7,3,16,"adamw",0.001,"apgd-2-ce"]"#);
    assert_eq!(row, expected);
    let deep = select(&home, "SELECT spec ->> '$.optimizer.betas[1]' FROM specs").await;
    assert_eq!(serde_json::to_string(&deep.rows).unwrap(), "[[0.95]]");
}
