//! Schedules against each other: runs that are equal in everything else, in pairs.

use super::table::{Cell, Table};
use crate::error::Result;
use crate::escape::escape;
use crate::key::{Key, Value};
use crate::material::Material;
use crate::pairs::{Comparison, Pairing, Seeds, pairs};
use crate::runs::Runs;

/// Schedules that are compared with the first one, at most.
const OTHERS: usize = 6;

const NOTE: &str = "<p class=\"note\">A pair: two configurations that are equal in everything but the schedule, each the mean \
    over the seeds that both have, in % of the test split; difference: second less first, in points; wins: the second is \
    better. t: paired t-test; W: Wilcoxon's signed-rank test; p: two-sided, not corrected for several tests. \
    <code>sweep compare --pair</code> pairs by any key and lists every pair.</p>\n";

/// Returns a table for every schedule beside the one that is the measure of the others: fixed epsilon where it is there.
pub(super) fn tables(material: &Material) -> String {
    let schedules = schedules(&material.table);
    let Some(measure) = schedules.iter().find(|name| *name == "fixed").or(schedules.first()) else {
        return "<p>Every run has the same schedule.</p>\n".to_owned();
    };
    let others: Vec<&String> = schedules.iter().filter(|name| *name != measure).collect();
    if others.is_empty() {
        return "<p>Every run under attack has the same schedule.</p>\n".to_owned();
    }
    let mut html = String::new();
    for other in others.iter().take(OTHERS) {
        let (first, second) = (escape(measure), escape(other));
        html.push_str(&format!("<h3>{first}, then {second}</h3>\n"));
        // A schedule that cannot be paired says so in its place; the others are still worth reading.
        html.push_str(&match table(&material.table, measure, other) {
            Ok(table) => table.written(),
            Err(error) => format!("<p>{}</p>\n", escape(&error.to_string())),
        });
    }
    if others.len() > OTHERS {
        html.push_str(&format!("<p class=\"note\">The first {OTHERS} of {} schedules.</p>\n", others.len()));
    }
    html + NOTE
}

/// Returns the schedules that have an attack.
fn schedules(runs: &Runs) -> Vec<String> {
    let column = runs.column(&Key::new(Key::EPSILON_SCHEDULE));
    let values = column.map_or_else(|_| Vec::new(), |column| column.values);
    values.iter().map(Value::to_string).filter(|name| name != "none").collect()
}

fn table(runs: &Runs, first: &str, second: &str) -> Result<Table> {
    let pairing = Pairing::new(Key::new(Key::EPSILON_SCHEDULE), first, second);
    let pairs = pairs(runs, &pairing, &[Key::new(Key::TARGET_EPSILON)], Seeds::Folded)?;
    let columns = [
        "target epsilon",
        "of",
        "pairs",
        first,
        second,
        "difference",
        "wins, losses, ties",
        "t",
        "p",
        "W",
        "p (W)",
    ];
    let mut table = Table::new(&columns);
    table.rows = pairs.comparisons().iter().filter(|one| one.difference.is_some()).map(row).collect();
    Ok(table)
}

fn row(comparison: &Comparison) -> Vec<Cell> {
    let percent = |value: Option<f64>| number(value.map(|value| format!("{:.2}", value * 100.0)));
    let Comparison { metric, difference, wins, losses, ties, t_test, wilcoxon, .. } = comparison;
    let spread = difference.map(|difference| {
        let deviation = difference.standard_deviation.map(|one| format!(" ± {:.2}", one * 100.0));
        format!("{:+.2}{}", difference.mean * 100.0, deviation.unwrap_or_default())
    });
    let group: Vec<String> = comparison.group.iter().map(ToString::to_string).collect();
    vec![
        Cell::text(&group.join(", ")),
        Cell::text(&metric.to_string().replace('_', " ")),
        number(difference.map(|difference| difference.n.to_string())),
        percent(comparison.first),
        percent(comparison.second),
        number(spread),
        number(Some(format!("{wins}, {losses}, {ties}"))),
        number(t_test.map(|test| format!("{:.3}", test.t))),
        number(t_test.map(|test| probability(test.p))),
        number(wilcoxon.map(|test| test.statistic.to_string())),
        number(wilcoxon.map(|test| probability(test.p))),
    ]
}

fn number(text: Option<String>) -> Cell {
    text.map_or_else(Cell::empty, Cell::number)
}

fn probability(p: f64) -> String {
    if p < 1e-3 { format!("{p:.1e}") } else { format!("{p:.3}") }
}
