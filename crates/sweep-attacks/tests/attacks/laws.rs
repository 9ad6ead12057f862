//! What holds for every attack on every classifier, checked on small ones whose optimum is known.

use std::num::NonZeroUsize;

use crate::support::{Counting, Linear, PIXELS, Perceptron, images, numbers, predictions, uniform};
use candle_core::{DType, Tensor};
use proptest::prelude::*;
use sweep_attacks::{
    Attack, BrokenSamples, Effort, Evaluation, Loss, Norm, Objective, Start, Trajectory, gaussian_start,
    losses, random_start,
};
use sweep_kernels::Classifier;

/// Rounding of center ± radius to f32 for pixels in [0, 1].
const F32_ROUNDING: f64 = 1.2e-7;
/// 48 pixels, each off by the above, and the rounding of a scale factor of order one.
const L2_ROUNDING: f64 = 2e-6;

fn steps(count: usize) -> NonZeroUsize {
    NonZeroUsize::new(count).unwrap()
}

fn apgd(norm: Norm, loss: Loss, count: usize) -> Attack {
    Attack::apgd(norm, loss, steps(count))
}

fn norms() -> impl Strategy<Value = Norm> {
    prop_oneof![Just(Norm::Linf), Just(Norm::L2)]
}

fn all_losses() -> impl Strategy<Value = Loss> {
    prop_oneof![
        Just(Loss::CrossEntropy),
        Just(Loss::Dlr),
        (1_usize..4).prop_map(|rank| Loss::TargetedDlr { rank: steps(rank) })
    ]
}

fn attacks() -> impl Strategy<Value = Attack> {
    (norms(), all_losses(), 1_usize..12, 0_u8..3).prop_map(|(norm, loss, count, kind)| match kind {
        0 => apgd(norm, loss, count),
        1 => Attack::pgd(norm, loss, steps(count), 0.4).unwrap(),
        _ => Attack::fgsm(norm, loss),
    })
}

/// Size of each image's change.
fn sizes(norm: Norm, points: &Tensor, clean: &Tensor) -> Vec<f64> {
    let changes: Vec<f64> = numbers(points).iter().zip(numbers(clean)).map(|(a, b)| a - b).collect();
    let size = |change: &[f64]| match norm {
        Norm::Linf => change.iter().fold(0.0, |largest: f64, c| largest.max(c.abs())),
        Norm::L2 => change.iter().map(|c| c * c).sum::<f64>().sqrt(),
    };
    changes.chunks(PIXELS).map(size).collect()
}

fn rounding(norm: Norm) -> f64 {
    match norm {
        Norm::Linf => F32_ROUNDING,
        Norm::L2 => L2_ROUNDING,
    }
}

