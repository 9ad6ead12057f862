//! The residual network (He et al. 2016) in its usual version 1.5, where the 3 × 3 convolution of a bottleneck has the
//! stride. As timm's `resnet.py` builds it.

use serde::{Deserialize, Serialize};
use sweep_kernels::{Branches, Chain, ChannelsLast, Convolution, Linear, MaxPool, MeanPool, Normalize};

use crate::Result;
use crate::config::{IMAGENET_MEAN, IMAGENET_STD, at_least_one, one_per_stage, positive_std};
use crate::initialize::{Builder, Initial};

/// Number of stages (timm builds no other number).
const STAGES: usize = 4;
/// Channels after the stem, whatever the width of the stages (timm's rule).
const STEM: usize = 64;

/// The numbers of a residual network with batch norm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResnetConfig {
    /// Height and width in pixels of the images that the network is meant for; noted in `config.json`. The network
    /// accepts any.
    pub image_size: usize,
    /// Which residual block.
    pub block: ResnetBlock,
    /// Blocks of each of the four stages.
    pub layers: Vec<usize>,
    /// Channels of the 3 × 3 convolutions of each of the four stages; 64, 128, 256, 512 unless one asks for others.
    pub channels: Vec<usize>,
    /// Number of logits.
    pub num_classes: usize,
    /// Mean of each colour channel, subtracted from pixels in [0, 1].
    pub mean: [f64; 3],
    /// Standard deviation of each colour channel; the pixels are divided by it.
    pub std: [f64; 3],
}

/// The residual block of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResnetBlock {
    /// Two 3 × 3 convolutions.
    Basic,
    /// 1 × 1, 3 × 3 with the stride, 1 × 1; its output has four times the channels.
    Bottleneck,
}

impl ResnetBlock {
    /// Channels of the output, in channels of the 3 × 3 convolutions.
    pub fn expansion(self) -> usize {
        match self {
            Self::Basic => 1,
            Self::Bottleneck => 4,
        }
    }
}

impl ResnetConfig {
    /// The paper's R50: `resnet50`.
    pub fn base() -> Self {
        Self {
            image_size: 224,
            block: ResnetBlock::Bottleneck,
            layers: vec![3, 4, 6, 3],
            channels: vec![64, 128, 256, 512],
            num_classes: 1000,
            mean: IMAGENET_MEAN,
            std: IMAGENET_STD,
        }
    }

    /// A network of 0.5 million parameters for 32 × 32 pixels, for trials and tests.
    pub fn tiny_32() -> Self {
        let (layers, channels) = (vec![1, 1, 1, 1], vec![16, 32, 64, 128]);
        Self { image_size: 32, layers, channels, num_classes: 10, ..Self::base() }
    }

    /// A network of 1.5 million parameters for 64 × 64 pixels that trains on a CPU: [`ResnetConfig::base`] with a
    /// quarter of the channels.
    pub fn tiny_64() -> Self {
        Self { image_size: 64, layers: Self::base().layers, ..Self::tiny_32() }
    }

    /// Channels of the last stage, which the head gets.
    pub fn num_features(&self) -> usize {
        self.channels.last().copied().unwrap_or_default() * self.block.expansion()
    }

    /// Refuses numbers that describe no network.
    ///
    /// # Errors
    /// [`Error::Architecture`](crate::Error::Architecture) with the first field that does not fit.
    pub fn validate(&self) -> Result<()> {
        at_least_one(&[("image_size", self.image_size), ("num_classes", self.num_classes)])?;
        one_per_stage("layers", &self.layers, STAGES)?;
        one_per_stage("channels", &self.channels, STAGES)?;
        positive_std(self.std)
    }

    /// Composes the network: the trunk from images to the features (N, channels of the last stage), and the classifier.
    pub(crate) fn compose(&self, builder: &mut Builder<'_>) -> Result<(Chain, Linear)> {
        self.validate()?;
        let mut trunk = Chain::new().then(Normalize::new(&self.mean, &self.std)?).then(stem(builder)?);
        let mut inputs = STEM;
        for (stage, (&blocks, &channels)) in self.layers.iter().zip(&self.channels).enumerate() {
            for block in 0..blocks {
                let stride = if stage > 0 && block == 0 { 2 } else { 1 };
                let block = Block { name: format!("layer{}.{block}", stage + 1), inputs, channels, stride };
                trunk = trunk.then(block.compose(builder, self.block)?);
                inputs = channels * self.block.expansion();
            }
        }
        Ok((trunk.then(MeanPool), builder.head("fc", inputs, self.num_classes)?))
    }
}

