//! Weights under other people's names, in other formats, and for other image sizes.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use common::{data, json, largest_difference, listed, tensors, uniforms, values};
use sweep_kernels::Classifier;
use sweep_models::{Architecture, Error, Head, HubConfig, Model, SwinConfig, VitConfig};

/// float32 rounding and another order of summation, at logits of a few units.
const LOGITS: f64 = 2e-5;
/// The references are float32 numbers of a few units; ours are exact before they are rounded.
const RESAMPLED: f64 = 2e-6;
/// Differences between layouts of one set of weights: none.
const NONE: f64 = 0.0;

/// The network of a naming fixture, whose `config.json` holds only what the fixture needs.
fn network(fixture: &str) -> Architecture {
    let mut config = json(&format!("naming/{fixture}/config.json"));
    let size = config["model_args"]["img_size"].as_u64().unwrap_or(32);
    config["num_classes"] = config["model_args"]["num_classes"].clone();
    config["num_features"] = 0.into();
    config["pretrained_cfg"] =
        serde_json::json!({ "mean": config["mean"], "std": config["std"], "input_size": [3, size, size] });
    HubConfig::parse(&config.to_string()).unwrap().architecture().unwrap()
}

fn stored(fixture: &str, file: &str) -> Model {
    let path = data(&format!("naming/{fixture}/{file}"));
    Model::load(network(fixture), DType::F32, &path, Head::Stored).unwrap()
}

fn check_logits(model: &Model, fixture: &str, limit: f64) {
    let reference = tensors(&format!("naming/{fixture}/reference.safetensors"));
    let difference = largest_difference(&model.logits(&reference["x"]).unwrap(), &reference["logits"]);
    assert!(difference < limit, "{fixture}: {difference:e}");
}

#[test]
fn names_of_open_clip_and_of_the_original_swin_release() {
    for (fixture, file) in [
        ("openclip_vit", "open_clip_model.safetensors"),
        ("openclip_vit_quickgelu", "open_clip_model.safetensors"),
        ("openclip_convnext", "open_clip_model.safetensors"),
        ("swin_extra_buffers", "model.safetensors"),
        ("swin_extra_buffers", "original_naming.safetensors"),
    ] {
        check_logits(&stored(fixture, file), fixture, LOGITS);
    }
}

#[test]
fn names_of_full_size_image_towers() {
    for (list, architecture, width) in [
        ("open_clip_ViT-B-16_visual", "vit_base_patch16_clip_224", 512),
        ("open_clip_convnext_base_w_visual", "convnext_base", 640),
    ] {
        let zero = |shape: &Vec<usize>| Tensor::zeros(shape.as_slice(), DType::F32, &Device::Cpu).unwrap();
        let mut tower: HashMap<_, _> =
            listed(list).into_iter().map(|(name, shape)| (name, zero(&shape))).collect();
        tower.insert("logit_scale".to_owned(), zero(&vec![]));
        let architecture = Architecture::from_timm_name(architecture).unwrap().with_classes(width);
        Model::from_tensors(architecture, DType::F32, tower, Head::Stored).unwrap();
    }
}

#[test]
fn a_fresh_head_ignores_every_stored_one() {
    for (fixture, file) in [
        ("openclip_vit", "open_clip_model.safetensors"),
        ("openclip_convnext", "open_clip_model.safetensors"),
        ("swin_extra_buffers", "original_naming.safetensors"),
    ] {
        let path = data(&format!("naming/{fixture}/{file}"));
        let architecture = network(fixture).with_classes(7);
        let fresh = Model::load(architecture, DType::F32, &path, Head::Fresh(&mut uniforms(4))).unwrap();
        let stored = stored(fixture, file);
        for (id, name, tensor) in fresh.parameters().iter() {
            if fresh.is_head(name) {
                assert_eq!(tensor.dim(0).unwrap(), 7);
            } else {
                assert_eq!(values(tensor), values(stored.parameters().get(id)), "{fixture} {name}");
            }
        }
    }
    let mut odd = tensors("resnet50/model.safetensors");
    odd.insert("fc.weight".to_owned(), Tensor::zeros((3, 5, 7), DType::F32, &Device::Cpu).unwrap());
    odd.insert("head.weight".to_owned(), odd["fc.weight"].clone());
    odd.remove("fc.bias");
    let architecture = common::architecture("resnet50");
    Model::from_tensors(architecture, DType::F32, odd, Head::Fresh(&mut uniforms(4))).unwrap();
}

#[test]
fn data_parallel_wrappers_are_taken_off() {
    let wrapped = tensors("convnext/model.safetensors");
    let wrapped = wrapped.into_iter().map(|(name, tensor)| (format!("module.{name}"), tensor)).collect();
    let architecture = common::architecture("convnext");
    Model::from_tensors(architecture, DType::F32, wrapped, Head::Stored).unwrap();
}

