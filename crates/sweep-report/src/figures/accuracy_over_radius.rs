//! Test accuracy over the radius of the attack, a panel a configuration (paper, Figure 4). The shaded area up to the target,
//! divided by the target, is the expected robustness.

use super::shared::{Names, fold, largest, percent, radius, schedules};
use super::{Plan, Reason};
use crate::chart::{Axis, Body, Figure, Panel, Series, Style, Swatch, Trace};
use crate::fold::{Spread, grouped};
use crate::material::{Material, Run};

pub(super) const PLAN: Plan = Plan {
    reference: "Figure 4",
    title: "Test accuracy over the radius of the attack; shaded: expected robustness",
    draw,
};

/// What one panel is about.
struct Setting<'a> {
    title: String,
    target: f64,
    by_schedule: Vec<(String, Vec<&'a Run>)>,
}

fn draw(material: &Material) -> Result<Figure, Reason> {
    let names = Names::new(schedules(material));
    let settings = settings(material);
    let curves: Vec<(&Setting<'_>, Vec<Series>)> = settings
        .iter()
        .map(|setting| (setting, series(setting, &names)))
        .filter(|(_, series)| !series.is_empty())
        .collect();
    if curves.is_empty() {
        return Err("no robust run is evaluated at two radii yet".to_owned());
    }
    let all = || curves.iter().flat_map(|(_, series)| series);
    let y = Axis::percent("test accuracy (%)", largest(all()));
    let last = all().flat_map(|series| &series.points).map(|point| point.x).fold(0.0, f64::max);
    let x = Axis::new("radius of the attack (1/255)", 0.0, last);
    let panel = |(setting, series): (&Setting<'_>, Vec<Series>)| Panel {
        title: setting.title.clone(),
        notes: Vec::new(),
        body: Body::Lines { x: x.clone(), y: y.clone(), series },
    };
    Ok(Figure {
        name: "accuracy-over-radius",
        reference: PLAN.reference,
        title: PLAN.title,
        caption: caption(&settings) + &names.left_out("schedules"),
        legend: names.entries(|style| Swatch::Line(style, true)),
        panels: curves.into_iter().map(panel).collect(),
        in_threes: false,
    })
}

/// Returns one setting a backbone (with its variant), dataset and target, with standard fine-tuning last.
fn settings(material: &Material) -> Vec<Setting<'_>> {
    let robust = material.compared().filter(|run| !run.is_standard);
    let key = |run: &&Run| (run.subject(), run.result.dataset.clone(), run.target().to_bits());
    grouped(robust, key)
        .into_iter()
        .map(|((subject, dataset, target), mut runs)| {
            let standard = material.standard_of(runs[0]);
            runs.extend(standard);
            let target = f64::from_bits(target);
            Setting {
                title: format!("{subject}, {dataset}, {}", radius(target)),
                target,
                by_schedule: grouped(runs, |run| run.schedule().to_owned()),
            }
        })
        .collect()
}

fn series(setting: &Setting<'_>, names: &Names) -> Vec<Series> {
    let series = setting.by_schedule.iter().filter_map(|(schedule, runs)| {
        let place = names.place(schedule)?;
        let values = runs.iter().flat_map(|run| {
            run.accuracy
                .iter()
                .map(|(epsilon, accuracy)| (in_255ths(epsilon.value()), percent(*accuracy), *run))
        });
        let points = fold(values);
        (points.len() > 1).then(|| Series {
            label: schedule.clone(),
            style: Style::nth(place),
            points,
            trace: Trace::Straight,
            markers: true,
            shaded_to: (schedule != "standard").then_some(setting.target),
            onset: None,
        })
    });
    series.collect()
}

/// Returns a radius in 255ths such that equal radii are equal numbers.
fn in_255ths(radius: f64) -> f64 {
    (radius * 255.0 * 1e6).round() / 1e6
}

fn caption(settings: &[Setting<'_>]) -> String {
    let values = settings.iter().flat_map(|setting| {
        let mean = |runs: &[&Run]| Spread::of(runs.iter().filter_map(|run| run.result.expected_robustness));
        let robust = setting.by_schedule.iter().filter(|(schedule, _)| schedule != "standard");
        robust.filter_map(move |(schedule, runs)| Some((mean(runs)?.mean, setting, schedule)))
    });
    let values: Vec<_> = values.collect();
    let by_mean = |left: &&(f64, _, _), right: &&(f64, _, _)| left.0.total_cmp(&right.0);
    let (Some(least), Some(most)) = (values.iter().min_by(by_mean), values.iter().max_by(by_mean)) else {
        return "No run has all radii of its expected robustness yet.".to_owned();
    };
    format!(
        "Expected robustness lies between {:.1} % ({}, {}) and {:.1} % ({}, {}).",
        percent(least.0),
        least.1.title,
        least.2,
        percent(most.0),
        most.1.title,
        most.2
    )
}
