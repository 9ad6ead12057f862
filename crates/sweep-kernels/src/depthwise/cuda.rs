//! Depthwise convolution on the GPU: `cuda/depthwise.cu`.

use candle_core::{DType, Tensor};

use super::{DepthwiseConvolution, Sizes};
use crate::cuda::{Argument, ChannelGrid, Gpu, Grid, column_sums};
use crate::{Gradients, Parameters, Result, Tape};

/// Side of the kernels that have fast code.
const FAST_SIDE: usize = 7;
/// Outputs that a thread has side by side.
const STRIP: usize = 7;
/// Threads of a block: 4 warps of 32 channels.
const THREADS: usize = 128;
const WARPS: usize = 4;
const WARP: usize = 32;
/// Blocks that the multiprocessors of a Hopper GPU hold at once, bounded by registers.
const RESIDENT_BLOCKS: usize = 132 * 3;
/// Most lines of outputs in a tile.
const MOST_LINES: usize = 14;

/// How the maps are cut into tiles.
#[derive(Clone, Copy)]
struct Tiling {
    is_wide: bool,
    /// Groups of slabs of 32 channels, one for each block.
    groups: usize,
    /// Tiles of all images.
    tiles: usize,
    /// Lines of outputs of a tile.
    lines: usize,
    /// Bytes of the tile with its border.
    shared: usize,
}

impl Tiling {
    fn new(sizes: Sizes, dtype: DType) -> Self {
        let tall = Self::with_lines(sizes, dtype, MOST_LINES.min(sizes.height));
        // Smaller tiles repeat more of the border, but fill the GPU where there are few of them.
        if tall.tiles * tall.groups < 4 * RESIDENT_BLOCKS && tall.lines > MOST_LINES / 2 {
            return Self::with_lines(sizes, dtype, MOST_LINES / 2);
        }
        tall
    }

    fn with_lines(sizes: Sizes, dtype: DType, lines: usize) -> Self {
        let is_wide = sizes.width > STRIP;
        let strips = if is_wide { 2 } else { 1 };
        let slabs = WARPS / strips;
        let across = sizes.width.div_ceil(strips * STRIP);
        let pixels = (lines + FAST_SIDE - 1) * (strips * STRIP + FAST_SIDE - 1);
        Self {
            is_wide,
            groups: sizes.channels.div_ceil(slabs * WARP),
            tiles: sizes.images * sizes.height.div_ceil(lines) * across,
            lines,
            shared: slabs * pixels * WARP * dtype.size_in_bytes(),
        }
    }

    /// The kernel for strips that lie alone or in pairs.
    fn name(self, narrow: &'static str, wide: &'static str) -> &'static str {
        if self.is_wide { wide } else { narrow }
    }

    /// Strips of a block side by side.
    fn strips(self) -> usize {
        if self.is_wide { 2 } else { 1 }
    }
}

impl DepthwiseConvolution {
    pub(super) fn forward_cuda(self, parameters: &Parameters, x: Tensor, tape: &mut Tape) -> Result<Tensor> {
        let sizes = self.sizes(parameters, &x)?;
        let gpu = Gpu::of(&x)?;
        let bias = self.bias.map(|id| parameters.get(id));
        let y = sizes.correlate_cuda(&gpu, &x, &self.taps_cuda(&gpu, parameters, sizes)?, bias, false)?;
        tape.push(x);
        Ok(y)
    }

    pub(super) fn backward_cuda(
        self,
        parameters: &Parameters,
        dy: &Tensor,
        tape: &mut Tape,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        let x = tape.pop()?;
        let sizes = self.sizes(parameters, &x)?;
        let gpu = Gpu::of(&x)?;
        let bias = self.bias.filter(|id| gradients.wants(*id));
        if gradients.wants(self.weight) {
            let (sums, dw) = sizes.gradients_cuda(&gpu, &x, dy)?;
            gradients.add(self.weight, dw.reshape(parameters.get(self.weight).shape())?)?;
            if let (Some(id), Some(sums)) = (bias, &sums) {
                gradients.add(id, sums.clone())?;
            } else if let Some(id) = bias {
                gradients.add(id, column_sums(dy, sizes.channels)?)?;
            }
        } else if let Some(id) = bias {
            gradients.add(id, column_sums(dy, sizes.channels)?)?;
        }
        sizes.correlate_cuda(&gpu, dy, &self.taps_cuda(&gpu, parameters, sizes)?, None, true)
    }

    /// The weights as (taps, C) in F32.
    fn taps_cuda(self, gpu: &Gpu, parameters: &Parameters, sizes: Sizes) -> Result<Tensor> {
        parameters.rearranged(self.weight, DType::F32, |weight| {
            let count = sizes.kernel * sizes.kernel;
            let taps = gpu.empty((count, sizes.channels), DType::F32)?;
            let arguments = sizes.reordering(gpu, weight, &taps)?;
            gpu.launch("taps_first_f32", Grid::over(taps.elem_count()), &arguments)?;
            Ok(taps)
        })
    }
}

