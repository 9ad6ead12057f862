//! Runs, events and database files for tests.
#![expect(dead_code, reason = "every test file uses its own part")]

pub(crate) mod older;

use std::path::PathBuf;

use sweep_core::dataset::{
    Augmentation, DatasetSource, DatasetSpec, ProceduralFamily, SplitPolicy, ValidationPolicy,
};
use sweep_core::epsilon::Epsilon;
use sweep_core::event::{Event, FailureClass, Phase, Record, Split};
use sweep_core::micro_batch::MicroBatch;
use sweep_core::schedule::{EpsilonSchedule, Granularity, LearningRateSchedule};
use sweep_core::spec::{
    Architecture, AttackLoss, AttackSpec, BackboneSpec, EvaluationSpec, Named, NoDecay, Norm, Normalization,
    Objective, OptimizerSpec, Precision, RunId, RunSpec, ValidationSpec, VitArchitecture, WeightsSource,
};
use sweep_store::{Outcome, Settlement, Store, SweepId};
use tempfile::TempDir;

/// The clock of tests that look at no times.
pub(crate) const NOW: i64 = 1_700_000_000_000;

/// A database file in a folder of its own, removed with the value.
pub(crate) struct Home {
    folder: TempDir,
    pub(crate) store: Store,
}

impl Home {
    pub(crate) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().join("results.db")).await.unwrap();
        Self { folder, store }
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.folder.path().join("results.db")
    }

    /// Registers a sweep called `test`.
    pub(crate) async fn register(&self, specs: &[RunSpec]) -> (SweepId, Vec<RunId>) {
        let runs: Vec<(RunId, &RunSpec)> = specs.iter().map(|spec| (spec.id(), spec)).collect();
        let registered = self.store.register_sweep("test", "name: test", &runs, NOW).await.unwrap();
        (registered.sweep, runs.into_iter().map(|(id, _)| id).collect())
    }

    /// Registers one run and claims it.
    pub(crate) async fn running(&self, spec: &RunSpec) -> RunId {
        let (_, runs) = self.register(std::slice::from_ref(spec)).await;
        assert_eq!(self.store.claim(runs[0], "test", NOW).await.unwrap(), Some(1));
        runs[0]
    }
}

/// A small run that differs from others by its seed.
pub(crate) fn spec(seed: u64) -> RunSpec {
    let attack = AttackSpec::Apgd { steps: 2, norm: Norm::Linf, loss: AttackLoss::CrossEntropy };
    RunSpec {
        backbone: Named { name: "vit".to_owned(), definition: backbone() },
        dataset: Named { name: "shapes".to_owned(), definition: dataset() },
        input_size: 32,
        target_epsilon: Epsilon::from_255ths(4),
        epsilon_schedule: EpsilonSchedule::Ramp { start: 1, end: 3, per: Granularity::Epoch },
        epochs: 3,
        batch_size: 16,
        micro_batch_size: MicroBatch::Images(16),
        precision: Precision::F32,
        optimizer: OptimizerSpec::Adamw {
            learning_rate: 1e-3,
            head_learning_rate: 1e-2,
            weight_decay: 0.0,
            head_weight_decay: 0.0,
            no_decay: NoDecay::Sibling,
            betas: [0.9, 0.95],
            stability: 1e-8,
        },
        learning_rate_schedule: LearningRateSchedule::Cosine { warmup_epochs: 1, per: Granularity::Step },
        clip_norm: None,
        ema: None,
        objective: Objective::Adversarial,
        attack: attack.clone(),
        augmentation: Augmentation::None,
        validation: ValidationSpec { attack: attack.clone() },
        evaluation: EvaluationSpec { attack: attack.into(), max_epsilon: Epsilon::from_255ths(8) },
        seed,
    }
}

pub(crate) fn specs(count: u64) -> Vec<RunSpec> {
    (0..count).map(spec).collect()
}

fn backbone() -> BackboneSpec {
    BackboneSpec {
        architecture: Architecture::Vit(VitArchitecture {
            image_size: 32,
            patch_size: 8,
            embed_dim: 48,
            depth: 2,
            num_heads: 3,
            mlp_ratio: 2.0,
            clip: false,
            quick_gelu: false,
        }),
        weights: WeightsSource::Random,
        normalization: Normalization { mean: [0.5; 3], std: [0.5; 3] },
    }
}

