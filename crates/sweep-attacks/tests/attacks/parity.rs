//! Equality with the reference: trajectories that the public `auto-attack` program produced on small
//! networks.
//!
//! `tests/data` holds, per network, timm's `config.json` and weights, and the runs: `x_u8` and `labels`, and for
//! each run the quantities that the tests below name. Images are stored as 8-bit numbers; of the iterates
//! only some are stored.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use sweep_attacks::{Attack, BrokenSamples, Crafted, Loss, Norm, Objective, Start, Trajectory, losses};
use sweep_kernels::Classifier;
use sweep_models::Model;

use crate::support::numbers;

/// The reference in f32 and f64 differ by up to 4e-6 in a loss; programs with other matrix products by
/// somewhat more.
const LOSS_TOLERANCE: f64 = 1e-4;
/// Pixels are equal when they differ by rounding only; steps are a thousand times larger.
const PIXEL_TOLERANCE: f64 = 1e-6;
/// One gradient entry near zero can flip its sign between two correct programs.
const SHARE_OF_OTHER_PIXELS: f64 = 1e-3;
/// Relative to the largest entry; the reference's own f32 and f64 gradients differ by up to 3e-6.
const GRADIENT_TOLERANCE: f64 = 3e-5;

const NETWORKS: [&str; 2] = ["vit", "clip_vit_quickgelu"];

struct Fixture {
    model: Model,
    tensors: HashMap<String, Tensor>,
}

impl Fixture {
    fn load(network: &str, file: &str) -> Self {
        let folder: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests", "data", network].iter().collect();
        let model = Model::load_folder(&folder, DType::F32).unwrap();
        let tensors = candle_core::safetensors::load(folder.join(file), &Device::Cpu).unwrap();
        Self { model, tensors }
    }

    fn tensor(&self, name: &str) -> &Tensor {
        &self.tensors[name]
    }

    fn numbers(&self, name: &str) -> Vec<f64> {
        numbers(self.tensor(name))
    }

    fn classes(&self, name: &str) -> Vec<u32> {
        self.numbers(name).into_iter().map(|class| class as u32).collect()
    }

    fn images(&self) -> Tensor {
        (self.tensor("x_u8").to_dtype(DType::F32).unwrap() / 255.0).unwrap()
    }
}

fn apgd(loss: Loss, steps: usize) -> Attack {
    Attack::apgd(Norm::Linf, loss, NonZeroUsize::new(steps).unwrap())
}

/// The reference stores (query or step, image), trajectories are per image.
fn by_query(trajectories: &[Trajectory], value: impl Fn(&sweep_attacks::Query) -> f64) -> Vec<f64> {
    let queries = trajectories[0].queries.len();
    (0..queries)
        .flat_map(|query| trajectories.iter().map(move |t| t.queries[query]))
        .map(|q| value(&q))
        .collect()
}

fn assert_close(what: &str, found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!((found - expected).abs() <= tolerance, "{what}[{at}]: {found} instead of {expected}");
    }
}

/// Compares everything the reference stores about one run. DLR runs lack the start among the `losses`.
fn assert_same_run(fixture: &Fixture, run: &str, crafted: &Crafted) {
    let trajectories = crafted.trajectories.as_ref().unwrap();
    let images = trajectories.len();
    let expected_losses = fixture.numbers(&format!("{run}.losses"));
    let found_losses = by_query(trajectories, |query| query.loss);
    let unstored = found_losses.len() - expected_losses.len();
    assert!(unstored == 0 || unstored == images, "{run}: the start may be missing, nothing else");
    assert_close(&format!("{run}.losses"), &found_losses[unstored..], &expected_losses, LOSS_TOLERANCE);

    let best: Vec<f64> = trajectories.iter().map(|t| t.best().loss).collect();
    assert_close(run, &best, &fixture.numbers(&format!("{run}.loss_best")), LOSS_TOLERANCE);
    let step_sizes = by_query(trajectories, |query| query.step_size);
    assert_eq!(step_sizes[images..], fixture.numbers(&format!("{run}.step_sizes")), "{run}");
    let last: Vec<f64> = trajectories.iter().map(|t| t.final_step_size).collect();
    assert_eq!(last, fixture.numbers(&format!("{run}.step_final")), "{run}");
    let flags: Vec<f64> = trajectories.iter().map(|t| f64::from(u8::from(t.still_correct()))).collect();
    assert_eq!(flags, fixture.numbers(&format!("{run}.acc")), "{run}");
    if fixture.tensors.contains_key(&format!("{run}.preds")) {
        let predictions = by_query(trajectories, |query| f64::from(query.prediction));
        assert_eq!(predictions, fixture.numbers(&format!("{run}.preds")), "{run}");
    }
}

fn assert_same_points(fixture: &Fixture, run: &str, crafted: &Crafted) {
    let expected = fixture.numbers(&format!("{run}.x_best"));
    let found = numbers(&crafted.images);
    let others = found.iter().zip(&expected).filter(|(a, b)| (*a - *b).abs() > PIXEL_TOLERANCE).count();
    let share = others as f64 / expected.len() as f64;
    assert!(share <= SHARE_OF_OTHER_PIXELS, "{run}: {others} pixels differ");
}

