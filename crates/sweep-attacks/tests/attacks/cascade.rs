//! AutoAttack: against the reference's cascade on networks that were trained adversarially, and what holds for all classifiers.

use std::num::NonZeroUsize;
use std::time::Instant;

use candle_core::DType;
use proptest::prelude::*;
use sweep_attacks::{Cascade, CascadeEvaluation, Error, Stage, Uniform};

use crate::fixture::{Fixture, TRAINED};
use crate::support::{Counting, Linear, PIXELS, Perceptron, images, numbers, predictions, uniform};

/// The random attacks draw other numbers than the reference, so that an image at the edge may fall on either side.
const IMAGES_AT_THE_EDGE: usize = 1;
/// The Square attack alone draws 5,000 squares an image; the reference draws the same ones for a whole batch, so that luck and
/// bad luck come to many images at once.
const SQUARES_OF_ANOTHER_BATCH: usize = 3;

fn count(count: usize) -> NonZeroUsize {
    NonZeroUsize::new(count).unwrap()
}

/// Random numbers of (image, purpose).
fn generator(image: usize, purpose: usize) -> Uniform {
    uniform(1000 * purpose as u64 + image as u64)
}

fn attack(cascade: &Cascade, fixture: &Fixture, epsilon: u8) -> CascadeEvaluation {
    let (images, labels) = (fixture.images(), fixture.classes("labels"));
    let radius = f64::from(epsilon) / 255.0;
    cascade.evaluate(&fixture.model, &images, &labels, radius, &generator).unwrap()
}

/// Images that are left after each stage.
fn left(found: &CascadeEvaluation, stages: usize) -> Vec<usize> {
    (0..stages).map(|stage| found.outcomes.iter().filter(|one| one.withstood(stage)).count()).collect()
}

/// How many images the reference has left after each of its attacks.
fn left_by_reference(fixture: &Fixture, epsilon: u8) -> Vec<usize> {
    let flags = |attack| fixture.numbers(&format!("aa_standard.eps{epsilon}.flags_after_{attack}"));
    ["apgd-ce", "apgd-t", "fab-t", "square"].map(|attack| flags(attack).iter().sum::<f64>() as usize).to_vec()
}

fn check_autoattack(fixture: &Fixture, epsilon: u8) -> Vec<usize> {
    let found = left(&attack(&Cascade::autoattack(), fixture, epsilon), 4);
    let expected = left_by_reference(fixture, epsilon);
    for (found, expected) in found.iter().zip(&expected) {
        let difference = found.abs_diff(*expected);
        assert!(difference <= IMAGES_AT_THE_EDGE, "{} at {epsilon}: {found} for {expected}", fixture.network);
    }
    found
}

#[test]
fn autoattack_leaves_the_images_that_the_reference_leaves() {
    check_autoattack(&Fixture::stored("aa_vit"), 8);
}

/// FAB begins at the clean image and draws nothing: the very images.
#[test]
fn fab_alone_leaves_the_images_that_the_reference_leaves() {
    let fixture = Fixture::stored("aa_vit");
    let found = attack(&Cascade::only(Stage::Fab { steps: count(100) }), &fixture, 8);
    let flags: Vec<f64> = found.outcomes.iter().map(|one| f64::from(u8::from(one.still_correct()))).collect();
    assert_eq!(flags, fixture.numbers("individual.eps8.fab-t.flags"));
}

#[test]
#[ignore = "needs the complete reference set beside the checkout, and minutes"]
#[expect(clippy::print_stderr, reason = "the figures are what it is run for")]
fn the_complete_cascades_equal_the_reference() {
    for network in TRAINED {
        let fixture = Fixture::complete(network);
        for epsilon in [4, 8] {
            let begin = Instant::now();
            let found = check_autoattack(&fixture, epsilon);
            let expected = left_by_reference(&fixture, epsilon);
            eprintln!("{network} at {epsilon}/255: {found:?} for {expected:?}, {:.0?}", begin.elapsed());
        }
    }
    let fixture = Fixture::complete("aa_vit");
    for epsilon in [4, 8] {
        for (stage, name) in [
            (Stage::ApgdCrossEntropy { steps: count(100) }, "apgd-ce"),
            (Stage::ApgdTargeted { steps: count(100) }, "apgd-t"),
            (Stage::Fab { steps: count(100) }, "fab-t"),
            (Stage::Square { queries: count(5000) }, "square"),
        ] {
            let found = attack(&Cascade::only(stage), &fixture, epsilon);
            let found = found.outcomes.iter().filter(|one| one.still_correct()).count();
            let expected: f64 =
                fixture.numbers(&format!("individual.eps{epsilon}.{name}.flags")).iter().sum();
            eprintln!("{name} alone at {epsilon}/255: {found} for {expected}");
            assert!(found.abs_diff(expected as usize) <= SQUARES_OF_ANOTHER_BATCH, "{name} at {epsilon}");
        }
    }
}

