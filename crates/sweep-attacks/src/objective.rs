//! The losses an attack climbs, one image at a time, with their gradients with respect to the logits.

use std::sync::Arc;

use candle_core::{DType, Tensor};
use rayon::prelude::*;

use crate::element::Element;
use crate::host::with_host_slice;
use crate::{Error, Result};

/// Keeps the DLR quotients finite where logits tie (the reference's constant).
const DLR_STABILITY: f64 = 1e-12;

/// What one image's logits should be pushed away from or towards. Larger is better for the attacker.
///
/// With logits z and their descending order z(1) ≥ z(2) ≥ …:
#[derive(Clone, Debug, PartialEq)]
pub enum Objective {
    /// ln Σ exp z − z\[label\].
    CrossEntropy {
        /// The true class.
        label: u32,
    },
    /// Difference of logits ratio: −(z\[label\] − max of the others) / (z(1) − z(3)). Needs three classes.
    ///
    /// Once the label ranks third the loss is the constant 1, and its gradient rounding noise.
    Dlr {
        /// The true class.
        label: u32,
    },
    /// −(z\[label\] − z\[target\]) / (z(1) − (z(3) + z(4)) / 2). Needs four classes.
    TargetedDlr {
        /// The true class.
        label: u32,
        /// The class to be mistaken for.
        target: u32,
    },
    /// Kullback–Leibler divergence Σ p ln(p / softmax z) of the prediction from the clean image's prediction p, which
    /// is a constant here (TRADES, Zhang et al. 2019; nothing is asked of the true class). Never negative; zero, with a
    /// vanishing gradient, at the clean image itself. [`Objective::divergences`] makes them from clean logits.
    KullbackLeibler {
        /// The true class: it decides what counts as misclassified, not the loss.
        label: u32,
        /// p: one probability per class, in \[0, 1\], summing to 1.
        clean: Arc<[f64]>,
    },
}

/// What [`losses`] computes.
#[derive(Debug)]
pub struct LossAndGradient {
    /// One loss per image.
    pub losses: Vec<f64>,
    /// (N, classes), element type and device of the logits: the gradient of the **sum** of the losses, so
    /// that every image's gradient is that of its own loss.
    pub gradient: Tensor,
}

/// Losses of the rows of `logits` (N, classes; f32 or f64), one objective per row.
///
/// Computed in the element type of the logits and on the CPU.
///
/// # Errors
/// Shape mismatches, classes out of range, too few classes for the loss. Non-finite logits are not an error
/// here: they show as a non-finite loss.
pub fn losses(logits: &Tensor, objectives: &[Objective]) -> Result<LossAndGradient> {
    match logits.dtype() {
        DType::F64 => typed_losses::<f64>(logits, objectives),
        DType::F32 => typed_losses::<f32>(logits, objectives),
        dtype => Err(Error::ImageType { dtype }),
    }
}

fn typed_losses<T: Element>(logits: &Tensor, objectives: &[Objective]) -> Result<LossAndGradient> {
    let classes = class_count(logits, objectives.len())?;
    for (sample, objective) in objectives.iter().enumerate() {
        objective.check(sample, classes)?;
    }
    let mut gradient = vec![T::zero(); objectives.len() * classes];
    let losses = with_host_slice(logits, |rows: &[T]| {
        gradient
            .par_chunks_mut(classes)
            .zip(rows.par_chunks(classes))
            .zip(objectives)
            .map(|((gradient, row), objective)| objective.evaluate(row, gradient).to_f64())
            .collect()
    })?;
    let gradient = Tensor::from_vec(gradient, logits.dims(), logits.device())?;
    Ok(LossAndGradient { losses, gradient })
}

/// Number of classes of `logits`, which must have shape (`images`, at least one).
pub(crate) fn class_count(logits: &Tensor, images: usize) -> Result<usize> {
    match logits.dims() {
        &[rows, classes] if rows == images && classes > 0 => Ok(classes),
        found => Err(Error::Shape {
            what: "the logits",
            found: found.into(),
            expected: (images, found.last().copied().unwrap_or(1).max(1)).into(),
        }),
    }
}

impl Objective {
    /// One [`Objective::KullbackLeibler`] per row of `logits` (N, classes; f32 or f64), the classifier's answers for the
    /// clean images; `labels` are their N classes.
    ///
    /// The probabilities are computed in the element type of the logits, so that the loss of the same logits is zero up
    /// to rounding and its gradient zero exactly.
    ///
    /// # Errors
    /// Shape mismatches, labels out of range, another element type.
    pub fn divergences(logits: &Tensor, labels: &[u32]) -> Result<Vec<Self>> {
        match logits.dtype() {
            DType::F64 => typed_divergences::<f64>(logits, labels),
            DType::F32 => typed_divergences::<f32>(logits, labels),
            dtype => Err(Error::ImageType { dtype }),
        }
    }

