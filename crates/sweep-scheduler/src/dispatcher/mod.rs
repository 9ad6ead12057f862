//! The dispatcher: the loop that claims, starts, ingests and settles. It is the only writer of the database.
//!
//! It decides nothing about order ([`crate::queue`]), about the meaning of an end ([`crate::verdict`]) and about what stays on
//! disk ([`crate::retention`]), and touches no process: each attempt's supervisor does that and sends messages. One task,
//! no shared state, no locks.

mod rounds;
mod stock;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use sweep_core::event::{Event, Record};
use sweep_core::spec::{RunId, RunSpec};
use sweep_store::{Failure, Outcome, RunState, State, Store};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{self, Instant, Interval, MissedTickBehavior};

use crate::error::Error;
use crate::executor::local::Worker;
use crate::families::Families;
use crate::launch::{Launch, Launcher, Task};
use crate::queue::{Blocked, Entry, Queue};
use crate::settings::Settings;
use crate::settle::{Settled, Settler};
use crate::supervise::{Message, News, Stop, Supervisor, higher, reached};
use crate::tail::Tail;
use crate::update::{Halt, Summary, Update};
use crate::verdict::Ending;
use crate::watch::Limits;
use stock::{clean_up, dependency, families, phase, states, unmet_dependencies};

/// Messages that may wait for the dispatcher before supervisors have to: a few for each of many slots.
const INBOX: usize = 256;

/// Runs that fail for good before any run of the sweep succeeds, after which the others are not tried.
const FAILURES_FROM_THE_START: usize = 3;

/// How many times more seldom requests of the user are looked for than events: about once a second.
const POLLS_A_REQUEST: u32 = 5;

/// Runs what is left of `runs`, which must be registered in `store`, and returns when nothing is left to do: every run
/// has ended, is blocked, or the session was halted and its workers are gone.
///
/// First it cleans up: attempts that the store calls running although nobody is alive in them, now and a poll later,
/// are settled by what their workers said. Attempts of others that are alive are awaited. Runs start in the order of
/// `runs`, except that a run whose beginning an earlier one of them trains waits for that.
///
/// Raising `stop` to [`Stop::Graceful`] makes workers save and leave, which interrupts their runs until the next call;
/// [`Stop::Now`] kills them. Dropping the future lets go of the workers, which then leave by themselves. `observe` is
/// called from this future and must not block. Needs a Tokio runtime with time and I/O; a current-thread one is enough.
///
/// # Errors
/// Fails where the database does, for a run that is not registered, and without slots. What goes wrong in a run is
/// counted in the summary instead.
pub async fn dispatch(
    store: &Store,
    runs: &[(RunId, &RunSpec)],
    settings: &Settings,
    stop: watch::Receiver<Stop>,
    observe: &mut (dyn FnMut(Update) + Send),
) -> Result<Summary, Error> {
    if settings.slots.is_empty() {
        return Err(Error::NoSlots);
    }
    let settler = Settler { store, home: &settings.home, retry: settings.retry };
    clean_up(settler, settings.poll).await?;
    let states = states(store, runs).await?;
    let unmet = unmet_dependencies(store, &states).await?;
    let families = families(runs, &states);
    let mut dispatcher = Dispatcher::new(settler, runs, families, settings, stop, observe);
    dispatcher.enter(&states, &unmet);
    dispatcher.recall_beginnings().await?;
    match dispatcher.work().await {
        Ok(()) => dispatcher.tidy().await?,
        // Not even the database can be written. Nothing is lost: the next session settles from the event files.
        Err(Error::Store(error)) if error.is_disk_full() => dispatcher.leave_everything(&error).await,
        Err(error) => return Err(error),
    }
    Ok(dispatcher.summary())
}

