//! Runs that go on from what others have trained come to the bits that they would have come to alone.

use std::fs;

use sweep_core::epsilon::Epsilon;
use sweep_core::event::Event;
use sweep_core::home::Home;
use sweep_core::schedule::{EpsilonSchedule, Granularity, LearningRateSchedule};
use sweep_core::spec::{Architecture, EmaSpec, RunSpec};
use sweep_core::trajectory::{Companion, followers};
use sweep_testkit::Workspace;
use sweep_worker::{Ending, Stop};

use crate::support::{
    attempt, auto_ramp, checkpoints, damage, evaluated, in_pieces, numbers, share, tiny_resnet, tiny_run,
    trained, whole, with_trades,
};

/// What a run comes to in a home of its own.
fn alone(spec: &RunSpec) -> Vec<String> {
    let workspace = Workspace::new();
    let (ending, events) = attempt(&Home::new(workspace.home()), spec, 1, &Stop::new());
    assert_eq!(ending, Ending::Succeeded, "{:?}", events.last());
    numbers(&events)
}

/// A run to `target`/255 by a ramp in its third and fourth epoch, of five.
fn to(target: u8, spec: RunSpec) -> RunSpec {
    let epsilon_schedule = EpsilonSchedule::Ramp { start: 2, end: 4, per: Granularity::Epoch };
    let mut spec =
        RunSpec { target_epsilon: Epsilon::from_255ths(target), epochs: 5, epsilon_schedule, ..spec };
    spec.evaluation.max_epsilon = Epsilon::from_255ths(target);
    spec
}

/// Says to the first of `specs` what the others want of it, as the scheduler would.
fn share_with_all(home: &Home, specs: &[RunSpec]) {
    let runs: Vec<_> = specs.iter().map(|spec| (spec.id(), spec)).collect();
    let followers = followers(&runs);
    assert_eq!(followers.len(), specs.len() - 1);
    let companions = followers.iter().zip(&specs[1..]).map(|(follower, spec)| {
        assert_eq!((follower.run, follower.leader), (spec.id(), specs[0].id()));
        let attack = spec.validation.attack.clone();
        Companion { run: follower.run, epochs: follower.epochs, attack, target_epsilon: spec.target_epsilon }
    });
    share(home, specs[0].id(), companions.collect());
}

#[test]
fn targets_share_the_epochs_before_the_ramp() {
    let averaged = RunSpec { ema: Some(EmaSpec { decay: 0.8 }), ..tiny_run(0) };
    let mut residual = with_trades(RunSpec { ema: Some(EmaSpec { decay: 0.9 }), ..tiny_run(0) });
    residual.input_size = 32;
    residual.backbone.definition.architecture = tiny_resnet();
    for (name, recipe) in [("plain", tiny_run(0)), ("average", averaged), ("batch norms", residual)] {
        let workspace = Workspace::new();
        let home = Home::new(workspace.home());
        let specs = [4, 2, 8].map(|target| to(target, recipe.clone()));
        let leader = specs[0].id();
        share_with_all(&home, &specs);
        let (ending, events) = attempt(&home, &specs[0], 1, &Stop::new());
        assert_eq!(ending, Ending::Succeeded, "{name}");
        assert_eq!(numbers(&events), alone(&specs[0]), "{name}: others cost a run nothing but time");
        for spec in &specs[1..] {
            let (ending, events) = attempt(&home, spec, 1, &Stop::new());
            assert_eq!(ending, Ending::Succeeded, "{name}");
            let Event::Started { resumed_from, resumed_run, .. } = events[0] else {
                panic!("{:?}", events[0])
            };
            assert_eq!((resumed_from, resumed_run), (3, Some(leader)), "{name}");
            let taken_over = vec![(0, leader), (1, leader), (2, leader)];
            assert_eq!(trained(&events), (vec![3, 4], taken_over), "{name}");
            assert_eq!(numbers(&events), alone(spec), "{name}");
        }
    }
}

#[test]
fn interrupted_leaders_and_followers_come_to_the_same_bits() {
    let workspace = Workspace::new();
    let home = Home::new(workspace.home());
    let specs = [4, 2, 0].map(|target| to(target, tiny_run(0)));
    share_with_all(&home, &specs);
    for spec in &specs {
        // More than a validation with two attacks and less than an epoch: nothing is finished in one piece.
        let (attempts, events) = in_pieces(&home, spec, 8);
        assert!(attempts > 1, "{attempts} attempts");
        assert_eq!(numbers(&events), alone(spec));
    }
}

