//! One epoch of adversarial fine-tuning (paper, C): perturbed images crafted in evaluation mode with frozen weights, then
//! forward and backward passes in training mode, gradients accumulated to the effective batch, one optimizer step.

use std::time::Instant;

use candle_core::{Device, Tensor};
use sweep_attacks::{Attack, Crafting, PendingReport, Uniform, gaussian_start};
use sweep_core::event::Phase;
use sweep_core::random::{Purpose, Stream};
use sweep_core::schedule::Moment;
use sweep_core::spec::Objective;
use sweep_data::{Augmenter, Batch, Batches, epoch_order};
use sweep_kernels::{Gradients, Mode, Noise, NormBefore, clip_norm};

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
    clock: Clock,
}

/// Times an epoch.
#[derive(Clone, Copy)]
struct Clock {
    begin: Instant,
    /// Seconds that earlier attempts took for it.
    before: f64,
}

impl Clock {
    fn seconds(self) -> f64 {
        self.before + self.begin.elapsed().as_secs_f64()
    }
}

/// What a step that was enqueued will have to say: whether its numbers were finite, and how well the model did.
pub(crate) struct Unread {
    /// The place of the step: completed epochs, and steps before it.
    place: (u32, u32),
    /// That of its epoch.
    clock: Clock,
    attacks: Vec<PendingReport>,
    outcomes: Vec<Outcome>,
    /// The norm of the gradient, where it is clipped.
    norm: Option<NormBefore>,
}

