//! What training minimises: the loss of one micro batch and its gradient.
//!
//! Works in f32 (training) and f64 (checking).

use candle_core::{DType, Tensor};
use sweep_kernels::{
    BatchStatistics, CrossEntropy, Gradients, Mode, Reading, Tape, add, cross_entropy, kullback_leibler,
    scale,
};
use sweep_models::Model;

use crate::evaluate::count_correct;
use crate::{Error, Result};

/// What one micro batch adds to a step, besides its gradient.
pub(crate) struct Contribution {
    pub(crate) outcome: Outcome,
    /// What the batch norms saw.
    pub(crate) statistics: Vec<BatchStatistics>,
}

/// The losses and predictions of a micro batch. On a GPU they may still be on their way.
pub(crate) struct Outcome {
    /// Cross entropy of each image (N).
    losses: Reading,
    /// Weight and value of each image's divergence (N).
    divergence: Option<(f64, Reading)>,
    /// Logits (N, classes) of the images that are counted: perturbed ones where there are any.
    logits: Reading,
    labels: Vec<u32>,
}

impl Outcome {
    fn new(
        losses: &Tensor,
        divergence: Option<(f64, &Tensor)>,
        logits: &Tensor,
        labels: &[u32],
    ) -> Result<Self> {
        let divergence = divergence.map(|(weight, losses)| Ok::<_, Error>((weight, Reading::new(losses)?)));
        Ok(Self {
            losses: Reading::new(losses)?,
            divergence: divergence.transpose()?,
            logits: Reading::new(logits)?,
            labels: labels.to_vec(),
        })
    }

    /// Returns the number of images.
    pub(crate) fn images(&self) -> usize {
        self.labels.len()
    }

    /// Returns the sum of the losses and the number of images classified correctly. Waits until they are there.
    pub(crate) fn finish(self) -> Result<(f64, u32)> {
        let mut loss = sum(&self.losses.finish()?)?;
        if let Some((weight, divergence)) = self.divergence {
            loss += weight * sum(&divergence.finish()?)?;
        }
        Ok((loss, count_correct(&self.logits.finish()?, &self.labels)?))
    }
}

/// Where gradients go, and how much an image counts: 1 / (images of the effective batch).
pub(crate) struct Accumulation<'a> {
    pub(crate) gradients: &'a mut Gradients,
    pub(crate) weight: f64,
}

/// Cross entropy on `images` (N, 3, H, W), which are perturbed ones in classic adversarial training and clean ones in
/// standard training.
pub(crate) fn classify(
    model: &Model,
    images: &Tensor,
    labels: &[u32],
    mode: Mode,
    into: &mut Accumulation<'_>,
) -> Result<Contribution> {
    let mut tape = Tape::recording();
    let logits = model.forward(images, &mut tape, mode)?.logits;
    let CrossEntropy { losses, gradient } = cross_entropy(&logits, labels)?;
    let outcome = Outcome::new(&losses, None, &logits, labels)?;
    let statistics = tape.take_statistics();
    model.backward(scale(&gradient, into.weight)?, tape, into.gradients)?;
    Ok(Contribution { outcome, statistics })
}

/// TRADES (Zhang et al. 2019): cross entropy on clean images plus `beta` times KL(f(clean) ‖ f(perturbed)). The gradient
/// flows into both outputs, as in the authors' program.
///
/// Both passes have the same `mode`, noise included: stochastic depth drops the same branches, so that the divergence is
/// that of the perturbation. (The authors' networks have no such noise.) Batch norms normalise each of the two batches
/// by itself and see the clean one first. Where nothing is perturbed the divergence is 0 with its gradient, and
/// [`classify`] on the clean images is the same loss for less.
pub(crate) fn trades(
    model: &Model,
    [clean, perturbed]: [&Tensor; 2],
    labels: &[u32],
    beta: f64,
    mode: Mode,
    into: &mut Accumulation<'_>,
) -> Result<Contribution> {
    let (mut clean_tape, mut perturbed_tape) = (Tape::recording(), Tape::recording());
    let clean_logits = model.forward(clean, &mut clean_tape, mode)?.logits;
    let logits = model.forward(perturbed, &mut perturbed_tape, mode)?.logits;
    let CrossEntropy { losses, gradient } = cross_entropy(&clean_logits, labels)?;
    let divergence = kullback_leibler(&clean_logits, &logits)?;
    let outcome = Outcome::new(&losses, Some((beta, &divergence.losses)), &logits, labels)?;
    let mut statistics = clean_tape.take_statistics();
    statistics.extend(perturbed_tape.take_statistics());

    let of_divergence = beta * into.weight;
    let perturbed_gradient = scale(&divergence.perturbed_gradient, of_divergence)?;
    model.backward(perturbed_gradient, perturbed_tape, into.gradients)?;
    let clean_gradient =
        add(&scale(&gradient, into.weight)?, &scale(&divergence.clean_gradient, of_divergence)?)?;
    model.backward(clean_gradient, clean_tape, into.gradients)?;
    Ok(Contribution { outcome, statistics })
}

