//! What a grid came to, without anything that may differ between one way there and another.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context as _, Result};
use sweep_core::home::Home;
use sweep_core::spec::RunId;

use crate::program::{Printed, Program, Row, text};

/// Most differences that are told for one table.
const MOST_TOLD: usize = 5;
/// The tables that must not depend on interruptions, with the columns that name a row.
const TABLES: [(&str, &[&str]); 3] = [
    ("models", &["run"]),
    ("epochs", &["run", "epoch"]),
    ("evaluations", &["run", "epochs", "split", "attack", "norm", "epsilon"]),
];
/// Columns that say who did something, beside those that say when (`…_ms`) and how long it took (`…seconds`).
const WHO: [&str; 3] = ["attempt", "measurement", "trained_by"];

/// The rows of a table by name.
type Table = BTreeMap<String, Printed>;

/// All results of a grid, and the bytes of its models.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Outcome {
    tables: BTreeMap<&'static str, Table>,
    models: BTreeMap<RunId, Vec<u8>>,
}

impl Outcome {
    /// Reads the outcome of a grid that is complete.
    pub(crate) fn read(program: &Program, home: &Home) -> Result<Self> {
        let mut tables = BTreeMap::new();
        for (table, key) in TABLES {
            let rows = program.printed(home.root(), &format!("SELECT * FROM {table}"))?;
            tables.insert(table, rows.into_iter().map(|row| named(&row, key)).collect());
        }
        let models = program.query(home.root(), "SELECT run, file FROM models")?;
        let models = models.iter().map(|row| model(home, row)).collect::<Result<_>>()?;
        Ok(Self { tables, models })
    }

    /// Returns the runs that have a model.
    pub(crate) fn runs(&self) -> BTreeSet<RunId> {
        self.models.keys().copied().collect()
    }

    /// Returns the number of rows that are compared.
    pub(crate) fn rows(&self) -> usize {
        self.tables.values().map(BTreeMap::len).sum()
    }

    /// Returns in words where this outcome is not `expected`.
    pub(crate) fn differences(&self, expected: &Self) -> Vec<String> {
        let tables = TABLES
            .iter()
            .flat_map(|(table, _)| differences(table, &self.tables[table], &expected.tables[table]));
        let bytes = |outcome: &Self, run| outcome.models.get(run).cloned();
        let models = expected.models.keys().filter(|run| bytes(self, run) != bytes(expected, run));
        tables.chain(models.map(|run| format!("the model file of run {run} has other bytes"))).collect()
    }
}

/// Returns a row without what may differ, under its name.
fn named(row: &Printed, key: &[&str]) -> (String, Printed) {
    let name: Vec<String> = key.iter().map(|column| format!("{column} {}", value(row, column))).collect();
    let lasting =
        |column: &str| !WHO.contains(&column) && !column.ends_with("_ms") && !column.ends_with("seconds");
    let kept = row.iter().filter(|(column, _)| lasting(column));
    (name.join(", "), kept.map(|(column, value)| (column.clone(), value.clone())).collect())
}

fn value<'a>(row: &'a Printed, column: &str) -> &'a str {
    row.get(column).map_or("nothing", String::as_str)
}

fn model(home: &Home, row: &Row) -> Result<(RunId, Vec<u8>)> {
    let run = text(row, "run").parse().context("a run in `models` has no run id")?;
    let path = home.run(run).join(text(row, "file"));
    Ok((run, read(&path)?))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("the model `{}` cannot be read", path.display()))
}

fn differences(table: &str, found: &Table, expected: &Table) -> Vec<String> {
    let names: BTreeSet<&String> = found.keys().chain(expected.keys()).collect();
    let all: Vec<String> =
        names.into_iter().filter_map(|name| difference(name, found.get(name), expected.get(name))).collect();
    let more = all.len().saturating_sub(MOST_TOLD);
    let mut told: Vec<String> =
        all.into_iter().take(MOST_TOLD).map(|difference| format!("{table}: {difference}")).collect();
    if more > 0 {
        told.push(format!("{table}: {more} more rows differ"));
    }
    told
}

fn difference(name: &str, found: Option<&Printed>, expected: Option<&Printed>) -> Option<String> {
    match (found, expected) {
        (Some(found), Some(expected)) => {
            let column = expected
                .keys()
                .chain(found.keys())
                .find(|column| found.get(*column) != expected.get(*column))?;
            let (found, expected) = (value(found, column), value(expected, column));
            Some(format!("{name}: {column} is {found}, expected {expected}"))
        }
        (None, Some(_)) => Some(format!("{name}: is missing")),
        (Some(_), None) => Some(format!("{name}: nobody asked for it")),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW: [(&str, &str); 6] = [
        ("run", "a"),
        ("epoch", "0"),
        ("attempt", "1"),
        ("train_loss", "0.5"),
        ("train_seconds", "1"),
        ("finished_ms", "5"),
    ];

    fn table(rows: &[Printed]) -> Table {
        rows.iter().map(|row| named(row, &["run", "epoch"])).collect()
    }

    fn row() -> Printed {
        ROW.iter().map(|(column, value)| ((*column).to_owned(), (*value).to_owned())).collect()
    }

    /// What is told where a column has another value than expected.
    fn told(column: &str, value: &str) -> Vec<String> {
        let mut changed = row();
        changed.insert(column.to_owned(), value.to_owned());
        differences("epochs", &table(&[changed]), &table(&[row()]))
    }

    #[test]
    fn who_and_when_do_not_count_and_everything_else_does() {
        for (column, value) in
            [("attempt", "2"), ("train_seconds", "9"), ("finished_ms", "6"), ("trained_by", "b")]
        {
            assert_eq!(told(column, value), Vec::<String>::new(), "{column}");
        }
        assert_eq!(
            told("train_loss", "0.5000000000000001"),
            ["epochs: run a, epoch 0: train_loss is 0.5000000000000001, expected 0.5"]
        );
        assert_eq!(
            told("epoch", "1"),
            ["epochs: run a, epoch 0: is missing", "epochs: run a, epoch 1: nobody asked for it"]
        );
        assert_eq!(told("clean_loss", "1"), ["epochs: run a, epoch 0: clean_loss is 1, expected nothing"]);
    }

    #[test]
    fn only_the_first_differences_are_told() {
        let rows = |loss: &str| {
            let with_epoch = |epoch: u32| {
                let mut row = row();
                row.extend([
                    ("epoch".to_owned(), epoch.to_string()),
                    ("train_loss".to_owned(), loss.to_owned()),
                ]);
                row
            };
            table(&(0..9).map(with_epoch).collect::<Vec<_>>())
        };
        let told = differences("epochs", &rows("1"), &rows("2"));
        assert_eq!((told.len(), told[MOST_TOLD].as_str()), (MOST_TOLD + 1, "epochs: 4 more rows differ"));
    }
}
