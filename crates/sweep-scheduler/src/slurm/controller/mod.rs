//! The controller: the session that submits arrays, follows what their tasks write, and judges what becomes of them.
//!
//! One at a time for a home folder, on any machine that sees the folder and Slurm; it is the database's only writer there. It
//! starts nothing itself and may leave, or die, at any line: jobs go on, and the next one finds in the database which arrays
//! there are, in their folders what happened meanwhile, and at Slurm what is left. That is also how it starts every time:
//! there is no other way to recover.
//!
//! What Slurm says is a hint. A run is over when its worker's events say so; an attempt is over when its task has written
//! down its worker's end, or when Slurm has said twice that the task is gone and nothing in the attempt's folder lives.

mod follow;
mod judge;
mod submit;

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, TryLockError};
use std::io::Write as _;
use std::num::NonZeroU32;
use std::path::PathBuf;

use sweep_core::SlurmOptions;
use sweep_core::home::Home;
use sweep_core::spec::{RunId, RunSpec};
use sweep_store::{Store, Submission};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{self, Duration, Instant, MissedTickBehavior};

use self::follow::Follow;
use self::judge::{Answer, Sight};
pub(super) use self::submit::script;
use super::client::{JobId, Slurm};
use super::orders::Folder;
use super::pace::Pace;
use crate::error::Error;
use crate::ledger::{Engine, Ledger, clean_up};
use crate::settings::Settings;
use crate::settle::Settler;
use crate::supervise::{Stop, higher, reached};
use crate::update::{Halt, Summary, Update};

/// How a sweep uses Slurm.
#[derive(Clone, Debug)]
pub struct SlurmSettings {
    /// What is asked of Slurm for every job.
    pub options: SlurmOptions,
    /// This program, under a path that compute nodes know unless `options.program` says how they call it.
    pub program: PathBuf,
    /// Whether workers compute on the GPU that their job has.
    pub on_gpu: bool,
    /// Threads of a worker; `None`: the processors of its job.
    pub threads: Option<u32>,
    /// Variables that jobs get beside their set-up: they inherit none.
    pub variables: Vec<(String, String)>,
    /// Whether to leave once everything that can be is submitted.
    pub detach: bool,
    /// How many times faster than usual everything is looked at; 1, but for tests.
    pub hurry: u32,
}

/// Runs what is left of `runs` on Slurm and returns when nothing is left to do, or when it is told to leave: then jobs go on,
/// and the next call takes them up again. Everything else is as in [`crate::dispatch`]; `settings.slots` do not count.
///
/// # Errors
/// [`Error::Followed`] where another session does this for the same home folder, [`Error::Task`] where a file of an array
/// cannot be written; otherwise as [`crate::dispatch`]. That Slurm does not answer is no error: it is asked again.
pub async fn dispatch(
    store: &Store,
    runs: &[(RunId, &RunSpec)],
    settings: &Settings,
    slurm: &SlurmSettings,
    stop: watch::Receiver<Stop>,
    observe: &mut (dyn FnMut(Update) + Send),
) -> Result<Summary, Error> {
    let _lock = lock(&settings.home)?;
    let settler = Settler { store, home: &settings.home, retry: settings.retry };
    remember(store, &settings.home).await?;
    clean_up(settler, settings.poll).await?;
    let ledger = Ledger::open(settler, runs, settings, Engine::Slurm, observe).await?;
    let mut controller = Controller::new(ledger, slurm, stop);
    controller.take_up().await?;
    controller.work().await?;
    controller.ledger.tidy().await?;
    Ok(controller.summary())
}

/// Enters arrays that the database does not know, as after it was made again from files: their folders say what they do.
async fn remember(store: &Store, home: &Home) -> Result<(), Error> {
    let failed = |source| Error::Scan { path: home.slurm(), source };
    for entry in fs::read_dir(home.slurm()).map_err(failed)? {
        let folder = Folder::new(home, &entry.map_err(failed)?.file_name().to_string_lossy());
        if !folder.manifest().exists() || store.reader().knows_generation(&folder.token()).await? {
            continue;
        }
        match folder.read_tasks() {
            Ok(tasks) => {
                store.restore_generation(&folder.token(), &tasks, sweep_store::now_ms()).await?;
            }
            Err(error) => {
                tracing::warn!(path = %folder.manifest().display(), error, "an array is passed over");
            }
        }
    }
    Ok(())
}

