//! What a measurement adds to its run, as events in a file of its own: `measurement-<n>/events.jsonl` in the run's folder.
//! From these files alone the database can be filled again.

use std::fs;
use std::path::Path;

use sweep_core::event::{Event, Record, Split};
use sweep_core::home::Home;
use sweep_core::spec::RunId;
use sweep_data::Dataset;

use super::{NamedAttack, Point, Subject};
use crate::events::EventLog;
use crate::files::names;
use crate::started::host;
use crate::{Error, Result};

/// Name of a measurement's folder, before its number.
const FOLDER: &str = "measurement-";

/// Writes the events of one measurement.
#[derive(Debug)]
pub struct MeasurementLog {
    log: EventLog,
    epochs: u32,
}

impl MeasurementLog {
    /// Begins the next measurement of `run`, whose final model, of `epochs` epochs, is `subject`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn create(
        home: &Home,
        run: RunId,
        epochs: u32,
        subject: &Subject,
        dataset: &Dataset,
        threads: usize,
    ) -> Result<Self> {
        let mut number = numbers(home, run)?.last().map_or(1, |last| last + 1);
        // Somebody else may measure the same run; whoever makes the folder has the number.
        while let Err(error) = fs::create_dir(folder(home, run, number)) {
            if error.kind() != std::io::ErrorKind::AlreadyExists {
                return Err(Error::io("create", &folder(home, run, number))(error));
            }
            number += 1;
        }
        let log = EventLog::create(&folder(home, run, number).join("events.jsonl"))?;
        log.write(started(run, epochs, subject.device_name(), threads))?;
        log.write(loaded(subject, dataset))?;
        Ok(Self { log, epochs })
    }

    /// Adds a measured point; it is on disk when this returns.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn point(&mut self, split: Split, attack: &NamedAttack, point: &Point) -> Result<()> {
        self.log.write_durably(Event::Evaluated {
            epochs: self.epochs,
            split,
            attack: attack.label_at(point.epsilon),
            norm: attack.norm(),
            epsilon: point.epsilon,
            correct: point.robust.correct,
            total: point.robust.total,
            seconds: point.seconds,
        })
    }

    /// Writes the last word: whether everything was measured, or somebody asked to leave before.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn finish(&mut self, is_complete: bool) -> Result<()> {
        let interrupted = Event::Interrupted { epochs: self.epochs };
        self.log.write_durably(if is_complete { Event::Succeeded } else { interrupted })
    }
}

fn started(run: RunId, epochs: u32, device: &str, threads: usize) -> Event {
    Event::Started {
        run,
        // Attempts count from 1: this is none.
        attempt: 0,
        pid: std::process::id(),
        host: host(),
        device: device.to_owned(),
        threads: threads as u32,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        resumed_from: epochs,
        resumed_run: None,
        micro_batch_size: None,
        process_start: None,
    }
}

fn loaded(subject: &Subject, dataset: &Dataset) -> Event {
    let counts = dataset.counts();
    Event::Loaded {
        dataset_digest: dataset.digest().to_owned(),
        classes: counts.classes,
        train: counts.train,
        validation: counts.validation,
        test: counts.test,
        weights_digest: Some(subject.digest().to_owned()),
        parameters: subject.parameters(),
        skipped: dataset.skipped().values().sum(),
    }
}

/// Returns the events of every measurement of `run`, by number. A torn line at the end of a file is left out: its writer
/// died, or still writes.
///
/// # Errors
/// [`Error::Io`].
pub fn measurements(home: &Home, run: RunId) -> Result<Vec<(u32, Vec<Record>)>> {
    numbers(home, run)?.into_iter().map(|number| Ok((number, read(&folder(home, run, number))?))).collect()
}

fn read(folder: &Path) -> Result<Vec<Record>> {
    let path = folder.join("events.jsonl");
    if !path.exists() {
        return Ok(Vec::new());
    }
    let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
    let lines = bytes.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n"));
    // Nothing behind a damaged line is believed.
    Ok(lines.map_while(|line| serde_json::from_slice(line).ok()).collect())
}

fn folder(home: &Home, run: RunId, number: u32) -> std::path::PathBuf {
    home.run(run).join(format!("{FOLDER}{number}"))
}

fn numbers(home: &Home, run: RunId) -> Result<Vec<u32>> {
    if !home.run(run).exists() {
        return Ok(Vec::new());
    }
    let number = |name: &String| name.strip_prefix(FOLDER)?.parse().ok();
    let mut numbers: Vec<u32> = names(&home.run(run))?.iter().filter_map(number).collect();
    numbers.sort_unstable();
    Ok(numbers)
}
