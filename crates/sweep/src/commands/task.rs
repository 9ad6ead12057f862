//! `sweep task`: what a job of Slurm does.

use anyhow::Result;
use sweep_core::home::Home;
use sweep_scheduler::slurm::{TaskEnd, carry_out};

use crate::cli::TaskArgs;
use crate::exit::Exit;
use crate::sweeps;

pub(crate) fn run(home: &Home, arguments: &TaskArgs) -> Result<Exit> {
    let end = sweeps::block_on(async { Ok(carry_out(home, &arguments.manifest, arguments.task).await?) })?;
    Ok(match end {
        TaskEnd::Done => Exit::Success,
        end => Exit::Worker(end.code()),
    })
}
