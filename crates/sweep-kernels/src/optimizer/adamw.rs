//! AdamW (Loshchilov and Hutter 2019) with PyTorch's formula and order of operations.

use std::collections::HashMap;

use candle_core::Tensor;
use rayon::prelude::*;

use super::state::{Moments, StateTable};
use super::{Optimizer, ParameterGroup, check_groups, check_setting};
#[cfg(feature = "cuda")]
use crate::cuda::{Gpu, Table};
use crate::element::Element;
use crate::host::{Host, overwrite, with_element};
use crate::native::{CHUNK, vectorized};
use crate::{Gradients, Parameters, Result};

/// What all groups of an [`AdamW`] share.
#[derive(Clone, Copy, Debug)]
pub struct AdamWSettings {
    /// Decay rates of the running means of gradients and squared gradients, each in [0, 1).
    pub betas: [f64; 2],
    /// Added to the denominator, not negative (PyTorch calls it `eps`).
    pub stability: f64,
}

impl Default for AdamWSettings {
    /// PyTorch's defaults.
    fn default() -> Self {
        Self { betas: [0.9, 0.999], stability: 1e-8 }
    }
}

/// AdamW with decoupled weight decay; the moments have the dtype of the parameters.
pub struct AdamW {
    settings: AdamWSettings,
    groups: Vec<ParameterGroup>,
    state: StateTable<2>,
}

/// The scalars of one step for one parameter.
#[derive(Clone, Copy)]
struct Step<T> {
    keep: T,
    mean_weight: T,
    square_decay: T,
    square_weight: T,
    size: T,
    root_correction: T,
    stability: T,
}

impl AdamW {
    /// # Errors
    /// [`Error::Setting`](crate::Error::Setting) for a number out of range or a parameter in two groups.
    pub fn new(settings: AdamWSettings, groups: Vec<ParameterGroup>) -> Result<Self> {
        check_groups(&groups)?;
        for beta in settings.betas {
            check_setting("beta", beta, 0.0..=1.0 - f64::EPSILON, "a number in [0, 1)")?;
        }
        check_setting("stability", settings.stability, 0.0..=f64::MAX, "a number that is not negative")?;
        Ok(Self { settings, groups, state: StateTable::new(["exp_avg", "exp_avg_sq"]) })
    }

    fn step_constants<T: Element>(
        settings: AdamWSettings,
        rate: f64,
        weight_decay: f64,
        step: u64,
    ) -> Step<T> {
        let [beta1, beta2] = settings.betas;
        let correction = |beta: f64| 1.0 - beta.powf(step as f64);
        Step {
            keep: T::from_f64(1.0 - rate * weight_decay),
            mean_weight: T::from_f64(1.0 - beta1),
            square_decay: T::from_f64(beta2),
            square_weight: T::from_f64(1.0 - beta2),
            size: T::from_f64(rate / correction(beta1)),
            root_correction: T::from_f64(correction(beta2).sqrt()),
            stability: T::from_f64(settings.stability),
        }
    }
}

#[cfg(feature = "cuda")]
impl AdamW {
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
                let [mean, square] = moments.tensors()?;
                let copy = parameters.kept_copy(*id);
                table.push("AdamW", &[parameter, gradient, mean, square], copy.as_ref(), &step.numbers())?;
            }
        }
        table.launch("adamw_steps", &[])?;
        parameters.forget_rearranged();
        Ok(())
    }
}

#[cfg(feature = "cuda")]
impl Step<f32> {
    /// In the order of the kernel.
    fn numbers(self) -> [f32; 7] {
        let Self { keep, mean_weight, square_decay, square_weight, size, root_correction, stability } = self;
        [keep, mean_weight, square_decay, square_weight, size, root_correction, stability]
    }
}

/// Updates one parameter and its moments.
fn update<T: Element>(
    parameter: &Tensor,
    gradient: &Tensor,
    moments: &mut Moments<2>,
    step: Step<T>,
) -> Result<()> {
    let host = Host::new(gradient)?;
    let gradient = host.read::<T>()?;
    let [mean, square] = moments.slices::<T>()?;
    overwrite("AdamW", parameter, |values: &mut [T]| {
        let moments = mean.par_chunks_mut(CHUNK).zip(square.par_chunks_mut(CHUNK));
        let chunks = values.par_chunks_mut(CHUNK).zip(gradient.par_chunks(CHUNK)).zip(moments);
        chunks.for_each(|((values, gradient), (mean, square))| {
            vectorized(
                #[inline(always)]
                || update_chunk(values, gradient, mean, square, step),
            );
        });
    })
}

#[inline(always)]
fn update_chunk<T: Element>(
    values: &mut [T],
    gradient: &[T],
    mean: &mut [T],
    square: &mut [T],
    step: Step<T>,
) {
    for (((p, g), m), v) in values.iter_mut().zip(gradient).zip(mean).zip(square) {
        *m += step.mean_weight * (*g - *m);
        *v = *v * step.square_decay + step.square_weight * *g * *g;
        let denominator = Element::sqrt(*v) / step.root_correction + step.stability;
        *p = *p * step.keep - step.size * (*m / denominator);
    }
}

impl Optimizer for AdamW {
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
                with_element!("AdamW", parameter, T => {
                    let moments = self.state.entry::<T>(*id, parameter.elem_count());
                    moments.step += 1;
                    let step = Self::step_constants(self.settings, rate, group.weight_decay, moments.step);
                    update::<T>(parameter, gradient, moments, step)?;
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
