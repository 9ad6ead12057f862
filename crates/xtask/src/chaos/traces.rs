//! What a home folder shows from outside, whatever the program says about it: attempts, event files, checkpoints.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::Value;
use sweep_core::home::Home;
use sweep_core::spec::RunId;

/// An attempt at a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Attempt {
    pub(crate) run: RunId,
    /// From 1.
    pub(crate) number: u32,
}

impl fmt::Display for Attempt {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} attempt {}", self.run.short(), self.number)
    }
}

/// Returns the attempts that have a folder.
pub(crate) fn attempts(home: &Home) -> BTreeSet<Attempt> {
    let mut attempts = BTreeSet::new();
    for (name, path) in entries(&home.root().join("runs")) {
        let Ok(run) = name.parse::<RunId>() else { continue };
        for (name, _) in entries(&path) {
            let number = name.strip_prefix("attempt-").and_then(|number| number.parse().ok());
            attempts.extend(number.map(|number| Attempt { run, number }));
        }
    }
    attempts
}

/// Returns the event files that are there, each run's in the order of its attempts.
pub(crate) fn event_files(home: &Home) -> BTreeMap<Attempt, PathBuf> {
    let files = attempts(home).into_iter().map(|attempt| (attempt, home.events(attempt.run, attempt.number)));
    files.filter(|(_, path)| path.exists()).collect()
}

/// How often the workers of a home folder have written a line, from the moment that this is made.
#[derive(Debug)]
pub(crate) struct Watch {
    home: Home,
    lengths: HashMap<PathBuf, u64>,
    lines: usize,
}

impl Watch {
    pub(crate) fn new(home: &Home) -> io::Result<Self> {
        let mut watch = Self { home: home.clone(), lengths: HashMap::new(), lines: 0 };
        watch.lines()?;
        watch.lines = 0;
        Ok(watch)
    }

    /// Returns the number of lines since the beginning.
    pub(crate) fn lines(&mut self) -> io::Result<usize> {
        for path in event_files(&self.home).into_values() {
            let known = self.lengths.get(&path).copied().unwrap_or(0);
            if fs::metadata(&path)?.len() > known {
                let added = read_from(&path, known)?;
                self.lines += added.iter().filter(|byte| **byte == b'\n').count();
                self.lengths.insert(path, known + added.len() as u64);
            }
        }
        Ok(self.lines)
    }
}

fn read_from(path: &Path, start: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Epochs that the attempts at one run say that they have trained.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Trained {
    /// How often one was trained.
    pub(crate) times: usize,
    /// Which ones, from 0.
    pub(crate) epochs: BTreeSet<u64>,
}

impl Trained {
    /// Returns how many epochs were trained again.
    pub(crate) fn repeated(&self) -> usize {
        self.times - self.epochs.len()
    }

    /// Adds the epochs of an event file. Torn lines say nothing, and an epoch taken over from another run was not trained.
    fn add(&mut self, events: &[u8]) {
        for line in events.split(|byte| *byte == b'\n') {
            let Ok(record) = serde_json::from_slice::<Value>(line) else { continue };
            let event = &record["event"];
            if event["kind"] == "epoch_finished" && event["trained_by"].is_null() {
                self.times += 1;
                self.epochs.extend(event["epoch"].as_u64());
            }
        }
    }
}

/// Returns what the attempts at each run have trained, by the event files as they are now.
pub(crate) fn trained(home: &Home) -> io::Result<BTreeMap<RunId, Trained>> {
    let mut trained: BTreeMap<RunId, Trained> = BTreeMap::new();
    for (attempt, path) in event_files(home) {
        trained.entry(attempt.run).or_default().add(&fs::read(path)?);
    }
    Ok(trained)
}

/// A checkpoint file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    /// The run whose worker wrote it.
    pub(crate) run: RunId,
    pub(crate) path: PathBuf,
    pub(crate) written: SystemTime,
}