    /// The true class.
    pub fn label(&self) -> u32 {
        match self {
            Self::CrossEntropy { label }
            | Self::Dlr { label }
            | Self::TargetedDlr { label, .. }
            | Self::KullbackLeibler { label, .. } => *label,
        }
    }

    /// Refuses classes the classifier does not have.
    pub(crate) fn check(&self, sample: usize, classes: usize) -> Result<()> {
        let needed = self.needed_classes();
        if classes < needed {
            return Err(Error::TooFewClasses { needed, classes });
        }
        let named = match self {
            Self::TargetedDlr { label, target } => *label.max(target),
            Self::KullbackLeibler { clean, .. } if clean.len() != classes => {
                let (found, expected) = (clean.len().into(), classes.into());
                return Err(Error::Shape { what: "the clean probabilities", found, expected });
            }
            _ => self.label(),
        };
        if named as usize >= classes {
            return Err(Error::ClassOutOfRange { sample, class: named, classes });
        }
        Ok(())
    }

    fn needed_classes(&self) -> usize {
        match self {
            Self::CrossEntropy { .. } | Self::KullbackLeibler { .. } => 1,
            Self::Dlr { .. } => 3,
            Self::TargetedDlr { .. } => 4,
        }
    }

    /// The loss; `gradient` (all zero on entry, as long as `logits`) receives its derivative.
    pub(crate) fn evaluate<T: Element>(&self, logits: &[T], gradient: &mut [T]) -> T {
        match self {
            Self::CrossEntropy { label } => cross_entropy(logits, *label as usize, gradient),
            Self::Dlr { label } => dlr(logits, *label as usize, gradient),
            Self::TargetedDlr { label, target } => {
                targeted_dlr(logits, *label as usize, *target as usize, gradient)
            }
            Self::KullbackLeibler { clean, .. } => kullback_leibler(logits, clean, gradient),
        }
    }
}

fn typed_divergences<T: Element>(logits: &Tensor, labels: &[u32]) -> Result<Vec<Objective>> {
    let classes = class_count(logits, labels.len())?;
    with_host_slice(logits, |rows: &[T]| {
        let rows = rows.chunks_exact(classes).zip(labels).enumerate();
        rows.map(|(sample, (row, &label))| {
            let mut log_probabilities = vec![T::zero(); classes];
            log_softmax(row, &mut log_probabilities);
            let clean = log_probabilities.into_iter().map(|log| log.exp().to_f64()).collect();
            let objective = Objective::KullbackLeibler { label, clean };
            objective.check(sample, classes)?;
            Ok(objective)
        })
        .collect()
    })?
}

/// The most likely class; the first of several equal ones.
pub(crate) fn most_likely<T: Element>(logits: &[T]) -> usize {
    (1..logits.len()).fold(0, |best, class| if logits[class] > logits[best] { class } else { best })
}

/// Logarithms of the probabilities.
fn log_softmax<T: Element>(logits: &[T], output: &mut [T]) {
    let largest = logits[most_likely(logits)];
    let mut total = T::zero();
    for &logit in logits {
        total += (logit - largest).exp();
    }
    let log_total = total.ln();
    for (slot, &logit) in output.iter_mut().zip(logits) {
        *slot = logit - largest - log_total;
    }
}

fn cross_entropy<T: Element>(logits: &[T], label: usize, gradient: &mut [T]) -> T {
    log_softmax(logits, gradient);
    let loss = T::zero() - gradient[label];
    for slot in gradient.iter_mut() {
        *slot = slot.exp();
    }
    gradient[label] -= T::one();
    loss
}

/// A class of probability 0 adds nothing, as the limit of p ln p says.
fn kullback_leibler<T: Element>(logits: &[T], clean: &[f64], gradient: &mut [T]) -> T {
    log_softmax(logits, gradient);
    let mut loss = T::zero();
    for (slot, &probability) in gradient.iter_mut().zip(clean) {
        let probability = T::from_f64(probability);
        if probability > T::zero() {
            loss += probability * (probability.ln() - *slot);
        }
        *slot = slot.exp() - probability;
    }
    loss
}

fn dlr<T: Element>(logits: &[T], label: usize, gradient: &mut [T]) -> T {
    let [first, second, third] = largest_classes(logits);
    let rival = if first == label { second } else { first };
    let quotient = Quotient {
        margin: logits[label] - logits[rival],
        spread: logits[first] - logits[third] + T::from_f64(DLR_STABILITY),
    };
    gradient[label] += quotient.by_margin();
    gradient[rival] -= quotient.by_margin();
    gradient[first] += quotient.by_spread();
    gradient[third] -= quotient.by_spread();
    quotient.loss()
}

