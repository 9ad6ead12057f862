//! Activations on a GPU.

use candle_core::Tensor;

use super::Activation;
use crate::Result;
use crate::cuda::{Columns, Gpu, Grid};
use crate::elementwise::same_shape;

impl Activation {
    pub(super) fn apply_cuda(self, x: &Tensor) -> Result<Tensor> {
        let gpu = Gpu::of(x)?;
        let y = gpu.empty(x.shape(), x.dtype())?;
        self.write(&gpu, x, &y)?;
        Ok(y)
    }

    /// Writes the values at `x` into `y`, which may be `x`.
    pub(crate) fn write(self, gpu: &Gpu, x: &Tensor, y: &Tensor) -> Result<()> {
        let count = x.elem_count();
        let kernel = match self {
            Self::Gelu => "gelu",
            Self::QuickGelu => "quick_gelu",
            Self::Relu => "relu",
        };
        gpu.launch_typed(kernel, x.dtype(), Grid::over(count), &[gpu.at(x)?, gpu.at(y)?, count.into()])
    }

    pub(crate) fn pull_back_cuda(self, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
        same_shape(x, dy)?;
        let gpu = Gpu::of(x)?;
        let dx = gpu.empty(x.shape(), x.dtype())?;
        let count = x.elem_count();
        let kernel = match self {
            Self::Gelu => "gelu_backward",
            Self::QuickGelu => "quick_gelu_backward",
            Self::Relu => "relu_backward",
        };
        let arguments = [gpu.at(x)?, gpu.at(dy)?, gpu.at(&dx)?, count.into()];
        gpu.launch_typed(kernel, x.dtype(), Grid::over(count), &arguments)?;
        Ok(dx)
    }

    /// The same, and the sums of its rows of `columns` elements, which cost no further pass.
    pub(crate) fn pull_back_and_sum(
        self,
        x: &Tensor,
        dy: &Tensor,
        columns: usize,
    ) -> Result<(Tensor, Tensor)> {
        same_shape(x, dy)?;
        let gpu = Gpu::of(x)?;
        let dx = gpu.empty(x.shape(), x.dtype())?;
        let shared = Columns::new(&gpu, columns, &[x, dy, &dx])?;
        let partial = shared.partial(&gpu, 1)?;
        let kernel = match self {
            Self::Gelu => "gelu_backward_sums",
            Self::QuickGelu => "quick_gelu_backward_sums",
            Self::Relu => "relu_backward_sums",
        };
        let tensors = [gpu.at(x)?, gpu.at(dy)?, gpu.at(&dx)?, gpu.at(&partial)?];
        let arguments = [&tensors[..], &shared.arguments()].concat();
        gpu.launch_typed(kernel, x.dtype(), shared.grid(), &arguments)?;
        Ok((dx, shared.total(&partial, 0)?))
    }
}
