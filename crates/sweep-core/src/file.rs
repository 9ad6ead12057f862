//! The sweep file: from text to a checked [`Sweep`].
//!
//! Each section is checked against the grammar here; whether the points of the grid make sense is checked when they
//! are expanded (`expand`).

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use crate::expand::overlap;
use crate::grammar::{Field, Kind, Variant, check, join, kinds};
use crate::node::Node;
use crate::problem::{Collector, Problem, Problems, unknown};
use crate::quantity;
use crate::set::Assignment;
use crate::slurm::Executor;
use crate::tables::{BACKBONE, DATASET, EXECUTION, SLURM_KEYS};

/// Keys at the top of a sweep file.
pub(crate) const SECTIONS: [&str; 9] =
    ["name", "run", "matrix", "exclude", "include", "overrides", "backbones", "datasets", "execution"];

/// A sweep file whose sections are well-formed.
#[derive(Clone, Debug)]
pub struct Sweep {
    /// Name of the sweep.
    pub name: String,
    /// Where the grid runs; never part of a run's identity.
    pub execution: Execution,
    pub(crate) run: Node,
    pub(crate) axes: Vec<Axis>,
    pub(crate) exclude: Vec<Node>,
    pub(crate) include: Vec<Node>,
    pub(crate) overrides: Vec<Override>,
    pub(crate) backbones: BTreeMap<String, Definition>,
    pub(crate) datasets: BTreeMap<String, Definition>,
    /// Whether the points are not those that the file says: a `--set` has changed `run` or the matrix.
    pub(crate) is_changed_by_set: bool,
}

/// Where a grid runs, and what it may take.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Execution {
    /// What runs the workers, and what it is asked for.
    #[serde(flatten)]
    pub executor: Executor,
    /// Device slots, such as `cpu:2` or `cuda:0,1`.
    pub devices: Option<String>,
    /// Threads of a CPU worker.
    pub threads: Option<u32>,
    /// Longest time an attempt may take; `None`: any.
    #[serde(default, deserialize_with = "quantity::optional_seconds")]
    pub timeout: Option<Duration>,
    /// Longest time an attempt may live without finishing a step; `None`: any.
    #[serde(deserialize_with = "quantity::optional_seconds")]
    pub stall: Option<Duration>,
    /// How often a checkpoint is written within an epoch.
    #[serde(deserialize_with = "seconds")]
    pub checkpoint_every: Duration,
    /// What stays of a finished run beside its model.
    pub keep_checkpoints: KeepCheckpoints,
    /// Most bytes of checkpoints and models in the home folder; `None`: what is free.
    pub disk_budget: Option<u64>,
}

/// What stays of the checkpoints of a finished run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeepCheckpoints {
    /// The last one: a run with more epochs goes on from it.
    #[default]
    Last,
    /// None: only the model stays.
    None,
}

impl Default for Execution {
    /// What holds where a sweep file says nothing.
    fn default() -> Self {
        let value =
            check(&Node::Map(Vec::new()), &Kind::Object(EXECUTION), "execution", &mut Collector::default());
        serde_json::from_value(value).expect("a test reads the defaults of the table")
    }
}

fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    u64::deserialize(deserializer).map(Duration::from_secs)
}

/// One list of the matrix.
#[derive(Clone, Debug)]
pub(crate) struct Axis {
    /// Key of a run, dotted below the top.
    pub(crate) key: String,
    pub(crate) values: Vec<Node>,
}

/// One entry of `overrides`.
#[derive(Clone, Debug)]
pub(crate) struct Override {
    pub(crate) when: Node,
    pub(crate) set: Node,
}

/// A backbone or dataset as it was written.
#[derive(Clone, Debug)]
pub(crate) struct Definition {
    pub(crate) node: Node,
    /// Where it stands, for messages.
    pub(crate) path: String,
}