fn is_admissible(norm: Norm, points: &Tensor, clean: &Tensor, epsilon: f64) -> bool {
    sizes(norm, points, clean).iter().all(|&size| size <= epsilon + rounding(norm))
        && numbers(points).iter().all(|pixel| (0.0..=1.0).contains(pixel))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn crafted_images_stay_within_epsilon_and_the_unit_box(
        attack in attacks(),
        seed in 0_u64..1000,
        epsilon in 0.0..1.5_f64,
    ) {
        let model = Perceptron::new(seed, 5, DType::F32);
        let clean = images(seed + 7, 3, (0.0, 1.0), DType::F32);
        let crafted = attack.craft(&model, &clean, &[0, 1, 2], epsilon).unwrap();
        prop_assert!(is_admissible(attack.norm(), &crafted.images, &clean, epsilon));
    }

    #[test]
    fn evaluated_points_prove_their_flags(attack in attacks(), seed in 0_u64..1000, epsilon in 0.0..0.6_f64) {
        let model = Perceptron::new(seed, 5, DType::F32);
        let clean = images(seed + 7, 6, (0.0, 1.0), DType::F32);
        let mut labels = predictions(&model, &clean);
        labels[0] = (labels[0] + 1) % 5;
        let generator = |sample: usize, restart: usize| uniform((sample * 10 + restart) as u64 + seed);
        let start = Start::Random { restarts: steps(2), generator: &generator };
        let evaluation = attack.evaluate(&model, &clean, &labels, epsilon, start, BrokenSamples::Leave).unwrap();
        prop_assert!(is_admissible(attack.norm(), &evaluation.points, &clean, epsilon));
        let at_points = predictions(&model, &evaluation.points);
        for (index, outcome) in evaluation.outcomes.iter().enumerate() {
            prop_assert_eq!(outcome.clean_correct, index != 0);
            prop_assert_eq!(outcome.still_correct, at_points[index] == labels[index]);
            prop_assert_eq!(outcome.prediction, at_points[index]);
        }
        prop_assert!(evaluation.still_correct_count() <= evaluation.clean_correct_count());
    }

    #[test]
    fn the_reported_loss_is_the_loss_of_the_crafted_image(
        norm in norms(),
        loss in all_losses(),
        seed in 0_u64..1000,
    ) {
        let model = Perceptron::new(seed, 5, DType::F64);
        let clean = images(seed, 4, (0.0, 1.0), DType::F64);
        let labels = predictions(&model, &clean);
        let crafted = apgd(norm, loss, 8).craft(&model, &clean, &labels, 0.1).unwrap();
        let trajectories = crafted.trajectories.unwrap();
        if loss == Loss::CrossEntropy {
            let objectives: Vec<_> = labels.iter().map(|&label| Objective::CrossEntropy { label }).collect();
            let at_crafted = losses(&model.logits(&crafted.images).unwrap(), &objectives).unwrap().losses;
            let reported: Vec<f64> = trajectories.iter().map(|t| t.best().loss).collect();
            prop_assert_eq!(at_crafted, reported);
        }
        for trajectory in &trajectories {
            prop_assert_eq!(trajectory.queries.len(), 9);
            prop_assert!(trajectory.best().loss >= trajectory.queries[0].loss);
        }
    }

    #[test]
    fn more_pgd_steps_never_lower_the_best_loss(
        norm in norms(),
        seed in 0_u64..1000,
        fewer in 1_usize..6,
        extra in 1_usize..6,
    ) {
        let model = Perceptron::new(seed, 4, DType::F32);
        let clean = images(seed, 2, (0.0, 1.0), DType::F32);
        let best = |count: usize| -> Vec<f64> {
            let attack = Attack::pgd(norm, Loss::CrossEntropy, steps(count), 0.3).unwrap();
            let crafted = attack.craft(&model, &clean, &[0, 1], 0.1).unwrap();
            crafted.trajectories.unwrap().iter().map(|t| t.best().loss).collect()
        };
        for (more, less) in best(fewer + extra).into_iter().zip(best(fewer)) {
            prop_assert!(more >= less);
        }
    }

    /// Up to nine steps APGD looks back after every step, so that a longer search begins like a shorter one. (With more
    /// steps the first look back comes later, and the two are different searches.)
    #[test]
    fn a_longer_apgd_search_begins_like_a_shorter_one(
        norm in norms(),
        loss in all_losses(),
        seed in 0_u64..1000,
        fewer in 1_usize..9,
        extra in 1_usize..9,
    ) {
        let model = Perceptron::new(seed, 5, DType::F32);
        let clean = images(seed, 2, (0.0, 1.0), DType::F32);
        let search = |count: usize| {
            apgd(norm, loss, count).craft(&model, &clean, &[0, 1], 0.1).unwrap().trajectories.unwrap()
        };
        let more_steps = (fewer + extra).min(9);
        for (more, less) in search(more_steps).iter().zip(search(fewer)) {
            prop_assert_eq!(&more.queries[..=fewer], &less.queries[..]);
            prop_assert!(more.best().loss >= less.best().loss);
        }
    }

    #[test]
    fn more_restarts_never_help_the_defender(
        norm in norms(),
        loss in all_losses(),
        seed in 0_u64..1000,
        fewer in 1_usize..3,
        extra in 1_usize..3,
        epsilon in 0.01..0.2_f64,
    ) {
        let model = Perceptron::new(seed, 5, DType::F32);
        let clean = images(seed, 6, (0.0, 1.0), DType::F32);
        let labels = predictions(&model, &clean);
        let generator = |sample: usize, restart: usize| uniform((sample * 10 + restart) as u64 + seed);
        let search = |restarts: usize| {
            let start = Start::Random { restarts: steps(restarts), generator: &generator };
            let attack = apgd(norm, loss, 4);
            attack.evaluate(&model, &clean, &labels, epsilon, start, BrokenSamples::Stay).unwrap()
        };
        let (more, less) = (search(fewer + extra), search(fewer));
        for (more, less) in more.outcomes.iter().zip(&less.outcomes) {
            prop_assert!(more.still_correct <= less.still_correct);
            prop_assert!(more.best_loss >= less.best_loss);
        }
    }

    #[test]
    fn divergence_attacks_stay_inside_and_climb(
        norm in norms(),
        is_adaptive in any::<bool>(),
        seed in 0_u64..1000,
        epsilon in 0.001..0.3_f64,
    ) {
        let model = Perceptron::new(seed, 5, DType::F64);
        let clean = images(seed, 4, (0.0, 1.0), DType::F64);
        let labels = predictions(&model, &clean);
        let start = gaussian_start(norm, &clean, 0.001, epsilon, &|sample| uniform(sample as u64)).unwrap();
        prop_assert!(is_admissible(norm, &start, &clean, epsilon));
        let attack = if is_adaptive {
            apgd(norm, Loss::KullbackLeibler, 10)
        } else {
            Attack::pgd(norm, Loss::KullbackLeibler, steps(10), 0.25).unwrap()
        };
        let crafted = attack.craft_from(&model, &clean, &start, &labels, epsilon).unwrap();
        prop_assert!(is_admissible(norm, &crafted.images, &clean, epsilon));
        let trajectories = crafted.trajectories.unwrap();
        for trajectory in &trajectories {
            // Near the clean image the divergence is nearly zero; the first step alone leaves it far behind.
            prop_assert!(trajectory.best().loss > trajectory.queries[0].loss);
        }
        let objectives = Objective::divergences(&model.logits(&clean).unwrap(), &labels).unwrap();
        let given = attack.craft_with(&model, &clean, &start, &objectives, epsilon).unwrap();
        prop_assert_eq!(numbers(&given.images), numbers(&crafted.images));
        prop_assert_eq!(given.effort.forward_images + 4, crafted.effort.forward_images);
        if is_adaptive {
            let at_crafted = losses(&model.logits(&crafted.images).unwrap(), &objectives).unwrap().losses;
            let reported: Vec<f64> = trajectories.iter().map(|t| t.best().loss).collect();
            prop_assert_eq!(at_crafted, reported);
        }
    }

    #[test]
    fn leaving_the_batch_changes_no_strict_flag(
        norm in norms(),
        loss in all_losses(),
        starts_at_random in any::<bool>(),
        seed in 0_u64..1000,
        epsilon in 0.0..0.2_f64,
    ) {
        let model = Perceptron::new(seed, 5, DType::F32);
        let clean = images(seed, 6, (0.0, 1.0), DType::F32);
        let mut labels = predictions(&model, &clean);
        labels[4] = (labels[4] + 1) % 5;
        let generator = |sample: usize, restart: usize| uniform((sample * 10 + restart) as u64 + seed);
        let random = Start::Random { restarts: steps(3), generator: &generator };
        let start = if starts_at_random { random } else { Start::Clean };
        let attack = apgd(norm, loss, 7);
        let evaluate = |broken| attack.evaluate(&model, &clean, &labels, epsilon, start, broken).unwrap();
        let (leave, stay) = (evaluate(BrokenSamples::Leave), evaluate(BrokenSamples::Stay));
        let flags = |evaluation: &Evaluation| -> Vec<bool> {
            evaluation.outcomes.iter().map(|outcome| outcome.still_correct).collect()
        };
        prop_assert_eq!(flags(&leave), flags(&stay));
        prop_assert_eq!(numbers(&leave.points), numbers(&stay.points));
        prop_assert!(leave.effort.forward_images <= stay.effort.forward_images);
    }

    #[test]
    fn an_image_fares_the_same_in_any_batch(norm in norms(), loss in all_losses(), seed in 0_u64..1000) {
        let model = Perceptron::new(seed, 5, DType::F32);
        let clean = images(seed, 5, (0.0, 1.0), DType::F32);
        let labels = predictions(&model, &clean);
        let evaluate = |first: usize, count: usize| {
            let generator =
                move |sample: usize, restart: usize| uniform((first + sample) as u64 * 100 + restart as u64);
            let start = Start::Random { restarts: steps(2), generator: &generator };
            let batch = clean.narrow(0, first, count).unwrap();
            let labels = &labels[first..first + count];
            let attack = apgd(norm, loss, 5);
            attack.evaluate(&model, &batch, labels, 0.03, start, BrokenSamples::Leave).unwrap().outcomes
        };
        let together = evaluate(0, 5);
        let apart: Vec<_> = (0..5).flat_map(|index| evaluate(index, 1)).collect();
        prop_assert_eq!(together, apart);
    }
}

