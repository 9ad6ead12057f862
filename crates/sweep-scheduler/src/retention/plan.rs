//! The decision: which files go.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sweep_core::KeepCheckpoints;
use sweep_core::spec::RunId;
use sweep_core::trajectory::{CheckpointName, Prefix};

/// Checkpoints that are kept for a run that may go on: the deepest, and one more in case that is damaged.
const KEPT_TO_GO_ON: usize = 2;

/// End of the name of a file that a worker has not finished: `<run>-<attempt>.tmp`.
const UNFINISHED_SUFFIX: &str = ".tmp";

/// Age of an unfinished file that nobody writes any more. A younger one may be of a worker that the database does not know:
/// tasks of Slurm begin attempts by themselves, and nobody may have followed them since.
const ABANDONED: Duration = Duration::from_hours(1);

/// A file in the folder of trajectories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredFile {
    /// Where it lies.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// When it was written.
    pub modified: SystemTime,
}

/// What is known of the runs that wrote files or may need them.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Runs that may go on.
    pub unfinished: Vec<Unfinished>,
    /// Runs that are running, with the number of the attempt.
    pub running: HashMap<RunId, u32>,
    /// Runs that have succeeded, with their trajectory; it may be missing for a run that wrote one whole file at most.
    pub succeeded: HashMap<RunId, Option<Vec<Prefix>>>,
    /// Runs that the database knows, in whatever state, as far as they wrote files.
    pub registered: HashSet<RunId>,
}

/// A run that may go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// The run.
    pub run: RunId,
    /// Its trajectory, from 0 epochs on.
    pub trajectory: Vec<Prefix>,
}

/// A file that goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doomed {
    /// The file.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Why.
    pub why: Why,
}

/// Why a file goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// A worker that is gone did not finish writing it.
    Leftover,
    /// No run that may go on would start from it.
    Unneeded,
    /// It is the last one of a succeeded run, from which a longer run could go on.
    LastOfSucceeded,
}

/// What the name of a file says.
#[derive(Clone, Debug)]
pub(super) enum Name {
    /// A checkpoint.
    Checkpoint(CheckpointName),
    /// A checkpoint that is not finished.
    Unfinished { run: RunId, attempt: u32 },
}

impl Name {
    /// Returns `None` for names of another kind.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        if let Some(stem) = name.strip_suffix(UNFINISHED_SUFFIX) {
            let (run, attempt) = stem.split_once('-')?;
            return Some(Self::Unfinished { run: run.parse().ok()?, attempt: attempt.parse().ok()? });
        }
        name.parse().ok().map(Self::Checkpoint)
    }

    pub(super) const fn run(&self) -> RunId {
        match self {
            Self::Checkpoint(name) => name.run,
            Self::Unfinished { run, .. } => *run,
        }
    }

    fn is_whole(&self) -> bool {
        matches!(self, Self::Checkpoint(CheckpointName { step: None, .. }))
    }
}

/// Returns the runs that wrote more than one whole checkpoint.
pub(super) fn several_whole(names: &[Name]) -> HashSet<RunId> {
    let mut seen = HashSet::new();
    let whole = names.iter().filter(|name| name.is_whole()).map(Name::run);
    whole.filter(|run| !seen.insert(*run)).collect()
}

/// Returns the files that go `now`, the oldest first (by name where they are of one age).
pub fn plan(files: &[StoredFile], known: &Known, keep: KeepCheckpoints, now: SystemTime) -> Vec<Doomed> {
    let shelf = Shelf::new(files);
    let mut kept = HashSet::new();
    for run in &known.unfinished {
        kept.extend(shelf.deepest(&run.trajectory).take(KEPT_TO_GO_ON));
    }
    let last: HashSet<usize> =
        known.succeeded.iter().filter_map(|(run, path)| shelf.last_whole(*run, path.as_deref())).collect();
    if keep == KeepCheckpoints::Last {
        kept.extend(&last);
    }
    let mut doomed: Vec<(SystemTime, Doomed)> = Vec::new();
    for (index, name) in &shelf.names {
        let StoredFile { path, bytes, modified } = &files[*index];
        let is_old = now.duration_since(*modified).is_ok_and(|age| age >= ABANDONED);
        if matches!(name, Name::Unfinished { .. }) && !is_old {
            continue;
        }
        if let Some(why) = verdict(*index, name, known, &kept, &last) {
            doomed.push((*modified, Doomed { path: path.clone(), bytes: *bytes, why }));
        }
    }
    doomed.sort_by(|(one, a), (other, b)| one.cmp(other).then_with(|| a.path.cmp(&b.path)));
    doomed.into_iter().map(|(_, doomed)| doomed).collect()
}

fn verdict(
    index: usize,
    name: &Name,
    known: &Known,
    kept: &HashSet<usize>,
    last: &HashSet<usize>,
) -> Option<Why> {
    let run = name.run();
    if !known.registered.contains(&run) {
        return None;
    }
    match name {
        Name::Unfinished { attempt, .. } => {
            (known.running.get(&run) != Some(attempt)).then_some(Why::Leftover)
        }
        Name::Checkpoint(_) if known.running.contains_key(&run) || kept.contains(&index) => None,
        Name::Checkpoint(_) if last.contains(&index) => Some(Why::LastOfSucceeded),
        Name::Checkpoint(_) => Some(Why::Unneeded),
    }
}

/// The checkpoints, by what they are.
struct Shelf {
    /// Files with a name that says what they are, by their place in the listing.
    names: Vec<(usize, Name)>,
    /// Of each prefix: the steps done in its last epoch (the most where it is complete) and the file, the furthest first.
    by_prefix: HashMap<Prefix, Vec<(u32, usize)>>,
    whole_by_run: HashMap<RunId, Vec<(Prefix, usize)>>,
}

impl Shelf {
    fn new(files: &[StoredFile]) -> Self {
        let named = files.iter().enumerate();
        let names: Vec<(usize, Name)> =
            named.filter_map(|(index, file)| Some((index, Name::of(&file.path)?))).collect();
        let mut by_prefix: HashMap<Prefix, Vec<(u32, usize)>> = HashMap::new();
        let mut whole_by_run: HashMap<RunId, Vec<(Prefix, usize)>> = HashMap::new();
        for (index, name) in &names {
            let Name::Checkpoint(name) = name else { continue };
            by_prefix.entry(name.prefix).or_default().push((name.step.unwrap_or(u32::MAX), *index));
            if name.step.is_none() {
                whole_by_run.entry(name.run).or_default().push((name.prefix, *index));
            }
        }
        for files in by_prefix.values_mut() {
            files.sort_unstable_by(|one, other| other.cmp(one));
        }
        Self { names, by_prefix, whole_by_run }
    }

    /// Returns the files from which a run with this trajectory could go on, the furthest first.
    fn deepest<'a>(&'a self, trajectory: &'a [Prefix]) -> impl Iterator<Item = usize> + 'a {
        let here = |prefix| self.by_prefix.get(prefix).into_iter().flatten().map(|(_, index)| *index);
        trajectory.iter().skip(1).rev().flat_map(here)
    }

    /// Returns the last whole file that a run wrote itself.
    fn last_whole(&self, run: RunId, trajectory: Option<&[Prefix]>) -> Option<usize> {
        let own = self.whole_by_run.get(&run)?;
        let depth = |prefix: &Prefix| trajectory?.iter().position(|other| other == prefix);
        own.iter().max_by_key(|(prefix, index)| (depth(prefix), *index)).map(|(_, index)| *index)
    }
}
