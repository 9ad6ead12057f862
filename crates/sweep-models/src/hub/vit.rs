//! Vision transformers in `config.json`.

use serde_json::{Value, json};

use super::arguments::{exactly, float, number, one_size, unknown};
use super::family::{Description, TimmFamily};
use crate::{Error, Result, VitActivation, VitConfig};

const ARGUMENTS: &str = "one of num_classes, img_size, patch_size, embed_dim, depth, num_heads, mlp_ratio, \
                         in_chans = 3, global_pool = \"token\"";

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

impl TimmFamily for VitConfig {
    const NAMES: &'static [&'static str] = &[
        "vit_tiny_patch16_224",
        "vit_small_patch16_224",
        "vit_small_patch32_224",
        "vit_base_patch16_224",
        "vit_base_patch32_224",
        "deit_tiny_patch16_224",
        "vit_base_patch16_clip_224",
        "vit_base_patch32_clip_224",
        "vit_base_patch16_clip_quickgelu_224",
    ];
    const POOLING: &'static str = "token";

    fn named(name: &str) -> Option<Self> {
        use Variant::{Clip, ClipQuickGelu, Plain};
        let (patch_size, embed_dim, num_heads, variant) = match name {
            "vit_tiny_patch16_224" | "deit_tiny_patch16_224" => (16, 192, 3, Plain),
            "vit_small_patch16_224" => (16, 384, 6, Plain),
            "vit_small_patch32_224" => (32, 384, 6, Plain),
            "vit_base_patch16_224" => (16, 768, 12, Plain),
            "vit_base_patch32_224" => (32, 768, 12, Plain),
            "vit_base_patch16_clip_224" => (16, 768, 12, Clip),
            "vit_base_patch32_clip_224" => (32, 768, 12, Clip),
            "vit_base_patch16_clip_quickgelu_224" => (16, 768, 12, ClipQuickGelu),
            _ => return None,
        };
        Some(Self { patch_size, embed_dim, num_heads, ..variant.config() })
    }

    fn apply_argument(&mut self, key: &str, value: &Value) -> Result<()> {
        match key {
            "num_classes" => self.num_classes = number(key, value)?,
            "img_size" => self.image_size = one_size(key, value)?,
            "patch_size" => self.patch_size = one_size(key, value)?,
            "embed_dim" => self.embed_dim = number(key, value)?,
            "depth" => self.depth = number(key, value)?,
            "num_heads" => self.num_heads = number(key, value)?,
            "mlp_ratio" => self.mlp_ratio = float(key, value)?,
            "in_chans" => exactly(key, value, 3)?,
            "global_pool" => exactly(key, value, Self::POOLING)?,
            _ => return Err(unknown(key, value, ARGUMENTS)),
        }
        Ok(())
    }

    fn describe(&self) -> Result<Description> {
        let model_args = json!({
            "num_classes": self.num_classes,
            "img_size": [self.image_size, self.image_size],
            "patch_size": self.patch_size,
            "embed_dim": self.embed_dim,
            "depth": self.depth,
            "num_heads": self.num_heads,
            "mlp_ratio": self.mlp_ratio,
            "in_chans": 3,
            "global_pool": Self::POOLING,
        });
        Ok(Description {
            architecture: Variant::of(self)?.base_name(),
            model_args: serde_json::from_value(model_args)?,
            first_conv: "patch_embed.proj",
            classifier: "head",
        })
    }
}
