//! The paper's metrics (section E of its reconstruction) and the checks that its numbers must pass, as pure functions of
//! counts. The database's views compute the same; tests hold the two together.

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

/// Standard deviations of a guesser's count that an accuracy must lie above chance to be no luck: about one chance in a
/// thousand by the normal approximation.
pub const LUCK: f64 = 3.0;

/// Returns whether a count shows that a network with `classes` classes has learned something, where the paper's 5 % would
/// not: with ten classes a guesser has 10 % already.
///
/// Two conditions, both strict. The accuracy lies more than [`DELAY_THRESHOLD`] of the way from chance, 1 / classes, to 1;
/// with many classes that is the paper's threshold. And the count lies more than [`LUCK`] standard deviations of a
/// guesser's (binomial) count above chance; with the paper's validation splits, 600 images and more of at least 100
/// classes, that follows from the first, but with a few dozen images of ten classes a guesser would sooner or later pass
/// the first alone. Nothing is above chance with fewer than two classes or no images.
///
/// ```
/// use sweep_core::metrics::{Count, is_above_chance};
/// let found = |correct, total, classes| is_above_chance(Count { correct, total }, classes);
/// assert!(!found(14, 100, 10) && !found(15, 100, 10) && found(20, 100, 10));
/// assert!(!found(50, 1000, 100) && found(60, 1000, 100));
/// ```
pub fn is_above_chance(count: Count, classes: u32) -> bool {
    if classes < 2 || count.total == 0 {
        return false;
    }
    let (accuracy, chance) = (count.accuracy(), 1.0 / f64::from(classes));
    let excess = accuracy - chance;
    let variance = chance * (1.0 - chance) / f64::from(count.total);
    excess > DELAY_THRESHOLD * (1.0 - chance) && excess * excess > LUCK * LUCK * variance
}

/// Returns the delay against guessing: the first epoch, counted from 1, whose validation clean count
/// [`is_above_chance`], or the number of epochs where there is none.
pub fn delay_above_chance(clean: &[Count], classes: u32) -> u32 {
    let first = clean.iter().position(|count| is_above_chance(*count, classes));
    first.map_or(clean.len(), |epoch| epoch + 1) as u32
}

/// Returns the drop of a run: clean accuracy of standard fine-tuning less its own, both on the test split (paper, E and
/// Figure 1). Standard fine-tuning is the run of the same backbone, dataset, seed and recipe without perturbations.
/// Negative where the run is the better one.
pub fn clean_drop(standard: Count, own: Count) -> f64 {
    standard.accuracy() - own.accuracy()
}

/// Returns Pearson's correlation of pairs, in [-1, 1]; `None` for fewer than two pairs, or where one side is constant or
/// anything is not finite.
///
/// Over the target epsilons (0 included, where training is standard) of delay and final validation accuracy it is the
/// paper's Figure 9.
pub fn pearson(pairs: &[(f64, f64)]) -> Option<f64> {
    let count = pairs.len() as f64;
    let mean = |side: fn(&(f64, f64)) -> f64| pairs.iter().map(side).sum::<f64>() / count;
    let (left, right) = (mean(|pair| pair.0), mean(|pair| pair.1));
    let sum =
        |of: &dyn Fn(f64, f64) -> f64| -> f64 { pairs.iter().map(|(x, y)| of(x - left, y - right)).sum() };
    let (both, first, second) = (sum(&|x, y| x * y), sum(&|x, _| x * x), sum(&|_, y| y * y));
    let correlation = both / (first * second).sqrt();
    (pairs.len() > 1 && correlation.is_finite()).then(|| correlation.clamp(-1.0, 1.0))
}

/// Standard deviations of a count by which robust accuracy may rise from one radius to the next.
pub const MONOTONE_DEVIATIONS: f64 = 2.0;

/// Returns whether a count at some radius may follow `smaller`, the count at the next smaller one on the same images.
///
/// A perfect attack never fails at a larger radius where it succeeded at a smaller one. Real ones are independent
/// searches, so that accuracy can rise a little (the paper's own tables have such places). Allowed is a rise of one image
/// plus [`MONOTONE_DEVIATIONS`] standard deviations of a binomial count at the mean of the two accuracies: more says that
/// the attack fails at the larger radius, not that chance played. Counts of different splits never follow each other.
pub fn may_follow(smaller: Count, larger: Count) -> bool {
    if smaller.total != larger.total {
        return false;
    }
    let total = f64::from(smaller.total);
    let rise = f64::from(larger.correct) - f64::from(smaller.correct) - 1.0;
    let mean = (f64::from(larger.correct) + f64::from(smaller.correct)) / (2.0 * total);
    rise <= 0.0 || rise * rise <= MONOTONE_DEVIATIONS * MONOTONE_DEVIATIONS * total * mean * (1.0 - mean)
}

