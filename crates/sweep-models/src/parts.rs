//! Layers together with their parameters, as several families use them.

use candle_core::{Device, Tensor};
use sweep_kernels::{
    Activation, BatchNorm, Chain, LayerNorm, Linear, PatchEmbedding, StatisticsIds, StochasticDepth,
};

use crate::Result;
use crate::initialize::{Builder, Initial};

/// Numerical-stability constant of every batch norm (PyTorch's default).
const BATCH_NORM_STABILITY: f64 = 1e-5;
/// Weight of a batch in the running statistics of every batch norm (PyTorch's default).
const BATCH_NORM_MOMENTUM: f64 = 0.1;

/// How timm's transformers and ConvNeXts draw the weights of linear layers.
pub(crate) const LINEAR: Initial = Initial::Normal(0.02);

impl Builder<'_> {
    /// A linear layer, drawn as in timm's transformers and ConvNeXts.
    pub(crate) fn linear(&mut self, name: &str, inputs: usize, outputs: usize) -> Result<Linear> {
        let weight = self.add(&format!("{name}.weight"), &[outputs, inputs], LINEAR)?;
        let bias = self.add(&format!("{name}.bias"), &[outputs], Initial::Zeros)?;
        Ok(Linear::new(weight, Some(bias)))
    }

    /// The classifier, drawn as in A.4 of the paper: uniform in ±1 / sqrt(features).
    pub(crate) fn head(&mut self, name: &str, features: usize, classes: usize) -> Result<Linear> {
        let initial = Initial::by_fan_in(features);
        let weight = self.add(&format!("{name}.weight"), &[classes, features], initial)?;
        let bias = self.add(&format!("{name}.bias"), &[classes], initial)?;
        Ok(Linear::new(weight, Some(bias)))
    }

    /// Two linear layers `fc1` and `fc2` with an activation between them.
    pub(crate) fn mlp(
        &mut self,
        name: &str,
        width: usize,
        hidden: usize,
        activation: Activation,
    ) -> Result<Chain> {
        let first = self.linear(&format!("{name}.fc1"), width, hidden)?.with_activation(activation);
        Ok(Chain::new().then(first).then(self.linear(&format!("{name}.fc2"), hidden, width)?))
    }

    /// A layer norm over the last dimension.
    pub(crate) fn layer_norm(&mut self, name: &str, width: usize, stability: f64) -> Result<LayerNorm> {
        let weight = self.add(&format!("{name}.weight"), &[width], Initial::Ones)?;
        let bias = self.add(&format!("{name}.bias"), &[width], Initial::Zeros)?;
        Ok(LayerNorm::new(weight, bias, stability))
    }

    /// A batch norm whose scale starts at `scale`, with its running statistics in timm's order.
    pub(crate) fn batch_norm(&mut self, name: &str, channels: usize, scale: Initial) -> Result<BatchNorm> {
        let weight = self.add(&format!("{name}.weight"), &[channels], scale)?;
        let bias = self.add(&format!("{name}.bias"), &[channels], Initial::Zeros)?;
        let number = |value: f64| Tensor::full(value, channels, &Device::Cpu);
        let statistics = StatisticsIds {
            mean: self.add_buffer(&format!("{name}.running_mean"), number(0.0)?)?,
            variance: self.add_buffer(&format!("{name}.running_var"), number(1.0)?)?,
            updates: self.add_counter(&format!("{name}.num_batches_tracked"))?,
        };
        Ok(BatchNorm::new(weight, bias, statistics, BATCH_NORM_STABILITY, BATCH_NORM_MOMENTUM))
    }

    /// A patch embedding for images of three channels; without a bias if there is no initial value for one.
    pub(crate) fn patch_embedding(
        &mut self,
        name: &str,
        patch: usize,
        width: usize,
        weight: Initial,
        bias: Option<Initial>,
    ) -> Result<PatchEmbedding> {
        let weight = self.add(&format!("{name}.weight"), &[width, 3, patch, patch], weight)?;
        let bias = match bias {
            Some(initial) => Some(self.add(&format!("{name}.bias"), &[width], initial)?),
            None => None,
        };
        Ok(PatchEmbedding::new(weight, bias, patch))
    }

    /// A branch of a residual block, dropped with probability `rate` for whole samples in training mode.
    pub(crate) fn drop_path(&mut self, branch: Chain, rate: f64) -> Result<Chain> {
        if rate == 0.0 {
            return Ok(branch);
        }
        Ok(branch.then(StochasticDepth::new(rate, self.next_stochastic_layer())?))
    }
}
