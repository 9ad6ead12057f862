//! Damage to what lies on disk while nobody is alive: what a bad disk does, or a machine that loses power.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sweep_core::home::Home;
use sweep_core::spec::RunId;

use crate::chaos::ledger::{Cause, Ledger};
use crate::chaos::plan::{Harm, HarmKind};
use crate::chaos::traces::{Attempt, Checkpoint, checkpoints, event_files, trained};

/// Bytes of a checkpoint that are changed at most.
const MOST_BYTES: usize = 8;

/// Does damage, and knows what it has done already.
#[derive(Debug, Default)]
pub(crate) struct Vandal {
    /// Checkpoints that are damaged, with the time that they got by that: a file written anew under the same name is good.
    spoilt: HashMap<PathBuf, SystemTime>,
}

impl Vandal {
    /// Does a harm to one of `runs` and notes in the ledger what it may cost. Returns what was done, in words; `None` where
    /// there was nothing to damage.
    pub(crate) fn harm(
        &mut self,
        home: &Home,
        runs: &BTreeSet<RunId>,
        harm: Harm,
        ledger: &mut Ledger,
    ) -> io::Result<Option<String>> {
        match harm.kind {
            HarmKind::CutEvents => cut_events(home, runs, harm, ledger),
            HarmKind::FlipCheckpoint => self.checkpoint(home, runs, harm, ledger, flip),
            HarmKind::CutCheckpoint => self.checkpoint(home, runs, harm, ledger, cut),
        }
    }

    /// Damages the newest good checkpoint of a run. The one before it is at most an epoch older; without one, all that was
    /// trained may be lost.
    fn checkpoint(
        &mut self,
        home: &Home,
        runs: &BTreeSet<RunId>,
        harm: Harm,
        ledger: &mut Ledger,
        spoil: fn(&Path, Harm) -> io::Result<()>,
    ) -> io::Result<Option<String>> {
        let good: Vec<Checkpoint> = checkpoints(home)
            .into_iter()
            .filter(|found| runs.contains(&found.run) && self.spoilt.get(&found.path) != Some(&found.written))
            .collect();
        let owners: Vec<RunId> =
            good.iter().map(|found| found.run).collect::<BTreeSet<_>>().into_iter().collect();
        let Some(run) = chosen(&owners, harm.pick) else { return Ok(None) };
        let own: Vec<&Checkpoint> = good.iter().filter(|found| found.run == *run).collect();
        let Some((newest, before)) = own.split_last() else { return Ok(None) };
        let cost = if before.is_empty() { visible_epochs(home, *run)? } else { 1 };
        spoil(&newest.path, harm)?;
        self.spoilt.insert(newest.path.clone(), fs::metadata(&newest.path)?.modified()?);
        ledger.lose(*run, cost);
        Ok(Some(format!("{} (may cost {cost} epochs)", newest.path.display())))
    }
}

/// Cuts the newest event file of a run. That hides reports of checkpoints, without which no checkpoint is trusted, and the
/// ones reported earlier may be gone: every epoch that can still be seen may be trained again. Those that are hidden count
/// neither as trained nor as trained again.
fn cut_events(
    home: &Home,
    runs: &BTreeSet<RunId>,
    harm: Harm,
    ledger: &mut Ledger,
) -> io::Result<Option<String>> {
    // Later attempts of a run come later and replace the earlier ones.
    let newest: HashMap<RunId, (Attempt, PathBuf)> =
        event_files(home).into_iter().map(|(attempt, path)| (attempt.run, (attempt, path))).collect();
    let owners: Vec<RunId> = runs.iter().copied().filter(|run| newest.contains_key(run)).collect();
    let Some(run) = chosen(&owners, harm.pick) else { return Ok(None) };
    let (attempt, path) = &newest[run];
    cut(path, harm)?;
    let cost = visible_epochs(home, *run)?;
    ledger.hit(*attempt, Cause::Cut);
    ledger.lose(*run, cost);
    Ok(Some(format!("{} (may cost {cost} epochs)", path.display())))
}

