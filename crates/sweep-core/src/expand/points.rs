//! The points of a grid, before names are looked up: the matrix, `exclude`, `include` and `overrides`.

use super::condition::{is_at, matches};
use super::overlap;
use crate::file::Sweep;
use crate::grammar::{Presence, default_node, join, shortened};
use crate::node::Node;
use crate::problem::Problem;
use crate::tables::RUN;

/// Most entries without use that are told: finding out why costs a look at every point.
const MOST_TOLD: usize = 20;

/// What `run`, the matrix and `include` say, with the defaults of the top keys, overridden.
pub(super) struct Points {
    pub(super) nodes: Vec<Node>,
    /// Entries that match nothing and so change nothing, where that is a mistake for certain.
    pub(super) faults: Vec<Problem>,
    /// The others.
    pub(super) notes: Vec<Problem>,
}

impl Sweep {
    pub(super) fn points(&self) -> Points {
        let base = base(&[&self.run]);
        let products: Vec<Node> = self.products(&base).collect();
        let idle = self.exclusions_without_use(&products);
        let mut nodes: Vec<Node> = products.into_iter().filter(|point| !self.is_excluded(point)).collect();
        let product = nodes.len();
        for entry in &self.include {
            let mut overlaid = false;
            for point in &mut nodes[..product] {
                overlaid |= self.overlay(entry, point);
            }
            if !overlaid {
                let mut point = base.clone();
                assign(&mut point, entry);
                nodes.push(point);
            }
        }
        // That a `--set` takes a part of the grid is no reason to change the rest of the file.
        let (faults, mut notes) =
            if self.is_changed_by_set { (Vec::new(), idle) } else { (idle, Vec::new()) };
        notes.extend(self.override_points(&mut nodes));
        Points { nodes, faults, notes }
    }

    fn products(&self, base: &Node) -> impl Iterator<Item = Node> {
        let size = if self.axes.is_empty() && !self.include.is_empty() {
            0
        } else {
            self.matrix_size().unwrap_or(0)
        };
        (0..size).map(move |index| {
            let mut point = base.clone();
            let mut rest = size;
            for axis in &self.axes {
                let count = axis.values.len() as u64;
                rest /= count;
                point.set(&axis.key, axis.values[(index / rest % count) as usize].clone());
            }
            point
        })
    }

    fn is_excluded(&self, point: &Node) -> bool {
        self.exclude.iter().any(|entry| matches(entry, point))
    }

    /// Returns the entries of `exclude` that match no point: they look as if they took something out.
    fn exclusions_without_use(&self, products: &[Node]) -> Vec<Problem> {
        let entries = self.exclude.iter().enumerate();
        let idle = entries.filter(|(_, entry)| !products.iter().any(|point| matches(entry, point)));
        idle.take(MOST_TOLD)
            .map(|(index, entry)| without_use(format!("exclude[{index}]"), entry, products))
            .collect()
    }

    /// Adds an entry of `include` to a point, unless that would change a value of the matrix: of the keys that they share
    /// each must have the same value as a whole, as in GitHub Actions.
    fn overlay(&self, entry: &Node, point: &mut Node) -> bool {
        let Node::Map(keys) = entry else { return false };
        let is_axis = |key: &String| self.axes.iter().any(|axis| overlap(&axis.key, key));
        let (fixed, added): (Vec<_>, Vec<_>) = keys.iter().cloned().partition(|(key, _)| is_axis(key));
        let agrees = fixed.iter().all(|(key, value)| is_at(value, point, key));
        if agrees {
            assign(point, &Node::Map(added));
        }
        agrees
    }

    /// Applies `overrides` and returns those that match no point.
    fn override_points(&self, points: &mut [Node]) -> Vec<Problem> {
        let mut notes = Vec::new();
        for (index, entry) in self.overrides.iter().enumerate() {
            let mut is_used = false;
            for point in points.iter_mut().filter(|point| matches(&entry.when, point)) {
                assign(point, &entry.set);
                is_used = true;
            }
            if !is_used && notes.len() < MOST_TOLD {
                notes.push(without_use(format!("overrides[{index}].when"), &entry.when, points));
            }
        }
        notes
    }
}

/// Says that a condition matches no point, and by which of its keys.
fn without_use(path: String, condition: &Node, points: &[Node]) -> Problem {
    let Node::Map(keys) = condition else { return Problem::new(path, "no mapping") };
    let is_alone = |(key, value): &&(String, Node)| {
        let alone = Node::Map(vec![(key.clone(), value.clone())]);
        !points.iter().any(|point| matches(&alone, point))
    };
    let (place, what) = match keys.iter().find(is_alone) {
        Some((key, value)) => (join(&path, key), format!("`{}` is the value of no point", shortened(value))),
        None => (path, format!("no point has all of `{}`", shortened(condition))),
    };
    let expected = "expected what at least one point of the grid has";
    Problem::new(place, format!("{what}, {expected}")).hint(
        "what is not written counts with its default; `input_size`, `micro_batch_size` and the head's rates only where they are written",
    )
}

/// Returns the defaults of the keys of a run under each of `layers` in turn.
pub(super) fn base(layers: &[&Node]) -> Node {
    let defaults = RUN.iter().filter_map(|field| match field.presence {
        Presence::Default(text) => Some((field.name.to_owned(), default_node(text))),
        _ => None,
    });
    let mut base = Node::Map(defaults.collect());
    for layer in layers {
        assign(&mut base, layer);
    }
    base
}

/// Sets each (dotted) key of `entry` in `point`.
fn assign(point: &mut Node, entry: &Node) {
    if let Node::Map(keys) = entry {
        for (key, value) in keys {
            point.set(key, value.clone());
        }
    }
}
