//! Reads an attempt's `events.jsonl` while it grows.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Component, Path, PathBuf};

use sweep_core::event::{Event, Record};

/// Most that one call reads, so that a worker gone wild cannot hold up the scheduler.
const CHUNK: u64 = 256 * 1024;

/// Longest line that can be an event; real ones stay below a kilobyte.
const LONGEST_LINE: usize = 64 * 1024;

/// The last epoch that a run can have: the grammar of sweep files allows no more.
const LAST_EPOCH: u32 = 100_000;

/// An incremental reader: each call returns the records completed since the one before.
///
/// A last line without its newline waits for the rest. A line that is no event ends the reading for good: nothing
/// behind it is believed. Reading that fails ends nothing: the next call goes on from the same place.
#[derive(Debug)]
pub(crate) struct Tail {
    path: PathBuf,
    /// Open once the worker has created it.
    file: Option<File>,
    /// Read, but not yet ended by a newline.
    partial: Vec<u8>,
    /// Complete lines so far, and their bytes.
    lines: u64,
    offset: u64,
    damaged: bool,
    /// Whether the last call could not read, so that it is said once.
    unreadable: bool,
}

/// What one call found.
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    pub(crate) records: Vec<Record>,
    /// Bytes of the file up to the last complete line read so far.
    pub(crate) offset: u64,
    /// Why nothing more will come, if so; said once. Or why nothing could be read now.
    pub(crate) damage: Option<Damage>,
    /// Whether more may be there already.
    pub(crate) more: bool,
}

/// Why an event file cannot be read on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Damage {
    #[error("failed to read `{}`: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("line {line} of `{}` is no event: {reason}", path.display())]
    Line { path: PathBuf, line: u64, reason: String },
    #[error("line {line} of `{}` is longer than {LONGEST_LINE} bytes", path.display())]
    Length { path: PathBuf, line: u64 },
}

impl Tail {
    /// Returns a reader that starts at the beginning of `path`, which need not exist yet.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, file: None, partial: Vec::new(), lines: 0, offset: 0, damaged: false, unreadable: false }
    }

    /// Like [`Self::read`], for a file that is read again: that it cannot be read now passes, as descriptors that have run
    /// out and a file server that does not answer do, and is nothing against its writer.
    pub(crate) fn poll(&mut self) -> Chunk {
        let mut chunk = self.read();
        let failed = chunk.damage.take_if(|damage| matches!(damage, Damage::Read { .. }));
        if let Some(failed) = &failed
            && !self.unreadable
        {
            tracing::warn!("{failed}; it is tried again");
        }
        self.unreadable = failed.is_some();
        chunk
    }

    /// Returns what has been added since the last call, up to a bounded amount.
    pub(crate) fn read(&mut self) -> Chunk {
        if self.damaged {
            return Chunk { offset: self.offset, ..Chunk::default() };
        }
        let read = match self.read_bytes() {
            Ok(read) => read,
            Err(source) => {
                self.close();
                let damage = Damage::Read { path: self.path.clone(), source };
                return Chunk { damage: Some(damage), offset: self.offset, ..Chunk::default() };
            }
        };
        let (records, damage) = self.take_lines();
        self.damaged = damage.is_some();
        Chunk { records, offset: self.offset, more: read == CHUNK && damage.is_none(), damage }
    }

    /// Lets go of the file, which the next call opens anew: a network file system asks its server for news only when a file
    /// is opened, and whoever follows thousands has no descriptors for all of them.
    pub(crate) fn close(&mut self) {
        self.file = None;
    }

    /// Returns everything up to the end of the file: for a file whose writer is gone.
    pub(crate) fn read_to_end(&mut self) -> Chunk {
        let mut all = self.read();
        while all.more {
            let next = self.read();
            all.records.extend(next.records);
            (all.offset, all.damage, all.more) = (next.offset, next.damage, next.more);
        }
        all
    }

    fn read_bytes(&mut self) -> io::Result<u64> {
        if self.file.is_none() {
            self.file = match File::open(&self.path) {
                Ok(mut file) => {
                    file.seek(SeekFrom::Start(self.offset + self.partial.len() as u64))?;
                    Some(file)
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            };
        }
        let Some(file) = &mut self.file else {
            return Ok(0);
        };
        let mut added = Vec::new();
        match file.take(CHUNK).read_to_end(&mut added) {
            Ok(read) => {
                self.partial.append(&mut added);
                Ok(read as u64)
            }
            Err(error) => Err(error),
        }
    }

    /// Cuts complete lines off what was read.
    fn take_lines(&mut self) -> (Vec<Record>, Option<Damage>) {
        let mut records = Vec::new();
        let mut start = 0;
        while let Some(length) = self.partial[start..].iter().position(|byte| *byte == b'\n') {
            self.lines += 1;
            match event(&self.partial[start..start + length]) {
                Ok(record) => records.push(record),
                Err(reason) => {
                    let damage = Damage::Line { path: self.path.clone(), line: self.lines, reason };
                    return (records, Some(damage));
                }
            }
            start += length + 1;
            self.offset += length as u64 + 1;
        }
        self.partial.drain(..start);
        let too_long = self.partial.len() > LONGEST_LINE;
        let damage = too_long.then(|| Damage::Length { path: self.path.clone(), line: self.lines + 1 });
        (records, damage)
    }
}

