//! Resizing to a square as PIL does it: bilinear with antialiasing, in fixed point, equal to the last bit.
//!
//! The rule (Pillow, `Image.resize` with `BILINEAR`): a triangle filter whose support grows with the reduction, one
//! pass along the rows and then one along the columns, weights rounded to 22 fractional bits, and 8-bit samples
//! between the passes. The aspect ratio is not kept (paper, B.2).

use crate::decode::Rgb;

/// Fractional bits of a weight; with them, the products of one output sample fit a signed 32-bit sum.
const WEIGHT_BITS: u32 = 22;

/// What one output sample is made of: `weights.len()` input samples from `start` on.
struct Window {
    start: usize,
    weights: Vec<i32>,
}

/// Returns `image` resized to `size` x `size` as (size, size, 3).
pub(crate) fn resize_square(image: &Rgb, size: usize) -> Vec<u8> {
    let rows = resize_rows(&image.data, image.width, &windows(image.width, size));
    resize_columns(&rows, size, &windows(image.height, size))
}

/// Returns the windows that map `input` samples to `output` samples.
fn windows(input: usize, output: usize) -> Vec<Window> {
    let scale = input as f64 / output as f64;
    (0..output).map(|position| window(position, input, scale)).collect()
}

fn window(position: usize, input: usize, scale: f64) -> Window {
    let support = scale.max(1.0);
    let center = (position as f64 + 0.5) * scale;
    // Rounded toward zero after adding a half, then kept inside the image.
    let start = (center - support + 0.5).max(0.0) as usize;
    let end = ((center + support + 0.5) as usize).min(input);
    let inverse = 1.0 / support;
    let triangle = |sample: usize| {
        let distance = (sample as f64 - center + 0.5) * inverse;
        (1.0 - distance.abs()).max(0.0)
    };
    let weights: Vec<f64> = (start..end).map(triangle).collect();
    let sum: f64 = weights.iter().sum();
    Window { start, weights: weights.iter().map(|weight| fixed_point(weight / sum)).collect() }
}

fn fixed_point(weight: f64) -> i32 {
    (weight * f64::from(1_u32 << WEIGHT_BITS) + 0.5) as i32
}

/// Resizes along each row of `input`, whose rows are `width` pixels long.
fn resize_rows(input: &[u8], width: usize, windows: &[Window]) -> Vec<u8> {
    let mut output = Vec::with_capacity(input.len() / width * windows.len());
    for row in input.chunks_exact(width * 3) {
        for window in windows {
            output.extend(weighted(&row[window.start * 3..], 3, &window.weights));
        }
    }
    output
}

/// Resizes along the columns of `input`, whose rows are `width` pixels long.
fn resize_columns(input: &[u8], width: usize, windows: &[Window]) -> Vec<u8> {
    let stride = width * 3;
    let mut output = Vec::with_capacity(stride * windows.len());
    for window in windows {
        for column in 0..width {
            let first = window.start * stride + column * 3;
            output.extend(weighted(&input[first..], stride, &window.weights));
        }
    }
    output
}

/// Returns the weighted sum of the pixels at 0, `stride`, 2 `stride`, … of `samples`.
fn weighted(samples: &[u8], stride: usize, weights: &[i32]) -> [u8; 3] {
    let mut sums = [1_i32 << (WEIGHT_BITS - 1); 3];
    for (pixel, weight) in samples.chunks(stride).zip(weights) {
        for (sum, sample) in sums.iter_mut().zip(pixel) {
            *sum += i32::from(*sample) * weight;
        }
    }
    sums.map(|sum| (sum >> WEIGHT_BITS).clamp(0, 255) as u8)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_constant_image_stays_constant(width in 1_usize..70, height in 1_usize..70, size in 1_usize..40, value: u8) {
            let image = Rgb { width, height, data: vec![value; width * height * 3] };
            prop_assert!(resize_square(&image, size).iter().all(|sample| *sample == value));
        }

        #[test]
        fn the_same_size_changes_nothing(size in 1_usize..20, data in prop::collection::vec(any::<u8>(), 1200)) {
            let image = Rgb { width: size, height: size, data: data[..size * size * 3].to_vec() };
            prop_assert_eq!(resize_square(&image, size), image.data);
        }

        #[test]
        fn rows_and_columns_are_treated_alike(
            width in 1_usize..30, height in 1_usize..30, size in 1_usize..20, data in prop::collection::vec(any::<u8>(), 2700),
        ) {
            // One colour along each column leaves only the pass along the rows anything to do, and the other way round.
            let row: Vec<u8> = data[..width * 3].to_vec();
            let wide = Rgb { width, height, data: row.repeat(height) };
            let tall = Rgb { width: height, height: width, data: row.chunks(3).flat_map(|pixel| pixel.repeat(height)).collect() };
            let (wide, tall) = (resize_square(&wide, size), resize_square(&tall, size));
            for y in 0..size {
                for x in 0..size {
                    prop_assert_eq!(&wide[(y * size + x) * 3..][..3], &tall[(x * size + y) * 3..][..3]);
                }
            }
        }
    }
}
