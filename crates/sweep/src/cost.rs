//! What a run costs, in floating-point operations: estimates for `plan`.
//!
//! Unit: one forward pass of one image. A backward pass to the input counts as one forward pass, a full one as two
//! (paper, C.5), so a training step on APGD with n steps costs 2n + 4 and one without attack 3. TRADES adds a pass over
//! the clean images: one forward pass for its attack, and a forward and a full backward pass for its loss.

use sweep_core::dataset::{DatasetSource, SplitPolicy, ValidationPolicy};
use sweep_core::event::Phase;
use sweep_core::schedule::{EpsilonSchedule, Moment};
use sweep_core::spec::{Architecture, Objective, ResnetBlock, RunSpec};
use sweep_worker::NamedAttack;

/// Operations of a run by what they are for.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Cost {
    /// Training, attacks included.
    pub(crate) training: f64,
    /// Validation after every epoch, and the test grid.
    pub(crate) measuring: f64,
}

impl Cost {
    pub(crate) fn total(self) -> f64 {
        self.training + self.measuring
    }
}

/// The cost of a run by its parts, in forward passes of one image.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Profile {
    /// Training of each epoch.
    pub(crate) epochs: Vec<f64>,
    /// Validation of one epoch.
    pub(crate) validation: f64,
    /// The test grid.
    pub(crate) evaluation: f64,
}

impl Profile {
    /// `images` are the sizes of the three splits.
    pub(crate) fn new(spec: &RunSpec, images: [f64; 3]) -> Self {
        let [train, validation, test] = images;
        let attacked = |steps: u32| f64::from(2 * steps + 1);
        let on_clean_images = if let Objective::Trades { .. } = spec.objective { 4.0 } else { 0.0 };
        let perturbed = attacked(spec.attack.steps()) + on_clean_images;
        let epoch = |epoch: u32| train * if is_attacked(spec, epoch) { 3.0 + perturbed } else { 3.0 };
        let robust =
            if spec.target_epsilon.is_zero() { 0.0 } else { 1.0 + attacked(spec.validation.attack.steps()) };
        let points = spec.evaluation.points(spec.target_epsilon).len() as f64 - 1.0;
        Self {
            epochs: (0..spec.epochs).map(epoch).collect(),
            validation: validation * (1.0 + robust),
            evaluation: test * (1.0 + points * NamedAttack::from(&spec.evaluation.attack).cost()),
        }
    }

    pub(crate) fn training(&self) -> f64 {
        self.epochs.iter().sum()
    }

    pub(crate) fn measuring(&self) -> f64 {
        self.validation * self.epochs.len() as f64 + self.evaluation
    }

    /// Returns the part of the run that is done, in [0, 1], when `part` of `phase` is done after `epoch` epochs.
    pub(crate) fn done(&self, phase: Phase, epoch: u32, part: f64) -> f64 {
        let before: f64 = self.epochs.iter().take(epoch as usize).map(|cost| cost + self.validation).sum();
        let current = self.epochs.get(epoch as usize).copied().unwrap_or(0.0);
        let done = match phase {
            Phase::Loading => 0.0,
            Phase::Training => before + part * current,
            Phase::Validation => before + current + part * self.validation,
            Phase::Evaluation => before + part * self.evaluation,
        };
        done / (self.training() + self.measuring())
    }
}

/// The paper's default T1, 12 of 50 epochs, as a share: when an automatic ramp is taken to start.
const USUAL_START: f64 = 0.24;

/// Returns whether training images are perturbed in an epoch. Where that depends on how training goes, it is an estimate:
/// a network converges after the usual share of the epochs, but no sooner than it can be seen.
fn is_attacked(spec: &RunSpec, epoch: u32) -> bool {
    if let EpsilonSchedule::Auto(auto) = &spec.epsilon_schedule {
        let usual = (USUAL_START * f64::from(spec.epochs)).round() as u32;
        return epoch > usual.max(auto.patience.saturating_add(1));
    }
    // The second of two steps: a ramp by steps begins within an epoch.
    let moment = Moment { epoch, step: 1, steps: 2, epochs: spec.epochs, seed: spec.seed, accuracies: &[] };
    spec.epsilon_schedule.fraction_at(moment) > 0.0
}

