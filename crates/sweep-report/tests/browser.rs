//! The report as a browser shows it: on a telephone and on a screen, light and dark. Needs Chromium; says so where there is none.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{Fake, Fate};
use serde_json::Value;
use sweep_report::{draw, page};

/// Every kind of panel: lines, bars, maps, long names, names that could be markup, many schedules.
const EVERYTHING: &str = "
name: every-figure
run: {epochs: 12, evaluation: {max_epsilon: 8/255}, learning_rate_schedule: {kind: constant}}
matrix:
  backbone: [tiny, a-backbone-with-a-name-that-is-much-longer-than-any-panel-has-room-for]
  dataset: [shapes, blobs]
  target_epsilon: [0, 4/255, 8/255]
  epsilon_schedule:
    - {kind: none}
    - {kind: fixed}
    - {kind: warmup, end: 3}
    - {kind: ramp, start: 3, end: 9}
    - {kind: ramp, start: 3, end: 12}
    - {kind: uniform}
  seed: [0, 1]
exclude:
  - {target_epsilon: 0, epsilon_schedule: {kind: fixed}}
  - {target_epsilon: 0, epsilon_schedule: {kind: warmup, end: 3}}
  - {target_epsilon: 0, epsilon_schedule: {kind: ramp, start: 3, end: 9}}
  - {target_epsilon: 0, epsilon_schedule: {kind: ramp, start: 3, end: 12}}
  - {target_epsilon: 0, epsilon_schedule: {kind: uniform}}
  - {target_epsilon: 4/255, epsilon_schedule: {kind: none}}
  - {target_epsilon: 8/255, epsilon_schedule: {kind: none}}
backbones:
  tiny: {architecture: {kind: vit, image_size: 16, patch_size: 8, embed_dim: 8, depth: 1, num_heads: 1}, weights: {kind: random}}
  a-backbone-with-a-name-that-is-much-longer-than-any-panel-has-room-for:
    {architecture: {kind: vit, image_size: 16, patch_size: 8, embed_dim: 16, depth: 1, num_heads: 1}, weights: {kind: random}}
";

const SCRIPT: &str = include_str!("browser/measure.js");

/// Programs that are Chromium under one of its names.
const NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "chrome"];

fn chromium() -> Option<PathBuf> {
    let folders: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH")?).collect();
    NAMES
        .iter()
        .flat_map(|name| folders.iter().map(move |folder| folder.join(name)))
        .find(|path| path.is_file())
}

/// A page that shows the report in frames of both widths and measures it there.
fn harness(report: &str) -> String {
    let report = report.replace('&', "&amp;").replace('"', "&quot;");
    let frame = |width| {
        format!("<iframe width=\"{width}\" height=\"900\" style=\"border:0\" srcdoc=\"{report}\"></iframe>")
    };
    format!(
        "<!doctype html><meta charset=\"utf-8\"><script>{SCRIPT}</script><pre id=\"result\"></pre>{}{}",
        frame(390),
        frame(1280)
    )
}

/// Returns what the page measured, and the browser's complaints.
fn browse(program: &Path, folder: &Path, settings: &[&str]) -> (Vec<Value>, Vec<String>) {
    let output = Command::new(program)
        .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-extensions", "--no-first-run"])
        .args(["--enable-logging=stderr", "--virtual-time-budget=20000", "--dump-dom"])
        .arg(format!("--user-data-dir={}", folder.join("profile").display()))
        .args(settings)
        .arg(format!("file://{}", folder.join("harness.html").display()))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let (dom, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let result = dom.split("<pre id=\"result\">").nth(1).and_then(|rest| rest.split("</pre>").next());
    let result = result.unwrap_or_else(|| panic!("no result in {dom}\n{log}"));
    let result = result.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    let complaints = log.lines().filter(|line| line.contains("CONSOLE")).map(str::to_owned).collect();
    (serde_json::from_str(&result).unwrap_or_else(|error| panic!("{error}: {result}\n{log}")), complaints)
}

#[test]
fn nothing_overlaps_sticks_out_scrolls_sideways_or_is_loaded() {
    let Some(program) = chromium() else {
        // Written past the test harness, which would swallow it.
        let _ =
            writeln!(std::io::stderr(), "skipped: no Chromium on this machine, the report was not looked at");
        return;
    };
    let rename = |spec: &mut sweep_core::spec::RunSpec| spec.dataset.name.push_str(" <i>&amp;</i> \"or\" so");
    let fate =
        |index, _: &sweep_core::spec::RunSpec| if index % 17 == 16 { Fate::Fails } else { Fate::Succeeds };
    let fake = Fake::new(EVERYTHING, 100, rename, fate);
    let material = fake.material();
    let drawn = draw(&material);
    let panels: usize = drawn.figures.iter().map(|figure| figure.panels.len()).sum();
    assert_eq!(drawn.figures.len(), 9, "every figure is looked at: {:?}", drawn.omitted);
    // For those who want to see it with their own eyes.
    if let Some(folder) = std::env::var_os("KEEP_REPORT") {
        sweep_report::write(&material, Path::new(&folder), &[sweep_report::Form::Png]).unwrap();
    }
    fs::write(fake.folder.path().join("harness.html"), harness(&page(&material, &drawn).unwrap())).unwrap();
    let mut papers = Vec::new();
    for scheme in ["--blink-settings=preferredColorScheme=1", "--blink-settings=preferredColorScheme=0"] {
        let (results, complaints) = browse(&program, fake.folder.path(), &[scheme]);
        assert!(complaints.is_empty(), "{complaints:#?}");
        assert_eq!(results.len(), 2);
        for result in &results {
            assert_eq!(result["panels"], panels);
            assert!(result["wrong"].as_array().unwrap().is_empty(), "{:#}", result["wrong"]);
        }
        papers.push(results[0]["paper"].clone());
    }
    assert_eq!(papers, ["rgb(255, 255, 255)", "rgb(21, 24, 28)"], "light and dark pages");
}
