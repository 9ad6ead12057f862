//! Curves with fewer points that look the same.

/// Points of a curve that are sent, at most: more than a chart has pixels to tell apart.
pub(crate) const MOST: usize = 400;

/// Returns which points to keep, in order and at most `most` (at least 4): the first and the last, and from each of equal
/// stretches between them the lowest and the highest. A value that is not a number is kept only where a stretch has no other.
pub(crate) fn kept(values: &[f64], most: usize) -> Vec<usize> {
    let count = values.len();
    if count <= most {
        return (0..count).collect();
    }
    let inner = count - 2;
    let stretches = (most.max(4) - 2) / 2;
    let mut kept = vec![0];
    for stretch in 0..stretches {
        let (from, to) = (1 + stretch * inner / stretches, 1 + (stretch + 1) * inner / stretches);
        let mut ends = [lowest(values, from..to), highest(values, from..to)];
        ends.sort_unstable();
        kept.extend(ends);
    }
    kept.push(count - 1);
    kept.dedup();
    kept
}

fn lowest(values: &[f64], range: std::ops::Range<usize>) -> usize {
    let first = range.start;
    range
        .min_by(|one, other| {
            number_or(values[*one], f64::INFINITY).total_cmp(&number_or(values[*other], f64::INFINITY))
        })
        .unwrap_or(first)
}

fn highest(values: &[f64], range: std::ops::Range<usize>) -> usize {
    let first = range.start;
    let key = |place: usize| number_or(values[place], f64::NEG_INFINITY);
    // Of equals the first: a plateau is drawn from where it begins.
    range.rev().max_by(|one, other| key(*one).total_cmp(&key(*other))).unwrap_or(first)
}

fn number_or(value: f64, otherwise: f64) -> f64 {
    if value.is_nan() { otherwise } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A generator of numbers that look random: the multiplier is Knuth's for 64 bits.
    fn noise(seed: u64, count: usize) -> Vec<f64> {
        let mut state = seed.wrapping_mul(2).wrapping_add(1);
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as f64 / f64::from(1_u32 << 31)
        };
        (0..count).map(|_| next()).collect()
    }

    #[test]
    fn ends_and_extremes_stay() {
        for seed in 0..200 {
            let count = 1 + seed as usize * 37 % 5_000;
            let most = 4 + seed as usize % 400;
            let values = noise(seed, count);
            let kept = kept(&values, most);
            assert!(kept.len() <= most, "{count} to {most}: {}", kept.len());
            assert!(kept.windows(2).all(|pair| pair[0] < pair[1]));
            assert_eq!((kept[0], *kept.last().unwrap()), (0, count - 1));
            let all = values.iter().copied();
            let shown = kept.iter().map(|place| values[*place]);
            assert_eq!(all.clone().fold(f64::MIN, f64::max), shown.clone().fold(f64::MIN, f64::max));
            assert_eq!(all.fold(f64::MAX, f64::min), shown.fold(f64::MAX, f64::min));
        }
    }

    #[test]
    fn gaps_do_not_hide_numbers() {
        let mut values = vec![f64::NAN; 1_000];
        values[500] = 1.0;
        assert!(kept(&values, 10).contains(&500));
        assert_eq!(kept(&[], 10), [0_usize; 0]);
    }
}
