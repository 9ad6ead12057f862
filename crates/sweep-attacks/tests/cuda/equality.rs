//! Crafting finds what it finds on the CPU.

use std::num::NonZeroUsize;

use candle_core::Tensor;
use sweep_attacks::{Attack, Crafted, Loss, Norm, Objective, gaussian_start, random_start};
use sweep_kernels::Classifier;

use crate::support::{Network, assert_same, bits, device, images, numbers, predictions, uniform};

/// Pixels after a dozen moves whose lengths, unlike those of l∞, are sums in another order.
const L2_TOLERANCE: f64 = 1e-5;

/// Bits are equal but where all parts of a gradient cancel, and its sign is that of a rounding error of the loss.
const SHARE_OF_OTHER_PIXELS: f64 = 2e-3;

/// Less than a part of an image, more than one with a rest, in fours and one by one.
const SHAPES: [[usize; 4]; 4] = [[5, 3, 4, 4], [1, 3, 37, 41], [3, 3, 48, 64], [2, 1, 1, 1]];

fn steps(count: usize) -> NonZeroUsize {
    NonZeroUsize::new(count).unwrap()
}

fn attacks(norm: Norm, loss: Loss) -> [Attack; 4] {
    [
        Attack::apgd(norm, loss, steps(7)),
        Attack::apgd(norm, loss, steps(12)),
        Attack::pgd(norm, loss, steps(4), 0.4).unwrap(),
        Attack::fgsm(norm, loss),
    ]
}

fn losses() -> [Loss; 4] {
    [
        Loss::CrossEntropy,
        Loss::Dlr,
        Loss::TargetedDlr { rank: steps(1) },
        Loss::TargetedDlr { rank: steps(3) },
    ]
}

fn assert_same_images(what: &str, norm: Norm, found: &Crafted, expected: &Crafted) {
    assert!(found.images.device().is_cuda(), "{what}: the images left the device");
    assert_eq!(found.images.dims(), expected.images.dims(), "{what}");
    assert_eq!(found.effort, expected.effort, "{what}");
    assert_same(what, found.trajectories.as_ref().unwrap(), expected.trajectories.as_ref().unwrap());
    match norm {
        Norm::Linf => {
            let (found, expected) = (bits(&found.images), bits(&expected.images));
            let others = found.iter().zip(&expected).filter(|(found, expected)| found != expected).count();
            let share = others as f64 / expected.len() as f64;
            assert!(share <= SHARE_OF_OTHER_PIXELS, "{what}: {others} of {} pixels differ", expected.len());
        }
        Norm::L2 => {
            for (found, expected) in numbers(&found.images).iter().zip(numbers(&expected.images)) {
                assert!((found - expected).abs() < L2_TOLERANCE, "{what}: {found} instead of {expected}");
            }
        }
    }
}

/// Crafts on both devices and compares.
fn check(what: &str, attack: &Attack, model: &dyn Classifier, clean: &Tensor, labels: &[u32], epsilon: f64) {
    let on_gpu = clean.to_device(&device()).unwrap();
    let found = attack.craft(model, &on_gpu, labels, epsilon).unwrap();
    let expected = attack.craft(model, clean, labels, epsilon).unwrap();
    assert_same_images(what, attack.norm(), &found, &expected);
    assert_eq!(bits(&on_gpu), bits(clean), "{what}: the clean images were overwritten");
}

#[test]
fn attacks_on_linear_classifiers_are_the_same() {
    for (seed, shape) in (1..).zip(SHAPES) {
        let model = Network::linear(seed, shape[1..].iter().product(), 6);
        let clean = images(seed, shape);
        let labels = predictions(&model, &clean);
        // In l2 every move after the first ends at the same point, and rounding decides whether the loss rose.
        for attack in attacks(Norm::Linf, Loss::CrossEntropy) {
            check(&format!("{attack:?} of {shape:?}"), &attack, &model, &clean, &labels, 8.0 / 255.0);
        }
    }
}

