//! `sweep rebuild`: the database again, from the files of the home folder alone.

use anyhow::Result;
use sweep_core::home::Home;

use crate::exit::Exit;
use crate::{printer, sweeps};

pub(crate) fn run(home: &Home) -> Result<Exit> {
    sweeps::block_on(async {
        let rebuilt = sweep_scheduler::rebuild(home).await?;
        for problem in &rebuilt.problems {
            printer::note(&format!("warning: {problem}"));
        }
        printer::note(&format!(
            "`{}`: {} sweeps, {} runs, {} attempts, {} measurements",
            home.database().display(),
            rebuilt.sweeps,
            rebuilt.runs,
            rebuilt.attempts,
            rebuilt.measurements
        ));
        if let Some(kept) = rebuilt.kept {
            printer::note(&format!("the old database is kept as `{}`", kept.display()));
        }
        Ok(Exit::Success)
    })
}
