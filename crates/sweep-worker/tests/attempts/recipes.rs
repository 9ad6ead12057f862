//! What the parts of a recipe do to a run.

use sweep_core::home::Home;
use sweep_core::micro_batch::MicroBatch;
use sweep_core::schedule::EpsilonSchedule;
use sweep_core::spec::{EmaSpec, RunSpec};
use sweep_testkit::Workspace;
use sweep_worker::{Ending, Stop};

use crate::support::{attempt, model_digest, tiny_run, train_losses, with_trades};

/// The relative difference that another order of summation may make in f32 over a few steps of training.
const ROUNDING: f64 = 1e-4;

#[test]
fn recipes_do_what_they_say() {
    let workspace = Workspace::new();
    let digest = |name: &str, spec: &RunSpec| {
        let (ending, events) = attempt(&Home::new(workspace.home().join(name)), spec, 1, &Stop::new());
        assert_eq!(ending, Ending::Succeeded, "{name}: {:?}", events.last());
        model_digest(&events)
    };
    let average = |decay| RunSpec { ema: Some(EmaSpec { decay }), ..tiny_run(0) };
    let clipped = |limit| RunSpec { clip_norm: Some(limit), ..tiny_run(0) };
    let plain = digest("plain", &tiny_run(0));
    assert_eq!(digest("no memory", &average(0.0)), plain, "an average without memory is the weights");
    assert_ne!(digest("average", &average(0.9)), plain);
    assert_eq!(digest("far limit", &clipped(1e6)), plain, "a limit that is never reached changes nothing");
    assert_ne!(digest("clipped", &clipped(1e-2)), plain);
    assert_ne!(digest("trades", &with_trades(tiny_run(0))), plain);
    let only_clean = RunSpec { epsilon_schedule: EpsilonSchedule::Step { start: 3 }, ..tiny_run(0) };
    assert_eq!(
        digest("trades without attack", &with_trades(only_clean.clone())),
        digest("without attack", &only_clean),
        "at epsilon 0 there is nothing to diverge"
    );
}

#[test]
fn the_micro_batch_changes_rounding_only() {
    let workspace = Workspace::new();
    let home = Home::new(workspace.home());
    let whole = tiny_run(0);
    let split = RunSpec { micro_batch_size: MicroBatch::Images(2), ..whole.clone() };
    assert_eq!(whole.id(), split.id());
    let (_, expected) = attempt(&home, &whole, 1, &Stop::new());
    let other = Home::new(workspace.home().join("other"));
    let (_, found) = attempt(&other, &split, 1, &Stop::new());
    // Epoch 0 has no attack: an attack may amplify one flipped sign.
    let (expected, found) = (train_losses(&expected)[0], train_losses(&found)[0]);
    assert!((found / expected - 1.0).abs() < ROUNDING, "{found} instead of {expected}");
}

/// The start of the attack of TRADES belongs to the image, not to its place in a micro batch.
#[test]
fn the_micro_batch_changes_rounding_only_for_trades_as_well() {
    let workspace = Workspace::new();
    // One step an epoch: the losses of the first are those of equal weights.
    let whole = with_trades(RunSpec {
        epochs: 2,
        batch_size: 50,
        micro_batch_size: MicroBatch::Images(50),
        epsilon_schedule: EpsilonSchedule::Fixed,
        ..tiny_run(0)
    });
    let split = RunSpec { micro_batch_size: MicroBatch::Images(10), ..whole.clone() };
    let losses = |name: &str, spec: &RunSpec| {
        let (_, events) = attempt(&Home::new(workspace.home().join(name)), spec, 1, &Stop::new());
        train_losses(&events)[0]
    };
    let (expected, found) = (losses("whole", &whole), losses("split", &split));
    assert!((found / expected - 1.0).abs() < ROUNDING, "{found} instead of {expected}");
}
