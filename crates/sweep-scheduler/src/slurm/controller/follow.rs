//! Following attempts that tasks have made: from their folders to the database.

use std::io;
use std::path::PathBuf;

use sweep_core::event::{Event, FailureClass, Record};
use sweep_core::spec::RunId;
use sweep_store::{Adopted, Failure, Outcome, now_ms};
use tokio::time::Instant;

use super::super::orders::{Claim, Departure, read_json};
use super::super::signs::is_alive;
use super::Controller;
use super::judge::Kind;
use crate::error::Error;
use crate::ledger::Next;
use crate::supervise::News;
use crate::tail::{Damage, Tail};
use crate::update::Update;
use crate::verdict::Ending;

/// Most runs that are looked at for new attempts in one look: where files lie on a server, looking at thousands takes time.
const LOOKS: usize = 200;

/// Looks at which an attempt was found dead before it is settled so: what its worker wrote last may lag behind.
const DEATHS: u32 = 2;

/// An attempt that runs, as far as is known.
#[derive(Debug)]
pub(super) struct Follow {
    pub(super) attempt: u32,
    tail: Tail,
    fault: Option<Failure>,
    saved: bool,
    progressed: bool,
    succeeded: bool,
    /// Looks at which nobody was alive in it though Slurm has no task for it.
    deaths: u32,
}

impl Follow {
    pub(super) fn new(attempt: u32, events: PathBuf) -> Self {
        Self {
            attempt,
            tail: Tail::new(events),
            fault: None,
            saved: false,
            progressed: false,
            succeeded: false,
            deaths: 0,
        }
    }

    fn hear(&mut self, records: &[Record], damage: Option<Damage>) {
        for Record { event, .. } in records {
            self.saved |= matches!(event, Event::CheckpointSaved { .. });
            self.progressed |= is_progress(event);
            self.succeeded |= *event == Event::Succeeded;
        }
        self.fault = self.fault.take().or(damage.map(Into::into));
    }
}

/// Returns whether an event says that something is on disk that another attempt goes on from. The final model is not: every
/// attempt that comes to it saves it anew.
const fn is_progress(event: &Event) -> bool {
    matches!(event, Event::CheckpointSaved { .. } | Event::Evaluated { .. })
}

/// How an attempt that is over was found to be so.
enum End {
    /// Its task has written it down.
    Told(Departure),
    /// Its events say that it has succeeded, or a later attempt has taken its place, or nobody is alive in it.
    Seen,
}

