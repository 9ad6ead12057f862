//! Losses on a GPU: one block for each row of logits.

use candle_core::{DType, Tensor};

use super::{CrossEntropy, Labels};
use crate::Result;
use crate::cuda::{Gpu, Grid};
use crate::divergence::Divergence;

/// Threads for a row of `classes` logits: up to four logits for each, in whole warps.
fn threads(classes: usize) -> u32 {
    (classes.div_ceil(4).next_power_of_two() as u32).clamp(32, 1024)
}

pub(super) fn cross_entropy(logits: &Tensor, labels: &Labels) -> Result<CrossEntropy> {
    let gpu = Gpu::of(logits)?;
    let (samples, classes) = logits.dims2()?;
    let losses = gpu.empty(samples, DType::F32)?;
    let gradient = gpu.empty((samples, classes), DType::F32)?;
    let arguments =
        [gpu.at(logits)?, gpu.at(&labels.tensor)?, gpu.at(&losses)?, gpu.at(&gradient)?, classes.into()];
    let grid = Grid::blocks(samples as u32, threads(classes));
    gpu.launch_typed("cross_entropy", logits.dtype(), grid, &arguments)?;
    Ok(CrossEntropy { losses, gradient })
}

/// [`kullback_leibler`](crate::kullback_leibler) of logits whose shapes and dtypes agree.
pub(crate) fn kullback_leibler(clean: &Tensor, perturbed: &Tensor) -> Result<Divergence> {
    let gpu = Gpu::of(clean)?;
    let (samples, classes) = clean.dims2()?;
    let losses = gpu.empty(samples, DType::F64)?;
    let [clean_gradient, perturbed_gradient] =
        [gpu.empty((samples, classes), DType::F32)?, gpu.empty((samples, classes), DType::F32)?];
    let arguments = [
        gpu.at(clean)?,
        gpu.at(perturbed)?,
        gpu.at(&losses)?,
        gpu.at(&clean_gradient)?,
        gpu.at(&perturbed_gradient)?,
        classes.into(),
    ];
    let grid = Grid::blocks(samples as u32, threads(classes));
    gpu.launch_typed("kullback_leibler", clean.dtype(), grid, &arguments)?;
    Ok(Divergence { losses, clean_gradient, perturbed_gradient })
}
