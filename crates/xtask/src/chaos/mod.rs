//! `cargo xtask chaos`: killed anywhere, nothing is lost, nothing runs twice, and the bits are the same.
//!
//! A grid of small real runs is done once in peace. Then it is done again and again in fresh home folders while schedulers
//! and workers are killed, files are damaged between sessions, and disks are filled, all drawn from a seed. Every grid that
//! completes must show what the first one showed.
//!
//! `plan` draws, `session` and `damage` do, `ledger` remembers what that excuses, `verify` checks.

mod damage;
mod disk;
mod grid;
mod journal;
mod ledger;
mod outcome;
mod plan;
mod processes;
mod report;
mod round;
mod session;
mod traces;
mod verify;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use sweep_core::home::Home;
use tempfile::TempDir;

use crate::chaos::disk::SmallDisk;
use crate::chaos::journal::Journal;
pub(crate) use crate::chaos::outcome::Outcome;
use crate::chaos::report::Tally;
use crate::chaos::round::{Faults, Round, Setting};
use crate::chaos::session::{End, Session, Start};
use crate::console;
use crate::program::Program;

/// Blows fall into this part of the time that the grid takes in peace, so that it takes many sessions to complete it.
const SPAN: f64 = 0.3;

/// Rounds that there may be beyond one a kill.
const MOST_ROUNDS: u64 = 10;

/// The command line of `cargo xtask chaos`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Arguments {
    /// Kills in all.
    #[arg(long, default_value_t = 200)]
    kills: usize,

    /// Seed of everything that is done. The same seed does the same, but where a blow falls also depends on the machine.
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// Least number of runs in the grid.
    #[arg(long, default_value_t = 12)]
    runs: usize,

    /// Folder for everything, which must be empty. Default: a temporary one.
    #[arg(long, value_name = "DIR")]
    home: Option<PathBuf>,

    /// Keep the folder even if everything held.
    #[arg(long)]
    keep: bool,
}

/// Does it all; returns whether everything held.
pub(crate) fn run(program: &Program, arguments: &Arguments) -> Result<bool> {
    let beginning = Instant::now();
    let folder = Folder::new(arguments.home.as_deref())?;
    console::say(&format!("seed: {}, folder: {}", arguments.seed, folder.path().display()));
    let mut tally = Tally::default();
    let faults = rounds(program, arguments, folder.path(), &mut tally)
        .unwrap_or_else(|error| vec![format!("{error:#}")]);
    tally.print(beginning.elapsed());
    if tally.filled == 0 {
        console::say("NOT CHECKED: a full disk, for none was filled");
    }
    console::faults(&faults);
    let held = faults.is_empty();
    if arguments.keep || !held {
        let path = folder.keep();
        console::say(&format!("what happened stands in `{}`", path.join("journal.txt").display()));
    }
    let Arguments { kills, seed, runs, .. } = arguments;
    let verdict = if held { "everything held" } else { "it did not hold" };
    console::say(&format!("{verdict}; again: cargo xtask chaos --kills {kills} --seed {seed} --runs {runs}"));
    Ok(held)
}

/// Runs the grid in peace, then rounds until enough was killed or something is wrong.
fn rounds(program: &Program, arguments: &Arguments, folder: &Path, tally: &mut Tally) -> Result<Faults> {
    let file = folder.join("chaos.yaml");
    fs::write(&file, grid::of_at_least(arguments.runs))?;
    let mut journal = Journal::create(&folder.join("journal.txt"))?;
    let began = Instant::now();
    let expected = in_peace(program, &file, folder)?;
    let wall = began.elapsed();
    console::say(&format!(
        "in peace: {} runs, {} rows of results, {:.1} s",
        expected.runs().len(),
        expected.rows(),
        wall.as_secs_f64()
    ));
    let setting = Setting {
        program,
        file: &file,
        expected: &expected,
        seed: arguments.seed,
        span: wall.mul_f64(SPAN),
        kills: arguments.kills,
    };
    let mut number = 0;
    // Hardly a round ends before it was struck; this only bounds a grid that is over too soon.
    while tally.kills() < arguments.kills && number < MOST_ROUNDS + arguments.kills as u64 {
        let folder = folder.join(format!("round-{}", number + 1));
        let faults = one_round(setting, number, &folder, arguments.keep, (tally, &mut journal))?;
        console::say(&format!("after round {}: {}", number + 1, tally.line()));
        if !faults.is_empty() {
            return Ok(faults);
        }
        number += 1;
    }
    let missing = arguments.kills.saturating_sub(tally.kills());
    Ok(if missing == 0 {
        Faults::new()
    } else {
        vec![format!("{number} rounds were over before {missing} kills")]
    })
}

/// Runs the grid undisturbed and returns what it comes to.
fn in_peace(program: &Program, file: &Path, folder: &Path) -> Result<Outcome> {
    let home = Home::new(folder.join("peace"));
    let output = folder.join("peace.txt");
    let mut session =
        Session::start(&Start { program, home: &home, file, retry_failed: false, output: &output })?;
    let status = session.finish()?;
    match session.judge(status, None) {
        End::Complete => Outcome::read(program, &home),
        end => bail!("the grid does not even complete in peace: {end:?}"),
    }
}

/// Runs a round in `folder`, every other one on a small disk. The folder is gone afterwards if all held and nobody wants to
/// `keep` it.
fn one_round(
    setting: Setting<'_>,
    number: u64,
    folder: &Path,
    keep: bool,
    (tally, journal): (&mut Tally, &mut Journal),
) -> Result<Faults> {
    fs::create_dir_all(folder)?;
    let root = folder.join("disk");
    let mut disk = if number.is_multiple_of(2) { small_disk(&root) } else { None };
    let on_disk = disk.as_ref().map(|disk| (disk, root.as_path()));
    let faults = Round::new(setting, number, folder, on_disk, tally, journal).and_then(Round::run);
    let held = matches!(&faults, Ok(faults) if faults.is_empty());
    if held && !keep {
        drop(disk);
        fs::remove_dir_all(folder).with_context(|| format!("failed to delete `{}`", folder.display()))?;
    } else if let Some(disk) = &mut disk {
        disk.keep();
        console::say(&format!("still mounted, to be looked at; then: umount {}", root.display()));
    }
    faults
}

/// Mounts a small disk, or says clearly that what needs one is not checked.
fn small_disk(root: &Path) -> Option<SmallDisk> {
    match SmallDisk::mount(root) {
        Ok(disk) => Some(disk),
        Err(error) => {
            console::say(&format!("NOT CHECKED: a full disk, for no small one can be mounted here: {error}"));
            None
        }
    }
}

/// The folder of everything.
enum Folder {
    Temporary(TempDir),
    Given(PathBuf),
}

impl Folder {
    fn new(given: Option<&Path>) -> Result<Self> {
        let Some(given) = given else {
            return Ok(Self::Temporary(tempfile::Builder::new().prefix("sweep-chaos-").tempdir()?));
        };
        fs::create_dir_all(given).with_context(|| format!("failed to create `{}`", given.display()))?;
        let path = given.canonicalize()?;
        ensure!(fs::read_dir(&path)?.next().is_none(), "`{}` is not empty", path.display());
        Ok(Self::Given(path))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Temporary(folder) => folder.path(),
            Self::Given(path) => path,
        }
    }

    /// Lets a temporary folder outlive this program.
    fn keep(self) -> PathBuf {
        match self {
            Self::Temporary(folder) => folder.keep(),
            Self::Given(path) => path,
        }
    }
}
