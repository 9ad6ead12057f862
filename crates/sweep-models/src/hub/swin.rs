//! Swin transformers in `config.json`.

use serde_json::{Value, json};

use super::arguments::{exactly, float, number, numbers, one_size, unknown};
use super::family::{Description, TimmFamily};
use crate::{Result, SwinConfig};

const BASE: &str = "swin_base_patch4_window7_224";
const ARGUMENTS: &str = "one of num_classes, img_size, patch_size, embed_dim, depths, num_heads, window_size, \
                         mlp_ratio, drop_path_rate, in_chans = 3, global_pool = \"avg\"";

impl TimmFamily for SwinConfig {
    // swin_s3_* have windows of another size in each stage, which the configuration does not express.
    const NAMES: &'static [&'static str] = &[
        "swin_tiny_patch4_window7_224",
        "swin_small_patch4_window7_224",
        BASE,
        "swin_base_patch4_window12_384",
    ];
    const POOLING: &'static str = "avg";

    fn named(name: &str) -> Option<Self> {
        let base = Self::base();
        match name {
            "swin_tiny_patch4_window7_224" => {
                Some(Self { embed_dim: 96, depths: vec![2, 2, 6, 2], num_heads: vec![3, 6, 12, 24], ..base })
            }
            "swin_small_patch4_window7_224" => {
                Some(Self { embed_dim: 96, num_heads: vec![3, 6, 12, 24], ..base })
            }
            BASE => Some(base),
            "swin_base_patch4_window12_384" => Some(Self { image_size: 384, window_size: 12, ..base }),
            _ => None,
        }
    }

    fn apply_argument(&mut self, key: &str, value: &Value) -> Result<()> {
        match key {
            "num_classes" => self.num_classes = number(key, value)?,
            "img_size" => self.image_size = one_size(key, value)?,
            "patch_size" => self.patch_size = one_size(key, value)?,
            "embed_dim" => self.embed_dim = number(key, value)?,
            "depths" => self.depths = numbers(key, value)?,
            "num_heads" => self.num_heads = numbers(key, value)?,
            "window_size" => self.window_size = one_size(key, value)?,
            "mlp_ratio" => self.mlp_ratio = float(key, value)?,
            "drop_path_rate" => self.drop_path = float(key, value)?,
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
            "depths": self.depths,
            "num_heads": self.num_heads,
            "window_size": self.window_size,
            "mlp_ratio": self.mlp_ratio,
            "drop_path_rate": self.drop_path,
            "in_chans": 3,
            "global_pool": Self::POOLING,
        });
        Ok(Description {
            architecture: BASE,
            model_args: serde_json::from_value(model_args)?,
            first_conv: "patch_embed.proj",
            classifier: "head.fc",
        })
    }
}
