//! What Slurm says of tasks, and what follows for runs that nobody works on any more.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io;
use std::path::PathBuf;

use sweep_core::event::FailureClass;
use sweep_core::spec::RunId;
use sweep_store::{Failure, now_ms};
use tokio::task::JoinError;
use tokio::time::{Duration, Instant};

use super::super::client::{JobId, Slurm};
use super::super::error::SlurmError;
use super::super::rows::TaskRow;
use super::super::states::{Block, Meaning};
use super::super::withdraw::withdraw;
use super::{Controller, Job, Spot};
use crate::error::Error;
use crate::ledger::Next;
use crate::supervise::News;
use crate::tail::end_of_file;
use crate::update::Update;
use crate::verdict::Ending;

/// How often Slurm must have said the same before it counts: its word may come before what a worker wrote last.
const LOOKS: u32 = 2;

/// How much of what a task printed becomes the log of an attempt that did not begin.
const LOG_BYTES: u64 = 64 * 1024;

/// What Slurm says of a run's task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sight {
    /// `None`: Slurm knows no such task.
    meaning: Option<Meaning>,
    /// How often in a row it has said so; 0 before the first time.
    times: u32,
}

/// What a sight comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing was heard yet.
    Unseen,
    Queued,
    Blocked(Block),
    Running,
    Unknown,
    Lost,
    Interrupted,
    Look,
    Failed {
        hopeless: bool,
    },
    OutOfMemory,
    TimedOut,
    Cancelled,
}

impl Sight {
    pub(super) fn kind(&self) -> Kind {
        match &self.meaning {
            None if self.times == 0 => Kind::Unseen,
            None => Kind::Unknown,
            Some(Meaning::Queued) => Kind::Queued,
            Some(Meaning::Blocked { block, .. }) => Kind::Blocked(*block),
            Some(Meaning::Running) => Kind::Running,
            Some(Meaning::Lost) => Kind::Lost,
            Some(Meaning::Interrupted) => Kind::Interrupted,
            Some(Meaning::Look) => Kind::Look,
            Some(Meaning::Failed { hopeless }) => Kind::Failed { hopeless: *hopeless },
            Some(Meaning::OutOfMemory) => Kind::OutOfMemory,
            Some(Meaning::TimedOut) => Kind::TimedOut,
            Some(Meaning::Cancelled) => Kind::Cancelled,
        }
    }

    /// Returns whether nobody can be at work in the task, as Slurm has said often enough.
    pub(super) fn is_away(&self) -> bool {
        self.times >= LOOKS && !matches!(self.kind(), Kind::Unseen | Kind::Running)
    }

    /// Returns whether the task is over for good.
    fn is_over(&self) -> bool {
        self.is_away() && !matches!(self.kind(), Kind::Queued | Kind::Blocked(_))
    }

    /// Takes over what Slurm says now; returns whether it is something new.
    fn see(&mut self, meaning: Option<Meaning>) -> bool {
        let same = self.times > 0 && self.meaning == meaning;
        self.times = if same { self.times.saturating_add(1) } else { 1 };
        self.meaning = meaning;
        !same
    }
}

/// What Slurm answered about some jobs.
pub(super) struct Answer {
    jobs: Vec<JobId>,
    rows: Result<Vec<TaskRow>, SlurmError>,
}

