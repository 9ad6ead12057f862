//! Multi-head self-attention between the projection to queries, keys and values and the output projection.

#[cfg(feature = "cuda")]
mod cuda;

use candle_core::Tensor;
use rayon::prelude::*;

use crate::element::Element;
use crate::host::{Host, tensor, with_element};
use crate::native::{Matrix, MatrixMut, Threads, Write, build_with, multiply, vectorized};
use crate::softmax::{softmax_backward, softmax_rows};
use crate::window_bias::{HeadBias, ScoreBias, WindowBias};
use crate::{Error, Gradients, Layer, Mode, ParameterId, Parameters, Result, Tape, Windows};

/// `softmax(q kᵀ / sqrt(d)) v` for each head, or `softmax(q kᵀ / sqrt(d) + bias) v` with
/// [windows](SelfAttention::with_windows).
///
/// The input is (N, L, 3 · heads · d) with the last dimension laid out as timm's fused `qkv` projection gives it:
/// queries of all heads, then keys, then values. The output is (N, L, heads · d).
///
/// Heads are read where they lie; the scores of one head, a block of queries at a time, are the only intermediate, and
/// the backward pass computes them again from the saved row normalisers.
#[derive(Clone, Debug)]
pub struct SelfAttention {
    heads: usize,
    bias: Option<WindowBias>,
}

/// Scores per block: 256 KiB of f32, so that two blocks stay in the L2 cache. Images with fewer share a task.
const SCORES_PER_BLOCK: usize = 64 * 1024;

/// Heads of one image are spread over threads only in groups with at least so many scores, about 50 microseconds of
/// work.
const SCORES_PER_GROUP: usize = 16 * 1024;

/// Elements of the widest vector register, in f32.
const REGISTER: usize = 16;

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

    fn images_per_task(self) -> usize {
        (SCORES_PER_BLOCK / (self.tokens * self.tokens * self.heads)).max(1)
    }

    fn heads_per_group(self) -> usize {
        (SCORES_PER_GROUP / (self.tokens * self.tokens)).max(1)
    }

    fn scale<T: Element>(self) -> T {
        T::from_f64(1.0 / (self.depth as f64).sqrt())
    }
}

/// What the heads of one call read: the (N, L, 3 · heads · d) input, and the bias of the scores if there is one.
struct Call<'a, T> {
    input: &'a [T],
    sizes: Sizes,
    bias: Option<ScoreBias<'a, T>>,
}

impl<T: Element> Call<'_, T> {
    fn head(&self, image: usize, head: usize) -> Head<'_, T> {
        let Sizes { tokens, depth, .. } = self.sizes;
        let start = image * tokens * 3 * self.sizes.width() + head * depth;
        let bias = self.bias.as_ref().map(|bias| bias.of(image, head));
        Head { data: &self.input[start..], sizes: self.sizes, bias }
    }
}

/// Queries, keys and values of one head of one image. `data` begins at its first query.
#[derive(Clone, Copy)]
struct Head<'a, T> {
    data: &'a [T],
    sizes: Sizes,
    bias: Option<HeadBias<'a, T>>,
}

impl<'a, T: Element> Head<'a, T> {
    /// `part` 0, 1, 2 are queries, keys, values.
    fn part(self, part: usize, first: usize, count: usize) -> Matrix<'a, T> {
        let stride = 3 * self.sizes.width();
        let start = part * self.sizes.width() + first * stride;
        Matrix::strided(&self.data[start..], count, self.sizes.depth, stride)
    }

    fn queries(self, first: usize, count: usize) -> Matrix<'a, T> {
        self.part(0, first, count)
    }

    fn keys(self, first: usize, count: usize) -> Matrix<'a, T> {
        self.part(1, first, count)
    }

    fn values(self, first: usize, count: usize) -> Matrix<'a, T> {
        self.part(2, first, count)
    }

    fn all_keys(self) -> Matrix<'a, T> {
        self.keys(0, self.sizes.tokens)
    }

    fn all_values(self) -> Matrix<'a, T> {
        self.values(0, self.sizes.tokens)
    }

    /// Scaled and biased scores of the queries `first..first + count` against all keys.
    fn scores(self, first: usize, count: usize, scores: &mut [T]) {
        let write = match self.bias {
            None => Write::Replace,
            Some(bias) => {
                bias.write(first * self.sizes.tokens, scores);
                Write::Add
            }
        };
        let queries = self.queries(first, count);
        let keys = |first, count| self.keys(first, count);
        multiply_transposed(scores, write, self.sizes.scale(), queries, self.sizes.tokens, keys);
    }
}

