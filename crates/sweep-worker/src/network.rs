//! From a run's description to a model and its optimizer.

use std::path::{Path, PathBuf};

use candle_core::DType;
use sweep_attacks::{Attack, Loss, Norm};
use sweep_core::home::Home;
use sweep_core::random::{Purpose, Stream};
use sweep_core::spec::{
    self, AttackLoss, AttackSpec, Normalization, Objective, OptimizerSpec, RunId, RunSpec, WeightsSource,
};
use sweep_kernels::{AdamW, AdamWSettings, Optimizer, Sgd, SgdSettings};
use sweep_models::{
    Architecture, ConvnextConfig, Head, HubConfig, Model, ResnetBlock, ResnetConfig, SwinConfig,
    VitActivation, VitConfig,
};

use crate::digest::read_digest;
use crate::groups::{Rates, groups};
use crate::history::History;
use crate::measure::NamedAttack;
use crate::{Error, Result};

/// A model and the digest of the weights file it came from; `None` for random weights.
pub(crate) struct Loaded {
    pub(crate) model: Model,
    pub(crate) weights_digest: Option<String>,
}

/// Builds the network of a run with `classes` classes: pretrained weights and a new head, or random weights.
pub(crate) fn load(spec: &RunSpec, classes: u32, home: &Home) -> Result<Loaded> {
    let architecture = architecture(spec, classes)?;
    let mut stream = Stream::new(spec.seed, Purpose::Initialization, 0, 0);
    let mut uniforms = || stream.uniform();
    let Some(Weights { path, expected }) = weights(&spec.backbone.definition.weights, home)? else {
        let model = Model::new(architecture, DType::F32, &mut uniforms)?;
        return Ok(Loaded { model, weights_digest: None });
    };
    let found = read_digest(&path).map_err(|source| Error::WeightsFile { path: path.clone(), source })?;
    if let Some(expected) = expected.filter(|expected| *expected != found) {
        return Err(Error::WeightsChanged { path, expected, found });
    }
    let model = Model::load(architecture, DType::F32, &path, Head::Fresh(&mut uniforms))?;
    Ok(Loaded { model, weights_digest: Some(found) })
}

/// A weights file and the digest that it must have, where that is known.
struct Weights {
    path: PathBuf,
    expected: Option<String>,
}

/// Returns where the weights lie; `None` for random ones.
fn weights(source: &WeightsSource, home: &Home) -> Result<Option<Weights>> {
    match source {
        WeightsSource::Random => Ok(None),
        WeightsSource::File { path, digest } => {
            Ok(Some(Weights { path: path.clone(), expected: digest.clone() }))
        }
        WeightsSource::Run { run, .. } => final_model(*run, home).map(Some),
        WeightsSource::Hub { path: Some(path), .. } => {
            Ok(Some(Weights { path: path.clone(), expected: blob_digest(path) }))
        }
        WeightsSource::Hub { repository, path: None, .. } => {
            Err(Error::HubWeights { repository: repository.clone() })
        }
    }
}

/// Returns the SHA-256 that the cache of the Hub keeps a large file under; `None` for a small one, which has another digest.
fn blob_digest(link: &Path) -> Option<String> {
    let blob = link.canonicalize().ok()?;
    let name = blob.file_name()?.to_str()?;
    (name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| name.to_owned())
}

/// Returns the final model of another run, with the digest which that run reported.
fn final_model(run: RunId, home: &Home) -> Result<Weights> {
    let path = home.model(run).join("model.safetensors");
    if !path.exists() {
        return Err(Error::NoModel { run, path });
    }
    match History::read_all(home, run)?.model {
        Some(digest) => Ok(Weights { path, expected: Some(digest) }),
        None => Err(Error::NoModel { run, path }),
    }
}

/// Fewest classes for which the DLR loss is defined: it divides by the difference between the largest and the third
/// largest logit (Croce and Hein, 2020).
const DLR_CLASSES: u32 = 3;

/// Checks that every attack of a run can be carried out on a dataset of `classes` classes.
pub(crate) fn check_attacks(spec: &RunSpec, classes: u32) -> Result<()> {
    let needs = [
        ("training", needed_classes(&spec.attack)),
        ("validation", needed_classes(&spec.validation.attack)),
        ("evaluation", NamedAttack::from(&spec.evaluation.attack).needed_classes() as u32),
    ];
    match needs.into_iter().find(|(_, needed)| *needed > classes) {
        Some((purpose, needed)) => Err(Error::TooFewClasses { purpose, needed, classes }),
        None => Ok(()),
    }
}

/// Returns the fewest classes that an attack is defined on.
pub(crate) fn needed_classes(AttackSpec::Apgd { loss, .. }: &AttackSpec) -> u32 {
    match loss {
        AttackLoss::CrossEntropy => 1,
        AttackLoss::Dlr => DLR_CLASSES,
    }
}

/// Checks that the network of a run can be trained here and that its model can be saved for timm afterwards.
pub(crate) fn describable(spec: &RunSpec) -> Result<()> {
    // Only the shape matters here.
    HubConfig::describe(&architecture(spec, 1)?)?;
    Ok(())
}

