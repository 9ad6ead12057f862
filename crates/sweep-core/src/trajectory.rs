//! What a run trains, epoch by epoch, and the hash of every beginning of it.
//!
//! Two runs whose first `n` epochs are alike have the same prefix of length `n`, whatever follows: a ramp and standard
//! fine-tuning until the ramp starts, a run and the same run with more epochs at a constant learning rate, two runs that
//! differ in their evaluation. A checkpoint is named by the prefix that produced it, so that resuming, lengthening and
//! sharing are one mechanism: go on from the longest prefix that is stored.
//!
//! A prefix covers what changes the weights and nothing else: how an epoch is validated is no part of it (checkpoints
//! carry what was measured), nor is the attack in an epoch without one.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::epsilon::Epsilon;
use crate::schedule::{EpsilonSchedule, Granularity, LearningRateSchedule, Moment};
use crate::spec::{AttackSpec, RunId, RunSpec, canonical_text, to_json};

/// Version of what is hashed. Raising it makes every stored checkpoint useless.
const FORMAT: u32 = 1;

/// The hash of a beginning of training: the first 128 bits of SHA-256, written as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix([u8; 16]);

/// A text that is no prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not the hash of a trajectory: expected 32 hexadecimal digits")]
pub struct ParsePrefixError(String);

impl Prefix {
    fn first(text: &str) -> Self {
        Self::cut(Sha256::digest(text.as_bytes()).as_slice())
    }

    fn then(self, epoch: &str) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(self.0);
        hasher.update(epoch.as_bytes());
        Self::cut(hasher.finalize().as_slice())
    }

    fn cut(digest: &[u8]) -> Self {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        Self(bytes)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Prefix({self})")
    }
}

impl FromStr for Prefix {
    type Err = ParsePrefixError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // The same digits as a run's id.
        let id: RunId = text.parse().map_err(|_| ParsePrefixError(text.to_owned()))?;
        Ok(Self(id.bytes()))
    }
}

impl RunSpec {
    /// Returns the prefixes of the run's trajectory: entry `n` stands for its first `n` epochs, from 0 to `epochs`.
    pub fn trajectory(&self) -> Vec<Prefix> {
        let epochs = Epochs::of(self);
        let mut prefix = Prefix::first(&self.beginning());
        let mut prefixes = Vec::with_capacity(self.epochs as usize + 1);
        prefixes.push(prefix);
        for epoch in 0..self.epochs {
            prefix = prefix.then(&epochs.describe(epoch));
            prefixes.push(prefix);
        }
        prefixes
    }

    /// Returns what all epochs have in common, as canonical JSON.
    fn beginning(&self) -> String {
        let mut parts = vec![
            ("augmentation", to_json(&self.augmentation)),
            ("backbone", Value::from(self.backbone.definition.canonical())),
            ("batch_size", self.batch_size.into()),
            ("dataset", Value::from(self.dataset.definition.canonical())),
            ("format", FORMAT.into()),
            ("input_size", self.input_size.into()),
            ("optimizer", to_json(&self.optimizer)),
            ("seed", self.seed.into()),
        ];
        parts.extend(self.clip_norm.map(|norm| ("clip_norm", norm.into())));
        parts.extend(self.ema.map(|ema| ("ema", to_json(&ema))));
        parts.extend(self.normalised_images().map(|images| ("micro_batch_size", images.into())));
        parts.extend((!self.precision.is_f32()).then(|| ("precision", to_json(&self.precision))));
        canonical_text(&parts.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
    }
}

/// Describes epochs, so that two have one text exactly if they do the same to the same weights.
struct Epochs<'a> {
    spec: &'a RunSpec,
    /// How images are perturbed and what is minimised: it matters only where epsilon is not 0.
    perturbation: String,
    /// The whole schedule, where an epoch cannot be told by one radius.
    schedule: String,
}

impl<'a> Epochs<'a> {
    fn of(spec: &'a RunSpec) -> Self {
        let attack = canonical_text(&to_json(&spec.attack));
        let objective = canonical_text(&to_json(&spec.objective));
        let schedule = canonical_text(&to_json(&spec.epsilon_schedule));
        Self {
            spec,
            perturbation: format!("{attack}{objective}"),
            schedule: format!("{schedule}{}/{}", spec.target_epsilon, spec.epochs),
        }
    }

    fn describe(&self, epoch: u32) -> String {
        let radius = match self.constant_radius(epoch) {
            Some(0.0) => "0".to_owned(),
            // As bits: equal radii only.
            Some(radius) => format!("{:016x}{}", radius.to_bits(), self.perturbation),
            None => format!("{}{}", self.schedule, self.perturbation),
        };
        format!("{radius};{}", self.rate(epoch))
    }