#[test]
fn attacks_on_deep_classifiers_are_the_same() {
    for norm in [Norm::Linf, Norm::L2] {
        for loss in losses() {
            for (seed, shape) in (11..).zip(SHAPES) {
                let model = Network::deep(seed, shape[1..].iter().product(), 40);
                let clean = images(seed, shape);
                let labels = predictions(&model, &clean);
                for attack in attacks(norm, loss) {
                    let epsilon = if norm == Norm::Linf { 8.0 / 255.0 } else { 0.4 };
                    check(&format!("{attack:?} of {shape:?}"), &attack, &model, &clean, &labels, epsilon);
                }
            }
        }
    }
}

#[test]
fn divergences_are_climbed_alike() {
    for (seed, norm) in (21..).zip([Norm::Linf, Norm::L2]) {
        let model = Network::deep(seed, 48, 10);
        let clean = images(seed, [6, 3, 4, 4]);
        let on_gpu = clean.to_device(&device()).unwrap();
        let labels = predictions(&model, &clean);
        let start = gaussian_start(norm, &clean, 0.001, 0.1, &|sample| uniform(sample as u64)).unwrap();
        let start_on_gpu =
            gaussian_start(norm, &on_gpu, 0.001, 0.1, &|sample| uniform(sample as u64)).unwrap();
        assert_eq!(bits(&start_on_gpu), bits(&start));
        let objectives = Objective::divergences(&model.logits(&clean).unwrap(), &labels).unwrap();
        for attack in attacks(norm, Loss::KullbackLeibler) {
            let found = attack.craft_from(&model, &on_gpu, &start_on_gpu, &labels, 0.1).unwrap();
            let expected = attack.craft_from(&model, &clean, &start, &labels, 0.1).unwrap();
            assert_same_images(&format!("{attack:?}"), norm, &found, &expected);
            let found = attack.craft_with(&model, &on_gpu, &start_on_gpu, &objectives, 0.1).unwrap();
            let expected = attack.craft_with(&model, &clean, &start, &objectives, 0.1).unwrap();
            assert_same_images(&format!("{attack:?} with objectives"), norm, &found, &expected);
        }
    }
}

#[test]
fn random_starts_and_mixed_objectives_are_the_same() {
    for (seed, norm) in (31..).zip([Norm::Linf, Norm::L2]) {
        let model = Network::deep(seed, 48, 10);
        let clean = images(seed, [4, 3, 4, 4]);
        let on_gpu = clean.to_device(&device()).unwrap();
        let start = random_start(norm, &clean, 0.1, &|sample| uniform(sample as u64)).unwrap();
        let start_on_gpu = start.to_device(&device()).unwrap();
        let objectives = [
            Objective::CrossEntropy { label: 3 },
            Objective::Dlr { label: 1 },
            Objective::TargetedDlr { label: 2, target: 7 },
            Objective::KullbackLeibler { label: 4, clean: [0.1; 10].into() },
        ];
        for attack in attacks(norm, Loss::CrossEntropy) {
            let found = attack.craft_with(&model, &on_gpu, &start_on_gpu, &objectives, 0.1).unwrap();
            let expected = attack.craft_with(&model, &clean, &start, &objectives, 0.1).unwrap();
            assert_same_images(&format!("{attack:?}"), norm, &found, &expected);
        }
    }
}

#[test]
fn a_gradient_that_vanishes_moves_nothing_and_is_counted() {
    let (clean, labels) = (images(41, [3, 3, 4, 4]), [0; 3]);
    let weights = Network::constant(48, 5);
    for norm in [Norm::Linf, Norm::L2] {
        let attack = Attack::apgd(norm, Loss::Dlr, steps(5));
        check(&format!("{norm:?}"), &attack, &weights, &clean, &labels, 0.1);
        let found = attack.craft(&weights, &clean.to_device(&device()).unwrap(), &labels, 0.1).unwrap();
        assert_eq!(found.samples_with_vanished_gradient(), 3);
    }
}

#[test]
fn epsilon_zero_and_empty_batches() {
    let model = Network::deep(51, 48, 5);
    let clean = images(51, [2, 3, 4, 4]).to_device(&device()).unwrap();
    let attack = Attack::apgd(Norm::Linf, Loss::CrossEntropy, steps(7));
    let crafted = attack.craft(&model, &clean, &[0, 1], 0.0).unwrap();
    assert!(crafted.trajectories.is_none());
    assert_eq!(bits(&crafted.images), bits(&clean));
}