impl Controller<'_> {
    pub(super) fn may_ask(&self) -> bool {
        self.question.is_empty() && !self.arrays.is_empty()
    }

    /// Puts one question to Slurm about all arrays. The answer is awaited beside everything else: it may take half a minute.
    pub(super) fn ask(&mut self) {
        let known = self.arrays.values().filter_map(|array| match array.job {
            Job::Known(job) => Some(job),
            Job::Uncertain | Job::Forgotten => None,
        });
        let jobs: Vec<JobId> = known.collect();
        let expected: Vec<(JobId, u32)> = self.spots.values().filter_map(|spot| self.task_of(spot)).collect();
        let names: Vec<String> = self.arrays.keys().cloned().collect();
        let slurm = self.slurm.clone();
        self.question.spawn(async move {
            let rows = question(&slurm, &names, &jobs, &expected).await;
            Answer { jobs, rows }
        });
    }

    fn task_of(&self, spot: &Spot) -> Option<(JobId, u32)> {
        match self.arrays.get(&spot.token)?.job {
            Job::Known(job) => Some((job, spot.task)),
            Job::Uncertain | Job::Forgotten => None,
        }
    }

    /// Draws the conclusions from an answer.
    pub(super) async fn hear(&mut self, answer: Result<Answer, JoinError>) -> Result<(), Error> {
        let Answer { jobs, rows } = match answer {
            Ok(answer) => answer,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => return Ok(()),
            },
        };
        let rows = match rows {
            Ok(rows) => rows,
            Err(error) => {
                self.pause = self.pace.back_off(self.pause);
                self.ask_at = Instant::now() + self.pause;
                self.complain(error.to_string(), self.pause);
                return Ok(());
            }
        };
        self.complaint = None;
        self.heard = true;
        let changed = self.see(&jobs, &rows);
        self.note_reasons().await?;
        self.find_uncertain_arrays().await?;
        self.conclude().await?;
        self.pause = self.pace.next(self.pause, changed);
        self.ask_at = Instant::now() + self.pause;
        Ok(())
    }

    /// Takes over what Slurm says of every task that it was asked about; returns whether anything is new.
    fn see(&mut self, jobs: &[JobId], rows: &[TaskRow]) -> bool {
        let rows: HashMap<(JobId, u32), &TaskRow> =
            rows.iter().map(|row| ((row.job, row.task.unwrap_or(0)), row)).collect();
        for array in self.arrays.values_mut() {
            if let Job::Known(job) = array.job {
                array.is_known = rows.keys().any(|(known, _)| *known == job);
            }
        }
        let mut changed = false;
        for spot in self.spots.values_mut() {
            match self.arrays.get(&spot.token).map(|array| array.job) {
                Some(Job::Known(job)) if jobs.contains(&job) => {
                    changed |= spot.sight.see(rows.get(&(job, spot.task)).map(|row| row.meaning()));
                }
                Some(Job::Forgotten) => changed |= spot.sight.see(None),
                _ => {}
            }
        }
        for (run, spot) in &mut self.spots {
            if self.follows.contains_key(run) {
                continue;
            }
            let row = self.arrays.get(&spot.token).and_then(|array| match array.job {
                Job::Known(job) => rows.get(&(job, spot.task)),
                Job::Uncertain | Job::Forgotten => None,
            });
            spot.reason_now = match spot.sight.kind() {
                Kind::Queued | Kind::Blocked(_) => {
                    row.map(|row| row.reason.clone()).filter(|text| text != "None")
                }
                _ => None,
            };
        }
        changed
    }

    /// Keeps why runs wait, and says it where that has changed.
    async fn note_reasons(&mut self) -> Result<(), Error> {
        let mut changes = Vec::new();
        let mut reasons: BTreeMap<(String, bool), usize> = BTreeMap::new();
        for (run, spot) in &mut self.spots {
            if spot.reason != spot.reason_now {
                spot.reason.clone_from(&spot.reason_now);
                changes.push((*run, spot.reason.clone()));
            }
            if let Some(reason) = &spot.reason {
                let blocked = matches!(spot.sight.kind(), Kind::Blocked(_));
                *reasons.entry((reason.clone(), blocked)).or_default() += 1;
            }
        }
        if !changes.is_empty() {
            self.ledger.settler.store.note_reasons(&changes).await?;
        }
        for ((reason, blocked), runs) in &reasons {
            if !self.reasons.contains_key(reason) {
                self.ledger.tell(Update::Waiting { runs: *runs, reason: reason.clone(), blocked: *blocked });
            }
        }
        self.reasons = reasons.into_iter().map(|((reason, _), runs)| (reason, runs)).collect();
        Ok(())
    }

    /// Says what becomes of runs whose tasks are over, or will never start.
    async fn conclude(&mut self) -> Result<(), Error> {
        let runs: Vec<RunId> = self.spots.keys().copied().collect();
        let mut refused: BTreeMap<JobId, Vec<u32>> = BTreeMap::new();
        for run in runs {
            let Some(spot) = self.spots.get(&run) else { continue };
            let is_refused = spot.sight.is_away() && spot.sight.kind() == Kind::Blocked(Block::LaunchFailed);
            if self.follows.contains_key(&run) || !(is_refused || spot.sight.is_over()) {
                continue;
            }
            let task = self.task_of(spot);
            if self.look_for_attempt(run).await? {
                continue;
            }
            if is_refused && let Some((job, task)) = task {
                refused.entry(job).or_default().push(task);
            }
            self.conclude_one(run).await?;
        }
        for (job, tasks) in refused {
            if let Err(error) = self.slurm.cancel(job, Some(&tasks)).await {
                self.complain(error.to_string(), self.pause);
            }
        }
        Ok(())
    }

    /// Takes back what waits once nothing more is to be started: tasks that have not begun are cancelled, and their runs are
    /// pending again. Those that run go on.
    pub(super) async fn recall(&mut self) -> Result<(), Error> {
        let waits = |(run, spot): (&RunId, &Spot)| {
            let waits = matches!(spot.sight.kind(), Kind::Unseen | Kind::Queued | Kind::Blocked(_));
            (waits && self.is_ours(*run) && !self.follows.contains_key(run)).then_some(*run)
        };
        let runs: Vec<RunId> = self.spots.iter().filter_map(waits).collect();
        if !runs.is_empty() {
            let reader = self.ledger.settler.store.reader();
            let withdrawn = withdraw(reader, &self.ledger.settings.home, &runs).await?;
            if let Some(problem) = withdrawn.problem {
                self.complain(problem, self.pause);
            }
        }
        self.recalled = true;
        Ok(())
    }

    /// The run has no attempt that runs, and its task is over or is to be.
    async fn conclude_one(&mut self, run: RunId) -> Result<(), Error> {
        let state = self.ledger.settler.state(run).await?;
        let Some(spot) = self.spots.get(&run).cloned() else { return Ok(()) };
        if state.state.is_final() {
            if self.is_ours(run) {
                self.ledger.refresh(run).await?;
            }
            return self.let_go(&[run]).await;
        }
        let withdrawn = self.folder(&spot.token).withdrawal(run).exists();
        let has_begun = spot.attempts > spot.after;
        match spot.sight.kind() {
            Kind::Cancelled if !withdrawn => self.cancelled(run).await,
            Kind::Unknown if !withdrawn && !has_begun && self.was_taken_out(&spot) => {
                self.cancelled(run).await
            }
            // What a task was given beside its first run is not to blame for what became of the task.
            _ if withdrawn || has_begun || spot.place > 0 => {
                self.go_on(run, Next::Again(Duration::ZERO)).await
            }
            Kind::Interrupted | Kind::Look | Kind::Blocked(_) => {
                self.go_on(run, Next::Again(self.pace.shortest)).await
            }
            kind => self.stillborn(run, &spot, of_unbegun(kind)).await,
        }
    }

    /// Returns whether a task that Slurm does not know was cancelled while it waited: of such a task it keeps no record, while
    /// it knows the rest of the array. A task that has started has printed into a file, if only nothing.
    fn was_taken_out(&self, spot: &Spot) -> bool {
        let is_known = self.arrays.get(&spot.token).is_some_and(|array| array.is_known);
        is_known && self.printed(spot).is_some_and(|path| !path.exists())
    }

    /// Returns the file that a task prints into.
    fn printed(&self, spot: &Spot) -> Option<PathBuf> {
        let (job, task) = self.task_of(spot)?;
        Some(self.folder(&spot.token).logs().join(format!("{job}_{task}.out")))
    }

    /// Somebody has cancelled the task with Slurm's own means.
    async fn cancelled(&mut self, run: RunId) -> Result<(), Error> {
        self.ledger.settler.store.cancel(&[run], now_ms()).await?;
        if self.is_ours(run) {
            self.ledger.refresh(run).await?;
        }
        self.let_go(&[run]).await
    }

    /// Settles a run whose task came to nothing as a failed attempt, so that it has a history, and its failures are counted.
    async fn stillborn(&mut self, run: RunId, spot: &Spot, failure: Failure) -> Result<(), Error> {
        let home = &self.ledger.settings.home;
        let attempt = spot.attempts + 1;
        match fs::create_dir(home.attempt(run, attempt)) {
            // It has begun after all.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            made => made.map_err(|source| Error::Task { path: home.attempt(run, attempt), source })?,
        }
        if let Some(said) = self.printed(spot) {
            let text = end_of_file(&said, LOG_BYTES).unwrap_or_default();
            let log = home.log(run, attempt);
            fs::write(&log, text).map_err(|source| Error::Task { path: log, source })?;
        }
        let name = format!("slurm:{}_{}", spot.token, spot.task);
        self.ledger.settler.store.adopt(run, attempt, &name, now_ms()).await?;
        if let Some(spot) = self.spots.get_mut(&run) {
            spot.attempts = attempt;
        }
        let ending = Ending::stillborn(failure);
        let settled = self.ledger.settler.settle(run, attempt, &News::default(), &ending).await?;
        let next = if self.is_ours(run) {
            self.ledger.tally.attempts += 1;
            self.ledger.settled(run, attempt, settled).await?
        } else {
            Next::Over
        };
        self.go_on(run, next).await
    }
}

