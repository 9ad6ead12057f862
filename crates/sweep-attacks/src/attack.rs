//! The attacks as a user names them, and their use in training.

use std::num::NonZeroUsize;

use candle_core::{DType, Tensor};
use sweep_kernels::Classifier;

use crate::ball::{Ball, Norm};
use crate::checkpoints::check_windows;
use crate::element::Element;
use crate::host::with_host_slice;
use crate::input::{Input, check_label_count, check_starts};
use crate::objective::{Objective, class_count, wrong_class_of_rank};
use crate::report::{Crafted, Crafting, Effort};
use crate::sample::{Candidate, Plan, Sample, Stepping};
use crate::search::Search;
use crate::{Error, Result};

/// What the attack makes larger; [`Objective`] has the formulas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Cross entropy with the true class.
    CrossEntropy,
    /// Difference of logits ratio, towards whatever class is nearest.
    Dlr,
    /// Difference of logits ratio, towards one class chosen on the clean image.
    TargetedDlr {
        /// 1 for the most likely wrong class, 2 for the next, and so on. AutoAttack uses 1 to 9.
        rank: NonZeroUsize,
    },
    /// Divergence of the prediction from that of the clean image: the inner maximisation of TRADES. Its gradient vanishes
    /// at the clean image, so that a search must start elsewhere ([`crate::gaussian_start`], [`crate::random_start`]).
    KullbackLeibler,
}

/// A gradient attack with all its settings but the radius.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attack {
    norm: Norm,
    loss: Loss,
    method: Method,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Method {
    Apgd { steps: NonZeroUsize },
    Pgd { steps: NonZeroUsize, relative_step: f64 },
}

