//! Networks, and what the public `auto-attack` program found on them.
//!
//! `tests/data` holds the runs, per network: `x_u8` and `labels`, and for each run the quantities that the tests name. Images are
//! stored as 8-bit numbers; of the points only some are stored. The networks themselves are those that `sweep-models` is tested
//! with, but for `aa_*`, whose folders hold timm's `config.json` and weights as well.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use sweep_models::Model;

use crate::support::{device, numbers, placed};

/// Networks with random weights.
pub(crate) const NETWORKS: [&str; 7] =
    ["vit", "swin", "convnext", "resnet50", "clip_vit", "clip_vit_quickgelu", "clip_convnext"];
/// Networks that were trained adversarially, with all of AutoAttack's results.
pub(crate) const TRAINED: [&str; 2] = ["aa_vit", "aa_resnet50"];

/// A network and what the reference found on it.
pub(crate) struct Fixture {
    pub(crate) network: &'static str,
    pub(crate) model: Model,
    tensors: HashMap<String, Tensor>,
}

impl Fixture {
    /// The part of the reference set that is stored with this crate.
    pub(crate) fn stored(network: &'static str) -> Self {
        let data = |owner: &str| crate_folder().join(owner).join(network);
        let own = data("tests/data");
        let is_trained = TRAINED.contains(&network);
        let weights = if is_trained { own.clone() } else { data("../sweep-models/tests/data") };
        Self::load(network, &weights, &own)
    }

    /// The complete reference set.
    pub(crate) fn complete(network: &'static str) -> Self {
        let folder = complete_set().join(network);
        Self::load(network, &folder, &folder)
    }

    fn load(network: &'static str, weights: &Path, runs: &Path) -> Self {
        let file = if TRAINED.contains(&network) { "results.safetensors" } else { "attack.safetensors" };
        let model = placed(Model::load_folder(weights, DType::F32).unwrap());
        let tensors = candle_core::safetensors::load(runs.join(file), &Device::Cpu).unwrap();
        Self { network, model, tensors }
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    pub(crate) fn tensor(&self, name: &str) -> &Tensor {
        &self.tensors[name]
    }

    pub(crate) fn numbers(&self, name: &str) -> Vec<f64> {
        numbers(self.tensor(name))
    }

    pub(crate) fn classes(&self, name: &str) -> Vec<u32> {
        self.numbers(name).into_iter().map(|class| class as u32).collect()
    }

    pub(crate) fn images(&self) -> Tensor {
        let images = match self.tensors.get("x_u8") {
            Some(bytes) => (bytes.to_dtype(DType::F32).unwrap() / 255.0).unwrap(),
            None => self.tensor("x").clone(),
        };
        images.to_device(&device()).unwrap()
    }
}

/// The folder of this crate, where the tests run.
fn crate_folder() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

fn complete_set() -> PathBuf {
    crate_folder().join("../../../shared/parity")
}
