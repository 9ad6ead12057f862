//! The ends of residual blocks on a GPU.

use candle_core::Tensor;

use crate::Result;
use crate::cuda::{Gpu, Grid};
use crate::elementwise::same_shape;

/// `max(a + b, 0)`; NaN stays NaN.
pub(super) fn add_relu(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    combined("add_relu", a, b)
}

/// `dy` but 0 where `y` is.
pub(super) fn where_positive(y: &Tensor, dy: &Tensor) -> Result<Tensor> {
    combined("where_positive", y, dy)
}

fn combined(kernel: &'static str, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    same_shape(a, b)?;
    let gpu = Gpu::of(a)?;
    let y = gpu.empty(a.shape(), a.dtype())?;
    let count = a.elem_count();
    let arguments = [gpu.at(a)?, gpu.at(b)?, gpu.at(&y)?, count.into()];
    gpu.launch_typed(kernel, a.dtype(), Grid::over(count), &arguments)?;
    Ok(y)
}
