//! APGD's step size for one image: halved when progress oscillates or stalls.

use crate::element::Element;

/// A window counts as oscillating unless more than this share of its steps increased the loss (rho in paper
/// section D).
const REQUIRED_SHARE_OF_INCREASES: f64 = 0.75;

/// Step size and the history that decides about it.
#[derive(Debug)]
pub(crate) struct StepControl<T> {
    size: T,
    /// Loss after each step; zero where no step has been made yet.
    losses: Vec<T>,
    halved_at_last_check: bool,
    best_loss_at_last_check: T,
}

impl<T: Element> StepControl<T> {
    pub(crate) fn new(size: T, steps: usize) -> Self {
        Self {
            size,
            losses: vec![T::zero(); steps],
            // Set although nothing was halved yet: the first check can see an oscillation but not a stall, so
            // that it never reads the loss below.
            halved_at_last_check: true,
            best_loss_at_last_check: T::zero(),
        }
    }

    pub(crate) fn size(&self) -> T {
        self.size
    }

    pub(crate) fn record(&mut self, step: usize, loss: T) {
        self.losses[step] = loss;
    }

    /// Closes a window of `window` steps that ends with `step`. Halves the step size and says `true` where
    /// the search must go back to its best point.
    pub(crate) fn check(&mut self, step: usize, window: usize, best_loss: T) -> bool {
        let oscillates = self.increases(step, window) as f64 <= window as f64 * REQUIRED_SHARE_OF_INCREASES;
        let stalls = !self.halved_at_last_check && self.best_loss_at_last_check >= best_loss;
        self.halved_at_last_check = oscillates || stalls;
        self.best_loss_at_last_check = best_loss;
        if self.halved_at_last_check {
            self.size /= T::one() + T::one();
        }
        self.halved_at_last_check
    }

    fn increases(&self, last_step: usize, window: usize) -> usize {
        (0..window)
            .filter(|back| {
                let step = last_step - back;
                self.losses[step] > self.losses[self.step_before(step)]
            })
            .count()
    }

    /// The reference keeps no start loss in this history: what precedes the first step is the last entry,
    /// which is still zero then. With cross entropy, whose losses are positive, the first step thus always
    /// counts as an increase; with DLR it rarely does.
    fn step_before(&self, step: usize) -> usize {
        (step + self.losses.len() - 1) % self.losses.len()
    }
}

#[cfg(test)]
mod tests {
    use super::StepControl;

    fn after(losses: &[f32]) -> StepControl<f32> {
        let mut control = StepControl::new(1.0, 10);
        for (step, &loss) in losses.iter().enumerate() {
            control.record(step, loss);
        }
        control
    }

    #[test]
    fn steady_progress_keeps_the_step_size() {
        let mut control = after(&[1.0, 2.0, 3.0, 4.0]);
        assert!(!control.check(3, 4, 4.0));
        assert!((control.size() - 1.0).abs() < f32::EPSILON);
    }

    #[test]
    fn three_increases_out_of_four_are_an_oscillation() {
        let mut control = after(&[1.0, 2.0, 3.0, 2.5]);
        assert!(control.check(3, 4, 3.0));
        assert!((control.size() - 0.5).abs() < f32::EPSILON);
    }

    #[test]
    fn the_first_step_counts_as_an_increase_from_zero() {
        assert!(!after(&[0.1]).check(0, 1, 5.0), "positive loss");
        assert!(after(&[-0.1]).check(0, 1, -0.1), "negative loss");
    }

    #[test]
    fn the_first_check_cannot_stall() {
        // Four increases out of five; no loss is as large as the zero that stands for the loss at an earlier
        // check.
        assert!(!after(&[-5.0, -4.0, -3.0, -2.0, -1.0]).check(4, 5, -1.0));
    }

    #[test]
    fn a_stall_needs_an_earlier_check_that_did_not_halve() {
        // Loss rises within each window, yet the best loss stays where the start had put it.
        let mut control = after(&[1.0, 2.0, 3.0]);
        assert!(!control.check(0, 1, 9.0), "the first check cannot stall");
        assert!(control.check(1, 1, 9.0), "no better than at the last check");
        assert!(!control.check(2, 1, 9.0), "never twice in a row");
    }
}
