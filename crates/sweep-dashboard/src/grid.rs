//! The runs of a sweep as tables of cells: rows × columns, one table for each combination of what else varies, seeds folded.

use std::collections::{BTreeMap, BTreeSet};

use sweep_report::pivot::pivot;
use sweep_report::statistics::{Summary, summary};
use sweep_report::{Column, Key, Run, Runs, Value};
use sweep_store::Metric;

use crate::cell::Standing;

/// Tables that one page shows, at most.
pub(crate) const PANELS: usize = 60;
/// Cells that one page shows, at most.
pub(crate) const CELLS: usize = 6_000;

/// Tables over the same metric, with one scale of colours.
pub(crate) struct Grid<'a> {
    pub(crate) metric: Metric,
    pub(crate) row_keys: Vec<Key>,
    pub(crate) column_keys: Vec<Key>,
    pub(crate) panels: Vec<Panel<'a>>,
    /// Tables and cells that did not fit.
    pub(crate) left_out: usize,
    /// The least and the largest mean of the cells shown; `None` while nothing is measured.
    pub(crate) range: Option<(f64, f64)>,
}

/// One table.
pub(crate) struct Panel<'a> {
    /// What its runs have in common, beside what all runs have.
    pub(crate) names: Vec<(Key, Value)>,
    pub(crate) columns: Vec<Vec<Value>>,
    pub(crate) rows: Vec<(Vec<Value>, Vec<Cell<'a>>)>,
}

/// The runs of one row and column.
#[derive(Default)]
pub(crate) struct Cell<'a> {
    pub(crate) runs: Vec<&'a Run>,
    pub(crate) summary: Option<Summary>,
}

/// Numbers of values, one a key: where a run is on an axis.
type Place = Vec<u32>;

/// Returns what rows and columns are where nobody says: backbone and dataset as far as they vary, and else what varies.
pub(crate) fn usual_axes(runs: &Runs) -> (Vec<Key>, Vec<Key>) {
    let varying = runs.varying(&[]);
    let has = |name: &str| varying.iter().find(|key| key.name() == name).cloned();
    let first = [has(Key::BACKBONE), has(Key::DATASET)].into_iter().flatten();
    let order: Vec<Key> = first
        .clone()
        .chain(varying.iter().filter(|key| !first.clone().any(|one| one == **key)).cloned())
        .collect();
    let mut order = order.into_iter();
    let rows = order.next().unwrap_or_else(|| Key::new(Key::BACKBONE));
    let columns = order
        .next()
        .unwrap_or_else(|| Key::new(if rows.name() == Key::DATASET { Key::BACKBONE } else { Key::DATASET }));
    // Backbones are rows wherever they are an axis.
    if columns.name() == Key::BACKBONE { (vec![columns], vec![rows]) } else { (vec![rows], vec![columns]) }
}

impl<'a> Grid<'a> {
    /// Lays out runs by the first of their metrics.
    ///
    /// # Errors
    /// Keys that no run has.
    pub(crate) fn new(
        runs: &'a Runs,
        row_keys: Vec<Key>,
        column_keys: Vec<Key>,
    ) -> sweep_report::Result<Self> {
        let metric = runs.metrics().first().copied().unwrap_or(Metric::Robust);
        let (rows, columns) = (columns_of(runs, &row_keys)?, columns_of(runs, &column_keys)?);
        let others = columns_of(runs, &apart(runs, &row_keys, &column_keys)?)?;
        let mut members: BTreeMap<Place, BTreeMap<(Place, Place), Vec<&Run>>> = BTreeMap::new();
        for (index, run) in runs.runs().iter().enumerate() {
            let panel = members.entry(place(&others, index)).or_default();
            panel.entry((place(&rows, index), place(&columns, index))).or_default().push(run);
        }
        let total = members.len();
        let mut cells = 0;
        let mut panels: Vec<Panel<'a>> = Vec::new();
        for (names, members) in members {
            let panel = Panel::new(named(&others, &names), &rows, &columns, members);
            cells += panel.rows.len() * panel.columns.len();
            if !panels.is_empty() && (cells > CELLS || panels.len() == PANELS) {
                break;
            }
            panels.push(panel);
        }
        let means = || panels.iter().flat_map(Panel::means);
        let range = (means().next().is_some())
            .then(|| (means().fold(f64::INFINITY, f64::min), means().fold(f64::NEG_INFINITY, f64::max)));
        Ok(Self { metric, row_keys, column_keys, left_out: total - panels.len(), panels, range })
    }

