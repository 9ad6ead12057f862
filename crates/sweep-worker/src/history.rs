//! What earlier attempts at the run said, read from their event files.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};

use sweep_core::epsilon::Epsilon;
use sweep_core::event::{Event, Record};
use sweep_core::home::Home;
use sweep_core::spec::RunId;

use crate::files::names;
use crate::{Error, Result};

/// Longest line that can be an event, in bytes without its end; real ones stay below a kilobyte.
const LONGEST_LINE: u64 = 64 * 1024;

/// Facts from earlier attempts that this one need not repeat.
#[derive(Debug, Default)]
pub(crate) struct History {
    /// What was reported last of each epoch.
    epochs: HashMap<u32, Event>,
    /// Images a forward pass, where an earlier attempt has found them last.
    pub(crate) micro_batch: Option<u32>,
    /// Digest of the final model that was saved last.
    pub(crate) model: Option<String>,
    /// Test points that are measured already, by digest of the model, attack and radius.
    pub(crate) evaluated: HashSet<(String, String, Epsilon)>,
}

impl History {
    /// Reads the events of all attempts before `attempt`.
    pub(crate) fn read(home: &Home, run: RunId, attempt: u32) -> Result<Self> {
        let mut history = Self::default();
        for earlier in 1..attempt {
            let path = home.events(run, earlier);
            // An attempt whose worker never started has no events.
            if path.exists() {
                let file = File::open(&path).map_err(Error::io("open", &path))?;
                history.add(BufReader::new(file)).map_err(Error::io("read", &path))?;
            }
        }
        Ok(history)
    }

    /// Reads the events of all attempts at `run`, whose folder exists.
    pub(crate) fn read_all(home: &Home, run: RunId) -> Result<Self> {
        let number = |name: &String| name.strip_prefix("attempt-")?.parse::<u32>().ok();
        let last = names(&home.run(run))?.iter().filter_map(number).max();
        Self::read(home, run, last.map_or(0, |last| last.saturating_add(1)))
    }

    /// Returns whether exactly this is what was last said about `epoch`.
    pub(crate) fn says(&self, epoch: u32, event: &Event) -> bool {
        // What was said went through text, which may cost the last digit of a number.
        let text = serde_json::to_string(event).expect("events are plain data");
        let said = serde_json::from_str::<Event>(&text).ok();
        said.is_some() && self.epochs.get(&epoch) == said.as_ref()
    }

    /// Adds the events of a file, line by line, up to the first line that is none: the scheduler takes nothing behind it into
    /// the database, so that the work of which it speaks is done again. So it is with a last line that a crash has torn.
    fn add(&mut self, mut lines: impl BufRead) -> io::Result<()> {
        let mut line = Vec::new();
        loop {
            line.clear();
            lines.by_ref().take(LONGEST_LINE + 1).read_until(b'\n', &mut line)?;
            let Some(Ok(record)) = line.strip_suffix(b"\n").map(serde_json::from_slice) else {
                return Ok(());
            };
            self.add_record(record);
        }
    }

    fn add_record(&mut self, Record { event, .. }: Record) {
        match &event {
            Event::EpochFinished { epoch, .. } => drop(self.epochs.insert(*epoch, event)),
            Event::MicroBatchFound { micro_batch_size } => self.micro_batch = Some(*micro_batch_size),
            Event::ModelSaved { digest, .. } => self.model = Some(digest.clone()),
            Event::Evaluated { attack, epsilon, .. } => {
                let model = self.model.clone();
                self.evaluated.extend(model.map(|model| (model, attack.clone(), *epsilon)));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch(epoch: u32, correct: u32, total: u32) -> String {
        let event = serde_json::json!({
            "kind": "epoch_finished", "epoch": epoch, "epsilon": 0.0, "learning_rate": 0.0, "train_loss": 0.0,
            "train_correct": 0, "train_total": 0, "clean_correct": correct, "robust_correct": 0,
            "validation_total": total, "clean_loss": 0.0, "robust_loss": 0.0, "train_seconds": 0.0,
            "validation_seconds": 0.0,
        });
        format!("{}\n", serde_json::json!({ "sequence": 0, "time_ms": 0, "event": event }))
    }

    fn read(text: &str) -> History {
        let mut history = History::default();
        history.add(text.as_bytes()).expect("memory can be read");
        history
    }

    fn known(text: &str) -> Vec<u32> {
        let mut epochs: Vec<u32> = read(text).epochs.into_keys().collect();
        epochs.sort_unstable();
        epochs
    }

    #[test]
    fn nothing_behind_a_line_that_is_no_event_is_believed() {
        let no_events = [
            "[".repeat(200_000) + "\n",
            format!("{}{}", "x".repeat(3 << 20), epoch(1, 2, 2)),
            "\0\u{ff}\n".to_owned(),
            "{}\n".to_owned(),
            "\n".to_owned(),
        ];
        for text in no_events {
            assert_eq!(known(&[epoch(0, 1, 2), text, epoch(1, 1, 4)].concat()), [0]);
        }
        let torn = epoch(1, 1, 4);
        assert_eq!(known(&[epoch(0, 1, 2), torn.trim_end().to_owned()].concat()), [0]);
        assert_eq!(known(&[epoch(0, 1, 2), torn].concat()), [0, 1]);
    }
}
