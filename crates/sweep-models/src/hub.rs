//! Models as folders that timm reads and writes: `model.safetensors` beside a Hub-style `config.json`.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use candle_core::{DType, Device};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{Architecture, Error, Head, Model, Result, VitActivation, VitConfig};

/// The parts of a Hub `config.json` that decide what the network is. Other keys are ignored when reading.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HubConfig {
    /// timm's name of the base architecture.
    pub architecture: String,
    /// Number of logits.
    pub num_classes: usize,
    /// Width of the features.
    pub num_features: usize,
    /// How features are pooled; only `token` exists for vision transformers.
    #[serde(default = "token")]
    pub global_pool: String,
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

fn token() -> String {
    "token".to_owned()
}

/// timm's architectures that are known by name: name, patch size, width, depth, heads, variant.
const KNOWN: [(&str, usize, usize, usize, usize, Variant); 9] = [
    ("vit_tiny_patch16_224", 16, 192, 12, 3, Variant::Plain),
    ("vit_small_patch16_224", 16, 384, 12, 6, Variant::Plain),
    ("vit_small_patch32_224", 32, 384, 12, 6, Variant::Plain),
    ("vit_base_patch16_224", 16, 768, 12, 12, Variant::Plain),
    ("vit_base_patch32_224", 32, 768, 12, 12, Variant::Plain),
    ("deit_tiny_patch16_224", 16, 192, 12, 3, Variant::Plain),
    ("vit_base_patch16_clip_224", 16, 768, 12, 12, Variant::Clip),
    ("vit_base_patch32_clip_224", 32, 768, 12, 12, Variant::Clip),
    ("vit_base_patch16_clip_quickgelu_224", 16, 768, 12, 12, Variant::ClipQuickGelu),
];

/// What `model_args` cannot change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Variant {
    Plain,
    Clip,
    ClipQuickGelu,
}

impl Variant {
    fn config(self) -> VitConfig {
        match self {
            Self::Plain => VitConfig::base(),
            Self::Clip => VitConfig::clip_base(),
            Self::ClipQuickGelu => {
                VitConfig { activation: VitActivation::QuickGelu, ..VitConfig::clip_base() }
            }
        }
    }

    /// The architecture of this variant on which `model_args` are put when a model is saved.
    fn base_name(self) -> &'static str {
        match self {
            Self::Plain => "vit_base_patch16_224",
            Self::Clip => "vit_base_patch16_clip_224",
            Self::ClipQuickGelu => "vit_base_patch16_clip_quickgelu_224",
        }
    }

    fn of(config: &VitConfig) -> Result<Self> {
        let fixed = |c: &VitConfig| (c.norm_stability, c.norm_pre, c.patch_bias, c.activation);
        let same = |variant: &Self| fixed(&variant.config()) == fixed(config);
        [Self::Plain, Self::Clip, Self::ClipQuickGelu].into_iter().find(same).ok_or_else(|| Error::NotInTimm {
            reason: format!(
                "norm_stability {}, norm_pre {}, patch_bias {} and activation {:?} occur together in no architecture",
                config.norm_stability, config.norm_pre, config.patch_bias, config.activation
            ),
        })
    }
}

impl Architecture {
    /// The network that timm builds for a name and its default arguments, with 1000 classes.
    ///
    /// # Errors
    /// [`Error::UnknownArchitecture`] with the names that are known.
    pub fn from_timm_name(name: &str) -> Result<Self> {
        let Some((_, patch_size, embed_dim, depth, num_heads, variant)) =
            KNOWN.into_iter().find(|entry| entry.0 == name)
        else {
            let known = KNOWN.iter().map(|entry| entry.0).collect();
            return Err(Error::UnknownArchitecture { name: name.to_owned(), known });
        };
        Ok(Self::Vit(VitConfig { patch_size, embed_dim, depth, num_heads, ..variant.config() }))
    }
}

impl HubConfig {
    /// Reads a `config.json`.
    pub fn parse(json: &str) -> Result<Self> {
        Ok(serde_json::from_str(json)?)
    }