    /// Returns the radius of an epoch; `None` where it changes within the epoch or depends on what was measured before.
    fn constant_radius(&self, epoch: u32) -> Option<f64> {
        let spec = self.spec;
        let changes = match &spec.epsilon_schedule {
            EpsilonSchedule::Auto(_) => true,
            EpsilonSchedule::Ramp { start, end, per: Granularity::Step } => (*start..*end).contains(&epoch),
            EpsilonSchedule::Warmup { end, per: Granularity::Step } => epoch < *end,
            _ => false,
        };
        let moment = Moment { epoch, epochs: spec.epochs, seed: spec.seed, ..Moment::default() };
        (!changes).then(|| spec.epsilon_schedule.epsilon_at(moment, spec.target_epsilon))
    }

    fn rate(&self, epoch: u32) -> String {
        let epochs = self.spec.epochs;
        match &self.spec.learning_rate_schedule {
            LearningRateSchedule::Cosine { warmup_epochs, per: Granularity::Step } => {
                if epoch < *warmup_epochs {
                    format!("warmup {warmup_epochs}")
                } else {
                    format!("cosine {warmup_epochs} {epochs}")
                }
            }
            schedule => format!("{:016x}", schedule.multiplier(epoch, epochs, 0, 1).to_bits()),
        }
    }
}

/// A run whose beginning another run trains: it starts when that is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Follower {
    /// The run.
    pub run: RunId,
    /// The run that trains the common beginning; it stands earlier in the list.
    pub leader: RunId,
    /// Epochs that they have in common, at least 1.
    pub epochs: u32,
}

/// Returns which of `runs` follow which: each the earliest one with which it has the longest beginning in common.
pub fn followers(runs: &[(RunId, &RunSpec)]) -> Vec<Follower> {
    let mut first: HashMap<Prefix, RunId> = HashMap::new();
    let mut followers = Vec::new();
    for (run, spec) in runs {
        let trajectory = spec.trajectory();
        let stored = (1..=spec.epochs).rev().find_map(|epochs| {
            let leader = first.get(&trajectory[epochs as usize])?;
            Some(Follower { run: *run, leader: *leader, epochs })
        });
        followers.extend(stored.filter(|found| found.leader != *run));
        for prefix in &trajectory[1..] {
            first.entry(*prefix).or_insert(*run);
        }
    }
    followers
}

/// What the worker of a run does for other runs that go on from its beginning: it measures what they would have measured
/// and keeps the checkpoints that they start from. `sharing.json` in the run's folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sharing {
    /// The other runs.
    pub companions: Vec<Companion>,
}

/// Another run, as the one that trains its beginning must know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Companion {
    /// The run.
    pub run: RunId,
    /// Epochs that the two have in common; it starts from the checkpoint after them.
    pub epochs: u32,
    /// How it validates.
    pub attack: AttackSpec,
    /// The radius that it validates at.
    pub target_epsilon: Epsilon,
}

/// The name of a checkpoint in the folder of trajectories: everything that decides whether it can be used, and by whom.
///
/// `<prefix>-<run>-whole-<digest>.safetensors` after the epochs of the prefix, `<prefix>-<run>-<step>-<digest>.safetensors`
/// after some steps of its last epoch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CheckpointName {
    /// The epochs that produced it; the last of them perhaps only in part.
    pub prefix: Prefix,
    /// The run whose worker wrote it, and deletes it when it has newer ones. Any run may go on from it.
    pub run: RunId,
    /// Optimizer steps done in the last epoch of the prefix; `None` where that epoch is complete.
    pub step: Option<u32>,
    /// SHA-256 of the file, 64 hexadecimal digits.
    pub digest: String,
}

const WHOLE: &str = "whole";
const SUFFIX: &str = ".safetensors";

impl fmt::Display for CheckpointName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { prefix, run, step, digest } = self;
        match step {
            None => write!(formatter, "{prefix}-{run}-{WHOLE}-{digest}{SUFFIX}"),
            Some(step) => write!(formatter, "{prefix}-{run}-{step:07}-{digest}{SUFFIX}"),
        }
    }
}

/// A file name that is not that of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not the name of a checkpoint")]
pub struct ParseCheckpointNameError(String);

impl FromStr for CheckpointName {
    type Err = ParseCheckpointNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_name(text).ok_or_else(|| ParseCheckpointNameError(text.to_owned()))
    }
}

fn parse_name(text: &str) -> Option<CheckpointName> {
    let mut parts = text.strip_suffix(SUFFIX)?.split('-');
    let (prefix, run) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let step = match parts.next()? {
        WHOLE => None,
        digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => Some(digits.parse().ok()?),
        _ => return None,
    };
    let digest = parts.next()?;
    let is_digest = digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
    (is_digest && parts.next().is_none()).then(|| CheckpointName {
        prefix,
        run,
        step,
        digest: digest.to_owned(),
    })
}
