//! Layers that make maps (N, H, W, C) smaller: the largest value or the mean of a neighbourhood, or neighbours stacked
//! into channels.

#[cfg(feature = "cuda")]
mod cuda;

use std::ops::Range;

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use crate::element::Element;
use crate::gather::Gather;
use crate::host::{Host, tensor, with_element};
use crate::native::{build, build_with};
use crate::{Error, Gradients, Layer, Mode, Parameters, Result, Tape};

/// A tensor of the shape of `x` on a single stored element: what a backward pass needs that asks for no values.
fn outline(x: &Tensor) -> Result<Tensor> {
    Ok(Tensor::zeros((), DType::U8, &Device::Cpu)?.broadcast_as(x.shape())?)
}

/// The largest value of each channel in square neighbourhoods: (N, H, W, C) → (N, H', W', C) with
/// H' = (H + 2 · padding - kernel) / stride + 1, rounded down, and W' alike.
///
/// This is PyTorch's `max_pool2d` with `ceil_mode=False`: padding never wins, NaN does, and among equal values the
/// first in row-major order gets the whole gradient (among several NaNs the last).
#[derive(Clone, Copy, Debug)]
pub struct MaxPool {
    kernel: usize,
    stride: usize,
    padding: usize,
}

/// Largest side of a neighbourhood: the winner's place is kept in one byte.
const LARGEST_KERNEL: usize = 16;

/// Sizes of one call.
#[derive(Clone, Copy)]
struct Maps {
    images: usize,
    height: usize,
    width: usize,
    channels: usize,
    out_height: usize,
    out_width: usize,
}

impl MaxPool {
    /// `kernel` and `stride` are positive, `kernel` is at most 16, `padding` at most half of it; a forward pass with
    /// other values is refused.
    pub fn new(kernel: usize, stride: usize, padding: usize) -> Self {
        Self { kernel, stride, padding }
    }

    fn check(self) -> Result<()> {
        let refuse =
            |name, value: usize, expected| Err(Error::Setting { name, value: value as f64, expected });
        if self.kernel == 0 || self.kernel > LARGEST_KERNEL {
            return refuse("MaxPool kernel", self.kernel, "1 to 16");
        }
        if self.stride == 0 {
            return refuse("MaxPool stride", self.stride, "at least 1");
        }
        if self.padding > self.kernel / 2 {
            return refuse("MaxPool padding", self.padding, "at most half the kernel");
        }
        Ok(())
    }

    fn maps(self, dims: &[usize]) -> Result<Maps> {
        let needed = self.kernel.saturating_sub(2 * self.padding).max(1);
        match *dims {
            [images, height, width, channels] if height.min(width) >= needed && channels > 0 => {
                let outputs = |inputs: usize| (inputs + 2 * self.padding - self.kernel) / self.stride + 1;
                let (out_height, out_width) = (outputs(height), outputs(width));
                Ok(Maps { images, height, width, channels, out_height, out_width })
            }
            _ => {
                let expected = format!("(N, H, W, C) with H and W at least {needed}");
                Err(Error::Shape { operation: "MaxPool", got: dims.to_vec(), expected })
            }
        }
    }

    /// The places of the neighbourhood of output `at` that lie inside an axis of `inputs`. There is always one,
    /// because the padding is smaller than the kernel.
    #[inline(always)]
    fn places(self, at: usize, inputs: usize) -> Range<usize> {
        let start = at * self.stride;
        self.padding.saturating_sub(start)..self.kernel.min(inputs + self.padding - start)
    }

    /// The outputs, of `outputs` along an axis, whose neighbourhood contains input `at`. There may be none.
    #[inline(always)]
    fn covering(self, at: usize, outputs: usize) -> Range<usize> {
        let padded = at + self.padding;
        let first = (padded + 1).saturating_sub(self.kernel).div_ceil(self.stride);
        first..outputs.min(padded / self.stride + 1)
    }

    fn forward_typed<T: Element>(self, x: &Tensor, tape: &mut Tape) -> Result<Tensor> {
        self.check()?;
        let maps = self.maps(x.dims())?;
        let host = Host::new(x)?;
        let input = host.read::<T>()?;
        let input = &*input;
        let Maps { images, height, width, channels, out_height, out_width } = maps;
        let row = out_width * channels;
        let mut places = vec![0_u8; images * out_height * row];
        let y = build_with(
            places.len(),
            row,
            places.par_chunks_mut(row),
            #[inline(always)]
            |at, out, places| {
                let (image, y) = (at / row / out_height, at / row % out_height);
                let image = &input[image * height * width * channels..];
                let outputs = out.chunks_exact_mut(channels).zip(places.chunks_exact_mut(channels));
                for (x, (out, places)) in outputs.enumerate() {
                    self.largest(image, maps, (y, x), out, places);
                }
            },
        );
        let shape = (images, out_height, out_width, channels);
        if tape.is_recording() {
            tape.push(outline(x)?);
            tape.push(Tensor::from_vec(places, shape, &Device::Cpu)?);
        }
        tensor(y, shape)
    }

