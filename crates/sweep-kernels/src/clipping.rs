//! Bounds the length of a gradient before an optimizer step.

use crate::{Error, Gradients, Reading, Result};

/// Added to the length that is divided by, as PyTorch's `clip_grad_norm_` does.
const NORM_STABILITY: f64 = 1e-6;

/// The norm that gradients had before they were clipped. On a GPU it is on its way.
#[must_use = "a norm that is not finite must be told"]
pub struct NormBefore {
    squares: Reading,
}

impl NormBefore {
    /// The norm, which may be not finite. Waits until it is there.
    ///
    /// # Errors
    /// Failures of the device.
    pub fn finish(self) -> Result<f64> {
        Ok(self.squares.finish()?.to_vec1::<f64>()?[0].sqrt())
    }
}

/// Scales all gradients down so that their Euclidean norm, over all parameters together, is at most `limit`, as
/// PyTorch's `clip_grad_norm_`; shorter ones stay as they are, bit for bit. Returns the norm before. Waits for no GPU.
///
/// Where the norm is not finite the gradients stay: what then happens is for the caller to say.
///
/// # Errors
/// [`Error::Setting`] unless `limit` is above 0.
pub fn clip_norm(gradients: &mut Gradients, limit: f64) -> Result<NormBefore> {
    if limit.is_nan() || limit <= 0.0 {
        return Err(Error::Setting { name: "limit", value: limit, expected: "a number above 0" });
    }
    let squares = gradients.clip(limit, NORM_STABILITY)?;
    Ok(NormBefore { squares: Reading::new(&squares)? })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use candle_core::{DType, Device, Tensor};

    use super::*;
    use crate::Parameters;

    /// `total_grad_norm_before_clip` of `adamw_clip1` in the shared `optim/optimizers.json`: what PyTorch's
    /// `clip_grad_norm_` returned for the stored gradients, in f32.
    const NORMS: [f64; 10] = [
        10.077_080_726_623_535,
        8.661_349_296_569_824,
        6.253_223_896_026_611,
        6.550_038_337_707_52,
        4.523_444_652_557_373,
        5.454_361_915_588_379,
        3.879_737_615_585_327,
        10.107_787_132_263_184,
        2.120_405_435_562_134,
        4.828_335_285_186_768,
    ];
    /// PyTorch adds up the squares in f32.
    const RELATIVE: f64 = 1e-6;

    /// The stored gradients of one step.
    fn stored(step: usize, dtype: DType) -> Gradients {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/optimizers.safetensors");
        let tensors: HashMap<String, Tensor> = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
        let (mut parameters, mut ids) = (Parameters::new(), Vec::new());
        for name in ["w", "b", "gamma"] {
            let gradient = tensors[&format!("grad.{name}")].get(step).unwrap().to_dtype(dtype).unwrap();
            ids.push((parameters.add(name, gradient.zeros_like().unwrap()).unwrap(), gradient));
        }
        let mut gradients = Gradients::wanted(&parameters);
        for (id, gradient) in ids {
            gradients.add(id, gradient).unwrap();
        }
        gradients
    }

    fn values(gradients: &Gradients) -> Vec<f64> {
        let flat = |tensor: &Tensor| tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>();
        gradients.iter().flat_map(|(_, gradient)| flat(gradient).unwrap()).collect()
    }

    #[test]
    fn norms_are_those_of_pytorch_and_the_clipped_gradient_has_the_limit() {
        for dtype in [DType::F32, DType::F64] {
            for (step, expected) in NORMS.iter().enumerate() {
                let mut gradients = stored(step, dtype);
                let norm = clip_norm(&mut gradients, 1.0).unwrap().finish().unwrap();
                assert!((norm / expected - 1.0).abs() < RELATIVE, "step {step}: {norm}");
                // What is added to the norm makes the result shorter by less than this part.
                let after = gradients.norm().unwrap();
                assert!(after <= 1.0 + RELATIVE && after > 1.0 - 2.0 * RELATIVE, "step {step}: {after}");
            }
        }
    }

    #[test]
    fn a_short_gradient_and_one_that_is_not_finite_stay() {
        let mut gradients = stored(0, DType::F32);
        let before = values(&gradients);
        assert!(clip_norm(&mut gradients, 11.0).unwrap().finish().unwrap() < 11.0);
        assert_eq!(values(&gradients), before);
        gradients.scale(f64::INFINITY).unwrap();
        assert!(!clip_norm(&mut gradients, 1.0).unwrap().finish().unwrap().is_finite());
        assert!(values(&gradients).iter().any(|value| value.is_infinite()));
        for limit in [0.0, -1.0, f64::NAN] {
            assert!(matches!(clip_norm(&mut gradients, limit), Err(Error::Setting { .. })));
        }
    }
}