#[test]
fn state_dictionaries_of_pytorch() {
    for (file, fixture, original, dtype) in [
        ("open_clip_f16.bin", "openclip_vit", "open_clip_model.safetensors", DType::F16),
        ("nested_bf16.pth", "swin_extra_buffers", "original_naming.safetensors", DType::BF16),
    ] {
        let path = data(&format!("pickles/{file}"));
        let model = Model::load(network(fixture), DType::F32, &path, Head::Stored).unwrap();
        let stored = stored(fixture, original);
        for (id, name, tensor) in model.parameters().iter() {
            let rounded = stored.parameters().get(id).to_dtype(dtype).unwrap();
            assert!(largest_difference(tensor, &rounded) <= NONE, "{file} {name}");
        }
    }
}

fn refusal(path: &Path) -> String {
    let architecture = Architecture::Swin(SwinConfig::tiny_32());
    match Model::load(architecture, DType::F32, path, Head::Stored) {
        Ok(_) => panic!("{} was accepted", path.display()),
        Err(error) => error.to_string(),
    }
}

#[test]
fn files_that_are_no_weights_are_refused_with_the_reason() {
    for (file, reason) in [
        ("pickles/legacy.pth", "before version 1.6"),
        ("pickles/empty.pt", "no tensors"),
        ("swin/config.json", "neither a safetensors file nor a PyTorch zip archive"),
        ("swin/missing.safetensors", "No such file"),
        ("vit/model.safetensors", "missing: patch_embed.norm.weight"),
    ] {
        let message = refusal(&data(file));
        assert!(message.contains(reason), "{file}: {message}");
    }
}

#[test]
fn counters_may_be_missing() {
    let mut tensors = tensors("resnet50/model.safetensors");
    tensors.retain(|name, _| !name.ends_with("num_batches_tracked"));
    let architecture = common::architecture("resnet50");
    let model = Model::from_tensors(architecture.clone(), DType::F32, tensors.clone(), Head::Stored).unwrap();
    let counter = model.parameters().get(model.parameters().id("bn1.num_batches_tracked").unwrap());
    assert_eq!((counter.dtype(), counter.to_scalar::<i64>().unwrap()), (DType::I64, 0));
    tensors.remove("bn1.running_var");
    let refused = Model::from_tensors(architecture, DType::F32, tensors, Head::Stored);
    assert!(matches!(refused, Err(Error::Mismatch(mismatch)) if mismatch.missing == ["bn1.running_var"]));
}

/// The network with one tensor of its weights replaced.
fn with_replaced(architecture: &Architecture, name: &str, tensor: Tensor) -> sweep_models::Result<Model> {
    let model = Model::new(architecture.clone(), DType::F32, &mut uniforms(1)).unwrap();
    let mut tensors: HashMap<String, Tensor> = model.parameters().snapshot().unwrap().into_iter().collect();
    assert!(tensors.insert(name.to_owned(), tensor).is_some());
    Model::from_tensors(architecture.clone(), DType::F32, tensors, Head::Stored)
}

fn parameter(model: &Model, name: &str) -> Tensor {
    model.parameters().get(model.parameters().id(name).unwrap()).clone()
}

#[test]
fn position_embeddings_are_resampled_as_in_timm() {
    let reference = tensors("resampling.safetensors");
    for side in [2, 3, 4, 7, 8] {
        let config =
            VitConfig { image_size: 8 * side, embed_dim: 4, depth: 1, num_heads: 1, ..VitConfig::tiny_32() };
        let stored = reference["pos_embed.5"].clone();
        let model = with_replaced(&Architecture::Vit(config), "pos_embed", stored).unwrap();
        let expected = &reference[&format!("pos_embed.5.to.{side}")];
        let difference = largest_difference(&parameter(&model, "pos_embed"), expected);
        assert!(difference < RESAMPLED, "5 to {side}: {difference:e}");
    }
}

#[test]
fn relative_position_tables_are_resampled_as_in_timm() {
    const TABLE: &str = "layers.0.blocks.0.attn.relative_position_bias_table";
    let reference = tensors("resampling.safetensors");
    for (old, news) in [(4, [1, 2, 3, 5, 8, 12]), (7, [1, 2, 3, 5, 8, 12])] {
        for new in news {
            let config = SwinConfig {
                image_size: 4 * 12,
                embed_dim: 6,
                depths: vec![1],
                num_heads: vec![3],
                window_size: new,
                ..SwinConfig::tiny_32()
            };
            let stored = reference[&format!("table.{old}")].clone();
            let model = with_replaced(&Architecture::Swin(config), TABLE, stored).unwrap();
            let expected = &reference[&format!("table.{old}.to.{new}")];
            let difference = largest_difference(&parameter(&model, TABLE), expected);
            assert!(difference < RESAMPLED, "{old} to {new}: {difference:e}");
        }
    }
}

#[test]
fn what_is_no_square_grid_is_not_resampled() {
    let architecture = Architecture::Vit(VitConfig::tiny_32());
    for shape in [(1, 16, 64), (1, 10, 63), (2, 10, 64)] {
        let stored = Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
        let Err(error) = with_replaced(&architecture, "pos_embed", stored) else {
            panic!("{shape:?} was accepted")
        };
        assert!(error.to_string().contains("only square grids"), "{error}");
    }
}
