//! Progress of work whose whole amount is known: on a terminal a bar, elsewhere a line a part; on standard error.

use std::io::IsTerminal as _;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};

use crate::printer;
use crate::progress::duration;

/// How much is done of all parts.
pub(crate) struct Tally {
    bar: Option<ProgressBar>,
    total: f64,
    /// Of the parts that are complete.
    done: f64,
    /// Of one image of the current part.
    cost: f64,
    name: String,
    begin: Instant,
}

impl Tally {
    pub(crate) fn new(total: f64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{prefix} {bar:30} {msg}");
            ProgressBar::new(1000).with_style(style.expect("the template is well-formed"))
        });
        Self { bar, total, done: 0.0, cost: 0.0, name: String::new(), begin: Instant::now() }
    }

    /// Begins a part whose images cost `cost` each.
    pub(crate) fn begin(&mut self, name: &str, cost: f64) {
        (self.name, self.cost) = (name.to_owned(), cost);
        if let Some(bar) = &self.bar {
            bar.set_prefix(self.name.clone());
        }
    }

    pub(crate) fn show(&self, images: u32, of: u32) {
        if let Some(bar) = &self.bar {
            let done = self.done + f64::from(images) * self.cost;
            bar.set_position((1000.0 * done / self.total) as u64);
            bar.set_message(format!("{images}/{of} images, {}", self.remaining(done)));
        }
    }

    /// Ends a part of `images` images and says what came out.
    pub(crate) fn end(&mut self, result: &str, images: u32) {
        self.done += f64::from(images) * self.cost;
        let text = format!("{}: {result}, {}", self.name, self.remaining(self.done));
        match &self.bar {
            Some(bar) => bar.suspend(|| printer::note(&text)),
            None => printer::note(&text),
        }
    }

    pub(crate) fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn remaining(&self, done: f64) -> String {
        let seconds = self.begin.elapsed().as_secs_f64() * (self.total - done) / done.max(f64::MIN_POSITIVE);
        format!("{} left", duration(seconds))
    }
}
