//! Clean validation accuracy over the epochs, one curve a target epsilon, with a cross at the onset of learning (paper,
//! Figure 3): larger radii begin to learn later.

use super::shared::{Names, fold, largest, onset_words, percent, radius, targets};
use super::{Plan, Reason};
use crate::chart::{Axis, Body, Entry, Figure, Panel, Series, Style, Swatch, Trace};
use crate::fold::{Spread, grouped};
use crate::material::{Material, Onset, Run};

pub(super) const PLAN: Plan = Plan {
    reference: "Figure 3",
    title: "Clean validation accuracy over the epochs, by target epsilon",
    draw,
};

fn draw(material: &Material) -> Result<Figure, Reason> {
    let onset = material.onset();
    let has_standard = material.compared().any(|run| run.is_standard);
    let targets = has_standard.then_some(0.0).into_iter().chain(targets(material));
    let names = Names::new(targets.map(radius).collect());
    let robust = material.compared().filter(|run| !run.is_standard);
    let key = |run: &&Run| (run.subject(), run.result.dataset.clone(), run.schedule().to_owned());
    let curves: Vec<(String, Vec<Series>)> = grouped(robust, key)
        .into_iter()
        .map(|((subject, dataset, schedule), mut runs)| {
            runs.splice(0..0, material.standard_of(runs[0]));
            (format!("{subject}, {dataset}, {schedule}"), series(runs, &names, onset))
        })
        .filter(|(_, series)| !series.is_empty())
        .collect();
    if curves.is_empty() {
        return Err("no epoch of a robust run is validated yet".to_owned());
    }
    let mut legend = names.entries(|style| Swatch::Line(style, true));
    legend.push(Entry { label: format!("onset: {}", onset_words(onset)), swatch: Swatch::Cross });
    Ok(Figure {
        name: "validation-curves",
        reference: PLAN.reference,
        title: PLAN.title,
        caption: caption(&curves, onset) + &names.left_out("target epsilons"),
        legend,
        panels: panels(curves, "clean validation accuracy (%)"),
        in_threes: false,
    })
}

fn series(runs: Vec<&Run>, names: &Names, onset: Onset) -> Vec<Series> {
    let by_target = grouped(runs, |run| radius(run.target()));
    let series = by_target.into_iter().filter_map(|(target, runs)| {
        let place = names.place(&target)?;
        let accuracies = runs.iter().flat_map(|run| {
            run.curve.iter().map(|point| (f64::from(point.epoch), percent(point.clean), *run))
        });
        Some(Series {
            label: target,
            style: Style::nth(place),
            points: fold(accuracies),
            trace: Trace::Straight,
            markers: true,
            shaded_to: None,
            onset: onset_of(&runs, onset),
        })
    });
    series.filter(|series| !series.points.is_empty()).collect()
}

/// Returns the mean delay; `None` where it is open, or where the network has not learned within its epochs. (A delay of all
/// epochs can also mean that it has learned in the last one; that is not marked either.)
fn onset_of(runs: &[&Run], onset: Onset) -> Option<f64> {
    let delay = |run: &&Run| run.delay(onset).filter(|delay| *delay < run.result.epochs);
    let delays: Option<Vec<f64>> = runs.iter().map(|run| delay(run).map(f64::from)).collect();
    Spread::of(delays?).map(|spread| spread.mean)
}

/// Returns panels of percentages over epochs that share both axes.
pub(super) fn panels(curves: Vec<(String, Vec<Series>)>, quantity: &str) -> Vec<Panel> {
    let all = || curves.iter().flat_map(|(_, series)| series);
    let y = Axis::percent(quantity, largest(all()));
    let epochs = all().flat_map(|series| &series.points).map(|point| point.x).fold(0.0, f64::max);
    let x = Axis::new("epoch", 0.0, epochs);
    let panel = |(title, series)| {
        let body = Body::Lines { x: x.clone(), y: y.clone(), series };
        Panel { title, notes: Vec::new(), body }
    };
    curves.into_iter().map(panel).collect()
}

fn caption(curves: &[(String, Vec<Series>)], onset: Onset) -> String {
    let all = || curves.iter().flat_map(|(title, series)| series.iter().map(move |series| (title, series)));
    let marked = all().filter_map(|(title, series)| Some((series.onset?, title, series)));
    let latest = marked.clone().max_by(|left, right| left.0.total_cmp(&right.0));
    let (count, total) = (marked.count(), all().count());
    let Some((epoch, title, series)) = latest else {
        return format!("None of {total} curves reaches {} before its last epoch.", onset_words(onset));
    };
    format!(
        "{count} of {total} curves reach {} before their last epoch, the last of them after {epoch:.1} epochs ({title}, {}).",
        onset_words(onset),
        series.label
    )
}
