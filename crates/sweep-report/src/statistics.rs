//! Means, intervals and tests. The distributions come from `statrs`; how the tests treat zeros and ties is said here.

use serde::Serialize;
use statrs::distribution::{ContinuousCDF as _, Normal, StudentsT};

/// Confidence of every interval.
pub const CONFIDENCE: f64 = 0.95;

/// Two-sided quantile of the standard normal distribution at [`CONFIDENCE`].
const Z: f64 = 1.959_963_984_540_054;

/// Differences and gaps below this share of the largest difference are rounding, not data: fractions of small counts
/// differ in their last bits after a subtraction.
const SAME: f64 = 1e-12;

/// Most pairs for which Wilcoxon's distribution is counted out (as in SciPy).
pub const EXACT_UP_TO: usize = 50;

/// Several numbers in short.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Their mean.
    pub mean: f64,
    /// Sample standard deviation (over n - 1); `None` for a single one.
    pub standard_deviation: Option<f64>,
    /// How many.
    pub n: usize,
}

/// A confidence interval at [`CONFIDENCE`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// Student's t-test of paired differences against a mean of 0.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct TTest {
    /// Mean over its standard error.
    pub t: f64,
    /// n - 1.
    pub degrees_of_freedom: usize,
    /// Two-sided.
    pub p: f64,
    /// Of the mean difference.
    pub interval: Interval,
}

/// Wilcoxon's signed-rank test of paired differences against a median of 0.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Wilcoxon {
    /// The smaller of the sums of ranks of positive and of negative differences.
    pub statistic: f64,
    /// Differences that are not 0.
    pub n: usize,
    /// Two-sided.
    pub p: f64,
    /// Where `p` comes from.
    pub method: Method,
}

/// How the distribution of Wilcoxon's statistic was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Counted out over all signs.
    Exact,
    /// The normal approximation, with the correction for ties and without one for continuity.
    Normal,
}

/// How many differences lie on which side of 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Signs {
    /// Above 0.
    pub positive: usize,
    /// Below 0.
    pub negative: usize,
    /// 0.
    pub zero: usize,
}

impl Interval {
    /// Returns whether a number lies within, ends included.
    pub fn contains(self, number: f64) -> bool {
        self.low <= number && number <= self.high
    }
}

/// Returns mean, spread and number of `values`; `None` without any.
pub fn summary(values: &[f64]) -> Option<Summary> {
    let n = values.len();
    if n == 0 {
        return None;
    }
    let mean = values.iter().sum::<f64>() / n as f64;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    let standard_deviation = (n > 1).then(|| (squares / (n - 1) as f64).sqrt());
    Some(Summary { mean, standard_deviation, n })
}

impl Summary {
    /// Returns how far the interval (Student's) of the mean behind the numbers reaches on either side of theirs; `None` for
    /// fewer than two, and where they are all equal.
    pub fn reach(&self) -> Option<f64> {
        let deviation = self.standard_deviation.filter(|deviation| *deviation > SAME * self.mean.abs())?;
        Some(t_quantile(self.n - 1)? * deviation / (self.n as f64).sqrt())
    }
}

/// Returns Wilson's interval for the probability behind a fraction of `total` trials: unlike the usual approximation it
/// stays within [0, 1] and holds near its ends. `None` without trials.
pub fn wilson(fraction: f64, total: u32) -> Option<Interval> {
    (total > 0).then(|| wilson_of(fraction, total.into()))
}

/// Returns Wilson's interval for the fraction of a population, of which `drawn` were drawn without returning them. The
/// finite-population correction makes so much more of the draws; where all were drawn, nothing is uncertain. `None` without
/// draws.
pub fn wilson_of_draws(fraction: f64, drawn: u32, population: u32) -> Option<Interval> {
    let left = f64::from(population.checked_sub(drawn)?);
    (drawn > 0).then(|| wilson_of(fraction, f64::from(drawn) * f64::from(population - 1) / left))
}

/// Of as many trials as may be, also no whole number and infinitely many.
fn wilson_of(fraction: f64, n: f64) -> Interval {
    let z2 = Z * Z / n;
    let middle = (fraction + z2 / 2.0) / (1.0 + z2);
    let half = Z / (1.0 + z2) * (fraction * (1.0 - fraction) / n + z2 / (4.0 * n)).sqrt();
    Interval { low: (middle - half).max(0.0), high: (middle + half).min(1.0) }
}

