//! What Swin Transformers add to the scores of window attention: a learned bias per relative position, and a mask that
//! keeps apart pixels which only the cyclic shift made neighbours.

use std::sync::Arc;

use candle_core::Tensor;

use crate::element::Element;
use crate::host::{Host, tensor};
use crate::native::{build, vectorized};
use crate::{Error, ParameterId, Parameters, Result, Windows};

/// The score of two tokens that must not see each other, as in Swin. Its exponential is negligible, not zero.
const MASKED: f64 = -100.0;

/// The bias and the mask of one attention layer, as indices.
#[derive(Clone, Debug)]
pub(crate) struct WindowBias {
    table: ParameterId,
    windows: Windows,
    /// For each pair (query, key) of tokens of a window, the row of the table.
    rows: Arc<[usize]>,
    /// Whether a pair (query, key) is masked, for windows of the last column, of the last row and of both. Empty
    /// without a shift.
    masked: Arc<[bool]>,
}

impl WindowBias {
    pub(crate) fn new(table: ParameterId, windows: Windows) -> Self {
        let kinds = if windows.shift() == 0 { 0..0 } else { 1..4 };
        let masked =
            kinds.flat_map(|kind| pairs(windows, move |a, b| is_masked(windows, kind, a, b))).collect();
        let rows = pairs(windows, |query, key| table_row(windows.side(), query, key)).collect();
        Self { table, windows, rows, masked }
    }

    pub(crate) fn table(&self) -> ParameterId {
        self.table
    }

    pub(crate) fn windows(&self) -> Windows {
        self.windows
    }

    /// Number of pairs of tokens of a window.
    fn pairs(&self) -> usize {
        self.rows.len()
    }

    /// Rows of the table: relative positions of two tokens.
    pub(crate) fn table_rows(&self) -> usize {
        (2 * self.windows.side() - 1).pow(2)
    }

    /// The table, which must be (rows, heads).
    pub(crate) fn checked_table<'a>(&self, parameters: &'a Parameters, heads: usize) -> Result<&'a Tensor> {
        let table = parameters.get(self.table);
        if table.dims() != [self.table_rows(), heads] {
            let expected = format!("({}, {heads})", self.table_rows());
            let operation = "relative position bias";
            return Err(Error::Shape { operation, got: table.dims().to_vec(), expected });
        }
        Ok(table)
    }

    /// The values to add to the scores, laid out as the scores are.
    pub(crate) fn expand<T: Element>(
        &self,
        parameters: &Parameters,
        heads: usize,
    ) -> Result<ScoreBias<'_, T>> {
        let host = Host::new(self.checked_table(parameters, heads)?)?;
        let table = host.read::<T>()?;
        let table = &*table;
        let per_head = build(heads * self.pairs(), self.pairs(), |at, out: &mut [T]| {
            let head = at / self.pairs();
            for (bias, row) in out.iter_mut().zip(&*self.rows) {
                *bias = table[row * heads + head];
            }
        });
        let masked = T::from_f64(MASKED);
        let masks = self.masked.iter().map(|apart| if *apart { masked } else { T::zero() }).collect();
        Ok(ScoreBias { layer: self, per_head, masks })
    }

    /// The gradient of the table, given for each of several tasks the sums of the score gradients (heads, pairs).
    pub(crate) fn table_gradient<T: Element>(&self, sums: &[Vec<T>], heads: usize) -> Result<Tensor> {
        let pairs = self.pairs();
        let total = build(
            heads * pairs,
            pairs,
            #[inline(always)]
            |at, out: &mut [T]| {
                for sums in sums {
                    for (total, sum) in out.iter_mut().zip(&sums[at..]) {
                        *total += *sum;
                    }
                }
            },
        );
        let mut gradient = vec![T::zero(); self.table_rows() * heads];
        for (head, total) in total.chunks_exact(pairs).enumerate() {
            for (value, row) in total.iter().zip(&*self.rows) {
                gradient[row * heads + head] += *value;
            }
        }
        tensor(gradient, (self.table_rows(), heads))
    }
}

/// `value(query, key)` for all pairs of tokens of a window, queries outermost.
fn pairs<V>(windows: Windows, value: impl Fn(usize, usize) -> V) -> impl Iterator<Item = V> {
    let tokens = windows.tokens();
    (0..tokens * tokens).map(move |pair| value(pair / tokens, pair % tokens))
}

/// The row of the table for a pair of tokens: the offset from key to query, both coordinates made non-negative, in
/// row-major order.
fn table_row(side: usize, query: usize, key: usize) -> usize {
    let offset = |query: usize, key: usize| query + side - 1 - key;
    offset(query / side, key / side) * (2 * side - 1) + offset(query % side, key % side)
}

/// Whether the mask separates two tokens of a window. `kind` has bit 0 set in the last column of windows and bit 1 in
/// the last row.
///
/// The shift brings pixels from the opposite side into the last `shift` columns and rows of these windows; all other
/// windows hold true neighbours. (timm numbers nine regions of the padded map, which comes to the same.)
fn is_masked(windows: Windows, kind: usize, a: usize, b: usize) -> bool {
    let side = windows.side();
    let wrapped = |at: usize| at >= side - windows.shift();
    let across_columns = kind & 1 != 0 && wrapped(a % side) != wrapped(b % side);
    let across_rows = kind & 2 != 0 && wrapped(a / side) != wrapped(b / side);
    across_columns || across_rows
}

/// [`WindowBias`] with the values of one call.
pub(crate) struct ScoreBias<'a, T> {
    layer: &'a WindowBias,
    /// (heads, queries, keys).
    per_head: Vec<T>,
    /// (3, queries, keys), or empty without a shift.
    masks: Vec<T>,
}

impl<T: Element> ScoreBias<'_, T> {
    /// What is added to the scores of one head of one window, which is counted over all images.
    pub(crate) fn of(&self, window: usize, head: usize) -> HeadBias<'_, T> {
        let pairs = self.layer.pairs();
        let (last_row, last_column) = self.layer.windows.is_last(window);
        let kind = 2 * usize::from(last_row) + usize::from(last_column);
        let mask = kind.checked_sub(1).and_then(|index| self.masks.chunks_exact(pairs).nth(index));
        HeadBias { bias: &self.per_head[head * pairs..][..pairs], mask }
    }
}

/// Bias and mask (queries, keys) of one head of one window.
#[derive(Clone, Copy)]
pub(crate) struct HeadBias<'a, T> {
    bias: &'a [T],
    mask: Option<&'a [T]>,
}

impl<T: Element> HeadBias<'_, T> {
    /// Writes what belongs to the scores that begin at position `start` among the pairs.
    pub(crate) fn write(&self, start: usize, scores: &mut [T]) {
        let bias = &self.bias[start..][..scores.len()];
        let Some(mask) = self.mask else {
            scores.copy_from_slice(bias);
            return;
        };
        vectorized(
            #[inline(always)]
            || {
                for ((score, bias), mask) in scores.iter_mut().zip(bias).zip(&mask[start..]) {
                    *score = *bias + *mask;
                }
            },
        );
    }
}
