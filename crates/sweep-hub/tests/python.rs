//! The cache is shared with Python's `huggingface_hub`, both ways.
//!
//! `SWEEP_TEST_PYTHON` names the interpreter, otherwise `python3`; where it has no `huggingface_hub` the tests say so and
//! check nothing.

#![expect(clippy::unwrap_used, reason = "test helpers outside of test functions")]

mod support;

use std::io::Write as _;
use std::process::Command;

use support::*;

/// An interpreter that can import the library, or nothing with a word about it.
fn python() -> Option<String> {
    let python = std::env::var("SWEEP_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let found = Command::new(&python).args(["-c", "import huggingface_hub"]).output();
    if found.is_ok_and(|output| output.status.success()) {
        return Some(python);
    }
    // Past the macros, whose output is hidden where a test passes: one that checks nothing must say so.
    let message =
        format!("NOT CHECKED: {python} has no huggingface_hub; set SWEEP_TEST_PYTHON to one that has\n");
    std::io::stderr().write_all(message.as_bytes()).unwrap();
    None
}

/// Runs a script with the local Hub and the cache, and returns what it prints.
async fn run(python: &str, fixture: &Fixture, script: &str) -> String {
    let home = tempfile::tempdir().unwrap();
    let output = tokio::process::Command::new(python)
        .args(["-c", script])
        .env("HF_ENDPOINT", fixture.hub.endpoint())
        .env("HF_HUB_CACHE", fixture.cache())
        .env("HF_HOME", home.path())
        .env("COMMIT", fixture.commit.as_str())
        .env("HF_HUB_DISABLE_TELEMETRY", "1")
        .env_remove("HF_TOKEN")
        .env_remove("HF_HUB_OFFLINE")
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test]
async fn python_finds_what_we_fetched() {
    let Some(python) = python() else { return };
    let fixture = Fixture::new();
    let commit = fixture.client().resolve(&model(), "main").await.unwrap();
    let paths = fixture.fetch(&[WEIGHTS, CONFIG]).await.unwrap();
    assert_eq!(commit, fixture.commit);
    fixture.hub.forget_requests();
    let script = "
from huggingface_hub import hf_hub_download
import os
for revision in ['main', os.environ['COMMIT']]:
    for name in ['model.safetensors', 'nested/config.json']:
        print(hf_hub_download('owner/model', name, revision=revision, local_files_only=True))
";
    let expected: Vec<&str> =
        [&paths[0], &paths[1], &paths[0], &paths[1]].map(|path| path.to_str().unwrap()).into();
    assert_eq!(run(&python, &fixture, script).await.lines().collect::<Vec<_>>(), expected);
    assert_eq!(fixture.hub.requests(), []);
    // Online it sees nothing to download either.
    let script = "
from huggingface_hub import hf_hub_download
print(hf_hub_download('owner/model', 'model.safetensors'))
";
    assert_eq!(run(&python, &fixture, script).await, paths[0].to_str().unwrap());
    assert_eq!(fixture.downloads(), 0);
    // What is ours in the cache does not look like damage.
    let script = "
from huggingface_hub import scan_cache_dir
found = scan_cache_dir()
print(len(found.repos), found.warnings)
";
    assert_eq!(run(&python, &fixture, script).await, "1 []");
    fixture.assert_sound();
}

#[tokio::test]
async fn we_find_what_python_fetched() {
    let Some(python) = python() else { return };
    let fixture = Fixture::new();
    let script = "
from huggingface_hub import snapshot_download
print(snapshot_download('owner/model'))
";
    let snapshot = run(&python, &fixture, script).await;
    fixture.hub.forget_requests();
    let hub = fixture.offline();
    assert_eq!(hub.resolve(&model(), "main").await.unwrap(), fixture.commit);
    let files = hub.files(&model(), &fixture.commit).await.unwrap();
    assert_eq!(files.iter().map(|file| &*file.path).collect::<Vec<_>>(), ["README.md", WEIGHTS, CONFIG]);
    let paths = fetch(&hub, &model(), &fixture.commit, &[WEIGHTS, CONFIG, "README.md"]).await.unwrap();
    assert_eq!(paths[0].to_str().unwrap(), format!("{snapshot}/{WEIGHTS}"));
    assert_eq!(std::fs::read(&paths[0]).unwrap(), weights());
    assert_eq!(fixture.hub.requests(), []);
    fixture.assert_sound();
}
