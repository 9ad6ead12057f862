//! Attacks one after the other, each on the images that withstood those before: AutoAttack (Croce and Hein 2020).

use std::fmt;
use std::num::NonZeroUsize;

use candle_core::{DType, Tensor};
use sweep_kernels::Classifier;

use crate::attack::{Attack, Loss};
use crate::ball::{Ball, Norm, Uniform};
use crate::element::Element;
use crate::evaluation::{BrokenSamples, Start};
use crate::fab::{Aimed, Fab};
use crate::host::with_host_slice;
use crate::input::{Input, check_label_count};
use crate::objective::{Objective, most_likely, wrong_class_of_rank};
use crate::oracle::Oracle;
use crate::report::{Effort, Outcome};
use crate::square::{Entrant, Square};
use crate::{Error, Result};

/// Steps of AutoAttack's gradient attacks, and of FAB.
const STEPS: NonZeroUsize = NonZeroUsize::new(100).expect("not zero");
/// Wrong classes that the targeted attacks try, the most likely first; where there are fewer, all of them.
const TARGETS: usize = 9;
/// Queries of the Square attack.
const QUERIES: NonZeroUsize = NonZeroUsize::new(5000).expect("not zero");

/// An attack of a [`Cascade`]. Its name is what [`fmt::Display`] prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// APGD on cross entropy from one random start: `apgd-STEPS-ce`.
    ApgdCrossEntropy {
        /// Number of steps.
        steps: NonZeroUsize,
    },
    /// APGD on the targeted difference of logits ratio towards up to nine wrong classes, from one random start each:
    /// `apgd-STEPS-t`.
    ApgdTargeted {
        /// Number of steps towards each class.
        steps: NonZeroUsize,
    },
    /// FAB towards up to nine wrong classes, from the clean image: `fab-STEPS`.
    Fab {
        /// Number of steps towards each class.
        steps: NonZeroUsize,
    },
    /// The Square attack, which uses no gradients: `square-QUERIES`.
    Square {
        /// Number of queries.
        queries: NonZeroUsize,
    },
}

impl fmt::Display for Stage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ApgdCrossEntropy { steps } => write!(formatter, "apgd-{steps}-ce"),
            Self::ApgdTargeted { steps } => write!(formatter, "apgd-{steps}-t"),
            Self::Fab { steps } => write!(formatter, "fab-{steps}"),
            Self::Square { queries } => write!(formatter, "square-{queries}"),
        }
    }
}

impl Stage {
    /// Returns the fewest classes it is defined for.
    pub const fn needed_classes(self) -> usize {
        match self {
            Self::ApgdCrossEntropy { .. } => 1,
            // Four logits in the denominator.
            Self::ApgdTargeted { .. } => 4,
            Self::Fab { .. } | Self::Square { .. } => 2,
        }
    }

    /// Returns what one image that withstands it costs, in forward passes, a backward pass counted as one, with ten classes
    /// or more.
    pub fn cost(self) -> f64 {
        let count = |count: NonZeroUsize| count.get() as f64;
        match self {
            Self::ApgdCrossEntropy { steps } => 2.0 * count(steps) + 2.0,
            Self::ApgdTargeted { steps } => TARGETS as f64 * (2.0 * count(steps) + 2.0),
            Self::Fab { steps } => TARGETS as f64 * 3.0 * count(steps),
            Self::Square { queries } => count(queries) + 1.0,
        }
    }
}

/// Attacks in l∞ one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cascade {
    stages: Vec<Stage>,
}

/// What became of one image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CascadeOutcome {
    /// Whether the clean image is classified correctly.
    pub clean_correct: bool,
    /// The label where the image withstood everything; else what the clean image or a point near it is taken for.
    pub prediction: u32,
    /// The number of the stage that found a misclassified point.
    pub broken_by: Option<usize>,
}

impl CascadeOutcome {
    /// Whether the clean image and every point that was tried are classified correctly.
    pub const fn still_correct(&self) -> bool {
        self.clean_correct && self.broken_by.is_none()
    }

    /// Whether the clean image and every point that was tried up to the end of that stage are classified correctly.
    pub fn withstood(&self, stage: usize) -> bool {
        self.clean_correct && self.broken_by.is_none_or(|by| by > stage)
    }
}

impl From<&Outcome> for CascadeOutcome {
    /// That of an attack alone.
    fn from(outcome: &Outcome) -> Self {
        let Outcome { clean_correct, still_correct, prediction, .. } = *outcome;
        Self { clean_correct, prediction, broken_by: (clean_correct && !still_correct).then_some(0) }
    }
}

