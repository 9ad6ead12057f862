//! The only unsafe code of the crate: matrix products through `gemm`, fresh buffers filled in parallel, and code
//! compiled for the vector instructions of the machine it runs on. Each piece has a safe, checked face.
//!
//! Results do not depend on the number of threads: the products split rows and columns but never the summed
//! dimension, and buffers are cut at places that the caller fixes. They do depend on the processor, because `gemm`
//! picks its kernel at run time.

use std::marker::PhantomData;
use std::mem::MaybeUninit;

use rayon::prelude::*;

use crate::element::Element;

/// Whether an operation may spread over the current rayon pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Threads {
    One,
    All,
}

/// A borrowed matrix with arbitrary strides, inside the bounds of its slice.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a, T> {
    data: &'a [T],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a, T> Matrix<'a, T> {
    /// A row-major matrix that fills `data`.
    pub(crate) fn new(data: &'a [T], rows: usize, columns: usize) -> Self {
        Self::strided(data, rows, columns, columns)
    }

    /// A matrix whose rows are contiguous and start `row_stride` elements apart.
    pub(crate) fn strided(data: &'a [T], rows: usize, columns: usize, row_stride: usize) -> Self {
        assert!(extent(rows, columns, row_stride) <= data.len(), "matrix view leaves its slice");
        Self { data, rows, columns, row_stride, column_stride: 1 }
    }

    /// Number of rows.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// The same elements with rows and columns exchanged.
    pub(crate) fn transposed(self) -> Self {
        Self {
            data: self.data,
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }
}

/// A mutable matrix with contiguous rows that start `row_stride` elements apart.
pub(crate) struct MatrixMut<'a, T> {
    start: *mut T,
    rows: usize,
    columns: usize,
    row_stride: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: a MatrixMut is an exclusive borrow of its elements, like `&mut [T]`, which is Send for such T.
unsafe impl<T: Send> Send for MatrixMut<'_, T> {}

impl<'a, T> MatrixMut<'a, T> {
    /// A view of `data` that borrows it exclusively.
    pub(crate) fn strided(data: &'a mut [T], rows: usize, columns: usize, row_stride: usize) -> Self {
        assert!(columns <= row_stride, "rows of a mutable matrix would overlap");
        assert!(extent(rows, columns, row_stride) <= data.len(), "matrix view leaves its slice");
        Self { start: data.as_mut_ptr(), rows, columns, row_stride, borrow: PhantomData }
    }

    /// A row-major matrix that fills `data`.
    pub(crate) fn new(data: &'a mut [T], rows: usize, columns: usize) -> Self {
        Self::strided(data, rows, columns, columns)
    }

    /// Cuts the matrix into panels of `width` columns (the last may be narrower), which can be written at the same time.
    pub(crate) fn split_columns(self, width: usize) -> Vec<Self> {
        assert!(width > 0, "panels need a width");
        let panel = |index: usize| Self {
            // SAFETY: `index * width` is a column of this matrix, so the offset stays inside the borrowed slice.
            // The panels share no element, because each covers other columns and rows do not overlap.
            start: unsafe { self.start.add(index * width) },
            rows: self.rows,
            columns: width.min(self.columns - index * width),
            row_stride: self.row_stride,
            borrow: PhantomData,
        };
        if self.rows == 0 { Vec::new() } else { (0..self.columns.div_ceil(width)).map(panel).collect() }
    }

    /// The elements of one row.
    pub(crate) fn row_mut(&mut self, row: usize) -> &mut [T] {
        assert!(row < self.rows, "row outside the matrix");
        // SAFETY: the row lies inside the exclusively borrowed slice, and its columns are contiguous.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(row * self.row_stride), self.columns) }
    }

    /// The rows `first..first + count` of this matrix, borrowed for a while.
    pub(crate) fn rows_mut(&mut self, first: usize, count: usize) -> MatrixMut<'_, T> {
        assert!(first + count <= self.rows, "rows outside the matrix");
        MatrixMut {
            // SAFETY: `first` is at most `rows - count`; an empty range starts where the view does.
            start: if count == 0 { self.start } else { unsafe { self.start.add(first * self.row_stride) } },
            rows: count,
            columns: self.columns,
            row_stride: self.row_stride,
            borrow: PhantomData,
        }
    }
}

/// One past the last element that a matrix with contiguous rows touches.
fn extent(rows: usize, columns: usize, row_stride: usize) -> usize {
    if rows == 0 || columns == 0 { 0 } else { (rows - 1) * row_stride + columns }
}

/// What happens to the former content of the destination of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Write {
    Replace,
    Add,
}

