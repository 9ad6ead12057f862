//! The change of layout on a GPU, through tiles in shared memory.

use candle_core::Tensor;

use super::{ChannelsLast, map_dims};
use crate::Result;
use crate::cuda::{Gpu, Grid, MOST_BLOCKS_DOWN};
use crate::image::image_dims;

/// Most channels that a tile holds all of; `FEW_CHANNELS` of `cuda/dense.cu`.
const FEW_CHANNELS: usize = 16;
/// Pixels of such a tile; `PIXELS` there.
const PIXELS: usize = 256;
/// Rows and columns of the other tiles.
const TILE: usize = 32;

impl ChannelsLast {
    pub(super) fn forward_cuda(x: &Tensor) -> Result<Tensor> {
        let (images, channels, height, width) = image_dims("ChannelsLast", x)?;
        let gpu = Gpu::of(x)?;
        let y = gpu.empty((images, height, width, channels), x.dtype())?;
        if channels <= FEW_CHANNELS {
            few(&gpu, "few_channels_last", x, &y, [images, channels, height * width])?;
        } else {
            transpose(&gpu, x, &y, [images, channels, height * width])?;
        }
        Ok(y)
    }

    pub(super) fn backward_cuda(dy: &Tensor) -> Result<Tensor> {
        let (images, height, width, channels) = map_dims("ChannelsLast", dy)?;
        let gpu = Gpu::of(dy)?;
        let dx = gpu.empty((images, channels, height, width), dy.dtype())?;
        if channels <= FEW_CHANNELS {
            few(&gpu, "few_channels_first", dy, &dx, [images, channels, height * width])?;
        } else {
            transpose(&gpu, dy, &dx, [images, height * width, channels])?;
        }
        Ok(dx)
    }
}

/// `sizes`: images, channels, pixels.
fn few(gpu: &Gpu, kernel: &'static str, x: &Tensor, y: &Tensor, sizes: [usize; 3]) -> Result<()> {
    let [images, _, pixels] = sizes;
    let down = images.min(MOST_BLOCKS_DOWN) as u32;
    let grid = Grid { blocks: (pixels.div_ceil(PIXELS) as u32, down, 1), ..Grid::blocks(1, PIXELS as u32) };
    let arguments = [&[gpu.at(x)?, gpu.at(y)?][..], &sizes.map(Into::into)].concat();
    gpu.launch_typed(kernel, x.dtype(), grid, &arguments)
}

/// `sizes`: images, and rows and columns of `x`.
fn transpose(gpu: &Gpu, x: &Tensor, y: &Tensor, sizes: [usize; 3]) -> Result<()> {
    let [images, rows, columns] = sizes;
    let tiles = rows.div_ceil(TILE) * columns.div_ceil(TILE);
    let grid = Grid {
        blocks: (tiles as u32, images.min(MOST_BLOCKS_DOWN) as u32, 1),
        threads: (TILE as u32, 8, 1),
        shared: 0,
    };
    let arguments = [&[gpu.at(x)?, gpu.at(y)?][..], &sizes.map(Into::into)].concat();
    gpu.launch_typed("transpose", x.dtype(), grid, &arguments)
}
