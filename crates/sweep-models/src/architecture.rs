//! The numbers of a network of any family, from which a [`Model`](crate::Model) is built.

use serde::{Deserialize, Serialize};
use sweep_kernels::{Chain, Linear};

use crate::initialize::Builder;
use crate::{ConvnextConfig, ResnetConfig, Result, SwinConfig, VitConfig};

/// The numbers of a network of any supported family.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "family", rename_all = "snake_case")]
pub enum Architecture {
    /// A vision transformer, CLIP image towers included.
    Vit(VitConfig),
    /// A Swin transformer.
    Swin(SwinConfig),
    /// A ConvNeXt, CLIP image towers included.
    Convnext(ConvnextConfig),
    /// A residual network with batch norm.
    Resnet(ResnetConfig),
}

/// Evaluates one expression for the configuration of any family.
macro_rules! each_family {
    ($architecture:expr, $config:ident => $value:expr) => {
        match $architecture {
            $crate::Architecture::Vit($config) => $value,
            $crate::Architecture::Swin($config) => $value,
            $crate::Architecture::Convnext($config) => $value,
            $crate::Architecture::Resnet($config) => $value,
        }
    };
}
pub(crate) use each_family;

impl Architecture {
    /// The same network with another number of classes.
    #[must_use]
    pub fn with_classes(mut self, num_classes: usize) -> Self {
        each_family!(&mut self, config => config.num_classes = num_classes);
        self
    }

    /// The same network with another normalisation of the pixels.
    #[must_use]
    pub fn with_normalization(mut self, mean: [f64; 3], std: [f64; 3]) -> Self {
        each_family!(&mut self, config => (config.mean, config.std) = (mean, std));
        self
    }

    /// Number of logits.
    pub fn num_classes(&self) -> usize {
        each_family!(self, config => config.num_classes)
    }

    /// Number of features that the head gets.
    pub fn num_features(&self) -> usize {
        each_family!(self, config => config.num_features())
    }

    /// Height and width in pixels of the images that the network is meant for. Where
    /// [`Architecture::has_fixed_image_size`] it accepts no others.
    pub fn image_size(&self) -> usize {
        each_family!(self, config => config.image_size)
    }

    /// Whether the parameters depend on [`Architecture::image_size`]: position embeddings and window tables of
    /// transformers do, convolutions do not. ConvNeXts take any height and width of at least 32 that are multiples of
    /// 4, residual networks any at all.
    pub fn has_fixed_image_size(&self) -> bool {
        matches!(self, Self::Vit(_) | Self::Swin(_))
    }

    /// Mean and standard deviation of each colour channel, with which the first layer normalises pixels in [0, 1].
    pub fn normalization(&self) -> ([f64; 3], [f64; 3]) {
        each_family!(self, config => (config.mean, config.std))
    }

    /// Refuses numbers that describe no network.
    ///
    /// # Errors
    /// [`Error::Architecture`](crate::Error::Architecture) with the first field that does not fit.
    pub fn validate(&self) -> Result<()> {
        each_family!(self, config => config.validate())
    }

    /// The trunk from images to features, and the classifier.
    pub(crate) fn compose(&self, builder: &mut Builder<'_>) -> Result<(Chain, Linear)> {
        each_family!(self, config => config.compose(builder))
    }
}
