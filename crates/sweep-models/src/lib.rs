//! The backbones, under timm's parameter names.
//!
//! An [`Architecture`] holds the numbers of a network, a [`Model`] the network itself with its parameters. Each family
//! has a file that reads like its paper. Models are saved in timm's names, beside a Hub-style `config.json`
//! ([`HubConfig`]), so that timm can load them; weights are also read from PyTorch's own files and under the names of
//! open_clip ([`Model::load`]).
//!
//! Knows no training, no attack and no network access.

mod architecture;
mod config;
mod convnext;
mod error;
mod hub;
mod initialize;
mod model;
mod parts;
mod resnet;
mod swin;
mod vit;
mod weights;

pub use architecture::Architecture;
pub use config::{CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD};
pub use convnext::ConvnextConfig;
pub use error::{Error, Mismatch, Misshaped, Result};
pub use hub::{HubConfig, PretrainedConfig};
pub use initialize::{Head, Uniforms};
pub use model::{Model, Output};
pub use resnet::{ResnetBlock, ResnetConfig};
pub use swin::SwinConfig;
pub use vit::{VitActivation, VitConfig};
