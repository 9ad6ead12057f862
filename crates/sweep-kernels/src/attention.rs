//! Multi-head self-attention between the projection to queries, keys and values and the output projection.

use candle_core::Tensor;
use rayon::prelude::*;

use crate::element::Element;
use crate::elementwise::{maximum, sum};
use crate::host::{Host, tensor, with_element};
use crate::native::{Matrix, MatrixMut, Threads, Write, build, build_with, multiply, vectorized};
use crate::{Error, Gradients, Layer, Mode, Parameters, Result, Tape};

/// `softmax(q kᵀ / sqrt(d)) v` for each head.
///
/// The input is (N, L, 3 · heads · d) with the last dimension laid out as timm's fused `qkv` projection gives it:
/// queries of all heads, then keys, then values. The output is (N, L, heads · d).
///
/// Heads are read where they lie; the scores of one head, a block of queries at a time, are the only intermediate, and
/// the backward pass computes them again from the saved row normalisers.
#[derive(Clone, Copy, Debug)]
pub struct SelfAttention {
    heads: usize,
}

/// Scores per block: 256 KiB of f32, so that two blocks stay in the L2 cache.
const SCORES_PER_BLOCK: usize = 64 * 1024;

/// Sizes of one call.
#[derive(Clone, Copy)]
struct Sizes {
    images: usize,
    tokens: usize,
    heads: usize,
    depth: usize,
}

impl Sizes {
    fn width(self) -> usize {
        self.heads * self.depth
    }

    fn queries_per_block(self) -> usize {
        (SCORES_PER_BLOCK / self.tokens).clamp(1, self.tokens)
    }

    fn scale<T: Element>(self) -> T {
        T::from_f64(1.0 / (self.depth as f64).sqrt())
    }
}

/// Queries, keys and values of one head of one image.
#[derive(Clone, Copy)]
struct Head<'a, T> {
    data: &'a [T],
    sizes: Sizes,
}

impl<'a, T: Element> Head<'a, T> {
    /// `data` is the (N, L, 3 · heads · d) input; `part` 0, 1, 2 are queries, keys, values.
    fn new(data: &'a [T], sizes: Sizes, image: usize, head: usize) -> Self {
        let start = image * sizes.tokens * 3 * sizes.width() + head * sizes.depth;
        Self { data: &data[start..], sizes }
    }

    fn part(self, part: usize, first: usize, count: usize) -> Matrix<'a, T> {
        let stride = 3 * self.sizes.width();
        let start = part * self.sizes.width() + first * stride;
        Matrix::strided(&self.data[start..], count, self.sizes.depth, stride)
    }

    fn queries(self, first: usize, count: usize) -> Matrix<'a, T> {
        self.part(0, first, count)
    }

    fn keys(self) -> Matrix<'a, T> {
        self.part(1, 0, self.sizes.tokens)
    }

    fn values(self) -> Matrix<'a, T> {
        self.part(2, 0, self.sizes.tokens)
    }

    /// Scaled scores of the queries `first..first + count` against all keys.
    fn scores(self, first: usize, count: usize, scores: &mut [T]) {
        let mut scores = MatrixMut::new(scores, count, self.sizes.tokens);
        let keys = self.keys().transposed();
        multiply(
            &mut scores,
            Write::Replace,
            self.sizes.scale(),
            self.queries(first, count),
            keys,
            Threads::One,
        );
    }
}

impl SelfAttention {
    /// `heads` must divide a third of the last input dimension.
    pub fn new(heads: usize) -> Self {
        Self { heads }
    }

    fn sizes(self, qkv: &Tensor) -> Result<Sizes> {
        match *qkv.dims() {
            [images, tokens, width]
                if self.heads > 0 && tokens > 0 && width > 0 && width % (3 * self.heads) == 0 =>
            {
                Ok(Sizes { images, tokens, heads: self.heads, depth: width / (3 * self.heads) })
            }
            ref dims => {
                let expected = format!("(N, L, 3 · {} · d)", self.heads);
                Err(Error::Shape { operation: "SelfAttention", got: dims.to_vec(), expected })
            }
        }
    }

