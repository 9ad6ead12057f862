//! Attempts that end early, and what the next one makes of what they left: the same bits.

use std::fs;
use std::time::{Duration, SystemTime};

use sweep_core::event::Event;
use sweep_core::home::Home;
use sweep_core::schedule::{EpsilonSchedule, Granularity};
use sweep_core::spec::{EmaSpec, RunSpec};
use sweep_testkit::Workspace;
use sweep_worker::{Arguments, Ending, Stop, run_attempt};

use crate::support::{
    arguments, attempt, auto_ramp, checkpoints, damage, evaluated, events, in_pieces, model_digest, numbers,
    tiny_resnet, tiny_run, train_losses, trained, whole, with_trades,
};

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

/// The time was up before it began: each attempt still does an epoch, so that the run gets somewhere, and begins no other.
#[test]
fn no_epoch_is_begun_that_cannot_be_over_in_time() {
    let [hurried, calm] = [Workspace::new(), Workspace::new()];
    let [home, undisturbed] = [&hurried, &calm].map(|workspace| Home::new(workspace.home()));
    let spec = tiny_run(0);
    for number in 1..spec.epochs {
        let told = Arguments { until: Some(SystemTime::UNIX_EPOCH), ..arguments(&home, &spec, number) };
        assert_eq!(run_attempt(&told, &Stop::new()), Ending::Interrupted);
        let said = events(&home, &spec, number);
        assert_eq!(trained(&said).0, [number - 1]);
        assert_eq!(said.last(), Some(&Event::Interrupted { epochs: number }));
    }
    let told = Arguments { until: Some(SystemTime::UNIX_EPOCH), ..arguments(&home, &spec, spec.epochs) };
    assert_eq!(run_attempt(&told, &Stop::new()), Ending::Succeeded, "nothing but the last epoch is left");
    let (_, expected) = attempt(&undisturbed, &spec, 1, &Stop::new());
    assert_eq!(model_digest(&events(&home, &spec, spec.epochs)), model_digest(&expected));
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
    assert!(!events.iter().any(|event| matches!(event, Event::Loaded { .. })), "not even the data are read");
    assert_eq!(events.last(), Some(&Event::Interrupted { epochs: 0 }));
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
        assert_eq!(numbers(&found), numbers(&expected), "{name}");
        if spec.epsilon_schedule.needs_history() {
            let epsilons = epsilons(&expected);
            assert!(epsilons[0] == 0.0 && epsilons[5] > 0.0, "{name}: {epsilons:?}");
        }
    }
}

fn epsilons(events: &[Event]) -> Vec<f64> {
    let epsilon = |event: &Event| match event {
        Event::EpochFinished { epsilon, .. } => Some(*epsilon),
        _ => None,
    };
    events.iter().filter_map(epsilon).collect()
}

/// Carries a run out without interruption, in a home of its own.
fn alone(workspace: &Workspace, spec: &RunSpec) -> Vec<Event> {
    let (ending, events) = attempt(&Home::new(workspace.home().join("alone")), spec, 1, &Stop::new());
    assert_eq!(ending, Ending::Succeeded);
    events
}

#[test]
fn a_damaged_checkpoint_is_deleted_and_the_one_before_it_is_taken() {
    let workspace = Workspace::new();
    let home = Home::new(workspace.home());
    let spec = RunSpec { epochs: 4, ..tiny_run(0) };
    // After the third epoch, in the fourth: it takes seven micro batches, then four to validate.
    let (ending, first) = attempt(&home, &spec, 1, &Stop::after(35));
    assert_eq!(ending, Ending::Interrupted);
    let mut names = checkpoints(&home);
    names.sort_by_key(|name| name.step);
    let [before, newest] = &names[..] else { panic!("{names:?}") };
    assert!(before.step.is_none() && newest.step.is_some(), "{names:?}");
    damage(&home.trajectories().join(newest.to_string()));
    let (ending, second) = attempt(&home, &spec, 2, &Stop::new());
    assert_eq!(ending, Ending::Succeeded);
    assert!(matches!(second[0], Event::Started { resumed_from: 3, .. }), "{:?}", second[0]);
    assert!(!checkpoints(&home).contains(newest));
    assert_eq!(numbers(&[first, second].concat()), numbers(&alone(&workspace, &spec)));
}

