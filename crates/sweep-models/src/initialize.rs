//! Where the values of a new network's parameters come from: random draws or a checkpoint.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use sweep_kernels::{ParameterId, Parameters};

use crate::config::refuse;
use crate::error::{Mismatch, Misshaped};
use crate::weights::resample;
use crate::{Error, Result};

/// A source of independent uniform numbers in [0, 1). The same sequence gives the same network.
pub type Uniforms<'a> = &'a mut dyn FnMut() -> f64;

/// How a parameter is drawn when it comes from no checkpoint.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Initial {
    Zeros,
    Ones,
    Constant(f64),
    /// Normal with mean 0 and this standard deviation. timm's `trunc_normal_` cuts at ±2, which at its standard
    /// deviation of 0.02 is 100 deviations away, so nothing is cut here.
    Normal(f64),
    /// Uniform in ±bound.
    Uniform(f64),
}

impl Initial {
    /// PyTorch's default for weight and bias of linear layers and convolutions: uniform in ±1 / sqrt(fan in).
    pub(crate) fn by_fan_in(fan_in: usize) -> Self {
        Self::Uniform(1.0 / (fan_in as f64).sqrt())
    }

    fn draw(self, uniforms: Uniforms<'_>) -> f64 {
        match self {
            Self::Zeros => 0.0,
            Self::Ones => 1.0,
            Self::Constant(value) => value,
            Self::Normal(deviation) => {
                // Box and Muller; 1 - u lies in (0, 1], so that the logarithm is finite.
                let radius = (-2.0 * (1.0 - uniforms()).ln()).sqrt();
                deviation * radius * (std::f64::consts::TAU * uniforms()).cos()
            }
            Self::Uniform(bound) => bound * (2.0 * uniforms() - 1.0),
        }
    }
}

/// Values for the classifier of a network that is loaded from a checkpoint.
pub enum Head<'a> {
    /// The checkpoint's own; it must have the network's number of classes.
    Stored,
    /// A new one, drawn as in section A.4 of the paper; what the checkpoint holds for it is ignored.
    Fresh(Uniforms<'a>),
}

pub(crate) enum Values<'a> {
    /// None: the parameters are only counted.
    Counted,
    Random(Uniforms<'a>),
    Checkpoint {
        tensors: HashMap<String, Tensor>,
        head: Head<'a>,
        mismatch: Mismatch,
    },
}

/// Collects the parameters of a network while it is composed, in timm's order.
pub(crate) struct Builder<'a> {
    parameters: Parameters,
    dtype: DType,
    values: Values<'a>,
    elements: usize,
    tensors: usize,
    stochastic_layers: u64,
}

/// Most elements of all parameters together: twice those of the largest vision transformer that timm has (1.8 billion).
const MOST_ELEMENTS: usize = 4_000_000_000;
/// Most parameters: a hundred times those of the deepest networks.
const MOST_TENSORS: usize = 100_000;

/// Whether a timm name belongs to the classifier of any backbone.
pub(crate) fn is_head(name: &str) -> bool {
    matches!(name, "head.weight" | "head.bias" | "head.fc.weight" | "head.fc.bias" | "fc.weight" | "fc.bias")
}

impl<'a> Builder<'a> {
    pub(crate) fn new(dtype: DType, values: Values<'a>) -> Self {
        Self { parameters: Parameters::new(), dtype, values, elements: 0, tensors: 0, stochastic_layers: 0 }
    }

    /// Counts a parameter of `shape` and refuses networks that no machine holds.
    fn count(&mut self, shape: &[usize]) -> Result<()> {
        let elements = shape.iter().try_fold(1_usize, |count, size| count.checked_mul(*size));
        self.elements = elements.and_then(|count| self.elements.checked_add(count)).unwrap_or(usize::MAX);
        self.tensors += 1;
        if self.elements > MOST_ELEMENTS {
            let expected = format!("at most {MOST_ELEMENTS}; widths, depth or classes are too large");
            return refuse("number of parameters", &format!("{} or more", self.elements), expected);
        }
        if self.tensors > MOST_TENSORS {
            let expected = format!("at most {MOST_TENSORS}; the network is too deep");
            return refuse("number of parameter tensors", &format!("{} or more", self.tensors), expected);
        }
        Ok(())
    }

