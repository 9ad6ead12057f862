//! The attacks' use in evaluation: which images withstand every query?

use std::num::NonZeroUsize;

use candle_core::{DType, Tensor};
use sweep_kernels::Classifier;

use crate::attack::Attack;
use crate::ball::{Ball, Norm, Uniform};
use crate::element::Element;
use crate::host::with_host_slice;
use crate::input::{Input, check_label_count};
use crate::objective::{Objective, most_likely};
use crate::report::{Effort, Evaluation, Outcome, Trajectory};
use crate::sample::{Candidate, Sample};
use crate::search::Search;
use crate::{Error, Result};

/// Where an evaluation starts its searches.
#[derive(Clone, Copy)]
pub enum Start<'a> {
    /// At the clean image; deterministic, so once.
    Clean,
    /// At random points (see [`crate::random_start`]), again and again.
    Random {
        /// Number of searches per image; only images that are still correct are searched again.
        restarts: NonZeroUsize,
        /// Source of the random numbers for (position in the batch, restart from 0). Let it depend on what
        /// the image is, not on where it stands, and the outcome does not depend on the composition of the
        /// batch.
        generator: &'a dyn Fn(usize, usize) -> Uniform,
    },
}

impl Start<'_> {
    /// How often each image is searched.
    pub(crate) fn searches(self, epsilon: f64) -> usize {
        match self {
            _ if epsilon == 0.0 => 0,
            Start::Clean => 1,
            Start::Random { restarts, .. } => restarts.get(),
        }
    }
}

/// What happens to an image once a query of it was misclassified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrokenSamples {
    /// It leaves the batch: the strict flag is settled, and no more work is spent. Misclassified clean images
    /// are not searched at all.
    Leave,
    /// It is searched to the end. The strict flags are the same; the points of largest loss are those of the
    /// complete search, as in the sibling repository's validation.
    Stay,
}

impl Attack {
    /// Attacks `images` and says for each whether it is still classified correctly.
    ///
    /// Images, labels and epsilon as in [`Attack::craft`]. The clean images are classified first; at epsilon
    /// 0 that is all, and both robust accuracies equal the clean one. An image counts as still correct only
    /// if its clean version and every query are classified correctly. That every reported point is an image within
    /// epsilon of its own is checked each time, apart from the arithmetic that made it.
    ///
    /// # Errors
    /// As [`Attack::craft`], and [`Error::OutsideBall`].
    pub fn evaluate(
        &self,
        model: &dyn Classifier,
        images: &Tensor,
        labels: &[u32],
        epsilon: f64,
        start: Start<'_>,
        broken: BrokenSamples,
    ) -> Result<Evaluation> {
        #[cfg(feature = "cuda")]
        if images.device().is_cuda() {
            return crate::device::evaluate(self, model, images, labels, epsilon, start, broken);
        }
        match images.dtype() {
            DType::F32 => self.typed_evaluate::<f32>(model, images, labels, epsilon, start, broken),
            DType::F64 => self.typed_evaluate::<f64>(model, images, labels, epsilon, start, broken),
            dtype => Err(Error::ImageType { dtype }),
        }
    }

    fn typed_evaluate<T: Element>(
        &self,
        model: &dyn Classifier,
        images: &Tensor,
        labels: &[u32],
        epsilon: f64,
        start: Start<'_>,
        broken: BrokenSamples,
    ) -> Result<Evaluation> {
        check_label_count(images, labels)?;
        let input = Input::<T>::new(images, epsilon)?;
        let mut effort = Effort::default();
        let mut ledger = self.clean_pass(model, images, labels, &input, &mut effort)?;
        if epsilon > 0.0 && matches!(start, Start::Clean) {
            self.check_clean_start()?;
        }
        let leave = broken == BrokenSamples::Leave;
        let plan = self.plan(epsilon, leave);
        for restart in 0..start.searches(epsilon) {
            let begin = Begin { norm: self.norm(), radius: plan.radius, start, restart };
            let searched = ledger.iter().filter(|entry| !leave || entry.outcome.still_correct);
            let candidates = searched.map(|entry| begin.candidate(entry)).collect();
            let (samples, spent) = Search::new(model, &plan, images, candidates)?.run()?;
            effort += spent;
            for sample in samples {
                let index = sample.index;
                ledger[index].merge(sample);
            }
        }
        check_inside(self.norm(), &ledger, epsilon)?;
        close(ledger, images, effort)
    }

