//! The moments an optimizer keeps for each parameter, and their way into and out of named tensors.

use std::collections::HashMap;

use candle_core::{CpuStorage, DType, Device, Tensor, WithDType};

use crate::element::Element;
use crate::host::{Host, tensor, with_element};
use crate::{Error, ParameterId, Parameters, Result};

/// Number of steps done and `K` moments of one parameter.
pub(super) struct Moments<const K: usize> {
    pub(super) step: u64,
    buffers: Buffers<K>,
}

/// Moments where their parameter lives.
enum Buffers<const K: usize> {
    Host([CpuStorage; K]),
    #[cfg(feature = "cuda")]
    Gpu([Tensor; K]),
}

impl<const K: usize> Moments<K> {
    fn zeros<T: Element>(len: usize) -> Self {
        let buffers = std::array::from_fn(|_| T::to_cpu_storage_owned(vec![T::zero(); len]));
        Self { step: 0, buffers: Buffers::Host(buffers) }
    }

    /// The moments as slices of the parameter's element type.
    pub(super) fn slices<T: Element>(&mut self) -> Result<[&mut [T]; K]> {
        let mut slices = Vec::with_capacity(K);
        if let Some(buffers) = self.buffers.on_host() {
            for buffer in buffers {
                let buffer = T::buffer(buffer)
                    .ok_or_else(|| problem("its dtype is not the parameter's".to_owned()))?;
                slices.push(buffer.as_mut_slice());
            }
        }
        slices.try_into().map_err(|_| problem("it lives on a GPU, its parameter does not".to_owned()))
    }

    /// The moments on the GPU where the parameter is.
    #[cfg(feature = "cuda")]
    pub(super) fn tensors(&self) -> Result<&[Tensor; K]> {
        match &self.buffers {
            Buffers::Gpu(tensors) => Ok(tensors),
            Buffers::Host(_) => Err(problem("it lives on the CPU, its parameter does not".to_owned())),
        }
    }
}

impl<const K: usize> Buffers<K> {
    #[cfg_attr(not(feature = "cuda"), expect(clippy::unnecessary_wraps, reason = "there are others on GPUs"))]
    fn on_host(&mut self) -> Option<&mut [CpuStorage; K]> {
        match self {
            Self::Host(buffers) => Some(buffers),
            #[cfg(feature = "cuda")]
            Self::Gpu(_) => None,
        }
    }

    /// The moments as tensors of their own on the CPU, in the shape of `parameter`.
    fn export(&self, parameter: &Tensor) -> Result<Vec<Tensor>> {
        match self {
            Self::Host(buffers) => buffers.iter().map(|buffer| export_one(buffer, parameter)).collect(),
            #[cfg(feature = "cuda")]
            Self::Gpu(tensors) => {
                let moved =
                    tensors.iter().map(|moment| moment.to_device(&Device::Cpu)?.reshape(parameter.shape()));
                Ok(moved.collect::<candle_core::Result<_>>()?)
            }
        }
    }
}

fn export_one(buffer: &CpuStorage, parameter: &Tensor) -> Result<Tensor> {
    with_element!("state", parameter, T => tensor(T::cpu_storage_data(buffer.clone())?, parameter.shape()))
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

    /// The same on a GPU, in the shape of the parameter.
    #[cfg(feature = "cuda")]
    pub(super) fn entry_on_gpu(
        &mut self,
        gpu: &crate::cuda::Gpu,
        id: ParameterId,
        parameter: &Tensor,
    ) -> Result<&mut Moments<K>> {
        use std::collections::hash_map::Entry;
        match self.moments.entry(id) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(slot) => {
                let mut tensors = Vec::with_capacity(K);
                for _ in 0..K {
                    tensors.push(gpu.zeros(parameter.shape(), parameter.dtype())?);
                }
                Ok(slot.insert(Moments { step: 0, buffers: Buffers::Gpu(array(tensors)) }))
            }
        }
    }

    pub(super) fn export(&self, parameters: &Parameters) -> Result<Vec<(String, Tensor)>> {
        let mut tensors = Vec::new();
        for (id, name, parameter) in parameters.iter() {
            let Some(moments) = self.moments.get(&id) else { continue };
            tensors.push((format!("step.{name}"), Tensor::new(moments.step as i64, &Device::Cpu)?));
            for (moment, copy) in self.names.iter().zip(moments.buffers.export(parameter)?) {
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
        let mut found = Vec::with_capacity(K);
        for moment in self.names {
            let key = format!("{moment}.{name}");
            let stored = state.get(&key).ok_or_else(|| problem(format!("`{key}` is missing")))?;
            if stored.dims() != parameter.dims() || stored.dtype() != parameter.dtype() {
                return Err(problem(format!("`{key}` has another shape or dtype than the parameter")));
            }
            found.push(stored);
        }
        Ok(Moments { step, buffers: Buffers::copied(&found, parameter.device())? })
    }
}

impl<const K: usize> Buffers<K> {
    /// Copies of `K` stored moments on `device`.
    fn copied(stored: &[&Tensor], device: &Device) -> Result<Self> {
        #[cfg(feature = "cuda")]
        if device.is_cuda() {
            let moved = stored.iter().map(|moment| moment.contiguous()?.to_device(device));
            return Ok(Self::Gpu(array(moved.collect::<candle_core::Result<_>>()?)));
        }
        debug_assert!(device.is_cpu());
        let mut buffers = Vec::with_capacity(K);
        for moment in stored {
            let host = Host::new(moment)?;
            buffers.push(with_element!("state", *moment, T => T::to_cpu_storage(&host.read::<T>()?)));
        }
        Ok(Self::Host(array(buffers)))
    }
}

/// One value for each moment.
fn array<V, const K: usize>(values: Vec<V>) -> [V; K] {
    values.try_into().unwrap_or_else(|_| unreachable!("one value was pushed for each of the K moments"))
}

fn problem(problem: String) -> Error {
    Error::OptimizerState { problem }
}