impl Sweep {
    /// Reads a sweep file and applies `sets` (`--set` of the command line) to it in order.
    ///
    /// # Errors
    /// Everything wrong with the sections, at once, each with its key path.
    pub fn parse(text: &[u8], sets: &[Assignment]) -> Result<Self, Problems> {
        let text = std::str::from_utf8(text).map_err(|error| {
            Problem::new("", format!("the file is not UTF-8 from byte {}", error.valid_up_to()))
                .hint("save it as UTF-8 text")
        })?;
        let mut root = Node::parse(text)?;
        if !matches!(root, Node::Map(_)) {
            let message = format!("the file is {}, expected a mapping with `name` and `run`", root.kind());
            return Err(Problem::new("", message).into());
        }
        let mut problems = Collector::default();
        for assignment in sets {
            if let Err(problem) = assignment.apply(&mut root) {
                problems.add(problem);
            }
        }
        let mut sweep = Self::from_root(&root, &mut problems);
        problems.finish()?;
        sweep.is_changed_by_set = sets.iter().any(|set| ["run", "matrix"].contains(&set.section()));
        Ok(sweep)
    }

    fn from_root(root: &Node, problems: &mut Collector) -> Self {
        let Node::Map(entries) = root else { unreachable!("the caller checked it") };
        for (key, _) in entries.iter().filter(|(key, _)| !SECTIONS.contains(&key.as_str())) {
            problems.add(unknown("key", "", key, &SECTIONS));
        }
        let builtin =
            Node::parse(include_str!("builtin.yaml")).expect("a test reads the built-in definitions");
        let mut backbones = definitions(&builtin, "backbones", BACKBONE, "built-in ", problems);
        backbones.extend(definitions(root, "backbones", BACKBONE, "", problems));
        let mut datasets = definitions(&builtin, "datasets", DATASET, "built-in ", problems);
        datasets.extend(definitions(root, "datasets", DATASET, "", problems));
        let sweep = Self {
            name: name(root, problems),
            execution: execution(root, problems),
            run: run(root, problems),
            axes: axes(root, problems),
            exclude: entries_of(root, "exclude", problems),
            include: entries_of(root, "include", problems),
            overrides: overrides(root, problems),
            backbones,
            datasets,
            is_changed_by_set: false,
        };
        sweep.check_names(problems);
        sweep
    }

    /// Refuses names that nothing defines in the places that only compare with them: there a slip of the pen would match
    /// nothing and change nothing.
    fn check_names(&self, problems: &mut Collector) {
        let excluded =
            self.exclude.iter().enumerate().map(|(index, node)| (format!("exclude[{index}]"), node));
        let when = self
            .overrides
            .iter()
            .enumerate()
            .map(|(index, entry)| (format!("overrides[{index}].when"), &entry.when));
        for (path, node) in excluded.chain(when) {
            for (key, defined) in [("backbone", &self.backbones), ("dataset", &self.datasets)] {
                if let Some(Node::Text(name)) = node.get(key)
                    && !defined.contains_key(name)
                {
                    let names: Vec<&str> = defined.keys().map(String::as_str).collect();
                    problems.add(unknown(key, &join(&path, key), name, &names));
                }
            }
        }
    }
}

fn name(root: &Node, problems: &mut Collector) -> String {
    match root.get("name") {
        Some(Node::Text(name)) if is_sweep_name(name) => return name.clone(),
        Some(node) => problems.add(Problem::new(
            "name",
            format!("`{node}` is no name of a sweep, expected letters, digits, `.`, `_` and `-`"),
        )),
        None => problems.add(Problem::new("", "`name` is missing, expected a short name such as `paper`")),
    }
    String::new()
}

fn is_sweep_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=100).contains(&name.len()) && name.bytes().all(allowed)
}

fn execution(root: &Node, problems: &mut Collector) -> Execution {
    let empty = Node::Map(Vec::new());
    let node = present(root, "execution").unwrap_or(&empty);
    refuse_keys_without_slurm(node, problems);
    let value = check(node, &Kind::Object(EXECUTION), "execution", problems);
    serde_json::from_value(value).unwrap_or_default()
}

/// Refuses keys that only count for Slurm where something else runs the workers: there they would change nothing.
fn refuse_keys_without_slurm(node: &Node, problems: &mut Collector) {
    let Node::Map(entries) = node else { return };
    if matches!(node.get("executor"), Some(Node::Text(executor)) if executor != "local") {
        return;
    }
    for (key, _) in entries.iter().filter(|(key, _)| SLURM_KEYS.contains(&key.as_str())) {
        let message = format!("`{key}` only counts where Slurm runs the workers, and `executor` is local");
        problems.add(
            Problem::new(join("execution", key), message)
                .hint("write `executor: slurm`, or give it as a flag of `sweep run --executor slurm`"),
        );
    }
}