/// `destination = factor * left * right`, or the same added to `destination`.
pub(crate) fn multiply<T: Element>(
    destination: &mut MatrixMut<'_, T>,
    write: Write,
    factor: T,
    left: Matrix<'_, T>,
    right: Matrix<'_, T>,
    threads: Threads,
) {
    assert_eq!(left.columns, right.rows, "inner dimensions of a product differ");
    assert_eq!(
        (left.rows, right.columns),
        (destination.rows, destination.columns),
        "wrong destination of a product"
    );
    let strides = (1, destination.row_stride as isize);
    // SAFETY: the views were checked against their slices, the sizes agree, and `destination` is exclusive and
    // initialised, being made from a `&mut [T]`.
    unsafe { multiply_raw(destination.start, strides, write, factor, left, right, threads) }
}

/// `left * right` as a fresh row-major buffer.
pub(crate) fn product<T: Element>(left: Matrix<'_, T>, right: Matrix<'_, T>, threads: Threads) -> Vec<T> {
    assert_eq!(left.columns, right.rows, "inner dimensions of a product differ");
    let len = left.rows * right.columns;
    if left.columns == 0 {
        return vec![T::zero(); len];
    }
    let mut buffer = Vec::with_capacity(len);
    let strides = (1, right.columns as isize);
    // SAFETY: the buffer has room for rows * columns elements; with `Write::Replace` and a non-empty inner dimension
    // every one of them is written and none is read before that.
    unsafe {
        multiply_raw(buffer.as_mut_ptr(), strides, Write::Replace, T::one(), left, right, threads);
        buffer.set_len(len);
    }
    buffer
}

