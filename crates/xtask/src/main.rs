//! Chores of this repository that are programs of their own: proofs with real processes that take minutes, not tests.
//!
//! `cargo xtask chaos` kills a grid until it has proved that nothing is lost, nothing runs twice and the bits are the same;
//! `cargo xtask two-schedulers` lets two schedulers share one home folder; `cargo xtask slurm-chaos` does to a grid on Slurm
//! what clusters do.

mod chaos;
mod console;
mod gpu_check;
#[cfg(test)]
mod no_files;
mod program;
mod slurm_chaos;
mod two_schedulers;

use std::path::PathBuf;
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
}

fn main() -> ExitCode {
    match carry_out(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            console::say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Returns whether everything held.
fn carry_out(cli: &Cli) -> Result<bool> {
    let program = || {
        let program = Program::find(cli.sweep.as_deref())?;
        console::say(&format!("program: {}", program.path().display()));
        Ok::<_, anyhow::Error>(program)
    };
    match &cli.command {
        Command::Chaos(arguments) => chaos::run(&program()?, arguments),
        Command::TwoSchedulers(arguments) => two_schedulers::run(&program()?, arguments),
        Command::GpuCheck(arguments) => gpu_check::run(arguments),
        Command::SlurmChaos(arguments) => slurm_chaos::run(&program()?, arguments),
    }
}
