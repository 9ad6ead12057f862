//! The results database: one SQLite file that holds every sweep, run, attempt and measurement.
//!
//! The only crate that contains SQL. [`Store`] is the single writer of a process (the scheduler's), [`Reader`] is what
//! everything else looks through; it opens the file read-only and cannot change it. The tables and the views that
//! researchers query (`results`, `curves`, `accuracy_over_epsilon`, `severity`, `gates`) are described in the migrations
//! at the top level of the repository, and with example queries in `VIEWS.md`. What a lost file is made again from lies
//! beside it: [`SweepFile`] remembers sweeps, event files everything else; a [`Replacement`] takes its place.
//!
//! What it does not do: it decides no policy (which run comes next, what is retried), reads no event files (callers
//! hand over parsed [`sweep_core::event::Record`]s), formats nothing, and reads the clock only in [`now_ms`].
//!
//! Every change is one `BEGIN IMMEDIATE` transaction, so that several schedulers can share a file: a claim either
//! takes a run or does not, and a settlement takes effect only while its attempt is still running.

mod attempts;
mod clock;
mod compare;
mod connection;
mod dashboard;
mod error;
mod evidence;
mod figures;
mod ingest;
mod insight;
mod measure;
mod mount;
mod query;
mod reader;
mod register;
mod replacement;
mod resolve;
mod results;
mod row;
mod state;
mod statement;
mod store;
mod submissions;
mod sweep_file;
mod upgrade;
mod views;

pub use attempts::{Attempt, Cancelled, DeviceUse, Outcome, Progress, Report, RunningAttempt, Settlement};
pub use clock::now_ms;
pub use compare::{At, Measured, MeasuredRun, Metric, Unit, UnknownMetric, UnknownMoment};
pub use dashboard::{News, Pace, Stage, Watch, Workers};
pub use error::{Candidate, Error, Result};
pub use evidence::{CheckpointRow, EpochRow, EvaluationRow, ModelRow, Provenance};
pub use figures::{AccuracyPoint, CurvePoint, Loaded, Origin};
pub use ingest::Ingested;
pub use insight::{Gate, Severity, SeverityPoint};
pub use measure::Measurement;
pub use query::{Cell, Limits, Table};
pub use reader::Reader;
pub use register::{Registered, SweepId, SweepRow};
pub use replacement::Replacement;
pub use results::ResultRow;
pub use state::{Failure, RunState, State};
pub use store::Store;
pub use submissions::{Adopted, Submission, Submitted};
pub use sweep_file::SweepFile;
pub use views::{Kind, Values, View, ViewColumn, ViewRows};