    fn forward_typed<T: Element>(self, qkv: Tensor, tape: &mut Tape) -> Result<Tensor> {
        let sizes = self.sizes(&qkv)?;
        let host = Host::new(&qkv)?;
        let input = host.read::<T>()?;
        let input = &*input;
        let (tokens, width) = (sizes.tokens, sizes.width());
        let per_image = tokens * width;
        let mut normalisers = vec![T::zero(); sizes.images * sizes.heads * tokens];
        let extra = normalisers.par_chunks_mut(sizes.heads * tokens);
        let y = build_with(sizes.images * per_image, per_image, extra, |at, out, normalisers| {
            let image = at / per_image;
            let panels = MatrixMut::strided(out, tokens, width, width).split_columns(sizes.depth);
            let heads = panels.into_par_iter().zip(normalisers.par_chunks_mut(tokens)).enumerate();
            heads.for_each_init(Vec::new, |scores, (head, (panel, normalisers))| {
                attend(Head::new(input, sizes, image, head), scores, panel, normalisers);
            });
        });
        if tape.is_recording() {
            tape.push(qkv);
            tape.push(tensor(normalisers, (sizes.images, sizes.heads, tokens))?);
        }
        tensor(y, (sizes.images, tokens, width))
    }

    fn backward_typed<T: Element>(self, dy: &Tensor, tape: &mut Tape) -> Result<Tensor> {
        let normalisers = Host::new(&tape.pop()?)?;
        let qkv = tape.pop()?;
        let sizes = self.sizes(&qkv)?;
        let (qkv_host, dy) = (Host::new(&qkv)?, Host::new(dy)?);
        let (input, dy, normalisers) = (qkv_host.read::<T>()?, dy.read::<T>()?, normalisers.read::<T>()?);
        let (input, dy, normalisers) = (&*input, &*dy, &*normalisers);
        let (tokens, stride) = (sizes.tokens, 3 * sizes.width());
        let per_image = tokens * stride;
        let dqkv = build(input.len(), per_image, |at, out| {
            let image = at / per_image;
            let mut panels = MatrixMut::strided(out, tokens, stride, stride).split_columns(sizes.depth);
            let mut keys = panels.split_off(sizes.heads);
            let values = keys.split_off(sizes.heads);
            let panels = panels.into_par_iter().zip(keys).zip(values).enumerate();
            panels.for_each_init(Scratch::new, |scratch, (head, ((dq, dk), dv))| {
                let start = (image * sizes.heads + head) * tokens;
                let saved = Saved {
                    head: Head::new(input, sizes, image, head),
                    dy: &dy[image * tokens * sizes.width() + head * sizes.depth..],
                    normalisers: &normalisers[start..start + tokens],
                };
                saved.pull_back(scratch, dq, dk, dv);
            });
        });
        tensor(dqkv, qkv.shape())
    }
}

/// One head forward. `normalisers` receives the logarithm of the sum of exponentials of each row of scores.
fn attend<T: Element>(
    head: Head<'_, T>,
    scores: &mut Vec<T>,
    mut out: MatrixMut<'_, T>,
    normalisers: &mut [T],
) {
    let tokens = head.sizes.tokens;
    let block = head.sizes.queries_per_block();
    scores.resize(block * tokens, T::zero());
    for first in (0..tokens).step_by(block) {
        let count = block.min(tokens - first);
        let scores = &mut scores[..count * tokens];
        head.scores(first, count, scores);
        vectorized(
            #[inline(always)]
            || {
                for (row, normaliser) in scores.chunks_exact_mut(tokens).zip(&mut normalisers[first..]) {
                    *normaliser = softmax(row);
                }
            },
        );
        let weights = Matrix::new(scores, count, tokens);
        multiply(
            &mut out.rows_mut(first, count),
            Write::Replace,
            T::one(),
            weights,
            head.values(),
            Threads::One,
        );
    }
}

