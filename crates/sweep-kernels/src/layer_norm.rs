//! Layer normalisation over the last dimension.

use candle_core::Tensor;
use rayon::prelude::*;

use crate::element::Element;
use crate::elementwise::{sum, sum_rows};
use crate::host::{Host, tensor, with_element};
use crate::native::{build_with, rows_per_task};
use crate::{Error, Gradients, Layer, Mode, ParameterId, Parameters, Result, Tape};

#[cfg(feature = "cuda")]
mod cuda;

/// `(x - mean) / sqrt(variance + stability) * weight + bias` with mean and biased variance of each row (last dimension).
#[derive(Clone, Copy, Debug)]
pub struct LayerNorm {
    weight: ParameterId,
    bias: ParameterId,
    stability: f64,
}

impl LayerNorm {
    /// `weight` and `bias` are as long as the last dimension; `stability` is positive (PyTorch calls it `eps`).
    pub fn new(weight: ParameterId, bias: ParameterId, stability: f64) -> Self {
        Self { weight, bias, stability }
    }

    fn width(&self, parameters: &Parameters, x: &Tensor) -> Result<usize> {
        let width = parameters.get(self.weight).elem_count();
        if width == 0 || x.dims().last() != Some(&width) {
            let expected = format!("(…, {width})");
            return Err(Error::Shape { operation: "LayerNorm", got: x.dims().to_vec(), expected });
        }
        Ok(width)
    }

    fn forward_typed<T: Element>(
        &self,
        parameters: &Parameters,
        x: &Tensor,
        tape: &mut Tape,
    ) -> Result<Tensor> {
        let width = self.width(parameters, x)?;
        let weight = Host::new(parameters.get(self.weight))?;
        let bias = Host::new(parameters.get(self.bias))?;
        let (weight, bias) = (weight.read::<T>()?, bias.read::<T>()?);
        let (weight, bias) = (&weight[..width], &bias[..width]);
        let host = Host::new(x)?;
        let input = host.read::<T>()?;
        let input = &*input;
        let rows = rows_per_task(width);
        let stability = T::from_f64(self.stability);
        let mut moments = vec![[T::zero(); 2]; input.len() / width];
        let y = build_with(
            input.len(),
            rows * width,
            moments.par_chunks_mut(rows),
            #[inline(always)]
            |at, y, moments| {
                let x = input[at..].chunks_exact(width);
                for ((x, y), moments) in x.zip(y.chunks_exact_mut(width)).zip(moments) {
                    *moments = normalise(x, y, weight, bias, stability);
                }
            },
        );
        let y = tensor(y, x.shape())?;
        if tape.is_recording() {
            let rows = moments.len();
            tape.push(x.clone());
            tape.push(tensor(moments.into_flattened(), (rows, 2))?);
        }
        Ok(y)
    }

    fn backward_typed<T: Element>(
        &self,
        parameters: &Parameters,
        dy: &Tensor,
        tape: &mut Tape,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        let moments = Host::new(&tape.pop()?)?;
        let saved = tape.pop()?;
        let width = self.width(parameters, &saved)?;
        let weight = Host::new(parameters.get(self.weight))?;
        let (x, dy) = (Host::new(&saved)?, Host::new(dy)?);
        let (x, dy) = (x.read::<T>()?, dy.read::<T>()?);
        let (weight, moments) = (weight.read::<T>()?, moments.read::<T>()?);
        let (x, dy, weight, moments) = (&*x, &*dy, &*weight, &*moments);
        let chunk = rows_per_task(width) * width;
        let extra = moments.par_chunks(chunk / width * 2);
        let dx = build_with(
            x.len(),
            chunk,
            extra,
            #[inline(always)]
            |at, dx, moments| {
                let rows = x[at..]
                    .chunks_exact(width)
                    .zip(dy[at..].chunks_exact(width))
                    .zip(moments.chunks_exact(2));
                for (dx, ((x, dy), moments)) in dx.chunks_exact_mut(width).zip(rows) {
                    pull_back(x, dy, weight, [moments[0], moments[1]], dx);
                }
            },
        );
        if gradients.wants(self.weight) {
            let sums = sum_rows(
                x.len() / width,
                width,
                #[inline(always)]
                |row, sums: &mut [T]| {
                    let at = row * width;
                    let (mean, reciprocal) = (moments[2 * row], moments[2 * row + 1]);
                    for ((sum, x), dy) in sums.iter_mut().zip(&x[at..]).zip(&dy[at..]) {
                        *sum += *dy * ((*x - mean) * reciprocal);
                    }
                },
            );
            gradients.add(self.weight, tensor(sums, width)?)?;
        }
        if gradients.wants(self.bias) {
            gradients.add(self.bias, tensor(crate::elementwise::column_sums(dy, width), width)?)?;
        }
        tensor(dx, saved.shape())
    }
}

/// Writes the normalised row and returns its mean and the reciprocal of its standard deviation.
#[inline(always)]
fn normalise<T: Element>(x: &[T], y: &mut [T], weight: &[T], bias: &[T], stability: T) -> [T; 2] {
    let count = T::from_f64(x.len() as f64);
    let mean = sum(
        x.len(),
        #[inline(always)]
        |i| x[i],
    ) / count;
    let variance = sum(
        x.len(),
        #[inline(always)]
        |i| (x[i] - mean) * (x[i] - mean),
    ) / count;
    let reciprocal = T::one() / Element::sqrt(variance + stability);
    for (((y, x), weight), bias) in y.iter_mut().zip(x).zip(weight).zip(bias) {
        *y = (*x - mean) * reciprocal * *weight + *bias;
    }
    [mean, reciprocal]
}

/// With n the normalised row and g = dy * weight: dx = (g - mean(g) - n mean(g n)) / deviation.
#[inline(always)]
fn pull_back<T: Element>(x: &[T], dy: &[T], weight: &[T], [mean, reciprocal]: [T; 2], dx: &mut [T]) {
    let len = dx.len();
    let (x, dy, weight) = (&x[..len], &dy[..len], &weight[..len]);
    let count = T::from_f64(len as f64);
    let offset = sum(
        len,
        #[inline(always)]
        |i| dy[i] * weight[i],
    ) / count;
    let slope = sum(
        len,
        #[inline(always)]
        |i| dy[i] * weight[i] * ((x[i] - mean) * reciprocal),
    ) / count;
    for (((dx, x), dy), weight) in dx.iter_mut().zip(x).zip(dy).zip(weight) {
        *dx = reciprocal * (*dy * *weight - offset - (*x - mean) * reciprocal * slope);
    }
}

impl Layer for LayerNorm {
    fn forward(&self, parameters: &Parameters, x: Tensor, tape: &mut Tape, _: Mode) -> Result<Tensor> {
        with_element!("LayerNorm", &x, T => self.forward_typed::<T>(parameters, &x, tape), cuda => self.forward_cuda(parameters, &x, tape))
    }

    fn backward(
        &self,
        parameters: &Parameters,
        dy: Tensor,
        tape: &mut Tape,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        with_element!("LayerNorm", &dy, T => self.backward_typed::<T>(parameters, &dy, tape, gradients),
            cuda => self.backward_cuda(parameters, &dy, tape, gradients))
    }
}
