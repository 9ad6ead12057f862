//! A diary of what was done when, for whoever looks into a fault.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;
use std::time::Instant;

/// The diary, a line an entry.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    beginning: Instant,
}

impl Journal {
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        Ok(Self { file: File::create(path)?, beginning: Instant::now() })
    }

    /// Adds an entry. What cannot be written is left out: the diary decides nothing.
    pub(crate) fn note(&mut self, text: &str) {
        let _ = writeln!(self.file, "{:8.3} {text}", self.beginning.elapsed().as_secs_f64());
    }
}
