//! One row a run: what every number of the page leads to.

use super::table::{Cell, Table};
use crate::material::{Material, Onset, Run};

/// Rows, at most; a page of more is slow to open.
pub(super) const LISTED: usize = 2_000;

const COLUMNS: [&str; 15] = [
    "run",
    "backbone",
    "dataset",
    "target",
    "schedule",
    "seed",
    "state",
    "epochs",
    "clean %",
    "robust %",
    "expected %",
    "validation %",
    "delay",
    "drop %",
    "train s",
];

/// Returns the table of the first runs.
pub(super) fn table(material: &Material) -> String {
    let onset = material.onset();
    let mut table = Table::new(&COLUMNS);
    table.rows = material.runs.iter().take(LISTED).map(|run| row(run, onset)).collect();
    let delay = match onset {
        Onset::FivePercent => "first epoch with more than 5 % clean validation accuracy",
        Onset::AboveChance => "first epoch with clean validation accuracy clearly above chance",
    };
    let mut html = table.written();
    html.push_str(&format!(
        "<p class=\"note\">Clean, robust and expected as above. Validation: clean accuracy on the validation split after the last \
         epoch. Delay: {delay}. Drop: clean accuracy of standard fine-tuning less the run's own. <code>sweep show RUN</code> \
         prints everything about one.</p>\n"
    ));
    if material.runs.len() > LISTED {
        html.push_str(&format!(
            "<p class=\"note\">The first {LISTED} of {} runs; <code>sweep export</code> writes them all.</p>\n",
            material.runs.len()
        ));
    }
    html
}

fn row(run: &Run, onset: Onset) -> Vec<Cell> {
    let result = &run.result;
    let number = |value: Option<f64>, places: usize| {
        value.map_or_else(Cell::empty, |value| Cell::number(format!("{value:.places$}")))
    };
    let percent = |fraction: Option<f64>| number(fraction.map(|fraction| fraction * 100.0), 2);
    let failure = result.failure.as_ref().map_or_else(String::new, |failure| failure.message.clone());
    let subject = if run.is_pretraining { format!("{} (pretraining)", run.subject()) } else { run.subject() };
    vec![
        Cell::html(format!("<code>{}</code>", result.id.short())).with_id(format!("run-{}", result.id)),
        Cell::text(&subject),
        Cell::text(&result.dataset),
        Cell::text(&result.target_epsilon.to_string()),
        Cell::text(&result.epsilon_schedule),
        Cell::number(result.seed.to_string()),
        Cell::text(result.state.label()).with_hint(failure),
        Cell::number(format!("{}/{}", result.epochs_done, result.epochs)),
        percent(result.clean),
        percent(result.robust),
        percent(result.expected_robustness),
        percent(result.validation_clean),
        number(run.delay(onset).map(f64::from), 0),
        percent(result.clean_drop),
        number(result.train_seconds, 1),
    ]
}
