//! Whole attempts at small runs, in this process: what they leave behind and how they fail.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;
use std::path::PathBuf;

use candle_core::Device;
use sweep_core::dataset::{DatasetSource, ProceduralFamily};
use sweep_core::epsilon::Epsilon;
use sweep_core::event::{Event, FailureClass, Record};
use sweep_core::home::Home;
use sweep_core::schedule::{AutoRamp, EpsilonSchedule, Granularity};
use sweep_core::spec::{
    Architecture, EmaSpec, NoDecay, Objective, OptimizerSpec, ResnetBlock, RunSpec, WeightsSource,
};
use sweep_testkit::{Workspace, sample_run};
use sweep_worker::{Arguments, Ending, Stop, run_attempt, unsupported};

/// Returns the kit's sample run with enough images for its ten classes.
fn tiny_run(seed: u64) -> RunSpec {
    let mut spec = sample_run(seed);
    spec.dataset.definition.source =
        DatasetSource::Procedural { family: ProceduralFamily::Shapes, seed: 0, train: 60, test: 20 };
    spec
}

/// Carries out an attempt and returns how it ended and what it said.
fn attempt(home: &Home, spec: &RunSpec, number: u32, stop: &Stop) -> (Ending, Vec<Event>) {
    let run = spec.id();
    fs::create_dir_all(home.attempt(run, number)).unwrap();
    fs::write(home.spec(run), serde_json::to_vec(spec).unwrap()).unwrap();
    let arguments = Arguments {
        home: home.root().to_owned(),
        run,
        attempt: number,
        threads: 1,
        device: "cpu".to_owned(),
    };
    let ending = run_attempt(&arguments, stop).unwrap();
    let text = fs::read_to_string(home.events(run, number)).unwrap();
    let records: Vec<Record> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(records.iter().zip(0..).all(|(record, sequence)| record.sequence == sequence));
    (ending, records.into_iter().map(|record| record.event).collect())
}

fn model_digest(events: &[Event]) -> String {
    let digest = |event: &Event| match event {
        Event::ModelSaved { digest, .. } => Some(digest.clone()),
        _ => None,
    };
    events.iter().find_map(digest).expect("a model was saved")
}

fn train_losses(events: &[Event]) -> Vec<f64> {
    let loss = |event: &Event| match event {
        Event::EpochFinished { train_loss, .. } => Some(*train_loss),
        _ => None,
    };
    events.iter().filter_map(loss).collect()
}

fn evaluated(events: &[Event]) -> Vec<(Epsilon, u32, u32)> {
    let point = |event: &Event| match event {
        Event::Evaluated { epsilon, correct, total, .. } => Some((*epsilon, *correct, *total)),
        _ => None,
    };
    events.iter().filter_map(point).collect()
}

fn the_checkpoint(home: &Home, spec: &RunSpec) -> PathBuf {
    let mut files = fs::read_dir(home.run(spec.id()).join("checkpoints")).unwrap();
    let path = files.next().unwrap().unwrap().path();
    assert!(files.next().is_none(), "a complete run keeps one checkpoint");
    path
}

#[test]
fn a_complete_attempt_says_everything_in_order() {
    let workspace = Workspace::new();
    let home = Home::new(workspace.home());
    let spec = tiny_run(0);
    let (ending, events) = attempt(&home, &spec, 1, &Stop::new());
    assert_eq!(ending, Ending::Succeeded);
    assert!(matches!(events[0], Event::Started { resumed_from: 0, .. }), "{:?}", events[0]);
    assert!(events.iter().any(|event| matches!(event, Event::Loaded { weights_digest: None, .. })));
    assert_eq!(train_losses(&events).len(), 3);
    let points = evaluated(&events);
    assert_eq!(
        points.iter().map(|(epsilon, ..)| *epsilon).collect::<Vec<_>>(),
        spec.evaluation.points(spec.target_epsilon)
    );
    assert!(points.windows(2).all(|pair| pair[0].2 == pair[1].2), "every point counts the complete split");
    assert_eq!(events.last(), Some(&Event::Succeeded));
    assert!(home.model(spec.id()).join("config.json").exists());
}

#[test]
fn a_later_attempt_goes_on_from_the_checkpoint_and_measures_nothing_twice() {
    let workspace = Workspace::new();
    let home = Home::new(workspace.home());
    let spec = tiny_run(0);
    let (_, first) = attempt(&home, &spec, 1, &Stop::new());
    let (ending, second) = attempt(&home, &spec, 2, &Stop::new());
    assert_eq!(ending, Ending::Succeeded);
    assert!(matches!(second[0], Event::Started { resumed_from: 3, .. }), "{:?}", second[0]);
    assert_eq!((train_losses(&second).len(), evaluated(&second).len()), (0, 0));
    assert_eq!(model_digest(&first), model_digest(&second));
}

