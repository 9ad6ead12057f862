//! The set of images an attack may return, and the moves inside it.
//!
//! All arithmetic follows the reference operation by operation; what it writes as a dozen tensor operations
//! is one pass over the pixels here (a few for l2, whose norms must be known first).

use candle_core::{DType, Tensor};
use rayon::prelude::*;

use crate::element::Element;
use crate::input::Input;
use crate::{Error, Result};

/// Added to norms before dividing by them (the reference's constant).
const NORM_STABILITY: f64 = 1e-12;

/// How the size of a perturbation is measured, over all pixels and channels of one image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norm {
    /// Largest absolute change of a pixel.
    Linf,
    /// Euclidean length of the change.
    L2,
}

impl Norm {
    /// The size of a perturbation with these entries.
    pub(crate) fn size<T: Element>(self, entries: impl Iterator<Item = T>) -> T {
        match self {
            Self::Linf => largest_magnitude(entries),
            Self::L2 => length(entries),
        }
    }
}

/// How far two images are apart.
pub(crate) fn distance<T: Element>(norm: Norm, one: &[T], other: &[T]) -> T {
    norm.size(one.iter().zip(other).map(|(&a, &b)| a - b))
}

/// Source of numbers drawn uniformly from [0, 1).
pub type Uniform = Box<dyn FnMut() -> f64>;

/// All images within `radius` of `center` that are images: pixels in [0, 1].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ball<'a, T> {
    pub(crate) norm: Norm,
    pub(crate) center: &'a [T],
    pub(crate) radius: T,
}

/// One move along the gradient.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Move<T> {
    pub(crate) step_size: T,
    /// Share of the new gradient step, the rest continuing the last move; `None` for a plain projected step,
    /// which unlike a share of 1 has no second rounding.
    pub(crate) gradient_share: Option<T>,
}

impl<T: Element> Ball<'_, T> {
    /// Moves from `point` along `gradient` and projects. `previous`, the point before `point`, is overwritten
    /// by the result.
    pub(crate) fn advance(&self, motion: Move<T>, point: &[T], previous: &mut [T], gradient: &[T]) {
        match self.norm {
            Norm::Linf => self.advance_linf(motion, point, previous, gradient),
            Norm::L2 => self.advance_l2(motion, point, previous, gradient),
        }
        debug_assert!(self.contains(previous), "an iterate left the ball or the unit box");
    }

    fn advance_linf(&self, motion: Move<T>, point: &[T], previous: &mut [T], gradient: &[T]) {
        let pixels = previous.iter_mut().zip(point).zip(gradient).zip(self.center);
        for (((slot, &at), &slope), &center) in pixels {
            let range = PixelRange::around(center, self.radius);
            let stepped = range.project(at + motion.step_size * slope.sign());
            *slot = match motion.gradient_share {
                None => stepped,
                Some(share) => range.project(blend(share, at, stepped, *slot)),
            };
        }
    }

    fn advance_l2(&self, motion: Move<T>, point: &[T], previous: &mut [T], gradient: &[T]) {
        let slope_length = length(gradient.iter().copied()) + T::from_f64(NORM_STABILITY);
        let step = |at: T, slope: T| at + motion.step_size * (slope / slope_length);
        let offsets = point.iter().zip(gradient).zip(self.center);
        let shrink =
            Shrink::new(offsets.map(|((&at, &slope), &center)| step(at, slope) - center), self.radius);

        let pixels = previous.iter_mut().zip(point).zip(gradient).zip(self.center);
        for (((slot, &at), &slope), &center) in pixels {
            let stepped = shrink.project(step(at, slope), center);
            *slot = match motion.gradient_share {
                None => stepped,
                Some(share) => blend(share, at, stepped, *slot),
            };
        }
        if motion.gradient_share.is_some() {
            self.project(previous);
        }
    }

    /// Replaces `point` by an admissible one: for l∞ the nearest; for l2 scaled back to the ball, then
    /// clamped to [0, 1].
    pub(crate) fn project(&self, point: &mut [T]) {
        match self.norm {
            Norm::Linf => {
                for (pixel, &center) in point.iter_mut().zip(self.center) {
                    *pixel = PixelRange::around(center, self.radius).project(*pixel);
                }
            }
            Norm::L2 => {
                let offsets = point.iter().zip(self.center).map(|(&pixel, &center)| pixel - center);
                let shrink = Shrink::new(offsets, self.radius);
                for (pixel, &center) in point.iter_mut().zip(self.center) {
                    *pixel = shrink.project(*pixel, center);
                }
            }
        }
    }

    /// Whether `point` is admissible, up to the rounding of sums like center + radius.
    pub(crate) fn contains(&self, point: &[T]) -> bool {
        let in_box = point.iter().all(|&pixel| pixel >= T::zero() && pixel <= T::one());
        let size = distance(self.norm, point, self.center);
        in_box && is_within(self.norm, size, self.radius, point.len())
    }

    /// A random admissible point: l∞ a uniform perturbation scaled so that its largest entry is the radius,
    /// l2 a uniformly distributed direction at the radius; then clamped to [0, 1].
    pub(crate) fn random_point(&self, uniform: &mut dyn FnMut() -> f64) -> Vec<T> {
        let count = self.center.len();
        let direction = match self.norm {
            Norm::Linf => uniform_entries::<T>(count, uniform),
            Norm::L2 => normal_entries::<T>(count, uniform),
        };
        let size = self.norm.size(direction.iter().copied()) + T::from_f64(NORM_STABILITY);
        let perturb = |(&center, entry): (&T, T)| (center + self.radius * (entry / size)).clamp_to_unit();
        self.center.iter().zip(direction).map(perturb).collect()
    }
}

