//! How an attempt ended: a pure function of what its worker said and how it left.

use nix::sys::signal::Signal;
use sweep_core::event::FailureClass;
use sweep_store::{Failure, Report};

use crate::executor::local::Exit;
use crate::tail::Damage;

/// Exit code of a worker that could not write, not even that it could not.
const DISK_FULL: i32 = 74;

/// What the standard library prints before it aborts a program that gets no memory.
const NO_MEMORY: &str = "memory allocation of";

/// How the end of an attempt looked from outside, beside its worker's last word.
#[derive(Debug)]
pub(crate) struct Ending {
    /// How the process left; `None` where it was no child of this scheduler.
    pub(crate) exit: Option<Exit>,
    /// What this scheduler itself saw go wrong with the events; it outweighs what they say, unless they could only not be read
    /// any more.
    pub(crate) fault: Option<Failure>,
    /// Why it had to leave before its time, where it hung or took too long. A worker that then still says how it failed, or
    /// that it has succeeded, knows better.
    pub(crate) overdue: Option<Failure>,
    /// Whether it was asked or forced to leave, by this scheduler or by the end of its own.
    pub(crate) dismissed: bool,
    /// Whether it saved a checkpoint, as far as this scheduler followed it.
    pub(crate) saved: bool,
    /// Whether the kernel killed processes for want of memory meanwhile.
    pub(crate) memory_ran_out: bool,
}

impl Ending {
    /// Returns the end of an attempt that this scheduler knows nothing of but its files.
    pub(crate) const fn of_a_stranger(fault: Option<Failure>) -> Self {
        Self { exit: None, fault, overdue: None, dismissed: true, saved: false, memory_ran_out: false }
    }

    /// Returns the end of an attempt whose worker could not be started.
    pub(crate) fn stillborn(failure: Failure) -> Self {
        Self { fault: Some(failure), dismissed: false, ..Self::of_a_stranger(None) }
    }

    /// Returns what the attempt came to. Where nothing else went wrong, the worker's last word decides, whatever the
    /// exit code; a worker that left without one has died, unless it was dismissed. `log` is the end of its log.
    pub(crate) fn verdict(&self, last_word: Option<Report>, log: &str) -> Report {
        let overdue = || self.overdue.clone().map(Report::Failed);
        // Nothing stands behind a last word that could have been missed.
        let missed = |fault: &&Failure| last_word.is_none() || fault.class != FailureClass::Storage;
        match (self.fault.as_ref().filter(missed), last_word) {
            (Some(fault), _) => Report::Failed(fault.clone()),
            (None, Some(Report::Interrupted)) => overdue().unwrap_or(Report::Interrupted),
            (None, Some(last_word)) => last_word,
            (None, None) if self.dismissed => overdue().unwrap_or(Report::Interrupted),
            (None, None) => Report::Failed(self.of_silence(log)),
        }
    }

