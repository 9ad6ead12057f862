//! The grid on a real Slurm: real daemons on this machine, real jobs, and either a worker that obeys a script or the real one.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use sweep_core::event::FailureClass;
use sweep_core::spec::RunId;
use sweep_testkit::slurm::{Cluster, ClusterSize};
use sweep_testkit::{Action, Script, Workspace, fake_worker, wait_until};

/// Runs whose only cost is the process.
fn fake_sweep(seeds: u32) -> String {
    let seeds: Vec<String> = (0..seeds).map(|seed| seed.to_string()).collect();
    format!(
        "
name: many
run: {{backbone: b, dataset: shapes, target_epsilon: 4/255, epochs: 3, epsilon_schedule: {{kind: fixed}}, learning_rate_schedule: {{kind: constant}}, evaluation: {{attack: {{kind: apgd, steps: 2}}, max_epsilon: 4/255}}}}
backbones: {{b: {{architecture: {{kind: vit, image_size: 16, patch_size: 8, embed_dim: 8, depth: 1, num_heads: 1}}, weights: {{kind: random}}}}}}
matrix: {{seed: [{}]}}
",
        seeds.join(", ")
    )
}

/// Five real runs of about a second each, one of which two others start from.
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
  backbone: [b, residual]
  epsilon_schedule: [{kind: fixed}, {kind: ramp, start: 1, end: 3}]
backbones:
  b:
    architecture: {kind: vit, image_size: 16, patch_size: 4, embed_dim: 16, depth: 1, num_heads: 2}
    weights:
      kind: pretrain
      run: {dataset: before, epochs: 1, batch_size: 32, learning_rate_schedule: {kind: constant}}
  residual:
    architecture: {kind: resnet, image_size: 16, layers: [1, 1, 1, 1], channels: [4, 4, 8, 8]}
    weights: {kind: random}
datasets:
  small: {source: {kind: procedural, family: shapes, train: 120, test: 60}}
  before: {source: {kind: procedural, family: upstream, train: 200, test: 60}}
";

/// A sweep, its home and a cluster for it.
struct Site {
    workspace: Workspace,
    cluster: Cluster,
    file: PathBuf,
    /// A folder in front of the `PATH`, for programs that stand in for Slurm's.
    stand_ins: PathBuf,
}

impl Site {
    /// `None` where there is no Slurm, as the cluster says itself.
    fn new(yaml: &str) -> Option<Self> {
        let cluster = Cluster::start(&ClusterSize { nodes: 3, cpus: 4, gpus: 4 })?;
        let workspace = Workspace::new();
        let file = workspace.home().join("sweep.yaml");
        fs::write(&file, yaml).unwrap();
        let stand_ins = workspace.home().join("stand-ins");
        fs::create_dir(&stand_ins).unwrap();
        Some(Self { workspace, cluster, file, stand_ins })
    }

    fn home(&self) -> &Path {
        self.workspace.home()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sweep"));
        command.env("HF_HUB_OFFLINE", "1").env("HF_HOME", self.home().join("huggingface"));
        command.env_remove("SWEEP_WORKER").env_remove("SWEEP_LOG").env("SWEEP_HOME", self.home());
        command.envs(self.cluster.environment());
        let path = self.cluster.environment().into_iter().find(|(name, _)| name == "PATH").unwrap().1;
        let stand_ins = format!("{}:{}", self.stand_ins.display(), path.to_str().unwrap());
        command.env("PATH", stand_ins).env("SWEEP_SLURM_HURRY", "20").env("SWEEP_RETRY_DELAY", "0");
        // Jobs begin as login shells of their user: here one without a profile.
        command.env("HOME", self.home()).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn sweep(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the program starts")
    }

    fn run_arguments<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        let file = self.file.to_str().unwrap();
        [&["run", file, "--executor", "slurm"], more].concat()
    }

    /// Runs the sweep with workers that obey their scripts.
    fn run_fake(&self, more: &[&str]) -> Output {
        let arguments = [&self.run_arguments(&[])[..], &["--worker", worker()], more].concat();
        self.sweep(&arguments)
    }

