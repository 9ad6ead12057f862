//! Loading the data, which may take long: with signs of life, and not in the way of a wish to stop.

use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use sweep_core::event::Phase;
use sweep_core::home::Home;
use sweep_core::spec::RunSpec;
use sweep_data::{Dataset, LoadOptions};

use crate::events::EventLog;
use crate::stop::Stop;
use crate::{Error, Result};

/// How often somebody looks whether to stop while the data loads.
const LOOK: Duration = Duration::from_millis(50);

/// Loads the data of a run; `None` if somebody asked to stop before they were there.
///
/// They load on a thread of their own, which nobody waits for after that wish: what it leaves in the cache is complete or
/// is built anew, and it ends with the process.
pub(crate) fn dataset(spec: &RunSpec, home: &Home, stop: &Stop, log: &EventLog) -> Result<Option<Dataset>> {
    let (done, loaded) = channel();
    let (spec, home, places) = (spec.clone(), home.clone(), log.clone());
    let work = move || {
        let dataset = load(&spec, &home, &places);
        // Nobody may be waiting any more.
        let _ = done.send(dataset);
    };
    let name = "data";
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(work);
    let thread = thread.map_err(|source| Error::Thread { name, source })?;
    while !stop.is_raised() && !log.has_lost_claim() {
        match loaded.recv_timeout(LOOK) {
            Ok(dataset) => return dataset.map(Some),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => propagate(thread),
        }
    }
    Ok(None)
}

/// Goes on with the panic that ended a thread without an answer.
fn propagate(thread: JoinHandle<()>) -> ! {
    match thread.join() {
        Err(panic) => std::panic::resume_unwind(panic),
        Ok(()) => unreachable!("the thread sends an answer unless it panics"),
    }
}

fn load(spec: &RunSpec, home: &Home, log: &EventLog) -> Result<Dataset> {
    let cache = home.cache();
    // Paths of a run are absolute already; a relative one would be relative to the working folder.
    let options = LoadOptions { image_size: spec.input_size, cache: &cache, base: Path::new("") };
    let dataset = Dataset::load(&spec.dataset.name, &spec.dataset.definition, options, &mut |progress| {
        log.at(Phase::Loading, 0, progress.done as u32, progress.total as u32);
    })?;
    for (split, count) in dataset.skipped().iter().filter(|(_, count)| **count > 0) {
        tracing::warn!(split, count, "pictures that cannot be read are left out");
    }
    Ok(dataset)
}
