//! Our numbers beside the published ones.

use super::table::{Cell, Table};
use crate::escape::escape;
use crate::material::Material;
use crate::paper::{ABOUT_INTERVALS, AgainstPaper, Line, against_paper};

/// Returns the numbers that have a published counterpart: same model, weights, dataset, objective, epsilon and schedule.
pub(super) fn table(material: &Material) -> String {
    let found = match against_paper(&material.table) {
        Ok(found) => found,
        Err(error) => return format!("<p>{}</p>\n", escape(&error.to_string())),
    };
    if found.lines.is_empty() {
        return "<p>No run has a counterpart among the published numbers: those are of the paper's six pretrained backbones on \
            its five datasets.</p>\n"
            .to_owned();
    }
    let keys = found.keys.iter().map(ToString::to_string);
    let columns = ["of", "ours", "paper", "difference", "95 % interval", "0 within", "source"];
    let mut table = Table { columns: keys.chain(columns.map(str::to_owned)).collect(), ..Table::default() };
    table.rows = found.lines.iter().map(row).collect();
    table.written() + &notes(&found)
}

fn row(line: &Line) -> Vec<Cell> {
    let percent = |value: f64| format!("{:.2}", value * 100.0);
    let spread = line.ours.standard_deviation.map(|one| format!(" ± {}", percent(one))).unwrap_or_default();
    let mut row: Vec<Cell> = line.names.iter().map(|name| Cell::text(&name.to_string())).collect();
    row.extend([
        Cell::text(&line.metric.to_string().replace('_', " ")),
        Cell::number(format!("{}{spread}", percent(line.ours.mean))),
        Cell::number(percent(line.published)),
        Cell::number(format!("{:+.2}", line.difference * 100.0)),
        line.interval.map_or_else(Cell::empty, |interval| {
            Cell::number(format!("{:+.2} to {:+.2}", interval.low * 100.0, interval.high * 100.0))
        }),
        Cell::text(line.is_within.map_or("unknown", |is_within| if is_within { "yes" } else { "no" })),
        Cell::text(&line.sources.join(", ")),
    ]);
    row
}

fn notes(found: &AgainstPaper) -> String {
    let (within, known) = found.within();
    let mut text = format!(
        "<p class=\"note\">Of {} differences {known} have an interval, and 0 lies within {within} of those. {ABOUT_INTERVALS}. \
         For expected robustness it is a bound. ± is the sample standard deviation over our seeds. Published: arXiv 2509.23325, \
         one run a number. {} configurations have no counterpart.",
        found.lines.len(),
        found.unmatched.len()
    );
    for other in &found.others {
        text.push_str(&format!(" <b>{}.</b>", escape(&other.to_string())));
    }
    text + "</p>\n"
}
