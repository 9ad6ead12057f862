//! How training uses a GPU, as the emulated device sees it (`cargo xtask emulate -- cargo test -p sweep-worker --features
//! cuda --test cuda`). On a real GPU there is nothing to count, and nothing is checked.
#![cfg(feature = "cuda")]
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![expect(clippy::print_stdout, reason = "a child tells its parent what it counted")]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::process::Command;
use std::time::Duration;
use std::{env, fs};

use sweep_core::dataset::{DatasetSource, ProceduralFamily};
use sweep_core::epsilon::Epsilon;
use sweep_core::event::{Event, FailureClass, Record};
use sweep_core::home::Home;
use sweep_core::micro_batch::MicroBatch;
use sweep_core::schedule::EpsilonSchedule;
use sweep_core::spec::{EmaSpec, Objective, OptimizerSpec, RunSpec};
use sweep_testkit::{Workspace, sample_run};
use sweep_worker::{Arguments, Ending, Stop, run_attempt};

/// What the child is to train with; set in the child alone.
const RECIPE: &str = "SWEEP_TEST_RECIPE";
const IDLE_WAITS: &CStr = c"sweep_emulator_idle_waits";
const MEMORY_USED: &CStr = c"sweep_emulator_memory_used";

unsafe extern "C" {
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
}

/// How often the host has waited for everything; `None` on a real GPU.
fn idle_waits() -> Option<u64> {
    // SAFETY: a null handle asks the libraries of this process; the function, where there is one, has this type.
    let count = unsafe {
        std::mem::transmute::<*mut c_void, Option<extern "C" fn() -> u64>>(dlsym(
            std::ptr::null_mut(),
            IDLE_WAITS.as_ptr(),
        ))
    };
    count.map(|count| count())
}

/// Bytes in use on the device; `None` on a real GPU.
fn memory_used() -> Option<usize> {
    // SAFETY: as above.
    let used = unsafe {
        std::mem::transmute::<*mut c_void, Option<extern "C" fn(c_int) -> usize>>(dlsym(
            std::ptr::null_mut(),
            MEMORY_USED.as_ptr(),
        ))
    };
    used.map(|used| used(0))
}

/// A run of `images` images an epoch, in steps of two micro batches of 4. Ten more are for validation.
fn recipe(name: &str, images: u32) -> RunSpec {
    let mut spec = sample_run(0);
    spec.dataset.definition.source =
        DatasetSource::Procedural { family: ProceduralFamily::Shapes, seed: 0, train: images + 10, test: 20 };
    spec.epochs = 2;
    // Every step attacks.
    spec.epsilon_schedule = EpsilonSchedule::Fixed;
    // Tests under attack wait the more the longer the model holds out.
    spec.evaluation.max_epsilon = Epsilon::ZERO;
    spec.batch_size = 8;
    spec.micro_batch_size = MicroBatch::Images(4);
    match name {
        "adversarial" => {}
        "clipped" => (spec.clip_norm, spec.ema) = (Some(0.5), Some(EmaSpec { decay: 0.9 })),
        "trades" => spec.objective = Objective::Trades { beta: 6.0 },
        _ => panic!("{name} is no recipe"),
    }
    spec
}

/// Trains in a process of its own, whose device does its work only when somebody waits for it. Returns how often the host
/// waited until the device had nothing left to do.
fn count(name: &str, images: u32) -> Option<u64> {
    let mut child = Command::new(env::current_exe().unwrap());
    child.args(["--exact", "the_child_trains", "--nocapture"]);
    child.env(RECIPE, format!("{name} {images}")).env("SWEEP_EMULATOR_STREAMS", "lazy");
    let output = child.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text.lines().find_map(|line| line.split_once("idle waits: ")?.1.parse().ok())
}

/// Carries out the first attempt at a run, with a checkpoint after every step or only where it must be. Returns how it ended,
/// its events and its home.
fn attempt(spec: &RunSpec, device: &str, checkpoint_every: Duration) -> (Ending, Vec<Event>, Workspace) {
    let workspace = Workspace::new();
    let home = Home::new(workspace.home());
    fs::create_dir_all(home.attempt(spec.id(), 1)).unwrap();
    fs::write(home.spec(spec.id()), serde_json::to_vec(spec).unwrap()).unwrap();
    let arguments = Arguments {
        home: home.root().to_owned(),
        run: spec.id(),
        attempt: 1,
        threads: 1,
        device: device.to_owned(),
        checkpoint_every,
        until: None,
    };
    let ending = run_attempt(&arguments, &Stop::new());
    let text = fs::read_to_string(home.events(spec.id(), 1)).unwrap();
    let records = text.lines().map(|line| serde_json::from_str::<Record>(line).unwrap());
    (ending, records.map(|record| record.event).collect(), workspace)
}

#[test]
fn the_child_trains() {
    let Ok(wanted) = env::var(RECIPE) else { return };
    let (name, images) = wanted.split_once(' ').unwrap();
    let (ending, events, _) = attempt(&recipe(name, images.parse().unwrap()), "cuda:0", Duration::MAX);
    assert_eq!(ending, Ending::Succeeded, "{events:?}");
    if let Some(waits) = idle_waits() {
        println!("idle waits: {waits}");
    }
}

/// The device runs dry at ends of epochs, in measurements and when something is saved, and no more often with three times the
/// images. How often in measurements depends a little on the answers: a batch without a correct image is not attacked.
#[test]
fn no_step_waits_until_the_device_has_nothing_to_do() {
    /// Of 192 instead of 64 images, in two epochs.
    const MORE_STEPS: u64 = 32;
    /// Waits of an attack, batches of the validation split, epochs.
    const MEASUREMENTS: u64 = 3 * 3 * 2;
    const { assert!(MEASUREMENTS < MORE_STEPS) };
    for name in ["adversarial", "clipped", "trades"] {
        let (Some(few), Some(many)) = (count(name, 64), count(name, 192)) else { continue };
        assert!(few > 0, "{name}: something is counted");
        assert!(many <= few + MEASUREMENTS, "{name}: {few} waits with few steps, {many} with many");
    }
}

/// A step's failure is told when the next one is enqueued: with the place of the step, and nothing of it is saved.
#[test]
fn a_step_that_fails_is_told_as_on_the_cpu() {
    let mut spec = recipe("adversarial", 64);
    if let OptimizerSpec::Sgd { learning_rate, head_learning_rate, .. } = &mut spec.optimizer {
        (*learning_rate, *head_learning_rate) = (1e30, 1e30);
    }
    // With a checkpoint after each step nothing is left unread.
    for checkpoint_every in [Duration::ZERO, Duration::MAX] {
        let failures = ["cpu", "cuda:0"].map(|device| {
            let (ending, events, workspace) = attempt(&spec, device, checkpoint_every);
            let checkpoints = events.iter().filter_map(|event| match event {
                Event::CheckpointSaved { epochs, step, .. } => Some((*epochs, *step)),
                _ => None,
            });
            let checkpoints: Vec<_> = checkpoints.collect();
            let files = fs::read_dir(workspace.layout().trajectories()).unwrap().count();
            let Some(Event::Failed { class, message }) = events.last() else { panic!("{events:?}") };
            assert_eq!(*class, FailureClass::Diverged, "{device}: {message}");
            // Whether a number is infinite or none is a matter of roundings. An attack does not know its step.
            let place = message.split_once(" in epoch ").map(|(_, place)| place.to_owned());
            assert_eq!(
                memory_used().unwrap_or(0),
                0,
                "{device}: the thread that computed has left the device"
            );
            (ending, place, checkpoints, files)
        });
        assert_eq!(failures[0], failures[1]);
    }
}