#[test]
fn a_damaged_or_unreported_checkpoint_is_not_used_and_the_bits_are_the_same() {
    let workspace = Workspace::new();
    let home = Home::new(workspace.home());
    let spec = tiny_run(0);
    let (_, first) = attempt(&home, &spec, 1, &Stop::new());
    let path = the_checkpoint(&home, &spec);
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&path, bytes).unwrap();
    let (_, second) = attempt(&home, &spec, 2, &Stop::new());
    assert!(matches!(second[0], Event::Started { resumed_from: 0, .. }), "{:?}", second[0]);
    assert_eq!(model_digest(&first), model_digest(&second));
    assert_eq!(train_losses(&first), train_losses(&second));
}

#[test]
fn points_measured_on_another_model_are_measured_again() {
    let workspace = Workspace::new();
    let home = Home::new(workspace.home());
    let spec = tiny_run(0);
    let (_, first) = attempt(&home, &spec, 1, &Stop::new());
    let path = home.events(spec.id(), 1);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace(&model_digest(&first), &"0".repeat(64))).unwrap();
    let (_, second) = attempt(&home, &spec, 2, &Stop::new());
    assert_eq!(evaluated(&second), evaluated(&first));
}

#[test]
fn the_model_of_another_run_is_used_only_as_that_run_reported_it() {
    let workspace = Workspace::new();
    let home = Home::new(workspace.home());
    let first = tiny_run(0);
    let mut second = tiny_run(1);
    second.epochs = 1;
    second.backbone.definition.weights =
        WeightsSource::Run { run: first.id(), training: first.training_id() };

    let (ending, events) = attempt(&home, &second, 1, &Stop::new());
    assert_eq!(ending, Ending::Failed(1));
    assert!(matches!(events[0], Event::Started { .. }), "{:?}", events[0]);
    let failure = |events: &[Event]| match events.last() {
        Some(Event::Failed { class, message }) => (*class, message.clone()),
        other => panic!("{other:?} is no failure"),
    };
    let (class, message) = failure(&events);
    assert_eq!(class, FailureClass::Weights);
    assert!(message.contains("has no final model"), "{message}");

    let (_, training) = attempt(&home, &first, 1, &Stop::new());
    let leftover = home.run(second.id()).join("model.tmp-17");
    fs::create_dir(&leftover).unwrap();
    let (ending, events) = attempt(&home, &second, 2, &Stop::new());
    assert_eq!(ending, Ending::Succeeded);
    assert!(!leftover.exists());
    let digest = model_digest(&training);
    assert!(
        events
            .iter()
            .any(|event| matches!(event, Event::Loaded { weights_digest, .. } if weights_digest.as_ref() == Some(&digest)))
    );

    fs::write(home.model(first.id()).join("model.safetensors"), "something else").unwrap();
    let (_, events) = attempt(&home, &second, 3, &Stop::new());
    let (class, message) = failure(&events);
    assert_eq!(class, FailureClass::Weights);
    assert!(message.contains(&digest), "{message}");
}

#[test]
fn a_stop_before_the_first_step_is_an_interruption() {
    let workspace = Workspace::new();
    let home = Home::new(workspace.home());
    let spec = tiny_run(0);
    let stop = Stop::new();
    stop.request();
    let (ending, events) = attempt(&home, &spec, 1, &stop);
    assert_eq!(ending, Ending::Interrupted);
    assert_eq!(events.last(), Some(&Event::Interrupted { epochs: 0 }));
}

/// A schedule that finds its start within a few epochs: an improvement of 90 points is never seen.
fn auto_ramp(end: Option<u32>) -> EpsilonSchedule {
    EpsilonSchedule::Auto(AutoRamp { patience: 1, tolerance: 0.9, end, per: Granularity::Epoch })
}

fn with_trades(spec: RunSpec) -> RunSpec {
    RunSpec { objective: Objective::Trades { beta: 6.0 }, ..spec }
}