fn sum(losses: &Tensor) -> Result<f64> {
    Ok(losses.to_dtype(DType::F64)?.to_vec1::<f64>()?.iter().sum())
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use sweep_core::random::{Purpose, Stream};
    use sweep_kernels::Noise;
    use sweep_models::{Architecture, ResnetBlock, ResnetConfig, VitConfig};

    use super::*;

    const IMAGES: usize = 6;
    const BETA: f64 = 6.0;

    fn vit() -> Architecture {
        let shape = VitConfig {
            image_size: 8,
            patch_size: 4,
            embed_dim: 8,
            depth: 2,
            num_heads: 2,
            ..VitConfig::base()
        };
        Architecture::Vit(shape).with_classes(3)
    }

    fn resnet() -> Architecture {
        let shape = ResnetConfig {
            image_size: 32,
            block: ResnetBlock::Basic,
            layers: vec![1; 4],
            channels: vec![4; 4],
            ..ResnetConfig::base()
        };
        Architecture::Resnet(shape).with_classes(3)
    }

    fn uniforms(index: u64) -> impl FnMut() -> f64 {
        let mut stream = Stream::new(5, Purpose::Initialization, 0, index);
        move || stream.uniform()
    }

    fn model(architecture: Architecture) -> Model {
        Model::new(architecture, DType::F64, &mut uniforms(0)).unwrap()
    }

    /// Clean images, the same a little perturbed, and labels.
    fn batch(side: usize) -> (Tensor, Tensor, Vec<u32>) {
        let mut draw = uniforms(1);
        let pixels: Vec<f64> = (0..IMAGES * 3 * side * side).map(|_| draw()).collect();
        let moved: Vec<f64> =
            pixels.iter().map(|pixel| (pixel + 0.2 * (draw() - 0.5)).clamp(0.0, 1.0)).collect();
        let tensor =
            |pixels: Vec<f64>| Tensor::from_vec(pixels, (IMAGES, 3, side, side), &Device::Cpu).unwrap();
        (tensor(pixels), tensor(moved), (0..IMAGES as u32).map(|image| image % 3).collect())
    }

    fn mode(first: u64) -> Mode {
        Mode::Train(Noise::new(3, first))
    }

    /// The mean TRADES loss of the batch, and its gradients.
    fn evaluate(model: &Model, side: usize) -> (f64, Gradients) {
        let (clean, perturbed, labels) = batch(side);
        let mut gradients = Gradients::wanted(model.parameters());
        let mut into = Accumulation { gradients: &mut gradients, weight: 1.0 / IMAGES as f64 };
        let found = trades(model, [&clean, &perturbed], &labels, BETA, mode(0), &mut into).unwrap();
        (found.outcome.finish().unwrap().0 / IMAGES as f64, gradients)
    }

    /// All parameters move along a random direction; the slope of the loss is the sum of the products with the gradient.
    #[test]
    fn the_gradient_of_trades_agrees_with_finite_differences() {
        /// So small that no ReLU and no maximum changes sides on the way.
        const STEP: f64 = 1e-8;
        /// Relative to the slope: rounding of losses of about 10, divided by the step.
        const LIMIT: f64 = 1e-6;
        for (architecture, side) in [(vit(), 8), (resnet(), 32)] {
            let mut model = model(architecture);
            let (_, gradients) = evaluate(&model, side);
            let mut draw = uniforms(2);
            let mut direction = Vec::new();
            let mut slope = 0.0;
            for (id, gradient) in gradients.iter() {
                let along: Vec<f64> = (0..gradient.elem_count()).map(|_| draw() - 0.5).collect();
                let values = gradient.flatten_all().unwrap().to_vec1::<f64>().unwrap();
                slope += values.iter().zip(&along).map(|(left, right)| left * right).sum::<f64>();
                direction.push((id, Tensor::from_vec(along, gradient.shape(), &Device::Cpu).unwrap()));
            }
            let mut shifted = |shift: f64| {
                for (id, along) in &direction {
                    let moved = (model.parameters().get(*id) + (along * shift).unwrap()).unwrap();
                    model.parameters_mut().set(*id, moved).unwrap();
                }
                evaluate(&model, side).0
            };
            let (above, below) = (shifted(STEP), shifted(-2.0 * STEP));
            let expected = (above - below) / (2.0 * STEP);
            assert!((slope / expected - 1.0).abs() < LIMIT, "{slope} instead of {expected}");
        }
    }

    #[test]
    fn without_perturbation_trades_is_cross_entropy_on_clean_images() {
        let (model, (clean, _, labels)) = (model(vit()), batch(8));
        let mut gradients = [Gradients::wanted(model.parameters()), Gradients::wanted(model.parameters())];
        let [ref mut left, ref mut right] = gradients;
        let mut into = Accumulation { gradients: left, weight: 1.0 };
        let both = trades(&model, [&clean, &clean], &labels, BETA, mode(0), &mut into).unwrap();
        let mut into = Accumulation { gradients: right, weight: 1.0 };
        let one = classify(&model, &clean, &labels, mode(0), &mut into).unwrap();
        assert_eq!(both.outcome.finish().unwrap(), one.outcome.finish().unwrap());
        for ((_, left), (_, right)) in gradients[0].iter().zip(gradients[1].iter()) {
            let values = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f64>().unwrap();
            assert_eq!(values(left), values(right));
        }
    }

    #[test]
    fn micro_batches_add_up_to_the_batch() {
        /// In f64 only the order of summation differs.
        const LIMIT: f64 = 1e-12;
        let (model, (clean, perturbed, labels)) = (model(vit()), batch(8));
        let (loss, whole) = evaluate(&model, 8);
        let mut parts = Gradients::wanted(model.parameters());
        let mut sum = 0.0;
        for (first, count) in [(0, 1), (1, 3), (4, 2)] {
            let cut = |images: &Tensor| images.narrow(0, first, count).unwrap().contiguous().unwrap();
            let mut into = Accumulation { gradients: &mut parts, weight: 1.0 / IMAGES as f64 };
            let images = [&cut(&clean), &cut(&perturbed)];
            let labels = &labels[first..first + count];
            sum += trades(&model, images, labels, BETA, mode(first as u64), &mut into)
                .unwrap()
                .outcome
                .finish()
                .unwrap()
                .0;
        }
        assert!((sum / IMAGES as f64 - loss).abs() < LIMIT);
        for ((_, part), (_, whole)) in parts.iter().zip(whole.iter()) {
            let difference = (part - whole).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap();
            assert!(difference.to_scalar::<f64>().unwrap() < LIMIT);
        }
    }

    #[test]
    fn batch_norms_see_the_clean_images_first() {
        let (model, (clean, perturbed, labels)) = (model(resnet()), batch(32));
        let mut gradients = Gradients::wanted(model.parameters());
        let mut into = Accumulation { gradients: &mut gradients, weight: 1.0 };
        let both = trades(&model, [&clean, &perturbed], &labels, BETA, mode(0), &mut into).unwrap();
        let first = classify(&model, &clean, &labels, mode(0), &mut into).unwrap();
        assert_eq!(both.statistics.len(), 2 * first.statistics.len());
        let text = |statistics: &[BatchStatistics]| format!("{statistics:?}");
        assert_eq!(text(&both.statistics[..first.statistics.len()]), text(&first.statistics));
    }
}
