//! One epoch of adversarial fine-tuning (paper, C): perturbed images crafted in evaluation mode with frozen weights, then
//! forward and backward passes in training mode, gradients accumulated to the effective batch, one optimizer step.

use std::time::Instant;

use candle_core::Tensor;
use sweep_attacks::{Attack, Uniform, gaussian_start};
use sweep_core::event::Phase;
use sweep_core::random::{Purpose, Stream};
use sweep_core::schedule::Moment;
use sweep_core::spec::Objective;
use sweep_data::{Augmenter, Batch, Batches, epoch_order};
use sweep_kernels::{Gradients, Mode, Noise, clip_norm};

use crate::objective::{Accumulation, Contribution, Outcome, classify, trades};
use crate::session::Session;
use crate::{Error, Result, compute, network};

/// Standard deviation of the noise on a pixel at which the attack of TRADES starts (the authors' program): at the clean
/// image itself the divergence has no gradient.
const TRADES_START: f64 = 0.001;

/// What does not change within an epoch.
struct Epoch {
    attack: Attack,
    /// Optimizer steps.
    steps: u32,
}

impl Session<'_> {
    /// Trains from the current position to the end of its epoch.
    pub(crate) fn train_epoch(&mut self) -> Result<()> {
        let begin = Instant::now();
        let before = self.position.sums.seconds;
        let number = self.position.epoch();
        let images = self.dataset.train().len();
        let epoch = Epoch { attack: network::training_attack(&self.spec), steps: self.shape().steps() };
        let mut order = epoch_order(images, self.spec.seed, u64::from(number));
        order.drain(..(self.position.step * self.spec.batch_size).min(images) as usize);
        let augmenter = Augmenter::new(&self.spec.augmentation, self.spec.seed, u64::from(number))?;
        let mut batches =
            Batches::start(self.dataset.train().clone(), order, self.micro_batch, Some(augmenter))?;
        while self.position.step < epoch.steps {
            self.step(&epoch, &mut batches)?;
            self.position.sums.seconds = before + begin.elapsed().as_secs_f64();
            self.save_if_due()?;
        }
        let (seconds, waited) = (begin.elapsed().as_secs_f64(), batches.waited().as_secs_f64());
        tracing::debug!(epoch = number, seconds, waited, "trained; waited for images");
        Ok(())
    }

    /// One optimizer step. The last step of an epoch takes the images that are left and averages over those.
    fn step(&mut self, epoch: &Epoch, batches: &mut Batches) -> Result<()> {
        let done = self.position.step * self.spec.batch_size;
        let images = self.spec.batch_size.min(self.dataset.train().len() - done);
        let mut gradients = Gradients::wanted(self.model.parameters());
        let (mut statistics, mut outcomes) = (Vec::new(), Vec::new());
        let mut sums = self.position.sums;
        let mut seen = 0;
        while seen < images {
            // A step that is broken off here has changed nothing and is done again.
            self.stop_if_requested()?;
            let batch = batches.next().ok_or(sweep_data::Error::LoaderStopped)??;
            let first = seen;
            seen += batch.len() as u32;
            let mut into = Accumulation { gradients: &mut gradients, weight: 1.0 / f64::from(images) };
            let contribution = self.accumulate(epoch, batch, first, &mut into)?;
            statistics.extend(contribution.statistics);
            outcomes.push(contribution.outcome);
        }
        for outcome in outcomes {
            let (loss, correct) = self.read(&outcome)?;
            sums.loss += loss;
            sums.correct += correct;
        }
        sums.seen += images;
        self.clip(&mut gradients)?;
        let multiplier = self.learning_rate_multiplier(epoch.steps);
        self.model.update_statistics(&statistics)?;
        self.optimizer.step(self.model.parameters_mut(), &gradients, multiplier)?;
        if let Some(average) = &mut self.average {
            average.update(self.model.parameters())?;
        }
        self.position.sums = sums;
        self.position.step += 1;
        self.log.at(Phase::Training, self.position.epoch(), self.position.step, epoch.steps);
        Ok(())
    }

    fn clip(&self, gradients: &mut Gradients) -> Result<()> {
        let Some(limit) = self.spec.clip_norm else { return Ok(()) };
        let norm = clip_norm(gradients, limit)?;
        let (epoch, step) = self.position.place();
        if norm.is_finite() { Ok(()) } else { Err(Error::GradientNotFinite { epoch, step, norm }) }
    }

    /// Adds the gradient of one micro batch, which begins with image `first` of a step.
    fn accumulate(
        &mut self,
        epoch: &Epoch,
        batch: Batch,
        first: u32,
        into: &mut Accumulation<'_>,
    ) -> Result<Contribution> {
        let Batch { images: pixels, labels, indices } = batch;
        let clean = compute::images(&mut self.uploads, pixels, self.dataset.image_size(), &self.device)?;
        let mode = Mode::Train(Noise::new(self.noise_seed(), first.into()));
        let perturbed = self.perturb(epoch, &clean, &labels, &indices)?;
        match (self.spec.objective, &perturbed) {
            (_, None) => classify(&self.model, &clean, &labels, mode, into),
            (Objective::Adversarial, Some(images)) => classify(&self.model, images, &labels, mode, into),
            (Objective::Trades { beta }, Some(images)) => {
                trades(&self.model, [&clean, images], &labels, beta, mode, into)
            }
        }
    }

    /// Reads the losses of a micro batch, which must be finite.
    fn read(&self, outcome: &Outcome) -> Result<(f64, u32)> {
        let (loss, correct) = outcome.read()?;
        if loss.is_finite() {
            Ok((loss, correct))
        } else {
            Err(self.diverged(Phase::Training, loss / outcome.images() as f64))
        }
    }

    /// Attacks a micro batch whose images have the numbers `indices`; `None` where epsilon is 0.
    fn perturb(
        &self,
        epoch: &Epoch,
        clean: &Tensor,
        labels: &[u32],
        indices: &[u32],
    ) -> Result<Option<Tensor>> {
        let epsilon = self.epsilon(epoch.steps);
        if epsilon == 0.0 {
            return Ok(None);
        }
        let crafted = match self.spec.objective {
            Objective::Adversarial => epoch.attack.craft(&self.model, clean, labels, epsilon)?,
            Objective::Trades { .. } => {
                let (seed, epoch_number) = (self.spec.seed, self.position.epoch().into());
                let noise = |image: usize| -> Uniform {
                    let mut stream = Stream::new(seed, Purpose::Attack, epoch_number, indices[image].into());
                    Box::new(move || stream.uniform())
                };
                let starts = gaussian_start(epoch.attack.norm(), clean, TRADES_START, epsilon, &noise)?;
                epoch.attack.craft_from(&self.model, clean, &starts, labels, epsilon)?
            }
        };
        Ok(Some(crafted.images))
    }

    /// Returns the radius of the current step, of `steps` in the epoch; after the last one, that of the last.
    pub(crate) fn epsilon(&self, steps: u32) -> f64 {
        let accuracies = self.accuracies();
        let moment = Moment {
            epoch: self.position.epoch(),
            step: self.position.step.min(steps.saturating_sub(1)),
            steps,
            epochs: self.spec.epochs,
            seed: self.spec.seed,
            accuracies: &accuracies,
        };
        self.spec.epsilon_schedule.epsilon_at(moment, self.spec.target_epsilon)
    }

    /// Returns the seed of the current step's stochastic depth.
    fn noise_seed(&self) -> u64 {
        let (epoch, step) = self.position.place();
        Stream::new(self.spec.seed, Purpose::DropPath, epoch.into(), step.into()).bits()
    }

    /// Returns the failure of a batch whose mean `loss` is not finite.
    pub(crate) fn diverged(&self, phase: Phase, loss: f64) -> Error {
        let (epoch, step) = self.position.place();
        Error::Diverged { phase, epoch, step, loss }
    }

    /// Returns the multiplier of the learning rates in the current step.
    pub(crate) fn learning_rate_multiplier(&self, steps: u32) -> f64 {
        let step = self.position.step.min(steps.saturating_sub(1));
        self.spec.learning_rate_schedule.multiplier(self.position.epoch(), self.spec.epochs, step, steps)
    }
}