/// `out = factor · left · rightᵀ`, or the same added to `out`, for a `right` with `rows` rows. `right(first, count)`
/// gives some of them.
///
/// The columns of `out` that fill no whole vector register are a product of their own, because a product that has both
/// takes up to twice the time of the two.
fn multiply_transposed<'a, T: Element>(
    out: &mut [T],
    write: Write,
    factor: T,
    left: Matrix<'_, T>,
    rows: usize,
    right: impl Fn(usize, usize) -> Matrix<'a, T>,
) {
    let whole = rows / REGISTER * REGISTER;
    for (first, count) in [(0, whole), (whole, rows - whole)].into_iter().filter(|(_, count)| *count > 0) {
        let mut out = MatrixMut::strided(&mut out[first..], left.rows(), count, rows);
        multiply(&mut out, write, factor, left, right(first, count).transposed(), Threads::One);
    }
}

impl SelfAttention {
    /// `heads` must divide a third of the last input dimension.
    pub fn new(heads: usize) -> Self {
        Self { heads, bias: None }
    }

    /// The same inside the windows of a Swin Transformer (Liu et al. 2021), whose tokens
    /// [`WindowPartition`](crate::WindowPartition) gives: the input is (N · windows, window², 3 · heads · d).
    ///
    /// The scores get a bias that depends on the relative position of the two tokens, from `table`
    /// ((2 · window - 1)², heads), laid out as timm's `relative_position_bias_table`. With a shift they also get -100
    /// where the two tokens are neighbours only because the shift is cyclic.
    #[must_use]
    pub fn with_windows(self, table: ParameterId, windows: Windows) -> Self {
        Self { bias: Some(WindowBias::new(table, windows)), ..self }
    }

    fn sizes(&self, qkv: &Tensor) -> Result<Sizes> {
        let fits = |images: usize, tokens: usize| match &self.bias {
            None => tokens > 0,
            Some(bias) => tokens == bias.windows().tokens() && images.is_multiple_of(bias.windows().count()),
        };
        match *qkv.dims() {
            [images, tokens, width]
                if self.heads > 0 && fits(images, tokens) && width > 0 && width % (3 * self.heads) == 0 =>
            {
                Ok(Sizes { images, tokens, heads: self.heads, depth: width / (3 * self.heads) })
            }
            ref dims => {
                let expected = match self.bias.as_ref().map(WindowBias::windows) {
                    None => format!("(N, L, 3 · {} · d)", self.heads),
                    Some(windows) => {
                        format!("(N · {}, {}, 3 · {} · d)", windows.count(), windows.tokens(), self.heads)
                    }
                };
                Err(Error::Shape { operation: "SelfAttention", got: dims.to_vec(), expected })
            }
        }
    }

    fn bias<T: Element>(&self, parameters: &Parameters) -> Result<Option<ScoreBias<'_, T>>> {
        self.bias.as_ref().map(|bias| bias.expand(parameters, self.heads)).transpose()
    }

    fn forward_typed<T: Element>(
        &self,
        parameters: &Parameters,
        qkv: Tensor,
        tape: &mut Tape,
    ) -> Result<Tensor> {
        let sizes = self.sizes(&qkv)?;
        let host = Host::new(&qkv)?;
        let input = host.read::<T>()?;
        let call = Call { input: &input, sizes, bias: self.bias(parameters)? };
        let (tokens, width) = (sizes.tokens, sizes.width());
        let (per_image, rows) = (tokens * width, sizes.heads * tokens);
        let per_task = sizes.images_per_task();
        let mut normalisers = vec![T::zero(); sizes.images * rows];
        let extra = normalisers.par_chunks_mut(per_task * rows);
        let y = build_with(sizes.images * per_image, per_task * per_image, extra, |at, out, normalisers| {
            let outputs = out.chunks_exact_mut(per_image).zip(normalisers.chunks_exact_mut(rows));
            for (image, (out, normalisers)) in (at / per_image..).zip(outputs) {
                let panels = MatrixMut::strided(out, tokens, width, width).split_columns(sizes.depth);
                let heads = panels.into_par_iter().zip(normalisers.par_chunks_mut(tokens)).enumerate();
                let heads = heads.with_min_len(sizes.heads_per_group());
                heads.for_each_init(Vec::new, |scores, (head, (panel, normalisers))| {
                    attend(call.head(image, head), scores, panel, normalisers);
                });
            }
        });
        if tape.is_recording() {
            tape.push(qkv);
            tape.push(tensor(normalisers, (sizes.images, sizes.heads, tokens))?);
        }
        tensor(y, (sizes.images, tokens, width))
    }

    fn backward_typed<T: Element>(
        &self,
        parameters: &Parameters,
        dy: &Tensor,
        tape: &mut Tape,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        let normalisers = Host::new(&tape.pop()?)?;
        let qkv = tape.pop()?;
        let sizes = self.sizes(&qkv)?;
        let (qkv_host, dy) = (Host::new(&qkv)?, Host::new(dy)?);
        let (input, dy, normalisers) = (qkv_host.read::<T>()?, dy.read::<T>()?, normalisers.read::<T>()?);
        let call = Call { input: &input, sizes, bias: self.bias(parameters)? };
        let (dy, normalisers) = (&*dy, &*normalisers);
        let (per_image, per_task) = (sizes.tokens * 3 * sizes.width(), sizes.images_per_task());
        let wanted = self.bias.as_ref().filter(|bias| gradients.wants(bias.table()));
        // The sums of the score gradients over the images of each task; empty where nobody wants them.
        let pairs = if wanted.is_some() { sizes.tokens * sizes.tokens } else { 0 };
        let mut sums = vec![vec![T::zero(); sizes.heads * pairs]; sizes.images.div_ceil(per_task)];
        let dqkv = build_with(input.len(), per_task * per_image, sums.par_iter_mut(), |at, out, sums| {
            for (image, out) in (at / per_image..).zip(out.chunks_exact_mut(per_image)) {
                let heads = split_heads(out, sums, sizes).into_par_iter().enumerate();
                let heads = heads.with_min_len(sizes.heads_per_group());
                heads.for_each_init(Scratch::new, |scratch, (head, outputs)| {
                    let start = (image * sizes.heads + head) * sizes.tokens;
                    let saved = Saved {
                        head: call.head(image, head),
                        dy: &dy[image * sizes.tokens * sizes.width() + head * sizes.depth..],
                        normalisers: &normalisers[start..start + sizes.tokens],
                    };
                    saved.pull_back(scratch, outputs);
                });
            }
        });
        if let Some(bias) = wanted {
            gradients.add(bias.table(), bias.table_gradient(&sums, sizes.heads)?)?;
        }
        tensor(dqkv, qkv.shape())
    }
}

