//! The account of a session: what its runs wait for, where they stand, and what its caller is told. Executors differ in how a
//! run becomes a process; the account is the same for all.

mod rounds;
mod stock;

use std::collections::{BTreeMap, HashMap, HashSet};

use sweep_core::event::{Event, Record};
use sweep_core::spec::{RunId, RunSpec};
use sweep_core::trajectory::Sharing;
use sweep_store::{Outcome, RunState, State};
use tokio::time::{Duration, Instant};

use crate::error::Error;
use crate::families::Families;
use crate::queue::{Blocked, Entry, Phase, Queue};
use crate::retention::Models;
use crate::settings::Settings;
use crate::settle::{Settled, Settler};
use crate::supervise::News;
use crate::update::{Halt, Summary, Update};
use stock::{dependency, families, phase, states, unmet_dependencies};

pub(crate) use stock::clean_up;

/// Runs that fail for good before any run of the sweep succeeds, after which the others are not tried.
const FAILURES_FROM_THE_START: usize = 3;

/// The account of a session.
pub(crate) struct Ledger<'a> {
    pub(crate) settler: Settler<'a>,
    pub(crate) settings: &'a Settings,
    engine: Engine,
    pub(crate) specs: HashMap<RunId, &'a RunSpec>,
    pub(crate) families: Families,
    pub(crate) queue: Queue,
    /// Runs that are in other hands.
    elsewhere: BTreeMap<RunId, Elsewhere>,
    pub(crate) tally: Summary,
    observe: &'a mut (dyn FnMut(Update) + Send),
    /// The queue counts time from here.
    beginning: Instant,
    /// Whether a run has ended whose checkpoints others may have waited for, and when checkpoints were last cleared up.
    untidy: bool,
    tidied: Option<Instant>,
    /// Looked at only where the disk has a budget.
    models: Models,
}

/// An attempt in other hands.
#[derive(Clone, Copy, Debug)]
struct Elsewhere {
    attempt: u32,
    /// Whether its worker was gone at the last look: its own scheduler, if it lives, has had the time since to settle
    /// it, and knows more about the end than we do.
    seen_dead: bool,
}

/// Who runs the workers of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    /// This scheduler: runs that are with Slurm are none of its business.
    Processes,
    /// Slurm: runs that are with it are in this session's hands.
    Slurm,
}

/// What is to become of a run whose attempt is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing more, or it is in other hands.
    Over,
    /// Another attempt, after a while.
    Again(Duration),
    /// It was stopped, and goes on some time.
    Interrupted,
}

