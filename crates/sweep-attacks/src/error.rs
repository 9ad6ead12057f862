//! What can go wrong in an attack.

use candle_core::{DType, Shape};

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an attack could not be carried out. Sample indices count from 0 in the caller's batch.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Images are not a (N, 3, H, W)-like tensor of rank four.
    #[error("images must have four dimensions (sample, channel, row, column), found {shape:?}")]
    ImageRank {
        /// The shape that was given.
        shape: Shape,
    },
    /// The attack computes in f32 or f64 only.
    #[error("images must be f32 or f64, found {dtype:?}")]
    ImageType {
        /// The element type that was given.
        dtype: DType,
    },
    /// On a GPU the attack computes in f32 only.
    #[error("images on a GPU must be f32, found {dtype:?}")]
    ImageTypeOnGpu {
        /// The element type that was given.
        dtype: DType,
    },
    /// A pixel of a clean image lies outside [0, 1] or is not a number.
    #[error("sample {sample}: a pixel is {value}, outside [0, 1]")]
    PixelOutOfRange {
        /// Position in the batch.
        sample: usize,
        /// The offending value.
        value: f64,
    },
    /// There is not exactly one label per image.
    #[error("{labels} labels for {images} images")]
    LabelCount {
        /// Number of labels.
        labels: usize,
        /// Number of images.
        images: usize,
    },
    /// A label (or target class) that the classifier has no logit for.
    #[error("sample {sample}: class {class} does not exist, the classifier has {classes}")]
    ClassOutOfRange {
        /// Position in the batch.
        sample: usize,
        /// The label or target.
        class: u32,
        /// Number of logits per image.
        classes: usize,
    },
    /// The loss sorts more logits than the classifier has.
    #[error("this loss needs at least {needed} classes, the classifier has {classes}")]
    TooFewClasses {
        /// Smallest number of classes.
        needed: usize,
        /// Number of logits per image.
        classes: usize,
    },
    /// Epsilon is negative or not finite.
    #[error("epsilon must be finite and not negative, found {epsilon}")]
    Epsilon {
        /// The radius that was given.
        epsilon: f64,
    },
    /// A PGD step that is not a positive finite multiple of epsilon.
    #[error("the step relative to epsilon must be finite and positive, found {relative_step}")]
    RelativeStep {
        /// The multiple that was given.
        relative_step: f64,
    },
    /// A given start point is not within epsilon of its clean image.
    #[error("sample {sample}: the start point is not within epsilon = {epsilon} of the image")]
    StartOutsideBall {
        /// Position in the batch.
        sample: usize,
        /// The radius.
        epsilon: f64,
    },
    /// The divergence from the clean prediction has no slope at the clean image.
    #[error("the divergence from the clean prediction has no slope at the clean image: start elsewhere")]
    FlatStart,
    /// A point of an evaluation is not within epsilon of its image, or no image: the attack itself is at fault.
    #[error("sample {sample}: the attack left the ball of radius {epsilon} or the range of pixels")]
    OutsideBall {
        /// Position in the batch.
        sample: usize,
        /// The radius.
        epsilon: f64,
    },
    /// A tensor (a start point, the logits, the input gradient) does not have the shape it must have.
    #[error("{what} has shape {found:?}, expected {expected:?}")]
    Shape {
        /// Which tensor.
        what: &'static str,
        /// The shape found.
        found: Shape,
        /// The shape expected.
        expected: Shape,
    },
    /// The loss of one image is infinite or not a number: its logits are.
    #[error("sample {sample}: the loss is {loss} at query {query}")]
    NonFiniteLoss {
        /// Position in the batch.
        sample: usize,
        /// 0 for the start point, i for the point after step i.
        query: usize,
        /// The loss.
        loss: f64,
    },
    /// The input gradient of one image contains an infinity or a NaN.
    #[error("sample {sample}: the input gradient is not finite at query {query}")]
    NonFiniteGradient {
        /// Position in the batch.
        sample: usize,
        /// 0 for the start point, i for the point after step i.
        query: usize,
    },
    /// The classifier failed, or on a GPU the attack's own kernels did.
    #[error("the classifier failed")]
    Classifier(#[from] sweep_kernels::Error),
    /// A tensor operation failed.
    #[error("a tensor operation failed")]
    Tensor(#[from] candle_core::Error),
}
