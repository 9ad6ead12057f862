//! Layers that add tokens to sequences (N, L, width) and take tokens out of them.

use candle_core::Tensor;

use crate::element::Element;
use crate::elementwise::sum_rows;
use crate::host::{Host, tensor, with_element};
use crate::native::build;
use crate::{Error, Gradients, Layer, Mode, ParameterId, Parameters, Result, Tape};

#[cfg(feature = "cuda")]
mod cuda;

/// Puts a class token in front of each sequence and adds the position embeddings: (N, L, width) → (N, L + 1, width).
#[derive(Clone, Copy, Debug)]
pub struct ClassTokenAndPositions {
    class_token: ParameterId,
    positions: ParameterId,
}

impl ClassTokenAndPositions {
    /// `class_token` is (1, 1, width), `positions` (1, L + 1, width) with the class token's position first.
    pub fn new(class_token: ParameterId, positions: ParameterId) -> Self {
        Self { class_token, positions }
    }

    /// The sizes (N, L + 1, width) of the output.
    fn sizes(self, parameters: &Parameters, x: &Tensor) -> Result<(usize, usize, usize)> {
        let (_, tokens, width) = parameters.get(self.positions).dims3()?;
        match *x.dims() {
            [images, length, columns] if length + 1 == tokens && columns == width => {
                Ok((images, tokens, width))
            }
            ref dims => {
                let expected = format!("(N, {}, {width})", tokens - 1);
                Err(Error::Shape { operation: "ClassTokenAndPositions", got: dims.to_vec(), expected })
            }
        }
    }

    fn forward_typed<T: Element>(self, parameters: &Parameters, x: &Tensor) -> Result<Tensor> {
        let (images, tokens, width) = self.sizes(parameters, x)?;
        let class_token = Host::new(parameters.get(self.class_token))?;
        let (positions, patches) = (Host::new(parameters.get(self.positions))?, Host::new(x)?);
        let (class_token, positions) = (class_token.read::<T>()?, positions.read::<T>()?);
        let patches = patches.read::<T>()?;
        let (class_token, positions, patches) = (&*class_token, &*positions, &*patches);
        let y = build(
            images * tokens * width,
            tokens * width,
            #[inline(always)]
            |at, out| {
                let image = at / (tokens * width);
                let (first, rest) = out.split_at_mut(width);
                add_into(first, class_token, positions);
                add_into(rest, &patches[image * (tokens - 1) * width..], &positions[width..]);
            },
        );
        tensor(y, (images, tokens, width))
    }

    fn backward_typed<T: Element>(
        self,
        parameters: &Parameters,
        dy: &Tensor,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        let (images, tokens, width) = dy.dims3()?;
        let host = Host::new(dy)?;
        let input = host.read::<T>()?;
        let (input, per_image) = (&*input, tokens * width);
        if gradients.wants(self.positions) {
            let sums = sum_over_images(input, images, per_image, per_image);
            gradients.add(self.positions, tensor(sums, parameters.get(self.positions).shape())?)?;
        }
        if gradients.wants(self.class_token) {
            let sums = sum_over_images(input, images, per_image, width);
            gradients.add(self.class_token, tensor(sums, parameters.get(self.class_token).shape())?)?;
        }
        let per_output = per_image - width;
        let dx = build(images * per_output, per_output, |at, out| {
            let start = at / per_output * per_image + width;
            out.copy_from_slice(&input[start..start + per_output]);
        });
        tensor(dx, (images, tokens - 1, width))
    }
}

#[inline(always)]
fn add_into<T: Element>(out: &mut [T], a: &[T], b: &[T]) {
    for (y, (a, b)) in out.iter_mut().zip(a.iter().zip(b)) {
        *y = *a + *b;
    }
}

/// The sum over images of the first `width` elements of each.
fn sum_over_images<T: Element>(data: &[T], images: usize, per_image: usize, width: usize) -> Vec<T> {
    sum_rows(
        images,
        width,
        #[inline(always)]
        |image, sums| {
            for (sum, value) in sums.iter_mut().zip(&data[image * per_image..]) {
                *sum += *value;
            }
        },
    )
}

impl Layer for ClassTokenAndPositions {
    fn forward(&self, parameters: &Parameters, x: Tensor, _: &mut Tape, _: Mode) -> Result<Tensor> {
        with_element!("ClassTokenAndPositions", &x, T => self.forward_typed::<T>(parameters, &x),
            cuda => self.forward_cuda(parameters, &x))
    }

    fn backward(
        &self,
        parameters: &Parameters,
        dy: Tensor,
        _: &mut Tape,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        with_element!("ClassTokenAndPositions", &dy, T => self.backward_typed::<T>(parameters, &dy, gradients),
            cuda => self.backward_cuda(parameters, &dy, gradients))
    }
}

/// Keeps one token of each sequence: (N, L, width) → (N, width).
#[derive(Clone, Copy, Debug)]
pub struct SelectToken {
    index: usize,
}

impl SelectToken {
    /// Keeps the token at `index`, which must be below L.
    pub fn new(index: usize) -> Self {
        Self { index }
    }

    fn select(self, x: &Tensor) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if x.device().is_cuda() {
            return self.forward_cuda(x);
        }
        Ok(x.narrow(1, self.index, 1)?.squeeze(1)?.contiguous()?)
    }

    fn scatter<T: Element>(self, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
        let (images, tokens, width) = x.dims3()?;
        let host = Host::new(dy)?;
        let kept = host.read::<T>()?;
        let (kept, per_image) = (&*kept, tokens * width);
        let dx = build(images * per_image, per_image, |at, out| {
            let start = at / per_image * width;
            out[self.index * width..(self.index + 1) * width].copy_from_slice(&kept[start..start + width]);
        });
        tensor(dx, x.shape())
    }
}

impl Layer for SelectToken {
    fn forward(&self, _: &Parameters, x: Tensor, tape: &mut Tape, _: Mode) -> Result<Tensor> {
        let y = self.select(&x)?;
        tape.push(x);
        Ok(y)
    }

    fn backward(&self, _: &Parameters, dy: Tensor, tape: &mut Tape, _: &mut Gradients) -> Result<Tensor> {
        let x = tape.pop()?;
        with_element!("SelectToken", &dy, T => self.scatter::<T>(&x, &dy), cuda => self.scatter_cuda(&x, &dy))
    }
}
