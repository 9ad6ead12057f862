//! One image under attack: where it is, where it was best, and how it goes on.

use crate::ball::{Ball, Move, Norm};
use crate::element::Element;
use crate::objective::Objective;
use crate::report::{Query, Trajectory};
use crate::step_control::StepControl;
use crate::{Error, Result};

/// Share of the new gradient step in APGD's moves after the first (alpha in paper section D).
const GRADIENT_SHARE: f64 = 0.75;

/// The settings that all images of one search share.
#[derive(Debug)]
pub(crate) struct Plan<T> {
    pub(crate) norm: Norm,
    pub(crate) radius: T,
    pub(crate) first_step_size: T,
    pub(crate) steps: usize,
    pub(crate) stepping: Stepping,
    /// An image that was misclassified once needs no further queries.
    pub(crate) broken_leave: bool,
}

/// How step sizes and momentum develop.
#[derive(Debug)]
pub(crate) enum Stepping {
    /// Constant step size, no momentum.
    Plain,
    /// APGD; holds the result of [`crate::checkpoints::check_windows`].
    Adaptive { check_windows: Vec<Option<usize>> },
}

/// An image and where its search starts.
#[derive(Debug)]
pub(crate) struct Candidate<T> {
    /// Position in the caller's batch.
    pub(crate) index: usize,
    pub(crate) center: Vec<T>,
    pub(crate) start: Vec<T>,
    pub(crate) objective: Objective,
}

/// The classifier's answer at the current point.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer<T> {
    pub(crate) loss: T,
    pub(crate) prediction: u32,
}

/// The search for one image.
#[derive(Debug)]
pub(crate) struct Sample<T> {
    pub(crate) index: usize,
    pub(crate) objective: Objective,
    center: Vec<T>,
    pub(crate) point: Vec<T>,
    /// The point before `point`; not reset when the search goes back to its best point.
    previous: Vec<T>,
    gradient: Vec<T>,
    pub(crate) best: Best<T>,
    pub(crate) first_misclassified: Option<Vec<T>>,
    /// `None` for plain stepping.
    control: Option<StepControl<T>>,
    pub(crate) trajectory: Trajectory,
}

/// The point of largest loss so far.
#[derive(Debug)]
pub(crate) struct Best<T> {
    pub(crate) point: Vec<T>,
    gradient: Vec<T>,
    loss: T,
}

impl<T: Element> Sample<T> {
    /// Places `candidate` at its start point, clamped to [0, 1].
    pub(crate) fn new(candidate: Candidate<T>, plan: &Plan<T>) -> Self {
        let Candidate { index, center, mut start, objective } = candidate;
        for pixel in &mut start {
            *pixel = pixel.clamp_to_unit();
        }
        let trajectory = Trajectory {
            label: objective.label(),
            queries: Vec::with_capacity(plan.steps + 1),
            final_step_size: plan.first_step_size.to_f64(),
            vanished_gradients: 0,
        };
        let control = match plan.stepping {
            Stepping::Plain => None,
            Stepping::Adaptive { .. } => Some(StepControl::new(plan.first_step_size, plan.steps)),
        };
        Self {
            index,
            objective,
            center,
            previous: start.clone(),
            gradient: Vec::new(),
            best: Best { point: start.clone(), gradient: Vec::new(), loss: T::from_f64(f64::NEG_INFINITY) },
            point: start,
            first_misclassified: None,
            control,
            trajectory,
        }
    }

    fn is_misclassified(&self, answer: Answer<T>) -> bool {
        answer.prediction != self.objective.label()
    }

    /// Whether this image is done once it has seen `answer`.
    pub(crate) fn leaves_after(&self, answer: Answer<T>, plan: &Plan<T>) -> bool {
        plan.broken_leave && self.is_misclassified(answer)
    }

    fn step_size(&self, plan: &Plan<T>) -> T {
        self.control.as_ref().map_or(plan.first_step_size, StepControl::size)
    }

    /// Makes one move along the gradient of the last query.
    pub(crate) fn advance(&mut self, plan: &Plan<T>) {
        let is_first_move = self.trajectory.queries.len() == 1;
        let gradient_share = match plan.stepping {
            Stepping::Plain => None,
            Stepping::Adaptive { .. } if is_first_move => Some(T::one()),
            Stepping::Adaptive { .. } => Some(T::from_f64(GRADIENT_SHARE)),
        };
        let motion = Move { step_size: self.step_size(plan), gradient_share };
        let ball = Ball { norm: plan.norm, center: &self.center, radius: plan.radius };
        ball.advance(motion, &self.point, &mut self.previous, &self.gradient);
        std::mem::swap(&mut self.point, &mut self.previous);
    }

    /// Takes in the answer at the current point, and its gradient if there will be a further move.
    pub(crate) fn observe(
        &mut self,
        plan: &Plan<T>,
        answer: Answer<T>,
        gradient: Option<&[T]>,
    ) -> Result<()> {
        self.log(plan, answer);
        // An image that leaves ignores its gradient, which exists only if another image stays.
        if let Some(gradient) = gradient.filter(|_| !self.leaves_after(answer, plan)) {
            self.take_gradient(gradient)?;
        }
        if self.first_misclassified.is_none() && self.is_misclassified(answer) {
            self.first_misclassified = Some(self.point.clone());
        }
        if answer.loss > self.best.loss {
            self.best.loss = answer.loss;
            self.best.point.clone_from(&self.point);
            self.best.gradient.clone_from(&self.gradient);
        }
        self.control_step(plan, answer.loss);
        Ok(())
    }

    fn log(&mut self, plan: &Plan<T>, answer: Answer<T>) {
        let is_start = self.trajectory.queries.is_empty();
        let step_size = if is_start { 0.0 } else { self.step_size(plan).to_f64() };
        let Answer { loss, prediction } = answer;
        self.trajectory.queries.push(Query { loss: loss.to_f64(), prediction, step_size });
    }

    fn take_gradient(&mut self, gradient: &[T]) -> Result<()> {
        let (mut all_finite, mut all_zero) = (true, true);
        for slope in gradient {
            all_finite &= slope.is_finite();
            all_zero &= *slope == T::zero();
        }
        if !all_finite {
            let query = self.trajectory.queries.len() - 1;
            return Err(Error::NonFiniteGradient { sample: self.index, query });
        }
        self.trajectory.vanished_gradients += usize::from(all_zero);
        self.gradient.clear();
        self.gradient.extend_from_slice(gradient);
        Ok(())
    }

    /// APGD's checks, after each step; the start point has none.
    fn control_step(&mut self, plan: &Plan<T>, loss: T) {
        let (Some(control), Stepping::Adaptive { check_windows }) = (&mut self.control, &plan.stepping)
        else {
            return;
        };
        let Some(step) = self.trajectory.queries.len().checked_sub(2) else {
            return;
        };
        control.record(step, loss);
        let Some(window) = check_windows[step] else {
            return;
        };
        if control.check(step, window, self.best.loss) {
            self.point.clone_from(&self.best.point);
            self.gradient.clone_from(&self.best.gradient);
        }
        self.trajectory.final_step_size = control.size().to_f64();
    }
}