    /// Adds the parameter `name` of `shape`.
    pub(crate) fn add(&mut self, name: &str, shape: &[usize], initial: Initial) -> Result<ParameterId> {
        self.count(shape)?;
        let tensor = match &mut self.values {
            Values::Counted => placeholder()?,
            Values::Random(uniforms) => draw(shape, initial, uniforms)?,
            Values::Checkpoint { tensors, head, mismatch } => {
                let stored = tensors.remove(name);
                match head {
                    Head::Fresh(uniforms) if is_head(name) => draw(shape, initial, uniforms)?,
                    _ => fitting(name, shape, stored, mismatch)?,
                }
            }
        };
        Ok(self.parameters.add(name, tensor.to_dtype(self.dtype)?)?)
    }

    /// Adds a tensor that is saved but not trained, of the shape of `initial`.
    pub(crate) fn add_buffer(&mut self, name: &str, initial: Tensor) -> Result<ParameterId> {
        self.count(initial.dims())?;
        let tensor = match &mut self.values {
            Values::Counted => placeholder()?,
            Values::Random(_) => initial,
            Values::Checkpoint { tensors, mismatch, .. } => {
                fitting(name, initial.dims(), tensors.remove(name), mismatch)?
            }
        };
        Ok(self.parameters.add_buffer(name, tensor.to_dtype(self.dtype)?)?)
    }

    /// Adds a counter, an I64 scalar. It starts at 0, also where a checkpoint lacks it: such files come from versions
    /// of PyTorch that did not count, and as in PyTorch it decides nothing.
    pub(crate) fn add_counter(&mut self, name: &str) -> Result<ParameterId> {
        self.count(&[])?;
        let mut tensor = Tensor::new(0_i64, &Device::Cpu)?;
        if let Values::Checkpoint { tensors, mismatch, .. } = &mut self.values
            && let Some(stored) = tensors.remove(name)
        {
            tensor = fitting(name, &[], Some(stored), mismatch)?;
        }
        Ok(self.parameters.add_buffer(name, tensor.to_dtype(DType::I64)?)?)
    }

    /// A number that tells the stochastic layers of a network apart.
    pub(crate) fn next_stochastic_layer(&mut self) -> u64 {
        self.stochastic_layers += 1;
        self.stochastic_layers
    }

    /// The parameters, if the checkpoint (when there is one) held exactly those of the network.
    pub(crate) fn finish(self) -> Result<Parameters> {
        if let Values::Checkpoint { tensors, mut mismatch, .. } = self.values {
            mismatch.unexpected = tensors.into_keys().collect();
            mismatch.unexpected.sort();
            if !mismatch.is_empty() {
                return Err(Error::Mismatch(Box::new(mismatch)));
            }
        }
        Ok(self.parameters)
    }
}

fn draw(shape: &[usize], initial: Initial, uniforms: Uniforms<'_>) -> Result<Tensor> {
    let len = shape.iter().product();
    let values: Vec<f64> = std::iter::repeat_with(|| initial.draw(uniforms)).take(len).collect();
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

/// The stored tensor, resampled where its kind allows it, or a placeholder after noting what is wrong with it.
fn fitting(name: &str, shape: &[usize], stored: Option<Tensor>, mismatch: &mut Mismatch) -> Result<Tensor> {
    match stored {
        Some(tensor) if tensor.dims() == shape => return Ok(tensor),
        Some(tensor) => {
            if let Some(resampled) = resample(name, &tensor, shape)? {
                return Ok(resampled);
            }
            let (got, expected) = (tensor.dims().to_vec(), shape.to_vec());
            mismatch.misshaped.push(Misshaped { name: name.to_owned(), got, expected });
        }
        None => mismatch.missing.push(name.to_owned()),
    }
    placeholder()
}

/// Stands in for a tensor of a network that comes to nothing.
fn placeholder() -> Result<Tensor> {
    Ok(Tensor::zeros((), DType::F32, &Device::Cpu)?)
}
