//! Accuracies averaged over backbones and over datasets, one bar a schedule (paper, Figure 5 and Tables 10 and 11).

use super::shared::{Names, counted, percent, radius, schedules, targets};
use super::{Plan, Reason};
use crate::chart::{Axis, Bar, Body, Figure, Group, Panel, Style, Swatch};
use crate::fold::{Spread, grouped};
use crate::material::{Material, Run};

pub(super) const PLAN: Plan =
    Plan { reference: "Figure 5", title: "Test accuracies averaged over datasets and over backbones", draw };

/// What is averaged.
#[derive(Clone, Copy)]
struct Metric {
    name: &'static str,
    of: fn(&Run) -> Option<f64>,
}

const METRICS: [Metric; 3] = [
    Metric { name: "clean", of: |run| run.result.clean },
    Metric { name: "robust at the target", of: |run| run.result.robust },
    Metric { name: "expected robustness", of: |run| run.result.expected_robustness },
];

/// The runs of one backbone, dataset and target that every schedule has, by schedule.
struct Setting<'a> {
    subject: String,
    dataset: String,
    by_schedule: Vec<Vec<&'a Run>>,
}

fn draw(material: &Material) -> Result<Figure, Reason> {
    let robust = schedules(material).into_iter().filter(|schedule| schedule != "standard").collect();
    let names = Names::new(robust);
    let by_target: Vec<(f64, Vec<Setting<'_>>)> = targets(material)
        .into_iter()
        .map(|target| (target, settings(material, &names, target)))
        .filter(|(_, settings)| !settings.is_empty())
        .collect();
    if by_target.is_empty() {
        return Err(
            "no backbone and dataset has finished under every schedule at one target epsilon".to_owned()
        );
    }
    let mut panels = Vec::new();
    for (target, settings) in &by_target {
        for (what, key) in [("backbone", subject as fn(&Setting<'_>) -> String), ("dataset", dataset)] {
            let groups = grouped(settings, |setting| key(setting));
            panels.extend(METRICS.map(|metric| panel(*target, what, metric, &groups)));
        }
    }
    share_axis(&mut panels);
    Ok(Figure {
        name: "aggregated",
        reference: PLAN.reference,
        title: PLAN.title,
        caption: caption(&by_target, &names) + &names.left_out("schedules"),
        legend: names.entries(Swatch::Bar),
        panels,
        in_threes: true,
    })
}

fn subject(setting: &Setting<'_>) -> String {
    setting.subject.clone()
}

fn dataset(setting: &Setting<'_>) -> String {
    setting.dataset.clone()
}

/// Returns the settings in which every schedule has every metric, so that averages compare like with like.
fn settings<'a>(material: &'a Material, names: &Names, target: f64) -> Vec<Setting<'a>> {
    let runs = material.compared().filter(|run| !run.is_standard && run.target() == target);
    let has_all = |run: &&Run| METRICS.iter().all(|metric| (metric.of)(run).is_some());
    let groups = grouped(runs.filter(has_all), |run| (run.subject(), run.result.dataset.clone()));
    let setting = |((subject, dataset), runs): ((String, String), Vec<&'a Run>)| {
        let of = |name: &str| runs.iter().filter(|run| run.schedule() == name).copied().collect();
        Setting { subject, dataset, by_schedule: names.drawn().map(of).collect() }
    };
    let is_complete = |setting: &Setting<'_>| setting.by_schedule.iter().all(|runs| !runs.is_empty());
    groups.into_iter().map(setting).filter(is_complete).collect()
}

fn panel(target: f64, what: &str, metric: Metric, groups: &[(String, Vec<&Setting<'_>>)]) -> Panel {
    let group = |(label, settings): &(String, Vec<&Setting<'_>>)| {
        let schedules = settings.first().map_or(0, |setting| setting.by_schedule.len());
        let bars = (0..schedules).map(|schedule| bar(settings, schedule, metric)).collect();
        Group { label: label.clone(), bars }
    };
    let axis = Axis { label: format!("{} (%)", metric.name), low: 0.0, high: 100.0, ticks: Vec::new() };
    Panel {
        title: format!("{}, by {what}, {}", metric.name, radius(target)),
        notes: Vec::new(),
        body: Body::Bars { x: axis, groups: groups.iter().map(group).collect() },
    }
}

/// Averages settings, each of them the mean over its seeds.
fn bar(settings: &[&Setting<'_>], schedule: usize, metric: Metric) -> Option<Bar> {
    let mean = |setting: &&Setting<'_>| {
        Spread::of(setting.by_schedule[schedule].iter().filter_map(|run| (metric.of)(run)))
    };
    let value = Spread::of(settings.iter().filter_map(mean).map(|spread| percent(spread.mean)))?.mean;
    let run = settings.first()?.by_schedule[schedule].first()?.result.id;
    Some(Bar { style: Style::nth(schedule), value, run })
}

/// Gives all panels one axis, with room for the numbers behind the bars.
fn share_axis(panels: &mut [Panel]) {
    let values = panels.iter().flat_map(|panel| match &panel.body {
        Body::Bars { groups, .. } => groups.as_slice(),
        _ => &[],
    });
    let longest = values.flat_map(|group| &group.bars).flatten().map(|bar| bar.value).fold(0.0, f64::max);
    for panel in panels {
        if let Body::Bars { x, .. } = &mut panel.body {
            let shown = Axis::percent(&x.label, longest);
            *x = Axis { high: shown.high * 1.18, ..shown };
        }
    }
}

fn caption(by_target: &[(f64, Vec<Setting<'_>>)], names: &Names) -> String {
    let expected = METRICS[2];
    let sentences = by_target.iter().map(|(target, settings)| {
        let all: Vec<&Setting<'_>> = settings.iter().collect();
        let means = names.drawn().enumerate().filter_map(|(schedule, name)| {
            Some(format!("{:.1} % with {name}", bar(&all, schedule, expected)?.value))
        });
        let means: Vec<String> = means.collect();
        format!(
            "At {}, over the {} that are complete, expected robustness is {}.",
            radius(*target),
            counted(settings.len(), "setting"),
            means.join(", ")
        )
    });
    sentences.collect::<Vec<_>>().join(" ")
}
