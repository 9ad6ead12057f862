//! An attempt from beginning to end: what is open, and the order of things.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant, SystemTime};

use candle_core::Device;
use sweep_core::epsilon::Epsilon;
use sweep_core::event::{Event, Phase};
use sweep_core::home::Home;
use sweep_core::micro_batch::MicroBatch;
use sweep_core::spec::{RunId, RunSpec};
use sweep_core::trajectory::Sharing;
use sweep_data::Dataset;
use sweep_kernels::{Optimizer, Uploads};
use sweep_models::Model;

use crate::average::Average;
use crate::checkpoint::{Checkpoints, EpochRecord, Found, Position, Probe, Shape, State};
use crate::deadline::Deadline;
use crate::events::EventLog;
use crate::files::remove_leftovers;
use crate::history::History;
use crate::probe::Trial;
use crate::stop::Stop;
use crate::train::Unread;
use crate::{Arguments, Error, Result, compute, load, network, save, sharing};

/// Everything an attempt works with.
pub(crate) struct Session<'a> {
    pub(crate) spec: RunSpec,
    pub(crate) home: &'a Home,
    pub(crate) run: RunId,
    pub(crate) attempt: u32,
    pub(crate) dataset: Dataset,
    /// Where it computes, and the way there.
    pub(crate) device: Device,
    pub(crate) uploads: Uploads,
    pub(crate) model: Model,
    /// Images a forward pass.
    pub(crate) micro_batch: NonZeroUsize,
    /// `None` where the run averages no weights.
    pub(crate) average: Option<Average>,
    pub(crate) optimizer: Box<dyn Optimizer>,
    pub(crate) position: Position,
    /// What the last step has to say, if that was not read yet: `position` counts the step, but its sums lack it.
    pub(crate) unread: Option<Unread>,
    pub(crate) log: &'a EventLog,
    history: History,
    sharing: Sharing,
    checkpoints: Checkpoints,
    stop: &'a Stop,
    /// The place of the newest checkpoint on disk, this run's or the one that was taken over.
    saved: (u32, u32),
    saved_at: Instant,
    checkpoint_every: Duration,
    deadline: Deadline,
}

/// What lies there already, read before anything else is loaded.
pub(crate) struct Past {
    spec: RunSpec,
    history: History,
    sharing: Sharing,
    checkpoints: Checkpoints,
    found: Option<Found>,
}

impl Past {
    /// Finds the latest usable checkpoint and clears away what killed workers of the run left.
    pub(crate) fn read(arguments: &Arguments, home: &Home, spec: RunSpec) -> Result<Self> {
        let Arguments { run, attempt, .. } = *arguments;
        remove_leftovers(&home.run(run), |name| name.starts_with(save::UNFINISHED))?;
        let history = History::read(home, run, attempt)?;
        let sharing = sharing::read(home, run)?;
        let shared = sharing.companions.iter().map(|companion| companion.epochs).collect();
        let checkpoints = Checkpoints::open(home, &spec, attempt, shared)?;
        let found = checkpoints.find()?;
        Ok(Self { spec, history, sharing, checkpoints, found })
    }

    /// Returns the number of completed epochs that training goes on after.
    pub(crate) fn epochs(&self) -> u32 {
        self.found.as_ref().map_or(0, |found| found.position().epoch())
    }

    /// Returns the other run whose checkpoint that is.
    pub(crate) fn other(&self) -> Option<RunId> {
        self.found.as_ref().map(Found::writer).filter(|writer| *writer != self.spec.id())
    }

    pub(crate) const fn spec(&self) -> &RunSpec {
        &self.spec
    }
}

impl<'a> Session<'a> {
    /// Loads data and weights, puts the checkpoint in and reports the epochs in it that earlier attempts did not.
    pub(crate) fn open(
        past: Past,
        arguments: &Arguments,
        home: &'a Home,
        stop: &'a Stop,
        log: &'a EventLog,
    ) -> Result<Self> {
        let Arguments { run, attempt, checkpoint_every, until, .. } = *arguments;
        let epochs = past.epochs();
        let Past { spec, history, sharing, checkpoints, found } = past;
        log.at(Phase::Loading, 0, 0, 0);
        // A device that does not answer is told before data are prepared for it.
        let device = compute::device(&arguments.device)?;
        let Some(dataset) = load::dataset(&spec, home, stop, log)? else {
            log.check_claim()?;
            return Err(Error::Stopped { epochs });
        };
        let counts = dataset.counts();
        network::check_attacks(&spec, counts.classes)?;
        let network::Loaded { model, weights_digest } = network::load(&spec, counts.classes, home)?;
        let mut model = compute::place(model, &device, spec.precision)?;
        let mut optimizer = network::optimizer(&spec.optimizer, &model)?;
        let mut average =
            spec.ema.map(|ema| Average::new(&model, ema, &device, spec.precision)).transpose()?;
        let shape = shape(&dataset, &spec);
        let mut state =
            State { model: &mut model, average: average.as_mut(), optimizer: optimizer.as_mut(), shape };
        let position = checkpoints.restore(found, &mut state)?;
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
        let begun_with = history.micro_batch;
        let trial = Trial {
            spec: &spec,
            model: &model,
            device: &device,
            before_first_step: position.place() == (0, 0),
        };
        let micro_batch = micro_batch(&trial, begun_with, log)?;
        let (saved, saved_at) = (position.place(), Instant::now());
        let session = Self {
            spec,
            home,
            run,
            attempt,
            dataset,
            device,
            uploads: Uploads::new(),
            model,
            micro_batch,
            average,
            optimizer,
            position,
            unread: None,
            log,
            history,
            sharing,
            checkpoints,
            stop,
            saved,
            saved_at,
            checkpoint_every,
            deadline: Deadline::new(until),
        };
        session.report_epochs()?;
        Ok(session)
    }

