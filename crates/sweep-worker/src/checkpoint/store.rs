//! The folder of checkpoints, as one attempt at one run uses it.

use std::cmp::Reverse;
use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use sweep_core::home::Home;
use sweep_core::spec::{RunId, RunSpec};
use sweep_core::trajectory::{CheckpointName, Prefix};
use sweep_kernels::Optimizer;
use sweep_models::Model;

use super::content::{Content, Fault, decode, encode};
use super::position::Position;
use super::record::Probe;
use super::state::{State, tensors};
use crate::digest::digest_bytes;
use crate::files::{clear_away, names, remove, remove_leftovers, write_atomically};
use crate::{Error, Result};

/// Positions kept while a run goes on: the newest, and one before it in case the newest is damaged.
const KEPT: usize = 2;
/// End of the names of files that a killed worker may leave: `<run>-<attempt>.tmp`.
const UNFINISHED: &str = ".tmp";

/// The checkpoints that a run may go on from, and those that it writes.
#[derive(Clone, Debug)]
pub(crate) struct Checkpoints {
    folder: PathBuf,
    run: RunId,
    attempt: u32,
    /// The prefixes of the run's trajectory, by epochs.
    trajectory: Vec<Prefix>,
    /// What the run has to know of every epoch.
    probe: Option<Probe>,
    /// Numbers of epochs after which other runs go on from this one.
    shared: Vec<u32>,
}

/// A checkpoint on disk.
#[derive(Debug)]
pub(crate) struct Saved {
    pub(crate) name: CheckpointName,
    pub(crate) bytes: u64,
}

/// A checkpoint read from disk: undamaged, of the run's trajectory, not yet put into a model.
#[derive(Debug)]
pub(crate) struct Found {
    name: CheckpointName,
    content: Content,
}

impl Found {
    pub(crate) const fn position(&self) -> &Position {
        &self.content.position
    }

    /// Returns the run that wrote it.
    pub(crate) const fn writer(&self) -> RunId {
        self.name.run
    }
}

/// A file whose name is right.
#[derive(Clone, Debug)]
struct Candidate {
    name: CheckpointName,
    /// Epochs of its prefix, at least 1; the last of them perhaps in part.
    epochs: u32,
}

impl Candidate {
    /// Later is larger.
    fn place(&self) -> (u32, bool, u32) {
        (self.epochs, self.is_whole(), self.name.step.unwrap_or(0))
    }

    const fn is_whole(&self) -> bool {
        self.name.step.is_none()
    }

    /// Completed epochs.
    fn completed(&self) -> u32 {
        self.epochs - u32::from(!self.is_whole())
    }
}

/// Why a file is not used.
enum Unusable {
    /// It stays: it may be of use to others, or somebody else has deleted it.
    PassedOver(String),
    /// It is of no use to anybody.
    Damaged(String),
}

impl From<Fault> for Unusable {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::OtherFormat(format) => Self::PassedOver(format!("it has format {format}")),
            Fault::Damaged(reason) => Self::Damaged(reason),
        }
    }
}

impl Checkpoints {
    /// Opens the folder and clears away what killed workers of the run left in it. Other runs go on from this one after
    /// the numbers of epochs in `shared`.
    pub(crate) fn open(home: &Home, spec: &RunSpec, attempt: u32, shared: Vec<u32>) -> Result<Self> {
        let (folder, run) = (home.trajectories(), spec.id());
        fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
        let own = format!("{run}-");
        remove_leftovers(&folder, |name| name.starts_with(&own) && name.ends_with(UNFINISHED))?;
        let probe = Probe::new(&spec.validation.attack, spec.target_epsilon);
        Ok(Self { folder, run, attempt, trajectory: spec.trajectory(), probe, shared })
    }

    /// Writes a checkpoint; `may_appear` is asked before it gets its name.
    ///
    /// # Errors
    /// [`Error::NoRoom`], [`Error::DiskFull`], [`Error::Io`]; whatever `may_appear` says.
    pub(crate) fn save(
        &self,
        position: &Position,
        model: &Model,
        average: Option<&Model>,
        optimizer: &dyn Optimizer,
        may_appear: impl FnOnce() -> Result<()>,
    ) -> Result<Saved> {
        let step = (position.step > 0).then_some(position.step);
        let prefix = self.trajectory[position.epoch() as usize + usize::from(step.is_some())];
        let temporary = self.folder.join(format!("{}-{}{UNFINISHED}", self.run, self.attempt));
        let bytes = encode(prefix, self.run, position, tensors(model, average, optimizer)?)
            .map_err(|reason| Error::Checkpoint { path: temporary.clone(), reason })?;
        let name = CheckpointName { prefix, run: self.run, step, digest: digest_bytes(&bytes) };
        write_atomically(&self.folder.join(name.to_string()), &temporary, &bytes, may_appear)?;
        self.delete(|other| {
            (other.name.prefix, other.name.step) == (prefix, step) && other.name.digest != name.digest
        })?;
        Ok(Saved { name, bytes: bytes.len() as u64 })
    }

