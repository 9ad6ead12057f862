//! Exports against the store that they come from: every number to the bit.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use common::{Fake, Fate};
use parquet::basic::{ConvertedType, LogicalType, TimeUnit, Type as Physical};
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::record::Field;
use sweep_core::spec::RunSpec;
use sweep_report::Error;
use sweep_report::export::{mlflow, parquet};
use sweep_store::{Cell, Kind, Limits, Reader, Table, View};

/// Two backbones, standard fine-tuning and two schedules, two seeds.
const SWEEP: &str = "
name: exported
run: {epochs: 4, learning_rate_schedule: {kind: constant}, evaluation: {attack: {kind: apgd, steps: 2}, max_epsilon: 6/255}}
matrix:
  backbone: [a, b]
  dataset: [shapes]
  target_epsilon: [4/255, 9/512]
  epsilon_schedule: [{kind: fixed}, {kind: ramp, start: 1, end: 3}]
  seed: [0, 1]
include:
  - {backbone: a, dataset: shapes, target_epsilon: 0, epsilon_schedule: {kind: none}, seed: 0}
backbones:
  a: {architecture: {kind: vit, image_size: 16, patch_size: 8, embed_dim: 8, depth: 1, num_heads: 1}, weights: {kind: random}}
  b: {architecture: {kind: vit, image_size: 16, patch_size: 8, embed_dim: 8, depth: 2, num_heads: 1}, weights: {kind: random}}
";

const LIMITS: Limits = Limits { rows: 100_000, time: Duration::from_mins(1) };

fn fate(place: usize, _: &RunSpec) -> Fate {
    match place % 5 {
        3 => Fate::Fails,
        4 => Fate::Waits,
        _ => Fate::Succeeds,
    }
}

fn fake() -> Fake {
    Fake::new(SWEEP, 10, |_| {}, fate)
}

/// What `sweep query` says, in the order of an export.
async fn asked(reader: &Reader, view: View) -> Table {
    let columns: Vec<&str> = view.columns().iter().map(|column| column.name).collect();
    let sql = format!("SELECT {} FROM {}", columns.join(", "), view.name());
    reader.query(&sql, LIMITS).await.unwrap()
}

fn same(field: &Field, cell: &Cell, kind: Kind) -> bool {
    match (field, cell) {
        (Field::Null, Cell::Null) => true,
        (Field::Str(field), Cell::Text(cell)) => field == cell && kind == Kind::Text,
        (Field::Long(field), Cell::Integer(cell)) => field == cell && kind == Kind::Integer,
        (Field::TimestampMillis(field), Cell::Integer(cell)) => field == cell && kind == Kind::Moment,
        (Field::Bool(field), Cell::Integer(cell)) => i64::from(*field) == *cell && kind == Kind::Flag,
        (Field::Double(field), Cell::Real(cell)) => field.to_bits() == cell.to_bits() && kind == Kind::Real,
        _ => false,
    }
}

#[test]
fn parquet_files_hold_what_queries_say() {
    let fake = fake();
    for view in View::ALL {
        let (rows, asked) = fake.block_on(async {
            let reader = fake.reader();
            (reader.view(view, None).await.unwrap(), asked(reader, view).await)
        });
        assert!(rows.count > 0 && !asked.truncated, "{}", view.name());
        let path = fake.folder.path().join(format!("{}.parquet", view.name()));
        fs::write(&path, parquet(&rows).unwrap()).unwrap();
        let file = SerializedFileReader::new(File::open(&path).unwrap()).unwrap();
        check_schema(&file, view);
        let key = |row: &Vec<(Field, String)>| row.iter().map(|(_, text)| text.clone()).collect::<Vec<_>>();
        let mut found: Vec<Vec<(Field, String)>> = file
            .into_iter()
            .map(|row| {
                row.unwrap().get_column_iter().map(|(_, field)| (field.clone(), field.to_string())).collect()
            })
            .collect();
        assert_eq!(found.len(), asked.rows.len(), "{}", view.name());
        // A query without an order may return its rows in any.
        found.sort_by_key(key);
        let mut expected = asked.rows;
        let place = |cells: &Vec<Cell>| {
            found.iter().position(|row| {
                row.iter()
                    .zip(cells)
                    .zip(view.columns())
                    .all(|(((field, _), cell), column)| same(field, cell, column.kind))
            })
        };
        let mut places: Vec<Option<usize>> = expected.drain(..).map(|cells| place(&cells)).collect();
        places.sort_unstable();
        assert_eq!(places, (0..found.len()).map(Some).collect::<Vec<_>>(), "{}", view.name());
    }
}

