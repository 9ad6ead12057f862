//! The Swin transformer (Liu et al. 2021): attention within windows, which every second block shifts, on maps that
//! shrink from stage to stage. As timm's `swin_transformer.py` builds it.

use serde::{Deserialize, Serialize};
use sweep_kernels::{
    Activation, Chain, Linear, MeanPool, Normalize, PatchMerging, Residual, SelfAttention, WindowMerge,
    WindowPartition, Windows,
};

use crate::Result;
use crate::config::{
    IMAGENET_MEAN, IMAGENET_STD, at_least_one, drop_path_rate, drop_path_rates, hidden_width, multiple_of,
    one_per_stage, positive_std, refuse, some_hidden_units,
};
use crate::initialize::{Builder, Initial};
use crate::parts::LINEAR;

/// Numerical-stability constant of every layer norm (timm's `eps`).
const NORM_STABILITY: f64 = 1e-5;

/// The numbers of a Swin transformer.
///
/// Stage `s` has width `embed_dim · 2^s`. A window that a map does not fill is cut to the map and not shifted, so that
/// the position tables of such a stage are smaller (timm's rule).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SwinConfig {
    /// Height and width of the input in pixels; a multiple of `patch_size`. The network accepts no other.
    pub image_size: usize,
    /// Height and width of a patch in pixels.
    pub patch_size: usize,
    /// Width of the first stage.
    pub embed_dim: usize,
    /// Blocks of each stage.
    pub depths: Vec<usize>,
    /// Attention heads of each stage; each divides the width of its stage.
    pub num_heads: Vec<usize>,
    /// Side of an attention window in patches.
    pub window_size: usize,
    /// Width of the hidden layer of each block's MLP, in widths of its stage; rounded down.
    pub mlp_ratio: f64,
    /// Rate of stochastic depth at the last block; it grows linearly from 0 at the first. In [0, 1).
    pub drop_path: f64,
    /// Number of logits.
    pub num_classes: usize,
    /// Mean of each colour channel, subtracted from pixels in [0, 1].
    pub mean: [f64; 3],
    /// Standard deviation of each colour channel; the pixels are divided by it.
    pub std: [f64; 3],
}

/// Halving a map more often than that leaves nothing of any image, and the widths would overflow.
const MOST_STAGES: usize = 8;

impl SwinConfig {
    /// The paper's SWIN: `swin_base_patch4_window7_224`, with timm's stochastic depth of 0.1 (A.5).
    pub fn base() -> Self {
        Self {
            image_size: 224,
            patch_size: 4,
            embed_dim: 128,
            depths: vec![2, 2, 18, 2],
            num_heads: vec![4, 8, 16, 32],
            window_size: 7,
            mlp_ratio: 4.0,
            drop_path: 0.1,
            num_classes: 1000,
            mean: IMAGENET_MEAN,
            std: IMAGENET_STD,
        }
    }

    /// A network of 0.3 million parameters for 32 × 32 pixels, for trials and tests.
    pub fn tiny_32() -> Self {
        Self {
            image_size: 32,
            embed_dim: 48,
            depths: vec![2, 2],
            num_heads: vec![3, 6],
            window_size: 4,
            num_classes: 10,
            ..Self::base()
        }
    }

    /// A network of 1.3 million parameters for 64 × 64 pixels that trains on a CPU.
    pub fn tiny_64() -> Self {
        Self { image_size: 64, depths: vec![2, 2, 2], num_heads: vec![3, 6, 12], ..Self::tiny_32() }
    }

    /// Width of the last stage, which the head gets.
    pub fn num_features(&self) -> usize {
        self.width(self.depths.len().saturating_sub(1))
    }

    fn width(&self, stage: usize) -> usize {
        self.embed_dim << stage
    }

