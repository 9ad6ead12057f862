//! The paper's tables as a sweep that has been run: a database with the specifications of `sweeps/paper.yaml` and with
//! counts that give the published percentages.
//!
//! Clean and robust accuracy are one count each. Expected robustness is the trapezoid sum over every 255th, so the counts
//! at the radii in between are chosen to add up to what is missing, as evenly as whole images allow.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use sweep_core::epsilon::Epsilon;
use sweep_core::event::{Event, Record, Split};
use sweep_core::home::Home;
use sweep_core::spec::{Norm, RunId, RunSpec};
use sweep_core::{Resolve, Sweep};
use sweep_report::paper::{Published, dataset, published};
use sweep_store::{Outcome, Report, Settlement, Store};

pub(crate) type Row = Published;

/// How many images the accuracies are fractions of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Images {
    /// Those of the published test split: rounded percentages agree with the published ones.
    Published,
    /// Twenty thousand: hundredths of a percent, and halves of them in the trapezoid sum, are whole images, so that all
    /// three numbers are the published ones to the last digit.
    Exact,
}

/// Returns every published row that has all three numbers and comes from the paper's main attack.
pub(crate) fn rows() -> Vec<Row> {
    let is_complete = |row: &Row| row.attack == "APGD10" && row.adv.is_some() && row.e_adv.is_some();
    published().into_iter().filter(is_complete).collect()
}

/// Stores the rows as succeeded runs of a sweep called `targets` in the home folder `home`.
pub(crate) fn fill(home: &Path, rows: &[Row], images: Images) {
    let specs = specs(rows);
    let chosen: Vec<(RunId, &RunSpec)> =
        rows.iter().map(|row| &specs[&key(row)]).map(|spec| (spec.id(), spec)).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = Store::open(Home::new(home).database()).await.unwrap();
        store.register_sweep("targets", "name: targets", &chosen, 0).await.unwrap();
        for ((run, spec), row) in chosen.iter().zip(rows) {
            let attempt = store.claim(*run, "test", 0).await.unwrap().unwrap();
            let succeeded =
                |_: Option<Report>| Settlement { exit_code: Some(0), ..Settlement::new(Outcome::Succeeded) };
            let records = records(*run, spec, row, images);
            assert!(store.ingest_and_settle(*run, attempt, &records, 1, 0, succeeded).await.unwrap());
        }
        store.close().await.unwrap();
    });
}

/// Our names of a row's backbone, dataset, target epsilon and schedule.
type Place = (&'static str, String, String, String);

fn key(row: &Row) -> Place {
    let backbone = match row.model.as_str() {
        "ViT" => "vit",
        "SWIN" => "swin",
        "CNX" => "convnext",
        "R50" => "resnet50",
        "ClipViT" => "clip-vit",
        "ClipCNX" => "clip-convnext",
        other => panic!("no backbone for {other}"),
    };
    let dataset = match row.dataset.as_str() {
        "Caltech" => "caltech256".to_owned(),
        other => other.to_lowercase(),
    };
    let schedule = match (row.ramp_start.as_str(), row.ramp_end.as_str()) {
        ("0", "0") => "fixed".to_owned(),
        (start, end) => format!("ramp {start}-{end}"),
    };
    (backbone, dataset, Epsilon::from_255ths(row.eps_g_255).to_string(), schedule)
}

/// Returns the specifications of the paper's grid with every schedule that the rows have.
fn specs(rows: &[Row]) -> HashMap<Place, RunSpec> {
    let mut schedules: Vec<String> = rows.iter().map(schedule).collect();
    schedules.sort();
    schedules.dedup();
    let lines = include_str!("../../../../sweeps/paper.yaml").lines().map(|line| match line.trim() {
        line if line.starts_with("epsilon_schedule:") => {
            format!("  epsilon_schedule: [{}]\n", schedules.join(", "))
        }
        line if line.starts_with("seed:") => "  seed: [0]\n".to_owned(),
        _ => format!("{line}\n"),
    });
    let sweep = Sweep::parse(lines.collect::<String>().as_bytes(), &[]).unwrap();
    let backbones = ["vit", "swin", "convnext", "resnet50", "clip-vit", "clip-convnext"];
    let place = |spec: &RunSpec| {
        let backbone = backbones.into_iter().find(|name| *name == spec.backbone.name).unwrap();
        (backbone, spec.dataset.name.clone(), spec.target_epsilon.to_string(), spec.epsilon_schedule.label())
    };
    sweep.expand(&Pinned).unwrap().runs.into_iter().map(|(_, spec)| (place(&spec), spec)).collect()
}

fn schedule(row: &Row) -> String {
    match (row.ramp_start.as_str(), row.ramp_end.as_str()) {
        ("0", "0") => "{kind: fixed}".to_owned(),
        (start, end) => format!("{{kind: ramp, start: {start}, end: {end}}}"),
    }
}

/// Nothing is looked up: the grid has no local files, and branches of the Hub stay branches.
struct Pinned;

impl Resolve for Pinned {
    fn weights(&self, _: &Path) -> Result<(PathBuf, String), String> {
        Err("the grid has no files".to_owned())
    }

    fn dataset(&self, _: &Path) -> Result<(PathBuf, String), String> {
        Err("the grid has no folders".to_owned())
    }
}

fn records(run: RunId, spec: &RunSpec, row: &Row, images: Images) -> Vec<Record> {
    let total = match images {
        Images::Exact => 20_000,
        Images::Published => dataset(&spec.dataset.name).unwrap().1,
    };
    let started = Event::Started {
        run,
        attempt: 1,
        pid: 1,
        host: "here".to_owned(),
        device: "cpu".to_owned(),
        threads: 1,
        version: "0".to_owned(),
        resumed_from: 0,
        resumed_run: None,
        micro_batch_size: None,
        process_start: None,
    };
    let points =
        (0..).map(Epsilon::from_255ths).zip(counts(row, total)).map(|(epsilon, correct)| Event::Evaluated {
            epochs: spec.epochs,
            split: Split::Test,
            attack: if epsilon.is_zero() { "none".to_owned() } else { spec.evaluation.attack.label() },
            norm: Norm::Linf,
            epsilon,
            correct,
            total,
            seconds: 1.0,
        });
    let events = std::iter::once(started).chain(points).chain([Event::Succeeded]);
    (0..).zip(events).map(|(sequence, event)| Record { sequence, time_ms: 0, event }).collect()
}

/// Returns the counts at 0, 1/255, … up to the target epsilon.
fn counts(row: &Row, total: u32) -> Vec<u32> {
    let images = |percent: f64| percent / 100.0 * f64::from(total);
    let (clean, robust) = (images(row.clean.unwrap()).round(), images(row.adv.unwrap()).round());
    let steps = u32::from(row.eps_g_255);
    let area = images(row.e_adv.unwrap()) * f64::from(steps);
    let between = steps - 1;
    let sum = (area - f64::midpoint(clean, robust)).round() as u32;
    let inner = (0..between).map(|place| sum / between + u32::from(place < sum % between));
    std::iter::once(clean as u32).chain(inner).chain([robust as u32]).collect()
}
