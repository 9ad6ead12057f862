//! `sweep rebuild` as its users run it: the database is gone, and comes again from the files of real runs.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use sweep_core::event::FailureClass;
use sweep_testkit::{Action, Script, Workspace, fake_worker, wait_until};

/// Two real runs of about a second each.
const REAL: &str = "
name: real
run:
  backbone: b
  dataset: few
  target_epsilon: 2/255
  epochs: 3
  batch_size: 16
  micro_batch_size: 8
  optimizer: {kind: adamw, learning_rate: 3e-3}
  learning_rate_schedule: {kind: constant}
  attack: {kind: apgd, steps: 2}
  validation: {attack: {kind: apgd, steps: 2}}
  evaluation: {attack: {kind: apgd, steps: 3}, max_epsilon: 2/255}
matrix:
  epsilon_schedule: [{kind: fixed}, {kind: ramp, start: 1, end: 2}]
backbones:
  b:
    architecture: {kind: vit, image_size: 16, patch_size: 4, embed_dim: 16, depth: 1, num_heads: 2}
    weights: {kind: random}
datasets:
  few: {source: {kind: procedural, family: shapes, train: 120, test: 60}}
";

/// Four runs whose workers obey scripts.
const SCRIPTED: &str = "
name: scripted
run: {backbone: b, target_epsilon: 4/255, epochs: 3, batch_size: 8, learning_rate_schedule: {kind: constant}, evaluation: {attack: {kind: apgd, steps: 2}, max_epsilon: 4/255}}
backbones: {b: {architecture: {kind: vit, image_size: 16, patch_size: 8, embed_dim: 8, depth: 1, num_heads: 1}, weights: {kind: random}}}
matrix:
  dataset: [shapes, blobs]
  epsilon_schedule: [{kind: fixed}, {kind: ramp, start: 1, end: 2}]
";

/// What the database says, but for what only it could know:
///
/// * `created_ms` and `updated_ms` of runs and sweeps, `started_ms` and `ended_ms` of attempts: the scheduler's clock, which
///   is not written anywhere else to the millisecond;
/// * `attempts.scheduler`;
/// * `attempts.exit_code` where a scheduler died with its workers, so that nobody saw one;
/// * the micro batch in `specs.spec`: `spec.json` has the one that the last attempt computed with.
const TABLES: [&str; 9] = [
    "SELECT id, name, yaml, digest, listing_digest FROM sweeps ORDER BY id",
    "SELECT * FROM sweep_runs ORDER BY sweep, position",
    "SELECT id, training_id, backbone, dataset, input_size, target_epsilon, epsilon_schedule, seed, epochs, batch_size,
        optimizer, learning_rate, evaluation_attack, evaluation_norm, depends_on, state, failure_class, failure_message,
        attempts, transient_failures, micro_batch_limit, cancel_requested_ms FROM runs ORDER BY id",
    "SELECT run, json_remove(spec, '$.micro_batch_size'), recipe, is_standard FROM specs ORDER BY run",
    "SELECT run, number, state, host, pid, device, threads, version, resumed_from, resumed_run, micro_batch_size,
        process_start, reported, signal, failure_class, failure_message, log_tail, byte_offset, last_sequence,
        progress_phase, progress_epoch, progress_step, progress_steps, progress_ms, heard_ms, refused,
        coalesce(exit_code, CASE reported WHEN 'succeeded' THEN 0 WHEN 'interrupted' THEN 76 END) AS exit_code
        FROM attempts ORDER BY run, number",
    "SELECT * FROM epochs ORDER BY run, epoch",
    "SELECT * FROM evaluations ORDER BY run, epochs, split, attack, norm, epsilon",
    "SELECT 'checkpoint', run, epochs, step, file, digest, bytes, attempt, saved_ms FROM checkpoints UNION ALL
        SELECT 'model', run, 0, 0, file, digest, bytes, attempt, saved_ms FROM models ORDER BY 1, 2, 3, 4",
    "SELECT 'provenance', run, attempt, dataset_digest, weights_digest, classes, parameters FROM provenance UNION ALL
        SELECT 'measurement', run, number, dataset_digest, model_digest, started_ms, last_sequence FROM measurements
        ORDER BY 1, 2, 3",
];

fn command(home: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sweep"));
    command.env("HF_HUB_OFFLINE", "1").env("HF_HOME", home.join("huggingface"));
    command.env("SWEEP_HOME", home).env("SWEEP_RETRY_DELAY", "0");
    command.env_remove("SWEEP_WORKER").env_remove("SWEEP_LOG").env_remove("SWEEP_DATABASE");
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn sweep(home: &Path, arguments: &[&str]) -> Output {
    command(home, arguments).output().expect("the program starts")
}

/// Returns what was printed, on standard output and on standard error.
#[track_caller]
fn expect(output: &Output, code: i32) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("the program prints UTF-8");
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "stdout:\n{out}\nstderr:\n{err}");
    (out, err)
}