    /// Writes the largest values around one output, and their places as `row · kernel + column` of the neighbourhood.
    #[inline(always)]
    fn largest<T: Element>(
        self,
        image: &[T],
        maps: Maps,
        (y, x): (usize, usize),
        out: &mut [T],
        places: &mut [u8],
    ) {
        let (rows, columns) = (self.places(y, maps.height), self.places(x, maps.width));
        out.fill(T::from_f64(f64::NEG_INFINITY));
        places.fill((rows.start * self.kernel + columns.start) as u8);
        for row in rows {
            for column in columns.clone() {
                let place = (row * self.kernel + column) as u8;
                let (row, column) = (y * self.stride + row, x * self.stride + column);
                let pixel = (row - self.padding) * maps.width + column - self.padding;
                let values = &image[pixel * maps.channels..];
                for ((best, winner), value) in out.iter_mut().zip(places.iter_mut()).zip(values) {
                    let wins = *value > *best || is_nan(*value);
                    *best = if wins { *value } else { *best };
                    *winner = if wins { place } else { *winner };
                }
            }
        }
    }

    fn backward_typed<T: Element>(self, dy: &Tensor, tape: &mut Tape) -> Result<Tensor> {
        let places = tape.pop()?.flatten_all()?.to_vec1::<u8>()?;
        let saved = tape.pop()?;
        let maps = self.maps(saved.dims())?;
        let host = Host::new(dy)?;
        let dy = host.read::<T>()?;
        let (dy, places) = (&*dy, &*places);
        let row = maps.width * maps.channels;
        let dx = build(
            maps.images * maps.height * row,
            row,
            #[inline(always)]
            |at, out| {
                let (image, y) = (at / row / maps.height, at / row % maps.height);
                for (x, out) in out.chunks_exact_mut(maps.channels).enumerate() {
                    self.collect(dy, places, maps, (image, y, x), out);
                }
            },
        );
        tensor(dx, saved.shape())
    }

    /// Adds up the gradients of the outputs that one input won. Reading what arrives instead of sending it out lets
    /// all inputs be written at the same time.
    #[inline(always)]
    fn collect<T: Element>(
        self,
        dy: &[T],
        places: &[u8],
        maps: Maps,
        (image, y, x): (usize, usize, usize),
        dx: &mut [T],
    ) {
        for out_y in self.covering(y, maps.out_height) {
            for out_x in self.covering(x, maps.out_width) {
                let row = y + self.padding - out_y * self.stride;
                let place = (row * self.kernel + x + self.padding - out_x * self.stride) as u8;
                let start = ((image * maps.out_height + out_y) * maps.out_width + out_x) * maps.channels;
                let outputs = dy[start..].iter().zip(&places[start..]);
                for (dx, (dy, winner)) in dx.iter_mut().zip(outputs) {
                    *dx += if *winner == place { *dy } else { T::zero() };
                }
            }
        }
    }
}

#[inline(always)]
fn is_nan<T: Element>(value: T) -> bool {
    value.partial_cmp(&value).is_none()
}

impl Layer for MaxPool {
    fn forward(&self, _: &Parameters, x: Tensor, tape: &mut Tape, _: Mode) -> Result<Tensor> {
        with_element!("MaxPool", &x, T => self.forward_typed::<T>(&x, tape), cuda => self.forward_cuda(&x, tape))
    }

    fn backward(&self, _: &Parameters, dy: Tensor, tape: &mut Tape, _: &mut Gradients) -> Result<Tensor> {
        with_element!("MaxPool", &dy, T => self.backward_typed::<T>(&dy, tape), cuda => self.backward_cuda(&dy, tape))
    }
}

/// The mean of each channel over all places: (N, …, C) → (N, C). There must be at least one place.
#[derive(Clone, Copy, Debug)]
pub struct MeanPool;

/// Images, places and channels of a tensor (N, …, C).
fn places_of(x: &Tensor) -> Result<(usize, usize, usize)> {
    match *x.dims() {
        [images, ref places @ .., channels] if channels > 0 && !places.contains(&0) => {
            Ok((images, places.iter().product(), channels))
        }
        ref dims => {
            let expected = "(N, …, C) with at least one place and channel".to_owned();
            Err(Error::Shape { operation: "MeanPool", got: dims.to_vec(), expected })
        }
    }
}

fn mean(x: &Tensor) -> Result<Tensor> {
    with_element!("MeanPool", x, T => mean_over_places::<T>(x), cuda => cuda::mean_over_places(x))
}