/// Everything that an interruption must not change: what each epoch came to, and the test points.
fn outcomes(events: &[Event]) -> Vec<String> {
    let text = |event: &Event| match event {
        Event::EpochFinished {
            epoch,
            epsilon,
            learning_rate,
            train_loss,
            clean_loss,
            robust_loss,
            robust_correct,
            ..
        } => Some(format!(
            "{epoch} {epsilon} {learning_rate} {train_loss} {clean_loss} {robust_loss} {robust_correct}"
        )),
        Event::Evaluated { epsilon, correct, .. } => Some(format!("{epsilon} {correct}")),
        _ => None,
    };
    events.iter().filter_map(text).collect()
}

fn epsilons(events: &[Event]) -> Vec<f64> {
    let epsilon = |event: &Event| match event {
        Event::EpochFinished { epsilon, .. } => Some(*epsilon),
        _ => None,
    };
    events.iter().filter_map(epsilon).collect()
}

/// Carries a run out in attempts that each stop after `looks` micro batches, until it is complete.
fn in_pieces(home: &Home, spec: &RunSpec, looks: u64) -> (u32, Vec<Event>) {
    let mut all = Vec::new();
    for number in 1.. {
        let (ending, events) = attempt(home, spec, number, &Stop::after(looks));
        all.extend(events);
        match ending {
            Ending::Succeeded => return (number, all),
            Ending::Interrupted => {}
            Ending::Failed(code) => panic!("failed with code {code}: {:?}", all.last()),
        }
    }
    unreachable!("there is always a next number")
}

#[test]
fn interrupted_runs_come_to_the_same_bits_whatever_the_recipe() {
    let steps = |start, end| EpsilonSchedule::Ramp { start, end, per: Granularity::Step };
    let mut residual = with_trades(RunSpec { ema: Some(EmaSpec { decay: 0.9 }), ..tiny_run(0) });
    residual.input_size = 32;
    residual.backbone.definition.architecture = tiny_resnet();
    let recipes: [(&str, RunSpec); 7] = [
        ("batch norms, average, trades", residual),
        ("as it is", tiny_run(0)),
        ("average", RunSpec { ema: Some(EmaSpec { decay: 0.8 }), ..tiny_run(0) }),
        ("clipping", RunSpec { clip_norm: Some(0.1), ..tiny_run(0) }),
        ("trades, by steps", with_trades(RunSpec { epsilon_schedule: steps(0, 2), ..tiny_run(0) })),
        ("automatic", RunSpec { epochs: 6, epsilon_schedule: auto_ramp(Some(6)), ..tiny_run(0) }),
        (
            "automatic, average, clipping, trades",
            with_trades(RunSpec {
                epochs: 6,
                epsilon_schedule: auto_ramp(None),
                ema: Some(EmaSpec { decay: 0.5 }),
                clip_norm: Some(1.0),
                ..tiny_run(0)
            }),
        ),
    ];
    for (name, spec) in recipes {
        let workspace = Workspace::new();
        let (whole, pieces) = (Home::new(workspace.home().join("whole")), Home::new(workspace.home()));
        let (_, expected) = attempt(&whole, &spec, 1, &Stop::new());
        // An epoch has eleven micro batches, four of them for validation: every kind of place is met.
        let (attempts, found) = in_pieces(&pieces, &spec, 9);
        assert!(attempts > 3, "{name}: {attempts} attempts");
        assert_eq!(outcomes(&found), outcomes(&expected), "{name}");
        assert_eq!(model_digest(&found), model_digest(&expected), "{name}");
        if spec.epsilon_schedule.needs_history() {
            let epsilons = epsilons(&expected);
            assert!(epsilons[0] == 0.0 && epsilons[5] > 0.0, "{name}: {epsilons:?}");
        }
    }
}

#[test]
fn an_automatic_ramp_does_not_guess_epochs_of_which_nothing_is_recorded() {
    let workspace = Workspace::new();
    let home = Home::new(workspace.home());
    let spec = RunSpec { epochs: 6, epsilon_schedule: auto_ramp(Some(6)), ..tiny_run(0) };
    let (ending, _) = attempt(&home, &spec, 1, &Stop::after(30));
    assert_eq!(ending, Ending::Interrupted);
    let path = home.events(spec.id(), 1);
    let text = fs::read_to_string(&path).unwrap();
    let kept: Vec<&str> = text.lines().filter(|line| !line.contains("epoch_finished")).collect();
    fs::write(&path, kept.join("\n")).unwrap();
    let (_, events) = attempt(&home, &spec, 2, &Stop::new());
    match events.last() {
        Some(Event::Failed { class: FailureClass::Storage, message }) => {
            assert!(message.contains("of the first 0 only"), "{message}");
        }
        other => panic!("{other:?} is no failure"),
    }
}

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

