//! Depthwise convolution: every channel has a kernel of its own.

#[cfg(feature = "cuda")]
mod cuda;

use candle_core::Tensor;
use rayon::prelude::*;

use crate::channels::map_dims;
use crate::element::Element;
use crate::elementwise::column_sums;
use crate::host::{Host, tensor, with_element};
use crate::native::{MatrixMut, build, vectorized};
use crate::{Error, Gradients, Layer, Mode, ParameterId, Parameters, Result, Tape};

/// A convolution of maps (N, H, W, C) with one square kernel of odd size for each channel, stride 1 and as much padding
/// as keeps the size; PyTorch's `Conv2d` with `groups` equal to the channels.
///
/// Works on 16 channels at a time, whose padded plane fits the cache; the inner loops keep a strip of
/// 7 output pixels in registers.
#[derive(Clone, Copy, Debug)]
pub struct DepthwiseConvolution {
    weight: ParameterId,
    bias: Option<ParameterId>,
}

/// Channels worked on together: one 512-bit register of f32.
const LANES: usize = 16;
/// Output pixels worked on together: half of the sizes of ConvNeXt's maps (56, 28, 14, 7) or all of them are multiples.
const STRIP: usize = 7;

/// The numbers of one pixel.
type Lanes<T> = [T; LANES];

impl DepthwiseConvolution {
    /// `weight` is (C, 1, k, k) with odd k, `bias` (C).
    pub fn new(weight: ParameterId, bias: Option<ParameterId>) -> Self {
        Self { weight, bias }
    }

    fn sizes(self, parameters: &Parameters, x: &Tensor) -> Result<Sizes> {
        let (images, height, width, channels) = map_dims("DepthwiseConvolution", x)?;
        match *parameters.get(self.weight).dims() {
            [outputs, 1, kernel, across] if outputs == channels && kernel == across && kernel % 2 == 1 => {
                Ok(Sizes { images, height, width, channels, kernel })
            }
            ref weight => Err(Error::Shape {
                operation: "DepthwiseConvolution",
                got: x.dims().to_vec(),
                expected: format!("(N, H, W, C) for weights (C, 1, k, k) with odd k; they are {weight:?}"),
            }),
        }
    }

    fn forward_typed<T: Element>(
        self,
        parameters: &Parameters,
        x: Tensor,
        tape: &mut Tape,
    ) -> Result<Tensor> {
        let sizes = self.sizes(parameters, &x)?;
        let weight = Host::new(parameters.get(self.weight))?;
        let weight = weight.read::<T>()?;
        let bias = match self.bias {
            Some(id) => Host::new(parameters.get(id))?.read::<T>()?.to_vec(),
            None => vec![T::zero(); sizes.channels],
        };
        let y = sizes.correlate(&Host::new(&x)?.read::<T>()?, &sizes.taps(&weight, false), &bias);
        let y = tensor(y, x.shape())?;
        tape.push(x);
        Ok(y)
    }

    fn backward_typed<T: Element>(
        self,
        parameters: &Parameters,
        dy: &Tensor,
        tape: &mut Tape,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        let x = tape.pop()?;
        let sizes = self.sizes(parameters, &x)?;
        let dy = Host::new(dy)?;
        let dy = dy.read::<T>()?;
        if gradients.wants(self.weight) {
            let dw = sizes.weight_gradient(&Host::new(&x)?.read::<T>()?, &dy);
            gradients.add(self.weight, tensor(dw, parameters.get(self.weight).shape())?)?;
        }
        if let Some(id) = self.bias.filter(|id| gradients.wants(*id)) {
            gradients.add(id, tensor(column_sums::<T>(&dy, sizes.channels), sizes.channels)?)?;
        }
        let weight = Host::new(parameters.get(self.weight))?;
        let turned = sizes.taps(&weight.read::<T>()?, true);
        tensor(sizes.correlate(&dy, &turned, &vec![T::zero(); sizes.channels]), x.shape())
    }
}

