//! Files that appear whole or not at all.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use crate::{Error, Result};

/// Writes `path` so that a crash leaves the old file or the new one: temporary file, fsync, rename, fsync of the folder.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = path.with_extension(format!("tmp-{}", std::process::id()));
    let mut file = File::create(&temporary).map_err(Error::io("create", &temporary))?;
    file.write_all(bytes).map_err(Error::io("write", &temporary))?;
    file.sync_all().map_err(Error::io("sync", &temporary))?;
    fs::rename(&temporary, path).map_err(Error::io("rename into", path))?;
    sync_folder(path.parent().unwrap_or(Path::new(".")))
}

/// Waits until the names in a folder are on disk.
pub(crate) fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|handle| handle.sync_all()).map_err(Error::io("sync", folder))
}
