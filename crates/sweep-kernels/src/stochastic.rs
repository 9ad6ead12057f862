//! Dropping residual branches at random while training.

use candle_core::{DType, Device, Tensor};

use crate::element::Element;
use crate::host::{Host, tensor, with_element};
use crate::native::build;
use crate::{Error, Gradients, Layer, Mode, Noise, Parameters, Result, Tape};

#[cfg(feature = "cuda")]
mod cuda;

/// Stochastic depth (Huang et al. 2016): in training each sample (index of the first dimension) becomes zero with a
/// given probability and is divided by the probability of staying otherwise, so that its mean is kept. This is timm's
/// `DropPath` with `scale_by_keep`. In evaluation it is the identity and copies nothing.
///
/// Which samples are dropped is a pure function of the [`Noise`], of the layer's number and of the sample's position
/// in the effective batch; cutting a batch into micro batches changes nothing.
#[derive(Clone, Copy, Debug)]
pub struct StochasticDepth {
    probability: f64,
    layer: u64,
}

impl StochasticDepth {
    /// Drops samples with `probability`; `layer` tells the layers of a model apart, which draw independently.
    ///
    /// # Errors
    /// [`Error::Setting`] if `probability` is not in [0, 1).
    pub fn new(probability: f64, layer: u64) -> Result<Self> {
        if (0.0..1.0).contains(&probability) {
            return Ok(Self { probability, layer });
        }
        let expected = "at least 0 and below 1";
        Err(Error::Setting { name: "probability of stochastic depth", value: probability, expected })
    }

    /// The scaled samples and their factors.
    fn draw(self, x: &Tensor, noise: Noise) -> Result<(Tensor, Tensor)> {
        with_element!("StochasticDepth", x, T => {
            let factors = self.factors::<T>(noise, x.dim(0)?)?;
            Ok((scale_samples::<T>(x, &factors)?, factors))
        }, cuda => self.forward_cuda(x, noise))
    }

    /// One factor per sample.
    fn factors<T: Element>(self, noise: Noise, samples: usize) -> Result<Tensor> {
        let kept = T::from_f64(1.0 / (1.0 - self.probability));
        let factor = |sample| {
            let stays = noise.uniform(self.layer, sample) >= self.probability;
            if stays { kept } else { T::zero() }
        };
        tensor((0..samples as u64).map(factor).collect(), samples)
    }
}

/// Multiplies each sample by its factor.
fn scale_samples<T: Element>(x: &Tensor, factors: &Tensor) -> Result<Tensor> {
    let (host, factors) = (Host::new(x)?, Host::new(factors)?);
    let (input, factors) = (host.read::<T>()?, factors.read::<T>()?);
    let (input, factors) = (&*input, &*factors);
    let per_sample = (input.len() / factors.len().max(1)).max(1);
    let y = build(
        input.len(),
        per_sample,
        #[inline(always)]
        |at, out| {
            let factor = factors[at / per_sample];
            for (y, x) in out.iter_mut().zip(&input[at..]) {
                *y = *x * factor;
            }
        },
    );
    tensor(y, x.shape())
}

impl Layer for StochasticDepth {
    fn forward(&self, _: &Parameters, x: Tensor, tape: &mut Tape, mode: Mode) -> Result<Tensor> {
        // A layer that never drops leaves nothing on the tape, in either pass.
        if self.probability == 0.0 {
            return Ok(x);
        }
        let Mode::Train(noise) = mode else {
            // The backward pass does not know the mode; no factors at all mean the identity.
            if tape.is_recording() {
                tape.push(Tensor::zeros(0, DType::U8, &Device::Cpu)?);
            }
            return Ok(x);
        };
        let (y, factors) = self.draw(&x, noise)?;
        tape.push(factors);
        Ok(y)
    }

    fn backward(&self, _: &Parameters, dy: Tensor, tape: &mut Tape, _: &mut Gradients) -> Result<Tensor> {
        if self.probability == 0.0 {
            return Ok(dy);
        }
        let factors = tape.pop()?;
        if factors.elem_count() == 0 {
            return Ok(dy);
        }
        with_element!(
            "StochasticDepth", &dy, T => scale_samples::<T>(&dy, &factors), cuda => Self::backward_cuda(&dy, &factors)
        )
    }
}
