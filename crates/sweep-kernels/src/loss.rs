//! Losses, with their gradient with respect to the logits.

use candle_core::Tensor;
use rayon::prelude::*;

use crate::element::Element;
use crate::elementwise;
use crate::host::{Host, tensor, with_element};
use crate::native::build_with;
use crate::softmax::softmax;
use crate::{Error, Result};

/// Cross entropy of each sample of a batch.
#[derive(Clone, Debug)]
pub struct CrossEntropy {
    /// The loss of each sample (N), in the dtype of the logits.
    pub losses: Tensor,
    /// The gradient (N, classes) of the **sum** of the losses: row n is the gradient of loss n.
    pub gradient: Tensor,
}

/// Cross entropy `log(sum(exp(logits))) - logits[label]` of each sample, as PyTorch's with `reduction="none"`.
///
/// `logits` is (N, classes), `labels` has N entries in `0..classes`.
///
/// # Errors
/// [`Error::Shape`] if the sizes disagree, [`Error::Label`] for a label out of range.
pub fn cross_entropy(logits: &Tensor, labels: &[u32]) -> Result<CrossEntropy> {
    with_element!("cross_entropy", logits, T => cross_entropy_typed::<T>(logits, labels))
}

/// The mean cross entropy and its gradient (N, classes) with respect to the logits.
///
/// # Errors
/// Those of [`cross_entropy`].
pub fn mean_cross_entropy(logits: &Tensor, labels: &[u32]) -> Result<(f64, Tensor)> {
    let CrossEntropy { losses, gradient } = cross_entropy(logits, labels)?;
    let losses = losses.to_dtype(candle_core::DType::F64)?.to_vec1::<f64>()?;
    let count = losses.len() as f64;
    Ok((losses.iter().sum::<f64>() / count, elementwise::scale(&gradient, 1.0 / count)?))
}

fn cross_entropy_typed<T: Element>(logits: &Tensor, labels: &[u32]) -> Result<CrossEntropy> {
    let (samples, classes) = check(logits, labels)?;
    let host = Host::new(logits)?;
    let input = host.read::<T>()?;
    let input = &*input;
    let mut losses = vec![T::zero(); samples];
    let gradient = build_with(
        input.len(),
        classes,
        losses.par_iter_mut(),
        #[inline(always)]
        |at, row, loss| {
            let label = labels[at / classes] as usize;
            row.copy_from_slice(&input[at..at + classes]);
            *loss = softmax(row) - input[at + label];
            row[label] -= T::one();
        },
    );
    Ok(CrossEntropy { losses: tensor(losses, samples)?, gradient: tensor(gradient, (samples, classes))? })
}

fn check(logits: &Tensor, labels: &[u32]) -> Result<(usize, usize)> {
    let (samples, classes) = match *logits.dims() {
        [samples, classes] if samples == labels.len() && samples > 0 && classes > 0 => (samples, classes),
        ref dims => {
            let expected = format!("({}, classes), not empty", labels.len());
            return Err(Error::Shape { operation: "cross_entropy", got: dims.to_vec(), expected });
        }
    };
    match labels.iter().position(|label| *label as usize >= classes) {
        Some(sample) => Err(Error::Label { sample, label: i64::from(labels[sample]), classes }),
        None => Ok((samples, classes)),
    }
}
