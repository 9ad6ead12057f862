//! An attempt from beginning to end: what is open, and the order of things.

use std::fs;

use nix::unistd::gethostname;
use sweep_core::event::{Event, Phase};
use sweep_core::home::Home;
use sweep_core::spec::{RunId, RunSpec};
use sweep_data::{Dataset, LoadOptions};
use sweep_kernels::Optimizer;
use sweep_models::Model;

use crate::checkpoint::{Checkpoints, Position};
use crate::digest::digest_file;
use crate::events::EventLog;
use crate::files::sync_folder;
use crate::history::History;
use crate::network;
use crate::stop::Stop;
use crate::{Arguments, Error, Result};

/// Everything an attempt works with.
pub(crate) struct Session<'a> {
    pub(crate) spec: RunSpec,
    pub(crate) home: &'a Home,
    pub(crate) run: RunId,
    pub(crate) dataset: Dataset,
    pub(crate) model: Model,
    pub(crate) optimizer: Box<dyn Optimizer>,
    pub(crate) position: Position,
    pub(crate) log: &'a mut EventLog,
    history: History,
    checkpoints: Checkpoints,
    stop: &'a Stop,
    /// Completed epochs and steps of the newest checkpoint on disk.
    saved: Option<(u32, u32)>,
}

impl<'a> Session<'a> {
    /// Loads data and weights, and the newest checkpoint of earlier attempts.
    pub(crate) fn open(
        arguments: &Arguments,
        home: &'a Home,
        spec: RunSpec,
        stop: &'a Stop,
        log: &'a mut EventLog,
    ) -> Result<Self> {
        let run = arguments.run;
        let history = History::read(home, run, arguments.attempt)?;
        let checkpoints = Checkpoints::open(home.checkpoints(run), run)?;
        let dataset = load_dataset(&spec, home, log)?;
        let counts = dataset.counts();
        let network::Loaded { mut model, weights_digest } = network::load(&spec, counts.classes, home)?;
        let mut optimizer = network::optimizer(&spec.optimizer, &model)?;
        let position = checkpoints.restore(&history, &mut model, optimizer.as_mut())?;
        log.write(started(arguments, position))?;
        log.write(Event::Loaded {
            dataset_digest: dataset.digest().to_owned(),
            classes: counts.classes,
            train: counts.train,
            validation: counts.validation,
            test: counts.test,
            weights_digest,
            parameters: model.parameters().element_count() as u64,
        })?;
        let saved = (position != Position::default()).then_some((position.epoch, position.step));
        Ok(Self {
            spec,
            home,
            run,
            dataset,
            model,
            optimizer,
            position,
            log,
            history,
            checkpoints,
            stop,
            saved,
        })
    }

    /// Trains what is left, saves the model, measures what is left.
    pub(crate) fn run(mut self) -> Result<()> {
        while self.position.epoch < self.spec.epochs {
            self.train_epoch()?;
            self.finish_epoch()?;
            self.save_checkpoint()?;
        }
        self.save_model()?;
        self.evaluate()?;
        self.checkpoints.prune_to_last()
    }

    /// Returns whether a test point is measured already with these weights.
    pub(crate) fn is_evaluated(&self, attack: &str, epsilon: sweep_core::epsilon::Epsilon) -> bool {
        let known = |(epochs, label, point): &(u32, String, _)| {
            *epochs == self.spec.epochs && label == attack && *point == epsilon
        };
        self.history.evaluated.iter().any(known)
    }

    /// Saves everything and ends the attempt if somebody wants that.
    pub(crate) fn stop_if_requested(&mut self) -> Result<()> {
        if !self.stop.is_requested() {
            return Ok(());
        }
        self.save_checkpoint()?;
        Err(Error::Stopped { epochs: self.position.epoch })
    }

    fn save_checkpoint(&mut self) -> Result<()> {
        let here = (self.position.epoch, self.position.step);
        if self.saved == Some(here) || here == (0, 0) {
            return Ok(());
        }
        let saved = self.checkpoints.save(self.position, &self.model, self.optimizer.as_ref())?;
        self.log.write_durably(Event::CheckpointSaved {
            epochs: self.position.epoch,
            file: saved.file,
            digest: saved.digest,
            bytes: saved.bytes,
        })?;
        self.saved = Some(here);
        self.checkpoints.prune()
    }

    /// Writes the final model into a temporary folder and renames that, so that it appears whole or not at all.
    fn save_model(&mut self) -> Result<()> {
        let folder = self.home.model(self.run);
        let temporary = folder.with_extension(format!("tmp-{}", std::process::id()));
        remove_folder(&temporary)?;
        fs::create_dir_all(&temporary).map_err(Error::io("create", &temporary))?;
        self.model.save(&temporary)?;
        for name in ["model.safetensors", "config.json"] {
            let path = temporary.join(name);
            fs::File::open(&path).and_then(|file| file.sync_all()).map_err(Error::io("sync", &path))?;
        }
        sync_folder(&temporary)?;
        remove_folder(&folder)?;
        fs::rename(&temporary, &folder).map_err(Error::io("rename into", &folder))?;
        sync_folder(&self.home.run(self.run))?;
        let path = folder.join("model.safetensors");
        let bytes = fs::metadata(&path).map_err(Error::io("read", &path))?.len();
        let digest = digest_file(&path)?;
        self.log.write_durably(Event::ModelSaved {
            file: "model/model.safetensors".to_owned(),
            digest,
            bytes,
        })
    }
}

fn remove_folder(folder: &std::path::Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("delete", folder)(error)),
        _ => Ok(()),
    }
}

fn load_dataset(spec: &RunSpec, home: &Home, log: &mut EventLog) -> Result<Dataset> {
    let cache = home.cache();
    // Paths of a run are absolute already; a relative one would be relative to the working folder.
    let options = LoadOptions { image_size: spec.input_size, cache: &cache, base: std::path::Path::new("") };
    let mut outcome = Ok(());
    let dataset = Dataset::load(&spec.dataset.name, &spec.dataset.definition, options, &mut |progress| {
        if outcome.is_ok() {
            outcome = log.progress(Phase::Loading, 0, progress.done as u32, progress.total as u32);
        }
    })?;
    outcome?;
    Ok(dataset)
}

fn started(arguments: &Arguments, position: Position) -> Event {
    let host =
        gethostname().map_or_else(|_| "unknown".to_owned(), |name| name.to_string_lossy().into_owned());
    Event::Started {
        run: arguments.run,
        attempt: arguments.attempt,
        pid: std::process::id(),
        host,
        device: arguments.device.clone(),
        threads: arguments.threads as u32,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        resumed_from: position.epoch,
    }
}