/// Replaces a row by its softmax and returns the logarithm of the sum of the exponentials.
#[inline(always)]
pub(crate) fn softmax<T: Element>(row: &mut [T]) -> T {
    let highest = maximum(row);
    for value in row.iter_mut() {
        *value = Element::exp(*value - highest);
    }
    let total = sum(
        row.len(),
        #[inline(always)]
        |i| row[i],
    );
    let factor = T::one() / total;
    for value in row.iter_mut() {
        *value *= factor;
    }
    highest + Element::ln(total)
}

/// Buffers of one worker: the weights of a block of queries and the gradient of their scores.
struct Scratch<T> {
    weights: Vec<T>,
    gradient: Vec<T>,
}

impl<T> Scratch<T> {
    fn new() -> Self {
        Self { weights: Vec::new(), gradient: Vec::new() }
    }
}

/// What the backward pass of one head starts from. `dy` begins at the head's first element.
struct Saved<'a, T> {
    head: Head<'a, T>,
    dy: &'a [T],
    normalisers: &'a [T],
}

impl<T: Element> Saved<'_, T> {
    fn pull_back(
        &self,
        scratch: &mut Scratch<T>,
        mut dq: MatrixMut<'_, T>,
        mut dk: MatrixMut<'_, T>,
        mut dv: MatrixMut<'_, T>,
    ) {
        let Sizes { tokens, depth, .. } = self.head.sizes;
        let block = self.head.sizes.queries_per_block();
        let scale = self.head.sizes.scale::<T>();
        scratch.weights.resize(block * tokens, T::zero());
        scratch.gradient.resize(block * tokens, T::zero());
        for first in (0..tokens).step_by(block) {
            let count = block.min(tokens - first);
            let write = if first == 0 { Write::Replace } else { Write::Add };
            let weights = &mut scratch.weights[..count * tokens];
            let gradient = &mut scratch.gradient[..count * tokens];
            let stride = self.head.sizes.width();
            let dy = Matrix::strided(&self.dy[first * stride..], count, depth, stride);
            self.head.scores(first, count, weights);
            let dweights = &mut MatrixMut::new(gradient, count, tokens);
            multiply(dweights, Write::Replace, T::one(), dy, self.head.values().transposed(), Threads::One);
            vectorized(
                #[inline(always)]
                || {
                    let rows = weights.chunks_exact_mut(tokens).zip(gradient.chunks_exact_mut(tokens));
                    for ((weights, gradient), normaliser) in rows.zip(&self.normalisers[first..]) {
                        softmax_backward(weights, gradient, *normaliser);
                    }
                },
            );
            let weights = Matrix::new(weights, count, tokens);
            let gradient = Matrix::new(gradient, count, tokens);
            multiply(&mut dv, write, T::one(), weights.transposed(), dy, Threads::One);
            let queries = self.head.queries(first, count);
            multiply(&mut dk, write, scale, gradient.transposed(), queries, Threads::One);
            let dq = &mut dq.rows_mut(first, count);
            multiply(dq, Write::Replace, scale, gradient, self.head.keys(), Threads::One);
        }
    }
}

/// Turns a row of scores into weights, and the gradient of the weights into that of the scores:
/// ds = w (dw - sum(w dw)).
#[inline(always)]
fn softmax_backward<T: Element>(weights: &mut [T], gradient: &mut [T], normaliser: T) {
    let gradient = &mut gradient[..weights.len()];
    for weight in weights.iter_mut() {
        *weight = Element::exp(*weight - normaliser);
    }
    let mean = sum(
        weights.len(),
        #[inline(always)]
        |i| weights[i] * gradient[i],
    );
    for (gradient, weight) in gradient.iter_mut().zip(weights) {
        *gradient = *weight * (*gradient - mean);
    }
}

impl Layer for SelfAttention {
    fn forward(&self, _: &Parameters, x: Tensor, tape: &mut Tape, _: Mode) -> Result<Tensor> {
        with_element!("SelfAttention", &x, T => self.forward_typed::<T>(x, tape))
    }

    fn backward(&self, _: &Parameters, dy: Tensor, tape: &mut Tape, _: &mut Gradients) -> Result<Tensor> {
        with_element!("SelfAttention", &dy, T => self.backward_typed::<T>(&dy, tape))
    }
}
