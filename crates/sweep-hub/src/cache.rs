//! The cache's layout, which is that of Python's `huggingface_hub`, and the rule that nothing unverified leaves it.
//!
//! ```text
//! CACHE/models--owner--name/blobs/DIGEST             the contents
//! CACHE/models--owner--name/snapshots/COMMIT/PATH    relative links to them
//! CACHE/models--owner--name/refs/REVISION            the commit that a branch or tag pointed to
//! CACHE/.locks/sweep/models--owner--name/            ours: listings, verified stamps, locks, what is being received
//! ```
//!
//! Ours lies in the one folder that Python's tools pass over; another would be reported as damage of the cache by `hf cache`.
//! Whoever removes it loses no file, only the listings and what was verified already.

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::listing::RemoteFile;
use crate::repository::{Commit, Repository, path_fault};
use crate::verified::{Stamp, Verified};

/// A cache's folder.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    root: PathBuf,
}

/// A repository at a commit: one snapshot of the cache.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) repository: Repository,
    pub(crate) commit: Commit,
}

/// What a look at a file found.
enum Found {
    /// The file is there; whether it is right is told by this digest.
    Candidate(Digest),
    /// There is no file, or only a link to nothing.
    Nothing,
    /// It must not be used, for this reason.
    Wrong(&'static str),
    /// It cannot be judged: a copy in place of a link, made by another program, of a commit whose listing is not known.
    Unknown,
}

impl Cache {
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    fn folder(&self, repository: &Repository) -> PathBuf {
        self.root.join(repository.folder())
    }

    fn blob(&self, repository: &Repository, digest: Digest) -> PathBuf {
        self.folder(repository).join("blobs").join(digest.to_string())
    }

    fn reference(&self, repository: &Repository, revision: &str) -> PathBuf {
        self.folder(repository).join("refs").join(revision)
    }

    fn snapshot(&self, place: &Place) -> PathBuf {
        self.folder(&place.repository).join("snapshots").join(place.commit.as_str())
    }

    /// Where a file of the snapshot is, or will be.
    pub(crate) fn link(&self, place: &Place, path: &str) -> PathBuf {
        self.snapshot(place).join(path)
    }

    /// Our own notes about a repository.
    fn state(&self, repository: &Repository) -> PathBuf {
        self.root.join(".locks/sweep").join(repository.folder())
    }

    /// Where the listing of a commit is kept.
    pub(crate) fn listing(&self, place: &Place) -> PathBuf {
        self.state(&place.repository).join(format!("{}.json", place.commit))
    }

    /// The lock of a snapshot's downloads; makes its folder.
    pub(crate) fn lock(&self, place: &Place) -> Result<PathBuf> {
        let state = self.state(&place.repository);
        create_folder(&state)?;
        Ok(state.join(format!("{}.lock", place.commit)))
    }

    /// Where a snapshot's downloads are received. Only the holder of the lock may touch it.
    pub(crate) fn staging(&self, place: &Place) -> PathBuf {
        self.state(&place.repository).join(format!("{}.incoming", place.commit))
    }

    fn verified(&self, repository: &Repository) -> PathBuf {
        self.state(repository).join("verified.json")
    }

    /// The commit that a revision pointed to when it was last asked for.
    pub(crate) fn read_reference(&self, repository: &Repository, revision: &str) -> Result<Option<Commit>> {
        let path = self.reference(repository, revision);
        if path.is_dir() {
            // `refs/convert` is no revision where `refs/convert/parquet` is one.
            return Ok(None);
        }
        let text = present_only(fs::read_to_string(&path), "read", &path)?;
        Ok(text.and_then(|text| text.trim().parse().ok()))
    }

    /// Notes the commit that a revision points to. Writes only news, for a cache that is complete may be read-only.
    pub(crate) fn write_reference(
        &self,
        repository: &Repository,
        revision: &str,
        commit: &Commit,
    ) -> Result<()> {
        if self.read_reference(repository, revision)?.as_ref() == Some(commit) {
            return Ok(());
        }
        write_whole(&self.reference(repository, revision), commit.as_str().as_bytes())
    }

