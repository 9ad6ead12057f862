//! What a scheduler saw of an attempt's end: `verdict.json` in the attempt's folder.
//!
//! A worker that was killed, that hung or that wrote nonsense cannot say so in its `events.jsonl`. Its scheduler knows, and
//! writes it down beside the events before it settles the attempt in the database, so that a database rebuilt from the
//! files tells the same. Where the events say everything (the last one is `succeeded` or `interrupted`, and the process
//! left accordingly), there is no such file.

use serde::{Deserialize, Serialize};

use crate::event::FailureClass;

/// The end of one attempt. It outweighs what the attempt's events say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// How it ended.
    pub outcome: Outcome,
    /// Exit code of the worker, where it exited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Signal that ended the worker, where one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Most images a forward pass from the next attempt on, where memory ran out in this one; at least 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micro_batch_limit: Option<u32>,
    /// When it was judged, in milliseconds since the Unix epoch, by the scheduler's clock.
    pub ended_ms: i64,
}

/// How an attempt ended, and what that means for its run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Outcome {
    /// The run is complete.
    Succeeded,
    /// The attempt stopped before its end, and the run goes on some other time.
    Interrupted {
        /// Why, where nobody asked for it: a full disk, for which no run is to blame.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cause: Option<Cause>,
    },
    /// The attempt failed.
    Failed {
        /// Why.
        cause: Cause,
        /// Whether the run was to be tried again, or was given up.
        retry: bool,
    },
    /// Somebody took the run out.
    Cancelled,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// What kind of failure.
    pub class: FailureClass,
    /// What happened, in words.
    pub message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(outcome: Outcome) -> Verdict {
        Verdict { outcome, exit_code: None, signal: Some(9), micro_batch_limit: None, ended_ms: 5 }
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let cause = || Cause { class: FailureClass::DiskFull, message: "no room".to_owned() };
        let outcomes = [
            Outcome::Succeeded,
            Outcome::Interrupted { cause: None },
            Outcome::Interrupted { cause: Some(cause()) },
            Outcome::Failed { cause: cause(), retry: true },
            Outcome::Cancelled,
        ];
        for verdict in outcomes.map(verdict) {
            let text = serde_json::to_string(&verdict).unwrap();
            assert_eq!(serde_json::from_str::<Verdict>(&text).unwrap(), verdict, "{text}");
        }
    }

    #[test]
    fn the_file_of_a_killed_worker() {
        let cause = Cause { class: FailureClass::WorkerDied, message: "killed".to_owned() };
        let text = serde_json::to_string(&verdict(Outcome::Failed { cause, retry: true })).unwrap();
        assert_eq!(
            text,
            r#"{"outcome":{"kind":"failed","cause":{"class":"worker_died","message":"killed"},"retry":true},"signal":9,"ended_ms":5}"#
        );
    }
}
