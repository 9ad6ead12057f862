//! Bringing images to where they are computed on.

use candle_core::{Device, Shape, Tensor};

use crate::Result;

/// Moves buffers of the host to a device, on GPUs without waiting for it: through page-locked memory, of which one part is
/// filled while others are still on their way. On the CPU a buffer becomes a tensor as it is.
#[derive(Default)]
pub struct Uploads {
    #[cfg(feature = "cuda")]
    staging: crate::cuda::Staging,
}

impl Uploads {
    /// No memory is taken before the first upload to a GPU.
    pub fn new() -> Self {
        Self::default()
    }

    /// The numbers as an F32 tensor of `shape` on `device`.
    ///
    /// # Errors
    /// A tensor error if there are not as many numbers as the shape says; failures of the device.
    pub fn tensor(&mut self, values: Vec<f32>, shape: impl Into<Shape>, device: &Device) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if device.is_cuda() {
            return self.staging.upload(&values, shape.into(), device);
        }
        Ok(Tensor::from_vec(values, shape, device)?)
    }
}

/// Gives memory back that was used on `device` and is not any more, once the device is done with it: for other processes on
/// the same GPU. It is kept otherwise. Waits for the GPU; nothing happens on the CPU.
///
/// # Errors
/// Failures of the device.
pub fn release_memory(device: &Device) -> Result<()> {
    #[cfg(feature = "cuda")]
    if device.is_cuda() {
        return crate::cuda::Gpu::new(device)?.release_memory();
    }
    let _ = device;
    Ok(())
}

/// Gives up what the calling thread holds of GPUs, once they are done with its work. A thread that nobody joins calls this at
/// its end, after its tensors are gone: what it held to the last would be given up while the process and its driver go down.
/// What a GPU in an error state holds goes with the process.
pub fn leave_devices() {
    #[cfg(feature = "cuda")]
    crate::cuda::leave_devices();
}
