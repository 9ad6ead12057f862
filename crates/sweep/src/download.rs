//! Progress of downloads: on a terminal a bar, elsewhere a line a file; on standard error.

use std::io::IsTerminal as _;
use std::time::Instant;

use indicatif::{BinaryBytes, ProgressBar, ProgressStyle};

use crate::printer;
use crate::progress::duration;

/// How much of all files has come.
pub(crate) struct Download {
    bar: Option<ProgressBar>,
    begin: Instant,
    files: usize,
    bytes: u64,
    /// Of the files that are complete.
    done: u64,
    complete: usize,
    /// The file that is coming.
    current: Option<String>,
}

impl Download {
    pub(crate) fn new(files: usize, bytes: u64) -> Self {
        let bar = (files > 0 && std::io::stderr().is_terminal()).then(|| {
            let style = ProgressStyle::with_template(
                "{bar:30} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {msg}",
            );
            ProgressBar::new(bytes).with_style(style.expect("the template is well-formed"))
        });
        Self { bar, begin: Instant::now(), files, bytes, done: 0, complete: 0, current: None }
    }

    /// `done` of the `total` bytes of a repository's file have come. A file that is tried again starts at 0 again.
    pub(crate) fn update(&mut self, repository: &str, file: &str, done: u64, total: u64) {
        let name = format!("{repository}/{file}");
        if self.current.as_ref() != Some(&name) {
            self.current = Some(name.clone());
        }
        if let Some(bar) = &self.bar {
            bar.set_position(self.done + done);
            bar.set_message(name.clone());
        }
        if done >= total {
            self.end(&name, total);
        }
    }

    fn end(&mut self, name: &str, size: u64) {
        self.current = None;
        self.done += size;
        self.complete += 1;
        let seconds = self.begin.elapsed().as_secs_f64();
        let left = seconds * self.bytes.saturating_sub(self.done) as f64 / (self.done as f64).max(1.0);
        let text = format!(
            "{name}: {}, {}/{} files, {} left",
            BinaryBytes(size),
            self.complete,
            self.files,
            duration(left)
        );
        match &self.bar {
            Some(bar) => bar.suspend(|| printer::note(&text)),
            None => printer::note(&text),
        }
    }

    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