/// The result of [`Cascade::evaluate`].
#[derive(Debug)]
pub struct CascadeEvaluation {
    /// In the order of the batch.
    pub outcomes: Vec<CascadeOutcome>,
    /// Shape, type and device of the images: the misclassified points, and the clean images where none was found.
    pub points: Tensor,
    /// What it cost.
    pub effort: Effort,
}

impl Cascade {
    /// AutoAttack's standard version: APGD on cross entropy, targeted APGD, FAB with 100 steps each, and the Square attack with
    /// 5,000 queries.
    ///
    /// With fewer than ten classes every wrong one is tried, where the reference asks for fewer targets.
    pub fn autoattack() -> Self {
        let (steps, queries) = (STEPS, QUERIES);
        Self {
            stages: vec![
                Stage::ApgdCrossEntropy { steps },
                Stage::ApgdTargeted { steps },
                Stage::Fab { steps },
                Stage::Square { queries },
            ],
        }
    }

    /// One attack alone.
    pub fn only(stage: Stage) -> Self {
        Self { stages: vec![stage] }
    }

    /// Returns the fewest classes it is defined for.
    pub fn needed_classes(&self) -> usize {
        self.stages.iter().map(|stage| stage.needed_classes()).max().unwrap_or(1)
    }

    /// Returns the sum of its attacks' [`Stage::cost`].
    pub fn cost(&self) -> f64 {
        self.stages.iter().map(|stage| stage.cost()).sum()
    }

    /// Its attacks, in order.
    pub fn stages(&self) -> &[Stage] {
        &self.stages
    }

    /// Attacks `images` and says for each whether it is still classified correctly.
    ///
    /// Images, labels and epsilon as in [`Attack::craft`]. `generator` gives the random numbers of (position in the batch,
    /// purpose); let them depend on what the image is, not on where it stands. At epsilon 0 the clean images are classified, and
    /// that is all. That every reported point is an image within epsilon of its own is checked each time. Images and their
    /// bookkeeping are on the host, whatever the device; only APGD keeps its points there.
    ///
    /// # Errors
    /// As [`Attack::evaluate`].
    pub fn evaluate(
        &self,
        model: &dyn Classifier,
        images: &Tensor,
        labels: &[u32],
        epsilon: f64,
        generator: &dyn Fn(usize, usize) -> Uniform,
    ) -> Result<CascadeEvaluation> {
        let job = Job { model, images, epsilon, generator };
        match images.dtype() {
            DType::F32 => self.typed_evaluate::<f32>(&job, labels),
            DType::F64 => self.typed_evaluate::<f64>(&job, labels),
            dtype => Err(Error::ImageType { dtype }),
        }
    }

    fn typed_evaluate<T: Element>(&self, job: &Job<'_>, labels: &[u32]) -> Result<CascadeEvaluation> {
        check_label_count(job.images, labels)?;
        let input = Input::<T>::new(job.images, job.epsilon)?;
        let mut oracle = Oracle::new(job.model, job.images)?;
        let mut ledger = open(&input, labels, &mut oracle)?;
        if job.epsilon > 0.0 {
            for (number, &stage) in self.stages.iter().enumerate() {
                job.run(stage, number, &mut ledger, &mut oracle)?;
            }
        }
        let mut pixels: Vec<T> = Vec::with_capacity(job.images.elem_count());
        for entry in &ledger {
            pixels.extend_from_slice(entry.point.as_deref().unwrap_or(entry.center));
        }
        let points = Tensor::from_vec(pixels, job.images.dims(), job.images.device())?;
        let outcomes = ledger.into_iter().map(|entry| entry.outcome).collect();
        Ok(CascadeEvaluation { outcomes, points, effort: oracle.effort })
    }
}

/// What is asked for.
struct Job<'a> {
    model: &'a dyn Classifier,
    images: &'a Tensor,
    epsilon: f64,
    generator: &'a dyn Fn(usize, usize) -> Uniform,
}

/// What is known about one image.
struct Entry<'i, T> {
    label: u32,
    center: &'i [T],
    clean_logits: Vec<T>,
    point: Option<Vec<T>>,
    outcome: CascadeOutcome,
}

/// A misclassified point of the image in that place of the ledger.
struct Hit<T> {
    index: usize,
    prediction: u32,
    point: Vec<T>,
}

