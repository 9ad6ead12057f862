//! Supervision: one task an attempt, which owns the worker, reads its events and passes stop requests on.
//!
//! It writes nothing to the database: everything goes to the dispatcher as messages.

use std::future;
use std::sync::Arc;
use std::time::Duration;

use sweep_core::event::Record;
use sweep_core::spec::RunId;
use sweep_store::Failure;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{self, Instant, MissedTickBehavior};

use crate::executor::local::{Exit, Worker};
use crate::memory::OomKills;
use crate::tail::{Chunk, Damage, Tail};
use crate::verdict::Ending;
use crate::watch::{Concern, Limits, Watch};

/// What the user wants of a running scheduler. A higher level includes the lower ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stop {
    /// Go on.
    #[default]
    None,
    /// Start nothing more, ask running workers to save and leave, and kill what does not in time.
    Graceful,
    /// Kill running workers.
    Now,
}

/// From an attempt's supervisor to the dispatcher.
#[derive(Debug)]
pub(crate) enum Message {
    /// Events came.
    Events { run: RunId, news: News },
    /// The worker has said nothing for that long.
    Silent { run: RunId, since: Duration },
    /// The worker is gone; the last message of an attempt.
    Ended { run: RunId, news: News, ending: Ending },
}

/// Records not sent before, and how many bytes of the event file are read with them.
#[derive(Debug, Default)]
pub(crate) struct News {
    pub(crate) records: Vec<Record>,
    pub(crate) offset: u64,
}

/// Everything that a supervisor needs.
#[derive(Debug)]
pub(crate) struct Supervisor {
    pub(crate) run: RunId,
    pub(crate) worker: Worker,
    pub(crate) tail: Tail,
    pub(crate) stop: watch::Receiver<Stop>,
    /// Notified when this worker alone is to save and leave.
    pub(crate) cancel: Arc<Notify>,
    pub(crate) limits: Limits,
    pub(crate) oom_kills: OomKills,
    /// How long a worker may take to save and leave.
    pub(crate) grace: Duration,
    /// How often its events are looked at.
    pub(crate) poll: Duration,
    /// Bounded: a worker that says more than the database can take is read more slowly.
    pub(crate) outbox: mpsc::Sender<Message>,
}

/// What was done so far to make a worker leave.
#[derive(Debug, Default)]
struct Dismissal {
    level: Stop,
    /// When patience ends; `None` also where the grace reaches beyond what the clock can tell.
    deadline: Option<Instant>,
}

/// What a supervisor has found out so far.
#[derive(Debug)]
struct Findings {
    dismissal: Dismissal,
    damage: Option<Damage>,
    overdue: Option<Failure>,
    watch: Watch,
}

impl Findings {
    fn new(limits: Limits) -> Self {
        let watch = Watch::new(limits, Instant::now());
        Self { dismissal: Dismissal::default(), damage: None, overdue: None, watch }
    }

    fn hear(&mut self, records: &[Record]) {
        let now = Instant::now();
        for record in records {
            self.watch.hear(&record.event, now);
        }
    }
}

impl Supervisor {
    /// Follows the worker until it is gone.
    pub(crate) async fn supervise(mut self) {
        let killed_before = self.oom_kills.count();
        let mut findings = Findings::new(self.limits);
        let exit = self.follow(&mut findings).await;
        let rest = self.tail.read_to_end();
        findings.hear(&rest.records);
        let ending = Ending {
            exit: Some(exit),
            fault: findings.damage.or(rest.damage).map(Into::into),
            overdue: findings.overdue,
            dismissed: findings.dismissal.level > Stop::None,
            saved: findings.watch.has_saved(),
            memory_ran_out: self.oom_kills.count() > killed_before,
        };
        let news = News { records: rest.records, offset: rest.offset };
        self.send(Message::Ended { run: self.run, news, ending }).await;
    }

    async fn follow(&mut self, findings: &mut Findings) -> Exit {
        let mut poll = time::interval_at(Instant::now() + self.poll, self.poll);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let cancel = Arc::clone(&self.cancel);
        loop {
            tokio::select! {
                exit = self.worker.wait() => return exit.unwrap_or_else(|error| unknown(self.run, &error)),
                level = higher(&mut self.stop, findings.dismissal.level) => self.dismiss(&mut findings.dismissal, level),
                () = cancel.notified() => self.dismiss(&mut findings.dismissal, Stop::Graceful),
                () = reached(findings.dismissal.deadline) => self.dismiss(&mut findings.dismissal, Stop::Now),
                _ = poll.tick() => self.look(findings).await,
            }
        }
    }

    /// Reads what the worker has said, and draws conclusions from that and from what it has not said.
    async fn look(&mut self, findings: &mut Findings) {
        let chunk = self.tail.poll();
        findings.hear(&chunk.records);
        if let Some(found) = self.forward(chunk).await {
            findings.damage = Some(found);
            self.dismiss(&mut findings.dismissal, Stop::Graceful);
        }
        // A worker on its way out is past caring: its grace limits it.
        if findings.dismissal.level > Stop::None {
            return;
        }
        match findings.watch.look(Instant::now()) {
            Some(Concern::Silent(since)) => self.send(Message::Silent { run: self.run, since }).await,
            Some(Concern::Overdue(failure)) => {
                findings.overdue = Some(failure);
                self.dismiss(&mut findings.dismissal, Stop::Graceful);
            }
            None => {}
        }
    }

    /// Makes the worker leave. Asking again changes nothing.
    fn dismiss(&mut self, dismissal: &mut Dismissal, level: Stop) {
        if level <= dismissal.level {
            return;
        }
        dismissal.level = level;
        match level {
            Stop::None => {}
            Stop::Graceful => {
                dismissal.deadline = Instant::now().checked_add(self.grace);
                self.worker.ask_to_leave();
            }
            Stop::Now => {
                dismissal.deadline = None;
                self.worker.kill();
            }
        }
    }

    /// Passes records on and gives damage back.
    async fn forward(&self, chunk: Chunk) -> Option<Damage> {
        if !chunk.records.is_empty() {
            let news = News { records: chunk.records, offset: chunk.offset };
            self.send(Message::Events { run: self.run, news }).await;
        }
        chunk.damage
    }

    async fn send(&self, message: Message) {
        // The dispatcher is gone only when it failed; then this task is about to be dropped as well.
        let _ = self.outbox.send(message).await;
    }
}

fn unknown(run: RunId, error: &std::io::Error) -> Exit {
    tracing::error!(%run, %error, "the exit of a worker could not be read");
    Exit::default()
}

/// Waits until the level is higher than `than`; for ever if nobody can raise it any more.
pub(crate) async fn higher(stop: &mut watch::Receiver<Stop>, than: Stop) -> Stop {
    let level = stop.wait_for(|level| *level > than).await.map(|level| *level);
    match level {
        Ok(level) => level,
        Err(_) => future::pending().await,
    }
}

/// Waits until `deadline`; for ever without one.
pub(crate) async fn reached(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => time::sleep_until(deadline).await,
        None => future::pending().await,
    }
}