    /// Path of a file if it is there and right; `listed` is what the commit's listing says, where that is known. What is
    /// wrong is removed. Reads all of a file that was not verified before.
    pub(crate) fn sound(
        &self,
        place: &Place,
        path: &str,
        listed: Option<&RemoteFile>,
    ) -> Result<Option<PathBuf>> {
        let link = self.link(place, path);
        match self.look(place, &link, listed)? {
            Found::Nothing => Ok(None),
            Found::Candidate(digest) => {
                let size = listed.map(|file| file.size);
                Ok(self.is_sound(&place.repository, &link, digest, size)?.then_some(link))
            }
            Found::Wrong(reason) => {
                tracing::warn!("{} is removed from the cache: {reason}", link.display());
                remove(&link)?;
                Ok(None)
            }
            Found::Unknown => {
                tracing::warn!("{} is not used: it is a copy whose digest is not known", link.display());
                Ok(None)
            }
        }
    }

    fn look(&self, place: &Place, link: &Path, listed: Option<&RemoteFile>) -> Result<Found> {
        let Some(metadata) = present_only(fs::symlink_metadata(link), "look at", link)? else {
            return Ok(Found::Nothing);
        };
        let listed = listed.and_then(|file| file.digest);
        if metadata.is_file() {
            return Ok(listed.map_or(Found::Unknown, Found::Candidate));
        }
        if !metadata.is_symlink() {
            return Ok(Found::Nothing);
        }
        let Some(target) = present_only(fs::read_link(link), "read the link", link)? else {
            return Ok(Found::Nothing);
        };
        let Some(digest) = target.file_name().and_then(|name| Digest::from_name(name.to_str()?)) else {
            return Ok(Found::Wrong("its link's name is no digest"));
        };
        if listed.is_some_and(|listed| listed != digest) {
            return Ok(Found::Wrong("it is not the file that the commit's listing names"));
        }
        if !link.exists() {
            return Ok(Found::Nothing);
        }
        // The blob may itself be a link: Python keeps Xet's files once for all repositories, people move folders to disks.
        let ours = same_file(link, &self.blob(&place.repository, digest));
        Ok(if ours { Found::Candidate(digest) } else { Found::Wrong("its link leads elsewhere") })
    }

    /// Whether the file at `path` has this digest and size; a wrong one is removed with what it links to. One that somebody
    /// else removes meanwhile is no longer there, which is no error.
    fn is_sound(
        &self,
        repository: &Repository,
        path: &Path,
        digest: Digest,
        size: Option<u64>,
    ) -> Result<bool> {
        let Some(before) = present_only(fs::metadata(path), "look at", path)? else { return Ok(false) };
        let (key, stamp) = (self.key(repository, path, digest), Stamp::of(&before));
        let notes = self.verified(repository);
        let fits = size.is_none_or(|size| size == before.len());
        if fits && Verified::load(&notes).contains(&key, stamp) {
            return Ok(true);
        }
        if fits {
            let found = present_only(digest.of_file(path), "read", path)?;
            if found == Some(digest) {
                note(&notes, &key, stamp);
                return Ok(true);
            }
        }
        self.remove_damaged(path, digest, stamp)?;
        Ok(false)
    }

    /// Name of a verified file: the blob, or the snapshot's copy where there is no link.
    fn key(&self, repository: &Repository, path: &Path, digest: Digest) -> String {
        let blob = self.blob(repository, digest);
        if same_file(path, &blob) {
            return format!("blobs/{digest}");
        }
        let path = path.strip_prefix(self.folder(repository)).unwrap_or(path);
        format!("{}:{digest}", path.display())
    }

    fn remove_damaged(&self, path: &Path, digest: Digest, judged: Stamp) -> Result<()> {
        let Some(real) = present_only(path.canonicalize(), "follow", path)? else { return Ok(()) };
        let now = present_only(fs::metadata(&real), "look at", &real)?;
        if now.is_none_or(|now| Stamp::of(&now) != judged) {
            // Somebody else has just removed it, or put another one there, which was not judged.
            return Ok(());
        }
        tracing::warn!("{} is damaged (it should have the digest {digest}): removed", path.display());
        let near = fs::read_link(path).map(|target| path.parent().unwrap_or(&self.root).join(target));
        remove(path)?;
        remove(&near.unwrap_or_else(|_| real.clone()))?;
        // What the blob itself links to belongs to the cache only if it lies there.
        let inside = self.root.canonicalize().is_ok_and(|root| real.starts_with(root));
        if inside { remove(&real) } else { Ok(()) }
    }

    /// Puts a file into the snapshot whose blob is already there and right; says whether it was.
    pub(crate) fn adopt(&self, place: &Place, file: &RemoteFile) -> Result<bool> {
        let Some(digest) = file.digest else { return Ok(false) };
        let blob = self.blob(&place.repository, digest);
        if !blob.is_file() {
            return Ok(false);
        }
        let sound = self.is_sound(&place.repository, &blob, digest, Some(file.size))?;
        if sound {
            self.make_link(place, &file.path, digest)?;
        }
        Ok(sound)
    }