/// With two classes cross entropy grows with the difference of logits, which is linear in the pixels.
fn slope_towards_class_one(model: &Linear) -> Vec<f64> {
    numbers(&model.weights).chunks(2).map(|pair| pair[1] - pair[0]).collect()
}

#[test]
fn linf_attacks_find_the_optimum_of_a_linear_classifier() {
    let model = Linear::new(3, 2, DType::F32);
    let clean = images(4, 5, (0.0, 1.0), DType::F32);
    let epsilon = 8.0 / 255.0;
    let slope = slope_towards_class_one(&model);
    let optimum: Vec<f64> = numbers(&clean)
        .iter()
        .enumerate()
        .map(|(at, pixel)| (pixel + epsilon * slope[at % PIXELS].signum()).clamp(0.0, 1.0))
        .collect();
    let attacks = [
        apgd(Norm::Linf, Loss::CrossEntropy, 7),
        Attack::pgd(Norm::Linf, Loss::CrossEntropy, steps(10), 0.25).unwrap(),
        Attack::fgsm(Norm::Linf, Loss::CrossEntropy),
    ];
    for attack in attacks {
        let crafted = attack.craft(&model, &clean, &[0; 5], epsilon).unwrap();
        for (found, expected) in numbers(&crafted.images).iter().zip(&optimum) {
            assert!((found - expected).abs() < F32_ROUNDING, "{attack:?}: {found} instead of {expected}");
        }
    }
}

