//! How far the predictions for perturbed images are from those for clean ones.

use candle_core::{Device, Tensor, WithDType};

use crate::element::Element;
use crate::host::{Host, tensor, with_element};
use crate::{Error, Result};

/// The divergence of each sample of a batch.
#[derive(Clone, Debug)]
pub struct Divergence {
    /// KL(p ‖ q) of each sample (N) in F64, never negative but for rounding.
    pub losses: Tensor,
    /// The gradient (N, classes) of the **sum** of the divergences with respect to the clean logits.
    pub clean_gradient: Tensor,
    /// The gradient (N, classes) of the **sum** of the divergences with respect to the perturbed logits.
    pub perturbed_gradient: Tensor,
}

/// The Kullback-Leibler divergence `KL(p ‖ q) = Σ p ln(p / q)` of each sample, where p is the softmax of the clean logits
/// and q that of the perturbed ones: the second term of TRADES (Zhang et al. 2019), whose program lets the gradient flow
/// into both, as here.
///
/// Both logits are (N, classes) of one dtype, not empty. Computed in f64 and rounded once: equal logits have divergence 0
/// and gradients 0, exactly. On a GPU the gradients are F32, and nothing waits for it.
///
/// # Errors
/// [`Error::Shape`] or [`Error::UnsupportedDtype`] if they differ in shape or dtype.
pub fn kullback_leibler(clean: &Tensor, perturbed: &Tensor) -> Result<Divergence> {
    let operation = "kullback_leibler";
    match *clean.dims() {
        [samples, classes] if clean.dims() == perturbed.dims() && samples * classes > 0 => {}
        ref dims => {
            let expected = format!("two shapes (N, classes), not empty; the other is {:?}", perturbed.dims());
            return Err(Error::Shape { operation, got: dims.to_vec(), expected });
        }
    }
    if clean.dtype() != perturbed.dtype() {
        return Err(Error::UnsupportedDtype { operation, dtype: perturbed.dtype() });
    }
    with_element!(
        operation, clean, T => divergence_typed::<T>(clean, perturbed),
        cuda => crate::loss::cuda::kullback_leibler(clean, perturbed)
    )
}

fn divergence_typed<T: Element>(clean: &Tensor, perturbed: &Tensor) -> Result<Divergence> {
    let (hosts, classes) = ([Host::new(clean)?, Host::new(perturbed)?], clean.dims()[1]);
    let (clean_rows, perturbed_rows) = (hosts[0].read::<T>()?, hosts[1].read::<T>()?);
    let mut losses = Vec::with_capacity(clean_rows.len() / classes);
    let mut gradients = [Vec::with_capacity(clean_rows.len()), Vec::with_capacity(clean_rows.len())];
    for (clean, perturbed) in clean_rows.chunks_exact(classes).zip(perturbed_rows.chunks_exact(classes)) {
        let (p, q) = (log_softmax(clean), log_softmax(perturbed));
        let loss: f64 = p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum();
        let narrow = <T as WithDType>::from_f64;
        gradients[0].extend(p.iter().zip(&q).map(|(p, q)| narrow(p.exp() * (p - q - loss))));
        gradients[1].extend(p.iter().zip(&q).map(|(p, q)| narrow(q.exp() - p.exp())));
        losses.push(loss);
    }
    let [clean_gradient, perturbed_gradient] = gradients;
    Ok(Divergence {
        losses: Tensor::new(losses, &Device::Cpu)?,
        clean_gradient: tensor(clean_gradient, clean.shape())?,
        perturbed_gradient: tensor(perturbed_gradient, clean.shape())?,
    })
}

/// The logarithms of the softmax of a row.
fn log_softmax<T: Element>(logits: &[T]) -> Vec<f64> {
    let logits: Vec<f64> = logits.iter().map(|logit| logit.to_f64()).collect();
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let normaliser = largest + logits.iter().map(|logit| (logit - largest).exp()).sum::<f64>().ln();
    logits.into_iter().map(|logit| logit - normaliser).collect()
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::*;

    fn logits(values: &[f64]) -> Tensor {
        Tensor::from_slice(values, (2, values.len() / 2), &Device::Cpu).unwrap()
    }

    const CLEAN: [f64; 6] = [0.3, -1.2, 2.0, 30.0, 29.0, -40.0];
    const PERTURBED: [f64; 6] = [-0.4, 0.9, 1.1, 28.5, 30.0, -38.0];

    fn losses(divergence: &Divergence) -> Vec<f64> {
        divergence.losses.to_vec1().unwrap()
    }

    fn sum(clean: &[f64], perturbed: &[f64]) -> f64 {
        losses(&kullback_leibler(&logits(clean), &logits(perturbed)).unwrap()).iter().sum()
    }

    /// By hand: p = (0.8, 0.2), q = (0.5, 0.5).
    #[test]
    fn a_known_value() {
        let found = sum(&[4.0_f64.ln(), 0.0, 0.0, 0.0], &[7.0, 7.0, 0.0, 0.0]);
        let expected = 0.8 * 1.6_f64.ln() + 0.2 * 0.4_f64.ln();
        assert!((found - expected).abs() < 1e-14, "{found}");
    }

    #[test]
    fn both_gradients_agree_with_finite_differences() {
        /// Step of the central difference, whose error is of its square.
        const STEP: f64 = 1e-5;
        const LIMIT: f64 = 1e-8;
        let found = kullback_leibler(&logits(&CLEAN), &logits(&PERTURBED)).unwrap();
        let rows = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f64>().unwrap();
        let gradients = [rows(&found.clean_gradient), rows(&found.perturbed_gradient)];
        for index in 0..CLEAN.len() {
            for (side, gradient) in gradients.iter().enumerate() {
                let shifted = |shift: f64| {
                    let mut both = [CLEAN, PERTURBED];
                    both[side][index] += shift;
                    sum(&both[0], &both[1])
                };
                let expected = (shifted(STEP) - shifted(-STEP)) / (2.0 * STEP);
                assert!((gradient[index] - expected).abs() < LIMIT, "side {side}, logit {index}");
            }
        }
        // Adding a constant to all logits of a sample changes nothing.
        for gradient in &gradients {
            assert!(gradient.chunks(3).all(|row| row.iter().sum::<f64>().abs() < 1e-12));
        }
    }

    #[test]
    fn equal_logits_have_no_divergence_and_unequal_shapes_are_refused() {
        for dtype in [DType::F32, DType::F64] {
            let same = logits(&CLEAN).to_dtype(dtype).unwrap();
            let found = kullback_leibler(&same, &same).unwrap();
            assert_eq!(losses(&found), [0.0; 2]);
            for gradient in [found.clean_gradient, found.perturbed_gradient] {
                assert_eq!(gradient.dtype(), dtype);
                let values = gradient.to_dtype(DType::F64).unwrap().flatten_all().unwrap();
                assert!(values.to_vec1::<f64>().unwrap().iter().all(|value| *value == 0.0));
            }
        }
        let other = logits(&CLEAN[..4]);
        assert!(matches!(kullback_leibler(&logits(&CLEAN), &other), Err(Error::Shape { .. })));
        let single = logits(&CLEAN).to_dtype(DType::F32).unwrap();
        assert!(matches!(kullback_leibler(&logits(&CLEAN), &single), Err(Error::UnsupportedDtype { .. })));
    }
}
