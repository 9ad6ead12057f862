//! One epoch of adversarial fine-tuning (paper, C): perturbed images crafted in evaluation mode with frozen weights, then
//! one forward and backward pass in training mode, gradients accumulated to the effective batch, one optimizer step.

use std::num::NonZeroUsize;
use std::time::Instant;

use candle_core::{Device, Tensor};
use sweep_attacks::Attack;
use sweep_core::event::Phase;
use sweep_core::random::{Purpose, Stream};
use sweep_data::{Augmenter, Batch, Batches, epoch_order};
use sweep_kernels::{BatchStatistics, Gradients, Mode, Noise, Tape, cross_entropy};

use crate::checkpoint::Position;
use crate::evaluate::count_correct;
use crate::network;
use crate::session::Session;
use crate::{Error, Result};

/// What does not change within an epoch.
struct Epoch {
    attack: Attack,
    /// Radius of this epoch, by the epsilon schedule.
    epsilon: f64,
    /// Optimizer steps.
    steps: u32,
}

impl Session<'_> {
    /// Trains from the current position to the end of its epoch.
    pub(crate) fn train_epoch(&mut self) -> Result<()> {
        let begin = Instant::now();
        let before = self.position.sums.seconds;
        let number = self.position.epoch;
        let images = self.dataset.train().len();
        let epoch = Epoch {
            attack: network::attack(&self.spec.attack),
            epsilon: self.spec.epsilon_schedule.epsilon_at(number, self.spec.target_epsilon, self.spec.seed),
            steps: images.div_ceil(self.spec.batch_size),
        };
        let mut order = epoch_order(images, self.spec.seed, u64::from(number));
        order.drain(..(self.position.step * self.spec.batch_size).min(images) as usize);
        let augmenter = Augmenter::new(&self.spec.augmentation, self.spec.seed, u64::from(number))?;
        let mut batches =
            Batches::start(self.dataset.train().clone(), order, self.micro_batch(), Some(augmenter))?;
        while self.position.step < epoch.steps {
            self.step(&epoch, &mut batches)?;
            self.position.sums.seconds = before + begin.elapsed().as_secs_f64();
        }
        Ok(())
    }

    pub(crate) fn micro_batch(&self) -> NonZeroUsize {
        NonZeroUsize::new(self.spec.micro_batch_size as usize).unwrap_or(NonZeroUsize::MIN)
    }

    /// One optimizer step. The last step of an epoch takes the images that are left and averages over those.
    fn step(&mut self, epoch: &Epoch, batches: &mut Batches) -> Result<()> {
        let done = self.position.step * self.spec.batch_size;
        let images = self.spec.batch_size.min(self.dataset.train().len() - done);
        let mut gradients = Gradients::wanted(self.model.parameters());
        let mut statistics = Vec::new();
        let mut sums = self.position.sums;
        let mut seen = 0;
        while seen < images {
            // A step that is broken off here has changed nothing and is done again.
            self.stop_if_requested()?;
            let batch = batches.next().ok_or(sweep_data::Error::LoaderStopped)??;
            let first = seen;
            seen += batch.len() as u32;
            let (loss, correct, batch) = self.accumulate(epoch, batch, first, images, &mut gradients)?;
            statistics.extend(batch);
            sums.loss += loss;
            sums.correct += correct;
        }
        sums.seen += images;
        let multiplier = self.learning_rate_multiplier(epoch.steps);
        self.model.update_statistics(&statistics)?;
        self.optimizer.step(self.model.parameters_mut(), &gradients, multiplier)?;
        self.position.sums = sums;
        self.position.step += 1;
        self.log.progress(Phase::Training, self.position.epoch, self.position.step, epoch.steps)
    }

    /// Adds the gradient of one micro batch, which begins with image `first` of a step of `images` images. Returns the
    /// sum of its losses, the number of images classified correctly, and what its batch norms saw.
    fn accumulate(
        &self,
        epoch: &Epoch,
        batch: Batch,
        first: u32,
        images: u32,
        gradients: &mut Gradients,
    ) -> Result<(f64, u32, Vec<BatchStatistics>)> {
        let Batch { images: pixels, labels, .. } = batch;
        let size = self.dataset.image_size() as usize;
        let clean = Tensor::from_vec(pixels, (labels.len(), 3, size, size), &Device::Cpu)?;
        let perturbed = epoch.attack.craft(&self.model, &clean, &labels, epoch.epsilon)?.images;
        let mut tape = Tape::recording();
        let mode = Mode::Train(Noise::new(self.noise_seed(), first.into()));
        let logits = self.model.forward(&perturbed, &mut tape, mode)?.logits;
        let loss = cross_entropy(&logits, &labels)?;
        let sum: f64 = loss.losses.to_vec1::<f32>()?.into_iter().map(f64::from).sum();
        if !sum.is_finite() {
            return Err(self.diverged(Phase::Training, sum / labels.len() as f64));
        }
        let mean = loss.gradient.affine(1.0 / f64::from(images), 0.0)?;
        let statistics = tape.take_statistics();
        self.model.backward(mean, tape, gradients)?;
        Ok((sum, count_correct(&logits, &labels)?, statistics))
    }

    /// Returns the seed of the current step's stochastic depth.
    fn noise_seed(&self) -> u64 {
        let Position { epoch, step, .. } = self.position;
        Stream::new(self.spec.seed, Purpose::DropPath, epoch.into(), step.into()).bits()
    }

    /// Returns the failure of a batch whose mean `loss` is not finite.
    pub(crate) fn diverged(&self, phase: Phase, loss: f64) -> Error {
        let Position { epoch, step, .. } = self.position;
        Error::Diverged { phase, epoch, step, loss }
    }

    /// Returns the multiplier of the learning rates in the current step.
    pub(crate) fn learning_rate_multiplier(&self, steps: u32) -> f64 {
        let step = self.position.step.min(steps.saturating_sub(1));
        self.spec.learning_rate_schedule.multiplier(self.position.epoch, self.spec.epochs, step, steps)
    }
}
