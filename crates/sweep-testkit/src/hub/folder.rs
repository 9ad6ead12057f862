//! Repositories from a folder on disk.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::content::Content;
use super::encoding::decode;
use super::repository::{Kind, MAIN};

/// Files of at least so many bytes are in LFS.
const LARGE: u64 = 10_000;

/// Endings of the names of files that are in LFS at any size.
const LARGE_KINDS: [&str; 3] = ["safetensors", "bin", "parquet"];

/// A commit that a folder describes.
pub(super) struct Commit {
    pub(super) kind: Kind,
    pub(super) id: String,
    pub(super) revision: String,
    pub(super) files: Vec<(String, Content)>,
}

/// Reads `models/OWNER/NAME[@REVISION]/**` and `datasets/OWNER/NAME[@REVISION]/**` below `root`.
pub(super) fn read(root: &Path) -> io::Result<Vec<Commit>> {
    let mut commits = Vec::new();
    for kind in [Kind::Model, Kind::Dataset] {
        let folder = root.join(kind.plural());
        if !folder.is_dir() {
            continue;
        }
        for (owner, owned) in children(&folder)? {
            for (name, folder) in children(&owned)? {
                commits.push(read_commit(kind, &owner, &name, &folder)?);
            }
        }
    }
    Ok(commits)
}

fn read_commit(kind: Kind, owner: &str, name: &str, folder: &Path) -> io::Result<Commit> {
    let (name, revision) = name.split_once('@').unwrap_or((name, MAIN));
    let mut files = Vec::new();
    collect(folder, "", &mut files)?;
    Ok(Commit { kind, id: format!("{owner}/{name}"), revision: decode(revision), files })
}

fn collect(folder: &Path, prefix: &str, files: &mut Vec<(String, Content)>) -> io::Result<()> {
    for (name, path) in children(folder)? {
        let name = format!("{prefix}{name}");
        if path.is_dir() {
            collect(&path, &format!("{name}/"), files)?;
        } else {
            files.push((name, content(path)?));
        }
    }
    Ok(())
}

fn content(path: PathBuf) -> io::Result<Content> {
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    if LARGE_KINDS.contains(&ending) || fs::metadata(&path)?.len() >= LARGE {
        return Ok(Content::LfsFile(path));
    }
    fs::read(path).map(Content::Git)
}

/// Returns what lies in a folder, by name.
fn children(folder: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let mut children = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| io::Error::other(format!("{} is not UTF-8", path.display())))?;
        children.push((name.to_owned(), path));
    }
    children.sort();
    Ok(children)
}
