//! A finished model that is measured.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use sweep_core::spec::Precision;
use sweep_models::{Architecture, Model};

use crate::digest::read_digest;
use crate::{Error, Result, compute, gpu};

/// A network from a folder with `config.json` and `model.safetensors`, as runs and timm write them.
pub struct Subject {
    model: Model,
    device: Device,
    device_name: String,
    precision: Precision,
    digest: String,
    folder: PathBuf,
}

impl std::fmt::Debug for Subject {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Subject")
            .field("folder", &self.folder)
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}

impl Subject {
    /// Reads the model in `folder` and puts it on the device called `device_name` (see [`compute::device`]), where it computes
    /// with `precision`.
    ///
    /// # Errors
    /// A missing or damaged file; an architecture that is not known here, or weights that are not its own; a device that
    /// this build does not have, or that does not compute with such numbers.
    pub fn load(folder: &Path, device_name: &str, precision: Precision) -> Result<Self> {
        compute::check(device_name, precision)?;
        let device = compute::device(device_name)?;
        let model = compute::place(Model::load_folder(folder, DType::F32)?, &device, precision)?;
        let path = folder.join("model.safetensors");
        let digest = read_digest(&path).map_err(|source| Error::WeightsFile { path, source })?;
        let device_name = gpu::name_of(device_name);
        Ok(Self { model, device, device_name, precision, digest, folder: folder.to_owned() })
    }

    /// Returns whether `folder` looks like one that [`Self::load`] reads.
    pub fn is_folder(folder: &Path) -> bool {
        ["config.json", "model.safetensors"].iter().all(|name| folder.join(name).is_file())
    }

    /// Returns SHA-256 of the weights file.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Returns what it computes with.
    pub const fn precision(&self) -> Precision {
        self.precision
    }

    /// Returns the number of classes.
    pub fn classes(&self) -> usize {
        self.architecture().num_classes()
    }

    /// Returns the side of the images that the network is meant for, in pixels.
    pub fn image_size(&self) -> usize {
        self.architecture().image_size()
    }

    /// Returns whether it takes images of no other size.
    pub fn has_fixed_image_size(&self) -> bool {
        self.architecture().has_fixed_image_size()
    }

    /// Returns the number of parameters.
    pub fn parameters(&self) -> u64 {
        self.model.parameters().element_count() as u64
    }

    pub(super) const fn model(&self) -> &Model {
        &self.model
    }

    /// Returns the name of the device: that of the GPU where it is known.
    pub(super) fn device_name(&self) -> &str {
        &self.device_name
    }

    pub(super) const fn device(&self) -> &Device {
        &self.device
    }

    fn architecture(&self) -> &Architecture {
        self.model.architecture()
    }
}
