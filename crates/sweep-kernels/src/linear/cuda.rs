//! The linear layer on a GPU: products by cuBLAS, the bias added in their epilogue, and one pass for the activation.

use candle_core::{DType, Tensor};

use super::Linear;
use crate::cuda::{Columns, Gpu, Matrix, Product, column_sums, convert};
use crate::{Error, Gradients, ParameterId, Parameters, Result, Tape};

impl Linear {
    pub(super) fn forward_cuda(&self, parameters: &Parameters, x: Tensor, tape: &mut Tape) -> Result<Tensor> {
        let (shape, in_features, out_features) = self.output_shape(parameters, &x)?;
        let gpu = Gpu::of(&x)?;
        let rows = x.elem_count() / in_features;
        let weight = parameters.converted(self.weight, x.dtype())?;
        let left = Matrix::new(&x, rows, in_features);
        let right = Matrix::new(&weight, out_features, in_features).transposed();
        let product = Product::new(left, right, parameters.compute());
        let z = gpu.empty(shape, x.dtype())?;
        affine(&gpu, product, &z, [rows, out_features], parameters, self.bias)?;
        tape.push(x);
        let Some(activation) = self.activation else { return Ok(z) };
        if tape.is_recording() {
            let y = gpu.empty(z.shape(), z.dtype())?;
            activation.write(&gpu, &z, &y)?;
            tape.push(z);
            return Ok(y);
        }
        activation.write(&gpu, &z, &z)?;
        Ok(z)
    }

    pub(super) fn backward_cuda(
        &self,
        parameters: &Parameters,
        dy: &Tensor,
        tape: &mut Tape,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        let saved =
            self.activation.map(|activation| Ok::<_, Error>((activation, tape.pop()?))).transpose()?;
        let x = tape.pop()?;
        let (shape, in_features, out_features) = self.output_shape(parameters, &x)?;
        if dy.dims() != shape {
            let expected = format!("{shape:?}, the shape of the output");
            return Err(Error::Shape { operation: "Linear", got: dy.dims().to_vec(), expected });
        }
        // The gradient of logits arrives in F32.
        let dy = convert(dy, x.dtype())?;
        let wanted_bias = self.bias.filter(|id| gradients.wants(*id));
        let (dz, bias_gradient) = match (saved, wanted_bias) {
            (Some((activation, z)), None) => (activation.pull_back_cuda(&z, &dy)?, None),
            (Some((activation, z)), Some(id)) => {
                let (dz, sums) = activation.pull_back_and_sum(&z, &dy, out_features)?;
                (dz, Some((id, sums)))
            }
            (None, None) => (dy, None),
            (None, Some(id)) => {
                let sums = column_sums(&dy, out_features)?;
                (dy, Some((id, sums)))
            }
        };
        if let Some((id, sums)) = bias_gradient {
            gradients.add(id, sums)?;
        }
        let gpu = Gpu::of(&x)?;
        let rows = x.elem_count() / in_features;
        let compute = parameters.compute();
        let from_output = Matrix::new(&dz, rows, out_features);
        if gradients.wants(self.weight) {
            let dw = gpu.empty((out_features, in_features), DType::F32)?;
            let input = Matrix::new(&x, rows, in_features);
            Product::new(from_output.transposed(), input, compute)
                .into(&gpu, Matrix::new(&dw, out_features, in_features))?;
            gradients.add(self.weight, dw)?;
        }
        let weight = parameters.converted(self.weight, x.dtype())?;
        let dx = gpu.empty(x.shape(), x.dtype())?;
        Product::new(from_output, Matrix::new(&weight, out_features, in_features), compute)
            .into(&gpu, Matrix::new(&dx, rows, in_features))?;
        Ok(dx)
    }
}

/// Enqueues `out = product + bias`, where `out` has `rows` rows of `columns` elements: the bias in the epilogue where
/// cuBLASLt does that well, else by a pass of its own over sums in F32.
pub(crate) fn affine(
    gpu: &Gpu,
    product: Product<'_>,
    out: &Tensor,
    [rows, columns]: [usize; 2],
    parameters: &Parameters,
    bias: Option<ParameterId>,
) -> Result<()> {
    let matrix = Matrix::new(out, rows, columns);
    let Some(bias) = bias else { return product.into(gpu, matrix) };
    if product.takes_bias(gpu, &matrix)? {
        return product.into_with_bias(gpu, matrix, &parameters.converted(bias, out.dtype())?);
    }
    let sum = if out.dtype() == DType::F32 { out.clone() } else { gpu.empty(out.shape(), DType::F32)? };
    product.into(gpu, Matrix::new(&sum, rows, columns))?;
    add_bias(gpu, &sum, parameters.get(bias), out)
}

/// Writes the sum of `bias` and each row of `z` into `y`, which may be `z`. Only `y` may be BF16.
fn add_bias(gpu: &Gpu, z: &Tensor, bias: &Tensor, y: &Tensor) -> Result<()> {
    let shared = Columns::new(gpu, bias.elem_count(), &[y, z, bias])?;
    let arguments = [&[gpu.at(z)?, gpu.at(bias)?, gpu.at(y)?][..], &shared.arguments()].concat();
    gpu.launch_typed("add_bias", y.dtype(), shared.grid(), &arguments)
}
