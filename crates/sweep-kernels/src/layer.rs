//! The traits everything else is built on, and the combinators whose backward pass is the chain rule.

use candle_core::Tensor;

use crate::element::Element;
use crate::host::with_element;
use crate::{Gradients, Mode, Parameters, Result, Tape, elementwise};

#[cfg(feature = "cuda")]
mod cuda;

/// A differentiable function of one tensor, with parameters held outside it.
pub trait Layer: Send + Sync {
    /// Computes the output and pushes onto `tape` what [`Layer::backward`] will pop.
    fn forward(&self, parameters: &Parameters, x: Tensor, tape: &mut Tape, mode: Mode) -> Result<Tensor>;

    /// Turns the gradient with respect to the output into the gradient with respect to the input.
    ///
    /// Parameter gradients are computed only where `gradients` wants them, and never change the result.
    fn backward(
        &self,
        parameters: &Parameters,
        dy: Tensor,
        tape: &mut Tape,
        gradients: &mut Gradients,
    ) -> Result<Tensor>;
}

/// What an attack sees of a model: always in evaluation mode, with frozen weights.
pub trait Classifier {
    /// Logits (N, classes) of `images` (N, 3, H, W) with pixels in [0, 1]. Records nothing.
    fn logits(&self, images: &Tensor) -> Result<Tensor>;

    /// Logits (N, classes), and the tape that [`Classifier::input_gradient`] needs.
    fn record(&self, images: &Tensor) -> Result<(Tensor, Tape)>;

    /// The gradient (N, 3, H, W) with respect to the images of the scalar whose gradient with respect to the logits
    /// is `logits_gradient` (N, classes). No parameter gradient is computed.
    fn input_gradient(&self, tape: Tape, logits_gradient: Tensor) -> Result<Tensor>;
}

/// Layers applied one after the other.
#[derive(Default)]
pub struct Chain {
    layers: Vec<Box<dyn Layer>>,
}

impl Chain {
    /// The identity.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a layer.
    #[must_use]
    pub fn then(mut self, layer: impl Layer + 'static) -> Self {
        self.layers.push(Box::new(layer));
        self
    }
}

impl Layer for Chain {
    fn forward(&self, parameters: &Parameters, x: Tensor, tape: &mut Tape, mode: Mode) -> Result<Tensor> {
        self.layers.iter().try_fold(x, |x, layer| layer.forward(parameters, x, tape, mode))
    }

    fn backward(
        &self,
        parameters: &Parameters,
        dy: Tensor,
        tape: &mut Tape,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        self.layers.iter().rev().try_fold(dy, |dy, layer| layer.backward(parameters, dy, tape, gradients))
    }
}

/// `x + inner(x)`.
pub struct Residual<L>(pub L);

impl<L: Layer> Layer for Residual<L> {
    fn forward(&self, parameters: &Parameters, x: Tensor, tape: &mut Tape, mode: Mode) -> Result<Tensor> {
        let branch = self.0.forward(parameters, x.clone(), tape, mode)?;
        elementwise::add(&x, &branch)
    }

    fn backward(
        &self,
        parameters: &Parameters,
        dy: Tensor,
        tape: &mut Tape,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        let branch = self.0.backward(parameters, dy.clone(), tape, gradients)?;
        elementwise::add(&dy, &branch)
    }
}

/// `relu(main(x) + shortcut(x))`, the residual block of ResNets (He et al. 2016); without a shortcut of its own the
/// input itself is added.
///
/// The derivative of the ReLU at 0 is 0, as in PyTorch.
pub struct Branches {
    main: Chain,
    shortcut: Option<Chain>,
}

impl Branches {
    /// Both chains get the same input and must give outputs of one shape.
    pub fn new(main: Chain, shortcut: Option<Chain>) -> Self {
        Self { main, shortcut }
    }
}

impl Layer for Branches {
    fn forward(&self, parameters: &Parameters, x: Tensor, tape: &mut Tape, mode: Mode) -> Result<Tensor> {
        let main = self.main.forward(parameters, x.clone(), tape, mode)?;
        let shortcut = match &self.shortcut {
            Some(shortcut) => shortcut.forward(parameters, x, tape, mode)?,
            None => x,
        };
        let y = positive_sum(&main, &shortcut)?;
        tape.push(y.clone());
        Ok(y)
    }

    fn backward(
        &self,
        parameters: &Parameters,
        dy: Tensor,
        tape: &mut Tape,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        // The output is positive exactly where the sum was, and the next layer keeps it anyway.
        let y = tape.pop()?;
        let sum = positive_part(&y, &dy)?;
        let shortcut = match &self.shortcut {
            Some(shortcut) => shortcut.backward(parameters, sum.clone(), tape, gradients)?,
            None => sum.clone(),
        };
        let main = self.main.backward(parameters, sum, tape, gradients)?;
        elementwise::add(&main, &shortcut)
    }
}

fn positive_sum(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    with_element!("Branches", a, T => add_relu::<T>(a, b), cuda => cuda::add_relu(a, b))
}

fn positive_part(y: &Tensor, dy: &Tensor) -> Result<Tensor> {
    with_element!("Branches", y, T => where_positive::<T>(y, dy), cuda => cuda::where_positive(y, dy))
}

/// `max(a + b, 0)` in one pass. NaN stays NaN, so that a network that diverged does not look alive.
fn add_relu<T: Element>(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    elementwise::zip_map::<T>(
        a,
        b,
        #[inline(always)]
        |a, b| if a + b < T::zero() { T::zero() } else { a + b },
    )
}

/// `dy` but 0 where `y` is.
fn where_positive<T: Element>(y: &Tensor, dy: &Tensor) -> Result<Tensor> {
    elementwise::zip_map::<T>(
        y,
        dy,
        #[inline(always)]
        |y, dy| if y <= T::zero() { T::zero() } else { dy },
    )
}