    /// The network that this configuration describes.
    ///
    /// # Errors
    /// [`Error::UnknownArchitecture`] or [`Error::HubSetting`] for what this crate cannot build.
    pub fn architecture(&self) -> Result<Architecture> {
        let Architecture::Vit(mut config) = Architecture::from_timm_name(&self.architecture)?;
        config.num_classes = self.num_classes;
        config.mean = self.pretrained_cfg.mean;
        config.std = self.pretrained_cfg.std;
        if self.global_pool != "token" {
            return Err(setting("global_pool", &json!(self.global_pool), "\"token\""));
        }
        for (key, value) in &self.model_args {
            apply_argument(&mut config, key, value)?;
        }
        config.validate()?;
        Ok(Architecture::Vit(config))
    }

    /// The configuration that makes timm build `architecture`.
    ///
    /// # Errors
    /// [`Error::NotInTimm`] if timm has nothing like it.
    pub fn describe(architecture: &Architecture) -> Result<Self> {
        let Architecture::Vit(config) = architecture;
        let size = config.image_size;
        let model_args = json!({
            "num_classes": config.num_classes,
            "img_size": [size, size],
            "patch_size": config.patch_size,
            "embed_dim": config.embed_dim,
            "depth": config.depth,
            "num_heads": config.num_heads,
            "mlp_ratio": config.mlp_ratio,
            "in_chans": 3,
            "global_pool": "token",
        });
        let others = json!({
            "custom_load": false,
            "fixed_input_size": true,
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": "squash",
            "num_classes": config.num_classes,
            "pool_size": null,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        });
        Ok(Self {
            architecture: Variant::of(config)?.base_name().to_owned(),
            num_classes: config.num_classes,
            num_features: config.embed_dim,
            global_pool: token(),
            model_args: serde_json::from_value(model_args)?,
            pretrained_cfg: PretrainedConfig {
                mean: config.mean,
                std: config.std,
                input_size: [3, size, size],
                others: serde_json::from_value(others)?,
            },
        })
    }
}

fn apply_argument(config: &mut VitConfig, key: &str, value: &Value) -> Result<()> {
    let number = || {
        let whole = value.as_u64().and_then(|value| usize::try_from(value).ok());
        whole.ok_or_else(|| setting(key, value, "a whole number"))
    };
    match key {
        "num_classes" => config.num_classes = number()?,
        "img_size" => config.image_size = square(key, value)?,
        "patch_size" => config.patch_size = square(key, value)?,
        "embed_dim" => config.embed_dim = number()?,
        "depth" => config.depth = number()?,
        "num_heads" => config.num_heads = number()?,
        "mlp_ratio" => config.mlp_ratio = value.as_f64().ok_or_else(|| setting(key, value, "a number"))?,
        "in_chans" if *value == json!(3) => {}
        "global_pool" if *value == json!("token") => {}
        _ => {
            let known = "one of num_classes, img_size, patch_size, embed_dim, depth, num_heads, mlp_ratio, \
                         in_chans = 3, global_pool = \"token\"";
            return Err(setting(&format!("model_args.{key}"), value, known));
        }
    }
    Ok(())
}

/// A size given as one number or as two equal ones.
fn square(key: &str, value: &Value) -> Result<usize> {
    let side = match value {
        Value::Array(sides) if sides.len() == 2 && sides[0] == sides[1] => sides[0].as_u64(),
        side => side.as_u64(),
    };
    let side = side.and_then(|side| usize::try_from(side).ok());
    side.ok_or_else(|| setting(key, value, "a whole number, or two equal ones"))
}

fn setting(key: &str, value: &Value, expected: &str) -> Error {
    Error::HubSetting { key: key.to_owned(), value: value.to_string(), expected: expected.to_owned() }
}

impl Model {
    /// A network with the weights of a safetensors file under timm's names.
    ///
    /// # Errors
    /// Those of [`Model::from_tensors`], or why the file cannot be read.
    pub fn load(architecture: Architecture, dtype: DType, weights: &Path, head: Head<'_>) -> Result<Self> {
        Self::from_tensors(architecture, dtype, candle_core::safetensors::load(weights, &Device::Cpu)?, head)
    }

    /// The network in a folder with `config.json` and `model.safetensors`, as [`Model::save`] and timm write it.
    pub fn load_folder(folder: &Path, dtype: DType) -> Result<Self> {
        let path = folder.join("config.json");
        let json = fs::read_to_string(&path).map_err(|source| Error::File { path, source })?;
        let architecture = HubConfig::parse(&json)?.architecture()?;
        Self::load(architecture, dtype, &folder.join("model.safetensors"), Head::Stored)
    }

    /// The parameters as the bytes of a safetensors file in timm's names; equal parameters give equal bytes.
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
