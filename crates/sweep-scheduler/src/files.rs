//! Files that appear whole or not at all.

use std::fs;
use std::io;
use std::path::Path;

/// Writes a JSON file in one step, so that whoever reads it, whoever was killed meanwhile, finds the old content or the new.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let unfinished = path.with_extension("json.new");
    fs::write(&unfinished, bytes)?;
    fs::rename(unfinished, path)
}
