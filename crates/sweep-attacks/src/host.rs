//! Between tensors, wherever they live, and slices on this machine's CPU.

use candle_core::{Device, Storage, Tensor};

use crate::Result;
use crate::element::Element;

/// Runs `work` on the elements of `tensor` as contiguous numbers of type `T`.
///
/// Copies nothing if the tensor already is contiguous, of that type and on the CPU; otherwise it is brought
/// there.
pub(crate) fn with_host_slice<T: Element, R>(tensor: &Tensor, work: impl FnOnce(&[T]) -> R) -> Result<R> {
    let tensor = tensor.to_device(&Device::Cpu)?.to_dtype(T::DTYPE)?.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else {
        return Err(candle_core::Error::Msg("a tensor on the CPU has storage elsewhere".into()).into());
    };
    let start = layout.start_offset();
    let elements = &T::cpu_storage_as_slice(storage)?[start..start + layout.shape().elem_count()];
    Ok(work(elements))
}
