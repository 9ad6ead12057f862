//! Launches that walk over the rows of a matrix with fixed columns for each thread (`cuda/columns.cuh`), or over samples
//! (`by_images` of `cuda/elements.cuh`).

use candle_core::{DType, Tensor};

use super::{Argument, Gpu, Grid};
use crate::Result;

/// Threads per block; `THREADS` of `cuda/common.cuh`.
const THREADS: usize = 256;
/// Most threads of a block side by side: in BF16 they read 256 bytes of a row.
const MOST_LANES: usize = 16;
/// Blocks that fill the GPU: four for each of 132 multiprocessors. More would only mean more partial sums.
const BLOCKS: usize = 4 * 132;
/// Rows that a thread sums at least, unless there are fewer.
const ROWS_PER_THREAD: usize = 4;

/// Elements that one access of 16 bytes moves.
fn pack(dtype: DType) -> usize {
    16 / dtype.size_in_bytes()
}

/// Whether rows of `width` elements of `dtype` are whole packs in each of `tensors`.
pub(crate) fn is_packed(gpu: &Gpu, width: usize, dtype: DType, tensors: &[&Tensor]) -> Result<bool> {
    let mut packed = width.is_multiple_of(pack(dtype));
    for tensor in tensors {
        packed &= gpu.address(tensor)?.is_multiple_of(16);
    }
    Ok(packed)
}

/// How the blocks of a kernel share a (rows, columns) matrix.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Columns {
    rows: usize,
    /// Columns of the matrix.
    width: usize,
    /// Blocks that share a column, each with rows of its own.
    row_blocks: usize,
    tiles: usize,
    lanes: usize,
    is_packed: bool,
}

impl Columns {
    /// For kernels that access all of `tensors`, the first of which holds rows of `columns` activations.
    pub(crate) fn new(gpu: &Gpu, columns: usize, tensors: &[&Tensor]) -> Result<Self> {
        let (rows, dtype) = (tensors[0].elem_count() / columns.max(1), tensors[0].dtype());
        let is_packed = is_packed(gpu, columns, dtype, tensors)?;
        Ok(Self::shared_out(rows, columns, if is_packed { pack(dtype) } else { 1 }))
    }

    fn shared_out(rows: usize, columns: usize, width: usize) -> Self {
        let threads = columns.div_ceil(width).max(1);
        let lanes = threads.next_power_of_two().min(MOST_LANES);
        let tiles = threads.div_ceil(lanes);
        let least_rows = ROWS_PER_THREAD * THREADS / lanes;
        let row_blocks = BLOCKS.div_ceil(tiles).min(rows.div_ceil(least_rows)).max(1);
        Self { rows, width: columns, row_blocks, tiles, lanes, is_packed: width > 1 }
    }

    pub(crate) fn grid(&self) -> Grid {
        Grid {
            blocks: (self.tiles as u32, self.row_blocks as u32, 1),
            threads: (self.lanes as u32, (THREADS / self.lanes) as u32, 1),
            shared: 0,
        }
    }

    /// Rows, columns, rows of a block, and whether rows are whole packs: the last arguments of all such kernels.
    pub(crate) fn arguments(&self) -> [Argument; 4] {
        let rows_per_block = self.rows.div_ceil(self.row_blocks);
        [self.rows.into(), self.width.into(), rows_per_block.into(), usize::from(self.is_packed).into()]
    }

    /// Room for `sums` sums per column of each block.
    pub(crate) fn partial(&self, gpu: &Gpu, sums: usize) -> Result<Tensor> {
        gpu.empty((sums, self.row_blocks, self.width), DType::F32)
    }

    /// Adds up the sum number `index` of [`Columns::partial`] after the kernel that wrote it: (columns).
    pub(crate) fn total(&self, partial: &Tensor, index: usize) -> Result<Tensor> {
        let part = partial.narrow(0, index, 1)?;
        // A tensor of its own is 16-byte aligned, whatever the number of columns.
        if self.row_blocks == 1 && index == 0 {
            return Ok(part.reshape(self.width)?);
        }
        let gpu = Gpu::of(partial)?;
        let sums = gpu.empty(self.width, DType::F32)?;
        // One block per tile sums all there is, in one order.
        let last = Self { rows: self.row_blocks, row_blocks: 1, ..Self::new(&gpu, self.width, &[&part])? };
        last.sum_into(&gpu, &part, &sums, self.width)?;
        Ok(sums)
    }

    fn sum_into(&self, gpu: &Gpu, matrix: &Tensor, out: &Tensor, stride: usize) -> Result<()> {
        let [rows, columns, rows_per_block, packed] = self.arguments();
        let arguments = [gpu.at(matrix)?, gpu.at(out)?, stride.into(), rows, columns, rows_per_block, packed];
        gpu.launch_typed("column_sums", matrix.dtype(), self.grid(), &arguments)
    }
}

/// The sums over the rows of a matrix with `columns` columns, in F32: (columns).
pub(crate) fn column_sums(matrix: &Tensor, columns: usize) -> Result<Tensor> {
    strided_column_sums(matrix, columns, columns)
}

/// The sums over rows of the first `columns` elements of each row, where rows begin `stride` elements apart.
pub(crate) fn strided_column_sums(matrix: &Tensor, stride: usize, columns: usize) -> Result<Tensor> {
    let gpu = Gpu::of(matrix)?;
    let is_packed =
        is_packed(&gpu, columns, matrix.dtype(), &[matrix])? && stride.is_multiple_of(pack(matrix.dtype()));
    let width = if is_packed { pack(matrix.dtype()) } else { 1 };
    let shared = Columns::shared_out(matrix.elem_count() / stride.max(1), columns, width);
    let partial = shared.partial(&gpu, 1)?;
    shared.sum_into(&gpu, matrix, &partial, stride)?;
    shared.total(&partial, 0)
}

/// How the blocks of a kernel share samples, the indices of the first dimension.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Samples {
    count: usize,
    /// Elements of a sample that threads walk over.
    elements: usize,
    is_packed: bool,
    pack: usize,
}

impl Samples {
    /// For kernels that walk over `elements` elements of each of `count` samples. `unit` divides all distances that matter;
    /// `tensors` are all that is accessed in packs, activations first.
    pub(crate) fn new(
        gpu: &Gpu,
        count: usize,
        elements: usize,
        unit: usize,
        tensors: &[&Tensor],
    ) -> Result<Self> {
        let dtype = tensors[0].dtype();
        Ok(Self { count, elements, is_packed: is_packed(gpu, unit, dtype, tensors)?, pack: pack(dtype) })
    }

    pub(crate) fn grid(&self) -> Grid {
        let width = if self.is_packed { self.pack } else { 1 };
        let across = Grid::over(self.elements.div_ceil(width)).blocks.0;
        let Grid { threads, shared, .. } = Grid::blocks(1, THREADS as u32);
        Grid { blocks: (across, self.count.clamp(1, MOST_BLOCKS_DOWN) as u32, 1), threads, shared }
    }

    pub(crate) fn packed(&self) -> Argument {
        usize::from(self.is_packed).into()
    }
}

/// Most blocks along y.
pub(crate) const MOST_BLOCKS_DOWN: usize = 65_535;
