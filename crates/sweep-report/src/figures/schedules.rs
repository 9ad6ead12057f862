//! The radius that training used in each epoch (paper, Figure 2): recorded, not computed from the schedule's formula.

use std::collections::{BTreeMap, BTreeSet};

use super::shared::{Names, counted, fold, largest, radius, schedules, targets};
use super::{Plan, Reason};
use crate::chart::{Axis, Body, Figure, Panel, Series, Style, Swatch, Trace};
use crate::fold::{distinct, grouped};
use crate::material::{Material, Run};

pub(super) const PLAN: Plan =
    Plan { reference: "Figure 2", title: "Radius used in training over the epochs", draw };

/// The curves of one panel.
struct Curves {
    title: String,
    target: f64,
    series: Vec<Series>,
}

fn draw(material: &Material) -> Result<Figure, Reason> {
    let robust = schedules(material).into_iter().filter(|schedule| schedule != "standard").collect();
    let names = Names::new(robust);
    let curves: Vec<Curves> = targets(material)
        .into_iter()
        .flat_map(|target| settings(material, target))
        .map(|(title, target, runs)| Curves { title, target, series: series(runs, &names) })
        .filter(|curves| !curves.series.is_empty())
        .collect();
    if curves.is_empty() {
        return Err("no epoch of a robust run is trained yet".to_owned());
    }
    let all = || curves.iter().flat_map(|curves| &curves.series);
    let y = Axis::new("radius (1/255)", 0.0, largest(all()).max(1.0));
    let epochs = all().flat_map(|series| &series.points).map(|point| point.x).fold(0.0, f64::max);
    let x = Axis::new("epoch", 0.0, epochs);
    let caption = caption(&curves) + &names.left_out("schedules");
    let panel = |Curves { title, series, .. }| Panel {
        title,
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

/// The runs of one panel, with its title and target epsilon.
type Setting<'a> = (String, f64, Vec<&'a Run>);

/// Returns the runs of a target epsilon: together where their schedule alone says which radii they used, by backbone and
/// dataset where it does not (a ramp that finds its own beginning, or that rises with every step).
fn settings(material: &Material, target: f64) -> Vec<Setting<'_>> {
    let runs = material.compared().filter(|run| !run.is_standard && run.target() == target);
    let by_schedule = grouped(runs, |run| run.schedule().to_owned()).into_iter();
    let (alike, apart): (Vec<_>, Vec<_>) =
        by_schedule.map(|(_, runs)| runs).partition(|runs| are_alike(runs));
    let title = format!("target epsilon {}", radius(target));
    let mut settings = vec![(title.clone(), target, alike.concat())];
    let key = |run: &&Run| (run.subject(), run.result.dataset.clone());
    for ((subject, dataset), runs) in grouped(apart.concat(), key) {
        settings.push((format!("{title}, {subject}, {dataset}"), target, runs));
    }
    settings
}

/// Returns whether runs of the same seed used the same radius in every epoch.
fn are_alike(runs: &[&Run]) -> bool {
    let mut known = BTreeMap::new();
    radii(runs).all(|(seed, epoch, radius, _)| *known.entry((seed, epoch)).or_insert(radius) == radius)
}

/// Returns seed, epoch and radius, in 255ths, of every epoch of the runs.
fn radii<'a>(runs: &[&'a Run]) -> impl Iterator<Item = (u64, u32, f64, &'a Run)> {
    let of_run = |run: &&'a Run| {
        let run = *run;
        run.curve.iter().map(move |point| (run.result.seed, point.epoch, point.epsilon * 255.0, run))
    };
    runs.iter().flat_map(of_run)
}

fn series(runs: Vec<&Run>, names: &Names) -> Vec<Series> {
    let by_schedule = grouped(runs, |run| run.schedule().to_owned());
    let series = by_schedule.into_iter().filter_map(|(schedule, runs)| {
        let place = names.place(&schedule)?;
        // Runs of one seed are alike, so that one of them says it for all.
        let mut seen = BTreeSet::new();
        let radii = radii(&runs).filter(|(seed, epoch, ..)| seen.insert((*seed, *epoch)));
        let radii = radii.map(|(_, epoch, radius, run)| (f64::from(epoch), radius, run));
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

fn caption(curves: &[Curves]) -> String {
    let changing = curves.iter().flat_map(|curves| curves.series.iter().map(move |series| (curves, series)));
    for (Curves { title, target, .. }, series) in changing {
        let above = series.points.iter().find(|point| point.y > 0.0);
        let full = series.points.iter().find(|point| point.y >= target * (1.0 - 1e-9));
        if let (Some(above), Some(full)) = (above, full)
            && full.x > above.x
        {
            return format!(
                "With {} at {title}, the first epoch with an attack is number {} and the first at the full radius number {}.",
                series.label, above.x, full.x
            );
        }
    }
    let schedules = distinct(curves.iter().flat_map(|curves| &curves.series).map(|series| &series.label));
    let radii = distinct(curves.iter().map(|curves| radius(curves.target)));
    format!("{} at target epsilon {}.", counted(schedules.len(), "schedule"), radii.join(", "))
}
