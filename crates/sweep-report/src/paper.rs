//! Our numbers beside the published ones (arXiv 2509.23325; `data/published.csv` says where each comes from).
//!
//! A configuration counts as the paper's where it starts from the same weights (by their repository on the Hub, the
//! paper's Table 5), the dataset has the same name and its test split the published size, objective, norm of the attacks,
//! target epsilon and epsilon schedule agree. Robust numbers are compared where they were measured with the paper's attack.
//! What else differs from the grid `paper` (see [`Other`]) is said beside the numbers.

use std::fmt;

use serde::{Deserialize, Serialize};
use sweep_core::epsilon::Epsilon;
use sweep_store::Metric;

use crate::error::Result;
use crate::key::{Key, Value};
use crate::pivot::{Cell, Pivot, pivot};
use crate::runs::{Column, Runs};
use crate::statistics::{Interval, Summary, of_difference, wilson_of_draws};

/// The published numbers; comment lines say where they come from.
const TABLE: &str = include_str!("../data/published.csv");

/// The paper's models: its name, and the repositories on the Hub that hold these weights (Table 5; the last one's trunk is
/// in both).
const MODELS: [(&str, &[&str]); 6] = [
    ("ViT", &["timm/vit_base_patch16_224.augreg_in1k"]),
    ("SWIN", &["timm/swin_base_patch4_window7_224.ms_in22k_ft_in1k"]),
    ("CNX", &["timm/convnext_base.fb_in22k_ft_in1k"]),
    ("R50", &["timm/resnet50.a1_in1k"]),
    ("ClipViT", &["timm/vit_base_patch16_clip_224.laion2b"]),
    ("ClipCNX", &["timm/convnext_base.clip_laion2b", "laion/CLIP-convnext_base_w-laion2B-s13B-b82K"]),
];

/// The paper's datasets: its name, ours, the images that its accuracies are fractions of, and those that they were drawn from
/// (section B.1). The paper's draw and ours are two; where nothing is drawn, both measure on the whole official test split.
const DATASETS: [(&str, &str, u32, u32); 6] = [
    ("Aircraft", "aircraft", 1_000, 3_333),
    ("Caltech", "caltech256", 15_187, 30_607),
    ("Cars", "cars", 1_000, 8_041),
    ("Cub", "cub", 5_794, 5_794),
    ("Dogs", "dogs", 8_580, 8_580),
    ("Imagenette", "imagenette", 3_925, 3_925),
];

/// The attack that the paper's robust accuracies were measured with.
const ATTACK: &str = "apgd-10-ce";

/// Keys that a run may have otherwise than the paper and still be laid beside it, and what they are in the grid `paper`. (The
/// paper leaves the batch size open; see `sweeps/paper.yaml`.)
const SETTINGS: [(&str, &str); 5] = [
    ("epochs", "50"),
    ("batch_size", "1024"),
    (TRAINING_ATTACK, "apgd-7-ce"),
    ("ema", "none"),
    ("clip_norm", "none"),
];

/// The attack that crafts training images; standard fine-tuning has no use for it.
const TRAINING_ATTACK: &str = "attack";

/// What the interval of a difference holds and what it does not, for those who read it.
pub const ABOUT_INTERVALS: &str = "95 % interval of the difference, ours less the paper's. It holds which test images were \
    drawn, where our draw is another than the paper's (aircraft, cars: 1,000 of 3,333 and of 8,041; caltech256: 15,187 of \
    30,607), and, from two seeds on, how our mean varies with the seed. It does not hold how the paper's single run would vary: \
    its own second run of one configuration (SWIN, Cars, 8/255, fixed) differs by 7 points (Tables 2 and 6). So a difference \
    outside is no proof of a mistake. With one seed on a whole test split nothing is known";

/// Our runs beside the published numbers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AgainstPaper {
    /// The keys that name a configuration.
    pub keys: Vec<Key>,
    /// One a configuration, metric and published number.
    pub lines: Vec<Line>,
    /// Configurations without a line, and why.
    pub unmatched: Vec<(Vec<Value>, Unmatched)>,
    /// What configurations that have lines do otherwise than the grid `paper`.
    pub others: Vec<Other>,
}

/// A key whose values differ from the one in the grid `paper`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Other {
    /// The key.
    pub key: Key,
    /// Its values.
    pub values: Vec<Value>,
    /// That of the grid.
    pub paper: &'static str,
}

