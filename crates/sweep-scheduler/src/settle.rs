//! The end of an attempt, written down: the only place that settles.

use std::time::Duration;

use sweep_core::event::Event;
use sweep_core::spec::RunId;
use sweep_store::{Outcome, Report, RunState, Settlement, Store, now_ms};

use crate::error::Error;
use crate::executor::lock::LockedLog;
use crate::retry::RetryPolicy;
use crate::supervise::News;
use crate::tail::{Tail, end_of_file};
use crate::verdict::Ending;
use sweep_core::home::Home;

/// How much of a failed attempt's log is kept in the database.
const LOG_TAIL_BYTES: u64 = 4096;

/// What settling needs to know.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settler<'a> {
    pub(crate) store: &'a Store,
    pub(crate) home: &'a Home,
    pub(crate) retry: RetryPolicy,
}

/// A settled attempt.
#[derive(Debug)]
pub(crate) struct Settled {
    pub(crate) outcome: Outcome,
    /// When the run may be tried again, counted from now, if it may.
    pub(crate) retry_in: Option<Duration>,
    /// The end of the log of a failed attempt.
    pub(crate) log_tail: Option<String>,
    /// False where somebody else was faster: then what is in the database holds.
    pub(crate) effective: bool,
}

/// What is known about the run and the attempt beside the events.
#[derive(Debug, Default)]
struct Background {
    /// Transient failures of the run, this one included if it is one.
    failures: u32,
    log_tail: Option<String>,
}

impl Background {
    fn log_tail_for(&self, outcome: &Outcome) -> Option<String> {
        if matches!(outcome, Outcome::Failed { .. }) { self.log_tail.clone() } else { None }
    }
}

/// What looking after an attempt that is not ours found.
#[derive(Debug)]
pub(crate) enum Finding {
    /// Somebody is alive in it.
    Alive,
    /// Nobody was, and it is settled now, by this or another scheduler.
    Settled,
}

impl Settler<'_> {
    /// Writes the rest of an attempt's events and its end, in one transaction.
    pub(crate) async fn settle(
        &self,
        run: RunId,
        attempt: u32,
        news: &News,
        ending: &Ending,
    ) -> Result<Settled, Error> {
        let background = self.background(run, attempt, news, ending).await?;
        let mut outcome = Outcome::Interrupted;
        let decide = |last_word: Option<Report>| {
            outcome = self.outcome(ending.verdict(last_word), background.failures);
            Settlement {
                outcome: outcome.clone(),
                exit_code: ending.exit.and_then(|exit| exit.code),
                signal: ending.exit.and_then(|exit| exit.signal),
                log_tail: background.log_tail_for(&outcome),
            }
        };
        let effective =
            self.store.ingest_and_settle(run, attempt, &news.records, news.offset, now_ms(), decide).await?;
        let may_retry = matches!(outcome, Outcome::Failed { retry: true, .. });
        let retry_in = may_retry.then(|| self.retry.delay(run, background.failures));
        Ok(Settled { retry_in, log_tail: background.log_tail_for(&outcome), outcome, effective })
    }

    /// Gathers what only a failure needs, and so nothing where success is certain.
    async fn background(
        &self,
        run: RunId,
        attempt: u32,
        news: &News,
        ending: &Ending,
    ) -> Result<Background, Error> {
        let succeeded = news.records.last().is_some_and(|record| record.event == Event::Succeeded);
        if succeeded && ending.fault.is_none() {
            return Ok(Background::default());
        }
        // Outside the transaction: a run has one attempt at a time, so nobody else counts its failures meanwhile.
        let failures = 1 + self.state(run).await?.transient_failures;
        Ok(Background { failures, log_tail: self.log_tail(run, attempt) })
    }

    /// Returns whether nobody is alive in an attempt.
    pub(crate) fn is_dead(&self, run: RunId, attempt: u32) -> Result<bool, Error> {
        Ok(self.lock(run, attempt)?.is_some())
    }

    fn lock(&self, run: RunId, attempt: u32) -> Result<Option<LockedLog>, Error> {
        let path = self.home.log(run, attempt);
        LockedLog::acquire(&path).map_err(|source| Error::Lock { path, source })
    }

    /// Settles an attempt that is not ours, provided that nobody is alive in it.
    ///
    /// Its log stays locked meanwhile. A scheduler that has claimed the attempt but was too slow to lock the log finds
    /// out when it gets the lock, because it then looks whether the attempt is still running.
    pub(crate) async fn settle_if_dead(&self, run: RunId, attempt: u32) -> Result<Finding, Error> {
        let Some(lock) = self.lock(run, attempt)? else {
            return Ok(Finding::Alive);
        };
        let rest = Tail::new(self.home.events(run, attempt)).read_to_end();
        let news = News { records: rest.records, offset: rest.offset };
        let ending = Ending { exit: None, fault: rest.damage.map(Into::into), dismissed: true };
        let settled = self.settle(run, attempt, &news, &ending).await?;
        tracing::info!(%run, attempt, outcome = ?settled.outcome, effective = settled.effective, "settled a dead attempt");
        drop(lock);
        Ok(Finding::Settled)
    }

    /// Returns where a run stands.
    pub(crate) async fn state(&self, run: RunId) -> Result<RunState, Error> {
        let states = self.store.reader().states_of(&[run]).await?;
        states.into_iter().next().ok_or(Error::Unregistered { run })
    }

    fn outcome(&self, verdict: Report, failures: u32) -> Outcome {
        match verdict {
            Report::Succeeded => Outcome::Succeeded,
            Report::Interrupted => Outcome::Interrupted,
            Report::Failed(failure) => {
                let retry = self.retry.allows(failure.class, failures);
                Outcome::Failed { failure, retry }
            }
        }
    }

    fn log_tail(&self, run: RunId, attempt: u32) -> Option<String> {
        let path = self.home.log(run, attempt);
        match end_of_file(&path, LOG_TAIL_BYTES) {
            Ok(text) => Some(text),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the end of a log could not be read");
                None
            }
        }
    }
}
