//! Checkpoints: what an interrupted run goes on from, to the same bits.
//!
//! A checkpoint is one safetensors file with the parameters (`model.…`), the optimizer's moments (`optimizer.…`) and,
//! in its metadata, the position within training. It appears whole or not at all; its digest goes into the event log,
//! and only a file with the logged digest is ever used. There is no generator state: all randomness is a function of
//! (seed, purpose, epoch, index).

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use safetensors::SafeTensors;
use sweep_core::spec::RunId;
use sweep_kernels::Optimizer;
use sweep_models::Model;

use crate::digest::digest_bytes;
use crate::files::write_atomically;
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
        let number = |key: &str| {
            text(key)?.parse::<u64>().map_err(|_| format!("`{key}` in its metadata is no number"))
        };
        if text("format")? != FORMAT || *text("run")? != run.to_string() {
            return Err("it belongs to another run or format".to_owned());
        }
        Ok(Self {
            epoch: number("epoch")? as u32,
            step: number("step")? as u32,
            sums: EpochSums {
                loss: f64::from_bits(number("loss_bits")?),
                correct: number("correct")? as u32,
                seen: number("seen")? as u32,
                seconds: f64::from_bits(number("seconds_bits")?),
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

/// The checkpoints of one run.
#[derive(Clone, Debug)]
pub(crate) struct Checkpoints {
    folder: PathBuf,
    run: RunId,
}

impl Checkpoints {
    pub(crate) fn open(folder: PathBuf, run: RunId) -> Result<Self> {
        fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
        Ok(Self { folder, run })
    }

    /// Writes a checkpoint.
    pub(crate) fn save(&self, position: Position, model: &Model, optimizer: &dyn Optimizer) -> Result<Saved> {
        let parameters = model.parameters();
        let mut tensors: Vec<(String, Tensor)> =
            parameters.iter().map(|(_, name, tensor)| (format!("model.{name}"), tensor.clone())).collect();
        let moments = optimizer.state(parameters)?.into_iter();
        tensors.extend(moments.map(|(name, tensor)| (format!("optimizer.{name}"), tensor)));
        let file = format!("epoch-{:05}-step-{:07}.safetensors", position.epoch, position.step);
        let path = self.folder.join(&file);
        let bytes = safetensors::serialize(tensors, Some(position.to_metadata(self.run)))
            .map_err(|error| Error::Checkpoint { path: path.clone(), reason: error.to_string() })?;
        write_atomically(&path, &bytes)?;
        Ok(Saved { file, digest: digest_bytes(&bytes), bytes: bytes.len() as u64 })
    }

    /// Loads the newest checkpoint whose digest is the logged one into `model` and `optimizer`, and returns its position;
    /// the start of training where there is none. A damaged one is passed over with a warning.
    pub(crate) fn restore(
        &self,
        history: &History,
        model: &mut Model,
        optimizer: &mut dyn Optimizer,
    ) -> Result<Position> {
        for file in self.files()?.into_iter().rev() {
            let path = self.folder.join(&file);
            let Some(expected) = history.checkpoints.get(&file) else {
                tracing::warn!(file, "no attempt reported this checkpoint complete; it is not used");
                continue;
            };
            let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
            if digest_bytes(&bytes) != *expected {
                tracing::warn!(file, "this checkpoint is damaged; the one before it is used");
                continue;
            }
            return self.load(&path, &bytes, model, optimizer);
        }
        Ok(Position::default())
    }

    fn load(
        &self,
        path: &Path,
        bytes: &[u8],
        model: &mut Model,
        optimizer: &mut dyn Optimizer,
    ) -> Result<Position> {
        let fault = |reason: String| Error::Checkpoint { path: path.to_owned(), reason };
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(|error| fault(error.to_string()))?;
        let metadata = header.metadata().clone().unwrap_or_default();
        let position = Position::from_metadata(&metadata, self.run).map_err(fault)?;
        let mut parameters = HashMap::new();
        let mut moments = HashMap::new();
        for (name, tensor) in candle_core::safetensors::load_buffer(bytes, &Device::Cpu)? {
            if let Some(name) = name.strip_prefix("model.") {
                parameters.insert(name.to_owned(), tensor);
            } else if let Some(name) = name.strip_prefix("optimizer.") {
                moments.insert(name.to_owned(), tensor);
            }
        }
        let ids: Vec<_> = model.parameters().iter().map(|(id, name, _)| (id, name.to_owned())).collect();
        for (id, name) in ids {
            let tensor =
                parameters.remove(&name).ok_or_else(|| fault(format!("it has no parameter `{name}`")))?;
            model.parameters_mut().set(id, tensor)?;
        }
        optimizer.restore(model.parameters(), &moments)?;
        Ok(position)
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
            let path = self.folder.join(file);
            fs::remove_file(&path).map_err(Error::io("delete", &path))?;
        }
        Ok(())
    }

    /// Returns the names of the checkpoints, oldest first: their numbers have leading zeros.
    fn files(&self) -> Result<Vec<String>> {
        let entries = fs::read_dir(&self.folder).map_err(Error::io("list", &self.folder))?;
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut files: Vec<String> =
            names.filter(|name| name.starts_with("epoch-") && name.ends_with(".safetensors")).collect();
        files.sort();
        Ok(files)
    }
}
