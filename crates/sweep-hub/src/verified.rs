//! Which blobs were already verified, so that gigabytes are not read again at every start.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::cache::{read_json, write_json};
use crate::error::Result;

/// What changes with a file's content: no program writes into a file without the system noting the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    size: u64,
    inode: u64,
    /// Seconds and nanoseconds of the last change of the content.
    modified: (i64, i64),
    /// Of the last change of content or attributes, which cannot be set back.
    changed: (i64, i64),
}

impl Stamp {
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self {
            size: metadata.len(),
            inode: metadata.ino(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// The stamps of a repository's verified files, by their path in the repository's folder. Two processes that write at once
/// lose one's news, which costs a further reading and nothing else.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Verified(BTreeMap<String, Stamp>);

impl Verified {
    /// What is kept at `path`; nothing where it is not readable.
    pub(crate) fn load(path: &Path) -> Self {
        read_json(path).unwrap_or_default()
    }

    pub(crate) fn contains(&self, file: &str, stamp: Stamp) -> bool {
        self.0.get(file) == Some(&stamp)
    }

    /// Adds a file to what is kept at `path`.
    pub(crate) fn remember(path: &Path, file: &str, stamp: Stamp) -> Result<()> {
        let mut kept = Self::load(path);
        kept.0.insert(file.to_owned(), stamp);
        write_json(path, &kept)
    }
}
