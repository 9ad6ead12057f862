//! Checked input: what every attack demands of its images, labels and radius.

use candle_core::Tensor;

use crate::element::Element;
use crate::host::with_host_slice;
use crate::{Error, Result};

/// A batch of images as numbers, all within [0, 1], to be attacked within a valid radius.
pub(crate) struct Input<T> {
    pub(crate) pixels: Vec<T>,
    pixels_per_image: usize,
}

impl<T: Element> Input<T> {
    /// Takes the pixels of `images`, a tensor of four dimensions.
    pub(crate) fn new(images: &Tensor, epsilon: f64) -> Result<Self> {
        let pixels_per_image = check_form(images, epsilon)?;
        let pixels = with_host_slice(images, <[T]>::to_vec)?;
        let input = Self { pixels, pixels_per_image };
        input.check_range()?;
        Ok(input)
    }

    fn check_range(&self) -> Result<()> {
        // Written so that NaN counts as outside.
        let outside = |&pixel: &T| !(pixel >= T::zero() && pixel <= T::one());
        match self.pixels.iter().position(outside) {
            None => Ok(()),
            Some(at) => Err(Error::PixelOutOfRange {
                sample: at / self.pixels_per_image,
                value: self.pixels[at].to_f64(),
            }),
        }
    }

    /// The images one after the other.
    pub(crate) fn centers(&self) -> impl Iterator<Item = &[T]> {
        self.pixels.chunks_exact(self.pixels_per_image.max(1))
    }
}

/// Refuses what can be refused without a look at the pixels. Returns how many an image has.
pub(crate) fn check_form(images: &Tensor, epsilon: f64) -> Result<usize> {
    if !(epsilon.is_finite() && epsilon >= 0.0) {
        return Err(Error::Epsilon { epsilon });
    }
    match images.dims() {
        &[_, channels, rows, columns] => Ok(channels * rows * columns),
        _ => Err(Error::ImageRank { shape: images.shape().clone() }),
    }
}

/// Refuses starts of another shape than the images.
pub(crate) fn check_starts(images: &Tensor, starts: &Tensor) -> Result<()> {
    if starts.dims() == images.dims() {
        return Ok(());
    }
    let (found, expected) = (starts.shape().clone(), images.shape().clone());
    Err(Error::Shape { what: "the start points", found, expected })
}

/// Refuses an input gradient of another shape than the images.
pub(crate) fn check_gradient(images: &Tensor, gradient: &Tensor) -> Result<()> {
    if gradient.dims() == images.dims() {
        return Ok(());
    }
    let (found, expected) = (gradient.shape().clone(), images.shape().clone());
    Err(Error::Shape { what: "the input gradient", found, expected })
}

/// Refuses anything but one label per image.
pub(crate) fn check_label_count(images: &Tensor, labels: &[u32]) -> Result<()> {
    let images = images.dims().first().copied().unwrap_or(0);
    if labels.len() == images { Ok(()) } else { Err(Error::LabelCount { labels: labels.len(), images }) }
}
