//! The vision transformer (Dosovitskiy et al. 2021) as timm builds it, and the variant that CLIP image towers use.

use serde::{Deserialize, Serialize};
use sweep_kernels::{
    Activation, Chain, ClassTokenAndPositions, Linear, Normalize, PatchEmbedding, Residual, SelectToken,
    SelfAttention,
};

use crate::Result;
use crate::config::{
    CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD, at_least_one, hidden_width, multiple_of, positive_std,
    refuse, some_hidden_units,
};
use crate::initialize::{Builder, Initial};

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

    /// Width of a token, which the head gets.
    pub fn num_features(&self) -> usize {
        self.embed_dim
    }

    /// Number of tokens, the class token included.
    pub fn tokens(&self) -> usize {
        (self.image_size / self.patch_size).pow(2) + 1
    }

    /// Refuses numbers that describe no network.
    ///
    /// # Errors
    /// [`Error::Architecture`](crate::Error::Architecture) with the first field that does not fit.
    pub fn validate(&self) -> Result<()> {
        at_least_one(&[
            ("image_size", self.image_size),
            ("patch_size", self.patch_size),
            ("embed_dim", self.embed_dim),
            ("depth", self.depth),
            ("num_heads", self.num_heads),
            ("num_classes", self.num_classes),
        ])?;
        multiple_of("image_size", self.image_size, self.patch_size, "the patch size")?;
        multiple_of("embed_dim", self.embed_dim, self.num_heads, "the number of heads")?;
        some_hidden_units(self.embed_dim, self.mlp_ratio)?;
        if !self.norm_stability.is_finite() || self.norm_stability <= 0.0 {
            return refuse("norm_stability", &self.norm_stability, "a positive number");
        }
        positive_std(self.std)
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
            trunk = trunk.then(builder.layer_norm("norm_pre", width, self.norm_stability)?);
        }
        for block in 0..self.depth {
            let name = format!("blocks.{block}");
            trunk = trunk.then(Residual(self.attention(builder, &name)?));
            if block + 1 == self.depth {
                trunk = trunk.then(SelectToken::new(0));
            }
            trunk = trunk.then(Residual(self.mlp(builder, &name)?));
        }
        trunk = trunk.then(builder.layer_norm("norm", width, self.norm_stability)?);
        Ok((trunk, builder.head("head", width, self.num_classes)?))
    }

    fn patch_embedding(&self, builder: &mut Builder<'_>) -> Result<PatchEmbedding> {
        let initial = Initial::by_fan_in(3 * self.patch_size * self.patch_size);
        let bias = self.patch_bias.then_some(initial);
        builder.patch_embedding("patch_embed.proj", self.patch_size, self.embed_dim, initial, bias)
    }

    fn attention(&self, builder: &mut Builder<'_>, block: &str) -> Result<Chain> {
        let width = self.embed_dim;
        Ok(Chain::new()
            .then(builder.layer_norm(&format!("{block}.norm1"), width, self.norm_stability)?)
            .then(builder.linear(&format!("{block}.attn.qkv"), width, 3 * width)?)
            .then(SelfAttention::new(self.num_heads))
            .then(builder.linear(&format!("{block}.attn.proj"), width, width)?))
    }

    fn mlp(&self, builder: &mut Builder<'_>, block: &str) -> Result<Chain> {
        let activation = match self.activation {
            VitActivation::Gelu => Activation::Gelu,
            VitActivation::QuickGelu => Activation::QuickGelu,
        };
        let (width, hidden) = (self.embed_dim, hidden_width(self.embed_dim, self.mlp_ratio));
        Ok(Chain::new()
            .then(builder.layer_norm(&format!("{block}.norm2"), width, self.norm_stability)?)
            .then(builder.mlp(&format!("{block}.mlp"), width, hidden, activation)?))
    }
}
