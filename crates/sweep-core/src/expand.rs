//! From a sweep to its grid.
//!
//! The order is part of the contract: the product of the matrix with its first key slowest, in the order in which keys
//! and values are written, less what `exclude` matches; then the points that `include` adds. A run that trains a
//! backbone from scratch stands directly before the first run that needs it. A point equal to an earlier one is dropped.

mod condition;
mod lookup;
mod points;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::budget::resolve_shares;
use crate::dataset::{DatasetSource, DatasetSpec};
use crate::epsilon::Epsilon;
use crate::file::{Definition, Sweep};
use crate::grammar::{Kind, Presence, check, default_node, join};
use crate::micro_batch::{self, MicroBatch};
use crate::node::Node;
use crate::problem::{Collector, Problem, Problems, unknown};
use crate::spec::{Architecture, BackboneSpec, Definitions, Named, Precision, RunId, RunSpec, WeightsSource};
use crate::tables::{BACKBONE, DATASET, RUN};
use crate::validate::validate;
use points::{Points, base};

/// Most runs in one grid.
pub const MAX_RUNS: usize = 100_000;
/// Most comparisons of a point with an entry of `exclude`, `include` or `overrides`.
const MAX_MATCHES: usize = 20_000_000;
/// Most values of all points together.
const MAX_VALUES: usize = 10_000_000;

/// A sweep's runs in order, without duplicates.
#[derive(Clone, Debug, PartialEq)]
pub struct Grid {
    /// Each run with its identity; what a run depends on stands before it.
    pub runs: Vec<(RunId, RunSpec)>,
    /// What may be a slip of the pen and may be none, for the user to judge.
    pub notes: Vec<Problem>,
}

/// What kind of repository on the Hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HubKind {
    /// Weights.
    Model,
    /// Images.
    Dataset,
}

/// Looks at local files and at the Hub on behalf of the expansion, which does no input or output itself.
pub trait Resolve {
    /// Returns where the weights file `path` of a sweep file lies, and its SHA-256; or what is wrong, in words.
    fn weights(&self, path: &Path) -> Result<(PathBuf, String), String>;
    /// Returns where the dataset folder `path` of a sweep file lies, and its digest; or what is wrong, in words.
    fn dataset(&self, path: &Path) -> Result<(PathBuf, String), String>;
    /// Returns where the folder of pictures `path` of a sweep file lies, and its digest; or what is wrong, in words.
    fn pictures(&self, path: &Path) -> Result<(PathBuf, String), String> {
        Err(format!("`{}` is a folder of pictures, which are not looked at here", path.display()))
    }
    /// Returns the commit (40 hexadecimal digits) that a revision of a repository on the Hub means now; or what is
    /// wrong, in words. A resolver that does not reach the Hub gives the revision back as it is.
    fn commit(&self, _kind: HubKind, _repository: &str, revision: &str) -> Result<String, String> {
        Ok(revision.to_owned())
    }
}

impl Sweep {
    /// Returns the number of points of the matrix, before `exclude` and `include`; `None` beyond `u64`.
    pub fn matrix_size(&self) -> Option<u64> {
        self.axes.iter().try_fold(1_u64, |size, axis| size.checked_mul(axis.values.len() as u64))
    }

    /// Expands the sweep into its runs.
    ///
    /// # Errors
    /// A grid of more than [`MAX_RUNS`] points is refused before it is expanded. Otherwise everything wrong with the
    /// points, at once.
    pub fn expand(&self, resolve: &dyn Resolve) -> Result<Grid, Problems> {
        self.check_size()?;
        let mut expansion = Expansion::new(self, resolve);
        let Points { nodes: points, faults, mut notes } = self.points();
        for fault in faults {
            expansion.problems.add(fault);
        }
        for point in &points {
            expansion.add(point);
            if expansion.problems.reports() > 1000 {
                break;
            }
        }
        notes.extend(expansion.note_of_repetitions(points.len()));
        expansion.problems.finish()?;
        if expansion.runs.is_empty() {
            return Err(Problem::new("exclude", "nothing is left of the grid").into());
        }
        Ok(Grid { runs: expansion.runs, notes })
    }

