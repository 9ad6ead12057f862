//! What a fake worker does.

use serde::{Deserialize, Serialize};
use sweep_core::event::FailureClass;

/// Name of the environment variable that gives a script's path. Without it, `fake.json` beside the run's `spec.json`
/// is obeyed, then `fake.json` in the home folder, then [`Script::default`].
pub const SCRIPT_VARIABLE: &str = "SWEEP_FAKE_SCRIPT";

/// What the attempts of a run do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Script {
    /// What the first attempts do, in order; the attempts after these do `then`.
    pub first: Vec<Vec<Action>>,
    /// What all other attempts do.
    pub then: Vec<Action>,
}

/// One step of a script. A worker asked to stop while it waits says `interrupted` and leaves with 76, unless it is
/// deaf.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Action {
    /// Says `started` and `loaded`.
    Start,
    /// Says where it is.
    Progress {
        /// Steps done, of 100.
        step: u32,
    },
    /// Says `epoch_finished` with these counts of 100 images; epochs count up by themselves.
    Epoch {
        /// Images correct on clean validation images.
        clean: u32,
        /// Images correct under attack.
        robust: u32,
    },
    /// Writes a small checkpoint file into the folder of trajectories and says `checkpoint_saved`.
    CheckpointSaved {
        /// Whole epochs, up to those of the run.
        epochs: u32,
    },
    /// Says `evaluated` at 0/255, 1/255, … with these counts of 100 images.
    Evaluate {
        /// Images correct at each radius.
        correct: Vec<u32>,
    },
    /// Says `succeeded` and leaves with 0.
    Succeed,
    /// Says `failed` and leaves with the class's exit code.
    Fail {
        /// The class.
        class: FailureClass,
        /// In words.
        message: String,
    },
    /// Says `interrupted` and leaves with 76.
    Interrupt,
    /// Waits until a file appears in the home folder.
    WaitFor {
        /// Its name.
        file: String,
    },
    /// Creates a file in the home folder.
    Touch {
        /// Its name.
        file: String,
    },
    /// Waits for ever, in silence.
    Hang,
    /// Says for ever where it is, always the same.
    Stall {
        /// Steps done, of 100.
        step: u32,
    },
    /// From here on, ignores SIGTERM, SIGINT and the end of the lifeline.
    BeDeaf,
    /// Leaves with a code and without a word.
    Exit {
        /// The code.
        code: u8,
    },
    /// Prints a line to standard error and aborts, as a program does that gets no memory.
    Abort {
        /// The line.
        text: String,
    },
    /// Dies of a signal.
    Die {
        /// Its number.
        signal: i32,
    },
    /// Appends a line to `events.jsonl` that is no event.
    Garbage,
    /// Appends half an event without a newline.
    TornLine,
    /// Prints a line to standard error, that is to the log.
    Print {
        /// The line.
        text: String,
    },
}

impl Script {
    /// Every attempt does `actions`.
    pub fn always(actions: impl Into<Vec<Action>>) -> Self {
        Self { first: Vec::new(), then: actions.into() }
    }

    /// The first `attempts` attempts do `actions`, the others succeed.
    pub fn first(attempts: usize, actions: &[Action]) -> Self {
        Self { first: vec![actions.to_vec(); attempts], ..Self::default() }
    }

    /// Returns what an attempt, counted from 1, does.
    pub fn of(&self, attempt: u32) -> &[Action] {
        let earlier = (attempt as usize).saturating_sub(1);
        self.first.get(earlier).unwrap_or(&self.then)
    }

    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("plain data becomes JSON")
    }
}

impl Default for Script {
    /// Succeeds at once, without an epoch.
    fn default() -> Self {
        Self::always([Action::Start, Action::Succeed])
    }
}
