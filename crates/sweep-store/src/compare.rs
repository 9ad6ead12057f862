//! What tables are made of: the runs of a sweep with their specifications, where they stand, and the numbers asked for.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};
use sqlx::sqlite::{Sqlite, SqliteRow};
use sqlx::{QueryBuilder, Row as _};
use sweep_core::epsilon::{Epsilon, ParseEpsilonError};
use sweep_core::event::FailureClass;
use sweep_core::metrics::Count;
use sweep_core::spec::RunId;

use crate::error::Result;
use crate::reader::Reader;
use crate::register::SweepId;
use crate::row;
use crate::state::State;

/// A number that runs are compared by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Metric {
    /// Accuracy without an attack, a fraction.
    Clean,
    /// Accuracy under attack at the target epsilon, a fraction.
    Robust,
    /// Accuracy under attack at this epsilon, a fraction.
    RobustAt(Epsilon),
    /// Area under accuracy over epsilon up to the target epsilon, a fraction.
    ExpectedRobustness,
    /// First epoch with validation clean accuracy above 5 %.
    Delay,
    /// The same against guessing, for few classes.
    DelayAboveChance,
    /// Clean accuracy of standard fine-tuning less the run's own, a fraction.
    CleanDrop,
    /// Clean accuracy on the validation split after the last epoch, a fraction.
    ValidationClean,
    /// Training time in seconds.
    TrainSeconds,
}

/// What a metric counts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A fraction of a split in [0, 1], or a difference of two; people read it in percent.
    Fraction,
    /// Epochs.
    Epochs,
    /// Seconds.
    Seconds,
}

/// Which weights are compared, and on which images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum At {
    /// Those of the last epoch, on the test split.
    #[default]
    Last,
    /// Those after this many epochs, from 1, on the validation split. Clean, robust (at the target epsilon) and
    /// training time are known then.
    Epoch(u32),
}

/// A text that names no metric.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnknownMetric {
    /// No such name.
    #[error("`{found}` is none of {}", known.join(", "))]
    Name {
        /// The text.
        found: String,
        /// What is accepted.
        known: Vec<String>,
    },
    /// What follows `robust@` is no epsilon.
    #[error("after `robust@`: {0}")]
    Epsilon(#[from] ParseEpsilonError),
}

/// A text that names no moment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is neither `last` nor `epoch:N` with a number from 1")]
pub struct UnknownMoment(String);

/// One number of one run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// In the metric's unit.
    pub value: f64,
    /// What was counted, where the number is an accuracy.
    pub count: Option<Count>,
}

/// A run as tables see it.
#[derive(Clone, Debug, PartialEq)]
pub struct MeasuredRun {
    /// The run.
    pub id: RunId,
    /// Where it stands.
    pub state: State,
    /// Why its latest attempt failed, if it did.
    pub failure: Option<FailureClass>,
    /// Whether it waits for a run that failed or was cancelled.
    pub blocked: bool,
    /// The run whose final model it starts from.
    pub depends_on: Option<RunId>,
    /// Epochs trained and validated so far.
    pub epochs_done: u32,
    /// Its specification as it was first registered: JSON.
    pub spec: String,
    /// One entry a metric asked for; `None` while it is not known.
    pub values: Vec<Option<Measured>>,
}

impl Metric {
    /// Every metric without a parameter.
    pub const PLAIN: [Self; 8] = [
        Self::Clean,
        Self::Robust,
        Self::ExpectedRobustness,
        Self::Delay,
        Self::DelayAboveChance,
        Self::CleanDrop,
        Self::ValidationClean,
        Self::TrainSeconds,
    ];

    /// Returns what it counts in.
    pub const fn unit(self) -> Unit {
        match self {
            Self::Clean
            | Self::Robust
            | Self::RobustAt(_)
            | Self::ExpectedRobustness
            | Self::CleanDrop
            | Self::ValidationClean => Unit::Fraction,
            Self::Delay | Self::DelayAboveChance => Unit::Epochs,
            Self::TrainSeconds => Unit::Seconds,
        }
    }

    /// Returns whether the larger of two numbers is the better one.
    pub const fn prefers_high(self) -> bool {
        match self {
            Self::Clean
            | Self::Robust
            | Self::RobustAt(_)
            | Self::ExpectedRobustness
            | Self::ValidationClean => true,
            Self::Delay | Self::DelayAboveChance | Self::CleanDrop | Self::TrainSeconds => false,
        }
    }