/// One number beside a published one. Fractions in [0, 1].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    /// One value a key.
    pub names: Vec<Value>,
    /// What is compared.
    pub metric: Metric,
    /// Ours, over seeds.
    pub ours: Summary,
    /// The paper's.
    pub published: f64,
    /// Ours less the paper's.
    pub difference: f64,
    /// The interval of the difference, see [`ABOUT_INTERVALS`]; `None` where nothing is known about it. Expected robustness is
    /// a mean of values in [0, 1], one an image; no such values spread wider than those of a count with the same mean, so
    /// there the interval is a wide one.
    pub interval: Option<Interval>,
    /// Whether no difference lies in it.
    pub is_within: Option<bool>,
    /// Tables or figures that say so.
    pub sources: Vec<String>,
}

/// Why a configuration is not beside any published number.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unmatched {
    /// It starts from other weights.
    Weights,
    /// The paper does not have the dataset.
    Dataset,
    /// It minimises something else, such as TRADES.
    Objective,
    /// It is trained or measured under an attack in another norm than l∞.
    Norm,
    /// Its test split has this many images, the published one that many.
    Images(u32, u32),
    /// Nothing is published for this model, dataset, epsilon and schedule.
    NotPublished,
    /// It has no numbers yet, or none that can be compared.
    NoNumbers,
}

/// A row of the published numbers, accuracies in percent.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Published {
    /// Table or figure.
    pub source: String,
    /// Target epsilon in 255ths.
    pub eps_g_255: u8,
    /// The paper's name of the backbone.
    pub model: String,
    /// The paper's name of the dataset.
    pub dataset: String,
    /// `fix`, `scheduler`, `standard`, `uniform`, `auto`, `ablation`.
    pub schedule: String,
    /// First epoch of the ramp; `auto` where training finds it.
    #[serde(rename = "T1")]
    pub ramp_start: String,
    /// First epoch at the target.
    #[serde(rename = "T2")]
    pub ramp_end: String,
    /// `APGD10`, `AutoAttack`, or nothing for clean accuracy alone.
    pub attack: String,
    /// Clean accuracy.
    pub clean: Option<f64>,
    /// Under attack at the target epsilon.
    pub adv: Option<f64>,
    /// Expected robustness.
    pub e_adv: Option<f64>,
}

/// Returns every published number.
pub fn published() -> Vec<Published> {
    let mut reader = csv::ReaderBuilder::new().comment(Some(b'#')).from_reader(TABLE.as_bytes());
    let rows: csv::Result<Vec<Published>> = reader.deserialize().collect();
    rows.expect("the table that the program ships is read in its tests")
}

/// Returns the name of one of our datasets in the paper and the size of the published test split.
pub fn dataset(name: &str) -> Option<(&'static str, u32)> {
    split(name).map(|(paper, images, _)| (paper, images))
}

/// Returns the same and the images that those of the test split were drawn from.
fn split(name: &str) -> Option<(&'static str, u32, u32)> {
    let found = DATASETS.iter().find(|(_, ours, ..)| *ours == name);
    found.map(|(paper, _, images, population)| (*paper, *images, *population))
}

impl Published {
    /// Returns whether a run with this label and target epsilon was trained with the schedule of this row: standard
    /// fine-tuning is at target 0 in the paper, whatever target an unperturbed run of ours names.
    fn is_schedule(&self, label: &str, target: Epsilon) -> bool {
        let (start, end) = (self.ramp_start.as_str(), self.ramp_end.as_str());
        let is_standard = is_standard(label, target);
        if is_standard || self.schedule == "standard" || self.eps_g_255 == 0 {
            return is_standard && self.schedule == "standard";
        }
        if Epsilon::from_255ths(self.eps_g_255) != target {
            return false;
        }
        match self.schedule.as_str() {
            "fix" => label == "fixed",
            "uniform" => label == "uniform",
            "auto" => label == format!("ramp auto-{end}"),
            _ => labels_of_ramp(start, end).iter().any(|one| one == label),
        }
    }

    /// Returns the published value of a metric as a fraction.
    fn value(&self, metric: Metric) -> Option<f64> {
        let percent = match metric {
            Metric::Clean => self.clean,
            Metric::Robust => self.adv,
            Metric::ExpectedRobustness => self.e_adv,
            _ => None,
        };
        percent.map(|percent| percent / 100.0)
    }
}

/// Returns whether training with this schedule perturbs nothing.
fn is_standard(label: &str, target: Epsilon) -> bool {
    label == "none" || target.is_zero()
}

