//! Layers that take images (N, C, H, W): normalisation of the pixels and the patch embedding.

use candle_core::{Shape, Tensor};

use crate::element::Element;
use crate::host::{Host, tensor, with_element};
use crate::linear::{add_bias, affine_product, linear_gradients};
use crate::native::{Matrix, Threads, build, product};
use crate::{Error, Gradients, Layer, Mode, ParameterId, Parameters, Result, Tape};

#[cfg(feature = "cuda")]
mod cuda;

/// `(x - mean) / deviation` for each channel of (N, C, H, W).
///
/// On a GPU the pixels and their gradient are F32, the output and its gradient what the model computes in.
#[derive(Clone, Debug)]
pub struct Normalize {
    mean: Vec<f64>,
    deviation: Vec<f64>,
}

impl Normalize {
    /// One mean and one standard deviation for each channel, on the scale of the pixels.
    ///
    /// # Errors
    /// [`Error::Setting`] if a standard deviation is not positive or the lengths differ.
    pub fn new(mean: &[f64], deviation: &[f64]) -> Result<Self> {
        if mean.len() != deviation.len() {
            let value = deviation.len() as f64;
            return Err(Error::Setting {
                name: "number of deviations",
                value,
                expected: "the number of means",
            });
        }
        if let Some(value) = deviation.iter().find(|value| !value.is_finite() || **value <= 0.0) {
            return Err(Error::Setting { name: "deviation", value: *value, expected: "a positive number" });
        }
        Ok(Self { mean: mean.to_vec(), deviation: deviation.to_vec() })
    }

    /// Images, channels, and pixels of a channel.
    fn sizes(&self, x: &Tensor) -> Result<(usize, usize, usize)> {
        let (images, channels, height, width) = image_dims("Normalize", x)?;
        if channels != self.mean.len() {
            let expected = format!("(N, {}, H, W)", self.mean.len());
            return Err(Error::Shape { operation: "Normalize", got: x.dims().to_vec(), expected });
        }
        Ok((images, channels, height * width))
    }

    /// Applies `map(value, mean, deviation)` with the constants of each channel.
    fn apply<T: Element>(&self, x: &Tensor, map: impl Fn(T, T, T) -> T + Sync) -> Result<Tensor> {
        let (_, channels, plane) = self.sizes(x)?;
        let host = Host::new(x)?;
        let input = host.read::<T>()?;
        let input = &*input;
        let y = build(
            input.len(),
            plane,
            #[inline(always)]
            |at, out| {
                let channel = at / plane % channels;
                let (mean, deviation) =
                    (T::from_f64(self.mean[channel]), T::from_f64(self.deviation[channel]));
                for (y, x) in out.iter_mut().zip(&input[at..]) {
                    *y = map(*x, mean, deviation);
                }
            },
        );
        tensor(y, x.shape())
    }
}

