//! Augmentation of training images: flip, colour jitter, rotation (paper, B.2), as torchvision does it on PIL images.
//!
//! Every draw comes from the stream of (seed, epoch, image), so that an image's augmentation depends neither on its
//! batch nor on threads. Images are 8-bit RGB, and each step rounds to 8 bits, as PIL does.

use sweep_core::dataset::Augmentation;
use sweep_core::random::{Purpose, Stream};

use crate::error::{Error, Result};
use crate::trigonometry::{cos, sin};
use crate::vectorized::vectorized;

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

/// Pixels whose channels are taken apart at once.
const BLOCK: usize = 32;

/// Moves the image away from (factor above 1) or towards (below 1) black, its mean grey, or its grey picture.
pub(crate) fn adjust(pixels: &mut [u8], colour: Colour, factor: f64) {
    let factor = factor as f32;
    assert!(factor.is_finite(), "a factor is drawn from a finite range");
    vectorized(
        #[inline(always)]
        || match colour {
            Colour::Brightness => blend_all(pixels, 0, factor),
            Colour::Contrast => blend_all(pixels, mean_grey(pixels), factor),
            Colour::Saturation => blend_with_grey(pixels, factor),
        },
    );
}

// Loops stand here in place of `map` and `from_fn`: those are inlined too late to be compiled for wide vectors.

#[inline(always)]
fn blend_all(pixels: &mut [u8], anchor: u8, factor: f32) {
    for sample in pixels {
        *sample = blend(anchor, *sample, factor);
    }
}

#[inline(always)]
fn blend_with_grey(pixels: &mut [u8], factor: f32) {
    let (blocks, rest) = pixels.as_chunks_mut::<{ BLOCK * 3 }>();
    for block in blocks {
        let mut channels = apart(block);
        let anchors = greys(&channels);
        for channel in &mut channels {
            for (sample, anchor) in channel.iter_mut().zip(&anchors) {
                *sample = blend(*anchor, *sample, factor);
            }
        }
        for (pixel, output) in block.as_chunks_mut::<3>().0.iter_mut().enumerate() {
            *output = [channels[0][pixel], channels[1][pixel], channels[2][pixel]];
        }
    }
    for pixel in rest.as_chunks_mut::<3>().0 {
        let anchor = grey(*pixel);
        *pixel = pixel.map(|sample| blend(anchor, sample, factor));
    }
}

/// Returns the three channels of a block of pixels.
#[inline(always)]
fn apart(block: &[u8; BLOCK * 3]) -> [[u8; BLOCK]; 3] {
    let mut channels = [[0; BLOCK]; 3];
    let [red, green, blue] = &mut channels;
    for (position, pixel) in block.as_chunks::<3>().0.iter().enumerate() {
        red[position] = pixel[0];
        green[position] = pixel[1];
        blue[position] = pixel[2];
    }
    channels
}

#[inline(always)]
fn greys([red, green, blue]: &[[u8; BLOCK]; 3]) -> [u8; BLOCK] {
    let mut greys = [0; BLOCK];
    for pixel in 0..BLOCK {
        greys[pixel] = grey([red[pixel], green[pixel], blue[pixel]]);
    }
    greys
}

/// Interpolates (or extrapolates) from `anchor` to `sample`; cut to 0..=255, fractions dropped.
#[inline(always)]
fn blend(anchor: u8, sample: u8, factor: f32) -> u8 {
    let (anchor, sample) = (f32::from(anchor), f32::from(sample));
    let blended = (anchor + factor * (sample - anchor)).clamp(0.0, 255.0);
    // SAFETY: the number lies in 0..=255; it is not NaN, because `factor` is finite. A conversion that would check that
    // takes most of the time of the colour jitter.
    unsafe { blended.to_int_unchecked::<i32>() as u8 }
}

/// Luma by ITU-R 601 with 16 fractional bits, rounded, as PIL's mode `L`.
#[inline(always)]
fn grey([red, green, blue]: [u8; 3]) -> u8 {
    let sum = u32::from(red) * 19_595 + u32::from(green) * 38_470 + u32::from(blue) * 7_471;
    ((sum + 0x8000) >> 16) as u8
}

/// Mean luma, rounded to the nearest, halves up.
#[inline(always)]
fn mean_grey(pixels: &[u8]) -> u8 {
    let (blocks, rest) = pixels.as_chunks::<{ BLOCK * 3 }>();
    let mut sum = 0;
    for block in blocks {
        let mut part = 0;
        for grey in greys(&apart(block)) {
            part += u32::from(grey);
        }
        sum += u64::from(part);
    }
    for pixel in rest.as_chunks::<3>().0 {
        sum += u64::from(grey(*pixel));
    }
    (sum as f64 / (pixels.len() / 3) as f64 + 0.5) as u8
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
    let (input, _) = input.as_chunks::<3>();
    for (row, output) in (0..).zip(pixels.as_chunks_mut::<3>().0.chunks_exact_mut(size)) {
        let (mut x, mut y) = (origin.0 + row * step_back, origin.1 + row * step_cosine);
        for pixel in output {
            // Negative numbers become large ones, so that one comparison tells both ends.
            let (column, row) = ((x >> 16) as usize, (y >> 16) as usize);
            *pixel = if column < size && row < size { input[row * size + column] } else { [0; 3] };
            x += step_cosine;
            y += step_sine;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sha::{hex, sha256};

    const PAPER: Augmentation = Augmentation::Paper { flip: 0.5, jitter: 0.25, rotation: 2.0 };

    fn pixel_at(pixels: &[u8], size: usize, x: usize, y: usize) -> [u8; 3] {
        let first = (y * size + x) * 3;
        [pixels[first], pixels[first + 1], pixels[first + 2]]
    }

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
        fn vectors_have_the_bits_of_single_samples(
            count in 1_usize..150, factor in 0.0_f64..2.5, data in prop::collection::vec(any::<u8>(), 450),
        ) {
            let original = &data[..count * 3];
            let greys: Vec<u8> = original.as_chunks::<3>().0.iter().map(|pixel| grey(*pixel)).collect();
            let mean = greys.iter().map(|grey| f64::from(*grey)).sum::<f64>() / count as f64;
            let cases = [
                (Colour::Brightness, vec![0; count]),
                (Colour::Contrast, vec![(mean + 0.5) as u8; count]),
                (Colour::Saturation, greys),
            ];
            for (colour, anchors) in cases {
                let mut pixels = original.to_vec();
                adjust(&mut pixels, colour, factor);
                for (position, sample) in pixels.iter().enumerate() {
                    let (anchor, before) = (f32::from(anchors[position / 3]), f32::from(original[position]));
                    // The conversion cuts off at 0 and 255 itself.
                    prop_assert_eq!(*sample, (anchor + factor as f32 * (before - anchor)) as u8);
                }
            }
        }

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
