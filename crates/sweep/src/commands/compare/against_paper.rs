//! Our numbers beside the published ones as rows.

use anyhow::Result;
use serde_json::Value;
use sweep_report::Runs;
use sweep_report::paper::{AgainstPaper, Line, against_paper};

use super::{Answer, exact, heading, is_for_reading, list, shown};
use crate::cli::Format;
use crate::table::Rows;

pub(super) fn answer(runs: &Runs, format: Format) -> Result<Answer> {
    let found = against_paper(runs)?;
    let columns = ["metric", "ours", "sd", "n", "paper", "difference", "low", "high", "within", "source"];
    let names = found.keys.iter().map(ToString::to_string);
    let mut rows = Rows { columns: names.chain(columns.map(str::to_owned)).collect(), rows: Vec::new() };
    for line in &found.lines {
        rows.push(row(line, format));
    }
    Ok(Answer { text: rows.render(format)?, notes: notes(&found) })
}

fn row(line: &Line, format: Format) -> Vec<Value> {
    let metric = line.metric;
    let number = |value: f64| {
        if is_for_reading(format) { Value::from(shown(metric, value)) } else { exact(metric, value) }
    };
    let names = line.names.iter().map(|name| serde_json::to_value(name).unwrap_or(Value::Null));
    let mut row: Vec<Value> = names.collect();
    row.push(if is_for_reading(format) { heading(metric).into() } else { metric.to_string().into() });
    row.push(number(line.ours.mean));
    row.push(line.ours.standard_deviation.map_or(Value::Null, number));
    row.push(line.ours.n.into());
    row.extend([line.published, line.difference, line.interval.low, line.interval.high].map(number));
    row.push(match (is_for_reading(format), line.is_within) {
        (true, true) => "yes".into(),
        (true, false) => "no".into(),
        (false, within) => within.into(),
    });
    row.push(line.sources.join(" ").into());
    row
}

fn notes(found: &AgainstPaper) -> Vec<String> {
    let within = found.lines.iter().filter(|line| line.is_within).count();
    let mut notes = vec![
        format!("{within} of {} numbers lie within the interval; in % of the test split", found.lines.len()),
        "paper: arXiv 2509.23325, one run a number; low, high: 95 % interval (Wilson) of a count with the published fraction \
         on its test split, for expected robustness an upper bound of it; ours: mean over n seeds"
            .to_owned(),
    ];
    if !found.other_epochs.is_empty() {
        let epochs: Vec<String> = found.other_epochs.iter().map(ToString::to_string).collect();
        notes.push(format!("warning: trained for {} epochs, the paper's runs for 50", epochs.join(", ")));
    }
    let describe = |(names, why): &(Vec<sweep_report::Value>, _)| {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        format!("{}: {why}", names.join(" · "))
    };
    let lines: Vec<String> = found.unmatched.iter().map(describe).collect();
    notes.extend(list(&format!("not compared: {} configurations", lines.len()), &lines, ""));
    notes
}
