//! The loop that asks the classifier, and what its log says.

use candle_core::Tensor;
use sweep_kernels::Classifier;
use sweep_kernels::attack_steps::{Log, Rules, Walk};

use super::aims::Aims;
use super::device_norm;
use crate::input::check_gradient;
use crate::report::{Effort, Query, Trajectory};
use crate::sample::{Plan, Stepping};
use crate::{Error, Result};

/// The settings of a plan as the device takes them; an evaluation keeps points of both kinds.
pub(super) fn rules(plan: &Plan<f32>, is_evaluation: bool) -> Rules {
    Rules {
        norm: device_norm(plan.norm),
        radius: plan.radius,
        first_step_size: plan.first_step_size,
        steps: plan.steps,
        is_adaptive: matches!(plan.stepping, Stepping::Adaptive { .. }),
        keeps_best: is_evaluation,
        keeps_misclassified: is_evaluation,
    }
}

/// One search of some images.
pub(super) struct Search<'a> {
    model: &'a dyn Classifier,
    plan: &'a Plan<f32>,
    aims: &'a Aims<'a>,
    walk: Walk,
    /// Images that are still asked, in the order of the batch.
    active: Vec<u32>,
    effort: Effort,
}

/// Who goes on after a query: places in the batch.
enum Staying {
    All,
    Some(Vec<u32>),
    /// No one, or an answer is no number: the log tells.
    None,
}

impl<'a> Search<'a> {
    pub(super) fn new(
        model: &'a dyn Classifier,
        plan: &'a Plan<f32>,
        aims: &'a Aims<'a>,
        walk: Walk,
        active: Vec<u32>,
    ) -> Self {
        Self { model, plan, aims, walk, active, effort: Effort::default() }
    }

    /// What it has cost so far.
    pub(super) fn effort(&self) -> Effort {
        self.effort
    }

    pub(super) fn into_walk(self) -> Walk {
        self.walk
    }

    /// Makes all steps, unless every image leaves earlier.
    pub(super) fn run(&mut self) -> Result<()> {
        for query in 0..self.plan.steps {
            if !self.step(query)? {
                return Ok(self.walk.keep()?);
            }
        }
        self.effort.forward_images += self.active.len();
        let logits = self.model.logits(self.walk.points())?;
        self.take(&logits, self.plan.steps)?;
        Ok(self.walk.keep()?)
    }

    /// Asks for an answer and moves. `false` if nobody goes on.
    fn step(&mut self, query: usize) -> Result<bool> {
        self.effort.forward_images += self.active.len();
        let (logits, tape) = self.model.record(self.walk.points())?;
        let slopes = self.take(&logits, query)?.expect("the last query is not asked here");
        let staying = if self.plan.broken_leave { self.staying()? } else { Staying::All };
        if matches!(staying, Staying::None) {
            return Ok(false);
        }
        self.effort.backward_images += self.active.len();
        let mut gradient = self.model.input_gradient(tape, slopes)?;
        check_gradient(self.walk.points(), &gradient)?;
        if let Staying::Some(places) = staying {
            self.walk.keep()?;
            self.active = places.iter().map(|&place| self.active[place as usize]).collect();
            gradient = self.walk.retain(&self.active, &places, &gradient)?;
        }
        self.walk.advance(&gradient)?;
        Ok(true)
    }

    fn take(&mut self, logits: &Tensor, query: usize) -> Result<Option<Tensor>> {
        self.aims.check(logits, self.active.len())?;
        let window = match &self.plan.stepping {
            Stepping::Adaptive { check_windows } if query > 0 => check_windows[query - 1],
            _ => None,
        };
        Ok(self.walk.answer(logits, window)?)
    }

    /// Waits for the answers.
    fn staying(&self) -> Result<Staying> {
        let answers = self.walk.read_answers()?;
        let answer = |image: &u32| answers[*image as usize];
        if self.active.iter().any(|image| !answer(image).loss.is_finite()) {
            return Ok(Staying::None);
        }
        let is_correct = |image: &u32| answer(image).prediction == self.aims.labels()[*image as usize];
        let places = (0_u32..).zip(&self.active).filter(|(_, image)| is_correct(image));
        let places: Vec<u32> = places.map(|(place, _)| place).collect();
        Ok(match places.len() {
            0 => Staying::None,
            count if count == self.active.len() => Staying::All,
            _ => Staying::Some(places),
        })
    }
}

/// The trajectories of the `searched` images (ascending), each with its image.
///
/// # Errors
/// The first number that is not finite, in the order in which the CPU would have met it.
pub(super) fn trajectories(
    log: &Log,
    plan: &Plan<f32>,
    labels: &[u32],
    searched: Vec<usize>,
) -> Result<Vec<(usize, Trajectory)>> {
    let begin = |image: usize| {
        let queries = Vec::with_capacity(log.queries());
        let trajectory =
            Trajectory { label: labels[image], queries, final_step_size: 0.0, vanished_gradients: 0 };
        (image, trajectory)
    };
    let mut found: Vec<(usize, Trajectory)> = searched.into_iter().map(begin).collect();
    for query in 0..log.queries() {
        let goes_on = |trajectory: &Trajectory| !plan.broken_leave || trajectory.still_correct();
        let asked: Vec<_> = found.iter_mut().filter(|(_, trajectory)| goes_on(trajectory)).collect();
        for (sample, _) in &asked {
            let loss = log.answer(query, *sample).loss;
            if !loss.is_finite() {
                return Err(Error::NonFiniteLoss { sample: *sample, query, loss: loss.into() });
            }
        }
        // After the last query, and after one that all images leave, no gradient was taken.
        let has_gradient = query + 1 < log.queries();
        for (sample, trajectory) in asked {
            let answer = log.answer(query, *sample);
            trajectory.queries.push(Query {
                loss: answer.loss.into(),
                prediction: answer.prediction,
                step_size: answer.step_size.into(),
            });
            trajectory.final_step_size = log.answer(query + 1, *sample).step_size.into();
            if has_gradient && goes_on(trajectory) {
                if !answer.is_finite {
                    return Err(Error::NonFiniteGradient { sample: *sample, query });
                }
                trajectory.vanished_gradients += usize::from(!answer.has_slope);
            }
        }
    }
    Ok(found)
}
