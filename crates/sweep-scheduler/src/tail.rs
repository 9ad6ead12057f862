//! Reads an attempt's `events.jsonl` while it grows.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use sweep_core::event::Record;

/// Most that one call reads, so that a worker gone wild cannot hold up the scheduler.
const CHUNK: u64 = 256 * 1024;

/// Longest line that can be an event; real ones stay below a kilobyte.
const LONGEST_LINE: usize = 64 * 1024;

/// An incremental reader: each call returns the records completed since the one before.
///
/// A last line without its newline waits for the rest. A line that is no event ends the reading for good: nothing
/// behind it is believed.
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
}

/// What one call found.
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    pub(crate) records: Vec<Record>,
    /// Bytes of the file up to the last complete line read so far.
    pub(crate) offset: u64,
    /// Why nothing more will come, if so. Said once.
    pub(crate) damage: Option<Damage>,
    /// Whether more may be there already.
    pub(crate) more: bool,
}

/// Why an event file cannot be read on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Damage {
    #[error("failed to read `{}`: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("line {line} of `{}` is no event: {source}", path.display())]
    Line { path: PathBuf, line: u64, source: serde_json::Error },
    #[error("line {line} of `{}` is longer than {LONGEST_LINE} bytes", path.display())]
    Length { path: PathBuf, line: u64 },
}

impl Tail {
    /// Returns a reader that starts at the beginning of `path`, which need not exist yet.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, file: None, partial: Vec::new(), lines: 0, offset: 0, damaged: false }
    }

    /// Returns what has been added since the last call, up to a bounded amount.
    pub(crate) fn read(&mut self) -> Chunk {
        if self.damaged {
            return Chunk { offset: self.offset, ..Chunk::default() };
        }
        let read = match self.read_bytes() {
            Ok(read) => read,
            Err(source) => {
                self.damaged = true;
                let damage = Damage::Read { path: self.path.clone(), source };
                return Chunk { damage: Some(damage), offset: self.offset, ..Chunk::default() };
            }
        };
        let (records, damage) = self.take_lines();
        self.damaged = damage.is_some();
        Chunk { records, offset: self.offset, more: read == CHUNK && damage.is_none(), damage }
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
                Ok(file) => Some(file),
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
            match serde_json::from_slice(&self.partial[start..start + length]) {
                Ok(record) => records.push(record),
                Err(source) => {
                    return (
                        records,
                        Some(Damage::Line { path: self.path.clone(), line: self.lines, source }),
                    );
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
