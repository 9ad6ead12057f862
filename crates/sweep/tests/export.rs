//! `sweep export` as its users run it, and what other programs make of it.
//!
//! `SWEEP_TEST_PYTHON` names a Python with mlflow, pandas, polars, pyarrow and duckdb (otherwise `python3`). Where it lacks one of
//! them, the tests that need it say so and check only what can be checked without.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use sweep_core::event::FailureClass;
use sweep_core::spec::RunId;
use sweep_core::{Resolve, Sweep};
use sweep_testkit::{Action, Script, Workspace, fake_worker};

/// Four runs at two target epsilons; the script has radii up to 4/255.
const SWEEP: &str = "
name: four
run: {backbone: b, dataset: shapes, epochs: 3, learning_rate_schedule: {kind: constant}, evaluation: {attack: {kind: apgd, steps: 2}, max_epsilon: 4/255}}
backbones: {b: {architecture: {kind: vit, image_size: 16, patch_size: 8, embed_dim: 8, depth: 1, num_heads: 1}, weights: {kind: random}}}
matrix:
  target_epsilon: [2/255, 4/255]
  epsilon_schedule: [{kind: fixed}, {kind: ramp, start: 1, end: 2}]
";

/// The sweep file names no files.
struct NoFiles;

impl Resolve for NoFiles {
    fn weights(&self, path: &Path) -> Result<(PathBuf, String), String> {
        Err(format!("`{}`", path.display()))
    }

    fn dataset(&self, path: &Path) -> Result<(PathBuf, String), String> {
        Err(format!("`{}`", path.display()))
    }
}

fn sweep(home: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sweep"));
    command.env("HF_HUB_OFFLINE", "1").env("HF_HOME", home.join("huggingface")).env("SWEEP_HOME", home);
    command.args(arguments).env_remove("SWEEP_WORKER").env_remove("SWEEP_LOG").stdin(Stdio::null());
    command.output().unwrap()
}

#[track_caller]
fn expect(output: &Output, code: i32) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "stdout:\n{out}\nstderr:\n{err}");
    (out, err)
}

/// A home folder in which three runs succeed, one of them in its second attempt, and one fails for good.
fn finished() -> Workspace {
    let workspace = Workspace::new();
    let home = workspace.home();
    let file = home.join("four.yaml");
    fs::write(&file, SWEEP).unwrap();
    let complete = vec![
        Action::Start,
        Action::Epoch { clean: 4, robust: 1 },
        Action::Epoch { clean: 41, robust: 20 },
        Action::Epoch { clean: 67, robust: 33 },
        Action::Evaluate { correct: vec![83, 71, 59, 47, 41] },
        Action::Succeed,
    ];
    workspace.script(&Script::always(complete.clone()));
    let grid = Sweep::parse(SWEEP.as_bytes(), &[]).unwrap().expand(&NoFiles).unwrap();
    let runs: Vec<RunId> = grid.runs.into_iter().map(|(id, _)| id).collect();
    let message = "it \"broke\"\nbadly: ü".to_owned();
    let diverge = Action::Fail { class: FailureClass::Diverged, message };
    let again = Script { first: vec![vec![Action::Start, Action::Die { signal: 9 }]], then: complete };
    workspace.script_of(runs[0], &again);
    workspace.script_of(runs[1], &Script::always([Action::Start, diverge]));
    let worker = fake_worker().to_str().unwrap();
    let arguments =
        ["run", file.to_str().unwrap(), "--devices", "cpu:2", "--worker", worker, "--retry-delay", "0"];
    expect(&sweep(home, &arguments), 3);
    workspace
}

/// What a query says, written into a file for a script.
fn asked(home: &Path, sql: &str, name: &str) -> PathBuf {
    let path = home.join(name);
    let rows = expect(&sweep(home, &["query", sql, "--format", "json"]), 0).0;
    fs::write(&path, rows).unwrap();
    path
}

