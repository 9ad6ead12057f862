//! What files hold: bytes in memory or on disk, with the digests that Git, Git LFS and the Hub name them by.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha1::{Digest as _, Sha1};
use sha2::Sha256;

use super::encoding::hex;

/// What a file of a commit holds, and how the Hub stores it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Stored in Git, as the Hub does with small text files: served by the Hub itself, named by its Git blob's SHA-1.
    Git(Vec<u8>),
    /// Stored in LFS: served by the CDN, named by its SHA-256.
    Lfs(Vec<u8>),
    /// Stored in LFS and read from this file whenever it is asked for, so that it may be larger than the memory. The
    /// digest is taken when the commit is made: the file must not change afterwards.
    LfsFile(PathBuf),
}

/// Bytes that answers are cut from.
#[derive(Clone, Debug)]
pub(super) enum Blob {
    Memory(Arc<[u8]>),
    Disk { path: PathBuf, size: u64 },
}

impl Blob {
    /// Returns its length in bytes.
    pub(super) fn size(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::Disk { size, .. } => *size,
        }
    }

    pub(super) fn open(&self) -> io::Result<Reader> {
        Ok(match self {
            Self::Memory(bytes) => Reader::Memory(Arc::clone(bytes)),
            Self::Disk { path, .. } => Reader::Disk(File::open(path)?),
        })
    }
}

impl From<Vec<u8>> for Blob {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Memory(bytes.into())
    }
}

/// An opened blob.
pub(super) enum Reader {
    Memory(Arc<[u8]>),
    Disk(File),
}

impl Reader {
    /// Fills `buffer` with the bytes from `offset` on.
    pub(super) fn fill(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Memory(bytes) => {
                let rest = bytes.get(offset as usize..).unwrap_or_default();
                let wanted = rest.get(..buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
                buffer.copy_from_slice(wanted);
                Ok(())
            }
            Self::Disk(file) => file.read_exact_at(buffer, offset),
        }
    }
}

/// A file of a commit.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) blob: Blob,
    /// SHA-1 of the Git blob: of the file itself, or of its pointer if it is in LFS.
    pub(super) oid: String,
    pub(super) lfs: Option<Pointer>,
}

/// What Git holds in place of a file that is in LFS.
#[derive(Clone, Debug)]
pub(super) struct Pointer {
    pub(super) sha256: String,
    /// Length of the pointer file in bytes.
    pub(super) size: u64,
}

impl Entry {
    pub(super) fn new(content: Content) -> io::Result<Self> {
        Ok(match content {
            Content::Git(bytes) => Self { oid: git_sha1(&bytes), blob: bytes.into(), lfs: None },
            Content::Lfs(bytes) => Self::in_lfs(hex(&Sha256::digest(&bytes)), bytes.into()),
            Content::LfsFile(path) => {
                let (sha256, size) = digest_file(&path)?;
                Self::in_lfs(sha256, Blob::Disk { path, size })
            }
        })
    }

    fn in_lfs(sha256: String, blob: Blob) -> Self {
        let size = blob.size();
        let pointer =
            format!("version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n");
        Self {
            blob,
            oid: git_sha1(pointer.as_bytes()),
            lfs: Some(Pointer { sha256, size: pointer.len() as u64 }),
        }
    }
}

/// Returns the name that Git gives to a blob.
fn git_sha1(bytes: &[u8]) -> String {
    let header = format!("blob {}\0", bytes.len());
    hex(&Sha1::new().chain_update(header).chain_update(bytes).finalize())
}

/// Returns the SHA-256 and the size of a file.
fn digest_file(path: &Path) -> io::Result<(String, u64)> {
    let mut file = File::open(path)?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut size = 0;
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok((hex(&digest.finalize()), size));
        }
        digest.update(&buffer[..count]);
        size += count as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `git hash-object` and `sha256sum` print them.
    #[test]
    fn digests_are_those_of_git_and_sha256sum() {
        let git = Entry::new(Content::Git(b"hello\n".to_vec())).unwrap();
        assert_eq!(git.oid, "ce013625030ba8dba906f756967f9e9ca394464a");
        let lfs = Entry::new(Content::Lfs(b"hello\n".to_vec())).unwrap().lfs.unwrap();
        assert_eq!(lfs.sha256, "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03");
    }

    #[test]
    fn a_file_on_disk_is_what_its_bytes_are_in_memory() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        std::fs::write(&path, b"hello\n").unwrap();
        let disk = Entry::new(Content::LfsFile(path)).unwrap();
        let memory = Entry::new(Content::Lfs(b"hello\n".to_vec())).unwrap();
        assert_eq!((disk.oid, disk.blob.size()), (memory.oid, 6));
        let mut buffer = [0; 3];
        disk.blob.open().unwrap().fill(2, &mut buffer).unwrap();
        assert_eq!(&buffer, b"llo");
        assert!(memory.blob.open().unwrap().fill(4, &mut buffer).is_err());
    }
}
