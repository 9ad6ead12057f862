//! The database again, from files alone: `sweeps/`, and of each run its specification, the events of its attempts and
//! measurements, and what schedulers judged of them.
//!
//! What only the database knew stays unknown: which scheduler had an attempt and when exactly it claimed and settled it,
//! that a run was cancelled while it waited, and that failed runs were reset. Runs that were never started have no files;
//! registering their sweep again enters them.

mod census;

use std::fs;
use std::path::{Path, PathBuf};

use sweep_core::event::FailureClass;
use sweep_core::home::Home;
use sweep_core::spec::{RunId, RunSpec};
use sweep_core::verdict::Verdict;
use sweep_store::{Outcome, Replacement, Report, Settlement, Store, now_ms};

use self::census::{Census, Found};
use crate::error::Error;
use crate::evidence::Process;
use crate::executor::lock::LockedLog;
use crate::settle::{INTERRUPTED, LOG_TAIL_BYTES, SUCCEEDED, outcome};
use crate::slurm::signs;
use crate::tail::{Tail, end_of_file};

/// Whom restored attempts name as their scheduler.
const SCHEDULER: &str = "rebuild";

/// What a rebuild did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rebuilt {
    /// Sweeps entered.
    pub sweeps: usize,
    /// Runs entered.
    pub runs: usize,
    /// Attempts entered.
    pub attempts: usize,
    /// Measurements entered.
    pub measurements: usize,
    /// Where the old database is, if there was one.
    pub kept: Option<PathBuf>,
    /// What was passed over, and why.
    pub problems: Vec<String>,
}

/// Makes the database of a home folder again and puts it in the place of the old one, which is kept beside it and may be
/// missing or damaged.
///
/// Damaged files are passed over, as far as they are damaged, and reported. An attempt that neither its worker nor its
/// scheduler has ended counts as interrupted.
///
/// # Errors
/// [`Error::Alive`], [`Error::Changed`], [`Error::NothingToRebuild`], and those of the store
/// ([`sweep_store::Error::InUse`] among them). The old database is then where it was.
pub async fn rebuild(home: &Home) -> Result<Rebuilt, Error> {
    let census = Census::take(home);
    if census.is_empty() {
        return Err(Error::NothingToRebuild { path: home.root().to_owned() });
    }
    check_nobody_is_alive(home, &census)?;
    let replacement = Replacement::begin(&home.database()).await?;
    let mut rebuilder = Rebuilder { home, store: replacement.store(), rebuilt: Rebuilt::default() };
    rebuilder.enter(&census).await?;
    let rebuilt = rebuilder.rebuilt;
    check_nobody_is_alive(home, &census)?;
    if Census::take(home).traces() != census.traces() {
        return Err(Error::Changed { path: home.root().to_owned() });
    }
    let kept = replacement.finish().await?;
    Ok(Rebuilt { kept, ..rebuilt })
}

fn check_nobody_is_alive(home: &Home, census: &Census) -> Result<(), Error> {
    for (run, attempt) in census.attempts() {
        let path = home.log(run, attempt);
        let lock = LockedLog::acquire(&path).map_err(|source| Error::Lock { path, source })?;
        let process = Process::that_wrote(&home.events(run, attempt));
        let elsewhere = signs::is_heard_from_elsewhere(home, run, attempt)
            .map_err(|source| Error::Scan { path: home.slurm(), source })?;
        if lock.is_none() || elsewhere || process.is_some_and(|process| process.is_alive_here()) {
            return Err(Error::Alive { run, attempt });
        }
    }
    Ok(())
}

struct Rebuilder<'a> {
    home: &'a Home,
    store: &'a Store,
    rebuilt: Rebuilt,
}

