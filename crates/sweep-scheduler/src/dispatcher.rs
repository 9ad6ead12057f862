//! The dispatcher: the loop that claims, starts, ingests and settles. It is the only writer of the database.
//!
//! What runs wait for and where they stand is the [ledger](crate::ledger)'s. The dispatcher decides nothing about order ([`crate::queue`]), about the meaning of an end ([`crate::verdict`]) and about what stays on
//! disk ([`crate::retention`]), and touches no process: each attempt's supervisor does that and sends messages. One task,
//! no shared state, no locks.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use sweep_core::spec::{RunId, RunSpec};
use sweep_store::{Failure, Store};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{self, Duration, Instant, Interval, MissedTickBehavior};

use crate::alive::is_alive;
use crate::error::Error;
use crate::executor::local::Worker;
use crate::launch::{Launch, Launcher, Task};
use crate::ledger::{Engine, Ledger, Next, clean_up};
use crate::retention::Room;
use crate::settings::Settings;
use crate::settle::Settler;
use crate::supervise::{Message, News, Stop, Supervisor, higher, reached};
use crate::tail::Tail;
use crate::update::{Halt, Summary, Update};
use crate::verdict::Ending;
use crate::watch::Limits;

/// Messages that may wait for the dispatcher before supervisors have to: a few for each of many slots.
const INBOX: usize = 256;

/// Workers in a row that could not be started, after which no more are: what they lack, others lack too.
const STILLBORN_IN_A_ROW: u32 = 3;

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
    let ledger = Ledger::open(settler, runs, settings, Engine::Processes, observe).await?;
    let mut dispatcher = Dispatcher::new(ledger, stop);
    match dispatcher.work().await {
        Ok(()) => dispatcher.ledger.tidy().await?,
        // Not even the database can be written. Nothing is lost: the next session settles from the event files.
        Err(Error::Store(error)) if error.is_disk_full() => dispatcher.leave_everything(&error).await,
        Err(error) => return Err(error),
    }
    Ok(dispatcher.summary())
}

struct Dispatcher<'a> {
    ledger: Ledger<'a>,
    launcher: Launcher<'a>,
    settings: &'a Settings,
    /// Indices of slots without a worker; the lowest is taken first.
    free: BTreeSet<usize>,
    active: HashMap<RunId, Active>,
    supervisors: JoinSet<()>,
    outbox: mpsc::Sender<Message>,
    inbox: mpsc::Receiver<Message>,
    stop: watch::Receiver<Stop>,
    look_around: Interval,
    look_for_requests: Interval,
    /// Whether the disk had no room for another run; looked at again when one of ours has ended.
    crowded: bool,
    /// Workers that could not be started since the last one that could.
    stillborn: u32,
}

/// An attempt of this scheduler.
#[derive(Debug)]
struct Active {
    attempt: u32,
    slot: usize,
    /// Notified when this worker alone is to save and leave.
    cancel: Arc<Notify>,
}

impl<'a> Dispatcher<'a> {
    fn new(ledger: Ledger<'a>, stop: watch::Receiver<Stop>) -> Self {
        let (outbox, inbox) = mpsc::channel(INBOX);
        let settings = ledger.settings;
        Self {
            settings,
            launcher: Launcher::new(ledger.settler, settings),
            ledger,
            free: (0..settings.slots.len()).collect(),
            active: HashMap::new(),
            supervisors: JoinSet::new(),
            outbox,
            inbox,
            stop,
            look_around: every(settings.poll),
            look_for_requests: every(settings.poll * POLLS_A_REQUEST),
            crowded: false,
            stillborn: 0,
        }
    }

    async fn work(&mut self) -> Result<(), Error> {
        loop {
            self.start_what_is_ready().await?;
            if self.is_over() {
                return Ok(());
            }
            let due = self.ledger.due();
            tokio::select! {
                Some(message) = self.inbox.recv() => self.receive(message).await?,
                Some(Err(error)) = self.supervisors.join_next() => propagate(error),
                _ = higher(&mut self.stop, Stop::None), if self.ledger.halted() != Some(&Halt::Requested) => self.ledger.halt(Halt::Requested),
                () = reached(due), if self.may_wait_for_more() => {}
                _ = self.look_around.tick() => self.ledger.look_elsewhere().await?,
                _ = self.look_for_requests.tick(), if !self.active.is_empty() => self.look_for_requests().await?,
            }
            self.ledger.tidy_now_and_then().await?;
        }
    }

    /// Returns whether a run that becomes ready could be started.
    fn may_wait_for_more(&self) -> bool {
        self.ledger.halted().is_none() && !self.crowded && !self.free.is_empty()
    }

    fn is_over(&self) -> bool {
        self.active.is_empty() && (self.ledger.halted().is_some() || self.ledger.expects_nothing())
    }

    async fn start_what_is_ready(&mut self) -> Result<(), Error> {
        while self.may_start()
            && let Some(slot) = self.free.first().copied()
            && let Some(run) = self.ledger.pop()
        {
            if !self.has_room(run).await? {
                self.ledger.queue.put_back(run);
                break;
            }
            let task = Task { run, spec: self.ledger.specs[&run], sharing: self.ledger.sharing(run) };
            match self.launcher.launch(&task, slot).await? {
                Launch::Started { attempt, worker } => self.started(run, attempt, slot, worker),
                Launch::Taken => {
                    let next = self.ledger.refresh(run).await?;
                    self.go_on(run, next);
                }
                Launch::Failed { attempt, failure } => self.stillborn(run, attempt, failure).await?,
            }
        }
        Ok(())
    }

