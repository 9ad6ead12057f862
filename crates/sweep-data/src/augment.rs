//! Augmentation of training images: flip, colour jitter, rotation (paper, B.2), as torchvision does it on PIL images.
//!
//! Every draw comes from the stream of (seed, epoch, image), so that an image's augmentation depends neither on its
//! batch nor on threads. Images are 8-bit RGB, and each step rounds to 8 bits, as PIL does.

use sweep_core::dataset::Augmentation;
use sweep_core::random::{Purpose, Stream};

use crate::error::{Error, Result};
use crate::trigonometry::{cos, sin};

/// Augments the images of one epoch.
#[derive(Clone, Debug)]
pub struct Augmenter {
    seed: u64,
    epoch: u64,
    limits: Option<Limits>,
}

/// The ranges that the draws come from.
#[derive(Clone, Copy, Debug)]
struct Limits {
    flip: f64,
    jitter: f64,
    rotation: f64,
}

/// One step of the colour jitter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Colour {
    Brightness,
    Contrast,
    Saturation,
}

/// What was drawn for one image.
#[derive(Clone, Debug, PartialEq)]
struct Draws {
    flip: bool,
    jitter: [(Colour, f64); 3],
    /// Degrees, counterclockwise.
    angle: f64,
}

impl Augmenter {
    /// Returns the augmentation of `epoch` in a run with this `seed`.
    ///
    /// `flip` must lie in [0, 1], `jitter` in [0, 1] and `rotation` in [0, 180].
    pub fn new(augmentation: &Augmentation, seed: u64, epoch: u64) -> Result<Self> {
        let limits = match *augmentation {
            Augmentation::None => None,
            Augmentation::Paper { flip, jitter, rotation } => Some(Limits {
                flip: within("augmentation.flip", flip, 1.0, "in [0, 1]")?,
                jitter: within("augmentation.jitter", jitter, 1.0, "in [0, 1]")?,
                rotation: within("augmentation.rotation", rotation, 180.0, "in [0, 180]")?,
            }),
        };
        Ok(Self { seed, epoch, limits })
    }

    /// Changes the pixels, (size, size, 3), of the image with this `index` (see [`Split::index`](crate::Split::index)).
    pub fn apply(&self, pixels: &mut [u8], size: u32, index: u32) {
        let Some(limits) = self.limits else { return };
        let draws =
            limits.draw(&mut Stream::new(self.seed, Purpose::Augmentation, self.epoch, u64::from(index)));
        if draws.flip {
            flip(pixels, size as usize);
        }
        for (colour, factor) in draws.jitter {
            adjust(pixels, colour, factor);
        }
        rotate(pixels, size as usize, draws.angle);
    }
}

fn within(field: &'static str, value: f64, most: f64, expected: &'static str) -> Result<f64> {
    if (0.0..=most).contains(&value) { Ok(value) } else { Err(Error::OutOfRange { field, value, expected }) }
}

impl Limits {
    /// Draws in a fixed order: flip, order of the jitter, its three factors, angle.
    fn draw(self, stream: &mut Stream) -> Draws {
        let flip = stream.uniform() < self.flip;
        let mut order = [0, 1, 2];
        stream.shuffle(&mut order);
        let steps = [Colour::Brightness, Colour::Contrast, Colour::Saturation]
            .map(|colour| (colour, stream.between(1.0 - self.jitter, 1.0 + self.jitter)));
        let angle = stream.between(-self.rotation, self.rotation);
        Draws { flip, jitter: order.map(|step| steps[step]), angle }
    }
}

/// Mirrors left and right.
pub(crate) fn flip(pixels: &mut [u8], size: usize) {
    for row in pixels.chunks_exact_mut(size * 3) {
        for x in 0..size / 2 {
            let (left, right) = row.split_at_mut((size - 1 - x) * 3);
            left[x * 3..][..3].swap_with_slice(&mut right[..3]);
        }
    }
}

/// Moves the image away from (factor above 1) or towards (below 1) black, its mean grey, or its grey picture.
pub(crate) fn adjust(pixels: &mut [u8], colour: Colour, factor: f64) {
    let factor = factor as f32;
    let mean = if colour == Colour::Contrast { mean_grey(pixels) } else { 0 };
    for pixel in pixels.as_chunks_mut::<3>().0 {
        let anchor = match colour {
            Colour::Brightness => 0,
            Colour::Contrast => mean,
            Colour::Saturation => grey(*pixel),
        };
        *pixel = pixel.map(|sample| blend(anchor, sample, factor));
    }
}

/// Interpolates (or extrapolates) from `anchor` to `sample`; cut to 0..=255, fractions dropped.
fn blend(anchor: u8, sample: u8, factor: f32) -> u8 {
    let (anchor, sample) = (f32::from(anchor), f32::from(sample));
    (anchor + factor * (sample - anchor)).clamp(0.0, 255.0) as u8
}

/// Luma by ITU-R 601 with 16 fractional bits, rounded, as PIL's mode `L`.
fn grey([red, green, blue]: [u8; 3]) -> u8 {
    let sum = u32::from(red) * 19_595 + u32::from(green) * 38_470 + u32::from(blue) * 7_471;
    ((sum + 0x8000) >> 16) as u8
}

/// Mean luma, rounded to the nearest, halves up.
fn mean_grey(pixels: &[u8]) -> u8 {
    let (pixels, _) = pixels.as_chunks::<3>();
    let sum: u64 = pixels.iter().map(|pixel| u64::from(grey(*pixel))).sum();
    (sum as f64 / pixels.len() as f64 + 0.5) as u8
}