/// Whether a perturbation of `pixels` pixels and this `size` is admissible, up to rounding.
pub(crate) fn is_within<T: Element>(norm: Norm, size: T, radius: T, pixels: usize) -> bool {
    // Each pixel is off by at most the spacing of numbers near one; l2 adds up to √pixels of that, and the rounding of its
    // own scale factor.
    let (rounding, radius) = (T::SPACING_AT_ONE.to_f64(), radius.to_f64());
    let slack = match norm {
        Norm::Linf => rounding,
        Norm::L2 => rounding * ((pixels as f64).sqrt() + 4.0 * radius),
    };
    size.to_f64() <= radius + slack
}

/// share of (stepped − at) plus the rest of (at − before), added to `at`; in the reference's order.
fn blend<T: Element>(share: T, at: T, stepped: T, before: T) -> T {
    at + (stepped - at) * share + (at - before) * (T::one() - share)
}

/// What one pixel may be in the l∞ ball.
struct PixelRange<T> {
    low: T,
    high: T,
}

impl<T: Element> PixelRange<T> {
    fn around(center: T, radius: T) -> Self {
        Self { low: center - radius, high: center + radius }
    }

    fn project(&self, pixel: T) -> T {
        pixel.maximum(self.low).minimum(self.high).clamp_to_unit()
    }
}

/// Scaling back of one perturbation to an l2 ball. Inside the ball it changes nothing but the last bits.
struct Shrink<T> {
    length: T,
    allowed: T,
}

impl<T: Element> Shrink<T> {
    fn new(offsets: impl Iterator<Item = T>, radius: T) -> Self {
        let length = length(offsets);
        Self { length: length + T::from_f64(NORM_STABILITY), allowed: radius.minimum(length) }
    }

    fn project(&self, pixel: T, center: T) -> T {
        (center + (pixel - center) / self.length * self.allowed).clamp_to_unit()
    }
}

/// Summed in f64 and in pixel order, so that it depends on nothing but the numbers.
fn length<T: Element>(entries: impl Iterator<Item = T>) -> T {
    let squares: f64 = entries.map(|entry| entry.to_f64() * entry.to_f64()).sum();
    T::from_f64(squares.sqrt())
}

fn largest_magnitude<T: Element>(entries: impl Iterator<Item = T>) -> T {
    entries.fold(T::zero(), |largest, entry| largest.maximum(entry.magnitude()))
}

