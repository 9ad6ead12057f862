//! Activation functions, as layers of their own and as the last step of a [`Linear`](crate::Linear).

use candle_core::Tensor;

use crate::element::Element;
use crate::elementwise::{map, zip_map};
use crate::host::with_element;
use crate::{Gradients, Layer, Mode, Parameters, Result, Tape};

#[cfg(feature = "cuda")]
mod cuda;

/// An element-wise nonlinearity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x Φ(x)` with the exact normal distribution function (PyTorch's `gelu` with `approximate="none"`). In f32 Φ is
    /// approximated with an absolute error below 2e-7.
    Gelu,
    /// `x sigmoid(1.702 x)`, which OpenAI's CLIP weights were trained with.
    QuickGelu,
    /// `max(0, x)`, whose derivative at 0 is 0, as in PyTorch; NaN stays NaN.
    Relu,
}

/// The slope inside QuickGELU's sigmoid.
const QUICK_SLOPE: f64 = 1.702;

impl Activation {
    /// The value at `x`.
    #[inline(always)]
    pub(crate) fn value<T: Element>(self, x: T) -> T {
        match self {
            Self::Gelu => x * x.normal().0,
            Self::QuickGelu => x * sigmoid(x * T::from_f64(QUICK_SLOPE)),
            Self::Relu if x < T::zero() => T::zero(),
            Self::Relu => x,
        }
    }

    /// The derivative at `x`.
    #[inline(always)]
    pub(crate) fn slope<T: Element>(self, x: T) -> T {
        match self {
            Self::Gelu => {
                let (distribution, density) = x.normal();
                distribution + x * density
            }
            Self::QuickGelu => {
                let slope = T::from_f64(QUICK_SLOPE);
                let s = sigmoid(x * slope);
                s + x * slope * s * (T::one() - s)
            }
            Self::Relu if x > T::zero() => T::one(),
            Self::Relu => T::zero(),
        }
    }

    /// `dy` times the derivative at `x`.
    pub(crate) fn pull_back<T: Element>(self, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
        // The match is outside the loops, so that each of them is compiled for one function.
        match self {
            Self::Gelu => zip_map::<T>(
                x,
                dy,
                #[inline(always)]
                |x, dy| dy * Self::Gelu.slope(x),
            ),
            Self::QuickGelu => zip_map::<T>(
                x,
                dy,
                #[inline(always)]
                |x, dy| dy * Self::QuickGelu.slope(x),
            ),
            Self::Relu => zip_map::<T>(
                x,
                dy,
                #[inline(always)]
                |x, dy| dy * Self::Relu.slope(x),
            ),
        }
    }

    fn applied(self, x: &Tensor) -> Result<Tensor> {
        with_element!("activation", x, T => self.apply::<T>(x), cuda => self.apply_cuda(x))
    }

    fn apply<T: Element>(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Gelu => map::<T>(
                x,
                #[inline(always)]
                |x| Self::Gelu.value(x),
            ),
            Self::QuickGelu => map::<T>(
                x,
                #[inline(always)]
                |x| Self::QuickGelu.value(x),
            ),
            Self::Relu => map::<T>(
                x,
                #[inline(always)]
                |x| Self::Relu.value(x),
            ),
        }
    }
}

#[inline(always)]
fn sigmoid<T: Element>(x: T) -> T {
    T::one() / (T::one() + Element::exp(-x))
}

impl Layer for Activation {
    fn forward(&self, _: &Parameters, x: Tensor, tape: &mut Tape, _: Mode) -> Result<Tensor> {
        let y = self.applied(&x)?;
        tape.push(x);
        Ok(y)
    }

    fn backward(&self, _: &Parameters, dy: Tensor, tape: &mut Tape, _: &mut Gradients) -> Result<Tensor> {
        let x = tape.pop()?;
        with_element!("activation", &x, T => self.pull_back::<T>(&x, &dy), cuda => self.pull_back_cuda(&x, &dy))
    }
}