/// The sizes of one call.
#[derive(Clone, Copy)]
struct Sizes {
    images: usize,
    height: usize,
    width: usize,
    channels: usize,
    kernel: usize,
}

impl Sizes {
    fn panels(self) -> usize {
        self.channels.div_ceil(LANES)
    }

    fn padding(self) -> usize {
        self.kernel / 2
    }

    /// Width of a padded line: the strips, and the kernel around them.
    fn padded_width(self) -> usize {
        self.width.div_ceil(STRIP) * STRIP + self.kernel - 1
    }

    fn padded_len(self) -> usize {
        (self.height + self.kernel - 1) * self.padded_width()
    }

    /// The weights as k² taps of 16 channels for each panel of channels; with `turned`, by half a turn.
    fn taps<T: Element>(self, weight: &[T], turned: bool) -> Vec<Lanes<T>> {
        let count = self.kernel * self.kernel;
        let lane = |panel: usize, tap: usize, lane: usize| {
            let tap = if turned { count - 1 - tap } else { tap };
            weight.get((panel * LANES + lane) * count + tap).copied().unwrap_or(T::zero())
        };
        let tap = |index: usize| std::array::from_fn(|l| lane(index / count, index % count, l));
        (0..self.panels() * count).map(tap).collect()
    }

    /// Copies a panel of channels of one image into the middle of `padded`, whose border is and stays zero.
    #[inline(always)]
    fn pad<T: Element>(self, x: &[T], image: usize, panel: usize, padded: &mut [Lanes<T>]) {
        let first = panel * LANES;
        let lanes = LANES.min(self.channels - first);
        for row in 0..self.height {
            let start = (row + self.padding()) * self.padded_width() + self.padding();
            let line = (image * self.height + row) * self.width * self.channels + first;
            for (column, pixel) in padded[start..start + self.width].iter_mut().enumerate() {
                let values = &x[line + column * self.channels..][..lanes];
                if let Ok(values) = <&Lanes<T>>::try_from(values) {
                    *pixel = *values;
                } else {
                    pixel[..lanes].copy_from_slice(values);
                }
            }
        }
    }

    /// The sum over the kernel of neighbouring pixels times taps, plus bias.
    fn correlate<T: Element>(self, x: &[T], taps: &[Lanes<T>], bias: &[T]) -> Vec<T> {
        let per_image = self.height * self.width * self.channels;
        let count = self.kernel * self.kernel;
        build(x.len(), per_image, |at, out| {
            let image = at / per_image;
            let panels = MatrixMut::new(out, self.height * self.width, self.channels).split_columns(LANES);
            panels.into_par_iter().enumerate().for_each_init(
                || vec![[T::zero(); LANES]; self.padded_len()],
                |padded, (panel, out)| {
                    let mut start = [T::zero(); LANES];
                    let bias = &bias[panel * LANES..];
                    for (start, bias) in start.iter_mut().zip(bias) {
                        *start = *bias;
                    }
                    vectorized(
                        #[inline(always)]
                        || {
                            // Channels beyond the last are whatever the panel before left there; they are not written.
                            self.pad(x, image, panel, padded);
                            self.correlate_panel(padded, &taps[panel * count..][..count], start, out);
                        },
                    );
                },
            );
        })
    }

    #[inline(always)]
    fn correlate_panel<T: Element>(
        self,
        padded: &[Lanes<T>],
        taps: &[Lanes<T>],
        start: Lanes<T>,
        mut out: MatrixMut<'_, T>,
    ) {
        for row in 0..self.height {
            for first in (0..self.width).step_by(STRIP) {
                let mut strip = [start; STRIP];
                for tap_row in 0..self.kernel {
                    let line = &padded[(row + tap_row) * self.padded_width() + first..];
                    let taps = &taps[tap_row * self.kernel..(tap_row + 1) * self.kernel];
                    for (tap, line) in taps.iter().zip(line.windows(STRIP)) {
                        accumulate(&mut strip, tap, line);
                    }
                }
                let count = STRIP.min(self.width - first);
                for (index, values) in strip[..count].iter().enumerate() {
                    let out = out.row_mut(row * self.width + first + index);
                    let lanes = out.len();
                    out.copy_from_slice(&values[..lanes]);
                }
            }
        }
    }