/// Returns what a run costs; `None` where the size of its dataset is not known before it is loaded.
pub(crate) fn of(spec: &RunSpec) -> Option<Cost> {
    let profile = Profile::new(spec, images(spec)?);
    let forward = 2.0 * forward_macs(&spec.backbone.definition.architecture, f64::from(spec.input_size));
    Some(Cost { training: forward * profile.training(), measuring: forward * profile.measuring() })
}

/// Returns the profile of a run for showing how far it is; where the size of its dataset is not known, with splits in the
/// usual proportion.
pub(crate) fn profile(spec: &RunSpec) -> Profile {
    Profile::new(spec, images(spec).unwrap_or([0.7, 0.1, 0.2]))
}

/// Returns the sizes of the three splits.
fn images(spec: &RunSpec) -> Option<[f64; 3]> {
    let dataset = &spec.dataset.definition;
    if let Some(expected) = dataset.expected {
        return Some([expected.train, expected.validation, expected.test].map(f64::from));
    }
    let DatasetSource::Procedural { train, test, .. } = dataset.source else { return None };
    let (train, test) = (f64::from(train), f64::from(test));
    match &dataset.splits {
        SplitPolicy::Given { validation: ValidationPolicy::Fraction { fraction, .. }, .. } => {
            Some([train * (1.0 - fraction), train * fraction, test])
        }
        _ => Some([train, 0.0, test]),
    }
}

/// Returns the multiply-accumulates of one forward pass of one image without its classifier; at 224 pixels within 2 % of
/// the published figures of the six backbones (paper, A.3).
fn forward_macs(architecture: &Architecture, input: f64) -> f64 {
    match architecture {
        Architecture::Vit(vit) => {
            let (patch, width) = (f64::from(vit.patch_size), f64::from(vit.embed_dim));
            let patches = (input / patch).powi(2);
            let tokens = patches + 1.0;
            let block = tokens * width * width * (4.0 + 2.0 * vit.mlp_ratio) + 2.0 * tokens * tokens * width;
            patches * width * 3.0 * patch * patch + f64::from(vit.depth) * block
        }
        Architecture::Swin { patch_size, window_size, embed_dim, depths, .. } => {
            let (patch, window) = (f64::from(*patch_size), f64::from(*window_size).powi(2));
            let mut tokens = (input / patch).powi(2);
            let mut width = f64::from(*embed_dim);
            let mut total = tokens * width * 3.0 * patch * patch;
            for (stage, depth) in depths.iter().enumerate() {
                if stage > 0 {
                    tokens /= 4.0;
                    total += tokens * 4.0 * width * 2.0 * width;
                    width *= 2.0;
                }
                total += f64::from(*depth) * (12.0 * tokens * width * width + 2.0 * tokens * window * width);
            }
            total
        }
        Architecture::Convnext { depths, dims, .. } => {
            let mut pixels = (input / 4.0).powi(2);
            let mut before = 0.0;
            let mut total = pixels * f64::from(dims[0]) * 48.0;
            for (depth, width) in
                depths.iter().zip(dims).map(|(depth, width)| (f64::from(*depth), f64::from(*width)))
            {
                if before > 0.0 {
                    pixels /= 4.0;
                    total += pixels * 4.0 * before * width;
                }
                total += depth * pixels * (49.0 * width + 8.0 * width * width);
                before = width;
            }
            total
        }
        Architecture::Resnet { block, layers, channels, .. } => resnet_macs(*block, layers, channels, input),
    }
}