/// Returns a section unless it is missing or written as nothing.
fn present<'a>(root: &'a Node, section: &str) -> Option<&'a Node> {
    root.get(section).filter(|node| !matches!(node, Node::Null))
}

fn definitions(
    root: &Node,
    section: &str,
    fields: &'static [Field],
    origin: &str,
    problems: &mut Collector,
) -> BTreeMap<String, Definition> {
    let mut found = BTreeMap::new();
    let Some(node) = present(root, section) else { return found };
    let Node::Map(entries) = node else {
        problems.add(Problem::new(
            section,
            format!("`{node}` is {}, expected a mapping from names to definitions", node.kind()),
        ));
        return found;
    };
    for (name, node) in entries {
        let path = format!("{origin}{section}.{name}");
        check(&Node::Text(name.clone()), &Kind::Name, &path, problems);
        check(node, &Kind::Object(fields), &path, problems);
        found.insert(name.clone(), Definition { node: node.clone(), path });
    }
    found
}

fn run(root: &Node, problems: &mut Collector) -> Node {
    let node = present(root, "run").cloned().unwrap_or_else(|| Node::Map(Vec::new()));
    check(&node, &Kind::PartialRun, "run", problems);
    if matches!(node, Node::Map(_)) { node } else { Node::Map(Vec::new()) }
}

fn axes(root: &Node, problems: &mut Collector) -> Vec<Axis> {
    let mut axes: Vec<Axis> = Vec::new();
    let Some(node) = present(root, "matrix") else { return axes };
    let Node::Map(entries) = node else {
        problems.add(Problem::new(
            "matrix",
            format!("`{node}` is {}, expected a mapping from keys of a run to lists", node.kind()),
        ));
        return axes;
    };
    for (key, node) in entries {
        let path = join("matrix", key);
        let Some(kind) = known_key(key, node, "matrix", problems) else { continue };
        match node {
            Node::List(values) if values.is_empty() => {
                problems.add(Problem::new(path, "the list is empty, expected at least one value"));
            }
            Node::List(values) => {
                let mut seen = HashSet::new();
                for (index, value) in values.iter().enumerate() {
                    let place = format!("{path}[{index}]");
                    check(value, kind, &place, problems);
                    if !seen.insert(value.to_string()) {
                        problems.add(Problem::new(place, format!("`{value}` stands twice in the list")));
                    }
                }
                if let Some(other) = axes.iter().find(|axis| overlap(&axis.key, key)) {
                    let message = format!(
                        "`{key}` and `{}` set the same key, so one would overwrite the other",
                        other.key
                    );
                    problems.add(Problem::new(path, message).hint("write whole mappings in one list"));
                    continue;
                }
                axes.push(Axis { key: key.clone(), values: values.clone() });
            }
            other => {
                let problem = Problem::new(path, format!("`{other}` is {}, expected a list", other.kind()));
                problems.add(problem.hint(format!("write [{other}], or move the key to `run`")));
            }
        }
    }
    axes
}

/// Returns the kind of a key of a run, dotted below the top.
fn known_key(key: &str, value: &Node, path: &str, problems: &mut Collector) -> Option<&'static Kind> {
    static PARTIAL: Kind = Kind::PartialRun;
    let kind = PARTIAL.below(key);
    if kind.is_none() {
        let (parent, last) = key.rsplit_once('.').unwrap_or(("", key));
        let siblings = if parent.is_empty() { Some(&PARTIAL) } else { PARTIAL.below(parent) };
        let names: Vec<&str> = siblings.unwrap_or(&PARTIAL).fields().map(|field| field.name).collect();
        let problem = unknown("key", path, last, &names);
        problems.add(match siblings {
            Some(Kind::Tagged(_)) if last == "kind" => problem.hint(whole_mapping(parent, value)),
            _ => problem,
        });
    }
    kind
}

/// Says how the `kind` of a mapping is written: it decides which other keys there are, so that it is no key by itself.
fn whole_mapping(key: &str, kind: &Node) -> String {
    match kind {
        Node::List(kinds) => {
            let kinds: Vec<String> = kinds.iter().map(|kind| format!("{{kind: {kind}}}")).collect();
            format!("write {key}: [{}]", kinds.join(", "))
        }
        kind => format!("write {key}: {{kind: {kind}}}"),
    }
}

