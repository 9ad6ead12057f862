//! What was run, what is missing, and which checks fail.

use sweep_store::State;

use super::link;
use super::runs::LISTED;
use super::table::{Cell, Table};
use crate::escape::escape;
use crate::figures::Drawn;
use crate::fold::{distinct, grouped};
use crate::material::{Material, Run};

/// Failed runs that are listed one by one, at most.
const FAILURES: usize = 50;
/// Values of a key that are written out, at most.
const VALUES: usize = 24;
/// Letters of a failure's message, at most.
const MESSAGE: usize = 300;

/// Returns the line below the title.
pub(super) fn summary(material: &Material) -> String {
    let counts = State::ALL.iter().filter_map(|state| {
        let count = material.runs.iter().filter(|run| run.result.state == *state).count();
        (count > 0).then(|| format!("{count} {state}"))
    });
    let counts: Vec<String> = counts.collect();
    let origins = material.runs.iter().filter_map(|run| run.origin.as_ref());
    let first = origins.clone().map(|origin| origin.started_ms).min();
    let last = origins.filter_map(|origin| origin.ended_ms).max();
    let when = match (first, last) {
        (Some(first), Some(last)) if date(first) == date(last) => format!(", on {} (UTC)", date(first)),
        (Some(first), Some(last)) => format!(", from {} to {} (UTC)", date(first), date(last)),
        _ => String::new(),
    };
    format!("<p>{} runs: {}{when}.</p>", material.runs.len(), counts.join(", "))
}

/// Returns the grid's keys with their values, and the holes.
pub(super) fn overview(material: &Material) -> String {
    let compared: Vec<&Run> = material.compared().collect();
    let pretraining = material.runs.len() - compared.len();
    let mut table = Table::new(&["key", "values", "which"]);
    let mut push = |key: &str, values: Vec<String>| {
        let shown = values.iter().take(VALUES).cloned().collect::<Vec<_>>().join(", ");
        let rest = if values.len() > VALUES { ", …" } else { "" };
        table.rows.push(vec![
            Cell::text(key),
            Cell::number(values.len().to_string()),
            Cell::html(format!("{}{rest}", escape(&shown))),
        ]);
    };
    let values = |of: &dyn Fn(&Run) -> String| distinct(compared.iter().map(|run| of(run)));
    push("backbone", values(&|run| run.result.backbone.clone()));
    push("dataset", values(&|run| run.result.dataset.clone()));
    push("target epsilon", values(&|run| run.result.target_epsilon.to_string()));
    push("epsilon schedule", values(&|run| run.result.epsilon_schedule.clone()));
    push("seed", values(&|run| run.result.seed.to_string()));
    push("epochs", values(&|run| run.result.epochs.to_string()));
    push("batch size", values(&|run| run.result.batch_size.to_string()));
    push("learning rate", values(&|run| run.result.learning_rate.to_string()));
    push("input size", values(&|run| run.result.input_size.to_string()));
    let variants = values(&|run| run.variant.clone());
    if variants.len() > 1 {
        push("what else differs", variants);
    }
    let mut html = table.written();
    if pretraining > 0 {
        let what = "train a backbone for others; they are in the list of runs, not in tables and figures";
        html.push_str(&format!("<p class=\"note\">{pretraining} more runs {what}.</p>\n"));
    }
    html + &holes(material)
}

fn holes(material: &Material) -> String {
    let open: Vec<(usize, &Run)> =
        material.runs.iter().enumerate().filter(|(_, run)| run.result.state != State::Succeeded).collect();
    if open.is_empty() {
        return "<p>No holes: every run has succeeded.</p>\n".to_owned();
    }
    let by_state = grouped(open.iter(), |(_, run)| run.result.state.label());
    let counts: Vec<String> =
        by_state.iter().map(|(state, runs)| format!("{} {state}", runs.len())).collect();
    let mut html = format!(
        "<p><b>Holes</b>: {} of {} runs are without a result: {}.</p>\n",
        open.len(),
        material.runs.len(),
        counts.join(", ")
    );
    let failed: Vec<(usize, &Run)> =
        open.into_iter().filter(|(_, run)| run.result.failure.is_some()).collect();
    if failed.is_empty() {
        return html;
    }
    let mut table = Table::new(&["run", "what", "state", "failure"]);
    for (place, run) in failed.iter().take(FAILURES) {
        table.rows.push(failure(run, *place < LISTED));
    }
    html.push_str(&table.written());
    if failed.len() > FAILURES {
        html.push_str(&format!("<p class=\"note\">The first {FAILURES} of {} failures.</p>\n", failed.len()));
    }
    html
}

