//! What is recorded of an epoch: everything that its event says, and what other runs need to know of it.

use serde::{Deserialize, Serialize};
use sweep_core::epsilon::Epsilon;
use sweep_core::event::Event;
use sweep_core::metrics::Count;
use sweep_core::spec::{AttackSpec, Norm, RunId};
use sweep_core::trajectory::Companion;

/// Sums over the training images of an epoch, or of its steps so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct EpochSums {
    /// Sum of the losses.
    #[serde(with = "bits")]
    pub(crate) loss: f64,
    /// Images classified correctly.
    pub(crate) correct: u32,
    /// Images seen.
    pub(crate) seen: u32,
    /// Seconds spent.
    #[serde(with = "bits")]
    pub(crate) seconds: f64,
}

/// One pass over the validation split.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// Images classified correctly.
    pub(crate) correct: u32,
    /// Sum of the losses.
    #[serde(with = "bits")]
    pub(crate) loss: f64,
    /// Seconds spent.
    #[serde(with = "bits")]
    pub(crate) seconds: f64,
}

/// A robust accuracy that somebody wants to know after every epoch: under which attack, at which radius. There is none at
/// radius 0, where robust means clean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Probe {
    pub(crate) attack: AttackSpec,
    pub(crate) epsilon: Epsilon,
}

impl Probe {
    /// Returns what a run with this validation attack and target measures; `None` at target 0.
    pub(crate) fn new(attack: &AttackSpec, target: Epsilon) -> Option<Self> {
        (!target.is_zero()).then(|| Self { attack: attack.clone(), epsilon: target })
    }

    /// Returns what another run measures.
    pub(crate) fn of(companion: &Companion) -> Option<Self> {
        Self::new(&companion.attack, companion.target_epsilon)
    }
}

/// The answer to a [`Probe`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Robust {
    /// The attack's label, which with the norm says all of it.
    attack: String,
    norm: Norm,
    epsilon: Epsilon,
    measured: Measured,
}

impl Robust {
    pub(crate) fn new(probe: &Probe, measured: Measured) -> Self {
        let Probe { attack, epsilon } = probe;
        Self { attack: attack.label(), norm: attack.norm(), epsilon: *epsilon, measured }
    }

    fn answers(&self, probe: &Probe) -> bool {
        let Probe { attack, epsilon } = probe;
        self.epsilon == *epsilon && self.norm == attack.norm() && self.attack == attack.label()
    }
}

/// One epoch: how it was trained and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct EpochRecord {
    /// Its number, from 0.
    pub(crate) epoch: u32,
    /// The run whose worker trained it.
    pub(crate) trained_by: RunId,
    /// Epsilon at its last step.
    #[serde(with = "bits")]
    pub(crate) epsilon: f64,
    /// Learning rate of the backbone at its last step.
    #[serde(with = "bits")]
    pub(crate) learning_rate: f64,
    pub(crate) train: EpochSums,
    /// Validation images.
    pub(crate) images: u32,
    /// On clean validation images.
    pub(crate) clean: Measured,
    /// On perturbed ones, each attack and radius once.
    pub(crate) robust: Vec<Robust>,
}

impl EpochRecord {
    /// Returns the robust accuracy that `probe` asks for, which without one is the clean one at no cost; `None` where it
    /// was not measured.
    pub(crate) fn robust(&self, probe: Option<&Probe>) -> Option<Measured> {
        match probe {
            None => Some(Measured { seconds: 0.0, ..self.clean }),
            Some(probe) => self.robust.iter().find(|found| found.answers(probe)).map(|found| found.measured),
        }
    }

    /// Returns the fraction of validation images classified correctly.
    pub(crate) fn clean_accuracy(&self) -> f64 {
        Count { correct: self.clean.correct, total: self.images }.accuracy()
    }

    /// Returns what `run`, which validates with `probe`, says about the epoch; `None` where that was not measured.
    pub(crate) fn event(&self, run: RunId, probe: Option<&Probe>) -> Option<Event> {
        let robust = self.robust(probe)?;
        let Self { clean, train, .. } = *self;
        let images = f64::from(self.images);
        Some(Event::EpochFinished {
            epoch: self.epoch,
            epsilon: self.epsilon,
            learning_rate: self.learning_rate,
            train_loss: train.loss / f64::from(train.seen),
            train_correct: train.correct,
            train_total: train.seen,
            clean_correct: clean.correct,
            robust_correct: robust.correct,
            validation_total: self.images,
            clean_loss: clean.loss / images,
            robust_loss: robust.loss / images,
            train_seconds: train.seconds,
            validation_seconds: clean.seconds + robust.seconds,
            trained_by: (self.trained_by != run).then_some(self.trained_by),
        })
    }

