//! `sweep report` as its users run it: after a sweep of scripted workers.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use sweep_testkit::{Action, Script, Workspace, fake_worker};

/// Four runs at two target epsilons; the script has radii up to 4/255.
const SWEEP: &str = "
name: four
run: {backbone: b, dataset: shapes, epochs: 2, learning_rate_schedule: {kind: constant}, evaluation: {attack: {kind: apgd, steps: 2}, max_epsilon: 4/255}}
backbones: {b: {architecture: {kind: vit, image_size: 16, patch_size: 8, embed_dim: 8, depth: 1, num_heads: 1}, weights: {kind: random}}}
matrix:
  target_epsilon: [2/255, 4/255]
  epsilon_schedule: [{kind: fixed}, {kind: ramp, start: 0, end: 1}]
";

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

#[test]
fn a_report_of_a_sweep_and_what_it_refuses() {
    let workspace = Workspace::new();
    let home = workspace.home();
    let folder = home.join("report");
    let output = ["--output", folder.to_str().unwrap()];
    let report = |sweep_name: &[&str]| sweep(home, &[&["report"], sweep_name, &output].concat());
    let (_, err) = expect(&report(&[]), 2);
    assert!(err.contains("there are no results yet"), "{err}");

    workspace.script(&Script::always([
        Action::Start,
        Action::Epoch { clean: 4, robust: 1 },
        Action::Epoch { clean: 60, robust: 30 },
        Action::Evaluate { correct: vec![80, 70, 60, 50, 40] },
        Action::Succeed,
    ]));
    let file = home.join("sweep.yaml");
    fs::write(&file, SWEEP).unwrap();
    let worker = fake_worker().to_str().unwrap();
    let run = ["run", file.to_str().unwrap(), "--devices", "cpu:2", "--worker", worker];
    expect(&sweep(home, &run), 0);

    let (out, err) = expect(&report(&["four"]), 0);
    assert_eq!(out.trim_end(), folder.join("report.html").to_str().unwrap());
    assert!(err.contains("sweep four: 4 runs") && err.contains("not drawn: Table 7"), "{err}");
    let page = fs::read_to_string(folder.join("report.html")).unwrap();
    assert!(page.contains("80.00") && page.contains("sweep run four.yaml"));
    for form in ["svg", "png"] {
        assert!(folder.join(format!("figures/accuracy-over-radius.{form}")).is_file());
    }

    // The same store gives the same bytes; without files, the old ones are gone.
    expect(&sweep(home, &[&["report", "--figures", "none"], output.as_slice()].concat()), 0);
    assert_eq!(fs::read_to_string(folder.join("report.html")).unwrap(), page);
    assert_eq!(fs::read_dir(folder.join("figures")).unwrap().count(), 0);

    fs::write(folder.join("notes.txt"), "mine").unwrap();
    let (_, err) = expect(&report(&[]), 2);
    assert!(err.contains("`notes.txt`, which no report writes"), "{err}");
    let (_, err) = expect(&report(&["five"]), 2);
    assert!(err.contains("there is no sweep `five`; there is `four`"), "{err}");
}
