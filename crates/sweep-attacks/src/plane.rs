//! The nearest point of a hyperplane within the unit box: the geometry of FAB.

use crate::ball::Norm;
use crate::element::Element;

/// Writes to `change` the smallest change of `point` (pixels in [0, 1]), measured in `norm`, whose product with `normal` is
/// `needed` and that leaves every pixel in [0, 1]. Where the box ends before the plane does, the change that comes nearest to it:
/// every pixel that matters at the end of its range.
///
/// A pixel moves along its slope, by λ in l∞ and by λ·|slope| in l2, until its range ends (Croce and Hein 2020, appendix A).
/// What the pixels reach together is concave and piecewise linear in λ, so Newton's steps from below come to the solution, each
/// with at least one more pixel at its end, and need no sorting.
pub(crate) fn step_to_plane<T: Element>(
    norm: Norm,
    point: &[T],
    normal: &[T],
    needed: f64,
    change: &mut Vec<T>,
) {
    let way = Way { norm, is_up: needed > 0.0 };
    let lambda = way.solve(point, normal, needed.abs());
    change.clear();
    change.extend(point.iter().zip(normal).map(|(&pixel, &slope)| {
        let pixel = way.pixel(pixel, slope);
        T::from_f64(pixel.sign * (lambda * pixel.speed).min(pixel.room))
    }));
}

/// How all pixels of one image move.
#[derive(Clone, Copy)]
struct Way {
    norm: Norm,
    /// Whether the product with the normal is to grow.
    is_up: bool,
}

/// How one pixel moves.
struct Pixel {
    /// Magnitude of the slope.
    weight: f64,
    /// Which way; 0 without a slope.
    sign: f64,
    /// Its change for λ = 1, if its range allows.
    speed: f64,
    /// The change at which its range ends.
    room: f64,
}

impl Way {
    fn pixel<T: Element>(self, pixel: T, slope: T) -> Pixel {
        let (pixel, slope) = (pixel.to_f64(), slope.to_f64());
        let weight = slope.abs();
        let sign = match (slope > 0.0) == self.is_up {
            _ if weight == 0.0 => 0.0,
            true => 1.0,
            false => -1.0,
        };
        let room = if sign > 0.0 { 1.0 - pixel } else { pixel };
        let speed = match self.norm {
            Norm::Linf => 1.0,
            Norm::L2 => weight,
        };
        Pixel { weight, sign, speed, room }
    }

    /// The λ at which the product has changed by `needed`; infinite if it cannot.
    fn solve<T: Element>(self, point: &[T], normal: &[T], needed: f64) -> f64 {
        let (mut lambda, mut at_their_end) = (0.0, None);
        loop {
            // What pixels at the end of their range have reached, and what the others reach per unit of λ.
            let (mut reached, mut rate, mut ended) = (0.0, 0.0, 0);
            for (&pixel, &slope) in point.iter().zip(normal) {
                let Pixel { weight, speed, room, .. } = self.pixel(pixel, slope);
                if lambda * speed >= room && at_their_end.is_some() {
                    reached += weight * room;
                    ended += 1;
                } else {
                    rate += weight * speed;
                }
            }
            if at_their_end == Some(ended) {
                return lambda;
            }
            if rate == 0.0 {
                return f64::INFINITY;
            }
            (lambda, at_their_end) = ((needed - reached) / rate, Some(ended));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn size(norm: Norm, change: &[f64]) -> f64 {
        match norm {
            Norm::Linf => change.iter().fold(0.0, |largest, entry| entry.abs().max(largest)),
            Norm::L2 => change.iter().map(|entry| entry * entry).sum::<f64>().sqrt(),
        }
    }

    fn product(a: &[f64], b: &[f64]) -> f64 {
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }

    /// The change by bisection over λ, the slow way.
    fn by_bisection(norm: Norm, point: &[f64], normal: &[f64], needed: f64) -> Vec<f64> {
        let change_at = |lambda: f64| -> Vec<f64> {
            let move_pixel = |(&pixel, &slope): (&f64, &f64)| {
                let speed = if norm == Norm::Linf { 1.0 } else { slope.abs() };
                let step = lambda * speed * slope.signum() * needed.signum();
                (pixel + step).clamp(0.0, 1.0) - pixel
            };
            point.iter().zip(normal).map(move_pixel).collect()
        };
        let (mut low, mut high) = (0.0, 1e9);
        for _ in 0..200 {
            let middle = 0.5 * (low + high);
            let is_short = product(&change_at(middle), normal).abs() < needed.abs();
            (low, high) = if is_short { (middle, high) } else { (low, middle) };
        }
        change_at(high)
    }

    fn norms() -> impl Strategy<Value = Norm> {
        prop_oneof![Just(Norm::Linf), Just(Norm::L2)]
    }

    proptest! {
        #[test]
        fn the_change_is_that_of_a_bisection(
            norm in norms(),
            point in proptest::collection::vec(0.0..=1.0_f64, 9),
            normal in proptest::collection::vec(prop_oneof![-2.0..-0.05_f64, 0.05..2.0_f64], 9),
            needed in -6.0..6.0_f64,
        ) {
            let mut change = Vec::new();
            step_to_plane(norm, &point, &normal, needed, &mut change);
            let expected = by_bisection(norm, &point, &normal, needed);
            for (found, expected) in change.iter().zip(&expected) {
                prop_assert!((found - expected).abs() < 1e-6, "{change:?} instead of {expected:?}");
            }
        }

        #[test]
        fn the_plane_is_met_within_the_box_and_no_rival_is_nearer(
            norm in norms(),
            point in proptest::collection::vec(0.0..=1.0_f64, 9),
            rival in proptest::collection::vec(0.0..=1.0_f64, 9),
            normal in proptest::collection::vec(prop_oneof![Just(0.0), -2.0..2.0_f64], 9),
        ) {
            // A plane that a point of the box lies in.
            let way: Vec<f64> = rival.iter().zip(&point).map(|(to, from)| to - from).collect();
            let needed = product(&way, &normal);
            let mut change = Vec::new();
            step_to_plane(norm, &point, &normal, needed, &mut change);
            prop_assert!((product(&change, &normal) - needed).abs() < 1e-9);
            prop_assert!(size(norm, &change) <= size(norm, &way) + 1e-9);
            for ((change, pixel), slope) in change.iter().zip(&point).zip(&normal) {
                prop_assert!((-1e-12..=1.0 + 1e-12).contains(&(pixel + change)));
                prop_assert!(*slope != 0.0 || *change == 0.0);
            }
        }
    }

    #[test]
    fn a_plane_outside_the_box_is_approached() {
        for norm in [Norm::Linf, Norm::L2] {
            let mut change = Vec::new();
            step_to_plane(norm, &[0.25_f32, 0.5, 0.75], &[1.0, -2.0, 0.0], 100.0, &mut change);
            assert_eq!(change, [0.75, -0.5, 0.0]);
            step_to_plane(norm, &[0.25_f32], &[0.0], 1.0, &mut change);
            assert_eq!(change, [0.0]);
        }
    }
}