/// Returns how our schedules call a ramp from `start` to `end`.
fn labels_of_ramp(start: &str, end: &str) -> Vec<String> {
    let ramp = format!("ramp {start}-{end}");
    if (start, end) == ("0", "0") {
        vec!["fixed".to_owned(), ramp]
    } else if start == end {
        vec![format!("step {start}"), ramp]
    } else if start == "0" {
        vec![format!("warmup {end}"), ramp]
    } else {
        vec![ramp]
    }
}

/// Lays the runs beside the published numbers: clean, robust and expected robustness, as far as they were read.
///
/// # Errors
/// Runs without the keys that every specification has.
pub fn against_paper(runs: &Runs) -> Result<AgainstPaper> {
    let main = [Key::BACKBONE, Key::DATASET, Key::TARGET_EPSILON, Key::EPSILON_SCHEDULE].map(Key::new);
    let more = runs.varying(&main);
    let keys = [&main[..], &more].concat();
    let table = pivot(runs, &keys, &[])?;
    let facts = Facts::new(runs, &keys)?;
    let published = published();
    let mut found = AgainstPaper { keys, lines: Vec::new(), unmatched: Vec::new(), others: Vec::new() };
    for (row, run) in table.rows.iter().zip(&facts.first_runs) {
        match facts.lines(&table, &row.names, &row.cells[0], *run, &published) {
            Ok(lines) => {
                found.lines.extend(lines);
                facts.settings_of(*run).for_each(|(key, value, paper)| found.note(key, value, paper));
            }
            Err(unmatched) => found.unmatched.push((row.names.clone(), unmatched)),
        }
    }
    Ok(found)
}

impl AgainstPaper {
    fn note(&mut self, key: &Key, value: &Value, paper: &'static str) {
        if value.to_string() == paper {
            return;
        }
        match self.others.iter_mut().find(|other| other.key == *key) {
            Some(other) if other.values.contains(value) => {}
            Some(other) => other.values.push(value.clone()),
            None => self.others.push(Other { key: key.clone(), values: vec![value.clone()], paper }),
        }
    }

    /// Returns how many differences lie within their interval, and how many have one.
    pub fn within(&self) -> (usize, usize) {
        let known = || self.lines.iter().filter_map(|line| line.is_within);
        (known().filter(|is_within| *is_within).count(), known().count())
    }
}

impl fmt::Display for Other {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values: Vec<String> = self.values.iter().map(ToString::to_string).collect();
        write!(formatter, "{} {}, where the grid `paper` has {}", self.key, values.join(", "), self.paper)
    }
}

/// What decides whether a run is one of the paper's.
struct Facts {
    repository: Option<Column>,
    dataset: Column,
    target: Column,
    schedule: Column,
    objective: Column,
    /// Of the attacks in training and in the evaluation.
    norms: Vec<Column>,
    attack: Column,
    /// Those of [`SETTINGS`].
    settings: Vec<(Column, &'static str)>,
    /// The first run of each row of the table.
    first_runs: Vec<usize>,
}

/// Returns the value that a run has.
fn value(column: &Column, run: usize) -> &Value {
    &column.values[column.of[run] as usize]
}

impl Facts {
    fn new(runs: &Runs, keys: &[Key]) -> Result<Self> {
        let column = |name: &str| runs.column(&Key::new(name));
        let setting = |(name, paper)| column(name).map(|column| (column, paper));
        Ok(Self {
            // A sweep without weights from the Hub does not have the key at all.
            repository: column("backbone.weights.repository").ok(),
            dataset: column(Key::DATASET)?,
            target: column(Key::TARGET_EPSILON)?,
            schedule: column(Key::EPSILON_SCHEDULE)?,
            objective: column("objective.kind")?,
            // An attack that has but one norm may not name it.
            norms: ["attack.norm", "evaluation.attack.norm"].into_iter().flat_map(column).collect(),
            attack: column("evaluation")?,
            settings: SETTINGS.into_iter().map(setting).collect::<Result<_>>()?,
            first_runs: first_runs(runs, keys)?,
        })
    }

    /// Returns whether a run perturbs nothing in training.
    fn is_standard(&self, run: usize) -> bool {
        let Value::Epsilon(target) = value(&self.target, run) else { return false };
        is_standard(&value(&self.schedule, run).to_string(), *target)
    }

