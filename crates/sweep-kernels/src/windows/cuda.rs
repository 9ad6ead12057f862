//! Windows and patch merging on the GPU: copies of whole pixels whose places the kernels compute (`cuda/windows.cu`).

use candle_core::{Shape, Tensor};

use super::Windows;
use crate::Result;
use crate::cuda::{Argument, Gpu, Grid};

/// Threads of a block.
const THREADS: usize = 256;
/// Blocks that fill a GPU several times over; more of them bring nothing.
const MOST_BLOCKS: usize = 132 * 16;

/// A new tensor whose rows of `channels` elements are rows of `x`, as the kernel `name` says.
fn copy(
    name: &str,
    x: &Tensor,
    channels: usize,
    shape: impl Into<Shape>,
    arguments: &[usize],
) -> Result<Tensor> {
    let gpu = Gpu::of(x)?;
    let out = gpu.empty(shape, x.dtype())?;
    let rows = out.elem_count() / channels;
    if rows == 0 {
        return Ok(out);
    }
    let row_bytes = channels * x.dtype().size_in_bytes();
    // 16 bytes at a time where rows and both tensors are aligned to that. Numbers have 2 bytes at least.
    let aligned = row_bytes as u64 | gpu.address(x)? | gpu.address(&out)?;
    let unit = [16, 4].into_iter().find(|unit| aligned.is_multiple_of(*unit as u64)).unwrap_or(2);
    let units = row_bytes / unit;
    let across = units.next_power_of_two().min(THREADS);
    let blocks = rows.div_ceil(THREADS / across).min(MOST_BLOCKS);
    let grid = Grid {
        blocks: (blocks as u32, 1, 1),
        threads: (across as u32, (THREADS / across) as u32, 1),
        shared: 0,
    };
    let mut all = vec![gpu.at(x)?, gpu.at(&out)?, rows.into(), units.into()];
    all.extend(arguments.iter().map(|value| Argument::from(*value)));
    gpu.launch(&format!("{name}_{unit}"), grid, &all)?;
    Ok(out)
}

/// Maps cut into windows.
pub(super) fn partition(
    windows: Windows,
    x: &Tensor,
    channels: usize,
    shape: impl Into<Shape>,
) -> Result<Tensor> {
    let Windows { height, width, window, shift } = windows;
    copy("window_partition", x, channels, shape, &[height, width, window, shift])
}

/// Windows put together to maps.
pub(super) fn merge(
    windows: Windows,
    x: &Tensor,
    channels: usize,
    shape: impl Into<Shape>,
) -> Result<Tensor> {
    let Windows { height, width, window, shift } = windows;
    copy("window_merge", x, channels, shape, &[height, width, window, shift])
}

/// Squares of 2 × 2 pixels of a map (N, `height`, `width`, `channels`) stacked into channels.
pub(crate) fn stack_squares(
    x: &Tensor,
    [height, width, channels]: [usize; 3],
    shape: impl Into<Shape>,
) -> Result<Tensor> {
    copy("stack_squares", x, channels, shape, &[height, width])
}

/// The inverse: back to a map of `shape`, (N, `height`, `width`, `channels`).
pub(crate) fn unstack_squares(
    x: &Tensor,
    [height, width, channels]: [usize; 3],
    shape: impl Into<Shape>,
) -> Result<Tensor> {
    copy("unstack_squares", x, channels, shape, &[height, width])
}