/// Reads one line; an event that cannot have happened is none. The error is in words.
fn event(line: &[u8]) -> Result<Record, String> {
    if line.len() > LONGEST_LINE {
        return Err(format!("it has {} bytes, expected at most {LONGEST_LINE}", line.len()));
    }
    let record: Record = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    match fault(&record) {
        Some(fault) => Err(fault),
        None => Ok(record),
    }
}

/// Says what no worker can mean, if the record has something of that kind: the database would refuse it, and with it
/// everything else that is waiting to be stored.
fn fault(record: &Record) -> Option<String> {
    if i64::try_from(record.sequence).is_err() {
        return Some(format!("its sequence number {} is beyond {}", record.sequence, i64::MAX));
    }
    match &record.event {
        Event::EpochFinished {
            epoch,
            train_correct,
            train_total,
            clean_correct,
            robust_correct,
            validation_total,
            ..
        } => too_late(*epoch)
            .or_else(|| too_many("train_correct", *train_correct, *train_total))
            .or_else(|| too_many("clean_correct", *clean_correct, *validation_total))
            .or_else(|| too_many("robust_correct", *robust_correct, *validation_total)),
        Event::Evaluated { epochs, correct, total, .. } => {
            too_late(*epochs).or_else(|| too_many("correct", *correct, *total))
        }
        Event::Progress { epoch, .. } => too_late(*epoch),
        Event::Interrupted { epochs } => too_late(*epochs),
        Event::CheckpointSaved { epochs, file, bytes, .. } => {
            too_late(*epochs).or_else(|| elsewhere(file)).or_else(|| too_large("bytes", *bytes))
        }
        Event::ModelSaved { file, bytes, .. } => elsewhere(file).or_else(|| too_large("bytes", *bytes)),
        Event::Loaded { parameters, skipped, .. } => {
            too_large("parameters", *parameters).or_else(|| too_large("skipped", *skipped))
        }
        _ => None,
    }
}

fn too_many(what: &str, correct: u32, total: u32) -> Option<String> {
    (correct > total).then(|| format!("{what} is {correct} of {total} images"))
}

fn too_late(epoch: u32) -> Option<String> {
    (epoch > LAST_EPOCH).then(|| format!("its epoch is {epoch}, expected at most {LAST_EPOCH}"))
}

fn too_large(what: &str, value: u64) -> Option<String> {
    i64::try_from(value).is_err().then(|| format!("{what} is {value}, expected at most {}", i64::MAX))
}

/// A file is named relative to the run's folder and lies in it.
fn elsewhere(file: &str) -> Option<String> {
    let inside = |part: Component<'_>| matches!(part, Component::Normal(_));
    let is_inside = !file.is_empty() && Path::new(file).components().all(inside);
    (!is_inside).then(|| format!("the file {file:?} does not lie in the run's folder"))
}