    /// Returns where a mean is between the least and the largest, in [0, 1]; in the middle where they are the same.
    pub(crate) fn part(&self, mean: f64) -> f64 {
        match self.range {
            Some((least, most)) if most > least => (mean - least) / (most - least),
            _ => 0.5,
        }
    }

    /// Returns a number that changes when tables, rows or columns are others.
    pub(crate) fn shape(&self) -> u64 {
        let mut text = String::new();
        for panel in &self.panels {
            for value in panel.names.iter().map(|(_, value)| value).chain(panel.columns.iter().flatten()) {
                text.push_str(&format!("{value}\u{1}"));
            }
            for value in panel.rows.iter().flat_map(|(names, _)| names) {
                text.push_str(&format!("{value}\u{2}"));
            }
        }
        text.bytes().fold(self.panels.len() as u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3).rotate_left(5)
        })
    }
}

impl<'a> Panel<'a> {
    fn new(
        names: Vec<(Key, Value)>,
        row_columns: &[Column],
        column_columns: &[Column],
        mut members: BTreeMap<(Place, Place), Vec<&'a Run>>,
    ) -> Self {
        let row_places: BTreeSet<Place> = members.keys().map(|(row, _)| row.clone()).collect();
        let column_places: BTreeSet<Place> = members.keys().map(|(_, column)| column.clone()).collect();
        let values = |columns: &[Column], place: &Place| {
            named(columns, place).into_iter().map(|(_, value)| value).collect()
        };
        let mut row = |place: &Place| {
            let cell = |column: &Place| {
                Cell::new(members.remove(&(place.clone(), column.clone())).unwrap_or_default())
            };
            (values(row_columns, place), column_places.iter().map(cell).collect())
        };
        let rows = row_places.iter().map(&mut row).collect();
        Self {
            names,
            columns: column_places.iter().map(|place| values(column_columns, place)).collect(),
            rows,
        }
    }

    fn means(&self) -> impl Iterator<Item = f64> {
        let cells = self.rows.iter().flat_map(|(_, cells)| cells);
        cells.filter_map(|cell| cell.summary.map(|summary| summary.mean))
    }
}

impl<'a> Cell<'a> {
    fn new(runs: Vec<&'a Run>) -> Self {
        let values: Vec<f64> =
            runs.iter().filter_map(|run| Some(run.values.first()?.as_ref()?.value)).collect();
        Self { summary: summary(&values), runs }
    }

    /// Returns how many runs stand how, those first that ask for attention; those that have succeeded are left out.
    pub(crate) fn unfinished(&self) -> Vec<(Standing, usize)> {
        let count = |standing: Standing| self.runs.iter().filter(|run| Standing::of(run) == standing).count();
        let counts = Standing::ALL.map(|standing| (standing, count(standing)));
        counts
            .into_iter()
            .filter(|(standing, count)| *count > 0 && *standing != Standing::Succeeded)
            .collect()
    }

    /// Returns the most epochs that a run of it has done.
    pub(crate) fn epochs_done(&self) -> u32 {
        self.runs.iter().map(|run| run.epochs_done).max().unwrap_or(0)
    }
}

/// Returns what tells tables apart: the other main keys that vary, and whatever else would be mixed in a cell. A key that goes
/// with a row or a column, such as an input size that is the dataset's, needs no table of its own.
fn apart(runs: &Runs, row_keys: &[Key], column_keys: &[Key]) -> sweep_report::Result<Vec<Key>> {
    let main = [Key::TARGET_EPSILON, Key::EPSILON_SCHEDULE, Key::BACKBONE, Key::DATASET].map(Key::new);
    let is_apart = |key: &Key| !row_keys.contains(key) && !column_keys.contains(key);
    let varies = |key: &Key| runs.column(key).is_ok_and(|column| column.is_varying());
    let mut keys: Vec<Key> = main.into_iter().filter(|key| is_apart(key) && varies(key)).collect();
    let mixed = pivot(runs, &[row_keys, &keys].concat(), column_keys)?.mixed;
    keys.extend(mixed.into_iter().filter(is_apart));
    Ok(keys)
}

fn columns_of(runs: &Runs, keys: &[Key]) -> sweep_report::Result<Vec<Column>> {
    keys.iter().map(|key| runs.column(key)).collect()
}

fn place(columns: &[Column], run: usize) -> Place {
    columns.iter().map(|column| column.of[run]).collect()
}

fn named(columns: &[Column], place: &[u32]) -> Vec<(Key, Value)> {
    let value =
        |(column, value): (&Column, &u32)| (column.key.clone(), column.values[*value as usize].clone());
    columns.iter().zip(place).map(value).collect()
}
