//! The program as its users run it: real processes, real files, exit codes and what is printed where.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use sweep_core::event::FailureClass;
use sweep_testkit::{Action, Script, Workspace, fake_worker, wait_until};

/// Four runs whose only cost is the process: the fake worker obeys a script.
const FOUR: &str = "
name: four
run: {backbone: b, target_epsilon: 4/255, epochs: 3, learning_rate_schedule: {kind: constant}, evaluation: {attack: {kind: apgd, steps: 2}, max_epsilon: 4/255}}
backbones: {b: {architecture: {kind: vit, image_size: 16, patch_size: 8, embed_dim: 8, depth: 1, num_heads: 1}, weights: {kind: random}}}
matrix:
  dataset: [shapes, blobs]
  epsilon_schedule: [{kind: fixed}, {kind: ramp, start: 1, end: 2}]
";

/// Five real runs of about a second each: a pretraining and two that start from it, one with batch norm, and one with
/// stochastic depth.
const REAL: &str = "
name: real
run:
  dataset: small
  target_epsilon: 8/255
  epochs: 3
  batch_size: 16
  micro_batch_size: 8
  optimizer: {kind: adamw, learning_rate: 1e-3}
  learning_rate_schedule: {kind: cosine, warmup_epochs: 1}
  attack: {kind: apgd, steps: 2}
  validation: {attack: {kind: apgd, steps: 2}}
  evaluation: {attack: {kind: apgd, steps: 2}, max_epsilon: 8/255}
matrix:
  backbone: [b, residual, windows]
  epsilon_schedule: [{kind: fixed}, {kind: ramp, start: 1, end: 3}]
exclude:
  - {backbone: residual, epsilon_schedule: {kind: fixed}}
  - {backbone: windows, epsilon_schedule: {kind: fixed}}
backbones:
  b:
    architecture: {kind: vit, image_size: 16, patch_size: 4, embed_dim: 16, depth: 1, num_heads: 2}
    weights:
      kind: pretrain
      run: {dataset: before, epochs: 1, batch_size: 32, learning_rate_schedule: {kind: constant}}
  residual:
    architecture: {kind: resnet, image_size: 16, layers: [1, 1, 1, 1], channels: [4, 4, 8, 8]}
    weights: {kind: random}
  windows:
    architecture:
      {kind: swin, image_size: 16, patch_size: 2, window_size: 4, embed_dim: 8, depths: [2, 2], num_heads: [1, 2], drop_path: 0.5}
    weights: {kind: random}
datasets:
  small: {source: {kind: procedural, family: shapes, train: 120, test: 60}}
  before: {source: {kind: procedural, family: upstream, train: 200, test: 60}}
";