    fn check_size(&self) -> Result<(), Problem> {
        let size = self.matrix_size();
        let entries = self.exclude.len() + self.include.len() + self.overrides.len();
        let text = || size.map_or_else(|| "more than 10^19".to_owned(), |size| size.to_string());
        if size.is_none_or(|size| size > MAX_RUNS as u64) {
            return Err(Problem::new(
                "matrix",
                format!("the grid has {} points, expected at most {MAX_RUNS}", text()),
            ));
        }
        let matches = size.unwrap_or(0).saturating_mul(entries as u64);
        if matches > MAX_MATCHES as u64 || entries > MAX_RUNS {
            let message = format!(
                "{entries} entries of exclude, include and overrides for {} points are too many",
                text()
            );
            return Err(Problem::new("", message));
        }
        let points = size.unwrap_or(0).saturating_add(self.include.len() as u64);
        let values = points.saturating_mul(self.values_of_a_point() as u64);
        if values > MAX_VALUES as u64 {
            let message = format!(
                "the points of the grid have up to {values} values together, expected at most {MAX_VALUES}"
            );
            return Err(Problem::new("matrix", message).hint(
                "shorten long lists in `run`, `matrix`, `include` and `overrides`, or split the sweep",
            ));
        }
        Ok(())
    }

    /// Returns how many values a point has at most, but for the defaults.
    fn values_of_a_point(&self) -> usize {
        let axes = self.axes.iter().filter_map(|axis| axis.values.iter().map(Node::count).max());
        let added = self.include.iter().chain(self.overrides.iter().map(|entry| &entry.set)).map(Node::count);
        // However many entries add to a point, it has no more keys than there are.
        let most = (self.include.len() + self.overrides.len()).min(RUN.len());
        self.run.count() + axes.sum::<usize>() + added.max().unwrap_or(0) * most
    }
}

/// Returns whether two dotted keys are the same, or one lies within the other.
pub(crate) fn overlap(left: &str, right: &str) -> bool {
    let within = |inner: &str, outer: &str| {
        inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    within(left, right) || within(right, left)
}

/// The typed keys of a run, before names are looked up.
#[derive(Deserialize)]
struct RunWire {
    backbone: String,
    dataset: String,
    target_epsilon: Epsilon,
    epsilon_schedule: crate::schedule::EpsilonSchedule,
    seed: u64,
    epochs: u32,
    batch_size: u32,
    #[serde(default, deserialize_with = "written_micro_batch")]
    micro_batch_size: Option<MicroBatch>,
    precision: Precision,
    input_size: Option<u32>,
    optimizer: crate::spec::OptimizerSpec,
    learning_rate_schedule: crate::schedule::LearningRateSchedule,
    clip_norm: Option<f64>,
    ema: Option<crate::spec::EmaSpec>,
    objective: crate::spec::Objective,
    attack: crate::spec::AttackSpec,
    augmentation: crate::dataset::Augmentation,
    validation: crate::spec::ValidationSpec,
    evaluation: crate::spec::EvaluationSpec,
}

/// Reads what is written: the grammar turns `auto` into a null, which is not the same as nothing.
fn written_micro_batch<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<MicroBatch>, D::Error> {
    let images = Option::<u32>::deserialize(deserializer)?;
    Ok(Some(images.map_or(MicroBatch::Auto, MicroBatch::Images)))
}

/// A definition and its canonical form.
#[derive(Clone)]
struct Resolved<T> {
    spec: T,
    canonical: Arc<str>,
}

/// The state of an expansion: what is resolved already.
struct Expansion<'a> {
    sweep: &'a Sweep,
    resolve: &'a dyn Resolve,
    backbones: BTreeMap<String, Option<Resolved<BackboneSpec>>>,
    datasets: BTreeMap<String, Option<Resolved<DatasetSpec>>>,
    /// For each key of a run the value that was checked last, and what came out: neighbours in a grid share most.
    checked: Vec<Option<(Node, Value)>>,
    seen: HashSet<RunId>,
    runs: Vec<(RunId, RunSpec)>,
    /// Points that are runs of earlier ones, and the first such run.
    repeated: usize,
    first_repeated: Option<RunId>,
    problems: Collector,
}

