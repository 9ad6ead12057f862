//! What several figures have in common.

use std::collections::BTreeMap;

use crate::chart::{CURVES, Entry, Point, Series, Style, Swatch};
use crate::fold::{Spread, distinct, evenly, grouped};
use crate::material::{Material, Onset, Run};

/// Series of a panel, at most.
pub(super) const SERIES: usize = CURVES;

/// Which of several names a series has, and the style that it keeps in every panel.
pub(super) struct Names {
    names: Vec<String>,
    /// Place of each name that is drawn.
    places: BTreeMap<String, usize>,
}

impl Names {
    /// Takes the names in order; of more than fit a panel, some that are spread evenly, with the first and the last.
    pub(super) fn new(names: Vec<String>) -> Self {
        Self::at_most(names, SERIES)
    }

    /// The same with another limit.
    pub(super) fn at_most(names: Vec<String>, most: usize) -> Self {
        let chosen = evenly(names.len(), most);
        let places = chosen.iter().zip(0..).map(|(index, place)| (names[*index].clone(), place)).collect();
        Self { names, places }
    }

    /// Returns the place of a name, if it is drawn.
    pub(super) fn place(&self, name: &str) -> Option<usize> {
        self.places.get(name).copied()
    }

    /// Returns the names that are drawn, in order.
    pub(super) fn drawn(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str).filter(|name| self.places.contains_key(*name))
    }

    /// Returns legend entries, one a name.
    pub(super) fn entries(&self, swatch: impl Fn(Style) -> Swatch) -> Vec<Entry> {
        let entry = |(place, name): (usize, &str)| Entry {
            label: name.to_owned(),
            swatch: swatch(Style::nth(place)),
        };
        self.drawn().enumerate().map(entry).collect()
    }

    /// Returns what a caption says where names are not drawn.
    pub(super) fn left_out(&self, what: &str) -> String {
        let (drawn, all) = (self.places.len(), self.names.len());
        if drawn == all { String::new() } else { format!(" Drawn are {drawn} of {all} {what}.") }
    }
}

/// Returns runs that stand for one point of a figure, folded: `value` over `x`, by increasing x.
pub(super) fn points<'a>(
    runs: impl IntoIterator<Item = &'a Run>,
    x: impl Fn(&Run) -> f64,
    value: impl Fn(&Run) -> Option<f64>,
) -> Vec<Point> {
    let values = runs.into_iter().filter_map(|run| Some((x(run), value(run)?, run)));
    fold(values)
}

/// Folds values at places into points, by increasing place.
pub(super) fn fold<'a>(values: impl IntoIterator<Item = (f64, f64, &'a Run)>) -> Vec<Point> {
    let mut points: Vec<Point> = grouped(values, |(x, _, _)| x.to_bits())
        .into_iter()
        .filter_map(|(x, members)| {
            let Spread { mean, deviation, n } = Spread::of(members.iter().map(|(_, value, _)| *value))?;
            let run = members.iter().find(|(_, value, _)| value.is_finite())?.2.result.id;
            Some(Point { x: f64::from_bits(x), y: mean, deviation, n, run })
        })
        .collect();
    points.sort_by(|left, right| left.x.total_cmp(&right.x));
    points
}

/// Returns the schedules of the runs in order, standard fine-tuning last.
pub(super) fn schedules(material: &Material) -> Vec<String> {
    let all = material.compared().map(|run| (run.is_standard, run.schedule().to_owned()));
    let mut schedules = distinct(all);
    schedules.sort_by_key(|(is_standard, _)| *is_standard);
    schedules.into_iter().map(|(_, schedule)| schedule).collect()
}

/// Returns the datasets of the runs in order.
pub(super) fn datasets(material: &Material) -> Vec<String> {
    distinct(material.compared().map(|run| run.result.dataset.clone()))
}

/// Returns the target epsilons of robust runs, the smallest first, in 255ths.
pub(super) fn targets(material: &Material) -> Vec<f64> {
    let mut targets: Vec<u64> =
        material.compared().filter(|run| !run.is_standard).map(|run| run.target().to_bits()).collect();
    // The bits of positive numbers are ordered like the numbers.
    targets.sort_unstable();
    targets.dedup();
    targets.into_iter().map(f64::from_bits).collect()
}

/// Returns a fraction as a percentage.
pub(super) fn percent(fraction: f64) -> f64 {
    fraction * 100.0
}

/// Returns a count with its noun.
pub(super) fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// Returns a radius in 255ths as people write it.
pub(super) fn radius(target: f64) -> String {
    if target == 0.0 { "0".to_owned() } else { format!("{}/255", (target * 100.0).round() / 100.0) }
}

/// Returns what the epochs to the onset of learning are called.
pub(super) const fn onset_words(onset: Onset) -> &'static str {
    match onset {
        Onset::FivePercent => "validation accuracy above 5 %",
        Onset::AboveChance => "validation accuracy clearly above chance",
    }
}

/// Returns the largest y of some series, with its deviation.
pub(super) fn largest<'a>(series: impl IntoIterator<Item = &'a Series>) -> f64 {
    let points = series.into_iter().flat_map(|series| &series.points);
    points.map(|point| point.y + point.deviation).fold(0.0, f64::max)
}
