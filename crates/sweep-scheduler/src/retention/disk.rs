//! Whether there is room for another run.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use nix::sys::statvfs::statvfs;
use sweep_core::spec::RunId;

use super::{bytes_by_owner, scan};
use crate::error::Error;
use crate::settings::Settings;

/// Whether a run may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// It may.
    Enough,
    /// It may not.
    Short {
        /// What it and the runs at work will still write.
        needed: u64,
        /// What they may.
        available: u64,
        /// How much has to go, at least 1.
        excess: u64,
    },
}

/// Returns whether there is room for `next` beside the runs at work: what is there and what all of them will still write must
/// fit into the budget, the latter also into what is free.
pub(crate) fn room(
    settings: &Settings,
    next: RunId,
    at_work: impl Iterator<Item = RunId>,
) -> Result<Room, Error> {
    let Settings { home, disk_budget, disk_need, .. } = settings;
    if disk_budget.is_none() && disk_need.is_empty() {
        return Ok(Room::Enough);
    }
    let at_work: Vec<RunId> = at_work.collect();
    // Where there is plenty, as nearly always, nobody has to look at every file before every run.
    let most: u64 = at_work.iter().chain([&next]).filter_map(|run| disk_need.get(run)).sum();
    if disk_budget.is_none() && free_space(home.root())? >= most {
        return Ok(Room::Enough);
    }
    let checkpoints = scan(&home.trajectories())?;
    let owned = bytes_by_owner(&checkpoints);
    let still = |run| outstanding(settings, run, &owned);
    let needed = at_work.into_iter().chain([next]).map(still).sum::<Result<u64, Error>>()?;
    let stored: u64 = checkpoints.iter().map(|file| file.bytes).sum();
    let used = if disk_budget.is_some() { stored + models(&home.root().join("runs"))? } else { stored };
    let free = if needed > 0 { free_space(home.root())? } else { u64::MAX };
    Ok(weigh(used, needed, *disk_budget, free))
}

/// Returns what a run will still write: what it needs beyond what it has written.
fn outstanding(settings: &Settings, run: RunId, owned: &HashMap<RunId, u64>) -> Result<u64, Error> {
    let Some(need) = settings.disk_need.get(&run).filter(|need| **need > 0) else {
        return Ok(0);
    };
    let written = owned.get(&run).copied().unwrap_or(0) + folder(&settings.home.model(run))?;
    Ok(need.saturating_sub(written))
}

fn weigh(used: u64, needed: u64, budget: Option<u64>, free: u64) -> Room {
    let wanted = used.saturating_add(needed);
    let over_budget = budget.map_or(0, |budget| wanted.saturating_sub(budget));
    let excess = over_budget.max(needed.saturating_sub(free));
    if excess == 0 {
        return Room::Enough;
    }
    let available = budget.map_or(u64::MAX, |budget| budget.saturating_sub(used)).min(free);
    Room::Short { needed, available, excess }
}

/// Adds up the models of all runs.
fn models(runs: &Path) -> Result<u64, Error> {
    let entries = match fs::read_dir(runs) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        Err(source) => return Err(Error::Scan { path: runs.to_owned(), source }),
    };
    let mut total = 0;
    for entry in entries {
        let entry = entry.map_err(|source| Error::Scan { path: runs.to_owned(), source })?;
        total += folder(&entry.path().join("model"))?;
    }
    Ok(total)
}

/// Adds up the files right in a folder; 0 where there is none.
fn folder(path: &Path) -> Result<u64, Error> {
    Ok(scan(path)?.iter().map(|file| file.bytes).sum())
}

/// Returns the bytes that this user may still write below `path`.
fn free_space(path: &Path) -> Result<u64, Error> {
    let found = statvfs(path)
        .map_err(|errno| Error::Scan { path: path.to_owned(), source: std::io::Error::from(errno) })?;
    Ok(found.blocks_available().saturating_mul(found.fragment_size()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_and_what_comes_must_fit_the_budget_and_the_disk() {
        let short = |needed, available, excess| Room::Short { needed, available, excess };
        let cases = [
            ("no limit", (900, 100, None, 100), Room::Enough),
            ("fits exactly", (60, 40, Some(100), 1000), Room::Enough),
            ("over the budget", (61, 40, Some(100), 1000), short(40, 39, 1)),
            ("over the disk", (0, 40, Some(100), 30), short(40, 30, 10)),
            ("over both", (90, 40, Some(100), 5), short(40, 5, 35)),
            ("full already", (200, 0, Some(100), 1000), short(0, 0, 100)),
            ("no overflow", (u64::MAX, u64::MAX, Some(1), 1), short(u64::MAX, 0, u64::MAX - 1)),
        ];
        for (what, (used, needed, budget, free), expected) in cases {
            assert_eq!(weigh(used, needed, budget, free), expected, "{what}");
        }
    }

    #[test]
    fn free_space_is_told() {
        assert!(free_space(Path::new("/")).is_ok());
        assert!(matches!(free_space(Path::new("/nonexistent")), Err(Error::Scan { .. })));
    }
}
