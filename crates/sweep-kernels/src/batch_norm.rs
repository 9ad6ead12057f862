//! Batch normalisation over all but the last dimension.

#[cfg(feature = "cuda")]
mod cuda;

use candle_core::Tensor;
use rayon::prelude::*;

use crate::element::Element;
use crate::elementwise::sum_rows;
use crate::host::{Host, tensor, with_element};
use crate::native::{build, rows_per_task, vectorized};
use crate::{
    BatchStatistics, Error, Gradients, Layer, Mode, ParameterId, Parameters, Result, StatisticsIds, Tape,
};

/// `(x - mean) / sqrt(variance + stability) * weight + bias` for each channel (last dimension), optionally followed by
/// `max(0, ·)` in the same pass.
///
/// In training mode mean and biased variance are those of the batch (all dimensions but the last), as in PyTorch's
/// `BatchNorm2d`; the tape notes them for [`Parameters::update_statistics`]. In evaluation mode they are the running
/// statistics.
#[derive(Clone, Copy, Debug)]
pub struct BatchNorm {
    weight: ParameterId,
    bias: ParameterId,
    statistics: StatisticsIds,
    stability: f64,
    momentum: f64,
    relu: bool,
}

/// Mean and reciprocal standard deviation of each channel.
struct Moments<T> {
    mean: Vec<T>,
    reciprocal: Vec<T>,
}

impl BatchNorm {
    /// `weight`, `bias` and the running statistics are as long as the last dimension; `stability` is positive (PyTorch
    /// calls it `eps`); `momentum` in [0, 1] is the weight of a new batch in the running statistics.
    pub fn new(
        weight: ParameterId,
        bias: ParameterId,
        statistics: StatisticsIds,
        stability: f64,
        momentum: f64,
    ) -> Self {
        Self { weight, bias, statistics, stability, momentum, relu: false }
    }

    /// The same followed by the rectifier, whose derivative at 0 is 0, as in PyTorch.
    #[must_use]
    pub fn with_relu(self) -> Self {
        Self { relu: true, ..self }
    }

    /// Number of channels; refuses other inputs, and batches too small to have a variance.
    fn channels(&self, parameters: &Parameters, x: &Tensor, mode: Mode) -> Result<usize> {
        let channels = parameters.get(self.weight).elem_count();
        let fewest = if matches!(mode, Mode::Train(_)) { 2 } else { 1 };
        if channels == 0 || x.dims().last() != Some(&channels) || x.elem_count() / channels < fewest {
            let expected = format!("(…, {channels}) with at least {fewest} values for each channel");
            return Err(Error::Shape { operation: "BatchNorm", got: x.dims().to_vec(), expected });
        }
        Ok(channels)
    }

    fn forward_typed<T: Element>(
        &self,
        parameters: &Parameters,
        x: Tensor,
        tape: &mut Tape,
        mode: Mode,
    ) -> Result<Tensor> {
        let channels = self.channels(parameters, &x, mode)?;
        let host = Host::new(&x)?;
        let input = host.read::<T>()?;
        let moments = match mode {
            Mode::Train(_) => self.batch_moments(&input, channels, tape)?,
            Mode::Evaluation => self.running_moments(parameters)?,
        };
        let (slope, offset) = self.line(parameters, &moments)?;
        let y = if self.relu {
            map_channels(
                &input,
                [&slope, &offset],
                #[inline(always)]
                |x, [slope, offset]| rectified(x * slope + offset),
            )
        } else {
            map_channels(
                &input,
                [&slope, &offset],
                #[inline(always)]
                |x, [slope, offset]| x * slope + offset,
            )
        };
        let y = tensor(y, x.shape())?;
        if tape.is_recording() {
            let is_batch = if matches!(mode, Mode::Train(_)) { T::one() } else { T::zero() };
            drop(input);
            tape.push(x);
            let saved = [moments.mean, moments.reciprocal, vec![is_batch]].concat();
            tape.push(tensor(saved, 2 * channels + 1)?);
        }
        Ok(y)
    }

    fn batch_moments<T: Element>(&self, x: &[T], channels: usize, tape: &mut Tape) -> Result<Moments<T>> {
        let Spread { mean, squares } = Spread::of(x, channels);
        let count = (x.len() / channels) as f64;
        let to_tensor = |values: Vec<f64>| tensor(values.into_iter().map(T::from_f64).collect(), channels);
        tape.note(BatchStatistics {
            buffers: self.statistics,
            momentum: self.momentum,
            mean: to_tensor(mean.clone())?,
            variance: to_tensor(squares.iter().map(|sum| sum / (count - 1.0)).collect())?,
        });
        let reciprocal = squares.iter().map(|sum| self.reciprocal(sum / count)).collect();
        Ok(Moments { mean: mean.into_iter().map(T::from_f64).collect(), reciprocal })
    }