    fn stages(&self) -> impl Iterator<Item = Stage> {
        let grid = self.image_size / self.patch_size;
        self.num_heads.iter().enumerate().map(move |(index, heads)| {
            let (width, side) = (self.width(index), grid.div_ceil(1 << index));
            let hidden = hidden_width(width, self.mlp_ratio);
            Stage { index, width, hidden, heads: *heads, side, window: self.window_size.min(side) }
        })
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
            ("window_size", self.window_size),
            ("num_classes", self.num_classes),
            ("number of stages", self.depths.len()),
        ])?;
        multiple_of("image_size", self.image_size, self.patch_size, "the patch size")?;
        if self.depths.len() > MOST_STAGES {
            return refuse("number of stages", &self.depths.len(), format!("at most {MOST_STAGES}"));
        }
        one_per_stage("depths", &self.depths, self.depths.len())?;
        one_per_stage("num_heads", &self.num_heads, self.depths.len())?;
        for stage in self.stages() {
            multiple_of("width of a stage", stage.width, stage.heads, "its number of heads")?;
        }
        some_hidden_units(self.embed_dim, self.mlp_ratio)?;
        drop_path_rate(self.drop_path)?;
        positive_std(self.std)
    }

    /// Composes the network: the trunk from images to the features (N, width of the last stage), and the classifier.
    pub(crate) fn compose(&self, builder: &mut Builder<'_>) -> Result<(Chain, Linear)> {
        self.validate()?;
        let mut trunk =
            Chain::new().then(Normalize::new(&self.mean, &self.std)?).then(self.patches(builder)?);
        let rates = drop_path_rates(self.drop_path, &self.depths);
        for (stage, rates) in self.stages().zip(rates) {
            if stage.index > 0 {
                trunk = trunk.then(stage.merging(builder)?);
            }
            for (block, rate) in rates.into_iter().enumerate() {
                trunk = trunk
                    .then(Residual(stage.attention(builder, block, rate)?))
                    .then(Residual(stage.mlp(builder, block, rate)?));
            }
        }
        let features = self.num_features();
        trunk = trunk.then(builder.layer_norm("norm", features, NORM_STABILITY)?).then(MeanPool);
        Ok((trunk, builder.head("head.fc", features, self.num_classes)?))
    }

    fn patches(&self, builder: &mut Builder<'_>) -> Result<Chain> {
        let (patch, width) = (self.patch_size, self.embed_dim);
        let initial = Initial::by_fan_in(3 * patch * patch);
        let name = "patch_embed.proj";
        let embedding = builder.patch_embedding(name, patch, width, initial, Some(initial))?;
        let norm = builder.layer_norm("patch_embed.norm", width, NORM_STABILITY)?;
        Ok(Chain::new().then(embedding.as_map()).then(norm))
    }
}

/// The sizes of one stage.
#[derive(Clone, Copy)]
struct Stage {
    index: usize,
    width: usize,
    /// Width of the hidden layer of the MLPs.
    hidden: usize,
    heads: usize,
    /// Height and width of the map.
    side: usize,
    /// Height and width of the windows.
    window: usize,
}

impl Stage {
    /// The step into this stage: four neighbours become one token of twice the width.
    fn merging(self, builder: &mut Builder<'_>) -> Result<Chain> {
        let name = format!("layers.{}.downsample", self.index);
        let gathered = 2 * self.width;
        let norm = builder.layer_norm(&format!("{name}.norm"), gathered, NORM_STABILITY)?;
        let reduction = builder.add(&format!("{name}.reduction.weight"), &[self.width, gathered], LINEAR)?;
        Ok(Chain::new().then(PatchMerging).then(norm).then(Linear::new(reduction, None)))
    }

    /// What the attention of a block adds to its input.
    fn attention(self, builder: &mut Builder<'_>, block: usize, rate: f64) -> Result<Chain> {
        let (name, windows) = (self.block(block), self.windows(block)?);
        let Self { width, heads, window, .. } = self;
        let norm = builder.layer_norm(&format!("{name}.norm1"), width, NORM_STABILITY)?;
        let positions = (2 * window - 1).pow(2);
        let table = format!("{name}.attn.relative_position_bias_table");
        let table = builder.add(&table, &[positions, heads], Initial::Normal(0.02))?;
        let branch = Chain::new()
            .then(norm)
            .then(WindowPartition::new(windows))
            .then(builder.linear(&format!("{name}.attn.qkv"), width, 3 * width)?)
            .then(SelfAttention::new(heads).with_windows(table, windows))
            .then(builder.linear(&format!("{name}.attn.proj"), width, width)?)
            .then(WindowMerge::new(windows));
        builder.drop_path(branch, rate)
    }

    /// What the MLP of a block adds to its input.
    fn mlp(self, builder: &mut Builder<'_>, block: usize, rate: f64) -> Result<Chain> {
        let name = self.block(block);
        let norm = builder.layer_norm(&format!("{name}.norm2"), self.width, NORM_STABILITY)?;
        let mlp = builder.mlp(&format!("{name}.mlp"), self.width, self.hidden, Activation::Gelu)?;
        builder.drop_path(Chain::new().then(norm).then(mlp), rate)
    }

    /// The name of a block.
    fn block(self, block: usize) -> String {
        format!("layers.{}.blocks.{block}", self.index)
    }

    /// The windows of a block: every second one shifts them by half a window, unless one covers the map.
    fn windows(self, block: usize) -> Result<Windows> {
        let Self { side, window, .. } = self;
        let shift = if block.is_multiple_of(2) || side == window { 0 } else { window / 2 };
        Ok(Windows::new(side, side, window, shift)?)
    }
}
