//! Weights and data from a Hub on loopback, as users get them: plan, fetch, run, go on, offline.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use sweep_testkit::Workspace;
use sweep_testkit::hub::{Access, Content, Fault, FaultKind, Kind, LocalHub, Step};

const MODEL: &str = "somebody/tiny-vit";
const DATASET: &str = "somebody/insects";
const FILES: [&str; 3] =
    ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "test-00000-of-00001.parquet"];

const SWEEP: &str = "
name: from-the-hub
run:
  backbone: b
  dataset: insects
  target_epsilon: 2/255
  epsilon_schedule: {kind: fixed}
  epochs: 1
  batch_size: 9
  optimizer: {kind: adamw, learning_rate: 1e-3}
  learning_rate_schedule: {kind: constant}
  attack: {kind: apgd, steps: 1}
  validation: {attack: {kind: apgd, steps: 1}}
  evaluation: {attack: {kind: apgd, steps: 1}, max_epsilon: 2/255}
matrix: {seed: [0, 1]}
backbones:
  b:
    architecture: {kind: vit, image_size: 16, patch_size: 4, embed_dim: 16, depth: 1, num_heads: 2}
    weights: {kind: hub, repository: somebody/tiny-vit}
datasets:
  insects: {source: {kind: hub, repository: somebody/insects}, splits: {kind: given, validation: {kind: per_class, count: 2}}}
";

/// A home folder, a cache of the Hub, a sweep file and a Hub that has what it names.
struct World {
    workspace: Workspace,
    hub: LocalHub,
}

impl World {
    fn new() -> Self {
        let world = Self { workspace: Workspace::new(), hub: LocalHub::start() };
        fs::write(world.file(), SWEEP).unwrap();
        world.publish_data();
        world
    }

    /// The same with weights on the Hub, which a run from scratch has made.
    fn with_weights() -> Self {
        let world = Self::new();
        let scratch = ["--set", "backbones.b.weights={kind: random}", "--set", "matrix.seed=[7]", "--home"];
        let home = world.workspace.home().join("scratch");
        let home = home.to_str().unwrap();
        let file = world.file();
        let arguments = [&["run", file.to_str().unwrap()], &scratch[..], &[home]].concat();
        let cache = world.workspace.home().join("scratch-hf");
        expect(&world.command(&arguments).env("HF_HOME", cache).output().unwrap(), 0);
        let runs = fs::read_dir(Path::new(home).join("runs")).unwrap().next().unwrap().unwrap().path();
        world.publish_weights(&fs::read(runs.join("model/model.safetensors")).unwrap());
        world.hub.forget_requests();
        world
    }

    fn publish_weights(&self, weights: &[u8]) -> String {
        let files = [
            ("model.safetensors", Content::Lfs(weights.to_vec())),
            ("README.md", Content::Git(b"#".to_vec())),
        ];
        self.hub.commit(Kind::Model, MODEL, "main", &files)
    }

    fn publish_data(&self) {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
        let names = FILES.map(|name| format!("data/{name}"));
        let file = |(path, name)| (path, Content::Lfs(fs::read(data.join(name)).unwrap()));
        let files: Vec<(&str, Content)> = names.iter().map(String::as_str).zip(FILES).map(file).collect();
        self.hub.commit(Kind::Dataset, DATASET, "main", &files);
    }

    fn file(&self) -> PathBuf {
        self.workspace.home().join("sweep.yaml")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sweep"));
        for variable in ["SWEEP_WORKER", "SWEEP_LOG", "HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE"] {
            command.env_remove(variable);
        }
        command
            .args(arguments)
            .env("SWEEP_HOME", self.workspace.home().join("runs"))
            .env("HF_ENDPOINT", self.hub.endpoint())
            .env("HF_HOME", self.workspace.home().join("hf"))
            .stdin(Stdio::null());
        command
    }