fn check_schema(file: &SerializedFileReader<File>, view: View) {
    let schema = file.metadata().file_metadata().schema_descr();
    assert_eq!(schema.num_columns(), view.columns().len());
    for (found, column) in schema.columns().iter().zip(view.columns()) {
        assert_eq!(found.name(), column.name);
        assert_eq!(found.self_type().is_optional(), column.is_optional, "{}", column.name);
        let utc = LogicalType::timestamp(true, TimeUnit::MILLIS);
        let (physical, logical) = match column.kind {
            Kind::Text => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
            Kind::Integer => (Physical::INT64, None),
            Kind::Real => (Physical::DOUBLE, None),
            Kind::Flag => (Physical::BOOLEAN, None),
            Kind::Moment => (Physical::INT64, Some(utc)),
        };
        assert_eq!((found.physical_type(), found.logical_type_ref()), (physical, logical.as_ref()));
        // Older readers look at these.
        let converted = match column.kind {
            Kind::Text => ConvertedType::UTF8,
            Kind::Moment => ConvertedType::TIMESTAMP_MILLIS,
            _ => ConvertedType::NONE,
        };
        assert_eq!(found.converted_type(), converted, "{}", column.name);
    }
}

#[test]
fn every_column_of_a_view_is_exported() {
    let fake = fake();
    for view in [View::Results, View::Curves, View::AccuracyOverEpsilon, View::Severity, View::Gates] {
        let sql = format!("SELECT * FROM {}", view.name());
        let mut all = fake.block_on(fake.reader().query(&sql, LIMITS)).unwrap().columns;
        let mut ours: Vec<String> = view.columns().iter().map(|column| column.name.to_owned()).collect();
        all.sort_unstable();
        ours.sort_unstable();
        assert_eq!(all, ours, "{}", view.name());
    }
}

/// Every file of a folder by its path within it.
fn tree(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
                files.insert(name, fs::read(path).unwrap());
            }
        }
    }
    files
}

