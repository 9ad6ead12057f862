//! Where the fake worker's program is.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Names the program to processes that a test starts, which then ask Cargo for nothing: it may be waiting for a build elsewhere.
pub const FAKE_WORKER_VARIABLE: &str = "SWEEP_TEST_FAKE_WORKER";

/// Returns the path of the `fake-worker` program, built in the profile and target folder of the calling test.
///
/// Cargo builds programs only for the tests of their own package, so that a test elsewhere asks Cargo for this one; a
/// fraction of a second where it is up to date, and once a process.
///
/// # Panics
/// Panics if Cargo cannot build it, or if the caller does not run from a target folder.
pub fn fake_worker() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| std::env::var_os(FAKE_WORKER_VARIABLE).map_or_else(build, PathBuf::from))
}

fn build() -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    let profile_folder = test
        .ancestors()
        .find(|folder| folder.join("deps").is_dir())
        .expect("a test lies in `<target>/<profile>/deps` or beside that folder");
    let target = profile_folder.parent().expect("a profile's folder lies in the target folder");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args([
        "build",
        "--quiet",
        "--offline",
        "--package",
        "sweep-testkit",
        "--bin",
        "fake-worker",
        "--target-dir",
    ]);
    cargo.arg(target).current_dir(env!("CARGO_MANIFEST_DIR"));
    if profile_folder.ends_with("release") {
        cargo.arg("--release");
    }
    let status = cargo.status().expect("cargo starts");
    assert!(status.success(), "cargo could not build the fake worker: {status}");
    profile_folder.join("fake-worker")
}
