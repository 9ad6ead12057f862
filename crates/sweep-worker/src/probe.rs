//! `micro_batch_size: auto`: how many images a forward pass may have.
//!
//! On a GPU that is tried out before training: training steps on images that nobody sees, of ever more images, until the
//! memory does not suffice. They leave no trace in the weights, the optimizer or the random streams. On the CPU, whose
//! memory other programs share, it is what a sweep file gets that says nothing.
//!
//! Runs that share a GPU try one after the other, beside what the others take just then. What turns out not to fit later
//! is halved, as any other size.

use std::fs::File;
use std::path::Path;

use candle_core::{Device, Tensor};
use sweep_core::event::FailureClass;
use sweep_core::micro_batch::{doubled, usual};
use sweep_core::spec::{Objective, OptimizerSpec, RunSpec};
use sweep_kernels::{Gradients, Mode, Noise, release_memory};
use sweep_models::Model;

use crate::objective::{Accumulation, classify, trades};
use crate::{Error, Result};

/// A size fits if a step fits that has a part of so many more images: an eighth, for what attacks keep beside the network,
/// for gaps between buffers, and for what other programs take meanwhile.
const HEADROOM: u32 = 8;

/// What every pixel of a trial is: how much memory a step takes does not depend on what images show.
const GREY: f32 = 0.5;

/// What is tried out.
pub(crate) struct Trial<'a> {
    pub(crate) spec: &'a RunSpec,
    pub(crate) model: &'a Model,
    pub(crate) device: &'a Device,
    /// Whether the optimizer is still to have its first step, and with it its moments.
    pub(crate) before_first_step: bool,
}

