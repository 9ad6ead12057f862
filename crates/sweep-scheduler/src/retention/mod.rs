//! Which checkpoints stay.
//!
//! The decision ([`plan()`]) is pure; [`collect`] looks, decides and deletes. What is kept:
//!
//! - of a run that is running: everything that it wrote, because its worker looks after that itself;
//! - what is not finished and younger than an hour: somebody may be writing it;
//! - for each run that may go on (all but those that have succeeded; failed and cancelled ones after `sweep retry`): the two
//!   deepest files of its trajectory, whoever wrote them: the newest, and one more in case that is damaged;
//! - of a succeeded run: the last whole one, unless [`KeepCheckpoints::None`];
//! - files of runs that the database does not know, and files with names of another kind: somebody else's.
//!
//! Everything else goes. Nothing that is deleted is ever needed for a result: a run whose checkpoints are gone trains the
//! same again.

mod disk;
mod plan;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sweep_core::KeepCheckpoints;
use sweep_core::home::Home;
use sweep_core::spec::RunId;
use sweep_store::{Reader, State};

use crate::error::Error;

pub(crate) use disk::{Models, Room, room};
pub use plan::{Doomed, Known, StoredFile, Unfinished, Why, plan};
use plan::{Name, several_whole};

/// States of runs that may go on.
const UNFINISHED: [State; 5] =
    [State::Pending, State::Running, State::Interrupted, State::Failed, State::Cancelled];

/// What a collection did, or would do.
#[derive(Debug, Default)]
pub struct Collected {
    /// What was deleted or, in a dry run, would be; the oldest first.
    pub removed: Vec<Doomed>,
    /// What should have been deleted and could not be, with the reason.
    pub failed: Vec<(PathBuf, io::Error)>,
    /// Files in the folder of trajectories that stay, and their bytes.
    pub kept: Size,
}

/// A number of files and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Files.
    pub files: usize,
    /// Bytes of all of them.
    pub bytes: u64,
}

impl Collected {
    /// Returns the size of what was deleted.
    pub fn removed_size(&self) -> Size {
        size(self.removed.iter().map(|doomed| doomed.bytes))
    }
}

fn size(bytes: impl Iterator<Item = u64>) -> Size {
    bytes.fold(Size::default(), |size, bytes| Size { files: size.files + 1, bytes: size.bytes + bytes })
}

/// Deletes every checkpoint that no run needs, and leftovers of attempts that are over; with `dry_run` only says which. Safe
/// while schedulers and workers are at work on the same home folder.
///
/// # Errors
/// Fails where the database or the folder of trajectories cannot be read. A file that cannot be deleted is reported in
/// [`Collected::failed`] instead.
pub async fn collect(
    reader: &Reader,
    home: &Home,
    keep: KeepCheckpoints,
    dry_run: bool,
) -> Result<Collected, Error> {
    // Files before states: a file that appears in between is not looked at, and a run that has ended in between is judged
    // by its end.
    let files = scan(&home.trajectories())?;
    let doomed = plan(&files, &survey(reader, &files).await?, keep, SystemTime::now());
    Ok(carry_out(&files, doomed, dry_run))
}

/// Deletes what [`collect`] would, and then last checkpoints of succeeded runs, the oldest first, until `wanted` bytes are
/// freed or nothing is left.
pub(crate) async fn reclaim(
    reader: &Reader,
    home: &Home,
    keep: KeepCheckpoints,
    wanted: u64,
) -> Result<Collected, Error> {
    let files = scan(&home.trajectories())?;
    let known = survey(reader, &files).await?;
    let now = SystemTime::now();
    let mut doomed = plan(&files, &known, keep, now);
    let mut freed = size(doomed.iter().map(|doomed| doomed.bytes)).bytes;
    let already: HashSet<PathBuf> = doomed.iter().map(|doomed| doomed.path.clone()).collect();
    for more in plan(&files, &known, KeepCheckpoints::None, now) {
        if freed < wanted && !already.contains(&more.path) {
            freed += more.bytes;
            doomed.push(more);
        }
    }
    Ok(carry_out(&files, doomed, false))
}

fn carry_out(files: &[StoredFile], doomed: Vec<Doomed>, dry_run: bool) -> Collected {
    let mut collected = Collected::default();
    for doomed in doomed {
        match if dry_run { Ok(()) } else { remove(&doomed.path) } {
            Ok(()) => collected.removed.push(doomed),
            Err(error) => collected.failed.push((doomed.path, error)),
        }
    }
    let removed: HashSet<&Path> = collected.removed.iter().map(|doomed| doomed.path.as_path()).collect();
    let kept = files.iter().filter(|file| !removed.contains(file.path.as_path()));
    Collected { kept: size(kept.map(|file| file.bytes)), ..collected }
}

/// Deletes a file; one that is gone already is no error, since workers clear up after themselves too.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Lists the files of a folder, which need not exist.
pub(crate) fn scan(folder: &Path) -> Result<Vec<StoredFile>, Error> {
    let failed = |source| Error::Scan { path: folder.to_owned(), source };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        match entry.metadata() {
            Ok(found) if found.is_file() => files.push(StoredFile {
                path: entry.path(),
                bytes: found.len(),
                modified: found.modified().unwrap_or(SystemTime::UNIX_EPOCH),
            }),
            Ok(_) => {}
            // A worker deleted it since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(files)
}

/// Asks the database what is known of the runs that wrote `files` or may need them.
async fn survey(reader: &Reader, files: &[StoredFile]) -> Result<Known, Error> {
    if files.is_empty() {
        return Ok(Known::default());
    }
    let mut known = Known::default();
    for attempt in reader.running_attempts().await? {
        known.running.insert(attempt.run, attempt.attempt);
    }
    for (run, _, spec) in reader.specs_of(&UNFINISHED).await? {
        known.unfinished.push(Unfinished { run, trajectory: spec.trajectory() });
    }
    let names: Vec<Name> = files.iter().filter_map(|file| Name::of(&file.path)).collect();
    let owners: HashSet<RunId> = names.iter().map(Name::run).collect();
    let owners: Vec<RunId> = owners.into_iter().collect();
    let several = several_whole(&names);
    for state in reader.states_of(&owners).await? {
        known.registered.insert(state.id);
        if state.state == State::Succeeded {
            // Which of its files is the last one only its trajectory tells; a single one is.
            let spec = if several.contains(&state.id) { reader.spec(state.id).await? } else { None };
            known.succeeded.insert(state.id, spec.map(|spec| spec.trajectory()));
        }
    }
    Ok(known)
}

/// Returns the bytes of a run's files in a listing of trajectories.
fn bytes_by_owner(files: &[StoredFile]) -> HashMap<RunId, u64> {
    let mut owned = HashMap::new();
    for file in files {
        if let Some(name) = Name::of(&file.path) {
            *owned.entry(name.run()).or_default() += file.bytes;
        }
    }
    owned
}

#[cfg(test)]
mod tests;