impl<'a> Expansion<'a> {
    fn new(sweep: &'a Sweep, resolve: &'a dyn Resolve) -> Self {
        Self {
            sweep,
            resolve,
            backbones: BTreeMap::new(),
            datasets: BTreeMap::new(),
            checked: vec![None; RUN.len()],
            seen: HashSet::new(),
            runs: Vec::new(),
            repeated: 0,
            first_repeated: None,
            problems: Collector::default(),
        }
    }

    /// Says that points are fewer runs, where they are: whoever wrote them as different may have meant them so.
    fn note_of_repetitions(&self, points: usize) -> Option<Problem> {
        let first = self.first_repeated?.short();
        let (runs, repeated) = (points - self.repeated, self.repeated);
        let message = format!(
            "{points} points are {runs} runs: {repeated} say in other words what an earlier one says, first of them {first}"
        );
        Some(Problem::new("", message).hint(
            "8/510 is 4/255, 24% is an epoch, what is not written is its default; names and micro batches tell no runs apart",
        ))
    }

    fn add(&mut self, point: &Node) {
        let sweep = self.sweep;
        let origin = |key: &str| {
            let in_matrix = sweep.axes.iter().any(|axis| axis.key == key);
            let section = if in_matrix { "matrix" } else { "run" };
            if key.is_empty() { section.to_owned() } else { join(section, key) }
        };
        let Some(wire) = self.wire(point, &origin) else { return };
        let Some(backbone) = self.backbone(&wire.backbone, &origin("backbone")) else { return };
        let before = self.runs.len();
        if let Some(run) = self.finish(wire, backbone, &origin)
            && self.runs.len() == before
        {
            self.repeated += 1;
            self.first_repeated.get_or_insert(run);
        }
    }

    /// Looks the dataset up, checks the run as a whole and adds it.
    fn finish(
        &mut self,
        wire: RunWire,
        backbone: Resolved<BackboneSpec>,
        origin: &dyn Fn(&str) -> String,
    ) -> Option<RunId> {
        let dataset = self.dataset(&wire.dataset, &origin("dataset"))?;
        let definitions = Definitions {
            backbone: Cow::Borrowed(&backbone.canonical),
            dataset: Cow::Borrowed(&dataset.canonical),
        };
        let spec = wire.into_spec(backbone.spec, dataset.spec);
        let faults = validate(&spec);
        if !faults.is_empty() {
            for fault in faults {
                let problem = Problem::new(origin(fault.key), fault.message);
                self.problems.add(match fault.hint {
                    Some(hint) => problem.hint(hint),
                    None => problem,
                });
            }
            return None;
        }
        let id = spec.id_with(&definitions);
        if self.seen.insert(id) {
            self.runs.push((id, spec));
        }
        Some(id)
    }