/// The attacks in small.
fn small_stages() -> [Stage; 4] {
    [
        Stage::ApgdCrossEntropy { steps: count(5) },
        Stage::ApgdTargeted { steps: count(5) },
        Stage::Fab { steps: count(5) },
        Stage::Square { queries: count(30) },
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// What is reported is within the radius, is an image, and is taken for what the outcome says.
    #[test]
    fn reported_points_are_what_they_are_said_to_be(seed in 0_u64..1000, epsilon in 0.0..0.4_f64, stage in 0_usize..4) {
        let model = Perceptron::new(seed, 6, DType::F32);
        let clean = images(seed + 3, 5, (0.0, 1.0), DType::F32);
        let mut labels = predictions(&model, &clean);
        labels[4] = (labels[4] + 1) % 6;
        let cascade = Cascade::only(small_stages()[stage]);
        let found = cascade.evaluate(&model, &clean, &labels, epsilon, &generator).unwrap();
        let (points, centers) = (numbers(&found.points), numbers(&clean));
        for (point, center) in points.chunks(PIXELS).zip(centers.chunks(PIXELS)) {
            for (pixel, center) in point.iter().zip(center) {
                prop_assert!((pixel - center).abs() <= epsilon + 1.2e-7 && (0.0..=1.0).contains(pixel));
            }
        }
        let taken_for = predictions(&model, &found.points);
        let reported: Vec<u32> = found.outcomes.iter().map(|one| one.prediction).collect();
        prop_assert_eq!(taken_for, reported);
        let correct = found.outcomes.iter().zip(&labels).map(|(one, label)| one.prediction == *label);
        prop_assert!(correct.eq(found.outcomes.iter().map(sweep_attacks::CascadeOutcome::still_correct)));
        prop_assert!(!found.outcomes[4].clean_correct && found.outcomes[4].broken_by.is_none());
    }

    /// An image's outcome depends on no neighbour.
    #[test]
    fn outcomes_do_not_depend_on_the_batch(seed in 0_u64..1000, stage in 0_usize..4) {
        let model = Perceptron::new(seed, 6, DType::F64);
        let clean = images(seed + 3, 4, (0.1, 0.9), DType::F64);
        let labels = predictions(&model, &clean);
        let cascade = Cascade::only(small_stages()[stage]);
        let together = cascade.evaluate(&model, &clean, &labels, 0.05, &generator).unwrap();
        for at in 0..4 {
            let one = clean.narrow(0, at, 1).unwrap();
            let own = |_: usize, purpose: usize| generator(at, purpose);
            let alone = cascade.evaluate(&model, &one, &labels[at..=at], 0.05, &own).unwrap();
            prop_assert_eq!(alone.outcomes[0], together.outcomes[at]);
            let point = together.points.narrow(0, at, 1).unwrap();
            prop_assert_eq!(numbers(&alone.points), numbers(&point));
        }
    }
}

/// For a linear classifier the nearest misclassified point is known: where two logits meet.
#[test]
fn fab_finds_the_boundary_of_a_linear_classifier() {
    for seed in 0..20 {
        let model = Linear::new(seed, 3, DType::F64);
        let clean = images(seed + 50, 1, (0.45, 0.55), DType::F64);
        let label = predictions(&model, &clean)[0];
        let logits = numbers(&(clean.flatten_from(1).unwrap().matmul(&model.weights)).unwrap());
        let weights = numbers(&model.weights);
        let slope = |pixel: usize, class: usize| weights[3 * pixel + class];
        let radius_to = |class: usize| {
            let slopes = (0..PIXELS).map(|pixel| (slope(pixel, class) - slope(pixel, label as usize)).abs());
            (logits[label as usize] - logits[class]) / slopes.sum::<f64>()
        };
        let rivals = (0..3).filter(|class| *class != label as usize).map(radius_to);
        let expected = rivals.fold(f64::INFINITY, f64::min);
        for (factor, is_broken) in [(0.98, false), (1.02, true)] {
            let fab = Cascade::only(Stage::Fab { steps: count(30) });
            let found = fab.evaluate(&model, &clean, &[label], factor * expected, &generator).unwrap();
            assert_eq!(found.outcomes[0].broken_by.is_some(), is_broken, "seed {seed}, {factor}");
        }
    }
}

#[test]
fn later_attacks_see_only_what_earlier_ones_left() {
    let fixture = Fixture::stored("aa_vit");
    let (images, labels) = (fixture.images(), fixture.classes("labels"));
    let model = Counting::new(fixture.model);
    let at = |epsilon: f64, cascade: &Cascade| {
        model.forward_images.set(0);
        model.backward_images.set(0);
        let found = cascade.evaluate(&model, &images, &labels, epsilon, &generator).unwrap();
        assert_eq!(found.effort.forward_images, model.forward_images.get());
        assert_eq!(found.effort.backward_images, model.backward_images.get());
        found
    };
    let found = at(0.0, &Cascade::autoattack());
    assert_eq!(found.effort.forward_images, labels.len(), "clean images are classified, and that is all");
    assert_eq!(numbers(&found.points), numbers(&images));
    // So far that nothing is left for the others.
    let found = at(0.5, &Cascade::autoattack());
    assert!(found.outcomes.iter().all(|one| one.broken_by.is_none_or(|by| by == 0) && !one.still_correct()));
}

#[test]
fn few_classes_give_few_targets() {
    let model = Linear::new(1, 4, DType::F32);
    let clean = images(2, 2, (0.0, 1.0), DType::F32);
    let labels = predictions(&model, &clean);
    for stage in small_stages() {
        let found = Cascade::only(stage).evaluate(&model, &clean, &labels, 0.001, &generator).unwrap();
        assert_eq!(found.outcomes.len(), 2, "{stage}");
    }
    let model = Linear::new(1, 3, DType::F32);
    let labels = predictions(&model, &clean);
    let refused = Cascade::autoattack().evaluate(&model, &clean, &labels, 1e-6, &generator);
    assert!(matches!(refused, Err(Error::TooFewClasses { needed: 4, classes: 3 })), "{refused:?}");
    let refused = Cascade::autoattack().evaluate(&model, &clean, &[0, 3], 0.1, &generator);
    assert!(matches!(refused, Err(Error::ClassOutOfRange { sample: 1, class: 3, classes: 3 })));
}