    fn sweep(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn with_file(&self, verb: &str, more: &[&str]) -> Output {
        self.sweep(&[&[verb, self.file().to_str().unwrap()], more].concat())
    }

    fn offline(&self, verb: &str) -> Output {
        self.command(&[verb, self.file().to_str().unwrap()]).env("HF_HUB_OFFLINE", "1").output().unwrap()
    }

    fn query(&self, sql: &str) -> Vec<Value> {
        serde_json::from_str(&expect(&self.sweep(&["query", sql, "--format", "json"]), 0).0).unwrap()
    }

    /// The ids of the planned runs.
    fn ids(&self) -> Vec<String> {
        let plan = expect(&self.with_file("plan", &["--format", "json"]), 0).0;
        let rows: Vec<Value> = serde_json::from_str(&plan).unwrap();
        rows.iter().map(|row| row["run"].as_str().unwrap().to_owned()).collect()
    }
}

#[track_caller]
fn expect(output: &Output, code: i32) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("the program prints UTF-8");
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "stdout:\n{out}\nstderr:\n{err}");
    (out, err)
}

#[test]
fn a_sweep_from_the_hub_runs_and_goes_on_without_it() {
    let world = World::with_weights();
    let (_, told) = expect(&world.with_file("fetch", &[]), 0);
    assert!(told.contains("4 files"), "{told}");
    assert!(
        world.hub.requests().iter().all(|request| !request.path.contains("README")),
        "only what is needed"
    );
    world.hub.forget_requests();

    expect(&world.with_file("run", &[]), 0);
    assert_eq!(world.hub.requests(), [], "everything is here already");
    let rows = world.query("SELECT state, clean, test_total FROM results");
    assert_eq!(rows.len(), 2);
    assert!(rows.iter().all(|row| row["state"] == "succeeded" && row["test_total"] == 12), "{rows:?}");
    let used = world.query("SELECT DISTINCT weights_digest FROM provenance");
    assert_eq!(used.len(), 1);
    assert!(used[0]["weights_digest"].is_string());

    expect(&world.offline("run"), 0);
    assert_eq!(world.hub.requests(), []);
    assert_eq!(world.query("SELECT count(*) AS n FROM attempts")[0]["n"], 2, "nothing is run twice");
}

#[test]
fn a_branch_that_moves_changes_no_sweep_until_it_is_asked_to() {
    let world = World::with_weights();
    expect(&world.with_file("fetch", &[]), 0);
    let before = world.ids();
    world.publish_weights(b"other weights");
    assert_eq!(world.ids(), before, "the commit of the first time is kept");
    // What is on the branch now is no file of weights, which does not matter before a run reads it.
    expect(&world.with_file("fetch", &["--update"]), 0);
    let after = world.ids();
    assert!(before.iter().all(|id| !after.contains(id)), "{before:?} {after:?}");
}

#[test]
fn a_plan_asks_for_commits_and_writes_nothing() {
    let world = World::with_weights();
    let ids = world.ids();
    assert!(!world.workspace.home().join("runs").exists());
    assert!(world.hub.requests().iter().all(|request| !request.path.contains(".parquet")));
    expect(&world.with_file("fetch", &[]), 0);
    assert_eq!(world.ids(), ids);
    // Without the Hub a plan says that its ids are not the last word.
    let elsewhere = World::new();
    let output = elsewhere.offline("plan");
    let (_, told) = expect(&output, 0);
    assert!(told.contains("until that is known"), "{told}");
}

#[test]
fn what_is_missing_is_named_before_anything_is_touched() {
    let world = World::with_weights();
    let set = |change: &str| world.with_file("run", &["--set", change]);
    let cases = [
        ("backbones.b.weights.repository=somebody/absent", "somebody/absent"),
        ("+backbones.b.weights.revision=v9", "v9"),
        ("+backbones.b.weights.file=other.safetensors", "other.safetensors"),
        ("datasets.insects.source.repository=somebody/absent", "somebody/absent"),
        ("+datasets.insects.source.label_column=family", "family"),
    ];
    for (change, named) in &cases[..4] {
        let (_, told) = expect(&set(change), 2);
        assert!(told.contains(named) && told.contains("hint:"), "{change}: {told}");
        assert!(!world.workspace.home().join("runs/results.db").exists(), "{change}");
    }
    let (_, told) = expect(&world.offline("run"), 2);
    assert!(told.contains(MODEL) && told.contains(DATASET), "both are named: {told}");
    // The columns of a dataset show only when its files are read.
    let (_, told) = expect(&set(cases[4].0), 3);
    assert!(told.contains(cases[4].1), "{told}");
}

