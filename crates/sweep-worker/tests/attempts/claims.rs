//! Attempts that lose their run while they work, and what an attempt says about itself.

use std::fs;

use sweep_core::event::{Event, FailureClass};
use sweep_core::home::Home;
use sweep_core::micro_batch::{MicroBatch, usual};
use sweep_core::spec::{Precision, RunSpec};
use sweep_testkit::{Workspace, wait_until};
use sweep_worker::{Arguments, Ending, Stop, run_attempt};

use crate::support::{arguments, attempt, events, numbers, tiny_run};

/// More epochs than anybody waits for: the attempt ends because it has to.
const ENDLESS: u32 = 100_000;

/// Takes a run away from its worker in the middle of the work, and returns how that ended.
fn fenced(home: &Home, spec: &RunSpec, take: impl FnOnce()) -> Ending {
    let arguments = arguments(home, spec, 1);
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| run_attempt(&arguments, &Stop::new()));
        wait_until("the first epoch", || {
            let text = fs::read_to_string(home.events(spec.id(), 1)).ok()?;
            text.contains("epoch_finished").then_some(())
        });
        take();
        worker.join().unwrap()
    })
}

#[test]
fn a_worker_whose_run_has_a_next_attempt_leaves_without_a_word() {
    let workspace = Workspace::new();
    let home = Home::new(workspace.home());
    let spec = RunSpec { epochs: ENDLESS, ..tiny_run(0) };
    let ending = fenced(&home, &spec, || fs::create_dir(home.attempt(spec.id(), 2)).unwrap());
    assert_eq!((ending, ending.code()), (Ending::Fenced, 76));
    let last = events(&home, &spec, 1).pop().unwrap();
    assert!(matches!(last, Event::EpochFinished { .. } | Event::CheckpointSaved { .. }), "{last:?}");
    assert!(!home.model(spec.id()).exists());
    let files = fs::read_dir(home.trajectories()).unwrap();
    assert!(
        files.map(|file| file.unwrap().path()).all(|path| path.extension().is_some_and(|end| end != "tmp"))
    );
}

#[test]
fn a_worker_whose_folder_is_gone_leaves_and_does_not_make_it_again() {
    let workspace = Workspace::new();
    let home = Home::new(workspace.home());
    let spec = RunSpec { epochs: ENDLESS, ..tiny_run(0) };
    let folder = home.attempt(spec.id(), 1);
    assert_eq!(fenced(&home, &spec, || fs::remove_dir_all(&folder).unwrap()), Ending::Fenced);
    assert!(!folder.exists());
}

#[test]
fn an_attempt_that_comes_too_late_says_nothing_at_all() {
    let workspace = Workspace::new();
    let home = Home::new(workspace.home());
    let spec = tiny_run(0);
    fs::create_dir_all(home.attempt(spec.id(), 2)).unwrap();
    let (ending, events) = attempt(&home, &spec, 1, &Stop::new());
    assert_eq!((ending, events), (Ending::Fenced, Vec::new()));
}

#[test]
fn an_attempt_whose_events_cannot_be_written_ends_by_that() {
    let workspace = Workspace::new();
    let home = Home::new(workspace.home());
    let spec = tiny_run(0);
    let arguments = arguments(&home, &spec, 1);
    fs::write(home.events(spec.id(), 1), "").unwrap();
    assert_eq!(run_attempt(&arguments, &Stop::new()), Ending::Failed(1), "an attempt has one writer");
}

#[test]
fn the_first_event_says_who_works() {
    let workspace = Workspace::new();
    let spec = tiny_run(0);
    let (_, events) = attempt(&Home::new(workspace.home()), &spec, 1, &Stop::after(0));
    let Event::Started { pid, micro_batch_size, process_start, resumed_run, .. } = events[0] else {
        panic!("{:?}", events[0])
    };
    assert_eq!(
        (pid, micro_batch_size, resumed_run),
        (std::process::id(), spec.micro_batch_size.images(), None)
    );
    assert_eq!(process_start.is_some(), cfg!(target_os = "linux"));
}

#[test]
fn a_micro_batch_that_is_left_open_is_found_and_said() {
    let workspace = Workspace::new();
    let home = Home::new(workspace.home());
    let spec = RunSpec { micro_batch_size: MicroBatch::Auto, ..tiny_run(0) };
    let (ending, events) = attempt(&home, &spec, 1, &Stop::new());
    assert_eq!(ending, Ending::Succeeded);
    assert!(matches!(events[0], Event::Started { micro_batch_size: None, .. }), "{:?}", events[0]);
    let found = Event::MicroBatchFound { micro_batch_size: usual(spec.batch_size) };
    assert_eq!(events.iter().filter(|event| **event == found).count(), 1);
    // On the CPU nothing is tried, and what is taken is what a number says.
    let number = RunSpec { micro_batch_size: MicroBatch::Images(usual(spec.batch_size)), ..spec };
    let (_, expected) = attempt(&Home::new(workspace.home().join("other")), &number, 1, &Stop::new());
    assert_eq!(numbers(&events), numbers(&expected));
}

#[test]
fn a_device_that_is_not_there_and_numbers_that_it_has_not_are_refused() {
    let workspace = Workspace::new();
    let home = Home::new(workspace.home());
    let (plain, narrow) = (tiny_run(0), RunSpec { precision: Precision::Bf16, ..tiny_run(0) });
    for (spec, device, expected) in [
        (&plain, "moon", "device `moon` is not available in this build, expected `cpu`"),
        (&narrow, "cpu", "precision `bf16` is not available on `cpu`, expected `f32`"),
    ] {
        let arguments = Arguments { device: device.to_owned(), ..arguments(&home, spec, 1) };
        assert_eq!(run_attempt(&arguments, &Stop::new()), Ending::Failed(78));
        let Some(Event::Failed { class: FailureClass::Configuration, message }) =
            events(&home, spec, 1).pop()
        else {
            panic!("{device}")
        };
        assert!(message.starts_with(expected), "{message}");
    }
}
