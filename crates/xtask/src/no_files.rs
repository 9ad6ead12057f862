//! For tests: sweep files that need no other files.

use std::path::{Path, PathBuf};

use sweep_core::Resolve;

/// Finds nothing.
pub(crate) struct NoFiles;

impl Resolve for NoFiles {
    fn weights(&self, path: &Path) -> Result<(PathBuf, String), String> {
        Err(format!("`{}` is not there", path.display()))
    }

    fn dataset(&self, path: &Path) -> Result<(PathBuf, String), String> {
        Err(format!("`{}` is not there", path.display()))
    }
}
