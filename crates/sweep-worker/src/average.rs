//! The moving average of a run's weights, where it has one.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use sweep_core::spec::{EmaSpec, Precision};
use sweep_kernels::{Parameters, move_average};
use sweep_models::{Head, Model};

use crate::{Result, compute};

/// A second model whose parameters follow those of the one that is trained.
///
/// It is the one that is validated, evaluated and saved, complete with running statistics of batch norm, which are
/// averaged like weights (see [`move_average`]). Attacks on training images look at the model that is trained.
pub(crate) struct Average {
    model: Model,
    decay: f64,
}

impl Average {
    /// Begins with the weights that `model` has now.
    pub(crate) fn new(
        model: &Model,
        EmaSpec { decay }: EmaSpec,
        device: &Device,
        precision: Precision,
    ) -> Result<Self> {
        let on_cpu = |(name, tensor): (String, Tensor)| Ok((name, tensor.to_device(&Device::Cpu)?));
        let tensors = model.parameters().snapshot()?.into_iter().map(on_cpu);
        let tensors: HashMap<String, Tensor> = tensors.collect::<candle_core::Result<_>>()?;
        let average = Model::from_tensors(model.architecture().clone(), DType::F32, tensors, Head::Stored)?;
        Ok(Self { model: compute::place(average, device, precision)?, decay })
    }

    pub(crate) const fn model(&self) -> &Model {
        &self.model
    }

    /// The model, to be filled from a checkpoint.
    pub(crate) const fn model_mut(&mut self) -> &mut Model {
        &mut self.model
    }

    /// Follows one optimizer step.
    pub(crate) fn update(&mut self, parameters: &Parameters) -> Result<()> {
        Ok(move_average(self.model.parameters_mut(), parameters, self.decay)?)
    }
}