impl Controller<'_> {
    /// Looks at everything that tasks may have written since the last look.
    pub(super) async fn look(&mut self) -> Result<(), Error> {
        let followed: Vec<RunId> = self.follows.keys().copied().collect();
        for run in followed {
            self.read_on(run).await?;
            if let Some(end) = self.end_of(run)? {
                self.settle(run, end).await?;
            }
        }
        self.look_for_attempts().await?;
        self.look_for_requests().await?;
        self.ledger.look_elsewhere().await
    }

    async fn read_on(&mut self, run: RunId) -> Result<(), Error> {
        let Some(follow) = self.follows.get_mut(&run) else { return Ok(()) };
        let chunk = follow.tail.poll();
        follow.tail.close();
        let attempt = follow.attempt;
        let is_damaged = chunk.damage.is_some();
        follow.hear(&chunk.records, chunk.damage);
        if !chunk.records.is_empty() {
            self.ledger.settler.store.ingest(run, attempt, &chunk.records, chunk.offset).await?;
            self.pass_on(run, attempt, News { records: chunk.records, offset: chunk.offset });
        }
        if is_damaged {
            // Nothing that it says is believed any more.
            self.withdraw(run);
        }
        Ok(())
    }

    fn pass_on(&mut self, run: RunId, attempt: u32, news: News) {
        if self.is_ours(run) {
            self.ledger.pass_on(run, attempt, news);
        }
    }

    /// Tells the task of a run to leave it.
    pub(super) fn withdraw(&self, run: RunId) {
        let Some(spot) = self.spots.get(&run) else { return };
        if let Err(error) = self.folder(&spot.token).withdraw(run) {
            tracing::warn!(%run, %error, "the task of a run could not be told to leave it");
        }
    }

    /// Returns how the attempt of a run ended, if it has.
    fn end_of(&mut self, run: RunId) -> Result<Option<End>, Error> {
        let home = &self.ledger.settings.home;
        let Some(follow) = self.follows.get_mut(&run) else { return Ok(None) };
        if let Some(departure) = read_json(&home.departure(run, follow.attempt)) {
            return Ok(Some(End::Told(departure)));
        }
        if follow.succeeded || home.attempt(run, follow.attempt + 1).exists() {
            return Ok(Some(End::Seen));
        }
        let has_task = self.spots.get(&run).is_some_and(|spot| !spot.sight.is_away());
        if has_task || self.complaint.is_some() {
            follow.deaths = 0;
            return Ok(None);
        }
        let alive = is_alive(home, run, follow.attempt);
        let alive = alive.map_err(|source| Error::Scan { path: home.slurm(), source })?;
        follow.deaths = if alive { 0 } else { follow.deaths + 1 };
        Ok((follow.deaths >= DEATHS).then_some(End::Seen))
    }

    async fn settle(&mut self, run: RunId, end: End) -> Result<(), Error> {
        let Some(mut follow) = self.follows.remove(&run) else { return Ok(()) };
        let attempt = follow.attempt;
        let rest = follow.tail.read_to_end();
        follow.hear(&rest.records, rest.damage);
        let news = News { records: rest.records, offset: rest.offset };
        let ending = match end {
            End::Told(departure) => departure.ending(follow.fault.take()),
            End::Seen => self.ending_of_a_vanished(run, follow.fault.take()),
        };
        let standstill = if follow.progressed { None } else { self.standstill(run, attempt) };
        let ending = Ending { saved: follow.saved, overdue: ending.overdue.or(standstill), ..ending };
        let settled = self.ledger.settler.settle(run, attempt, &news, &ending).await?;
        self.pass_on(run, attempt, news);
        self.crowded = false;
        self.ask_soon();
        let next = if self.is_ours(run) {
            self.ledger.ended(run);
            self.ledger.settled(run, attempt, settled).await?
        } else {
            foreign(&settled.outcome)
        };
        self.go_on(run, next).await
    }

    /// Returns the end of an attempt whose task could write nothing down any more.
    fn ending_of_a_vanished(&self, run: RunId, fault: Option<Failure>) -> Ending {
        let kind = self.spots.get(&run).map(|spot| spot.sight.kind());
        let memory_ran_out = kind == Some(Kind::OutOfMemory);
        let signal = memory_ran_out.then_some(nix::libc::SIGKILL);
        let exit = memory_ran_out.then_some(crate::executor::local::Exit { code: None, signal });
        Ending { exit, dismissed: !memory_ran_out, memory_ran_out, ..Ending::of_a_stranger(fault) }
    }

    /// Returns why an attempt that saved nothing is a failure although it was only stopped: so was the one before.
    fn standstill(&self, run: RunId, attempt: u32) -> Option<Failure> {
        let before = attempt.checked_sub(1).filter(|before| *before > 0)?;
        let home = &self.ledger.settings.home;
        let records = Tail::new(home.events(run, before)).read_to_end().records;
        let was_stopped = !matches!(
            records.last().map(|record| &record.event),
            Some(Event::Succeeded | Event::Failed { .. })
        );
        let stood_still = was_stopped
            && read_json::<Claim>(&home.claim(run, before)).is_some()
            && !records.iter().any(|record| is_progress(&record.event));
        stood_still.then(|| Failure {
            class: FailureClass::Timeout,
            message: "two jobs in a row were ended before the run had saved anything: it may need more time a job, \
                      or `execution.checkpoint_every` a shorter one"
                .to_owned(),
        })
    }

    /// Draws the conclusions from the end of an attempt.
    pub(super) async fn go_on(&mut self, run: RunId, next: Next) -> Result<(), Error> {
        match next {
            Next::Over => self.let_go(&[run]).await,
            // Its task leaves the run alone from here on, whatever becomes of the task.
            Next::Again(delay) => {
                self.withdraw(run);
                self.let_go(&[run]).await?;
                if self.is_ours(run) {
                    self.ledger.again(run, delay);
                }
                Ok(())
            }
            // Slurm may start its task once more; if it does not, that is seen.
            Next::Interrupted => Ok(()),
        }
    }

    /// Looks for attempts that tasks have begun: a few runs at a time, in turn.
    async fn look_for_attempts(&mut self) -> Result<(), Error> {
        let mut waiting: Vec<RunId> =
            self.spots.keys().filter(|run| !self.follows.contains_key(run)).copied().collect();
        waiting.sort_unstable();
        let start = if self.looked < waiting.len() { self.looked } else { 0 };
        let some: Vec<RunId> = waiting.into_iter().skip(start).take(LOOKS).collect();
        self.looked = start + some.len();
        for run in some {
            self.look_for_attempt(run).await?;
        }
        Ok(())
    }

    /// Takes up the next attempt of a run if its task has begun it; returns whether it has.
    pub(super) async fn look_for_attempt(&mut self, run: RunId) -> Result<bool, Error> {
        let home = &self.ledger.settings.home;
        let Some(spot) = self.spots.get_mut(&run) else { return Ok(false) };
        let attempt = spot.attempts + 1;
        match std::fs::metadata(home.attempt(run, attempt)) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(source) => return Err(Error::Scan { path: home.attempt(run, attempt), source }),
        }
        // The folder comes before the claim in it.
        let claim: Option<Claim> = read_json(&home.claim(run, attempt));
        let name = claim.as_ref().map_or_else(|| format!("slurm:{}_{}", spot.token, spot.task), Claim::name);
        let started_ms = claim.as_ref().map_or_else(now_ms, |claim| claim.started_ms);
        let adopted = self.ledger.settler.store.adopt(run, attempt, &name, started_ms).await?;
        spot.attempts = attempt;
        spot.reason = None;
        let events = home.events(run, attempt);
        if adopted == Adopted::Never {
            return Ok(true);
        }
        self.follows.insert(run, Follow::new(attempt, events));
        if self.is_ours(run) && adopted == Adopted::Now {
            self.ledger.tally.attempts += 1;
            self.ledger.tell(Update::Adopted { run, attempt, place: name });
        }
        Ok(true)
    }

    /// Makes the workers leave whose runs somebody wants taken out.
    async fn look_for_requests(&mut self) -> Result<(), Error> {
        let running: Vec<RunId> = self.follows.keys().copied().collect();
        for run in self.ledger.settler.store.reader().cancel_requests(&running).await? {
            self.withdraw(run);
        }
        Ok(())
    }

    /// Asks Slurm sooner: something has changed.
    fn ask_soon(&mut self) {
        self.pause = self.pace.shortest;
        self.ask_at = self.ask_at.min(Instant::now() + self.pace.shortest);
    }
}

/// What is to become of a run that this session only follows.
const fn foreign(outcome: &Outcome) -> Next {
    match outcome {
        Outcome::Interrupted => Next::Interrupted,
        Outcome::Failed { retry: true, .. } => Next::Again(std::time::Duration::ZERO),
        Outcome::Succeeded | Outcome::Failed { .. } | Outcome::Cancelled => Next::Over,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(event: Event) -> Follow {
        let mut follow = Follow::new(1, PathBuf::from("events.jsonl"));
        follow.hear(&[Record { sequence: 0, time_ms: 0, event }], None);
        follow
    }

    #[test]
    fn what_every_attempt_does_anew_is_no_progress() {
        let [file, digest] = ["model/model.safetensors", "d"].map(str::to_owned);
        let model = Event::ModelSaved { file: file.clone(), digest: digest.clone(), bytes: 1 };
        assert!(!says(model).progressed);
        let checkpoint = Event::CheckpointSaved { epochs: 1, step: 2, file, digest, bytes: 1 };
        assert!(says(checkpoint).progressed);
    }
}
