//! What a machine without cargo needs: the program, the tests that want a GPU, and the benchmark.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::console;

/// Most bytes of a pack: what fits into one transfer to a machine that is lent for minutes.
const MOST_BYTES: u64 = 64 << 20;

/// An executable with the tests of one crate that need a GPU.
#[derive(Clone, Copy, Debug)]
pub(super) struct Test {
    /// The crate, whose folder the tests read data from.
    pub(super) owner: &'static str,
    /// File name in the pack.
    file: &'static str,
}

pub(super) const TESTS: [Test; 3] = [
    Test { owner: "sweep-kernels", file: "kernels-tests" },
    Test { owner: "sweep-models", file: "models-tests" },
    Test { owner: "sweep-attacks", file: "attacks-tests" },
];
/// File names of the program, the benchmark and this program in a pack.
const PROGRAM: &str = "sweep";
const BENCHMARK: &str = "models-bench";
const XTASK: &str = "xtask";

/// A folder of executables built with the feature `cuda`.
pub(super) struct Pack {
    folder: PathBuf,
}

impl Pack {
    /// Builds all of it, without debug information.
    pub(super) fn build(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("`{}` cannot be made", folder.display()))?;
        let built = |arguments: &[&str]| executable(arguments).map(|path| (path, arguments.join(" ")));
        let mut wanted = vec![
            (built(&["build", "--package", "sweep", "--bin", "sweep", "--features", "cuda"])?, PROGRAM),
            (
                built(&[
                    "bench",
                    "--no-run",
                    "--package",
                    "sweep-worker",
                    "--bench",
                    "models",
                    "--features",
                    "cuda",
                ])?,
                BENCHMARK,
            ),
        ];
        for test in TESTS {
            let arguments =
                ["test", "--no-run", "--package", test.owner, "--test", "cuda", "--features", "cuda"];
            wanted.push((built(&arguments)?, test.file));
        }
        for ((path, command), name) in wanted {
            copy(&path, &folder.join(name)).with_context(|| format!("what `cargo {command}` built"))?;
        }
        copy(&std::env::current_exe()?, &folder.join(XTASK))?;
        let pack = Self { folder: folder.canonicalize()? };
        ensure!(
            pack.bytes()? <= MOST_BYTES,
            "the pack has {} bytes, more than {MOST_BYTES}\nhint: build with the quantised kernels of candle left out",
            pack.bytes()?
        );
        Ok(pack)
    }

    /// Opens a folder that [`Pack::build`] filled.
    pub(super) fn open(folder: &Path) -> Result<Self> {
        let folder = folder.canonicalize().with_context(|| format!("`{}` is not there", folder.display()))?;
        let pack = Self { folder };
        let missing = pack.files().find(|path| !path.exists());
        match missing {
            None => Ok(pack),
            Some(path) => bail!(
                "`{}` is missing\nhint: fill the folder by `cargo xtask gpu-check --pack`",
                path.display()
            ),
        }
    }

    /// Says what is in it and how it is used.
    pub(super) fn describe(&self) {
        let size = |path: PathBuf| fs::metadata(path).map_or(0, |data| data.len());
        for path in self.files() {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            console::say(&format!("{:>9.1} MiB  {name}", size(path) as f64 / f64::from(1 << 20)));
        }
        console::say(&format!(
            "now, where the GPU is: {0}/{XTASK} gpu-check --from {0}",
            self.folder.display()
        ));
    }

    pub(super) fn program(&self) -> PathBuf {
        self.folder.join(PROGRAM)
    }

    pub(super) fn benchmark(&self) -> PathBuf {
        self.folder.join(BENCHMARK)
    }

    /// Runs the tests of one crate, one after the other: they share a GPU.
    pub(super) fn run_test(&self, test: Test) -> Result<bool> {
        let data = Path::new("crates").join(test.owner);
        let mut command = Command::new(self.folder.join(test.file));
        command
            .args(["--test-threads", "1"])
            .env("CARGO_MANIFEST_DIR", data.canonicalize()?)
            .current_dir(data);
        Ok(command.status().with_context(|| format!("failed to start {}", test.file))?.success())
    }

    fn files(&self) -> impl Iterator<Item = PathBuf> {
        let names = [PROGRAM, BENCHMARK, XTASK].into_iter().chain(TESTS.iter().map(|test| test.file));
        names.map(|name| self.folder.join(name))
    }

    fn bytes(&self) -> Result<u64> {
        self.files().map(|path| Ok(fs::metadata(path)?.len())).sum()
    }
}

/// Checks that the data of the tests are in the working folder.
pub(super) fn check_folder() -> Result<()> {
    let missing = TESTS.iter().map(|test| Path::new("crates").join(test.owner)).find(|data| !data.is_dir());
    match missing {
        None => Ok(()),
        Some(data) => {
            bail!("`{}` is not here\nhint: run this in the folder of the repository", data.display())
        }
    }
}

/// Where a pack goes that nobody named.
pub(super) fn default_folder() -> Result<PathBuf> {
    let this = std::env::current_exe().context("failed to find this program's own file")?;
    let profile = this.parent().context("a program lies in a folder")?;
    Ok(profile.with_file_name("gpu-check"))
}

/// Runs cargo in release and returns the executable that it says it made.
fn executable(arguments: &[&str]) -> Result<PathBuf> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(arguments).arg("--message-format=json-render-diagnostics");
    if arguments.first() != Some(&"bench") {
        cargo.arg("--release");
    }
    console::say(&format!("cargo {}", arguments.join(" ")));
    let output = cargo.stderr(Stdio::inherit()).output().context("failed to start cargo")?;
    ensure!(output.status.success(), "`cargo {}` ended with {}", arguments.join(" "), output.status);
    let messages = String::from_utf8_lossy(&output.stdout).into_owned();
    let made = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut made = made.filter_map(|message| message["executable"].as_str().map(PathBuf::from));
    made.next_back().with_context(|| format!("`cargo {}` made no program", arguments.join(" ")))
}

/// Copies an executable without its symbols, where there is a tool that strips.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("`{}` cannot be copied", from.display()))?;
    // An executable with symbols does the same and is only larger.
    let _ = Command::new("strip").arg(to).stdin(Stdio::null()).status();
    Ok(())
}