/// Returns the interval of `first - second`, two fractions with intervals of their own, the first of which also varies by
/// `spread` on either side. All are independent, so the squares of what they reach add up (Newcombe 1998, method 10, for two
/// fractions; Zou and Donner 2008 for any number of terms).
pub fn of_difference(first: (f64, Interval), second: (f64, Interval), spread: f64) -> Interval {
    let below = |(value, interval): (f64, Interval)| (value - interval.low).max(0.0);
    let above = |(value, interval): (f64, Interval)| (interval.high - value).max(0.0);
    let reach = |first: f64, second: f64| first.hypot(second).hypot(spread);
    let difference = first.0 - second.0;
    Interval {
        low: difference - reach(below(first), above(second)),
        high: difference + reach(above(first), below(second)),
    }
}

/// Returns the two-sided quantile of Student's distribution at [`CONFIDENCE`].
fn t_quantile(degrees_of_freedom: usize) -> Option<f64> {
    let distribution = StudentsT::new(0.0, 1.0, degrees_of_freedom as f64).ok()?;
    Some(distribution.inverse_cdf(f64::midpoint(1.0, CONFIDENCE)))
}

/// Counts the signs of differences; what is rounding beside the largest counts as 0.
pub fn signs(differences: &[f64]) -> Signs {
    let rounding = rounding(differences);
    let mut signs = Signs::default();
    for difference in differences {
        if difference.abs() <= rounding {
            signs.zero += 1;
        } else if *difference > 0.0 {
            signs.positive += 1;
        } else {
            signs.negative += 1;
        }
    }
    signs
}

/// Returns the paired t-test; `None` for fewer than two differences, and where they are all equal.
pub fn paired_t(differences: &[f64]) -> Option<TTest> {
    let Summary { mean, standard_deviation, n } = summary(differences)?;
    let deviation = standard_deviation.filter(|deviation| *deviation > rounding(differences))?;
    let error = deviation / (n as f64).sqrt();
    let degrees_of_freedom = n - 1;
    let distribution = StudentsT::new(0.0, 1.0, degrees_of_freedom as f64).ok()?;
    let t = mean / error;
    let reach = t_quantile(degrees_of_freedom)? * error;
    Some(TTest {
        t,
        degrees_of_freedom,
        p: (2.0 * distribution.sf(t.abs())).min(1.0),
        interval: Interval { low: mean - reach, high: mean + reach },
    })
}

/// Returns Wilcoxon's signed-rank test; `None` where no difference is left.
///
/// Differences of 0 are left out, as Wilcoxon did; equal ones share the mean of their ranks. Without ties and for at most
/// [`EXACT_UP_TO`] differences the distribution is exact.
pub fn wilcoxon(differences: &[f64]) -> Option<Wilcoxon> {
    let rounding = rounding(differences);
    let mut kept: Vec<f64> =
        differences.iter().copied().filter(|difference| difference.abs() > rounding).collect();
    kept.sort_by(|left, right| left.abs().total_cmp(&right.abs()));
    let (ranks, ties) = ranks(&kept, rounding);
    let n = kept.len();
    if n == 0 {
        return None;
    }
    // The sum of no floating point numbers is -0.0 in Rust, which would be printed.
    let positive = kept
        .iter()
        .zip(&ranks)
        .filter(|(value, _)| **value > 0.0)
        .map(|(_, rank)| rank)
        .fold(0.0, |sum, rank| sum + rank);
    let all = (n * (n + 1)) as f64 / 2.0;
    let statistic = positive.min(all - positive);
    let is_exact = ties.is_empty() && n <= EXACT_UP_TO;
    let (p, method) = if is_exact {
        (exact_p(statistic as usize, n), Method::Exact)
    } else {
        (normal_p(statistic, n, &ties)?, Method::Normal)
    };
    Some(Wilcoxon { statistic, n, p, method })
}

fn rounding(differences: &[f64]) -> f64 {
    SAME * differences.iter().fold(0.0, |largest: f64, difference| largest.max(difference.abs()))
}

