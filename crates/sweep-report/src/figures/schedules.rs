//! The radius that training used in each epoch (paper, Figure 2): recorded, not computed from the schedule's formula.

use super::shared::{Names, counted, fold, largest, radius, schedules, targets};
use super::{Plan, Reason};
use crate::chart::{Axis, Body, Figure, Panel, Series, Style, Swatch, Trace};
use crate::fold::grouped;
use crate::material::{Material, Run};

pub(super) const PLAN: Plan =
    Plan { reference: "Figure 2", title: "Radius used in training over the epochs", draw };

fn draw(material: &Material) -> Result<Figure, Reason> {
    let robust = schedules(material).into_iter().filter(|schedule| schedule != "standard").collect();
    let names = Names::new(robust);
    let curves: Vec<(f64, Vec<Series>)> = targets(material)
        .into_iter()
        .map(|target| (target, series(material, &names, target)))
        .filter(|(_, series)| !series.is_empty())
        .collect();
    if curves.is_empty() {
        return Err("no epoch of a robust run is trained yet".to_owned());
    }
    let all = || curves.iter().flat_map(|(_, series)| series);
    let y = Axis::new("radius (1/255)", 0.0, largest(all()).max(1.0));
    let epochs = all().flat_map(|series| &series.points).map(|point| point.x).fold(0.0, f64::max);
    let x = Axis::new("epoch", 0.0, epochs);
    let caption = caption(&curves) + &names.left_out("schedules");
    let panel = |(target, series)| Panel {
        title: format!("target epsilon {}", radius(target)),
        notes: Vec::new(),
        body: Body::Lines { x: x.clone(), y: y.clone(), series },
    };
    Ok(Figure {
        name: "schedules",
        reference: PLAN.reference,
        title: PLAN.title,
        caption,
        legend: names.entries(|style| Swatch::Line(style, false)),
        panels: curves.into_iter().map(panel).collect(),
        in_threes: false,
    })
}

fn series(material: &Material, names: &Names, target: f64) -> Vec<Series> {
    let runs = material.compared().filter(|run| !run.is_standard && run.target() == target);
    let by_schedule = grouped(runs, |run| run.schedule().to_owned());
    let series = by_schedule.into_iter().filter_map(|(schedule, runs)| {
        let place = names.place(&schedule)?;
        let radii = runs.iter().flat_map(|run: &&Run| {
            run.curve.iter().map(|point| (f64::from(point.epoch), point.epsilon * 255.0, *run))
        });
        Some(Series {
            label: schedule,
            style: Style::nth(place),
            points: fold(radii),
            trace: Trace::Steps,
            markers: false,
            shaded_to: None,
            onset: None,
        })
    });
    series.filter(|series| !series.points.is_empty()).collect()
}

fn caption(curves: &[(f64, Vec<Series>)]) -> String {
    let changing =
        curves.iter().flat_map(|(target, series)| series.iter().map(move |series| (target, series)));
    for (target, series) in changing {
        let above = series.points.iter().find(|point| point.y > 0.0);
        let full = series.points.iter().find(|point| point.y >= target * (1.0 - 1e-9));
        if let (Some(above), Some(full)) = (above, full)
            && full.x > above.x
        {
            return format!(
                "With {}, the first epoch with an attack is number {} and the first at the full {} number {}.",
                series.label,
                above.x,
                radius(*target),
                full.x
            );
        }
    }
    let schedules = curves.iter().map(|(_, series)| series.len()).max().unwrap_or(0);
    let radii: Vec<String> = curves.iter().map(|(target, _)| radius(*target)).collect();
    format!("{} at target epsilon {}.", counted(schedules, "schedule"), radii.join(", "))
}
