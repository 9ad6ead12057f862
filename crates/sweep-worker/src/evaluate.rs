//! Accuracy on complete splits, clean and under attack. Always evaluation mode; no image is ever dropped.

use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use sweep_attacks::{BrokenSamples, Start};
use sweep_core::epsilon::Epsilon;
use sweep_core::event::{Event, FailureClass, Phase, Split};
use sweep_data::Batch;
use sweep_kernels::{Classifier as _, cross_entropy};

use crate::checkpoint::{EpochRecord, Measured, Probe, Robust};
use crate::measure::{NamedAttack, Tested};
use crate::session::Session;
use crate::{Result, compute, network};

/// One pass over a split.
struct Pass<'a> {
    phase: Phase,
    split: sweep_data::Split,
    under: Under<'a>,
}

/// What the images of a pass are put to.
#[derive(Clone, Copy)]
enum Under<'a> {
    /// Nothing: clean images.
    Nothing,
    /// A search that goes on to its end, whatever it finds.
    Search(&'a Probe),
    /// An attack that leaves an image alone as soon as it is misclassified.
    Test(&'a NamedAttack, Epsilon),
}

/// Of the random numbers of an evaluation's attack: the same for all runs, as `sweep evaluate` has it.
const EVALUATION_SEED: u64 = 0;

impl Session<'_> {
    /// Validates the epoch that was just trained, reports it and moves on to the next. Robust accuracy is measured at the
    /// full target epsilon whatever the schedule says; every image is attacked to the end so that the robust loss is the
    /// mean of the largest losses found (paper, C).
    pub(crate) fn finish_epoch(&mut self) -> Result<()> {
        let clean = self.validate(None)?;
        let own = self.probe();
        let mut robust = Vec::new();
        if let Some(probe) = &own {
            robust.push(Robust::new(probe, self.validate(Some(probe))?));
        }
        for probe in self.companions_probes(own.as_ref()) {
            robust.extend(self.validate_for_others(&probe)?);
        }
        let record = self.record(clean, robust);
        let event = record.event(self.run, own.as_ref()).expect("the run's own probe comes first");
        self.log.write(event)?;
        self.position.complete(record);
        Ok(())
    }

    fn record(&self, clean: Measured, robust: Vec<Robust>) -> EpochRecord {
        let steps = self.shape().steps();
        let [base_rate, _] = network::rates(&self.spec.optimizer).learning;
        EpochRecord {
            epoch: self.position.epoch(),
            trained_by: self.run,
            epsilon: self.epsilon(steps),
            learning_rate: base_rate * self.learning_rate_multiplier(steps),
            train: self.position.sums,
            images: self.dataset.validation().len(),
            clean,
            robust,
        }
    }

    /// Measures what another run asks for. If its attack finds no finite losses, that run will find out for itself; this
    /// one goes on.
    fn validate_for_others(&mut self, probe: &Probe) -> Result<Option<Robust>> {
        match self.validate(Some(probe)) {
            Ok(measured) => Ok(Some(Robust::new(probe, measured))),
            Err(error) if error.class() == FailureClass::Diverged => {
                tracing::warn!(epsilon = %probe.epsilon, "not measured for others: {}", error.with_causes());
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Measures the validation split, clean without a probe.
    fn validate(&mut self, probe: Option<&Probe>) -> Result<Measured> {
        self.measure(&Pass {
            phase: Phase::Validation,
            split: self.dataset.validation().clone(),
            under: probe.map_or(Under::Nothing, Under::Search),
        })
    }

    /// Measures the test split at every radius that no earlier attempt has measured with the model of digest `model`.
    pub(crate) fn evaluate(&mut self, model: &str) -> Result<()> {
        let attack = NamedAttack::from(&self.spec.evaluation.attack);
        for epsilon in self.spec.evaluation.points(self.spec.target_epsilon) {
            let label = attack.label_at(epsilon);
            if self.is_evaluated(model, &label, epsilon) {
                continue;
            }
            let measured = self.measure(&Pass {
                phase: Phase::Evaluation,
                split: self.dataset.test().clone(),
                under: if epsilon.is_zero() { Under::Nothing } else { Under::Test(&attack, epsilon) },
            })?;
            self.log.write(Event::Evaluated {
                epochs: self.spec.epochs,
                split: Split::Test,
                attack: label,
                norm: attack.norm(),
                epsilon,
                correct: measured.correct,
                total: self.dataset.test().len(),
                seconds: measured.seconds,
            })?;
        }
        Ok(())
    }

    fn measure(&mut self, pass: &Pass<'_>) -> Result<Measured> {
        let begin = Instant::now();
        let size = self.micro_batch;
        let batches = (pass.split.len() as usize).div_ceil(size.get()) as u32;
        let mut measured = Measured { correct: 0, loss: 0.0, seconds: 0.0 };
        for (index, batch) in (0..).zip(pass.split.batches_in_order(size)?) {
            self.stop_if_requested()?;
            self.log.at(pass.phase, self.position.epoch(), index, batches);
            let (correct, loss) = self.measure_batch(batch?, pass)?;
            measured.correct += correct;
            measured.loss += loss;
        }
        measured.seconds = begin.elapsed().as_secs_f64();
        Ok(measured)
    }

    /// Returns the number of correct images and the sum of the losses, of which a test knows none.
    fn measure_batch(&mut self, batch: Batch, pass: &Pass<'_>) -> Result<(u32, f64)> {
        let Batch { images: pixels, labels, indices } = batch;
        let images = compute::images(&mut self.uploads, pixels, pass.split.image_size(), &self.device)?;
        match pass.under {
            Under::Nothing => self.measure_clean(&images, &labels, pass.phase),
            Under::Search(probe) => {
                let (attack, epsilon) = (network::attack(&probe.attack), probe.epsilon.value());
                let (start, broken) = (Start::Clean, BrokenSamples::Stay);
                let found =
                    attack.evaluate(self.measured_model(), &images, &labels, epsilon, start, broken)?;
                let loss = found.outcomes.iter().map(|outcome| outcome.best_loss).sum();
                Ok((found.still_correct_count() as u32, loss))
            }
            Under::Test(attack, epsilon) => {
                let batch = Tested { images: &images, labels: &labels, indices: &indices };
                let outcomes = attack.test(self.measured_model(), batch, epsilon, EVALUATION_SEED)?;
                Ok((outcomes.iter().filter(|outcome| outcome.still_correct()).count() as u32, 0.0))
            }
        }
    }

    fn measure_clean(&self, images: &Tensor, labels: &[u32], phase: Phase) -> Result<(u32, f64)> {
        let logits = self.measured_model().logits(images)?;
        let losses = cross_entropy(&logits, labels)?.losses.to_device(&Device::Cpu)?.to_vec1::<f32>()?;
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
    let rows = logits.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.to_vec2::<f32>()?;
    let largest = |row: &Vec<f32>| {
        (0..row.len()).fold(0, |best, class| if row[class] > row[best] { class } else { best })
    };
    Ok(rows.iter().zip(labels).filter(|(row, label)| largest(row) == **label as usize).count() as u32)
}
