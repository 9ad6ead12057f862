//! The views `gates` and `severity` as types.

use std::collections::BTreeMap;

use serde::Serialize;
use sqlx::sqlite::SqliteRow;
use sqlx::{FromRow, Row as _};
use sweep_core::epsilon::Epsilon;
use sweep_core::metrics::pearson;
use sweep_core::spec::RunId;

use crate::error::Result;
use crate::reader::Reader;
use crate::register::SweepId;
use crate::row;

/// A check that a run's accuracy over epsilon must pass; the migrations say which there are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Gate {
    /// The run.
    pub run: RunId,
    /// Name of the check, such as `monotone`.
    pub gate: String,
    /// `None` where there is nothing to check yet.
    pub passed: Option<bool>,
    /// The radii that fail, separated by commas.
    pub violations: Option<String>,
}

/// One point of the paper's Figure 9.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SeverityPoint {
    /// The target epsilon; 0 for standard fine-tuning.
    pub target_epsilon: Epsilon,
    /// See [`sweep_core::metrics::delay`].
    pub delay: Option<u32>,
    /// Clean accuracy on the validation split after the last epoch.
    pub validation_clean: Option<f64>,
    /// Clean test accuracy of standard fine-tuning less the run's own.
    pub clean_drop: Option<f64>,
}

/// A robust recipe over its target epsilons, with standard fine-tuning at 0 where it is there.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Severity {
    /// Name of the backbone.
    pub backbone: String,
    /// Name of the dataset.
    pub dataset: String,
    /// The schedule's label.
    pub epsilon_schedule: String,
    /// Seed of everything random.
    pub seed: u64,
    /// By target epsilon.
    pub points: Vec<SeverityPoint>,
    /// Pearson's correlation of delay and final validation accuracy (paper, Figure 9: near -1 where adaptation that begins
    /// late ends low); `None` for fewer than two points, or where one side is constant.
    pub correlation: Option<f64>,
}

impl Reader {
    /// Returns the checks of a run, by name; none while nothing is measured.
    pub async fn gates_of(&self, run: RunId) -> Result<Vec<Gate>> {
        sqlx::query_as("SELECT id, gate, passed, violations FROM gates WHERE id = ? ORDER BY gate")
            .bind(run.to_string())
            .fetch_all(self.pool())
            .await
            .map_err(self.failed("check the numbers of a run"))
    }

    /// Returns the checks that runs of a sweep do not pass, in the order of expansion.
    pub async fn failed_gates(&self, sweep: SweepId) -> Result<Vec<Gate>> {
        sqlx::query_as(
            "SELECT g.id, g.gate, g.passed, g.violations FROM sweep_runs s JOIN gates g ON g.id = s.run
             WHERE s.sweep = ? AND g.passed = 0 ORDER BY s.position, g.gate",
        )
        .bind(sweep.0)
        .fetch_all(self.pool())
        .await
        .map_err(self.failed("check the numbers of a sweep"))
    }

    /// Returns delay and severity of every finished robust recipe, of all sweeps, by backbone, dataset, schedule and seed.
    pub async fn severity(&self) -> Result<Vec<Severity>> {
        let rows: Vec<SeverityRow> = sqlx::query_as(
            "SELECT * FROM severity ORDER BY backbone, dataset, epsilon_schedule, seed, series, target_epsilon_value",
        )
        .fetch_all(self.pool())
        .await
        .map_err(self.failed("read delay and severity"))?;
        let mut order: Vec<Severity> = Vec::new();
        let mut places = BTreeMap::new();
        for SeverityRow { series, head, point } in rows {
            let place = *places.entry(series).or_insert_with(|| {
                order.push(head);
                order.len() - 1
            });
            order[place].points.push(point);
        }
        for severity in &mut order {
            severity.correlation = correlation(&severity.points);
        }
        Ok(order)
    }
}

fn correlation(points: &[SeverityPoint]) -> Option<f64> {
    let pair = |point: &SeverityPoint| Some((f64::from(point.delay?), point.validation_clean?));
    let pairs: Option<Vec<(f64, f64)>> = points.iter().map(pair).collect();
    pearson(&pairs?)
}

/// A row of the view.
struct SeverityRow {
    series: String,
    head: Severity,
    point: SeverityPoint,
}

impl FromRow<'_, SqliteRow> for SeverityRow {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        let head = Severity {
            backbone: row.try_get("backbone")?,
            dataset: row.try_get("dataset")?,
            epsilon_schedule: row.try_get("epsilon_schedule")?,
            seed: row::unsigned(row, "seed")?,
            points: Vec::new(),
            correlation: None,
        };
        let point = SeverityPoint {
            target_epsilon: row::parse(row.try_get("target_epsilon")?, "target_epsilon")?,
            delay: row.try_get("delay")?,
            validation_clean: row.try_get("validation_clean")?,
            clean_drop: row.try_get("clean_drop")?,
        };
        Ok(Self { series: row.try_get("series")?, head, point })
    }
}

impl FromRow<'_, SqliteRow> for Gate {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        Ok(Self {
            run: row::run_id(row, "id")?,
            gate: row.try_get("gate")?,
            passed: row.try_get("passed")?,
            violations: row.try_get("violations")?,
        })
    }
}
