//! A small grid on the device, undisturbed and killed.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use sweep_testkit::Workspace;

use crate::chaos::Outcome;
use crate::console;
use crate::program::{Program, integer};

/// Four families, fixed and ramped, two epochs.
const GRID: &str = include_str!("grid.yaml");
/// How often the grid is looked at.
const POLL: Duration = Duration::from_millis(50);
/// Time after which a grid of seconds is stuck.
const STUCK: Duration = Duration::from_mins(8);

/// Runs the grid once, then again with a kill in the middle; returns whether both gave the same numbers and models.
pub(super) fn check(program: &Program, devices: &str) -> Result<bool> {
    let (calm, killed) = (Workspace::new(), Workspace::new());
    complete(program, calm.home(), devices)?;
    let expected = Outcome::read(program, &calm.layout())?;
    let session = command(program, killed.home(), devices)?.spawn().context("failed to start the grid")?;
    let mut session = Session(session);
    wait_for_epochs(program, killed.home(), &mut session.0, expected.runs().len() as i64)?;
    drop(session);
    console::say("killed in the middle, and started again");
    complete(program, killed.home(), devices)?;
    let found = Outcome::read(program, &killed.layout())?;
    let differences = found.differences(&expected);
    console::faults(&differences);
    console::say(&format!("{} runs, {} rows compared", expected.runs().len(), expected.rows()));
    Ok(differences.is_empty() && expected.rows() > 0)
}

fn command(program: &Program, home: &Path, devices: &str) -> Result<Command> {
    let file = home.join("gpu-check.yaml");
    fs::write(&file, GRID)?;
    let file = file.to_str().context("the path of a temporary file is text")?;
    Ok(program.command(home, &["run", file, "--devices", devices]))
}

/// A `sweep run`, killed at the latest when nobody waits for it any more.
struct Session(Child);

impl Drop for Session {
    fn drop(&mut self) {
        // One that has ended is not touched by this.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn complete(program: &Program, home: &Path, devices: &str) -> Result<()> {
    let output = command(program, home, devices)?.stderr(Stdio::piped()).output()?;
    ensure!(
        output.status.success(),
        "the grid ended with {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// Waits until `count` epochs are measured: about the middle, since every run has two.
fn wait_for_epochs(program: &Program, home: &Path, session: &mut Child, count: i64) -> Result<()> {
    let deadline = Instant::now() + STUCK;
    loop {
        if let Some(status) = session.try_wait()? {
            bail!("the grid ended before its time with {status}");
        }
        // At first there is no database.
        let rows = program.query(home, "SELECT count(*) AS n FROM epochs").unwrap_or_default();
        if rows.first().is_some_and(|row| integer(row, "n") >= count) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "the grid is stuck");
        std::thread::sleep(POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::no_files::NoFiles;

    #[test]
    fn the_grid_has_every_family_in_both_precisions() {
        let sweep = sweep_core::Sweep::parse(GRID.as_bytes(), &[]).unwrap();
        let grid = sweep.expand(&NoFiles).unwrap();
        assert_eq!(grid.runs.len(), 4 * 2 * 2);
    }
}
