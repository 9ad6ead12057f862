//! `sweep evaluate` as its users run it: real runs, real models, the real database.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use sweep_testkit::{Workspace, wait_until};

/// One small run of about a second. Its evaluation stops at the target, so that there are points to add.
const SMALL: &str = "
name: small
run:
  backbone: b
  dataset: few
  target_epsilon: 2/255
  epsilon_schedule: {kind: fixed}
  epochs: 2
  batch_size: 16
  micro_batch_size: 8
  optimizer: {kind: adamw, learning_rate: 3e-3}
  learning_rate_schedule: {kind: constant}
  attack: {kind: apgd, steps: 2}
  validation: {attack: {kind: apgd, steps: 2}}
  evaluation: {attack: {kind: apgd, steps: 3}, max_epsilon: 2/255}
backbones:
  b:
    architecture: {kind: vit, image_size: 16, patch_size: 4, embed_dim: 16, depth: 1, num_heads: 2}
    weights: {kind: random}
datasets:
  few: {source: {kind: procedural, family: shapes, train: 120, test: 60}}
  others: {source: {kind: procedural, family: shapes, seed: 1, train: 120, test: 40}}
";

fn sweep(home: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sweep"));
    command.args(arguments).env("SWEEP_HOME", home).env_remove("SWEEP_WORKER").env_remove("SWEEP_LOG");
    command.stdin(Stdio::null()).output().expect("the program starts")
}

#[track_caller]
fn expect(output: &Output, code: i32) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("the program prints UTF-8");
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "stdout:\n{out}\nstderr:\n{err}");
    (out, err)
}

#[track_caller]
fn json(output: &Output) -> Vec<Value> {
    serde_json::from_str(&expect(output, 0).0).unwrap()
}

fn query(home: &Path, sql: &str) -> Vec<Value> {
    json(&sweep(home, &["query", sql, "--format", "json"]))
}

/// A home with the run finished; the sweep file, the run's id and the folder of its model.
struct Trained {
    workspace: Workspace,
    file: String,
    run: String,
    model: PathBuf,
}

impl Trained {
    fn new() -> Self {
        let workspace = Workspace::new();
        let path = workspace.home().join("small.yaml");
        fs::write(&path, SMALL).unwrap();
        let file = path.to_str().unwrap().to_owned();
        expect(&sweep(workspace.home(), &["run", &file]), 0);
        let run = query(workspace.home(), "SELECT id FROM runs")[0]["id"].as_str().unwrap().to_owned();
        let model = workspace.layout().model(run.parse().unwrap());
        Self { workspace, file, run, model }
    }

    fn home(&self) -> &Path {
        self.workspace.home()
    }

    fn evaluate(&self, arguments: &[&str]) -> Output {
        sweep(self.home(), &[&["evaluate"], arguments].concat())
    }

    fn points(&self) -> Vec<Value> {
        let sql = "SELECT attack, norm, epsilon, correct, total, attempt, measurement, model_digest FROM evaluations
                   ORDER BY norm, attack, epsilon_value";
        query(self.home(), sql)
    }
}

fn column<'a>(rows: &'a [Value], name: &str) -> Vec<&'a Value> {
    rows.iter().map(|row| &row[name]).collect()
}

/// The radius is one that breaks every image at once: what withstood AutoAttack would be asked about 10,000 times.
#[test]
fn autoattack_joins_the_results_and_says_what_each_attack_leaves() {
    let trained = Trained::new();
    let run = &trained.run[..8];
    let output = trained.evaluate(&[run, "--attack", "autoattack", "--epsilon", "0,1/2", "--format", "json"]);
    let rows = json(&output);
    assert_eq!(column(&rows, "attack"), ["none", "autoattack"]);
    assert_eq!(column(&rows, "correct")[1], 0);
    let stderr = expect(&output, 0).1;
    let left = "0 after apgd-100-ce, 0 after apgd-100-t, 0 after fab-100, 0 after square-5000";
    assert!(stderr.contains(left), "{stderr}");
    assert_eq!(trained.points().iter().filter(|point| point["attack"] == "autoattack").count(), 1);

    // Its parts alone; random numbers of another seed are no result of the attack by that name.
    let seeded = [run, "--attack", "square-20", "--epsilon", "1/255", "--seed"];
    for (seed, joins) in [("1", false), ("0", true)] {
        let output = trained.evaluate(&[&seeded[..], &[seed]].concat());
        assert_eq!(expect(&output, 0).1.contains("join no results"), !joins, "seed {seed}");
        assert_eq!(trained.points().iter().any(|point| point["attack"] == "square-20"), joins, "seed {seed}");
    }
    let refused = expect(&trained.evaluate(&[run, "--attack", "autoattack", "--norm", "l2"]), 2).1;
    assert!(refused.contains("linf only") && refused.contains("hint:"), "{refused}");
}

