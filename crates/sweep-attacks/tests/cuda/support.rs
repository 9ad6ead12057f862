//! Classifiers that answer alike for images on the CPU and on the GPU.

use candle_core::{DType, Device, Tensor};
use sweep_attacks::{Query, Trajectory, Uniform};
use sweep_kernels::{Classifier, Compute, Result, Tape};
use sweep_models::Model;

/// The GPU that tests run on.
pub(crate) fn device() -> Device {
    thread_local! {
        static GPU: Device =
            Device::new_cuda(0).expect("tests with the feature `cuda` need a GPU, or the emulated device");
    }
    GPU.with(Clone::clone)
}

/// A network of the reference where the images of these tests are.
#[expect(clippy::needless_pass_by_value, reason = "the same function on the CPU returns it")]
pub(crate) fn placed(model: Model) -> Model {
    model.to_device(&device(), Compute::Full).unwrap()
}

pub(crate) fn numbers(tensor: &Tensor) -> Vec<f64> {
    let tensor = tensor.to_device(&Device::Cpu).unwrap().to_dtype(DType::F64).unwrap();
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

pub(crate) fn bits(tensor: &Tensor) -> Vec<u32> {
    let tensor = tensor.to_device(&Device::Cpu).unwrap().flatten_all().unwrap();
    tensor.to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
}

/// Numbers in [0, 1) that look random and repeat (the output function of SplitMix64).
pub(crate) fn uniform(seed: u64) -> Uniform {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03;
    Box::new(move || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    })
}

/// Images on the CPU whose pixels are multiples of 1/64 in [0, 1].
pub(crate) fn images(seed: u64, shape: [usize; 4]) -> Tensor {
    let mut next = uniform(seed);
    let pixels: Vec<f32> =
        (0..shape.iter().product()).map(|_| (next() * 65.0).floor() as f32 / 64.0).collect();
    Tensor::from_vec(pixels, shape.to_vec(), &Device::Cpu).unwrap()
}

/// A (rows, columns) matrix of multiples of 1/8 in [-1, 1].
fn matrix(seed: u64, rows: usize, columns: usize) -> Tensor {
    let mut next = uniform(seed);
    let entries: Vec<f32> = (0..rows * columns).map(|_| (next() * 17.0).floor() as f32 / 8.0 - 1.0).collect();
    Tensor::from_vec(entries, (rows, columns), &Device::Cpu).unwrap()
}

/// logits = tanh((pixels − 1/2) · inner) · outer / √pixels, or without the inner part. Wherever the images are, the CPU
/// computes, each image alone: the same numbers for both devices and every batch.
pub(crate) struct Network {
    inner: Option<Tensor>,
    outer: Tensor,
}

const HIDDEN: usize = 24;

impl Network {
    /// Linear in the pixels: all numbers are exact, and signs of gradients are those of differences of weights.
    pub(crate) fn linear(seed: u64, pixels: usize, classes: usize) -> Self {
        Self { inner: None, outer: matrix(seed, pixels, classes) }
    }

    pub(crate) fn deep(seed: u64, pixels: usize, classes: usize) -> Self {
        let scale = 2.0 / (pixels as f64).sqrt();
        let inner = (matrix(seed, pixels, HIDDEN) * scale).unwrap();
        Self { inner: Some(inner), outer: matrix(seed + 1, HIDDEN, classes) }
    }

    /// All weights are 0: every gradient vanishes.
    pub(crate) fn constant(pixels: usize, classes: usize) -> Self {
        let outer = Tensor::zeros((pixels, classes), DType::F32, &Device::Cpu).unwrap();
        Self { inner: None, outer }
    }

    fn hidden(&self, images: &Tensor) -> Result<Tensor> {
        let pixels = images.to_device(&Device::Cpu)?.flatten_from(1)?;
        let centered = (pixels - 0.5)?;
        match &self.inner {
            None => Ok(centered),
            Some(inner) => Ok(row_by_row(&centered, inner)?.tanh()?),
        }
    }
}

fn row_by_row(x: &Tensor, weights: &Tensor) -> candle_core::Result<Tensor> {
    let rows = (0..x.dims()[0]).map(|row| x.narrow(0, row, 1)?.contiguous()?.matmul(weights));
    Tensor::cat(&rows.collect::<candle_core::Result<Vec<_>>>()?, 0)
}

impl Classifier for Network {
    fn logits(&self, images: &Tensor) -> Result<Tensor> {
        Ok(self.record(images)?.0)
    }

    fn record(&self, images: &Tensor) -> Result<(Tensor, Tape)> {
        let hidden = self.hidden(images)?;
        let mut tape = Tape::recording();
        // The second is there for its shape alone.
        tape.push(hidden.clone());
        tape.push(images.clone());
        Ok((row_by_row(&hidden, &self.outer)?.to_device(images.device())?, tape))
    }

    fn input_gradient(&self, mut tape: Tape, logits_gradient: Tensor) -> Result<Tensor> {
        let (images, hidden) = (tape.pop()?, tape.pop()?);
        let slopes = logits_gradient.to_device(&Device::Cpu)?;
        let by_hidden = row_by_row(&slopes, &self.outer.t()?.contiguous()?)?;
        let by_pixels = match &self.inner {
            None => by_hidden,
            Some(inner) => {
                let by_inner = (by_hidden * (1.0 - hidden.sqr()?)?)?;
                row_by_row(&by_inner, &inner.t()?.contiguous()?)?
            }
        };
        Ok(by_pixels.reshape(images.dims())?.to_device(images.device())?)
    }
}

/// The predicted classes of `images`, on the CPU.
pub(crate) fn predictions(model: &dyn Classifier, images: &Tensor) -> Vec<u32> {
    model.logits(images).unwrap().argmax(1).unwrap().to_vec1().unwrap()
}

/// A gradient entry near zero whose sign flips by rounding leads a search to another point: 2e-2 in one of 48 images of the
/// trained ResNet on the emulated device.
pub(crate) const BEST_LOSS_TOLERANCE: f64 = 5e-2;

/// Losses are of order one and differ by the rounding of exponentials and logarithms.
pub(crate) const LOSS_TOLERANCE: f64 = 2e-5;

pub(crate) fn assert_same_query(what: &str, found: Query, expected: Query) {
    assert_eq!(found.prediction, expected.prediction, "{what}");
    assert_eq!(found.step_size.to_bits(), expected.step_size.to_bits(), "{what}");
    let error = (found.loss - expected.loss).abs();
    let scale = expected.loss.abs().max(1.0);
    assert!(error <= LOSS_TOLERANCE * scale, "{what}: {} instead of {}", found.loss, expected.loss);
}

/// Everything but the losses is the same.
pub(crate) fn assert_same(what: &str, found: &[Trajectory], expected: &[Trajectory]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (image, (found, expected)) in found.iter().zip(expected).enumerate() {
        let what = format!("{what}: image {image}");
        assert_eq!(found.label, expected.label, "{what}");
        assert_eq!(found.queries.len(), expected.queries.len(), "{what}");
        for (query, (found, expected)) in found.queries.iter().zip(&expected.queries).enumerate() {
            assert_same_query(&format!("{what}, query {query}"), *found, *expected);
        }
        assert_eq!(found.final_step_size.to_bits(), expected.final_step_size.to_bits(), "{what}");
        assert_eq!(found.vanished_gradients, expected.vanished_gradients, "{what}");
    }
}
