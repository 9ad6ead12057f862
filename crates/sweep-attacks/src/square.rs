//! The Square attack (Andriushchenko et al. 2020) in l∞: random squares of changed pixels, kept when they lower the margin. It
//! asks for no gradients, so it tells where these mislead.
//!
//! Follows the reference (`square.py` of `auto-attack` with AutoAttack's settings: margin loss, sizes that shrink after fixed
//! numbers of queries) but for its random numbers: every image has its own, so that its outcome depends on no neighbour. As there,
//! no square reaches the last row and column, whose pixels keep their stripes.

use crate::Result;
use crate::ball::{Ball, Norm, Uniform};
use crate::element::Element;
use crate::objective::most_likely;
use crate::oracle::Oracle;

/// Share of the pixels that the first squares cover (AutoAttack's p_init).
const FIRST_SHARE: f64 = 0.8;
/// Queries after which squares cover half as much as before.
const HALVINGS: [usize; 9] = [10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000];

/// An image, and its source of random numbers.
pub(crate) struct Entrant<'i, T> {
    /// Position in the caller's batch.
    pub(crate) index: usize,
    pub(crate) center: &'i [T],
    pub(crate) label: u32,
    pub(crate) uniform: Uniform,
}

/// A misclassified point within the radius.
pub(crate) struct Broken<T> {
    pub(crate) point: Vec<T>,
    pub(crate) prediction: u32,
}

/// The settings of a search.
#[derive(Clone, Copy)]
pub(crate) struct Square<T> {
    pub(crate) radius: T,
    /// After the first one, for stripes.
    pub(crate) queries: usize,
}

impl<T: Element> Square<T> {
    /// Returns a misclassified point of each image, in their order; `None` where none was found.
    ///
    /// # Errors
    /// Logits that are not finite; failures of the classifier.
    pub(crate) fn search(
        self,
        oracle: &mut Oracle<'_>,
        images: Vec<Entrant<'_, T>>,
    ) -> Result<Vec<Option<Broken<T>>>> {
        let dims = oracle.image_dims();
        let mut games: Vec<Game<'_, T>> =
            images.into_iter().map(|image| Game::new(image, self.radius, dims)).collect();
        for query in 0..=self.queries {
            let mut active: Vec<&mut Game<'_, T>> =
                games.iter_mut().filter(|game| game.broken_as.is_none()).collect();
            if active.is_empty() {
                break;
            }
            if let Some(step) = query.checked_sub(1) {
                let side = side_at(step, dims);
                for game in &mut active {
                    game.propose(side, dims);
                }
            }
            let samples: Vec<usize> = active.iter().map(|game| game.image.index).collect();
            let points = active.iter().map(|game| game.proposed.as_slice());
            let answers = oracle.ask(points, &samples, query)?;
            for (game, row) in active.iter_mut().zip(answers.rows()) {
                game.observe(row);
            }
        }
        Ok(games.into_iter().map(Game::end).collect())
    }
}

/// Side of the squares of step `step`, in pixels; an image has `dims`.
fn side_at(step: usize, [_, rows, columns]: [usize; 3]) -> usize {
    let halvings = HALVINGS.iter().filter(|&&after| step > after).count();
    let share = FIRST_SHARE / f64::from(1_u32 << halvings);
    let side = (share * (rows * columns) as f64).sqrt().round() as usize;
    side.max(1).min(rows.min(columns))
}

/// What is known about one image.
struct Game<'i, T> {
    image: Entrant<'i, T>,
    radius: T,
    /// What is asked next, or was asked last.
    proposed: Vec<T>,
    /// The point that squares are added to, and its margin: the label's logit minus the largest other one.
    accepted: Option<(Vec<T>, T)>,
    broken_as: Option<u32>,
}

impl<'i, T: Element> Game<'i, T> {
    /// Begins with stripes: each column of each channel is changed by the radius, up or down.
    fn new(mut image: Entrant<'i, T>, radius: T, [channels, rows, columns]: [usize; 3]) -> Self {
        let stripes: Vec<T> = (0..channels * columns).map(|_| image.sign()).collect();
        let ball = Ball { norm: Norm::Linf, center: image.center, radius };
        let mut proposed = image.center.to_vec();
        for (place, pixel) in proposed.iter_mut().enumerate() {
            let (channel, column) = (place / (rows * columns), place % columns);
            *pixel += radius * stripes[channel * columns + column];
        }
        ball.project(&mut proposed);
        Self { image, radius, proposed, accepted: None, broken_as: None }
    }