#[test]
fn points_of_a_run_join_its_results_once() {
    let trained = Trained::new();
    let before = trained.points();
    assert_eq!(before.len(), 3);
    let arguments = [&trained.run[..8], "--attack", "apgd-3-ce", "--epsilon", "0..4/255", "--format", "json"];
    let output = trained.evaluate(&arguments);
    let rows = json(&output);
    assert_eq!(column(&rows, "epsilon"), ["0", "1/255", "2/255", "3/255", "4/255"]);
    assert_eq!(column(&rows, "from"), ["results", "results", "results", "measured", "measured"]);
    let stderr = expect(&output, 0).1;
    assert!(stderr.contains("apgd-3-ce at 3/255: ") && stderr.contains(" left"), "{stderr}");

    let after = trained.points();
    assert_eq!(after.len(), 5);
    let digest = &query(trained.home(), "SELECT digest FROM models")[0]["digest"];
    assert!(after.iter().all(|point| point["model_digest"] == *digest));
    assert_eq!(
        after.iter().filter(|point| point["measurement"] == 1 && point["attempt"].is_null()).count(),
        2
    );

    // Again: nothing to do, and the same numbers. Nothing was trained, no attempt was made.
    let again = json(&trained.evaluate(&arguments));
    assert_eq!(column(&again, "correct"), column(&rows, "correct"));
    assert_eq!(column(&again, "from"), ["results"; 5]);
    assert_eq!(query(trained.home(), "SELECT * FROM measurements").len(), 1);
    assert_eq!(query(trained.home(), "SELECT attempts, state FROM runs")[0]["attempts"], 1);

    // Another attack and another norm are points of their own; the run's own curve is not touched by them.
    let other = ["--attack", "fgsm-ce", "--norm", "l2", "--epsilon", "0,0.5"];
    expect(&trained.evaluate(&[&[&trained.run[..8]], &other[..]].concat()), 0);
    assert_eq!(trained.points().len(), 7);
    assert_eq!(query(trained.home(), "SELECT * FROM accuracy_over_epsilon").len(), 5);
    assert_eq!(query(trained.home(), "SELECT * FROM gates WHERE passed = 1").len(), 4);
    let shown = expect(&sweep(trained.home(), &["show", &trained.run]), 0).0;
    assert!(shown.contains("robust_at_most_clean  yes"), "{shown}");
}

#[test]
fn a_worker_and_evaluate_count_alike_and_every_image_is_told() {
    let trained = Trained::new();
    let outcomes = trained.home().join("outcomes.csv");
    let arguments = [
        "--attack",
        "apgd-3-ce",
        "--epsilon",
        "0,2/255",
        "--format",
        "json",
        "--output",
        outcomes.to_str().unwrap(),
    ];
    // A copy elsewhere: the model is known by its digest. Outcomes of images are kept nowhere, so all is measured.
    let copy = trained.home().join("copy");
    fs::create_dir(&copy).unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(trained.model.join(name), copy.join(name)).unwrap();
    }
    let dataset = ["--dataset", "few", "--sweep", &trained.file];
    let output = trained.evaluate(&[&[copy.to_str().unwrap()], &dataset[..], &arguments[..]].concat());
    let rows = json(&output);
    assert!(!expect(&output, 0).1.contains("warning"));
    assert_eq!(column(&rows, "from"), ["measured", "measured"]);
    let stored = trained.points();
    assert_eq!(stored.len(), 3, "points that are there already are not entered again");
    for row in &rows {
        let same = stored.iter().find(|point| point["epsilon"] == row["epsilon"]).unwrap();
        assert_eq!((&row["correct"], &row["total"]), (&same["correct"], &same["total"]));
    }

    let text = fs::read_to_string(&outcomes).unwrap();
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(lines[0], ["index", "label", "epsilon", "prediction", "correct"]);
    assert_eq!(lines.len(), 1 + 2 * 60);
    for (row, epsilon) in rows.iter().zip(["0", "2/255"]) {
        let correct = lines.iter().filter(|line| line[2] == epsilon && line[4] == "true").count();
        assert_eq!(row["correct"], correct);
    }
    for line in &lines[1..] {
        assert_eq!(line[1] == line[3], line[4] == "true", "{line:?}");
    }
    let jsonl = outcomes.with_extension("jsonl");
    let form = ["--epsilon", "0", "--output", jsonl.to_str().unwrap()];
    expect(&trained.evaluate(&[&[trained.run.as_str()], &form[..]].concat()), 0);
    let first: Value =
        serde_json::from_str(fs::read_to_string(&jsonl).unwrap().lines().next().unwrap()).unwrap();
    assert_eq!((&first["index"], &first["epsilon"]), (&Value::from(0), &Value::from("0")));
}