/// Makes sure that there is one controller at a time. The system lets the lock go with the process, however it dies.
fn lock(home: &Home) -> Result<File, Error> {
    let path = home.slurm().join("controller.lock");
    let failed = |source| Error::Lock { path: path.clone(), source };
    fs::create_dir_all(home.slurm()).map_err(failed)?;
    let mut file =
        File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let holder = fs::read_to_string(&path).unwrap_or_default().trim().to_owned();
            return Err(Error::Followed { path, holder });
        }
        Err(TryLockError::Error(source)) => return Err(failed(source)),
    }
    let host = nix::unistd::gethostname().unwrap_or_default();
    let holder = format!("process {} on {}", std::process::id(), host.to_string_lossy());
    file.set_len(0).and_then(|()| file.write_all(holder.as_bytes())).map_err(failed)?;
    Ok(file)
}

struct Controller<'a> {
    ledger: Ledger<'a>,
    plan: &'a SlurmSettings,
    slurm: Slurm,
    pace: Pace,
    stop: watch::Receiver<Stop>,
    /// Arrays with runs that are not over, by token.
    arrays: BTreeMap<String, Array>,
    /// Runs that are with Slurm: of this sweep, and of others that nobody else follows.
    spots: HashMap<RunId, Spot>,
    /// Attempts that run.
    follows: HashMap<RunId, Follow>,
    /// Where the last look for new attempts ended.
    looked: usize,
    /// The question to Slurm that is under way.
    question: JoinSet<Answer>,
    ask_at: Instant,
    pause: Duration,
    submit_at: Instant,
    back_off: Duration,
    largest_array: Option<NonZeroU32>,
    /// Whether Slurm has been told to be unavailable, and why runs wait, so that it is said once.
    complaint: Option<String>,
    reasons: BTreeMap<String, usize>,
    /// Whether the disk had no room for another run.
    crowded: bool,
    /// Whether Slurm has answered about what earlier sessions have submitted.
    heard: bool,
    /// Whether what waited when the session halted was taken back.
    recalled: bool,
}

/// An array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Array {
    job: Job,
    /// Since when it is uncertain, as far as this session knows.
    since: Option<Instant>,
    /// Whether Slurm knew any of its tasks when it was asked last.
    is_known: bool,
}

/// What is known of an array's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Job {
    Known(JobId),
    /// It was about to be submitted, and whether it was is to be found out.
    Uncertain,
    /// It was submitted, as its attempts show, and Slurm has forgotten it.
    Forgotten,
}

/// Where a run is with Slurm.
#[derive(Clone, Debug)]
struct Spot {
    token: String,
    task: u32,
    place: u32,
    /// Attempts before the array.
    after: u32,
    /// Attempts that the database knows.
    attempts: u32,
    /// What Slurm says of its task.
    sight: Sight,
    /// Why its task does not run, as the database has it, and as Slurm says now.
    reason: Option<String>,
    reason_now: Option<String>,
}

impl<'a> Controller<'a> {
    fn new(ledger: Ledger<'a>, plan: &'a SlurmSettings, stop: watch::Receiver<Stop>) -> Self {
        let pace = Pace::new(plan.hurry);
        let now = Instant::now();
        Self {
            ledger,
            plan,
            slurm: Slurm::new(),
            pace,
            stop,
            arrays: BTreeMap::new(),
            spots: HashMap::new(),
            follows: HashMap::new(),
            looked: 0,
            question: JoinSet::new(),
            ask_at: now,
            pause: pace.shortest,
            submit_at: now,
            back_off: Duration::ZERO,
            largest_array: None,
            complaint: None,
            reasons: BTreeMap::new(),
            crowded: false,
            heard: false,
            recalled: false,
        }
    }

    /// Takes up what earlier sessions have submitted.
    async fn take_up(&mut self) -> Result<(), Error> {
        let store = self.ledger.settler.store;
        let open = store.reader().open_submissions().await?;
        let ids: Vec<RunId> = open.iter().map(|submission| submission.run).collect();
        let states = store.reader().states_of(&ids).await?;
        let attempts: HashMap<RunId, u32> = states.iter().map(|state| (state.id, state.attempts)).collect();
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for submission in open {
            *counts.entry(submission.generation.clone()).or_default() += 1;
            self.enter(&submission, attempts.get(&submission.run).copied().unwrap_or(submission.after));
        }
        for attempt in store.reader().running_attempts().await? {
            if self.spots.contains_key(&attempt.run) {
                let events = self.ledger.settings.home.events(attempt.run, attempt.attempt);
                self.follows.insert(attempt.run, Follow::new(attempt.attempt, events));
            }
        }
        // What was submitted before is looked after once, even by a session that is about to leave.
        self.heard = counts.is_empty();
        for (token, runs) in counts {
            self.ledger.tell(Update::Resumed { token, runs });
        }
        self.end_what_is_over(&states).await
    }