fn visible_epochs(home: &Home, run: RunId) -> io::Result<usize> {
    Ok(trained(home)?.get(&run).map_or(0, |trained| trained.epochs.len()))
}

fn chosen<T>(items: &[T], pick: u64) -> Option<&T> {
    let count = items.len() as u64;
    items.get(pick.checked_rem(count)? as usize)
}

fn cut(path: &Path, harm: Harm) -> io::Result<()> {
    let file = File::options().write(true).open(path)?;
    let length = file.metadata()?.len();
    file.set_len((length as f64 * harm.place) as u64)
}

fn flip(path: &Path, harm: Harm) -> io::Result<()> {
    let mut bytes = fs::read(path)?;
    let start = (bytes.len() as f64 * harm.place) as usize;
    for byte in bytes.iter_mut().skip(start).take(1 + harm.pick as usize % MOST_BYTES) {
        *byte ^= 0xff;
    }
    fs::write(path, bytes)
}

#[cfg(test)]
mod tests {
    use sweep_testkit::{Workspace, id_of};

    use super::*;

    fn harm(kind: HarmKind) -> Harm {
        Harm { kind, pick: 3, place: 0.5 }
    }

    fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn epochs(count: u32) -> String {
        (0..count)
            .map(|epoch| format!("{{\"event\":{{\"kind\":\"epoch_finished\",\"epoch\":{epoch}}}}}\n"))
            .collect()
    }

    #[test]
    fn the_newest_event_file_is_cut_and_what_can_be_seen_may_be_lost() {
        let workspace = Workspace::new();
        let (home, run) = (workspace.layout(), id_of(0));
        let mut ledger = Ledger::default();
        let (mut vandal, runs) = (Vandal::default(), BTreeSet::from([run]));
        let harm = harm(HarmKind::CutEvents);
        assert_eq!(vandal.harm(&home, &runs, harm, &mut ledger).unwrap(), None);
        write(&home.events(run, 1), &epochs(2));
        write(&home.events(run, 2), &epochs(4));
        vandal.harm(&home, &runs, harm, &mut ledger).unwrap().unwrap();
        assert_eq!(fs::read_to_string(home.events(run, 1)).unwrap(), epochs(2));
        assert_eq!(fs::read_to_string(home.events(run, 2)).unwrap(), epochs(2));
        // Epochs 0 and 1 can be seen, and the attempt counts as one that was hit.
        assert_eq!(ledger.allowance(run), 2 + 1);
    }

    #[test]
    fn the_newest_good_checkpoint_is_damaged_and_the_last_one_may_cost_everything() {
        let workspace = Workspace::new();
        let (home, run) = (workspace.layout(), id_of(0));
        let file = |epoch: u32| {
            home.run(run).join(format!("checkpoints/epoch-0000{epoch}-step-0000000.safetensors"))
        };
        write(&home.events(run, 1), &epochs(5));
        write(&file(4), "older");
        write(&file(5), "newer");
        let mut ledger = Ledger::default();
        let (mut vandal, runs) = (Vandal::default(), BTreeSet::from([run]));
        vandal.harm(&home, &runs, harm(HarmKind::FlipCheckpoint), &mut ledger).unwrap().unwrap();
        assert_eq!(fs::read(file(4)).unwrap(), b"older");
        assert_ne!(fs::read(file(5)).unwrap(), b"newer");
        assert_eq!(ledger.allowance(run), 1);
        vandal.harm(&home, &runs, harm(HarmKind::CutCheckpoint), &mut ledger).unwrap().unwrap();
        assert_eq!(fs::read(file(4)).unwrap(), b"ol");
        assert_eq!(ledger.allowance(run), 1 + 5);
        assert_eq!(vandal.harm(&home, &runs, harm(HarmKind::CutCheckpoint), &mut ledger).unwrap(), None);
    }
}