    fn may_start(&mut self) -> bool {
        if self.ledger.halted().is_none() && *self.stop.borrow() > Stop::None {
            self.ledger.halt(Halt::Requested);
        }
        self.ledger.halted().is_none() && !self.crowded
    }

    /// Returns whether a run fits on the disk. If it does not, it waits for workers of ours to end, and where there are
    /// none, the session halts.
    async fn has_room(&mut self, run: RunId) -> Result<bool, Error> {
        let at_work: Vec<RunId> = self.active.keys().copied().collect();
        let Room::Short { needed, available, .. } = self.ledger.room(run, &at_work, usize::MAX).await? else {
            return Ok(true);
        };
        self.crowded = true;
        if self.active.is_empty() {
            self.ledger.halt(Halt::DiskFull { needed, available });
        }
        Ok(false)
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
        self.stillborn = 0;
        self.free.remove(&slot);
        self.active.insert(run, Active { attempt, slot, cancel });
        self.ledger.tally.attempts += 1;
        let slot = &self.settings.slots[slot];
        let (device, threads) = (slot.device(), slot.threads());
        self.ledger.tell(Update::Started { run, attempt, device, threads });
    }

    /// Settles an attempt whose worker could not be started. When a file server does not answer, all runs of the queue would
    /// use up their attempts within moments; the session halts before that.
    async fn stillborn(&mut self, run: RunId, attempt: u32, failure: Failure) -> Result<(), Error> {
        self.stillborn += 1;
        if self.stillborn >= STILLBORN_IN_A_ROW {
            self.ledger.halt(Halt::NothingStarts { message: failure.message.clone() });
        }
        let ending = Ending::stillborn(failure);
        let settled = self.ledger.settler.settle(run, attempt, &News::default(), &ending).await?;
        let next = self.ledger.settled(run, attempt, settled).await?;
        self.go_on(run, next);
        Ok(())
    }

    async fn receive(&mut self, message: Message) -> Result<(), Error> {
        match message {
            Message::Events { run, news } => {
                let attempt = self.active[&run].attempt;
                self.ledger.settler.store.ingest(run, attempt, &news.records, news.offset).await?;
                self.ledger.pass_on(run, attempt, news);
            }
            Message::Silent { run, since } => {
                let attempt = self.active[&run].attempt;
                self.ledger.tell(Update::Silent { run, attempt, since });
            }
            Message::Ended { run, news, ending } => self.end(run, news, &ending).await?,
        }
        Ok(())
    }

    async fn end(&mut self, run: RunId, news: News, ending: &Ending) -> Result<(), Error> {
        let attempt = self.active[&run].attempt;
        let settled = self.ledger.settler.settle(run, attempt, &news, ending).await?;
        if let Some(Active { slot, .. }) = self.active.remove(&run) {
            self.free.insert(slot);
        }
        self.crowded = false;
        self.ledger.ended(run);
        self.ledger.pass_on(run, attempt, news);
        let next = self.ledger.settled(run, attempt, settled).await?;
        self.go_on(run, next);
        Ok(())
    }

    fn go_on(&mut self, run: RunId, next: Next) {
        match next {
            Next::Over => {}
            Next::Again(delay) => self.ledger.again(run, delay),
            // Not in this session, whoever stopped it: a worker that always stops would never end.
            Next::Interrupted => self.ledger.rest(run),
        }
    }

    /// Makes the workers leave whose runs somebody wants taken out. Asking twice changes nothing.
    async fn look_for_requests(&mut self) -> Result<(), Error> {
        let ours: Vec<RunId> = self.active.keys().copied().collect();
        for run in self.ledger.settler.store.reader().cancel_requests(&ours).await? {
            if let Some(active) = self.active.get(&run) {
                active.cancel.notify_one();
            }
        }
        Ok(())
    }

    /// Ends a session that cannot write its database any more: lets go of the workers, which save what they can and leave,
    /// and waits for that as long as the grace allows.
    async fn leave_everything(&mut self, error: &sweep_store::Error) {
        self.ledger.halt(Halt::DiskFilled { message: error.to_string() });
        self.supervisors.shutdown().await;
        let patience = Instant::now().checked_add(self.settings.grace);
        let lives = |(run, active): (&RunId, &Active)| {
            is_alive(&self.settings.home, *run, active.attempt).unwrap_or(false)
        };
        while self.active.iter().any(lives) && patience.is_none_or(|end| Instant::now() < end) {
            time::sleep(self.settings.poll).await;
        }
    }

    fn summary(&self) -> Summary {
        let summary = self.ledger.summary();
        // Some are left only where they could not be settled.
        Summary { interrupted: summary.interrupted + self.active.len(), ..summary }
    }
}

fn every(period: Duration) -> Interval {
    let mut interval = time::interval_at(Instant::now() + period, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// A supervisor ends by itself and is never aborted, so an error is its panic, which goes on here.
fn propagate(error: JoinError) {
    if let Ok(panic) = error.try_into_panic() {
        std::panic::resume_unwind(panic);
    }
}
