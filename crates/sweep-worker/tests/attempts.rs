//! Whole attempts at small runs, in this process: what they leave behind and how they fail.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;
use std::path::PathBuf;

use candle_core::Device;
use sweep_core::dataset::{DatasetSource, ProceduralFamily};
use sweep_core::epsilon::Epsilon;
use sweep_core::event::{Event, FailureClass, Record};
use sweep_core::home::Home;
use sweep_core::spec::{Architecture, OptimizerSpec, ResnetBlock, RunSpec, WeightsSource};
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
    let mut files = fs::read_dir(home.checkpoints(spec.id())).unwrap();
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
        Architecture::Resnet {
            image_size: 32,
            block: ResnetBlock::Basic,
            layers: stages(1),
            channels: stages(8),
        },
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
