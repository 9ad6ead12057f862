//! The vision transformer (Dosovitskiy et al. 2021) as timm builds it, and the variant that CLIP image towers use.

use serde::{Deserialize, Serialize};
use sweep_kernels::{
    Activation, Chain, ClassTokenAndPositions, LayerNorm, Linear, Normalize, PatchEmbedding, Residual,
    SelectToken, SelfAttention,
};

use crate::initialize::{Builder, Initial};
use crate::{Error, Result};

/// The numbers of a vision transformer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VitConfig {
    /// Height and width of the input in pixels; a multiple of `patch_size`.
    pub image_size: usize,
    /// Height and width of a patch in pixels.
    pub patch_size: usize,
    /// Width of a token; a multiple of `num_heads`.
    pub embed_dim: usize,
    /// Number of blocks, at least 1.
    pub depth: usize,
    /// Attention heads of each block.
    pub num_heads: usize,
    /// Width of the hidden layer of each block's MLP, in multiples of `embed_dim`; rounded down.
    pub mlp_ratio: f64,
    /// Number of logits.
    pub num_classes: usize,
    /// Numerical-stability constant of every layer norm (timm's `eps`).
    pub norm_stability: f64,
    /// Whether a layer norm precedes the blocks (CLIP).
    pub norm_pre: bool,
    /// Whether the patch embedding has a bias (not in CLIP).
    pub patch_bias: bool,
    /// The activation of the MLPs.
    pub activation: VitActivation,
    /// Mean of each colour channel, subtracted from pixels in [0, 1].
    pub mean: [f64; 3],
    /// Standard deviation of each colour channel; the pixels are divided by it.
    pub std: [f64; 3],
}

/// The activation of a vision transformer's MLPs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VitActivation {
    /// The exact GELU.
    Gelu,
    /// `x sigmoid(1.702 x)`: OpenAI's CLIP and models trained to match it.
    QuickGelu,
}