    /// Returns whether it is known for the weights of `at`.
    pub const fn is_known_at(self, at: At) -> bool {
        match at {
            At::Last => true,
            At::Epoch(_) => matches!(self, Self::Clean | Self::Robust | Self::TrainSeconds),
        }
    }

    /// Returns its name without the epsilon, which is that of its column in the view `results` where there is one.
    const fn name(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Robust | Self::RobustAt(_) => "robust",
            Self::ExpectedRobustness => "expected_robustness",
            Self::Delay => "delay",
            Self::DelayAboveChance => "delay_above_chance",
            Self::CleanDrop => "clean_drop",
            Self::ValidationClean => "validation_clean",
            Self::TrainSeconds => "train_seconds",
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RobustAt(epsilon) => formatter.pad(&format!("robust@{epsilon}")),
            plain => formatter.pad(plain.name()),
        }
    }
}

impl Serialize for Metric {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for Metric {
    type Err = UnknownMetric;

    fn from_str(text: &str) -> Result<Self, UnknownMetric> {
        if let Some(epsilon) = text.strip_prefix("robust@") {
            return Ok(Self::RobustAt(epsilon.parse()?));
        }
        Self::PLAIN.into_iter().find(|metric| metric.name() == text).ok_or_else(|| {
            let mut known: Vec<String> = Self::PLAIN.iter().map(ToString::to_string).collect();
            known.insert(2, "robust@EPSILON".to_owned());
            UnknownMetric::Name { found: text.to_owned(), known }
        })
    }
}

impl FromStr for At {
    type Err = UnknownMoment;

    fn from_str(text: &str) -> Result<Self, UnknownMoment> {
        let epoch = |text: &str| text.strip_prefix("epoch:")?.parse().ok().filter(|epoch| *epoch > 0);
        match text {
            "last" => Ok(Self::Last),
            other => epoch(other).map(Self::Epoch).ok_or_else(|| UnknownMoment(text.to_owned())),
        }
    }
}

impl Measured {
    fn of(correct: u32, total: u32) -> Self {
        let count = Count { correct, total };
        Self { value: count.accuracy(), count: Some(count) }
    }
}

impl Reader {
    /// Returns the runs of a sweep in the order of expansion, or all runs in the order of their ids, each with one
    /// number a metric, in the order asked for. Runs that others of them start from (pretraining) are left out.
    ///
    /// Only what is asked for is looked up: a metric costs a look at the measurements of every run. One that is not
    /// [known](Metric::is_known_at) at an epoch is `None` there.
    pub async fn measured(
        &self,
        sweep: Option<SweepId>,
        metrics: &[Metric],
        at: At,
    ) -> Result<Vec<MeasuredRun>> {
        let mut rows = statement(sweep, metrics, at);
        let rows = rows.build().fetch_all(self.pool()).await;
        let read = |rows: Vec<SqliteRow>| rows.iter().map(|row| measured_run(row, metrics, at)).collect();
        rows.and_then(read).map_err(self.failed("read runs to compare"))
    }
}

/// One row a run; what metric `i` needs is in the columns `value_i`, or `correct_i` and `total_i`.
fn statement(sweep: Option<SweepId>, metrics: &[Metric], at: At) -> QueryBuilder<Sqlite> {
    let mut sql = QueryBuilder::new(
        "SELECT v.id, v.state, v.failure_class, v.blocked, v.depends_on, p.spec,
            CASE v.state WHEN 'succeeded' THEN v.epochs ELSE v.epochs_done END AS epochs_done",
    );
    for (index, metric) in metrics.iter().enumerate() {
        sql.push(match accuracy(*metric, at) {
            Some(_) => format!(", a{index}.correct AS correct_{index}, a{index}.total AS total_{index}"),
            None => format!(", {} AS value_{index}", value(*metric, at)),
        });
    }
    match sweep {
        Some(_) => {
            sql.push(" FROM sweep_runs s JOIN results v ON v.id = s.run JOIN specs p ON p.run = s.run")
        }
        None => sql.push(" FROM results v JOIN specs p ON p.run = v.id"),
    };
    for (index, metric) in metrics.iter().enumerate() {
        if let Some(counts) = accuracy(*metric, at) {
            sql.push(format!(" LEFT JOIN {counts} a{index} ON a{index}.run = v.id"));
            restrict(&mut sql, &format!("a{index}"), *metric, at);
        }
    }
    match sweep {
        Some(SweepId(sweep)) => {
            // The join's order is fixed: the other way round it goes through all runs of the sweep for each of them.
            sql.push(
                " WHERE NOT EXISTS (SELECT 1 FROM runs d CROSS JOIN sweep_runs t
                    WHERE t.run = d.id AND d.depends_on = v.id AND t.sweep = s.sweep) AND s.sweep = ",
            );
            sql.push_bind(sweep).push(" ORDER BY s.position");
        }
        None => {
            sql.push(" WHERE NOT EXISTS (SELECT 1 FROM runs d WHERE d.depends_on = v.id) ORDER BY v.id");
        }
    }
    sql
}