fn resnet_macs(block: ResnetBlock, layers: &[u32], widths: &[u32], input: f64) -> f64 {
    let expansion = if block == ResnetBlock::Bottleneck { 4.0 } else { 1.0 };
    let mut pixels = (input / 4.0).powi(2);
    let mut channels = 64.0;
    let mut total = (input / 2.0).powi(2) * 64.0 * 147.0;
    for (stage, (count, width)) in layers.iter().zip(widths).enumerate() {
        let width = f64::from(*width);
        for index in 0..*count {
            let before = pixels;
            if stage > 0 && index == 0 {
                pixels /= 4.0;
            }
            total += match block {
                ResnetBlock::Bottleneck => {
                    before * channels * width
                        + pixels * 9.0 * width * width
                        + pixels * width * width * expansion
                }
                ResnetBlock::Basic => pixels * 9.0 * (channels * width + width * width),
            };
            if index == 0 && (stage > 0 || block == ResnetBlock::Bottleneck) {
                total += pixels * channels * width * expansion;
            }
            channels = width * expansion;
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use sweep_core::schedule::{AutoRamp, Granularity};
    use sweep_core::{Resolve, Sweep};

    use super::*;

    struct NoFiles;

    impl Resolve for NoFiles {
        fn weights(&self, _: &Path) -> Result<(PathBuf, String), String> {
            Err("none".to_owned())
        }
        fn dataset(&self, _: &Path) -> Result<(PathBuf, String), String> {
            Err("none".to_owned())
        }
    }

    fn paper() -> Vec<RunSpec> {
        let sweep = Sweep::parse(include_bytes!("../../../sweeps/paper.yaml"), &[]).unwrap();
        sweep.expand(&NoFiles).unwrap().runs.into_iter().map(|(_, spec)| spec).collect()
    }

    /// GMACs at 224 pixels from the model cards (paper, A.3).
    #[test]
    fn forward_passes_cost_what_the_model_cards_say() {
        let published = [
            ("vit", 16.9),
            ("swin", 15.5),
            ("convnext", 15.4),
            ("resnet50", 4.1),
            ("clip-vit", 16.9),
            ("clip-convnext", 15.4),
        ];
        let runs = paper();
        for (name, expected) in published {
            let spec = runs.iter().find(|spec| spec.backbone.name == name).unwrap();
            let found = forward_macs(&spec.backbone.definition.architecture, 224.0) / 1e9;
            assert!((found / expected - 1.0).abs() < 0.04, "{name}: {found} GMAC, published {expected}");
        }
    }

    /// PFLOP of a fixed-epsilon training of SWIN (paper, C.5, computed at 31 GFLOP a forward pass).
    #[test]
    fn trainings_cost_what_the_paper_section_says() {
        let published =
            [("aircraft", 93.0), ("cub", 150.0), ("cars", 193.0), ("dogs", 301.0), ("caltech256", 409.0)];
        let runs = paper();
        for (name, expected) in published {
            let is_it = |spec: &&RunSpec| {
                spec.backbone.name == "swin"
                    && spec.dataset.name == name
                    && spec.epsilon_schedule == EpsilonSchedule::Fixed
            };
            let found = of(runs.iter().find(is_it).unwrap()).unwrap().training / 1e15;
            assert!((found / expected - 1.0).abs() < 0.03, "{name}: {found} PFLOP, expected {expected}");
        }
    }

    /// Units of a forward pass, with APGD of 7 steps as in the paper's grid.
    #[test]
    fn objectives_and_schedules_cost_what_they_compute() {
        let spec = paper().remove(0);
        let training = |spec: &RunSpec| Profile::new(spec, [1.0, 0.0, 0.0]).epochs;
        let with = |epsilon_schedule| RunSpec { epsilon_schedule, ..spec.clone() };
        let trades = RunSpec { objective: Objective::Trades { beta: 6.0 }, ..with(EpsilonSchedule::Fixed) };
        assert_eq!(training(&with(EpsilonSchedule::Fixed)), [18.0; 50]);
        assert_eq!(training(&trades), [22.0; 50]);
        let none = RunSpec { epsilon_schedule: EpsilonSchedule::None, ..trades };
        assert_eq!(training(&none), [3.0; 50]);
        let attacked = |schedule| training(&with(schedule)).iter().filter(|cost| **cost > 3.0).count();
        let auto = |patience| {
            let (tolerance, end, per) = (0.02, None, Granularity::Epoch);
            EpsilonSchedule::Auto(AutoRamp { patience, tolerance, end, per })
        };
        let ramp = |per| EpsilonSchedule::Ramp { start: 12, end: 37, per };
        assert_eq!([ramp(Granularity::Epoch), ramp(Granularity::Step)].map(attacked), [37, 38]);
        assert_eq!([auto(5), auto(30)].map(attacked), [37, 18], "an estimate: as the paper's ramp");
    }
}
