//! A run, fully resolved, and its identity.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::dataset::{Augmentation, DatasetSpec};
use crate::epsilon::Epsilon;
use crate::micro_batch::{self, MicroBatch};
use crate::schedule::{EpsilonSchedule, LearningRateSchedule};

/// Version of the canonical form. It is hashed into every [`RunId`]: raising it makes every run a new one.
pub const CANONICAL_FORMAT: u32 = 1;

/// Everything that a worker must know about one run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunSpec {
    /// The pretrained network.
    pub backbone: Named<BackboneSpec>,
    /// The images.
    pub dataset: Named<DatasetSpec>,
    /// Side of the square input, in pixels.
    pub input_size: u32,
    /// The radius that training ends at, the paper's eps_g.
    pub target_epsilon: Epsilon,
    /// How training gets there.
    pub epsilon_schedule: EpsilonSchedule,
    /// Number of passes over the training split.
    pub epochs: u32,
    /// Images an optimizer step (effective).
    pub batch_size: u32,
    /// Images a forward pass; what fits the device. Results differ by rounding, so it is no part of the identity; but where
    /// the backbone has batch norms, each of its batches has statistics of its own, and every size but the usual one is.
    pub micro_batch_size: MicroBatch,
    /// The numbers that the device computes with: part of the identity, since results differ by more than rounding.
    // What is at its default is not written, here and below, so that runs from before there was a choice keep their
    // identity.
    #[serde(default, skip_serializing_if = "Precision::is_f32")]
    pub precision: Precision,
    /// The optimizer and its rates.
    pub optimizer: OptimizerSpec,
    /// How the rates move.
    pub learning_rate_schedule: LearningRateSchedule,
    /// Longest gradient of an optimizer step: one that is longer in the Euclidean norm over all parameters is scaled
    /// down to it, as PyTorch's `clip_grad_norm_` does; above 0. `None`: gradients stay as they are (paper).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_norm: Option<f64>,
    /// The moving average of the weights that is measured and saved in their place. `None`: there is none (paper).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ema: Option<EmaSpec>,
    /// What training minimises.
    #[serde(default, skip_serializing_if = "Objective::is_adversarial")]
    pub objective: Objective,
    /// The attack that crafts training images.
    pub attack: AttackSpec,
    /// What is done to training images first.
    pub augmentation: Augmentation,
    /// What is measured on the validation split after every epoch.
    pub validation: ValidationSpec,
    /// What is measured on the test split with the last epoch's weights.
    pub evaluation: EvaluationSpec,
    /// Seed of everything random in the run.
    pub seed: u64,
}

/// What computes with numbers of which width. Weights, losses, norms, optimizer and attack iterates are f32 in all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// Everything in f32; the only one that the CPU has.
    #[default]
    F32,
    /// f32, whose matrix products and convolutions round their factors to 10 bits behind the point (TensorFloat-32).
    Tf32,
    /// Activations and matrix products in bf16, accumulated in f32.
    Bf16,
}

impl Precision {
    /// Returns the name used in the sweep file.
    pub const fn label(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Tf32 => "tf32",
            Self::Bf16 => "bf16",
        }
    }

    /// Returns whether it is f32, which every device has.
    pub const fn is_f32(&self) -> bool {
        matches!(self, Self::F32)
    }
}

impl FromStr for Precision {
    type Err = UnknownPrecision;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = [Self::F32, Self::Tf32, Self::Bf16].into_iter().find(|known| known.label() == text);
        known.ok_or_else(|| UnknownPrecision(text.to_owned()))
    }
}

/// A name that is no precision.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown precision `{0}`, expected `f32`, `tf32` or `bf16`")]
pub struct UnknownPrecision(String);

impl fmt::Display for Precision {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.label())
    }
}

/// A definition and the name it has in the sweep file. Names are for people: they are no part of the identity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Named<T> {
    /// As written in the sweep file.
    pub name: String,
    /// What it stands for.
    pub definition: T,
}

/// A backbone: its shape, its weights, and the normalization of its pixels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackboneSpec {
    /// The shape of the network.
    pub architecture: Architecture,
    /// Where its weights come from.
    pub weights: WeightsSource,
    /// Mean and standard deviation of the pixels, applied inside the model.
    pub normalization: Normalization,
}

