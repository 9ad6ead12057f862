//! Expected robustness over the two ends of the ramp, T1 and T2 (paper, Table 7).

use sweep_core::schedule::Granularity;

use super::shared::{percent, radius};
use super::{Plan, Reason};
use crate::chart::{Body, Cell, Figure, Panel};
use crate::fold::{Spread, grouped};
use crate::material::{Material, Ramp, Run, one_a_seed};

pub(super) const PLAN: Plan = Plan {
    reference: "Table 7",
    title: "Expected robustness (%) over the ramp's first epoch T1 and its last T2",
    draw,
};

/// Different first and last epochs that a map needs.
const LEAST: usize = 2;

/// One configuration's ablation: a mean a ramp.
struct Map {
    title: String,
    cells: Vec<((u32, u32), Cell)>,
}

fn draw(material: &Material) -> Result<Figure, Reason> {
    let ramps = material.compared().filter(|run| !run.is_standard && run.ramp.is_some());
    let key = |run: &&Run| (run.subject(), run.result.dataset.clone(), run.target().to_bits());
    let maps: Vec<Map> = grouped(ramps, key)
        .into_iter()
        .flat_map(|((subject, dataset, target), runs)| {
            maps(&format!("{subject}, {dataset}, {}", radius(f64::from_bits(target))), &runs)
        })
        .filter(|map| {
            ends(map, first).len() >= LEAST && ends(map, last).len() >= LEAST && map.cells.len() > LEAST
        })
        .collect();
    let Some(caption) = caption(&maps) else {
        return Err("needs finished runs of three ramps with different beginnings and ends".to_owned());
    };
    Ok(Figure {
        name: "ablation",
        reference: PLAN.reference,
        title: PLAN.title,
        caption,
        legend: Vec::new(),
        panels: maps.iter().map(panel).collect(),
        in_threes: false,
    })
}

/// Returns a map for ramps whose epsilon changes with every epoch, and another for those where it does with every step. What
/// has no ramp between its ends is in both.
fn maps(title: &str, runs: &[&Run]) -> Vec<Map> {
    let map = |(per, ending): (Granularity, &str)| {
        let ramps = || runs.iter().filter_map(|run| Some((run.ramp?, *run)));
        let is_own = |ramp: &Ramp| ramp.per.is_none_or(|other| other == per);
        ramps().any(|(ramp, _)| ramp.per == Some(per)).then(|| Map {
            title: format!("{title}{ending}"),
            cells: cells(ramps().filter(|(ramp, _)| is_own(ramp))),
        })
    };
    [(Granularity::Epoch, ""), (Granularity::Step, ", per step")].into_iter().filter_map(map).collect()
}

fn cells<'a>(runs: impl Iterator<Item = (Ramp, &'a Run)>) -> Vec<((u32, u32), Cell)> {
    let with_value = runs.filter(|(_, run)| run.result.expected_robustness.is_some());
    let cell = |(ends, runs): ((u32, u32), Vec<(Ramp, &Run)>)| {
        // One training may go by two names, such as `warmup 12` and `ramp 0-12`.
        let runs = one_a_seed(runs.into_iter().map(|(_, run)| run));
        let value = percent(Spread::of(runs.iter().filter_map(|run| run.result.expected_robustness))?.mean);
        Some((ends, Cell { value, run: runs[0].result.id }))
    };
    grouped(with_value, |(ramp, _)| (ramp.start, ramp.end)).into_iter().filter_map(cell).collect()
}

const fn first(ramp: (u32, u32)) -> u32 {
    ramp.0
}

const fn last(ramp: (u32, u32)) -> u32 {
    ramp.1
}

/// Returns the different beginnings or ends, the smallest first.
fn ends(map: &Map, end: fn((u32, u32)) -> u32) -> Vec<u32> {
    let mut ends: Vec<u32> = map.cells.iter().map(|(ramp, _)| end(*ramp)).collect();
    ends.sort_unstable();
    ends.dedup();
    ends
}

fn panel(map: &Map) -> Panel {
    let (rows, columns) = (ends(map, first), ends(map, last));
    let at = |ramp: (u32, u32)| map.cells.iter().find(|(other, _)| *other == ramp).map(|(_, cell)| *cell);
    let row = |start: &u32| columns.iter().map(|end| at((*start, *end))).collect();
    let cells = rows.iter().map(row).collect();
    let names = |ends: &[u32]| ends.iter().map(u32::to_string).collect();
    Panel {
        title: map.title.clone(),
        notes: Vec::new(),
        body: Body::Heat {
            x_label: "T2 (epochs)".to_owned(),
            y_label: "T1 (epochs)".to_owned(),
            columns: names(&columns),
            rows: names(&rows),
            cells,
        },
    }
}

fn caption(maps: &[Map]) -> Option<String> {
    let all =
        || maps.iter().flat_map(|map| map.cells.iter().map(move |(ramp, cell)| (cell.value, *ramp, map)));
    let most = all().max_by(|left, right| left.0.total_cmp(&right.0))?;
    let least = all().min_by(|left, right| left.0.total_cmp(&right.0))?;
    let words = |(value, (start, end), map): (f64, (u32, u32), &Map)| {
        format!("{value:.1} % at T1 = {start}, T2 = {end} ({})", map.title)
    };
    Some(format!("The most is {}, the least {}.", words(most), words(least)))
}