fn targeted_dlr<T: Element>(logits: &[T], label: usize, target: usize, gradient: &mut [T]) -> T {
    let [first, _, third, fourth] = largest_classes(logits);
    let half = T::from_f64(0.5);
    let quotient = Quotient {
        margin: logits[label] - logits[target],
        spread: logits[first] - half * (logits[third] + logits[fourth]) + T::from_f64(DLR_STABILITY),
    };
    gradient[label] += quotient.by_margin();
    gradient[target] -= quotient.by_margin();
    gradient[first] += quotient.by_spread();
    gradient[third] -= half * quotient.by_spread();
    gradient[fourth] -= half * quotient.by_spread();
    quotient.loss()
}

/// −margin / spread and its two partial derivatives.
struct Quotient<T> {
    margin: T,
    spread: T,
}

impl<T: Element> Quotient<T> {
    fn loss(&self) -> T {
        T::zero() - self.margin / self.spread
    }

    fn by_margin(&self) -> T {
        T::zero() - T::one() / self.spread
    }

    fn by_spread(&self) -> T {
        self.margin / self.spread / self.spread
    }
}

/// The `COUNT` classes of largest logit, in descending order; of equal ones the first comes first.
fn largest_classes<T: Element, const COUNT: usize>(logits: &[T]) -> [usize; COUNT] {
    let mut largest = [usize::MAX; COUNT];
    for class in 0..logits.len() {
        let beats = |&held: &usize| held == usize::MAX || logits[class] > logits[held];
        if let Some(rank) = largest.iter().position(beats) {
            largest[rank..].rotate_right(1);
            largest[rank] = class;
        }
    }
    largest
}