    fn enter(&mut self, submission: &Submission, attempts: u32) {
        let Submission { generation, job, task, place, run, after, reason, .. } = submission;
        let job = job.map_or(Job::Uncertain, |job| Job::Known(JobId(job)));
        self.arrays.entry(generation.clone()).or_insert(Array { job, since: None, is_known: false });
        let spot = Spot {
            token: generation.clone(),
            task: *task,
            place: *place,
            after: *after,
            attempts,
            sight: Sight::default(),
            reason: reason.clone(),
            reason_now: reason.clone(),
        };
        self.spots.insert(*run, spot);
    }

    /// Lets go of runs that were settled before the last session could note that they are over.
    async fn end_what_is_over(&mut self, states: &[sweep_store::RunState]) -> Result<(), Error> {
        let over = states.iter().filter(|state| state.state.is_final()).map(|state| state.id);
        self.let_go(&over.collect::<Vec<_>>()).await
    }

    async fn work(&mut self) -> Result<(), Error> {
        let mut looks = time::interval(self.pace.look);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.submit_what_is_ready().await?;
            // What Slurm took before it refused something else may run.
            let recalls = self.ledger.halted().is_some_and(|halt| !matches!(halt, Halt::Refused { .. }));
            if recalls && !self.recalled {
                self.recall().await?;
            }
            if self.may_leave() {
                return Ok(());
            }
            let submission = self.next_submission();
            tokio::select! {
                _ = higher(&mut self.stop, Stop::None) => {
                    // Nothing stops: jobs go on, as the summary tells.
                    self.ledger.tally.halted = Some(Halt::Requested);
                    return Ok(());
                }
                _ = looks.tick() => self.look().await?,
                Some(answer) = self.question.join_next() => self.hear(answer).await?,
                () = time::sleep_until(self.ask_at), if self.may_ask() => self.ask(),
                () = reached(submission) => {}
            }
            self.ledger.tidy_now_and_then().await?;
        }
    }

    /// Returns whether there is nothing left to do, or nothing but waiting where nobody wants to wait.
    fn may_leave(&self) -> bool {
        let ours = self.spots.keys().any(|run| self.is_ours(*run));
        let halted = self.ledger.halted().is_some();
        let over = !ours && (halted || (self.ledger.expects_nothing() && !self.ledger.queue.has_ready()));
        let submitted = !self.ledger.queue.has_ready() && !self.is_uncertain();
        over || (self.plan.detach && submitted && self.heard && self.complaint.is_none())
    }

    /// Returns whether a run belongs to this sweep; those of others are followed, and no more.
    fn is_ours(&self, run: RunId) -> bool {
        self.ledger.specs.contains_key(&run)
    }

    fn folder(&self, token: &str) -> Folder {
        Folder::new(&self.ledger.settings.home, token)
    }

    /// Notes that Slurm has nothing more to do with these runs.
    async fn let_go(&mut self, runs: &[RunId]) -> Result<(), Error> {
        if runs.is_empty() {
            return Ok(());
        }
        let closed = self.ledger.settler.store.end_submissions(runs, sweep_store::now_ms()).await?;
        for run in runs {
            self.spots.remove(run);
        }
        for token in closed {
            self.arrays.remove(&token);
        }
        Ok(())
    }

    /// Says that Slurm is not to be had, once for each reason.
    fn complain(&mut self, message: String, retry_in: Duration) {
        if self.complaint.as_ref() != Some(&message) {
            self.ledger.tell(Update::Unavailable { message: message.clone(), retry_in });
            self.complaint = Some(message);
        }
    }

    fn summary(&self) -> Summary {
        let submitted = self.spots.keys().filter(|run| self.is_ours(**run)).count();
        let summary = self.ledger.summary();
        Summary { submitted: summary.submitted + submitted, ..summary }
    }
}
