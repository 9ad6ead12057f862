//! An attempt from beginning to end: what is open, and the order of things.

use std::fs;

use nix::unistd::gethostname;
use sweep_core::epsilon::Epsilon;
use sweep_core::event::{Event, Phase};
use sweep_core::home::Home;
use sweep_core::metrics::Count;
use sweep_core::spec::{RunId, RunSpec};
use sweep_data::{Dataset, LoadOptions};
use sweep_kernels::Optimizer;
use sweep_models::Model;

use crate::average::Average;
use crate::checkpoint::{Checkpoints, Found, Position, State};
use crate::digest::digest_file;
use crate::events::EventLog;
use crate::files::{remove, remove_leftovers, sync_folder};
use crate::history::{CHECKPOINTS, History};
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
    /// `None` where the run averages no weights.
    pub(crate) average: Option<Average>,
    pub(crate) optimizer: Box<dyn Optimizer>,
    pub(crate) position: Position,
    pub(crate) log: &'a mut EventLog,
    history: History,
    checkpoints: Checkpoints,
    stop: &'a Stop,
    /// Completed epochs and steps of the newest checkpoint on disk.
    saved: Option<(u32, u32)>,
}

/// What earlier attempts left behind, read before anything else is loaded.
pub(crate) struct Past {
    run: RunId,
    history: History,
    checkpoints: Checkpoints,
    found: Option<Found>,
}

impl Past {
    /// Finds the newest usable checkpoint and clears away what killed workers left.
    pub(crate) fn read(arguments: &Arguments, home: &Home) -> Result<Self> {
        let run = arguments.run;
        remove_leftovers(&home.run(run), "model.")?;
        let history = History::read(home, run, arguments.attempt)?;
        let checkpoints = Checkpoints::open(home.run(run).join("checkpoints"), run)?;
        let found = checkpoints.find(&history)?;
        Ok(Self { run, history, checkpoints, found })
    }

    /// Returns where training goes on.
    pub(crate) fn position(&self) -> Position {
        self.found.as_ref().map(Found::position).unwrap_or_default()
    }
}

impl<'a> Session<'a> {
    /// Loads data and weights, and puts the checkpoint of earlier attempts in.
    pub(crate) fn open(
        past: Past,
        home: &'a Home,
        spec: RunSpec,
        stop: &'a Stop,
        log: &'a mut EventLog,
    ) -> Result<Self> {
        let Past { run, history, checkpoints, found } = past;
        let dataset = load_dataset(&spec, home, log)?;
        let counts = dataset.counts();
        network::check_attacks(&spec, counts.classes)?;
        let network::Loaded { mut model, weights_digest } = network::load(&spec, counts.classes, home)?;
        let mut optimizer = network::optimizer(&spec.optimizer, &model)?;
        let mut average = spec.ema.map(|ema| Average::new(&model, ema)).transpose()?;
        let mut state = State { model: &mut model, average: average.as_mut(), optimizer: optimizer.as_mut() };
        let position = checkpoints.restore(found, &history, &mut state)?;
        let recorded = history.accuracies.len() as u32;
        if spec.epsilon_schedule.needs_history() && recorded < position.epoch {
            return Err(Error::HistoryLost { epochs: position.epoch, recorded });
        }
        log.write(Event::Loaded {
            dataset_digest: dataset.digest().to_owned(),
            classes: counts.classes,
            train: counts.train,
            validation: counts.validation,
            test: counts.test,
            weights_digest,
            parameters: model.parameters().element_count() as u64,
            skipped: dataset.skipped().values().sum(),
        })?;
        let saved = (position != Position::default()).then_some((position.epoch, position.step));
        Ok(Self {
            spec,
            home,
            run,
            dataset,
            model,
            average,
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
        let model = self.save_model()?;
        self.evaluate(&model)?;
        self.checkpoints.prune_to_last()
    }

    /// Returns the model that is validated, evaluated and saved: the average where there is one.
    pub(crate) fn measured_model(&self) -> &Model {
        self.average.as_ref().map_or(&self.model, Average::model)
    }

    /// Notes the clean validation accuracy of the epoch that was just trained.
    pub(crate) fn record_accuracy(&mut self, clean: Count) {
        self.history.record(self.position.epoch, clean);
    }

    /// Returns the clean validation accuracies of the epochs on record, from 0 on.
    pub(crate) fn accuracies(&self) -> &[f64] {
        &self.history.accuracies
    }

    /// Returns whether a test point is measured already with the model of digest `model`.
    pub(crate) fn is_evaluated(&self, model: &str, attack: &str, epsilon: Epsilon) -> bool {
        self.history.evaluated.contains(&(model.to_owned(), attack.to_owned(), epsilon))
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
        let saved = self.checkpoints.save(
            self.position,
            &self.model,
            self.average.as_ref().map(Average::model),
            self.optimizer.as_ref(),
        )?;
        self.log.write_durably(Event::CheckpointSaved {
            epochs: self.position.epoch,
            step: self.position.step,
            file: format!("{CHECKPOINTS}/{}", saved.file),
            digest: saved.digest,
            bytes: saved.bytes,
        })?;
        self.saved = Some(here);
        self.checkpoints.prune()
    }

    /// Writes the final model into a temporary folder and renames that, so that it appears whole or not at all.
    /// Returns the digest of its weights.
    fn save_model(&mut self) -> Result<String> {
        let folder = self.home.model(self.run);
        let temporary = folder.with_extension(format!("tmp-{}", std::process::id()));
        fs::create_dir_all(&temporary).map_err(Error::io("create", &temporary))?;
        self.measured_model()
            .save(&temporary)
            .map_err(|source| Error::SaveModel { path: temporary.clone(), source })?;
        for name in ["model.safetensors", "config.json"] {
            let path = temporary.join(name);
            fs::File::open(&path).and_then(|file| file.sync_all()).map_err(Error::io("sync", &path))?;
        }
        sync_folder(&temporary)?;
        remove(&folder)?;
        fs::rename(&temporary, &folder).map_err(Error::io("rename into", &folder))?;
        sync_folder(&self.home.run(self.run))?;
        let path = folder.join("model.safetensors");
        let bytes = fs::metadata(&path).map_err(Error::io("read", &path))?.len();
        let digest = digest_file(&path)?;
        self.log.write_durably(Event::ModelSaved {
            file: "model/model.safetensors".to_owned(),
            digest: digest.clone(),
            bytes,
        })?;
        Ok(digest)
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
    for (split, count) in dataset.skipped().iter().filter(|(_, count)| **count > 0) {
        tracing::warn!(split, count, "pictures that cannot be read are left out");
    }
    Ok(dataset)
}

/// Returns the first event of an attempt that goes on at `position`.
pub(crate) fn started(arguments: &Arguments, position: Position) -> Event {
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
        resumed_run: None,
        micro_batch_size: None,
        process_start: None,
    }
}
