//! The backbones, under timm's parameter names.
//!
//! An [`Architecture`] holds the numbers of a network, a [`Model`] the network itself with its parameters. Weights are
//! read and written in timm's names, beside a Hub-style `config.json` ([`HubConfig`]), so that timm can load what this
//! crate saves.
//!
//! Knows no training, no attack and no network access.

mod error;
mod hub;
mod initialize;
mod model;
mod vit;

pub use error::{Error, Mismatch, Misshaped, Result};
pub use hub::{HubConfig, PretrainedConfig};
pub use initialize::{Head, Uniforms};
pub use model::{Architecture, Model, Output};
pub use vit::{CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD, VitActivation, VitConfig};