/// Normalisation constants of ImageNet, which the paper's code feeds to every backbone but the CLIP ones (A.3).
pub const IMAGENET_MEAN: [f64; 3] = [0.485, 0.456, 0.406];
/// See [`IMAGENET_MEAN`].
pub const IMAGENET_STD: [f64; 3] = [0.229, 0.224, 0.225];
/// Normalisation constants of CLIP.
pub const CLIP_MEAN: [f64; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
/// See [`CLIP_MEAN`].
pub const CLIP_STD: [f64; 3] = [0.268_629_54, 0.261_302_58, 0.275_777_11];

impl VitConfig {
    /// The paper's ViT: `vit_base_patch16_224`, with the ImageNet normalisation of the paper's code (A.3).
    pub fn base() -> Self {
        Self {
            image_size: 224,
            patch_size: 16,
            embed_dim: 768,
            depth: 12,
            num_heads: 12,
            mlp_ratio: 4.0,
            num_classes: 1000,
            norm_stability: 1e-6,
            norm_pre: false,
            patch_bias: true,
            activation: VitActivation::Gelu,
            mean: IMAGENET_MEAN,
            std: IMAGENET_STD,
        }
    }

    /// The paper's ClipViT: the image tower of CLIP ViT-B/16 as `vit_base_patch16_clip_224`.
    pub fn clip_base() -> Self {
        Self {
            norm_stability: 1e-5,
            norm_pre: true,
            patch_bias: false,
            mean: CLIP_MEAN,
            std: CLIP_STD,
            ..Self::base()
        }
    }

    /// A network of 0.2 million parameters for 32 × 32 pixels, for trials and tests.
    pub fn tiny_32() -> Self {
        Self {
            image_size: 32,
            patch_size: 8,
            embed_dim: 64,
            depth: 4,
            num_heads: 4,
            num_classes: 10,
            ..Self::base()
        }
    }

    /// A network of 1.8 million parameters for 64 × 64 pixels that trains on a CPU.
    pub fn tiny_64() -> Self {
        let (embed_dim, depth, num_heads) = (192, 4, 3);
        Self { image_size: 64, patch_size: 8, embed_dim, depth, num_heads, num_classes: 10, ..Self::base() }
    }

    /// [`VitConfig::tiny_32`] in CLIP's variant.
    pub fn clip_tiny_32() -> Self {
        Self::tiny_32().with_clip_variant()
    }

    /// [`VitConfig::tiny_64`] in CLIP's variant.
    pub fn clip_tiny_64() -> Self {
        Self::tiny_64().with_clip_variant()
    }

    fn with_clip_variant(self) -> Self {
        let Self { image_size, patch_size, embed_dim, depth, num_heads, num_classes, .. } = self;
        Self { image_size, patch_size, embed_dim, depth, num_heads, num_classes, ..Self::clip_base() }
    }

    /// Number of tokens, the class token included.
    pub fn tokens(&self) -> usize {
        (self.image_size / self.patch_size).pow(2) + 1
    }

    /// Width of the hidden layer of the MLPs.
    pub fn hidden(&self) -> usize {
        (self.embed_dim as f64 * self.mlp_ratio) as usize
    }

    /// Refuses numbers that describe no network.
    ///
    /// # Errors
    /// [`Error::Architecture`] with the first field that does not fit.
    pub fn validate(&self) -> Result<()> {
        let positive = [
            ("image_size", self.image_size),
            ("patch_size", self.patch_size),
            ("embed_dim", self.embed_dim),
            ("depth", self.depth),
            ("num_heads", self.num_heads),
            ("num_classes", self.num_classes),
        ];
        if let Some((name, value)) = positive.into_iter().find(|(_, value)| *value == 0) {
            return refuse(name, &value, "at least 1");
        }
        if !self.image_size.is_multiple_of(self.patch_size) {
            return refuse(
                "image_size",
                &self.image_size,
                format!("a multiple of the patch size {}", self.patch_size),
            );
        }
        if !self.embed_dim.is_multiple_of(self.num_heads) {
            return refuse(
                "embed_dim",
                &self.embed_dim,
                format!("a multiple of the {} heads", self.num_heads),
            );
        }
        if !self.mlp_ratio.is_finite() || self.hidden() == 0 {
            return refuse("mlp_ratio", &self.mlp_ratio, "a number that leaves at least one hidden unit");
        }
        if !self.norm_stability.is_finite() || self.norm_stability <= 0.0 {
            return refuse("norm_stability", &self.norm_stability, "a positive number");
        }
        if let Some(value) = self.std.into_iter().find(|value| !value.is_finite() || *value <= 0.0) {
            return refuse("std", &value, "positive numbers");
        }
        Ok(())
    }

    /// Composes the network: the trunk from images to the features (N, `embed_dim`), and the classifier.
    ///
    /// Only the class token is read after the last attention, so that the last MLP and the final norm, which work on
    /// each token alone, see nothing else: the same numbers for a block's share less of the work.
    pub(crate) fn compose(&self, builder: &mut Builder<'_>) -> Result<(Chain, Linear)> {
        self.validate()?;
        let width = self.embed_dim;
        let class_token = builder.add("cls_token", &[1, 1, width], Initial::Normal(1e-6))?;
        let positions = builder.add("pos_embed", &[1, self.tokens(), width], Initial::Normal(0.02))?;
        let mut trunk = Chain::new()
            .then(Normalize::new(&self.mean, &self.std)?)
            .then(self.patch_embedding(builder)?)
            .then(ClassTokenAndPositions::new(class_token, positions));
        if self.norm_pre {
            trunk = trunk.then(self.norm(builder, "norm_pre")?);
        }
        for block in 0..self.depth {
            let name = format!("blocks.{block}");
            trunk = trunk.then(Residual(self.attention(builder, &name)?));
            if block + 1 == self.depth {
                trunk = trunk.then(SelectToken::new(0));
            }
            trunk = trunk.then(Residual(self.mlp(builder, &name)?));
        }
        trunk = trunk.then(self.norm(builder, "norm")?);
        let initial = Initial::by_fan_in(width);
        let weight = builder.add("head.weight", &[self.num_classes, width], initial)?;
        let bias = builder.add("head.bias", &[self.num_classes], initial)?;
        Ok((trunk, Linear::new(weight, Some(bias))))
    }

    fn patch_embedding(&self, builder: &mut Builder<'_>) -> Result<PatchEmbedding> {
        let shape = [self.embed_dim, 3, self.patch_size, self.patch_size];
        let initial = Initial::by_fan_in(3 * self.patch_size * self.patch_size);
        let weight = builder.add("patch_embed.proj.weight", &shape, initial)?;
        let mut bias = None;
        if self.patch_bias {
            bias = Some(builder.add("patch_embed.proj.bias", &[self.embed_dim], initial)?);
        }
        Ok(PatchEmbedding::new(weight, bias, self.patch_size))
    }

    fn attention(&self, builder: &mut Builder<'_>, block: &str) -> Result<Chain> {
        let width = self.embed_dim;
        Ok(Chain::new()
            .then(self.norm(builder, &format!("{block}.norm1"))?)
            .then(linear(builder, &format!("{block}.attn.qkv"), width, 3 * width)?)
            .then(SelfAttention::new(self.num_heads))
            .then(linear(builder, &format!("{block}.attn.proj"), width, width)?))
    }

    fn mlp(&self, builder: &mut Builder<'_>, block: &str) -> Result<Chain> {
        let activation = match self.activation {
            VitActivation::Gelu => Activation::Gelu,
            VitActivation::QuickGelu => Activation::QuickGelu,
        };
        let (width, hidden) = (self.embed_dim, self.hidden());
        Ok(Chain::new()
            .then(self.norm(builder, &format!("{block}.norm2"))?)
            .then(linear(builder, &format!("{block}.mlp.fc1"), width, hidden)?.with_activation(activation))
            .then(linear(builder, &format!("{block}.mlp.fc2"), hidden, width)?))
    }

    fn norm(&self, builder: &mut Builder<'_>, name: &str) -> Result<LayerNorm> {
        let weight = builder.add(&format!("{name}.weight"), &[self.embed_dim], Initial::Ones)?;
        let bias = builder.add(&format!("{name}.bias"), &[self.embed_dim], Initial::Zeros)?;
        Ok(LayerNorm::new(weight, bias, self.norm_stability))
    }
}

fn linear(builder: &mut Builder<'_>, name: &str, inputs: usize, outputs: usize) -> Result<Linear> {
    let weight = builder.add(&format!("{name}.weight"), &[outputs, inputs], Initial::Normal(0.02))?;
    let bias = builder.add(&format!("{name}.bias"), &[outputs], Initial::Zeros)?;
    Ok(Linear::new(weight, Some(bias)))
}

fn refuse(name: &'static str, value: &impl ToString, expected: impl Into<String>) -> Result<()> {
    Err(Error::Architecture { name, value: value.to_string(), expected: expected.into() })
}