/// An interpreter that can import the modules, or nothing with a word about it.
fn python(modules: &str) -> Option<String> {
    let python = std::env::var("SWEEP_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let found = Command::new(&python).args(["-c", &format!("import {modules}")]).output();
    if found.is_ok_and(|output| output.status.success()) {
        return Some(python);
    }
    // Past the macros, whose output is hidden where a test passes: one that checks less must say so.
    let message =
        format!("NOT CHECKED: {python} has not all of {modules}; set SWEEP_TEST_PYTHON to one that has\n");
    std::io::stderr().write_all(message.as_bytes()).unwrap();
    None
}

#[track_caller]
fn run_script(python: &str, script: &str, arguments: &[&Path]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(script);
    let output = Command::new(python).arg(script).args(arguments).output().unwrap();
    assert_eq!(expect(&output, 0).0.lines().last(), Some("checked"));
}

#[test]
fn views_go_out_in_every_form() {
    let workspace = finished();
    let home = workspace.home();
    let file = |name: &str| home.join(name).to_str().unwrap().to_owned();
    let rows = |arguments: &[&str]| -> Vec<Value> {
        serde_json::from_str(
            &expect(&sweep(home, &[&["export", "--format", "json"], arguments].concat()), 0).0,
        )
        .unwrap()
    };
    let mut written = Vec::new();
    for (table, count) in [
        ("results", 4),
        ("curves", 9),
        ("accuracy_over_epsilon", 15),
        ("severity", 3),
        ("gates", 12),
        ("attempts", 5),
        ("evaluations", 15),
        ("provenance", 5),
    ] {
        let found = rows(&["--table", table]);
        assert_eq!(found.len(), count, "{table}");
        assert_eq!(rows(&["--table", table, "--sweep", "four"]).len(), count, "{table}");
        let output = file(&format!("{table}.parquet"));
        expect(&sweep(home, &["export", "--table", table, "--output", &output]), 0);
        let columns: Vec<&str> = found[0].as_object().unwrap().keys().map(String::as_str).collect();
        let sql = format!("SELECT {} FROM {table}", columns.join(", "));
        written.extend([output.into(), asked(home, &sql, &format!("{table}.json"))]);
    }
    let failed = rows(&[]).into_iter().find(|row| row["state"] == "failed").unwrap();
    assert_eq!((&failed["failure_class"], &failed["clean"]), (&"diverged".into(), &Value::Null));

    let csv = file("results.csv");
    expect(&sweep(home, &["export", "--output", &csv]), 0);
    assert_eq!(fs::read_to_string(&csv).unwrap(), expect(&sweep(home, &["export"]), 0).0);

    let capitals = file("X.PARQUET");
    expect(&sweep(home, &["export", "--output", &capitals]), 0);
    assert!(fs::read(&capitals).unwrap().starts_with(b"PAR1"));
    let unusual = file("rows.tsv");
    expect(&sweep(home, &["export", "--output", &unusual, "--format", "csv"]), 0);
    assert_eq!(fs::read(&unusual).unwrap(), fs::read(&csv).unwrap());

    for (arguments, part) in [
        (&["--output", "x.jsonl"][..], "expected one of the endings: .csv, .json, .parquet, .md, .tex"),
        (&["--output", "x.tsv"], "hint: --format says it"),
        (&["--output", "x"], "`x` does not say its form"),
        (&["--format", "parquet"], "Parquet is no text: it goes into a file"),
        (&["--table", "runs"], "possible values: results, curves"),
        (&["--mlflow", "x", "--format", "json"], "cannot be used with"),
        (&["--sweep", "fore"], "there is no sweep `fore`"),
    ] {
        let (out, err) = expect(&sweep(home, &[&["export"], arguments].concat()), 2);
        assert!(out.is_empty() && err.contains(part), "{err}");
    }
    if let Some(python) = python("pandas, pyarrow, polars, duckdb") {
        let files: Vec<&Path> = written.iter().map(PathBuf::as_path).collect();
        run_script(&python, "export_frames.py", &files);
    }
}

#[test]
fn mlflow_opens_the_folder_and_has_the_same_numbers() {
    let workspace = finished();
    let home = workspace.home();
    let folder = home.join("mlruns");
    let export = |folder: &Path| sweep(home, &["export", "--mlflow", folder.to_str().unwrap()]);
    let (out, err) = expect(&export(&folder), 0);
    assert_eq!(out.trim_end(), folder.to_str().unwrap());
    assert!(err.contains("1 experiments, 4 runs") && err.contains("mlflow ui --backend-store-uri"), "{err}");
    expect(&export(&folder), 0);
    let experiment =
        fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).find(|path| path.is_dir()).unwrap();
    let runs = fs::read_dir(&experiment)
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().path().join("params").is_dir());
    assert_eq!(runs.count(), 4);

    let foreign = home.join("foreign");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("notes.txt"), "mine").unwrap();
    let (out, err) = expect(&export(&foreign), 2);
    assert!(
        out.is_empty() && err.contains("`notes.txt`, which no export") && err.contains("hint: "),
        "{err}"
    );
    assert_eq!(fs::read_dir(&foreign).unwrap().count(), 1);

    if let Some(python) = python("mlflow") {
        let files = ["results", "curves", "accuracy_over_epsilon"]
            .map(|view| asked(home, &format!("SELECT * FROM {view}"), &format!("{view}.json")));
        let database = home.join("mlflow.db");
        run_script(&python, "export_mlflow.py", &[&folder, &files[0], &files[1], &files[2], &database]);
        // MLflow has been in the folder; it is still ours.
        expect(&export(&folder), 0);
    }
}

#[test]
fn a_query_that_takes_too_long_is_the_askers_to_change() {
    let workspace = finished();
    let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n";
    let (out, err) = expect(&sweep(workspace.home(), &["query", endless, "--timeout", "0"]), 2);
    assert!(out.is_empty() && err.contains("the query was stopped after 0 s"), "{err}");
    assert!(err.contains("hint: ask for less, or allow more with --timeout SECONDS"), "{err}");
}
