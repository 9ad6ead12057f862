//! Evaluations come to the same verdict as on the CPU, image by image.

use std::num::NonZeroUsize;

use sweep_attacks::{Attack, BrokenSamples, Evaluation, Loss, Norm, Start};

use crate::support::{LOSS_TOLERANCE, Network, device, images, numbers, predictions, uniform};

/// See `equality`.
const PIXEL_TOLERANCE: f64 = 1e-5;

fn steps(count: usize) -> NonZeroUsize {
    NonZeroUsize::new(count).unwrap()
}

fn assert_same(what: &str, found: &Evaluation, expected: &Evaluation) {
    assert_eq!(found.effort, expected.effort, "{what}");
    assert_eq!(found.outcomes.len(), expected.outcomes.len(), "{what}");
    for (image, (found, expected)) in found.outcomes.iter().zip(&expected.outcomes).enumerate() {
        let error = (found.best_loss - expected.best_loss).abs();
        assert!(error <= LOSS_TOLERANCE * expected.best_loss.abs().max(1.0), "{what}: image {image}");
        let mut found = *found;
        found.best_loss = expected.best_loss;
        assert_eq!(found, *expected, "{what}: image {image}");
    }
    for (found, expected) in numbers(&found.points).iter().zip(numbers(&expected.points)) {
        assert!((found - expected).abs() < PIXEL_TOLERANCE, "{what}: {found} instead of {expected}");
    }
}

#[test]
fn evaluations_are_the_same() {
    let generator = |sample: usize, restart: usize| uniform((sample * 10 + restart) as u64);
    let random = Start::Random { restarts: steps(3), generator: &generator };
    let mut broken_later = 0;
    for (seed, epsilon) in (61..).zip([0.004, 0.02, 0.05, 0.0]) {
        let model = Network::deep(seed, 4551, 6);
        let clean = images(seed, [7, 3, 37, 41]);
        let on_gpu = clean.to_device(&device()).unwrap();
        let mut labels = predictions(&model, &clean);
        labels[4] = (labels[4] + 1) % 6;
        for (norm, factor) in [(Norm::Linf, 1.0), (Norm::L2, 30.0)] {
            let attacks = [
                Attack::apgd(norm, Loss::CrossEntropy, steps(10)),
                Attack::apgd(norm, Loss::TargetedDlr { rank: steps(1) }, steps(7)),
                Attack::pgd(norm, Loss::Dlr, steps(3), 0.5).unwrap(),
            ];
            for attack in attacks {
                for (name, start) in [("clean", Start::Clean), ("random", random)] {
                    for broken in [BrokenSamples::Leave, BrokenSamples::Stay] {
                        let what = format!("{attack:?} at {epsilon} from {name}, broken {broken:?}");
                        let evaluate = |images| {
                            attack.evaluate(&model, images, &labels, factor * epsilon, start, broken).unwrap()
                        };
                        let (found, expected) = (evaluate(&on_gpu), evaluate(&clean));
                        assert_same(&what, &found, &expected);
                        let stays = found.still_correct_count();
                        broken_later += usize::from(0 < stays && stays < found.clean_correct_count());
                    }
                }
            }
        }
        assert_eq!(numbers(&on_gpu), numbers(&clean), "the clean images were overwritten");
    }
    assert!(broken_later > 10, "only {broken_later} evaluations broke some images and not all");
}

/// Nothing is searched where every clean image is misclassified.
#[test]
fn misclassified_images_get_no_further_queries() {
    let model = Network::deep(71, 48, 4);
    let clean = images(71, [4, 3, 4, 4]);
    let wrong: Vec<u32> = predictions(&model, &clean).iter().map(|class| (class + 1) % 4).collect();
    let attack = Attack::apgd(Norm::Linf, Loss::CrossEntropy, steps(10));
    let evaluate =
        |images| attack.evaluate(&model, images, &wrong, 0.1, Start::Clean, BrokenSamples::Leave).unwrap();
    let on_gpu = clean.to_device(&device()).unwrap();
    let found = evaluate(&on_gpu);
    assert_eq!(found.effort.backward_images, 0);
    assert_same("all wrong", &found, &evaluate(&clean));
}