/// Returns the checkpoints that are there, oldest first: those of all runs in `trajectories`, and those in folders of the
/// runs' own.
pub(crate) fn checkpoints(home: &Home) -> Vec<Checkpoint> {
    let mut found = Vec::new();
    for (name, path) in entries(&home.root().join("trajectories")) {
        found.extend(writer(&name).and_then(|run| checkpoint(run, path)));
    }
    for (name, path) in entries(&home.root().join("runs")) {
        let Ok(run) = name.parse() else { continue };
        let files = entries(&path.join("checkpoints")).into_iter();
        let files = files.filter(|(name, _)| name.ends_with(".safetensors"));
        found.extend(files.filter_map(|(_, path)| checkpoint(run, path)));
    }
    found.sort_by(|one, other| (one.written, &one.path).cmp(&(other.written, &other.path)));
    found
}

/// Returns the run in the name of a shared checkpoint: `<prefix>-<run>-<step>-<digest>.safetensors`.
fn writer(name: &str) -> Option<RunId> {
    name.strip_suffix(".safetensors")?.split('-').nth(1)?.parse().ok()
}

fn checkpoint(run: RunId, path: PathBuf) -> Option<Checkpoint> {
    let written = fs::metadata(&path).and_then(|metadata| metadata.modified()).ok()?;
    Some(Checkpoint { run, path, written })
}

/// Returns what lies in a folder, by name; nothing where there is no folder.
fn entries(folder: &Path) -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let mut named: Vec<_> =
        entries.filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path()))).collect();
    named.sort();
    named
}

#[cfg(test)]
mod tests {
    use sweep_testkit::{Workspace, id_of};

    use super::*;

    fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn epoch(epoch: u32, more: &str) -> String {
        format!("{{\"sequence\":0,\"event\":{{\"kind\":\"epoch_finished\",\"epoch\":{epoch}{more}}}}}\n")
    }

    #[test]
    fn epochs_count_once_an_event_unless_they_were_taken_over() {
        let mut trained = Trained::default();
        trained.add(epoch(0, ",\"trained_by\":\"other\"").as_bytes());
        trained.add([epoch(0, ""), epoch(1, ",\"trained_by\":null")].concat().as_bytes());
        trained.add([&epoch(1, ""), "{\"sequence\":9,\"event\":{\"kind\":\"epoch_fin"].concat().as_bytes());
        assert_eq!(trained, Trained { times: 3, epochs: [0, 1].into() });
        assert_eq!(trained.repeated(), 1);
    }

    #[test]
    fn lines_are_counted_from_the_beginning_of_the_watch() {
        let workspace = Workspace::new();
        let home = workspace.layout();
        write(&home.events(id_of(0), 1), "old\nhal");
        let mut watch = Watch::new(&home).unwrap();
        assert_eq!(watch.lines().unwrap(), 0);
        write(&home.events(id_of(0), 1), "old\nhalf\nnew\n");
        write(&home.events(id_of(1), 2), "other\nunfinished");
        assert_eq!(watch.lines().unwrap(), 3);
        assert_eq!(watch.lines().unwrap(), 3);
    }

    #[test]
    fn checkpoints_are_found_in_both_places() {
        let workspace = Workspace::new();
        let home = workspace.layout();
        let own = home.run(id_of(0)).join("checkpoints/epoch-00001-step-0000000.safetensors");
        let shared = home.root().join(format!("trajectories/00ff-{}-12-abcd.safetensors", id_of(1)));
        for path in [&own, &shared, &own.with_extension("tmp-7"), &shared.with_extension("tmp-7")] {
            write(path, "");
        }
        let mut found: Vec<_> = checkpoints(&home).into_iter().map(|found| (found.run, found.path)).collect();
        found.sort();
        let mut expected = vec![(id_of(0), own), (id_of(1), shared)];
        expected.sort();
        assert_eq!(found, expected);
    }
}
