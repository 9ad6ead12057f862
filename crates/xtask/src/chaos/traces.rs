//! What a home folder shows from outside, whatever the program says about it: attempts, event files, checkpoints.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::Value;
use sha2::{Digest as _, Sha256};
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
                self.lines += added.split(|byte| *byte == b'\n').count() - 1;
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

/// What the attempts at one run say that they have done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Story {
    /// How often an epoch was trained.
    pub(crate) times: usize,
    /// Which epochs were trained, from 0.
    pub(crate) epochs: BTreeSet<u64>,
    /// Completed epochs and digest of each checkpoint, by the name of its file. One that was written again counts as it
    /// came out last.
    pub(crate) checkpoints: HashMap<String, (u64, String)>,
}

impl Story {
    /// Returns how many epochs were trained again.
    pub(crate) fn repeated(&self) -> usize {
        self.times - self.epochs.len()
    }

    /// Returns how many of the epochs that were trained will be trained again, if the run goes on from the last of these
    /// checkpoints.
    pub(crate) fn at_stake(&self, good: &[GoodCheckpoint]) -> usize {
        let resumed_from = good.last().map_or(0, |last| last.epochs);
        self.epochs.range(resumed_from..).count()
    }

    /// Adds an event file. Torn lines say nothing, and an epoch taken over from another run was not trained.
    fn add(&mut self, events: &[u8]) {
        for line in events.split(|byte| *byte == b'\n') {
            let Ok(record) = serde_json::from_slice::<Value>(line) else { continue };
            let event = &record["event"];
            if event["kind"] == "epoch_finished" && event["trained_by"].is_null() {
                self.times += 1;
                self.epochs.extend(event["epoch"].as_u64());
            }
            if event["kind"] == "checkpoint_saved" {
                self.checkpoints.extend(reported(event));
            }
        }
    }
}

fn reported(event: &Value) -> Option<(String, (u64, String))> {
    let name = event["file"].as_str()?.rsplit('/').next()?;
    Some((name.to_owned(), (event["epochs"].as_u64()?, event["digest"].as_str()?.to_owned())))
}

/// Returns what the attempts at each run say, by the event files as they are now.
pub(crate) fn stories(home: &Home) -> io::Result<BTreeMap<RunId, Story>> {
    let mut stories: BTreeMap<RunId, Story> = BTreeMap::new();
    for (attempt, path) in event_files(home) {
        stories.entry(attempt.run).or_default().add(&fs::read(path)?);
    }
    Ok(stories)
}

/// A checkpoint that was reported and has the bytes that it had then.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct GoodCheckpoint {
    /// Completed epochs.
    pub(crate) epochs: u64,
    written: SystemTime,
    pub(crate) path: PathBuf,
}

/// Returns the good ones among the checkpoints of each run, the one that it would go on from last.
pub(crate) fn good_checkpoints(
    home: &Home,
    stories: &BTreeMap<RunId, Story>,
) -> io::Result<BTreeMap<RunId, Vec<GoodCheckpoint>>> {
    let mut good: BTreeMap<RunId, Vec<GoodCheckpoint>> = BTreeMap::new();
    for Checkpoint { run, path, written } in checkpoints(home) {
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        let Some((epochs, digest)) = stories.get(&run).and_then(|story| story.checkpoints.get(name)) else {
            continue;
        };
        if digest_of(&fs::read(&path)?) == *digest {
            good.entry(run).or_default().push(GoodCheckpoint { epochs: *epochs, written, path });
        }
    }
    for good in good.values_mut() {
        good.sort();
    }
    Ok(good)
}

/// Returns SHA-256 in hexadecimal digits, as events give it.
pub(crate) fn digest_of(bytes: &[u8]) -> String {
    let mut digits = String::new();
    for byte in Sha256::digest(bytes) {
        digits.push_str(&format!("{byte:02x}"));
    }
    digits
}

/// A checkpoint file.
struct Checkpoint {
    /// The run whose worker wrote it.
    run: RunId,
    path: PathBuf,
    written: SystemTime,
}

/// Returns the checkpoints that are there, in no order: those of all runs in `trajectories`, and those in folders of the
/// runs' own.
fn checkpoints(home: &Home) -> Vec<Checkpoint> {
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

    fn saved(epochs: u32, file: &str, bytes: &str) -> String {
        let digest = digest_of(bytes.as_bytes());
        let event =
            serde_json::json!({"kind": "checkpoint_saved", "epochs": epochs, "file": file, "digest": digest});
        format!("{}\n", serde_json::json!({"sequence": 1, "event": event}))
    }

    #[test]
    fn epochs_count_once_an_event_unless_they_were_taken_over() {
        let mut story = Story::default();
        story.add(epoch(0, ",\"trained_by\":\"other\"").as_bytes());
        story.add([epoch(0, ""), epoch(1, ",\"trained_by\":null")].concat().as_bytes());
        story.add([&epoch(1, ""), "{\"sequence\":9,\"event\":{\"kind\":\"epoch_fin"].concat().as_bytes());
        assert_eq!(story, Story { times: 3, epochs: [0, 1].into(), ..Story::default() });
        assert_eq!(story.repeated(), 1);
    }

    #[test]
    fn at_stake_is_what_comes_after_the_last_reported_checkpoint_with_the_reported_bytes() {
        let workspace = Workspace::new();
        let (home, run) = (workspace.layout(), id_of(0));
        let events: String = (0..4).map(|number| epoch(number, "")).collect();
        let reports =
            saved(1, "checkpoints/a.safetensors", "one") + &saved(3, "checkpoints/b.safetensors", "three");
        write(&home.events(run, 1), &(events + &reports));
        let at_stake = || {
            let stories = stories(&home).unwrap();
            let good = good_checkpoints(&home, &stories).unwrap();
            stories[&run].at_stake(good.get(&run).map_or(&[], Vec::as_slice))
        };
        let file = |name: &str| home.run(run).join("checkpoints").join(name);
        assert_eq!(at_stake(), 4);
        write(&file("a.safetensors"), "one");
        write(&file("unreported.safetensors"), "four");
        assert_eq!(at_stake(), 3);
        write(&file("b.safetensors"), "three");
        assert_eq!(at_stake(), 1);
        write(&file("b.safetensors"), "tree");
        assert_eq!(at_stake(), 3);
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