impl<'a> Ledger<'a> {
    /// Opens the account of `runs`, which must be registered.
    pub(crate) async fn open(
        settler: Settler<'a>,
        runs: &[(RunId, &'a RunSpec)],
        settings: &'a Settings,
        engine: Engine,
        observe: &'a mut (dyn FnMut(Update) + Send),
    ) -> Result<Self, Error> {
        let states = states(settler.store, runs).await?;
        let unmet = unmet_dependencies(settler.store, &states).await?;
        let models = settings.disk_budget.map(|_| Models::look(&settings.home)).transpose()?;
        let mut ledger = Self {
            settler,
            settings,
            engine,
            specs: runs.iter().copied().collect(),
            families: families(runs, &states),
            queue: Queue::default(),
            elsewhere: BTreeMap::new(),
            tally: Summary::default(),
            observe,
            beginning: Instant::now(),
            untidy: false,
            tidied: None,
            models: models.unwrap_or_default(),
        };
        ledger.enter(&states, &unmet);
        ledger.recall_beginnings().await?;
        Ok(ledger)
    }

    pub(crate) fn tell(&mut self, update: Update) {
        (self.observe)(update);
    }

    /// Takes the next run that is ready out of the queue.
    pub(crate) fn pop(&mut self) -> Option<RunId> {
        self.queue.pop(self.beginning.elapsed())
    }

    /// Returns what the worker of a run is to do for others that wait.
    pub(crate) fn sharing(&self, run: RunId) -> Sharing {
        self.families.sharing(run, &self.specs, |other| self.queue.is_waiting(other))
    }

    /// Returns when the queue's next run is due.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.queue.next_due().map(|due| self.beginning + due)
    }

    pub(crate) fn halted(&self) -> Option<&Halt> {
        self.tally.halted.as_ref()
    }

    /// Returns whether nothing is to be expected of runs that are not in this session's own hands.
    pub(crate) fn expects_nothing(&self) -> bool {
        self.elsewhere.is_empty() && self.queue.next_due().is_none()
    }

    /// Takes stock: fills the queue and counts what is done already.
    fn enter(&mut self, states: &[RunState], unmet: &HashSet<RunId>) {
        let entry = |state: &RunState| Entry {
            run: state.id,
            depends_on: dependency(state, unmet, &self.specs),
            follows: self.families.lead(state.id),
            phase: self.phase(state),
        };
        let (queue, blocked) = Queue::new(states.iter().map(entry));
        self.queue = queue;
        for state in states {
            match state.state {
                State::Succeeded => self.tally.already_succeeded += 1,
                State::Failed => self.tally.already_failed += 1,
                State::Cancelled => self.tally.cancelled += 1,
                _ if self.is_withheld(state) => self.withhold(state.id),
                State::Running if !state.is_submitted => self.await_elsewhere(state.id, state.attempts),
                State::Pending | State::Interrupted | State::Running => {}
            }
        }
        self.report_blocked(blocked);
    }

    /// What is with Slurm is at work already, whether or not it has started.
    fn phase(&self, state: &RunState) -> Phase {
        match phase(state.state) {
            Phase::Pending | Phase::Running if self.is_withheld(state) => Phase::SetAside,
            Phase::Pending if state.is_submitted => Phase::Running,
            phase => phase,
        }
    }

    pub(crate) fn pass_on(&mut self, run: RunId, attempt: u32, news: News) {
        if let Some(epochs) = whole_epochs_saved(&news.records) {
            self.queue.saved(run, epochs);
        }
        for record in news.records {
            if let Event::ModelSaved { bytes, .. } = &record.event {
                self.models.saved(run, *bytes);
            }
            (self.observe)(Update::Event { run, attempt, event: record.event });
        }
    }

    /// Draws the conclusions from the end of an attempt of ours.
    pub(crate) async fn settled(
        &mut self,
        run: RunId,
        attempt: u32,
        settled: Settled,
    ) -> Result<Next, Error> {
        if !settled.effective {
            return self.refresh(run).await;
        }
        let Settled { outcome, retry_in, log_tail, micro_batch_limit, disk_full, .. } = settled;
        (self.observe)(Update::Settled {
            run,
            attempt,
            outcome: outcome.clone(),
            retry_in,
            micro_batch_limit,
            log_tail,
        });
        if let Some(message) = disk_full {
            self.halt(Halt::DiskFilled { message });
        }
        Ok(match outcome {
            Outcome::Succeeded => self.succeeded(run),
            Outcome::Failed { .. } => self.failed(run, retry_in),
            Outcome::Interrupted => Next::Interrupted,
            Outcome::Cancelled => self.cancelled(run),
        })
    }

    /// Leaves a run that was stopped alone until the next session.
    pub(crate) fn rest(&mut self, run: RunId) {
        self.queue.set_aside(run);
        self.tally.interrupted += 1;
    }

    /// Puts a run back, to start after a while.
    pub(crate) fn again(&mut self, run: RunId, delay: Duration) {
        self.queue.again(run, self.beginning.elapsed() + delay);
    }

    fn succeeded(&mut self, run: RunId) -> Next {
        self.tally.succeeded += 1;
        self.queue.succeeded(run);
        Next::Over
    }

    fn failed(&mut self, run: RunId, retry_in: Option<Duration>) -> Next {
        if let Some(delay) = retry_in {
            self.tally.retried += 1;
            return Next::Again(delay);
        }
        self.tally.failed += 1;
        let blocked = self.queue.failed(run);
        self.report_blocked(blocked);
        self.halt_if_hopeless();
        Next::Over
    }

    fn cancelled(&mut self, run: RunId) -> Next {
        self.tally.cancelled += 1;
        let blocked = self.queue.failed(run);
        self.report_blocked(blocked);
        Next::Over
    }

    fn halt_if_hopeless(&mut self) {
        if self.settings.max_failures.is_some_and(|most| self.tally.failed >= most) {
            self.halt(Halt::TooManyFailures);
        }
        let none_succeeded = self.tally.already_succeeded + self.tally.succeeded == 0;
        if self.settings.stop_if_all_fail && none_succeeded && self.tally.failed >= FAILURES_FROM_THE_START {
            self.halt(Halt::FailsFromTheStart);
        }
    }

    /// Starts nothing more. A request of the user replaces other reasons; otherwise the first reason stays.
    pub(crate) fn halt(&mut self, reason: Halt) {
        if self.tally.halted.is_none() || reason == Halt::Requested {
            self.tally.halted = Some(reason.clone());
            (self.observe)(Update::Halted { reason });
        }
    }

    fn report_blocked(&mut self, blocked: Vec<Blocked>) {
        for Blocked { run, dependency } in blocked {
            (self.observe)(Update::Blocked { run, dependency });
        }
    }

    /// Says what is to become of a run that somebody else has changed.
    pub(crate) async fn refresh(&mut self, run: RunId) -> Result<Next, Error> {
        let state = self.settler.state(run).await?;
        if state.state.is_final() {
            self.tell(Update::FinishedElsewhere { run, state: state.state });
        }
        if self.is_withheld(&state) {
            self.withhold(run);
            self.queue.set_aside(run);
            return Ok(Next::Over);
        }
        Ok(match state.state {
            State::Running => {
                self.await_elsewhere(run, state.attempts);
                Next::Over
            }
            State::Succeeded => self.succeeded(run),
            State::Failed => self.failed(run, None),
            State::Cancelled => self.cancelled(run),
            State::Interrupted => Next::Again(Duration::ZERO),
            State::Pending => {
                let failures = state.transient_failures;
                let delay =
                    if failures == 0 { Duration::ZERO } else { self.settings.retry.delay(run, failures) };
                Next::Again(delay)
            }
        })
    }

    /// Returns whether Slurm has a run, and not this session.
    fn is_withheld(&self, state: &RunState) -> bool {
        state.is_submitted && !state.state.is_final() && self.engine == Engine::Processes
    }

    fn withhold(&mut self, run: RunId) {
        self.tally.submitted += 1;
        self.tell(Update::WithSlurm { run });
    }

    pub(crate) fn summary(&self) -> Summary {
        let left = self.queue.census();
        let tally = Summary {
            blocked: left.blocked,
            pending: left.pending,
            elsewhere: self.elsewhere.len(),
            ..self.tally.clone()
        };
        Summary { total: self.specs.len(), ..tally }
    }
}

/// Returns the most whole epochs after which a checkpoint was saved.
fn whole_epochs_saved(records: &[Record]) -> Option<u32> {
    let epochs = |record: &Record| match record.event {
        Event::CheckpointSaved { epochs, step: 0, .. } => Some(epochs),
        _ => None,
    };
    records.iter().filter_map(epochs).max()
}
