//! Which images form which split: pure functions of labels, content keys and a seed.
//!
//! A draw goes class by class. The members of a class are put in the order of their content keys before they are
//! shuffled, so that the order of files and rows does not decide what is drawn.

use sweep_core::random::{Purpose, Stream};

use crate::error::{Error, Result};

/// What identifies an image by its content: the beginning of a SHA-256.
pub(crate) type Key = [u8; 16];

/// Which draw a stream belongs to, so that equal seeds in two places of a specification draw independently.
#[derive(Clone, Copy)]
pub(crate) enum Draw {
    /// Validation images taken out of training.
    Validation = 0,
    /// A subset of the test split.
    TestSubset = 1,
    /// The splits of a pooled dataset.
    Pooled = 2,
}

/// The images a draw chooses from; row `i` has `labels[i]` and `keys[i]`.
#[derive(Clone, Copy)]
pub(crate) struct Pool<'a> {
    pub(crate) labels: &'a [u32],
    pub(crate) keys: &'a [Key],
    pub(crate) class_names: &'a [String],
}

impl Pool<'_> {
    /// Returns the rows of each class in shuffled order.
    fn shuffled_classes(self, draw: Draw, seed: u64) -> Vec<Vec<u32>> {
        let mut classes = vec![Vec::new(); self.class_names.len()];
        for (row, label) in self.labels.iter().enumerate() {
            classes[*label as usize].push(row as u32);
        }
        for (class, rows) in classes.iter_mut().enumerate() {
            rows.sort_by_key(|row| (self.keys[*row as usize], *row));
            Stream::new(seed, Purpose::Split, draw as u64, class as u64).shuffle(rows);
        }
        classes
    }

    fn too_small(self, class: usize, available: usize, needed: u32) -> Error {
        Error::ClassTooSmall { class: self.class_names[class].clone(), available: available as u32, needed }
    }

    /// Takes `count(members)` images out of each class; every class keeps at least one.
    ///
    /// Returns the rows taken and the rows left, both ascending.
    pub(crate) fn hold_out(
        self,
        draw: Draw,
        seed: u64,
        count: impl Fn(u32) -> u32,
    ) -> Result<(Vec<u32>, Vec<u32>)> {
        self.hold_out_quotas(draw, seed, |sizes| sizes.iter().map(|size| count(*size)).collect())
    }

    /// Takes `fraction` of all images, rounded up, and of each class its share by largest remainder (scikit-learn's
    /// stratified `train_test_split`); every class keeps at least one.
    ///
    /// Returns the rows taken and the rows left, both ascending.
    pub(crate) fn hold_out_fraction(
        self,
        draw: Draw,
        seed: u64,
        fraction: f64,
    ) -> Result<(Vec<u32>, Vec<u32>)> {
        let count = (self.labels.len() as f64 * fraction).ceil() as u32;
        self.hold_out_quotas(draw, seed, |sizes| largest_remainder(sizes, count))
    }

    fn hold_out_quotas(
        self,
        draw: Draw,
        seed: u64,
        quotas: impl Fn(&[u32]) -> Vec<u32>,
    ) -> Result<(Vec<u32>, Vec<u32>)> {
        let (mut taken, mut left) = (Vec::new(), Vec::new());
        let classes = self.shuffled_classes(draw, seed);
        let sizes: Vec<u32> = classes.iter().map(|rows| rows.len() as u32).collect();
        for (class, (rows, wanted)) in classes.iter().zip(quotas(&sizes)).enumerate() {
            if rows.len() as u64 <= u64::from(wanted) {
                return Err(self.too_small(class, rows.len(), wanted.saturating_add(1)));
            }
            let (first, rest) = rows.split_at(wanted as usize);
            taken.extend_from_slice(first);
            left.extend_from_slice(rest);
        }
        Ok((sorted(taken), sorted(left)))
    }

    /// Draws `first` and `second` images of each class; the rest, at least one a class, is the third part.
    ///
    /// Returns the rows of the three parts, each ascending.
    pub(crate) fn three_way(self, seed: u64, first: u32, second: u32) -> Result<[Vec<u32>; 3]> {
        let mut parts = [Vec::new(), Vec::new(), Vec::new()];
        for (class, rows) in self.shuffled_classes(Draw::Pooled, seed).iter().enumerate() {
            let drawn = u64::from(first) + u64::from(second);
            if rows.len() as u64 <= drawn {
                return Err(self.too_small(class, rows.len(), u32::try_from(drawn + 1).unwrap_or(u32::MAX)));
            }
            let (head, rest) = rows.split_at(first as usize);
            let (middle, tail) = rest.split_at(second as usize);
            for (part, rows) in parts.iter_mut().zip([head, middle, tail]) {
                part.extend_from_slice(rows);
            }
        }
        Ok(parts.map(sorted))
    }

    /// Draws `count` images so that each class keeps its share (largest remainder; of equal remainders, the lower
    /// class number first). Returns the rows drawn, ascending.
    pub(crate) fn stratified(self, seed: u64, count: u32) -> Result<Vec<u32>> {
        let available = self.labels.len() as u32;
        if count > available {
            return Err(Error::SubsetTooLarge { wanted: count, available });
        }
        let classes = self.shuffled_classes(Draw::TestSubset, seed);
        let sizes: Vec<u32> = classes.iter().map(|rows| rows.len() as u32).collect();
        let quotas = largest_remainder(&sizes, count);
        let drawn =
            classes.iter().zip(quotas).flat_map(|(rows, quota)| rows[..quota as usize].to_vec()).collect();
        Ok(sorted(drawn))
    }
}