fn uniform_entries<T: Element>(count: usize, uniform: &mut dyn FnMut() -> f64) -> Vec<T> {
    (0..count).map(|_| T::from_f64(2.0 * uniform() - 1.0)).collect()
}

/// Standard normal numbers, two from each pair of uniform ones (Box and Muller 1958).
fn normal_entries<T: Element>(count: usize, uniform: &mut dyn FnMut() -> f64) -> Vec<T> {
    let pairs = (0..count.div_ceil(2)).flat_map(|_| {
        // 1 − u lies in (0, 1], where the logarithm is finite.
        let radius = (-2.0 * (1.0 - uniform()).ln()).sqrt();
        let (sine, cosine) = (std::f64::consts::TAU * uniform()).sin_cos();
        [radius * cosine, radius * sine]
    });
    pairs.take(count).map(T::from_f64).collect()
}

/// Random start points around `images` (N, 3, H, W; f32 or f64; pixels in [0, 1]), as the reference's random
/// start draws them.
///
/// `generator(sample)` gives the source of numbers of the image at that position; make it a function of what the
/// image is, not of where it stands, and the points do not depend on the composition of the batch.
///
/// # Errors
/// Images that are not images, epsilon negative or not finite.
pub fn random_start(
    norm: Norm,
    images: &Tensor,
    epsilon: f64,
    generator: &(dyn Fn(usize) -> Uniform + Sync),
) -> Result<Tensor> {
    match images.dtype() {
        DType::F32 => typed_random_start::<f32>(norm, images, epsilon, generator),
        DType::F64 => typed_random_start::<f64>(norm, images, epsilon, generator),
        dtype => Err(Error::ImageType { dtype }),
    }
}

fn typed_random_start<T: Element>(
    norm: Norm,
    images: &Tensor,
    epsilon: f64,
    generator: &(dyn Fn(usize) -> Uniform + Sync),
) -> Result<Tensor> {
    start_points(images, epsilon, |sample, center| {
        let ball = Ball { norm, center, radius: T::from_f64(epsilon) };
        ball.random_point(&mut *generator(sample))
    })
}

/// Makes a point of each image, given its position and its pixels.
fn start_points<T: Element>(
    images: &Tensor,
    epsilon: f64,
    point: impl Fn(usize, &[T]) -> Vec<T> + Sync,
) -> Result<Tensor> {
    let input = Input::<T>::new(images, epsilon)?;
    let centers: Vec<&[T]> = input.centers().collect();
    let points: Vec<Vec<T>> =
        centers.par_iter().enumerate().map(|(sample, center)| point(sample, center)).collect();
    Ok(Tensor::from_vec(points.concat(), images.dims(), images.device())?)
}

/// Start points near `images` (N, 3, H, W; f32 or f64; pixels in \[0, 1\]): normal noise of standard deviation
/// `deviation` on every pixel, projected to the ball of `epsilon` and the unit box. TRADES' own program starts so, with
/// 0.001 (Zhang et al. 2019); `generator` as in [`random_start`].
///
/// # Errors
/// Images that are not images, epsilon negative or not finite.
pub fn gaussian_start(
    norm: Norm,
    images: &Tensor,
    deviation: f64,
    epsilon: f64,
    generator: &(dyn Fn(usize) -> Uniform + Sync),
) -> Result<Tensor> {
    match images.dtype() {
        DType::F32 => typed_gaussian_start::<f32>(norm, images, deviation, epsilon, generator),
        DType::F64 => typed_gaussian_start::<f64>(norm, images, deviation, epsilon, generator),
        dtype => Err(Error::ImageType { dtype }),
    }
}