/// Reads `include` or `exclude`: a list of mappings from keys of a run to values.
fn entries_of(root: &Node, section: &str, problems: &mut Collector) -> Vec<Node> {
    let Some(node) = present(root, section) else { return Vec::new() };
    let Node::List(entries) = node else {
        problems
            .add(Problem::new(section, format!("`{node}` is {}, expected a list of mappings", node.kind())));
        return Vec::new();
    };
    for (index, entry) in entries.iter().enumerate() {
        check_keys(entry, &format!("{section}[{index}]"), section == "include", problems);
    }
    entries.clone()
}

/// Checks a mapping from keys of a run to values, which are complete ones or patterns to compare with.
fn check_keys(node: &Node, path: &str, complete: bool, problems: &mut Collector) {
    let Node::Map(entries) = node else {
        problems.add(Problem::new(
            path,
            format!("`{node}` is {}, expected a mapping of keys of a run", node.kind()),
        ));
        return;
    };
    if entries.is_empty() {
        problems.add(Problem::new(path, "the mapping is empty, expected at least one key of a run"));
    }
    for (key, value) in entries {
        let Some(kind) = known_key(key, value, path, problems) else { continue };
        let place = join(path, key);
        if complete {
            check(value, kind, &place, problems);
        } else {
            check_pattern(value, kind, &place, problems);
        }
    }
}

/// Checks a value to compare with: like a value, but of a mapping any part may be given.
fn check_pattern(node: &Node, kind: &Kind, path: &str, problems: &mut Collector) {
    let Node::Map(entries) = node else {
        check(node, kind, path, problems);
        return;
    };
    for (key, value) in entries {
        let place = join(path, key);
        match (kind, fitting(node, key, value, kind)) {
            (_, Some(below)) => check_pattern(value, below, &place, problems),
            (Kind::Tagged(variants), None) if key == "kind" => {
                let kinds = kinds(variants);
                if !matches!(value, Node::Text(text) if kinds.contains(&text.as_str())) {
                    problems.add(unknown("kind", &place, &value.to_string(), &kinds));
                }
            }
            (kind, None) => {
                let names: Vec<&str> = kind.fields().map(|field| field.name).collect();
                problems.add(unknown("key", path, key, &names));
            }
        }
    }
}

/// Returns the kind that the value of `key` in `node` is checked against. Variants of a tagged mapping may mean different
/// things by one key: the variant that is named counts, or the first that takes the value, or the first.
fn fitting<'a>(node: &Node, key: &str, value: &Node, kind: &'a Kind) -> Option<&'a Kind> {
    let Kind::Tagged(variants) = kind else { return kind.below(key) };
    let named = |variant: &&Variant| match node.get("kind") {
        Some(Node::Text(tag)) => tag == variant.kind,
        _ => true,
    };
    let fields = variants.iter().filter(named).flat_map(|variant| variant.fields);
    let kinds: Vec<&Kind> = fields.filter(|field| field.name == key).map(|field| &field.kind).collect();
    let takes = |kind: &&&Kind| {
        let mut problems = Collector::default();
        check_pattern(value, kind, "", &mut problems);
        problems.reports() == 0
    };
    kinds.iter().find(takes).or(kinds.first()).copied()
}

fn overrides(root: &Node, problems: &mut Collector) -> Vec<Override> {
    let Some(node) = present(root, "overrides") else { return Vec::new() };
    let Node::List(entries) = node else {
        problems.add(Problem::new(
            "overrides",
            format!("`{node}` is {}, expected a list of {{when, set}}", node.kind()),
        ));
        return Vec::new();
    };
    let mut found = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        let path = format!("overrides[{index}]");
        if let Node::Map(keys) = entry {
            for (key, _) in keys.iter().filter(|(key, _)| key != "when" && key != "set") {
                problems.add(unknown("key", &path, key, &["when", "set"]));
            }
        }
        match (entry.get("when"), entry.get("set")) {
            (Some(when), Some(set)) => {
                check_keys(when, &join(&path, "when"), false, problems);
                check_keys(set, &join(&path, "set"), true, problems);
                found.push(Override { when: when.clone(), set: set.clone() });
            }
            _ => problems.add(Problem::new(path, "an override needs both `when` and `set`")),
        }
    }
    found
}
