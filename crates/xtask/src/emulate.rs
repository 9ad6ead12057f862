//! `cargo xtask emulate -- COMMAND…`: runs a command on the emulated CUDA device, which is built before if need be.
//!
//! The device is a set of libraries in place of libcuda, cuBLAS, cuDNN and the others (`crates/sweep-kernels/emulator`); a binary
//! built with `--features cuda` then executes our kernels on the CPU. It proves indexing, layouts and arithmetic, never speed.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Options of `cargo xtask emulate`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// What to run on the emulated device, for example `cargo test -p sweep-kernels --features cuda`. Default: the device's own
    /// self test.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Builds the device into `target/emulator` and runs the command with its environment; whether the command succeeded.
///
/// # Errors
/// When the device cannot be built (g++ or cudarc's source is missing) or the command cannot be started.
pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    let root = repository();
    let scripts = root.join("crates/sweep-kernels/emulator");
    let out = root.join("target/emulator");
    build(&scripts, &out)?;
    if arguments.command.is_empty() {
        return succeeds(Command::new(scripts.join("test.sh")).arg(&out));
    }
    succeeds(&mut in_environment(&out, &arguments.command))
}

fn build(scripts: &Path, out: &Path) -> Result<()> {
    let built = succeeds(Command::new(scripts.join("build.sh")).arg(out))?;
    ensure!(built, "the emulated device could not be built");
    Ok(())
}

/// The command in a shell that has sourced the device's variables, so that `env.sh` stays the only place that knows them.
fn in_environment(out: &Path, command: &[OsString]) -> Command {
    let mut shell = Command::new("bash");
    shell.args(["-c", r#". "$0" && exec "$@""#]).arg(out.join("env.sh")).args(command);
    shell
}

fn succeeds(command: &mut Command) -> Result<bool> {
    let status =
        command.status().with_context(|| format!("cannot start {}", command.get_program().display()))?;
    Ok(status.success())
}

/// The root of the repository this program was built from.
fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}
