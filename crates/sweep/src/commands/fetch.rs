//! `sweep fetch`: everything that a sweep takes from the Hub, ahead of time.

use anyhow::Result;
use sweep_core::home::Home;

use crate::cli::FetchArgs;
use crate::exit::Exit;
use crate::hub::Unknown;
use crate::sources::Sources;
use crate::sweeps::{self, Loaded};
use crate::{printer, support};

pub(crate) fn run(home: &Home, arguments: &FetchArgs) -> Result<Exit> {
    let sources = Sources::new(sweeps::folder_of(&arguments.sweep.file), home, Unknown::Refuse)?;
    if arguments.update {
        sources.hub().ask_anew();
    }
    let Loaded { sweep, mut grid, sources, .. } = sweeps::load_with(&arguments.sweep, sources)?;
    support::check(&grid)?;
    sources.hub().bring(&mut grid)?;
    sources.store()?;
    printer::note(&format!("sweep {}: all files of its {} runs are here", sweep.name, grid.runs.len()));
    Ok(Exit::Success)
}
