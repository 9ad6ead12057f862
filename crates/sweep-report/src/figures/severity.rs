//! Final validation accuracy over the delay, with Pearson's correlation (paper, Figure 9): what begins late ends low.

use sweep_core::metrics::pearson;

use super::accuracy_over_target::curves;
use super::shared::{Names, datasets, largest, onset_words, percent};
use super::{Plan, Reason};
use crate::chart::{Axis, Body, Figure, Panel, Point, Series, Swatch, Trace, in_lines};
use crate::material::{Material, Onset};

pub(super) const PLAN: Plan = Plan {
    reference: "Figure 9",
    title: "Final clean validation accuracy over the delay, a point a target epsilon",
    draw,
};

/// A panel's points with their correlations.
struct Scatter {
    title: String,
    series: Vec<Series>,
    /// One entry a series; `None` for fewer than two points, or where one side is constant.
    correlations: Vec<Option<f64>>,
}

fn draw(material: &Material) -> Result<Figure, Reason> {
    let onset = material.onset();
    let names = Names::new(datasets(material));
    let scatters = scatters(material, &names, onset);
    if scatters.iter().all(|scatter| scatter.correlations.iter().all(Option::is_none)) {
        let needed = "needs finished runs at two target epsilons whose delays differ";
        return Err(format!("{needed} (delay: epochs to {})", onset_words(onset)));
    }
    let all = || scatters.iter().flat_map(|scatter| &scatter.series);
    let last = all().flat_map(|series| &series.points).map(|point| point.x).fold(0.0, f64::max);
    let x = Axis::new("delay (epochs)", 0.0, last.ceil());
    let y = Axis::percent("final validation accuracy (%)", largest(all()));
    let caption = caption(&scatters) + &names.left_out("datasets");
    let panel = |scatter: Scatter| Panel {
        title: scatter.title,
        notes: notes(&scatter.series, &scatter.correlations),
        body: Body::Lines { x: x.clone(), y: y.clone(), series: scatter.series },
    };
    Ok(Figure {
        name: "severity-over-delay",
        reference: PLAN.reference,
        title: PLAN.title,
        caption,
        legend: names.entries(Swatch::Marker),
        panels: scatters.into_iter().map(panel).collect(),
        in_threes: false,
    })
}

/// Joins the two curves over the target epsilon, delay and final accuracy, at equal targets.
fn scatters(material: &Material, names: &Names, onset: Onset) -> Vec<Scatter> {
    let delays = curves(material, names, |run| Some(run.severity(onset)?.0.into()));
    let finals = curves(material, names, |run| Some(percent(run.severity(onset)?.1)));
    let scatter = |(title, delays): (String, Vec<Series>)| {
        let finals = finals.iter().find(|(other, _)| *other == title)?;
        let joined = |delay: Series| {
            let last = finals.1.iter().find(|series| series.label == delay.label)?;
            let mut points: Vec<Point> =
                delay.points.iter().filter_map(|point| joined(point, &last.points)).collect();
            points.sort_by(|left, right| left.x.total_cmp(&right.x));
            Some(Series { points, trace: Trace::None, ..delay })
        };
        let series: Vec<Series> = delays.into_iter().filter_map(joined).collect();
        let correlations = series.iter().map(|series| correlation(&series.points)).collect();
        Some(Scatter { title, series, correlations })
    };
    delays.into_iter().filter_map(scatter).collect()
}

fn joined(delay: &Point, finals: &[Point]) -> Option<Point> {
    let last = finals.iter().find(|point| point.x == delay.x)?;
    Some(Point { x: delay.y, ..*last })
}

fn correlation(points: &[Point]) -> Option<f64> {
    pearson(&points.iter().map(|point| (point.x, point.y)).collect::<Vec<_>>())
}

fn notes(series: &[Series], correlations: &[Option<f64>]) -> Vec<String> {
    let text = |(series, correlation): (&Series, &Option<f64>)| match correlation {
        Some(correlation) => format!("{}: r = {}", series.label, signed(*correlation)),
        None => format!("{}: r undefined", series.label),
    };
    let texts: Vec<String> = series.iter().zip(correlations).map(text).collect();
    in_lines(&texts)
}

/// Writes a correlation with a true minus sign.
fn signed(correlation: f64) -> String {
    format!("{correlation:.2}").replace('-', "−")
}

fn caption(scatters: &[Scatter]) -> String {
    let known: Vec<f64> =
        scatters.iter().flat_map(|scatter| &scatter.correlations).filter_map(|value| *value).collect();
    let (low, high) =
        known.iter().fold((1.0_f64, -1.0_f64), |(low, high), value| (low.min(*value), high.max(*value)));
    let negative = known.iter().filter(|value| **value < 0.0).count();
    format!(
        "Pearson's correlation of delay and final accuracy lies between {} and {}, and is negative for {negative} \
         of {} series.",
        signed(low),
        signed(high),
        known.len()
    )
}