/// Asks the queue, and about tasks that it has forgotten the accounting, where there is one.
async fn question(
    slurm: &Slurm,
    names: &[String],
    jobs: &[JobId],
    expected: &[(JobId, u32)],
) -> Result<Vec<TaskRow>, SlurmError> {
    let mut rows = slurm.tasks(jobs, names).await?;
    let missing = not_among(expected, &rows);
    rows.extend(slurm.tasks_by_number(&missing, names).await?);
    let known = numbers(&rows);
    let mut forgotten: Vec<JobId> = not_among(expected, &rows).into_iter().map(|(job, _)| job).collect();
    forgotten.dedup();
    if !forgotten.is_empty()
        && let Some(past) = slurm.ended(&forgotten, names).await?
    {
        rows.extend(past.into_iter().filter(|row| !known.contains(&(row.job, row.task.unwrap_or(0)))));
    }
    Ok(rows)
}

fn numbers(rows: &[TaskRow]) -> HashSet<(JobId, u32)> {
    rows.iter().map(|row| (row.job, row.task.unwrap_or(0))).collect()
}

fn not_among(expected: &[(JobId, u32)], rows: &[TaskRow]) -> Vec<(JobId, u32)> {
    let known = numbers(rows);
    expected.iter().filter(|task| !known.contains(task)).copied().collect()
}

