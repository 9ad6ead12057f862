//! Batch normalisation on the GPU: `cuda/batch_norm.cu`.

use candle_core::{DType, Tensor};

use super::BatchNorm;
use crate::cuda::{Argument, ChannelGrid, Gpu, Grid, column_sums};
use crate::{BatchStatistics, Gradients, Mode, Parameters, Result, Tape};

/// Most blocks of rows whose sums are joined by one more launch.
const MOST_BLOCKS: usize = 256;
/// Rows of channel constants begin on 16-byte boundaries, so that they are tensors like others.
const ALIGNMENT: usize = 4;

/// Mean and biased variance of each channel, F32.
struct Moments {
    mean: Tensor,
    variance: Tensor,
}

impl BatchNorm {
    pub(super) fn forward_cuda(
        &self,
        parameters: &Parameters,
        x: Tensor,
        tape: &mut Tape,
        mode: Mode,
    ) -> Result<Tensor> {
        let channels = self.channels(parameters, &x, mode)?;
        let gpu = Gpu::of(&x)?;
        let rows = x.elem_count() / channels;
        let moments = match mode {
            Mode::Train(_) => self.batch_moments_cuda(&gpu, &x, [rows, channels], tape)?,
            Mode::Evaluation => Moments {
                mean: parameters.get(self.statistics.mean).clone(),
                variance: parameters.get(self.statistics.variance).clone(),
            },
        };
        let y = gpu.empty(x.shape(), x.dtype())?;
        let walk = ChannelGrid::new(&gpu, &[&x, &y], rows, channels)?;
        let (grid, per_block) = walk.cut(walk.blocks_of_rows(usize::MAX));
        let mut arguments = vec![gpu.at(&x)?, gpu.at(&y)?];
        arguments.extend(self.constants(&gpu, parameters, &moments)?);
        arguments.extend([rows.into(), channels.into(), per_block.into(), walk.packed()]);
        gpu.launch_typed("batch_norm_forward", x.dtype(), grid, &arguments)?;
        if tape.is_recording() {
            tape.push(x);
            tape.push(moments.mean);
            tape.push(moments.variance);
            // What the backward pass must know is in the shape, which it can read without waiting for the GPU.
            tape.push(marker(matches!(mode, Mode::Train(_)))?);
        }
        Ok(y)
    }

    pub(super) fn backward_cuda(
        &self,
        parameters: &Parameters,
        dy: &Tensor,
        tape: &mut Tape,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        let is_batch = tape.pop()?.elem_count() == 1;
        let variance = tape.pop()?;
        let mean = tape.pop()?;
        let x = tape.pop()?;
        let gpu = Gpu::of(&x)?;
        let channels = mean.elem_count();
        let rows = x.elem_count() / channels;
        let distance = channels.next_multiple_of(ALIGNMENT);
        let dx = gpu.empty(x.shape(), x.dtype())?;
        let walk = ChannelGrid::new(&gpu, &[&x, dy, &dx], rows, channels)?;
        let constants = self.constants(&gpu, parameters, &Moments { mean, variance })?;
        let wants_parameters = gradients.wants(self.weight) || gradients.wants(self.bias);
        let mut sums = None;
        if is_batch || wants_parameters {
            let blocks = walk.blocks_of_rows(MOST_BLOCKS);
            let (grid, per_block) = walk.cut(blocks);
            let partial = gpu.empty((blocks, 2 * distance), DType::F32)?;
            let mut arguments = vec![gpu.at(&x)?, gpu.at(dy)?, gpu.at(&partial)?];
            arguments.extend(&constants);
            arguments.extend([
                rows.into(),
                channels.into(),
                per_block.into(),
                distance.into(),
                walk.packed(),
            ]);
            gpu.launch_typed("batch_norm_sums", x.dtype(), grid, &arguments)?;
            sums = Some(column_sums(&partial, 2 * distance)?);
        }
        let (grid, per_block) = walk.cut(walk.blocks_of_rows(usize::MAX));
        let mut arguments = vec![gpu.at(&x)?, gpu.at(dy)?, gpu.at(&dx)?];
        arguments.push(gpu.at_or_none(sums.as_ref().filter(|_| is_batch))?);
        arguments.extend(&constants);
        arguments.extend([rows.into(), channels.into(), per_block.into(), distance.into(), walk.packed()]);
        gpu.launch_typed("batch_norm_backward", x.dtype(), grid, &arguments)?;
        if let Some(sums) = sums {
            for (id, first) in [(self.bias, 0), (self.weight, distance)] {
                if gradients.wants(id) {
                    gradients.add(id, sums.narrow(0, first, channels)?)?;
                }
            }
        }
        Ok(dx)
    }

    /// What the batch of `[rows, channels]` has; the tape notes it.
    fn batch_moments_cuda(
        &self,
        gpu: &Gpu,
        x: &Tensor,
        [rows, channels]: [usize; 2],
        tape: &mut Tape,
    ) -> Result<Moments> {
        let walk = ChannelGrid::new(gpu, &[x], rows, channels)?;
        let blocks = walk.blocks_of_rows(MOST_BLOCKS);
        let (grid, per_block) = walk.cut(blocks);
        let means = gpu.empty((blocks, channels), DType::F32)?;
        let squares = gpu.empty((blocks, channels), DType::F32)?;
        let sizes: [Argument; 3] = [rows.into(), channels.into(), per_block.into()];
        let mut arguments = vec![gpu.at(x)?, gpu.at(&means)?, gpu.at(&squares)?];
        arguments.extend(sizes);
        arguments.push(walk.packed());
        gpu.launch_typed("batch_norm_spread", x.dtype(), grid, &arguments)?;
        let distance = channels.next_multiple_of(ALIGNMENT);
        let moments = gpu.empty(3 * distance, DType::F32)?;
        let mut arguments = vec![gpu.at(&means)?, gpu.at(&squares)?, gpu.at(&moments)?, blocks.into()];
        arguments.extend(sizes);
        arguments.push(distance.into());
        let grid = Grid { blocks: (channels.div_ceil(32) as u32, 1, 1), threads: (32, 32, 1), shared: 0 };
        gpu.launch("batch_norm_moments", grid, &arguments)?;
        let row = |index: usize| moments.narrow(0, index * distance, channels);
        tape.note(BatchStatistics {
            buffers: self.statistics,
            momentum: self.momentum,
            mean: row(0)?,
            variance: row(2)?,
        });
        Ok(Moments { mean: row(0)?, variance: row(1)? })
    }

    /// The arguments that all kernels take in this order: mean, variance, weight, bias, stability, whether to rectify.
    fn constants(&self, gpu: &Gpu, parameters: &Parameters, moments: &Moments) -> Result<[Argument; 6]> {
        Ok([
            gpu.at(&moments.mean)?,
            gpu.at(&moments.variance)?,
            gpu.at(parameters.get(self.weight))?,
            gpu.at(parameters.get(self.bias))?,
            self.stability.into(),
            usize::from(self.relu).into(),
        ])
    }
}

/// A tensor on the CPU that holds one element for the statistics of a batch and two for running ones.
fn marker(is_batch: bool) -> Result<Tensor> {
    Ok(Tensor::zeros(if is_batch { 1 } else { 2 }, DType::U8, &candle_core::Device::Cpu)?)
}
