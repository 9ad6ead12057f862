//! The views as they leave the program: their columns with types, and every row.

use std::future::poll_fn;

use sqlx::sqlite::{Sqlite, SqliteRow};
use sqlx::{QueryBuilder, Row as _};

use crate::error::Result;
use crate::reader::Reader;
use crate::register::SweepId;

/// A view or table that can be exported. `VIEWS.md` in this crate's folder says what each column means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum View {
    /// A run: what it is, where it stands, what came out.
    Results,
    /// An epoch of a run.
    Curves,
    /// A test point of a run.
    AccuracyOverEpsilon,
    /// A run's delay and drop against standard fine-tuning.
    Severity,
    /// A check of a run's numbers.
    Gates,
    /// An execution of a run by a worker.
    Attempts,
    /// An accuracy measured on a complete split: also other attacks, splits and weights than those of the test points.
    Evaluations,
    /// What an attempt really loaded.
    Provenance,
}

/// What the values of a column are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A text.
    Text,
    /// A whole number.
    Integer,
    /// A floating point number.
    Real,
    /// Yes or no.
    Flag,
    /// A moment in milliseconds since 1970-01-01 UTC.
    Moment,
}

/// A column of a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ViewColumn {
    /// Its name.
    pub name: &'static str,
    /// What its values are.
    pub kind: Kind,
    /// Whether a row may have no value.
    pub is_optional: bool,
}

/// The values of a column, one a row.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Of [`Kind::Text`].
    Text(Vec<Option<String>>),
    /// Of [`Kind::Integer`] and [`Kind::Moment`].
    Integer(Vec<Option<i64>>),
    /// Of [`Kind::Real`]: finite.
    Real(Vec<Option<f64>>),
    /// Of [`Kind::Flag`].
    Flag(Vec<Option<bool>>),
}

/// Every row of a view, by columns.
#[derive(Clone, Debug, PartialEq)]
pub struct ViewRows {
    /// The view.
    pub view: View,
    /// Number of rows.
    pub count: usize,
    /// The values of each of [`View::columns`], in that order.
    pub values: Vec<Values>,
}

const fn column(name: &'static str, kind: Kind) -> ViewColumn {
    ViewColumn { name, kind, is_optional: false }
}

const fn text(name: &'static str) -> ViewColumn {
    column(name, Kind::Text)
}

const fn integer(name: &'static str) -> ViewColumn {
    column(name, Kind::Integer)
}

const fn real(name: &'static str) -> ViewColumn {
    column(name, Kind::Real)
}

const fn flag(name: &'static str) -> ViewColumn {
    column(name, Kind::Flag)
}

const fn moment(name: &'static str) -> ViewColumn {
    column(name, Kind::Moment)
}

impl ViewColumn {
    const fn or_null(self) -> Self {
        Self { is_optional: true, ..self }
    }
}

const RESULTS: &[ViewColumn] = &[
    text("id"),
    text("short_id"),
    text("backbone"),
    text("dataset"),
    integer("input_size"),
    text("target_epsilon"),
    real("target_epsilon_value"),
    text("epsilon_schedule"),
    text("epsilon_schedule_kind"),
    integer("seed"),
    integer("epochs"),
    integer("batch_size"),
    text("optimizer"),
    real("learning_rate"),
    text("evaluation_attack"),
    text("evaluation_norm"),
    text("state"),
    text("failure_class").or_null(),
    text("failure_message").or_null(),
    integer("attempts"),
    flag("blocked"),
    integer("epochs_done"),
    real("clean").or_null(),
    real("robust").or_null(),
    real("expected_robustness").or_null(),
    real("validation_clean").or_null(),
    integer("delay").or_null(),
    integer("delay_above_chance").or_null(),
    real("standard_clean").or_null(),
    real("clean_drop").or_null(),
    real("train_seconds").or_null(),
    integer("shared_epochs"),
    integer("test_total").or_null(),
    text("training_id"),
    text("depends_on").or_null(),
    moment("created_ms"),
    moment("updated_ms"),
];

