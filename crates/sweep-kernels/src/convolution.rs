//! Convolution of maps (N, H, W, C), as matrix products over unfolded patches.

#[cfg(feature = "cuda")]
mod cuda;

use candle_core::Tensor;

use crate::element::Element;
use crate::elementwise::column_sums;
use crate::host::{Host, tensor, with_element};
use crate::linear::{add_bias, affine_product, linear_gradients};
use crate::native::{
    Matrix, MatrixMut, Threads, Write, build, build_with_scratch, multiply, product, reorder_rows,
    rows_per_task, transpose,
};
use crate::{Error, Gradients, Layer, Mode, ParameterId, Parameters, Result, Tape};

/// A convolution with any kernel, stride, padding (zeros) and number of groups, as PyTorch's `Conv2d`, on channels-last
/// maps: (N, H, W, C) to (N, H', W', O).
///
/// Patches are unfolded into the rows of a matrix a block at a time, small enough to stay in the cache, and multiplied
/// by the weights. A 1×1 kernel with stride 1 needs no unfolding. The backward pass unfolds again instead of keeping
/// the rows.
#[derive(Clone, Copy, Debug)]
pub struct Convolution {
    weight: ParameterId,
    bias: Option<ParameterId>,
    stride: usize,
    padding: usize,
    groups: usize,
}

/// Elements of unfolded patches that one task works on: 512 KiB of f32, half an L2 cache.
const UNFOLDED_PER_TASK: usize = 128 * 1024;
/// Elements of unfolded patches that all threads work on together: 8 MiB of f32, a part of an L3 cache.
const UNFOLDED_TOGETHER: usize = 2 * 1024 * 1024;
/// Weights of more elements than this are read too often if every task multiplies by all of them.
const LARGE_WEIGHTS: usize = 256 * 1024;

impl Convolution {
    /// `weight` is (O, C / groups, kernel height, kernel width) as PyTorch stores it, `bias` (O). Stride 1, no padding, one group.
    pub fn new(weight: ParameterId, bias: Option<ParameterId>) -> Self {
        Self { weight, bias, stride: 1, padding: 0, groups: 1 }
    }

    /// The same with a stride of at least 1 in both directions.
    #[must_use]
    pub fn with_stride(self, stride: usize) -> Self {
        Self { stride, ..self }
    }

    /// The same with `padding` zeros on all four sides.
    #[must_use]
    pub fn with_padding(self, padding: usize) -> Self {
        Self { padding, ..self }
    }

    /// The same with the channels cut into `groups` that do not see each other; it divides C and O.
    #[must_use]
    pub fn with_groups(self, groups: usize) -> Self {
        Self { groups, ..self }
    }

    /// Whether cuDNN computes this layer on maps of `shape`, where `parameters` are and in what they compute: not on a CPU, and
    /// on a GPU only where it has deterministic algorithms for all of the layer. Elsewhere cuBLAS multiplies.
    ///
    /// # Errors
    /// [`Error::Shape`] for maps that do not fit the weight; failures of the device.
    pub fn is_by_cudnn(self, parameters: &Parameters, shape: &[usize]) -> Result<bool> {
        #[cfg(feature = "cuda")]
        if parameters.get(self.weight).device().is_cuda() {
            return self.is_by_cudnn_on_gpu(parameters, shape);
        }
        self.geometry(parameters.get(self.weight), shape).map(|_| false)
    }

    /// Whether the convolution is a linear map of each pixel.
    fn is_pointwise(self, weight: &Tensor) -> bool {
        (self.stride, self.padding, self.groups) == (1, 0, 1) && weight.dims()[2..] == [1, 1]
    }

    fn geometry(self, weight: &Tensor, dims: &[usize]) -> Result<Geometry> {
        let (outputs, group_channels, kernel_height, kernel_width) = weight.dims4()?;
        let Self { stride, padding, groups, .. } = self;
        let fits = |size: usize, kernel: usize| kernel > 0 && size > 0 && size + 2 * padding >= kernel;
        match *dims {
            [images, height, width, channels]
                if stride > 0
                    && groups > 0
                    && group_channels > 0
                    && channels == group_channels * groups
                    && outputs.is_multiple_of(groups)
                    && fits(height, kernel_height)
                    && fits(width, kernel_width) =>
            {
                Ok(Geometry {
                    images,
                    height,
                    width,
                    channels,
                    out_height: (height + 2 * padding - kernel_height) / stride + 1,
                    out_width: (width + 2 * padding - kernel_width) / stride + 1,
                    outputs,
                    kernel: [kernel_height, kernel_width],
                    stride,
                    padding: [padding; 2],
                    groups,
                })
            }
            ref dims => Err(Error::Shape {
                operation: "Convolution",
                got: dims.to_vec(),
                expected: format!(
                    "(N, H, W, {}) at least as large as the kernel {kernel_height} × {kernel_width} less the padding",
                    group_channels * groups
                ),
            }),
        }
    }

