//! Stochastic gradient descent with momentum, with PyTorch's formula and order of operations.

use std::collections::HashMap;

use candle_core::{Tensor, WithDType};
use rayon::prelude::*;

use super::state::{Moments, StateTable};
use super::{Optimizer, ParameterGroup, check_groups, check_setting};
#[cfg(feature = "cuda")]
use crate::cuda::{Gpu, Table};
use crate::element::Element;
use crate::host::{Host, overwrite, with_element};
use crate::native::{CHUNK, vectorized};
use crate::{Gradients, Parameters, Result};

/// What all groups of an [`Sgd`] share.
#[derive(Clone, Copy, Debug, Default)]
pub struct SgdSettings {
    /// Share of the former direction that is kept, in [0, 1].
    pub momentum: f64,
    /// Share of the gradient that is left out of the direction from the second step on, in [0, 1].
    pub dampening: f64,
    /// Whether the step looks ahead along the new direction (Nesterov).
    pub nesterov: bool,
}

/// SGD with momentum and coupled weight decay (added to the gradient).
pub struct Sgd {
    settings: SgdSettings,
    groups: Vec<ParameterGroup>,
    state: StateTable<1>,
}

/// The scalars of one step for one parameter.
#[derive(Clone, Copy)]
struct Step<T> {
    decay: T,
    momentum: T,
    gradient_weight: T,
    nesterov: bool,
    rate: T,
}

impl Sgd {
    /// # Errors
    /// [`Error::Setting`](crate::Error::Setting) for a number out of range or a parameter in two groups.
    pub fn new(settings: SgdSettings, groups: Vec<ParameterGroup>) -> Result<Self> {
        check_groups(&groups)?;
        check_setting("momentum", settings.momentum, 0.0..=1.0, "a number in [0, 1]")?;
        check_setting("dampening", settings.dampening, 0.0..=1.0, "a number in [0, 1]")?;
        Ok(Self { settings, groups, state: StateTable::new(["momentum_buffer"]) })
    }

    fn step_constants<T: Element>(settings: SgdSettings, rate: f64, weight_decay: f64, step: u64) -> Step<T> {
        // PyTorch starts the direction as the plain gradient: neither dampening nor the (zero) former direction counts.
        let (momentum, weight) =
            if step == 1 { (0.0, 1.0) } else { (settings.momentum, 1.0 - settings.dampening) };
        Step {
            decay: T::from_f64(weight_decay),
            momentum: T::from_f64(momentum),
            gradient_weight: T::from_f64(weight),
            nesterov: settings.nesterov,
            rate: T::from_f64(rate),
        }
    }
}

#[cfg(feature = "cuda")]
impl Sgd {
    /// A step of all parameters by one launch.
    fn step_on_gpu(
        &mut self,
        gpu: &Gpu,
        parameters: &mut Parameters,
        gradients: &Gradients,
        multiplier: f64,
    ) -> Result<()> {
        let mut table = Table::new(gpu);
        for group in &self.groups {
            let rate = group.learning_rate * multiplier;
            for id in &group.parameters {
                let Some(gradient) = gradients.get(*id) else { continue };
                let parameter = parameters.get(*id);
                let moments = self.state.entry_on_gpu(gpu, *id, parameter)?;
                moments.step += 1;
                let step = Self::step_constants::<f32>(self.settings, rate, group.weight_decay, moments.step);
                let numbers = step.numbers(self.settings.momentum as f32);
                let [direction] = moments.tensors()?;
                let copy = parameters.kept_copy(*id);
                table.push("Sgd", &[parameter, gradient, direction], copy.as_ref(), &numbers)?;
            }
        }
        table.launch("sgd_steps", &[])?;
        parameters.forget_rearranged();
        Ok(())
    }
}

#[cfg(feature = "cuda")]
impl Step<f32> {
    /// In the order of the kernel: the last two are the shares of gradient and direction in the way that is gone.
    fn numbers(self, look_ahead: f32) -> [f32; 6] {
        let [of_gradient, of_direction] = if self.nesterov { [1.0, look_ahead] } else { [0.0, 1.0] };
        [self.decay, self.momentum, self.gradient_weight, self.rate, of_gradient, of_direction]
    }
}

/// Updates one parameter and its direction.
fn update<T: Element>(
    parameter: &Tensor,
    gradient: &Tensor,
    moments: &mut Moments<1>,
    step: Step<T>,
    look_ahead: T,
) -> Result<()> {
    let host = Host::new(gradient)?;
    let gradient = host.read::<T>()?;
    let [direction] = moments.slices::<T>()?;
    overwrite("Sgd", parameter, |values: &mut [T]| {
        let chunks = values.par_chunks_mut(CHUNK).zip(gradient.par_chunks(CHUNK));
        chunks.zip(direction.par_chunks_mut(CHUNK)).for_each(|((values, gradient), direction)| {
            vectorized(
                #[inline(always)]
                || update_chunk(values, gradient, direction, step, look_ahead),
            );
        });
    })
}

#[inline(always)]
fn update_chunk<T: Element>(
    values: &mut [T],
    gradient: &[T],
    direction: &mut [T],
    step: Step<T>,
    look_ahead: T,
) {
    for ((p, g), d) in values.iter_mut().zip(gradient).zip(direction) {
        let g = *g + step.decay * *p;
        *d = *d * step.momentum + step.gradient_weight * g;
        let along = if step.nesterov { g + look_ahead * *d } else { *d };
        *p -= step.rate * along;
    }
}

impl Optimizer for Sgd {
    fn step(&mut self, parameters: &mut Parameters, gradients: &Gradients, multiplier: f64) -> Result<()> {
        #[cfg(feature = "cuda")]
        if let Some(gpu) = parameters.gpu()? {
            return self.step_on_gpu(&gpu, parameters, gradients, multiplier);
        }
        for group in &self.groups {
            let rate = group.learning_rate * multiplier;
            for id in &group.parameters {
                let Some(gradient) = gradients.get(*id) else { continue };
                let parameter = parameters.get(*id);
                with_element!("Sgd", parameter, T => {
                    let moments = self.state.entry::<T>(*id, parameter.elem_count());
                    moments.step += 1;
                    let step = Self::step_constants(self.settings, rate, group.weight_decay, moments.step);
                    let look_ahead = <T as WithDType>::from_f64(self.settings.momentum);
                    update::<T>(parameter, gradient, moments, step, look_ahead)?;
                });
            }
        }
        Ok(())
    }

    fn state(&self, parameters: &Parameters) -> Result<Vec<(String, Tensor)>> {
        self.state.export(parameters)
    }

    fn restore(&mut self, parameters: &Parameters, state: &HashMap<String, Tensor>) -> Result<()> {
        self.state.import(parameters, state)
    }
}
