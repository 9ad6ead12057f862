//! Bringing numbers to where somebody looks at them.

use candle_core::Tensor;

use crate::Result;

/// The numbers of a tensor on their way to the host. On the CPU they are there; on a GPU a copy was enqueued, and work that
/// is enqueued after it goes on while somebody waits for this. With the feature `cuda` it stays on its thread.
#[must_use = "numbers that nobody looks at may be not finite"]
pub struct Reading(State);

enum State {
    Here(Tensor),
    #[cfg(feature = "cuda")]
    Coming(crate::cuda::Download),
}

impl Reading {
    /// Asks for the numbers of `tensor` (contiguous where it is on a GPU) as they are after all that was enqueued so far.
    /// Waits for nothing.
    ///
    /// # Errors
    /// Failures of the device.
    pub fn new(tensor: &Tensor) -> Result<Self> {
        #[cfg(feature = "cuda")]
        if tensor.device().is_cuda() {
            return Ok(Self(State::Coming(crate::cuda::Download::new(tensor)?)));
        }
        Ok(Self(State::Here(tensor.copy()?)))
    }

    /// The numbers as a tensor on the CPU, of the same shape and type. Waits until they are there.
    ///
    /// # Errors
    /// Failures of the device, of earlier work too.
    pub fn finish(self) -> Result<Tensor> {
        match self.0 {
            State::Here(tensor) => Ok(tensor),
            #[cfg(feature = "cuda")]
            State::Coming(download) => download.finish(),
        }
    }
}