fn query(home: &Path, sql: &str) -> Vec<Value> {
    let (out, _) = expect(&sweep(home, &["query", sql, "--format", "json", "--limit", "100000"]), 0);
    serde_json::from_str(&out).unwrap()
}

fn tables(home: &Path) -> Vec<Vec<Value>> {
    TABLES.iter().map(|sql| query(home, sql)).collect()
}

#[track_caller]
fn assert_same(found: &[Vec<Value>], expected: &[Vec<Value>]) {
    for (table, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert_eq!(found.len(), expected.len(), "{}", TABLES[table]);
        for (found, expected) in found.iter().zip(expected) {
            assert_eq!(found, expected, "{}", TABLES[table]);
        }
    }
}

fn file(workspace: &Workspace, name: &str, yaml: &str) -> String {
    let file = workspace.home().join(name);
    fs::write(&file, yaml).unwrap();
    file.to_str().unwrap().to_owned()
}

fn ids(home: &Path, sweep: &str) -> Vec<String> {
    let sql = format!(
        "SELECT r.run FROM sweep_runs r JOIN sweeps s ON s.id = r.sweep WHERE s.name = '{sweep}' ORDER BY r.position"
    );
    query(home, &sql).iter().map(|row| row["run"].as_str().unwrap().to_owned()).collect()
}

/// Runs `REAL`, killed once in the middle of it, and measures a point more.
fn run_real(workspace: &Workspace) -> String {
    let home = workspace.home();
    let file = file(workspace, "real.yaml", REAL);
    let arguments = ["run", &file, "--devices", "cpu:2", "--threads", "1"];
    let mut first: Child = command(home, &arguments).spawn().unwrap();
    wait_until("an epoch", || (epochs_seen(home) > 0).then_some(()));
    kill(Pid::from_raw(first.id() as i32), Signal::SIGKILL).unwrap();
    first.wait().unwrap();
    expect(&sweep(home, &arguments), 0);
    let run = ids(home, "real").remove(0);
    expect(&sweep(home, &["evaluate", &run, "--attack", "apgd-3-ce", "--epsilon", "2/255,5/255"]), 0);
    file
}

fn epochs_seen(home: &Path) -> usize {
    event_files(home)
        .iter()
        .filter(|path| fs::read_to_string(path).unwrap().contains("epoch_finished"))
        .count()
}

fn event_files(home: &Path) -> Vec<PathBuf> {
    let folders = |path: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(path).into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).collect()
    };
    let attempts = folders(&home.join("runs")).into_iter().flat_map(|run| folders(&run));
    attempts.map(|attempt| attempt.join("events.jsonl")).filter(|path| path.exists()).collect()
}

/// Runs `SCRIPTED`: a run that fails, one that is out of memory first, one whose worker is killed first, and one that
/// succeeds at once.
fn run_scripted(workspace: &Workspace) -> String {
    let home = workspace.home();
    let file = file(workspace, "scripted.yaml", SCRIPTED);
    let worker = fake_worker().to_str().unwrap();
    let complete = vec![
        Action::Start,
        Action::Epoch { clean: 4, robust: 1 },
        Action::Epoch { clean: 40, robust: 20 },
        Action::Epoch { clean: 60, robust: 30 },
        Action::Evaluate { correct: vec![80, 70, 60, 50, 40] },
        Action::Succeed,
    ];
    let fails = |class| vec![Action::Start, Action::Fail { class, message: "for the test".to_owned() }];
    let dies = vec![Action::Start, Action::Epoch { clean: 4, robust: 1 }, Action::Die { signal: 9 }];
    let arguments = ["run", &file, "--devices", "cpu:2", "--worker", worker];
    // The first attempt of each is stopped: from then on the runs are known by their ids.
    workspace.script(&Script::always(vec![Action::Start, Action::Interrupt]));
    expect(&sweep(home, &arguments), 3);
    let stopped = || vec![Action::Start, Action::Interrupt];
    let then_complete =
        |second: Vec<Action>| Script { first: vec![stopped(), second], then: complete.clone() };
    let scripts = [
        Script { first: vec![stopped()], then: fails(FailureClass::Data) },
        then_complete(fails(FailureClass::OutOfMemory)),
        then_complete(dies),
        then_complete(complete.clone()),
    ];
    for (run, script) in ids(home, "scripted").iter().zip(scripts) {
        workspace.script_of(run.parse().unwrap(), &script);
    }
    expect(&sweep(home, &arguments), 3);
    file
}

