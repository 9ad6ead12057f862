//! Files that appear whole or not at all.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

/// Writes a JSON file in one step, so that whoever reads it, whoever was killed meanwhile, finds the old content or the new.
/// A power failure changes nothing about that: the content is on disk before it has the name. Which of the two is there
/// afterwards is left open: what a worker reads is written again for the next one, and workers wait for the folders of their
/// run themselves, beside each other instead of in the dispatcher's time.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let unfinished = path.with_extension("json.new");
    let mut file = File::create(&unfinished)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(unfinished, path)
}

/// Likewise, and waits until the new content is there to stay.
pub(crate) fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_atomically(path, bytes)?;
    match path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}
