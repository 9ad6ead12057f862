//! Sweeps with made-up measurements: every run of a sweep file registered, trained and evaluated in a real store by a formula
//! that has the shape of the paper's results. No network is trained.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![expect(dead_code, reason = "every test file uses its own part")]

use std::path::{Path, PathBuf};

use sweep_core::epsilon::Epsilon;
use sweep_core::event::{Event, FailureClass, Record, Split};
use sweep_core::schedule::{EpsilonSchedule, Moment};
use sweep_core::spec::{Norm, RunId, RunSpec};
use sweep_core::{Resolve, Sweep};
use sweep_report::Material;
use sweep_store::{Failure, Outcome, Reader, Settlement, Store};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// When everything happens: 2026-01-31 UTC.
const NOW: i64 = 1_769_817_600_000;
/// Images of the validation and of the test split.
const IMAGES: u32 = 1_000;

/// What becomes of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It trains and is evaluated.
    Succeeds,
    /// It fails after its first epoch.
    Fails,
    /// It fails in its last epoch.
    FailsLate,
    /// It is never started.
    Waits,
}

/// A store with one sweep, in a folder that goes with the value.
pub(crate) struct Fake {
    pub(crate) folder: TempDir,
    runtime: Runtime,
    store: Store,
    /// Classes of every dataset.
    classes: u32,
}

/// Sweep files of these tests name no files.
struct NoFiles;

impl Resolve for NoFiles {
    fn weights(&self, path: &Path) -> Result<(PathBuf, String), String> {
        Err(format!("`{}`", path.display()))
    }

    fn dataset(&self, path: &Path) -> Result<(PathBuf, String), String> {
        Err(format!("`{}`", path.display()))
    }
}

impl Fake {
    /// Carries out a sweep file; `alter` makes specifications that no sweep file gives, `fate` says what becomes of each run.
    pub(crate) fn new(
        yaml: &str,
        classes: u32,
        alter: impl Fn(&mut RunSpec),
        fate: impl Fn(usize, &RunSpec) -> Fate,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let store = runtime.block_on(Store::open(folder.path().join("results.db"))).unwrap();
        let fake = Self { folder, runtime, store, classes };
        let sweep = Sweep::parse(yaml.as_bytes(), &[]).unwrap();
        let mut specs: Vec<RunSpec> =
            sweep.expand(&NoFiles).unwrap().runs.into_iter().map(|(_, spec)| spec).collect();
        specs.iter_mut().for_each(alter);
        let runs: Vec<(RunId, &RunSpec)> = specs.iter().map(|spec| (spec.id(), spec)).collect();
        let registering = fake.store.register_sweep(&sweep.name, yaml, &runs, NOW);
        fake.runtime.block_on(registering).unwrap();
        for (index, (run, spec)) in runs.into_iter().enumerate() {
            fake.carry_out(run, spec, fate(index, spec));
        }
        fake
    }

    /// Reads the sweep as a report does.
    pub(crate) fn material(&self) -> Material {
        self.runtime.block_on(async {
            let reader = self.store.reader();
            let sweep = reader.sweeps().await.unwrap()[0].id;
            Material::read(reader, sweep).await.unwrap()
        })
    }

    /// Returns the store for reading.
    pub(crate) fn reader(&self) -> &Reader {
        self.store.reader()
    }

    /// Waits for what the store is asked.
    pub(crate) fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    fn carry_out(&self, run: RunId, spec: &RunSpec, fate: Fate) {
        if fate == Fate::Waits {
            return;
        }
        let attempt = self.runtime.block_on(self.store.claim(run, "test", NOW)).unwrap().unwrap();
        let records: Vec<Record> = (0..)
            .zip(self.events(run, attempt, spec, fate))
            .map(|(sequence, event)| Record { sequence, time_ms: NOW + sequence as i64, event })
            .collect();
        let outcome = match fate {
            Fate::Fails | Fate::FailsLate => {
                let message = "the loss <b>is</b> NaN".to_owned();
                Outcome::Failed { failure: Failure { class: FailureClass::Diverged, message }, retry: false }
            }
            _ => Outcome::Succeeded,
        };
        self.runtime.block_on(async {
            self.store.ingest(run, attempt, &records, 1).await.unwrap();
            let settlement = Settlement::new(outcome);
            assert!(self.store.settle(run, attempt, &settlement, NOW + 60_000).await.unwrap());
        });
    }

