//! Uploads through page-locked memory.

use candle_core::{DType, Device, Shape, Tensor};

use super::Gpu;
use super::locked::Locked;
use crate::Result;

/// Buffers in turn: one is filled while the GPU reads another, and one has room for a batch that comes early; twice, for
/// images and the points that an attack on them starts at.
const BUFFERS: usize = 6;

/// Buffers for uploads, made as they are needed.
#[derive(Default)]
pub(crate) struct Staging {
    buffers: [Option<Locked>; BUFFERS],
    next: usize,
}

impl Staging {
    /// Copies `values` to a new tensor, in the order of the stream. Waits only where the GPU still reads the buffer whose
    /// turn it is.
    pub(crate) fn upload(&mut self, values: &[f32], shape: Shape, device: &Device) -> Result<Tensor> {
        if shape.elem_count() != values.len() {
            // candle words the mismatch; the tensor on the CPU is never made.
            return Ok(Tensor::from_slice(values, shape, &Device::Cpu)?);
        }
        let gpu = Gpu::new(device)?;
        let tensor = gpu.empty(shape, DType::F32)?;
        let slot = &mut self.buffers[self.next];
        self.next = (self.next + 1) % BUFFERS;
        if slot.as_ref().is_none_or(|buffer| buffer.bytes() < size_of_val(values)) {
            // The old one goes first, so that never more memory is locked than is used.
            *slot = None;
        }
        let buffer = match slot {
            Some(buffer) => buffer,
            None => slot.insert(Locked::new(gpu.stream().context(), size_of_val(values))?),
        };
        buffer.send(values, &tensor, &gpu)?;
        Ok(tensor)
    }
}