    /// Returns the settings that matter to a run: key, value, that of the grid `paper`.
    fn settings_of(&self, run: usize) -> impl Iterator<Item = (&Key, &Value, &'static str)> {
        let is_standard = self.is_standard(run);
        let settings =
            self.settings.iter().map(move |(column, paper)| (&column.key, value(column, run), *paper));
        settings.filter(move |(key, ..)| !is_standard || key.name() != TRAINING_ATTACK)
    }

    /// Checks that a run learns and is measured as the paper's do, whatever its schedule.
    fn check_method(&self, run: usize) -> Result<(), Unmatched> {
        let is_other = |column: &Column, paper: &str| {
            let value = value(column, run);
            *value != Value::None && value.to_string() != paper
        };
        if self.is_standard(run) {
            // Neither has a part in it: there is no attack, and without one every objective is cross entropy.
            return Ok(());
        }
        if is_other(&self.objective, "adversarial") {
            return Err(Unmatched::Objective);
        }
        if self.norms.iter().any(|norm| is_other(norm, "linf")) { Err(Unmatched::Norm) } else { Ok(()) }
    }

    fn lines(
        &self,
        table: &Pivot,
        names: &[Value],
        cell: &Cell,
        run: usize,
        published: &[Published],
    ) -> Result<Vec<Line>, Unmatched> {
        let text = |column: &Column| value(column, run).to_string();
        let repository = self.repository.as_ref().map(text).unwrap_or_default();
        let model = MODELS.iter().find(|(_, repositories)| repositories.contains(&repository.as_str()));
        let (model, _) = model.ok_or(Unmatched::Weights)?;
        let (dataset, images, population) = split(&text(&self.dataset)).ok_or(Unmatched::Dataset)?;
        self.check_method(run)?;
        let Value::Epsilon(target) = *value(&self.target, run) else {
            return Err(Unmatched::NotPublished);
        };
        let schedule = text(&self.schedule);
        let is_same = |row: &&Published| {
            row.model == *model && row.dataset == dataset && row.is_schedule(&schedule, target)
        };
        let rows: Vec<&Published> = published.iter().filter(is_same).collect();
        if rows.is_empty() {
            return Err(Unmatched::NotPublished);
        }
        check_images(cell, images)?;
        let has_papers_attack = text(&self.attack) == ATTACK;
        let mut lines = Vec::new();
        for (metric, number) in table.metrics.iter().zip(&cell.numbers) {
            let (Some(ours), true) = (number.summary, *metric == Metric::Clean || has_papers_attack) else {
                continue;
            };
            for (value, sources) in distinct(&rows, *metric) {
                lines.push(Line::new(names, *metric, ours, value, (images, population), sources));
            }
        }
        if lines.is_empty() { Err(Unmatched::NoNumbers) } else { Ok(lines) }
    }
}

/// Returns the first run of every combination of the keys' values, in the order of a table's rows.
fn first_runs(runs: &Runs, keys: &[Key]) -> Result<Vec<usize>> {
    let columns: Vec<Column> = keys.iter().map(|key| runs.column(key)).collect::<Result<_>>()?;
    let mut first = std::collections::BTreeMap::new();
    for run in 0..runs.runs().len() {
        let place: Vec<u32> = columns.iter().map(|column| column.of[run]).collect();
        first.entry(place).or_insert(run);
    }
    Ok(first.into_values().collect())
}

/// Checks that accuracies are fractions of as many images as the published ones.
fn check_images(cell: &Cell, images: u32) -> Result<(), Unmatched> {
    match cell.totals.iter().find(|total| **total != images) {
        Some(total) => Err(Unmatched::Images(*total, images)),
        None => Ok(()),
    }
}

/// Returns the different published values of a metric with their sources. A figure's digits count only where no table
/// has the number; other attacks than the paper's main one do not count.
fn distinct(rows: &[&Published], metric: Metric) -> Vec<(f64, Vec<String>)> {
    let mut values: Vec<(f64, Vec<String>)> = Vec::new();
    let tables = rows.iter().filter(|row| row.attack == "APGD10");
    let figures = rows.iter().filter(|row| row.attack.is_empty());
    for row in tables.chain(figures) {
        let is_figure = row.attack.is_empty();
        let Some(value) = row.value(metric).filter(|_| !is_figure || values.is_empty()) else { continue };
        match values.iter_mut().find(|(known, _)| *known == value) {
            Some((_, sources)) => sources.push(row.source.clone()),
            None => values.push((value, vec![row.source.clone()])),
        }
    }
    values
}

impl Line {
    fn new(
        names: &[Value],
        metric: Metric,
        ours: Summary,
        published: f64,
        draw: (u32, u32),
        sources: Vec<String>,
    ) -> Self {
        let interval = interval(ours, published, draw);
        Self {
            names: names.to_vec(),
            metric,
            ours,
            published,
            difference: ours.mean - published,
            interval,
            is_within: interval.map(|interval| interval.contains(0.0)),
            sources,
        }
    }
}

/// Returns the interval of ours less the published, where the images of both are two draws of `images` out of a `population`
/// (all our seeds have the same draw) or, without a draw, the same; see [`ABOUT_INTERVALS`].
fn interval(ours: Summary, published: f64, (images, population): (u32, u32)) -> Option<Interval> {
    let over_seeds = ours.reach();
    if images == population && over_seeds.is_none() {
        return None;
    }
    let with_draw = |fraction| Some((fraction, wilson_of_draws(fraction, images, population)?));
    Some(of_difference(with_draw(ours.mean)?, with_draw(published)?, over_seeds.unwrap_or(0.0)))
}

impl fmt::Display for Unmatched {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Weights => formatter.write_str("starts from other weights than the paper's"),
            Self::Dataset => formatter.write_str("the paper does not have this dataset"),
            Self::Objective => formatter.write_str("trained with another objective than the paper's"),
            Self::Norm => formatter.write_str("attacked in another norm than the paper's"),
            Self::Images(ours, published) => {
                write!(formatter, "measured on {ours} images, published on {published}")
            }
            Self::NotPublished => formatter.write_str("not published for this epsilon and schedule"),
            Self::NoNumbers => formatter.write_str("has no numbers to compare yet"),
        }
    }
}

