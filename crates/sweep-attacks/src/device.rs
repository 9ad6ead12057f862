//! Attacks on images that are on a GPU: the same searches with points, gradients and bookkeeping kept there.
//!
//! Crafting enqueues all its work, whatever the answers are, and a copy of its log; what that says about bad input or
//! numbers that are not finite becomes the error that the CPU would have given at once. An evaluation whose broken images
//! leave the batch reads the predictions after each query.

mod aims;
mod evaluation;
mod search;

use candle_core::{DType, Tensor};
use sweep_kernels::Classifier;
use sweep_kernels::attack_steps::{Inspected, Inspection, Norm as DeviceNorm, PendingLog, Walk};

pub(crate) use self::evaluation::evaluate;

use self::aims::Aims;
use self::search::{Search, rules, trajectories};
use crate::attack::{Aim, Attack};
use crate::ball::{Norm, is_within};
use crate::input::{check_form, check_starts};
use crate::report::{Crafted, Crafting, Effort, PendingReport, Report};
use crate::sample::Plan;
use crate::{Error, Result};

/// [`Attack::begin_from`] and [`Attack::craft_with`] on a GPU. Waits for it only where nothing is to be searched.
pub(crate) fn begin(
    attack: &Attack,
    model: &dyn Classifier,
    images: &Tensor,
    starts: &Tensor,
    aim: Aim<'_>,
    epsilon: f64,
) -> Result<Crafting> {
    let count = check(images, epsilon)?;
    let mut effort = Effort::default();
    if count == 0 || epsilon == 0.0 {
        check_pixels(&inspection(attack, images)?)?;
        let trajectories = (epsilon > 0.0).then(Vec::new);
        return Ok(Crafting::done(Crafted { images: images.clone(), trajectories, effort }));
    }
    check_starts(images, starts)?;
    let mut aims = Aims::new(attack.loss(), aim, images.device())?;
    if aims.need_clean_logits() {
        effort.forward_images += count;
        aims.settle(&model.logits(images)?)?;
    }
    let plan = attack.plan::<f32>(epsilon, false);
    // A search that begins at the images themselves needs no copy of them.
    let starts = (starts.id() != images.id()).then_some(starts);
    let walk = Walk::new(rules(&plan, false), images, starts, None, aims.goals())?;
    walk.inspect(starts.is_some())?;
    let mut search = Search::new(model, &plan, &aims, walk, (0..count as u32).collect());
    search.run()?;
    effort += search.effort();

    let walk = search.into_walk();
    let pending = Pending {
        norm: attack.norm(),
        epsilon,
        labels: aims.labels().to_vec(),
        pixels: images.elem_count() / count,
        has_starts: starts.is_some(),
        log: walk.log()?,
        plan,
        effort,
    };
    let images = walk.best_points().unwrap_or(walk.points()).clone();
    Ok(Crafting { images, report: PendingReport::pending(pending) })
}

/// A search that was enqueued, and what is needed to understand its log.
pub(crate) struct Pending {
    norm: Norm,
    epsilon: f64,
    labels: Vec<u32>,
    /// Pixels of an image.
    pixels: usize,
    has_starts: bool,
    log: PendingLog,
    plan: Plan<f32>,
    effort: Effort,
}

impl Pending {
    /// Waits for the log.
    pub(crate) fn finish(self) -> Result<Report> {
        let Self { norm, epsilon, labels, pixels, has_starts, log, plan, effort } = self;
        let log = log.finish()?;
        let inspected = log.inspected();
        check_pixels(&inspected)?;
        if has_starts {
            let outside = |image: &Inspected| !is_admissible(norm, image, plan.radius, pixels);
            if let Some(sample) = inspected.iter().position(outside) {
                return Err(Error::StartOutsideBall { sample, epsilon });
            }
        }
        let found = trajectories(&log, &plan, &labels, (0..labels.len()).collect())?;
        let trajectories = Some(found.into_iter().map(|(_, trajectory)| trajectory).collect());
        Ok(Report { trajectories, effort })
    }
}

/// Refuses what can be refused without a look at the pixels. Returns the number of images.
fn check(images: &Tensor, epsilon: f64) -> Result<usize> {
    if images.dtype() != DType::F32 {
        return Err(match images.dtype() {
            dtype @ DType::F64 => Error::ImageTypeOnGpu { dtype },
            dtype => Error::ImageType { dtype },
        });
    }
    check_form(images, epsilon)?;
    Ok(images.dims()[0])
}

/// Looks at images that are not searched. Waits for the GPU.
fn inspection(attack: &Attack, images: &Tensor) -> Result<Vec<Inspected>> {
    if images.elem_count() == 0 {
        return Ok(Vec::new());
    }
    Ok(Inspection::new(device_norm(attack.norm()), images, None)?.read()?)
}

/// Refuses images that are no images.
fn check_pixels(inspected: &[Inspected]) -> Result<()> {
    for (sample, image) in inspected.iter().enumerate() {
        if let Some(value) = image.pixel_out_of_range {
            return Err(Error::PixelOutOfRange { sample, value: value.into() });
        }
    }
    Ok(())
}

/// Whether a point of `pixels` pixels may be reported.
fn is_admissible(norm: Norm, point: &Inspected, radius: f32, pixels: usize) -> bool {
    point.point_is_image && is_within(norm, point.distance, radius, pixels)
}

fn device_norm(norm: Norm) -> DeviceNorm {
    match norm {
        Norm::Linf => DeviceNorm::Linf,
        Norm::L2 => DeviceNorm::L2,
    }
}
