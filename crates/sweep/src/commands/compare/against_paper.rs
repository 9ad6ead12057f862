//! Our numbers beside the published ones as rows.

use anyhow::Result;
use serde_json::Value;
use sweep_report::Runs;
use sweep_report::paper::{ABOUT_INTERVALS, AgainstPaper, Line, against_paper};

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
    row.extend([line.published, line.difference].map(number));
    row.extend(
        [line.interval.map(|one| one.low), line.interval.map(|one| one.high)]
            .map(|end| end.map_or(Value::Null, number)),
    );
    row.push(match (is_for_reading(format), line.is_within) {
        (true, Some(true)) => "yes".into(),
        (true, Some(false)) => "no".into(),
        (true, None) => "unknown".into(),
        (false, within) => within.into(),
    });
    row.push(line.sources.join(" ").into());
    row
}

fn notes(found: &AgainstPaper) -> Vec<String> {
    let (within, known) = found.within();
    let mut notes = vec![
        format!(
            "of {} differences {known} have an interval, and 0 lies within {within} of those; in % of the test split",
            found.lines.len()
        ),
        "paper: arXiv 2509.23325, one run a number; ours: mean over n seeds".to_owned(),
        format!("low, high, within: {ABOUT_INTERVALS}; for expected robustness it is a bound"),
    ];
    notes.extend(found.others.iter().map(|other| format!("warning: {other}")));
    let describe = |(names, why): &(Vec<sweep_report::Value>, _)| {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        format!("{}: {why}", names.join(" · "))
    };
    let lines: Vec<String> = found.unmatched.iter().map(describe).collect();
    notes.extend(list(&format!("not compared: {} configurations", lines.len()), &lines, ""));
    notes
}
