//! Names of other programs turned into timm's; [`Model::load`](crate::Model::load) tells the rules.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};

use crate::initialize::is_head;
use crate::{Architecture, Head, Result};

type Tensors = HashMap<String, Tensor>;

/// The tensors of a checkpoint under the names that timm gives them in `architecture`, without those that a fresh
/// head makes superfluous. Names that no rule knows stay as they are.
pub(crate) fn to_timm(architecture: &Architecture, tensors: Tensors, head: &Head<'_>) -> Result<Tensors> {
    let mut tensors = without_wrapper(tensors);
    if matches!(head, Head::Fresh(_)) {
        tensors.retain(|name, _| !name.starts_with("visual.head.") && name != "visual.proj");
    }
    if tensors.keys().any(|name| name.starts_with("visual.")) {
        tensors = image_tower(architecture, tensors)?;
    }
    match architecture {
        Architecture::Swin(_) => tensors = swin_release(tensors),
        Architecture::Convnext(_) => matrices(&mut tensors)?,
        Architecture::Vit(_) | Architecture::Resnet(_) => {}
    }
    if matches!(head, Head::Fresh(_)) {
        tensors.retain(|name, _| !is_head(name));
    }
    Ok(tensors)
}

/// The names without the prefix `module.`, if all have it.
fn without_wrapper(tensors: Tensors) -> Tensors {
    const WRAPPER: &str = "module.";
    if !tensors.keys().all(|name| name.starts_with(WRAPPER)) {
        return tensors;
    }
    tensors.into_iter().map(|(name, tensor)| (name[WRAPPER.len()..].to_owned(), tensor)).collect()
}

/// The name of the classifier.
fn head_name(architecture: &Architecture) -> &'static str {
    match architecture {
        Architecture::Vit(_) => "head",
        Architecture::Swin(_) | Architecture::Convnext(_) => "head.fc",
        Architecture::Resnet(_) => "fc",
    }
}

/// The image tower of an open_clip model; everything else belongs to the text tower or the loss.
fn image_tower(architecture: &Architecture, tensors: Tensors) -> Result<Tensors> {
    let head = head_name(architecture);
    let mut tower = Tensors::new();
    for (name, tensor) in tensors {
        let Some(inner) = name.strip_prefix("visual.") else { continue };
        let (name, tensor) = if let Some(name) = inner.strip_prefix("trunk.") {
            (name.to_owned(), tensor)
        } else if let Some(kind) = inner.strip_prefix("head.proj.") {
            (format!("{head}.{kind}"), tensor)
        } else if matches!(architecture, Architecture::Vit(_)) {
            own_vit(inner, tensor)?
        } else {
            (name, tensor)
        };
        tower.insert(name, tensor);
    }
    if let Some(weight) = tower.get(&format!("{head}.weight"))
        && !tower.contains_key(&format!("{head}.bias"))
    {
        let bias = Tensor::zeros(weight.dim(0)?, DType::F32, &Device::Cpu)?;
        tower.insert(format!("{head}.bias"), bias);
    }
    Ok(tower)
}

/// timm's name and form of the tensor `visual.{name}` of open_clip's own vision transformer.
fn own_vit(name: &str, tensor: Tensor) -> Result<(String, Tensor)> {
    Ok(match (name, tensor.rank()) {
        ("class_embedding", 1) => ("cls_token".to_owned(), tensor.unsqueeze(0)?.unsqueeze(0)?),
        ("positional_embedding", 2) => ("pos_embed".to_owned(), tensor.unsqueeze(0)?),
        ("proj", 2) => ("head.weight".to_owned(), tensor.t()?),
        _ => (own_vit_name(name).unwrap_or_else(|| format!("visual.{name}")), tensor),
    })
}

