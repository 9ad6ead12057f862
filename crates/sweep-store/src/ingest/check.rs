//! Which events can be.

use std::path::{Component, Path};

use sqlx::error::ErrorKind;
use sweep_core::event::{Event, Record};
use sweep_core::spec::RunId;

/// The result of storing one event.
pub(crate) type Stored<T> = Result<T, Trouble>;

/// Why an event is not stored.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// It cannot be: in words.
    Impossible(String),
    /// The database failed; the event may be all right.
    Failed(sqlx::Error),
}

impl From<sqlx::Error> for Trouble {
    /// What the tables themselves refuse is the event's fault. SQLite has undone the statement and nothing else.
    fn from(error: sqlx::Error) -> Self {
        let refused = error
            .as_database_error()
            .filter(|error| matches!(error.kind(), ErrorKind::CheckViolation | ErrorKind::NotNullViolation));
        match refused {
            Some(refused) => Self::Impossible(refused.message().to_owned()),
            None => Self::Failed(error),
        }
    }
}

/// Latest time that an event may have: the end of the year 9999, in milliseconds.
const LATEST_MS: i64 = 253_402_300_799_999;

/// Who wrote an event file.
pub(crate) struct Teller {
    run: RunId,
    /// 0 for a measurement, as its `Started` event says.
    attempt: u32,
    name: String,
}

impl Teller {
    pub(crate) fn attempt(run: RunId, attempt: u32) -> Self {
        Self { run, attempt, name: format!("attempt {attempt}") }
    }

    pub(crate) fn measurement(run: RunId, number: u32) -> Self {
        Self { run, attempt: 0, name: format!("measurement {number}") }
    }

    /// Returns why an event is refused, with its place.
    pub(crate) fn refuses(&self, record: &Record, reason: &str) -> String {
        let Self { run, name, .. } = self;
        format!("event {} of {name} of run {run} cannot be: {reason}", record.sequence)
    }
}

/// Checks what the tables do not, for a run with a budget of `epochs`; returns the sequence number as it is stored.
pub(crate) fn check(record: &Record, teller: &Teller, epochs: u32) -> Stored<i64> {
    if !(0..=LATEST_MS).contains(&record.time_ms) {
        return Err(Trouble::Impossible(format!("time_ms {} is no time", record.time_ms)));
    }
    let within = |what: &str, value: u32, most: u32| match value {
        value if value <= most => Ok(()),
        _ => impossible(format!("{what} {value} of a run of {epochs} epochs")),
    };
    match &record.event {
        Event::Started { run, attempt, .. } if (*run, *attempt) != (teller.run, teller.attempt) => {
            impossible(format!("it is of attempt {attempt} of run {run}"))?;
        }
        Event::Started { resumed_from, .. } => within("resumed_from", *resumed_from, epochs)?,
        Event::EpochFinished { epoch, epsilon, train_seconds, validation_seconds, .. } => {
            within("epoch", *epoch, epochs.saturating_sub(1))?;
            in_range("epsilon", *epsilon, 1.0)?;
            in_range("train_seconds", *train_seconds, f64::MAX)?;
            in_range("validation_seconds", *validation_seconds, f64::MAX)?;
        }
        Event::CheckpointSaved { epochs: trained, file, .. } => {
            within("epochs", *trained, epochs)?;
            inside(file)?;
        }
        Event::Evaluated { epochs: trained, seconds, .. } => {
            within("epochs", *trained, epochs)?;
            in_range("seconds", *seconds, f64::MAX)?;
        }
        Event::ModelSaved { file, .. } => inside(file)?,
        Event::DeviceUsed { utilization, .. } => in_range("utilization", *utilization, 1.0)?,
        _ => {}
    }
    signed("sequence", record.sequence)
}

/// Converts a number for SQLite, whose integers are signed.
pub(crate) fn signed(what: &'static str, value: u64) -> Stored<i64> {
    i64::try_from(value).or_else(|_| impossible(format!("{what} {value} is larger than 2^63 - 1")))
}

fn in_range(what: &str, value: f64, most: f64) -> Stored<()> {
    if (0.0..=most).contains(&value) { Ok(()) } else { impossible(format!("{what} {value} is out of range")) }
}

/// Files are named relative to the home or the run's folder and lie in it.
fn inside(file: &str) -> Stored<()> {
    let is_inside = Path::new(file).components().all(|part| matches!(part, Component::Normal(_)));
    if is_inside && !file.is_empty() { Ok(()) } else { impossible(format!("file `{file}` lies elsewhere")) }
}

fn impossible<T>(reason: String) -> Stored<T> {
    Err(Trouble::Impossible(reason))
}
