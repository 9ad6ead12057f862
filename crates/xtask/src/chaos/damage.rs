//! Damage to what lies on disk while nobody is alive: what a bad disk does, or a machine that loses power.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use sweep_core::home::Home;
use sweep_core::spec::RunId;

use crate::chaos::ledger::{Cause, Ledger};
use crate::chaos::plan::{Harm, HarmKind};
use crate::chaos::traces::{Attempt, event_files, good_checkpoints, stories};

/// Bytes of a checkpoint that are changed at most.
const MOST_BYTES: usize = 8;

/// Does a harm to one of `runs` and notes in the ledger what it costs. Returns what was done, in words; `None` where there
/// was nothing to damage.
///
/// What it costs follows from the files before and after: the epochs that come after the last good checkpoint are trained
/// again. That a cut event file hides epochs makes no difference: hidden ones count neither as trained nor as trained again.
pub(crate) fn harm(
    home: &Home,
    runs: &BTreeSet<RunId>,
    harm: Harm,
    ledger: &mut Ledger,
) -> io::Result<Option<String>> {
    let victim = match harm.kind {
        HarmKind::CutEvents => newest_events(home, runs, harm.pick),
        HarmKind::FlipCheckpoint | HarmKind::CutCheckpoint => newest_checkpoint(home, runs, harm.pick)?,
    };
    let Some((run, attempt, path)) = victim else { return Ok(None) };
    let before = at_stake(home, run)?;
    match harm.kind {
        HarmKind::CutEvents | HarmKind::CutCheckpoint => cut(&path, harm)?,
        HarmKind::FlipCheckpoint => flip(&path, harm)?,
    }
    let cost = at_stake(home, run)?.saturating_sub(before);
    ledger.lose(run, cost);
    if let Some(attempt) = attempt {
        ledger.hit(attempt, Cause::Cut);
    }
    Ok(Some(format!("{} (costs {cost} epochs)", path.display())))
}

/// A file that is to be damaged: whose it is, and the attempt where it belongs to one.
type Victim = (RunId, Option<Attempt>, PathBuf);

fn newest_events(home: &Home, runs: &BTreeSet<RunId>, pick: u64) -> Option<Victim> {
    // Later attempts of a run come later and replace the earlier ones.
    let newest: BTreeMap<RunId, (Attempt, PathBuf)> =
        event_files(home).into_iter().map(|(attempt, path)| (attempt.run, (attempt, path))).collect();
    let owners: Vec<&RunId> = newest.keys().filter(|run| runs.contains(run)).collect();
    let run = **chosen(&owners, pick)?;
    let (attempt, path) = newest[&run].clone();
    Some((run, Some(attempt), path))
}

fn newest_checkpoint(home: &Home, runs: &BTreeSet<RunId>, pick: u64) -> io::Result<Option<Victim>> {
    let good = good_checkpoints(home, &stories(home)?)?;
    let owners: Vec<_> = good.into_iter().filter(|(run, _)| runs.contains(run)).collect();
    let newest = chosen(&owners, pick).and_then(|(run, good)| Some((*run, None, good.last()?.path.clone())));
    Ok(newest)
}

/// Returns how many of the epochs that a run has trained it would train again.
fn at_stake(home: &Home, run: RunId) -> io::Result<usize> {
    let stories = stories(home)?;
    let good = good_checkpoints(home, &stories)?;
    let good = good.get(&run).map_or(&[][..], Vec::as_slice);
    Ok(stories.get(&run).map_or(0, |story| story.at_stake(good)))
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
    use serde_json::json;
    use sweep_testkit::{Workspace, id_of};

    use super::*;
    use crate::chaos::traces::digest_of;

    fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// A run with a checkpoint after each of its epochs, of which the newest two are there.
    fn with_epochs(home: &Home, run: RunId, count: u32) -> Vec<PathBuf> {
        let mut events = String::new();
        let file = |epochs: u32| home.run(run).join(format!("checkpoints/{epochs}.safetensors"));
        for epochs in 1..=count {
            let digest = digest_of(epochs.to_string().as_bytes());
            let saved = json!({"kind": "checkpoint_saved", "epochs": epochs, "file": format!("checkpoints/{epochs}.safetensors"), "digest": digest});
            for event in [json!({"kind": "epoch_finished", "epoch": epochs - 1}), saved] {
                events.push_str(&format!("{}\n", json!({"event": event})));
            }
        }
        write(&home.events(run, 1), &events);
        let newest = [count - 1, count];
        for epochs in newest {
            write(&file(epochs), &epochs.to_string());
        }
        newest.map(file).to_vec()
    }

    fn done(home: &Home, kind: HarmKind, place: f64, ledger: &mut Ledger) -> bool {
        let runs = BTreeSet::from([id_of(0)]);
        harm(home, &runs, Harm { kind, pick: 3, place }, ledger).unwrap().is_some()
    }

    #[test]
    fn there_may_be_nothing_to_damage() {
        let workspace = Workspace::new();
        for kind in [HarmKind::CutEvents, HarmKind::FlipCheckpoint, HarmKind::CutCheckpoint] {
            assert!(!done(&workspace.layout(), kind, 0.5, &mut Ledger::default()));
        }
    }

    #[test]
    fn the_newest_checkpoint_costs_an_epoch_and_the_last_one_all_of_them() {
        let workspace = Workspace::new();
        let (home, mut ledger) = (workspace.layout(), Ledger::default());
        let files = with_epochs(&home, id_of(0), 5);
        assert!(done(&home, HarmKind::FlipCheckpoint, 0.5, &mut ledger));
        assert_eq!(fs::read(&files[0]).unwrap(), b"4");
        assert_ne!(fs::read(&files[1]).unwrap(), b"5");
        assert_eq!(ledger.allowance(id_of(0)), 1);
        assert!(done(&home, HarmKind::CutCheckpoint, 0.5, &mut ledger));
        assert_eq!(fs::read(&files[0]).unwrap(), b"");
        assert_eq!(ledger.allowance(id_of(0)), 5);
        assert!(!done(&home, HarmKind::CutCheckpoint, 0.5, &mut ledger));
    }

    #[test]
    fn a_cut_event_file_costs_what_can_still_be_seen_and_follows_no_report() {
        for (place, seen, at_stake) in [
            (0.0, 0, 0),
            // The last report is gone, so that the checkpoint before it counts.
            (0.95, 5, 1),
            // The reports of both checkpoints that are there are gone.
            (0.5, 3, 3),
        ] {
            let workspace = Workspace::new();
            let (home, mut ledger) = (workspace.layout(), Ledger::default());
            with_epochs(&home, id_of(0), 5);
            assert!(done(&home, HarmKind::CutEvents, place, &mut ledger));
            assert_eq!(stories(&home).unwrap()[&id_of(0)].epochs.len(), seen);
            // The attempt itself counts as hit.
            assert_eq!(ledger.allowance(id_of(0)), 1 + at_stake, "{place}");
        }
    }
}