/// Returns where the counts of an accuracy are, with columns `correct` and `total`.
const fn accuracy(metric: Metric, at: At) -> Option<&'static str> {
    match (metric, at) {
        (Metric::Clean | Metric::Robust | Metric::RobustAt(_), At::Last) => Some("evaluations"),
        (Metric::Clean, At::Epoch(_)) => {
            Some("(SELECT run, epoch, clean_correct AS correct, validation_total AS total FROM epochs)")
        }
        (Metric::Robust, At::Epoch(_)) => {
            Some("(SELECT run, epoch, robust_correct AS correct, validation_total AS total FROM epochs)")
        }
        _ => None,
    }
}

/// Adds what makes an accuracy's row the one that is meant: all columns of the primary key.
fn restrict(sql: &mut QueryBuilder<Sqlite>, alias: &str, metric: Metric, at: At) {
    if let At::Epoch(epoch) = at {
        sql.push(format!(" AND {alias}.epoch = ")).push_bind(i64::from(epoch) - 1);
        return;
    }
    sql.push(format!(
        " AND {alias}.epochs = v.epochs AND {alias}.split = 'test' AND {alias}.norm = v.evaluation_norm"
    ));
    let (attack, epsilon) = match metric {
        Metric::Robust => ("CASE v.target_epsilon WHEN '0' THEN 'none' ELSE v.evaluation_attack END", None),
        Metric::RobustAt(epsilon) if !epsilon.is_zero() => ("v.evaluation_attack", Some(epsilon)),
        _ => ("'none'", Some(Epsilon::ZERO)),
    };
    sql.push(format!(" AND {alias}.attack = {attack} AND {alias}.epsilon = "));
    match epsilon {
        Some(epsilon) => sql.push_bind(epsilon.to_string()),
        None => sql.push("v.target_epsilon"),
    };
}

/// Returns the expression of a metric that is no count.
fn value(metric: Metric, at: At) -> String {
    match (metric, at) {
        (Metric::TrainSeconds, At::Epoch(epoch)) => format!(
            "(SELECT CASE WHEN max(e.epoch) + 1 = {epoch} THEN sum(e.train_seconds) END FROM epochs e
              WHERE e.run = v.id AND e.epoch < {epoch})"
        ),
        (_, At::Epoch(_)) => "NULL".to_owned(),
        (metric, At::Last) => format!("v.{}", metric.name()),
    }
}

fn measured_run(row: &SqliteRow, metrics: &[Metric], at: At) -> sqlx::Result<MeasuredRun> {
    let failure: Option<&str> = row.try_get("failure_class")?;
    let number = |(index, metric): (usize, &Metric)| measured(row, index, *metric, at);
    Ok(MeasuredRun {
        id: row::run_id(row, "id")?,
        state: row.try_get("state")?,
        failure: failure.map(|class| row::label(class, "failure_class")).transpose()?,
        blocked: row.try_get("blocked")?,
        depends_on: row::optional_run_id(row, "depends_on")?,
        epochs_done: row.try_get("epochs_done")?,
        spec: row.try_get("spec")?,
        values: metrics.iter().enumerate().map(number).collect::<sqlx::Result<_>>()?,
    })
}

fn measured(row: &SqliteRow, index: usize, metric: Metric, at: At) -> sqlx::Result<Option<Measured>> {
    if accuracy(metric, at).is_some() {
        let correct: Option<u32> = row.try_get(format!("correct_{index}").as_str())?;
        let total: Option<u32> = row.try_get(format!("total_{index}").as_str())?;
        return Ok(correct.zip(total).map(|(correct, total)| Measured::of(correct, total)));
    }
    // Some are sums of integers, which SQLite returns as integers.
    let value: Option<f64> = row.try_get_unchecked(format!("value_{index}").as_str())?;
    Ok(value.map(|value| Measured { value, count: None }))
}
