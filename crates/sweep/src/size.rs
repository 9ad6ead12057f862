//! How much disk a run takes: parameters of its network, and from them the bytes of its model and checkpoints.

use sweep_core::KeepCheckpoints;
use sweep_core::spec::{Architecture, OptimizerSpec, ResnetBlock, RunSpec, VitArchitecture};
use sweep_scheduler::DiskNeed;

/// Bytes of a parameter on disk, in the model as in checkpoints.
const BYTES: u64 = 4;
/// Checkpoints of a running run: the last two, and the one that is being written.
const WORKING: u64 = 3;

/// Bytes that a run puts on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) model: u64,
    pub(crate) checkpoint: u64,
}

impl Size {
    /// Returns the sizes for a run; the head is counted for the classes that the dataset is expected to have.
    pub(crate) fn of(spec: &RunSpec) -> Self {
        let classes = spec.dataset.definition.expected.map_or(0, |expected| u64::from(expected.classes));
        let parameters =
            parameters(&spec.backbone.definition.architecture, u64::from(spec.input_size), classes);
        let moments = match spec.optimizer {
            OptimizerSpec::Adamw { .. } => 2,
            OptimizerSpec::Sgd { momentum, .. } => u64::from(momentum > 0.0),
        };
        let copies = 1 + moments + u64::from(spec.ema.is_some());
        Self { model: BYTES * parameters, checkpoint: BYTES * parameters * copies }
    }

    /// Returns the most that the run takes while it runs.
    pub(crate) const fn running(self) -> u64 {
        self.model + WORKING * self.checkpoint
    }

    /// Returns what stays of the run when it has succeeded.
    pub(crate) const fn finished(self, keep: KeepCheckpoints) -> u64 {
        match keep {
            KeepCheckpoints::Last => self.model + self.checkpoint,
            KeepCheckpoints::None => self.model,
        }
    }

    /// Returns both, as the scheduler counts them.
    pub(crate) const fn need(self, keep: KeepCheckpoints) -> DiskNeed {
        DiskNeed { working: self.running(), staying: self.finished(keep) }
    }
}

/// Returns the number of parameters of backbone and head, running statistics of batch norms included.
fn parameters(architecture: &Architecture, input: u64, classes: u64) -> u64 {
    let (backbone, features) = match architecture {
        Architecture::Vit(shape) => vit(shape, input),
        Architecture::Swin { patch_size, window_size, embed_dim, depths, num_heads, .. } => {
            swin([*patch_size, *window_size, *embed_dim].map(u64::from), depths, num_heads)
        }
        Architecture::Convnext { depths, dims, .. } => convnext(depths, dims),
        Architecture::Resnet { block, layers, channels, .. } => resnet(*block, layers, channels),
    };
    backbone + classes * (features + 1)
}

/// A linear layer with bias.
const fn linear(from: u64, to: u64) -> u64 {
    (from + 1) * to
}

/// Returns the parameters of the backbone and the width of its features; likewise below.
fn vit(shape: &VitArchitecture, input: u64) -> (u64, u64) {
    let (patch, width) = (u64::from(shape.patch_size), u64::from(shape.embed_dim));
    let tokens = (input / patch).pow(2) + 1;
    let hidden = (shape.mlp_ratio * f64::from(shape.embed_dim)) as u64;
    let clip = u64::from(shape.clip);
    let embedding = 3 * patch * patch * width + (1 - clip) * width + width + tokens * width;
    let block = transformer_block(width, hidden);
    (embedding + u64::from(shape.depth) * block + (1 + clip) * 2 * width, width)
}

/// Attention, hidden layer and the two norms before them.
const fn transformer_block(width: u64, hidden: u64) -> u64 {
    linear(width, 3 * width)
        + linear(width, width)
        + linear(width, hidden)
        + linear(hidden, width)
        + 4 * width
}

fn swin([patch, window, embed]: [u64; 3], depths: &[u32], heads: &[u32]) -> (u64, u64) {
    let mut width = embed;
    let mut total = linear(3 * patch * patch, width) + 2 * width;
    for (stage, (depth, heads)) in depths.iter().zip(heads).enumerate() {
        if stage > 0 {
            // Merging of four patches: a norm, and a layer without bias.
            total += 8 * width + 4 * width * 2 * width;
            width *= 2;
        }
        let biases = (2 * window - 1).pow(2) * u64::from(*heads);
        total += u64::from(*depth) * (transformer_block(width, 4 * width) + biases);
    }
    (total + 2 * width, width)
}