#[test]
fn l2_attacks_find_the_optimum_of_a_linear_classifier() {
    let model = Linear::new(3, 2, DType::F64);
    // Far enough from 0 and 1 that the box never matters.
    let clean = images(4, 5, (0.4, 0.6), DType::F64);
    let epsilon = 0.3;
    let slope = slope_towards_class_one(&model);
    let length = slope.iter().map(|s| s * s).sum::<f64>().sqrt();
    for attack in [apgd(Norm::L2, Loss::CrossEntropy, 10), Attack::fgsm(Norm::L2, Loss::CrossEntropy)] {
        let crafted = attack.craft(&model, &clean, &[0; 5], epsilon).unwrap();
        for (at, (found, pixel)) in numbers(&crafted.images).iter().zip(numbers(&clean)).enumerate() {
            let expected = pixel + epsilon * slope[at % PIXELS] / length;
            // f64; the norms' stability constant is 1e-12.
            assert!((found - expected).abs() < 1e-10, "{attack:?}: {found} instead of {expected}");
        }
    }
}

#[test]
fn epsilon_zero_returns_the_images_without_asking_the_classifier() {
    let model = Counting::new(Linear::new(1, 4, DType::F32));
    let clean = images(2, 3, (0.0, 1.0), DType::F32);
    for loss in [Loss::CrossEntropy, Loss::TargetedDlr { rank: steps(1) }] {
        let crafted = apgd(Norm::Linf, loss, 7).craft(&model, &clean, &[0, 1, 2], 0.0).unwrap();
        assert_eq!(numbers(&crafted.images), numbers(&clean));
        assert!(crafted.trajectories.is_none());
        assert_eq!(crafted.effort, Effort::default());
    }
    assert_eq!(model.forward_images.get(), 0);
}