    /// Proposes the accepted point with one more square, each of whose channels is changed by twice the radius, as far as the
    /// ball and the range of pixels let it.
    fn propose(&mut self, side: usize, [channels, rows, columns]: [usize; 3]) {
        if let Some((point, _)) = &self.accepted {
            self.proposed.clone_from(point);
        }
        let (top, left) = (self.image.below((rows - side).max(1)), self.image.below((columns - side).max(1)));
        let ball = |center| Ball { norm: Norm::Linf, center, radius: self.radius };
        for channel in 0..channels {
            let change = (self.radius + self.radius) * self.image.sign();
            for row in top..top + side {
                let begin = (channel * rows + row) * columns + left;
                let line = &mut self.proposed[begin..begin + side];
                for pixel in line.iter_mut() {
                    *pixel += change;
                }
                ball(&self.image.center[begin..begin + side]).project(line);
            }
        }
    }

    /// Accepts what was proposed if it lowers the margin, and is done when it is misclassified.
    fn observe(&mut self, logits: &[T]) {
        let label = self.image.label as usize;
        let prediction = most_likely(logits);
        if prediction != label {
            self.broken_as = Some(prediction as u32);
            return;
        }
        let others = logits.iter().enumerate().filter(|(class, _)| *class != label);
        let rival = others.fold(None, |rival: Option<T>, (_, &logit)| {
            Some(rival.map_or(logit, |rival| rival.maximum(logit)))
        });
        let Some(margin) = rival.map(|rival| logits[label] - rival) else { return };
        if self.accepted.as_ref().is_none_or(|(_, least)| margin < *least) {
            self.accepted = Some((self.proposed.clone(), margin));
        }
    }

    fn end(self) -> Option<Broken<T>> {
        let Self { proposed: point, broken_as, .. } = self;
        broken_as.map(|prediction| Broken { point, prediction })
    }
}

impl<T: Element> Entrant<'_, T> {
    /// -1 or 1, equally likely.
    fn sign(&mut self) -> T {
        if (self.uniform)() < 0.5 { T::zero() - T::one() } else { T::one() }
    }

    /// One of the numbers below `count`, equally likely.
    fn below(&mut self, count: usize) -> usize {
        (((self.uniform)() * count as f64) as usize).min(count - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On images of 32 pixels: 0.8 · 1024 = 819.2, whose root is 28.6, and so on.
    #[test]
    fn squares_shrink_as_in_the_reference() {
        let steps = [0, 10, 11, 50, 51, 200, 201, 500, 501, 1000, 1001, 2000, 2001, 4000, 4001, 4999];
        let found = steps.map(|step| side_at(step, [3, 32, 32]));
        assert_eq!(found, [29, 29, 20, 20, 14, 14, 10, 10, 7, 7, 5, 5, 4, 4, 3, 3]);
        assert_eq!(side_at(0, [1, 4, 9]), 4, "no larger than the image");
    }

    #[test]
    fn squares_reach_all_but_the_last_row_and_column_and_stay_in_the_ball() {
        let center = vec![0.5_f64; 2 * 4 * 5];
        let mut state = 1_u64;
        let uniform: Uniform = Box::new(move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1_u64 << 53) as f64
        });
        let image = Entrant { index: 0, center: &center, label: 0, uniform };
        let mut game = Game::new(image, 0.1, [2, 4, 5]);
        assert!(game.proposed.iter().all(|pixel| (pixel - 0.5).abs() > 0.0999));
        game.accepted = Some((center.clone(), 1.0));
        let mut touched = vec![false; center.len()];
        for _ in 0..200 {
            game.propose(2, [2, 4, 5]);
            let changed: Vec<bool> = game.proposed.iter().map(|pixel| *pixel != 0.5).collect();
            assert_eq!(changed.iter().filter(|changed| **changed).count(), 8);
            assert!(game.proposed.iter().all(|pixel| (pixel - 0.5).abs() <= 0.1 + 1e-12));
            touched.iter_mut().zip(changed).for_each(|(touched, changed)| *touched |= changed);
        }
        for (place, touched) in touched.into_iter().enumerate() {
            let (row, column) = (place / 5 % 4, place % 5);
            assert_eq!(touched, row < 3 && column < 4, "row {row}, column {column}");
        }
    }
}
