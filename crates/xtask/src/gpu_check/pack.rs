//! What a machine without cargo needs: the program, the tests that want a GPU, and the benchmark.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::console;

/// Most bytes of a pack: what fits into one transfer to a machine that is lent for minutes.
const MOST_BYTES: u64 = 64 << 20;

/// How hard the archive is squeezed: some seconds for 120 MB.
const LEVEL: i32 = 12;
/// Binary logarithm of the distance over which repetitions are found: candle's kernels are in every executable.
const WINDOW_LOG: u32 = 27;

/// An executable with the tests of one crate that need a GPU.
#[derive(Clone, Copy, Debug)]
pub(super) struct Test {
    /// The crate, whose folder the tests read data from.
    pub(super) owner: &'static str,
    /// File name in the pack.
    file: &'static str,
}

pub(super) const TESTS: [Test; 4] = [
    Test { owner: "sweep-kernels", file: "kernels-tests" },
    Test { owner: "sweep-models", file: "models-tests" },
    Test { owner: "sweep-attacks", file: "attacks-tests" },
    Test { owner: "sweep-worker", file: "worker-tests" },
];
/// File names of the program and the benchmark.
const PROGRAM: &str = "sweep";
const BENCHMARK: &str = "models-bench";
/// What a pack consists of: this program, and all the others.
const XTASK: &str = "xtask";
const ARCHIVE: &str = "executables.zst";

/// A folder of executables built with the feature `cuda`.
pub(super) struct Pack {
    folder: PathBuf,
}

impl Pack {
    /// Builds all of it, without debug information.
    pub(super) fn build(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("`{}` cannot be made", folder.display()))?;
        let built = |arguments: &[&str]| executable(arguments).map(|path| (path, arguments.join(" ")));
        let bench = ["bench", "--no-run", "--package", "sweep-worker", "--bench", "models"];
        let mut wanted = vec![
            (built(&["build", "--package", "sweep", "--bin", "sweep", "--features", "cuda"])?, PROGRAM),
            (built(&[&bench[..], &["--features", "cuda"]].concat())?, BENCHMARK),
        ];
        for test in TESTS {
            let arguments =
                ["test", "--no-run", "--package", test.owner, "--test", "cuda", "--features", "cuda"];
            wanted.push((built(&arguments)?, test.file));
        }
        for ((path, command), name) in wanted {
            copy(&path, &folder.join(name)).with_context(|| format!("what `cargo {command}` built"))?;
        }
        Ok(Self { folder: folder.canonicalize()? })
    }

    /// Unpacks a folder that [`Pack::write`] filled, into one within it.
    pub(super) fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(ARCHIVE);
        let archive = File::open(&path).with_context(|| {
            format!(
                "`{}` cannot be read\nhint: fill the folder by `cargo xtask gpu-check --pack`",
                path.display()
            )
        })?;
        let unpacked = folder.join("unpacked");
        fs::create_dir_all(&unpacked).with_context(|| format!("`{}` cannot be made", unpacked.display()))?;
        unpack(archive, &unpacked).with_context(|| format!("`{}` cannot be unpacked", path.display()))?;
        Ok(Self { folder: unpacked.canonicalize()? })
    }

    /// Writes all of it into `folder`, small enough to be sent, and says how it is used.
    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder).with_context(|| format!("`{}` cannot be made", folder.display()))?;
        let (xtask, archive) = (folder.join(XTASK), folder.join(ARCHIVE));
        copy(&std::env::current_exe()?, &xtask)?;
        let names = [PROGRAM, BENCHMARK].into_iter().chain(TESTS.iter().map(|test| test.file));
        let names: Vec<&str> = names.collect();
        let file =
            File::create(&archive).with_context(|| format!("`{}` cannot be made", archive.display()))?;
        let bytes = pack(&self.folder, &names, file).context("failed to pack the executables")?;
        let size = |path: &Path| fs::metadata(path).map(|data| data.len());
        let packed = size(&xtask)? + size(&archive)?;
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        console::say(&format!(
            "{} executables of {:.1} MiB, packed {:.1} MiB",
            names.len() + 1,
            mib(bytes + size(&xtask)?),
            mib(packed)
        ));
        ensure!(
            packed <= MOST_BYTES,
            "the pack has {packed} bytes, more than {MOST_BYTES}\nhint: build for one compute capability"
        );
        console::say(&format!(
            "now, where the GPU is: {0}/{XTASK} gpu-check --from {0}",
            folder.canonicalize()?.display()
        ));
        Ok(())
    }

    /// Checks that the loader finds all libraries, of which a machine with a driver alone has some only.
    pub(super) fn check_start(&self) -> Result<()> {
        let mut command = Command::new(self.program());
        let output = command.arg("--version").output().context("failed to start the packed program")?;
        ensure!(
            output.status.success(),
            "the program does not start: {}\nhint: it needs a driver (580 or newer), and cuBLAS 13 and cuDNN 9 where LD_LIBRARY_PATH says",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
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
}

/// Writes the files of these names into one compressed archive. Returns their bytes.
fn pack(folder: &Path, names: &[&str], to: impl Write) -> Result<u64> {
    let mut encoder = zstd::Encoder::new(to, LEVEL)?;
    encoder.long_distance_matching(true)?;
    encoder.window_log(WINDOW_LOG)?;
    let mut archive = tar::Builder::new(encoder);
    let mut total = 0;
    for name in names {
        let path = folder.join(name);
        archive.append_path_with_name(&path, name).with_context(|| format!("`{name}`"))?;
        total += fs::metadata(&path)?.len();
    }
    archive.into_inner()?.finish()?;
    Ok(total)
}

/// Makes the files of an archive in `folder`, instead of those of the same names.
fn unpack(archive: impl Read, folder: &Path) -> Result<()> {
    let mut decoder = zstd::Decoder::new(archive)?;
    decoder.window_log_max(WINDOW_LOG)?;
    Ok(tar::Archive::new(decoder).unpack(folder)?)
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_is_packed_is_unpacked() {
        let [from, to] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let files = [("a", vec![7_u8; 100_000]), ("empty", Vec::new()), ("b", b"lines\n\nand more".to_vec())];
        for (name, content) in &files {
            let path = from.path().join(name);
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let mut archive = Vec::new();
        let bytes = pack(from.path(), &["a", "empty", "b"], &mut archive).unwrap();
        assert_eq!(bytes, 100_015);
        assert!(archive.len() < 1000, "repetitions are found");
        for _ in 0..2 {
            unpack(&archive[..], to.path()).unwrap();
            for (name, content) in &files {
                let path = to.path().join(name);
                assert_eq!(&fs::read(&path).unwrap(), content);
                assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o755);
            }
        }
        assert!(unpack(&archive[..archive.len() / 2], to.path()).is_err());
    }
}