fn command(home: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sweep"));
    // No test here reaches for the Hub; an empty cache is the same on every machine.
    command.env("HF_HUB_OFFLINE", "1").env("HF_HOME", home.join("huggingface"));
    command.args(arguments).env("SWEEP_HOME", home).env_remove("SWEEP_WORKER").env_remove("SWEEP_LOG");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn sweep(home: &Path, arguments: &[&str]) -> Output {
    command(home, arguments).output().expect("the program starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("the program prints UTF-8")
}

#[track_caller]
fn expect(output: &Output, code: i32) -> String {
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "stdout:\n{out}\nstderr:\n{err}");
    out
}

/// A workspace with a sweep file in it; returns the file's path.
fn workspace(yaml: &str) -> (Workspace, String) {
    let workspace = Workspace::new();
    let file = workspace.home().join("sweep.yaml");
    fs::write(&file, yaml).unwrap();
    let file = file.to_str().unwrap().to_owned();
    (workspace, file)
}

/// The script of a run that trains, is measured and succeeds.
fn complete() -> Vec<Action> {
    vec![
        Action::Start,
        Action::Epoch { clean: 4, robust: 1 },
        Action::Epoch { clean: 40, robust: 20 },
        Action::Epoch { clean: 60, robust: 30 },
        Action::Evaluate { correct: vec![80, 70, 60, 50, 40] },
        Action::Succeed,
    ]
}

fn run_fake(home: &Path, file: &str, more: &[&str]) -> Output {
    let worker = fake_worker().to_str().unwrap();
    let arguments = [&["run", file, "--devices", "cpu:2", "--worker", worker], more].concat();
    sweep(home, &arguments)
}

fn query(home: &Path, sql: &str) -> Value {
    let out = expect(&sweep(home, &["query", sql, "--format", "json"]), 0);
    serde_json::from_str(&out).unwrap()
}

#[test]
fn bad_input_ends_with_2_and_touches_nothing() {
    let (workspace, _) = workspace("");
    let home = workspace.home().join("home");
    let wrong = workspace.home().join("wrong.yaml");
    fs::write(&wrong, FOUR.replace("epochs: 3", "epoch: 3").replace("4/255, epoch", "8, epoch")).unwrap();
    let wrong = wrong.to_str().unwrap();
    let mut cases = vec![
        (vec!["run", wrong], "did you mean `epochs`?"),
        (vec!["run", wrong], "run.target_epsilon: `8` lies outside [0, 1]"),
        (vec!["plan", wrong], "did you mean `epochs`?"),
        (vec!["run", "missing.yaml"], "quickstart, paper"),
        (vec!["run", "paper"], "offline, and the cache"),
        (vec!["run", "quickstart", "--devices", "gpu"], "expected `cpu`"),
        (
            vec!["run", "quickstart", "--set", "+run.precision=bf16", "--devices", "cpu"],
            "precision `bf16` is not available on the CPU, expected `f32`",
        ),
        (
            vec!["plan", "quickstart", "--set", "+run.precision=tf32", "--set", "execution.devices=cpu:2"],
            "hint: write precision: f32, or --devices with GPUs only",
        ),
        (vec!["plan", "quickstart", "--set", "run.micro_batch_size=auto"], "normalises over a micro batch"),
        (vec!["run", "quickstart", "--set", "run.epoch=1"], "did you mean `epochs`?"),
        (vec!["status"], "there are no results yet"),
        (vec!["frobnicate"], "unrecognized subcommand"),
    ];
    if !cfg!(feature = "cuda") {
        cases.push((vec!["run", "quickstart", "--devices", "cuda:0"], "this build computes on the CPU only"));
    }
    for (arguments, part) in cases {
        let output = sweep(&home, &arguments);
        expect(&output, 2);
        assert!(text(&output.stderr).contains(part), "{arguments:?}: {}", text(&output.stderr));
        assert!(output.stdout.is_empty());
        assert!(!home.exists(), "{arguments:?} made the home folder");
    }
}

#[test]
fn schema_completions_and_help() {
    let home = Path::new("unused");
    let schema: Value = serde_json::from_str(&expect(&sweep(home, &["schema"]), 0)).unwrap();
    assert!(schema["properties"]["matrix"].is_object());
    assert!(expect(&sweep(home, &["completions", "bash"]), 0).contains("_sweep"));
    let help = expect(&sweep(home, &["--help"]), 0);
    assert!(
        help.split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
            .contains("3 some runs failed or are cancelled; 130 interrupted"),
        "{help}"
    );
}

#[test]
fn the_papers_grid_is_planned_with_its_cost() {
    let workspace = Workspace::new();
    let output = sweep(workspace.home(), &["plan", "paper", "--format", "csv"]);
    let out = expect(&output, 0);
    assert_eq!(out.lines().count(), 361);
    assert!(text(&output.stderr).contains("360 runs: 360 new"), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("PFLOP of training"));
    assert_eq!(fs::read_dir(workspace.home()).unwrap().count(), 0, "plan wrote something");
}

#[test]
fn a_grid_runs_once_and_every_verb_sees_it() {
    let (workspace, file) = workspace(FOUR);
    let home = workspace.home();
    workspace.script(&Script::always(complete()));
    let out = expect(&run_fake(home, &file, &[]), 0);
    let table: Vec<Vec<&str>> = out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(table[1], ["shapes", "80.00*", "40.00*", "60.00*", "80.00*", "40.00*", "60.00*"], "{out}");

    let again = run_fake(home, &file, &[]);
    expect(&again, 0);
    assert!(text(&again.stderr).contains("4 finished before"), "{}", text(&again.stderr));
    let ids = query(home, "SELECT id, attempts, clean, expected_robustness, delay FROM results");
    assert_eq!(ids.as_array().unwrap().len(), 4);
    for row in ids.as_array().unwrap() {
        assert_eq!((&row["attempts"], &row["delay"]), (&Value::from(1), &Value::from(2)));
        let id = row["id"].as_str().unwrap().parse().unwrap();
        assert_eq!(workspace.starts(id), 1);
    }

    let prefix = &ids[0]["id"].as_str().unwrap()[..12];
    assert!(expect(&sweep(home, &["show", prefix]), 0).contains("evaluations"));
    let shown: Value =
        serde_json::from_str(&expect(&sweep(home, &["show", prefix, "--format", "json"]), 0)).unwrap();
    assert_eq!(shown["epochs"].as_array().unwrap().len(), 3);
    assert!(expect(&sweep(home, &["logs", prefix, "--events"]), 0).contains("\"succeeded\""));
    assert!(expect(&sweep(home, &["status"]), 0).contains("succeeded"));
    assert_eq!(expect(&sweep(home, &["export"]), 0).lines().count(), 5);
    let compared =
        expect(&sweep(home, &["compare", "--rows", "dataset", "--metric", "delay", "--format", "csv"]), 0);
    assert_eq!(
        compared,
        "dataset,fixed delay,fixed delay sd,fixed delay n,ramp 1-2 delay,ramp 1-2 delay sd,ramp 1-2 delay n\n\
         shapes,2.0,,1,2.0,,1\nblobs,2.0,,1,2.0,,1\n"
    );
    let markdown = expect(&sweep(home, &["compare", "--format", "markdown"]), 0);
    assert!(markdown.starts_with("| dataset | fixed clean |"), "{markdown}");

    for (arguments, part) in [
        (vec!["show", "zzz"], "no run begins with"),
        (vec!["show", ""], "fits 4 runs"),
        (vec!["query", "DELETE FROM runs"], "only one statement that reads"),
        (vec!["query", "SELECT nonsense"], "no such column"),
        (vec!["compare", "--sweep", "fore"], "there is no sweep `fore`"),
        (vec!["logs", prefix, "--attempt", "7"], "has 1 attempts"),
    ] {
        let output = sweep(home, &arguments);
        expect(&output, 2);
        assert!(text(&output.stderr).contains(part), "{arguments:?}: {}", text(&output.stderr));
    }
}

#[test]
fn a_failure_is_told_at_once_and_ends_with_3_and_can_be_retried() {
    let (workspace, file) = workspace(FOUR);
    let home = workspace.home();
    let failure = Action::Fail { class: FailureClass::Diverged, message: "the loss is NaN".to_owned() };
    workspace.script(&Script { first: vec![vec![Action::Start, failure]], then: complete() });
    let output = run_fake(home, &file, &["--no-early-stop"]);
    expect(&output, 3);
    let err = text(&output.stderr);
    assert!(err.contains("failed (diverged): the loss is NaN") && err.contains("4 runs: 4 failed"), "{err}");
    expect(&run_fake(home, &file, &[]), 3);
    expect(&run_fake(home, &file, &["--retry-failed"]), 0);
    let attempts = query(home, "SELECT state, count(*) AS n FROM attempts GROUP BY state ORDER BY state");
    assert_eq!(attempts, serde_json::json!([{"state": "failed", "n": 4}, {"state": "succeeded", "n": 4}]));
}

#[test]
fn cancelled_runs_stay_out_until_they_are_asked_for() {
    let (workspace, file) = workspace(FOUR);
    let home = workspace.home();
    workspace.script(&Script::always([Action::Start, Action::Interrupt]));
    expect(&run_fake(home, &file, &[]), 3);
    expect(&sweep(home, &["cancel", "--sweep", "four"]), 0);
    let output = run_fake(home, &file, &["--retry-failed"]);
    expect(&output, 3);
    let err = text(&output.stderr);
    assert!(err.contains("4 runs: 4 cancelled\n  hint: `sweep retry --sweep four`"), "{err}");
}

#[test]
fn a_run_that_has_not_started_has_no_log() {
    let (workspace, file) = workspace(FOUR);
    let home = workspace.home();
    let failure = Action::Fail { class: FailureClass::Diverged, message: "the loss is NaN".to_owned() };
    workspace.script(&Script::always([Action::Start, failure]));
    expect(&run_fake(home, &file, &["--max-fail", "1"]), 3);
    let waiting = query(home, "SELECT id FROM results WHERE attempts = 0 LIMIT 1");
    let run = &waiting[0]["id"].as_str().unwrap()[..10];
    let output = sweep(home, &["logs", run]);
    expect(&output, 2);
    let err = text(&output.stderr);
    assert!(err.contains(&format!("run {run} has not started")), "{err}");
    assert!(err.contains(&format!("hint: `sweep explain {run}`")), "{err}");
}

#[test]
fn what_a_sweep_lists_no_more_and_which_one_is_shown_is_told() {
    let (workspace, file) = workspace(FOUR);
    let home = workspace.home();
    workspace.script(&Script::always(complete()));
    let run = |sets: &[&str]| {
        let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
        let output = run_fake(home, &file, &sets);
        expect(&output, 0);
        text(&output.stderr)
    };
    assert!(!run(&[]).contains("other runs before"));
    assert!(!run(&["name=half", "matrix.dataset=[shapes]"]).contains("other runs before"));
    let shorter = run(&["matrix.dataset=[shapes]"]);
    assert!(
        shorter.contains("note: sweep four listed 2 other runs before; they stay in the results"),
        "{shorter}"
    );
    assert!(shorter.contains("hint: --set name=…"), "{shorter}");
    run(&["name=half", "matrix.dataset=[shapes]"]);
    let shown = sweep(home, &["compare"]);
    expect(&shown, 0);
    assert!(text(&shown.stderr).contains("note: sweep half, which ran last"), "{}", text(&shown.stderr));
}

#[test]
fn what_may_be_a_slip_in_a_sweep_file_is_told() {
    let (workspace, file) = workspace(FOUR);
    let home = workspace.home();
    for (set, part) in [
        ("+matrix.target_epsilon=[4/255, 8/510]", "note: 8 points are 4 runs: 4 say in other words"),
        (
            "+overrides=[{when: {dataset: glyphs}, set: {epochs: 2}}]",
            "note: overrides[0].when.dataset: `glyphs`",
        ),
    ] {
        let output = sweep(home, &["plan", &file, "--set", set]);
        expect(&output, 0);
        assert!(text(&output.stderr).contains(part), "{}", text(&output.stderr));
    }
}

/// Digests of the final models and all measured counts: what must not depend on interruptions.
fn outcome(home: &Path) -> Value {
    serde_json::json!({
        "models": query(home, "SELECT run, digest FROM models ORDER BY run"),
        "epochs": query(home, "SELECT run, epoch, train_loss, train_correct, clean_correct, robust_correct, clean_loss, robust_loss \
                               FROM epochs ORDER BY run, epoch"),
        "evaluations": query(home, "SELECT run, epsilon, correct, total FROM evaluations ORDER BY run, epsilon"),
    })
}

/// Starts a real run of the real sweep in the background.
fn start(home: &Path, file: &str) -> Child {
    let arguments = ["run", file, "--devices", "cpu:2", "--threads", "1"];
    command(home, &arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts")
}

/// Waits until the workers of the home folder have said something that contains `part` at least `count` times in all.
fn wait_for_events(home: &Path, part: &str, count: usize) {
    wait_until(part, || {
        let runs = fs::read_dir(home.join("runs")).ok()?;
        let files = runs.flat_map(|run| fs::read_dir(run.unwrap().path()).unwrap());
        let texts =
            files.filter_map(|entry| fs::read_to_string(entry.unwrap().path().join("events.jsonl")).ok());
        let found: usize = texts.map(|text| text.matches(part).count()).sum();
        (found >= count).then_some(())
    });
}

fn finish(home: &Path, file: &str) {
    expect(&sweep(home, &["run", file, "--devices", "cpu:2", "--threads", "1"]), 0);
    let left = query(home, "SELECT count(*) AS n FROM runs WHERE state <> 'succeeded'");
    assert_eq!(left[0]["n"], 0);
    let running = query(home, "SELECT count(*) AS n FROM attempts WHERE state = 'running'");
    assert_eq!(running[0]["n"], 0);
}

#[test]
fn killed_or_interrupted_anywhere_the_outcome_has_the_same_bits() {
    let (undisturbed, file) = workspace(REAL);
    finish(undisturbed.home(), &file);
    let expected = outcome(undisturbed.home());
    assert_eq!(expected["models"].as_array().unwrap().len(), 5);
    assert_eq!(expected["evaluations"].as_array().unwrap().len(), 1 + 4 * 9);

    for (signal, part, count) in [
        (Signal::SIGKILL, "\"started\"", 1),
        (Signal::SIGKILL, "\"checkpoint_saved\"", 3),
        (Signal::SIGINT, "\"epoch_finished\"", 3),
        (Signal::SIGTERM, "\"evaluated\"", 4),
    ] {
        let (disturbed, file) = workspace(REAL);
        let home = disturbed.home();
        let mut child = start(home, &file);
        wait_for_events(home, part, count);
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
        let status = child.wait().unwrap();
        if signal != Signal::SIGKILL {
            // Too late to interrupt anything is fine as well.
            assert!(matches!(status.code(), Some(130 | 0)), "{status}");
        }
        finish(home, &file);
        assert_eq!(outcome(home), expected, "{signal} after {count} {part}");
        let twice = query(home, "SELECT count(*) AS n FROM attempts WHERE state = 'succeeded'");
        assert_eq!(twice[0]["n"], 5, "a finished run ran again");
    }
}

#[test]
fn the_model_of_a_run_is_one_that_timm_describes() {
    let (workspace, file) = workspace(REAL);
    let home = workspace.home();
    expect(
        &sweep(
            home,
            &[
                "run",
                &file,
                "--set",
                "run.epochs=2",
                "--set",
                "matrix.epsilon_schedule=[{kind: none}]",
                "--set",
                "exclude=[]",
            ],
        ),
        0,
    );
    for row in query(home, "SELECT run, file FROM models").as_array().unwrap() {
        let folder = home.join("runs").join(row["run"].as_str().unwrap()).join("model");
        let config: Value =
            serde_json::from_str(&fs::read_to_string(folder.join("config.json")).unwrap()).unwrap();
        let architecture = config["architecture"].as_str().unwrap();
        assert!(["vit_", "resnet", "swin_"].iter().any(|family| architecture.starts_with(family)));
        assert!(folder.join("model.safetensors").exists());
    }
}