    /// The same in the background. What it prints is kept in a file.
    fn start_fake(&self, more: &[&str]) -> Session {
        let arguments = [&self.run_arguments(&[])[..], &["--worker", worker()], more].concat();
        let output = self.home().join("session.txt");
        let said = fs::File::create(&output).unwrap();
        let child = self.command(&arguments).stdout(Stdio::null()).stderr(said).spawn().unwrap();
        Session { child, output }
    }

    fn query(&self, sql: &str) -> Value {
        let out = expect(&self.sweep(&["query", sql, "--format", "json"]), 0);
        serde_json::from_str(&out).unwrap()
    }

    /// Registers the runs without starting any, and returns them.
    fn query_ids(&self) -> Vec<RunId> {
        let output = self.run_fake(&["--sbatch=--begin=now+1hour", "--detach"]);
        expect(&output, 0);
        expect(&self.sweep(&["cancel", "--sweep", "many"]), 0);
        expect(&self.sweep(&["retry", "--sweep", "many"]), 0);
        let rows = self.query("SELECT id FROM runs ORDER BY id");
        rows.as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap().parse().unwrap()).collect()
    }

    fn count(&self, sql: &str) -> u64 {
        self.query(&format!("SELECT count(*) AS n FROM {sql}"))[0]["n"].as_u64().unwrap()
    }

    /// Waits until so many rows are there.
    fn wait_for(&self, sql: &str, count: u64) {
        wait_until(sql, || {
            // At first the database is being made.
            let output =
                self.sweep(&["query", &format!("SELECT count(*) AS n FROM {sql}"), "--format", "json"]);
            let rows: Value = serde_json::from_slice(&output.stdout).ok()?;
            (rows[0]["n"].as_u64()? >= count).then_some(())
        });
    }

    /// Every run has succeeded, exactly once, and nothing is left with Slurm.
    #[track_caller]
    fn assert_complete(&self, runs: u64) {
        assert_eq!(self.count("runs WHERE state = 'succeeded'"), runs);
        assert_eq!(self.count("attempts WHERE state = 'succeeded'"), runs);
        assert_eq!(self.count("attempts WHERE state = 'running'"), 0);
        assert_eq!(self.count("submissions WHERE is_open = 1"), 0);
        assert_eq!(self.count("generations WHERE ended_ms IS NULL"), 0);
    }

    /// Returns the job that runs or waits, and its tasks in those states.
    fn tasks(&self, state: &str) -> Vec<(String, String)> {
        let lines = self.cluster.command("squeue", ["-h", "-r", "-t", state, "-o", "%F|%K"]);
        let pair =
            |line: &str| line.trim().split_once('|').map(|(job, task)| (job.to_owned(), task.to_owned()));
        lines.lines().filter_map(pair).collect()
    }

    /// Puts a program in front of one of Slurm's. `$REAL` in its text is the real one.
    fn stand_in(&self, program: &str, text: &str) {
        let path = self.stand_ins.join(program);
        let search = format!("PATH=\"${{PATH#{}:}}\"", self.stand_ins.display());
        let text = format!("#!/bin/bash\n{search}\nREAL=$(command -v {program})\n{text}\n");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn no_stand_in(&self, program: &str) {
        fs::remove_file(self.stand_ins.join(program)).unwrap();
    }
}

/// A `sweep run` in the background.
struct Session {
    child: Child,
    output: PathBuf,
}

impl Session {
    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    /// Waits for its end.
    #[track_caller]
    fn end(mut self, code: i32) -> String {
        let status = self.child.wait().unwrap();
        let said = self.said();
        assert_eq!(status.code(), Some(code), "{said}");
        said
    }

