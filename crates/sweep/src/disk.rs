//! What a grid will take of the disk, before it starts.

use std::collections::HashMap;
use std::fs;

use indicatif::DecimalBytes;
use sweep_core::KeepCheckpoints;
use sweep_core::home::Home;
use sweep_core::spec::{RunId, RunSpec};
use sweep_core::trajectory::{Follower, followers};

use crate::exit::bad_input;
use crate::hub::free_space;
use crate::size::Size;

/// Bytes that the runs which are left put on disk, by what they are for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Forecast {
    /// Final models.
    pub(crate) models: u64,
    /// Last checkpoints of finished runs, where they are kept.
    pub(crate) last: u64,
    /// While runs run: their checkpoints, and beginnings that other runs wait for.
    pub(crate) working: u64,
}

impl Forecast {
    /// Returns what `runs`, all of which are still to be done, take on `slots` slots.
    pub(crate) fn of(runs: &[(RunId, &RunSpec)], slots: usize, keep: KeepCheckpoints) -> Self {
        let sizes: Vec<(RunId, Size)> = runs.iter().map(|(run, spec)| (*run, Size::of(spec))).collect();
        let models = sizes.iter().map(|(_, size)| size.model).sum();
        let finished: u64 = sizes.iter().map(|(_, size)| size.finished(keep)).sum();
        let mut running: Vec<u64> =
            sizes.iter().map(|(_, size)| size.running() - size.finished(keep).min(size.running())).collect();
        running.sort_unstable_by_key(|bytes| std::cmp::Reverse(*bytes));
        Self {
            models,
            last: finished - models,
            working: running.iter().take(slots).sum::<u64>() + beginnings(runs),
        }
    }

    /// Returns the most that the grid takes at a time if everything is kept that is to be kept.
    pub(crate) const fn most(self) -> u64 {
        self.models + self.last + self.working
    }

    /// Returns what it cannot do without: last checkpoints of finished runs are given up where the disk is short.
    pub(crate) const fn least(self) -> u64 {
        self.models + self.working
    }

    /// Says it in a line.
    pub(crate) fn in_words(self) -> String {
        let last = match self.last {
            0 => String::new(),
            bytes => format!(" and last checkpoints {}", DecimalBytes(bytes)),
        };
        format!(
            "disk: {} at most: models {}{last}, {} while they are trained",
            DecimalBytes(self.most()),
            DecimalBytes(self.models),
            DecimalBytes(self.working)
        )
    }
}

/// Returns the most that checkpoints take which are kept for other runs: each from the run that writes it to the last one
/// that starts from it, in the order of the grid.
fn beginnings(runs: &[(RunId, &RunSpec)]) -> u64 {
    let place: HashMap<RunId, usize> =
        runs.iter().enumerate().map(|(place, (run, _))| (*run, place)).collect();
    let mut last: HashMap<(RunId, u32), usize> = HashMap::new();
    for Follower { run, leader, epochs } in followers(runs) {
        last.insert((leader, epochs), place[&run]);
    }
    let mut changes = vec![0_i128; runs.len() + 1];
    for ((leader, _), end) in last {
        let bytes = i128::from(Size::of(runs[place[&leader]].1).checkpoint);
        changes[place[&leader]] += bytes;
        changes[end + 1] -= bytes;
    }
    let mut now = 0;
    let most = changes.into_iter().map(|change| {
        now += change;
        now
    });
    most.max().unwrap_or(0) as u64
}

/// Returns the bytes of all checkpoints and models of a home folder.
pub(crate) fn used(home: &Home) -> u64 {
    let files =
        |folder: std::path::PathBuf| fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let bytes = |folder| -> u64 { files(folder).filter_map(|file| Some(file.metadata().ok()?.len())).sum() };
    let models = files(home.root().join("runs")).map(|run| bytes(run.path().join("model")));
    bytes(home.trajectories()) + models.sum::<u64>()
}

/// What the disk of a home folder can still take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    /// What the file system has; `None` where it does not say.
    pub(crate) free: Option<u64>,
    /// What is left of `execution.disk_budget`, where there is one.
    pub(crate) budget: Option<u64>,
}

impl Room {
    /// Looks at the disk. `used` is what checkpoints and models take already.
    pub(crate) fn of(home: &Home, budget: Option<u64>, used: u64) -> Self {
        let root = std::path::absolute(home.root()).unwrap_or_else(|_| home.root().to_owned());
        Self { free: free_space(&root), budget: budget.map(|budget| budget.saturating_sub(used)) }
    }

    fn bytes(self) -> Option<u64> {
        match (self.free, self.budget) {
            (Some(free), Some(budget)) => Some(free.min(budget)),
            (free, budget) => free.or(budget),
        }
    }

    /// Says what is there, and what follows if that is too little for `forecast`; the flag tells whether it cannot do.
    pub(crate) fn judge(self, forecast: Forecast) -> (String, bool) {
        let Some(room) = self.bytes() else { return (String::new(), false) };
        let source = if self.budget == Some(room) { "are left of the disk budget" } else { "are free" };
        let there = format!("{} {source}", DecimalBytes(room));
        if forecast.most() <= room {
            (there, false)
        } else if forecast.least() <= room {
            (format!("{there}: last checkpoints of finished runs will be deleted, the oldest first"), false)
        } else {
            (format!("{there}, too little"), true)
        }
    }

    /// Refuses a grid that cannot fit.
    pub(crate) fn check(self, forecast: Forecast) -> anyhow::Result<()> {
        let (judgement, refused) = self.judge(forecast);
        if !refused {
            return Ok(());
        }
        Err(bad_input(format!(
            "the grid does not fit the disk: models {} and {} while they are trained; {judgement}\n  hint: `sweep gc` frees what no run needs; --home names a folder on another disk; execution.disk_budget is the limit",
            DecimalBytes(forecast.models),
            DecimalBytes(forecast.working),
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORECAST: Forecast = Forecast { models: 100, last: 300, working: 50 };

    #[test]
    fn what_is_short_decides_what_follows() {
        for (free, budget, words, refused) in [
            (Some(450), None, "450 B are free", false),
            (Some(449), None, "will be deleted, the oldest first", false),
            (Some(1000), Some(150), "150 B are left of the disk budget: last", false),
            (Some(149), Some(1000), "149 B are free, too little", true),
            (None, None, "", false),
        ] {
            let room = Room { free, budget };
            let (text, is_refused) = room.judge(FORECAST);
            assert!(text.contains(words), "{text}");
            assert_eq!((is_refused, room.check(FORECAST).is_err()), (refused, refused));
        }
    }
}