fn failure(run: &Run, is_listed: bool) -> Vec<Cell> {
    let result = &run.result;
    let what = format!(
        "{}, {}, {}, {}, seed {}",
        run.subject(),
        result.dataset,
        result.target_epsilon,
        result.epsilon_schedule,
        result.seed
    );
    let message = result.failure.as_ref().map_or_else(String::new, |failure| {
        let shown: String = failure.message.chars().take(MESSAGE).collect();
        format!("{}: {shown}", failure.class.label())
    });
    vec![
        Cell::html(link(result.id, &format!("<code>{}</code>", result.id.short()), is_listed)),
        Cell::text(&what),
        Cell::text(result.state.label()),
        Cell::html(format!("<span class=\"wrap\">{}</span>", escape(&message))),
    ]
}

/// Returns the checks that runs do not pass.
pub(super) fn checks(material: &Material) -> String {
    let explained = "<p class=\"note\">zero_is_clean: the count at radius 0 is that of the unperturbed images. \
        robust_at_most_clean: no attack raises accuracy. monotone: accuracy falls with the radius, but for chance. complete_split: \
        every image of the test split is counted. That perturbations stay in the ball is checked while measuring.</p>\n";
    let evaluated = material.runs.iter().filter(|run| !run.accuracy.is_empty()).count();
    if material.failed_gates.is_empty() {
        return format!("<p>All {evaluated} evaluated runs pass every check.</p>\n{explained}");
    }
    let mut table = Table::new(&["run", "check", "fails at radius"]);
    for gate in material.failed_gates.iter().take(LISTED) {
        let is_listed = material.runs.iter().take(LISTED).any(|run| run.result.id == gate.run);
        table.rows.push(vec![
            Cell::html(link(gate.run, &format!("<code>{}</code>", gate.run.short()), is_listed)),
            Cell::text(&gate.gate),
            Cell::text(gate.violations.as_deref().unwrap_or("")),
        ]);
    }
    let count = material.failed_gates.len();
    format!(
        "<p><b>{count} checks fail</b>, of {evaluated} evaluated runs.</p>\n{}{explained}",
        table.written()
    )
}

/// Returns what is not drawn, and why.
pub(super) fn omitted(drawn: &Drawn) -> String {
    let mut html = "<ul>\n".to_owned();
    for omitted in &drawn.omitted {
        html.push_str(&format!(
            "<li>{}, {}: {}.</li>\n",
            omitted.reference,
            escape(omitted.title),
            escape(&omitted.reason)
        ));
    }
    html + "</ul>\n"
}

/// Returns the day of a time in milliseconds since 1970, as `2026-01-31`: the proleptic Gregorian calendar, by counting in
/// years that begin in March and eras of 400 years.
pub(super) fn date(ms: i64) -> String {
    const DAY: i64 = 86_400_000;
    const ERA: i64 = 146_097;
    let days = ms.div_euclid(DAY) + 719_468;
    let (era, day) = (days.div_euclid(ERA), days.rem_euclid(ERA));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, later) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    format!("{:04}-{month:02}-{day:02}", year + era * 400 + later)
}

#[cfg(test)]
mod tests {
    use super::date;

    #[test]
    fn days_of_the_calendar() {
        // `date -u -d @SECONDS +%F` says the same.
        let cases = [
            (0, "1970-01-01"),
            (-1, "1969-12-31"),
            (951_782_400_000, "2000-02-29"),
            (1_709_164_800_000, "2024-02-29"),
            (1_709_251_200_000, "2024-03-01"),
            (1_767_225_599_999, "2025-12-31"),
            (4_107_542_400_000, "2100-03-01"),
        ];
        for (ms, day) in cases {
            assert_eq!(date(ms), day);
        }
    }
}
