//! The table of a paper: a row a configuration, accuracies under every schedule side by side.

use std::collections::HashSet;

use sweep_core::spec::RunId;

use super::link;
use super::runs::LISTED;
use super::table::{Cell, Heading, Table};
use crate::fold::{Spread, distinct, grouped};
use crate::material::{Material, Run, one_a_seed};

/// Schedules that stand side by side, at most; more stand below each other.
const SIDE_BY_SIDE: usize = 4;
/// Rows, at most.
const ROWS: usize = 600;

/// What is shown of every cell.
struct Metric {
    name: &'static str,
    of: fn(&Run) -> Option<f64>,
}

const METRICS: [Metric; 3] = [
    Metric { name: "clean", of: |run| run.result.clean },
    Metric { name: "robust", of: |run| run.result.robust },
    Metric { name: "expected", of: |run| run.result.expected_robustness },
];

/// Columns under one heading: the metrics of a schedule.
struct Block {
    heading: String,
    metrics: &'static [Metric],
    /// `None` takes every robust run of the row.
    schedule: Option<String>,
}

/// The runs of a row: of one configuration.
type Row<'a> = (Vec<String>, Vec<&'a Run>);

/// Returns the table with what must be known to read it.
pub(super) fn table(material: &Material) -> String {
    if material.compared().all(|run| run.result.clean.is_none()) {
        return "<p>No run has results yet.</p>\n".to_owned();
    }
    let robust: Vec<&Run> = material.compared().filter(|run| !run.is_standard).collect();
    let standard: Vec<&Run> = material.compared().filter(|run| run.is_standard).collect();
    let schedules = distinct(robust.iter().map(|run| run.schedule().to_owned()));
    let is_long = schedules.len() > SIDE_BY_SIDE;
    let blocks = blocks(&schedules, is_long, !standard.is_empty());
    let mut rows = rows(if robust.is_empty() { &standard } else { &robust }, is_long);
    for (_, runs) in &mut rows {
        if robust.is_empty() {
            *runs = one_a_seed(runs.drain(..));
        } else {
            runs.extend(material.standard_of(runs[0]));
        }
    }
    let listed: HashSet<RunId> = material.runs.iter().take(LISTED).map(|run| run.result.id).collect();
    let mut table = head(&blocks, is_long);
    let total = rows.len();
    table.rows = rows.iter().take(ROWS).map(|row| written(row, &blocks, &listed)).collect();
    if total > 1 {
        table.footer = vec![means(&rows, &blocks, if is_long { 4 } else { 3 })];
    }
    let mut html = table.written();
    html.push_str(&format!("<p class=\"note\">{}.</p>\n", seeds(&rows, &blocks)));
    html.push_str(
        "<p class=\"note\">Accuracies in % of the test split. Robust: under attack at the target epsilon. Expected: expected \
         robustness, the area under accuracy over the radius up to the target, divided by the target. ± is the sample standard \
         deviation over the seeds. Bold: the best of a row. Mean: over the rows that are complete. Every number leads to the \
         (first) run behind it.</p>\n",
    );
    if total > ROWS {
        html.push_str(&format!(
            "<p class=\"note\">The first {ROWS} of {total} rows; <code>sweep compare</code> prints them all.</p>\n"
        ));
    }
    html
}

fn blocks(schedules: &[String], is_long: bool, has_standard: bool) -> Vec<Block> {
    let block = |schedule: &String| Block {
        heading: schedule.clone(),
        metrics: &METRICS,
        schedule: Some(schedule.clone()),
    };
    let mut blocks: Vec<Block> = if is_long {
        vec![Block { heading: "under attack".to_owned(), metrics: &METRICS, schedule: None }]
    } else {
        schedules.iter().map(block).collect()
    };
    if has_standard {
        let heading = "standard fine-tuning".to_owned();
        blocks.push(Block { heading, metrics: &METRICS[..1], schedule: Some("standard".to_owned()) });
    }
    blocks
}

fn rows<'a>(runs: &[&'a Run], is_long: bool) -> Vec<Row<'a>> {
    let key = |run: &&Run| {
        let mut key = vec![run.result.target_epsilon.to_string(), run.subject(), run.result.dataset.clone()];
        if is_long {
            key.push(run.schedule().to_owned());
        }
        key
    };
    let mut rows = grouped(runs.iter().copied(), key);
    rows.sort_by_key(|(_, runs)| runs[0].result.target_epsilon);
    rows
}

fn head(blocks: &[Block], is_long: bool) -> Table {
    let keys: &[&str] = if is_long {
        &["target epsilon", "backbone", "dataset", "schedule"]
    } else {
        &["target epsilon", "backbone", "dataset"]
    };
    let mut table = Table::new(keys);
    table.above.push(Heading { text: String::new(), columns: keys.len() });
    for block in blocks {
        table.above.push(Heading { text: block.heading.clone(), columns: block.metrics.len() });
        table.columns.extend(block.metrics.iter().map(|metric| metric.name.to_owned()));
    }
    table
}