#[test]
fn evaluation_at_epsilon_zero_is_the_clean_accuracy_for_one_forward_pass() {
    let model = Counting::new(Linear::new(1, 4, DType::F32));
    let clean = images(2, 6, (0.0, 1.0), DType::F32);
    let mut labels = predictions(&model.inner, &clean);
    labels[3] = (labels[3] + 1) % 4;
    let generator = |_, _| uniform(0);
    for start in [Start::Clean, Start::Random { restarts: steps(3), generator: &generator }] {
        for broken in [BrokenSamples::Leave, BrokenSamples::Stay] {
            model.forward_images.set(0);
            let attack = apgd(Norm::Linf, Loss::CrossEntropy, 10);
            let evaluation = attack.evaluate(&model, &clean, &labels, 0.0, start, broken).unwrap();
            assert_eq!(evaluation.clean_correct_count(), 5);
            assert_eq!(evaluation.still_correct_count(), 5);
            assert_eq!(evaluation.correct_at_best_loss_count(), 5);
            assert_eq!(numbers(&evaluation.points), numbers(&clean));
            assert_eq!(evaluation.effort, Effort { forward_images: 6, backward_images: 0 });
            assert_eq!(model.forward_images.get(), 6);
        }
    }
}

#[test]
fn the_reported_effort_is_the_work_done() {
    let model = Counting::new(Perceptron::new(1, 5, DType::F32));
    let clean = images(2, 4, (0.0, 1.0), DType::F32);
    let crafted = apgd(Norm::Linf, Loss::CrossEntropy, 7).craft(&model, &clean, &[0; 4], 0.05).unwrap();
    assert_eq!(crafted.effort, Effort { forward_images: 8 * 4, backward_images: 7 * 4 });
    assert_eq!(model.forward_images.take(), crafted.effort.forward_images);
    assert_eq!(model.backward_images.take(), crafted.effort.backward_images);

    let labels = predictions(&model.inner, &clean);
    let attack = apgd(Norm::Linf, Loss::CrossEntropy, 10);
    let evaluation =
        attack.evaluate(&model, &clean, &labels, 0.02, Start::Clean, BrokenSamples::Leave).unwrap();
    assert_eq!(model.forward_images.get(), evaluation.effort.forward_images);
    assert_eq!(model.backward_images.get(), evaluation.effort.backward_images);
}

#[test]
fn misclassified_images_get_no_further_queries() {
    let model = Counting::new(Linear::new(1, 4, DType::F32));
    let clean = images(2, 4, (0.0, 1.0), DType::F32);
    let wrong: Vec<u32> = predictions(&model.inner, &clean).iter().map(|class| (class + 1) % 4).collect();
    let attack = apgd(Norm::Linf, Loss::CrossEntropy, 10);
    let evaluation =
        attack.evaluate(&model, &clean, &wrong, 0.1, Start::Clean, BrokenSamples::Leave).unwrap();
    assert_eq!(evaluation.effort, Effort { forward_images: 4, backward_images: 0 });
    assert_eq!(evaluation.still_correct_count(), 0);
}

#[test]
fn f32_and_f64_find_the_same_losses() {
    let craft = |dtype| -> Vec<Trajectory> {
        let model = Perceptron::new(5, 5, dtype);
        let clean = images(6, 6, (0.0, 1.0), dtype);
        let attack = apgd(Norm::Linf, Loss::CrossEntropy, 10);
        attack.craft(&model, &clean, &[0, 1, 2, 3, 4, 0], 8.0 / 255.0).unwrap().trajectories.unwrap()
    };
    for (single, double) in craft(DType::F32).iter().zip(craft(DType::F64)) {
        for (a, b) in single.queries.iter().zip(&double.queries) {
            // Losses are of order one; ten moves in f32 add rounding of 1e-7 each to 48 pixels.
            assert!((a.loss - b.loss).abs() < 1e-4, "{} and {}", a.loss, b.loss);
            assert_eq!(a.prediction, b.prediction);
            assert!((a.step_size - b.step_size).abs() < 1e-6);
        }
    }
}