/// Why a run's first attempt never began, by what became of its task.
fn of_unbegun(kind: Kind) -> Failure {
    let (class, what) = match kind {
        Kind::Failed { hopeless: true } => {
            (FailureClass::Configuration, "the job failed before the run began, as it would again")
        }
        Kind::OutOfMemory => {
            (FailureClass::Configuration, "the job took more memory than it had before the run began")
        }
        Kind::TimedOut => (FailureClass::Timeout, "the time of the job was up before the run began"),
        Kind::Lost => (FailureClass::WorkerDied, "the job ended without beginning the run"),
        Kind::Unknown => (FailureClass::WorkerDied, "Slurm has forgotten the job, and it has left no trace"),
        _ => (FailureClass::WorkerDied, "the job failed before the run began"),
    };
    Failure { class, message: format!("{what}; what it printed is in the log of the attempt") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_counts_when_it_was_said_twice() {
        let mut sight = Sight::default();
        assert_eq!((sight.kind(), sight.is_away()), (Kind::Unseen, false));
        assert!(sight.see(None));
        assert_eq!((sight.kind(), sight.is_over()), (Kind::Unknown, false));
        assert!(!sight.see(None));
        assert!(sight.is_over(), "a task that Slurm does not know");
        assert!(sight.see(Some(Meaning::Running)), "it has come back");
        sight.see(Some(Meaning::Running));
        assert!(!sight.is_away());
        assert!(sight.see(Some(Meaning::TimedOut)));
        assert!(!sight.is_over());
        sight.see(Some(Meaning::TimedOut));
        assert!(sight.is_over());
    }

    #[test]
    fn a_task_that_waits_is_away_and_not_over() {
        let blocked = Meaning::Blocked { block: Block::Held, reason: "JobHeldUser".to_owned() };
        for meaning in [Meaning::Queued, blocked] {
            let mut sight = Sight::default();
            sight.see(Some(meaning.clone()));
            sight.see(Some(meaning));
            assert!(sight.is_away() && !sight.is_over());
        }
    }

    #[test]
    fn a_job_that_would_fail_again_is_not_tried_again() {
        let class = |kind| of_unbegun(kind).class;
        assert!(!class(Kind::Failed { hopeless: true }).is_transient());
        assert!(!class(Kind::OutOfMemory).is_transient());
        for kind in [Kind::Failed { hopeless: false }, Kind::TimedOut, Kind::Lost, Kind::Unknown] {
            assert!(class(kind).is_transient(), "{kind:?}");
        }
    }
}
