//! `cargo xtask two-schedulers`: two `sweep run` at once on one home folder start every run exactly once.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Output, Stdio};

use anyhow::{Context as _, Result};
use clap::Args;
use sweep_core::spec::RunId;
use sweep_testkit::{Action, Script, Workspace, fake_worker};

use crate::console;
use crate::program::{Program, Row, text};

/// What a busy database says where a writer does not wait for the other.
const LOCKED: &str = "database is locked";

/// The command line of `cargo xtask two-schedulers`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Arguments {
    /// Runs of the sweep.
    #[arg(long, default_value_t = 100)]
    runs: usize,

    /// How often, each time in a fresh home folder: the two also meet when they make the database.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

/// Does it; returns whether everything held.
pub(crate) fn run(program: &Program, arguments: &Arguments) -> Result<bool> {
    let mut faults = Vec::new();
    for _ in 0..arguments.rounds {
        faults.extend(round(program, arguments.runs)?);
    }
    console::faults(&faults);
    console::say(if faults.is_empty() { "everything held" } else { "it did not hold" });
    Ok(faults.is_empty())
}

/// Lets two schedulers share a sweep; returns what was wrong.
fn round(program: &Program, runs: usize) -> Result<Vec<String>> {
    let workspace = Workspace::new();
    workspace.script(&Script::always(complete()));
    let home = workspace.home();
    let file = home.join("two.yaml");
    fs::write(&file, sweep_of(runs))?;
    let both = [start(program, home, &file)?, start(program, home, &file)?];
    let mut faults = Vec::new();
    for output in both.map(Child::wait_with_output) {
        faults.extend(fault_of(&output?));
    }
    let sql = "SELECT run, scheduler, state FROM attempts ORDER BY run, number";
    let attempts = program.query(home, sql).with_context(|| faults.join("\n"))?;
    faults.extend(faults_of_attempts(&attempts, runs, |run| workspace.starts(run)));
    faults.extend(program.database_fault(home)?);
    console::say(&format!("{runs} runs by two schedulers: {}", shares(&attempts)));
    Ok(faults)
}

/// A run that costs no more than its process.
fn complete() -> Vec<Action> {
    let epochs = [(4, 1), (40, 20)].map(|(clean, robust)| Action::Epoch { clean, robust });
    let mut actions = vec![Action::Start];
    actions.extend(epochs);
    actions.extend([Action::Evaluate { correct: vec![80, 70, 60, 50, 40] }, Action::Succeed]);
    actions
}

fn sweep_of(runs: usize) -> String {
    let seeds: Vec<String> = (0..runs).map(|seed| seed.to_string()).collect();
    format!(
        "name: two\n\
         run: {{backbone: b, dataset: shapes, target_epsilon: 4/255, epsilon_schedule: {{kind: fixed}}, epochs: 2, learning_rate_schedule: {{kind: constant}}, \
         evaluation: {{attack: {{kind: apgd, steps: 2}}, max_epsilon: 4/255}}}}\n\
         backbones: {{b: {{architecture: {{kind: vit, image_size: 16, patch_size: 8, embed_dim: 8, depth: 1, num_heads: 1}}, \
         weights: {{kind: random}}}}}}\n\
         matrix: {{seed: [{}]}}\n",
        seeds.join(", ")
    )
}

fn start(program: &Program, home: &Path, file: &Path) -> Result<Child> {
    let file = file.to_str().context("the sweep file's path is text")?;
    let worker = fake_worker().to_str().context("the worker's path is text")?;
    let mut command = program.command(home, &["run", file, "--devices", "cpu:2", "--worker", worker]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("failed to start the program")
}

fn fault_of(output: &Output) -> Option<String> {
    let said = String::from_utf8_lossy(&output.stderr);
    let locked = said.matches(LOCKED).count();
    if output.status.success() && locked == 0 {
        return None;
    }
    let lines: Vec<&str> = said.lines().collect();
    let tail = lines[lines.len().saturating_sub(8)..].join("\n");
    Some(format!("a scheduler ended with {}, `{LOCKED}` {locked} times\n{tail}", output.status))
}

/// Every run has one attempt, which succeeded, and its worker was started once.
fn faults_of_attempts(attempts: &[Row], runs: usize, starts: impl Fn(RunId) -> usize) -> Vec<String> {
    let mut faults = Vec::new();
    let mut by_run: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for row in attempts {
        by_run.entry(text(row, "run")).or_default().push(text(row, "state"));
    }
    if by_run.len() != runs {
        faults.push(format!("{} of {runs} runs were tried", by_run.len()));
    }
    for (run, states) in by_run {
        let started = run.parse().map_or(0, &starts);
        if states != ["succeeded"] || started != 1 {
            faults
                .push(format!("run {run} was started {started} times, its attempts: {}", states.join(", ")));
        }
    }
    faults
}

/// How many attempts each scheduler made.
fn shares(attempts: &[Row]) -> String {
    let mut shares: BTreeMap<&str, usize> = BTreeMap::new();
    for row in attempts {
        *shares.entry(text(row, "scheduler")).or_default() += 1;
    }
    let shares: Vec<String> = shares.into_iter().map(|(name, count)| format!("{name} {count}")).collect();
    shares.join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use sweep_testkit::id_of;

    use super::*;
    use crate::no_files::NoFiles;

    fn attempt(seed: u64, state: &str) -> Row {
        let run = id_of(seed).to_string();
        serde_json::from_value(json!({"run": run, "state": state, "scheduler": "here:1"})).unwrap()
    }

    #[test]
    fn every_run_once_is_right_and_anything_else_is_not() {
        let right = [attempt(0, "succeeded"), attempt(1, "succeeded")];
        assert_eq!(faults_of_attempts(&right, 2, |_| 1), Vec::<String>::new());
        assert_eq!(shares(&right), "here:1 2");
        assert_eq!(faults_of_attempts(&right, 3, |_| 1).len(), 1);
        assert_eq!(faults_of_attempts(&right, 2, |_| 2).len(), 2);
        let twice = [attempt(0, "succeeded"), attempt(0, "succeeded")];
        assert_eq!(faults_of_attempts(&twice, 1, |_| 1).len(), 1);
        assert_eq!(faults_of_attempts(&[attempt(0, "interrupted")], 1, |_| 1).len(), 1);
    }

    #[test]
    fn the_sweep_has_a_seed_a_run() {
        let sweep = sweep_core::Sweep::parse(sweep_of(7).as_bytes(), &[]).unwrap();
        assert_eq!(sweep.expand(&NoFiles).unwrap().runs.len(), 7);
    }
}
