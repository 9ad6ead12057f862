//! Factors per channel on a GPU.

use candle_core::Tensor;

use super::LayerScale;
use crate::cuda::{Columns, Gpu};
use crate::elementwise::same_shape;
use crate::{Gradients, Parameters, Result};

impl LayerScale {
    pub(super) fn scaled_cuda(self, parameters: &Parameters, x: &Tensor) -> Result<Tensor> {
        let width = self.width(parameters, x)?;
        let gamma = parameters.get(self.gamma);
        let gpu = Gpu::of(x)?;
        let y = gpu.empty(x.shape(), x.dtype())?;
        let shared = Columns::new(&gpu, width, &[x, gamma, &y])?;
        let arguments = [&[gpu.at(x)?, gpu.at(gamma)?, gpu.at(&y)?][..], &shared.arguments()].concat();
        gpu.launch_typed("layer_scale", x.dtype(), shared.grid(), &arguments)?;
        Ok(y)
    }

    /// The input gradient, and on the way the gradient of the factors if it is wanted.
    pub(super) fn backward_cuda(
        self,
        parameters: &Parameters,
        x: &Tensor,
        dy: &Tensor,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        if !gradients.wants(self.gamma) {
            return self.scaled_cuda(parameters, dy);
        }
        same_shape(x, dy)?;
        let width = self.width(parameters, dy)?;
        let gamma = parameters.get(self.gamma);
        let gpu = Gpu::of(dy)?;
        let dx = gpu.empty(dy.shape(), dy.dtype())?;
        let shared = Columns::new(&gpu, width, &[dy, gamma, &dx, x])?;
        let partial = shared.partial(&gpu, 1)?;
        let tensors = [gpu.at(dy)?, gpu.at(gamma)?, gpu.at(&dx)?, gpu.at(x)?, gpu.at(&partial)?];
        let arguments = [&tensors[..], &shared.arguments()].concat();
        gpu.launch_typed("layer_scale_backward_sums", dy.dtype(), shared.grid(), &arguments)?;
        gradients.add(self.gamma, shared.total(&partial, 0)?.reshape(gamma.shape())?)?;
        Ok(dx)
    }
}
