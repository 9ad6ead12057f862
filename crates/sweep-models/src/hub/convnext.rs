//! ConvNeXts in `config.json`.

use serde_json::{Value, json};

use super::arguments::{exactly, float, number, numbers, setting, unknown};
use super::family::{Description, TimmFamily};
use crate::{ConvnextConfig, Result};

const BASE: &str = "convnext_base";
const ARGUMENTS: &str = "one of num_classes, depths, dims, drop_path_rate, conv_mlp, in_chans = 3, \
                         global_pool = \"avg\"";

impl TimmFamily for ConvnextConfig {
    // atto, femto, pico and nano store their MLPs as 1 × 1 convolutions, which compute the same; a network of this
    // crate stores matrices whatever it was read from.
    const NAMES: &'static [&'static str] = &[
        "convnext_atto",
        "convnext_femto",
        "convnext_pico",
        "convnext_nano",
        "convnext_tiny",
        "convnext_small",
        BASE,
    ];
    const POOLING: &'static str = "avg";

    fn named(name: &str) -> Option<Self> {
        let (depths, first) = match name {
            "convnext_atto" => ([2, 2, 6, 2], 40),
            "convnext_femto" => ([2, 2, 6, 2], 48),
            "convnext_pico" => ([2, 2, 6, 2], 64),
            "convnext_nano" => ([2, 2, 8, 2], 80),
            "convnext_tiny" => ([3, 3, 9, 3], 96),
            "convnext_small" => ([3, 3, 27, 3], 96),
            BASE => ([3, 3, 27, 3], 128),
            _ => return None,
        };
        let dims = vec![first, 2 * first, 4 * first, 8 * first];
        Some(Self { depths: depths.to_vec(), dims, ..Self::base() })
    }

    fn apply_argument(&mut self, key: &str, value: &Value) -> Result<()> {
        match key {
            "num_classes" => self.num_classes = number(key, value)?,
            "depths" => self.depths = numbers(key, value)?,
            "dims" => self.dims = numbers(key, value)?,
            "drop_path_rate" => self.drop_path = float(key, value)?,
            // Only the layout of the stored weights depends on it.
            "conv_mlp" if value.is_boolean() => {}
            "conv_mlp" => return Err(setting("model_args.conv_mlp", value, "true or false")),
            "in_chans" => exactly(key, value, 3)?,
            "global_pool" => exactly(key, value, Self::POOLING)?,
            _ => return Err(unknown(key, value, ARGUMENTS)),
        }
        Ok(())
    }

    fn describe(&self) -> Result<Description> {
        let model_args = json!({
            "num_classes": self.num_classes,
            "depths": self.depths,
            "dims": self.dims,
            "drop_path_rate": self.drop_path,
            "in_chans": 3,
            "global_pool": Self::POOLING,
        });
        Ok(Description {
            architecture: BASE,
            model_args: serde_json::from_value(model_args)?,
            first_conv: "stem.0",
            classifier: "head.fc",
        })
    }
}