    /// The gradient of the weights, in PyTorch's order. Each panel of channels is one task, which adds up all images.
    fn weight_gradient<T: Element>(self, x: &[T], dy: &[T]) -> Vec<T> {
        let count = self.kernel * self.kernel;
        let panel_gradient = |padded: &mut Vec<Lanes<T>>, panel: usize| {
            let mut sums = vec![[T::zero(); LANES]; count];
            vectorized(
                #[inline(always)]
                || {
                    for image in 0..self.images {
                        self.pad(x, image, panel, padded);
                        self.add_products(padded, dy, image, panel, &mut sums);
                    }
                },
            );
            sums
        };
        let scratch = || vec![[T::zero(); LANES]; self.padded_len()];
        let sums: Vec<Vec<Lanes<T>>> =
            (0..self.panels()).into_par_iter().map_init(scratch, panel_gradient).collect();
        let entry = |index: usize| {
            let (channel, tap) = (index / count, index % count);
            sums[channel / LANES][tap][channel % LANES]
        };
        (0..self.channels * count).map(entry).collect()
    }

    #[inline(always)]
    fn add_products<T: Element>(
        self,
        padded: &[Lanes<T>],
        dy: &[T],
        image: usize,
        panel: usize,
        sums: &mut [Lanes<T>],
    ) {
        let first = panel * LANES;
        let lanes = LANES.min(self.channels - first);
        for row in 0..self.height {
            let line = (image * self.height + row) * self.width * self.channels + first;
            for column in (0..self.width).step_by(STRIP) {
                let mut strip = [[T::zero(); LANES]; STRIP];
                let count = STRIP.min(self.width - column);
                for (index, strip) in strip[..count].iter_mut().enumerate() {
                    let start = line + (column + index) * self.channels;
                    strip[..lanes].copy_from_slice(&dy[start..start + lanes]);
                }
                for tap_row in 0..self.kernel {
                    let line = &padded[(row + tap_row) * self.padded_width() + column..];
                    let sums = &mut sums[tap_row * self.kernel..(tap_row + 1) * self.kernel];
                    for (sum, line) in sums.iter_mut().zip(line.windows(STRIP)) {
                        add_dot(sum, &strip, line);
                    }
                }
            }
        }
    }
}

/// `strip += tap · line`, pixel by pixel.
#[inline(always)]
fn accumulate<T: Element>(strip: &mut [Lanes<T>; STRIP], tap: &Lanes<T>, line: &[Lanes<T>]) {
    for (pixel, x) in strip.iter_mut().zip(line) {
        for lane in 0..LANES {
            pixel[lane] = Element::mul_add(x[lane], tap[lane], pixel[lane]);
        }
    }
}

/// `sum += Σ strip · line` over the pixels of a strip.
#[inline(always)]
fn add_dot<T: Element>(sum: &mut Lanes<T>, strip: &[Lanes<T>; STRIP], line: &[Lanes<T>]) {
    let mut total = *sum;
    for (dy, x) in strip.iter().zip(line) {
        for lane in 0..LANES {
            total[lane] = Element::mul_add(dy[lane], x[lane], total[lane]);
        }
    }
    *sum = total;
}

impl Layer for DepthwiseConvolution {
    fn forward(&self, parameters: &Parameters, x: Tensor, tape: &mut Tape, _: Mode) -> Result<Tensor> {
        with_element!("DepthwiseConvolution", &x, T => self.forward_typed::<T>(parameters, x, tape), cuda => self.forward_cuda(parameters, x, tape))
    }

    fn backward(
        &self,
        parameters: &Parameters,
        dy: Tensor,
        tape: &mut Tape,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        with_element!("DepthwiseConvolution", &dy, T => self.backward_typed::<T>(parameters, &dy, tape, gradients), cuda => self.backward_cuda(parameters, &dy, tape, gradients))
    }
}
