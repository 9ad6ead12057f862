//! Where an attempt computes: the device, what it can do, and what goes onto it.
//!
//! A worker sees one device: the CPU, or the GPU that its slot has put into `CUDA_VISIBLE_DEVICES`, which is number 0 then.
//! Checkpoints, labels and numbers that somebody reads are on the CPU always.

use candle_core::{Device, Tensor};
use sweep_core::spec::Precision;
use sweep_kernels::{Compute, Uploads};
use sweep_models::Model;

use crate::{Error, Result};

/// The name of the CPU.
const CPU: &str = "cpu";
/// The name of the only GPU that a worker sees.
const GPU: &str = "cuda:0";

/// Whether this build computes on GPUs.
const HAS_GPUS: bool = cfg!(feature = "cuda");

/// Returns the device called `name`: `cpu`, or in a build with the feature `cuda` also `cuda:0`.
///
/// A GPU's context belongs to the thread that calls this: whoever computes on it calls it once, on that thread.
///
/// # Errors
/// [`Error::Device`] for a device that this build does not have, [`Error::Gpu`] where the driver refuses.
pub fn device(name: &str) -> Result<Device> {
    match name {
        CPU => Ok(Device::Cpu),
        GPU if HAS_GPUS => {
            Device::new_cuda(0).map_err(|source| Error::Gpu { device: name.to_owned(), source })
        }
        _ => Err(no_device(name)),
    }
}

/// Checks that this build has the device called `name`, and that it computes with `precision`: the CPU does in f32 only.
pub(crate) fn check(name: &str, precision: Precision) -> Result<()> {
    match name {
        CPU if precision.is_f32() => Ok(()),
        CPU => Err(Error::Precision { precision, device: name.to_owned() }),
        GPU if HAS_GPUS => Ok(()),
        _ => Err(no_device(name)),
    }
}

fn no_device(name: &str) -> Error {
    let expected = if HAS_GPUS { "`cpu` or `cuda:0`" } else { "`cpu`" };
    Error::Device { device: name.to_owned(), expected }
}

/// Moves a model to where it computes, with the numbers that it computes with. Its parameters stay f32.
pub(crate) fn place(model: Model, device: &Device, precision: Precision) -> Result<Model> {
    if device.is_cpu() && precision.is_f32() {
        return Ok(model);
    }
    let compute = match precision {
        Precision::F32 => Compute::Full,
        Precision::Tf32 => Compute::Tf32,
        Precision::Bf16 => Compute::Bf16,
    };
    Ok(model.to_device(device, compute)?)
}

/// Makes the tensor (N, 3, `side`, `side`) of the pixels of N images.
pub(crate) fn images(uploads: &mut Uploads, pixels: Vec<f32>, side: u32, device: &Device) -> Result<Tensor> {
    let side = side as usize;
    let count = pixels.len() / (3 * side * side);
    Ok(uploads.tensor(pixels, (count, 3, side, side), device)?)
}

/// Returns whether an error of candle says that the memory of a GPU is used up. Drivers and libraries say it in words only:
/// CUDA itself, cuBLAS and cuDNN each have their own.
///
/// ```
/// let error = candle_core::Error::Msg("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")".to_owned());
/// assert!(sweep_worker::compute::is_out_of_device_memory(&error));
/// ```
pub fn is_out_of_device_memory(error: &candle_core::Error) -> bool {
    says_out_of_memory(&error.to_string())
}

/// Returns whether a message is that of a device without memory.
pub(crate) fn says_out_of_memory(message: &str) -> bool {
    /// `ALLOC_FAILED` of cuBLAS, cuBLASLt, cuRAND (`ALLOCATION_FAILED`) and cuDNN, whose newer codes are longer.
    const CODES: [&str; 2] = ["alloc_failed", "allocation_failed"];
    let message = message.to_ascii_lowercase();
    // CUDA's own code is CUDA_ERROR_OUT_OF_MEMORY, with or without its text.
    let says = |words: &str| message.contains(words);
    says("out of memory") || says("out_of_memory") || CODES.into_iter().any(says)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_every_library_are_known() {
        let words = [
            "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")",
            "DriverError(CUDA_ERROR_OUT_OF_MEMORY, ...)",
            "CublasError(CUBLAS_STATUS_ALLOC_FAILED)",
            "CudnnError(CUDNN_STATUS_ALLOC_FAILED)",
            "CudnnError(CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED)",
            "CurandError(CURAND_STATUS_ALLOCATION_FAILED)",
        ];
        for words in words {
            let error = candle_core::Error::Msg(words.to_owned());
            assert!(is_out_of_device_memory(&error), "{words}");
            let wrapped =
                candle_core::Error::wrap(std::io::Error::other(words)).context("while attention ran");
            let found = Error::from(wrapped);
            assert_eq!(found.class(), sweep_core::event::FailureClass::OutOfMemory, "{words}");
        }
        for words in ["CUDA_ERROR_ILLEGAL_ADDRESS", "CUBLAS_STATUS_INVALID_VALUE", "shape mismatch in alloc"]
        {
            assert!(!is_out_of_device_memory(&candle_core::Error::Msg(words.to_owned())), "{words}");
        }
    }

    #[test]
    fn the_cpu_computes_in_f32_and_nothing_else() {
        assert!(device("cpu").unwrap().is_cpu());
        assert!(check("cpu", Precision::F32).is_ok());
        let error = check("cpu", Precision::Bf16).unwrap_err();
        assert_eq!(error.to_string(), "precision `bf16` is not available on `cpu`, expected `f32`");
        for name in ["gpu", "cuda", "cuda:1", ""] {
            assert!(matches!(check(name, Precision::F32), Err(Error::Device { .. })), "{name}");
            assert!(matches!(device(name), Err(Error::Device { .. })), "{name}");
        }
        assert_eq!(check("cuda:0", Precision::Bf16).is_ok(), HAS_GPUS);
    }
}