    fn forward_typed<T: Element>(
        self,
        parameters: &Parameters,
        x: Tensor,
        tape: &mut Tape,
    ) -> Result<Tensor> {
        let weight = parameters.get(self.weight);
        let geometry = self.geometry(weight, x.dims())?;
        let mut y = if self.is_pointwise(weight) {
            affine_product::<T>(&x, weight)?
        } else {
            let (input, weight) = (Host::new(&x)?, Host::new(weight)?);
            geometry.convolve(&input.read::<T>()?, &geometry.columns_of_weights(&weight.read::<T>()?))
        };
        if let Some(id) = self.bias {
            add_bias(&mut y, &Host::new(parameters.get(id))?.read::<T>()?);
        }
        tape.push(x);
        let Geometry { images, out_height, out_width, outputs, .. } = geometry;
        tensor(y, (images, out_height, out_width, outputs))
    }

    fn backward_typed<T: Element>(
        self,
        parameters: &Parameters,
        dy: &Tensor,
        tape: &mut Tape,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        let x = tape.pop()?;
        let weight = parameters.get(self.weight);
        let geometry = self.geometry(weight, x.dims())?;
        let weight_host = Host::new(weight)?;
        let weights = weight_host.read::<T>()?;
        let dy_host = Host::new(dy)?;
        let output_gradient = dy_host.read::<T>()?;
        if self.is_pointwise(weight) {
            linear_gradients::<T>(&x, dy, weight, gradients, self.weight, self.bias)?;
            let pixels = output_gradient.len() / geometry.outputs;
            let dy = Matrix::new(&output_gradient, pixels, geometry.outputs);
            let weights = Matrix::new(&weights, geometry.outputs, geometry.channels);
            return tensor(product(dy, weights, Threads::All), x.shape());
        }
        if gradients.wants(self.weight) {
            let input = Host::new(&x)?;
            let dw = geometry.weight_gradient(&input.read::<T>()?, &output_gradient);
            gradients.add(self.weight, tensor(dw, weight.shape())?)?;
        }
        if let Some(id) = self.bias.filter(|id| gradients.wants(*id)) {
            gradients
                .add(id, tensor(column_sums::<T>(&output_gradient, geometry.outputs), geometry.outputs)?)?;
        }
        let dx = match geometry.adjoint() {
            Some(adjoint) => adjoint.convolve(&output_gradient, &geometry.columns_of_adjoint(&weights)),
            None => geometry.fold(&output_gradient, &geometry.rows_of_weights(&weights)),
        };
        tensor(dx, x.shape())
    }
}

/// The sizes of one convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Geometry {
    images: usize,
    height: usize,
    width: usize,
    channels: usize,
    out_height: usize,
    out_width: usize,
    outputs: usize,
    /// Height and width.
    kernel: [usize; 2],
    stride: usize,
    /// Zeros above and below, and to the left and right.
    padding: [usize; 2],
    groups: usize,
}

impl Geometry {
    fn group_channels(self) -> usize {
        self.channels / self.groups
    }

    fn group_outputs(self) -> usize {
        self.outputs / self.groups
    }