#[cfg(test)]
mod tests {
    use sweep_core::{Resolve, Sweep};

    use super::*;

    struct Nothing;

    impl Resolve for Nothing {
        fn weights(&self, _: &std::path::Path) -> Result<(std::path::PathBuf, String), String> {
            Err("no files".to_owned())
        }

        fn dataset(&self, _: &std::path::Path) -> Result<(std::path::PathBuf, String), String> {
            Err("no folders".to_owned())
        }
    }

    #[test]
    fn every_published_row_is_read() {
        let rows = published();
        assert_eq!(rows.len(), 352);
        let of = |source: &str| rows.iter().filter(|row| row.source == source).count();
        assert_eq!([of("table1"), of("table2"), of("table7"), of("fig1_digitised")], [60, 60, 30, 100]);
        assert!(rows.iter().all(|row| DATASETS.iter().any(|(paper, ..)| *paper == row.dataset)));
    }

    #[test]
    fn test_splits_have_the_sizes_that_the_built_in_datasets_expect() {
        let sweep = Sweep::built_in();
        for (_, name, images, _) in DATASETS.into_iter().filter(|(paper, ..)| *paper != "Imagenette") {
            let expected = sweep.dataset(name, &Nothing).unwrap().definition.expected.unwrap();
            assert_eq!(serde_json::to_value(expected).unwrap()["test"], images, "{name}");
        }
    }

    #[test]
    fn schedules_by_the_papers_names() {
        let row = |schedule: &str, start: &str, end: &str, eps| Published {
            source: String::new(),
            eps_g_255: eps,
            model: String::new(),
            dataset: String::new(),
            schedule: schedule.to_owned(),
            ramp_start: start.to_owned(),
            ramp_end: end.to_owned(),
            attack: String::new(),
            clean: None,
            adv: None,
            e_adv: None,
        };
        let at = |k| Epsilon::from_255ths(k);
        for (published, label, target, expected) in [
            (row("fix", "0", "0", 4), "fixed", at(4), true),
            (row("fix", "0", "0", 4), "fixed", at(8), false),
            (row("scheduler", "12", "37", 4), "ramp 12-37", at(4), true),
            (row("scheduler", "12", "37", 4), "ramp 5-25", at(4), false),
            (row("ablation", "0", "12", 8), "warmup 12", at(8), true),
            (row("ablation", "12", "12", 8), "step 12", at(8), true),
            (row("ablation", "0", "0", 8), "fixed", at(8), true),
            (row("auto", "auto", "50", 8), "ramp auto-50", at(8), true),
            (row("standard", "0", "0", 0), "none", at(4), true),
            (row("standard", "0", "0", 0), "fixed", at(0), true),
            (row("standard", "0", "0", 0), "fixed", at(4), false),
            (row("fix", "0", "0", 4), "none", at(4), false),
        ] {
            assert_eq!(published.is_schedule(label, target), expected, "{published:?} {label} {target}");
        }
    }
}
