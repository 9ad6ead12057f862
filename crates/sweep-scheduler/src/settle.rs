//! The end of an attempt, written down: the only place that settles.

use std::fs;
use std::io;
use std::time::Duration;

use sweep_core::event::{Event, FailureClass, Record};
use sweep_core::micro_batch;
use sweep_core::spec::{RunId, RunSpec};
use sweep_core::verdict::{self, Cause, Verdict};
use sweep_store::{Failure, Outcome, Report, RunState, Settlement, State, Store, now_ms};

use crate::error::Error;
use crate::evidence::Process;
use crate::executor::lock::LockedLog;
use crate::files::write_durably;
use crate::retry::RetryPolicy;
use crate::slurm::signs;
use crate::supervise::News;
use crate::tail::{Tail, end_of_file};
use crate::verdict::Ending;
use sweep_core::home::Home;

/// How much of a failed attempt's log is kept in the database.
pub(crate) const LOG_TAIL_BYTES: u64 = 4096;

/// Exit code after `succeeded`.
pub(crate) const SUCCEEDED: i32 = 0;

/// Exit code after `interrupted`.
pub(crate) const INTERRUPTED: i32 = 76;

/// Why a run with batch norm is not tried again with fewer images a pass.
const WITH_BATCH_NORM: &str = "not tried with fewer images a pass, over which the backbone's batch norm normalises: \
that would be another experiment\n  hint: write a smaller `micro_batch_size`, which makes another run";

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
    /// Most images a forward pass from now on, where memory ran out.
    pub(crate) micro_batch_limit: Option<u32>,
    /// What the worker said of a full disk, which stopped it.
    pub(crate) disk_full: Option<String>,
    /// False where somebody else was faster: then what is in the database holds.
    pub(crate) effective: bool,
}