impl Rebuilder<'_> {
    async fn enter(&mut self, census: &Census) -> Result<(), Error> {
        self.rebuilt.problems.extend_from_slice(&census.problems);
        let listed: Vec<(RunId, &RunSpec)> =
            census.runs.iter().map(|(run, found)| (*run, &found.spec)).collect();
        let created_ms = census.sweeps.iter().map(|sweep| sweep.created_ms).min();
        self.rebuilt.runs = self.store.register_runs(&listed, created_ms.unwrap_or_else(now_ms)).await?;
        self.enter_sweeps(census).await?;
        for (run, found) in &census.runs {
            for attempt in &found.attempts {
                self.enter_attempt(*run, *attempt).await?;
            }
            self.enter_measurements(*run, found).await?;
        }
        Ok(())
    }

    async fn enter_sweeps(&mut self, census: &Census) -> Result<(), Error> {
        for sweep in &census.sweeps {
            let known = |run: &RunId| Some((*run, &census.runs.get(run)?.spec));
            let listed: Vec<(RunId, &RunSpec)> = sweep.runs.iter().filter_map(known).collect();
            let missing = sweep.runs.len() - listed.len();
            if missing > 0 {
                self.note(format!(
                    "{missing} runs of the sweep `{}` have left no files, most likely because they were never started; \
                     `sweep run` enters them again",
                    sweep.name
                ));
            }
            match self.store.restore_sweep(sweep, &listed).await {
                Ok(_) => self.rebuilt.sweeps += 1,
                Err(error @ sweep_store::Error::ListedTwice { .. }) => {
                    self.note(format!("the sweep `{}` is left out: {error}", sweep.name));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    async fn enter_attempt(&mut self, run: RunId, attempt: u32) -> Result<(), Error> {
        let verdict = self.verdict(run, attempt);
        let mut tail = Tail::new(self.home.events(run, attempt));
        let mut chunk = tail.read();
        let judged_ms = verdict.as_ref().map(|verdict| verdict.ended_ms);
        let first_ms = chunk.records.first().map(|record| record.time_ms);
        let started_ms = first_ms.or(judged_ms).unwrap_or_else(now_ms);
        self.store.restore_attempt(run, attempt, SCHEDULER, started_ms).await?;
        let mut last_ms = started_ms;
        loop {
            let ingested = self.store.ingest(run, attempt, &chunk.records, chunk.offset).await?;
            last_ms = chunk.records.last().map_or(last_ms, |record| record.time_ms);
            let refused = ingested.refused.or_else(|| chunk.damage.as_ref().map(ToString::to_string));
            if refused.is_some() || !chunk.more {
                self.rebuilt.problems.extend(refused);
                let settlement = self.settlement(run, attempt, verdict, ingested.report);
                self.store.settle(run, attempt, &settlement, judged_ms.unwrap_or(last_ms)).await?;
                self.rebuilt.attempts += 1;
                return Ok(());
            }
            chunk = tail.read();
        }
    }

    /// Returns what a scheduler judged of the attempt, if it left that beside the events.
    fn verdict(&mut self, run: RunId, attempt: u32) -> Option<Verdict> {
        let path = self.home.verdict(run, attempt);
        let text = read_small(&path).map(|text| text.unwrap_or_else(|| b"null".to_vec()));
        let verdict = text.and_then(|text| serde_json::from_slice(&text).map_err(|error| error.to_string()));
        verdict.unwrap_or_else(|error| {
            self.note(format!("`{}` is passed over: {error}", path.display()));
            None
        })
    }

    fn settlement(
        &self,
        run: RunId,
        attempt: u32,
        verdict: Option<Verdict>,
        report: Option<Report>,
    ) -> Settlement {
        let settlement = match verdict {
            Some(verdict) => Settlement {
                exit_code: verdict.exit_code,
                signal: verdict.signal,
                micro_batch_limit: verdict.micro_batch_limit,
                ..Settlement::new(outcome(&verdict))
            },
            None => unjudged(report),
        };
        let failed = matches!(settlement.outcome, Outcome::Failed { .. });
        let log_tail =
            failed.then(|| end_of_file(&self.home.log(run, attempt), LOG_TAIL_BYTES).ok()).flatten();
        Settlement { log_tail, ..settlement }
    }

    async fn enter_measurements(&mut self, run: RunId, found: &Found) -> Result<(), Error> {
        for number in &found.measurements {
            let path = census::measurement(self.home, run, *number);
            let mut tail = Tail::new(path);
            let mut more = true;
            while more {
                let chunk = tail.read();
                more = chunk.more;
                match self.store.ingest_measurement(run, *number, &chunk.records).await {
                    Ok(_) => {}
                    Err(sweep_store::Error::ImpossibleEvent { reason }) => {
                        self.note(reason);
                        more = false;
                    }
                    Err(error) => return Err(error.into()),
                }
                self.rebuilt.problems.extend(chunk.damage.map(|damage| damage.to_string()));
            }
            self.rebuilt.measurements += 1;
        }
        Ok(())
    }

    fn note(&mut self, problem: String) {
        self.rebuilt.problems.push(problem);
    }
}

/// What the worker's last word means where no scheduler has judged. Exit codes are those that such words come with.
fn unjudged(report: Option<Report>) -> Settlement {
    match report {
        Some(Report::Succeeded) => {
            Settlement { exit_code: Some(SUCCEEDED), ..Settlement::new(Outcome::Succeeded) }
        }
        Some(Report::Interrupted) => {
            Settlement { exit_code: Some(INTERRUPTED), ..Settlement::new(Outcome::Interrupted) }
        }
        Some(Report::Failed(failure)) if failure.class == FailureClass::DiskFull => {
            Settlement::new(Outcome::Interrupted)
        }
        Some(Report::Failed(failure)) => {
            // The next attempt finds out how many images fit.
            let retry = failure.class.is_transient() || failure.class == FailureClass::OutOfMemory;
            Settlement::new(Outcome::Failed { failure, retry })
        }
        None => Settlement::new(Outcome::Interrupted),
    }
}

/// Largest specification or verdict that is read; real ones have a few kilobytes.
const LARGEST: u64 = 4 << 20;

/// Reads a small file; `None` where there is none.
fn read_small(path: &Path) -> Result<Option<Vec<u8>>, String> {
    let length = match fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    if length > LARGEST {
        return Err(format!("{length} bytes are too many"));
    }
    fs::read(path).map(Some).map_err(|error| error.to_string())
}
