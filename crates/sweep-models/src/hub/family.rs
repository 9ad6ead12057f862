//! How each family of networks appears in a Hub `config.json`.

use serde_json::{Map, Value};

use crate::Result;

/// A configuration that timm can describe by the name of a base architecture and arguments that change it.
pub(super) trait TimmFamily: Sized {
    /// timm's names of the architectures that this crate can build.
    const NAMES: &'static [&'static str];
    /// How timm pools the features; nothing else is possible here.
    const POOLING: &'static str;

    /// The network of one of [`TimmFamily::NAMES`] with timm's default arguments and 1000 classes.
    fn named(name: &str) -> Option<Self>;

    /// Changes the network as timm does for one entry of `model_args`.
    fn apply_argument(&mut self, key: &str, value: &Value) -> Result<()>;

    /// How to make timm build this network.
    fn describe(&self) -> Result<Description>;
}

/// What differs between the `config.json` of one family and another.
pub(super) struct Description {
    /// The base architecture.
    pub(super) architecture: &'static str,
    /// What changes it.
    pub(super) model_args: Map<String, Value>,
    /// The name of the first convolution.
    pub(super) first_conv: &'static str,
    /// The name of the classifier.
    pub(super) classifier: &'static str,
}
