//! Tokens that come and go, on a GPU.

use candle_core::Tensor;

use super::{ClassTokenAndPositions, SelectToken};
use crate::cuda::{Gpu, Samples, column_sums, strided_column_sums};
use crate::{Error, Gradients, Parameters, Result};

impl ClassTokenAndPositions {
    pub(super) fn forward_cuda(self, parameters: &Parameters, x: &Tensor) -> Result<Tensor> {
        let (images, tokens, width) = self.sizes(parameters, x)?;
        let (class_token, positions) = (parameters.get(self.class_token), parameters.get(self.positions));
        let per_image = tokens * width;
        let gpu = Gpu::of(x)?;
        let y = gpu.empty((images, tokens, width), x.dtype())?;
        let shared = Samples::new(&gpu, images, per_image, width, &[x, &y, class_token, positions])?;
        let tensors = [gpu.at(x)?, gpu.at(class_token)?, gpu.at(positions)?, gpu.at(&y)?];
        let sizes = [images.into(), per_image.into(), width.into(), shared.packed()];
        gpu.launch_typed("add_tokens", x.dtype(), shared.grid(), &[tensors, sizes].concat())?;
        Ok(y)
    }

    pub(super) fn backward_cuda(
        self,
        parameters: &Parameters,
        dy: &Tensor,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        let (_, tokens, width) = dy.dims3()?;
        let (class_token, positions) = (parameters.get(self.class_token), parameters.get(self.positions));
        if gradients.wants(self.positions) {
            let sums = column_sums(dy, tokens * width)?;
            gradients.add(self.positions, sums.reshape(positions.shape())?)?;
        }
        if gradients.wants(self.class_token) {
            let sums = strided_column_sums(dy, tokens * width, width)?;
            gradients.add(self.class_token, sums.reshape(class_token.shape())?)?;
        }
        take(dy, 1, tokens - 1)
    }
}

/// The `count` tokens from `first` on of each sequence of `x` (N, L, width): (N, count, width).
fn take(x: &Tensor, first: usize, count: usize) -> Result<Tensor> {
    let (images, tokens, width) = x.dims3()?;
    if first + count > tokens {
        let expected = format!("(N, {} or more, width)", first + count);
        return Err(Error::Shape { operation: "SelectToken", got: x.dims().to_vec(), expected });
    }
    let gpu = Gpu::of(x)?;
    let y = gpu.empty((images, count, width), x.dtype())?;
    let shared = Samples::new(&gpu, images, count * width, width, &[x, &y])?;
    let sizes = [images, tokens * width, first * width, count * width].map(Into::into);
    let arguments = [&[gpu.at(x)?, gpu.at(&y)?][..], &sizes, &[shared.packed()]].concat();
    gpu.launch_typed("take_part", x.dtype(), shared.grid(), &arguments)?;
    Ok(y)
}

impl SelectToken {
    pub(super) fn forward_cuda(self, x: &Tensor) -> Result<Tensor> {
        let (images, _, width) = x.dims3()?;
        Ok(take(x, self.index, 1)?.reshape((images, width))?)
    }

    pub(super) fn scatter_cuda(self, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
        let (images, tokens, width) = x.dims3()?;
        if dy.dims() != [images, width] {
            let expected = format!("({images}, {width})");
            return Err(Error::Shape { operation: "SelectToken", got: dy.dims().to_vec(), expected });
        }
        let gpu = Gpu::of(dy)?;
        let dx = gpu.empty(x.shape(), dy.dtype())?;
        let shared = Samples::new(&gpu, images, tokens * width, width, &[dy, &dx])?;
        let sizes = [images, tokens * width, self.index * width, width].map(Into::into);
        let arguments = [&[gpu.at(dy)?, gpu.at(&dx)?][..], &sizes, &[shared.packed()]].concat();
        gpu.launch_typed("take_part_backward", dy.dtype(), shared.grid(), &arguments)?;
        Ok(dx)
    }
}
