//! Models as folders that timm reads and writes: `model.safetensors` beside a Hub-style `config.json`.

mod arguments;
mod convnext;
mod family;
mod resnet;
mod swin;
mod vit;

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;

use candle_core::DType;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use self::arguments::{one_size, setting};
use self::family::{Description, TimmFamily};
use crate::architecture::each_family;
use crate::{Architecture, ConvnextConfig, Error, Head, Model, ResnetConfig, Result, SwinConfig, VitConfig};

/// Longest `config.json`, in bytes; timm's have a few thousand, and lists of class names make some longer.
const LONGEST_CONFIG: u64 = 16 << 20;

/// The parts of a Hub `config.json` that decide what the network is. Other keys are ignored when reading.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HubConfig {
    /// timm's name of the base architecture.
    pub architecture: String,
    /// Number of logits.
    pub num_classes: usize,
    /// Width of the features.
    pub num_features: usize,
    /// How features are pooled: `token` for vision transformers, `avg` for the others; absent for the only one that the
    /// architecture can have here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub global_pool: Option<String>,
    /// Arguments that change the base architecture.
    #[serde(default)]
    pub model_args: Map<String, Value>,
    /// Preprocessing and provenance.
    pub pretrained_cfg: PretrainedConfig,
}

/// The preprocessing of a pretrained network, with timm's keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PretrainedConfig {
    /// Mean of each colour channel.
    pub mean: [f64; 3],
    /// Standard deviation of each colour channel.
    pub std: [f64; 3],
    /// Channels, height, width.
    pub input_size: [usize; 3],
    /// Whatever else the file holds.
    #[serde(flatten)]
    pub others: BTreeMap<String, Value>,
}

impl Architecture {
    /// The network that timm builds for a name and its default arguments, with 1000 classes and the normalisation of
    /// the preset of its family (timm's own depends on the checkpoint).
    ///
    /// # Errors
    /// [`Error::UnknownArchitecture`] with the names that are known.
    pub fn from_timm_name(name: &str) -> Result<Self> {
        VitConfig::named(name)
            .map(Self::Vit)
            .or_else(|| SwinConfig::named(name).map(Self::Swin))
            .or_else(|| ConvnextConfig::named(name).map(Self::Convnext))
            .or_else(|| ResnetConfig::named(name).map(Self::Resnet))
            .ok_or_else(|| Error::UnknownArchitecture {
                name: name.to_owned(),
                known: [VitConfig::NAMES, SwinConfig::NAMES, ConvnextConfig::NAMES, ResnetConfig::NAMES]
                    .concat(),
            })
    }

    fn pooling(&self) -> &'static str {
        match self {
            Self::Vit(_) => VitConfig::POOLING,
            Self::Swin(_) => SwinConfig::POOLING,
            Self::Convnext(_) => ConvnextConfig::POOLING,
            Self::Resnet(_) => ResnetConfig::POOLING,
        }
    }
}

impl HubConfig {
    /// Reads a `config.json`.
    pub fn parse(json: &str) -> Result<Self> {
        Ok(serde_json::from_str(json)?)
    }

    /// The network that this configuration describes.
    ///
    /// As in timm, the input size of `pretrained_cfg` counts where `model_args` gives none. Entries of `model_args`
    /// that this crate does not know are refused, not ignored: they might change what the network computes.
    ///
    /// # Errors
    /// [`Error::UnknownArchitecture`] or [`Error::HubSetting`] for what this crate cannot build.
    pub fn architecture(&self) -> Result<Architecture> {
        let PretrainedConfig { mean, std, input_size: [_, height, width], .. } = self.pretrained_cfg;
        let mut architecture = Architecture::from_timm_name(&self.architecture)?
            .with_classes(self.num_classes)
            .with_normalization(mean, std);
        if let Some(pooling) = &self.global_pool
            && pooling != architecture.pooling()
        {
            return Err(setting("global_pool", &json!(pooling), architecture.pooling()));
        }
        let image_size = one_size("pretrained_cfg.input_size", &json!([height, width]))?;
        each_family!(&mut architecture, config => {
            config.image_size = image_size;
            for (key, value) in &self.model_args {
                config.apply_argument(key, value)?;
            }
        });
        architecture.validate()?;
        Ok(architecture)
    }

    /// The configuration that makes timm build `architecture`.
    ///
    /// # Errors
    /// [`Error::NotInTimm`] if timm has nothing like it.
    pub fn describe(architecture: &Architecture) -> Result<Self> {
        let Description { architecture: name, model_args, first_conv, classifier } =
            each_family!(architecture, config => config.describe()?);
        let (mean, std) = architecture.normalization();
        let size = architecture.image_size();
        let others = json!({
            "custom_load": false,
            "fixed_input_size": architecture.has_fixed_image_size(),
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": "squash",
            "num_classes": architecture.num_classes(),
            "pool_size": null,
            "first_conv": first_conv,
            "classifier": classifier,
        });
        Ok(Self {
            architecture: name.to_owned(),
            num_classes: architecture.num_classes(),
            num_features: architecture.num_features(),
            global_pool: Some(architecture.pooling().to_owned()),
            model_args,
            pretrained_cfg: PretrainedConfig {
                mean,
                std,
                input_size: [3, size, size],
                others: serde_json::from_value(others)?,
            },
        })
    }
}

impl Model {
    /// The network in a folder with `config.json` and `model.safetensors`, as [`Model::save`] and timm write it.
    pub fn load_folder(folder: &Path, dtype: DType) -> Result<Self> {
        let path = folder.join("config.json");
        let mut json = String::new();
        let read = File::open(&path).and_then(|file| file.take(LONGEST_CONFIG + 1).read_to_string(&mut json));
        if read.map_err(|source| Error::File { path: path.clone(), source })? as u64 > LONGEST_CONFIG {
            let problem = format!(
                "it has more than {LONGEST_CONFIG} bytes, expected a configuration as timm writes it"
            );
            return Err(Error::Weights { path, problem });
        }
        let architecture = HubConfig::parse(&json)?.architecture()?;
        Self::load(architecture, dtype, &folder.join("model.safetensors"), Head::Stored)
    }

    /// The parameters and buffers as the bytes of a safetensors file in timm's names; equal tensors give equal bytes.
    pub fn to_safetensors(&self) -> Result<Vec<u8>> {
        let tensors = self.parameters().iter().map(|(_, name, tensor)| (name, tensor));
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        Ok(safetensors::serialize(tensors, Some(metadata))?)
    }

    /// Writes `config.json` and `model.safetensors` into an existing folder, so that timm loads the network from it.
    ///
    /// The files are written directly; a caller who must survive a crash writes to a temporary folder and renames it.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let config = HubConfig::describe(self.architecture())?;
        write(&folder.join("config.json"), serde_json::to_string_pretty(&config)?.as_bytes())?;
        write(&folder.join("model.safetensors"), &self.to_safetensors()?)
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).map_err(|source| Error::File { path: path.to_owned(), source })
}