/// Translates the network of a sweep file into that of `sweep-models`, at the input size of the run.
fn architecture(spec: &RunSpec, classes: u32) -> Result<Architecture> {
    let Normalization { mean, std } = spec.backbone.definition.normalization;
    let image_size = spec.input_size as usize;
    let sizes = |sizes: &[u32]| sizes.iter().map(|size| *size as usize).collect::<Vec<_>>();
    let architecture = match &spec.backbone.definition.architecture {
        spec::Architecture::Vit(shape) => vit(shape, image_size),
        spec::Architecture::Swin {
            patch_size, window_size, embed_dim, depths, num_heads, drop_path, ..
        } => Architecture::Swin(SwinConfig {
            image_size,
            patch_size: *patch_size as usize,
            window_size: *window_size as usize,
            embed_dim: *embed_dim as usize,
            depths: sizes(depths),
            num_heads: sizes(num_heads),
            drop_path: *drop_path,
            ..SwinConfig::base()
        }),
        spec::Architecture::Convnext { depths, dims, drop_path, .. } => {
            let (depths, dims, drop_path) = (sizes(depths), sizes(dims), *drop_path);
            Architecture::Convnext(ConvnextConfig {
                image_size,
                depths,
                dims,
                drop_path,
                ..ConvnextConfig::base()
            })
        }
        spec::Architecture::Resnet { block, layers, channels, .. } => {
            let (layers, channels) = (sizes(layers), sizes(channels));
            let block = match block {
                spec::ResnetBlock::Basic => ResnetBlock::Basic,
                spec::ResnetBlock::Bottleneck => ResnetBlock::Bottleneck,
            };
            Architecture::Resnet(ResnetConfig { image_size, block, layers, channels, ..ResnetConfig::base() })
        }
    };
    let architecture = architecture.with_classes(classes as usize).with_normalization(mean, std);
    architecture.validate()?;
    Ok(architecture)
}

fn vit(shape: &spec::VitArchitecture, image_size: usize) -> Architecture {
    let variant = if shape.clip { VitConfig::clip_base() } else { VitConfig::base() };
    Architecture::Vit(VitConfig {
        image_size,
        patch_size: shape.patch_size as usize,
        embed_dim: shape.embed_dim as usize,
        depth: shape.depth as usize,
        num_heads: shape.num_heads as usize,
        mlp_ratio: shape.mlp_ratio,
        activation: if shape.quick_gelu { VitActivation::QuickGelu } else { VitActivation::Gelu },
        ..variant
    })
}

/// Builds the optimizer of a run.
pub(crate) fn optimizer(spec: &OptimizerSpec, model: &Model) -> Result<Box<dyn Optimizer>> {
    let groups = groups(model, rates(spec));
    Ok(match spec {
        OptimizerSpec::Adamw { betas, stability, .. } => {
            Box::new(AdamW::new(AdamWSettings { betas: *betas, stability: *stability }, groups)?)
        }
        OptimizerSpec::Sgd { momentum, .. } => {
            Box::new(Sgd::new(SgdSettings { momentum: *momentum, ..SgdSettings::default() }, groups)?)
        }
    })
}

/// Returns the rates, which every kind of optimizer has.
pub(crate) const fn rates(spec: &OptimizerSpec) -> Rates {
    let (OptimizerSpec::Adamw {
        learning_rate,
        head_learning_rate,
        weight_decay,
        head_weight_decay,
        no_decay,
        ..
    }
    | OptimizerSpec::Sgd {
        learning_rate,
        head_learning_rate,
        weight_decay,
        head_weight_decay,
        no_decay,
        ..
    }) = spec;
    Rates {
        learning: [*learning_rate, *head_learning_rate],
        decay: [*weight_decay, *head_weight_decay],
        no_decay: *no_decay,
    }
}

/// Returns the attack that crafts the training images of a run. That of TRADES maximises the divergence which the
/// objective then minimises, whatever loss the attack has otherwise.
pub(crate) fn training_attack(spec: &RunSpec) -> Attack {
    match spec.objective {
        Objective::Adversarial => attack(&spec.attack),
        Objective::Trades { .. } => with_loss(&spec.attack, Loss::KullbackLeibler),
    }
}

/// Translates an attack of a sweep file.
pub(crate) fn attack(spec: &AttackSpec) -> Attack {
    let AttackSpec::Apgd { loss, .. } = spec;
    let loss = match loss {
        AttackLoss::CrossEntropy => Loss::CrossEntropy,
        AttackLoss::Dlr => Loss::Dlr,
    };
    with_loss(spec, loss)
}

fn with_loss(spec: &AttackSpec, loss: Loss) -> Attack {
    let AttackSpec::Apgd { steps, norm, .. } = spec;
    let norm = match norm {
        spec::Norm::Linf => Norm::Linf,
        spec::Norm::L2 => Norm::L2,
    };
    let steps = std::num::NonZeroUsize::new(*steps as usize).unwrap_or(std::num::NonZeroUsize::MIN);
    Attack::apgd(norm, loss, steps)
}

#[cfg(test)]
mod tests {
    use sweep_core::event::FailureClass;
    use sweep_testkit::sample_run;

    use super::*;

    /// Gives a run an attack.
    type Set = fn(&mut RunSpec, AttackSpec);

    #[test]
    fn dlr_is_refused_with_two_classes_whatever_it_is_for() {
        let AttackSpec::Apgd { steps, norm, .. } = sample_run(0).attack;
        let dlr = AttackSpec::Apgd { steps, norm, loss: AttackLoss::Dlr };
        let uses: [(&str, Set); 3] = [
            ("training", |spec, attack| spec.attack = attack),
            ("validation", |spec, attack| spec.validation.attack = attack),
            ("evaluation", |spec, attack| spec.evaluation.attack = attack.into()),
        ];
        for (purpose, set) in uses {
            let mut spec = sample_run(0);
            set(&mut spec, dlr.clone());
            let error = check_attacks(&spec, 2).unwrap_err();
            assert_eq!(error.class(), FailureClass::Configuration);
            assert!(error.to_string().contains(purpose), "{error}");
            assert!(check_attacks(&spec, 3).is_ok());
        }
        assert!(check_attacks(&sample_run(0), 2).is_ok(), "cross entropy takes any number of classes");
    }
}
