//! Losses, with their gradient with respect to the logits.

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use crate::element::Element;
use crate::elementwise;
use crate::host::{Host, tensor, with_element};
use crate::native::build_with;
use crate::softmax::softmax;
use crate::{Error, Result};

#[cfg(feature = "cuda")]
pub(crate) mod cuda;

/// Cross entropy of each sample of a batch.
#[derive(Clone, Debug)]
pub struct CrossEntropy {
    /// The loss of each sample (N), in the dtype of the logits; on a GPU in F32.
    pub losses: Tensor,
    /// The gradient (N, classes) of the **sum** of the losses: row n is the gradient of loss n. Its dtype is that of the
    /// losses.
    pub gradient: Tensor,
}

/// The classes of a batch of images, checked once and kept where the logits will be.
#[derive(Clone, Debug)]
pub struct Labels {
    /// The same on the host.
    values: Vec<u32>,
    /// U32 (N).
    tensor: Tensor,
    classes: usize,
}

impl Labels {
    /// `labels` in `0..classes`, copied to `device`.
    ///
    /// # Errors
    /// [`Error::Label`] for a label out of range; failures of the device.
    pub fn new(labels: &[u32], classes: usize, device: &Device) -> Result<Self> {
        if let Some(sample) = labels.iter().position(|label| *label as usize >= classes) {
            return Err(Error::Label { sample, label: i64::from(labels[sample]), classes });
        }
        let tensor = Tensor::from_slice(labels, labels.len(), device)?;
        Ok(Self { values: labels.to_vec(), tensor, classes })
    }

    /// The labels on the host.
    pub fn values(&self) -> &[u32] {
        &self.values
    }

    /// The labels on the device: U32 (N).
    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    /// Number of samples and classes of `logits`, which must be those of the labels.
    fn sizes(&self, logits: &Tensor) -> Result<(usize, usize)> {
        let samples = check_shape(logits, self.values.len())?;
        match logits.dims()[1] {
            classes if classes == self.classes => Ok((samples, classes)),
            _ => {
                let expected = format!("({samples}, {}), as the labels were made for", self.classes);
                Err(Error::Shape { operation: "cross_entropy", got: logits.dims().to_vec(), expected })
            }
        }
    }
}

/// Cross entropy `log(sum(exp(logits))) - logits[label]` of each sample, as PyTorch's with `reduction="none"`.
///
/// `logits` is (N, classes), `labels` has N entries in `0..classes`. On a GPU the labels are copied there; with
/// [`cross_entropy_of`] that happens once for many calls.
///
/// # Errors
/// [`Error::Shape`] if the sizes disagree, [`Error::Label`] for a label out of range.
pub fn cross_entropy(logits: &Tensor, labels: &[u32]) -> Result<CrossEntropy> {
    check_shape(logits, labels.len())?;
    cross_entropy_of(logits, &Labels::new(labels, logits.dims()[1], logits.device())?)
}

/// [`cross_entropy`] with labels that were checked and copied before. Nothing waits for the GPU.
///
/// # Errors
/// [`Error::Shape`] if the sizes disagree.
pub fn cross_entropy_of(logits: &Tensor, labels: &Labels) -> Result<CrossEntropy> {
    let sizes = labels.sizes(logits)?;
    with_element!(
        "cross_entropy", logits, T => cross_entropy_typed::<T>(logits, &labels.values, sizes),
        cuda => cuda::cross_entropy(logits, labels)
    )
}

/// The mean cross entropy and its gradient (N, classes) with respect to the logits. Reads the losses, which waits for a GPU.
///
/// # Errors
/// Those of [`cross_entropy`].
pub fn mean_cross_entropy(logits: &Tensor, labels: &[u32]) -> Result<(f64, Tensor)> {
    let CrossEntropy { losses, gradient } = cross_entropy(logits, labels)?;
    let losses = losses.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
    let count = losses.len() as f64;
    Ok((losses.iter().sum::<f64>() / count, elementwise::scale(&gradient, 1.0 / count)?))
}

fn cross_entropy_typed<T: Element>(
    logits: &Tensor,
    labels: &[u32],
    (samples, classes): (usize, usize),
) -> Result<CrossEntropy> {
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

/// The number of samples of `logits`, which must be (`labels`, classes) and not empty.
fn check_shape(logits: &Tensor, labels: usize) -> Result<usize> {
    match *logits.dims() {
        [samples, classes] if samples == labels && samples > 0 && classes > 0 => Ok(samples),
        ref dims => {
            let expected = format!("({labels}, classes), not empty");
            Err(Error::Shape { operation: "cross_entropy", got: dims.to_vec(), expected })
        }
    }
}
