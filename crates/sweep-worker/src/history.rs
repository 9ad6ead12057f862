//! What earlier attempts at the run left behind, read from their event files.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::fs;

use sweep_core::epsilon::Epsilon;
use sweep_core::event::{Event, Record};
use sweep_core::home::Home;
use sweep_core::metrics::Count;
use sweep_core::spec::RunId;

use crate::files::names;
use crate::{Error, Result};

/// The folder of checkpoints within that of the run, as events name it.
pub(crate) const CHECKPOINTS: &str = "checkpoints";

/// Facts from earlier attempts that this one builds on.
#[derive(Debug, Default)]
pub(crate) struct History {
    /// Digest of each checkpoint that was completely written, by file name.
    pub(crate) checkpoints: HashMap<String, String>,
    /// Clean validation accuracy of each epoch from 0 on, as it was reported last.
    pub(crate) accuracies: Vec<f64>,
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
                let text = fs::read(&path).map_err(Error::io("read", &path))?;
                history.add(&text);
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

    /// Notes the clean validation accuracy of an epoch; an epoch that was trained again counts as it came out last.
    /// What comes after a gap is of no use to anybody.
    pub(crate) fn record(&mut self, epoch: u32, clean: Count) {
        let (epoch, accuracy) = (epoch as usize, clean.accuracy());
        match epoch.cmp(&self.accuracies.len()) {
            Ordering::Less => self.accuracies[epoch] = accuracy,
            Ordering::Equal => self.accuracies.push(accuracy),
            Ordering::Greater => {}
        }
    }

    fn add(&mut self, text: &[u8]) {
        // A line torn by a crash is no JSON; the work it speaks of is done again.
        let records =
            text.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<Record>(line).ok());
        for record in records {
            match record.event {
                Event::CheckpointSaved { file, digest, .. } => {
                    let name = file.rsplit('/').next().unwrap_or(&file);
                    self.checkpoints.insert(name.to_owned(), digest);
                }
                Event::EpochFinished { epoch, clean_correct: correct, validation_total: total, .. } => {
                    self.record(epoch, Count { correct, total });
                }
                Event::ModelSaved { digest, .. } => self.model = Some(digest),
                Event::Evaluated { attack, epsilon, .. } => {
                    let model = self.model.clone();
                    self.evaluated.extend(model.map(|model| (model, attack, epsilon)));
                }
                _ => {}
            }
        }
    }
}
