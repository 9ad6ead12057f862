//! Epochs to the onset of learning over the target epsilon (paper, Figure 8).

use super::accuracy_over_target::{curves, panels};
use super::shared::{Names, counted, datasets, largest, onset_words, radius};
use super::{Plan, Reason};
use crate::chart::{Axis, Figure, Series, Swatch};
use crate::fold::Spread;
use crate::material::Material;

pub(super) const PLAN: Plan = Plan {
    reference: "Figure 8",
    title: "Delay: epochs to the onset of learning over the target epsilon",
    draw,
};

fn draw(material: &Material) -> Result<Figure, Reason> {
    let onset = material.onset();
    let names = Names::new(datasets(material));
    let curves = curves(material, &names, |run| Some(run.severity(onset)?.0.into()));
    let all: Vec<&Series> = curves.iter().flat_map(|(_, series)| series).collect();
    if all.is_empty() {
        return Err("needs finished runs at two target epsilons, or beside standard fine-tuning".to_owned());
    }
    let y = Axis::new("delay (epochs)", 0.0, largest(all.iter().copied()).ceil());
    let caption = format!(
        "Delay: epochs to {} (all epochs where that is never reached). {}{}",
        onset_words(onset),
        growth(&all),
        names.left_out("datasets")
    );
    Ok(Figure {
        name: "delay-over-target-epsilon",
        reference: PLAN.reference,
        title: PLAN.title,
        caption,
        legend: names.entries(|style| Swatch::Line(style, true)),
        panels: panels(curves, &y),
        in_threes: false,
    })
}

/// Says how far the delay grows from the smallest to the largest target epsilon that all curves have.
fn growth(series: &[&Series]) -> String {
    let mean_at = |x: f64| {
        let values = series.iter().filter_map(|series| series.points.iter().find(|point| point.x == x));
        Spread::of(values.map(|point| point.y)).filter(|spread| spread.n == series.len())
    };
    let mut shared = series[0].points.iter().filter_map(|point| Some((point.x, mean_at(point.x)?.mean)));
    let (Some(first), Some(last)) = (shared.next(), shared.next_back()) else {
        return format!("{}.", counted(series.len(), "curve"));
    };
    format!(
        "Its mean over {} goes from {:.1} epochs at {} to {:.1} at {}.",
        counted(series.len(), "curve"),
        first.1,
        radius(first.0),
        last.1,
        radius(last.0)
    )
}