fn dataset() -> DatasetSpec {
    DatasetSpec {
        source: DatasetSource::Procedural { family: ProceduralFamily::Shapes, seed: 0, train: 64, test: 32 },
        splits: SplitPolicy::Given {
            train: "train".to_owned(),
            validation: ValidationPolicy::PerClass { count: 2, seed: 0 },
            test: "test".to_owned(),
            test_subset: None,
        },
        expected: None,
    }
}

/// Numbers events from 0, a second apart.
pub(crate) fn records(events: impl IntoIterator<Item = Event>) -> Vec<Record> {
    let record =
        |(sequence, event): (u64, Event)| Record { sequence, time_ms: NOW + 1_000 * sequence as i64, event };
    (0..).zip(events).map(record).collect()
}

pub(crate) fn started(run: RunId, attempt: u32, resumed_from: u32) -> Event {
    Event::Started {
        run,
        attempt,
        pid: 77,
        host: "here".to_owned(),
        device: "cpu".to_owned(),
        threads: 2,
        version: "0.1.0".to_owned(),
        resumed_from,
        resumed_run: None,
        micro_batch_size: Some(8),
        process_start: None,
    }
}

pub(crate) fn loaded() -> Event {
    Event::Loaded {
        dataset_digest: "d".repeat(64),
        classes: 4,
        train: 64,
        validation: 8,
        test: 32,
        weights_digest: None,
        parameters: 12_345,
        skipped: 2,
    }
}

pub(crate) fn progress(step: u32) -> Event {
    Event::Progress { phase: Phase::Training, epoch: 0, step, steps: 4 }
}

/// An epoch with this many of 100 validation images classified correctly.
pub(crate) fn epoch(epoch: u32, clean_correct: u32) -> Event {
    Event::EpochFinished {
        epoch,
        epsilon: 0.01,
        learning_rate: 1e-3,
        train_loss: 1.5,
        train_correct: 30,
        train_total: 64,
        clean_correct,
        robust_correct: clean_correct / 2,
        validation_total: 100,
        clean_loss: 1.25,
        robust_loss: 2.5,
        train_seconds: 2.0,
        validation_seconds: 0.5,
        trained_by: None,
    }
}

pub(crate) fn checkpoint(epochs: u32) -> Event {
    let file = format!("checkpoints/{epochs}.safetensors");
    Event::CheckpointSaved { epochs, step: 0, file, digest: "c".repeat(64), bytes: 1_000 }
}

pub(crate) fn model() -> Event {
    Event::ModelSaved { file: "model/model.safetensors".to_owned(), digest: "m".repeat(64), bytes: 900 }
}

/// An accuracy on the test split after three epochs, under the attack of [`spec`].
pub(crate) fn evaluated(epsilon: Epsilon, correct: u32, total: u32) -> Event {
    let attack = if epsilon.is_zero() { "none" } else { "apgd-2-ce" }.to_owned();
    Event::Evaluated {
        epochs: 3,
        split: Split::Test,
        attack,
        norm: Norm::Linf,
        epsilon,
        correct,
        total,
        seconds: 0.25,
    }
}

/// Every event of a complete attempt of [`spec`].
pub(crate) fn complete(run: RunId, attempt: u32) -> Vec<Record> {
    let mut events = vec![started(run, attempt, 0), loaded(), progress(1)];
    for number in 0..3 {
        events.extend([epoch(number, 10 * (number + 1)), checkpoint(number + 1)]);
    }
    events.extend((0..=8_u8).map(|k| evaluated(Epsilon::from_255ths(k), 30 - u32::from(k), 32)));
    events.extend([model(), Event::Succeeded]);
    records(events)
}

pub(crate) fn failed(class: FailureClass) -> Event {
    Event::Failed { class, message: "it broke".to_owned() }
}

pub(crate) fn succeeded() -> Settlement {
    Settlement { exit_code: Some(0), ..Settlement::new(Outcome::Succeeded) }
}
