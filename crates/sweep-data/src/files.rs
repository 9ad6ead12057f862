//! Lists of files and digests over their names and contents.

use std::fs::{self, DirEntry, File};
use std::io::Read as _;
use std::path::Path;

use crate::error::{Error, Result};
use crate::sha::{FieldHasher, hex};

/// Returns the names of what lies in `folder`, sorted; hidden entries are left out.
pub(crate) fn entries(folder: &Path) -> Result<Vec<(String, DirEntry)>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io("list", folder))? {
        let entry = entry.map_err(Error::io("list", folder))?;
        let Ok(name) = entry.file_name().into_string() else {
            return Err(Error::Name { path: entry.path() });
        };
        if !name.starts_with('.') {
            entries.push((name, entry));
        }
    }
    entries.sort_by(|(left, _), (right, _)| left.cmp(right));
    Ok(entries)
}

/// Adds the names, relative to `folder`, of the files below it, at most `depth` folders down, to `names`, each after
/// `prefix`. Links to files are followed, links to folders refused (where folders count at all), hidden files and
/// folders left out.
pub(crate) fn walk(folder: &Path, prefix: &str, depth: u32, names: &mut Vec<String>) -> Result<()> {
    for (name, entry) in entries(folder)? {
        let path = entry.path();
        let kind = entry.file_type().map_err(Error::io("read", &path))?;
        let metadata = fs::metadata(&path).map_err(Error::io("read", &path))?;
        if metadata.is_file() {
            names.push(format!("{prefix}{name}"));
        } else if metadata.is_dir() && depth > 0 {
            if kind.is_symlink() {
                return Err(Error::FolderLink { path });
            }
            walk(&path, &format!("{prefix}{name}/"), depth - 1, names)?;
        }
    }
    Ok(())
}

/// Returns the SHA-256 (lower-case hexadecimal) over `domain` and the names, sizes and contents of files of a folder.
pub(crate) fn digest(domain: &str, folder: &Path, names: &[String]) -> Result<String> {
    let mut hasher = FieldHasher::new(domain);
    let mut buffer = vec![0; 1 << 20];
    for name in names {
        hasher.field(name.as_bytes());
        hash_file(&mut hasher, &folder.join(name), &mut buffer)?;
    }
    Ok(hex(&hasher.finish()))
}

fn hash_file(hasher: &mut FieldHasher, path: &Path, buffer: &mut [u8]) -> Result<()> {
    let mut file = File::open(path).map_err(Error::io("open", path))?;
    let size = file.metadata().map_err(Error::io("read", path))?.len();
    hasher.length(size);
    loop {
        let read = file.read(buffer).map_err(Error::io("read", path))?;
        if read == 0 {
            return Ok(());
        }
        hasher.raw(&buffer[..read]);
    }
}