/// The shape of a network, by the numbers that timm uses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Architecture {
    /// A vision transformer (timm's `vision_transformer.py`).
    Vit(VitArchitecture),
    /// A hierarchical transformer with shifted windows (timm's `swin_transformer.py`).
    Swin {
        /// Side of the input in pixels.
        image_size: u32,
        /// Side of a patch in pixels.
        patch_size: u32,
        /// Side of an attention window in patches.
        window_size: u32,
        /// Width of the first stage.
        embed_dim: u32,
        /// Blocks a stage.
        depths: Vec<u32>,
        /// Attention heads a stage.
        num_heads: Vec<u32>,
        /// Rate of stochastic depth at the last block.
        drop_path: f64,
    },
    /// A ConvNeXt (timm's `convnext.py`).
    Convnext {
        /// Side of the input in pixels.
        image_size: u32,
        /// Blocks a stage.
        depths: Vec<u32>,
        /// Width a stage.
        dims: Vec<u32>,
        /// Rate of stochastic depth at the last block.
        drop_path: f64,
    },
    /// A residual network with batch norm (timm's `resnet.py`).
    Resnet {
        /// Side of the input in pixels.
        image_size: u32,
        /// Which residual block.
        block: ResnetBlock,
        /// Blocks a stage.
        layers: Vec<u32>,
        /// Channels of the 3×3 convolutions of a stage.
        channels: Vec<u32>,
    },
}

/// The numbers of a vision transformer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VitArchitecture {
    /// Side of the input in pixels.
    pub image_size: u32,
    /// Side of a patch in pixels.
    pub patch_size: u32,
    /// Width.
    pub embed_dim: u32,
    /// Number of blocks.
    pub depth: u32,
    /// Attention heads; divides the width.
    pub num_heads: u32,
    /// Width of the hidden layer of a block, in widths.
    pub mlp_ratio: f64,
    /// Whether this is CLIP's variant: a norm before the blocks, no bias in the patch embedding, norm stability 1e-5
    /// instead of 1e-6.
    pub clip: bool,
    /// Whether the activation is OpenAI's QuickGELU instead of GELU.
    pub quick_gelu: bool,
}

/// The residual block of a ResNet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResnetBlock {
    /// Two 3×3 convolutions.
    Basic,
    /// 1×1, 3×3 (with the stride), 1×1.
    Bottleneck,
}

/// Where the weights of a backbone come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum WeightsSource {
    /// Drawn from the run's seed: training from scratch.
    Random,
    /// A local file of weights: safetensors or a PyTorch state dictionary, under timm's or open_clip's names.
    File {
        /// The file. Not part of a run's identity; `digest` is.
        path: PathBuf,
        /// SHA-256 of the file, `None` before it is resolved.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        digest: Option<String>,
    },
    /// A model repository on the Hugging Face Hub.
    Hub {
        /// `owner/name`.
        repository: String,
        /// Branch, tag or commit. Planning puts the commit (40 hexadecimal digits) in its place, which then is what
        /// identifies the content.
        revision: String,
        /// The file in the repository.
        file: String,
        /// The local copy, `None` before it is there. Not part of a run's identity.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path: Option<PathBuf>,
    },
    /// The final model of another run of the same store, usually a pretraining run.
    Run {
        /// That run. Not part of the identity; `training` is, because how that run is measured does not matter here.
        run: RunId,
        /// The identity of what that run trains.
        training: RunId,
    },
}

/// Mean and standard deviation of the three channels, for pixels in [0, 1].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Normalization {
    /// Red, green, blue.
    pub mean: [f64; 3],
    /// Red, green, blue; above 0.
    pub std: [f64; 3],
}

/// What training minimises, as a mean over the images of an effective batch. Labels are never smoothed and images never
/// mixed (paper, C).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Objective {
    /// Cross entropy on perturbed images alone: classic adversarial training, the paper's.
    #[default]
    Adversarial,
    /// Cross entropy on clean images plus `beta` times the Kullback-Leibler divergence of the outputs on perturbed images
    /// from those on clean ones (Zhang et al. 2019).
    Trades {
        /// Weight of the divergence, above 0.
        beta: f64,
    },
}

impl Objective {
    const fn is_adversarial(&self) -> bool {
        matches!(self, Self::Adversarial)
    }
}

/// An exponential moving average of the weights, updated after every optimizer step:
/// `average = decay · average + (1 - decay) · weights`, beginning with the initial weights.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct EmaSpec {
    /// Share of the former average that is kept, in [0, 1).
    pub decay: f64,
}