    /// Returns the latest checkpoint that can be used, whoever wrote it. A damaged one is deleted with a warning; one that
    /// does not tell what this run has to know of every epoch is passed over.
    pub(crate) fn find(&self) -> Result<Option<Found>> {
        self.find_but(&[])
    }

    /// Like [`Self::find`], without those that were found not to fit.
    fn find_but(&self, refused: &[CheckpointName]) -> Result<Option<Found>> {
        let candidates =
            self.candidates()?.into_iter().filter(|candidate| !refused.contains(&candidate.name));
        for candidate in candidates {
            match self.read(&candidate) {
                Ok(content) => return Ok(Some(Found { name: candidate.name, content })),
                Err(Unusable::Damaged(reason)) => self.discard(&candidate.name, &reason),
                Err(Unusable::PassedOver(reason)) => {
                    tracing::info!(file = %candidate.name, "a checkpoint is passed over: {reason}");
                }
            }
        }
        Ok(None)
    }

    /// Deletes a damaged file. One that cannot be deleted, being somebody else's, is passed over from now on.
    fn discard(&self, name: &CheckpointName, reason: &str) {
        tracing::warn!(file = %name, "a damaged checkpoint is deleted: {reason}");
        clear_away(&self.folder.join(name.to_string()));
    }

    /// Reads a checkpoint and checks all of it that can be checked without a model.
    fn read(&self, candidate: &Candidate) -> Result<Content, Unusable> {
        let bytes = fs::read(self.folder.join(candidate.name.to_string())).map_err(|error| {
            let is_gone = error.kind() == ErrorKind::NotFound;
            Unusable::PassedOver(if is_gone {
                "its run has just deleted it".to_owned()
            } else {
                error.to_string()
            })
        })?;
        if digest_bytes(&bytes) != candidate.name.digest {
            return Err(Unusable::Damaged("its digest is not the one in its name".to_owned()));
        }
        let content = decode(&bytes, &candidate.name)?;
        if content.position.epoch() != candidate.completed() {
            return Err(Unusable::Damaged("it is after another number of epochs".to_owned()));
        }
        if !content.position.answers(self.probe.as_ref()) {
            return Err(Unusable::PassedOver(
                "it lacks the robust accuracy that this run validates".to_owned(),
            ));
        }
        Ok(content)
    }

    /// Puts `found` into `state` and returns its position; the start of training where there is none. One that does not
    /// fit changes nothing, and the one before it is taken.
    pub(crate) fn restore(&self, mut found: Option<Found>, state: &mut State<'_>) -> Result<Position> {
        let mut refused = Vec::new();
        while let Some(Found { name, content }) = found {
            match content.check(state) {
                Ok(()) => return content.apply(state),
                Err(reason) => self.discard(&name, &reason),
            }
            refused.push(name);
            found = self.find_but(&refused)?;
        }
        Ok(Position::default())
    }

    /// Deletes the run's checkpoints but for the newest few and those that other runs go on from.
    pub(crate) fn prune(&self) -> Result<()> {
        let mut places: Vec<_> = self.own()?.map(|own| own.place()).collect();
        places.dedup();
        places.truncate(KEPT);
        self.delete(|own| !places.contains(&own.place()) && !self.is_shared(own))
    }

    /// Deletes them but for the last complete one, which a longer run may go on from, and those that other runs wait for.
    pub(crate) fn prune_finished(&self) -> Result<()> {
        let last = self.own()?.find(Candidate::is_whole).map(|own| own.place());
        self.delete(|own| Some(own.place()) != last && !self.is_shared(own))
    }

    fn is_shared(&self, own: &Candidate) -> bool {
        own.is_whole() && self.shared.contains(&own.epochs)
    }

    /// Deletes those of the run's own checkpoints that are unwanted.
    fn delete(&self, is_unwanted: impl Fn(&Candidate) -> bool) -> Result<()> {
        let unwanted = self.own()?.filter(|own| is_unwanted(own));
        unwanted.map(|own| self.folder.join(own.name.to_string())).try_for_each(|path| remove(&path))
    }

    /// Returns the run's own checkpoints, the latest first.
    fn own(&self) -> Result<impl Iterator<Item = Candidate>> {
        Ok(self.candidates()?.into_iter().filter(|candidate| candidate.name.run == self.run))
    }

    /// Returns the checkpoints on the run's trajectory, the latest first, at the same place its own before others.
    fn candidates(&self) -> Result<Vec<Candidate>> {
        let mut candidates: Vec<Candidate> =
            names(&self.folder)?.iter().filter_map(|name| self.candidate(name)).collect();
        candidates.sort_by_cached_key(|candidate| {
            (Reverse((candidate.place(), candidate.name.run == self.run)), candidate.name.to_string())
        });
        Ok(candidates)
    }

    fn candidate(&self, name: &str) -> Option<Candidate> {
        let name: CheckpointName = name.parse().ok()?;
        let epochs = self.trajectory.iter().skip(1).position(|prefix| *prefix == name.prefix)?;
        // Zero steps into an epoch is the end of the one before, and called so.
        (name.step != Some(0)).then_some(Candidate { name, epochs: epochs as u32 + 1 })
    }
}

#[cfg(test)]
mod tests;
