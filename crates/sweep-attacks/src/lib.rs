//! Adversarial attacks on a classifier: APGD, PGD and FGSM, in l∞ and l2, and AutoAttack in l∞.
//!
//! An [`Attack`] looks for images near given ones that a [`sweep_kernels::Classifier`] gets wrong. It has two
//! uses:
//!
//! - **training** ([`Attack::craft`]): start at the clean image, spend every step, hand back the images to train
//!   on. TRADES climbs a divergence instead of a classification loss ([`Loss::KullbackLeibler`]), from near the
//!   clean image ([`gaussian_start`], [`Attack::craft_from`]);
//! - **evaluation** ([`Attack::evaluate`]): decide for each image whether *any* query was misclassified, and stop
//!   working on an image as soon as that is settled. A [`Cascade`] does so with several attacks, each on what the
//!   others left: AutoAttack, with FAB and the Square attack.
//!
//! APGD follows section D of the paper page, whose reference is the public `auto-attack` program: the
//! arithmetic, its order and its rounding are the reference's, so that on equal gradients the iterates are
//! equal bit for bit.
//!
//! What this crate does not do: it knows no backbone, reads no files, draws no random numbers of its own, and
//! never changes the model. Network and attack run where the images are. On the CPU the attack's own arithmetic
//! (a few operations per pixel and step) is in the images' element type (f32 or f64), with one thread per image.
//! Results therefore do not depend on the number of threads. On a GPU (f32 only) everything stays there: crafting
//! waits for it once, at the end ([`Attack::begin`] leaves that to the caller), and an evaluation once per query as
//! long as broken images leave the batch.

mod attack;
mod ball;
mod cascade;
mod checkpoints;
#[cfg(feature = "cuda")]
mod device;
mod element;
mod error;
mod evaluation;
mod fab;
mod host;
mod input;
mod objective;
mod oracle;
mod plane;
mod report;
mod sample;
mod search;
mod square;
mod step_control;

pub use attack::{Attack, Loss};
pub use ball::{Norm, Uniform, gaussian_start, random_start};
pub use cascade::{Cascade, CascadeEvaluation, CascadeOutcome, Nearest, Stage, nearest_misclassified};
pub use error::{Error, Result};
pub use evaluation::{BrokenSamples, Start};
pub use objective::{LossAndGradient, Objective, losses};
pub use report::{Crafted, Crafting, Effort, Evaluation, Outcome, PendingReport, Query, Trajectory};