impl Sizes {
    /// The arguments of the kernels that reorder (C, taps) and (taps, C), seen as filters of one output.
    fn reordering(self, gpu: &Gpu, from: &Tensor, to: &Tensor) -> Result<[Argument; 6]> {
        let taps = self.kernel * self.kernel;
        let length = taps * self.channels;
        Ok([gpu.at(from)?, gpu.at(to)?, 1_usize.into(), self.channels.into(), taps.into(), length.into()])
    }

    /// The sum over the kernel of neighbouring pixels times taps (taps, C), plus bias; with the kernel `turned` by half a
    /// turn.
    fn correlate_cuda(
        self,
        gpu: &Gpu,
        x: &Tensor,
        taps: &Tensor,
        bias: Option<&Tensor>,
        turned: bool,
    ) -> Result<Tensor> {
        let Self { images, height, width, channels, kernel } = self;
        let y = gpu.empty(x.shape(), x.dtype())?;
        let turned = Argument::from(usize::from(turned));
        let mut arguments = vec![gpu.at(x)?, gpu.at(taps)?, gpu.at_or_none(bias)?, gpu.at(&y)?];
        if kernel != FAST_SIDE {
            arguments.extend([images, height, width, channels, kernel].map(Argument::from));
            arguments.push(turned);
            gpu.launch_typed("depthwise_any", x.dtype(), Grid::over(y.elem_count()), &arguments)?;
            return Ok(y);
        }
        let tiling = Tiling::new(self, x.dtype());
        let packed = ChannelGrid::new(gpu, &[x], 1, channels)?.packed();
        arguments.extend([height, width, channels, tiling.lines].map(Argument::from));
        arguments.extend([turned, packed]);
        let grid = Grid::blocks((tiling.tiles * tiling.groups) as u32, THREADS as u32);
        let name = tiling.name("depthwise_narrow", "depthwise_wide");
        gpu.launch_typed(name, x.dtype(), grid.with_shared(tiling.shared), &arguments)?;
        Ok(y)
    }

    /// The gradient of the bias, where it comes for free, and that of the weights (C, taps).
    fn gradients_cuda(self, gpu: &Gpu, x: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Tensor)> {
        let Self { channels, kernel, .. } = self;
        let count = kernel * kernel;
        let (bias, taps) = if kernel == FAST_SIDE {
            let sums = column_sums(&self.partial_sums(gpu, x, dy)?, (count + 1) * channels)?;
            (Some(sums.narrow(0, 0, channels)?), sums.narrow(0, channels, count * channels)?)
        } else {
            (None, column_sums(&self.partial_sums_any(gpu, x, dy)?, count * channels)?)
        };
        let dw = gpu.empty((channels, count), DType::F32)?;
        let arguments = self.reordering(gpu, &taps, &dw)?;
        gpu.launch("taps_last_f32", Grid::over(dw.elem_count()), &arguments)?;
        Ok((bias, dw))
    }

    /// Rows of sums of dy and, for each tap, of products of dy and x; to be added up.
    fn partial_sums(self, gpu: &Gpu, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
        let Self { images, height, width, channels, kernel } = self;
        let tiling = Tiling::new(self, x.dtype());
        let blocks = RESIDENT_BLOCKS.div_ceil(tiling.groups).min(tiling.tiles);
        let rows = blocks * tiling.strips();
        let partial = gpu.empty((rows, (kernel * kernel + 1) * channels), DType::F32)?;
        let mut arguments = vec![gpu.at(x)?, gpu.at(dy)?, gpu.at(&partial)?];
        arguments.extend([images, height, width, channels, tiling.lines].map(Argument::from));
        arguments.push(ChannelGrid::new(gpu, &[x], 1, channels)?.packed());
        let grid = Grid {
            blocks: (tiling.groups as u32, blocks as u32, 1),
            threads: (THREADS as u32, 1, 1),
            shared: tiling.shared as u32,
        };
        let name = tiling.name("depthwise_gradient_narrow", "depthwise_gradient_wide");
        gpu.launch_typed(name, x.dtype(), grid, &arguments)?;
        Ok(partial)
    }

    fn partial_sums_any(self, gpu: &Gpu, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
        let Self { images, height, width, channels, kernel } = self;
        let (count, slabs) = (kernel * kernel, channels.div_ceil(WARP));
        let pixels = images * height * width;
        let blocks = pixels.div_ceil(256).clamp(1, 64);
        let partial = gpu.empty((blocks, count * channels), DType::F32)?;
        let mut arguments = vec![gpu.at(x)?, gpu.at(dy)?, gpu.at(&partial)?];
        arguments
            .extend([images, height, width, channels, kernel, pixels.div_ceil(blocks)].map(Argument::from));
        let grid = Grid {
            blocks: ((count * slabs) as u32, blocks as u32, 1),
            threads: (WARP as u32, 8, 1),
            shared: 0,
        };
        gpu.launch_typed("depthwise_gradient_any", x.dtype(), grid, &arguments)?;
        Ok(partial)
    }
}
