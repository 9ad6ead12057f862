//! A temporary home folder.

use std::fs;
use std::path::{Path, PathBuf};

use sweep_core::home::Home;
use sweep_core::spec::RunId;
use tempfile::TempDir;

use crate::script::Script;
use crate::worker::STARTS;

/// A home folder that disappears with this value, and the scripts of the workers in it.
#[derive(Debug)]
pub struct Workspace {
    folder: TempDir,
}

impl Workspace {
    /// Creates an empty home folder.
    ///
    /// # Panics
    /// Panics if the temporary folder cannot be written.
    #[expect(clippy::new_without_default, reason = "it touches the disk")]
    pub fn new() -> Self {
        Self {
            folder: tempfile::Builder::new()
                .prefix("sweep-")
                .tempdir()
                .expect("the temporary folder is writable"),
        }
    }

    /// Returns the home folder.
    pub fn home(&self) -> &Path {
        self.folder.path()
    }

    /// Tells every worker that has no script of its own what to do.
    pub fn script(&self, script: &Script) {
        write(&self.home().join("fake.json"), script);
    }

    /// Tells the workers of one run what to do.
    pub fn script_of(&self, run: RunId, script: &Script) {
        let folder = self.layout().run(run);
        fs::create_dir_all(&folder).expect("the workspace is writable");
        write(&folder.join("fake.json"), script);
    }

    /// Returns the path of a file in the home folder that scripts may wait for or touch.
    pub fn flag(&self, name: &str) -> PathBuf {
        self.home().join(name)
    }

    /// Creates that file, which lets the workers go on that wait for it.
    pub fn raise(&self, name: &str) {
        fs::write(self.flag(name), "").expect("the workspace is writable");
    }

    /// Returns how often a worker was started for `run`: fake workers count in a file that outlives their schedulers.
    pub fn starts(&self, run: RunId) -> usize {
        fs::read_to_string(self.layout().run(run).join(STARTS)).map_or(0, |text| text.lines().count())
    }

    /// Returns where everything lies in the home folder.
    pub fn layout(&self) -> Home {
        Home::new(self.home())
    }
}

fn write(path: &Path, script: &Script) {
    fs::write(path, script.to_json()).expect("the workspace is writable");
}
