//! Sums and maps over whole tensors and rows, in an order that no thread count changes.

use candle_core::Tensor;
use rayon::prelude::*;

use crate::element::Element;
use crate::host::{Host, tensor, with_element};
use crate::native::{CHUNK, build, vectorized};
use crate::{Error, Result};

/// Independent partial sums of a reduction: enough to fill two 512-bit registers of f32.
const LANES: usize = 32;

/// The sum of `term(i)` for `i` in `0..len`, accumulated in [`LANES`] interleaved partial sums.
#[inline(always)]
pub(crate) fn sum<T: Element>(len: usize, term: impl Fn(usize) -> T) -> T {
    let mut lanes = [T::zero(); LANES];
    let whole = len / LANES * LANES;
    for start in (0..whole).step_by(LANES) {
        for (lane, total) in lanes.iter_mut().enumerate() {
            *total += term(start + lane);
        }
    }
    for index in whole..len {
        lanes[index - whole] += term(index);
    }
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for lane in 0..width {
            let other = lanes[lane + width];
            lanes[lane] += other;
        }
    }
    lanes[0]
}

/// The largest element of `row`; NaN if there is one among them that decides a comparison.
#[inline(always)]
pub(crate) fn maximum<T: Element>(row: &[T]) -> T {
    let mut lanes = [row[0]; LANES];
    let chunks = row.chunks_exact(LANES);
    for value in chunks.remainder() {
        lanes[0] = larger(lanes[0], *value);
    }
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, *value);
        }
    }
    lanes.into_iter().reduce(larger).unwrap_or(row[0])
}

#[inline(always)]
fn larger<T: Element>(a: T, b: T) -> T {
    if a > b { a } else { b }
}

/// Checks that `b` has the shape and the dtype of `a`.
pub(crate) fn same_shape(a: &Tensor, b: &Tensor) -> Result<()> {
    if a.dims() != b.dims() {
        let expected = format!("{:?}, the shape of the other operand", a.dims());
        return Err(Error::Shape { operation: "element-wise", got: b.dims().to_vec(), expected });
    }
    if a.dtype() != b.dtype() {
        return Err(Error::UnsupportedDtype { operation: "element-wise", dtype: b.dtype() });
    }
    Ok(())
}

/// A tensor of the shape of `a` with elements `map(a, b)`.
pub(crate) fn zip_map<T: Element>(a: &Tensor, b: &Tensor, map: impl Fn(T, T) -> T + Sync) -> Result<Tensor> {
    same_shape(a, b)?;
    let (left, right) = (Host::new(a)?, Host::new(b)?);
    let (left, right) = (left.read::<T>()?, right.read::<T>()?);
    let (left, right) = (&*left, &*right);
    let y = build(
        left.len(),
        CHUNK,
        #[inline(always)]
        |at, out| {
            let inputs = left[at..].iter().zip(&right[at..]);
            for (y, (a, b)) in out.iter_mut().zip(inputs) {
                *y = map(*a, *b);
            }
        },
    );
    tensor(y, a.shape())
}

/// A tensor of the shape of `a` with elements `map(a)`.
pub(crate) fn map<T: Element>(a: &Tensor, map: impl Fn(T) -> T + Sync) -> Result<Tensor> {
    let host = Host::new(a)?;
    let input = host.read::<T>()?;
    let input = &*input;
    let y = build(
        input.len(),
        CHUNK,
        #[inline(always)]
        |at, out| {
            for (y, x) in out.iter_mut().zip(&input[at..]) {
                *y = map(*x);
            }
        },
    );
    tensor(y, a.shape())
}

/// `a + b` for tensors of one shape and dtype, on any device.
///
/// # Errors
/// [`Error::Shape`] if the shapes differ.
pub fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    with_element!(
        "add", a, T => zip_map::<T>(a, b, #[inline(always)] |a, b| a + b), cuda => crate::cuda::add(a, b)
    )
}

/// `factor * a`, on any device. `factor` is rounded to the dtype that the device computes in.
///
/// # Errors
/// [`Error::UnsupportedDtype`] for numbers that are not floating-point ones.
pub fn scale(a: &Tensor, factor: f64) -> Result<Tensor> {
    with_element!("scale", a, T => {
        let factor = <T as candle_core::WithDType>::from_f64(factor);
        map::<T>(a, #[inline(always)] |a| a * factor)
    }, cuda => crate::cuda::scale(a, factor))
}

/// The sum of the squares of all elements, in f64.
pub(crate) fn sum_of_squares(a: &Tensor) -> Result<f64> {
    with_element!("sum of squares", a, T => sum_of_squares_typed::<T>(a), cuda => crate::cuda::sum_of_squares(&[a]))
}

fn sum_of_squares_typed<T: Element>(a: &Tensor) -> Result<f64> {
    let host = Host::new(a)?;
    let values = host.read::<T>()?;
    let square = |value: T| value.to_f64() * value.to_f64();
    let part = |part: &[T]| {
        vectorized(
            #[inline(always)]
            || {
                sum(
                    part.len(),
                    #[inline(always)]
                    |i| square(part[i]),
                )
            },
        )
    };
    let parts: Vec<f64> = values.par_chunks(CHUNK).map(part).collect();
    Ok(parts.iter().sum())
}

/// Rows per partial sum of [`column_sums`].
const ROWS_PER_BLOCK: usize = 64;

/// The sums over the rows of a matrix with `columns` columns.
pub(crate) fn column_sums<T: Element>(matrix: &[T], columns: usize) -> Vec<T> {
    sum_rows(
        matrix.len() / columns,
        columns,
        #[inline(always)]
        |row, sums| {
            for (sum, value) in sums.iter_mut().zip(&matrix[row * columns..]) {
                *sum += *value;
            }
        },
    )
}

/// Sums `width` numbers over `rows` rows; `accumulate` adds the contribution of one row.
///
/// Blocks of a fixed number of rows are summed in parallel, and their sums in order.
pub(crate) fn sum_rows<T: Element>(
    rows: usize,
    width: usize,
    accumulate: impl Fn(usize, &mut [T]) + Sync,
) -> Vec<T> {
    let blocks = build(
        rows.div_ceil(ROWS_PER_BLOCK) * width,
        width,
        #[inline(always)]
        |at, sums| {
            let first = at / width * ROWS_PER_BLOCK;
            for row in first..(first + ROWS_PER_BLOCK).min(rows) {
                accumulate(row, sums);
            }
        },
    );
    let mut total = vec![T::zero(); width];
    for block in blocks.chunks_exact(width.max(1)) {
        vectorized(
            #[inline(always)]
            || {
                for (sum, value) in total.iter_mut().zip(block) {
                    *sum += *value;
                }
            },
        );
    }
    total
}
