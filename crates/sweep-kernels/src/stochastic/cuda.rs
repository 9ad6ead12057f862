//! Stochastic depth on a GPU, which draws there: nothing is uploaded.

use candle_core::{DType, Tensor};

use super::StochasticDepth;
use crate::cuda::{Gpu, Samples};
use crate::{Error, Noise, Result};

impl StochasticDepth {
    /// The scaled samples, and the factors (F32, one for each sample).
    pub(super) fn forward_cuda(self, x: &Tensor, noise: Noise) -> Result<(Tensor, Tensor)> {
        let samples = x.dim(0)?;
        let per_sample = x.elem_count() / samples.max(1);
        let gpu = Gpu::of(x)?;
        let (y, factors) = (gpu.empty(x.shape(), x.dtype())?, gpu.empty(samples, DType::F32)?);
        let shared = Samples::new(&gpu, samples, per_sample, per_sample, &[x, &y])?;
        // A uniform number m / 2^53 is at least p exactly where the integer m is at least p 2^53, a product without
        // rounding: the GPU decides with integers as the CPU does with numbers.
        let threshold = (self.probability * (1_u64 << 53) as f64).ceil() as u64;
        let arguments = [
            gpu.at(x)?,
            gpu.at(&y)?,
            gpu.at(&factors)?,
            samples.into(),
            per_sample.into(),
            shared.packed(),
            noise.stream(self.layer).into(),
            threshold.into(),
            (1.0 / (1.0 - self.probability)).into(),
        ];
        gpu.launch_typed("stochastic_depth", x.dtype(), shared.grid(), &arguments)?;
        Ok((y, factors))
    }

    pub(super) fn backward_cuda(dy: &Tensor, factors: &Tensor) -> Result<Tensor> {
        let samples = dy.dim(0)?;
        if factors.elem_count() != samples {
            let expected = format!("{} samples", factors.elem_count());
            return Err(Error::Shape { operation: "StochasticDepth", got: dy.dims().to_vec(), expected });
        }
        let per_sample = dy.elem_count() / samples.max(1);
        let gpu = Gpu::of(dy)?;
        let dx = gpu.empty(dy.shape(), dy.dtype())?;
        let shared = Samples::new(&gpu, samples, per_sample, per_sample, &[dy, &dx])?;
        let tensors = [gpu.at(dy)?, gpu.at(&dx)?, gpu.at(factors)?];
        let arguments = [&tensors[..], &[samples.into(), per_sample.into(), shared.packed()]].concat();
        gpu.launch_typed("stochastic_depth_backward", dy.dtype(), shared.grid(), &arguments)?;
        Ok(dx)
    }
}
