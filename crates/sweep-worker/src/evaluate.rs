//! Accuracy on complete splits, clean and under attack. Always evaluation mode; no image is ever dropped.

use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use sweep_attacks::{Attack, BrokenSamples, Start};
use sweep_core::epsilon::Epsilon;
use sweep_core::event::{Event, Phase, Split};
use sweep_core::metrics::Count;
use sweep_core::spec::AttackSpec;
use sweep_data::Batch;
use sweep_kernels::{Classifier as _, cross_entropy};

use crate::Result;
use crate::checkpoint::{EpochSums, Position};
use crate::network;
use crate::session::Session;

/// A count over a complete split, and the losses behind it.
#[derive(Clone, Copy, Debug, Default)]
struct Measured {
    correct: u32,
    total: u32,
    loss: f64,
}

impl Measured {
    fn mean_loss(self) -> f64 {
        self.loss / f64::from(self.total)
    }
}

/// One pass over a split.
struct Pass<'a> {
    phase: Phase,
    split: sweep_data::Split,
    /// `None` for clean images.
    attack: Option<(&'a AttackSpec, Epsilon)>,
    broken: BrokenSamples,
}

impl Session<'_> {
    /// Validates the epoch that was just trained, reports it and moves on to the next. Robust accuracy is measured at the
    /// full target epsilon whatever the schedule says; every image is attacked to the end so that the robust loss is the
    /// mean of the largest losses found (paper, C).
    pub(crate) fn finish_epoch(&mut self) -> Result<()> {
        let begin = Instant::now();
        let attack = self.spec.validation.attack.clone();
        let target = self.spec.target_epsilon;
        let pass = |attack| Pass {
            phase: Phase::Validation,
            split: self.dataset.validation().clone(),
            attack,
            broken: BrokenSamples::Stay,
        };
        let (clean, robust) = (pass(None), pass((!target.is_zero()).then_some((&attack, target))));
        let is_standard = robust.attack.is_none();
        let clean = self.measure(&clean)?;
        let robust = if is_standard { clean } else { self.measure(&robust)? };
        let Position { epoch, sums, .. } = self.position;
        let steps = self.dataset.train().len().div_ceil(self.spec.batch_size);
        let [base_rate, _] = network::rates(&self.spec.optimizer).learning;
        self.log.write(Event::EpochFinished {
            epoch,
            epsilon: self.epsilon(steps),
            learning_rate: base_rate * self.learning_rate_multiplier(steps),
            train_loss: sums.loss / f64::from(sums.seen),
            train_correct: sums.correct,
            train_total: sums.seen,
            clean_correct: clean.correct,
            robust_correct: robust.correct,
            validation_total: clean.total,
            clean_loss: clean.mean_loss(),
            robust_loss: robust.mean_loss(),
            train_seconds: sums.seconds,
            validation_seconds: begin.elapsed().as_secs_f64(),
            trained_by: None,
        })?;
        self.record_accuracy(Count { correct: clean.correct, total: clean.total });
        self.position = Position { epoch: epoch + 1, step: 0, sums: EpochSums::default() };
        Ok(())
    }

    /// Measures the test split at every radius that no earlier attempt has measured with the model of digest `model`.
    pub(crate) fn evaluate(&mut self, model: &str) -> Result<()> {
        let spec = self.spec.evaluation.attack.clone();
        for epsilon in self.spec.evaluation.points(self.spec.target_epsilon) {
            let label = if epsilon.is_zero() { "none".to_owned() } else { spec.label() };
            if self.is_evaluated(model, &label, epsilon) {
                continue;
            }
            let begin = Instant::now();
            let measured = self.measure(&Pass {
                phase: Phase::Evaluation,
                split: self.dataset.test().clone(),
                attack: (!epsilon.is_zero()).then_some((&spec, epsilon)),
                broken: BrokenSamples::Leave,
            })?;
            self.log.write(Event::Evaluated {
                epochs: self.spec.epochs,
                split: Split::Test,
                attack: label,
                norm: spec.norm(),
                epsilon,
                correct: measured.correct,
                total: measured.total,
                seconds: begin.elapsed().as_secs_f64(),
            })?;
        }
        Ok(())
    }

    fn measure(&mut self, pass: &Pass<'_>) -> Result<Measured> {
        let size = self.micro_batch();
        let batches = (pass.split.len() as usize).div_ceil(size.get()) as u32;
        let mut measured = Measured::default();
        for (index, batch) in pass.split.batches_in_order(size)?.enumerate() {
            self.stop_if_requested()?;
            let (correct, loss) = self.measure_batch(batch?, pass)?;
            measured.correct += correct;
            measured.loss += loss;
            self.log.progress(pass.phase, self.position.epoch, index as u32, batches)?;
        }
        measured.total = pass.split.len();
        Ok(measured)
    }

    /// Returns the number of correct images and the sum of the losses.
    fn measure_batch(&self, batch: Batch, pass: &Pass<'_>) -> Result<(u32, f64)> {
        let Batch { images: pixels, labels, .. } = batch;
        let size = pass.split.image_size() as usize;
        let images = Tensor::from_vec(pixels, (labels.len(), 3, size, size), &Device::Cpu)?;
        match pass.attack {
            None => self.measure_clean(&images, &labels, pass.phase),
            Some((spec, epsilon)) => {
                let attack: Attack = network::attack(spec);
                let found = attack.evaluate(
                    self.measured_model(),
                    &images,
                    &labels,
                    epsilon.value(),
                    Start::Clean,
                    pass.broken,
                )?;
                let loss = found.outcomes.iter().map(|outcome| outcome.best_loss).sum();
                Ok((found.still_correct_count() as u32, loss))
            }
        }
    }

    fn measure_clean(&self, images: &Tensor, labels: &[u32], phase: Phase) -> Result<(u32, f64)> {
        let logits = self.measured_model().logits(images)?;
        let losses = cross_entropy(&logits, labels)?.losses.to_vec1::<f32>()?;
        let loss: f64 = losses.into_iter().map(f64::from).sum();
        if !loss.is_finite() {
            return Err(self.diverged(phase, loss / labels.len() as f64));
        }
        Ok((count_correct(&logits, labels)?, loss))
    }
}

/// Returns how many rows of `logits` (N, classes) are largest at their label; of equal logits the first counts, as in
/// PyTorch.
pub(crate) fn count_correct(logits: &Tensor, labels: &[u32]) -> Result<u32> {
    let rows = logits.to_dtype(DType::F32)?.to_vec2::<f32>()?;
    let largest = |row: &Vec<f32>| {
        (0..row.len()).fold(0, |best, class| if row[class] > row[best] { class } else { best })
    };
    Ok(rows.iter().zip(labels).filter(|(row, label)| largest(row) == **label as usize).count() as u32)
}