/// Returns the last `bytes` of a file as text, from the beginning of a line: the end of a failed attempt's log.
pub(crate) fn end_of_file(path: &Path, bytes: u64) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let start = length.saturating_sub(bytes);
    file.seek(SeekFrom::Start(start))?;
    let mut end = Vec::new();
    file.take(bytes).read_to_end(&mut end)?;
    let text = String::from_utf8_lossy(&end);
    let whole_lines = match text.split_once('\n') {
        Some((_, rest)) if start > 0 && !rest.is_empty() => rest,
        _ => &text,
    };
    Ok(whole_lines.to_owned())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn line(sequence: u64) -> String {
        format!("{{\"sequence\":{sequence},\"time_ms\":0,\"event\":{{\"kind\":\"succeeded\"}}}}\n")
    }

    fn sequences(chunk: &Chunk) -> Vec<u64> {
        chunk.records.iter().map(|record| record.sequence).collect()
    }

    struct Growing {
        file: File,
        tail: Tail,
        _folder: tempfile::TempDir,
    }

    impl Growing {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("events.jsonl");
            Self { file: File::create(&path).unwrap(), tail: Tail::new(path), _folder: folder }
        }

        fn add(&mut self, text: &[u8]) -> Chunk {
            self.file.write_all(text).unwrap();
            self.tail.read()
        }
    }

    #[test]
    fn a_file_that_is_not_there_yet_has_no_events() {
        let folder = tempfile::tempdir().unwrap();
        let chunk = Tail::new(folder.path().join("events.jsonl")).read();
        assert!(chunk.records.is_empty() && chunk.damage.is_none());
    }

    #[test]
    fn a_torn_line_waits_for_its_rest_wherever_it_is_torn() {
        let text = [line(0), line(1)].concat();
        for cut in 0..text.len() {
            let mut growing = Growing::new();
            let mut found = sequences(&growing.add(&text.as_bytes()[..cut]));
            assert_eq!(found.len(), usize::from(cut >= line(0).len()));
            found.extend(sequences(&growing.add(&text.as_bytes()[cut..])));
            assert_eq!(found, [0, 1]);
        }
    }

    #[test]
    fn garbage_is_named_by_its_line_once_and_ends_the_reading() {
        let mut growing = Growing::new();
        let chunk =
            growing.add([line(0).as_bytes(), b"\xff\x00 nonsense\n", line(1).as_bytes()].concat().as_slice());
        assert_eq!(sequences(&chunk), [0]);
        assert!(chunk.damage.unwrap().to_string().contains("line 2 of"));
        let after = growing.add(line(2).as_bytes());
        assert!(after.records.is_empty() && after.damage.is_none());
    }

    #[test]
    fn what_cannot_be_read_now_is_read_later() {
        let mut growing = Growing::new();
        assert_eq!(sequences(&growing.add(line(0).as_bytes())), [0]);
        let path = growing.tail.path.clone();
        let aside = path.with_extension("aside");
        std::fs::rename(&path, &aside).unwrap();
        // A folder in its place stands for a file server that does not answer.
        std::fs::create_dir(&path).unwrap();
        growing.tail.close();
        for _ in 0..2 {
            let chunk = growing.tail.poll();
            assert!(chunk.records.is_empty() && chunk.damage.is_none());
            assert_eq!(chunk.offset, line(0).len() as u64);
        }
        assert!(matches!(growing.tail.read_to_end().damage, Some(Damage::Read { .. })));
        std::fs::remove_dir(&path).unwrap();
        std::fs::rename(&aside, &path).unwrap();
        assert_eq!(sequences(&growing.add(line(1).as_bytes())), [1]);
    }

    /// A record of one event, given as JSON.
    fn record(event: &str) -> String {
        format!("{{\"sequence\":0,\"time_ms\":0,\"event\":{event}}}\n")
    }

    fn epoch(epoch: u64, train: [i64; 2], correct: [i64; 3]) -> String {
        let ([train_correct, train_total], [clean, robust, total]) = (train, correct);
        record(&format!(
            r#"{{"kind":"epoch_finished","epoch":{epoch},"epsilon":0.1,"learning_rate":0.1,"train_loss":1.0,
                "train_correct":{train_correct},"train_total":{train_total},"clean_correct":{clean},
                "robust_correct":{robust},"validation_total":{total},"clean_loss":1.0,"robust_loss":1.0,
                "train_seconds":1.0,"validation_seconds":1.0}}"#
        ).replace('\n', " "))
    }

    fn saved(file: &str, bytes: u64) -> String {
        record(&format!(
            r#"{{"kind":"checkpoint_saved","epochs":1,"file":"{file}","digest":"d","bytes":{bytes}}}"#
        ))
    }

    #[test]
    fn events_that_cannot_have_happened_are_none() {
        let evaluated = |correct: u64, total: u64| {
            record(&format!(
                r#"{{"kind":"evaluated","epochs":1,"split":"test","attack":"a","norm":"linf","epsilon":"1/255","correct":{correct},"total":{total},"seconds":1}}"#
            ))
        };
        let deep = format!("{}1{}", "[".repeat(20_000), "]".repeat(20_000));
        let model = |file: &str| {
            record(&format!(r#"{{"kind":"model_saved","file":"{file}","digest":"d","bytes":1}}"#))
        };
        let cases = [
            (epoch(0, [1, 2], [1, 1, 2]), ""),
            (
                epoch(u64::from(u32::MAX), [1, 2], [1, 1, 2]),
                "its epoch is 4294967295, expected at most 100000",
            ),
            (epoch(u64::MAX, [1, 2], [1, 1, 2]), "expected u32"),
            (epoch(0, [3, 2], [1, 1, 2]), "train_correct is 3 of 2 images"),
            (epoch(0, [1, 2], [3, 1, 2]), "clean_correct is 3 of 2 images"),
            (epoch(0, [1, 2], [1, 3, 2]), "robust_correct is 3 of 2 images"),
            (epoch(0, [-1, 2], [1, 1, 2]), "expected u32"),
            (epoch(0, [1, 2], [1, 1, 2]).replace("1.0", "1e999"), "number out of range"),
            (epoch(0, [1, 2], [1, 1, 2]).replace("1.0", "NaN"), "expected value"),
            (evaluated(2, 2), ""),
            (evaluated(3, 2), "correct is 3 of 2 images"),
            (evaluated(1, 2).replace("1/255", "2"), "lies outside [0, 1]"),
            (saved("checkpoints/1", 1), ""),
            (saved("checkpoints/1", u64::MAX), "bytes is 18446744073709551615"),
            (saved("../../etc/passwd", 1), "does not lie in the run's folder"),
            (saved("/etc/passwd", 1), "does not lie in the run's folder"),
            (saved("checkpoints/../../x", 1), "does not lie in the run's folder"),
            (model("model/model.safetensors"), ""),
            (model(".."), "does not lie in the run's folder"),
            (model(""), "does not lie in the run's folder"),
            (record(&deep), "is no event"),
            (record(r#"{"kind":"interrupted","epochs":100001}"#), "its epoch is 100001"),
            (line(0).replacen(":0,", ":18446744073709551615,", 1), "sequence number 18446744073709551615"),
            (" ".repeat(99_999) + "1\n", "it has 100000 bytes, expected at most 65536"),
        ];
        for (number, (text, expected)) in cases.iter().enumerate() {
            let chunk = Growing::new().add(text.as_bytes());
            match &chunk.damage {
                None => assert!(expected.is_empty() && chunk.records.len() == 1, "case {number} was read"),
                Some(damage) => {
                    let damage = damage.to_string();
                    assert!(!expected.is_empty() && damage.contains(expected), "case {number}: {damage}");
                    assert!(damage.contains("line 1 of") && chunk.records.is_empty());
                }
            }
        }
    }

    #[test]
    fn mutated_files_are_records_up_to_a_damage() {
        let text = [line(0), epoch(3, [1, 2], [1, 1, 2]), saved("checkpoints/1", 9), line(3)].concat();
        // Every byte in turn becomes each of these; a generator of random numbers would not find more.
        for place in 0..text.len() {
            for byte in *b"\0\n\"-9e}[\xff" {
                let mut bytes = text.clone().into_bytes();
                bytes[place] = byte;
                let mut growing = Growing::new();
                let chunk = growing.add(&bytes);
                assert!(chunk.records.len() <= 5 && chunk.offset <= bytes.len() as u64);
                let after = growing.add(b"\n");
                assert!(chunk.damage.is_none() || (after.damage.is_none() && after.records.is_empty()));
            }
        }
    }

    #[test]
    fn an_endless_line_is_given_up() {
        let mut growing = Growing::new();
        let damage = growing.add(&vec![b'x'; LONGEST_LINE + 1]).damage;
        assert!(matches!(damage, Some(Damage::Length { line: 1, .. })));
    }

    #[test]
    fn much_is_read_in_bounded_pieces_and_completely_at_the_end() {
        let lines = CHUNK / line(0).len() as u64 * 3;
        let text: String = (0..lines).map(line).collect();
        let mut growing = Growing::new();
        let first = growing.add(text.as_bytes());
        assert!(first.more && (first.records.len() as u64) < lines);
        let rest = growing.tail.read_to_end();
        assert_eq!((first.records.len() + rest.records.len()) as u64, lines);
        assert!(!rest.more);
    }

    #[test]
    fn the_end_of_a_log_starts_with_a_whole_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.txt");
        std::fs::write(&path, "first line\nsecond\nthird\n").unwrap();
        for (bytes, expected) in
            [(100, "first line\nsecond\nthird\n"), (15, "second\nthird\n"), (3, "rd\n"), (0, "")]
        {
            assert_eq!(end_of_file(&path, bytes).unwrap(), expected, "{bytes}");
        }
    }
}
