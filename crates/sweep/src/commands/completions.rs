//! `sweep completions`: completions for a shell.

use anyhow::{Context as _, Result};
use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::cli::Cli;
use crate::exit::Exit;
use crate::printer;

pub(crate) fn run(shell: Shell) -> Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "sweep", &mut script);
    printer::data(&String::from_utf8(script).context("a completion script is a text")?)?;
    Ok(Exit::Success)
}