#[test]
fn the_database_comes_again_from_the_files() {
    let workspace = Workspace::new();
    let home = workspace.home();
    let real = run_real(&workspace);
    let scripted = run_scripted(&workspace);
    let before = tables(home);
    let states: Vec<_> =
        query(home, "SELECT state, count(*) AS runs FROM runs GROUP BY state ORDER BY state");
    assert_eq!(states.len(), 2, "{states:?}");

    let database = home.join("results.db");
    for damage in 0..3 {
        match damage {
            0 => {}
            1 => fs::write(&database, "this is no database").unwrap(),
            _ => fs::remove_file(&database).unwrap(),
        }
        let (_, err) = expect(&sweep(home, &["rebuild"]), 0);
        assert!(!err.contains("warning"), "{err}");
        assert_eq!(err.contains("before-rebuild"), damage < 2, "{err}");
        assert_same(&tables(home), &before);
    }
    assert!(home.join("results.db.before-rebuild-1").exists());
    assert_eq!(fs::read(home.join("results.db.before-rebuild-2")).unwrap(), b"this is no database");

    // Nothing is left to do, and nothing is done.
    let worker = fake_worker().to_str().unwrap();
    expect(&sweep(home, &["run", &real, "--threads", "1"]), 0);
    expect(&sweep(home, &["run", &scripted, "--worker", worker]), 3);
    assert_same(&tables(home), &before);
    // The kept file is a database still.
    fs::rename(home.join("results.db.before-rebuild-1"), &database).unwrap();
    assert_same(&tables(home), &before);
}

#[test]
fn nothing_is_made_again_while_somebody_works() {
    let workspace = Workspace::new();
    let home = workspace.home();
    expect(&sweep(home, &["rebuild"]), 1);
    let file = file(&workspace, "scripted.yaml", SCRIPTED);
    workspace.script(&Script::always(vec![Action::Start, Action::Hang]));
    let worker = fake_worker().to_str().unwrap();
    let mut running =
        command(home, &["run", &file, "--devices", "cpu:2", "--worker", worker]).spawn().unwrap();
    wait_until("both workers", || (event_files(home).len() == 2).then_some(()));
    let (_, err) = expect(&sweep(home, &["rebuild"]), 1);
    assert!(err.contains("somebody is alive in attempt 1 of run"), "{err}");
    assert!(!home.join("results.db.before-rebuild-1").exists());
    kill(Pid::from_raw(running.id() as i32), Signal::SIGTERM).unwrap();
    running.wait().unwrap();
    expect(&sweep(home, &["rebuild"]), 0);
    let states = query(home, "SELECT state, count(*) AS runs FROM runs GROUP BY state");
    assert_eq!(states.len(), 1, "{states:?}");
    assert_eq!((states[0]["state"].as_str(), states[0]["runs"].as_u64()), (Some("interrupted"), Some(2)));
}

#[test]
fn what_is_damaged_or_foreign_is_reported_and_passed_over() {
    let workspace = Workspace::new();
    let home = workspace.home();
    run_scripted(&workspace);
    let runs = ids(home, "scripted");
    let folder = |run: usize| home.join("runs").join(&runs[run]);
    let events = folder(3).join("attempt-2/events.jsonl");
    let text = fs::read_to_string(&events).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    fs::write(&events, format!("{}\n{}\nno event\n{}\n", lines[0], lines[1], lines[2])).unwrap();
    fs::remove_file(folder(0).join("spec.json")).unwrap();
    for foreign in [
        "runs/hello",
        "runs/0123",
        &format!("runs/{}/attempt-x", runs[1]),
        &format!("runs/{}/attempt-0", runs[1]),
    ] {
        fs::create_dir_all(home.join(foreign)).unwrap();
    }
    fs::write(home.join("sweeps/other.json"), "{").unwrap();
    let (_, err) = expect(&sweep(home, &["rebuild"]), 0);
    for part in [
        "line 3 of",
        &format!("run {} is left out", runs[0]),
        "hello",
        "0123",
        "attempt-x",
        "attempt-0",
        "other.json",
        "1 runs of the sweep `scripted`",
    ] {
        assert!(err.contains(part), "`{part}` is missing in:\n{err}");
    }
    let states =
        query(home, "SELECT r.id, r.state FROM runs r JOIN sweep_runs s ON s.run = r.id ORDER BY s.position");
    let states: Vec<_> = states.iter().map(|row| row["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["succeeded", "succeeded", "interrupted"]);
}
