//! The GPUs of this machine, as NVIDIA's management library (NVML) lists them.
//!
//! The library comes with the driver and is loaded when it is asked for; this crate alone would run without one. Builds
//! without the feature `cuda` never look.

/// A GPU. Its number is its place in the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// Identity such as `GPU-8f3a1b2c-…`, which no other GPU has, whatever else is plugged in.
    pub uuid: String,
    /// Name such as `NVIDIA H200`.
    pub name: String,
    /// Memory in bytes.
    pub memory_bytes: u64,
}

/// Why nobody can say which GPUs there are.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GpusError {
    /// The program was built without the feature `cuda`.
    #[error("this build computes on the CPU only")]
    NotBuilt,
    /// There is no driver, or it does not answer.
    #[cfg(feature = "cuda")]
    #[error("the NVIDIA driver does not list GPUs: {0}")]
    Driver(#[from] nvml_wrapper::error::NvmlError),
}

impl GpusError {
    /// Returns whether this is a machine without a driver or a build that needs none: then it has no GPUs. Otherwise it may
    /// have some that are in trouble.
    pub const fn is_without_gpus(&self) -> bool {
        match self {
            Self::NotBuilt => true,
            #[cfg(feature = "cuda")]
            Self::Driver(error) => {
                use nvml_wrapper::error::NvmlError::{LibloadingError, LibraryNotFound};
                matches!(error, LibloadingError(_) | LibraryNotFound)
            }
        }
    }
}

/// Returns the GPUs that this process may use, in the order of the PCI bus, which is that of `nvidia-smi`.
///
/// # Errors
/// [`GpusError`]; a machine without GPUs has usually no driver either.
#[cfg(feature = "cuda")]
pub fn gpus() -> Result<Vec<Gpu>, GpusError> {
    use nvml_wrapper::Nvml;
    use nvml_wrapper::error::NvmlError;
    let library = Nvml::init()?;
    let mut gpus = Vec::new();
    for index in 0..library.device_count()? {
        let gpu = library.device_by_index(index).and_then(|device| {
            let (uuid, name) = (device.uuid()?, device.name()?);
            // Cards that share the machine's memory have none of their own to tell.
            let memory_bytes = device.memory_info().map_or(0, |memory| memory.total);
            Ok(Gpu { uuid, name, memory_bytes })
        });
        match gpu {
            Ok(gpu) => gpus.push(gpu),
            // It is counted all the same where a control group keeps it from this process.
            Err(NvmlError::NoPermission) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(gpus)
}

/// Returns why there is nothing to return.
///
/// # Errors
/// [`GpusError::NotBuilt`], always.
#[cfg(not(feature = "cuda"))]
pub fn gpus() -> Result<Vec<Gpu>, GpusError> {
    Err(GpusError::NotBuilt)
}

/// Returns the GPUs where the driver lists them; says so in the log where it does not.
pub(crate) fn listed() -> Option<Vec<Gpu>> {
    gpus().inspect_err(|error| tracing::warn!("GPUs go by their numbers: {error}")).ok()
}