fn stem(builder: &mut Builder<'_>) -> Result<Chain> {
    Ok(Chain::new()
        .then(ChannelsLast)
        .then(convolution(builder, "conv1", 3, STEM, 7, 2)?)
        .then(builder.batch_norm("bn1", STEM, Initial::Ones)?.with_relu())
        .then(MaxPool::new(3, 2, 1)))
}

/// One residual block.
struct Block {
    name: String,
    inputs: usize,
    /// Channels of its 3 × 3 convolutions.
    channels: usize,
    stride: usize,
}

impl Block {
    fn compose(&self, builder: &mut Builder<'_>, kind: ResnetBlock) -> Result<Branches> {
        let main = match kind {
            ResnetBlock::Basic => self.basic(builder)?,
            ResnetBlock::Bottleneck => self.bottleneck(builder)?,
        };
        let outputs = self.channels * kind.expansion();
        let mut shortcut = None;
        if self.stride > 1 || self.inputs != outputs {
            shortcut = Some(self.projection(builder, outputs)?);
        }
        Ok(Branches::new(main, shortcut))
    }

    // In both, the last batch norm starts at scale 0, so that a block starts as its shortcut (timm's `zero_init_last`).

    fn basic(&self, builder: &mut Builder<'_>) -> Result<Chain> {
        let Self { name, inputs, channels, stride } = self;
        Ok(Chain::new()
            .then(convolution(builder, &format!("{name}.conv1"), *inputs, *channels, 3, *stride)?)
            .then(builder.batch_norm(&format!("{name}.bn1"), *channels, Initial::Ones)?.with_relu())
            .then(convolution(builder, &format!("{name}.conv2"), *channels, *channels, 3, 1)?)
            .then(builder.batch_norm(&format!("{name}.bn2"), *channels, Initial::Zeros)?))
    }

    fn bottleneck(&self, builder: &mut Builder<'_>) -> Result<Chain> {
        let Self { name, inputs, channels, stride } = self;
        let outputs = channels * ResnetBlock::Bottleneck.expansion();
        Ok(Chain::new()
            .then(convolution(builder, &format!("{name}.conv1"), *inputs, *channels, 1, 1)?)
            .then(builder.batch_norm(&format!("{name}.bn1"), *channels, Initial::Ones)?.with_relu())
            .then(convolution(builder, &format!("{name}.conv2"), *channels, *channels, 3, *stride)?)
            .then(builder.batch_norm(&format!("{name}.bn2"), *channels, Initial::Ones)?.with_relu())
            .then(convolution(builder, &format!("{name}.conv3"), *channels, outputs, 1, 1)?)
            .then(builder.batch_norm(&format!("{name}.bn3"), outputs, Initial::Zeros)?))
    }

    /// The way around a block whose output has another shape than its input.
    fn projection(&self, builder: &mut Builder<'_>, outputs: usize) -> Result<Chain> {
        let name = format!("{}.downsample", self.name);
        Ok(Chain::new()
            .then(convolution(builder, &format!("{name}.0"), self.inputs, outputs, 1, self.stride)?)
            .then(builder.batch_norm(&format!("{name}.1"), outputs, Initial::Ones)?))
    }
}

/// A convolution without bias, padded so that the stride alone decides the size of its output.
fn convolution(
    builder: &mut Builder<'_>,
    name: &str,
    inputs: usize,
    outputs: usize,
    kernel: usize,
    stride: usize,
) -> Result<Convolution> {
    // He et al. 2015 for the gradients (fan out), as in timm's `ResNet.init_weights`.
    let deviation = (2.0 / (outputs * kernel * kernel) as f64).sqrt();
    let shape = [outputs, inputs, kernel, kernel];
    let weight = builder.add(&format!("{name}.weight"), &shape, Initial::Normal(deviation))?;
    Ok(Convolution::new(weight, None).with_stride(stride).with_padding(kernel / 2))
}
