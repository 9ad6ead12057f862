//! Small classifiers with gradients written by hand, and batches to attack.

use std::cell::Cell;

use candle_core::{DType, Device, Tensor};
use sweep_attacks::Uniform;
use sweep_kernels::{Classifier, Result, Tape};
use sweep_models::Model;

/// Channels, rows and columns of the test images.
pub(crate) const IMAGE: [usize; 3] = [3, 4, 4];
/// Numbers per image.
pub(crate) const PIXELS: usize = 48;

/// A small deterministic generator of numbers in [0, 1) (the output function of SplitMix64).
pub(crate) fn uniform(seed: u64) -> Uniform {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03;
    Box::new(move || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    })
}

/// A (rows, columns) matrix with entries in [-size, size).
pub(crate) fn matrix(seed: u64, rows: usize, columns: usize, size: f64, dtype: DType) -> Tensor {
    let mut next = uniform(seed);
    let entries: Vec<f64> = (0..rows * columns).map(|_| size * (2.0 * next() - 1.0)).collect();
    Tensor::from_vec(entries, (rows, columns), &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

/// Images with pixels in [low, high).
pub(crate) fn images(seed: u64, count: usize, (low, high): (f64, f64), dtype: DType) -> Tensor {
    let mut next = uniform(seed);
    let pixels: Vec<f64> = (0..count * PIXELS).map(|_| low + (high - low) * next()).collect();
    let [channels, rows, columns] = IMAGE;
    let images = Tensor::from_vec(pixels, (count, channels, rows, columns), &Device::Cpu).unwrap();
    images.to_dtype(dtype).unwrap()
}

/// Where the tests run.
pub(crate) fn device() -> Device {
    Device::Cpu
}

/// A network of the reference where the images of these tests are.
pub(crate) fn placed(model: Model) -> Model {
    model
}

pub(crate) fn numbers(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Each image alone, so that no matrix product depends on the rest of the batch.
fn row_by_row(x: &Tensor, weights: &Tensor) -> candle_core::Result<Tensor> {
    let rows = (0..x.dims()[0]).map(|row| x.narrow(0, row, 1)?.contiguous()?.matmul(weights));
    Tensor::cat(&rows.collect::<candle_core::Result<Vec<_>>>()?, 0)
}

/// logits = pixels · weights.
pub(crate) struct Linear {
    pub(crate) weights: Tensor,
}

impl Linear {
    pub(crate) fn new(seed: u64, classes: usize, dtype: DType) -> Self {
        Self { weights: matrix(seed, PIXELS, classes, 1.0, dtype) }
    }
}

impl Classifier for Linear {
    fn logits(&self, images: &Tensor) -> Result<Tensor> {
        Ok(row_by_row(&images.flatten_from(1)?, &self.weights)?)
    }

    fn record(&self, images: &Tensor) -> Result<(Tensor, Tape)> {
        Ok((self.logits(images)?, Tape::off()))
    }

    fn input_gradient(&self, _tape: Tape, logits_gradient: Tensor) -> Result<Tensor> {
        let transposed = self.weights.t()?.contiguous()?;
        let [channels, rows, columns] = IMAGE;
        let count = logits_gradient.dims()[0];
        Ok(row_by_row(&logits_gradient, &transposed)?.reshape((count, channels, rows, columns))?)
    }
}

/// logits = tanh((pixels − 1/2) · inner) · outer.
pub(crate) struct Perceptron {
    inner: Tensor,
    outer: Linear,
}

impl Perceptron {
    const HIDDEN: usize = PIXELS;

    pub(crate) fn new(seed: u64, classes: usize, dtype: DType) -> Self {
        let inner = matrix(seed, PIXELS, Self::HIDDEN, 0.8, dtype);
        Self { inner, outer: Linear { weights: matrix(seed + 1, Self::HIDDEN, classes, 1.0, dtype) } }
    }

    fn hidden(&self, images: &Tensor) -> Result<Tensor> {
        Ok(row_by_row(&(images.flatten_from(1)? - 0.5)?, &self.inner)?.tanh()?)
    }
}

impl Classifier for Perceptron {
    fn logits(&self, images: &Tensor) -> Result<Tensor> {
        Ok(self.record(images)?.0)
    }

    fn record(&self, images: &Tensor) -> Result<(Tensor, Tape)> {
        let hidden = self.hidden(images)?;
        let mut tape = Tape::recording();
        tape.push(hidden.clone());
        Ok((row_by_row(&hidden, &self.outer.weights)?, tape))
    }

    fn input_gradient(&self, mut tape: Tape, logits_gradient: Tensor) -> Result<Tensor> {
        let hidden = tape.pop()?;
        let by_hidden = row_by_row(&logits_gradient, &self.outer.weights.t()?.contiguous()?)?;
        let by_inner = (by_hidden * (1.0 - hidden.sqr()?)?)?;
        let by_pixels = row_by_row(&by_inner, &self.inner.t()?.contiguous()?)?;
        let [channels, rows, columns] = IMAGE;
        Ok(by_pixels.reshape((hidden.dims()[0], channels, rows, columns))?)
    }
}

/// Counts the images another classifier sees.
pub(crate) struct Counting<C> {
    pub(crate) inner: C,
    pub(crate) forward_images: Cell<usize>,
    pub(crate) backward_images: Cell<usize>,
}

impl<C> Counting<C> {
    pub(crate) fn new(inner: C) -> Self {
        Self { inner, forward_images: Cell::new(0), backward_images: Cell::new(0) }
    }
}

impl<C: Classifier> Classifier for Counting<C> {
    fn logits(&self, images: &Tensor) -> Result<Tensor> {
        self.forward_images.set(self.forward_images.get() + images.dims()[0]);
        self.inner.logits(images)
    }

    fn record(&self, images: &Tensor) -> Result<(Tensor, Tape)> {
        self.forward_images.set(self.forward_images.get() + images.dims()[0]);
        self.inner.record(images)
    }

    fn input_gradient(&self, tape: Tape, logits_gradient: Tensor) -> Result<Tensor> {
        self.backward_images.set(self.backward_images.get() + logits_gradient.dims()[0]);
        self.inner.input_gradient(tape, logits_gradient)
    }
}

/// The predicted classes of `images`, as labels that are all correct.
pub(crate) fn predictions(model: &dyn Classifier, images: &Tensor) -> Vec<u32> {
    model.logits(images).unwrap().argmax(1).unwrap().to_vec1().unwrap()
}

/// The reference in f32 and f64 differ by up to 1e-4 in a best loss (Swin under targeted DLR; 2e-5 elsewhere).
pub(crate) const BEST_LOSS_TOLERANCE: f64 = 1e-4;