#[test]
fn a_folder_for_mlflow_has_its_layout_and_our_numbers() {
    let fake = fake();
    let folder = fake.folder.path().join("ml runs");
    let (tracking, results) = fake.block_on(async {
        let reader = fake.reader();
        (mlflow::read(reader, None).await.unwrap(), reader.results(None).await.unwrap())
    });
    mlflow::write(&tracking, &folder).unwrap();
    assert_eq!((tracking.experiments(), tracking.runs(), tracking.left_out), (1, results.len(), 0));
    let files = tree(&folder);
    let read = |path: &str| String::from_utf8(files[path].clone()).unwrap();
    let experiment =
        files.keys().find_map(|name| name.strip_suffix("/meta.yaml").filter(|id| !id.contains('/'))).unwrap();
    assert!(read(&format!("{experiment}/meta.yaml")).contains("name: \"exported\"\n"));
    for result in &results {
        let at = |what: &str| format!("{experiment}/{}/{what}", result.id);
        let meta = read(&at("meta.yaml"));
        let status = match result.state.label() {
            "succeeded" => 3,
            "failed" => 4,
            _ => 2,
        };
        assert!(meta.contains(&format!("status: {status}\n")), "{meta}");
        assert!(meta.contains("ml%20runs"), "{meta}");
        assert_eq!(read(&at("params/target_epsilon")), result.target_epsilon.to_string());
        assert_eq!(read(&at("params/epsilon_schedule")), result.epsilon_schedule);
        assert_eq!(read(&at("params/objective.kind")), "adversarial");
        assert_eq!(read(&at("tags/sweep.state")), result.state.label());
        assert_eq!(read(&at("tags/sweep.attempts")), result.attempts.to_string());
        assert!(folder.join(at("artifacts/spec.json")).is_file());
        let last = |name: &str| {
            let text = files
                .get(&at(&format!("metrics/{name}")))
                .map(|bytes| String::from_utf8(bytes.clone()).unwrap());
            text.map(|text| {
                text.lines().last().unwrap().split(' ').nth(1).unwrap().parse::<f64>().unwrap().to_bits()
            })
        };
        let numbers = [
            ("clean", result.clean),
            ("robust", result.robust),
            ("expected_robustness", result.expected_robustness),
            ("delay", result.delay.map(f64::from)),
            ("clean_drop", result.clean_drop),
        ];
        for (name, value) in numbers {
            assert_eq!(last(name), value.map(f64::to_bits), "{name} of {}", result.id);
        }
        let epochs = fake.block_on(fake.reader().epochs_of(result.id)).unwrap();
        let history = files.get(&at("metrics/epoch/robust_accuracy"));
        let expected: Vec<String> = epochs
            .iter()
            .map(|epoch| {
                let share = f64::from(epoch.robust_correct) / f64::from(epoch.validation_total);
                format!("{} {share} {}", epoch.finished_ms, epoch.epoch + 1)
            })
            .collect();
        let found = history.map_or(Vec::new(), |bytes| {
            std::str::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
        });
        assert_eq!(found, expected);
    }
}

#[test]
fn an_export_replaces_an_export_and_nothing_else() {
    let fake = fake();
    let folder = fake.folder.path().join("tracking");
    let tracking = fake.block_on(mlflow::read(fake.reader(), None)).unwrap();
    mlflow::write(&tracking, &folder).unwrap();
    let files = tree(&folder);
    // What MLflow makes by itself, and a file of a run that is gone by now.
    fs::create_dir(folder.join(".trash")).unwrap();
    let stale =
        files.keys().find(|name| name.contains("/params/")).unwrap().replace("/params/", "/params/stale-");
    fs::write(folder.join(stale), "").unwrap();
    mlflow::write(&tracking, &folder).unwrap();
    assert_eq!(tree(&folder), files);

    for foreign in ["123", "models/mine"] {
        fs::create_dir_all(folder.join(foreign)).unwrap();
        let error = mlflow::write(&tracking, &folder).unwrap_err();
        assert!(
            matches!(&error, Error::ForeignExport { entry, .. } if foreign.starts_with(entry)),
            "{error}"
        );
        assert_eq!(tree(&folder), files, "nothing is touched");
        fs::remove_dir_all(folder.join(foreign.split('/').next().unwrap())).unwrap();
    }
    // A run that somebody logged into an experiment of ours.
    let experiment =
        files.keys().find(|name| name.ends_with("/meta.yaml")).unwrap().split('/').next().unwrap();
    let logged = folder.join(experiment).join("0123456789abcdef0123456789abcdef");
    fs::create_dir(&logged).unwrap();
    let error = mlflow::write(&tracking, &folder).unwrap_err();
    assert!(
        matches!(&error, Error::ForeignExport { entry, .. } if entry.ends_with("0123456789abcdef")),
        "{error}"
    );
    fs::remove_dir(&logged).unwrap();
    let other = fake.folder.path().join("other");
    fs::create_dir(&other).unwrap();
    mlflow::write(&tracking, &other).unwrap();
    fs::remove_file(other.join("sweep-export.json")).unwrap();
    assert!(matches!(mlflow::write(&tracking, &other), Err(Error::ForeignExport { .. })));
}
