//! How an attempt ended: a pure function of what its worker said and how it left.

use nix::sys::signal::Signal;
use sweep_core::event::FailureClass;
use sweep_store::{Failure, Report};

use crate::executor::local::Exit;
use crate::tail::Damage;

/// How the end of an attempt looked from outside, beside its worker's last word.
#[derive(Debug)]
pub(crate) struct Ending {
    /// How the process left; `None` where it was no child of this scheduler.
    pub(crate) exit: Option<Exit>,
    /// What this scheduler itself saw go wrong; it outweighs what the worker says.
    pub(crate) fault: Option<Failure>,
    /// Whether it was asked or forced to leave, by this scheduler or by the end of its own.
    pub(crate) dismissed: bool,
}

impl Ending {
    /// Returns what the attempt came to. Where nothing else went wrong, the worker's last word decides, whatever the
    /// exit code; a worker that left without one has died, unless it was dismissed.
    pub(crate) fn verdict(&self, last_word: Option<Report>) -> Report {
        match (&self.fault, last_word) {
            (Some(fault), _) => Report::Failed(fault.clone()),
            (None, Some(last_word)) => last_word,
            (None, None) if self.dismissed => Report::Interrupted,
            (None, None) => Report::Failed(of_silence(self.exit.unwrap_or_default())),
        }
    }
}

impl From<Damage> for Failure {
    fn from(damage: Damage) -> Self {
        let class = match &damage {
            Damage::Read { .. } => FailureClass::Storage,
            Damage::Line { .. } | Damage::Length { .. } => FailureClass::WorkerDied,
        };
        Self { class, message: damage.to_string() }
    }
}

fn of_silence(exit: Exit) -> Failure {
    let how = match (exit.code, exit.signal) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => named(signal),
        (None, None) => "unknown exit".to_owned(),
    };
    Failure {
        class: FailureClass::WorkerDied,
        message: format!("the worker left without a last word ({how})"),
    }
}

fn named(signal: i32) -> String {
    match Signal::try_from(signal) {
        Ok(Signal::SIGKILL) => "SIGKILL, as the system sends when memory runs out".to_owned(),
        Ok(signal) => signal.to_string(),
        Err(_) => format!("signal {signal}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ending(exit: Exit, dismissed: bool) -> Ending {
        Ending { exit: Some(exit), fault: None, dismissed }
    }

    fn code(code: i32) -> Exit {
        Exit { code: Some(code), signal: None }
    }

    #[test]
    fn the_last_word_decides_whatever_the_exit() {
        let failure = Failure { class: FailureClass::Data, message: "no images".to_owned() };
        for last_word in [Report::Succeeded, Report::Interrupted, Report::Failed(failure)] {
            for (exit, dismissed) in [(code(0), false), (code(1), true)] {
                assert_eq!(ending(exit, dismissed).verdict(Some(last_word.clone())), last_word);
            }
        }
    }

    #[test]
    fn silence_is_death_unless_the_worker_was_dismissed() {
        let killed = Exit { code: None, signal: Some(9) };
        assert_eq!(ending(killed, true).verdict(None), Report::Interrupted);
        for (exit, words) in [(killed, "SIGKILL"), (code(3), "exit code 3"), (code(0), "exit code 0")] {
            let Report::Failed(failure) = ending(exit, false).verdict(None) else { panic!("{exit:?}") };
            assert_eq!(failure.class, FailureClass::WorkerDied);
            assert!(failure.message.contains(words), "{}", failure.message);
        }
    }

    #[test]
    fn damaged_events_are_not_believed() {
        let damage = Damage::Length { path: "events.jsonl".into(), line: 7 };
        let ending = Ending { fault: Some(damage.into()), ..ending(code(0), true) };
        let Report::Failed(failure) = ending.verdict(Some(Report::Succeeded)) else { panic!("believed") };
        assert_eq!(failure.class, FailureClass::WorkerDied);
        assert!(failure.message.contains("line 7 of"), "{}", failure.message);
    }
}