#[cfg_attr(
    not(feature = "cuda"),
    expect(unused_variables, reason = "what GPUs compute in stands with the parameters")
)]
impl Layer for Normalize {
    fn forward(&self, parameters: &Parameters, x: Tensor, _: &mut Tape, _: Mode) -> Result<Tensor> {
        with_element!("Normalize", &x, T => {
            self.apply::<T>(&x, #[inline(always)] |x, mean, deviation| (x - mean) / deviation)
        }, cuda => self.forward_cuda(parameters, &x))
    }

    fn backward(&self, _: &Parameters, dy: Tensor, _: &mut Tape, _: &mut Gradients) -> Result<Tensor> {
        with_element!("Normalize", &dy, T => {
            self.apply::<T>(&dy, #[inline(always)] |dy, _, deviation| dy / deviation)
        }, cuda => self.backward_cuda(&dy))
    }
}

/// A convolution whose stride is its kernel size: every patch of `patch` × `patch` pixels becomes one token.
///
/// The input is (N, C, H, W) with H and W multiples of `patch`, the output (N, H/patch · W/patch, width), tokens in
/// row-major order of the patches (timm's `PatchEmbed` with `flatten`), or the same tokens as a map
/// ([`PatchEmbedding::as_map`]).
#[derive(Clone, Copy, Debug)]
pub struct PatchEmbedding {
    weight: ParameterId,
    bias: Option<ParameterId>,
    patch: usize,
    map: bool,
}

/// Sizes of one call: images, channels, patches down and across, pixels per side of a patch.
#[derive(Clone, Copy)]
struct Grid {
    images: usize,
    channels: usize,
    down: usize,
    across: usize,
    patch: usize,
}

impl Grid {
    fn row_len(self) -> usize {
        self.channels * self.patch * self.patch
    }

    fn patches(self) -> usize {
        self.down * self.across
    }

    /// Calls `copy(pixel, entry)` with the starts of the `patch` pixels of each line of a patch: in the image tensor,
    /// and in the row of the patch.
    #[inline(always)]
    fn lines(self, patch_index: usize, mut copy: impl FnMut(usize, usize)) {
        let Self { channels, down, across, patch, .. } = self;
        let (image, inner) = (patch_index / self.patches(), patch_index % self.patches());
        let (row, column) = (inner / across, inner % across);
        for channel in 0..channels {
            for line in 0..patch {
                let height = (image * channels + channel) * down * patch + row * patch + line;
                copy(height * across * patch + column * patch, (channel * patch + line) * patch);
            }
        }
    }
}

impl PatchEmbedding {
    /// `weight` is (width, C, patch, patch), `bias` (width).
    pub fn new(weight: ParameterId, bias: Option<ParameterId>, patch: usize) -> Self {
        Self { weight, bias, patch, map: false }
    }

    /// The same with the output (N, H/patch, W/patch, width), for networks that work on maps.
    #[must_use]
    pub fn as_map(self) -> Self {
        Self { map: true, ..self }
    }

    fn grid(self, parameters: &Parameters, x: &Tensor) -> Result<Grid> {
        let (images, channels, height, width) = image_dims("PatchEmbedding", x)?;
        let (_, expected_channels, ..) = parameters.get(self.weight).dims4()?;
        let patch = self.patch;
        if channels != expected_channels || !height.is_multiple_of(patch) || !width.is_multiple_of(patch) {
            let expected = format!("(N, {expected_channels}, H, W) with H and W multiples of {patch}");
            return Err(Error::Shape { operation: "PatchEmbedding", got: x.dims().to_vec(), expected });
        }
        Ok(Grid { images, channels, down: height / patch, across: width / patch, patch })
    }

    fn forward_typed<T: Element>(
        self,
        parameters: &Parameters,
        x: &Tensor,
        tape: &mut Tape,
    ) -> Result<Tensor> {
        let grid = self.grid(parameters, x)?;
        let patches = {
            let host = Host::new(x)?;
            let pixels = host.read::<T>()?;
            tensor(gather(&pixels, grid), (grid.images, grid.down, grid.across, grid.row_len()))?
        };
        let weight = parameters.get(self.weight);
        let mut y = affine_product::<T>(&patches, weight)?;
        if let Some(id) = self.bias {
            add_bias(&mut y, &Host::new(parameters.get(id))?.read::<T>()?);
        }
        tape.push(patches);
        let width = weight.dim(0)?;
        tensor(y, self.shape(grid, width))
    }

    /// Of the output.
    fn shape(self, grid: Grid, width: usize) -> Shape {
        if self.map {
            (grid.images, grid.down, grid.across, width).into()
        } else {
            (grid.images, grid.patches(), width).into()
        }
    }

    fn backward_typed<T: Element>(
        self,
        parameters: &Parameters,
        dy: &Tensor,
        tape: &mut Tape,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        let patches = tape.pop()?;
        let weight = parameters.get(self.weight);
        linear_gradients::<T>(&patches, dy, weight, gradients, self.weight, self.bias)?;
        let (width, channels, patch, _) = weight.dims4()?;
        let (images, down, across, row_len) = patches.dims4()?;
        let grid = Grid { images, channels, down, across, patch };
        let (dy, weight) = (Host::new(dy)?, Host::new(weight)?);
        let (dy, weight) = (dy.read::<T>()?, weight.read::<T>()?);
        let dy = Matrix::new(&dy, images * grid.patches(), width);
        let rows = product(dy, Matrix::new(&weight, width, row_len), Threads::All);
        tensor(scatter(&rows, grid), (images, channels, down * patch, across * patch))
    }
}

/// One row (C · patch · patch) for each patch.
fn gather<T: Element>(pixels: &[T], grid: Grid) -> Vec<T> {
    let (row_len, patch) = (grid.row_len(), grid.patch);
    build(grid.images * grid.patches() * row_len, row_len, |at, row| {
        grid.lines(at / row_len, |pixel, entry| {
            row[entry..entry + patch].copy_from_slice(&pixels[pixel..pixel + patch]);
        });
    })
}

/// The inverse of [`gather`].
fn scatter<T: Element>(rows: &[T], grid: Grid) -> Vec<T> {
    let (row_len, patch) = (grid.row_len(), grid.patch);
    let per_image = grid.patches() * row_len;
    build(grid.images * per_image, per_image, |at, image| {
        let first = at / row_len;
        for patch_index in first..first + grid.patches() {
            let row = &rows[patch_index * row_len..(patch_index + 1) * row_len];
            grid.lines(patch_index, |pixel, entry| {
                image[pixel - at..pixel - at + patch].copy_from_slice(&row[entry..entry + patch]);
            });
        }
    })
}

/// The sizes of (N, C, H, W), none of them 0.
pub(crate) fn image_dims(operation: &'static str, x: &Tensor) -> Result<(usize, usize, usize, usize)> {
    match *x.dims() {
        [images, channels, height, width] if x.elem_count() > 0 => Ok((images, channels, height, width)),
        ref dims => Err(Error::Shape {
            operation,
            got: dims.to_vec(),
            expected: "(N, C, H, W), not empty".to_owned(),
        }),
    }
}

impl Layer for PatchEmbedding {
    fn forward(&self, parameters: &Parameters, x: Tensor, tape: &mut Tape, _: Mode) -> Result<Tensor> {
        with_element!(
            "PatchEmbedding", &x, T => self.forward_typed::<T>(parameters, &x, tape),
            cuda => self.forward_cuda(parameters, &x, tape)
        )
    }

    fn backward(
        &self,
        parameters: &Parameters,
        dy: Tensor,
        tape: &mut Tape,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        with_element!(
            "PatchEmbedding", &dy, T => self.backward_typed::<T>(parameters, &dy, tape, gradients),
            cuda => self.backward_cuda(parameters, &dy, tape, gradients)
        )
    }
}