/// Returns the runs of a block's cell.
fn of_block<'a>((_, runs): &Row<'a>, block: &Block) -> Vec<&'a Run> {
    let fits = |run: &&&Run| match &block.schedule {
        Some(schedule) => run.schedule() == schedule,
        None => !run.is_standard,
    };
    runs.iter().filter(fits).copied().collect()
}

fn written(row: &Row<'_>, blocks: &[Block], listed: &HashSet<RunId>) -> Vec<Cell> {
    let mut cells: Vec<Cell> = row.0.iter().map(|key| Cell::text(key)).collect();
    for block in blocks {
        for metric in block.metrics {
            let best = best(row, blocks, metric);
            cells.push(cell(&of_block(row, block), metric, best, listed));
        }
    }
    cells
}

/// Returns the largest mean of a row that several schedules share; `None` where there is nothing to compare.
fn best(row: &Row<'_>, blocks: &[Block], metric: &Metric) -> Option<f64> {
    let robust = blocks.iter().filter(|block| block.metrics.len() > 1);
    let means: Vec<f64> =
        robust.filter_map(|block| spread(&of_block(row, block), metric)).map(|one| one.mean).collect();
    (means.len() > 1).then(|| means.into_iter().fold(0.0, f64::max))
}

fn spread(runs: &[&Run], metric: &Metric) -> Option<Spread> {
    Spread::of(runs.iter().filter_map(|run| (metric.of)(run)))
}

fn cell(runs: &[&Run], metric: &Metric, best: Option<f64>, listed: &HashSet<RunId>) -> Cell {
    let Some(spread) = spread(runs, metric) else {
        let state = runs.first().map_or("", |run| run.result.state.label());
        return Cell::empty().with_hint(state.to_owned());
    };
    let mut text = format!("{:.2}", spread.mean * 100.0);
    let is_standard = runs.iter().all(|run| run.is_standard);
    if !is_standard && best == Some(spread.mean) {
        text = format!("<b>{text}</b>");
    }
    if spread.n > 1 {
        text.push_str(&format!(" ± {:.2}", spread.deviation * 100.0));
    }
    if spread.n < runs.len() {
        text.push_str(&format!(" <small>({} of {})</small>", spread.n, runs.len()));
    }
    let measured = runs.iter().filter(|run| (metric.of)(run).is_some());
    let ids: Vec<String> =
        measured.clone().map(|run| format!("seed {}: {}", run.result.seed, run.result.id.short())).collect();
    let first = measured.map(|run| run.result.id).next();
    let html = first.map_or_else(|| text.clone(), |run| link(run, &text, listed.contains(&run)));
    Cell::number(html).with_hint(ids.join(", "))
}

/// Says how many runs a number is the mean of.
fn seeds(rows: &[Row<'_>], blocks: &[Block]) -> String {
    let cells = rows
        .iter()
        .flat_map(|row| blocks.iter().filter_map(|block| spread(&of_block(row, block), &METRICS[0])));
    let counts: Vec<usize> = cells.map(|spread| spread.n).collect();
    match (counts.iter().min(), counts.iter().max()) {
        (Some(1), Some(1)) => "One seed a number".to_owned(),
        (Some(fewest), Some(most)) if fewest == most => format!("Means over {most} seeds"),
        (Some(fewest), Some(most)) => format!("Means over {fewest} to {most} seeds"),
        _ => "No results yet".to_owned(),
    }
}

/// Returns the mean of every column over the rows that have all of them.
fn means(rows: &[Row<'_>], blocks: &[Block], keys: usize) -> Vec<Cell> {
    let all = |row: &Row<'_>| {
        let values = blocks.iter().flat_map(|block| {
            block.metrics.iter().map(|metric| spread(&of_block(row, block), metric).map(|spread| spread.mean))
        });
        values.collect::<Option<Vec<f64>>>()
    };
    let complete: Vec<Vec<f64>> = rows.iter().filter_map(all).collect();
    let mut cells = vec![Cell::html(format!("mean <small>({} rows)</small>", complete.len()))];
    cells.resize_with(keys, || Cell::html(String::new()));
    let columns = blocks.iter().map(|block| block.metrics.len()).sum::<usize>();
    for column in 0..columns {
        let mean = Spread::of(complete.iter().map(|values| values[column] * 100.0));
        cells.push(mean.map_or_else(Cell::empty, |mean| Cell::number(format!("{:.2}", mean.mean))));
    }
    cells
}
