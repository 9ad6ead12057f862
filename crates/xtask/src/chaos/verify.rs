//! What must hold once a grid is complete, whatever was done to it.

use std::collections::BTreeMap;

use anyhow::Result;
use sweep_core::home::Home;
use sweep_core::spec::RunId;

use crate::chaos::ledger::Ledger;
use crate::chaos::outcome::Outcome;
use crate::chaos::traces::{Attempt, Story, stories};
use crate::program::{Program, Row, integer, text};

/// What a complete round shows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Findings {
    pub(crate) faults: Vec<String>,
    pub(crate) attempts: usize,
    /// Epochs that can be seen to have been trained, repetitions included.
    pub(crate) trained: usize,
    pub(crate) repeated: usize,
    /// Epochs that might have been trained again for what was done.
    pub(crate) allowed: usize,
}

/// Checks a complete grid: nothing lost, nothing done twice, the same bits, no more epochs trained again than what was done
/// to it explains, and a sound database.
pub(crate) fn round(program: &Program, home: &Home, expected: &Outcome, ledger: &Ledger) -> Result<Findings> {
    let mut findings = Findings::default();
    findings.faults.extend(Outcome::read(program, home)?.differences(expected));
    findings.faults.extend(states(program, home, expected)?);
    attempts(program, home, ledger, &mut findings)?;
    epochs(&stories(home)?, ledger, &mut findings);
    findings.faults.extend(program.database_fault(home.root())?);
    Ok(findings)
}

/// Every run of the grid is there and has succeeded.
fn states(program: &Program, home: &Home, expected: &Outcome) -> Result<Vec<String>> {
    let rows = program
        .query(home.root(), "SELECT id, state, failure_class, failure_message FROM runs ORDER BY id")?;
    let states: BTreeMap<&str, &Row> = rows.iter().map(|row| (text(row, "id"), row)).collect();
    let fault = |run: RunId| match states.get(run.to_string().as_str()) {
        None => Some(format!("run {run} is lost")),
        Some(row) if text(row, "state") == "succeeded" => None,
        Some(row) => {
            let (class, message) = (text(row, "failure_class"), text(row, "failure_message"));
            Some(format!("run {run} is {} {class} {message}", text(row, "state")))
        }
    };
    Ok(expected.runs().into_iter().filter_map(fault).collect())
}

/// Every run has succeeded once, no attempt is open, and none has failed that was let alone.
fn attempts(program: &Program, home: &Home, ledger: &Ledger, findings: &mut Findings) -> Result<()> {
    let sql = "SELECT run, number, state, failure_class, failure_message FROM attempts ORDER BY run, number";
    let rows = program.query(home.root(), sql)?;
    findings.attempts = rows.len();
    findings.faults.extend(rows.iter().filter_map(|row| attempt_fault(row, ledger)));
    let mut successes: BTreeMap<&str, usize> = BTreeMap::new();
    for row in rows.iter().filter(|row| text(row, "state") == "succeeded") {
        *successes.entry(text(row, "run")).or_default() += 1;
    }
    let twice = successes.iter().filter(|(_, count)| **count > 1);
    findings.faults.extend(twice.map(|(run, count)| format!("run {run} has succeeded {count} times")));
    Ok(())
}

fn attempt_fault(row: &Row, ledger: &Ledger) -> Option<String> {
    let attempt = Attempt { run: text(row, "run").parse().ok()?, number: integer(row, "number") as u32 };
    let (class, message) = (text(row, "failure_class"), text(row, "failure_message"));
    match text(row, "state") {
        "running" => Some(format!("{attempt} is still running")),
        "failed" if !ledger.excuses(attempt, class) => Some(format!(
            "{attempt} failed, and nothing was done to it that explains this: {class}: {message}"
        )),
        _ => None,
    }
}

fn epochs(stories: &BTreeMap<RunId, Story>, ledger: &Ledger, findings: &mut Findings) {
    for (run, story) in stories {
        let (repeated, allowed) = (story.repeated(), ledger.allowance(*run));
        findings.trained += story.times;
        findings.repeated += repeated;
        findings.allowed += allowed;
        if repeated > allowed {
            findings
                .faults
                .push(format!("run {run} has trained {repeated} epochs again, {allowed} are explained"));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use sweep_testkit::id_of;

    use super::*;
    use crate::chaos::ledger::Cause;

    fn attempt(number: u32) -> Attempt {
        Attempt { run: id_of(0), number }
    }

    fn row(number: u32, state: &str) -> Row {
        let run = id_of(0).to_string();
        serde_json::from_value(
            json!({"run": run, "number": number, "state": state, "failure_class": "worker_died"}),
        )
        .unwrap()
    }

    #[test]
    fn an_attempt_may_fail_only_if_something_was_done_to_it() {
        let mut ledger = Ledger::default();
        ledger.hit(attempt(1), Cause::Killed);
        for (number, state, fault) in [
            (1, "failed", false),
            (2, "failed", true),
            (1, "running", true),
            (2, "interrupted", false),
            (2, "succeeded", false),
        ] {
            assert_eq!(attempt_fault(&row(number, state), &ledger).is_some(), fault, "{number} {state}");
        }
    }

    #[test]
    fn more_repeated_epochs_than_hits_are_a_fault() {
        let mut ledger = Ledger::default();
        ledger.hit(attempt(1), Cause::Killed);
        for (times, fault) in [(3, false), (4, false), (5, true)] {
            let mut findings = Findings::default();
            let story = Story { times, epochs: [0, 1, 2].into(), ..Story::default() };
            epochs(&BTreeMap::from([(id_of(0), story)]), &ledger, &mut findings);
            assert_eq!(!findings.faults.is_empty(), fault, "{times}");
        }
    }
}
