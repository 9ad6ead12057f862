//! Page-locked memory that uploads go through.

use std::ffi::c_void;
use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::{CudaContext, CudaEvent, result};
use candle_core::{DType, Device, Shape, Tensor};

use super::{Gpu, failure};
use crate::Result;

/// Buffers in turn: one is filled while the GPU reads another, and one has room for a batch that comes early.
const BUFFERS: usize = 3;

/// Buffers for uploads, made as they are needed.
#[derive(Default)]
pub(crate) struct Staging {
    buffers: [Option<Buffer>; BUFFERS],
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
        if slot.as_ref().is_none_or(|buffer| buffer.len < values.len()) {
            // The old one goes first, so that never more memory is locked than is used.
            *slot = None;
        }
        let buffer = match slot {
            Some(buffer) => buffer,
            None => slot.insert(Buffer::new(gpu.stream().context(), values.len())?),
        };
        buffer.send(values, &tensor, &gpu)?;
        Ok(tensor)
    }
}

/// Page-locked memory for `len` numbers, and what tells that the GPU has read it.
struct Buffer {
    start: *mut f32,
    len: usize,
    read: CudaEvent,
}

// SAFETY: the memory belongs to this value alone, and the driver lets any thread use and free it.
unsafe impl Send for Buffer {}

impl Buffer {
    fn new(context: &Arc<CudaContext>, len: usize) -> Result<Self> {
        let read = context.new_event(None).map_err(failure)?;
        // SAFETY: the memory is written by `send` before anything reads it.
        let start = unsafe { result::malloc_host(len * size_of::<f32>(), 0) }.map_err(failure)?;
        Ok(Self { start: start.cast(), len, read })
    }

    fn send(&mut self, values: &[f32], tensor: &Tensor, gpu: &Gpu) -> Result<()> {
        // An event that was never recorded counts as reached.
        self.read.synchronize().map_err(failure)?;
        // SAFETY: `start` begins memory for `len` numbers, at least as many as `values`; the GPU has read it.
        let staged = unsafe {
            self.start.copy_from_nonoverlapping(values.as_ptr(), values.len());
            std::slice::from_raw_parts(self.start, values.len())
        };
        let address = gpu.address(tensor)?;
        // SAFETY: the tensor has room for `values`; the buffer stays as it is until the event is reached.
        unsafe { result::memcpy_htod_async(address, staged, gpu.stream().cu_stream()) }.map_err(failure)?;
        self.read.record(gpu.stream()).map_err(failure)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: made by `new`, freed once, after the GPU has read it. Failures when the driver is gone change nothing.
        unsafe {
            let _ = self.read.synchronize();
            let _ = result::free_host(self.start.cast::<c_void>());
        }
    }
}