    fn running_moments<T: Element>(&self, parameters: &Parameters) -> Result<Moments<T>> {
        let read = |id| -> Result<Vec<T>> { Ok(Host::new(parameters.get(id))?.read::<T>()?.to_vec()) };
        let variance = read(self.statistics.variance)?;
        let reciprocal = variance.into_iter().map(|variance| self.reciprocal(variance.to_f64())).collect();
        Ok(Moments { mean: read(self.statistics.mean)?, reciprocal })
    }

    fn reciprocal<T: Element>(&self, variance: f64) -> T {
        T::from_f64(1.0 / (variance + self.stability).sqrt())
    }

    /// The line `slope · x + offset` that each channel is mapped by.
    fn line<T: Element>(&self, parameters: &Parameters, moments: &Moments<T>) -> Result<(Vec<T>, Vec<T>)> {
        let (weight, bias) = (Host::new(parameters.get(self.weight))?, Host::new(parameters.get(self.bias))?);
        let (weight, bias) = (weight.read::<T>()?, bias.read::<T>()?);
        let slope: Vec<T> = weight.iter().zip(&moments.reciprocal).map(|(w, r)| *w * *r).collect();
        let offset = bias.iter().zip(&moments.mean).zip(&slope).map(|((b, m), s)| *b - *m * *s).collect();
        Ok((slope, offset))
    }

    fn backward_typed<T: Element>(
        &self,
        parameters: &Parameters,
        dy: &Tensor,
        tape: &mut Tape,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        let saved = Host::new(&tape.pop()?)?;
        let saved = saved.read::<T>()?;
        let channels = saved.len() / 2;
        let moments =
            Moments { mean: saved[..channels].to_vec(), reciprocal: saved[channels..2 * channels].to_vec() };
        let is_batch = saved[2 * channels] == T::one();
        let x = tape.pop()?;
        let (slope, offset) = self.line(parameters, &moments)?;
        let (x_host, dy) = (Host::new(&x)?, Host::new(dy)?);
        let (input, dy) = (x_host.read::<T>()?, dy.read::<T>()?);
        // Where the rectifier cut, nothing flows back; the line is computed as in the forward pass, to the bit.
        let limit = if self.relu { T::zero() } else { T::from_f64(f64::NEG_INFINITY) };
        let flows = Flows { slope: &slope, offset: &offset, limit };
        let wants_parameters = gradients.wants(self.weight) || gradients.wants(self.bias);
        if !is_batch && !wants_parameters {
            return tensor(flows.scaled(&input, &dy), x.shape());
        }
        let (sums, products) = flows.sums(&input, &dy, &moments);
        let dx = if is_batch {
            flows.through_statistics(&input, &dy, &moments, &sums, &products)
        } else {
            flows.scaled(&input, &dy)
        };
        if gradients.wants(self.weight) {
            gradients.add(self.weight, tensor(products, channels)?)?;
        }
        if gradients.wants(self.bias) {
            gradients.add(self.bias, tensor(sums, channels)?)?;
        }
        tensor(dx, x.shape())
    }
}

/// Which output gradients flow back: those whose output lies above the limit.
struct Flows<'a, T> {
    slope: &'a [T],
    offset: &'a [T],
    limit: T,
}

impl<T: Element> Flows<'_, T> {
    /// The input gradient for constant moments.
    fn scaled(&self, x: &[T], dy: &[T]) -> Vec<T> {
        let limit = self.limit;
        zip_channels(
            x,
            dy,
            [self.slope, self.offset],
            #[inline(always)]
            |x, dy, [slope, offset]| gated(x * slope + offset, limit, dy) * slope,
        )
    }

    /// Sums over each channel of dy, and of dy times the normalised x: the gradients of bias and weight.
    fn sums(&self, x: &[T], dy: &[T], moments: &Moments<T>) -> (Vec<T>, Vec<T>) {
        let channels = self.slope.len();
        let mut sums = sum_rows(
            x.len() / channels,
            2 * channels,
            #[inline(always)]
            |row, sums| {
                let at = row * channels;
                let (x, dy) = (&x[at..at + channels], &dy[at..at + channels]);
                let (slope, offset) = (&self.slope[..channels], &self.offset[..channels]);
                let (mean, reciprocal) = (&moments.mean[..channels], &moments.reciprocal[..channels]);
                let (sums, products) = sums.split_at_mut(channels);
                let products = &mut products[..channels];
                for c in 0..channels {
                    let dy = gated(x[c] * slope[c] + offset[c], self.limit, dy[c]);
                    sums[c] += dy;
                    products[c] += dy * ((x[c] - mean[c]) * reciprocal[c]);
                }
            },
        );
        let products = sums.split_off(channels);
        (sums, products)
    }

    /// The input gradient where mean and variance depend on x too: with n the normalised x and M values a channel,
    /// dx = slope · (dy - sum(dy) / M - n · sum(dy n) / M).
    fn through_statistics(
        &self,
        x: &[T],
        dy: &[T],
        moments: &Moments<T>,
        sums: &[T],
        products: &[T],
    ) -> Vec<T> {
        let count = T::from_f64((x.len() / self.slope.len()) as f64);
        // n = (x - mean) · r, so that the last two terms are a line in x.
        let tilt = products.iter().zip(&moments.reciprocal).map(|(product, r)| *product / count * *r);
        let tilt: Vec<T> = tilt.collect();
        let base = sums.iter().zip(&tilt).zip(&moments.mean);
        let base: Vec<T> = base.map(|((sum, tilt), mean)| *sum / count - *tilt * *mean).collect();
        let limit = self.limit;
        zip_channels(
            x,
            dy,
            [self.slope, self.offset, &base, &tilt],
            #[inline(always)]
            |x, dy, [slope, offset, base, tilt]| {
                slope * (gated(x * slope + offset, limit, dy) - base - tilt * x)
            },
        )
    }
}

