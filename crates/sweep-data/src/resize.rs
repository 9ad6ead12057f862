//! Resizing to a square as PIL does it: bilinear with antialiasing, in fixed point, equal to the last bit.
//!
//! The rule (Pillow, `Image.resize` with `BILINEAR`): a triangle filter whose support grows with the reduction, one
//! pass along the rows and then one along the columns, weights rounded to 22 fractional bits, and 8-bit samples
//! between the passes. The aspect ratio is not kept (paper, B.2).

use std::array;
use std::ops::Range;

use crate::decode::Rgb;
use crate::vectorized::vectorized;

/// Fractional bits of a weight; with them, the products of one output sample fit a signed 32-bit sum.
const WEIGHT_BITS: u32 = 22;

/// Samples summed together along the columns: few enough for registers.
const BLOCK: usize = 32;
/// Rows worked on together along the rows, and their samples at one column: a whole number of vectors.
const ROWS: usize = 16;
const ROW_SAMPLES: usize = ROWS * 3;

/// What the output samples along one side are made of.
struct Windows {
    weights: Vec<i32>,
    /// The first input sample of each output sample, and its part of `weights`.
    windows: Vec<(usize, Range<usize>)>,
}

impl Windows {
    /// Returns the windows that map `input` samples to `output` samples.
    fn new(input: usize, output: usize) -> Self {
        let scale = input as f64 / output as f64;
        let mut all = Self { weights: Vec::new(), windows: Vec::with_capacity(output) };
        let mut exact = Vec::new();
        for position in 0..output {
            let start = triangle(position, input, scale, &mut exact);
            let sum: f64 = exact.iter().sum();
            let first = all.weights.len();
            all.weights.extend(exact.iter().map(|weight| fixed_point(weight / sum)));
            all.windows.push((start, first..all.weights.len()));
        }
        all
    }

    fn len(&self) -> usize {
        self.windows.len()
    }

    /// Returns the first input sample of each output sample, and the weights from there on.
    fn iter(&self) -> impl Iterator<Item = (usize, &[i32])> {
        self.windows.iter().map(|(start, weights)| (*start, &self.weights[weights.clone()]))
    }
}

/// Puts the triangle filter around the output sample at `position` into `weights` and returns where it begins.
fn triangle(position: usize, input: usize, scale: f64, weights: &mut Vec<f64>) -> usize {
    let support = scale.max(1.0);
    let center = (position as f64 + 0.5) * scale;
    // Rounded toward zero after adding a half, then kept inside the image.
    let start = (center - support + 0.5).max(0.0) as usize;
    let end = ((center + support + 0.5) as usize).min(input);
    let inverse = 1.0 / support;
    weights.clear();
    weights.extend((start..end).map(|sample| {
        let distance = (sample as f64 - center + 0.5) * inverse;
        (1.0 - distance.abs()).max(0.0)
    }));
    start
}

fn fixed_point(weight: f64) -> i32 {
    (weight * f64::from(1_u32 << WEIGHT_BITS) + 0.5) as i32
}

/// Returns `image` resized to `size` x `size` as (size, size, 3).
pub(crate) fn resize_square(image: &Rgb, size: usize) -> Vec<u8> {
    let (along_rows, along_columns) = (Windows::new(image.width, size), Windows::new(image.height, size));
    vectorized(
        #[inline(always)]
        || {
            let rows = resize_rows(&image.data, image.width, &along_rows);
            resize_columns(&rows, size * 3, &along_columns)
        },
    )
}

