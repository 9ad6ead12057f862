//! The paper's metrics, as pure functions of counts.

use serde::{Deserialize, Serialize};

use crate::epsilon::Epsilon;

/// An accuracy as it was counted: `correct` of `total` images of a complete split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Images classified correctly.
    pub correct: u32,
    /// Images.
    pub total: u32,
}

impl Count {
    /// Returns the fraction in [0, 1]; not a number for an empty split.
    pub fn accuracy(self) -> f64 {
        f64::from(self.correct) / f64::from(self.total)
    }
}

/// Validation clean accuracy above which a network counts as adapted to its task (paper, E).
pub const DELAY_THRESHOLD: f64 = 0.05;

/// Returns the area under accuracy over epsilon on [0, target], divided by the target: the trapezoid rule on the points
/// given (paper, E: points every 1/255, the point at 0 is the clean accuracy).
///
/// `points` may come in any order and may go beyond the target; `None` unless the points at 0, at the target and at
/// every 255th between are there. At a target of 0 it is the clean accuracy.
///
/// ```
/// use sweep_core::{epsilon::Epsilon, metrics::expected_robustness};
/// let points: Vec<_> = (0..=4).map(|k| (Epsilon::from_255ths(k), 1.0 - f64::from(k) / 8.0)).collect();
/// assert_eq!(expected_robustness(&points, Epsilon::from_255ths(4)), Some(0.75));
/// ```
pub fn expected_robustness(points: &[(Epsilon, f64)], target: Epsilon) -> Option<f64> {
    let at =
        |epsilon: Epsilon| points.iter().find(|(point, _)| *point == epsilon).map(|(_, accuracy)| *accuracy);
    let grid = target.grid();
    if grid.len() == 1 {
        return at(target);
    }
    let mut area = 0.0;
    for pair in grid.windows(2) {
        area += 0.5 * (at(pair[0])? + at(pair[1])?) * (pair[1].value() - pair[0].value());
    }
    Some(area / target.value())
}

/// Returns the delay: the first epoch, counted from 1, whose validation clean accuracy exceeds [`DELAY_THRESHOLD`], or
/// the number of epochs where there is none (paper, E and Figure 8).
pub fn delay(clean_accuracy: &[f64]) -> u32 {
    let first = clean_accuracy.iter().position(|accuracy| *accuracy > DELAY_THRESHOLD);
    first.map_or(clean_accuracy.len(), |epoch| epoch + 1) as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn weights_of_the_paper() {
        // 4/255 has five points with weights 1/2, 1, 1, 1, 1/2 over 4.
        let accuracies = [0.9, 0.8, 0.6, 0.5, 0.1];
        let points: Vec<_> = (0..).map(Epsilon::from_255ths).zip(accuracies).collect();
        let expected = (0.45 + 0.8 + 0.6 + 0.5 + 0.05) / 4.0;
        let found = expected_robustness(&points, Epsilon::from_255ths(4)).unwrap();
        assert!((found - expected).abs() < 1e-12);
    }

    #[test]
    fn a_missing_point_is_no_number() {
        let points = [(Epsilon::ZERO, 1.0), (Epsilon::from_255ths(2), 0.5)];
        assert_eq!(expected_robustness(&points, Epsilon::from_255ths(2)), None);
        assert_eq!(expected_robustness(&points, Epsilon::ZERO), Some(1.0));
    }

    #[test]
    fn delay_counts_from_one_and_ends_with_the_budget() {
        assert_eq!(delay(&[0.01, 0.05, 0.051]), 3);
        assert_eq!(delay(&[0.2]), 1);
        assert_eq!(delay(&[0.01; 50]), 50);
    }

    proptest! {
        #[test]
        fn it_lies_between_the_smallest_and_the_largest(accuracies in prop::collection::vec(0.0..=1.0_f64, 9)) {
            let points: Vec<_> = (0..).map(Epsilon::from_255ths).zip(accuracies.iter().copied()).collect();
            let found = expected_robustness(&points, Epsilon::from_255ths(8)).unwrap();
            let smallest = accuracies.iter().copied().fold(f64::INFINITY, f64::min);
            let largest = accuracies.iter().copied().fold(0.0, f64::max);
            prop_assert!(smallest - 1e-12 <= found && found <= largest + 1e-12);
        }
    }
}
