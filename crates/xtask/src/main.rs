//! Chores of this repository that are programs of their own: proofs with real processes that take minutes, not tests.
//!
//! `cargo xtask chaos` kills a grid until it has proved that nothing is lost, nothing runs twice and the bits are the same;
//! `cargo xtask two-schedulers` lets two schedulers share one home folder; `cargo xtask slurm-chaos` does to a grid on Slurm
//! what clusters do; `cargo xtask gpu-check` shows what only a GPU can show; `cargo xtask emulate -- COMMAND` runs a command on an emulated CUDA device.

mod chaos;
mod console;
mod emulate;
mod gpu_check;
#[cfg(test)]
mod no_files;
mod program;
mod slurm_chaos;
mod two_schedulers;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::program::Program;

/// Proofs with real processes.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,

    /// The program to be tried. Default: `cargo build -p sweep`, in the profile of this program.
    #[arg(long, global = true, value_name = "PATH")]
    sweep: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Kill the schedulers and workers of a real grid, damage their files, fill their disk; the results must not show it.
    Chaos(chaos::Arguments),
    /// Run one sweep with two schedulers at once; every run must be started exactly once.
    TwoSchedulers(two_schedulers::Arguments),
    /// Check everything that needs a GPU, and time it.
    GpuCheck(gpu_check::Arguments),
    /// Run a grid on a real Slurm and kill controllers, nodes and tasks; the results must not show it.
    SlurmChaos(slurm_chaos::Arguments),
    /// Run a command on an emulated CUDA device: a build with `--features cuda` then executes the kernels on the CPU.
    Emulate(emulate::Arguments),
}

fn main() -> ExitCode {
    match carry_out(Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            console::say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Returns whether everything held.
fn carry_out(cli: Cli) -> Result<bool> {
    let told = cli.sweep.as_deref();
    match cli.command {
        Command::Chaos(arguments) => chaos::run(&find_program(told)?, &arguments),
        Command::TwoSchedulers(arguments) => two_schedulers::run(&find_program(told)?, &arguments),
        Command::GpuCheck(arguments) => gpu_check::run(&arguments),
        Command::SlurmChaos(arguments) => slurm_chaos::run(&find_program(told)?, &arguments),
        Command::Emulate(arguments) => emulate::run(&arguments),
    }
}

/// Finds the program to be tried and says which it is.
fn find_program(told: Option<&Path>) -> Result<Program> {
    let program = Program::find(told)?;
    console::say(&format!("program: {}", program.path().display()));
    Ok(program)
}
