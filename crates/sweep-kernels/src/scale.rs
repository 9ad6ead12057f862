//! A learned factor per channel.

use candle_core::Tensor;

use crate::element::Element;
use crate::elementwise::sum_rows;
use crate::host::{Host, tensor, with_element};
use crate::native::{build, rows_per_task};
use crate::{Error, Gradients, Layer, Mode, ParameterId, Parameters, Result, Tape};

#[cfg(feature = "cuda")]
mod cuda;

/// `x * gamma` over the last dimension, which scales the branches of ConvNeXt (layer scale; Touvron et al. 2021,
/// "Going deeper with image transformers").
#[derive(Clone, Copy, Debug)]
pub struct LayerScale {
    gamma: ParameterId,
}

impl LayerScale {
    /// `gamma` is as long as the last dimension.
    pub fn new(gamma: ParameterId) -> Self {
        Self { gamma }
    }

    fn width(self, parameters: &Parameters, x: &Tensor) -> Result<usize> {
        let width = parameters.get(self.gamma).elem_count();
        if width == 0 || x.dims().last() != Some(&width) {
            let expected = format!("(…, {width})");
            return Err(Error::Shape { operation: "LayerScale", got: x.dims().to_vec(), expected });
        }
        Ok(width)
    }

    fn applied(self, parameters: &Parameters, x: &Tensor) -> Result<Tensor> {
        with_element!(
            "LayerScale", x, T => self.scaled::<T>(parameters, x), cuda => self.scaled_cuda(parameters, x)
        )
    }

    fn scaled<T: Element>(self, parameters: &Parameters, x: &Tensor) -> Result<Tensor> {
        let width = self.width(parameters, x)?;
        let (gamma, host) = (Host::new(parameters.get(self.gamma))?, Host::new(x)?);
        let (gamma, input) = (gamma.read::<T>()?, host.read::<T>()?);
        let (gamma, input) = (&*gamma, &*input);
        let y = build(
            input.len(),
            rows_per_task(width) * width,
            #[inline(always)]
            |at, out| {
                for (y, x) in out.chunks_exact_mut(width).zip(input[at..].chunks_exact(width)) {
                    for ((y, x), gamma) in y.iter_mut().zip(x).zip(gamma) {
                        *y = *x * *gamma;
                    }
                }
            },
        );
        tensor(y, x.shape())
    }
}

/// The sums over rows of `x * dy`, in the shape of `gamma`.
fn factor_gradient<T: Element>(x: &Tensor, dy: &Tensor, gamma: &Tensor) -> Result<Tensor> {
    let width = gamma.elem_count();
    let (x, dy) = (Host::new(x)?, Host::new(dy)?);
    let (x, dy) = (x.read::<T>()?, dy.read::<T>()?);
    let (x, dy) = (&*x, &*dy);
    let sums = sum_rows(
        x.len() / width,
        width,
        #[inline(always)]
        |row, sums: &mut [T]| {
            let at = row * width;
            for ((sum, x), dy) in sums.iter_mut().zip(&x[at..]).zip(&dy[at..]) {
                *sum += *x * *dy;
            }
        },
    );
    tensor(sums, gamma.shape())
}

impl Layer for LayerScale {
    fn forward(&self, parameters: &Parameters, x: Tensor, tape: &mut Tape, _: Mode) -> Result<Tensor> {
        let y = self.applied(parameters, &x)?;
        tape.push(x);
        Ok(y)
    }

    fn backward(
        &self,
        parameters: &Parameters,
        dy: Tensor,
        tape: &mut Tape,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        let x = tape.pop()?;
        #[cfg(feature = "cuda")]
        if dy.device().is_cuda() {
            return self.backward_cuda(parameters, &x, &dy, gradients);
        }
        if gradients.wants(self.gamma) {
            let gamma = parameters.get(self.gamma);
            let sums = with_element!("LayerScale", &dy, T => factor_gradient::<T>(&x, &dy, gamma))?;
            gradients.add(self.gamma, sums)?;
        }
        self.applied(parameters, &dy)
    }
}