#[test]
fn a_longer_run_goes_on_from_the_end_of_the_shorter() {
    let workspace = Workspace::new();
    let home = Home::new(workspace.home());
    let constant = LearningRateSchedule::Constant;
    let mut short =
        RunSpec { epsilon_schedule: EpsilonSchedule::Fixed, learning_rate_schedule: constant, ..tiny_run(0) };
    short.input_size = 32;
    short.backbone.definition.architecture =
        Architecture::Convnext { image_size: 32, depths: vec![1; 4], dims: vec![8; 4], drop_path: 0.3 };
    let long = RunSpec { epochs: 5, ..short.clone() };
    attempt(&home, &short, 1, &Stop::new());
    let (_, events) = attempt(&home, &long, 1, &Stop::new());
    assert_eq!(trained(&events), (vec![3, 4], [0, 1, 2].map(|epoch| (epoch, short.id())).into()));
    assert_eq!(numbers(&events), alone(&long));
    assert!(whole(&home, &short, 3).is_some(), "a run deletes its own checkpoints only");
}

#[test]
fn a_run_that_only_measures_more_trains_nothing() {
    let workspace = Workspace::new();
    let home = Home::new(workspace.home());
    let first = RunSpec { epochs: 6, epsilon_schedule: auto_ramp(None), ..tiny_run(0) };
    let mut second = first.clone();
    second.evaluation.max_epsilon = Epsilon::from_255ths(8);
    let (_, before) = attempt(&home, &first, 1, &Stop::new());
    let files = checkpoints(&home);
    let (ending, events) = attempt(&home, &second, 1, &Stop::new());
    assert_eq!(ending, Ending::Succeeded);
    assert_eq!(trained(&events), (Vec::new(), (0..6).map(|epoch| (epoch, first.id())).collect()));
    assert!(!events.iter().any(|event| matches!(event, Event::CheckpointSaved { .. })));
    assert_eq!(checkpoints(&home), files);
    assert_eq!(numbers(&events), alone(&second));
    assert!(evaluated(&events).len() > evaluated(&before).len());
    let (_, again) = attempt(&home, &second, 2, &Stop::new());
    assert_eq!(trained(&again), (Vec::new(), Vec::new()), "nothing is reported twice");
}

#[test]
fn a_checkpoint_that_does_not_tell_what_a_run_needs_is_passed_over() {
    let workspace = Workspace::new();
    let home = Home::new(workspace.home());
    let [first, second] = [4, 8].map(|target| to(target, tiny_run(0)));
    // The checkpoint that the second could begin with lies there, with what a third run wants to know.
    let other = Companion {
        run: to(2, tiny_run(0)).id(),
        epochs: 3,
        attack: first.validation.attack.clone(),
        target_epsilon: Epsilon::from_255ths(2),
    };
    share(&home, first.id(), vec![other]);
    attempt(&home, &first, 1, &Stop::new());
    let kept = whole(&home, &first, 3).unwrap();
    let (ending, events) = attempt(&home, &second, 1, &Stop::new());
    assert_eq!(ending, Ending::Succeeded);
    assert!(
        matches!(events[0], Event::Started { resumed_from: 0, resumed_run: None, .. }),
        "{:?}",
        events[0]
    );
    assert_eq!(trained(&events), (vec![0, 1, 2, 3, 4], Vec::new()));
    assert!(kept.exists());
}

#[test]
fn clean_training_needs_nothing_of_others() {
    let workspace = Workspace::new();
    let home = Home::new(workspace.home());
    let [first, clean] = [4, 0].map(|target| to(target, tiny_run(0)));
    share_with_all(&home, &[first.clone(), clean.clone()]);
    attempt(&home, &first, 1, &Stop::new());
    let (_, events) = attempt(&home, &clean, 1, &Stop::new());
    assert_eq!(trained(&events).0, [3, 4]);
    assert_eq!(numbers(&events), alone(&clean));
}

#[test]
fn a_damaged_checkpoint_of_another_run_is_deleted_and_costs_time_only() {
    let workspace = Workspace::new();
    let home = Home::new(workspace.home());
    let specs = [4, 8].map(|target| to(target, tiny_run(0)));
    share_with_all(&home, &specs);
    attempt(&home, &specs[0], 1, &Stop::new());
    let path = whole(&home, &specs[1], 3).unwrap();
    damage(&path);
    let (_, events) = attempt(&home, &specs[1], 1, &Stop::new());
    assert!(!path.exists());
    assert_eq!(trained(&events).0, [0, 1, 2, 3, 4]);
    assert_eq!(numbers(&events), alone(&specs[1]));
}

#[test]
fn a_torn_sharing_file_is_a_failure_of_configuration() {
    let workspace = Workspace::new();
    let home = Home::new(workspace.home());
    let spec = tiny_run(0);
    share(&home, spec.id(), Vec::new());
    fs::write(home.sharing(spec.id()), "{").unwrap();
    let (ending, events) = attempt(&home, &spec, 1, &Stop::new());
    assert_eq!(ending, Ending::Failed(78));
    assert!(matches!(events[..], [Event::Started { .. }, Event::Failed { .. }]), "{events:?}");
}