    /// Checks the keys of a point one by one and gives them their types.
    fn wire(&mut self, point: &Node, origin: &dyn Fn(&str) -> String) -> Option<RunWire> {
        let before = self.problems.reports();
        let mut map = serde_json::Map::new();
        for (index, field) in RUN.iter().enumerate() {
            match point.get(field.name) {
                Some(node) => {
                    let value = match self.checked[index].take() {
                        Some((known, value)) if known == *node => value,
                        _ => check(node, &field.kind, &origin(field.name), &mut self.problems),
                    };
                    // A value with problems must be found wrong again wherever it stands.
                    if self.problems.reports() == before {
                        self.checked[index] = Some((node.clone(), value.clone()));
                    }
                    map.insert(field.name.to_owned(), value);
                }
                None if matches!(field.presence, Presence::Required) => {
                    let message = format!("`{}` is missing, expected {}", field.name, field.kind.accepted());
                    let hint = "give it in `run`, `matrix`, `include` or `overrides`";
                    self.problems.add(Problem::new(origin(""), message).hint(hint));
                }
                None => {}
            }
        }
        if self.problems.reports() > before {
            return None;
        }
        let mut value = Value::Object(map);
        fill_head_rates(&mut value["optimizer"]);
        if let Some(epochs) = value["epochs"].as_u64().and_then(|epochs| u32::try_from(epochs).ok()) {
            resolve_shares(&mut value["epsilon_schedule"], epochs);
        }
        match serde_json::from_value(value) {
            Ok(wire) => Some(wire),
            Err(error) => {
                self.problems.add(Problem::new("run", error.to_string()));
                None
            }
        }
    }

    fn dataset(&mut self, name: &str, path: &str) -> Option<Resolved<DatasetSpec>> {
        if !self.datasets.contains_key(name) {
            let found = self.look_up("dataset", &self.sweep.datasets, name, path);
            let spec = found.and_then(|definition| self.dataset_definition(definition));
            self.datasets.insert(name.to_owned(), spec);
        }
        self.datasets[name].clone()
    }

    fn look_up<'d>(
        &mut self,
        what: &str,
        all: &'d BTreeMap<String, Definition>,
        name: &str,
        path: &str,
    ) -> Option<&'d Definition> {
        let found = all.get(name);
        if found.is_none() {
            let names: Vec<&str> = all.keys().map(String::as_str).collect();
            self.problems.add(unknown(what, path, name, &names));
        }
        found
    }

    fn dataset_definition(&mut self, definition: &Definition) -> Option<Resolved<DatasetSpec>> {
        let value = check(&definition.node, &Kind::Object(DATASET), &definition.path, &mut self.problems);
        let mut spec: DatasetSpec = serde_json::from_value(value).ok()?;
        let are_pictures = matches!(spec.source, DatasetSource::Folder { .. });
        if let DatasetSource::Parquet { path, digest, .. } | DatasetSource::Folder { path, digest, .. } =
            &mut spec.source
        {
            let place = join(&definition.path, "source.path");
            let resolved =
                if are_pictures { self.resolve.pictures(path) } else { self.resolve.dataset(path) };
            let (found, found_digest) = self.report(&place, resolved)?;
            (*path, *digest) = (found, Some(found_digest));
        }
        if let DatasetSource::Hub { repository, revision, .. } = &mut spec.source {
            let place = join(&definition.path, "source");
            let commit = self.resolve.commit(HubKind::Dataset, repository, revision);
            *revision = self.report(&place, commit)?;
        }
        Some(Resolved { canonical: spec.canonical().into(), spec })
    }

    fn report<T>(&mut self, path: &str, result: Result<T, String>) -> Option<T> {
        result.map_err(|message| self.problems.add(Problem::new(path, message))).ok()
    }

    fn backbone(&mut self, name: &str, path: &str) -> Option<Resolved<BackboneSpec>> {
        if !self.backbones.contains_key(name) {
            let found = self.look_up("backbone", &self.sweep.backbones, name, path);
            let spec = found.and_then(|definition| self.backbone_definition(name, definition));
            self.backbones.insert(name.to_owned(), spec);
        }
        self.backbones[name].clone()
    }

    fn backbone_definition(&mut self, name: &str, definition: &Definition) -> Option<Resolved<BackboneSpec>> {
        let mut value =
            check(&definition.node, &Kind::Object(BACKBONE), &definition.path, &mut self.problems);
        let pretraining =
            (value["weights"]["kind"] == "pretrain").then(|| definition.node.at("weights.run")).flatten();
        if pretraining.is_some() {
            value["weights"] = serde_json::json!({ "kind": "random" });
        }
        let mut spec: BackboneSpec = serde_json::from_value(value).ok()?;
        if let WeightsSource::File { path, digest } = &mut spec.weights {
            let place = join(&definition.path, "weights.path");
            let (found, found_digest) = self.report(&place, self.resolve.weights(path))?;
            (*path, *digest) = (found, Some(found_digest));
        }
        if let WeightsSource::Hub { repository, revision, .. } = &mut spec.weights {
            let place = join(&definition.path, "weights");
            let commit = self.resolve.commit(HubKind::Model, repository, revision);
            *revision = self.report(&place, commit)?;
        }
        if let Some(run) = pretraining {
            let (run, training) = self.pretraining(name, definition, run, &spec)?;
            spec.weights = WeightsSource::Run { run, training };
        }
        Some(Resolved { canonical: spec.canonical().into(), spec })
    }

    /// Adds the run that trains a backbone from scratch and returns its two identities. What its definition does not write is a standard training run:
    /// target epsilon 0, no schedule, only clean accuracy measured.
    fn pretraining(
        &mut self,
        name: &str,
        definition: &Definition,
        run: &Node,
        scratch: &BackboneSpec,
    ) -> Option<(RunId, RunId)> {
        let prefix = join(&definition.path, "weights.run");
        let origin = |key: &str| if key.is_empty() { prefix.clone() } else { join(&prefix, key) };
        if run.get("backbone").is_some() {
            let message = "a pretraining run trains the backbone it stands in, expected no `backbone` here";
            self.problems.add(Problem::new(origin("backbone"), message));
            return None;
        }
        let standard =
            default_node("{target_epsilon: 0, epsilon_schedule: {kind: none}, evaluation: {max_epsilon: 0}}");
        let mut point = base(&[&standard, run]);
        point.set("backbone", Node::Text(name.to_owned()));
        let wire = self.wire(&point, &origin)?;
        let scratch = Resolved { canonical: scratch.canonical().into(), spec: scratch.clone() };
        let run = self.finish(wire, scratch, &origin)?;
        let (_, spec) = self.runs.iter().find(|(id, _)| *id == run)?;
        Some((run, spec.training_id()))
    }
}