#[test]
fn a_run_whose_checkpoints_are_all_damaged_begins_anew() {
    let workspace = Workspace::new();
    let home = Home::new(workspace.home());
    let spec = tiny_run(0);
    let (_, first) = attempt(&home, &spec, 1, &Stop::new());
    damage(&whole(&home, &spec, 3).unwrap());
    assert_eq!(checkpoints(&home).len(), 1, "a complete run keeps one checkpoint");
    let (_, second) = attempt(&home, &spec, 2, &Stop::new());
    assert!(matches!(second[0], Event::Started { resumed_from: 0, .. }), "{:?}", second[0]);
    assert_eq!(numbers(&first)[..4], numbers(&second)[..]);
}

#[test]
fn within_an_epoch_checkpoints_are_written_as_often_as_told() {
    let workspace = Workspace::new();
    let home = Home::new(workspace.home());
    let spec = RunSpec { ema: Some(EmaSpec { decay: 0.8 }), ..tiny_run(0) };
    let often = |number| Arguments { checkpoint_every: Duration::ZERO, ..arguments(&home, &spec, number) };
    // In the second epoch, before the sixth of its seven steps.
    assert_eq!(run_attempt(&often(1), &Stop::after(16)), Ending::Interrupted);
    let saved = |number| {
        let place = |event: &Event| match event {
            Event::CheckpointSaved { epochs, step, .. } => Some((*epochs, *step)),
            _ => None,
        };
        events(&home, &spec, number).iter().filter_map(place).collect::<Vec<_>>()
    };
    let first: Vec<(u32, u32)> = (1..=7).map(|step| (0, step)).chain((0..=5).map(|step| (1, step))).collect();
    assert_eq!(saved(1), first);
    let mut names = checkpoints(&home);
    names.sort_by_key(|name| name.step);
    assert_eq!(names.iter().map(|name| name.step).collect::<Vec<_>>(), [Some(4), Some(5)]);

    // As if the worker had been killed before the last one.
    fs::remove_file(home.trajectories().join(names[1].to_string())).unwrap();
    assert_eq!(run_attempt(&often(2), &Stop::new()), Ending::Succeeded);
    assert_eq!(saved(2)[..3], [(1, 5), (1, 6), (1, 7)]);
    let found = [events(&home, &spec, 1), events(&home, &spec, 2)].concat();
    assert_eq!(numbers(&found), numbers(&alone(&workspace, &spec)));
}

/// The schedule looks at the epochs before, whose events are lost: the checkpoint tells of them, and they are reported
/// again.
#[test]
fn lost_events_are_written_again_from_the_checkpoint() {
    let workspace = Workspace::new();
    let home = Home::new(workspace.home());
    let spec = RunSpec { epochs: 6, epsilon_schedule: auto_ramp(Some(6)), ..tiny_run(0) };
    let (ending, first) = attempt(&home, &spec, 1, &Stop::after(30));
    assert_eq!(ending, Ending::Interrupted);
    assert_eq!(trained(&first).0, [0, 1]);
    let path = home.events(spec.id(), 1);
    let text = fs::read_to_string(&path).unwrap();
    // The second epoch and everything after it; the line is torn.
    let end = text.find(r#"{"kind":"epoch_finished","epoch":1"#).unwrap();
    fs::write(&path, &text[..end]).unwrap();
    let (ending, second) = attempt(&home, &spec, 2, &Stop::new());
    assert_eq!(ending, Ending::Succeeded);
    assert_eq!(trained(&second), (vec![1, 2, 3, 4, 5], Vec::new()));
    let expected = alone(&workspace, &spec);
    assert_eq!(numbers(&second), numbers(&expected)[1..]);
    let (_, third) = attempt(&home, &spec, 3, &Stop::new());
    assert_eq!(trained(&third), (Vec::new(), Vec::new()), "everything is said");
}

#[test]
fn what_a_killed_worker_left_is_cleared_away_and_that_of_other_runs_is_not() {
    let workspace = Workspace::new();
    let home = Home::new(workspace.home());
    let spec = tiny_run(0);
    fs::create_dir_all(home.trajectories()).unwrap();
    let [own, other] =
        [spec.id(), tiny_run(1).id()].map(|run| home.trajectories().join(format!("{run}-7.tmp")));
    fs::write(&own, "half").unwrap();
    fs::write(&other, "half").unwrap();
    attempt(&home, &spec, 8, &Stop::new());
    assert!(!own.exists() && other.exists());
}