/// What is known about the run and the attempt beside the events.
#[derive(Debug, Default)]
struct Background {
    /// Transient failures of the run without progress between them, this one included if it is one.
    failures: u32,
    /// Whether somebody wants the run taken out.
    cancelled: bool,
    /// Whether the attempt was already settled, before this scheduler came to it.
    settled_before: bool,
    log_tail: Option<String>,
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
        let judge = |last_word| self.judge((run, attempt), last_word, ending, &background);
        self.write(run, attempt, news, &background, judge).await
    }

    /// Writes the end that `judge` makes of the worker's last word, into the attempt's folder where its events do not tell
    /// it, and into the database.
    async fn write(
        &self,
        run: RunId,
        attempt: u32,
        news: &News,
        background: &Background,
        judge: impl FnOnce(Option<Report>) -> Verdict + Send,
    ) -> Result<Settled, Error> {
        let mut judged = None;
        let decide = |last_word: Option<Report>| {
            let verdict = judge(last_word);
            if !background.settled_before && !goes_without_saying(&verdict) {
                self.write_verdict(run, attempt, &verdict);
            }
            let settlement = settlement(&verdict, background);
            judged = Some(verdict);
            settlement
        };
        let effective =
            self.store.ingest_and_settle(run, attempt, &news.records, news.offset, now_ms(), decide).await?;
        let verdict = judged.expect("the store has asked for the end before it wrote it");
        let outcome = outcome(&verdict);
        Ok(Settled {
            retry_in: self.retry_in(run, &verdict, background.failures),
            log_tail: log_tail_for(&outcome, background),
            micro_batch_limit: verdict.micro_batch_limit,
            disk_full: disk_full(verdict),
            outcome,
            effective,
        })
    }

    /// Gathers what only an end that is no success needs, and so nothing where success is certain.
    async fn background(
        &self,
        run: RunId,
        attempt: u32,
        news: &News,
        ending: &Ending,
    ) -> Result<Background, Error> {
        let succeeded = news.records.last().is_some_and(|record| record.event == Event::Succeeded);
        let left_well = ending.exit.is_none_or(|exit| exit.code == Some(0));
        if succeeded && left_well && ending.fault.is_none() {
            return Ok(Background::default());
        }
        // Outside the transaction: a run has one attempt at a time, so nobody else counts its failures meanwhile.
        let state = self.state(run).await?;
        let saved = ending.saved || news.records.iter().any(is_checkpoint);
        let earlier = if saved { 0 } else { state.transient_failures };
        Ok(Background {
            failures: 1 + earlier,
            cancelled: !self.store.reader().cancel_requests(&[run]).await?.is_empty(),
            settled_before: state.state != State::Running || state.attempts != attempt,
            log_tail: self.log_tail(run, attempt),
        })
    }

    fn judge(
        &self,
        (run, attempt): (RunId, u32),
        last_word: Option<Report>,
        ending: &Ending,
        background: &Background,
    ) -> Verdict {
        let log = background.log_tail.as_deref().unwrap_or_default();
        let report = ending.verdict(last_word, log);
        let (outcome, micro_batch_limit) = match report {
            Report::Succeeded => (verdict::Outcome::Succeeded, None),
            _ if background.cancelled => (verdict::Outcome::Cancelled, None),
            Report::Interrupted => (verdict::Outcome::Interrupted { cause: None }, None),
            Report::Failed(failure) => self.judge_failure((run, attempt), failure, background.failures),
        };
        Verdict {
            outcome,
            exit_code: ending.exit.and_then(|exit| exit.code),
            signal: ending.exit.and_then(|exit| exit.signal),
            micro_batch_limit,
            ended_ms: now_ms(),
        }
    }

    /// Says what follows from a failure, and how many images a forward pass may have from now on.
    fn judge_failure(
        &self,
        (run, attempt): (RunId, u32),
        failure: Failure,
        failures: u32,
    ) -> (verdict::Outcome, Option<u32>) {
        let Failure { class, message } = failure;
        let cause = Cause { class, message };
        match class {
            FailureClass::DiskFull => (verdict::Outcome::Interrupted { cause: Some(cause) }, None),
            FailureClass::OutOfMemory => self.judge_want_of_memory((run, attempt), cause),
            _ => (verdict::Outcome::Failed { cause, retry: self.retry.allows(class, failures) }, None),
        }
    }

    /// Says what follows where memory ran out: another try with half the images a pass, unless the images of a pass decide
    /// what comes out, as with batch norm.
    fn judge_want_of_memory(
        &self,
        (run, attempt): (RunId, u32),
        cause: Cause,
    ) -> (verdict::Outcome, Option<u32>) {
        let spec = self.spec(run);
        if spec.as_ref().is_some_and(|spec| spec.backbone.definition.architecture.has_batch_norm()) {
            let message = format!("{}; {WITH_BATCH_NORM}", cause.message);
            return (verdict::Outcome::Failed { cause: Cause { message, ..cause }, retry: false }, None);
        }
        let smaller = spec.and_then(|spec| self.smaller_micro_batch(&spec, run, attempt));
        (verdict::Outcome::Failed { cause, retry: smaller.is_some() }, smaller)
    }

    /// Returns about half of what the attempt computed with; `None` where that cannot be halved.
    fn smaller_micro_batch(&self, spec: &RunSpec, run: RunId, attempt: u32) -> Option<u32> {
        let size = spec.micro_batch_size.images().or_else(|| self.found_micro_batch(run, attempt))?;
        micro_batch::halved(size, spec.batch_size)
    }

    /// Returns what the attempt was told to do, unless that can no longer be read.
    fn spec(&self, run: RunId) -> Option<RunSpec> {
        let path = self.home.spec(run);
        let spec = fs::read(&path)
            .map_err(|error| error.to_string())
            .and_then(|text| serde_json::from_slice(&text).map_err(|error| error.to_string()));
        spec.inspect_err(|error| {
            tracing::warn!(path = %path.display(), error, "a specification could not be read, so its micro batch is not halved");
        })
        .ok()
    }

    /// Returns what a worker says that it has found for `micro_batch_size: auto`; `None` where memory ran out before.
    fn found_micro_batch(&self, run: RunId, attempt: u32) -> Option<u32> {
        let records = Tail::new(self.home.events(run, attempt)).read_to_end().records;
        records.into_iter().rev().find_map(|record| match record.event {
            Event::MicroBatchFound { micro_batch_size } => Some(micro_batch_size),
            _ => None,
        })
    }

    fn retry_in(&self, run: RunId, verdict: &Verdict, failures: u32) -> Option<Duration> {
        match &verdict.outcome {
            verdict::Outcome::Failed { retry: true, .. } if verdict.micro_batch_limit.is_some() => {
                Some(Duration::ZERO)
            }
            verdict::Outcome::Failed { retry: true, .. } => Some(self.retry.delay(run, failures)),
            _ => None,
        }
    }

    /// Returns whether nobody is alive in an attempt.
    pub(crate) fn is_dead(&self, run: RunId, attempt: u32) -> Result<bool, Error> {
        Ok(self.hold_if_dead(run, attempt)?.is_some())
    }

    /// Takes the lock on an attempt's log if nobody is alive in it, by three witnesses: the lock is free, the process that the
    /// events name is not there, as far as this host can tell, and no other machine gives signs of life in it. So neither a
    /// log that somebody deleted nor a file system whose locks end at a machine's border kills a worker.
    fn hold_if_dead(&self, run: RunId, attempt: u32) -> Result<Option<LockedLog>, Error> {
        let path = self.home.log(run, attempt);
        let lock = LockedLog::acquire(&path).map_err(|source| Error::Lock { path, source })?;
        let Some(lock) = lock else { return Ok(None) };
        let process = Process::that_wrote(&self.home.events(run, attempt));
        let is_alive = process.is_some_and(|process| process.is_alive_here())
            || signs::is_heard_from_elsewhere(self.home, run, attempt)
                .map_err(|source| Error::Scan { path: self.home.slurm(), source })?;
        Ok((!is_alive).then_some(lock))
    }

    /// Settles an attempt that is not ours, provided that nobody is alive in it.
    ///
    /// Its log stays locked meanwhile. A scheduler that has claimed the attempt but was too slow to lock the log finds
    /// out when it gets the lock, because it then looks whether the attempt is still running. What a scheduler that died
    /// in the middle of settling had judged holds.
    pub(crate) async fn settle_if_dead(&self, run: RunId, attempt: u32) -> Result<Finding, Error> {
        let Some(lock) = self.hold_if_dead(run, attempt)? else {
            return Ok(Finding::Alive);
        };
        let rest = Tail::new(self.home.events(run, attempt)).read_to_end();
        let news = News { records: rest.records, offset: rest.offset };
        let ending = Ending::of_a_stranger(rest.damage.map(Into::into));
        let settled = match self.judged_before(run, attempt) {
            Some(verdict) => {
                let background = self.background(run, attempt, &news, &ending).await?;
                self.write(run, attempt, &news, &background, |_| verdict).await?
            }
            None => self.settle(run, attempt, &news, &ending).await?,
        };
        tracing::info!(%run, attempt, outcome = ?settled.outcome, effective = settled.effective, "settled a dead attempt");
        drop(lock);
        Ok(Finding::Settled)
    }

    /// Returns where a run stands.
    pub(crate) async fn state(&self, run: RunId) -> Result<RunState, Error> {
        let states = self.store.reader().states_of(&[run]).await?;
        states.into_iter().next().ok_or(Error::Unregistered { run })
    }

    /// Leaves what the events do not tell beside them. The database has it too: a failure here loses nothing by itself.
    fn write_verdict(&self, run: RunId, attempt: u32, verdict: &Verdict) {
        let path = self.home.verdict(run, attempt);
        let written =
            serde_json::to_vec(verdict).map_err(io::Error::from).and_then(|text| write_durably(&path, &text));
        if let Err(error) = written {
            tracing::warn!(path = %path.display(), %error, "the end of an attempt could not be written beside its events");
        }
    }

    fn judged_before(&self, run: RunId, attempt: u32) -> Option<Verdict> {
        let path = self.home.verdict(run, attempt);
        let text = fs::read(&path).ok()?;
        serde_json::from_slice(&text)
            .inspect_err(|error| tracing::warn!(path = %path.display(), %error, "not a verdict; judged anew"))
            .ok()
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

const fn is_checkpoint(record: &Record) -> bool {
    matches!(record.event, Event::CheckpointSaved { .. })
}

/// Returns whether an attempt's events tell its end as well, as its exit confirms.
fn goes_without_saying(verdict: &Verdict) -> bool {
    let expected = match verdict.outcome {
        verdict::Outcome::Succeeded => SUCCEEDED,
        verdict::Outcome::Interrupted { cause: None } => INTERRUPTED,
        _ => return false,
    };
    verdict.signal.is_none() && verdict.exit_code.is_none_or(|code| code == expected)
}

fn settlement(verdict: &Verdict, background: &Background) -> Settlement {
    let outcome = outcome(verdict);
    Settlement {
        log_tail: log_tail_for(&outcome, background),
        outcome,
        exit_code: verdict.exit_code,
        signal: verdict.signal,
        micro_batch_limit: verdict.micro_batch_limit,
    }
}

/// Returns what a verdict means for the attempt and its run.
pub(crate) fn outcome(verdict: &Verdict) -> Outcome {
    match &verdict.outcome {
        verdict::Outcome::Succeeded => Outcome::Succeeded,
        verdict::Outcome::Interrupted { .. } => Outcome::Interrupted,
        verdict::Outcome::Cancelled => Outcome::Cancelled,
        verdict::Outcome::Failed { cause: Cause { class, message }, retry } => {
            Outcome::Failed { failure: Failure { class: *class, message: message.clone() }, retry: *retry }
        }
    }
}

fn log_tail_for(outcome: &Outcome, background: &Background) -> Option<String> {
    if matches!(outcome, Outcome::Failed { .. }) { background.log_tail.clone() } else { None }
}

fn disk_full(verdict: Verdict) -> Option<String> {
    match verdict.outcome {
        verdict::Outcome::Interrupted { cause: Some(cause) } => Some(cause.message),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_end_that_its_events_tell_goes_without_saying() {
        let end = |outcome, exit_code, signal| Verdict {
            outcome,
            exit_code,
            signal,
            micro_batch_limit: None,
            ended_ms: 0,
        };
        let interrupted = || verdict::Outcome::Interrupted { cause: None };
        let cause = || Cause { class: FailureClass::DiskFull, message: String::new() };
        let told = [
            end(verdict::Outcome::Succeeded, Some(0), None),
            end(interrupted(), Some(76), None),
            end(interrupted(), None, None),
        ];
        let untold = [
            end(verdict::Outcome::Succeeded, Some(1), None),
            end(interrupted(), None, Some(9)),
            end(verdict::Outcome::Interrupted { cause: Some(cause()) }, Some(76), None),
            end(verdict::Outcome::Failed { cause: cause(), retry: true }, Some(0), None),
            end(verdict::Outcome::Cancelled, Some(76), None),
        ];
        assert!(told.iter().all(goes_without_saying));
        assert!(!untold.iter().any(goes_without_saying));
    }
}