/// Classifies the clean images.
fn open<'i, T: Element>(
    input: &'i Input<T>,
    labels: &[u32],
    oracle: &mut Oracle<'_>,
) -> Result<Vec<Entry<'i, T>>> {
    if labels.is_empty() {
        return Ok(Vec::new());
    }
    let samples: Vec<usize> = (0..labels.len()).collect();
    let centers: Vec<&[T]> = input.centers().collect();
    let answers = oracle.ask(centers.iter().copied(), &samples, 0)?;
    let rows = answers.rows().zip(centers).zip(labels).enumerate();
    rows.map(|(sample, ((row, center), &label))| {
        Objective::CrossEntropy { label }.check(sample, row.len())?;
        let prediction = most_likely(row) as u32;
        let outcome = CascadeOutcome { clean_correct: prediction == label, prediction, broken_by: None };
        Ok(Entry { label, center, clean_logits: row.to_vec(), point: None, outcome })
    })
    .collect()
}

impl Job<'_> {
    /// Runs one stage, target by target where it has any.
    fn run<T: Element>(
        &self,
        stage: Stage,
        number: usize,
        ledger: &mut [Entry<'_, T>],
        oracle: &mut Oracle<'_>,
    ) -> Result<()> {
        let classes = ledger.first().map_or(0, |entry| entry.clean_logits.len());
        let ranks = match stage {
            Stage::ApgdCrossEntropy { .. } | Stage::Square { .. } => 1,
            Stage::ApgdTargeted { .. } | Stage::Fab { .. } => TARGETS.min(classes.saturating_sub(1)),
        };
        for rank in (1..=ranks).filter_map(NonZeroUsize::new) {
            let left: Vec<usize> =
                (0..ledger.len()).filter(|&at| ledger[at].outcome.still_correct()).collect();
            if left.is_empty() {
                return Ok(());
            }
            let hits = match stage {
                Stage::ApgdCrossEntropy { steps } => {
                    let attack = Attack::apgd(Norm::Linf, Loss::CrossEntropy, steps);
                    self.climb(&attack, 0, &left, ledger, oracle)?
                }
                Stage::ApgdTargeted { steps } => {
                    let attack = Attack::apgd(Norm::Linf, Loss::TargetedDlr { rank }, steps);
                    self.climb(&attack, rank.get(), &left, ledger, oracle)?
                }
                Stage::Fab { steps } => self.approach(steps, rank, &left, ledger, oracle)?,
                Stage::Square { queries } => self.guess(queries, &left, ledger, oracle)?,
            };
            for hit in hits {
                self.enter(hit, number, ledger)?;
            }
        }
        Ok(())
    }

    /// A gradient attack from one random start.
    fn climb<T: Element>(
        &self,
        attack: &Attack,
        purpose: usize,
        left: &[usize],
        ledger: &[Entry<'_, T>],
        oracle: &mut Oracle<'_>,
    ) -> Result<Vec<Hit<T>>> {
        let images = oracle.batch(left.iter().map(|&at| ledger[at].center))?;
        let labels: Vec<u32> = left.iter().map(|&at| ledger[at].label).collect();
        let generator = |position: usize, _: usize| (self.generator)(left[position], purpose);
        let start = Start::Random { restarts: NonZeroUsize::MIN, generator: &generator };
        let found =
            attack.evaluate(self.model, &images, &labels, self.epsilon, start, BrokenSamples::Leave)?;
        oracle.effort += found.effort;
        let broken = found.outcomes.iter().zip(left).enumerate().filter(|(_, (one, _))| !one.still_correct);
        with_host_slice(&found.points, |pixels: &[T]| {
            let size = pixels.len() / left.len();
            let hit = |(row, (one, &index)): (usize, (&Outcome, &usize))| Hit {
                index,
                prediction: one.prediction,
                point: pixels[row * size..(row + 1) * size].to_vec(),
            };
            broken.map(hit).collect()
        })
    }

    /// FAB towards the wrong class of `rank`.
    fn approach<T: Element>(
        &self,
        steps: NonZeroUsize,
        rank: NonZeroUsize,
        left: &[usize],
        ledger: &[Entry<'_, T>],
        oracle: &mut Oracle<'_>,
    ) -> Result<Vec<Hit<T>>> {
        let aimed = left.iter().map(|&index| {
            let Entry { label, center, clean_logits, .. } = &ledger[index];
            let target = target(clean_logits, *label, rank)?;
            Ok(Aimed { index, center, label: *label, target })
        });
        let radius = T::from_f64(self.epsilon);
        let fab = Fab { norm: Norm::Linf, steps: steps.get(), near_enough: Some(radius) };
        let found = fab.search(oracle, aimed.collect::<Result<_>>()?)?;
        let near = left.iter().zip(found).filter_map(|(&index, closest)| {
            let closest = closest.filter(|closest| closest.distance <= radius)?;
            Some(Hit { index, prediction: closest.prediction, point: closest.point })
        });
        Ok(near.collect())
    }

    /// The Square attack.
    fn guess<T: Element>(
        &self,
        queries: NonZeroUsize,
        left: &[usize],
        ledger: &[Entry<'_, T>],
        oracle: &mut Oracle<'_>,
    ) -> Result<Vec<Hit<T>>> {
        let entrants = left.iter().map(|&index| Entrant {
            index,
            center: ledger[index].center,
            label: ledger[index].label,
            uniform: (self.generator)(index, TARGETS + 1),
        });
        let square = Square { radius: T::from_f64(self.epsilon), queries: queries.get() };
        let found = square.search(oracle, entrants.collect())?;
        let broken = left.iter().zip(found).filter_map(|(&index, broken)| {
            broken.map(|broken| Hit { index, prediction: broken.prediction, point: broken.point })
        });
        Ok(broken.collect())
    }

    /// Takes a hit down, if it is one.
    fn enter<T: Element>(&self, hit: Hit<T>, number: usize, ledger: &mut [Entry<'_, T>]) -> Result<()> {
        let Hit { index, prediction, point } = hit;
        let entry = &mut ledger[index];
        let ball = Ball { norm: Norm::Linf, center: entry.center, radius: T::from_f64(self.epsilon) };
        if !ball.contains(&point) {
            return Err(Error::OutsideBall { sample: index, epsilon: self.epsilon });
        }
        entry.outcome.prediction = prediction;
        entry.outcome.broken_by = Some(number);
        entry.point = Some(point);
        Ok(())
    }
}

/// The wrong class of `rank` of an image with these clean logits.
fn target<T: Element>(clean_logits: &[T], label: u32, rank: NonZeroUsize) -> Result<u32> {
    let classes = clean_logits.len();
    let needed = rank.get() + 1;
    wrong_class_of_rank(clean_logits, label, rank.get()).ok_or(Error::TooFewClasses { needed, classes })
}

/// A misclassified image near another one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Nearest {
    /// How far it is from the clean image, in the norm.
    pub distance: f64,
    /// What it is taken for.
    pub prediction: u32,
}

/// Looks with FAB for the misclassified images nearest to `images`, towards the wrong class of `rank` of each, whatever their
/// distance; `None` for an image that is misclassified itself, and where none was found. Returns their pixels too, the clean ones
/// where there is none.
///
/// # Errors
/// As [`Cascade::evaluate`]; [`Error::TooFewClasses`].
pub fn nearest_misclassified(
    norm: Norm,
    steps: NonZeroUsize,
    rank: NonZeroUsize,
    model: &dyn Classifier,
    images: &Tensor,
    labels: &[u32],
) -> Result<(Vec<Option<Nearest>>, Tensor)> {
    match images.dtype() {
        DType::F32 => typed_nearest::<f32>(norm, steps, rank, model, images, labels),
        DType::F64 => typed_nearest::<f64>(norm, steps, rank, model, images, labels),
        dtype => Err(Error::ImageType { dtype }),
    }
}

fn typed_nearest<T: Element>(
    norm: Norm,
    steps: NonZeroUsize,
    rank: NonZeroUsize,
    model: &dyn Classifier,
    images: &Tensor,
    labels: &[u32],
) -> Result<(Vec<Option<Nearest>>, Tensor)> {
    check_label_count(images, labels)?;
    let input = Input::<T>::new(images, 0.0)?;
    let mut oracle = Oracle::new(model, images)?;
    let ledger = open(&input, labels, &mut oracle)?;
    let left: Vec<usize> = (0..ledger.len()).filter(|&at| ledger[at].outcome.clean_correct).collect();
    let aimed = left.iter().map(|&index| {
        let Entry { label, center, clean_logits, .. } = &ledger[index];
        Ok(Aimed { index, center, label: *label, target: target(clean_logits, *label, rank)? })
    });
    let fab = Fab { norm, steps: steps.get(), near_enough: None };
    let found = fab.search(&mut oracle, aimed.collect::<Result<_>>()?)?;
    let mut nearest = vec![None; ledger.len()];
    let mut points: Vec<&[T]> = ledger.iter().map(|entry| entry.center).collect();
    for (&index, closest) in left.iter().zip(&found) {
        if let Some(closest) = closest {
            let (distance, prediction) = (closest.distance.to_f64(), closest.prediction);
            nearest[index] = Some(Nearest { distance, prediction });
            points[index] = &closest.point;
        }
    }
    Ok((nearest, oracle.batch(points.into_iter())?))
}
