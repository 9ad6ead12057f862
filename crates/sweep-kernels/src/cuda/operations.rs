//! Operations that many layers use.

use candle_core::{DType, Tensor};

use super::{Argument, Gpu, Grid};
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
    if a.dims() != b.dims() || a.dtype() != b.dtype() {
        let expected = format!("{:?} in {:?}", a.dims(), a.dtype());
        return Err(Error::Shape { operation: "add", got: b.dims().to_vec(), expected });
    }
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

/// Rows that one block of `column_sums` adds up, at least.
const ROWS_PER_BLOCK: usize = 256;
/// Most blocks per column: their sums are added by a second launch.
const MOST_ROW_BLOCKS: usize = 64;

/// The sums over the rows of a matrix with `columns` columns, in F32.
pub(crate) fn column_sums(matrix: &Tensor, columns: usize) -> Result<Tensor> {
    let gpu = Gpu::of(matrix)?;
    let rows = matrix.elem_count() / columns;
    let blocks = rows.div_ceil(ROWS_PER_BLOCK).clamp(1, MOST_ROW_BLOCKS);
    let partial = sums_of_blocks(&gpu, matrix, [rows, columns], blocks)?;
    let sums = if blocks == 1 { partial } else { sums_of_blocks(&gpu, &partial, [blocks, columns], 1)? };
    Ok(sums.reshape(columns)?)
}

fn sums_of_blocks(gpu: &Gpu, matrix: &Tensor, [rows, columns]: [usize; 2], blocks: usize) -> Result<Tensor> {
    let sums = gpu.empty((blocks, columns), DType::F32)?;
    let grid =
        Grid { blocks: (columns.div_ceil(32) as u32, blocks as u32, 1), threads: (32, 8, 1), shared: 0 };
    let per_block = Argument::from(rows.div_ceil(blocks));
    let arguments = [gpu.at(matrix)?, gpu.at(&sums)?, rows.into(), columns.into(), per_block];
    gpu.launch_typed("column_sums", matrix.dtype(), grid, &arguments)?;
    Ok(sums)
}
