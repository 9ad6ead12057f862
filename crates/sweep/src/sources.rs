//! What a sweep file names: local files with their digests, and repositories of the Hub with their commits.
//!
//! Digests of weights files are remembered in the home folder's cache by path, size and time of change, so that planning
//! does not read gigabytes again.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use sweep_core::home::Home;
use sweep_core::{HubKind, Resolve};

use crate::hub::{Connection, Unknown};

/// What a folder of weights holds, as the Hub and a run's model folder have it.
const WEIGHTS: &str = "model.safetensors";

/// Resolves what one sweep file names.
pub(crate) struct Sources {
    hub: Connection,
    base: PathBuf,
    memory: PathBuf,
    known: RefCell<BTreeMap<String, String>>,
    /// Whether there is anything new.
    changed: Cell<bool>,
}

impl Sources {
    /// `base` is the folder of the sweep file: relative paths start there.
    pub(crate) fn new(base: &Path, home: &Home, unknown: Unknown) -> Result<Self> {
        let hub = Connection::new(home, unknown)?;
        let memory = home.cache().join("digests.json");
        // A memory that is missing or damaged costs time only.
        let known =
            fs::read(&memory).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        Ok(Self { hub, base: base.to_owned(), memory, known: RefCell::new(known), changed: Cell::new(false) })
    }

    /// The Hub, for the files of what was resolved.
    pub(crate) fn hub(&self) -> &Connection {
        &self.hub
    }

    fn absolute(&self, path: &Path) -> Result<PathBuf, String> {
        let path = self.base.join(path);
        path.canonicalize().map_err(|error| format!("`{}`: {error}", path.display()))
    }

    /// Returns the digest remembered under `key`, or works it out and remembers it.
    fn remember(
        &self,
        key: String,
        digest: impl FnOnce() -> Result<String, String>,
    ) -> Result<String, String> {
        if let Some(known) = self.known.borrow().get(&key) {
            return Ok(known.clone());
        }
        let digest = digest()?;
        self.known.borrow_mut().insert(key, digest.clone());
        self.changed.set(true);
        Ok(digest)
    }

    /// Writes down what is new: the commits of the Hub, which must not be lost, and digests, which otherwise are worked
    /// out again next time.
    pub(crate) fn store(&self) -> Result<()> {
        self.hub.store()?;
        self.store_digests();
        Ok(())
    }

    fn store_digests(&self) {
        if !self.changed.get() {
            return;
        }
        let temporary = self.memory.with_extension(format!("tmp-{}", std::process::id()));
        let Ok(bytes) = serde_json::to_vec_pretty(&*self.known.borrow()) else { return };
        let written = fs::create_dir_all(self.memory.parent().unwrap_or(Path::new(".")))
            .and_then(|()| fs::write(&temporary, bytes))
            .and_then(|()| fs::rename(&temporary, &self.memory));
        if let Err(error) = written {
            tracing::warn!(%error, path = %self.memory.display(), "digests are not remembered");
        }
    }
}

/// Returns what changes when a file is written: path, size, time of change, inode.
fn fingerprint(path: &Path) -> Result<String, String> {
    let metadata = fs::metadata(path).map_err(|error| format!("`{}`: {error}", path.display()))?;
    let (size, inode) = (metadata.len(), metadata.ino());
    Ok(format!("{} {size} {}.{} {inode}", path.display(), metadata.mtime(), metadata.mtime_nsec()))
}

/// Returns the fingerprints of all files of a folder, its `data` folder included.
fn folder_fingerprint(path: &Path) -> Result<String, String> {
    let mut parts = vec![fingerprint(path)?];
    for folder in [path.to_owned(), path.join("data")] {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries {
            let entry = entry.map_err(|error| format!("`{}`: {error}", folder.display()))?;
            parts.push(fingerprint(&entry.path())?);
        }
    }
    parts.sort();
    Ok(parts.join("\n"))
}

/// Returns the fingerprint of a folder with everything below it, links followed; short, since a folder may hold a million pictures.
fn tree_fingerprint(path: &Path) -> Result<String, String> {
    let (mut parts, mut folders) = (Vec::new(), vec![path.to_owned()]);
    while let Some(folder) = folders.pop() {
        let failed = |error| format!("`{}`: {error}", folder.display());
        parts.push(fingerprint(&folder)?);
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.is_dir() { folders.push(path) } else { parts.push(fingerprint(&path)?) }
        }
    }
    parts.sort();
    let mut hasher = DefaultHasher::new();
    parts.hash(&mut hasher);
    Ok(format!("{} and {} entries below it: {:016x}", path.display(), parts.len() - 1, hasher.finish()))
}

impl Resolve for Sources {
    fn weights(&self, path: &Path) -> Result<(PathBuf, String), String> {
        let mut path = self.absolute(path)?;
        if path.is_dir() {
            path = self.absolute(&path.join(WEIGHTS))?;
        }
        let digest = || sweep_worker::digest_file(&path).map_err(|error| error.to_string());
        let digest = self.remember(fingerprint(&path)?, digest)?;
        Ok((path, digest))
    }

    fn dataset(&self, path: &Path) -> Result<(PathBuf, String), String> {
        let path = self.absolute(path)?;
        let digest = || sweep_data::digest_parquet(&path).map_err(|error| error.to_string());
        let digest = self.remember(folder_fingerprint(&path)?, digest)?;
        Ok((path, digest))
    }

    fn pictures(&self, path: &Path) -> Result<(PathBuf, String), String> {
        let path = self.absolute(path)?;
        let digest = || sweep_data::digest_pictures(&path).map_err(|error| error.to_string());
        let digest = self.remember(tree_fingerprint(&path)?, digest)?;
        Ok((path, digest))
    }

    fn commit(&self, kind: HubKind, repository: &str, revision: &str) -> Result<String, String> {
        self.hub.commit(kind, repository, revision)
    }
}
