//! Grouping and folding: seeds into a mean with its spread.

use std::collections::BTreeMap;

/// A mean over runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) mean: f64,
    /// Sample standard deviation (over n - 1); 0 for one value.
    pub(crate) deviation: f64,
    /// Number of values, at least 1.
    pub(crate) n: usize,
}

impl Spread {
    /// Returns mean and spread of the finite values; `None` where there are none.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
        let n = values.len();
        if n == 0 {
            return None;
        }
        let mean = values.iter().sum::<f64>() / n as f64;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let deviation = if n > 1 { (squares / (n - 1) as f64).sqrt() } else { 0.0 };
        Some(Self { mean, deviation, n })
    }
}

/// Groups items by a key, groups and items in the order of their first appearance.
pub(crate) fn grouped<T, K: Ord + Clone>(
    items: impl IntoIterator<Item = T>,
    key: impl Fn(&T) -> K,
) -> Vec<(K, Vec<T>)> {
    let mut places: BTreeMap<K, usize> = BTreeMap::new();
    let mut groups: Vec<(K, Vec<T>)> = Vec::new();
    for item in items {
        let key = key(&item);
        let place = *places.entry(key.clone()).or_insert(groups.len());
        if place == groups.len() {
            groups.push((key, Vec::new()));
        }
        groups[place].1.push(item);
    }
    groups
}

/// Returns the different values in the order of their first appearance.
pub(crate) fn distinct<T: Ord + Clone>(items: impl IntoIterator<Item = T>) -> Vec<T> {
    grouped(items, T::clone).into_iter().map(|(value, _)| value).collect()
}

/// Returns at most `most` indices below `count`, spread evenly, with the first and the last.
pub(crate) fn evenly(count: usize, most: usize) -> Vec<usize> {
    if count <= most || most < 2 {
        return (0..count.min(most)).collect();
    }
    (0..most).map(|index| index * (count - 1) / (most - 1)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn spread_of_few_values() {
        assert_eq!(Spread::of([]), None);
        assert_eq!(Spread::of([f64::NAN]), None);
        assert_eq!(Spread::of([0.5]), Some(Spread { mean: 0.5, deviation: 0.0, n: 1 }));
        // The squares 1 + 0 + 1, over n - 1 = 2.
        assert_eq!(Spread::of([1.0, 2.0, 3.0]), Some(Spread { mean: 2.0, deviation: 1.0, n: 3 }));
    }

    #[test]
    fn groups_keep_the_order_of_first_appearance() {
        let groups = grouped(["b1", "a1", "b2"], |text| text.chars().next());
        assert_eq!(groups, [(Some('b'), vec!["b1", "b2"]), (Some('a'), vec!["a1"])]);
        assert_eq!(distinct([3, 1, 3, 2]), [3, 1, 2]);
    }

    proptest! {
        #[test]
        fn even_choice_keeps_both_ends(count in 1_usize..300, most in 2_usize..20) {
            let chosen = evenly(count, most);
            prop_assert_eq!(chosen.len(), count.min(most));
            prop_assert_eq!((chosen[0], *chosen.last().unwrap()), (0, count - 1));
            prop_assert!(chosen.windows(2).all(|pair| pair[0] < pair[1]));
        }
    }
}