    /// Moves a received file, which was verified, to its place among the blobs and into the snapshot.
    pub(crate) fn publish(&self, place: &Place, path: &str, digest: Digest, received: &Path) -> Result<()> {
        // A crash of the machine must not leave an empty blob whose stamp says that it was verified.
        let file = fs::File::open(received).map_err(Error::cache("open", received))?;
        file.sync_all().map_err(Error::cache("write", received))?;
        let blob = self.blob(&place.repository, digest);
        create_parent(&blob)?;
        fs::rename(received, &blob).map_err(Error::cache("move the download to", &blob))?;
        let metadata = fs::metadata(&blob).map_err(Error::cache("look at", &blob))?;
        let key = format!("blobs/{digest}");
        note(&self.verified(&place.repository), &key, Stamp::of(&metadata));
        self.make_link(place, path, digest)
    }

    fn make_link(&self, place: &Place, path: &str, digest: Digest) -> Result<()> {
        let link = self.link(place, path);
        create_parent(&link)?;
        // Out of the file's folder, the commit's and `snapshots`.
        let up = "../".repeat(path.split('/').count() + 1);
        let target = format!("{up}blobs/{digest}");
        let temporary = temporary(&link);
        symlink(target, &temporary).map_err(Error::cache("link", &temporary))?;
        fs::rename(&temporary, &link).map_err(Error::cache("link", &link))
    }

    /// The files that the snapshot's folder holds, with the digests that their links name, sorted by path.
    pub(crate) fn present(&self, place: &Place) -> Result<Vec<RemoteFile>> {
        let root = self.snapshot(place);
        let mut files = Vec::new();
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in present_only(fs::read_dir(&folder), "list", &folder)?.into_iter().flatten() {
                let path = entry.map_err(Error::cache("list", &folder))?.path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    files.extend(present_file(&root, &path));
                }
            }
        }
        files.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(files)
    }
}

fn present_file(root: &Path, link: &Path) -> Option<RemoteFile> {
    let path = link.strip_prefix(root).ok()?.to_str()?.to_owned();
    let size = fs::metadata(link).ok()?.len();
    let target = fs::read_link(link).ok();
    let digest = target.as_ref().and_then(|target| Digest::from_name(target.file_name()?.to_str()?));
    path_fault(&path).is_none().then_some(RemoteFile { path, size, digest })
}

/// Notes that a file was verified. A cache that cannot be written to is verified anew each time.
fn note(notes: &Path, key: &str, stamp: Stamp) {
    if let Err(error) = Verified::remember(notes, key, stamp) {
        tracing::debug!("not noted as verified: {error}");
    }
}

fn same_file(one: &Path, other: &Path) -> bool {
    matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

/// The result of doing `action` with what lies at `path`; `None` where nothing does.
fn present_only<T>(result: std::io::Result<T>, action: &'static str, path: &Path) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(Error::cache(action, path)(error)),
    }
}

/// Removes a file, if it is there.
pub(crate) fn remove(path: &Path) -> Result<()> {
    present_only(fs::remove_file(path), "remove", path).map(drop)
}

/// Removes a folder with all that is in it, if it is there.
pub(crate) fn remove_folder(path: &Path) -> Result<()> {
    present_only(fs::remove_dir_all(path), "remove", path).map(drop)
}

pub(crate) fn create_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(Error::cache("make the folder", path))
}

fn create_parent(path: &Path) -> Result<()> {
    path.parent().map_or(Ok(()), create_folder)
}

/// A name beside `path` that no other thread or process uses.
fn temporary(path: &Path) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!(".sweep-{}-{number}", std::process::id());
    path.with_file_name(name)
}

/// Writes a file so that readers see all of it or none.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    create_parent(path)?;
    let temporary = temporary(path);
    let written = fs::File::create(&temporary).and_then(|mut file| file.write_all(bytes));
    let moved = written.and_then(|()| fs::rename(&temporary, path));
    moved.inspect_err(|_| drop(fs::remove_file(&temporary))).map_err(Error::cache("write", path))
}

/// What a JSON file of ours says; `None` where it is absent or another version wrote it.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let bytes = serde_json::to_vec(value).map_err(|error| Error::cache("write", path)(error.into()))?;
    write_whole(path, &bytes)
}
