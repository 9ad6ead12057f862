//! The linear layer, with its bias and an optional activation done in one pass over the product.

use candle_core::Tensor;
use rayon::prelude::*;

use crate::element::Element;
use crate::elementwise::column_sums;
use crate::host::{Host, tensor, with_element};
use crate::native::{Matrix, Threads, build_with, product, rows_per_task, transpose, vectorized};
use crate::{Activation, Error, Gradients, Layer, Mode, ParameterId, Parameters, Result, Tape};

#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "cuda")]
pub(crate) use cuda::affine;

/// `activation(x Wᵀ + b)` over the last dimension of `x` (…, in); the result is (…, out).
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    weight: ParameterId,
    bias: Option<ParameterId>,
    activation: Option<Activation>,
}

impl Linear {
    /// `weight` is (out, in) as PyTorch stores it, `bias` (out).
    pub fn new(weight: ParameterId, bias: Option<ParameterId>) -> Self {
        Self { weight, bias, activation: None }
    }

    /// The same followed by an activation, which costs no further pass over memory.
    #[must_use]
    pub fn with_activation(self, activation: Activation) -> Self {
        Self { activation: Some(activation), ..self }
    }

    /// The shape of the output for an input `x`, and the numbers of input and output features.
    fn output_shape(&self, parameters: &Parameters, x: &Tensor) -> Result<(Vec<usize>, usize, usize)> {
        let (out_features, in_features) = parameters.get(self.weight).dims2()?;
        let mut shape = x.dims().to_vec();
        if shape.pop() != Some(in_features) {
            let expected = format!("(…, {in_features})");
            return Err(Error::Shape { operation: "Linear", got: x.dims().to_vec(), expected });
        }
        shape.push(out_features);
        Ok((shape, in_features, out_features))
    }

    fn forward_typed<T: Element>(
        &self,
        parameters: &Parameters,
        x: Tensor,
        tape: &mut Tape,
    ) -> Result<Tensor> {
        let (shape, _, out_features) = self.output_shape(parameters, &x)?;
        let mut z = affine_product::<T>(&x, parameters.get(self.weight))?;
        let bias = match self.bias {
            Some(id) => Host::new(parameters.get(id))?.read::<T>()?.to_vec(),
            None => vec![T::zero(); out_features],
        };
        tape.push(x);
        let Some(activation) = self.activation else {
            if self.bias.is_some() {
                add_bias(&mut z, &bias);
            }
            return tensor(z, shape);
        };
        let y = match activation {
            Activation::Gelu => bias_and_activation(
                &mut z,
                &bias,
                #[inline(always)]
                |z| Activation::Gelu.value(z),
            ),
            Activation::QuickGelu => bias_and_activation(
                &mut z,
                &bias,
                #[inline(always)]
                |z| Activation::QuickGelu.value(z),
            ),
            Activation::Relu => bias_and_activation(
                &mut z,
                &bias,
                #[inline(always)]
                |z| Activation::Relu.value(z),
            ),
        };
        if tape.is_recording() {
            tape.push(tensor(z, shape.clone())?);
        }
        tensor(y, shape)
    }

    fn backward_typed<T: Element>(
        &self,
        parameters: &Parameters,
        mut dy: Tensor,
        tape: &mut Tape,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        if let Some(activation) = self.activation {
            dy = activation.pull_back::<T>(&tape.pop()?, &dy)?;
        }
        let x = tape.pop()?;
        let weight = parameters.get(self.weight);
        linear_gradients::<T>(&x, &dy, weight, gradients, self.weight, self.bias)?;
        let (out_features, in_features) = weight.dims2()?;
        let (dy, weight) = (Host::new(&dy)?, Host::new(weight)?);
        let (dy, weight) = (dy.read::<T>()?, weight.read::<T>()?);
        let rows = dy.len() / out_features;
        let dy = Matrix::new(&dy, rows, out_features);
        let dx = product(dy, Matrix::new(&weight, out_features, in_features), Threads::All);
        tensor(dx, x.shape())
    }
}