const CURVES: &[ViewColumn] = &[
    text("id"),
    text("short_id"),
    text("backbone"),
    text("dataset"),
    text("target_epsilon"),
    text("epsilon_schedule"),
    integer("seed"),
    integer("epoch"),
    real("epsilon"),
    real("learning_rate").or_null(),
    real("train_loss").or_null(),
    real("train_accuracy").or_null(),
    real("clean_loss").or_null(),
    real("clean_accuracy").or_null(),
    real("robust_loss").or_null(),
    real("robust_accuracy").or_null(),
    real("train_seconds"),
    real("validation_seconds"),
    text("trained_by").or_null(),
];

const ACCURACY_OVER_EPSILON: &[ViewColumn] = &[
    text("id"),
    text("short_id"),
    text("backbone"),
    text("dataset"),
    text("target_epsilon"),
    text("epsilon_schedule"),
    integer("seed"),
    text("attack"),
    text("norm"),
    text("epsilon"),
    real("epsilon_value"),
    integer("correct"),
    integer("total"),
    real("accuracy").or_null(),
];

const SEVERITY: &[ViewColumn] = &[
    text("series"),
    text("backbone"),
    text("dataset"),
    text("epsilon_schedule"),
    integer("seed"),
    text("id"),
    text("target_epsilon"),
    real("target_epsilon_value"),
    integer("delay").or_null(),
    integer("delay_above_chance").or_null(),
    real("validation_clean").or_null(),
    real("clean").or_null(),
    real("clean_drop").or_null(),
];

const GATES: &[ViewColumn] =
    &[text("id"), text("short_id"), text("gate"), flag("passed").or_null(), text("violations").or_null()];

const ATTEMPTS: &[ViewColumn] = &[
    text("run"),
    integer("number"),
    text("state"),
    text("scheduler"),
    moment("started_ms"),
    moment("ended_ms").or_null(),
    text("host").or_null(),
    integer("pid").or_null(),
    text("device").or_null(),
    integer("threads").or_null(),
    text("version").or_null(),
    integer("resumed_from").or_null(),
    text("resumed_run").or_null(),
    integer("micro_batch_size").or_null(),
    integer("device_memory_bytes").or_null(),
    integer("device_memory_total_bytes").or_null(),
    real("device_utilization").or_null(),
    text("reported").or_null(),
    integer("exit_code").or_null(),
    integer("signal").or_null(),
    text("failure_class").or_null(),
    text("failure_message").or_null(),
    text("log_tail").or_null(),
    text("progress_phase").or_null(),
    integer("progress_epoch").or_null(),
    integer("progress_step").or_null(),
    integer("progress_steps").or_null(),
    moment("progress_ms").or_null(),
    moment("heard_ms").or_null(),
    text("refused").or_null(),
];

const EVALUATIONS: &[ViewColumn] = &[
    text("run"),
    integer("epochs"),
    text("split"),
    text("attack"),
    text("norm"),
    text("epsilon"),
    real("epsilon_value"),
    integer("correct"),
    integer("total"),
    real("seconds"),
    integer("attempt").or_null(),
    integer("measurement").or_null(),
    text("model_digest").or_null(),
];

const PROVENANCE: &[ViewColumn] = &[
    text("run"),
    integer("attempt"),
    text("dataset_digest"),
    text("weights_digest").or_null(),
    integer("classes"),
    integer("train"),
    integer("validation"),
    integer("test"),
    integer("parameters"),
    integer("skipped"),
];

impl View {
    /// Every one of them.
    pub const ALL: [Self; 8] = [
        Self::Results,
        Self::Curves,
        Self::AccuracyOverEpsilon,
        Self::Severity,
        Self::Gates,
        Self::Attempts,
        Self::Evaluations,
        Self::Provenance,
    ];

