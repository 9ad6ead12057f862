//! What the tests share: small runs, and what attempts at them say.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sweep_core::dataset::{DatasetSource, ProceduralFamily};
use sweep_core::epsilon::Epsilon;
use sweep_core::event::{Event, Record};
use sweep_core::home::Home;
use sweep_core::schedule::{AutoRamp, EpsilonSchedule, Granularity};
use sweep_core::spec::{Architecture, Objective, ResnetBlock, RunId, RunSpec};
use sweep_core::trajectory::{CheckpointName, Companion, Sharing};
use sweep_testkit::sample_run;
use sweep_worker::{Arguments, Ending, Stop, run_attempt};

/// Returns the kit's sample run with enough images for its ten classes.
pub(crate) fn tiny_run(seed: u64) -> RunSpec {
    let mut spec = sample_run(seed);
    spec.dataset.definition.source =
        DatasetSource::Procedural { family: ProceduralFamily::Shapes, seed: 0, train: 60, test: 20 };
    spec
}

/// Returns what the worker of an attempt is told, and makes the files that it expects.
pub(crate) fn arguments(home: &Home, spec: &RunSpec, number: u32) -> Arguments {
    let run = spec.id();
    fs::create_dir_all(home.attempt(run, number)).unwrap();
    fs::write(home.spec(run), serde_json::to_vec(spec).unwrap()).unwrap();
    Arguments {
        home: home.root().to_owned(),
        run,
        attempt: number,
        threads: 1,
        device: "cpu".to_owned(),
        checkpoint_every: Duration::MAX,
        until: None,
    }
}

/// Carries out an attempt and returns how it ended and what it said, but for the signs of life.
pub(crate) fn attempt(home: &Home, spec: &RunSpec, number: u32, stop: &Stop) -> (Ending, Vec<Event>) {
    let ending = run_attempt(&arguments(home, spec, number), stop);
    (ending, events(home, spec, number))
}

/// Returns what an attempt said, but for the signs of life, whose number depends on the machine.
pub(crate) fn events(home: &Home, spec: &RunSpec, number: u32) -> Vec<Event> {
    let text = fs::read_to_string(home.events(spec.id(), number)).unwrap();
    let records: Vec<Record> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(records.iter().zip(0..).all(|(record, sequence)| record.sequence == sequence));
    let events = records.into_iter().map(|record| record.event);
    events.filter(|event| !matches!(event, Event::Progress { .. })).collect()
}

/// Writes what a run does for others.
pub(crate) fn share(home: &Home, run: RunId, companions: Vec<Companion>) {
    fs::create_dir_all(home.run(run)).unwrap();
    fs::write(home.sharing(run), serde_json::to_vec(&Sharing { companions }).unwrap()).unwrap();
}

/// Returns everything that was counted or computed, to the last digit, but no times, and not who trained what.
pub(crate) fn numbers(events: &[Event]) -> Vec<String> {
    let text = |event: &Event| {
        let wanted =
            matches!(event, Event::EpochFinished { .. } | Event::Evaluated { .. } | Event::ModelSaved { .. });
        let mut value = serde_json::to_value(event).unwrap();
        for key in ["train_seconds", "validation_seconds", "seconds", "trained_by"] {
            value.as_object_mut().unwrap().remove(key);
        }
        wanted.then(|| value.to_string())
    };
    events.iter().filter_map(text).collect()
}

/// Returns the epochs that an attempt trained itself, and those that it took over from another run.
pub(crate) fn trained(events: &[Event]) -> (Vec<u32>, Vec<(u32, RunId)>) {
    let (mut own, mut others) = (Vec::new(), Vec::new());
    for event in events {
        match event {
            Event::EpochFinished { epoch, trained_by: None, .. } => own.push(*epoch),
            Event::EpochFinished { epoch, trained_by: Some(run), .. } => others.push((*epoch, *run)),
            _ => {}
        }
    }
    (own, others)
}

/// Returns the checkpoints that lie in a home folder.
pub(crate) fn checkpoints(home: &Home) -> Vec<CheckpointName> {
    let files = fs::read_dir(home.trajectories()).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    names.map(|name| name.parse().unwrap()).collect()
}

/// Returns the checkpoint after `epochs` whole epochs of a run.
pub(crate) fn whole(home: &Home, spec: &RunSpec, epochs: u32) -> Option<PathBuf> {
    let prefix = spec.trajectory()[epochs as usize];
    let found = checkpoints(home).into_iter().find(|name| name.prefix == prefix && name.step.is_none());
    found.map(|name| home.trajectories().join(name.to_string()))
}

/// Flips the last bit of a file.
pub(crate) fn damage(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(path, bytes).unwrap();
}

pub(crate) fn model_digest(events: &[Event]) -> String {
    let digest = |event: &Event| match event {
        Event::ModelSaved { digest, .. } => Some(digest.clone()),
        _ => None,
    };
    events.iter().find_map(digest).expect("a model was saved")
}

pub(crate) fn train_losses(events: &[Event]) -> Vec<f64> {
    let loss = |event: &Event| match event {
        Event::EpochFinished { train_loss, .. } => Some(*train_loss),
        _ => None,
    };
    events.iter().filter_map(loss).collect()
}

pub(crate) fn evaluated(events: &[Event]) -> Vec<(Epsilon, u32, u32)> {
    let point = |event: &Event| match event {
        Event::Evaluated { epsilon, correct, total, .. } => Some((*epsilon, *correct, *total)),
        _ => None,
    };
    events.iter().filter_map(point).collect()
}

/// A schedule that finds its start within a few epochs: an improvement of 90 points is never seen.
pub(crate) fn auto_ramp(end: Option<u32>) -> EpsilonSchedule {
    EpsilonSchedule::Auto(AutoRamp { patience: 1, tolerance: 0.9, end, per: Granularity::Epoch })
}

pub(crate) fn with_trades(spec: RunSpec) -> RunSpec {
    RunSpec { objective: Objective::Trades { beta: 6.0 }, ..spec }
}

/// Carries a run out in attempts that each stop after `looks` micro batches, until it is complete.
pub(crate) fn in_pieces(home: &Home, spec: &RunSpec, looks: u64) -> (u32, Vec<Event>) {
    let mut all: Vec<Event> = Vec::new();
    for number in 1.. {
        let (ending, events) = attempt(home, spec, number, &Stop::after(looks));
        // Every attempt that comes so far saves the model: the same one.
        let is_new = |event: &Event| !matches!(event, Event::ModelSaved { .. }) || !all.contains(event);
        let events: Vec<Event> = events.into_iter().filter(is_new).collect();
        all.extend(events);
        match ending {
            Ending::Succeeded => return (number, all),
            Ending::Interrupted => {}
            Ending::Fenced => panic!("nobody took the run over"),
            Ending::Failed(code) => panic!("failed with code {code}: {:?}", all.last()),
        }
    }
    unreachable!("there is always a next number")
}

pub(crate) fn tiny_resnet() -> Architecture {
    let (layers, channels) = (vec![1; 4], vec![8; 4]);
    Architecture::Resnet { image_size: 32, block: ResnetBlock::Basic, layers, channels }
}
