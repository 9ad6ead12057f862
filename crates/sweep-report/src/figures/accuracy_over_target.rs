//! Clean test accuracy over the target epsilon of training (paper, Figure 1): what robust fine-tuning costs.

use super::shared::{Names, counted, datasets, largest, percent, points, radius};
use super::{Plan, Reason};
use crate::chart::{Axis, Body, Figure, Panel, Series, Style, Swatch, Trace};
use crate::fold::grouped;
use crate::material::{Material, Run};

pub(super) const PLAN: Plan =
    Plan { reference: "Figure 1", title: "Clean test accuracy over the target epsilon of training", draw };

fn draw(material: &Material) -> Result<Figure, Reason> {
    let names = Names::new(datasets(material));
    let curves = curves(material, &names, |run| run.result.clean.map(percent));
    if curves.iter().all(|(_, series)| series.is_empty()) {
        return Err("needs finished runs at two target epsilons, or beside standard fine-tuning".to_owned());
    }
    let all = || curves.iter().flat_map(|(_, series)| series);
    let caption = caption(&curves) + &names.left_out("datasets");
    let y = Axis::percent("clean test accuracy (%)", largest(all()));
    Ok(Figure {
        name: "accuracy-over-target-epsilon",
        reference: PLAN.reference,
        title: PLAN.title,
        caption,
        legend: names.entries(|style| Swatch::Line(style, true)),
        panels: panels(curves, &y),
        in_threes: false,
    })
}

/// The curves of one panel, under its title.
pub(super) type Curves = (String, Vec<Series>);

/// Returns one panel a backbone (with its variant) and robust schedule, and in it one series a dataset: a value over the target
/// epsilon, with standard fine-tuning at 0. Only series of at least two points.
pub(super) fn curves(
    material: &Material,
    names: &Names,
    value: impl Fn(&Run) -> Option<f64> + Copy,
) -> Vec<Curves> {
    let robust = material.compared().filter(|run| !run.is_standard);
    let panels = grouped(robust, |run| (run.subject(), run.schedule().to_owned()));
    let panel = |((subject, schedule), runs): ((String, String), Vec<&Run>)| {
        let by_dataset = grouped(runs, |run| run.result.dataset.clone());
        let series = by_dataset.into_iter().filter_map(|(dataset, runs)| {
            let place = names.place(&dataset)?;
            let standard = material.standard_of(runs[0]);
            let points = points(standard.into_iter().chain(runs), Run::target, value);
            (points.len() > 1).then(|| Series {
                label: dataset,
                style: Style::nth(place),
                points,
                trace: Trace::Straight,
                markers: true,
                shaded_to: None,
                onset: None,
            })
        });
        (format!("{subject}, {schedule}"), series.collect())
    };
    panels.into_iter().map(panel).filter(|(_, series): &Curves| !series.is_empty()).collect()
}

/// Returns panels over the target epsilon that share both axes.
pub(super) fn panels(curves: Vec<Curves>, y: &Axis) -> Vec<Panel> {
    let last = curves.iter().flat_map(|(_, series)| series).flat_map(|series| &series.points);
    let x = Axis::new("target epsilon (1/255)", 0.0, last.map(|point| point.x).fold(0.0, f64::max));
    let panel = |(title, series): Curves| {
        let body = Body::Lines { x: x.clone(), y: y.clone(), series };
        Panel { title, notes: Vec::new(), body }
    };
    curves.into_iter().map(panel).collect()
}

fn caption(curves: &[Curves]) -> String {
    let falls = curves.iter().flat_map(|(title, series)| {
        series.iter().filter_map(move |series| {
            let (first, last) = (series.points.first()?, series.points.last()?);
            Some((first.y - last.y, title, series, first, last))
        })
    });
    let falls: Vec<_> = falls.collect();
    let Some((_, title, series, first, last)) =
        falls.iter().max_by(|left, right| left.0.total_cmp(&right.0)).copied()
    else {
        return String::new();
    };
    let mean = falls.iter().map(|(fall, ..)| fall).sum::<f64>() / falls.len() as f64;
    format!(
        "The largest change is from {:.1} % at {} to {:.1} % at {} ({title}, {}); over {} accuracy falls by {mean:.1} points \
         in the mean.",
        first.y,
        radius(first.x),
        last.y,
        radius(last.x),
        series.label,
        counted(falls.len(), "curve"),
    )
}