    /// Returns why a worker died that did not say so.
    fn of_silence(&self, log: &str) -> Failure {
        let exit = self.exit.unwrap_or_default();
        let signal = exit.signal.and_then(|signal| Signal::try_from(signal).ok());
        let no_memory = log.lines().rev().find(|line| line.contains(NO_MEMORY));
        let (class, message) = match (exit.code, signal, no_memory) {
            (Some(DISK_FULL), _, _) => (FailureClass::DiskFull, "the disk is full".to_owned()),
            (_, Some(Signal::SIGABRT), Some(line)) => (FailureClass::OutOfMemory, line.trim().to_owned()),
            (_, Some(Signal::SIGKILL), _) if self.memory_ran_out => (
                FailureClass::OutOfMemory,
                "the kernel killed the worker because the machine or its control group ran out of memory"
                    .to_owned(),
            ),
            _ => (FailureClass::WorkerDied, format!("the worker left without a last word ({})", named(exit))),
        };
        Failure { class, message }
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

fn named(exit: Exit) -> String {
    match (exit.code, exit.signal) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => match Signal::try_from(signal) {
            Ok(signal) => signal.to_string(),
            Err(_) => format!("signal {signal}"),
        },
        (None, None) => "unknown exit".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ending(exit: Exit, dismissed: bool) -> Ending {
        Ending { exit: Some(exit), dismissed, ..Ending::of_a_stranger(None) }
    }

    fn code(code: i32) -> Exit {
        Exit { code: Some(code), signal: None }
    }

    fn signal(signal: Signal) -> Exit {
        Exit { code: None, signal: Some(signal as i32) }
    }

    fn failure(class: FailureClass) -> Failure {
        Failure { class, message: "it broke".to_owned() }
    }

    fn failed(report: Report) -> Failure {
        match report {
            Report::Failed(failure) => failure,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_last_word_decides_whatever_the_exit() {
        let words = [Report::Succeeded, Report::Interrupted, Report::Failed(failure(FailureClass::Data))];
        for last_word in words {
            for (exit, dismissed) in [(code(0), false), (code(1), true), (code(74), false)] {
                assert_eq!(ending(exit, dismissed).verdict(Some(last_word.clone()), ""), last_word);
            }
        }
    }

    #[test]
    fn silence_is_death_unless_the_worker_was_dismissed() {
        let killed = signal(Signal::SIGKILL);
        assert_eq!(ending(killed, true).verdict(None, ""), Report::Interrupted);
        for (exit, words) in [(killed, "SIGKILL"), (code(3), "exit code 3"), (code(0), "exit code 0")] {
            let failure = failed(ending(exit, false).verdict(None, ""));
            assert_eq!(failure.class, FailureClass::WorkerDied);
            assert!(failure.message.contains(words), "{}", failure.message);
        }
    }

    #[test]
    fn what_silence_still_tells() {
        let said = "epoch 3\nmemory allocation of 8000000000 bytes failed\n";
        let cases = [
            (code(74), "", false, FailureClass::DiskFull, "disk is full"),
            (signal(Signal::SIGABRT), said, false, FailureClass::OutOfMemory, "8000000000 bytes"),
            (signal(Signal::SIGABRT), "panicked", true, FailureClass::WorkerDied, "SIGABRT"),
            (signal(Signal::SIGSEGV), said, true, FailureClass::WorkerDied, "SIGSEGV"),
            (signal(Signal::SIGKILL), "", true, FailureClass::OutOfMemory, "kernel killed"),
            (signal(Signal::SIGKILL), said, false, FailureClass::WorkerDied, "SIGKILL"),
        ];
        for (exit, log, memory_ran_out, class, words) in cases {
            let failure = failed(Ending { memory_ran_out, ..ending(exit, false) }.verdict(None, log));
            assert_eq!(failure.class, class, "{exit:?}");
            assert!(failure.message.contains(words), "{}", failure.message);
        }
    }

    #[test]
    fn a_worker_that_is_overdue_failed_unless_it_knows_better() {
        let overdue = Some(failure(FailureClass::Timeout));
        let ending = Ending { overdue, ..ending(signal(Signal::SIGKILL), true) };
        for last_word in [None, Some(Report::Interrupted)] {
            assert_eq!(failed(ending.verdict(last_word, "")).class, FailureClass::Timeout);
        }
        assert_eq!(ending.verdict(Some(Report::Succeeded), ""), Report::Succeeded);
        let diverged = Report::Failed(failure(FailureClass::Diverged));
        assert_eq!(ending.verdict(Some(diverged.clone()), ""), diverged);
    }

    #[test]
    fn damaged_events_are_not_believed() {
        let damage = Damage::Length { path: "events.jsonl".into(), line: 7 };
        let ending = Ending { fault: Some(damage.into()), ..ending(code(0), true) };
        let failure = failed(ending.verdict(Some(Report::Succeeded), ""));
        assert_eq!(failure.class, FailureClass::WorkerDied);
        assert!(failure.message.contains("line 7 of"), "{}", failure.message);
    }

    #[test]
    fn events_that_could_not_be_read_are_a_failure_that_passes_unless_the_last_one_is_known() {
        let damage = Damage::Read { path: "events.jsonl".into(), source: std::io::Error::other("no answer") };
        let ending = Ending { fault: Some(damage.into()), ..ending(code(0), false) };
        let failure = failed(ending.verdict(None, ""));
        assert!(failure.class.is_transient(), "{failure:?}");
        assert_eq!(ending.verdict(Some(Report::Succeeded), ""), Report::Succeeded);
    }
}
