//! FAB, the fast adaptive boundary attack (Croce and Hein 2020), towards one given class an image: it looks for the misclassified
//! image nearest to the clean one, and knows no radius.
//!
//! Follows the reference (`fab_base.py` of `auto-attack`) without its random starts, which AutoAttack's single run does not
//! make either. Sums over pixels are in f64 here, and an image within the radius of an evaluation leaves the batch.

use rayon::prelude::*;

use crate::Result;
use crate::ball::{Norm, distance};
use crate::element::Element;
use crate::objective::most_likely;
use crate::oracle::Oracle;
use crate::plane::step_to_plane;

/// Largest share of the clean image's own way to the boundary in a step (the reference's alpha_max).
const MOST_FROM_CLEAN: f64 = 0.1;
/// How far a step goes beyond the boundary of the linear model (eta).
const OVERSHOOT: f64 = 1.05;
/// How far a misclassified point is taken back towards the clean image (beta).
const WAY_BACK: f64 = 0.9;
/// Least distance to the boundary that enters the share.
const LEAST_DISTANCE: f64 = 1e-8;

/// An image, and the class it is pushed to.
pub(crate) struct Aimed<'i, T> {
    /// Position in the caller's batch.
    pub(crate) index: usize,
    pub(crate) center: &'i [T],
    pub(crate) label: u32,
    pub(crate) target: u32,
}

/// A misclassified point.
#[derive(Clone, Debug)]
pub(crate) struct Closest<T> {
    /// From the clean image.
    pub(crate) distance: T,
    pub(crate) point: Vec<T>,
    pub(crate) prediction: u32,
}

/// The settings of a search.
#[derive(Clone, Copy)]
pub(crate) struct Fab<T> {
    pub(crate) norm: Norm,
    pub(crate) steps: usize,
    /// A point this near settles its image; `None` to look for nearer ones to the end.
    pub(crate) near_enough: Option<T>,
}

impl<T: Element> Fab<T> {
    /// Returns the closest misclassified point of each image, in their order; `None` where none was found.
    ///
    /// # Errors
    /// Logits and gradients that are not finite; failures of the classifier.
    pub(crate) fn search(
        self,
        oracle: &mut Oracle<'_>,
        images: Vec<Aimed<'_, T>>,
    ) -> Result<Vec<Option<Closest<T>>>> {
        let mut walks: Vec<Walk<'_, T>> = images.into_iter().map(Walk::new).collect();
        for step in 0..self.steps {
            let mut active: Vec<&mut Walk<'_, T>> =
                walks.iter_mut().filter(|walk| !self.is_settled(walk)).collect();
            if active.is_empty() {
                break;
            }
            self.step(oracle, &mut active, step)?;
        }
        Ok(walks.into_iter().map(|walk| walk.closest).collect())
    }

    fn is_settled(self, walk: &Walk<'_, T>) -> bool {
        let near = |limit| walk.closest.as_ref().is_some_and(|closest| closest.distance <= limit);
        self.near_enough.is_some_and(near)
    }

    /// One step of every image, and a look at where it led.
    fn step(self, oracle: &mut Oracle<'_>, active: &mut [&mut Walk<'_, T>], step: usize) -> Result<()> {
        let samples: Vec<usize> = active.iter().map(|walk| walk.aimed.index).collect();
        let pairs: Vec<(u32, u32)> =
            active.iter().map(|walk| (walk.aimed.label, walk.aimed.target)).collect();
        let points = active.iter().map(|walk| walk.point.as_slice());
        let (answers, slopes) = oracle.ask_with_slopes(points, &pairs, &samples, 2 * step)?;
        let pixels = slopes.len() / active.len();
        let rows: Vec<&[T]> = answers.rows().collect();
        active.par_iter_mut().zip(rows).zip(slopes.par_chunks_exact(pixels)).for_each(
            |((walk, row), slopes)| {
                let (label, target) = (walk.aimed.label as usize, walk.aimed.target as usize);
                walk.advance(self.norm, (row[target] - row[label]).to_f64(), slopes);
            },
        );
        let points = active.iter().map(|walk| walk.point.as_slice());
        let answers = oracle.ask(points, &samples, 2 * step + 1)?;
        for (walk, row) in active.iter_mut().zip(answers.rows()) {
            walk.observe(self.norm, most_likely(row) as u32);
        }
        Ok(())
    }
}

/// The search for one image.
struct Walk<'i, T> {
    aimed: Aimed<'i, T>,
    point: Vec<T>,
    closest: Option<Closest<T>>,
}

impl<'i, T: Element> Walk<'i, T> {
    fn new(aimed: Aimed<'i, T>) -> Self {
        let point = aimed.center.to_vec();
        Self { aimed, point, closest: None }
    }

    /// Steps to the boundary of the linear model at the point: mostly from the point, a little from the clean image.
    /// `lead` is by how much the target's logit exceeds the label's there, `slopes` its gradient.
    fn advance(&mut self, norm: Norm, lead: f64, slopes: &[T]) {
        let center = self.aimed.center;
        let offset = self.point.iter().zip(center).zip(slopes);
        let offset: f64 = offset
            .map(|((&pixel, &center), &slope)| (pixel.to_f64() - center.to_f64()) * slope.to_f64())
            .sum();
        let (mut own, mut from_clean) = (Vec::new(), Vec::new());
        step_to_plane(norm, &self.point, slopes, -lead, &mut own);
        step_to_plane(norm, center, slopes, offset - lead, &mut from_clean);
        let length = |change: &[T]| norm.size(change.iter().copied()).to_f64().max(LEAST_DISTANCE);
        let (near, far) = (length(&own), length(&from_clean));
        let share = T::from_f64((near / (near + far)).min(MOST_FROM_CLEAN));
        let overshoot = T::from_f64(OVERSHOOT);
        let changes = own.iter().zip(&from_clean);
        for ((pixel, &center), (&own, &from_clean)) in self.point.iter_mut().zip(center).zip(changes) {
            let (onward, anew) = (*pixel + overshoot * own, center + from_clean * overshoot);
            *pixel = (onward * (T::one() - share) + anew * share).clamp_to_unit();
        }
    }

    /// Takes in what the point is taken for: a misclassified one is kept if it is the closest, and left towards the clean image.
    fn observe(&mut self, norm: Norm, prediction: u32) {
        if prediction == self.aimed.label {
            return;
        }
        let center = self.aimed.center;
        let distance = distance(norm, &self.point, center);
        if self.closest.as_ref().is_none_or(|closest| distance < closest.distance) {
            self.closest = Some(Closest { distance, point: self.point.clone(), prediction });
        }
        let back = T::from_f64(WAY_BACK);
        for (pixel, &center) in self.point.iter_mut().zip(center) {
            *pixel = center + (*pixel - center) * back;
        }
    }
}