impl Trial<'_> {
    /// Returns the images of a forward pass; those that the run has `begun_with` if they still fit.
    ///
    /// # Errors
    /// [`Error::NothingFits`]; whatever a step fails with but want of memory.
    pub(crate) fn find(&self, begun_with: Option<u32>) -> Result<u32> {
        let batch_size = self.spec.batch_size;
        if self.device.is_cpu() {
            return Ok(usual(batch_size));
        }
        let visible = std::env::var("CUDA_VISIBLE_DEVICES").unwrap_or_default();
        let _turn = turn(&std::env::temp_dir(), &visible);
        let found = largest_that_fits(batch_size, begun_with, |images| self.fits(images))?;
        // What the largest trial took is not ours to keep: another run may share the GPU.
        release_memory(self.device)?;
        found.ok_or(Error::NothingFits)
    }

    /// Returns whether a training step of `images` images fits the memory, with [`HEADROOM`].
    fn fits(&self, images: u32) -> Result<bool> {
        let tried = self.step(images + images.div_ceil(HEADROOM));
        tracing::debug!(images, fits = tried.is_ok(), "tried a micro batch");
        match tried {
            Ok(()) => Ok(true),
            Err(error) if error.class() == FailureClass::OutOfMemory => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Does a training step without its end: nothing is updated.
    fn step(&self, count: u32) -> Result<()> {
        let side = self.spec.input_size as usize;
        let _moments = if self.before_first_step { self.moments()? } else { Vec::new() };
        let images =
            Tensor::full(GREY, (count as usize, 3, side, side), &Device::Cpu)?.to_device(self.device)?;
        let labels = vec![0; count as usize];
        let mut gradients = Gradients::wanted(self.model.parameters());
        let mut into = Accumulation { gradients: &mut gradients, weight: 1.0 };
        // Noise is a function of its seed: no stream moves on.
        let mode = Mode::Train(Noise::new(0, 0));
        match self.spec.objective {
            Objective::Adversarial => classify(self.model, &images, &labels, mode, &mut into)?,
            Objective::Trades { beta } => {
                trades(self.model, [&images, &images], &labels, beta, mode, &mut into)?
            }
        };
        // A GPU may tell of what went wrong when it is waited for only.
        Ok(self.device.synchronize()?)
    }

    /// Takes the memory that the optimizer will take with its first step.
    fn moments(&self) -> Result<Vec<Tensor>> {
        let each = match self.spec.optimizer {
            OptimizerSpec::Adamw { .. } => 2,
            OptimizerSpec::Sgd { .. } => 1,
        };
        let parameters = (0..each).flat_map(|_| self.model.parameters().trainable());
        Ok(parameters.map(|(_, _, tensor)| tensor.zeros_like()).collect::<candle_core::Result<_>>()?)
    }
}

/// Waits until no other worker of this machine tries sizes on the GPU called `name`: two at once would each find less than
/// there is. The turn ends with the file, however the worker ends; where files cannot be locked there are no turns.
fn turn(folder: &Path, name: &str) -> Option<File> {
    let name: String =
        name.chars().map(|letter| if letter.is_alphanumeric() { letter } else { '-' }).collect();
    let path = folder.join(format!("sweep-trial-{name}.lock"));
    let opened = File::options().create(true).append(true).open(&path);
    let locked = opened.and_then(|file| file.lock().map(|()| file));
    locked.inspect_err(|error| tracing::warn!(path = %path.display(), "no turn to try sizes: {error}")).ok()
}

/// Returns the largest size that `fits` among 1, the next divisor of the batch that is at least twice as large, and so on: 1,
/// 2, 4, … for a batch of a power of two. `None` where not even 1 does. Where the run has `begun_with` a size that still
/// fits it is that one, whatever else would fit by now: so its epochs are alike to the last bit.
fn largest_that_fits(
    batch_size: u32,
    begun_with: Option<u32>,
    mut fits: impl FnMut(u32) -> Result<bool>,
) -> Result<Option<u32>> {
    let mut limit = batch_size;
    if let Some(size) = begun_with.filter(|size| (1..=batch_size).contains(size)) {
        if batch_size.is_multiple_of(size) && fits(size)? {
            return Ok(Some(size));
        }
        limit = size - 1;
    }
    let mut found = None;
    let mut next = (limit > 0).then_some(1);
    while let Some(size) = next {
        if !fits(size)? {
            break;
        }
        found = Some(size);
        next = doubled(size, batch_size).filter(|size| *size <= limit);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use candle_core::Tensor;
    use proptest::prelude::*;
    use sweep_testkit::{Workspace, sample_run};

    use super::*;
    use crate::network;

    /// Returns what is found and what is tried on a device that has room for `room` images.
    fn search(batch_size: u32, begun_with: Option<u32>, room: u32) -> (Option<u32>, Vec<u32>) {
        let mut tried = Vec::new();
        let found = largest_that_fits(batch_size, begun_with, |size| {
            tried.push(size);
            Ok(size <= room)
        });
        (found.unwrap(), tried)
    }

    #[test]
    fn sizes_are_doubled_until_they_do_not_fit() {
        let cases = [
            (64, None, 100, Some(64), vec![1, 2, 4, 8, 16, 32, 64]),
            (64, None, 20, Some(16), vec![1, 2, 4, 8, 16, 32]),
            (100, None, 60, Some(50), vec![1, 2, 4, 10, 20, 50, 100]),
            (64, None, 0, None, vec![1]),
            (64, Some(16), 100, Some(16), vec![16]),
            (64, Some(16), 9, Some(8), vec![16, 1, 2, 4, 8]),
            (64, Some(1), 0, None, vec![1]),
            // What another version wrote down for another batch is passed over.
            (64, Some(48), 100, Some(32), vec![1, 2, 4, 8, 16, 32]),
            (64, Some(0), 3, Some(2), vec![1, 2, 4]),
        ];
        for (batch, begun_with, room, expected, tried) in cases {
            assert_eq!(search(batch, begun_with, room), (expected, tried), "{batch} {begun_with:?} {room}");
        }
    }

    proptest! {
        #[test]
        fn what_is_found_fits_divides_the_batch_and_is_no_smaller_than_it_must_be(
            batch in 1_u32..5000,
            room in 0_u32..6000,
        ) {
            let (found, _) = search(batch, None, room);
            prop_assert_eq!(found.is_some(), room > 0);
            if let Some(found) = found {
                prop_assert!(found <= room && batch.is_multiple_of(found));
                prop_assert!(doubled(found, batch).is_none_or(|next| next > room));
            }
        }
    }

    #[test]
    fn a_gpu_is_tried_by_one_worker_at_a_time() {
        let workspace = Workspace::new();
        let held = turn(workspace.home(), "GPU-1").unwrap();
        let other = File::open(workspace.home().join("sweep-trial-GPU-1.lock")).unwrap();
        assert!(other.try_lock().is_err());
        assert!(turn(workspace.home(), "GPU-2").is_some(), "another GPU has turns of its own");
        drop(held);
        assert!(other.try_lock().is_ok());
        assert!(turn(&workspace.home().join("nowhere"), "GPU-1").is_none());
    }

    #[test]
    fn an_error_that_is_not_about_memory_ends_the_search() {
        let found = largest_that_fits(8, None, |_| Err(Error::NothingFits));
        assert!(found.is_err());
    }

    fn values(model: &Model) -> Vec<Vec<f32>> {
        let tensors = model.parameters().iter().map(|(.., tensor)| tensor.flatten_all());
        tensors.map(|tensor: candle_core::Result<Tensor>| tensor.unwrap().to_vec1().unwrap()).collect()
    }

    #[test]
    fn a_trial_leaves_no_trace_in_the_model() {
        for objective in [Objective::Adversarial, Objective::Trades { beta: 6.0 }] {
            let spec = RunSpec { objective, ..sample_run(0) };
            let model = network::load(&spec, 4, &Workspace::new().layout()).unwrap().model;
            let before = values(&model);
            let trial = Trial { spec: &spec, model: &model, device: &Device::Cpu, before_first_step: true };
            assert!(trial.fits(3).unwrap());
            assert_eq!(values(&model), before);
            assert_eq!(trial.find(None).unwrap(), usual(spec.batch_size), "on the CPU nothing is tried");
        }
    }
}
