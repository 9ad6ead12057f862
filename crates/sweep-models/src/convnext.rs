//! ConvNeXt (Liu et al. 2022): wide depthwise convolutions and MLPs on maps that shrink from stage to stage. As timm's
//! `convnext.py` builds it, and the image tower of CLIP's ConvNeXts.

use serde::{Deserialize, Serialize};
use sweep_kernels::{
    Activation, Chain, Convolution, DepthwiseConvolution, LayerScale, Linear, MeanPool, Normalize, Residual,
};

use crate::Result;
use crate::config::{
    CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD, at_least_one, drop_path_rate, drop_path_rates,
    multiple_of, one_per_stage, positive_std, refuse,
};
use crate::initialize::{Builder, Initial};
use crate::parts::LINEAR;

/// Number of stages (timm builds no other number).
const STAGES: usize = 4;
/// Height and width of a patch of the stem in pixels.
const PATCH: usize = 4;
/// By how much the network shrinks an image on each side.
const REDUCTION: usize = 32;
/// Side of the depthwise convolutions.
const KERNEL: usize = 7;
/// Width of the hidden layer of the MLPs, in widths of their stage.
const MLP_RATIO: usize = 4;
/// Numerical-stability constant of every layer norm (timm's `eps`).
const NORM_STABILITY: f64 = 1e-6;
/// What the scale of each block's branch starts at.
const LAYER_SCALE: f64 = 1e-6;

/// The numbers of a ConvNeXt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConvnextConfig {
    /// Height and width in pixels of the images that the network is meant for, at least 32 and a multiple of 4; noted
    /// in `config.json`. The network accepts others of that kind too.
    pub image_size: usize,
    /// Blocks of each of the four stages.
    pub depths: Vec<usize>,
    /// Width of each of the four stages.
    pub dims: Vec<usize>,
    /// Rate of stochastic depth at the last block; it grows linearly from 0 at the first. In [0, 1).
    pub drop_path: f64,
    /// Number of logits.
    pub num_classes: usize,
    /// Mean of each colour channel, subtracted from pixels in [0, 1].
    pub mean: [f64; 3],
    /// Standard deviation of each colour channel; the pixels are divided by it.
    pub std: [f64; 3],
}

impl ConvnextConfig {
    /// The paper's CNX: `convnext_base`, without stochastic depth (A.5).
    pub fn base() -> Self {
        Self {
            image_size: 224,
            depths: vec![3, 3, 27, 3],
            dims: vec![128, 256, 512, 1024],
            drop_path: 0.0,
            num_classes: 1000,
            mean: IMAGENET_MEAN,
            std: IMAGENET_STD,
        }
    }

    /// The paper's ClipCNX: the trunk of open_clip's `convnext_base_w` at the paper's 224 pixels, with CLIP's
    /// normalisation and open_clip's stochastic depth of 0.1 (A.5).
    pub fn clip_base() -> Self {
        Self::base().with_clip_variant()
    }

    /// A network of 0.4 million parameters for 32 × 32 pixels, for trials and tests.
    pub fn tiny_32() -> Self {
        let (depths, dims) = (vec![2, 2, 2, 2], vec![16, 32, 64, 128]);
        Self { image_size: 32, depths, dims, num_classes: 10, ..Self::base() }
    }

    /// A network of 1.6 million parameters for 64 × 64 pixels that trains on a CPU.
    pub fn tiny_64() -> Self {
        Self { image_size: 64, dims: vec![32, 64, 128, 256], ..Self::tiny_32() }
    }

    /// [`ConvnextConfig::tiny_32`] in CLIP's variant.
    pub fn clip_tiny_32() -> Self {
        Self::tiny_32().with_clip_variant()
    }

    /// [`ConvnextConfig::tiny_64`] in CLIP's variant.
    pub fn clip_tiny_64() -> Self {
        Self::tiny_64().with_clip_variant()
    }

    fn with_clip_variant(self) -> Self {
        Self { drop_path: 0.1, mean: CLIP_MEAN, std: CLIP_STD, ..self }
    }

