//! Procedural families: fixed bytes, balance, and how far a simple classifier gets.

use std::collections::BTreeSet;
use std::path::Path;

use sweep_core::dataset::{DatasetSource, DatasetSpec, ProceduralFamily, SplitPolicy, ValidationPolicy};
use sweep_data::{Dataset, Error, LoadOptions, draw_procedural, procedural_class_names};

const FAMILIES: [ProceduralFamily; 6] = [
    ProceduralFamily::Upstream,
    ProceduralFamily::Shapes,
    ProceduralFamily::Textures,
    ProceduralFamily::Blobs,
    ProceduralFamily::Glyphs,
    ProceduralFamily::Details,
];
const FIRST_TEST: u64 = 1 << 32;

fn fnv(bytes: impl IntoIterator<Item = u8>) -> u64 {
    let step = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, step)
}

/// Stored runs depend on these bytes: a change here changes every result.
#[test]
fn the_bytes_never_change() {
    let golden = [
        "ffeec314171cc98b",
        "4344cceb569d8f09",
        "4af58a033341a938",
        "4f016f9b19b9033e",
        "a70e3f1ba6d8a170",
        "75a33ab6a4a309c7",
    ];
    let digests = FAMILIES.map(|family| {
        let numbers = (0..40).chain(FIRST_TEST..FIRST_TEST + 10);
        format!("{:016x}", fnv(numbers.flat_map(|number| draw_procedural(family, 1, number, 32).0)))
    });
    assert_eq!(digests, golden);
}

#[test]
fn an_image_depends_on_family_seed_and_number() {
    let image = |family, seed, number| draw_procedural(family, seed, number, 32).0;
    for family in FAMILIES {
        let reference = image(family, 0, 5);
        assert_eq!(reference.len(), 32 * 32 * 3);
        assert_eq!(image(family, 0, 5), reference);
        assert_ne!(image(family, 1, 5), reference);
        assert_ne!(image(family, 0, 5 + FIRST_TEST), reference);
    }
}

#[test]
fn classes_have_distinct_names_and_take_turns() {
    for family in FAMILIES {
        let names = procedural_class_names(family);
        let most = if family == ProceduralFamily::Upstream { 20 } else { 12 };
        assert!((8..=most).contains(&names.len()));
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
        let labels: Vec<u32> =
            (0..names.len() as u64).map(|number| draw_procedural(family, 0, number, 8).1).collect();
        assert_eq!(labels, (0..names.len() as u32).collect::<Vec<_>>());
    }
}

fn spec(splits: SplitPolicy) -> DatasetSpec {
    let source =
        DatasetSource::Procedural { family: ProceduralFamily::Glyphs, seed: 4, train: 120, test: 60 };
    DatasetSpec { source, splits, expected: None }
}

#[test]
fn splits_are_complete_and_share_no_image() {
    let cache = tempfile::tempdir().unwrap();
    let options = LoadOptions { image_size: 16, cache: cache.path(), base: Path::new("") };
    let given = SplitPolicy::Given {
        train: "train".to_owned(),
        validation: ValidationPolicy::PerClass { count: 2, seed: 0 },
        test: "test".to_owned(),
        test_subset: None,
    };
    let pooled = SplitPolicy::Pooled { train_per_class: 8, validation_per_class: 2, seed: 0 };
    for splits in [given, pooled] {
        let dataset = Dataset::load("glyphs", &spec(splits), options, &mut |_| ()).unwrap();
        let counts = dataset.counts();
        assert_eq!((counts.classes, counts.train, counts.validation, counts.test), (12, 96, 24, 60));
        let splits = [dataset.train(), dataset.validation(), dataset.test()];
        let images =
            splits.iter().flat_map(|split| (0..split.len()).map(|position| split.image(position).unwrap()));
        assert_eq!(images.collect::<BTreeSet<_>>().len(), 180);
    }
    let unknown = SplitPolicy::Given {
        train: "training".to_owned(),
        validation: ValidationPolicy::PerClass { count: 2, seed: 0 },
        test: "test".to_owned(),
        test_subset: None,
    };
    let error = Dataset::load("glyphs", &spec(unknown), options, &mut |_| ()).unwrap_err();
    assert!(matches!(error, Error::UnknownSplit { .. }));
}

/// Test accuracy of the nearest class mean of raw pixels, trained on 600 images and tested on 600.
fn nearest_mean_accuracy(family: ProceduralFamily) -> f64 {
    let classes = procedural_class_names(family).len();
    let image = |number| {
        let (pixels, label) = draw_procedural(family, 0, number, 32);
        (pixels.into_iter().map(f32::from).collect::<Vec<f32>>(), label as usize)
    };
    let mut means = vec![vec![0.0_f32; 32 * 32 * 3]; classes];
    for (pixels, label) in (0..600).map(image) {
        means[label].iter_mut().zip(pixels).for_each(|(mean, pixel)| *mean += pixel * classes as f32 / 600.0);
    }
    let distance = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f32>();
    let nearest = |pixels: &[f32]| {
        let better =
            |a: &usize, b: &usize| distance(pixels, &means[*a]).total_cmp(&distance(pixels, &means[*b]));
        (0..classes).min_by(better)
    };
    let right =
        (FIRST_TEST..FIRST_TEST + 600).map(image).filter(|(pixels, label)| nearest(pixels) == Some(*label));
    right.count() as f64 / 600.0
}

/// Raw pixels alone must not give the classes away: position, colour and polarity vary too much for a linear rule.
#[test]
fn no_family_is_solved_by_its_mean_images() {
    for family in FAMILIES {
        let accuracy = nearest_mean_accuracy(family);
        assert!(accuracy < 0.45, "{family:?}: {accuracy}");
    }
}