/// Returns whether accuracy over epsilon falls within sampling error: each count [`may_follow`] the one at the next
/// smaller radius. `points` may come in any order.
pub fn is_monotone(points: &[(Epsilon, Count)]) -> bool {
    let mut points = points.to_vec();
    points.sort_by_key(|(epsilon, _)| *epsilon);
    points.windows(2).all(|pair| may_follow(pair[0].1, pair[1].1))
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

    fn counts(total: u32, correct: &[u32]) -> Vec<Count> {
        correct.iter().map(|correct| Count { correct: *correct, total }).collect()
    }

    #[test]
    fn chance_is_no_adaptation() {
        let delays = [
            // Ten classes, 100 images: chance is 10, 5 % of the rest 14.5, three standard deviations 19.
            (10, counts(100, &[10, 15, 19, 20]), 4),
            // 600 of 200 classes: chance is 3, 5 % of the rest 32.85; luck ends at 8.2.
            (200, counts(600, &[9, 32, 33]), 3),
            // Two classes, 10,000 images: chance is 5,000, 5 % of the rest 5,250, luck ends at 5,150.
            (2, counts(10_000, &[5_200, 5_249, 5_251]), 3),
            (10, counts(100, &[10, 10]), 2),
            (1, counts(100, &[100, 100]), 2),
        ];
        for (classes, counts, expected) in delays {
            assert_eq!(delay_above_chance(&counts, classes), expected, "{classes} classes: {counts:?}");
        }
        assert_eq!(delay_above_chance(&[], 10), 0);
    }

    #[test]
    fn with_many_classes_it_is_the_papers_delay() {
        let threshold = |classes: u32| {
            (0..=10_000).find(|correct| is_above_chance(Count { correct: *correct, total: 10_000 }, classes))
        };
        assert_eq!(threshold(100_000), Some(501));
        assert_eq!(threshold(196), Some(549));
    }

    #[test]
    fn the_drop_counts_from_standard_fine_tuning() {
        let count = |correct| Count { correct, total: 1000 };
        // Swin on Aircraft at 4/255 (paper, Figure 1): 79.9 % and 7.7 %.
        assert!((clean_drop(count(799), count(77)) - 0.722).abs() < 1e-12);
        assert!(clean_drop(count(500), count(510)) < 0.0);
    }

    /// Delays of the paper's Figure 8 and clean accuracies of its Figure 1, both read off the figures; the correlations
    /// are those that the reconstruction (paper, E) has recomputed from them, rounded to three places.
    #[test]
    fn correlations_of_the_paper() {
        let cases: [([f64; 10], [f64; 10], f64); 3] = [
            (
                [2., 12., 19., 22., 25., 27., 27., 36., 35., 47.],
                [88.7, 80.4, 72.6, 64.9, 60.2, 48.8, 43.4, 17.9, 13.2, 6.1],
                -0.951,
            ),
            (
                [2., 4., 8., 10., 11., 18., 16., 19., 18., 23.],
                [84.8, 77.8, 72.7, 67.3, 61.9, 58.9, 53.6, 48.8, 46.1, 27.5],
                -0.955,
            ),
            (
                [2., 6., 8., 11., 14., 15., 23., 18., 19., 22.],
                [77.5, 72.6, 64.9, 56.2, 42.8, 33.9, 16.1, 20.6, 17.4, 14.5],
                -0.980,
            ),
        ];
        for (delays, accuracies, expected) in cases {
            let pairs: Vec<_> = delays.into_iter().zip(accuracies).collect();
            let found = pearson(&pairs).unwrap();
            assert!((found - expected).abs() < 5e-4, "{found} instead of {expected}");
        }
    }

    #[test]
    fn what_cannot_be_correlated_is_no_number() {
        for pairs in [&[][..], &[(1.0, 2.0)], &[(1.0, 2.0), (1.0, 3.0)], &[(1.0, f64::NAN), (2.0, 3.0)]] {
            assert_eq!(pearson(pairs), None, "{pairs:?}");
        }
    }

    #[test]
    fn a_rise_within_sampling_error_is_allowed() {
        let allowed = |total, smaller, larger| {
            let points = counts(total, &[smaller, larger]);
            is_monotone(&[(Epsilon::from_255ths(2), points[1]), (Epsilon::from_255ths(1), points[0])])
        };
        assert!(allowed(400, 200, 100) && allowed(400, 200, 200));
        // Of 400 near one half the standard deviation is nearly 10: one image, and not quite twenty.
        assert!(allowed(400, 190, 210) && !allowed(400, 190, 211));
        // Nothing is left to chance near 0: the paper's CNX on Aircraft has 15 and 16 of 1,000.
        assert!(allowed(1000, 0, 1) && allowed(1000, 15, 16) && !allowed(1000, 0, 10));
        assert!(!may_follow(Count { correct: 5, total: 10 }, Count { correct: 5, total: 11 }));
    }

    proptest! {
        #[test]
        fn correlation_ignores_units_and_knows_lines(
            pairs in prop::collection::vec((-9.0..9.0_f64, -9.0..9.0_f64), 3..12),
            scale in 0.1..9.0_f64,
            shift in -9.0..9.0_f64,
        ) {
            let line: Vec<_> = pairs.iter().map(|(x, _)| (*x, shift - scale * x)).collect();
            prop_assume!(pearson(&line).is_some());
            prop_assert!((pearson(&line).unwrap() + 1.0).abs() < 1e-9);
            let moved: Vec<_> = pairs.iter().map(|(x, y)| (scale * x + shift, *y)).collect();
            if let (Some(found), Some(moved)) = (pearson(&pairs), pearson(&moved)) {
                prop_assert!((found - moved).abs() < 1e-6);
            }
        }

        #[test]
        fn falling_counts_always_pass(mut correct in prop::collection::vec(0_u32..=50, 1..9)) {
            correct.sort_unstable_by(|left, right| right.cmp(left));
            let points: Vec<_> = (0..).map(Epsilon::from_255ths).zip(counts(50, &correct)).collect();
            prop_assert!(is_monotone(&points));
        }

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