#[test]
fn the_number_of_threads_does_not_matter() {
    let craft = |threads: usize, norm: Norm| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let model = Perceptron::new(5, 5, DType::F32);
            let clean = images(6, 9, (0.0, 1.0), DType::F32);
            let crafted = apgd(norm, Loss::CrossEntropy, 10).craft(&model, &clean, &[1; 9], 0.1).unwrap();
            (numbers(&crafted.images), crafted.trajectories)
        })
    };
    for norm in [Norm::Linf, Norm::L2] {
        assert_eq!(craft(1, norm), craft(2, norm));
        assert_eq!(craft(1, norm), craft(5, norm));
    }
}

#[test]
fn random_starts_lie_at_the_radius() {
    let clean = images(6, 3, (0.45, 0.55), DType::F64);
    for norm in [Norm::Linf, Norm::L2] {
        let starts = random_start(norm, &clean, 0.2, &|sample| uniform(sample as u64)).unwrap();
        for size in sizes(norm, &starts, &clean) {
            assert!((size - 0.2).abs() < 1e-9, "{norm:?}: {size}");
        }
    }
}

/// Even where the search never reaches the loss of the clean image, which is none of its queries.
#[test]
fn evaluation_reports_the_best_loss_of_the_search() {
    let model = Linear::new(1, 4, DType::F32);
    let clean = images(6, 12, (0.0, 1.0), DType::F32);
    let labels = predictions(&model, &clean);
    let attack = Attack::pgd(Norm::Linf, Loss::CrossEntropy, steps(1), 0.01).unwrap();
    let starts = random_start(Norm::Linf, &clean, 0.1, &|sample| uniform(sample as u64)).unwrap();
    let crafted = attack.craft_from(&model, &clean, &starts, &labels, 0.1).unwrap();
    let searched: Vec<f64> = crafted.trajectories.unwrap().iter().map(|t| t.best().loss).collect();

    let evaluate = |epsilon, start| -> Vec<f64> {
        let evaluation =
            attack.evaluate(&model, &clean, &labels, epsilon, start, BrokenSamples::Stay).unwrap();
        evaluation.outcomes.iter().map(|outcome| outcome.best_loss).collect()
    };
    let generator = |sample: usize, _| uniform(sample as u64);
    let start = Start::Random { restarts: NonZeroUsize::MIN, generator: &generator };
    assert_eq!(evaluate(0.1, start), searched);
    let at_clean = evaluate(0.0, Start::Clean);
    assert!(searched.iter().zip(&at_clean).any(|(found, clean)| found < clean), "else this test is idle");
}

#[test]
fn a_vanished_gradient_is_counted() {
    let weights = Tensor::zeros((PIXELS, 4), DType::F32, &candle_core::Device::Cpu).unwrap();
    let model = Linear { weights };
    let clean = images(6, 3, (0.0, 1.0), DType::F32);
    for norm in [Norm::Linf, Norm::L2] {
        let attack = apgd(norm, Loss::CrossEntropy, 5);
        let crafted = attack.craft(&model, &clean, &[0; 3], 0.1).unwrap();
        assert_eq!(crafted.samples_with_vanished_gradient(), 3);
        assert_eq!(crafted.trajectories.unwrap()[0].vanished_gradients, 5);
        let evaluation =
            attack.evaluate(&model, &clean, &[0; 3], 0.1, Start::Clean, BrokenSamples::Leave).unwrap();
        assert_eq!(evaluation.samples_with_vanished_gradient(), 3);
        assert_eq!(evaluation.still_correct_count(), 3);
    }
}