/// The relative difference that another order of summation may make in f32 over a few steps of training.
const ROUNDING: f64 = 1e-4;

#[test]
fn the_micro_batch_changes_rounding_only() {
    let workspace = Workspace::new();
    let home = Home::new(workspace.home());
    let whole = tiny_run(0);
    let split = RunSpec { micro_batch_size: 2, ..whole.clone() };
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
        micro_batch_size: 50,
        epsilon_schedule: EpsilonSchedule::Fixed,
        ..tiny_run(0)
    });
    let split = RunSpec { micro_batch_size: 10, ..whole.clone() };
    let losses = |name: &str, spec: &RunSpec| {
        let (_, events) = attempt(&Home::new(workspace.home().join(name)), spec, 1, &Stop::new());
        train_losses(&events)[0]
    };
    let (expected, found) = (losses("whole", &whole), losses("split", &split));
    assert!((found / expected - 1.0).abs() < ROUNDING, "{found} instead of {expected}");
}

#[test]
fn failures_have_their_class_and_code() {
    let workspace = Workspace::new();
    let home = Home::new(workspace.home());
    let failure = |spec: &RunSpec| {
        let (ending, events) = attempt(&home, spec, 1, &Stop::new());
        match (ending, events.last()) {
            (Ending::Failed(code), Some(Event::Failed { class, message })) => (code, *class, message.clone()),
            other => panic!("{other:?} is no failure"),
        }
    };
    let mut diverges = tiny_run(1);
    diverges.optimizer = OptimizerSpec::Sgd {
        learning_rate: 1e30,
        head_learning_rate: 1e30,
        weight_decay: 0.0,
        head_weight_decay: 0.0,
        no_decay: NoDecay::Sibling,
        momentum: 0.0,
    };
    assert_eq!(failure(&diverges).1, FailureClass::Diverged);

    let mut no_weights = tiny_run(2);
    no_weights.backbone.definition.weights =
        WeightsSource::File { path: "/nowhere/vit.safetensors".into(), digest: None };
    let (code, class, message) = failure(&no_weights);
    assert_eq!((code, class), (1, FailureClass::Weights));
    assert!(message.contains("/nowhere/vit.safetensors"), "{message}");

    let mut wrong_weights = tiny_run(3);
    let file = workspace.home().join("junk.safetensors");
    fs::write(&file, "junk").unwrap();
    wrong_weights.backbone.definition.weights =
        WeightsSource::File { path: file, digest: Some("0".repeat(64)) };
    let (_, class, message) = failure(&wrong_weights);
    assert_eq!(class, FailureClass::Weights);
    assert!(message.contains("expected 0000"), "{message}");
}

fn tiny_resnet() -> Architecture {
    let (layers, channels) = (vec![1; 4], vec![8; 4]);
    Architecture::Resnet { image_size: 32, block: ResnetBlock::Basic, layers, channels }
}

#[test]
fn every_family_trains_and_batch_norms_take_part() {
    let stages = |count: u32| vec![count; 4];
    let families = [
        Architecture::Swin {
            image_size: 32,
            patch_size: 4,
            window_size: 4,
            embed_dim: 8,
            depths: vec![2, 1],
            num_heads: vec![2, 4],
            drop_path: 0.2,
        },
        Architecture::Convnext { image_size: 32, depths: stages(1), dims: stages(8), drop_path: 0.1 },
        tiny_resnet(),
    ];
    for architecture in families {
        let workspace = Workspace::new();
        let home = Home::new(workspace.home());
        let mut spec = tiny_run(0);
        spec.input_size = 32;
        spec.backbone.definition.architecture = architecture;
        assert_eq!(unsupported(&spec), None);
        let (ending, events) = attempt(&home, &spec, 1, &Stop::new());
        assert_eq!(ending, Ending::Succeeded, "{events:?}");
        assert_eq!(evaluated(&events).len(), spec.evaluation.points(spec.target_epsilon).len());
        let tensors =
            candle_core::safetensors::load(home.model(spec.id()).join("model.safetensors"), &Device::Cpu)
                .unwrap();
        let updates = tensors.iter().filter(|(name, _)| name.ends_with("num_batches_tracked"));
        let steps = spec.epochs * 60_u32.div_ceil(spec.batch_size);
        let micro_batches = i64::from(steps * spec.batch_size / spec.micro_batch_size);
        for (name, updates) in updates {
            let updates = updates.to_scalar::<i64>().unwrap();
            assert!(updates > 0 && updates <= micro_batches, "{name}: {updates} of {micro_batches}");
        }
    }
}
