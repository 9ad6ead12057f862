//! Attempts that lose their run while they work, and what an attempt says about itself.

use std::fs;

use sweep_core::event::Event;
use sweep_core::home::Home;
use sweep_core::spec::RunSpec;
use sweep_testkit::{Workspace, wait_until};
use sweep_worker::{Ending, Stop, run_attempt};

use crate::support::{arguments, attempt, events, tiny_run};

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
    assert_eq!((pid, micro_batch_size, resumed_run), (std::process::id(), Some(spec.micro_batch_size), None));
    assert_eq!(process_start.is_some(), cfg!(target_os = "linux"));
}