/// The wrong class ranking `rank`-th (1 = most likely) among all classes but the label, or `None` if there
/// are fewer.
pub(crate) fn wrong_class_of_rank<T: Element>(logits: &[T], label: u32, rank: usize) -> Option<u32> {
    let mut wrong: Vec<usize> = (0..logits.len()).filter(|&class| class != label as usize).collect();
    // Stable and descending; a NaN compares as equal and shows up later as a non-finite loss.
    wrong.sort_by(|&a, &b| logits[b].partial_cmp(&logits[a]).unwrap_or(std::cmp::Ordering::Equal));
    wrong.get(rank - 1).map(|&class| class as u32)
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};
    use proptest::prelude::*;

    use super::*;

    /// A central difference of step 1e-6 in f64 has an error of about 1e-10 relative to losses of order one;
    /// DLR's second derivative can be large where logits nearly tie, so logits in the tests are kept apart.
    const DIFFERENCE_TOLERANCE: f64 = 1e-6;

    fn objectives(label: u32, target: u32) -> [Objective; 4] {
        [
            Objective::CrossEntropy { label },
            Objective::Dlr { label },
            Objective::TargetedDlr { label, target },
            Objective::KullbackLeibler { label, clean: [0.5, 0.2, 0.2, 0.1, 0.0, 0.0].into() },
        ]
    }

    fn value(objective: &Objective, logits: &[f64]) -> f64 {
        objective.evaluate(logits, &mut vec![0.0; logits.len()])
    }

    fn numeric_derivative(objective: &Objective, logits: &[f64], class: usize) -> f64 {
        let shifted = |by: f64| {
            let mut moved = logits.to_vec();
            moved[class] += by;
            value(objective, &moved)
        };
        (shifted(1e-6) - shifted(-1e-6)) / 2e-6
    }

    /// A permutation of well separated logits, so that no difference quotient crosses a change of order.
    fn separated_logits() -> impl Strategy<Value = Vec<f64>> {
        proptest::collection::vec(0.0..0.5_f64, 6).prop_flat_map(|jitter| {
            let spaced: Vec<f64> = jitter.iter().enumerate().map(|(rank, j)| rank as f64 + j).collect();
            Just(spaced).prop_shuffle()
        })
    }

    proptest! {
        #[test]
        fn gradients_equal_difference_quotients(
            logits in separated_logits(),
            label in 0_u32..6,
            shift in 1_u32..6,
        ) {
            for objective in objectives(label, (label + shift) % 6) {
                let mut gradient = vec![0.0; 6];
                objective.evaluate(&logits, &mut gradient);
                for (class, &derivative) in gradient.iter().enumerate() {
                    let expected = numeric_derivative(&objective, &logits, class);
                    prop_assert!((derivative - expected).abs() < DIFFERENCE_TOLERANCE, "{objective:?} {class}");
                }
            }
        }

        #[test]
        fn adding_a_constant_to_all_logits_changes_no_loss(
            logits in separated_logits(),
            constant in -5.0..5.0_f64,
        ) {
            let moved: Vec<f64> = logits.iter().map(|logit| logit + constant).collect();
            for objective in objectives(1, 2) {
                prop_assert!((value(&objective, &logits) - value(&objective, &moved)).abs() < DIFFERENCE_TOLERANCE);
            }
        }

        #[test]
        fn a_divergence_is_never_negative(clean in separated_logits(), other in separated_logits()) {
            let row = |logits: &[f64]| Tensor::from_slice(logits, (1, 6), &Device::Cpu).unwrap();
            let objectives = Objective::divergences(&row(&clean), &[0]).unwrap();
            // Zero up to the rounding of six terms in f64.
            prop_assert!(losses(&row(&other), &objectives).unwrap().losses[0] > -1e-12);
        }

        #[test]
        fn the_largest_classes_are_those_of_a_full_sort(logits in proptest::collection::vec(-3_i8..3, 4..9)) {
            let logits: Vec<f32> = logits.into_iter().map(f32::from).collect();
            let mut sorted: Vec<usize> = (0..logits.len()).collect();
            sorted.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
            prop_assert_eq!(&largest_classes::<_, 4>(&logits)[..], &sorted[..4]);
            prop_assert_eq!(most_likely(&logits), sorted[0]);
        }
    }

    #[test]
    fn losses_by_hand() {
        let logits = [3.0, 1.0, 2.0, 0.0_f64];
        // The label leads by 1 over the runner-up; first minus third is 2; first minus mean of third and
        // fourth is 2.5.
        assert!((value(&Objective::Dlr { label: 0 }, &logits) + 0.5).abs() < 1e-9);
        assert!((value(&Objective::Dlr { label: 1 }, &logits) - 1.0).abs() < 1e-9);
        assert!((value(&Objective::TargetedDlr { label: 0, target: 2 }, &logits) + 0.4).abs() < 1e-9);
        assert!((value(&Objective::CrossEntropy { label: 0 }, &[0.0; 4]) - 4_f64.ln()).abs() < 1e-12);
        // Half and half against a quarter each: ln 2.
        let halves = Objective::KullbackLeibler { label: 0, clean: [0.5, 0.0, 0.5, 0.0].into() };
        assert!((value(&halves, &[0.0; 4]) - 2_f64.ln()).abs() < 1e-12);
    }

    #[test]
    fn a_prediction_does_not_diverge_from_itself() {
        let rows = Tensor::new(&[[3.0_f32, -1.0, 0.5], [-40.0, 60.0, 0.0]], &Device::Cpu).unwrap();
        let objectives = Objective::divergences(&rows, &[0, 1]).unwrap();
        let here = losses(&rows, &objectives).unwrap();
        // Each term is a rounding of f32 times a probability.
        assert!(here.losses.iter().all(|loss| loss.abs() < 1e-6), "{:?}", here.losses);
        let slopes = here.gradient.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(slopes.iter().all(|slope| *slope == 0.0), "{slopes:?}");
    }

    #[test]
    fn cross_entropy_survives_huge_logits() {
        let loss = Objective::CrossEntropy { label: 0 }.evaluate(&[-2e4_f32, 2e4], &mut [0.0; 2]);
        assert!((loss - 4e4).abs() < 1.0);
    }

    #[test]
    fn wrong_classes_are_ranked_without_the_label() {
        let logits = [3.0_f32, 1.0, 2.0];
        assert_eq!(wrong_class_of_rank(&logits, 0, 1), Some(2));
        assert_eq!(wrong_class_of_rank(&logits, 1, 1), Some(0));
        assert_eq!(wrong_class_of_rank(&logits, 0, 2), Some(1));
        assert_eq!(wrong_class_of_rank(&logits, 0, 3), None);
    }

    #[test]
    fn impossible_requests_are_refused() {
        let logits = Tensor::zeros((2, 3), candle_core::DType::F32, &Device::Cpu).unwrap();
        let refused = |objectives: &[Objective]| losses(&logits, objectives).unwrap_err();
        let fine = Objective::CrossEntropy { label: 2 };
        assert!(matches!(refused(std::slice::from_ref(&fine)), Error::Shape { .. }));
        let of_two = Objective::KullbackLeibler { label: 0, clean: [0.5, 0.5].into() };
        assert!(matches!(
            refused(&[fine.clone(), of_two]),
            Error::Shape { what: "the clean probabilities", .. }
        ));
        assert!(matches!(
            refused(&[fine.clone(), Objective::CrossEntropy { label: 3 }]),
            Error::ClassOutOfRange { sample: 1, class: 3, classes: 3 }
        ));
        assert!(matches!(
            refused(&[fine, Objective::TargetedDlr { label: 0, target: 1 }]),
            Error::TooFewClasses { needed: 4, classes: 3 }
        ));
    }
}
