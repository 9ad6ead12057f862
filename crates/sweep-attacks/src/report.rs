//! What an attack hands back.

use candle_core::Tensor;

use crate::Result;

/// One look at the classifier's answer for one image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Query {
    /// The attacked loss.
    pub loss: f64,
    /// The most likely class.
    pub prediction: u32,
    /// Size of the step that led here, in the attack's norm; 0 for the start point.
    pub step_size: f64,
}

/// The search for one image from one start point. Never empty.
#[derive(Clone, Debug, PartialEq)]
pub struct Trajectory {
    /// The true class.
    pub label: u32,
    /// The start point and the point after each step, in order.
    pub queries: Vec<Query>,
    /// The step size that a further step would have had.
    pub final_step_size: f64,
    /// Queries whose input gradient was exactly zero in every pixel. Such an image cannot be moved by a
    /// gradient attack, and its accuracy says nothing about robustness (gradient masking).
    pub vanished_gradients: usize,
}

impl Trajectory {
    /// The prediction of the first misclassified query, if there is one.
    pub fn first_wrong(&self) -> Option<u32> {
        self.queries.iter().map(|query| query.prediction).find(|prediction| *prediction != self.label)
    }

    /// Whether no query was misclassified, the start point included.
    pub fn still_correct(&self) -> bool {
        self.queries.iter().all(|query| query.prediction == self.label)
    }

    /// The query of largest loss; the first of several equal ones.
    pub fn best(&self) -> Query {
        let first = self.queries[0];
        self.queries.iter().fold(first, |best, query| if query.loss > best.loss { *query } else { best })
    }

    /// Whether the query of largest loss is classified correctly.
    pub fn correct_at_best_loss(&self) -> bool {
        self.best().prediction == self.label
    }
}

/// How often images went through the classifier: the cost of an attack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effort {
    /// Images sent forward.
    pub forward_images: usize,
    /// Images sent backward.
    pub backward_images: usize,
}

impl std::ops::AddAssign for Effort {
    fn add_assign(&mut self, other: Self) {
        self.forward_images += other.forward_images;
        self.backward_images += other.backward_images;
    }
}

/// Images to train on.
#[derive(Debug)]
pub struct Crafted {
    /// Shape, element type and device of the clean images: APGD's point of largest loss, PGD's and FGSM's
    /// last point.
    pub images: Tensor,
    /// How each image was found, in the order of the batch. `None` at epsilon 0, where nothing is searched.
    pub trajectories: Option<Vec<Trajectory>>,
    /// What it cost.
    pub effort: Effort,
}

/// A batch to train on that a GPU may still be computing, and what is to be said about it.
#[must_use = "images are worth something only where the report has no error"]
pub struct Crafting {
    /// The perturbed images, shape and type of the clean ones. Whatever is enqueued on them comes after the attack; if
    /// [`PendingReport::check`] finds an error they are worth nothing.
    pub images: Tensor,
    /// Whether all went well.
    pub report: PendingReport,
}

impl Crafting {
    pub(crate) fn done(crafted: Crafted) -> Self {
        let Crafted { images, trajectories, effort } = crafted;
        Self { images, report: PendingReport(State::Known(Report { trajectories, effort })) }
    }

    /// Waits until it is there.
    ///
    /// # Errors
    /// As [`PendingReport::check`].
    pub fn finish(self) -> Result<Crafted> {
        let Report { trajectories, effort } = self.report.read()?;
        Ok(Crafted { images: self.images, trajectories, effort })
    }
}

/// What an attack has to say once the GPU is done with it. Holds no images. With the feature `cuda` it stays on its thread.
#[must_use = "an attack may have failed"]
pub struct PendingReport(State);

enum State {
    Known(Report),
    #[cfg(feature = "cuda")]
    Pending(Box<crate::device::Pending>),
}

/// What is known about a batch beside its images.
pub(crate) struct Report {
    pub(crate) trajectories: Option<Vec<Trajectory>>,
    pub(crate) effort: Effort,
}

impl PendingReport {
    #[cfg(feature = "cuda")]
    pub(crate) fn pending(pending: crate::device::Pending) -> Self {
        Self(State::Pending(Box::new(pending)))
    }

    /// Waits until it is known whether all went well.
    ///
    /// # Errors
    /// Images or starts that are not as [`crate::Attack::craft_from`] wants them, a loss or gradient that is not finite, as
    /// far as only the GPU could tell; its failures.
    pub fn check(self) -> Result<()> {
        self.read().map(drop)
    }

    #[cfg_attr(
        not(feature = "cuda"),
        expect(clippy::unnecessary_wraps, reason = "only a GPU has something to say later")
    )]
    fn read(self) -> Result<Report> {
        match self.0 {
            State::Known(report) => Ok(report),
            #[cfg(feature = "cuda")]
            State::Pending(pending) => pending.finish(),
        }
    }
}

impl Crafted {
    /// Images whose gradient vanished at some query; 0 at epsilon 0.
    pub fn samples_with_vanished_gradient(&self) -> usize {
        let vanished = |trajectory: &&Trajectory| trajectory.vanished_gradients > 0;
        self.trajectories.iter().flatten().filter(vanished).count()
    }
}

/// How one image withstood an evaluation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// The clean image is classified correctly.
    pub clean_correct: bool,
    /// Strict: the clean image and every query are classified correctly.
    pub still_correct: bool,
    /// The query of largest loss is classified correctly.
    ///
    /// With [`crate::BrokenSamples::Leave`] only queries up to the first misclassified one exist, and an
    /// image that was misclassified from the outset has its clean image as the only one.
    pub correct_at_best_loss: bool,
    /// The class predicted at the reported point ([`Evaluation::points`]): the true class exactly where `still_correct`.
    pub prediction: u32,
    /// The loss of the query of largest loss.
    pub best_loss: f64,
    /// Queries whose input gradient was exactly zero, over all restarts; see
    /// [`Trajectory::vanished_gradients`].
    pub vanished_gradients: usize,
}

/// How a batch withstood an evaluation.
#[derive(Debug)]
pub struct Evaluation {
    /// One outcome per image, in the order of the batch.
    pub outcomes: Vec<Outcome>,
    /// Shape, element type and device of the clean images: for a broken image its first misclassified query
    /// (the clean image, if that is it), for any other its query of largest loss.
    pub points: Tensor,
    /// What it cost.
    pub effort: Effort,
}

impl Evaluation {
    /// Numerator of the clean accuracy.
    pub fn clean_correct_count(&self) -> usize {
        self.count(|outcome| outcome.clean_correct)
    }

    /// Numerator of the strict robust accuracy.
    pub fn still_correct_count(&self) -> usize {
        self.count(|outcome| outcome.still_correct)
    }

    /// Numerator of the robust accuracy at the points of largest loss.
    pub fn correct_at_best_loss_count(&self) -> usize {
        self.count(|outcome| outcome.correct_at_best_loss)
    }

    /// Images whose gradient vanished at some query: if there are many, suspect gradient masking.
    pub fn samples_with_vanished_gradient(&self) -> usize {
        self.count(|outcome| outcome.vanished_gradients > 0)
    }

    fn count(&self, holds: impl Fn(&Outcome) -> bool) -> usize {
        self.outcomes.iter().filter(|outcome| holds(outcome)).count()
    }
}
