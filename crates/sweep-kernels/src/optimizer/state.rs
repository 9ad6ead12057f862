//! The moments an optimizer keeps for each parameter, and their way into and out of named tensors.

use std::collections::HashMap;

use candle_core::{CpuStorage, DType, Device, Tensor, WithDType};

use crate::element::Element;
use crate::host::{Host, tensor, with_element};
use crate::{Error, ParameterId, Parameters, Result};

/// Number of steps done and `K` moments of one parameter.
pub(super) struct Moments<const K: usize> {
    pub(super) step: u64,
    pub(super) buffers: [CpuStorage; K],
}

impl<const K: usize> Moments<K> {
    fn zeros<T: Element>(len: usize) -> Self {
        Self { step: 0, buffers: std::array::from_fn(|_| T::to_cpu_storage_owned(vec![T::zero(); len])) }
    }

    /// The moments as slices of the parameter's element type.
    pub(super) fn slices<T: Element>(&mut self) -> Result<[&mut [T]; K]> {
        let problem = "its dtype is not that of the parameter";
        let mut slices = Vec::with_capacity(K);
        for buffer in &mut self.buffers {
            let buffer =
                T::buffer(buffer).ok_or_else(|| Error::OptimizerState { problem: problem.to_owned() })?;
            slices.push(buffer.as_mut_slice());
        }
        Ok(slices
            .try_into()
            .unwrap_or_else(|_| unreachable!("one slice was pushed for each of the K buffers")))
    }
}

/// Moments by parameter; a parameter that never had a gradient has none.
pub(super) struct StateTable<const K: usize> {
    names: [&'static str; K],
    moments: HashMap<ParameterId, Moments<K>>,
}

impl<const K: usize> StateTable<K> {
    /// `names` are the names of the moments in exported state.
    pub(super) fn new(names: [&'static str; K]) -> Self {
        Self { names, moments: HashMap::new() }
    }

    /// The moments of `id`, zero at first.
    pub(super) fn entry<T: Element>(&mut self, id: ParameterId, len: usize) -> &mut Moments<K> {
        self.moments.entry(id).or_insert_with(|| Moments::zeros::<T>(len))
    }

    pub(super) fn export(&self, parameters: &Parameters) -> Result<Vec<(String, Tensor)>> {
        let mut tensors = Vec::new();
        for (id, name, parameter) in parameters.iter() {
            let Some(moments) = self.moments.get(&id) else { continue };
            tensors.push((format!("step.{name}"), Tensor::new(moments.step as i64, &Device::Cpu)?));
            for (moment, buffer) in self.names.iter().zip(&moments.buffers) {
                let copy = with_element!("state", parameter, T => {
                    tensor(T::cpu_storage_data(buffer.clone())?, parameter.shape())?
                });
                tensors.push((format!("{moment}.{name}"), copy));
            }
        }
        Ok(tensors)
    }

    pub(super) fn import(&mut self, parameters: &Parameters, state: &HashMap<String, Tensor>) -> Result<()> {
        let mut restored = HashMap::new();
        for (id, name, parameter) in parameters.iter() {
            if let Some(step) = state.get(&format!("step.{name}")) {
                restored.insert(id, self.import_one(name, parameter, step, state)?);
            }
        }
        if restored.len() * (K + 1) != state.len() {
            let known = restored.len() * (K + 1);
            return Err(problem(format!(
                "{} tensors do not belong to these parameters",
                state.len() - known
            )));
        }
        self.moments = restored;
        Ok(())
    }

    fn import_one(
        &self,
        name: &str,
        parameter: &Tensor,
        step: &Tensor,
        state: &HashMap<String, Tensor>,
    ) -> Result<Moments<K>> {
        let step = step.to_dtype(DType::I64)?.to_scalar::<i64>()?;
        let step = u64::try_from(step).map_err(|_| problem(format!("step.{name} is {step}")))?;
        let mut buffers = Vec::with_capacity(K);
        for moment in self.names {
            let key = format!("{moment}.{name}");
            let stored = state.get(&key).ok_or_else(|| problem(format!("`{key}` is missing")))?;
            if stored.dims() != parameter.dims() || stored.dtype() != parameter.dtype() {
                return Err(problem(format!("`{key}` has another shape or dtype than the parameter")));
            }
            let host = Host::new(stored)?;
            buffers.push(with_element!("state", stored, T => T::to_cpu_storage(&host.read::<T>()?)));
        }
        let buffers =
            buffers.try_into().unwrap_or_else(|_| unreachable!("one buffer was pushed for each moment"));
        Ok(Moments { step, buffers })
    }
}

fn problem(problem: String) -> Error {
    Error::OptimizerState { problem }
}
