//! From images, whose colours are planes, to maps, whose channels lie side by side.

use candle_core::Tensor;

use crate::element::Element;
use crate::host::{Host, tensor, with_element};
use crate::image::image_dims;
use crate::native::build;
use crate::{Error, Gradients, Layer, Mode, Parameters, Result, Tape};

#[cfg(feature = "cuda")]
mod cuda;

/// Reorders images (N, C, H, W) into maps (N, H, W, C), which convolutions and norms work on.
#[derive(Clone, Copy, Debug)]
pub struct ChannelsLast;

impl ChannelsLast {
    fn forward_typed<T: Element>(x: &Tensor) -> Result<Tensor> {
        let (images, channels, height, width) = image_dims("ChannelsLast", x)?;
        let host = Host::new(x)?;
        let input = host.read::<T>()?;
        let (input, plane, line) = (&*input, height * width, width * channels);
        let y = build(
            input.len(),
            line,
            #[inline(always)]
            |at, out| {
                let (image, row) = (at / line / height, at / line % height);
                for channel in 0..channels {
                    let start = (image * channels + channel) * plane + row * width;
                    for (pixel, value) in out.chunks_exact_mut(channels).zip(&input[start..]) {
                        pixel[channel] = *value;
                    }
                }
            },
        );
        tensor(y, (images, height, width, channels))
    }

    fn backward_typed<T: Element>(dy: &Tensor) -> Result<Tensor> {
        let (images, height, width, channels) = dy.dims4()?;
        let host = Host::new(dy)?;
        let gradient = host.read::<T>()?;
        let (gradient, plane) = (&*gradient, height * width);
        let dx = build(
            gradient.len(),
            plane,
            #[inline(always)]
            |at, out| {
                let (image, channel) = (at / plane / channels, at / plane % channels);
                let pixels = gradient[image * plane * channels..].chunks_exact(channels);
                for (value, pixel) in out.iter_mut().zip(pixels) {
                    *value = pixel[channel];
                }
            },
        );
        tensor(dx, (images, channels, height, width))
    }
}

impl Layer for ChannelsLast {
    fn forward(&self, _: &Parameters, x: Tensor, _: &mut Tape, _: Mode) -> Result<Tensor> {
        with_element!("ChannelsLast", &x, T => Self::forward_typed::<T>(&x), cuda => Self::forward_cuda(&x))
    }

    fn backward(&self, _: &Parameters, dy: Tensor, _: &mut Tape, _: &mut Gradients) -> Result<Tensor> {
        with_element!("ChannelsLast", &dy, T => Self::backward_typed::<T>(&dy), cuda => Self::backward_cuda(&dy))
    }
}

/// The sizes of a map (N, H, W, C), none of them 0.
pub(crate) fn map_dims(operation: &'static str, x: &Tensor) -> Result<(usize, usize, usize, usize)> {
    match *x.dims() {
        [images, height, width, channels] if x.elem_count() > 0 => Ok((images, height, width, channels)),
        ref dims => Err(Error::Shape {
            operation,
            got: dims.to_vec(),
            expected: "(N, H, W, C), not empty".to_owned(),
        }),
    }
}
