//! Files that appear whole or not at all.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};

/// Writes a file beside its place and moves it there once it is on the disk. A link stays one; what is no file, such as a pipe
/// or a device, is written into.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    if fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir()) {
        return fs::write(path, bytes).with_context(|| format!("failed to write `{}`", path.display()));
    }
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let temporary = path.with_extension(format!("tmp-{}", std::process::id()));
    let write = || -> std::io::Result<()> {
        let mut file = fs::File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    let written = write();
    if written.is_err() {
        // What is half written is of no use; where not even that can be removed, the first failure is what matters.
        let _ = fs::remove_file(&temporary);
    }
    written.with_context(|| format!("failed to write `{}`", path.display()))
}