/// Rotates about the centre by `degrees` counterclockwise; nearest neighbour, black where nothing was.
///
/// Coordinates carry 16 fractional bits, as in PIL's affine transform.
pub(crate) fn rotate(pixels: &mut [u8], size: usize, degrees: f64) {
    let radians = degrees.to_radians();
    let (cosine, sine) = (cos(radians), sin(radians));
    let half = size as f64 / 2.0;
    let fixed = |value: f64| (value * 65_536.0 + 0.5).floor() as i64;
    // The centre of pixel (0, 0), turned back into the input.
    let (x, y) = (0.5 - half, 0.5 - half);
    let origin = (fixed(cosine * x - sine * y + half), fixed(sine * x + cosine * y + half));
    let (step_cosine, step_sine, step_back) = (fixed(cosine), fixed(sine), fixed(-sine));
    let input = pixels.to_vec();
    for (position, pixel) in pixels.as_chunks_mut::<3>().0.iter_mut().enumerate() {
        let (column, row) = ((position % size) as i64, (position / size) as i64);
        let x = (origin.0 + column * step_cosine + row * step_back) >> 16;
        let y = (origin.1 + column * step_sine + row * step_cosine) >> 16;
        let inside = (0..size as i64).contains(&x) && (0..size as i64).contains(&y);
        *pixel = if inside { pixel_at(&input, size, x as usize, y as usize) } else { [0; 3] };
    }
}

fn pixel_at(pixels: &[u8], size: usize, x: usize, y: usize) -> [u8; 3] {
    let first = (y * size + x) * 3;
    [pixels[first], pixels[first + 1], pixels[first + 2]]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sha::{hex, sha256};

    const PAPER: Augmentation = Augmentation::Paper { flip: 0.5, jitter: 0.25, rotation: 2.0 };

    fn gradient(size: usize) -> Vec<u8> {
        (0..size * size * 3).map(|sample| (sample * 7 % 251) as u8).collect()
    }

    fn augmented(augmentation: &Augmentation, epoch: u64, index: u32) -> Vec<u8> {
        let mut pixels = gradient(16);
        Augmenter::new(augmentation, 3, epoch).unwrap().apply(&mut pixels, 16, index);
        pixels
    }

    #[test]
    fn an_image_depends_on_epoch_and_index_only() {
        assert_eq!(augmented(&PAPER, 1, 5), augmented(&PAPER, 1, 5));
        assert_ne!(augmented(&PAPER, 1, 5), augmented(&PAPER, 2, 5));
        assert_ne!(augmented(&PAPER, 1, 5), augmented(&PAPER, 1, 6));
    }

    /// Stored runs depend on these bytes: a change here changes every result.
    #[test]
    fn the_bytes_never_change() {
        let all: Vec<u8> = (0..20).flat_map(|index| augmented(&PAPER, 1, index)).collect();
        assert_eq!(hex(&sha256(&all)[..8]), "9ae1c0867784154a");
    }

    #[test]
    fn nothing_changes_without_augmentation_or_with_empty_ranges() {
        let none = Augmentation::Paper { flip: 0.0, jitter: 0.0, rotation: 0.0 };
        for augmentation in [Augmentation::None, none] {
            assert_eq!(augmented(&augmentation, 0, 0), gradient(16));
        }
    }

    #[test]
    fn draws_cover_their_ranges() {
        let limits = Limits { flip: 0.5, jitter: 0.25, rotation: 2.0 };
        let draws: Vec<Draws> = (0..2000)
            .map(|index| limits.draw(&mut Stream::new(0, Purpose::Augmentation, 0, index)))
            .collect();
        // Five standard deviations of a fair coin, and of a uniform number's mean.
        let flips = draws.iter().filter(|draw| draw.flip).count();
        assert!((900..1100).contains(&flips), "{flips} flips");
        let mean = draws.iter().map(|draw| draw.angle).sum::<f64>() / 2000.0;
        assert!(mean.abs() < 0.13, "mean angle {mean}");
        assert!(draws.iter().all(|draw| draw.angle.abs() <= 2.0));
        assert!(draws.iter().flat_map(|draw| draw.jitter).all(|(_, factor)| (0.75..=1.25).contains(&factor)));
        for first in [Colour::Brightness, Colour::Contrast, Colour::Saturation] {
            let count = draws.iter().filter(|draw| draw.jitter[0].0 == first).count();
            assert!((560..775).contains(&count), "{first:?} first {count} times");
        }
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        for (flip, jitter, rotation) in
            [(1.1, 0.0, 0.0), (0.0, -0.1, 0.0), (0.0, 0.0, 181.0), (f64::NAN, 0.0, 0.0)]
        {
            let augmentation = Augmentation::Paper { flip, jitter, rotation };
            assert!(matches!(Augmenter::new(&augmentation, 0, 0), Err(Error::OutOfRange { .. })));
        }
    }

    proptest! {
        #[test]
        fn flipping_twice_changes_nothing(size in 1_usize..12, data in prop::collection::vec(any::<u8>(), 432)) {
            let original = &data[..size * size * 3];
            let mut pixels = original.to_vec();
            flip(&mut pixels, size);
            for (x, y) in (0..size).flat_map(|y| (0..size).map(move |x| (x, y))) {
                prop_assert_eq!(pixel_at(&pixels, size, x, y), pixel_at(original, size, size - 1 - x, y));
            }
            flip(&mut pixels, size);
            prop_assert_eq!(&pixels, original);
        }

        #[test]
        fn four_quarter_turns_change_nothing(size in 1_usize..12, data in prop::collection::vec(any::<u8>(), 432)) {
            let original = &data[..size * size * 3];
            let mut pixels = original.to_vec();
            for _ in 0..4 {
                rotate(&mut pixels, size, 90.0);
            }
            prop_assert_eq!(&pixels, original);
        }
    }
}