/// Where the backward pass of one head writes: gradients of queries, keys and values, and, where it is wanted, the sum
/// over images of the gradient of the scores.
struct HeadGradients<'a, T> {
    queries: MatrixMut<'a, T>,
    keys: MatrixMut<'a, T>,
    values: MatrixMut<'a, T>,
    score_sums: Option<&'a mut [T]>,
}

/// Cuts the gradient of one image (L, 3 · heads · d), and the sums of score gradients (heads, L, L) unless they are
/// empty, into heads.
fn split_heads<'a, T>(out: &'a mut [T], sums: &'a mut [T], sizes: Sizes) -> Vec<HeadGradients<'a, T>> {
    let stride = 3 * sizes.width();
    let mut queries = MatrixMut::strided(out, sizes.tokens, stride, stride).split_columns(sizes.depth);
    let mut keys = queries.split_off(sizes.heads);
    let values = keys.split_off(sizes.heads);
    let mut sums = sums.chunks_exact_mut(sizes.tokens * sizes.tokens);
    let heads = queries.into_iter().zip(keys).zip(values);
    let heads = heads.map(|((queries, keys), values)| HeadGradients {
        queries,
        keys,
        values,
        score_sums: sums.next(),
    });
    heads.collect()
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
                softmax_rows(scores, tokens, &mut normalisers[first..]);
            },
        );
        let weights = Matrix::new(scores, count, tokens);
        multiply(
            &mut out.rows_mut(first, count),
            Write::Replace,
            T::one(),
            weights,
            head.all_values(),
            Threads::One,
        );
    }
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
    fn pull_back(&self, scratch: &mut Scratch<T>, outputs: HeadGradients<'_, T>) {
        let HeadGradients { queries: mut dq, keys: mut dk, values: mut dv, mut score_sums } = outputs;
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
            let values = |first, count| self.head.values(first, count);
            multiply_transposed(gradient, Write::Replace, T::one(), dy, tokens, values);
            vectorized(
                #[inline(always)]
                || {
                    softmax_backward(weights, gradient, tokens, &self.normalisers[first..]);
                    if let Some(sums) = &mut score_sums {
                        for (sum, gradient) in sums[first * tokens..].iter_mut().zip(gradient.iter()) {
                            *sum += *gradient;
                        }
                    }
                },
            );
            let weights = Matrix::new(weights, count, tokens);
            let gradient = Matrix::new(gradient, count, tokens);
            multiply(&mut dv, write, T::one(), weights.transposed(), dy, Threads::One);
            let queries = self.head.queries(first, count);
            multiply(&mut dk, write, scale, gradient.transposed(), queries, Threads::One);
            let dq = &mut dq.rows_mut(first, count);
            multiply(dq, Write::Replace, scale, gradient, self.head.all_keys(), Threads::One);
        }
    }
}

impl Layer for SelfAttention {
    fn forward(&self, parameters: &Parameters, x: Tensor, tape: &mut Tape, _: Mode) -> Result<Tensor> {
        with_element!(
            "SelfAttention", &x, T => self.forward_typed::<T>(parameters, x, tape),
            cuda => self.forward_cuda(parameters, x, tape)
        )
    }

    fn backward(
        &self,
        parameters: &Parameters,
        dy: Tensor,
        tape: &mut Tape,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        with_element!(
            "SelfAttention", &dy, T => self.backward_typed::<T>(parameters, &dy, tape, gradients),
            cuda => self.backward_cuda(parameters, &dy, tape, gradients)
        )
    }
}
