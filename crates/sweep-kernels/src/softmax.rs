//! Softmax over rows, and the way back through it.

use crate::element::Element;
use crate::elementwise::{maximum, sum};

/// Replaces a row by its softmax and returns the logarithm of the sum of the exponentials.
#[inline(always)]
pub(crate) fn softmax<T: Element>(row: &mut [T]) -> T {
    let mut normaliser = [T::zero()];
    softmax_rows(row, row.len(), &mut normaliser);
    normaliser[0]
}

/// Replaces each row of `columns` scores by its softmax. `normalisers` receives the logarithms of the sums of the
/// exponentials.
#[inline(always)]
pub(crate) fn softmax_rows<T: Element>(scores: &mut [T], columns: usize, normalisers: &mut [T]) {
    let rows = rows_at_once(columns);
    for (scores, normalisers) in scores.chunks_mut(rows * columns).zip(normalisers.chunks_mut(rows)) {
        for (row, normaliser) in scores.chunks_exact_mut(columns).zip(normalisers.iter_mut()) {
            *normaliser = maximum(row);
            subtract(row, *normaliser);
        }
        exponentials(scores);
        for (row, normaliser) in scores.chunks_exact_mut(columns).zip(normalisers) {
            let total = sum(
                columns,
                #[inline(always)]
                |i| row[i],
            );
            let factor = T::one() / total;
            for value in row.iter_mut() {
                *value *= factor;
            }
            *normaliser += Element::ln(total);
        }
    }
}

/// Rows that are exponentiated as one: long loops use the vector registers well even where rows are short, and 8 KiB
/// of f32 stay in the L1 cache.
fn rows_at_once(columns: usize) -> usize {
    (2048 / columns).max(1)
}

#[inline(always)]
fn subtract<T: Element>(row: &mut [T], offset: T) {
    for value in row {
        *value -= offset;
    }
}

#[inline(always)]
fn exponentials<T: Element>(values: &mut [T]) {
    for value in values {
        *value = Element::exp(*value);
    }
}

/// Turns rows of scores into weights, and the gradient of the weights into that of the scores:
/// ds = w (dw - sum(w dw)).
#[inline(always)]
pub(crate) fn softmax_backward<T: Element>(
    weights: &mut [T],
    gradient: &mut [T],
    columns: usize,
    normalisers: &[T],
) {
    let rows = rows_at_once(columns);
    let blocks = weights.chunks_mut(rows * columns).zip(gradient.chunks_mut(rows * columns));
    for ((weights, gradient), normalisers) in blocks.zip(normalisers.chunks(rows)) {
        for (row, normaliser) in weights.chunks_exact_mut(columns).zip(normalisers) {
            subtract(row, *normaliser);
        }
        exponentials(weights);
        let rows = weights.chunks_exact(columns).zip(gradient.chunks_exact_mut(columns));
        for (weights, gradient) in rows {
            let mean = sum(
                columns,
                #[inline(always)]
                |i| weights[i] * gradient[i],
            );
            for (gradient, weight) in gradient.iter_mut().zip(weights) {
                *gradient = *weight * (*gradient - mean);
            }
        }
    }
}