struct Dispatcher<'a> {
    settler: Settler<'a>,
    launcher: Launcher<'a>,
    settings: &'a Settings,
    specs: HashMap<RunId, &'a RunSpec>,
    families: Families,
    queue: Queue,
    /// Indices of slots without a worker; the lowest is taken first.
    free: BTreeSet<usize>,
    active: HashMap<RunId, Active>,
    /// Runs that are in other hands.
    elsewhere: BTreeMap<RunId, Elsewhere>,
    supervisors: JoinSet<()>,
    outbox: mpsc::Sender<Message>,
    inbox: mpsc::Receiver<Message>,
    stop: watch::Receiver<Stop>,
    observe: &'a mut (dyn FnMut(Update) + Send),
    /// The queue counts time from here.
    beginning: Instant,
    look_around: Interval,
    look_for_requests: Interval,
    /// Whether the disk had no room for another run; looked at again when one of ours has ended.
    crowded: bool,
    /// Whether a run has ended whose checkpoints others may have waited for, and when checkpoints were last cleared up.
    untidy: bool,
    tidied: Option<Instant>,
    tally: Summary,
}

/// An attempt of this scheduler.
#[derive(Debug)]
struct Active {
    attempt: u32,
    slot: usize,
    /// Notified when this worker alone is to save and leave.
    cancel: Arc<Notify>,
}

/// An attempt in other hands.
#[derive(Clone, Copy, Debug)]
struct Elsewhere {
    attempt: u32,
    /// Whether its worker was gone at the last look: its own scheduler, if it lives, has had the time since to settle
    /// it, and knows more about the end than we do.
    seen_dead: bool,
}