fn mean_over_places<T: Element>(x: &Tensor) -> Result<Tensor> {
    let (images, places, channels) = places_of(x)?;
    let host = Host::new(x)?;
    let input = host.read::<T>()?;
    let input = &*input;
    let factor = T::from_f64(1.0 / places as f64);
    let y = build(
        images * channels,
        channels,
        #[inline(always)]
        |at, out: &mut [T]| {
            for row in input[at * places..][..places * channels].chunks_exact(channels) {
                for (sum, value) in out.iter_mut().zip(row) {
                    *sum += *value;
                }
            }
            for sum in out {
                *sum *= factor;
            }
        },
    );
    tensor(y, (images, channels))
}

fn spread_over_places<T: Element>(dy: &Tensor, saved: &Tensor) -> Result<Tensor> {
    let (images, places, channels) = places_of(saved)?;
    let host = Host::new(dy)?;
    let input = host.read::<T>()?;
    let input = &*input;
    let factor = T::from_f64(1.0 / places as f64);
    let per_image = places * channels;
    let dx = build(
        images * per_image,
        per_image,
        #[inline(always)]
        |at, out| {
            let dy = &input[at / per_image * channels..];
            for row in out.chunks_exact_mut(channels) {
                for (dx, dy) in row.iter_mut().zip(dy) {
                    *dx = *dy * factor;
                }
            }
        },
    );
    tensor(dx, saved.shape())
}

impl Layer for MeanPool {
    fn forward(&self, _: &Parameters, x: Tensor, tape: &mut Tape, _: Mode) -> Result<Tensor> {
        let y = mean(&x)?;
        if tape.is_recording() {
            tape.push(outline(&x)?);
        }
        Ok(y)
    }

    fn backward(&self, _: &Parameters, dy: Tensor, tape: &mut Tape, _: &mut Gradients) -> Result<Tensor> {
        let saved = tape.pop()?;
        with_element!("MeanPool", &dy, T => spread_over_places::<T>(&dy, &saved), cuda => cuda::spread_over_places(&dy, &saved))
    }
}

/// Stacks the pixels of each 2 × 2 square into channels: (N, H, W, C) → (N, ⌈H/2⌉, ⌈W/2⌉, 4C).
///
/// The order is that of timm's Swin Transformer: upper left, lower left, upper right, lower right. Odd sizes are padded
/// with zeros at the end. The norm and the projection that follow in Swin are layers of their own.
#[derive(Clone, Copy, Debug)]
pub struct PatchMerging;

fn map_sizes(x: &Tensor) -> Result<(usize, usize, usize, usize)> {
    match *x.dims() {
        [images, height, width, channels] if height > 0 && width > 0 && channels > 0 => {
            Ok((images, height, width, channels))
        }
        ref dims => {
            let expected = "(N, H, W, C), not empty".to_owned();
            Err(Error::Shape { operation: "PatchMerging", got: dims.to_vec(), expected })
        }
    }
}

/// Which pixel each quarter of the merged channels holds; `None` in the padding.
fn merged_pixels(height: usize, width: usize) -> Gather {
    let out_width = width.div_ceil(2);
    let pixel = |quarter: usize| {
        let (square, corner) = (quarter / 4, quarter % 4);
        let (y, x) = (square / out_width * 2 + corner % 2, square % out_width * 2 + corner / 2);
        (y < height && x < width).then_some(y * width + x)
    };
    Gather::new((0..height.div_ceil(2) * out_width * 4).map(pixel).collect(), height * width)
}

/// The inverse: where each pixel is among the quarters of the merged channels.
fn split_pixels(height: usize, width: usize) -> Gather {
    let out_width = width.div_ceil(2);
    let quarter = |pixel: usize| {
        let (y, x) = (pixel / width, pixel % width);
        Some((y / 2 * out_width + x / 2) * 4 + x % 2 * 2 + y % 2)
    };
    Gather::new((0..height * width).map(quarter).collect(), height.div_ceil(2) * out_width * 4)
}

impl Layer for PatchMerging {
    fn forward(&self, _: &Parameters, x: Tensor, tape: &mut Tape, _: Mode) -> Result<Tensor> {
        let (images, height, width, channels) = map_sizes(&x)?;
        let shape = (images, height.div_ceil(2), width.div_ceil(2), 4 * channels);
        if tape.is_recording() {
            tape.push(outline(&x)?);
        }
        with_element!(
            "PatchMerging", &x, T => merged_pixels(height, width).apply::<T>(&x, channels, shape),
            cuda => crate::windows::cuda::stack_squares(&x, [height, width, channels], shape)
        )
    }

    fn backward(&self, _: &Parameters, dy: Tensor, tape: &mut Tape, _: &mut Gradients) -> Result<Tensor> {
        let saved = tape.pop()?;
        let (_, height, width, channels) = map_sizes(&saved)?;
        with_element!(
            "PatchMerging", &dy, T => split_pixels(height, width).apply::<T>(&dy, channels, saved.shape()),
            cuda => crate::windows::cuda::unstack_squares(&dy, [height, width, channels], saved.shape())
        )
    }
}
