//! Layer norm on a GPU: rows in the registers of a part of a warp.

use candle_core::{DType, Tensor};

use super::LayerNorm;
use crate::cuda::{Argument, Columns, Gpu, Grid, column_sums, is_packed};
use crate::{Error, Gradients, Parameters, Result, Tape};

/// Threads per block.
const THREADS: usize = 128;

/// Where a row is while it is normalised.
enum Row {
    /// In the registers of `lanes` neighbouring threads, by the kernels of these names.
    Registers { forward: &'static str, backward: &'static str, lanes: usize },
    /// In memory and the cache, with a block for each row.
    Memory,
}

impl Row {
    fn new(gpu: &Gpu, width: usize, tensors: &[&Tensor]) -> Result<Self> {
        let dtype = tensors[0].dtype();
        if !is_packed(gpu, width, dtype, tensors)? {
            return Ok(Self::Memory);
        }
        let packs = width * dtype.size_in_bytes() / 16;
        // Two packs for each thread keep more of the memory busy than one; 8 threads read a whole line of 128 bytes.
        let lanes = packs.div_ceil(2).next_power_of_two().clamp(8, 32);
        let (forward, backward) = match packs.div_ceil(lanes) {
            1 => ("layer_norm_1", "layer_norm_backward_1"),
            2 => ("layer_norm_2", "layer_norm_backward_2"),
            3 => ("layer_norm_3", "layer_norm_backward_3"),
            4 => ("layer_norm_4", "layer_norm_backward_4"),
            5 | 6 => ("layer_norm_6", "layer_norm_backward_6"),
            7 | 8 => ("layer_norm_8", "layer_norm_backward_8"),
            9..=16 => ("layer_norm_16", "layer_norm_backward_16"),
            _ => return Ok(Self::Memory),
        };
        Ok(Self::Registers { forward, backward, lanes })
    }
}

fn grid(rows: usize, lanes: usize) -> Grid {
    Grid::blocks(rows.div_ceil(THREADS / lanes).max(1) as u32, THREADS as u32)
}

impl LayerNorm {
    pub(super) fn forward_cuda(
        &self,
        parameters: &Parameters,
        x: &Tensor,
        tape: &mut Tape,
    ) -> Result<Tensor> {
        let width = self.width(parameters, x)?;
        let (weight, bias) = (parameters.get(self.weight), parameters.get(self.bias));
        let gpu = Gpu::of(x)?;
        let y = gpu.empty(x.shape(), x.dtype())?;
        let rows = x.elem_count() / width;
        let moments = tape.is_recording().then(|| gpu.empty((rows, 2), DType::F32)).transpose()?;
        let mut arguments = vec![gpu.at(x)?, gpu.at(weight)?, gpu.at(bias)?, gpu.at(&y)?];
        arguments.push(gpu.at_or_none(moments.as_ref())?);
        let (kernel, grid, sizes): (_, _, Vec<Argument>) =
            match Row::new(&gpu, width, &[x, &y, weight, bias])? {
                Row::Registers { forward, lanes, .. } => {
                    (forward, grid(rows, lanes), vec![rows.into(), width.into(), lanes.into()])
                }
                Row::Memory => ("layer_norm_any", grid(rows, THREADS), vec![width.into()]),
            };
        arguments.extend(sizes);
        arguments.push(self.stability.into());
        gpu.launch_typed(kernel, x.dtype(), grid, &arguments)?;
        if let Some(moments) = moments {
            tape.push(x.clone());
            tape.push(moments);
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
        let moments = tape.pop()?;
        let x = tape.pop()?;
        let width = self.width(parameters, &x)?;
        if dy.dims() != x.dims() || dy.dtype() != x.dtype() {
            let expected = format!("{:?} in {:?}, like the input", x.dims(), x.dtype());
            return Err(Error::Shape { operation: "LayerNorm", got: dy.dims().to_vec(), expected });
        }
        let weight = parameters.get(self.weight);
        let gpu = Gpu::of(&x)?;
        let dx = gpu.empty(x.shape(), x.dtype())?;
        let rows = x.elem_count() / width;
        let mut arguments = vec![gpu.at(&x)?, gpu.at(dy)?, gpu.at(weight)?, gpu.at(&moments)?, gpu.at(&dx)?];
        let (kernel, grid, sizes): (_, _, Vec<Argument>) =
            match Row::new(&gpu, width, &[&x, dy, &dx, weight])? {
                Row::Registers { backward, lanes, .. } => {
                    (backward, grid(rows, lanes), vec![rows.into(), width.into(), lanes.into()])
                }
                Row::Memory => ("layer_norm_backward_any", grid(rows, THREADS), vec![width.into()]),
            };
        arguments.extend(sizes);
        gpu.launch_typed(kernel, x.dtype(), grid, &arguments)?;
        self.parameter_gradients(&gpu, &x, dy, &moments, gradients)?;
        Ok(dx)
    }

    fn parameter_gradients(
        &self,
        gpu: &Gpu,
        x: &Tensor,
        dy: &Tensor,
        moments: &Tensor,
        gradients: &mut Gradients,
    ) -> Result<()> {
        let width = x.dims().last().copied().unwrap_or(1);
        if !gradients.wants(self.weight) {
            if gradients.wants(self.bias) {
                gradients.add(self.bias, column_sums(dy, width)?)?;
            }
            return Ok(());
        }
        let shared = Columns::new(gpu, width, &[x, dy])?;
        let partial = shared.partial(gpu, 2)?;
        let tensors = [gpu.at(x)?, gpu.at(dy)?, gpu.at(moments)?, gpu.at(&partial)?];
        let arguments = [&tensors[..], &shared.arguments()].concat();
        gpu.launch_typed("layer_norm_sums", x.dtype(), shared.grid(), &arguments)?;
        gradients.add(self.weight, shared.total(&partial, 0)?)?;
        if gradients.wants(self.bias) {
            gradients.add(self.bias, shared.total(&partial, 1)?)?;
        }
        Ok(())
    }
}