fn convnext(depths: &[u32], dims: &[u32]) -> (u64, u64) {
    let mut total = 0;
    let mut before = 0;
    for (depth, width) in depths.iter().zip(dims).map(|(depth, width)| (u64::from(*depth), u64::from(*width)))
    {
        total +=
            if before == 0 { linear(48, width) + 2 * width } else { 2 * before + linear(4 * before, width) };
        // Depthwise convolution of 7×7, norm, two layers, the scale of the block.
        total +=
            depth * (50 * width + 2 * width + linear(width, 4 * width) + linear(4 * width, width) + width);
        before = width;
    }
    (total + 2 * before, before)
}

fn resnet(block: ResnetBlock, layers: &[u32], widths: &[u32]) -> (u64, u64) {
    // A convolution without bias, then a batch norm: two parameters and two statistics a channel.
    let convolution = |from: u64, to: u64, side: u64| from * to * side * side + 4 * to;
    let expansion = if block == ResnetBlock::Bottleneck { 4 } else { 1 };
    let mut channels = 64;
    let mut total = convolution(3, channels, 7);
    for (stage, (count, width)) in layers.iter().zip(widths).enumerate() {
        let width = u64::from(*width);
        for index in 0..*count {
            total += match block {
                ResnetBlock::Bottleneck => {
                    convolution(channels, width, 1)
                        + convolution(width, width, 3)
                        + convolution(width, 4 * width, 1)
                }
                ResnetBlock::Basic => convolution(channels, width, 3) + convolution(width, width, 3),
            };
            if index == 0 && (stage > 0 || channels != expansion * width) {
                total += convolution(channels, expansion * width, 1);
            }
            channels = expansion * width;
        }
    }
    (total, channels)
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use sweep_core::{Resolve, Sweep};

    use super::*;

    struct NoFiles;

    impl Resolve for NoFiles {
        fn weights(&self, _: &Path) -> Result<(PathBuf, String), String> {
            Err("none".to_owned())
        }
        fn dataset(&self, _: &Path) -> Result<(PathBuf, String), String> {
            Err("none".to_owned())
        }
    }

    fn run(keys: &str) -> RunSpec {
        let text =
            format!("name: x\nrun: {{target_epsilon: 4/255, epsilon_schedule: {{kind: fixed}}, {keys}}}");
        Sweep::parse(text.as_bytes(), &[]).unwrap().expand(&NoFiles).unwrap().runs.pop().unwrap().1
    }

    /// Parameters without a classifier, running statistics of ResNet-50 (53,120) included, counted with timm 1.0.31.
    #[test]
    fn the_papers_backbones_have_the_parameters_that_timm_counts() {
        for (backbone, expected) in [
            ("vit", 85_798_656),
            ("swin", 86_743_224),
            ("convnext", 87_566_464),
            ("resnet50", 23_508_032 + 53_120),
            ("clip-vit", 85_799_424),
            ("clip-convnext", 87_566_464),
        ] {
            let spec = run(&format!("backbone: {backbone}, dataset: cub"));
            let found = parameters(&spec.backbone.definition.architecture, 224, 0);
            assert_eq!(found, expected, "{backbone}");
        }
    }

    #[test]
    fn a_checkpoint_has_the_weights_their_average_and_the_moments() {
        let sizes = |keys: &str| {
            let size = Size::of(&run(&format!("backbone: vit, dataset: cub, {keys}")));
            (size.model, size.checkpoint / size.model)
        };
        assert_eq!(sizes("optimizer: {kind: adamw, learning_rate: 1}"), (4 * (85_798_656 + 769 * 200), 3));
        assert_eq!(sizes("optimizer: {kind: sgd, learning_rate: 1, momentum: 0}").1, 1);
        assert_eq!(sizes("optimizer: {kind: adamw, learning_rate: 1}, ema: {decay: 0.9}").1, 4);
    }
}