/// `x Wᵀ` for a row-major weight whose trailing dimensions are the input features.
pub(crate) fn affine_product<T: Element>(x: &Tensor, weight: &Tensor) -> Result<Vec<T>> {
    let out_features = weight.dim(0)?;
    let in_features = weight.elem_count() / out_features;
    let (x, weight) = (Host::new(x)?, Host::new(weight)?);
    let (x, weight) = (x.read::<T>()?, weight.read::<T>()?);
    let x = Matrix::new(&x, x.len() / in_features, in_features);
    if x.rows() < ROWS_WORTH_A_TRANSPOSE {
        return Ok(product(x, Matrix::new(&weight, out_features, in_features).transposed(), Threads::All));
    }
    let columns = transpose(&weight, in_features);
    Ok(product(x, Matrix::new(&columns, in_features, out_features), Threads::All))
}

/// A product by a transposed matrix reads that with long strides, up to 1.7 times slower than by a transposed copy. From
/// this number of rows on, the copy costs less than it saves.
const ROWS_WORTH_A_TRANSPOSE: usize = 128;

/// Adds the gradients of `weight` and `bias` that are wanted.
pub(crate) fn linear_gradients<T: Element>(
    x: &Tensor,
    dy: &Tensor,
    weight: &Tensor,
    gradients: &mut Gradients,
    weight_id: ParameterId,
    bias_id: Option<ParameterId>,
) -> Result<()> {
    let wants_bias = bias_id.filter(|id| gradients.wants(*id));
    if !gradients.wants(weight_id) && wants_bias.is_none() {
        return Ok(());
    }
    let out_features = weight.dim(0)?;
    let in_features = weight.elem_count() / out_features;
    let (x, dy) = (Host::new(x)?, Host::new(dy)?);
    let (x, dy) = (x.read::<T>()?, dy.read::<T>()?);
    let rows = dy.len() / out_features;
    if gradients.wants(weight_id) {
        let dy = Matrix::new(&dy, rows, out_features).transposed();
        let dw = product(dy, Matrix::new(&x, rows, in_features), Threads::All);
        gradients.add(weight_id, tensor(dw, weight.shape())?)?;
    }
    if let Some(id) = wants_bias {
        gradients.add(id, tensor(column_sums::<T>(&dy, out_features), out_features)?)?;
    }
    Ok(())
}

/// Adds `bias` to every row of `z`.
pub(crate) fn add_bias<T: Element>(z: &mut [T], bias: &[T]) {
    z.par_chunks_mut(rows_per_task(bias.len()) * bias.len()).for_each(|rows| {
        vectorized(
            #[inline(always)]
            || {
                for row in rows.chunks_exact_mut(bias.len()) {
                    for (z, b) in row.iter_mut().zip(bias) {
                        *z += *b;
                    }
                }
            },
        );
    });
}

/// Adds `bias` to every row of `z` and returns `value(z)`.
fn bias_and_activation<T: Element>(z: &mut [T], bias: &[T], value: impl Fn(T) -> T + Sync) -> Vec<T> {
    let chunk = rows_per_task(bias.len()) * bias.len();
    build_with(
        z.len(),
        chunk,
        z.par_chunks_mut(chunk),
        #[inline(always)]
        |_, y, z| {
            for (y, z) in y.chunks_exact_mut(bias.len()).zip(z.chunks_exact_mut(bias.len())) {
                for ((y, z), b) in y.iter_mut().zip(z).zip(bias) {
                    *z += *b;
                    *y = value(*z);
                }
            }
        },
    )
}

impl Layer for Linear {
    fn forward(&self, parameters: &Parameters, x: Tensor, tape: &mut Tape, _: Mode) -> Result<Tensor> {
        with_element!("Linear", &x, T => self.forward_typed::<T>(parameters, x, tape), cuda => self.forward_cuda(parameters, x, tape))
    }

    fn backward(
        &self,
        parameters: &Parameters,
        dy: Tensor,
        tape: &mut Tape,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        with_element!("Linear", &dy, T => self.backward_typed::<T>(parameters, dy, tape, gradients),
            cuda => self.backward_cuda(parameters, &dy, tape, gradients))
    }
}
