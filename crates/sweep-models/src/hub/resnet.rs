//! Residual networks in `config.json`.

use serde_json::{Value, json};

use super::arguments::{exactly, number, numbers, unknown};
use super::family::{Description, TimmFamily};
use crate::{ResnetBlock, ResnetConfig, Result};

const ARGUMENTS: &str = "one of num_classes, layers, channels, in_chans = 3, global_pool = \"avg\"";

impl TimmFamily for ResnetConfig {
    // resnet10t and the other lettered variants have another stem.
    const NAMES: &'static [&'static str] =
        &["resnet18", "resnet26", "resnet34", "resnet50", "resnet101", "resnet152"];
    const POOLING: &'static str = "avg";

    fn named(name: &str) -> Option<Self> {
        use ResnetBlock::{Basic, Bottleneck};
        let (block, layers) = match name {
            "resnet18" => (Basic, [2, 2, 2, 2]),
            "resnet26" => (Bottleneck, [2, 2, 2, 2]),
            "resnet34" => (Basic, [3, 4, 6, 3]),
            "resnet50" => (Bottleneck, [3, 4, 6, 3]),
            "resnet101" => (Bottleneck, [3, 4, 23, 3]),
            "resnet152" => (Bottleneck, [3, 8, 36, 3]),
            _ => return None,
        };
        Some(Self { block, layers: layers.to_vec(), ..Self::base() })
    }

    fn apply_argument(&mut self, key: &str, value: &Value) -> Result<()> {
        match key {
            "num_classes" => self.num_classes = number(key, value)?,
            "layers" => self.layers = numbers(key, value)?,
            "channels" => self.channels = numbers(key, value)?,
            "in_chans" => exactly(key, value, 3)?,
            "global_pool" => exactly(key, value, Self::POOLING)?,
            _ => return Err(unknown(key, value, ARGUMENTS)),
        }
        Ok(())
    }

    fn describe(&self) -> Result<Description> {
        let model_args = json!({
            "num_classes": self.num_classes,
            "layers": self.layers,
            "channels": self.channels,
            "in_chans": 3,
            "global_pool": Self::POOLING,
        });
        let architecture = match self.block {
            ResnetBlock::Basic => "resnet18",
            ResnetBlock::Bottleneck => "resnet50",
        };
        let model_args = serde_json::from_value(model_args)?;
        Ok(Description { architecture, model_args, first_conv: "conv1", classifier: "fc" })
    }
}