/// timm's name of a tensor of open_clip's own vision transformer that has the same form there.
fn own_vit_name(name: &str) -> Option<String> {
    const LAYERS: [(&str, &str); 3] =
        [("conv1.", "patch_embed.proj."), ("ln_pre.", "norm_pre."), ("ln_post.", "norm.")];
    const BLOCK_LAYERS: [(&str, &str); 6] = [
        ("ln_1.", "norm1."),
        ("attn.in_proj_", "attn.qkv."),
        ("attn.out_proj.", "attn.proj."),
        ("ln_2.", "norm2."),
        ("mlp.c_fc.", "mlp.fc1."),
        ("mlp.c_proj.", "mlp.fc2."),
    ];
    let replaced = |name: &str, layers: &[(&str, &str)]| {
        let mut layers = layers.iter();
        layers.find_map(|(theirs, timms)| Some(format!("{timms}{}", name.strip_prefix(theirs)?)))
    };
    match name.strip_prefix("transformer.resblocks.") {
        Some(block) => {
            let (number, layer) = block.split_once('.')?;
            Some(format!("blocks.{number}.{}", replaced(layer, &BLOCK_LAYERS)?))
        }
        None => replaced(name, &LAYERS),
    }
}

/// A Swin transformer without the buffers that follow from its architecture, and with timm's names where it has those
/// of the original release.
fn swin_release(tensors: Tensors) -> Tensors {
    let original = tensors.contains_key("layers.0.downsample.reduction.weight");
    let derived = |name: &str| name.ends_with(".relative_position_index") || name.ends_with(".attn_mask");
    let tensors = tensors.into_iter().filter(|(name, _)| !derived(name));
    if !original {
        return tensors.collect();
    }
    tensors.map(|(name, tensor)| (original_swin_name(&name).unwrap_or(name), tensor)).collect()
}

/// timm's name of a tensor that the original Swin release calls otherwise.
fn original_swin_name(name: &str) -> Option<String> {
    if let Some(kind @ ("weight" | "bias")) = name.strip_prefix("head.") {
        return Some(format!("head.fc.{kind}"));
    }
    let (stage, inner) = name.strip_prefix("layers.")?.split_once('.')?;
    let next = stage.parse::<usize>().ok()?.checked_add(1)?;
    inner.starts_with("downsample.").then(|| format!("layers.{next}.{inner}"))
}

/// Turns 1 × 1 convolutions of the MLPs into the matrices that they are.
fn matrices(tensors: &mut Tensors) -> Result<()> {
    for (name, tensor) in tensors {
        if let (true, [outputs, inputs, 1, 1]) = (name.contains(".mlp.fc"), tensor.dims()) {
            *tensor = tensor.reshape((*outputs, *inputs))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{original_swin_name, own_vit_name};

    #[test]
    fn names_of_open_clip() {
        for (theirs, timms) in [
            ("conv1.weight", Some("patch_embed.proj.weight")),
            ("ln_pre.bias", Some("norm_pre.bias")),
            ("ln_post.weight", Some("norm.weight")),
            ("transformer.resblocks.11.attn.in_proj_weight", Some("blocks.11.attn.qkv.weight")),
            ("transformer.resblocks.0.attn.out_proj.bias", Some("blocks.0.attn.proj.bias")),
            ("transformer.resblocks.3.mlp.c_proj.weight", Some("blocks.3.mlp.fc2.weight")),
            ("transformer.resblocks.3.ls_1.gamma", None),
            ("attn_pool.query", None),
        ] {
            assert_eq!(own_vit_name(theirs).as_deref(), timms, "{theirs}");
        }
    }

    #[test]
    fn names_of_the_original_swin_release() {
        for (theirs, timms) in [
            ("head.weight", Some("head.fc.weight")),
            ("layers.0.downsample.norm.bias", Some("layers.1.downsample.norm.bias")),
            ("layers.2.downsample.reduction.weight", Some("layers.3.downsample.reduction.weight")),
            ("layers.0.blocks.0.norm1.weight", None),
            ("norm.weight", None),
            ("layers.18446744073709551615.downsample.norm.bias", None),
        ] {
            assert_eq!(original_swin_name(theirs).as_deref(), timms, "{theirs}");
        }
    }
}