#[test]
fn what_is_no_runs_business_is_measured_and_not_kept() {
    let trained = Trained::new();
    let others = ["--dataset", "others", "--sweep", &trained.file, "--epsilon", "0", "--format", "json"];
    let output = trained.evaluate(&[&[trained.run.as_str()], &others[..]].concat());
    assert_eq!(column(&json(&output), "total"), [40]);
    assert!(expect(&output, 0).1.contains("the points join no results"));
    assert_eq!(trained.points().len(), 3);

    // A model without any home, on a built-in dataset.
    let empty = Workspace::new();
    let model = trained.model.to_str().unwrap();
    let arguments = ["evaluate", model, "--dataset", "shapes", "--epsilon", "0", "--format", "json"];
    assert_eq!(column(&json(&sweep(empty.home(), &arguments)), "total"), [400]);
    assert!(!empty.layout().database().exists());
}

#[test]
fn points_that_a_killed_session_left_are_entered_by_the_next() {
    let trained = Trained::new();
    let run = [trained.run.as_str(), "--attack", "apgd-3-ce"];
    expect(&trained.evaluate(&[&run[..], &["--epsilon", "3/255"]].concat()), 0);
    // As if the session had died between its event file and the database.
    let folder = trained.model.parent().unwrap();
    fs::rename(folder.join("measurement-1"), folder.join("measurement-5")).unwrap();
    let events = folder.join("measurement-5/events.jsonl");
    let text = fs::read_to_string(&events).unwrap().replace("\"3/255\"", "\"4/255\"");
    let (torn, _) = text.rsplit_once("{\"sequence\":3").unwrap();
    fs::write(&events, format!("{torn}{{\"sequ")).unwrap();
    let rows =
        json(&trained.evaluate(&[&run[..], &["--epsilon", "3/255,4/255", "--format", "json"]].concat()));
    assert_eq!(column(&rows, "from"), ["results", "results"]);
    assert_eq!(trained.points().len(), 5);
}

#[test]
fn ctrl_c_keeps_what_is_measured() {
    let trained = Trained::new();
    // The clean point takes no time, the attack an hour; between two images it can be stopped.
    let arguments =
        ["--attack", "apgd-5000-ce-x50", "--norm", "l2", "--epsilon", "0,0.02", "--batch-size", "1"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_sweep"));
    command.args(["evaluate", &trained.run]).args(arguments).env("SWEEP_HOME", trained.home());
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let events = trained.model.with_file_name("measurement-1").join("events.jsonl");
    let is_there = |text: String| text.contains("\"evaluated\"") && text.ends_with('\n');
    wait_until("the clean point", || fs::read_to_string(&events).is_ok_and(is_there).then_some(()));
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
    let (out, _) = expect(&child.wait_with_output().unwrap(), 130);
    assert!(out.contains("measured"), "{out}");
    assert_eq!(trained.points().iter().filter(|point| point["norm"] == "l2").count(), 1);
    let reported = &query(trained.home(), "SELECT reported FROM measurements")[0]["reported"];
    assert_eq!(reported, "interrupted");
}

#[test]
fn bad_input_is_refused_before_any_work() {
    let trained = Trained::new();
    let (run, file) = (trained.run.as_str(), trained.file.as_str());
    let model = trained.model.to_str().unwrap();
    let home = trained.home().to_str().unwrap();
    for (arguments, part) in [
        (vec![run, "--epsilon", "5"], "`5` lies outside [0, 1]"),
        (vec![run, "--epsilon", "4/255..1/255"], "is empty"),
        (vec![run, "--attack", "agpd-10-ce"], "is no attack, expected `autoattack`"),
        (vec![run, "--dataset", "shaped"], "did you mean `shapes`?"),
        (vec![run, "--dataset", "fews", "--sweep", file], "did you mean `few`?"),
        (vec![run, "--dataset", "upstream"], "classes, dataset `upstream` has"),
        (vec![run, "--input-size", "32"], "takes images of 16 × 16 pixels only"),
        (vec![run, "--precision", "f16"], "expected `f32`, `tf32` or `bf16`"),
        (vec![run, "--precision", "bf16"], "precision `bf16` is not available on `cpu`, expected `f32`"),
        (vec![run, "--output", "outcomes.txt"], "ends in .csv or .jsonl"),
        (vec![run, "--output", "nowhere/outcomes.csv"], "there is no folder"),
        (vec![run, "--attack", "apgd-2-t40"], "needs at least 41 classes"),
        (vec![model], "needs --dataset"),
        (vec![home, "--dataset", "shapes"], "has no config.json"),
        (vec!["no-such-thing"], "no folder and not the beginning of a run's id"),
        (vec!["ffffffffffffffffffff"], "no run begins with"),
    ] {
        let output = trained.evaluate(&arguments);
        let (out, err) = expect(&output, 2);
        assert!(err.contains(part), "{arguments:?}: {err}");
        assert!(out.is_empty());
    }
    assert!(query(trained.home(), "SELECT * FROM measurements").is_empty());
}
