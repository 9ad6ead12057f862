//! Measuring finished models: `sweep evaluate`. Accuracy of any checkpoint on a complete split, clean and under attack,
//! with what became of every image. The same strict count as at the end of a run: an image counts if its clean version
//! and every point that the attack visited are classified correctly.

mod attack;
mod log;
mod subject;

use std::num::NonZeroUsize;
use std::time::Instant;

use sweep_core::epsilon::Epsilon;
use sweep_core::metrics::Count;
use sweep_data::{Batch, Split};
use sweep_kernels::Uploads;

pub(crate) use self::attack::Tested;
pub use self::attack::{NamedAttack, ParseAttackError};
pub use self::log::{MeasurementLog, measurements};
pub use self::subject::Subject;
use crate::stop::Stop;
use crate::{Error, Result, compute};

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub struct Measurement<'a> {
    /// The network.
    pub subject: &'a Subject,
    /// The images: every one of them, in order.
    pub split: &'a Split,
    /// The attack; at radius 0 there is none.
    pub attack: &'a NamedAttack,
    /// Images a forward pass. Results differ by rounding only.
    pub batch_size: NonZeroUsize,
    /// Of the attack's random numbers, where it draws any.
    pub seed: u64,
}

/// What became of one image at one radius.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The true class.
    pub label: u32,
    /// The class predicted: the true one, or that of the first misclassified point.
    pub prediction: u32,
}

impl Outcome {
    /// Returns whether the image withstood everything.
    pub const fn is_correct(self) -> bool {
        self.label == self.prediction
    }
}

/// The accuracy at one radius.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// The radius.
    pub epsilon: Epsilon,
    /// Images that withstood the attack.
    pub robust: Count,
    /// Images whose clean version is classified correctly, as counted in the same pass: at every radius the same.
    pub clean: Count,
    /// Where several attacks follow each other: the name of each, and the images that it left, in order.
    pub left: Vec<(String, u32)>,
    /// One entry an image, in the order of the split.
    pub outcomes: Vec<Outcome>,
    /// Seconds it took.
    pub seconds: f64,
}

/// How far a measurement is within one radius.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Images done.
    pub done: u32,
    /// Images.
    pub total: u32,
}

/// Makes the pools that everything in this process computes in; once, before anything is measured.
///
/// # Errors
/// [`Error::Threads`] if the operating system gives no threads, or a pool exists already.
pub fn use_threads(threads: usize) -> Result<()> {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().map_err(Error::Threads)
}

/// Measures accuracy at one radius; `None` if `stop` asked to leave before every image was done.
///
/// Each radius is attacked on its own (paper, D). That every point lies within the ball and the range of pixels is checked
/// as it is found.
///
/// # Errors
/// Whatever the data, the model or the attack fails with; numbers that are not finite.
pub fn measure(
    measurement: Measurement<'_>,
    epsilon: Epsilon,
    stop: &Stop,
    progress: &mut dyn FnMut(Progress),
) -> Result<Option<Point>> {
    let begin = Instant::now();
    let total = measurement.split.len();
    let mut outcomes = Vec::with_capacity(total as usize);
    let stages = measurement.attack.stages();
    let mut left: Vec<(String, u32)> = stages.into_iter().map(|stage| (stage, 0)).collect();
    let (mut clean, mut uploads) = (0, Uploads::new());
    for batch in measurement.split.batches_in_order(measurement.batch_size)? {
        if stop.is_requested() {
            return Ok(None);
        }
        let Batch { images: pixels, labels, indices } = batch?;
        let images = compute::images(
            &mut uploads,
            pixels,
            measurement.split.image_size(),
            measurement.subject.device(),
        )?;
        let Measurement { subject, attack, seed, .. } = measurement;
        let batch = Tested { images: &images, labels: &labels, indices: &indices };
        let found = attack.test(subject.model(), batch, epsilon, seed)?;
        for (stage, (_, left)) in left.iter_mut().enumerate() {
            *left += found.iter().filter(|one| one.withstood(stage)).count() as u32;
        }
        clean += found.iter().filter(|one| one.clean_correct).count() as u32;
        let labelled = found.iter().zip(&labels);
        outcomes.extend(labelled.map(|(one, label)| Outcome { label: *label, prediction: one.prediction }));
        progress(Progress { done: outcomes.len() as u32, total });
    }
    let correct = outcomes.iter().filter(|outcome| outcome.is_correct()).count() as u32;
    let count = |correct| Count { correct, total };
    let (robust, clean) = (count(correct), count(clean));
    Ok(Some(Point { epsilon, robust, clean, left, outcomes, seconds: begin.elapsed().as_secs_f64() }))
}
