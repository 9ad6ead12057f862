//! What earlier attempts at the run said, read from their event files.

use std::collections::{HashMap, HashSet};
use std::fs;

use sweep_core::epsilon::Epsilon;
use sweep_core::event::{Event, Record};
use sweep_core::home::Home;
use sweep_core::spec::RunId;

use crate::files::names;
use crate::{Error, Result};

/// Facts from earlier attempts that this one need not repeat.
#[derive(Debug, Default)]
pub(crate) struct History {
    /// What was reported last of each epoch.
    epochs: HashMap<u32, Event>,
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

    /// Returns whether exactly this is what was last said about `epoch`.
    pub(crate) fn says(&self, epoch: u32, event: &Event) -> bool {
        // What was said went through text, which may cost the last digit of a number.
        let text = serde_json::to_string(event).expect("events are plain data");
        let said = serde_json::from_str::<Event>(&text).ok();
        said.is_some() && self.epochs.get(&epoch) == said.as_ref()
    }

    fn add(&mut self, text: &[u8]) {
        // A line torn by a crash is no JSON; the work it speaks of is done again.
        let records =
            text.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<Record>(line).ok());
        for Record { event, .. } in records {
            match &event {
                Event::EpochFinished { epoch, .. } => drop(self.epochs.insert(*epoch, event)),
                Event::ModelSaved { digest, .. } => self.model = Some(digest.clone()),
                Event::Evaluated { attack, epsilon, .. } => {
                    let model = self.model.clone();
                    self.evaluated.extend(model.map(|model| (model, attack.clone(), *epsilon)));
                }
                _ => {}
            }
        }
    }
}
