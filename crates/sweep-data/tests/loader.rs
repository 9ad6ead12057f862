//! Batches: order, completeness, independence of batch composition, and loading ahead.

#![expect(clippy::unwrap_used, reason = "test helpers outside of test functions")]

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::Path;

use sweep_core::dataset::{
    Augmentation, DatasetSource, DatasetSpec, ProceduralFamily, SplitPolicy, ValidationPolicy,
};
use sweep_data::{Augmenter, Batch, Batches, Dataset, Error, LoadOptions, epoch_order};

const PAPER: Augmentation = Augmentation::Paper { flip: 0.5, jitter: 0.25, rotation: 2.0 };
const SIZE: u32 = 16;

fn dataset(cache: &Path) -> Dataset {
    let source = DatasetSource::Procedural { family: ProceduralFamily::Shapes, seed: 0, train: 90, test: 45 };
    let validation = ValidationPolicy::PerClass { count: 2, seed: 0 };
    let (train, test) = ("train".to_owned(), "test".to_owned());
    let splits = SplitPolicy::Given { train, validation, test, test_subset: None };
    let spec = DatasetSpec { source, splits, expected: None };
    let options = LoadOptions { image_size: SIZE, cache, base: Path::new("") };
    Dataset::load("shapes", &spec, options, &mut |_| ()).unwrap()
}

fn size(count: usize) -> NonZeroUsize {
    NonZeroUsize::new(count).unwrap()
}

fn join(batches: Batches) -> Batch {
    let mut all = Batch::default();
    for batch in batches {
        let batch = batch.unwrap();
        all.images.extend(batch.images);
        all.labels.extend(batch.labels);
        all.indices.extend(batch.indices);
    }
    all
}

#[test]
fn an_epoch_order_is_a_permutation_of_its_own() {
    let order = epoch_order(100, 7, 3);
    assert_eq!(order.iter().copied().collect::<BTreeSet<_>>(), (0..100).collect());
    assert_eq!(order, epoch_order(100, 7, 3));
    assert_ne!(order, epoch_order(100, 7, 4));
    assert_ne!(order, epoch_order(100, 8, 3));
}

#[test]
fn a_batch_holds_planes_in_zero_to_one() {
    let cache = tempfile::tempdir().unwrap();
    let dataset = dataset(cache.path());
    let batch = dataset.train().batch(&[5, 2], None).unwrap();
    let (length, side) = ((SIZE * SIZE * 3) as usize, SIZE as usize);
    assert_eq!((batch.len(), batch.images.len()), (2, 2 * length));
    let image = dataset.train().image(2).unwrap();
    for (channel, y, x) in [(0, 0, 0), (1, 3, 9), (2, side - 1, side - 1)] {
        let value = batch.images[length + (channel * side + y) * side + x];
        let expected = f32::from(image[(y * side + x) * 3 + channel]) / 255.0;
        assert_eq!(value.to_bits(), expected.to_bits());
    }
    assert_eq!(batch.labels[1], dataset.train().label(2).unwrap());
    assert_eq!(batch.indices[1], dataset.train().index(2).unwrap());
}

#[test]
fn evaluation_sees_every_image_once_in_order_whatever_the_batch_size() {
    let cache = tempfile::tempdir().unwrap();
    let dataset = dataset(cache.path());
    let test = dataset.test();
    let whole = test.batch(&(0..test.len()).collect::<Vec<_>>(), None).unwrap();
    for count in [1, 7, 45, 100] {
        let batches = test.batches_in_order(size(count)).unwrap();
        assert_eq!(batches.size_hint().1, Some(45_usize.div_ceil(count)));
        assert_eq!(join(batches), whole, "{count} at a time");
    }
}

#[test]
fn augmentation_does_not_depend_on_the_batch_or_the_threads() {
    let cache = tempfile::tempdir().unwrap();
    let dataset = dataset(cache.path());
    let augmenter = || Augmenter::new(&PAPER, 3, 1).unwrap();
    let epoch = |count| join(dataset.train().training_batches(size(count), 3, 1, augmenter()).unwrap());
    let reference = epoch(64);
    assert_eq!(epoch(1), reference);
    let single = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let order = epoch_order(dataset.train().len(), 3, 1);
    let alone = single.install(|| dataset.train().batch(&order, Some(&augmenter()))).unwrap();
    assert_eq!(alone, reference);
    let plain = dataset.train().batch(&order, None).unwrap();
    assert_ne!(plain.images, reference.images);
}

#[test]
fn an_error_reaches_the_consumer_and_ends_the_iteration() {
    let cache = tempfile::tempdir().unwrap();
    let split = dataset(cache.path()).train().clone();
    let mut batches = Batches::start(split, vec![0, 1, 2, 1_000, 3, 4], size(2), None).unwrap();
    assert!(batches.next().unwrap().is_ok());
    assert!(matches!(batches.next(), Some(Err(Error::Position { position: 1_000, .. }))));
    assert!(batches.next().is_none());
}

#[test]
fn a_loader_can_be_dropped_at_any_time() {
    let cache = tempfile::tempdir().unwrap();
    let dataset = dataset(cache.path());
    for taken in 0..4 {
        let batches = dataset.test().batches_in_order(size(5)).unwrap();
        assert_eq!(batches.take(taken).flatten().count(), taken);
    }
}