/// `dy` where `y` lies above the limit, else 0.
#[inline(always)]
fn gated<T: Element>(y: T, limit: T, dy: T) -> T {
    if y > limit { dy } else { T::zero() }
}

/// `max(0, x)` that keeps NaN.
#[inline(always)]
fn rectified<T: Element>(x: T) -> T {
    if x < T::zero() { T::zero() } else { x }
}

/// Mean and sum of squared deviations from it, of each channel.
struct Spread {
    mean: Vec<f64>,
    squares: Vec<f64>,
}

impl Spread {
    /// Both are computed for blocks of rows that stay in the cache, and joined in order (Chan, Golub and LeVeque 1979).
    fn of<T: Element>(x: &[T], channels: usize) -> Self {
        let block = rows_per_task(channels).min(512) * channels;
        let parts: Vec<(usize, Vec<T>)> =
            x.par_chunks(block).map(|part| (part.len() / channels, block_spread(part, channels))).collect();
        let mut total = Self { mean: vec![0.0; channels], squares: vec![0.0; channels] };
        let mut seen = 0.0;
        for (rows, part) in parts {
            let rows = rows as f64;
            let (mean, squares) = part.split_at(channels);
            for channel in 0..channels {
                let step = mean[channel].to_f64() - total.mean[channel];
                total.mean[channel] += step * rows / (seen + rows);
                total.squares[channel] +=
                    squares[channel].to_f64() + step * step * seen * rows / (seen + rows);
            }
            seen += rows;
        }
        total
    }
}

/// The means of the channels, and after them the sums of squared deviations.
fn block_spread<T: Element>(part: &[T], channels: usize) -> Vec<T> {
    let mut spread = vec![T::zero(); 2 * channels];
    let (mean, squares) = spread.split_at_mut(channels);
    let count = T::from_f64((part.len() / channels) as f64);
    vectorized(
        #[inline(always)]
        || {
            for row in part.chunks_exact(channels) {
                for (mean, x) in mean.iter_mut().zip(row) {
                    *mean += *x;
                }
            }
            for mean in mean.iter_mut() {
                *mean /= count;
            }
            for row in part.chunks_exact(channels) {
                for ((square, x), mean) in squares.iter_mut().zip(row).zip(mean.iter()) {
                    *square += (*x - *mean) * (*x - *mean);
                }
            }
        },
    );
    spread
}

/// `map(x, constants of its channel)`, element by element. The constants' slices are as long as there are channels.
fn map_channels<T: Element, const K: usize>(
    x: &[T],
    constants: [&[T]; K],
    map: impl Fn(T, [T; K]) -> T + Sync,
) -> Vec<T> {
    zip_channels(
        x,
        x,
        constants,
        #[inline(always)]
        |x, _, constants| map(x, constants),
    )
}

/// `map(x, dy, constants of its channel)`, element by element.
fn zip_channels<T: Element, const K: usize>(
    x: &[T],
    dy: &[T],
    constants: [&[T]; K],
    map: impl Fn(T, T, [T; K]) -> T + Sync,
) -> Vec<T> {
    let channels = constants[0].len();
    build(
        x.len(),
        rows_per_task(channels) * channels,
        #[inline(always)]
        |at, out| {
            // Slices of one length let the compiler drop every bounds check in the loop.
            let constants = constants.map(|constants| &constants[..channels]);
            let rows = x[at..].chunks_exact(channels).zip(dy[at..].chunks_exact(channels));
            for (out, (x, dy)) in out.chunks_exact_mut(channels).zip(rows) {
                let (x, dy) = (&x[..channels], &dy[..channels]);
                for (c, out) in out.iter_mut().enumerate() {
                    *out = map(x[c], dy[c], constants.map(|constants| constants[c]));
                }
            }
        },
    )
}

impl Layer for BatchNorm {
    fn forward(&self, parameters: &Parameters, x: Tensor, tape: &mut Tape, mode: Mode) -> Result<Tensor> {
        with_element!("BatchNorm", &x, T => self.forward_typed::<T>(parameters, x, tape, mode), cuda => self.forward_cuda(parameters, x, tape, mode))
    }

    fn backward(
        &self,
        parameters: &Parameters,
        dy: Tensor,
        tape: &mut Tape,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        with_element!("BatchNorm", &dy, T => self.backward_typed::<T>(parameters, &dy, tape, gradients), cuda => self.backward_cuda(parameters, &dy, tape, gradients))
    }
}