    fn events(&self, run: RunId, attempt: u32, spec: &RunSpec, fate: Fate) -> Vec<Event> {
        let mut events = vec![started(run, attempt), self.loaded(spec)];
        let done = match fate {
            Fate::Fails => 1,
            Fate::FailsLate => spec.epochs - 1,
            _ => spec.epochs,
        };
        events.extend((0..done).map(|number| epoch(spec, number)));
        if done < spec.epochs {
            return events;
        }
        events.extend(spec.evaluation.max_epsilon.grid().into_iter().map(|radius| evaluated(spec, radius)));
        events.push(Event::Succeeded);
        events
    }

    fn loaded(&self, spec: &RunSpec) -> Event {
        Event::Loaded {
            dataset_digest: digest(&spec.dataset.name),
            classes: self.classes,
            train: 5 * IMAGES,
            validation: IMAGES,
            test: IMAGES,
            weights_digest: Some(digest(&spec.backbone.name)),
            parameters: 85_798_656,
            skipped: 0,
        }
    }
}

fn started(run: RunId, attempt: u32) -> Event {
    Event::Started {
        run,
        attempt,
        pid: 1,
        host: "<node>".to_owned(),
        device: "cpu".to_owned(),
        threads: 2,
        version: "0.1.0".to_owned(),
        resumed_from: 0,
        resumed_run: None,
        micro_batch_size: None,
        process_start: None,
    }
}

fn epoch(spec: &RunSpec, number: u32) -> Event {
    let accuracies: Vec<f64> = (1..=number).map(|epochs| after(spec, epochs)).collect();
    let moment = Moment {
        epoch: number,
        epochs: spec.epochs,
        seed: spec.seed,
        accuracies: &accuracies,
        ..Moment::default()
    };
    let clean = after(spec, number + 1);
    Event::EpochFinished {
        epoch: number,
        epsilon: spec.epsilon_schedule.epsilon_at(moment, spec.target_epsilon),
        learning_rate: 1e-3,
        train_loss: 1.0,
        train_correct: count(clean),
        train_total: IMAGES,
        clean_correct: count(clean),
        robust_correct: count(clean * kept(spec.target_epsilon)),
        validation_total: IMAGES,
        clean_loss: 1.0,
        robust_loss: 2.0,
        train_seconds: 1.5,
        validation_seconds: 0.5,
        trained_by: None,
    }
}

fn evaluated(spec: &RunSpec, radius: Epsilon) -> Event {
    Event::Evaluated {
        epochs: spec.epochs,
        split: Split::Test,
        attack: if radius.is_zero() { "none".to_owned() } else { spec.evaluation.attack.label() },
        norm: Norm::Linf,
        epsilon: radius,
        correct: count(after(spec, spec.epochs) * kept(radius)),
        total: IMAGES,
        seconds: 0.1,
    }
}

fn count(accuracy: f64) -> u32 {
    (accuracy * f64::from(IMAGES)).round() as u32
}

/// The part of the accuracy that an attack leaves.
fn kept(radius: Epsilon) -> f64 {
    (-18.0 * radius.value()).exp()
}

/// Clean accuracy after some epochs: learning begins the later, the larger the radius and the harder the task, and a ramp has
/// learned before the attack comes.
fn after(spec: &RunSpec, epochs: u32) -> f64 {
    let chance = 0.004;
    let hard = 0.3 + 0.7 * part(&spec.dataset.name);
    let strength = 255.0
        * spec.target_epsilon.value()
        * match &spec.epsilon_schedule {
            EpsilonSchedule::None => 0.0,
            EpsilonSchedule::Fixed => 1.0,
            EpsilonSchedule::Ramp { start, .. } => 0.6 / f64::from(start + 1),
            _ => 0.5,
        };
    let onset = 1.2 + hard * strength * f64::from(spec.epochs) / 12.0;
    let best = 0.95 - 0.2 * part(&spec.backbone.name) - 0.25 * hard - 0.02 * strength;
    let luck = 0.02 * part(&format!("{} {}", spec.seed, spec.dataset.name));
    let learned = 1.0 - (-(f64::from(epochs) - onset).max(0.0) / (0.12 * f64::from(spec.epochs))).exp();
    chance + (best - luck - chance).max(0.0) * learned
}

/// A number in [0, 1) that belongs to a text.
fn part(text: &str) -> f64 {
    let hash =
        text.bytes().fold(2_166_136_261_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(16_777_619));
    f64::from(hash % 97) / 97.0
}

fn digest(text: &str) -> String {
    format!("{:08x}", (part(text) * 4e9) as u32).repeat(8)
}