fn typed_gaussian_start<T: Element>(
    norm: Norm,
    images: &Tensor,
    deviation: f64,
    epsilon: f64,
    generator: &(dyn Fn(usize) -> Uniform + Sync),
) -> Result<Tensor> {
    start_points(images, epsilon, |sample, center| {
        let noise = normal_entries::<T>(center.len(), &mut *generator(sample));
        let shift = |(&pixel, entry): (&T, T)| pixel + T::from_f64(deviation) * entry;
        let mut point: Vec<T> = center.iter().zip(noise).map(shift).collect();
        Ball { norm, center, radius: T::from_f64(epsilon) }.project(&mut point);
        point
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Projecting twice repeats a rounding, of pixels near one in f64.
    const PROJECTION_TOLERANCE: f64 = 1e-11;

    fn norms() -> impl Strategy<Value = Norm> {
        prop_oneof![Just(Norm::Linf), Just(Norm::L2)]
    }

    fn pixels(range: std::ops::Range<f64>) -> impl Strategy<Value = Vec<f64>> {
        proptest::collection::vec(range, 12)
    }

    fn distance(a: &[f64], b: &[f64]) -> f64 {
        super::distance(Norm::Linf, a, b)
    }

    proptest! {
        #[test]
        fn projections_land_inside_and_stay(
            norm in norms(),
            center in pixels(0.0..1.0),
            mut point in pixels(-2.0..3.0),
            radius in 0.0..2.0,
        ) {
            let ball = Ball { norm, center: &center, radius };
            ball.project(&mut point);
            prop_assert!(ball.contains(&point));
            let once = point.clone();
            ball.project(&mut point);
            prop_assert!(distance(&once, &point) < PROJECTION_TOLERANCE);
        }

        #[test]
        fn f32_projections_land_inside(
            norm in norms(),
            center in pixels(0.0..1.0),
            point in pixels(-2.0..3.0),
            radius in 0.0..2.0_f32,
        ) {
            let narrow = |numbers: Vec<f64>| numbers.into_iter().map(|number| number as f32).collect::<Vec<_>>();
            let (center, mut point) = (narrow(center), narrow(point));
            let ball = Ball { norm, center: &center, radius };
            ball.project(&mut point);
            prop_assert!(ball.contains(&point));
        }

        #[test]
        fn admissible_points_are_left_alone(
            norm in norms(),
            center in pixels(0.0..1.0),
            mut point in pixels(0.0..1.0),
        ) {
            // Twelve pixels in [0, 1] are never further apart than this.
            let ball = Ball { norm, center: &center, radius: 4.0 };
            let before = point.clone();
            ball.project(&mut point);
            prop_assert!(distance(&before, &point) < PROJECTION_TOLERANCE);
        }

        #[test]
        fn the_linf_projection_is_the_nearest_point(
            center in pixels(0.0..1.0),
            point in pixels(-2.0..3.0),
            other in pixels(0.0..1.0),
            radius in 0.0..0.5,
        ) {
            let ball = Ball { norm: Norm::Linf, center: &center, radius };
            let (mut projected, mut rival) = (point.clone(), other);
            ball.project(&mut projected);
            ball.project(&mut rival);
            for ((near, far), from) in projected.iter().zip(&rival).zip(&point) {
                prop_assert!((near - from).abs() <= (far - from).abs());
            }
        }

        #[test]
        fn moves_stay_inside(
            norm in norms(),
            center in pixels(0.0..1.0),
            mut point in pixels(0.0..1.0),
            mut previous in pixels(0.0..1.0),
            gradient in pixels(-1.0..1.0),
            share in proptest::option::of(0.0..1.0),
            radius in 0.01..1.0,
        ) {
            let ball = Ball { norm, center: &center, radius };
            ball.project(&mut point);
            ball.project(&mut previous);
            ball.advance(Move { step_size: 2.0 * radius, gradient_share: share }, &point, &mut previous, &gradient);
            prop_assert!(ball.contains(&previous));
        }
    }

    #[test]
    fn a_zero_gradient_moves_nothing() {
        let center = [0.5_f32; 4];
        for norm in [Norm::Linf, Norm::L2] {
            let ball = Ball { norm, center: &center, radius: 0.1 };
            let mut previous = center;
            let motion = Move { step_size: 0.2, gradient_share: Some(1.0) };
            ball.advance(motion, &center, &mut previous, &[0.0; 4]);
            assert_eq!(previous.map(f32::to_bits), center.map(f32::to_bits), "{norm:?}");
        }
    }
}
