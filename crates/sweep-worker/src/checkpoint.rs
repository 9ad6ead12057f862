//! Checkpoints: what an interrupted run goes on from, to the same bits.
//!
//! A checkpoint is one safetensors file with the parameters (`model.…`), their moving average where the run has one
//! (`average.…`), the optimizer's moments (`optimizer.…`) and, in its metadata, the position within training. It appears whole or not at all; its digest goes into the event log,
//! and only a file with the logged digest is ever used. There is no generator state: all randomness is a function of
//! (seed, purpose, epoch, index).

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

use candle_core::{Device, Tensor};
use safetensors::SafeTensors;
use sweep_core::spec::RunId;
use sweep_kernels::Optimizer;
use sweep_models::Model;

use crate::average::Average;
use crate::digest::digest_bytes;
use crate::files::{names, remove, remove_leftovers, write_atomically};
use crate::history::History;
use crate::{Error, Result};

const FORMAT: &str = "1";
/// Checkpoints kept while a run goes on: the newest, and one before it in case the newest is damaged.
const KEPT: usize = 2;

/// How far training has come.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Position {
    /// Completed epochs; the epoch that `step` and the sums speak of has this number.
    pub(crate) epoch: u32,
    /// Optimizer steps done in that epoch.
    pub(crate) step: u32,
    /// What those steps added up.
    pub(crate) sums: EpochSums,
}

/// Sums over the training images of a part of an epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct EpochSums {
    /// Sum of the losses.
    pub(crate) loss: f64,
    /// Images classified correctly.
    pub(crate) correct: u32,
    /// Images seen.
    pub(crate) seen: u32,
    /// Seconds spent.
    pub(crate) seconds: f64,
}

impl Position {
    fn to_metadata(self, run: RunId) -> HashMap<String, String> {
        let Self { epoch, step, sums } = self;
        let entries = [
            ("format", FORMAT.to_owned()),
            ("run", run.to_string()),
            ("epoch", epoch.to_string()),
            ("step", step.to_string()),
            // As bits, because every digit counts.
            ("loss_bits", sums.loss.to_bits().to_string()),
            ("seconds_bits", sums.seconds.to_bits().to_string()),
            ("correct", sums.correct.to_string()),
            ("seen", sums.seen.to_string()),
        ];
        entries.map(|(key, value)| (key.to_owned(), value)).into()
    }

    fn from_metadata(metadata: &HashMap<String, String>, run: RunId) -> Result<Self, String> {
        let text = |key: &str| metadata.get(key).ok_or_else(|| format!("its metadata has no `{key}`"));
        let fault = |key: &str| format!("`{key}` in its metadata is no number of that kind");
        let number = |key: &str| text(key)?.parse::<u32>().map_err(|_| fault(key));
        let bits = |key: &str| text(key)?.parse().map(f64::from_bits).map_err(|_| fault(key));
        if text("format")? != FORMAT || *text("run")? != run.to_string() {
            return Err("it belongs to another run or format".to_owned());
        }
        Ok(Self {
            epoch: number("epoch")?,
            step: number("step")?,
            sums: EpochSums {
                loss: bits("loss_bits")?,
                correct: number("correct")?,
                seen: number("seen")?,
                seconds: bits("seconds_bits")?,
            },
        })
    }
}

/// A checkpoint on disk.
#[derive(Debug)]
pub(crate) struct Saved {
    /// File name within the folder of checkpoints.
    pub(crate) file: String,
    pub(crate) digest: String,
    pub(crate) bytes: u64,
}

/// A checkpoint read from disk: undamaged, of this run, not yet put into a model.
#[derive(Debug)]
pub(crate) struct Found {
    file: String,
    position: Position,
    parameters: HashMap<String, Tensor>,
    averages: HashMap<String, Tensor>,
    moments: HashMap<String, Tensor>,
}

/// What a checkpoint is put into.
pub(crate) struct State<'a> {
    pub(crate) model: &'a mut Model,
    pub(crate) average: Option<&'a mut Average>,
    pub(crate) optimizer: &'a mut dyn Optimizer,
}

/// Says what does not fit where `stored` is to become the parameters of `model`.
fn check_fit(stored: &HashMap<String, Tensor>, model: &Model) -> Result<(), String> {
    for (_, name, own) in model.parameters().iter() {
        let stored = stored.get(name).ok_or_else(|| format!("it has no parameter `{name}`"))?;
        if stored.dims() != own.dims() || stored.dtype() != own.dtype() {
            return Err(format!("its parameter `{name}` has another shape or dtype than the model's"));
        }
    }
    if stored.len() != model.parameters().len() {
        return Err("it has parameters that the model has not".to_owned());
    }
    Ok(())
}