    fn taps(self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Length of an unfolded patch of one group: rows of the kernel, columns of the kernel, channels.
    fn patch_len(self) -> usize {
        self.taps() * self.group_channels()
    }

    fn pixels(self) -> usize {
        self.images * self.out_height * self.out_width
    }

    /// The convolution that maps the output gradient to the input gradient, if the stride is 1 and the padding does
    /// not exceed the kernel.
    fn adjoint(self) -> Option<Self> {
        let padding = |axis: usize| (self.kernel[axis] - 1).checked_sub(self.padding[axis]);
        let padding = [padding(0)?, padding(1)?];
        (self.stride == 1).then_some(Self {
            height: self.out_height,
            width: self.out_width,
            channels: self.outputs,
            out_height: self.height,
            out_width: self.width,
            outputs: self.channels,
            padding,
            ..self
        })
    }

    /// The weights (O, C / groups, kernel) as (O, kernel, C / groups), the order of an unfolded patch.
    fn rows_of_weights<T: Element>(self, weights: &[T]) -> Vec<T> {
        let (taps, channels, row) = (self.taps(), self.group_channels(), self.patch_len());
        build(
            weights.len(),
            row,
            #[inline(always)]
            |at, out| {
                let row = &weights[at..at + row];
                for (tap, out) in out.chunks_exact_mut(channels).enumerate() {
                    for (out, weights) in out.iter_mut().zip(row.chunks_exact(taps)) {
                        *out = weights[tap];
                    }
                }
            },
        )
    }

    /// The weights (O, C / groups, kernel) as (groups, kernel, C / groups, O / groups): for each group a matrix that
    /// unfolded patches are multiplied by.
    fn columns_of_weights<T: Element>(self, weights: &[T]) -> Vec<T> {
        let (taps, channels, outputs) = (self.taps(), self.group_channels(), self.group_outputs());
        self.each_group(weights, |weights| {
            let columns = transpose(weights, channels * taps);
            reorder_rows(&columns, outputs, |row| row % channels * taps + row / channels)
        })
    }

    /// The same for the adjoint: (groups, kernel turned by half a turn, O / groups, C / groups).
    fn columns_of_adjoint<T: Element>(self, weights: &[T]) -> Vec<T> {
        let (taps, channels, outputs) = (self.taps(), self.group_channels(), self.group_outputs());
        self.each_group(&self.rows_of_weights(weights), |rows| {
            reorder_rows(rows, channels, |row| row % outputs * taps + taps - 1 - row / outputs)
        })
    }

    /// The weights of every group, rearranged by `rearrange`.
    fn each_group<T: Element>(self, weights: &[T], rearrange: impl Fn(&[T]) -> Vec<T>) -> Vec<T> {
        if self.groups == 1 {
            return rearrange(weights);
        }
        let groups: Vec<Vec<T>> = weights.chunks(weights.len() / self.groups).map(rearrange).collect();
        groups.concat()
    }

    /// The output for weights in the order of [`Self::columns_of_weights`].
    fn convolve<T: Element>(self, x: &[T], weights: &[T]) -> Vec<T> {
        let (pixels, patch, outputs) = (self.pixels(), self.patch_len(), self.group_outputs());
        let columns = |group: usize| {
            Matrix::new(&weights[group * patch * outputs..(group + 1) * patch * outputs], patch, outputs)
        };
        if self.groups == 1 && outputs * patch > LARGE_WEIGHTS {
            let unfolded = self.unfolded_in_parallel(x, 0, 0, pixels);
            return product(Matrix::new(&unfolded, pixels, patch), columns(0), Threads::All);
        }
        let block = (UNFOLDED_PER_TASK / patch).clamp(64, 4096).min(pixels.max(1));
        let scratch = || vec![T::zero(); block * patch];
        build_with_scratch(pixels * self.outputs, block * self.outputs, scratch, |at, out, unfolded| {
            let (first, count) = (at / self.outputs, out.len() / self.outputs);
            let unfolded = &mut unfolded[..count * patch];
            for group in 0..self.groups {
                self.unfold(x, group, first, unfolded);
                let mut out = MatrixMut::strided(&mut out[group * outputs..], count, outputs, self.outputs);
                let patches = Matrix::new(unfolded, count, patch);
                multiply(&mut out, Write::Replace, T::one(), patches, columns(group), Threads::One);
            }
        })
    }

    /// The gradient of the weights, in PyTorch's order.
    fn weight_gradient<T: Element>(self, x: &[T], dy: &[T]) -> Vec<T> {
        let (pixels, patch, outputs) = (self.pixels(), self.patch_len(), self.group_outputs());
        let mut dw = vec![T::zero(); self.outputs * patch];
        let block = (UNFOLDED_TOGETHER / patch).max(1);
        for first in (0..pixels).step_by(block) {
            let count = block.min(pixels - first);
            for group in 0..self.groups {
                let unfolded = self.unfolded_in_parallel(x, group, first, count);
                let dy = &dy[first * self.outputs + group * outputs..];
                let dy = Matrix::strided(dy, count, outputs, self.outputs).transposed();
                let dw = &mut dw[group * outputs * patch..(group + 1) * outputs * patch];
                let unfolded = Matrix::new(&unfolded, count, patch);
                multiply(
                    &mut MatrixMut::new(dw, outputs, patch),
                    Write::Add,
                    T::one(),
                    dy,
                    unfolded,
                    Threads::All,
                );
            }
        }
        self.order_of_parameters(&dw)
    }

    /// The inverse of [`Self::rows_of_weights`].
    fn order_of_parameters<T: Element>(self, rows: &[T]) -> Vec<T> {
        let (taps, channels, row) = (self.taps(), self.group_channels(), self.patch_len());
        build(
            rows.len(),
            row,
            #[inline(always)]
            |at, out| {
                let row = &rows[at..at + row];
                for (channel, out) in out.chunks_exact_mut(taps).enumerate() {
                    for (tap, out) in out.iter_mut().enumerate() {
                        *out = row[tap * channels + channel];
                    }
                }
            },
        )
    }

    fn unfolded_in_parallel<T: Element>(self, x: &[T], group: usize, first: usize, count: usize) -> Vec<T> {
        let patch = self.patch_len();
        let block = rows_per_task(patch);
        build(count * patch, block * patch, |at, out| self.unfold(x, group, first + at / patch, out))
    }

    /// Writes the patches of `group` around the output pixels from `first` on, one after the other.
    #[inline(always)]
    fn unfold<T: Element>(self, x: &[T], group: usize, first: usize, out: &mut [T]) {
        let line_len = self.kernel[1] * self.group_channels();
        for (index, patch) in out.chunks_exact_mut(self.patch_len()).enumerate() {
            let (image, row, column) = self.position(first + index);
            for (tap_row, out) in patch.chunks_exact_mut(line_len).enumerate() {
                let y = (row * self.stride + tap_row).wrapping_sub(self.padding[0]);
                if y < self.height {
                    let line = (image * self.height + y) * self.width;
                    self.unfold_line(x, line, column * self.stride, group, out);
                } else {
                    out.fill(T::zero());
                }
            }
        }
    }

    /// Writes one line of a patch; `line` is the number of the pixel that begins the line of the map.
    #[inline(always)]
    fn unfold_line<T: Element>(self, x: &[T], line: usize, column: usize, group: usize, out: &mut [T]) {
        let (kernel, padding, channels) = (self.kernel[1], self.padding[1], self.group_channels());
        if self.groups == 1 && column >= padding && column + kernel <= self.width + padding {
            let start = (line + column - padding) * channels;
            out.copy_from_slice(&x[start..start + kernel * channels]);
            return;
        }
        for (tap, out) in out.chunks_exact_mut(channels).enumerate() {
            let column = (column + tap).wrapping_sub(padding);
            if column < self.width {
                let start = (line + column) * self.channels + group * channels;
                out.copy_from_slice(&x[start..start + channels]);
            } else {
                out.fill(T::zero());
            }
        }
    }

    /// Image, row and column of an output pixel.
    fn position(self, pixel: usize) -> (usize, usize, usize) {
        let (line, column) = (pixel / self.out_width, pixel % self.out_width);
        (line / self.out_height, line % self.out_height, column)
    }

    /// The input gradient for any stride: the gradient of every unfolded patch, added up where patches overlap.
    fn fold<T: Element>(self, dy: &[T], weights: &[T]) -> Vec<T> {
        let (patch, outputs) = (self.patch_len(), self.group_outputs());
        let per_image = self.height * self.width * self.channels;
        let pixels = self.out_height * self.out_width;
        let block = (UNFOLDED_PER_TASK / patch).clamp(1, pixels);
        build(self.images * per_image, per_image, |at, dx| {
            let image = at / per_image;
            let mut unfolded = vec![T::zero(); block * patch];
            for first in (0..pixels).step_by(block) {
                let count = block.min(pixels - first);
                for group in 0..self.groups {
                    let dy = &dy[(image * pixels + first) * self.outputs + group * outputs..];
                    let dy = Matrix::strided(dy, count, outputs, self.outputs);
                    let weights = &weights[group * outputs * patch..(group + 1) * outputs * patch];
                    let weights = Matrix::new(weights, outputs, patch);
                    let unfolded = &mut unfolded[..count * patch];
                    let patches = &mut MatrixMut::new(unfolded, count, patch);
                    multiply(patches, Write::Replace, T::one(), dy, weights, Threads::One);
                    self.add_patches(unfolded, group, first, dx);
                }
            }
        })
    }

    /// Adds patches around the output pixels from `first` on, of one image, to the gradient of that image.
    #[inline(always)]
    fn add_patches<T: Element>(self, patches: &[T], group: usize, first: usize, dx: &mut [T]) {
        let channels = self.group_channels();
        for (index, patch) in patches.chunks_exact(self.patch_len()).enumerate() {
            let (_, row, column) = self.position(first + index);
            for (tap, values) in patch.chunks_exact(channels).enumerate() {
                let (tap_row, tap_column) = (tap / self.kernel[1], tap % self.kernel[1]);
                let y = (row * self.stride + tap_row).wrapping_sub(self.padding[0]);
                let x = (column * self.stride + tap_column).wrapping_sub(self.padding[1]);
                if y < self.height && x < self.width {
                    let start = (y * self.width + x) * self.channels + group * channels;
                    for (dx, value) in dx[start..start + channels].iter_mut().zip(values) {
                        *dx += *value;
                    }
                }
            }
        }
    }
}

impl Layer for Convolution {
    fn forward(&self, parameters: &Parameters, x: Tensor, tape: &mut Tape, _: Mode) -> Result<Tensor> {
        with_element!("Convolution", &x, T => self.forward_typed::<T>(parameters, x, tape), cuda => self.forward_cuda(parameters, x, tape))
    }

    fn backward(
        &self,
        parameters: &Parameters,
        dy: Tensor,
        tape: &mut Tape,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        with_element!("Convolution", &dy, T => self.backward_typed::<T>(parameters, &dy, tape, gradients), cuda => self.backward_cuda(parameters, &dy, tape, gradients))
    }
}
