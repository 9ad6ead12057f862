//! Pairs of runs and their tests as rows.

use anyhow::Result;
use serde_json::Value;
use sweep_report::Runs;
use sweep_report::pairs::{Comparison, Pair, Pairing, Pairs, Seeds, pairs};
use sweep_report::statistics::{Method, TTest, Wilcoxon};
use sweep_store::{At, Metric, Unit};

use super::{Answer, exact, heading, is_for_reading, list, shown, split};
use crate::cli::{CompareArgs, Format};
use crate::table::Rows;

pub(super) fn answer(runs: &Runs, pairing: &Pairing, arguments: &CompareArgs) -> Result<Answer> {
    let seeds = if arguments.each_seed { Seeds::Separate } else { Seeds::Folded };
    let pairs = pairs(runs, pairing, &arguments.by, seeds)?;
    let format = arguments.output.format;
    let rows = if arguments.each { every_pair(&pairs, format) } else { tests(&pairs, format) };
    Ok(Answer { text: rows.render(format)?, notes: notes(&pairs, runs.at(), arguments.each) })
}

/// One row a group and metric.
fn tests(pairs: &Pairs, format: Format) -> Rows {
    let mut columns: Vec<String> = pairs.by.iter().map(ToString::to_string).collect();
    columns.extend(["metric", "pairs"].map(str::to_owned));
    columns.extend([&pairs.first, &pairs.second].map(ToString::to_string));
    columns.extend(
        ["difference", "sd", "wins", "losses", "ties", "t", "p", "W", "p (W)", "method"].map(str::to_owned),
    );
    let mut rows = Rows { columns, rows: Vec::new() };
    for comparison in pairs.comparisons() {
        rows.push(test(&comparison, format));
    }
    rows
}

fn test(comparison: &Comparison, format: Format) -> Vec<Value> {
    let metric = comparison.metric;
    let number = |value: Option<f64>| value.map_or(Value::Null, |value| cell(metric, value, format));
    let difference = comparison.difference;
    let mut row: Vec<Value> = names(&comparison.group);
    row.push(if is_for_reading(format) { heading(metric).into() } else { metric.to_string().into() });
    row.push(difference.map_or(0, |difference| difference.n).into());
    row.extend([number(comparison.first), number(comparison.second)]);
    row.push(number(difference.map(|difference| difference.mean)));
    row.push(number(difference.and_then(|difference| difference.standard_deviation)));
    row.extend([comparison.wins, comparison.losses, comparison.ties].map(Value::from));
    match comparison.t_test {
        Some(TTest { t, p, .. }) => row.extend([statistic(t, format), probability(p, format)]),
        None => row.extend([Value::Null, Value::Null]),
    }
    match comparison.wilcoxon {
        Some(Wilcoxon { statistic, p, method, .. }) => row.extend([
            statistic.into(),
            probability(p, format),
            Value::from(match method {
                Method::Exact => "exact",
                Method::Normal => "normal",
            }),
        ]),
        None => row.extend([Value::Null, Value::Null, Value::Null]),
    }
    row
}

/// One row a pair.
fn every_pair(pairs: &Pairs, format: Format) -> Rows {
    let by = pairs.by.iter().filter(|key| !pairs.names.contains(key));
    let mut columns: Vec<String> = by.chain(&pairs.names).map(ToString::to_string).collect();
    for metric in &pairs.metrics {
        let name = if is_for_reading(format) { heading(*metric) } else { metric.to_string() };
        columns.extend([&pairs.first, &pairs.second].map(|side| format!("{side} {name}")));
        columns.push(format!("difference {name}"));
    }
    let mut rows = Rows { columns, rows: Vec::new() };
    for pair in &pairs.pairs {
        rows.push(pair_row(pairs, pair, format));
    }
    rows
}

fn pair_row(pairs: &Pairs, pair: &Pair, format: Format) -> Vec<Value> {
    let group = std::iter::zip(&pairs.by, &pair.group).filter(|(key, _)| !pairs.names.contains(key));
    let mut row = names(&group.map(|(_, value)| value.clone()).collect::<Vec<_>>());
    row.extend(names(&pair.names));
    for (metric, sides) in std::iter::zip(&pairs.metrics, &pair.numbers) {
        let number = |value: Option<f64>| value.map_or(Value::Null, |value| cell(*metric, value, format));
        let (first, second) = (sides.values.map(|both| both.0), sides.values.map(|both| both.1));
        row.extend([
            number(first),
            number(second),
            number(sides.values.map(|(first, second)| second - first)),
        ]);
    }
    row
}

fn names(values: &[sweep_report::Value]) -> Vec<Value> {
    values.iter().map(|value| serde_json::to_value(value).unwrap_or(Value::Null)).collect()
}

fn cell(metric: Metric, value: f64, format: Format) -> Value {
    if is_for_reading(format) { Value::from(shown(metric, value)) } else { exact(metric, value) }
}

fn statistic(value: f64, format: Format) -> Value {
    if is_for_reading(format) { Value::from(format!("{value:.3}")) } else { Value::from(value) }
}

fn probability(p: f64, format: Format) -> Value {
    match is_for_reading(format) {
        true if p < 1e-3 => Value::from(format!("{p:.2e}")),
        true => Value::from(format!("{p:.4}")),
        false => Value::from(p),
    }
}

fn notes(pairs: &Pairs, at: At, each: bool) -> Vec<String> {
    let Pairs { key, first, second, .. } = pairs;
    let mut notes = vec![format!(
        "{} pairs of runs that are equal in everything but {key}{}; difference: {second} less {first}",
        pairs.pairs.len(),
        match pairs.seeds {
            Seeds::Folded => format!(
                " and the seed: a pair is the mean over the seeds that both sides have ({})",
                seeds(pairs)
            ),
            Seeds::Separate =>
                ": every seed is a pair of its own, though seeds of one configuration are not independent"
                    .to_owned(),
        },
    )];
    if pairs.metrics.iter().any(|metric| metric.unit() == Unit::Fraction) {
        notes.push(format!("accuracies in % of {}, differences in percentage points", split(at)));
    }
    if !each {
        notes.push(format!("wins: {second} is better"));
        notes.push(
            "t: paired t-test; W: Wilcoxon's signed-rank test without zero differences, exact, or for ties and more than 50 \
             pairs the normal approximation with the correction for ties; p: two-sided, not corrected for several tests"
                .to_owned(),
        );
    }
    let unpaired: Vec<String> = pairs.unpaired.iter().map(ToString::to_string).collect();
    notes.extend(list(&format!("not paired, or not in every metric: {}", unpaired.len()), &unpaired, ""));
    notes
}

/// Returns how many seeds pairs are means over.
fn seeds(pairs: &Pairs) -> String {
    let counts = || pairs.pairs.iter().flat_map(|pair| &pair.numbers).map(|sides| sides.seeds);
    match (counts().min(), counts().max()) {
        (Some(fewest), Some(most)) if fewest != most => format!("{fewest} to {most}"),
        (Some(count), _) => count.to_string(),
        _ => "none".to_owned(),
    }
}