/// A head without rates of its own learns and decays like the backbone.
fn fill_head_rates(optimizer: &mut Value) {
    for key in ["learning_rate", "weight_decay"] {
        let head = format!("head_{key}");
        if optimizer.get(&head).is_none() {
            optimizer[head] = optimizer[key].clone();
        }
    }
}

impl RunWire {
    fn into_spec(self, backbone: BackboneSpec, dataset: DatasetSpec) -> RunSpec {
        RunSpec {
            input_size: self.input_size.unwrap_or(backbone.architecture.image_size()),
            micro_batch_size: self
                .micro_batch_size
                .unwrap_or_else(|| MicroBatch::Images(micro_batch::usual(self.batch_size))),
            precision: self.precision,
            backbone: Named { name: self.backbone, definition: backbone },
            dataset: Named { name: self.dataset, definition: dataset },
            target_epsilon: self.target_epsilon,
            epsilon_schedule: self.epsilon_schedule,
            epochs: self.epochs,
            batch_size: self.batch_size,
            optimizer: self.optimizer,
            learning_rate_schedule: self.learning_rate_schedule,
            clip_norm: self.clip_norm,
            ema: self.ema,
            objective: self.objective,
            attack: self.attack,
            augmentation: self.augmentation,
            validation: self.validation,
            evaluation: self.evaluation,
            seed: self.seed,
        }
    }
}

impl Architecture {
    /// Returns whether it normalises over the images of a micro batch.
    pub const fn has_batch_norm(&self) -> bool {
        matches!(self, Self::Resnet { .. })
    }

    /// Returns the side of the input that the network was made for, in pixels.
    pub const fn image_size(&self) -> u32 {
        match self {
            Self::Vit(vit) => vit.image_size,
            Self::Swin { image_size, .. }
            | Self::Convnext { image_size, .. }
            | Self::Resnet { image_size, .. } => *image_size,
        }
    }
}