/// Returns the rank of each of the numbers, which are sorted by size, and the lengths of the ties among them.
fn ranks(sorted: &[f64], rounding: f64) -> (Vec<f64>, Vec<usize>) {
    let mut ranks = Vec::with_capacity(sorted.len());
    let mut ties = Vec::new();
    for tied in sorted.chunk_by(|left, right| right.abs() - left.abs() <= rounding) {
        let (first, last) = (ranks.len() + 1, ranks.len() + tied.len());
        ranks.resize(last, (first + last) as f64 / 2.0);
        if tied.len() > 1 {
            ties.push(tied.len());
        }
    }
    (ranks, ties)
}

/// Returns twice the share of the 2^n signs whose sum of positive ranks is at most `statistic`.
fn exact_p(statistic: usize, n: usize) -> f64 {
    // ways[s]: subsets of the ranks so far with sum s. Up to 2^50, so floating point counts exactly.
    let mut ways = vec![0.0; n * (n + 1) / 2 + 1];
    ways[0] = 1.0;
    for rank in 1..=n {
        for sum in (rank..ways.len()).rev() {
            ways[sum] += ways[sum - rank];
        }
    }
    let share = ways[..=statistic].iter().sum::<f64>() / 2_f64.powi(n as i32);
    (2.0 * share).min(1.0)
}

