//! Page-locked memory of the host, which a GPU copies from and to by itself.

use std::ffi::c_void;
use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::sys::CUevent_flags;
use candle_core::cuda_backend::cudarc::driver::{CudaContext, CudaEvent, DriverError, result};
use candle_core::{DType, Device, Shape, Tensor, WithDType};

use super::{Gpu, failure};
use crate::Result;

/// Page-locked memory, and what tells that the GPU is done with it.
pub(super) struct Locked {
    start: *mut u8,
    bytes: usize,
    done: CudaEvent,
    /// Whether the GPU may not be done with it.
    is_busy: bool,
}

// SAFETY: the memory belongs to this value alone, and the driver lets any thread use and free it.
unsafe impl Send for Locked {}

impl Locked {
    /// Locks memory, which takes the driver long: buffers are kept. All bytes are 0.
    pub(super) fn new(context: &Arc<CudaContext>, bytes: usize) -> Result<Self> {
        // A thread that waits for it sleeps: others prepare images meanwhile.
        let done = context.new_event(Some(CUevent_flags::CU_EVENT_BLOCKING_SYNC)).map_err(failure)?;
        // SAFETY: what is allocated is written right away.
        let start = unsafe { result::malloc_host(bytes, 0) };
        let start = start.map_err(|answer| failure(NotLocked { bytes, answer }))?.cast::<u8>();
        // SAFETY: the allocation has `bytes` bytes.
        unsafe { start.write_bytes(0, bytes) };
        Ok(Self { start, bytes, done, is_busy: false })
    }

    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether the GPU is done with the memory.
    pub(super) fn is_free(&self) -> bool {
        !self.is_busy || (self.done.context().bind_to_thread().is_ok() && self.done.is_complete())
    }

    /// Waits until the GPU is done with the memory.
    fn wait(&mut self) -> Result<()> {
        if self.is_busy {
            self.done.synchronize().map_err(failure)?;
            self.is_busy = false;
        }
        Ok(())
    }

    /// Marks the end of what was enqueued with this memory.
    fn record(&mut self, gpu: &Gpu) -> Result<()> {
        self.is_busy = true;
        self.done.record(gpu.stream()).map_err(failure)
    }

    /// Enqueues a copy of `values`, which must not be more than fit, to `tensor`, which has room for them.
    pub(super) fn send<T: WithDType>(&mut self, values: &[T], tensor: &Tensor, gpu: &Gpu) -> Result<()> {
        let bytes = size_of_val(values);
        assert!(bytes <= self.bytes && values.len() <= tensor.elem_count(), "room for what is sent");
        assert_eq!(T::DTYPE, tensor.dtype(), "numbers of the tensor");
        self.wait()?;
        // SAFETY: `start` begins memory for the bytes, which the GPU has read.
        let staged = unsafe {
            self.start.copy_from_nonoverlapping(values.as_ptr().cast(), bytes);
            std::slice::from_raw_parts(self.start, bytes)
        };
        let address = gpu.address(tensor)?;
        // SAFETY: the tensor has room for the bytes; the buffer stays as it is until the event is reached.
        unsafe { result::memcpy_htod_async(address, staged, gpu.stream().cu_stream()) }.map_err(failure)?;
        self.record(gpu)
    }

    /// Enqueues a copy of `tensor`, which must not be larger than this.
    fn fetch(&mut self, tensor: &Tensor, gpu: &Gpu) -> Result<()> {
        let bytes = tensor.elem_count() * tensor.dtype().size_in_bytes();
        assert!(bytes <= self.bytes, "room for what is fetched");
        self.wait()?;
        // SAFETY: `start` begins memory for the bytes, all of them initialized, which nothing else refers to.
        let target = unsafe { std::slice::from_raw_parts_mut(self.start, bytes) };
        let address = gpu.address(tensor)?;
        // SAFETY: the tensor has these bytes, and is freed in the order of the stream; the buffer is read and freed only
        // after the event is reached.
        unsafe { result::memcpy_dtoh_async(target, address, gpu.stream().cu_stream()) }.map_err(failure)?;
        self.record(gpu)
    }

    /// The first `count` bytes, once the GPU has written them.
    fn read(&mut self, count: usize) -> Result<&[u8]> {
        assert!(count <= self.bytes, "bytes that are there");
        self.wait()?;
        // SAFETY: `start` begins so many initialized bytes, which nothing writes to while this value is borrowed.
        Ok(unsafe { std::slice::from_raw_parts(self.start, count) })
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        // Failures when the driver is gone change nothing.
        let _ = self.done.context().bind_to_thread();
        let _ = self.wait();
        // SAFETY: made by `new`, freed once, after the GPU is done with it.
        let _ = unsafe { result::free_host(self.start.cast::<c_void>()) };
    }
}

/// The operating system or the driver locks no more memory of the host. In words of its own, without the driver's but for
/// their number: those are the words for a GPU without memory, which a smaller micro batch would help.
#[derive(Debug, thiserror::Error)]
#[error("{bytes} bytes of the host's memory could not be page-locked (error {} of CUDA)", answer.0 as u32)]
struct NotLocked {
    bytes: usize,
    answer: DriverError,
}

/// A copy from the GPU that was enqueued.
pub(crate) struct Download {
    gpu: Gpu,
    /// Goes back to the others when this is dropped.
    buffer: Option<Locked>,
    shape: Shape,
    dtype: DType,
}

impl Download {
    pub(crate) fn new(tensor: &Tensor) -> Result<Self> {
        let gpu = Gpu::of(tensor)?;
        let bytes = tensor.elem_count() * tensor.dtype().size_in_bytes();
        let mut download = Self { buffer: None, shape: tensor.shape().clone(), dtype: tensor.dtype(), gpu };
        if bytes > 0 {
            let mut buffer = download.gpu.take_locked(bytes)?;
            buffer.fetch(tensor, &download.gpu)?;
            download.buffer = Some(buffer);
        }
        Ok(download)
    }

    /// The numbers, once the GPU has copied them.
    pub(crate) fn finish(mut self) -> Result<Tensor> {
        let bytes = self.shape.elem_count() * self.dtype.size_in_bytes();
        let read = self.buffer.as_mut().map_or(Ok(&[][..]), |buffer| buffer.read(bytes))?;
        Ok(Tensor::from_raw_buffer(read, self.dtype, self.shape.dims(), &Device::Cpu)?)
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            self.gpu.keep_locked(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use candle_core::cuda_backend::cudarc::driver::sys::CUresult;

    use super::*;

    #[test]
    fn a_host_without_memory_is_not_taken_for_a_gpu_without() {
        let error = NotLocked { bytes: 4096, answer: DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY) };
        assert!(error.source().is_none());
        let expected = "4096 bytes of the host's memory could not be page-locked (error 2 of CUDA)";
        assert_eq!(error.to_string(), expected);
    }
}