/// Which parameters have no weight decay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoDecay {
    /// The co-author's rule: those whose name contains `bias`, `norm` or `bn` (paper, C). It misses class token,
    /// position embedding, ConvNeXt's layer scale and the norms with other names (stem, downsampling).
    #[default]
    Sibling,
    /// timm's rule: tensors of at most one dimension, those whose name ends in `.bias`, and the position tables and extra
    /// tokens of transformers.
    Usual,
}

impl NoDecay {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
    const fn is_sibling(&self) -> bool {
        matches!(self, Self::Sibling)
    }
}

/// An optimizer with its rates. The head may learn faster than the backbone (paper, C.1).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum OptimizerSpec {
    /// AdamW with decoupled weight decay, as PyTorch computes it.
    Adamw {
        /// Rate of the backbone.
        learning_rate: f64,
        /// Rate of the head.
        head_learning_rate: f64,
        /// Weight decay of the backbone.
        weight_decay: f64,
        /// Weight decay of the head.
        head_weight_decay: f64,
        /// Which parameters have no weight decay.
        #[serde(default, skip_serializing_if = "NoDecay::is_sibling")]
        no_decay: NoDecay,
        /// Decay of the first and second moment.
        betas: [f64; 2],
        /// Added to the denominator; PyTorch's `eps`.
        stability: f64,
    },
    /// Stochastic gradient descent with momentum, as PyTorch computes it (no dampening, no Nesterov).
    Sgd {
        /// Rate of the backbone.
        learning_rate: f64,
        /// Rate of the head.
        head_learning_rate: f64,
        /// Weight decay of the backbone.
        weight_decay: f64,
        /// Weight decay of the head.
        head_weight_decay: f64,
        /// Which parameters have no weight decay.
        #[serde(default, skip_serializing_if = "NoDecay::is_sibling")]
        no_decay: NoDecay,
        /// Momentum in [0, 1).
        momentum: f64,
    },
}

/// An attack without its radius.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum AttackSpec {
    /// Auto-PGD (Croce and Hein, 2020), section D of the paper's reconstruction.
    Apgd {
        /// Number of steps.
        steps: u32,
        /// The ball.
        norm: Norm,
        /// What is maximised.
        loss: AttackLoss,
    },
}

/// The norm whose ball bounds a perturbation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Norm {
    /// Largest absolute change of a pixel's channel.
    Linf,
    /// Euclidean length of the change.
    L2,
}

/// The loss that an attack maximises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttackLoss {
    /// Cross entropy.
    CrossEntropy,
    /// Difference of logits ratio.
    Dlr,
}

impl AttackSpec {
    /// Returns the short text that tables and the database use, such as `apgd-10-ce`.
    pub fn label(&self) -> String {
        let Self::Apgd { steps, loss, .. } = self;
        let loss = match loss {
            AttackLoss::CrossEntropy => "ce",
            AttackLoss::Dlr => "dlr",
        };
        format!("apgd-{steps}-{loss}")
    }

    /// Returns the norm of the ball.
    pub const fn norm(&self) -> Norm {
        let Self::Apgd { norm, .. } = self;
        *norm
    }

    /// Returns the number of steps.
    pub const fn steps(&self) -> u32 {
        let Self::Apgd { steps, .. } = self;
        *steps
    }
}

/// What finished models are tested with, without its radius.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum EvaluationAttack {
    /// One attack, from the clean image.
    Single(AttackSpec),
    /// Several attacks, each on the images that withstood those before.
    Cascade(CascadeSpec),
}

/// Several attacks one after the other, without their radius.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum CascadeSpec {
    /// AutoAttack's standard version in l-infinity (Croce and Hein, 2020; paper, Table 6).
    Autoattack,
}

impl EvaluationAttack {
    /// Returns the short text that tables and the database use, such as `apgd-10-ce`.
    pub fn label(&self) -> String {
        match self {
            Self::Single(attack) => attack.label(),
            Self::Cascade(CascadeSpec::Autoattack) => "autoattack".to_owned(),
        }
    }

    /// Returns the norm of the ball.
    pub const fn norm(&self) -> Norm {
        match self {
            Self::Single(attack) => attack.norm(),
            Self::Cascade(CascadeSpec::Autoattack) => Norm::Linf,
        }
    }
}

impl From<AttackSpec> for EvaluationAttack {
    fn from(attack: AttackSpec) -> Self {
        Self::Single(attack)
    }
}

