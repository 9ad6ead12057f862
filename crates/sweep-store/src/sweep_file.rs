//! What the home folder remembers of a sweep: `sweeps/<name>.json`, from which a lost database can be made again.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sweep_core::home::Home;
use sweep_core::spec::RunId;

use crate::error::{Error, Result};

/// Largest file that is read: a hundred times one with 10,000 runs.
const LARGEST: u64 = 64 << 20;

/// A registered sweep, as a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SweepFile {
    /// Its name; the file is called after it.
    pub name: String,
    /// The sweep file as it was read.
    pub yaml: String,
    /// Its runs, in the order of expansion.
    pub runs: Vec<RunId>,
    /// When it was registered first.
    pub created_ms: i64,
    /// When it last ran.
    pub updated_ms: i64,
}

impl SweepFile {
    /// Writes the file of a sweep, as a whole or not at all. The time of the first registration stays.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn write(home: &Home, name: &str, yaml: &str, runs: Vec<RunId>, now_ms: i64) -> Result<()> {
        let path = home.sweeps().join(format!("{name}.json"));
        // A file that cannot be read is replaced: it is of no use to anybody.
        let created_ms = Self::read(&path).map_or(now_ms, |before| before.created_ms);
        let (name, yaml) = (name.to_owned(), yaml.to_owned());
        Self { name, yaml, runs, created_ms, updated_ms: now_ms }.replace(&path)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`Error::File`] for one that cannot be read, is too large, or is not what [`Self::write`] writes.
    pub fn read(path: &Path) -> Result<Self> {
        let read = || -> io::Result<Self> {
            let length = fs::metadata(path)?.len();
            if length > LARGEST {
                return Err(io::Error::other(format!("{length} bytes are too many")));
            }
            let file: Self = serde_json::from_slice(&fs::read(path)?)?;
            match path.file_stem() {
                Some(stem) if stem == file.name.as_str() => Ok(file),
                _ => Err(io::Error::other(format!("it is of the sweep `{}`", file.name))),
            }
        };
        read().map_err(|source| Error::File { path: path.to_owned(), action: "read", source })
    }

    fn replace(&self, path: &Path) -> Result<()> {
        // Two processes may register one sweep at the same time: each has a place of its own to write to.
        let temporary = path.with_extension(format!("json.{}.tmp", std::process::id()));
        let write = || -> io::Result<()> {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            let mut file = File::create(&temporary)?;
            file.write_all(&serde_json::to_vec(self)?)?;
            file.sync_all()?;
            fs::rename(&temporary, path)
        };
        write().map_err(|source| Error::File { path: path.to_owned(), action: "write", source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs() -> Vec<RunId> {
        ["0".repeat(32), "1".repeat(32)].iter().map(|id| id.parse().unwrap()).collect()
    }

    #[test]
    fn the_first_time_stays_and_the_last_one_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::new(folder.path());
        let path = home.sweeps().join("paper.json");
        SweepFile::write(&home, "paper", "a", runs(), 5).unwrap();
        let first = SweepFile::read(&path).unwrap();
        assert_eq!((first.created_ms, first.updated_ms, first.runs.clone()), (5, 5, runs()));
        SweepFile::write(&home, "paper", "a", runs(), 6).unwrap();
        assert_eq!(SweepFile::read(&path).unwrap(), SweepFile { updated_ms: 6, ..first });
        SweepFile::write(&home, "paper", "b", runs(), 7).unwrap();
        let second = SweepFile::read(&path).unwrap();
        assert_eq!((second.yaml.as_str(), second.created_ms, second.updated_ms), ("b", 5, 7));
        assert_eq!(fs::read_dir(home.sweeps()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_no_sweep_is_refused_and_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::new(folder.path());
        let path = home.sweeps().join("paper.json");
        fs::create_dir_all(home.sweeps()).unwrap();
        for text in ["", "{", "[]", "{\"name\":\"paper\"}"] {
            fs::write(&path, text).unwrap();
            assert!(SweepFile::read(&path).is_err(), "{text}");
        }
        SweepFile::write(&home, "paper", "a", runs(), 5).unwrap();
        fs::copy(&path, home.sweeps().join("other.json")).unwrap();
        let error = SweepFile::read(&home.sweeps().join("other.json")).unwrap_err();
        assert!(matches!(error, Error::File { action: "read", .. }));
    }
}
