//! From a checkpoint into a model and its optimizer, and back.

use std::collections::HashMap;

use candle_core::{Device, Tensor};
use sweep_kernels::Optimizer;
use sweep_models::Model;

use super::content::{AVERAGES, Content, MOMENTS, PARAMETERS, Tensors};
use super::position::Position;
use crate::Result;
use crate::average::Average;

/// What a checkpoint is put into.
pub(crate) struct State<'a> {
    pub(crate) model: &'a mut Model,
    pub(crate) average: Option<&'a mut Average>,
    pub(crate) optimizer: &'a mut dyn Optimizer,
    pub(crate) shape: Shape,
}

/// Numbers of the data, which a position must agree with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Training images.
    pub(crate) train: u32,
    /// Validation images.
    pub(crate) validation: u32,
    /// Images a step.
    pub(crate) batch_size: u32,
}

impl Shape {
    /// Returns the number of optimizer steps of an epoch.
    pub(crate) const fn steps(self) -> u32 {
        self.train.div_ceil(self.batch_size)
    }

    fn check(self, position: &Position) -> Result<(), String> {
        let fits = |train, validation| train == self.train && validation == self.validation;
        if !position.epochs().iter().all(|record| fits(record.train.seen, record.images)) {
            return Err("its epochs went over another number of images".to_owned());
        }
        let seen = u64::from(position.step) * u64::from(self.batch_size);
        if position.step > self.steps() || u64::from(position.sums.seen) != seen.min(self.train.into()) {
            return Err("its steps went over another number of images".to_owned());
        }
        Ok(())
    }
}

impl Content {
    /// Checks every name, shape and dtype and puts the moments into the optimizer, or says what does not fit; then nothing
    /// is changed.
    pub(super) fn check(&self, state: &mut State<'_>) -> Result<(), String> {
        state.shape.check(&self.position)?;
        let Tensors { parameters, averages, moments } = &self.tensors;
        check_fit(parameters, state.model)?;
        match &state.average {
            Some(average) => check_fit(averages, average.model())?,
            None if averages.is_empty() => {}
            None => return Err("it has averages, and the run has none".to_owned()),
        }
        state.optimizer.restore(state.model.parameters(), moments).map_err(|error| error.to_string())
    }

    /// Puts the parameters into what [`Self::check`] has found to fit.
    pub(super) fn apply(self, state: &mut State<'_>) -> Result<Position> {
        fill(state.model, self.tensors.parameters)?;
        if let Some(average) = &mut state.average {
            fill(average.model_mut(), self.tensors.averages)?;
        }
        Ok(self.position)
    }
}

/// Returns the tensors of a checkpoint, on the CPU. Those of parameters that are there share their storage.
pub(super) fn tensors(
    model: &Model,
    average: Option<&Model>,
    optimizer: &dyn Optimizer,
) -> Result<Vec<(String, Tensor)>> {
    let named = |kind: &'static str, model: &Model| -> Vec<(String, Tensor)> {
        let parameters = model.parameters().iter();
        parameters.map(|(_, name, tensor)| (format!("{kind}{name}"), tensor.clone())).collect()
    };
    let mut tensors = named(PARAMETERS, model);
    tensors.extend(average.map(|average| named(AVERAGES, average)).unwrap_or_default());
    let moments = optimizer.state(model.parameters())?.into_iter();
    tensors.extend(moments.map(|(name, tensor)| (format!("{MOMENTS}{name}"), tensor)));
    let on_cpu = tensors.into_iter().map(|(name, tensor)| Ok((name, tensor.to_device(&Device::Cpu)?)));
    Ok(on_cpu.collect::<candle_core::Result<_>>()?)
}

/// Says what does not fit where `stored` is to become the parameters of `model`.
fn check_fit(stored: &HashMap<String, Tensor>, model: &Model) -> Result<(), String> {
    for (_, name, own) in model.parameters().iter() {
        let stored = stored.get(name).ok_or_else(|| format!("it has no parameter `{name}`"))?;
        if stored.dims() != own.dims() || stored.dtype() != own.dtype() {
            return Err(format!("its parameter `{name}` has another shape or dtype than the model's"));
        }
    }
    if stored.len() != model.parameters().len() {
        return Err("it has parameters that the model has not".to_owned());
    }
    Ok(())
}

fn fill(model: &mut Model, stored: HashMap<String, Tensor>) -> Result<()> {
    for (name, tensor) in stored {
        if let Some(id) = model.parameters().id(&name) {
            let tensor = tensor.to_device(model.parameters().get(id).device())?;
            model.parameters_mut().set(id, tensor)?;
        }
    }
    Ok(())
}