    /// Returns its name in the database.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Results => "results",
            Self::Curves => "curves",
            Self::AccuracyOverEpsilon => "accuracy_over_epsilon",
            Self::Severity => "severity",
            Self::Gates => "gates",
            Self::Attempts => "attempts",
            Self::Evaluations => "evaluations",
            Self::Provenance => "provenance",
        }
    }

    /// Returns its columns: all but those that only the program's own book-keeping needs.
    pub const fn columns(self) -> &'static [ViewColumn] {
        match self {
            Self::Results => RESULTS,
            Self::Curves => CURVES,
            Self::AccuracyOverEpsilon => ACCURACY_OVER_EPSILON,
            Self::Severity => SEVERITY,
            Self::Gates => GATES,
            Self::Attempts => ATTEMPTS,
            Self::Evaluations => EVALUATIONS,
            Self::Provenance => PROVENANCE,
        }
    }

    /// Returns the column with the run's id, and what orders the rows of one run.
    const fn order(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::Results => ("id", &[]),
            Self::Curves => ("id", &["epoch"]),
            Self::AccuracyOverEpsilon => ("id", &["epsilon_value", "attack"]),
            Self::Severity => ("id", &["series"]),
            Self::Gates => ("id", &["gate"]),
            Self::Attempts => ("run", &["number"]),
            Self::Evaluations => ("run", &["epochs", "split", "norm", "epsilon_value", "attack"]),
            Self::Provenance => ("run", &["attempt"]),
        }
    }
}

impl Values {
    fn of(kind: Kind) -> Self {
        match kind {
            Kind::Text => Self::Text(Vec::new()),
            Kind::Integer | Kind::Moment => Self::Integer(Vec::new()),
            Kind::Real => Self::Real(Vec::new()),
            Kind::Flag => Self::Flag(Vec::new()),
        }
    }

    fn push(&mut self, row: &SqliteRow, place: usize) -> sqlx::Result<()> {
        match self {
            Self::Text(values) => values.push(row.try_get(place)?),
            Self::Integer(values) => values.push(row.try_get(place)?),
            // A sum of whole numbers comes as one.
            Self::Real(values) => values.push(row.try_get_unchecked(place)?),
            Self::Flag(values) => values.push(row.try_get(place)?),
        }
        Ok(())
    }
}

impl Reader {
    /// Returns every row of a view: of a sweep's runs in the order of expansion, or of all runs in the order of their ids.
    pub async fn view(&self, view: View, sweep: Option<SweepId>) -> Result<ViewRows> {
        let rows = self.by_columns(view, statement(view, sweep)).await;
        rows.map_err(self.failed("read a view"))
    }

    /// Takes rows apart while they come: half a million of them would not all fit the memory.
    async fn by_columns(&self, view: View, mut statement: QueryBuilder<Sqlite>) -> sqlx::Result<ViewRows> {
        let mut values: Vec<Values> = view.columns().iter().map(|column| Values::of(column.kind)).collect();
        let mut count = 0;
        let mut rows = statement.build().fetch(self.pool());
        while let Some(row) = poll_fn(|context| rows.as_mut().poll_next(context)).await.transpose()? {
            for (place, values) in values.iter_mut().enumerate() {
                values.push(&row, place)?;
            }
            count += 1;
        }
        Ok(ViewRows { view, count, values })
    }
}

fn statement(view: View, sweep: Option<SweepId>) -> QueryBuilder<Sqlite> {
    let columns: Vec<String> = view.columns().iter().map(|column| format!("v.{}", column.name)).collect();
    let (run, within) = view.order();
    let within = within.iter().fold(String::new(), |text, column| format!("{text}, v.{column}"));
    let mut sql = QueryBuilder::new(format!("SELECT {} FROM {} v", columns.join(", "), view.name()));
    match sweep {
        Some(SweepId(sweep)) => {
            sql.push(format!(" JOIN sweep_runs s ON s.run = v.{run} WHERE s.sweep = ")).push_bind(sweep);
            sql.push(format!(" ORDER BY s.position{within}"));
        }
        None => drop(sql.push(format!(" ORDER BY v.{run}{within}"))),
    }
    sql
}