#[test]
fn a_gated_repository_needs_the_token_and_never_shows_it() {
    const TOKEN: &str = "hf_aSecretOfSomebody";
    let world = World::with_weights();
    world.hub.set_token(TOKEN);
    world.hub.set_access(Kind::Model, MODEL, Access::Gated);
    let (_, told) = expect(&world.with_file("fetch", &[]), 2);
    assert!(told.contains("gated") && told.contains("HF_TOKEN"), "{told}");
    let fetch = ["fetch", world.file().to_str().unwrap()].map(str::to_owned);
    let fetch: Vec<&str> = fetch.iter().map(String::as_str).collect();
    let output = world.command(&fetch).env("HF_TOKEN", TOKEN).env("SWEEP_LOG", "trace").output().unwrap();
    let (out, err) = expect(&output, 0);
    assert!(!out.contains(TOKEN) && !err.contains(TOKEN));
}

#[test]
fn damage_on_the_way_is_repaired() {
    let world = World::with_weights();
    let corrupt = |times| Fault {
        at: Step::Cdn,
        path: Some("train-00001".to_owned()),
        kind: FaultKind::Corrupt { at: 40 },
        times,
    };
    world.hub.fault(corrupt(Some(1)));
    expect(&world.with_file("run", &[]), 0);
    assert_eq!(world.query("SELECT count(*) AS n FROM results WHERE state = 'succeeded'")[0]["n"], 2);
}

#[test]
fn a_dataset_of_the_hub_is_shown() {
    let world = World::new();
    let sheet = world.workspace.home().join("sheet.png");
    let file = world.file();
    let (file, path) = (file.to_str().unwrap(), sheet.to_str().unwrap());
    let arguments =
        ["data", "show", "insects", "--sweep", file, "--size", "16", "-o", path, "--format", "json"];
    let (out, told) = expect(&world.sweep(&arguments), 0);
    let rows: Vec<Value> = serde_json::from_str(&out).unwrap();
    let sizes: Vec<&Value> = rows.iter().map(|row| &row["images"]).collect();
    assert_eq!(sizes, [30, 6, 12]);
    assert!(told.contains("3 classes: ant, bee, cat"), "{told}");
    assert!(fs::read(sheet).unwrap().starts_with(b"\x89PNG"));
}

#[test]
fn the_doctor_finds_what_is_wrong() {
    let world = World::with_weights();
    let verdicts = |output: &Output, code: i32| -> Vec<(String, String)> {
        let rows: Vec<Value> = serde_json::from_str(&expect(output, code).0).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        rows.iter().map(|row| (text(&row["check"]), text(&row["verdict"]))).collect()
    };
    let of = |verdicts: &[(String, String)], check: &str| {
        verdicts.iter().find(|(name, _)| name == check).unwrap().1.clone()
    };
    let doctor = || world.sweep(&["doctor", "--format", "json"]);
    let healthy = verdicts(&doctor(), 0);
    assert_eq!((of(&healthy, "Hub"), of(&healthy, "database")), ("fine".to_owned(), "fine".to_owned()));
    let offline = world.command(&["doctor", "--format", "json"]).env("HF_HUB_OFFLINE", "1").output().unwrap();
    assert_eq!(of(&verdicts(&offline, 0), "Hub"), "warning");
    expect(&world.with_file("run", &[]), 0);
    assert_eq!(of(&verdicts(&doctor(), 0), "database"), "fine");
    let database = world.workspace.home().join("runs/results.db");
    let mut bytes = fs::read(&database).unwrap();
    let length = bytes.len();
    bytes[length / 2..].fill(0x5a);
    fs::write(&database, bytes).unwrap();
    assert_eq!(of(&verdicts(&doctor(), 1), "database"), "wrong");
}