impl Session<'_> {
    /// Trains from the current position to the end of its epoch.
    pub(crate) fn train_epoch(&mut self) -> Result<()> {
        let clock = Clock { begin: Instant::now(), before: self.position.sums.seconds };
        let number = self.position.epoch();
        let images = self.dataset.train().len();
        let epoch =
            Epoch { attack: network::training_attack(&self.spec), steps: self.shape().steps(), clock };
        let mut order = epoch_order(images, self.spec.seed, u64::from(number));
        order.drain(..(self.position.step * self.spec.batch_size).min(images) as usize);
        let augmenter = Augmenter::new(&self.spec.augmentation, self.spec.seed, u64::from(number))?;
        let mut batches =
            Batches::start(self.dataset.train().clone(), order, self.micro_batch, Some(augmenter))?;
        while self.position.step < epoch.steps {
            self.step(&epoch, &mut batches)?;
            self.save_if_due()?;
        }
        self.settle()?;
        let (seconds, waited) = (clock.begin.elapsed().as_secs_f64(), batches.waited().as_secs_f64());
        tracing::debug!(epoch = number, seconds, waited, "trained; waited for images");
        Ok(())
    }

    /// One optimizer step. The last step of an epoch takes the images that are left and averages over those.
    ///
    /// On a GPU the step is enqueued, and what it has to say is read when the next one is enqueued too: the GPU never waits
    /// for the host to look at a number.
    fn step(&mut self, epoch: &Epoch, batches: &mut Batches) -> Result<()> {
        let done = self.position.step * self.spec.batch_size;
        let images = self.spec.batch_size.min(self.dataset.train().len() - done);
        let mut gradients = Gradients::wanted(self.model.parameters());
        let (place, mut statistics) = (self.position.place(), Vec::new());
        let mut unread =
            Unread { place, clock: epoch.clock, attacks: Vec::new(), outcomes: Vec::new(), norm: None };
        let mut seen = 0;
        while seen < images {
            // A step that is broken off here has changed nothing and is done again.
            self.stop_if_requested()?;
            let batch = batches.next().ok_or(sweep_data::Error::LoaderStopped)??;
            let first = seen;
            seen += batch.len() as u32;
            let mut into = Accumulation { gradients: &mut gradients, weight: 1.0 / f64::from(images) };
            let contribution = self.accumulate(epoch, batch, first, &mut into, &mut unread.attacks)?;
            statistics.extend(contribution.statistics);
            unread.outcomes.push(contribution.outcome);
        }
        unread.norm = self.spec.clip_norm.map(|limit| clip_norm(&mut gradients, limit)).transpose()?;
        let multiplier = self.learning_rate_multiplier(epoch.steps);
        self.model.update_statistics(&statistics)?;
        self.optimizer.step(self.model.parameters_mut(), &gradients, multiplier)?;
        if let Some(average) = &mut self.average {
            average.update(self.model.parameters())?;
        }
        self.position.step += 1;
        self.settle()?;
        self.unread = Some(unread);
        if self.device.is_cpu() {
            self.settle()?;
        }
        self.log.at(Phase::Training, self.position.epoch(), self.position.step, epoch.steps);
        Ok(())
    }

    /// Takes in what the last step has to say, once the device is done with it. Nothing is saved before.
    pub(crate) fn settle(&mut self) -> Result<()> {
        let Some(Unread { place: (epoch, step), clock, attacks, outcomes, norm }) = self.unread.take() else {
            return Ok(());
        };
        attacks.into_iter().try_for_each(PendingReport::check)?;
        let sums = &mut self.position.sums;
        for outcome in outcomes {
            let images = outcome.images();
            let (loss, correct) = outcome.finish()?;
            if !loss.is_finite() {
                let loss = loss / images as f64;
                return Err(Error::Diverged { phase: Phase::Training, epoch, step, loss });
            }
            sums.loss += loss;
            sums.correct += correct;
            sums.seen += images as u32;
        }
        if let Some(norm) = norm.map(NormBefore::finish).transpose()?.filter(|norm| !norm.is_finite()) {
            return Err(Error::GradientNotFinite { epoch, step, norm });
        }
        sums.seconds = clock.seconds();
        Ok(())
    }

    /// Adds the gradient of one micro batch, which begins with image `first` of a step, and what its attack will have to
    /// say to `attacks`.
    fn accumulate(
        &mut self,
        epoch: &Epoch,
        batch: Batch,
        first: u32,
        into: &mut Accumulation<'_>,
        attacks: &mut Vec<PendingReport>,
    ) -> Result<Contribution> {
        let Batch { images: pixels, labels, indices } = batch;
        let epsilon = self.epsilon(epoch.steps);
        let start = self.start(epoch, epsilon, &pixels, &indices)?;
        let clean = compute::images(&mut self.uploads, pixels, self.dataset.image_size(), &self.device)?;
        let mode = Mode::Train(Noise::new(self.noise_seed(), first.into()));
        if epsilon == 0.0 {
            return classify(&self.model, &clean, &labels, mode, into);
        }
        let Crafting { images, report } = match &start {
            None => epoch.attack.begin(&self.model, &clean, &labels, epsilon)?,
            Some(start) => epoch.attack.begin_from(&self.model, &clean, start, &labels, epsilon)?,
        };
        attacks.push(report);
        match self.spec.objective {
            Objective::Adversarial => classify(&self.model, &images, &labels, mode, into),
            Objective::Trades { beta } => trades(&self.model, [&clean, &images], &labels, beta, mode, into),
        }
    }

    /// Returns where an attack within `epsilon` on the images that have these `pixels` and numbers begins; `None` for the
    /// images themselves. Drawn on the host, whatever the device.
    fn start(
        &mut self,
        epoch: &Epoch,
        epsilon: f64,
        pixels: &[f32],
        indices: &[u32],
    ) -> Result<Option<Tensor>> {
        if epsilon == 0.0 || !matches!(self.spec.objective, Objective::Trades { .. }) {
            return Ok(None);
        }
        let (seed, number, side) = (self.spec.seed, self.position.epoch().into(), self.dataset.image_size());
        let noise = |image: usize| -> Uniform {
            let mut stream = Stream::new(seed, Purpose::Attack, number, indices[image].into());
            Box::new(move || stream.uniform())
        };
        let shape = (indices.len(), 3, side as usize, side as usize);
        let clean = Tensor::from_slice(pixels, shape, &Device::Cpu)?;
        let start = gaussian_start(epoch.attack.norm(), &clean, TRADES_START, epsilon, &noise)?;
        if self.device.is_cpu() {
            return Ok(Some(start));
        }
        let start = start.flatten_all()?.to_vec1::<f32>()?;
        Ok(Some(compute::images(&mut self.uploads, start, side, &self.device)?))
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
