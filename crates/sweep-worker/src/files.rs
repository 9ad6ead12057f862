//! Files that appear whole or not at all.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use nix::sys::statvfs::statvfs;

use crate::{Error, Result};

/// Bytes that stay free when something large is written: for the events that tell of it.
const SPARE: u64 = 1 << 20;

/// Writes `path` so that a crash leaves the old file or the new one: temporary file, fsync, rename, fsync of the folder.
/// A file that cannot be finished is removed. `may_appear` is asked last.
///
/// # Errors
/// [`Error::NoRoom`] before anything is written; [`Error::DiskFull`], [`Error::Io`]; whatever `may_appear` says.
pub(crate) fn write_atomically(
    path: &Path,
    temporary: &Path,
    bytes: &[u8],
    may_appear: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    check_room(folder, path, bytes.len() as u64)?;
    write_durably(temporary, bytes)
        .and_then(|()| may_appear())
        .and_then(|()| fs::rename(temporary, path).map_err(Error::io("rename into", path)))
        .inspect_err(|_| clear_away(temporary))?;
    sync_folder(folder)
}

fn write_durably(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = File::create(path).map_err(Error::write(path, bytes.len()))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(Error::write(path, bytes.len()))
}

/// Removes what could not be finished; that it could not be finished is the failure to report.
pub(crate) fn clear_away(path: &Path) {
    if let Err(error) = remove(path) {
        tracing::warn!("something unfinished stays on the disk: {}", error.with_causes());
    }
}

/// Fails if `needed` bytes for `path`, and a few more, do not fit into the file system of `folder`. Where it does not
/// say how much is free, writing will tell.
///
/// # Errors
/// [`Error::NoRoom`].
pub(crate) fn check_room(folder: &Path, path: &Path, needed: u64) -> Result<()> {
    match free(folder) {
        Some(free) if free < needed.saturating_add(SPARE) => {
            Err(Error::NoRoom { path: path.to_owned(), needed, free })
        }
        _ => Ok(()),
    }
}

/// Returns the bytes that this user may still write to the file system of `folder`; `None` where it does not count them.
fn free(folder: &Path) -> Option<u64> {
    let found = statvfs(folder).ok().filter(|found| found.blocks() > 0)?;
    found.blocks_available().checked_mul(found.fragment_size())
}

/// Deletes a file or a whole folder; nothing there is fine.
pub(crate) fn remove(path: &Path) -> Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("delete", path)(error)),
        _ => Ok(()),
    }
}

/// Deletes what killed workers left behind: everything in `folder` whose name `is_leftover`.
pub(crate) fn remove_leftovers(folder: &Path, is_leftover: impl Fn(&str) -> bool) -> Result<()> {
    let names = names(folder)?.into_iter().filter(|name| is_leftover(name));
    names.map(|name| folder.join(name)).try_for_each(|path| remove(&path))
}

/// Returns the names in a folder, in no order.
pub(crate) fn names(folder: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(folder).map_err(Error::io("list", folder))?;
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect())
}

/// Waits until the names in a folder are on disk.
pub(crate) fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|handle| handle.sync_all()).map_err(Error::io("sync", folder))
}

#[cfg(test)]
mod tests {
    use sweep_core::event::FailureClass;
    use sweep_testkit::Workspace;

    use super::*;

    /// Larger than any disk.
    const TOO_MUCH: u64 = u64::MAX / 2;

    #[test]
    fn what_does_not_fit_is_not_begun_and_the_message_says_what_is_missing() {
        let workspace = Workspace::new();
        let path = workspace.home().join("large");
        let error = check_room(workspace.home(), &path, TOO_MUCH).unwrap_err();
        let Error::NoRoom { needed, free, .. } = &error else { panic!("{error:?}") };
        assert_eq!(*needed, TOO_MUCH);
        assert!(error.to_string().contains(&format!("has {free} left")), "{error}");
        check_room(workspace.home(), &path, 0).unwrap();
    }

    /// The device that is always full stands for a disk that runs full on the way.
    #[cfg(target_os = "linux")]
    #[test]
    fn nothing_unfinished_stays_on_a_full_disk() {
        let workspace = Workspace::new();
        let [path, temporary] = ["file", "file.tmp"].map(|name| workspace.home().join(name));
        std::os::unix::fs::symlink("/dev/full", &temporary).unwrap();
        let error = write_atomically(&path, &temporary, &[7; 4711], || Ok(())).unwrap_err();
        assert_eq!(error.class(), FailureClass::DiskFull);
        assert!(error.to_string().contains("4711 bytes"), "{error}");
        assert!(names(workspace.home()).unwrap().is_empty());
    }

    #[test]
    fn a_file_that_may_not_appear_does_not() {
        let workspace = Workspace::new();
        let [path, temporary] = ["file", "file.tmp"].map(|name| workspace.home().join(name));
        let refuse = || Err(Error::Fenced { path: path.clone(), exists: true });
        assert!(matches!(write_atomically(&path, &temporary, b"x", refuse), Err(Error::Fenced { .. })));
        assert!(names(workspace.home()).unwrap().is_empty());
        write_atomically(&path, &temporary, b"x", || Ok(())).unwrap();
        assert_eq!(names(workspace.home()).unwrap(), ["file"]);
    }
}