    /// Classifies the clean images and opens the ledger with the result.
    fn clean_pass<'i, T: Element>(
        &self,
        model: &dyn Classifier,
        images: &Tensor,
        labels: &[u32],
        input: &'i Input<T>,
        effort: &mut Effort,
    ) -> Result<Vec<Entry<'i, T>>> {
        if labels.is_empty() {
            return Ok(Vec::new());
        }
        effort.forward_images += labels.len();
        let logits = model.logits(images)?;
        let objectives = self.objectives_on(&logits, labels)?;
        let ledger: Vec<Entry<'i, T>> = with_host_slice(&logits, |rows: &[T]| {
            let rows = rows.chunks_exact(rows.len() / labels.len());
            let images = rows.zip(objectives).zip(input.centers()).enumerate();
            images
                .map(|(index, ((row, objective), center))| Entry::open(index, row, objective, center))
                .collect()
        })?;
        for entry in &ledger {
            let loss = entry.outcome.best_loss;
            if !loss.is_finite() {
                return Err(Error::NonFiniteLoss { sample: entry.index, query: 0, loss });
            }
        }
        Ok(ledger)
    }
}

/// What is known about one image so far.
struct Entry<'i, T> {
    index: usize,
    objective: Objective,
    center: &'i [T],
    /// What [`Evaluation::points`] will hold; `None` for the clean image.
    point: Option<Vec<T>>,
    searched: bool,
    outcome: Outcome,
}

impl<'i, T: Element> Entry<'i, T> {
    fn open(index: usize, logits: &[T], objective: Objective, center: &'i [T]) -> Self {
        let prediction = most_likely(logits) as u32;
        let clean_loss = objective.evaluate(logits, &mut vec![T::zero(); logits.len()]);
        let outcome = Outcome::of_clean(prediction, objective.label(), clean_loss.to_f64());
        Self { index, objective, center, point: None, searched: false, outcome }
    }

    /// Adds the result of one search.
    fn merge(&mut self, sample: Sample<T>) {
        match self.outcome.merge(&sample.trajectory, !self.searched) {
            Found::Nothing => {}
            Found::Misclassified => self.point = sample.first_misclassified,
            Found::Best => self.point = Some(sample.best.point),
        }
        self.searched = true;
    }
}

/// Which point of a search is to be reported from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// None: what was reported before stays.
    Nothing,
    /// The first misclassified one.
    Misclassified,
    /// The one of largest loss.
    Best,
}

impl Outcome {
    /// What is known once the clean image was classified.
    pub(crate) fn of_clean(prediction: u32, label: u32, loss: f64) -> Self {
        let clean_correct = prediction == label;
        Self {
            clean_correct,
            still_correct: clean_correct,
            correct_at_best_loss: clean_correct,
            prediction,
            best_loss: loss,
            vanished_gradients: 0,
        }
    }

    /// Adds the result of one search.
    pub(crate) fn merge(&mut self, trajectory: &Trajectory, is_first_search: bool) -> Found {
        let (best, mut found) = (trajectory.best(), Found::Nothing);
        // The clean image was no query of the search, which may have started elsewhere: the first search
        // replaces it.
        let improved = is_first_search || best.loss > self.best_loss;
        if improved {
            self.best_loss = best.loss;
            self.correct_at_best_loss = trajectory.correct_at_best_loss();
        }
        if self.still_correct {
            if let Some(wrong) = trajectory.first_wrong() {
                self.prediction = wrong;
                found = Found::Misclassified;
            } else if improved {
                found = Found::Best;
            }
        }
        self.still_correct &= trajectory.still_correct();
        self.vanished_gradients += trajectory.vanished_gradients;
        found
    }
}

/// How one round of searches begins.
struct Begin<'a, T> {
    norm: Norm,
    radius: T,
    start: Start<'a>,
    restart: usize,
}

impl<T: Element> Begin<'_, T> {
    fn candidate(&self, entry: &Entry<'_, T>) -> Candidate<T> {
        let start = match self.start {
            Start::Clean => entry.center.to_vec(),
            Start::Random { generator, .. } => {
                let ball = Ball { norm: self.norm, center: entry.center, radius: self.radius };
                ball.random_point(&mut *generator(entry.index, self.restart))
            }
        };
        Candidate {
            index: entry.index,
            center: entry.center.to_vec(),
            start,
            objective: entry.objective.clone(),
        }
    }
}

/// Refuses points that an attack may not report.
fn check_inside<T: Element>(norm: Norm, ledger: &[Entry<'_, T>], epsilon: f64) -> Result<()> {
    let is_inside = |entry: &&Entry<'_, T>| {
        let ball = Ball { norm, center: entry.center, radius: T::from_f64(epsilon) };
        entry.point.as_ref().is_none_or(|point| ball.contains(point))
    };
    match ledger.iter().find(|entry| !is_inside(entry)) {
        Some(entry) => Err(Error::OutsideBall { sample: entry.index, epsilon }),
        None => Ok(()),
    }
}

fn close<T: Element>(ledger: Vec<Entry<'_, T>>, images: &Tensor, effort: Effort) -> Result<Evaluation> {
    let mut pixels: Vec<T> = Vec::with_capacity(images.elem_count());
    for entry in &ledger {
        pixels.extend_from_slice(entry.point.as_deref().unwrap_or(entry.center));
    }
    let points = Tensor::from_vec(pixels, images.dims(), images.device())?;
    Ok(Evaluation { outcomes: ledger.into_iter().map(|entry| entry.outcome).collect(), points, effort })
}