    /// Width of the last stage, which the head gets.
    pub fn num_features(&self) -> usize {
        self.dims.last().copied().unwrap_or_default()
    }

    /// Refuses numbers that describe no network.
    ///
    /// # Errors
    /// [`Error::Architecture`](crate::Error::Architecture) with the first field that does not fit.
    pub fn validate(&self) -> Result<()> {
        at_least_one(&[("image_size", self.image_size), ("num_classes", self.num_classes)])?;
        one_per_stage("depths", &self.depths, STAGES)?;
        one_per_stage("dims", &self.dims, STAGES)?;
        if self.image_size < REDUCTION {
            return refuse("image_size", &self.image_size, format!("at least {REDUCTION}"));
        }
        multiple_of("image_size", self.image_size, PATCH, "the stem's patch size")?;
        drop_path_rate(self.drop_path)?;
        positive_std(self.std)
    }

    /// Composes the network: the trunk from images to the features (N, width of the last stage), and the classifier.
    pub(crate) fn compose(&self, builder: &mut Builder<'_>) -> Result<(Chain, Linear)> {
        self.validate()?;
        let mut trunk =
            Chain::new().then(Normalize::new(&self.mean, &self.std)?).then(stem(builder, self.dims[0])?);
        let rates = drop_path_rates(self.drop_path, &self.depths);
        let mut inputs = self.dims[0];
        for (stage, (&width, rates)) in self.dims.iter().zip(rates).enumerate() {
            if stage > 0 {
                trunk = trunk.then(downsample(builder, stage, inputs, width)?);
            }
            for (block, rate) in rates.into_iter().enumerate() {
                let branch = branch(builder, &format!("stages.{stage}.blocks.{block}"), width)?;
                trunk = trunk.then(Residual(builder.drop_path(branch, rate)?));
            }
            inputs = width;
        }
        let features = self.num_features();
        trunk = trunk.then(MeanPool).then(builder.layer_norm("head.norm", features, NORM_STABILITY)?);
        Ok((trunk, builder.head("head.fc", features, self.num_classes)?))
    }
}

fn stem(builder: &mut Builder<'_>, width: usize) -> Result<Chain> {
    let embedding = builder.patch_embedding("stem.0", PATCH, width, LINEAR, Some(Initial::Zeros))?;
    let norm = builder.layer_norm("stem.1", width, NORM_STABILITY)?;
    Ok(Chain::new().then(embedding.as_map()).then(norm))
}

/// The step into a stage: half the height and width, another number of channels.
fn downsample(builder: &mut Builder<'_>, stage: usize, inputs: usize, outputs: usize) -> Result<Chain> {
    let name = format!("stages.{stage}.downsample");
    let norm = builder.layer_norm(&format!("{name}.0"), inputs, NORM_STABILITY)?;
    let weight = builder.add(&format!("{name}.1.weight"), &[outputs, inputs, 2, 2], LINEAR)?;
    let bias = builder.add(&format!("{name}.1.bias"), &[outputs], Initial::Zeros)?;
    Ok(Chain::new().then(norm).then(Convolution::new(weight, Some(bias)).with_stride(2)))
}

/// What a block adds to its input.
fn branch(builder: &mut Builder<'_>, name: &str, width: usize) -> Result<Chain> {
    let gamma = builder.add(&format!("{name}.gamma"), &[width], Initial::Constant(LAYER_SCALE))?;
    let weight = builder.add(&format!("{name}.conv_dw.weight"), &[width, 1, KERNEL, KERNEL], LINEAR)?;
    let bias = builder.add(&format!("{name}.conv_dw.bias"), &[width], Initial::Zeros)?;
    Ok(Chain::new()
        .then(DepthwiseConvolution::new(weight, Some(bias)))
        .then(builder.layer_norm(&format!("{name}.norm"), width, NORM_STABILITY)?)
        .then(builder.mlp(&format!("{name}.mlp"), width, MLP_RATIO * width, Activation::Gelu)?)
        .then(LayerScale::new(gamma)))
}