    /// Reports the epochs of the checkpoint that earlier attempts at this run did not report, or not so: another run
    /// trained them, or the events of an earlier attempt were lost.
    fn report_epochs(&self) -> Result<()> {
        let probe = self.probe();
        let events =
            self.position.epochs().iter().filter_map(|record| record.event(self.run, probe.as_ref()));
        let unsaid = (0..).zip(events).filter(|(epoch, event)| !self.history.says(*epoch, event));
        unsaid.map(|(_, event)| event).try_for_each(|event| self.log.write(event))
    }

    /// Trains what is left, saves the model, measures what is left.
    pub(crate) fn run(mut self) -> Result<()> {
        while self.position.epoch() < self.spec.epochs {
            self.leave_if_too_late()?;
            let begin = Instant::now();
            let begins_anew = self.position.step == 0;
            self.train_epoch()?;
            self.finish_epoch()?;
            self.save_checkpoint()?;
            if begins_anew {
                self.deadline.learn(begin.elapsed());
            }
        }
        let model = self.save_model()?;
        self.evaluate(&model)?;
        self.log.check_claim()?;
        self.checkpoints.prune_finished()
    }

    /// Returns the model that is validated, evaluated and saved: the average where there is one.
    pub(crate) fn measured_model(&self) -> &Model {
        self.average.as_ref().map_or(&self.model, Average::model)
    }

    pub(crate) fn shape(&self) -> Shape {
        shape(&self.dataset, &self.spec)
    }

    /// Returns what the run measures on perturbed validation images after every epoch; `None` at target 0.
    pub(crate) fn probe(&self) -> Option<Probe> {
        Probe::new(&self.spec.validation.attack, self.spec.target_epsilon)
    }

    /// Returns what other runs want to know of the current epoch, beside this run's `own` probe.
    pub(crate) fn companions_probes(&self, own: Option<&Probe>) -> Vec<Probe> {
        let classes = self.dataset.counts().classes;
        let mut probes = sharing::probes(&self.sharing, &self.position, own);
        probes.retain(|probe| network::needed_classes(&probe.attack) <= classes);
        probes
    }

    /// Returns the clean validation accuracies of the completed epochs, from 0 on.
    pub(crate) fn accuracies(&self) -> Vec<f64> {
        self.position.epochs().iter().map(EpochRecord::clean_accuracy).collect()
    }

    /// Returns whether a test point is measured already with the model of digest `model`.
    pub(crate) fn is_evaluated(&self, model: &str, attack: &str, epsilon: Epsilon) -> bool {
        self.history.evaluated.contains(&(model.to_owned(), attack.to_owned(), epsilon))
    }

    /// Ends the attempt before an epoch that would not be over in time. Everything is saved at this point.
    fn leave_if_too_late(&self) -> Result<()> {
        if self.position.step > 0 || !self.deadline.is_too_near(SystemTime::now()) {
            return Ok(());
        }
        tracing::warn!("the time that is left is too short for another epoch");
        Err(Error::Stopped { epochs: self.position.epoch() })
    }

    /// Saves everything and ends the attempt if somebody wants that; leaves everything as it is if somebody else has the
    /// run.
    pub(crate) fn stop_if_requested(&mut self) -> Result<()> {
        if self.log.has_lost_claim() {
            self.log.check_claim()?;
        }
        if !self.stop.is_requested() {
            return Ok(());
        }
        self.save_checkpoint()?;
        Err(Error::Stopped { epochs: self.position.epoch() })
    }

    /// Saves a checkpoint if the last one is old.
    pub(crate) fn save_if_due(&mut self) -> Result<()> {
        if self.saved_at.elapsed() < self.checkpoint_every { Ok(()) } else { self.save_checkpoint() }
    }

    /// Saves a checkpoint, unless the newest one is of the same place.
    fn save_checkpoint(&mut self) -> Result<()> {
        self.settle()?;
        let (epochs, step) = self.position.place();
        if self.saved == (epochs, step) {
            return Ok(());
        }
        let average = self.average.as_ref().map(Average::model);
        let saved =
            self.checkpoints.save(&self.position, &self.model, average, self.optimizer.as_ref(), || {
                self.log.check_claim()
            })?;
        let file = self.home.trajectories().join(saved.name.to_string());
        self.log.write_durably(Event::CheckpointSaved {
            epochs,
            step,
            file: file.strip_prefix(self.home.root()).unwrap_or(&file).display().to_string(),
            digest: saved.name.digest,
            bytes: saved.bytes,
        })?;
        (self.saved, self.saved_at) = ((epochs, step), Instant::now());
        self.checkpoints.prune()
    }
}

/// Returns the images of a forward pass, and says them where the run leaves them open.
fn micro_batch(trial: &Trial<'_>, begun_with: Option<u32>, log: &EventLog) -> Result<NonZeroUsize> {
    let images = match trial.spec.micro_batch_size {
        MicroBatch::Images(images) => images,
        MicroBatch::Auto => {
            let micro_batch_size = trial.find(begun_with)?;
            log.write(Event::MicroBatchFound { micro_batch_size })?;
            micro_batch_size
        }
    };
    Ok(NonZeroUsize::new(images as usize).unwrap_or(NonZeroUsize::MIN))
}

fn shape(dataset: &Dataset, spec: &RunSpec) -> Shape {
    let (train, validation) = (dataset.train().len(), dataset.validation().len());
    Shape { train, validation, batch_size: spec.batch_size }
}
