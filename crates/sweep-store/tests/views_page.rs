//! `VIEWS.md` against a filled database: its queries run, and every column is in it.
#![expect(clippy::unwrap_used, reason = "a test ends where something unexpected happens")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use common::{Home, NOW, complete, epoch, failed, loaded, records, spec, started, succeeded};
use sweep_core::epsilon::Epsilon;
use sweep_core::event::{Event, FailureClass, Split};
use sweep_core::schedule::EpsilonSchedule;
use sweep_core::spec::{Norm, RunSpec};
use sweep_store::{Cell, Failure, Limits, Outcome, Settlement, View};

const PAGE: &str = include_str!("../VIEWS.md");
const LIMITS: Limits = Limits { rows: 1_000, time: Duration::from_mins(1) };

fn of(seed: u64, schedule: EpsilonSchedule, target: Epsilon) -> RunSpec {
    RunSpec { epsilon_schedule: schedule, target_epsilon: target, ..spec(seed) }
}

/// A ramp, fixed epsilon and standard fine-tuning with two seeds, an epoch that was taken over, a run that failed, two versions
/// of the program, images that changed, an accuracy that cannot be, and a point of `sweep evaluate`.
async fn filled() -> Home {
    let home = Home::new().await;
    let four = Epsilon::from_255ths(4);
    let mut specs = Vec::new();
    for seed in 0..2 {
        specs.push(spec(seed));
        specs.push(of(seed, EpsilonSchedule::Fixed, four));
        specs.push(of(seed, EpsilonSchedule::None, Epsilon::ZERO));
    }
    specs.push(spec(7));
    let (_, runs) = home.register(&specs).await;
    let store = &home.store;
    for (place, run) in runs[..6].iter().enumerate() {
        store.claim(*run, "test", NOW).await.unwrap().unwrap();
        let mut records = complete(*run, 1);
        for record in &mut records {
            alter(&mut record.event, place, runs[0]);
        }
        assert_eq!(store.ingest(*run, 1, &records, 1).await.unwrap().refused, None);
        assert!(store.settle(*run, 1, &succeeded(), NOW + 90_000).await.unwrap());
    }
    store.claim(runs[6], "test", NOW).await.unwrap().unwrap();
    let events = [started(runs[6], 1, 0), loaded(), epoch(0, 1), failed(FailureClass::Diverged)];
    store.ingest(runs[6], 1, &records(events), 1).await.unwrap();
    let failure = Failure { class: FailureClass::Diverged, message: "it broke".to_owned() };
    let settlement = Settlement::new(Outcome::Failed { failure, retry: false });
    assert!(store.settle(runs[6], 1, &settlement, NOW + 9_000).await.unwrap());
    let Event::Loaded { dataset_digest, classes, train, validation, test, parameters, skipped, .. } =
        loaded()
    else {
        unreachable!("it is that event");
    };
    // The weights of a measurement are the run's final model.
    let weights_digest = Some("m".repeat(64));
    let measured = [
        started(runs[0], 0, 3),
        Event::Loaded {
            dataset_digest,
            classes,
            train,
            validation,
            test,
            weights_digest,
            parameters,
            skipped,
        },
        Event::Evaluated {
            epochs: 3,
            split: Split::Test,
            attack: "apgd-100-dlr".to_owned(),
            norm: Norm::Linf,
            epsilon: four,
            correct: 20,
            total: 32,
            seconds: 1.0,
        },
        Event::Succeeded,
    ];
    assert_eq!(store.ingest_measurement(runs[0], 1, &records(measured)).await.unwrap(), 4);
    home
}

fn alter(event: &mut Event, place: usize, first: sweep_core::spec::RunId) {
    match event {
        Event::Started { version, .. } if place == 5 => "0.2.0".clone_into(version),
        Event::Loaded { dataset_digest, .. } if place == 4 => *dataset_digest = "e".repeat(64),
        Event::EpochFinished { epoch: 0, trained_by, .. } if place == 1 => *trained_by = Some(first),
        Event::Evaluated { epsilon, correct, .. } => {
            // The ramp's robust accuracies are the best; one point of it is larger than the clean accuracy.
            *correct =
                if place == 3 && *epsilon == Epsilon::from_255ths(2) { 32 } else { *correct - place as u32 };
            if place == 4 {
                *correct = 5;
            }
        }
        _ => {}
    }
}

/// The ```sql blocks of the page.
fn queries() -> Vec<&'static str> {
    PAGE.split("```sql\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

#[tokio::test]
async fn every_query_of_the_page_answers() {
    let home = filled().await;
    let queries = queries();
    assert!(queries.len() >= 15, "{}", queries.len());
    for sql in queries {
        let table =
            home.store.reader().query(sql, LIMITS).await.unwrap_or_else(|error| panic!("{error}\n{sql}"));
        assert!(!table.rows.is_empty(), "no rows:\n{sql}");
        assert!(table.rows.iter().flatten().any(|cell| !matches!(cell, Cell::Null)), "only NULL:\n{sql}");
    }
}

/// The columns that the page documents, by the name in its heading.
fn documented() -> BTreeMap<&'static str, BTreeSet<&'static str>> {
    let names = |text: &'static str| text.split('`').skip(1).step_by(2);
    let mut found = BTreeMap::new();
    for section in PAGE.split("\n## ").skip(1).filter(|section| section.starts_with('`')) {
        let rows = section.lines().filter(|line| line.starts_with("| `"));
        let columns = rows.flat_map(|row| names(row.split('|').nth(1).unwrap())).collect();
        found.insert(names(section).next().unwrap(), columns);
    }
    found
}

#[tokio::test]
async fn every_column_of_every_view_is_documented() {
    let home = Home::new().await;
    let documented = documented();
    let sql = "SELECT v.name, c.name FROM sqlite_schema v, pragma_table_info(v.name) c WHERE v.type = 'view'";
    let rows = home.store.reader().query(sql, LIMITS).await.unwrap().rows;
    let mut views: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for row in rows {
        let [Cell::Text(view), Cell::Text(column)] = &row[..] else { panic!("{row:?}") };
        views.entry(view.clone()).or_default().insert(column.clone());
    }
    assert_eq!(views.len(), 5);
    for (view, columns) in &views {
        let columns: BTreeSet<&str> = columns.iter().map(String::as_str).collect();
        assert_eq!(documented.get(view.as_str()), Some(&columns), "{view}");
    }
    for view in View::ALL {
        let columns = view.columns().iter().map(|column| column.name).collect();
        assert_eq!(documented.get(view.name()), Some(&columns), "{}", view.name());
    }
    assert_eq!(documented.len(), View::ALL.len());
}