impl<'a> Dispatcher<'a> {
    fn new(
        settler: Settler<'a>,
        runs: &[(RunId, &'a RunSpec)],
        families: Families,
        settings: &'a Settings,
        stop: watch::Receiver<Stop>,
        observe: &'a mut (dyn FnMut(Update) + Send),
    ) -> Self {
        let (outbox, inbox) = mpsc::channel(INBOX);
        Self {
            settler,
            settings,
            specs: runs.iter().copied().collect(),
            launcher: Launcher::new(settler, settings),
            families,
            queue: Queue::default(),
            free: (0..settings.slots.len()).collect(),
            active: HashMap::new(),
            elsewhere: BTreeMap::new(),
            supervisors: JoinSet::new(),
            outbox,
            inbox,
            stop,
            observe,
            beginning: Instant::now(),
            look_around: every(settings.poll),
            look_for_requests: every(settings.poll * POLLS_A_REQUEST),
            crowded: false,
            untidy: false,
            tidied: None,
            tally: Summary::default(),
        }
    }

    /// Takes stock: fills the queue and counts what is done already.
    fn enter(&mut self, states: &[RunState], unmet: &HashSet<RunId>) {
        let entry = |state: &RunState| Entry {
            run: state.id,
            depends_on: dependency(state, unmet, &self.specs),
            follows: self.families.lead(state.id),
            phase: phase(state.state),
        };
        let (queue, blocked) = Queue::new(states.iter().map(entry));
        self.queue = queue;
        for state in states {
            match state.state {
                State::Pending | State::Interrupted => {}
                State::Succeeded => self.tally.already_succeeded += 1,
                State::Failed => self.tally.already_failed += 1,
                State::Cancelled => self.tally.cancelled += 1,
                State::Running => self.await_elsewhere(state.id, state.attempts),
            }
        }
        self.report_blocked(blocked);
    }

    async fn work(&mut self) -> Result<(), Error> {
        loop {
            self.start_what_is_ready().await?;
            if self.is_over() {
                return Ok(());
            }
            let due = self.queue.next_due().map(|due| self.beginning + due);
            tokio::select! {
                Some(message) = self.inbox.recv() => self.receive(message).await?,
                Some(Err(error)) = self.supervisors.join_next() => propagate(error),
                _ = higher(&mut self.stop, Stop::None), if self.tally.halted != Some(Halt::Requested) => self.halt(Halt::Requested),
                () = reached(due), if self.may_wait_for_more() => {}
                _ = self.look_around.tick(), if !self.elsewhere.is_empty() => self.look_elsewhere().await?,
                _ = self.look_for_requests.tick(), if !self.active.is_empty() => self.look_for_requests().await?,
            }
            self.tidy_now_and_then().await?;
        }
    }

    /// Returns whether a run that becomes ready could be started.
    fn may_wait_for_more(&self) -> bool {
        self.tally.halted.is_none() && !self.crowded && !self.free.is_empty()
    }

    fn is_over(&self) -> bool {
        let nothing_to_come = self.elsewhere.is_empty() && self.queue.next_due().is_none();
        self.active.is_empty() && (self.tally.halted.is_some() || nothing_to_come)
    }

    async fn start_what_is_ready(&mut self) -> Result<(), Error> {
        while self.may_start()
            && let Some(slot) = self.free.first().copied()
            && let Some(run) = self.queue.pop(self.beginning.elapsed())
        {
            if !self.has_room(run).await? {
                self.queue.put_back(run);
                break;
            }
            let sharing = self.families.sharing(run, &self.specs, |other| self.queue.is_waiting(other));
            let task = Task { run, spec: self.specs[&run], sharing };
            match self.launcher.launch(&task, slot).await? {
                Launch::Started { attempt, worker } => self.started(run, attempt, slot, worker),
                Launch::Taken => self.refresh(run).await?,
                Launch::Failed { attempt, failure } => self.stillborn(run, attempt, failure).await?,
            }
        }
        Ok(())
    }

    fn may_start(&mut self) -> bool {
        if self.tally.halted.is_none() && *self.stop.borrow() > Stop::None {
            self.halt(Halt::Requested);
        }
        self.tally.halted.is_none() && !self.crowded
    }

    fn started(&mut self, run: RunId, attempt: u32, slot: usize, worker: Worker) {
        let cancel = Arc::new(Notify::new());
        let Settings { timeout, stall, silence, .. } = *self.settings;
        let supervisor = Supervisor {
            run,
            worker,
            tail: Tail::new(self.settings.home.events(run, attempt)),
            stop: self.stop.clone(),
            cancel: Arc::clone(&cancel),
            limits: Limits { timeout, stall, silence },
            oom_kills: self.settings.oom_kills.clone(),
            grace: self.settings.grace,
            poll: self.settings.poll,
            outbox: self.outbox.clone(),
        };
        self.supervisors.spawn(supervisor.supervise());
        self.free.remove(&slot);
        self.active.insert(run, Active { attempt, slot, cancel });
        self.tally.attempts += 1;
        let slot = &self.settings.slots[slot];
        let (device, threads) = (slot.device(), slot.threads());
        (self.observe)(Update::Started { run, attempt, device, threads });
    }

    /// Settles an attempt whose worker could not be started.
    async fn stillborn(&mut self, run: RunId, attempt: u32, failure: Failure) -> Result<(), Error> {
        let ending = Ending::stillborn(failure);
        let settled = self.settler.settle(run, attempt, &News::default(), &ending).await?;
        self.settled(run, attempt, settled).await
    }

    async fn receive(&mut self, message: Message) -> Result<(), Error> {
        match message {
            Message::Events { run, news } => {
                let attempt = self.active[&run].attempt;
                self.settler.store.ingest(run, attempt, &news.records, news.offset).await?;
                self.pass_on(run, attempt, news);
                Ok(())
            }
            Message::Silent { run, since } => {
                let attempt = self.active[&run].attempt;
                (self.observe)(Update::Silent { run, attempt, since });
                Ok(())
            }
            Message::Ended { run, news, ending } => {
                let attempt = self.active[&run].attempt;
                let settled = self.settler.settle(run, attempt, &news, &ending).await?;
                if let Some(Active { slot, .. }) = self.active.remove(&run) {
                    self.free.insert(slot);
                }
                self.crowded = false;
                self.untidy |= self.families.concern(run);
                self.pass_on(run, attempt, news);
                self.settled(run, attempt, settled).await
            }
        }
    }

    fn pass_on(&mut self, run: RunId, attempt: u32, news: News) {
        if let Some(epochs) = whole_epochs_saved(&news.records) {
            self.queue.saved(run, epochs);
        }
        for record in news.records {
            (self.observe)(Update::Event { run, attempt, event: record.event });
        }
    }

    /// Draws the conclusions from the end of an attempt of ours.
    async fn settled(&mut self, run: RunId, attempt: u32, settled: Settled) -> Result<(), Error> {
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
        match outcome {
            Outcome::Succeeded => self.succeeded(run),
            Outcome::Failed { .. } => self.failed(run, retry_in),
            // Not started again in this session, whoever stopped it: a worker that always stops would never end.
            Outcome::Interrupted => {
                self.queue.set_aside(run);
                self.tally.interrupted += 1;
            }
            Outcome::Cancelled => self.cancelled(run),
        }
        if let Some(message) = disk_full {
            self.halt(Halt::DiskFilled { message });
        }
        Ok(())
    }

    fn succeeded(&mut self, run: RunId) {
        self.tally.succeeded += 1;
        self.queue.succeeded(run);
    }

    fn failed(&mut self, run: RunId, retry_in: Option<Duration>) {
        if let Some(delay) = retry_in {
            self.tally.retried += 1;
            self.queue.again(run, self.beginning.elapsed() + delay);
        } else {
            self.tally.failed += 1;
            let blocked = self.queue.failed(run);
            self.report_blocked(blocked);
            self.halt_if_hopeless();
        }
    }

    fn cancelled(&mut self, run: RunId) {
        self.tally.cancelled += 1;
        let blocked = self.queue.failed(run);
        self.report_blocked(blocked);
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
    fn halt(&mut self, reason: Halt) {
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

    /// Brings the queue up to date with a run that somebody else has changed.
    async fn refresh(&mut self, run: RunId) -> Result<(), Error> {
        let state = self.settler.state(run).await?;
        let now = self.beginning.elapsed();
        if state.state.is_final() {
            (self.observe)(Update::FinishedElsewhere { run, state: state.state });
        }
        match state.state {
            State::Running => self.await_elsewhere(run, state.attempts),
            State::Succeeded => self.succeeded(run),
            State::Failed => self.failed(run, None),
            State::Cancelled => self.cancelled(run),
            State::Interrupted => self.queue.again(run, now),
            State::Pending => {
                let failures = state.transient_failures;
                let delay =
                    if failures == 0 { Duration::ZERO } else { self.settings.retry.delay(run, failures) };
                self.queue.again(run, now + delay);
            }
        }
        Ok(())
    }

    fn summary(&self) -> Summary {
        let left = self.queue.census();
        let tally = Summary {
            blocked: left.blocked,
            pending: left.pending,
            elsewhere: self.elsewhere.len(),
            // Some are left only where they could not be settled.
            interrupted: self.tally.interrupted + self.active.len(),
            ..self.tally.clone()
        };
        Summary { total: self.specs.len(), ..tally }
    }
}

fn every(period: Duration) -> Interval {
    let mut interval = time::interval_at(Instant::now() + period, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// Returns the most whole epochs after which a checkpoint was saved.
fn whole_epochs_saved(records: &[Record]) -> Option<u32> {
    let epochs = |record: &Record| match record.event {
        Event::CheckpointSaved { epochs, step: 0, .. } => Some(epochs),
        _ => None,
    };
    records.iter().filter_map(epochs).max()
}

/// A supervisor ends by itself and is never aborted, so an error is its panic, which goes on here.
fn propagate(error: JoinError) {
    if let Ok(panic) = error.try_into_panic() {
        std::panic::resume_unwind(panic);
    }
}
