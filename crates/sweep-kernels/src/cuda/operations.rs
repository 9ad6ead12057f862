//! Operations that many layers use.

use candle_core::{DType, Tensor};

use super::{Gpu, Grid};
use crate::elementwise::same_shape;
use crate::{Error, Result};

/// Elements that a thread of the vectorised kernels handles at once (`Pack` in `cuda/common.cuh`).
const PACK: usize = 4;

/// `tensor` in another dtype (F32 or BF16); itself where it has that one.
pub(crate) fn convert(tensor: &Tensor, dtype: DType) -> Result<Tensor> {
    if tensor.dtype() == dtype {
        return Ok(tensor.clone());
    }
    let name = match (tensor.dtype(), dtype) {
        (DType::F32, DType::BF16) => "convert_f32_bf16",
        (DType::BF16, DType::F32) => "convert_bf16_f32",
        (dtype, _) => return Err(Error::UnsupportedDtype { operation: "convert", dtype }),
    };
    let gpu = Gpu::of(tensor)?;
    let out = gpu.empty(tensor.shape(), dtype)?;
    let count = tensor.elem_count();
    gpu.launch(name, Grid::over(count), &[gpu.at(tensor)?, gpu.at(&out)?, count.into()])?;
    Ok(out)
}

/// `a + b` for tensors of one shape and dtype.
pub(crate) fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    same_shape(a, b)?;
    let gpu = Gpu::of(a)?;
    let out = gpu.empty(a.shape(), a.dtype())?;
    let count = a.elem_count();
    let arguments = [gpu.at(a)?, gpu.at(b)?, gpu.at(&out)?, count.into()];
    gpu.launch_typed("add", a.dtype(), Grid::over(count.div_ceil(PACK)), &arguments)?;
    Ok(out)
}

/// `factor · a`.
pub(crate) fn scale(a: &Tensor, factor: f64) -> Result<Tensor> {
    let gpu = Gpu::of(a)?;
    let out = gpu.empty(a.shape(), a.dtype())?;
    let count = a.elem_count();
    let arguments = [gpu.at(a)?, gpu.at(&out)?, factor.into(), count.into()];
    gpu.launch_typed("scale", a.dtype(), Grid::over(count), &arguments)?;
    Ok(out)
}