impl Norm {
    /// Returns the name used in the sweep file and in the database.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Linf => "linf",
            Self::L2 => "l2",
        }
    }
}

/// What is measured on the validation split after every epoch: clean accuracy, and robust accuracy at the full target
/// epsilon whatever the schedule says (paper, C).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValidationSpec {
    /// The attack.
    pub attack: AttackSpec,
}

/// What is measured on the test split: accuracy at every multiple of 1/255 up to `max_epsilon`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvaluationSpec {
    /// The attack.
    pub attack: EvaluationAttack,
    /// Largest radius; at least the target epsilon.
    pub max_epsilon: Epsilon,
}

impl EvaluationSpec {
    /// Returns the radii that are measured: every multiple of 1/255 up to `max_epsilon`, `max_epsilon` itself, and the
    /// target, which expected robustness needs.
    pub fn points(&self, target: Epsilon) -> Vec<Epsilon> {
        let mut points = self.max_epsilon.grid();
        if let Err(place) = points.binary_search(&target) {
            points.insert(place, target);
        }
        points
    }
}

/// The identity of a run: the first 128 bits of SHA-256 over its canonical form, written as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RunId([u8; 16]);

/// A text that is no run id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a run id: expected 32 hexadecimal digits")]
pub struct ParseRunIdError(String);

impl RunId {
    /// Number of digits that tables print; `sweep show` and its kin take any prefix that fits one run only.
    pub const SHORT: usize = 10;

    /// Returns the digits that tables print.
    pub fn short(&self) -> String {
        self.to_string()[..Self::SHORT].to_owned()
    }

    /// Returns its 128 bits.
    pub(crate) const fn bytes(self) -> [u8; 16] {
        self.0
    }

    fn of(canonical: &str) -> Self {
        let digest = Sha256::digest(canonical.as_bytes());
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        Self(bytes)
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for RunId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "RunId({self})")
    }
}

impl FromStr for RunId {
    type Err = ParseRunIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseRunIdError(text.to_owned());
        if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(error());
        }
        u128::from_str_radix(text, 16).map(|number| Self(number.to_be_bytes())).map_err(|_| error())
    }
}

impl Serialize for RunId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RunId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl RunSpec {
    /// Returns the identity of the run: a hash of what changes its result.
    pub fn id(&self) -> RunId {
        RunId::of(&self.canonical())
    }

    /// Returns the identity of what is trained, whatever is measured afterwards.
    pub fn training_id(&self) -> RunId {
        RunId::of(&enveloped(&self.training_identity(&self.definitions())))
    }

    /// Returns the canonical form: JSON with sorted keys, without names and paths, and without the micro batch size where
    /// it changes nothing but the rounding.
    pub fn canonical(&self) -> String {
        self.canonical_with(&self.definitions())
    }

    /// Like [`Self::id`], where the canonical forms of the definitions are known: they are most of the work.
    pub(crate) fn id_with(&self, definitions: &Definitions<'_>) -> RunId {
        RunId::of(&self.canonical_with(definitions))
    }

    fn canonical_with(&self, definitions: &Definitions<'_>) -> String {
        let evaluation = canonical_text(&to_json(&self.evaluation));
        let training = self.training_identity(definitions);
        let validation = canonical_text(&to_json(&self.validation));
        enveloped(&format!(
            r#"{{"evaluation":{evaluation},"training":{training},"validation":{validation}}}"#
        ))
    }

