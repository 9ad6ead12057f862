//! A disk that can be filled: a small file system in memory.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Size of the disk: a few times what the grid leaves behind.
const SIZE: &str = "size=96m";
/// Pieces that the filler grows by, large ones first, so that no room is left in the end.
const PIECES: [usize; 3] = [1 << 20, 4096, 1];

/// A mounted file system, unmounted with this value unless it is to be kept.
#[derive(Debug)]
pub(crate) struct SmallDisk {
    root: PathBuf,
    kept: bool,
}

impl SmallDisk {
    /// Mounts one at `root`, which is created; or says why that cannot be done here.
    pub(crate) fn mount(root: &Path) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", SIZE, "sweep-chaos"]).arg(root).stdin(Stdio::null());
        let output = command.output()?;
        if !output.status.success() {
            return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
        }
        Ok(Self { root: root.to_owned(), kept: false })
    }

    /// Leaves it mounted, for somebody who wants to look at it.
    pub(crate) fn keep(&mut self) {
        self.kept = true;
    }

    /// Fills it up.
    pub(crate) fn fill(&self) -> io::Result<Filler> {
        let path = self.root.join("filler");
        let mut filler = Filler { file: File::options().create_new(true).append(true).open(&path)?, path };
        filler.top_up()?;
        Ok(filler)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if !self.kept {
            // Where it fails, an empty file system stays mounted in a temporary folder: no reason to fail.
            let _ = Command::new("umount").arg(&self.root).stderr(Stdio::null()).status();
        }
    }
}

/// The file that takes all the room; dropping it gives the room back.
#[derive(Debug)]
pub(crate) struct Filler {
    file: File,
    path: PathBuf,
}

impl Filler {
    /// Takes the room that others have let go meanwhile.
    pub(crate) fn top_up(&mut self) -> io::Result<()> {
        for piece in PIECES {
            let zeros = vec![0; piece];
            while self.grow(&zeros)? {}
        }
        Ok(())
    }

    fn grow(&mut self, zeros: &[u8]) -> io::Result<bool> {
        match self.file.write(zeros) {
            Ok(written) => Ok(written == zeros.len()),
            Err(error) if error.kind() == io::ErrorKind::StorageFull => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        // Where it fails, the disk stays full and the grid does not complete: that is noticed.
        let _ = fs::remove_file(&self.path);
    }
}
