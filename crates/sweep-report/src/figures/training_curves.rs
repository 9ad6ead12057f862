//! Clean and robust validation accuracy over the epochs, by schedule (paper, Figures 6, 11 and 12).

use super::shared::{Names, counted, fold, percent, radius, schedules};
use super::validation_curves::panels;
use super::{Plan, Reason};
use crate::chart::{Entry, Figure, Series, Style, Swatch, Trace};
use crate::fold::{Spread, grouped};
use crate::material::{Material, Run};

pub(super) const PLAN: Plan = Plan {
    reference: "Figures 6, 11, 12",
    title: "Clean and robust validation accuracy over the epochs, by schedule",
    draw,
};

/// Schedules of a panel, at most: each has two curves.
const SCHEDULES: usize = 4;
/// The dash of robust accuracy.
const ROBUST: usize = 2;

fn draw(material: &Material) -> Result<Figure, Reason> {
    let names = Names::at_most(schedules(material), SCHEDULES);
    let robust = material.compared().filter(|run| !run.is_standard);
    let key = |run: &&Run| (run.subject(), run.result.dataset.clone(), run.target().to_bits());
    let curves: Vec<(String, Vec<Series>)> = grouped(robust, key)
        .into_iter()
        .map(|((subject, dataset, target), mut runs)| {
            runs.extend(material.standard_of(runs[0]));
            let title = format!("{subject}, {dataset}, {}", radius(f64::from_bits(target)));
            (title, series(runs, &names))
        })
        .filter(|(_, series)| !series.is_empty())
        .collect();
    if curves.is_empty() {
        return Err("no epoch of a robust run is validated yet".to_owned());
    }
    Ok(Figure {
        name: "training-curves",
        reference: PLAN.reference,
        title: PLAN.title,
        caption: caption(material, &names) + &names.left_out("schedules"),
        legend: legend(&names),
        panels: panels(curves, "validation accuracy (%)"),
        in_threes: false,
    })
}

/// Returns whether each curve of a schedule is of robust accuracy. Standard fine-tuning is validated at its own target, 0, where
/// robust accuracy is clean accuracy.
fn kinds(schedule: &str) -> &'static [bool] {
    if schedule == "standard" { &[false] } else { &[false, true] }
}

const fn style(place: usize, is_robust: bool) -> Style {
    Style { colour: place, dash: if is_robust { ROBUST } else { 0 }, marker: place }
}

fn legend(names: &Names) -> Vec<Entry> {
    let entry = |(place, name): (usize, &str)| {
        let kinds = kinds(name).iter();
        let entries = kinds.map(|&is_robust| Entry {
            label: format!("{name}, {}", if is_robust { "robust" } else { "clean" }),
            swatch: Swatch::Line(style(place, is_robust), true),
        });
        entries.collect::<Vec<Entry>>()
    };
    names.drawn().enumerate().flat_map(entry).collect()
}

fn series(runs: Vec<&Run>, names: &Names) -> Vec<Series> {
    let by_schedule = grouped(runs, |run| run.schedule().to_owned());
    let both = by_schedule.into_iter().filter_map(|(schedule, runs)| {
        let place = names.place(&schedule)?;
        Some(
            kinds(&schedule)
                .iter()
                .map(|&is_robust| {
                    let values = runs.iter().flat_map(|run| {
                        let value = move |clean, robust| percent(if is_robust { robust } else { clean });
                        run.curve.iter().map(move |point| {
                            (f64::from(point.epoch), value(point.clean, point.robust), *run)
                        })
                    });
                    Series {
                        label: format!("{schedule}, {}", if is_robust { "robust" } else { "clean" }),
                        style: style(place, is_robust),
                        points: fold(values),
                        trace: Trace::Straight,
                        markers: true,
                        shaded_to: None,
                        onset: None,
                    }
                })
                .collect::<Vec<Series>>(),
        )
    });
    both.flatten().filter(|series| !series.points.is_empty()).collect()
}

fn caption(material: &Material, names: &Names) -> String {
    let finished = |name: &str| {
        let runs = material.compared().filter(|run| run.schedule() == name);
        let last = runs.filter_map(|run| run.curve.last().filter(|point| point.epoch == run.result.epochs));
        let last: Vec<(f64, f64)> = last.map(|point| (point.clean, point.robust)).collect();
        let clean = Spread::of(last.iter().map(|(clean, _)| *clean))?;
        let robust = Spread::of(last.iter().map(|(_, robust)| *robust))?;
        let robust = if kinds(name).len() > 1 {
            format!(" and {:.1} % robust", percent(robust.mean))
        } else {
            String::new()
        };
        Some(format!("{:.1} % clean{robust} with {name} ({})", percent(clean.mean), counted(clean.n, "run")))
    };
    let means: Vec<String> = names.drawn().filter_map(finished).collect();
    if means.is_empty() {
        return "No run has trained its last epoch yet.".to_owned();
    }
    format!("After the last epoch, averaged over all panels: {}.", means.join("; "))
}
