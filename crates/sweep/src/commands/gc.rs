//! `sweep gc`: deletes checkpoints that no run needs.

use anyhow::Result;
use indicatif::DecimalBytes;
use sweep_core::KeepCheckpoints;
use sweep_core::home::Home;
use sweep_scheduler::retention::{Why, collect};

use crate::cli::GcArgs;
use crate::exit::Exit;
use crate::table::Rows;
use crate::{printer, sweeps};

pub(crate) fn run(home: &Home, arguments: &GcArgs) -> Result<Exit> {
    let keep = if arguments.finished { KeepCheckpoints::None } else { KeepCheckpoints::Last };
    let collected = sweeps::block_on(async {
        let reader = sweeps::open(home).await?;
        Ok(collect(&reader, home, keep, arguments.dry_run).await?)
    })?;
    let mut rows = Rows::new(&["bytes", "why", "file"]);
    for doomed in &collected.removed {
        let name = doomed.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        rows.push(vec![doomed.bytes.into(), why(doomed.why).into(), name.into()]);
    }
    printer::rows(&rows, arguments.form.format)?;
    let (removed, kept) = (collected.removed_size(), collected.kept);
    printer::note(&format!(
        "{} {} checkpoints, {}; {} stay, {}",
        if arguments.dry_run { "would delete" } else { "deleted" },
        removed.files,
        DecimalBytes(removed.bytes),
        kept.files,
        DecimalBytes(kept.bytes)
    ));
    if !arguments.finished && kept.files > 0 {
        printer::note(
            "hint: --finished deletes the last ones of finished runs too, from which only longer runs would go on",
        );
    }
    for (path, error) in &collected.failed {
        printer::note(&format!("warning: `{}` could not be deleted: {error}", path.display()));
    }
    Ok(if collected.failed.is_empty() { Exit::Success } else { Exit::Unexpected })
}

const fn why(why: Why) -> &'static str {
    match why {
        Why::Leftover => "left unfinished by a worker that is gone",
        Why::Unneeded => "no run would start from it",
        Why::LastOfSucceeded => "last one of a finished run",
    }
}