fn fill(model: &mut Model, stored: HashMap<String, Tensor>) -> Result<()> {
    for (name, tensor) in stored {
        if let Some(id) = model.parameters().id(&name) {
            model.parameters_mut().set(id, tensor)?;
        }
    }
    Ok(())
}

impl Found {
    pub(crate) const fn position(&self) -> Position {
        self.position
    }

    /// Checks every name, shape and dtype and puts the moments into the optimizer, or says what does not fit; then nothing
    /// is changed.
    fn check(&self, state: &mut State<'_>) -> Result<(), String> {
        check_fit(&self.parameters, state.model)?;
        match &state.average {
            Some(average) => check_fit(&self.averages, average.model())?,
            None if self.averages.is_empty() => {}
            None => return Err("it has averages, and the run has none".to_owned()),
        }
        let parameters = state.model.parameters();
        state.optimizer.restore(parameters, &self.moments).map_err(|error| error.to_string())
    }

    /// Puts the parameters into what [`Self::check`] has found to fit.
    fn apply(self, state: &mut State<'_>) -> Result<Position> {
        fill(state.model, self.parameters)?;
        if let Some(average) = &mut state.average {
            fill(average.model_mut(), self.averages)?;
        }
        Ok(self.position)
    }
}

/// The checkpoints of one run.
#[derive(Clone, Debug)]
pub(crate) struct Checkpoints {
    folder: PathBuf,
    run: RunId,
}

impl Checkpoints {
    /// Opens the folder and clears away what killed workers left in it.
    pub(crate) fn open(folder: PathBuf, run: RunId) -> Result<Self> {
        fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
        remove_leftovers(&folder, "")?;
        Ok(Self { folder, run })
    }

    /// Writes a checkpoint.
    pub(crate) fn save(
        &self,
        position: Position,
        model: &Model,
        average: Option<&Model>,
        optimizer: &dyn Optimizer,
    ) -> Result<Saved> {
        let parameters = model.parameters();
        let named = |kind: &'static str, model: &Model| -> Vec<(String, Tensor)> {
            let parameters = model.parameters().iter();
            parameters.map(|(_, name, tensor)| (format!("{kind}.{name}"), tensor.clone())).collect()
        };
        let mut tensors = named("model", model);
        tensors.extend(average.map(|average| named("average", average)).unwrap_or_default());
        let moments = optimizer.state(parameters)?.into_iter();
        tensors.extend(moments.map(|(name, tensor)| (format!("optimizer.{name}"), tensor)));
        let file = format!("epoch-{:05}-step-{:07}.safetensors", position.epoch, position.step);
        let path = self.folder.join(&file);
        let bytes = safetensors::serialize(tensors, Some(position.to_metadata(self.run)))
            .map_err(|error| Error::Checkpoint { path: path.clone(), reason: error.to_string() })?;
        write_atomically(&path, &bytes)?;
        Ok(Saved { file, digest: digest_bytes(&bytes), bytes: bytes.len() as u64 })
    }

    /// Returns the newest usable checkpoint. One that cannot be used, whatever the reason, is deleted with a
    /// warning: [`Self::prune`] keeps the newest files by name, and a damaged one must not push out a good one.
    pub(crate) fn find(&self, history: &History) -> Result<Option<Found>> {
        let mut newest = None;
        for file in self.files()? {
            match self.read(&file, history) {
                Ok(found) => newest = Some(found),
                Err(reason) => self.discard(&file, &reason)?,
            }
        }
        Ok(newest)
    }

    fn discard(&self, file: &str, reason: &str) -> Result<()> {
        tracing::warn!(file, "a checkpoint is passed over and deleted: {reason}");
        remove(&self.folder.join(file))
    }

    /// Reads a checkpoint and checks all of it that can be checked without a model, or says why it cannot be used.
    fn read(&self, file: &str, history: &History) -> Result<Found, String> {
        let expected = history.checkpoints.get(file).ok_or("no attempt reported it complete")?;
        let bytes = fs::read(self.folder.join(file)).map_err(|error| error.to_string())?;
        if digest_bytes(&bytes) != *expected {
            return Err("it is damaged, its digest is not the reported one".to_owned());
        }
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|error| error.to_string())?;
        let metadata = header.metadata().clone().unwrap_or_default();
        let position = Position::from_metadata(&metadata, self.run)?;
        let tensors =
            candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).map_err(|error| error.to_string())?;
        let (mut parameters, mut averages, mut moments) = (HashMap::new(), HashMap::new(), HashMap::new());
        for (name, tensor) in tensors {
            if let Some(name) = name.strip_prefix("model.") {
                parameters.insert(name.to_owned(), tensor);
            } else if let Some(name) = name.strip_prefix("average.") {
                averages.insert(name.to_owned(), tensor);
            } else if let Some(name) = name.strip_prefix("optimizer.") {
                moments.insert(name.to_owned(), tensor);
            }
        }
        Ok(Found { file: file.to_owned(), position, parameters, averages, moments })
    }

    /// Puts `found` into `state` and returns its position; the start of training where there is none. One that does not
    /// fit changes nothing, and the one before it is taken.
    pub(crate) fn restore(
        &self,
        mut found: Option<Found>,
        history: &History,
        state: &mut State<'_>,
    ) -> Result<Position> {
        while let Some(candidate) = found {
            match candidate.check(state) {
                Ok(()) => return candidate.apply(state),
                Err(reason) => self.discard(&candidate.file, &reason)?,
            }
            found = self.find(history)?;
        }
        Ok(Position::default())
    }

    /// Deletes all but the newest few.
    pub(crate) fn prune(&self) -> Result<()> {
        self.keep(KEPT)
    }

    /// Deletes all but the newest, which a longer run may go on from.
    pub(crate) fn prune_to_last(&self) -> Result<()> {
        self.keep(1)
    }

    fn keep(&self, count: usize) -> Result<()> {
        let files = self.files()?;
        for file in &files[..files.len().saturating_sub(count)] {
            remove(&self.folder.join(file))?;
        }
        Ok(())
    }

    /// Returns the names of the checkpoints, oldest first: their numbers have leading zeros.
    fn files(&self) -> Result<Vec<String>> {
        let mut files = names(&self.folder)?;
        files.retain(|name| name.starts_with("epoch-") && name.ends_with(".safetensors"));
        files.sort();
        Ok(files)
    }
}

