//! Runs for tests, built in code.

use sweep_core::dataset::{
    Augmentation, DatasetSource, DatasetSpec, ProceduralFamily, SplitPolicy, ValidationPolicy,
};
use sweep_core::epsilon::Epsilon;
use sweep_core::micro_batch::MicroBatch;
use sweep_core::schedule::{EpsilonSchedule, Granularity, LearningRateSchedule};
use sweep_core::spec::{
    Architecture, AttackLoss, AttackSpec, BackboneSpec, EvaluationSpec, Named, NoDecay, Norm, Normalization,
    Objective, OptimizerSpec, Precision, RunId, RunSpec, ValidationSpec, VitArchitecture, WeightsSource,
};

/// Returns a small, complete run that a real worker can execute and that differs from others by its seed only.
pub fn sample_run(seed: u64) -> RunSpec {
    let attack = AttackSpec::Apgd { steps: 2, norm: Norm::Linf, loss: AttackLoss::CrossEntropy };
    RunSpec {
        backbone: backbone(WeightsSource::Random),
        dataset: dataset(),
        input_size: 16,
        target_epsilon: Epsilon::from_255ths(4),
        epsilon_schedule: EpsilonSchedule::Ramp { start: 1, end: 2, per: Granularity::Epoch },
        epochs: 3,
        batch_size: 8,
        micro_batch_size: MicroBatch::Images(8),
        precision: Precision::F32,
        optimizer: OptimizerSpec::Sgd {
            learning_rate: 0.01,
            head_learning_rate: 0.1,
            weight_decay: 0.0,
            head_weight_decay: 0.0,
            no_decay: NoDecay::Sibling,
            momentum: 0.9,
        },
        learning_rate_schedule: LearningRateSchedule::Cosine { warmup_epochs: 1, per: Granularity::Epoch },
        clip_norm: None,
        ema: None,
        objective: Objective::Adversarial,
        attack: attack.clone(),
        augmentation: Augmentation::None,
        validation: ValidationSpec { attack: attack.clone() },
        evaluation: EvaluationSpec { attack: attack.into(), max_epsilon: Epsilon::from_255ths(4) },
        seed,
    }
}

/// Returns a run that starts from the final model of `dependency`, which stands for what that run trains as well.
pub fn sample_run_after(seed: u64, dependency: RunId) -> RunSpec {
    RunSpec {
        backbone: backbone(WeightsSource::Run { run: dependency, training: dependency }),
        ..sample_run(seed)
    }
}

/// Returns the id of the run that [`sample_run`] gives for `seed`.
pub fn id_of(seed: u64) -> RunId {
    sample_run(seed).id()
}

fn backbone(weights: WeightsSource) -> Named<BackboneSpec> {
    let architecture = Architecture::Vit(VitArchitecture {
        image_size: 16,
        patch_size: 8,
        embed_dim: 8,
        depth: 1,
        num_heads: 2,
        mlp_ratio: 2.0,
        clip: false,
        quick_gelu: false,
    });
    let normalization = Normalization { mean: [0.5; 3], std: [0.5; 3] };
    Named { name: "tiny".to_owned(), definition: BackboneSpec { architecture, weights, normalization } }
}

fn dataset() -> Named<DatasetSpec> {
    // Of the ten classes of this family, validation takes an image of each and training needs some of each.
    let source = DatasetSource::Procedural { family: ProceduralFamily::Shapes, seed: 0, train: 60, test: 20 };
    let splits = SplitPolicy::Given {
        train: "train".to_owned(),
        validation: ValidationPolicy::PerClass { count: 1, seed: 0 },
        test: "test".to_owned(),
        test_subset: None,
    };
    Named { name: "shapes".to_owned(), definition: DatasetSpec { source, splits, expected: None } }
}
