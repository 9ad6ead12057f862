//! Position embeddings and relative position tables for another image or window size.

use candle_core::{DType, Device, Tensor};

use crate::Result;

const EMBEDDINGS: &str = "pos_embed";
const TABLE: &str = "relative_position_bias_table";

/// Whether [`resample`] might work on the parameter `name`.
pub(crate) fn can_be_resampled(name: &str) -> bool {
    name == EMBEDDINGS || name.ends_with(TABLE)
}

/// The stored tensor of the parameter `name`, resampled to `shape`; `None` if it cannot be.
pub(crate) fn resample(name: &str, stored: &Tensor, shape: &[usize]) -> Result<Option<Tensor>> {
    let (prefix, channels, scale): (_, _, fn(usize, usize) -> Vec<Row>) = match (stored.dims(), shape) {
        ([1, _, stored], [1, _, width]) if name == EMBEDDINGS && stored == width => (1, *width, bicubic),
        ([_, stored], [_, heads]) if name.ends_with(TABLE) && stored == heads => (0, *heads, geometric),
        _ => return Ok(None),
    };
    let rows: usize = shape.iter().product::<usize>() / channels;
    let (source, target) = (side(stored.elem_count() / channels, prefix), side(rows, prefix));
    let (Some(source), Some(target)) = (source, target) else { return Ok(None) };
    let values: Vec<f64> = stored.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
    let (kept, grid) = values.split_at(prefix * channels);
    let resampled = along_both(grid, channels, source, &scale(source, target));
    Ok(Some(Tensor::from_vec([kept, &resampled].concat(), shape, &Device::Cpu)?))
}

/// The side of the square grid that `rows` rows after the first `prefix` ones are.
fn side(rows: usize, prefix: usize) -> Option<usize> {
    let cells = rows.checked_sub(prefix)?;
    let side = cells.isqrt();
    (side > 0 && side * side == cells).then_some(side)
}

/// How a new point of a line is put together from old ones: their positions and weights, which add up to 1.
type Row = Vec<(usize, f64)>;

/// Applies the same rows to both directions of a grid (`side`, `side`, `channels`).
fn along_both(grid: &[f64], channels: usize, side: usize, rows: &[Row]) -> Vec<f64> {
    let target = rows.len();
    let mut result = Vec::with_capacity(target * target * channels);
    for down in rows {
        for across in rows {
            for channel in 0..channels {
                let value = |y: usize, x: usize| grid[(y * side + x) * channels + channel];
                let line = |y: usize| across.iter().map(|(x, weight)| weight * value(y, *x)).sum::<f64>();
                result.push(down.iter().map(|(y, weight)| weight * line(*y)).sum());
            }
        }
    }
    result
}

/// Bicubic interpolation with antialiasing, between pixel centres, as PyTorch's `interpolate` computes it: Keys' kernel
/// with a = -0.5, stretched when the grid shrinks.
fn bicubic(source: usize, target: usize) -> Vec<Row> {
    let scale = source as f64 / target as f64;
    let stretch = scale.max(1.0);
    let row = |index: usize| {
        let center = scale * (index as f64 + 0.5);
        let first = (center - 2.0 * stretch + 0.5).max(0.0) as usize;
        let end = ((center + 2.0 * stretch + 0.5) as usize).min(source);
        let weights = (first..end).map(|at| (at, keys((at as f64 + 0.5 - center) / stretch)));
        normalized(weights.collect())
    };
    (0..target).map(row).collect()
}

/// The cubic convolution kernel of Keys 1981 with a = -0.5.
fn keys(x: f64) -> f64 {
    let x = x.abs();
    match x {
        _ if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
        _ if x < 2.0 => ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0,
        _ => 0.0,
    }
}

/// Linear interpolation between old points that are spread in a geometric progression over the range of the new ones, so
/// that small distances keep their resolution (BEiT's method, in timm's form).
fn geometric(source: usize, target: usize) -> Vec<Row> {
    let points = progression(source / 2, (target / 2) as f64);
    let reach = (target / 2) as f64;
    (0..target).map(|index| between(&points, index as f64 - reach)).collect()
}

/// `2 count + 1` points around 0, whose distances grow by a factor that makes `count` of them span about `reach`. The
/// factor is searched between 1.01 and 1.5, as precisely as timm searches it.
fn progression(count: usize, reach: f64) -> Vec<f64> {
    let (mut left, mut right, mut factor) = (1.01_f64, 1.5_f64, 1.01_f64);
    while right - left > 1e-6 {
        factor = f64::midpoint(left, right);
        let span = (1.0 - factor.powi(count as i32)) / (1.0 - factor);
        if span > reach { right = factor } else { left = factor }
    }
    let distances = (0..count as i32).scan(0.0, |sum, power| {
        *sum += factor.powi(power);
        Some(*sum)
    });
    let distances: Vec<f64> = distances.collect();
    let negative = distances.iter().rev().map(|distance| -distance);
    negative.chain([0.0]).chain(distances.iter().copied()).collect()
}

/// `x` between its neighbours among `points`, or the nearest point where it lies outside.
fn between(points: &[f64], x: f64) -> Row {
    let right = points.partition_point(|point| *point < x);
    match right {
        0 => vec![(0, 1.0)],
        _ if right == points.len() => vec![(right - 1, 1.0)],
        _ => {
            let share = (x - points[right - 1]) / (points[right] - points[right - 1]);
            vec![(right - 1, 1.0 - share), (right, share)]
        }
    }
}

fn normalized(mut row: Row) -> Row {
    let sum: f64 = row.iter().map(|(_, weight)| weight).sum();
    for (_, weight) in &mut row {
        *weight /= sum;
    }
    row
}

#[cfg(test)]
mod tests {
    use super::{bicubic, geometric, side};

    #[test]
    fn bicubic_between_equal_sizes_changes_nothing() {
        for (index, row) in bicubic(5, 5).into_iter().enumerate() {
            for (at, weight) in row {
                assert_eq!(weight, if at == index { 1.0 } else { 0.0 });
            }
        }
    }

    #[test]
    fn weights_add_up_to_one() {
        for (source, target) in [(3, 7), (7, 3), (13, 23), (23, 13), (1, 5), (5, 1)] {
            for row in bicubic(source, target).into_iter().chain(geometric(source, target)) {
                let sum: f64 = row.iter().map(|(_, weight)| weight).sum();
                assert!((sum - 1.0).abs() < 1e-12, "{source} to {target}: {sum}");
                assert!(row.iter().all(|(at, _)| *at < source));
            }
        }
    }

    #[test]
    fn only_squares_have_sides() {
        assert_eq!([side(197, 1), side(16, 0), side(17, 0), side(1, 1)], [Some(14), Some(4), None, None]);
    }
}