    /// Says what is impossible about the record of epoch number `epoch`, read from a file.
    pub(super) fn check(&self, epoch: usize) -> Result<(), String> {
        let fault = |what: &str| Err(format!("in its record of epoch {epoch}, {what}"));
        if self.epoch as usize != epoch {
            return fault("the number of the epoch is another one");
        }
        let is_sound = |measured: &Measured| measured.is_sound(self.images);
        let are_rates = [self.epsilon, self.learning_rate].iter().all(|rate| is_amount(*rate));
        if !are_rates || !self.train.is_sound() || self.train.seen == 0 {
            return fault("the numbers of training are out of range");
        }
        if self.images == 0 || !is_sound(&self.clean) {
            return fault("the numbers of validation are out of range");
        }
        let are_distinct = (1..self.robust.len()).all(|end| {
            let (before, this) = (&self.robust[..end], &self.robust[end]);
            before.iter().all(|other| !other.is_about_the_same(this))
        });
        if !are_distinct || !self.robust.iter().all(|robust| is_sound(&robust.measured)) {
            return fault("the numbers of robust validation are out of range");
        }
        Ok(())
    }
}

impl Robust {
    fn is_about_the_same(&self, other: &Self) -> bool {
        (&self.attack, self.norm, self.epsilon) == (&other.attack, other.norm, other.epsilon)
    }
}

impl EpochSums {
    /// Returns whether these can be sums over images.
    pub(super) fn is_sound(&self) -> bool {
        self.correct <= self.seen && self.loss.is_finite() && is_amount(self.seconds)
    }
}

impl Measured {
    /// Returns whether this can be a pass over `images` images.
    fn is_sound(&self, images: u32) -> bool {
        self.correct <= images && self.loss.is_finite() && is_amount(self.seconds)
    }
}

fn is_amount(value: f64) -> bool {
    value.is_finite() && value >= 0.0
}

/// Numbers as the digits of their bits: the decimal reader may be off by the last one.
mod bits {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference over")]
    pub(super) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:016x}", value.to_bits()))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        let digits = String::deserialize(deserializer)?;
        u64::from_str_radix(&digits, 16).map(f64::from_bits).map_err(D::Error::custom)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use sweep_core::spec::AttackLoss;
    use sweep_testkit::id_of;

    use super::*;

    pub(in crate::checkpoint) fn probe(radius: u8) -> Probe {
        let attack = AttackSpec::Apgd { steps: 2, norm: Norm::Linf, loss: AttackLoss::CrossEntropy };
        Probe::new(&attack, Epsilon::from_255ths(radius)).unwrap()
    }

    /// A record of `epoch` by run 0, with what `probe(4)` asks for.
    pub(in crate::checkpoint) fn record(epoch: u32) -> EpochRecord {
        let measured = |correct| Measured { correct, loss: 0.1 + f64::from(correct), seconds: 0.5 };
        EpochRecord {
            epoch,
            trained_by: id_of(0),
            epsilon: 0.0,
            learning_rate: 1e-3 / 3.0,
            train: EpochSums { loss: 1e-300, correct: 20, seen: 50, seconds: 2.5 },
            images: 10,
            clean: measured(7),
            robust: vec![Robust::new(&probe(4), measured(3))],
        }
    }

    #[test]
    fn a_run_says_only_what_it_wants_to_know() {
        let record = record(0);
        let Some(Event::EpochFinished { robust_correct, validation_seconds, trained_by, .. }) =
            record.event(id_of(0), Some(&probe(4)))
        else {
            panic!("measured")
        };
        assert_eq!((robust_correct, validation_seconds, trained_by), (3, 1.0, None));
        let Some(Event::EpochFinished {
            robust_correct,
            validation_seconds,
            trained_by,
            robust_loss,
            clean_loss,
            ..
        }) = record.event(id_of(1), None)
        else {
            panic!("at target 0 robust is clean")
        };
        assert_eq!((robust_correct, validation_seconds, trained_by), (7, 0.5, Some(id_of(0))));
        assert_eq!(robust_loss, clean_loss);
        assert_eq!(record.event(id_of(0), Some(&probe(5))), None);
    }

    /// Spoils a record.
    type Spoil = fn(&mut EpochRecord);

    #[test]
    fn impossible_records_are_refused() {
        let spoils: [Spoil; 12] = [
            |record| record.epoch = 3,
            |record| record.epsilon = f64::NAN,
            |record| record.epsilon = -0.5,
            |record| record.learning_rate = f64::INFINITY,
            |record| record.train.correct = 51,
            |record| record.train = EpochSums::default(),
            |record| record.train.seconds = -1.0,
            |record| record.images = 0,
            |record| record.clean.correct = 11,
            |record| record.clean.loss = f64::NAN,
            |record| record.robust[0].measured.correct = 11,
            |record| record.robust.push(record.robust[0].clone()),
        ];
        for (number, spoil) in spoils.iter().enumerate() {
            let mut record = record(0);
            assert_eq!(record.check(0), Ok(()));
            spoil(&mut record);
            assert!(record.check(0).is_err(), "{number}");
        }
    }
}