fn sorted(mut rows: Vec<u32>) -> Vec<u32> {
    rows.sort_unstable();
    rows
}

/// Distributes `count` over parts in proportion to `sizes`; no part gets more than its size.
fn largest_remainder(sizes: &[u32], count: u32) -> Vec<u32> {
    let total: u64 = sizes.iter().map(|size| u64::from(*size)).sum();
    if total == 0 {
        return vec![0; sizes.len()];
    }
    let share = |size: &u32| u64::from(*size) * u64::from(count);
    let mut quotas: Vec<u32> = sizes.iter().map(|size| (share(size) / total) as u32).collect();
    let missing = count - quotas.iter().sum::<u32>();
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    order.sort_by_key(|part| std::cmp::Reverse(share(&sizes[*part]) % total));
    for part in order.into_iter().take(missing as usize) {
        quotas[part] += 1;
    }
    quotas
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::sha::sha256;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|class| class.to_string()).collect()
    }

    fn key(row: usize) -> Key {
        sha256(&row.to_le_bytes())[..16].try_into().unwrap()
    }

    fn keys(count: usize) -> Vec<Key> {
        (0..count).map(key).collect()
    }

    fn is_partition(parts: &[&[u32]], count: usize) -> bool {
        let all: Vec<u32> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        let distinct: BTreeSet<u32> = all.iter().copied().collect();
        all.len() == count && distinct.len() == count && distinct.iter().all(|row| (*row as usize) < count)
    }

    #[test]
    fn largest_remainder_follows_the_worked_table() {
        let cases: [(&[u32], u32, &[u32]); 5] = [
            (&[10, 10, 10], 10, &[4, 3, 3]),
            (&[1, 2, 3], 6, &[1, 2, 3]),
            (&[0, 5, 5], 5, &[0, 3, 2]),
            (&[41, 42, 17], 10, &[4, 4, 2]),
            (&[33, 34, 33], 1_000_000_000, &[330_000_000, 340_000_000, 330_000_000]),
        ];
        for (sizes, count, expected) in cases {
            assert_eq!(largest_remainder(sizes, count), expected, "{sizes:?} {count}");
        }
    }

    #[test]
    fn a_class_too_small_is_named_with_its_counts() {
        let (labels, keys, class_names) = ([0, 0, 0, 1], keys(4), names(2));
        let pool = Pool { labels: &labels, keys: &keys, class_names: &class_names };
        let error = pool.hold_out(Draw::Validation, 0, |_| 1).unwrap_err().to_string();
        assert_eq!(error, "class \"1\" has 1 images, but the split needs 2 of them");
        let error = pool.three_way(0, 1, 1).unwrap_err().to_string();
        assert_eq!(error, "class \"1\" has 1 images, but the split needs 3 of them");
        let error = pool.stratified(0, 5).unwrap_err().to_string();
        assert_eq!(error, "a test subset of 5 images cannot be drawn from 4");
    }

    /// Sizes as in Stanford Cars (paper, B.1): 8,144 training images of 196 classes, of which a validation split takes the
    /// same number or share of each class, and 8,041 test images, of which 1,000 are drawn.
    #[test]
    fn the_papers_draws_are_exact_and_seeded() {
        let labels = |count: usize| (0..count).map(|row| (row * row % 9973 % 196) as u32).collect::<Vec<_>>();
        let class_names = names(196);
        let (train, test) = (labels(8144), labels(8041));
        let (train_keys, test_keys) = (keys(train.len()), keys(test.len()));
        let train_pool = Pool { labels: &train, keys: &train_keys, class_names: &class_names };
        let test_pool = Pool { labels: &test, keys: &test_keys, class_names: &class_names };
        let members = |labels: &[u32], rows: &[u32], class: u32| {
            rows.iter().filter(|row| labels[**row as usize] == class).count() as u32
        };
        let all = |labels: &[u32]| (0..labels.len() as u32).collect::<Vec<_>>();

        let (three, left) = train_pool.hold_out(Draw::Validation, 0, |_| 3).unwrap();
        assert!(is_partition(&[&three, &left], 8144));
        assert!((0..196).all(|class| members(&train, &three, class) == 3));
        assert_eq!(train_pool.hold_out(Draw::Validation, 0, |_| 3).unwrap().0, three);
        assert_ne!(train_pool.hold_out(Draw::Validation, 1, |_| 3).unwrap().0, three);
        assert_ne!(train_pool.hold_out(Draw::TestSubset, 0, |_| 3).unwrap().0, three);

        // The paper's Cars: 15 % of 8,144, which is 1,222 whatever the sizes of the classes are.
        let (validation, left) = train_pool.hold_out_fraction(Draw::Validation, 42, 0.15).unwrap();
        assert!(is_partition(&[&validation, &left], 8144));
        assert_eq!((left.len(), validation.len()), (6922, 1222));
        for class in 0..196 {
            let share = members(&train, &validation, class) * 8144;
            assert!(share.abs_diff(members(&train, &all(&train), class) * 1222) < 8144, "class {class}");
        }

        let subset = test_pool.stratified(0, 1000).unwrap();
        assert_eq!(subset.iter().collect::<BTreeSet<_>>().len(), 1000);
        for class in 0..196 {
            let exact = members(&test, &all(&test), class) * 1000;
            let drawn = members(&test, &subset, class) * 8041;
            assert!(drawn.abs_diff(exact) < 8041, "class {class}");
        }
        assert_eq!(test_pool.stratified(0, 1000).unwrap(), subset);
        assert_ne!(test_pool.stratified(1, 1000).unwrap(), subset);
    }

    proptest! {
        #[test]
        fn hold_out_partitions(labels in prop::collection::vec(0_u32..4, 40..120), seed: u64, count in 1_u32..3) {
            let (keys, class_names) = (keys(labels.len()), names(4));
            let pool = Pool { labels: &labels, keys: &keys, class_names: &class_names };
            if let Ok((taken, left)) = pool.hold_out(Draw::Validation, seed, |_| count) {
                prop_assert!(is_partition(&[&taken, &left], labels.len()));
                for class in 0..4 {
                    let drawn = taken.iter().filter(|row| labels[**row as usize] == class).count();
                    prop_assert_eq!(drawn, count as usize);
                }
            }
        }

        #[test]
        fn three_way_partitions(labels in prop::collection::vec(0_u32..3, 60..120), seed: u64) {
            let (keys, class_names) = (keys(labels.len()), names(3));
            let pool = Pool { labels: &labels, keys: &keys, class_names: &class_names };
            if let Ok([train, validation, test]) = pool.three_way(seed, 5, 2) {
                prop_assert!(is_partition(&[&train, &validation, &test], labels.len()));
                prop_assert_eq!((train.len(), validation.len()), (15, 6));
            }
        }

        #[test]
        fn stratified_keeps_every_share(labels in prop::collection::vec(0_u32..5, 1..200), seed: u64, share in 0.0..=1.0) {
            let (keys, class_names) = (keys(labels.len()), names(5));
            let pool = Pool { labels: &labels, keys: &keys, class_names: &class_names };
            let count = (labels.len() as f64 * share) as u32;
            let drawn = pool.stratified(seed, count).unwrap();
            prop_assert_eq!(drawn.len(), count as usize);
            for class in 0..5 {
                let members = labels.iter().filter(|label| **label == class).count() as f64;
                let exact = members * f64::from(count) / labels.len() as f64;
                let got = drawn.iter().filter(|row| labels[**row as usize] == class).count() as f64;
                prop_assert!((got - exact).abs() < 1.0);
            }
        }

        #[test]
        fn the_order_of_rows_does_not_matter(labels in prop::collection::vec(0_u32..3, 30..60), seed: u64) {
            let (original, class_names) = (keys(labels.len()), names(3));
            let pool = Pool { labels: &labels, keys: &original, class_names: &class_names };
            let reversed_labels: Vec<u32> = labels.iter().rev().copied().collect();
            let reversed_keys: Vec<Key> = original.iter().rev().copied().collect();
            let reversed = Pool { labels: &reversed_labels, keys: &reversed_keys, class_names: &class_names };
            if let Ok((taken, _)) = pool.hold_out(Draw::Validation, seed, |_| 2) {
                let (other, _) = reversed.hold_out(Draw::Validation, seed, |_| 2).unwrap();
                let chosen: BTreeSet<Key> = taken.iter().map(|row| original[*row as usize]).collect();
                prop_assert_eq!(chosen, other.iter().map(|row| reversed_keys[*row as usize]).collect());
            }
        }
    }
}
