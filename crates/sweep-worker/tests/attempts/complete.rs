//! What a complete attempt leaves behind, and how attempts fail.

use std::fs;

use candle_core::Device;
use sweep_core::event::{Event, FailureClass};
use sweep_core::home::Home;
use sweep_core::spec::{Architecture, NoDecay, OptimizerSpec, RunSpec, WeightsSource};
use sweep_testkit::Workspace;
use sweep_worker::{Ending, Stop, unsupported};

use crate::support::{attempt, evaluated, model_digest, tiny_resnet, tiny_run, train_losses};

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
        let micro_batches = i64::from(steps * spec.batch_size / spec.micro_batch_size.images().unwrap());
        for (name, updates) in updates {
            let updates = updates.to_scalar::<i64>().unwrap();
            assert!(updates > 0 && updates <= micro_batches, "{name}: {updates} of {micro_batches}");
        }
    }
}