#[cfg(test)]
mod tests {
    use sweep_core::home::Home;
    use sweep_core::spec::{EmaSpec, RunSpec};
    use sweep_testkit::{Workspace, id_of, sample_run};

    use super::*;
    use crate::network;

    const OLDER: &str = "epoch-00001-step-0000000.safetensors";
    const NEWER: &str = "epoch-00002-step-0000000.safetensors";

    /// Returns a file without tensors that says it is the checkpoint after `epoch` epochs.
    fn empty(epoch: u32) -> Vec<u8> {
        let position = Position { epoch, ..Position::default() };
        let tensors: [(String, Tensor); 0] = [];
        safetensors::serialize(tensors, Some(position.to_metadata(id_of(0)))).unwrap()
    }

    fn with_older(workspace: &Workspace) -> (Checkpoints, History) {
        let checkpoints = Checkpoints::open(workspace.home().join("checkpoints"), id_of(0)).unwrap();
        let mut history = History::default();
        add(&checkpoints, &mut history, OLDER, &empty(1));
        (checkpoints, history)
    }

    fn add(checkpoints: &Checkpoints, history: &mut History, file: &str, bytes: &[u8]) {
        fs::write(checkpoints.folder.join(file), bytes).unwrap();
        history.checkpoints.insert(file.to_owned(), digest_bytes(bytes));
    }

    /// Spoils the newest checkpoint.
    type Spoil = fn(&Checkpoints, &mut History);

    #[test]
    fn only_usable_checkpoints_remain_when_the_newest_is_passed_over() {
        let spoils: [(&str, Spoil); 5] = [
            ("damaged", |checkpoints, _| fs::write(checkpoints.folder.join(NEWER), empty(3)).unwrap()),
            ("unreported", |_, history| drop(history.checkpoints.remove(NEWER))),
            ("no safetensors", |checkpoints, history| add(checkpoints, history, NEWER, b"junk")),
            ("unreadable", |checkpoints, _| {
                fs::remove_file(checkpoints.folder.join(NEWER)).unwrap();
                fs::create_dir(checkpoints.folder.join(NEWER)).unwrap();
            }),
            ("of another run", |checkpoints, history| {
                let tensors: [(String, Tensor); 0] = [];
                let metadata = Some(Position::default().to_metadata(id_of(1)));
                add(checkpoints, history, NEWER, &safetensors::serialize(tensors, metadata).unwrap());
            }),
        ];
        for (name, spoil) in spoils {
            let workspace = Workspace::new();
            let (checkpoints, mut history) = with_older(&workspace);
            add(&checkpoints, &mut history, NEWER, &empty(2));
            assert_eq!(checkpoints.find(&history).unwrap().unwrap().position.epoch, 2);
            spoil(&checkpoints, &mut history);
            let found = checkpoints.find(&history).unwrap().unwrap();
            assert_eq!(found.position.epoch, 1, "{name}");
            assert_eq!(checkpoints.files().unwrap(), [OLDER], "{name}");
        }
    }

