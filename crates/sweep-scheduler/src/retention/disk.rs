//! Whether there is room for another run.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;

use nix::sys::statvfs::statvfs;
use sweep_core::home::Home;
use sweep_core::spec::RunId;

use super::{bytes_by_owner, scan};
use crate::error::Error;
use crate::settings::{DiskNeed, Settings};

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

/// Bytes of the final models in a home folder. They are looked at once and then kept up by what workers say: looking into the
/// folder of every run before every start would take ever longer. What other sessions save meanwhile, the next one sees.
#[derive(Debug, Default)]
pub(crate) struct Models {
    by_run: HashMap<RunId, u64>,
    total: u64,
}

impl Models {
    /// Looks at the models of all runs.
    pub(crate) fn look(home: &Home) -> Result<Self, Error> {
        let runs = home.root().join("runs");
        let failed = |source| Error::Scan { path: runs.clone(), source };
        let mut models = Self::default();
        let entries = match fs::read_dir(&runs) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(models),
            Err(error) => return Err(failed(error)),
        };
        for entry in entries {
            let name = entry.map_err(failed)?.file_name();
            if let Some(run) = name.to_str().and_then(|name| name.parse().ok()) {
                models.saved(run, folder(&home.model(run))?);
            }
        }
        Ok(models)
    }

    /// Notes the size of a run's model, in the place of an earlier one.
    pub(crate) fn saved(&mut self, run: RunId, bytes: u64) {
        let before = self.by_run.insert(run, bytes).unwrap_or(0);
        self.total = self.total.saturating_sub(before).saturating_add(bytes);
    }
}

/// Returns whether there is room for `next` beside the runs in hand, of which at most `at_once` are worked on at a time: what
/// is there and what all of them will still write must fit into the budget, the latter also into what is free.
pub(crate) fn room(
    settings: &Settings,
    models: &Models,
    next: RunId,
    in_hand: &[RunId],
    at_once: usize,
) -> Result<Room, Error> {
    let Settings { home, disk_budget, disk_need, .. } = settings;
    if disk_budget.is_none() && disk_need.is_empty() {
        return Ok(Room::Enough);
    }
    let runs = || in_hand.iter().chain([&next]);
    // Where there is plenty, as nearly always, nobody has to look at every file before every run.
    let needs = runs().filter_map(|run| disk_need.get(run).copied());
    if disk_budget.is_none() && free_space(home.root())? >= together(needs, at_once) {
        return Ok(Room::Enough);
    }
    let checkpoints = scan(&home.trajectories())?;
    let owned = bytes_by_owner(&checkpoints);
    let left =
        runs().map(|run| outstanding(settings, *run, &owned)).collect::<Result<Vec<DiskNeed>, Error>>()?;
    let needed = together(left.into_iter(), at_once);
    let stored: u64 = checkpoints.iter().map(|file| file.bytes).sum();
    let used = stored.saturating_add(models.total);
    let free = if needed > 0 { free_space(home.root())? } else { u64::MAX };
    Ok(weigh(used, needed, *disk_budget, free))
}

/// Returns the most that runs have at a time: what stays of all of them, and the rest for the `at_once` that take most.
fn together(needs: impl Iterator<Item = DiskNeed>, at_once: usize) -> u64 {
    let (staying, mut working): (Vec<u64>, Vec<u64>) =
        needs.map(|need| (need.staying, need.working.saturating_sub(need.staying))).unzip();
    working.sort_unstable_by_key(|bytes| Reverse(*bytes));
    staying.into_iter().chain(working.into_iter().take(at_once)).sum()
}

/// Returns what a run will still write: what it needs beyond what it has written.
fn outstanding(settings: &Settings, run: RunId, owned: &HashMap<RunId, u64>) -> Result<DiskNeed, Error> {
    let Some(need) = settings.disk_need.get(&run).filter(|need| need.working > 0) else {
        return Ok(DiskNeed::default());
    };
    let written = owned.get(&run).copied().unwrap_or(0) + folder(&settings.home.model(run))?;
    let DiskNeed { working, staying } = *need;
    Ok(DiskNeed { working: working.saturating_sub(written), staying: staying.saturating_sub(written) })
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
    use sweep_testkit::{Workspace, id_of};

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
    fn of_many_runs_only_those_that_work_at_a_time_need_room_to_work() {
        let needs = [(100, 10), (300, 20), (200, 200), (0, 0)];
        for (at_once, expected) in [(0, 230), (1, 510), (2, 600), (3, 600), (usize::MAX, 600)] {
            let needs = needs.into_iter().map(|(working, staying)| DiskNeed { working, staying });
            assert_eq!(together(needs, at_once), expected, "{at_once}");
        }
    }

    #[test]
    fn models_are_looked_at_once_and_then_kept_up() {
        let workspace = Workspace::new();
        let home = workspace.layout();
        assert_eq!(Models::look(&home).unwrap().total, 0);
        for (seed, bytes) in [(0, 100), (1, 20)] {
            fs::create_dir_all(home.model(id_of(seed))).unwrap();
            fs::write(home.model(id_of(seed)).join("model.safetensors"), vec![0; bytes]).unwrap();
        }
        fs::create_dir_all(home.root().join("runs/notes")).unwrap();
        let mut models = Models::look(&home).unwrap();
        assert_eq!(models.total, 120);
        models.saved(id_of(2), 3);
        models.saved(id_of(0), 50);
        assert_eq!(models.total, 73);
    }

    #[test]
    fn free_space_is_told() {
        assert!(free_space(Path::new("/")).is_ok());
        assert!(matches!(free_space(Path::new("/nonexistent")), Err(Error::Scan { .. })));
    }
}