/// # Safety
/// `start` with `strides` (column, row) must be valid for writing `left.rows` by `right.columns` elements, for reading
/// them too if `write` is [`Write::Add`] or the inner dimension is 0, and nothing else may access them meanwhile.
unsafe fn multiply_raw<T: Element>(
    start: *mut T,
    strides: (isize, isize),
    write: Write,
    factor: T,
    left: Matrix<'_, T>,
    right: Matrix<'_, T>,
    threads: Threads,
) {
    if left.rows == 0 || right.columns == 0 {
        return;
    }
    let parallelism = match threads {
        Threads::One => gemm::Parallelism::None,
        Threads::All => gemm::Parallelism::Rayon(0),
    };
    let kept = if write == Write::Add { T::one() } else { T::zero() };
    // SAFETY: `Matrix` guarantees that reads stay inside its slice; the caller vouches for the destination.
    unsafe {
        gemm::gemm(
            left.rows,
            right.columns,
            left.columns,
            start,
            strides.0,
            strides.1,
            write == Write::Add,
            left.data.as_ptr(),
            left.column_stride as isize,
            left.row_stride as isize,
            right.data.as_ptr(),
            right.column_stride as isize,
            right.row_stride as isize,
            kept,
            factor,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// Elements per task of [`build`] where nothing else dictates a cut: 64 KiB of f32, which stays in the L2 cache.
pub(crate) const CHUNK: usize = 16 * 1024;

/// Rows of `width` elements that make about one [`CHUNK`], at least one.
pub(crate) fn rows_per_task(width: usize) -> usize {
    (CHUNK / width.max(1)).max(1)
}

/// A buffer of `len` elements, filled in parallel in chunks of `chunk` elements (the last may be shorter).
///
/// `fill` gets the position of the chunk and the chunk itself, zeroed while it is in the cache anyway, and runs with
/// the widest vector instructions available.
pub(crate) fn build<T: Element>(len: usize, chunk: usize, fill: impl Fn(usize, &mut [T]) + Sync) -> Vec<T> {
    let extra = rayon::iter::repeat_n((), len.div_ceil(chunk.max(1)));
    build_with(
        len,
        chunk,
        extra,
        #[inline(always)]
        |at, out, ()| fill(at, out),
    )
}

/// [`build`] with a scratch value that a thread keeps from chunk to chunk, so that its content must not matter.
pub(crate) fn build_with_scratch<T: Element, S>(
    len: usize,
    chunk: usize,
    scratch: impl Fn() -> S + Sync + Send,
    fill: impl Fn(usize, &mut [T], &mut S) + Sync,
) -> Vec<T> {
    let chunk = chunk.max(1);
    let mut buffer = Vec::<T>::with_capacity(len);
    let spare = &mut buffer.spare_capacity_mut()[..len];
    spare.par_chunks_mut(chunk).enumerate().for_each_init(scratch, |scratch, (index, part)| {
        let part = zeroed(part);
        vectorized(
            #[inline(always)]
            || fill(index * chunk, part, scratch),
        );
    });
    // SAFETY: the chunks cover the first `len` elements and each was initialised.
    unsafe { buffer.set_len(len) };
    buffer
}

/// Side of the square blocks that [`transpose`] works on: one cache line of f32.
const TILE: usize = 16;
/// Columns of the source per task of [`transpose`], so that it reads a few cache lines of each row.
const TRANSPOSED_TOGETHER: usize = 4 * TILE;

/// A row-major matrix of `columns` columns with rows and columns exchanged.
pub(crate) fn transpose<T: Element>(matrix: &[T], columns: usize) -> Vec<T> {
    let rows = matrix.len().checked_div(columns).unwrap_or(0);
    build(
        matrix.len(),
        TRANSPOSED_TOGETHER * rows,
        #[inline(always)]
        |at, out| {
            let source = &matrix[at / rows..];
            for (tile, out) in out.chunks_mut(TILE * rows).enumerate() {
                let whole_rows = if out.len() == TILE * rows { rows - rows % TILE } else { 0 };
                for row in (0..whole_rows).step_by(TILE) {
                    transpose_tile(&source[row * columns + tile * TILE..], columns, &mut out[row..], rows);
                }
                for (column, out) in out.chunks_exact_mut(rows).enumerate() {
                    for (row, out) in out.iter_mut().enumerate().skip(whole_rows) {
                        *out = source[row * columns + tile * TILE + column];
                    }
                }
            }
        },
    )
}

/// Transposes the square block at the beginning of `source`, whose rows lie `columns` apart, to that of `out`.
#[inline(always)]
fn transpose_tile<T: Element>(source: &[T], columns: usize, out: &mut [T], rows: usize) {
    let mut tile = [[T::zero(); TILE]; TILE];
    for (row, tile) in tile.iter_mut().enumerate() {
        tile.copy_from_slice(&source[row * columns..][..TILE]);
    }
    for column in 0..TILE {
        for (out, row) in out[column * rows..][..TILE].iter_mut().zip(&tile) {
            *out = row[column];
        }
    }
}

/// Rows of `width` elements in another order: row i of the result is row `source(i)` of `rows`.
pub(crate) fn reorder_rows<T: Element>(
    rows: &[T],
    width: usize,
    source: impl Fn(usize) -> usize + Sync,
) -> Vec<T> {
    let block = rows_per_task(width);
    build(
        rows.len(),
        block * width,
        #[inline(always)]
        |at, out| {
            for (index, out) in out.chunks_exact_mut(width).enumerate() {
                let start = source(at / width + index) * width;
                out.copy_from_slice(&rows[start..start + width]);
            }
        },
    )
}

/// Initialises every element with zero.
#[inline(always)]
fn zeroed<T: Element>(part: &mut [MaybeUninit<T>]) -> &mut [T] {
    for element in part.iter_mut() {
        element.write(T::zero());
    }
    // SAFETY: the loop above initialised every element.
    unsafe { part.assume_init_mut() }
}

/// [`build`] with one more thing handed to each chunk, usually a mutable piece of a second, smaller output.
pub(crate) fn build_with<T: Element, E: Send>(
    len: usize,
    chunk: usize,
    extra: impl IndexedParallelIterator<Item = E>,
    fill: impl Fn(usize, &mut [T], E) + Sync,
) -> Vec<T> {
    let chunk = chunk.max(1);
    assert_eq!(extra.len(), len.div_ceil(chunk), "one extra value per chunk is needed");
    let mut buffer = Vec::<T>::with_capacity(len);
    let spare = &mut buffer.spare_capacity_mut()[..len];
    spare.par_chunks_mut(chunk).zip(extra).enumerate().for_each(|(index, (part, extra))| {
        let part = zeroed(part);
        vectorized(
            #[inline(always)]
            || fill(index * chunk, part, extra),
        );
    });
    // SAFETY: the chunks cover the first `len` elements and each was initialised.
    unsafe { buffer.set_len(len) };
    buffer
}

/// Runs `work` compiled for the widest vector instructions that this processor has.
///
/// Only what is inlined into `work` profits. The results are those of plain code to the bit: the compiler neither
/// reorders nor contracts floating-point operations.
#[inline]
pub(crate) fn vectorized<R>(work: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("fma")
        {
            // SAFETY: the features were detected just now.
            return unsafe { with_avx512(work) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the features were detected just now.
            return unsafe { with_avx2(work) };
        }
    }
    work()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
fn with_avx512<R>(work: impl FnOnce() -> R) -> R {
    work()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn with_avx2<R>(work: impl FnOnce() -> R) -> R {
    work()
}