    #[test]
    fn a_checkpoint_that_does_not_fit_changes_nothing_and_the_one_before_it_is_taken() {
        let workspace = Workspace::new();
        let (checkpoints, mut history) = with_older(&workspace);
        let (spec, home) = (sample_run(0), Home::new(workspace.home()));
        let model = |classes| network::load(&spec, classes, &home).unwrap().model;
        let mut model_of_four = model(4);
        let mut optimizer = network::optimizer(&spec.optimizer, &model_of_four).unwrap();
        let position = Position { epoch: 2, ..Position::default() };
        let saved = checkpoints.save(position, &model(3), None, optimizer.as_ref()).unwrap();
        history.checkpoints.insert(saved.file, saved.digest);
        let before = model_of_four.parameters().snapshot().unwrap();

        let found = checkpoints.find(&history).unwrap();
        let mut state = State { model: &mut model_of_four, average: None, optimizer: optimizer.as_mut() };
        let at = checkpoints.restore(found, &history, &mut state).unwrap();

        assert_eq!(at, Position::default(), "the older one has no tensors at all");
        assert!(checkpoints.files().unwrap().is_empty());
        for ((name, old), (_, _, new)) in before.iter().zip(model_of_four.parameters().iter()) {
            let values = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(values(old), values(new), "{name}");
        }
    }

    #[test]
    fn averages_are_restored_where_the_run_has_them_and_nowhere_else() {
        let workspace = Workspace::new();
        let (spec, home) = (sample_run(0), Home::new(workspace.home()));
        let load = |seed| network::load(&RunSpec { seed, ..spec.clone() }, 4, &home).unwrap().model;
        let (initial, trained, averaged) = (load(0), load(1), load(2));
        for (stored, wanted) in [(true, true), (true, false), (false, true)] {
            let workspace = Workspace::new();
            let checkpoints = Checkpoints::open(workspace.home().join("checkpoints"), id_of(0)).unwrap();
            let (mut model, mut history) = (load(0), History::default());
            let mut average = wanted.then(|| Average::new(&model, EmaSpec { decay: 0.9 }).unwrap());
            let mut optimizer = network::optimizer(&spec.optimizer, &model).unwrap();
            let position = Position { epoch: 1, ..Position::default() };
            let of_average = stored.then_some(&averaged);
            let saved = checkpoints.save(position, &trained, of_average, optimizer.as_ref()).unwrap();
            history.checkpoints.insert(saved.file, saved.digest);

            let found = checkpoints.find(&history).unwrap();
            let mut state =
                State { model: &mut model, average: average.as_mut(), optimizer: optimizer.as_mut() };
            let at = checkpoints.restore(found, &history, &mut state).unwrap();

            let weights = |model: &Model| {
                let tensors = model.parameters().iter();
                let values = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                tensors.map(|(.., tensor)| values(tensor)).collect::<Vec<_>>()
            };
            let fits = stored == wanted;
            assert_eq!(at, if fits { position } else { Position::default() });
            assert!(weights(&model) == weights(if fits { &trained } else { &initial }));
            if let Some(average) = &average {
                assert!(weights(average.model()) == weights(if fits { &averaged } else { &initial }));
            }
        }
    }

    #[test]
    fn what_a_killed_worker_left_is_cleared_away() {
        let workspace = Workspace::new();
        let (checkpoints, _) = with_older(&workspace);
        fs::write(checkpoints.folder.join("epoch-00001-step-0000003.tmp-17"), "half").unwrap();
        let checkpoints = Checkpoints::open(checkpoints.folder, checkpoints.run).unwrap();
        assert_eq!(names(&checkpoints.folder).unwrap(), [OLDER]);
    }
}