    fn definitions(&self) -> Definitions<'static> {
        Definitions {
            backbone: self.backbone.definition.canonical().into(),
            dataset: self.dataset.definition.canonical().into(),
        }
    }

    /// Returns the run whose final model this run starts from, if any.
    pub const fn depends_on(&self) -> Option<RunId> {
        match self.backbone.definition.weights {
            WeightsSource::Run { run, .. } => Some(run),
            _ => None,
        }
    }

    /// Returns the images that batch norms normalise over, where the backbone has any and they are not the usual ones: runs
    /// of the usual size have the identity that they had before the size counted.
    pub(crate) fn normalised_images(&self) -> Option<u32> {
        let images = self.micro_batch_size.images()?;
        let counts = self.backbone.definition.architecture.has_batch_norm()
            && images != micro_batch::usual(self.batch_size);
        counts.then_some(images)
    }

    /// Returns the canonical form of what is trained. The keys stand in sorted order here already; an option that is off
    /// is left out, so that a new option changes no identity.
    fn training_identity(&self, definitions: &Definitions<'_>) -> String {
        let value = |value: Value| Some(Cow::Owned(canonical_text(&value)));
        let objective = (!self.objective.is_adversarial()).then(|| to_json(&self.objective));
        let precision = (!self.precision.is_f32()).then(|| to_json(&self.precision));
        let parts: [(&str, Option<Cow<'_, str>>); 17] = [
            ("attack", value(to_json(&self.attack))),
            ("augmentation", value(to_json(&self.augmentation))),
            ("backbone", Some(Cow::Borrowed(&definitions.backbone))),
            ("batch_size", value(self.batch_size.into())),
            ("clip_norm", self.clip_norm.and_then(|norm| value(norm.into()))),
            ("dataset", Some(Cow::Borrowed(&definitions.dataset))),
            ("ema", self.ema.and_then(|ema| value(to_json(&ema)))),
            ("epochs", value(self.epochs.into())),
            ("epsilon_schedule", value(to_json(&self.epsilon_schedule))),
            ("input_size", value(self.input_size.into())),
            ("learning_rate_schedule", value(to_json(&self.learning_rate_schedule))),
            ("micro_batch_size", self.normalised_images().and_then(|images| value(images.into()))),
            ("objective", objective.and_then(value)),
            ("optimizer", value(to_json(&self.optimizer))),
            ("precision", precision.and_then(value)),
            ("seed", value(self.seed.into())),
            ("target_epsilon", value(to_json(&self.target_epsilon))),
        ];
        debug_assert!(parts.is_sorted_by_key(|(key, _)| *key));
        let written = parts.iter().filter_map(|(key, text)| Some(format!("\"{key}\":{}", text.as_ref()?)));
        format!("{{{}}}", written.collect::<Vec<_>>().join(","))
    }
}

/// The canonical forms of the definitions of a run.
#[derive(Clone, Debug)]
pub(crate) struct Definitions<'a> {
    pub(crate) backbone: Cow<'a, str>,
    pub(crate) dataset: Cow<'a, str>,
}

impl BackboneSpec {
    /// Returns the canonical form: without the path of a file whose digest is known.
    pub(crate) fn canonical(&self) -> String {
        let weights = match &self.weights {
            WeightsSource::File { digest: Some(digest), .. } => json!({ "kind": "file", "digest": digest }),
            WeightsSource::Run { training, .. } => json!({ "kind": "run", "training": training }),
            WeightsSource::Hub { repository, revision, file, path: _ } => {
                json!({ "kind": "hub", "repository": repository, "revision": revision, "file": file })
            }
            weights => to_json(weights),
        };
        canonical_text(&json!({
            "architecture": to_json(&self.architecture),
            "weights": weights,
            "normalization": to_json(&self.normalization),
        }))
    }
}

impl DatasetSpec {
    /// Returns the canonical form: without the path of files whose digest is known, and without the expected sizes.
    pub(crate) fn canonical(&self) -> String {
        canonical_text(&json!({ "source": self.source.canonical(), "splits": to_json(&self.splits) }))
    }
}

pub(crate) fn to_json<T: Serialize>(value: &T) -> Value {
    serde_json::to_value(value).expect("plain data without maps of odd keys becomes JSON")
}

fn enveloped(identity: &str) -> String {
    format!(r#"{{"format":{CANONICAL_FORMAT},"identity":{identity}}}"#)
}

pub(crate) fn canonical_text(value: &Value) -> String {
    let mut text = String::with_capacity(2048);
    write_canonical(value, &mut text);
    text
}

/// Writes JSON without spaces and with sorted keys, whatever order the map type of `serde_json` was built to keep.
fn write_canonical(value: &Value, text: &mut String) {
    let list = |text: &mut String, items: &mut dyn Iterator<Item = (Option<&String>, &Value)>| {
        for (index, (key, value)) in items.enumerate() {
            if index > 0 {
                text.push(',');
            }
            if let Some(key) = key {
                text.push_str(&Value::from(key.as_str()).to_string());
                text.push(':');
            }
            write_canonical(value, text);
        }
    };
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().map(|(key, value)| (Some(key), value)).collect();
            entries.sort_by_key(|(key, _)| *key);
            text.push('{');
            list(text, &mut entries.into_iter());
            text.push('}');
        }
        Value::Array(values) => {
            text.push('[');
            list(text, &mut values.iter().map(|value| (None, value)));
            text.push(']');
        }
        scalar => text.push_str(&scalar.to_string()),
    }
}