/// Resizes along each row of `input`, whose rows are `width` pixels long.
///
/// Several rows at once are turned into columns, so that one output sample of each is computed in one vector.
#[inline(always)]
fn resize_rows(input: &[u8], width: usize, windows: &Windows) -> Vec<u8> {
    let (stride, output_stride) = (width * 3, windows.len() * 3);
    let mut output = vec![0; input.len() / stride * output_stride];
    let mut columns = vec![[0; ROW_SAMPLES]; width];
    for (input, output) in input.chunks(stride * ROWS).zip(output.chunks_mut(output_stride * ROWS)) {
        for (row, input) in input.chunks_exact(stride).enumerate() {
            for (column, pixel) in columns.iter_mut().zip(input.as_chunks::<3>().0) {
                column[row * 3..][..3].copy_from_slice(pixel);
            }
        }
        for (position, (start, weights)) in windows.iter().enumerate() {
            let samples = weighted::<ROW_SAMPLES>(columns[start..].iter().zip(weights));
            for (row, output) in output.chunks_exact_mut(output_stride).enumerate() {
                output[position * 3..][..3].copy_from_slice(&samples[row * 3..][..3]);
            }
        }
    }
    output
}

/// Resizes along the columns of `input`, whose rows are `stride` samples long.
#[inline(always)]
fn resize_columns(input: &[u8], stride: usize, windows: &Windows) -> Vec<u8> {
    let mut output = vec![0; stride * windows.len()];
    for (output, (start, weights)) in output.chunks_exact_mut(stride).zip(windows.iter()) {
        let rows = input[start * stride..].chunks_exact(stride).zip(weights);
        let (blocks, rest) = output.as_chunks_mut::<BLOCK>();
        for (block, output) in blocks.iter_mut().enumerate() {
            *output =
                weighted(rows.clone().map(|(row, weight)| (&row.as_chunks::<BLOCK>().0[block], weight)));
        }
        let first = stride - rest.len();
        for (offset, output) in rest.iter_mut().enumerate() {
            let [sample] =
                weighted(rows.clone().map(|(row, weight)| (array::from_ref(&row[first + offset]), weight)));
            *output = sample;
        }
    }
    output
}

/// Returns the weighted sums of samples at equal places.
#[inline(always)]
fn weighted<'a, const N: usize>(parts: impl Iterator<Item = (&'a [u8; N], &'a i32)>) -> [u8; N] {
    let mut sums = [1_i32 << (WEIGHT_BITS - 1); N];
    for (samples, weight) in parts {
        for (sum, sample) in sums.iter_mut().zip(samples) {
            *sum += i32::from(*sample) * weight;
        }
    }
    let mut samples = [0; N];
    for (sample, sum) in samples.iter_mut().zip(sums) {
        *sample = (sum >> WEIGHT_BITS).clamp(0, 255) as u8;
    }
    samples
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Both passes, sample by sample.
    fn sample_by_sample(image: &Rgb, size: usize) -> Vec<u8> {
        let sum = |window: (usize, &[i32]), sample: &dyn Fn(usize) -> u8| {
            let (start, weights) = window;
            let terms =
                (start..).zip(weights).map(|(place, weight)| i64::from(sample(place)) * i64::from(*weight));
            ((terms.sum::<i64>() + (1 << (WEIGHT_BITS - 1))) >> WEIGHT_BITS).clamp(0, 255) as u8
        };
        let (across, down) = (Windows::new(image.width, size), Windows::new(image.height, size));
        let mut rows = Vec::new();
        for (row, window) in (0..image.height).flat_map(|row| across.iter().map(move |window| (row, window)))
        {
            let at = |channel| move |x| image.data[(row * image.width + x) * 3 + channel];
            rows.extend([0, 1, 2].map(|channel| sum(window, &at(channel))));
        }
        let samples = down.iter().flat_map(|window| (0..size * 3).map(move |column| (window, column)));
        samples.map(|(window, column)| sum(window, &|y| rows[y * size * 3 + column])).collect()
    }

    proptest! {
        #[test]
        fn vectors_have_the_bits_of_single_samples(
            width in 1_usize..40, height in 1_usize..40, size in 1_usize..40, data in prop::collection::vec(any::<u8>(), 4800),
        ) {
            let image = Rgb { width, height, data: data[..width * height * 3].to_vec() };
            prop_assert_eq!(resize_square(&image, size), sample_by_sample(&image, size));
        }

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
