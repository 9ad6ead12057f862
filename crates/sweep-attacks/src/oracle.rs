//! The classifier, asked about points that are on the host: what the attacks have in common that keep no point elsewhere.

use candle_core::{Device, Tensor};
use sweep_kernels::Classifier;

use crate::element::Element;
use crate::host::with_host_slice;
use crate::input::check_gradient;
use crate::objective::class_count;
use crate::report::Effort;
use crate::{Error, Result};

/// A classifier of images of one size.
pub(crate) struct Oracle<'a> {
    model: &'a dyn Classifier,
    image_dims: [usize; 3],
    device: Device,
    pub(crate) effort: Effort,
}

/// Logits of some points.
pub(crate) struct Answers<T> {
    logits: Vec<T>,
    classes: usize,
}

impl<T> Answers<T> {
    /// One row a point.
    pub(crate) fn rows(&self) -> std::slice::ChunksExact<'_, T> {
        self.logits.chunks_exact(self.classes)
    }
}

impl<'a> Oracle<'a> {
    /// `like` gives the image size and the device.
    pub(crate) fn new(model: &'a dyn Classifier, like: &Tensor) -> Result<Self> {
        let (_, channels, rows, columns) = like.dims4()?;
        let (device, effort) = (like.device().clone(), Effort::default());
        Ok(Self { model, image_dims: [channels, rows, columns], device, effort })
    }

    /// Channels, rows and columns of an image.
    pub(crate) const fn image_dims(&self) -> [usize; 3] {
        self.image_dims
    }

    /// Puts points into one tensor where the classifier is.
    pub(crate) fn batch<'p, T: Element>(
        &self,
        points: impl ExactSizeIterator<Item = &'p [T]>,
    ) -> Result<Tensor> {
        let [channels, rows, columns] = self.image_dims;
        let shape = (points.len(), channels, rows, columns);
        let pixels: Vec<T> = points.flatten().copied().collect();
        Ok(Tensor::from_vec(pixels, shape, &Device::Cpu)?.to_device(&self.device)?)
    }

    /// The logits of `points`; `samples` and `query` are named where one is not finite.
    pub(crate) fn ask<'p, T: Element>(
        &mut self,
        points: impl ExactSizeIterator<Item = &'p [T]>,
        samples: &[usize],
        query: usize,
    ) -> Result<Answers<T>> {
        let images = self.batch(points)?;
        self.effort.forward_images += samples.len();
        read(&self.model.logits(&images)?, samples, query)
    }

    /// The logits of `points`, and of each point the gradient of its target's logit minus its label's. `pairs` are labels and
    /// targets.
    pub(crate) fn ask_with_slopes<'p, T: Element>(
        &mut self,
        points: impl ExactSizeIterator<Item = &'p [T]>,
        pairs: &[(u32, u32)],
        samples: &[usize],
        query: usize,
    ) -> Result<(Answers<T>, Vec<T>)> {
        let images = self.batch(points)?;
        self.effort.forward_images += samples.len();
        self.effort.backward_images += samples.len();
        let (logits, tape) = self.model.record(&images)?;
        let answers = read(&logits, samples, query)?;
        let mut weights = vec![T::zero(); answers.logits.len()];
        for (row, &(label, target)) in weights.chunks_exact_mut(answers.classes).zip(pairs) {
            row[target as usize] += T::one();
            row[label as usize] -= T::one();
        }
        let weights = Tensor::from_vec(weights, logits.dims(), &Device::Cpu)?;
        let weights = weights.to_dtype(logits.dtype())?.to_device(logits.device())?;
        let gradient = self.model.input_gradient(tape, weights)?;
        check_gradient(&images, &gradient)?;
        let slopes = with_host_slice(&gradient, <[T]>::to_vec)?;
        let pixels = (slopes.len() / samples.len().max(1)).max(1);
        match slopes.iter().position(|slope| !slope.is_finite()) {
            Some(at) => Err(Error::NonFiniteGradient { sample: samples[at / pixels], query }),
            None => Ok((answers, slopes)),
        }
    }
}

/// Takes the logits of the images that are called `samples`.
fn read<T: Element>(logits: &Tensor, samples: &[usize], query: usize) -> Result<Answers<T>> {
    let classes = class_count(logits, samples.len())?;
    let logits = with_host_slice(logits, <[T]>::to_vec)?;
    match logits.iter().position(|logit| !logit.is_finite()) {
        Some(at) => {
            let (sample, loss) = (samples[at / classes], logits[at].to_f64());
            Err(Error::NonFiniteLoss { sample, query, loss })
        }
        None => Ok(Answers { logits, classes }),
    }
}