    fn kill(mut self) {
        self.signal(Signal::SIGKILL);
        self.child.wait().unwrap();
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.output).unwrap()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // One that was waited for is not touched by this.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn worker() -> &'static str {
    fake_worker().to_str().unwrap()
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

/// The same, which waits in its middle until a flag is raised.
fn complete_when(flag: &str) -> Vec<Action> {
    let mut actions = complete();
    actions.insert(2, Action::WaitFor { file: flag.to_owned() });
    actions
}

#[test]
fn a_grid_runs_once_on_three_nodes_and_every_verb_sees_it() {
    let Some(site) = Site::new(&fake_sweep(12)) else { return };
    site.workspace.script(&Script::always(complete()));
    let output = site.run_fake(&["--gpus", "1"]);
    expect(&output, 0);
    assert!(text(&output.stderr).contains("submitted with 12 runs"), "{}", text(&output.stderr));
    site.assert_complete(12);
    let runs = site.query("SELECT id FROM runs");
    let mut places: BTreeMap<String, u32> = BTreeMap::new();
    for row in runs.as_array().unwrap() {
        let run = row["id"].as_str().unwrap().parse().unwrap();
        assert_eq!(site.workspace.starts(run), 1);
        let claim = site.workspace.layout().claim(run, 1);
        let claim: Value = serde_json::from_slice(&fs::read(claim).unwrap()).unwrap();
        assert!(["0", "1", "2", "3"].contains(&claim["devices"].as_str().unwrap()), "{claim}");
        *places.entry(claim["node"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    assert_eq!(places.len(), 3, "{places:?}");
    let again = site.run_fake(&[]);
    expect(&again, 0);
    assert_eq!(site.count("generations"), 1, "a finished sweep was submitted again");
    let run = &runs[0]["id"].as_str().unwrap()[..12];
    assert!(expect(&site.sweep(&["logs", run, "--events"]), 0).contains("succeeded"));
    assert!(expect(&site.sweep(&["explain", run]), 0).contains("complete after 1 attempt"));
}

#[test]
fn what_slurm_refuses_is_bad_input_and_print_submits_nothing() {
    let Some(site) = Site::new(&fake_sweep(3)) else { return };
    let refused = site.run_fake(&["--partition", "nowhere"]);
    expect(&refused, 2);
    assert!(text(&refused.stderr).contains("nowhere"), "{}", text(&refused.stderr));
    let printed = site.run_fake(&["--print", "--setup", "module load cuda", "--time", "12h"]);
    let out = expect(&printed, 0);
    assert!(out.starts_with("#!/bin/bash") && out.contains("module load cuda\nexec "), "{out}");
    assert!(
        out.contains("# sbatch") && out.contains("--array=0-2") && out.contains("--time=0-12:00:00"),
        "{out}"
    );
    assert!(!site.home().join("results.db").exists());
    assert_eq!(site.tasks("all"), []);
}

#[test]
fn real_runs_have_the_bits_of_a_local_grid() {
    let Some(site) = Site::new(REAL) else { return };
    let output = site.sweep(&site.run_arguments(&["--gpus", "1", "--devices", "cpu", "--threads", "1"]));
    expect(&output, 0);
    site.assert_complete(5);
    let local = Workspace::new();
    let file = site.file.to_str().unwrap();
    let mut command = site.command(&["run", file, "--devices", "cpu:2", "--threads", "1"]);
    expect(&command.env("SWEEP_HOME", local.home()).output().unwrap(), 0);
    let outcome = |home: &Path| -> Vec<Value> {
        let queries = [
            "SELECT run, digest FROM models ORDER BY run",
            "SELECT run, epoch, train_loss, train_correct, clean_correct, robust_correct, clean_loss, robust_loss \
             FROM epochs ORDER BY run, epoch",
            "SELECT run, epsilon, correct, total FROM evaluations ORDER BY run, epsilon",
        ];
        let ask = |sql: &&str| {
            let output = site.command(&["query", sql, "--format", "json"]).env("SWEEP_HOME", home).output();
            serde_json::from_str(&expect(&output.unwrap(), 0)).unwrap()
        };
        queries.iter().map(ask).collect()
    };
    assert_eq!(outcome(site.home()), outcome(local.home()));
}

/// As with a container: jobs call the program in the site's words, it lies elsewhere for them, and it is their workers' too.
#[test]
fn jobs_call_the_program_in_the_words_of_the_site() {
    let Some(site) = Site::new(REAL) else { return };
    let (container, inside) = (site.home().join("container"), site.home().join("inside"));
    fs::copy(env!("CARGO_BIN_EXE_sweep"), &inside).unwrap();
    let called = site.home().join("called");
    let text = format!(
        "#!/bin/bash\n[ \"$1 $2\" = 'exec sweep' ] || exit 3\necho \"$3\" >>'{}'\nexec '{}' \"${{@:3}}\"\n",
        called.display(),
        inside.display()
    );
    fs::write(&container, text).unwrap();
    fs::set_permissions(&container, fs::Permissions::from_mode(0o755)).unwrap();
    let program = format!("{} exec sweep", container.display());
    let arguments = ["--program", &program, "--threads", "1", "--set", "matrix.backbone=[residual]"];
    expect(&site.sweep(&site.run_arguments(&arguments)), 0);
    site.assert_complete(2);
    assert_eq!(fs::read_to_string(called).unwrap(), "task\ntask\n");
    let arrays = fs::read_dir(site.home().join("slurm")).unwrap().map(|entry| entry.unwrap().path());
    let manifest = arrays.map(|array| array.join("manifest.jsonl")).find(|path| path.exists()).unwrap();
    let manifest = fs::read_to_string(manifest).unwrap();
    assert!(manifest.lines().all(|line| line.contains("\"worker\":null")), "{manifest}");
}

/// `kill -9` of the controller at both sides of the call that submits: nothing is lost, and nothing is submitted twice.
#[test]
fn a_controller_killed_around_a_submission_neither_loses_nor_doubles() {
    for (moment, arrays) in [("kill -9 $PPID; exit 1", 2), ("\"$REAL\" \"$@\"; kill -9 $PPID", 1)] {
        let Some(site) = Site::new(&fake_sweep(4)) else { return };
        site.workspace.script(&Script::always(complete()));
        // The question whether Slurm would take it is let through.
        site.stand_in(
            "sbatch",
            &format!("case \"$*\" in *--test-only*) exec \"$REAL\" \"$@\";; esac\n{moment}"),
        );
        let mut session = site.start_fake(&[]);
        assert_eq!(session.child.wait().unwrap().code(), None, "{}", session.said());
        assert_eq!(site.count("submissions WHERE is_open = 1"), 4, "the row is written first");
        site.no_stand_in("sbatch");
        expect(&site.run_fake(&[]), 0);
        site.assert_complete(4);
        assert_eq!(site.count("generations"), arrays, "{moment}");
        assert_eq!(site.count("attempts"), 4, "a run was done twice");
    }
}

#[test]
fn the_controller_may_leave_and_come_back() {
    let Some(site) = Site::new(&fake_sweep(3)) else { return };
    site.workspace.script(&Script::always(complete_when("go")));
    let output = site.run_fake(&["--detach"]);
    expect(&output, 0);
    assert!(text(&output.stderr).contains("3 with Slurm"), "{}", text(&output.stderr));
    let session = site.start_fake(&[]);
    site.wait_for("attempts WHERE state = 'running'", 3);
    let second = site.run_fake(&[]);
    expect(&second, 2);
    assert!(text(&second.stderr).contains("another `sweep run` follows Slurm"), "{}", text(&second.stderr));
    // A local session leaves the runs alone.
    let file = site.file.to_str().unwrap();
    let local = site.sweep(&["run", file, "--devices", "cpu:2", "--worker", worker()]);
    expect(&local, 3);
    assert!(text(&local.stderr).contains("3 with Slurm"), "{}", text(&local.stderr));
    session.kill();
    let session = site.start_fake(&[]);
    wait_until("the third session", || session.said().contains("since earlier").then_some(()));
    // Not SIGINT, which whoever started the tests in the background had them ignore.
    session.signal(Signal::SIGTERM);
    let said = session.end(130);
    assert!(said.contains("jobs go on"), "{said}");
    site.workspace.raise("go");
    expect(&site.run_fake(&[]), 0);
    site.assert_complete(3);
    assert_eq!((site.count("generations"), site.count("attempts")), (1, 3));
}

#[test]
fn requeued_preempted_and_lost_tasks_go_on_and_none_of_that_is_a_failure() {
    let Some(site) = Site::new(&fake_sweep(3)) else { return };
    site.workspace.script(&Script { first: vec![complete_when("never")], then: complete_when("go") });
    let session = site.start_fake(&["--partition", "low", "--cpus", "4"]);
    site.wait_for("attempts WHERE state = 'running'", 3);
    let (job, _) = site.tasks("R")[0].clone();
    let requeued = site.cluster.command("squeue", ["-h", "-r", "-w", "n1", "-o", "%i"]);
    site.cluster.command("scontrol", ["requeue", requeued.trim()]);
    site.wait_for("attempts WHERE number = 2", 1);
    site.cluster.down_node(2);
    site.wait_for("attempts WHERE state = 'interrupted'", 2);
    site.cluster.resume_node(2);
    site.wait_for("attempts WHERE number = 2 AND state = 'running'", 2);
    let preemptor = ["--wrap", "sleep 1", "-p", "high", "-w", "n3", "-c", "4", "-o", "/dev/null"];
    site.cluster.command("sbatch", preemptor);
    site.wait_for("attempts WHERE number = 2 AND state = 'running'", 3);
    site.workspace.raise("go");
    let said = session.end(0);
    site.assert_complete(3);
    assert_eq!(site.count("attempts WHERE state = 'interrupted'"), 3, "{said}");
    assert_eq!(site.count("runs WHERE transient_failures > 0"), 0);
    assert_eq!(site.count("generations"), 1, "Slurm itself brings tasks of job {job} back");
}

#[test]
fn arrays_are_known_again_after_the_database_was_made_again() {
    let Some(site) = Site::new(&fake_sweep(3)) else { return };
    site.workspace.script(&Script::always(complete()));
    expect(&site.run_fake(&["--sbatch=--hold", "--detach"]), 0);
    expect(&site.sweep(&["rebuild"]), 0);
    let again = site.run_fake(&["--detach"]);
    expect(&again, 0);
    assert!(text(&again.stderr).contains("3 runs: 3 with Slurm"), "{}", text(&again.stderr));
    let (job, _) = site.tasks("PD")[0].clone();
    site.cluster.command("scontrol", ["release", &job]);
    expect(&site.run_fake(&[]), 0);
    site.assert_complete(3);
    assert_eq!(site.count("attempts"), 3);
}

/// What Slurm sends before the time of a job is up: the worker saves and leaves, and the run goes on in the next array. Twice
/// in a row without anything saved, that is a failure.
#[test]
fn a_job_whose_time_is_up_is_followed_by_another() {
    let Some(site) = Site::new(&fake_sweep(2)) else { return };
    let runs = site.query_ids();
    let idle = vec![Action::Start, Action::WaitFor { file: "never".to_owned() }];
    site.workspace.script_of(runs[0], &Script { first: vec![complete_when("never")], then: complete() });
    site.workspace.script_of(runs[1], &Script { first: vec![idle.clone(), idle], then: complete() });
    let session = site.start_fake(&[]);
    for (attempt, running) in [(1, 2), (2, 1)] {
        let at_work = format!("attempts WHERE number = {attempt} AND state = 'running'");
        site.wait_for(&format!("{at_work} AND host IS NOT NULL"), running);
        for (job, task) in site.tasks("R") {
            site.cluster.command("scancel", ["-b", "-s", "USR1", &format!("{job}_{task}")]);
        }
        site.wait_for(&format!("attempts WHERE number = {attempt} AND state <> 'running'"), 2);
    }
    session.end(0);
    site.assert_complete(2);
    let sql =
        "SELECT number, state, failure_class FROM attempts WHERE state <> 'succeeded' ORDER BY run, number";
    let mut rows = site.query(sql);
    let rows = rows.as_array_mut().unwrap();
    rows.sort_by_key(|row| row["number"].as_i64());
    assert_eq!(
        serde_json::json!(rows),
        serde_json::json!([
            {"number": 1, "state": "interrupted", "failure_class": null},
            {"number": 1, "state": "interrupted", "failure_class": null},
            {"number": 2, "state": "failed", "failure_class": "timeout"},
        ])
    );
}

#[test]
fn a_dead_slurm_is_waited_for() {
    let Some(site) = Site::new(&fake_sweep(6)) else { return };
    site.workspace.script(&Script::always(complete_when("go")));
    let session = site.start_fake(&[]);
    site.wait_for("attempts WHERE state = 'running'", 6);
    site.cluster.kill_controller();
    wait_until("the complaint", || session.said().contains("cannot be reached").then_some(()));
    site.workspace.raise("go");
    site.wait_for("runs WHERE state = 'succeeded'", 6);
    site.cluster.start_controller();
    session.end(0);
    site.assert_complete(6);
    assert_eq!(site.count("attempts"), 6);
}

#[test]
fn cancelled_tasks_are_cancelled_runs_until_somebody_retries_them() {
    let Some(site) = Site::new(&fake_sweep(4)) else { return };
    site.workspace.script(&Script::always(complete_when("go")));
    let session = site.start_fake(&["--array-limit", "2"]);
    site.wait_for("attempts WHERE state = 'running'", 2);
    // With Slurm's own means: one that runs and one that waits.
    let (job, _) = site.tasks("R")[0].clone();
    for task in ["0", "3"] {
        site.cluster.command("scancel", [format!("{job}_{task}")]);
    }
    site.wait_for("runs WHERE state = 'cancelled'", 2);
    // With ours: all that is left.
    let output = site.sweep(&["cancel", "--sweep", "many"]);
    expect(&output, 0);
    assert!(text(&output.stderr).contains("2 were with Slurm; 2 tasks"), "{}", text(&output.stderr));
    session.end(3);
    assert_eq!(site.count("runs WHERE state = 'cancelled'"), 4);
    assert_eq!(site.count("submissions WHERE is_open = 1"), 0);
    site.workspace.raise("go");
    expect(&site.sweep(&["retry", "--sweep", "many"]), 0);
    expect(&site.run_fake(&[]), 0);
    site.assert_complete(4);
}

#[test]
fn why_a_run_waits_is_told_in_slurms_words() {
    let Some(site) = Site::new(&fake_sweep(2)) else { return };
    site.workspace.script(&Script::always(complete()));
    let session = site.start_fake(&["--sbatch=--hold"]);
    site.wait_for("submissions WHERE reason = 'JobHeldUser'", 2);
    let run = site.query("SELECT id FROM runs")[0]["id"].as_str().unwrap()[..12].to_owned();
    assert!(expect(&site.sweep(&["explain", &run]), 0).contains("JobHeldUser"));
    assert!(expect(&site.sweep(&["status"]), 0).contains("JobHeldUser"));
    assert!(session.said().contains("does not pass by itself"), "{}", session.said());
    let (job, _) = site.tasks("PD")[0].clone();
    site.cluster.command("scontrol", ["release", &job]);
    session.end(0);
    site.assert_complete(2);
}

#[test]
fn failures_are_counted_alike_and_a_job_that_cannot_begin_says_why() {
    let Some(site) = Site::new(&fake_sweep(3)) else { return };
    let home = site.workspace.layout();
    let runs = site.query_ids();
    let [passing, hopeless, memory] = runs[..] else { panic!("{runs:?}") };
    let transient = Action::Fail { class: FailureClass::Hub, message: "later".to_owned() };
    let diverged = Action::Fail { class: FailureClass::Diverged, message: "the loss is NaN".to_owned() };
    let short = Action::Fail { class: FailureClass::OutOfMemory, message: "too large".to_owned() };
    let first = |action| Script { first: vec![vec![Action::Start, action]], then: complete() };
    site.workspace.script_of(passing, &first(transient));
    site.workspace.script_of(hopeless, &first(diverged));
    site.workspace.script_of(memory, &first(short));
    expect(&site.run_fake(&["--no-early-stop", "--runs-per-job", "3"]), 3);
    let states = site.query(
        "SELECT state, attempts, micro_batch_limit IS NOT NULL AS halved FROM runs ORDER BY state, halved",
    );
    let expected = serde_json::json!([
        {"state": "failed", "attempts": 1, "halved": 0},
        {"state": "succeeded", "attempts": 2, "halved": 0},
        {"state": "succeeded", "attempts": 2, "halved": 1},
    ]);
    assert_eq!(states, expected);
    // Now the job itself fails, each time it is tried.
    let broken = ["--retry-failed", "--setup", "echo the module is missing; exit 3"];
    expect(&site.run_fake(&broken), 3);
    let run = hopeless.to_string();
    let log = fs::read_to_string(home.log(hopeless, 4)).unwrap();
    assert!(log.contains("the module is missing"), "{log}");
    assert!(expect(&site.sweep(&["explain", &run]), 0).contains("the job failed before the run began"));
}