#[test]
fn cross_entropy_runs_equal_the_reference() {
    for network in NETWORKS {
        let fixture = Fixture::load(network, "attack.safetensors");
        let labels = fixture.classes("labels");
        for (epsilon, steps, points_are_stored) in
            [(4, 7, true), (4, 10, false), (8, 7, false), (8, 10, true)]
        {
            let run = format!("ce.eps{epsilon}.n{steps}");
            let attack = apgd(Loss::CrossEntropy, steps);
            let epsilon = f64::from(epsilon) / 255.0;
            let crafted = attack.craft(&fixture.model, &fixture.images(), &labels, epsilon).unwrap();
            assert_same_run(&fixture, &run, &crafted);
            if points_are_stored {
                assert_same_points(&fixture, &run, &crafted);
            }
        }
    }
}

#[test]
fn a_run_from_a_given_start_equals_the_reference() {
    let fixture = Fixture::load("vit", "attack.safetensors");
    let run = "ce_given_start.eps8.n10";
    let (start, labels) = (fixture.tensor(&format!("{run}.x_init")), fixture.classes("labels"));
    let attack = apgd(Loss::CrossEntropy, 10);
    let crafted = attack.craft_from(&fixture.model, &fixture.images(), start, &labels, 8.0 / 255.0).unwrap();
    assert_same_run(&fixture, run, &crafted);
    assert_same_points(&fixture, run, &crafted);
}

#[test]
fn targeted_dlr_runs_equal_the_reference() {
    for network in NETWORKS {
        let fixture = Fixture::load(network, "attack.safetensors");
        let run = "dlr_targeted.eps8.n10";
        let labels = fixture.classes(&format!("{run}.labels"));
        let attack = apgd(Loss::TargetedDlr { rank: NonZeroUsize::MIN }, 10);
        let crafted = attack.craft(&fixture.model, &fixture.images(), &labels, 8.0 / 255.0).unwrap();
        assert_same_run(&fixture, run, &crafted);
        if fixture.tensors.contains_key(&format!("{run}.x_best")) {
            assert_same_points(&fixture, run, &crafted);
        }
        let start: Vec<f64> = crafted.trajectories.unwrap().iter().map(|t| t.queries[0].loss).collect();
        assert_close(run, &start, &fixture.numbers(&format!("{run}.start.loss")), LOSS_TOLERANCE);
    }
}

/// The trajectory of untargeted DLR is not comparable: where the label ranks third its gradient is rounding
/// noise.
#[test]
fn dlr_starts_like_the_reference() {
    let fixture = Fixture::load("vit", "attack.safetensors");
    let run = "dlr.eps8.n10";
    let labels = fixture.classes(&format!("{run}.labels"));
    let objectives: Vec<_> = labels.into_iter().map(|label| Objective::Dlr { label }).collect();
    let (logits, tape) = fixture.model.record(&fixture.images()).unwrap();
    let dlr = losses(&logits, &objectives).unwrap();
    assert_close(run, &dlr.losses, &fixture.numbers(&format!("{run}.start.loss")), LOSS_TOLERANCE);

    let gradient = numbers(&fixture.model.input_gradient(tape, dlr.gradient).unwrap());
    let expected = fixture.numbers(&format!("{run}.start.grad_x"));
    let largest = expected.iter().fold(0.0, |largest: f64, slope| largest.max(slope.abs()));
    assert_close(run, &gradient, &expected, GRADIENT_TOLERANCE * largest);
}

#[test]
fn robust_accuracies_at_the_best_loss_equal_the_reference() {
    let fixture = Fixture::load("aa_vit", "results.safetensors");
    let labels = fixture.classes("labels");
    for steps in [7, 10] {
        for epsilon in 0..=8 {
            let run = format!("apgd_ce_fixed.n{steps}.eps{epsilon}");
            let attack = apgd(Loss::CrossEntropy, steps);
            let (epsilon, stay) = (f64::from(epsilon) / 255.0, BrokenSamples::Stay);
            let evaluation = attack
                .evaluate(&fixture.model, &fixture.images(), &labels, epsilon, Start::Clean, stay)
                .unwrap();
            let flags: Vec<f64> =
                evaluation.outcomes.iter().map(|o| f64::from(u8::from(o.correct_at_best_loss))).collect();
            assert_eq!(flags, fixture.numbers(&format!("{run}.flags")), "{run}");
            let found: Vec<f64> = evaluation.outcomes.iter().map(|o| o.best_loss).collect();
            assert_close(&run, &found, &fixture.numbers(&format!("{run}.loss")), LOSS_TOLERANCE);
        }
    }
}

#[test]
fn strict_robust_accuracies_equal_the_reference() {
    let fixture = Fixture::load("aa_vit", "results.safetensors");
    let labels = fixture.classes("labels");
    for epsilon in [4, 8] {
        let run = format!("apgd_ce_fixed.n100.eps{epsilon}");
        let attack = apgd(Loss::CrossEntropy, 100);
        let (epsilon, leave) = (f64::from(epsilon) / 255.0, BrokenSamples::Leave);
        let evaluation = attack
            .evaluate(&fixture.model, &fixture.images(), &labels, epsilon, Start::Clean, leave)
            .unwrap();
        let flags: Vec<f64> =
            evaluation.outcomes.iter().map(|o| f64::from(u8::from(o.still_correct))).collect();
        assert_eq!(flags, fixture.numbers(&format!("{run}.flags")), "{run}");
    }
}