fn normal_p(statistic: f64, n: usize, ties: &[usize]) -> Option<f64> {
    let n = n as f64;
    let tied: f64 = ties.iter().map(|length| (length.pow(3) - length) as f64).sum();
    let variance = n * (n + 1.0) * (2.0 * n + 1.0) / 24.0 - tied / 48.0;
    let z = (statistic - n * (n + 1.0) / 4.0) / variance.sqrt();
    let distribution = Normal::new(0.0, 1.0).ok()?;
    z.is_finite().then(|| (2.0 * distribution.sf(z.abs())).min(1.0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Relative difference to SciPy's distributions: both compute them to about 12 digits.
    const TOLERANCE: f64 = 1e-10;

    fn close(found: f64, expected: f64) -> bool {
        (found - expected).abs() <= TOLERANCE * expected.abs().max(1e-300)
    }

    /// Sixty different sizes, which are too many to count out; the same numbers were given to SciPy.
    fn sixty() -> Vec<f64> {
        let number = |place: i32| f64::from((place * 37) % 61 - 25) / 10.0 + 0.001 * f64::from(place);
        (0..60).map(|place| (number(place) * 1e3).round() / 1e3).collect()
    }

    /// Fifty, which are just few enough.
    fn fifty() -> Vec<f64> {
        let number = |place: i32| f64::from((place * 29) % 53 - 18) / 10.0 + 0.001 * f64::from(place);
        (0..50).map(|place| (number(place) * 1e3).round() / 1e3).collect()
    }

    /// Expected: t, p, low, high from SciPy 1.17, `ttest_1samp(differences, 0)` and its `confidence_interval(0.95)`.
    #[test]
    fn t_tests_of_scipy() {
        let cases = [
            (vec![0.5, 1.5], 2.0, 0.295_167_235_300_866_5, -5.353_102_368_087_347, 7.353_102_368_087_347),
            (
                vec![1.2, -0.4, 2.5, 0.3, 3.1],
                2.046_815_584_364_545,
                0.110_087_709_193_967_22,
                -0.477_670_565_626_502_8,
                3.157_670_565_626_502_5,
            ),
            (
                vec![0.0, 0.0, 1.5, -0.5, 2.5, 3.5],
                1.783_765_170_031_689_7,
                0.134_540_920_014_204_28,
                -0.514_615_259_878_866_9,
                2.847_948_593_212_200_4,
            ),
            (
                vec![-1.0, -2.0, -3.0, -4.0, -5.0, -6.0],
                -4.582_575_694_955_841,
                0.005_933_544_517_592_255,
                -5.463_314_306_980_323,
                -1.536_685_693_019_676_4,
            ),
            (
                sixty(),
                2.333_837_571_773_904,
                0.023_030_335_921_071_465,
                0.076_941_242_897_600_13,
                1.002_058_757_102_4,
            ),
            (
                fifty(),
                3.624_397_189_908_178_6,
                0.000_687_713_213_308_916_2,
                0.355_765_458_842_177_86,
                1.241_234_541_157_822_3,
            ),
        ];
        for (differences, t, p, low, high) in cases {
            let found = paired_t(&differences).unwrap();
            assert!(close(found.t, t) && close(found.p, p), "{differences:?}: {found:?}");
            assert!(close(found.interval.low, low) && close(found.interval.high, high), "{found:?}");
            assert_eq!(found.degrees_of_freedom, differences.len() - 1);
        }
    }

    #[test]
    fn differences_without_spread_have_no_t() {
        for differences in [&[][..], &[0.5], &[2.0, 2.0, 2.0], &[0.0, 0.0], &[0.3, 0.1 + 0.2]] {
            assert_eq!(paired_t(differences), None, "{differences:?}");
        }
    }

    /// Expected: statistic and p from SciPy 1.17, `wilcoxon(differences without zeros, correction=False)` with
    /// `method="exact"` or `"approx"`.
    #[test]
    fn signed_rank_tests_of_scipy() {
        let cases = [
            (vec![0.5], 0.0, 1.0, Method::Exact),
            (vec![0.5, 1.5], 0.0, 0.5, Method::Exact),
            (vec![1.2, -0.4, 2.5, 0.3, 3.1], 2.0, 0.1875, Method::Exact),
            (vec![1.0, 1.0, -1.0, 2.0, 2.0, -3.0, 4.0], 8.0, 0.306_136_039_400_803_6, Method::Normal),
            (vec![0.0, 0.0, 1.5, -0.5, 2.5, 3.5], 1.0, 0.25, Method::Exact),
            (vec![0.0, 1.0, 1.0, -1.0, 0.0, 2.0, 3.0, 3.0], 2.0, 0.070_749_867_076_377_62, Method::Normal),
            (vec![-1.0, -2.0, -3.0, -4.0, -5.0, -6.0], 0.0, 0.031_25, Method::Exact),
            (vec![2.0, 2.0, 2.0], 0.0, 0.083_264_516_663_550_4, Method::Normal),
            (sixty(), 624.0, 0.032_175_262_177_053_23, Method::Normal),
            (fifty(), 313.0, 0.001_380_098_565_427_090_3, Method::Exact),
        ];
        for (differences, statistic, p, method) in cases {
            let found = wilcoxon(&differences).unwrap();
            assert_eq!((found.statistic, found.method), (statistic, method), "{differences:?}");
            assert!(close(found.p, p), "{differences:?}: {found:?}");
        }
        assert_eq!(wilcoxon(&[]), None);
        assert_eq!(wilcoxon(&[0.0, 0.0]), None);
    }

    #[test]
    fn no_positive_rank_is_zero_and_not_minus_zero() {
        let found = wilcoxon(&[-1.0, -2.0, -3.0]).unwrap();
        assert!(found.statistic == 0.0 && found.statistic.is_sign_positive(), "{found:?}");
    }

    #[test]
    fn rounding_is_neither_a_difference_nor_an_order() {
        let differences = [0.3 - 0.2, 0.2 - 0.1, -(0.4 - 0.3), 0.5, 0.1 + 0.2 - 0.3];
        let found = wilcoxon(&differences).unwrap();
        assert_eq!((found.n, found.method), (4, Method::Normal), "three of 0.1 are tied, one is 0");
        assert_eq!(signs(&differences), Signs { positive: 3, negative: 1, zero: 1 });
    }

    /// Expected: SciPy 1.17, `binomtest(k, n).proportion_ci(0.95, method="wilson")`.
    #[test]
    fn wilson_intervals_of_scipy() {
        let cases = [
            (0, 10, 0.0, 0.277_532_799_862_889_26),
            (10, 10, 0.722_467_200_137_110_7, 1.0),
            (586, 1_000, 0.555_199_679_181_111_2, 0.616_142_118_359_373_3),
            (3, 7, 0.158_219_855_251_469_7, 0.749_541_635_472_342_8),
            (7_593, 15_187, 0.492_015_986_103_599_1, 0.507_918_184_757_317_2),
        ];
        for (correct, total, low, high) in cases {
            let found = wilson(f64::from(correct) / f64::from(total), total).unwrap();
            assert!(
                (found.low - low).abs() < TOLERANCE && (found.high - high).abs() < TOLERANCE,
                "{found:?}"
            );
        }
        assert_eq!(wilson(0.5, 0), None);
    }

    #[test]
    fn draws_from_a_population_say_more_about_it() {
        assert_eq!(wilson_of_draws(0.3, 0, 10), None);
        assert_eq!(wilson_of_draws(0.3, 11, 10), None);
        assert_eq!(wilson_of_draws(0.3, 10, 10), Some(Interval { low: 0.3, high: 0.3 }));
        // 1,000 of 3,333 are worth 1000 · 3332 / 2333 of endlessly many.
        let found = wilson_of_draws(0.6, 1_000, 3_333).unwrap();
        let expected = wilson_of(0.6, 3_332_000.0 / 2_333.0);
        assert!(
            (found.low - expected.low).abs() < TOLERANCE && (found.high - expected.high).abs() < TOLERANCE
        );
    }

    /// Expected: Newcombe (1998), Table II, method 10, of the differences 56/70 - 48/80, 9/10 - 3/10 and 10/10 - 0/20.
    #[test]
    fn differences_of_newcombe() {
        let cases = [
            ((56, 70), (48, 80), (0.0524, 0.3339)),
            ((9, 10), (3, 10), (0.1705, 0.8090)),
            ((10, 10), (0, 20), (0.6791, 1.0)),
        ];
        for (first, second, (low, high)) in cases {
            let of = |(correct, total): (u32, u32)| {
                let fraction = f64::from(correct) / f64::from(total);
                (fraction, wilson(fraction, total).unwrap())
            };
            let found = of_difference(of(first), of(second), 0.0);
            // As many digits as are printed there.
            assert!((found.low - low).abs() < 5e-5 && (found.high - high).abs() < 5e-5, "{found:?}");
        }
    }

    /// Expected: the reach of SciPy's intervals above.
    #[test]
    fn a_mean_reaches_as_far_as_its_t_test_says() {
        let of = |values: &[f64]| summary(values).unwrap().reach();
        assert!(close(of(&[0.5, 1.5]).unwrap(), 6.353_102_368_087_347));
        assert_eq!([of(&[0.5]), of(&[0.5, 0.5])], [None, None]);
        let same = Interval { low: 0.5, high: 0.5 };
        assert_eq!(of_difference((0.5, same), (0.5, same), 0.25), Interval { low: -0.25, high: 0.25 });
    }

    proptest! {
        #[test]
        fn tests_do_not_care_for_order_or_sides(mut differences in prop::collection::vec(-9_i32..9, 2..20)) {
            let of = |values: &[i32]| values.iter().map(|value| f64::from(*value)).collect::<Vec<f64>>();
            let (found, ranked) = (paired_t(&of(&differences)), wilcoxon(&of(&differences)));
            differences.reverse();
            let turned: Vec<i32> = differences.iter().map(|value| -value).collect();
            let (other, other_ranked) = (paired_t(&of(&turned)), wilcoxon(&of(&turned)));
            prop_assert_eq!(found.is_some(), other.is_some());
            if let (Some(found), Some(other)) = (found, other) {
                prop_assert!((found.t + other.t).abs() < 1e-9 && (found.p - other.p).abs() < 1e-9);
            }
            prop_assert_eq!(ranked, other_ranked);
        }

        #[test]
        fn an_interval_contains_its_fraction_and_stays_a_fraction(correct in 0_u32..=500, total in 500_u32..2_000) {
            let fraction = f64::from(correct) / f64::from(total);
            let found = wilson(fraction, total).unwrap();
            prop_assert!(found.contains(fraction) || correct == 0);
            prop_assert!(0.0 <= found.low && found.high <= 1.0);
        }

        #[test]
        fn counted_and_approximated_tests_agree_for_many(
            mut sizes in prop::collection::vec(0.01..9.0_f64, 40..=50), signs in prop::collection::vec(any::<bool>(), 50)
        ) {
            sizes.sort_by(f64::total_cmp);
            sizes.dedup();
            prop_assume!(sizes.len() >= 40);
            let differences: Vec<f64> =
                sizes.iter().zip(signs).map(|(size, sign)| if sign { *size } else { -size }).collect();
            let found = wilcoxon(&differences).unwrap();
            prop_assume!(found.method == Method::Exact);
            let normal = normal_p(found.statistic, found.n, &[]).unwrap();
            // Without a correction for continuity the approximation is off by half a step of the distribution.
            prop_assert!((found.p - normal).abs() < 0.02, "{} {normal}", found.p);
        }
    }
}
