//! What earlier attempts at the run left behind, read from their event files.

use std::collections::HashMap;
use std::fs;

use sweep_core::epsilon::Epsilon;
use sweep_core::event::{Event, Record};
use sweep_core::home::Home;
use sweep_core::spec::RunId;

use crate::{Error, Result};

/// Facts from earlier attempts that this one builds on.
#[derive(Debug, Default)]
pub(crate) struct History {
    /// Digest of each checkpoint that was completely written, by file name.
    pub(crate) checkpoints: HashMap<String, String>,
    /// Test points that are measured already, by completed epochs of the weights, attack and radius.
    pub(crate) evaluated: Vec<(u32, String, Epsilon)>,
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

    fn add(&mut self, text: &[u8]) {
        // A line torn by a crash is no JSON; the work it speaks of is done again.
        let records =
            text.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<Record>(line).ok());
        for record in records {
            match record.event {
                Event::CheckpointSaved { file, digest, .. } => {
                    self.checkpoints.insert(file, digest);
                }
                Event::Evaluated { epochs, attack, epsilon, .. } => {
                    self.evaluated.push((epochs, attack, epsilon));
                }
                _ => {}
            }
        }
    }
}