/// What a batch is pushed away from or towards, as callers say it.
#[derive(Clone, Copy)]
pub(crate) enum Aim<'a> {
    /// The attack's own loss of these true classes.
    Labels(&'a [u32]),
    /// One objective per image.
    Objectives(&'a [Objective]),
}

/// APGD's first step, in multiples of epsilon.
const APGD_FIRST_STEP: f64 = 2.0;

impl Attack {
    /// APGD (Croce and Hein 2020, paper section D): step size 2·epsilon at first, halved on oscillation or
    /// stall; momentum.
    pub fn apgd(norm: Norm, loss: Loss, steps: NonZeroUsize) -> Self {
        Self { norm, loss, method: Method::Apgd { steps } }
    }

    /// PGD (Madry et al. 2018): constant steps of `relative_step`·epsilon, projected. 2.5 / steps is a usual
    /// choice.
    ///
    /// # Errors
    /// [`Error::RelativeStep`] unless `relative_step` is finite and positive.
    pub fn pgd(norm: Norm, loss: Loss, steps: NonZeroUsize, relative_step: f64) -> Result<Self> {
        if relative_step.is_finite() && relative_step > 0.0 {
            Ok(Self { norm, loss, method: Method::Pgd { steps, relative_step } })
        } else {
            Err(Error::RelativeStep { relative_step })
        }
    }

    /// FGSM (Goodfellow et al. 2015): one step of size epsilon. In l2, along the normalized gradient.
    pub fn fgsm(norm: Norm, loss: Loss) -> Self {
        Self { norm, loss, method: Method::Pgd { steps: NonZeroUsize::MIN, relative_step: 1.0 } }
    }

    /// What it makes larger.
    #[cfg(feature = "cuda")]
    pub(crate) fn loss(&self) -> Loss {
        self.loss
    }

    /// The norm of its perturbations.
    pub fn norm(&self) -> Norm {
        self.norm
    }

    /// Makes a batch to train on, starting at the clean images and spending every step on every image.
    ///
    /// `images` are (N, 3, H, W), f32 or f64, in [0, 1]; `labels` are N classes; `epsilon` is the radius in units
    /// of a pixel's range, computed in f64 (k / 255.0) and rounded once to the images' type here. At epsilon
    /// 0 the result is `images` and the classifier is not called. Otherwise the cost is steps + 1 forward and
    /// steps backward passes (one more forward pass for the targeted loss and the divergence, which look at the
    /// clean images first). The last point's gradient is not taken.
    ///
    /// # Errors
    /// Input that is not as described; a loss or gradient that is not finite, with the sample's position;
    /// [`Error::FlatStart`] for [`Loss::KullbackLeibler`]; failures of the classifier.
    pub fn craft(
        &self,
        model: &dyn Classifier,
        images: &Tensor,
        labels: &[u32],
        epsilon: f64,
    ) -> Result<Crafted> {
        self.begin(model, images, labels, epsilon)?.finish()
    }

    /// [`Attack::craft`] without waiting for a GPU: on one, a search is only enqueued. On the CPU all is done.
    ///
    /// # Errors
    /// As [`Attack::craft`]; on a GPU, what only it can tell is left to [`Crafting::finish`] or [`PendingReport::check`].
    ///
    /// [`PendingReport::check`]: crate::PendingReport::check
    pub fn begin(
        &self,
        model: &dyn Classifier,
        images: &Tensor,
        labels: &[u32],
        epsilon: f64,
    ) -> Result<Crafting> {
        if epsilon > 0.0 {
            self.check_clean_start()?;
        }
        self.begin_from(model, images, images, labels, epsilon)
    }

    /// Refuses to climb a loss whose gradient vanishes at the clean image from there.
    pub(crate) fn check_clean_start(&self) -> Result<()> {
        if self.loss == Loss::KullbackLeibler { Err(Error::FlatStart) } else { Ok(()) }
    }

    /// Like [`Attack::craft`], from given `starts` (shape and type of `images`), which are clamped to [0, 1]
    /// first; see [`crate::random_start`].
    ///
    /// # Errors
    /// As [`Attack::craft`], and [`Error::StartOutsideBall`].
    pub fn craft_from(
        &self,
        model: &dyn Classifier,
        images: &Tensor,
        starts: &Tensor,
        labels: &[u32],
        epsilon: f64,
    ) -> Result<Crafted> {
        self.begin_from(model, images, starts, labels, epsilon)?.finish()
    }

    /// [`Attack::craft_from`] without waiting for a GPU, as [`Attack::begin`].
    ///
    /// # Errors
    /// As [`Attack::begin`] and [`Attack::craft_from`].
    pub fn begin_from(
        &self,
        model: &dyn Classifier,
        images: &Tensor,
        starts: &Tensor,
        labels: &[u32],
        epsilon: f64,
    ) -> Result<Crafting> {
        check_label_count(images, labels)?;
        self.begin_anyhow(model, images, starts, Aim::Labels(labels), epsilon)
    }

    /// Like [`Attack::craft_from`], with one given objective per image instead of those of the attack's own loss: for
    /// callers who know the clean logits already ([`Objective::divergences`]), and so save a forward pass.
    ///
    /// # Errors
    /// As [`Attack::craft_from`].
    pub fn craft_with(
        &self,
        model: &dyn Classifier,
        images: &Tensor,
        starts: &Tensor,
        objectives: &[Objective],
        epsilon: f64,
    ) -> Result<Crafted> {
        let count = images.dims().first().copied().unwrap_or(0);
        if objectives.len() != count {
            return Err(Error::LabelCount { labels: objectives.len(), images: count });
        }
        self.begin_anyhow(model, images, starts, Aim::Objectives(objectives), epsilon)?.finish()
    }

    fn begin_anyhow(
        &self,
        model: &dyn Classifier,
        images: &Tensor,
        starts: &Tensor,
        aim: Aim<'_>,
        epsilon: f64,
    ) -> Result<Crafting> {
        #[cfg(feature = "cuda")]
        if images.device().is_cuda() {
            return crate::device::begin(self, model, images, starts, aim, epsilon);
        }
        let crafted = match images.dtype() {
            DType::F32 => self.typed_craft::<f32>(model, images, starts, aim, epsilon),
            DType::F64 => self.typed_craft::<f64>(model, images, starts, aim, epsilon),
            dtype => Err(Error::ImageType { dtype }),
        };
        Ok(Crafting::done(crafted?))
    }

    fn typed_craft<T: Element>(
        &self,
        model: &dyn Classifier,
        images: &Tensor,
        starts: &Tensor,
        aim: Aim<'_>,
        epsilon: f64,
    ) -> Result<Crafted> {
        let mut effort = Effort::default();
        let input = Input::<T>::new(images, epsilon)?;
        if epsilon == 0.0 {
            return Ok(Crafted { images: images.clone(), trajectories: None, effort });
        }
        let objectives = match aim {
            Aim::Labels(labels) => self.objectives_for(model, images, labels, &mut effort)?,
            Aim::Objectives(objectives) => objectives.to_vec(),
        };
        let starts = self.read_starts(&input, images, starts, epsilon)?;
        let candidates = input.centers().zip(starts).zip(objectives).enumerate();
        let candidates = candidates
            .map(|(index, ((center, start), objective))| Candidate {
                index,
                center: center.to_vec(),
                start,
                objective,
            })
            .collect();
        let plan = self.plan(epsilon, false);
        let (samples, spent) = Search::new(model, &plan, images, candidates)?.run()?;
        effort += spent;

        let mut pixels = Vec::with_capacity(input.pixels.len());
        let mut trajectories = Vec::with_capacity(samples.len());
        for sample in samples {
            pixels.extend_from_slice(self.chosen_point(&sample));
            trajectories.push(sample.trajectory);
        }
        let images = Tensor::from_vec(pixels, images.dims(), images.device())?;
        Ok(Crafted { images, trajectories: Some(trajectories), effort })
    }

    fn chosen_point<'s, T>(&self, sample: &'s Sample<T>) -> &'s [T] {
        match self.method {
            Method::Apgd { .. } => &sample.best.point,
            Method::Pgd { .. } => &sample.point,
        }
    }

    fn read_starts<T: Element>(
        &self,
        input: &Input<T>,
        images: &Tensor,
        starts: &Tensor,
        epsilon: f64,
    ) -> Result<Vec<Vec<T>>> {
        check_starts(images, starts)?;
        let pixels = with_host_slice(starts, <[T]>::to_vec)?;
        let mut points = Vec::with_capacity(images.dims()[0]);
        let mut rest = pixels.as_slice();
        for (sample, center) in input.centers().enumerate() {
            let (point, after) = rest.split_at(center.len());
            let point: Vec<T> = point.iter().map(|pixel| pixel.clamp_to_unit()).collect();
            let ball = Ball { norm: self.norm, center, radius: T::from_f64(epsilon) };
            if !ball.contains(&point) {
                return Err(Error::StartOutsideBall { sample, epsilon });
            }
            points.push(point);
            rest = after;
        }
        Ok(points)
    }

    /// Objectives of a batch nothing is known about yet: the targeted loss needs the clean logits.
    fn objectives_for(
        &self,
        model: &dyn Classifier,
        images: &Tensor,
        labels: &[u32],
        effort: &mut Effort,
    ) -> Result<Vec<Objective>> {
        match self.loss {
            Loss::CrossEntropy => Ok(labels.iter().map(|&label| Objective::CrossEntropy { label }).collect()),
            Loss::Dlr => Ok(labels.iter().map(|&label| Objective::Dlr { label }).collect()),
            Loss::TargetedDlr { .. } | Loss::KullbackLeibler => {
                effort.forward_images += labels.len();
                self.objectives_on(&model.logits(images)?, labels)
            }
        }
    }

    /// Objectives of a batch whose clean logits are `logits`; all are checked against the classes there are.
    pub(crate) fn objectives_on(&self, logits: &Tensor, labels: &[u32]) -> Result<Vec<Objective>> {
        let classes = class_count(logits, labels.len())?;
        match self.loss {
            Loss::CrossEntropy => each_row(logits, labels, |_, label| Ok(Objective::CrossEntropy { label })),
            Loss::Dlr => each_row(logits, labels, |_, label| Ok(Objective::Dlr { label })),
            Loss::TargetedDlr { rank } => each_row(logits, labels, |row, label| {
                wrong_class_of_rank(row, label, rank.get())
                    .map(|target| Objective::TargetedDlr { label, target })
                    .ok_or(Error::TooFewClasses { needed: rank.get() + 1, classes })
            }),
            Loss::KullbackLeibler => Objective::divergences(logits, labels),
        }
    }

    /// Settings for one radius, which is rounded to `T` here and only here.
    pub(crate) fn plan<T: Element>(&self, epsilon: f64, broken_leave: bool) -> Plan<T> {
        let (steps, relative_step, stepping) = match self.method {
            Method::Apgd { steps } => {
                let check_windows = check_windows(steps.get());
                (steps, APGD_FIRST_STEP, Stepping::Adaptive { check_windows })
            }
            Method::Pgd { steps, relative_step } => (steps, relative_step, Stepping::Plain),
        };
        Plan {
            norm: self.norm,
            radius: T::from_f64(epsilon),
            first_step_size: T::from_f64(relative_step * epsilon),
            steps: steps.get(),
            stepping,
            broken_leave,
        }
    }
}

/// Makes an objective of every row of `logits` and its label, and checks it.
fn each_row(
    logits: &Tensor,
    labels: &[u32],
    objective: impl Fn(&[f64], u32) -> Result<Objective>,
) -> Result<Vec<Objective>> {
    let classes = class_count(logits, labels.len())?;
    with_host_slice(logits, |rows: &[f64]| {
        let rows = rows.chunks_exact(classes).zip(labels).enumerate();
        rows.map(|(sample, (row, &label))| {
            Objective::CrossEntropy { label }.check(sample, classes)?;
            let objective = objective(row, label)?;
            objective.check(sample, classes)?;
            Ok(objective)
        })
        .collect()
    })?
}
