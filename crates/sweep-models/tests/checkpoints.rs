//! Names, shapes, initial values, and the way of weights into and out of files.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use common::{data, tensors, uniforms, values};
use sweep_kernels::{Classifier, Gradients, Mode, Tape, mean_cross_entropy};
use sweep_models::{
    Architecture, CLIP_MEAN, Error, Head, HubConfig, IMAGENET_STD, Misshaped, Model, VitActivation, VitConfig,
};

/// Names and shapes of timm's state dictionary.
fn listed(architecture: &str) -> Vec<(String, Vec<usize>)> {
    let table = std::fs::read_to_string(data(&format!("keys/{architecture}.tsv"))).unwrap();
    let entry = |line: &str| {
        let mut fields = line.split('\t');
        let (name, shape) = (fields.next().unwrap(), fields.next().unwrap());
        (name.to_owned(), shape.split('x').map(|size| size.parse().unwrap()).collect())
    };
    table.lines().skip(1).map(entry).collect()
}

fn zeros(entries: &[(String, Vec<usize>)]) -> HashMap<String, Tensor> {
    let zeros = |shape: &Vec<usize>| Tensor::zeros(shape.as_slice(), DType::F32, &Device::Cpu).unwrap();
    entries.iter().map(|(name, shape)| (name.clone(), zeros(shape))).collect()
}

#[test]
fn timm_architectures_have_the_listed_tensors_in_the_listed_order() {
    for (name, parameters) in [
        ("vit_base_patch16_224", 86_567_656),
        ("vit_base_patch16_clip_224", 86_568_424),
        ("vit_base_patch16_clip_quickgelu_224", 0),
        ("vit_base_patch32_clip_224", 0),
        ("vit_small_patch16_224", 0),
        ("vit_small_patch32_224", 0),
        ("vit_tiny_patch16_224", 0),
        ("deit_tiny_patch16_224", 0),
    ] {
        let expected = listed(name);
        // The lists of CLIP towers without a classifier of their own give its width; timm's defaults are 1000 classes.
        let classes = expected.iter().find(|(name, _)| name == "head.bias").unwrap().1[0];
        let architecture = Architecture::from_timm_name(name).unwrap().with_classes(classes);
        let model = Model::from_tensors(architecture, DType::F32, zeros(&expected), Head::Stored).unwrap();
        let got: Vec<_> = model
            .parameters()
            .iter()
            .map(|(_, name, tensor)| (name.to_owned(), tensor.dims().to_vec()))
            .collect();
        assert_eq!(got, expected, "{name}");
        if parameters > 0 {
            assert_eq!(model.parameters().element_count(), parameters, "{name}");
        }
    }
    assert!(
        matches!(Architecture::from_timm_name("vit_huge"), Err(Error::UnknownArchitecture { known, .. }) if known.len() == 9)
    );
}

#[test]
fn presets_describe_the_networks_of_the_paper() {
    let base = VitConfig::base();
    let clip = VitConfig::clip_base();
    assert_eq!(
        Architecture::from_timm_name("vit_base_patch16_224").unwrap(),
        Architecture::Vit(base.clone())
    );
    assert_eq!(
        Architecture::from_timm_name("vit_base_patch16_clip_224").unwrap(),
        Architecture::Vit(clip.clone())
    );
    assert_eq!(
        (base.norm_stability, base.std, clip.norm_stability, clip.mean),
        (1e-6, IMAGENET_STD, 1e-5, CLIP_MEAN)
    );
    assert!(clip.norm_pre && !clip.patch_bias && clip.activation == VitActivation::Gelu);
}

#[test]
fn small_presets_train_every_parameter() {
    let presets =
        [VitConfig::tiny_32(), VitConfig::tiny_64(), VitConfig::clip_tiny_32(), VitConfig::clip_tiny_64()];
    for config in presets {
        let size = config.image_size;
        let model = Model::new(Architecture::Vit(config), DType::F32, &mut uniforms(1)).unwrap();
        let mut next = uniforms(2);
        let pixels: Vec<f32> = (0..2 * 3 * size * size).map(|_| next() as f32).collect();
        let images = Tensor::from_vec(pixels, (2, 3, size, size), &Device::Cpu).unwrap();
        let mut tape = Tape::recording();
        let output = model.forward(&images, &mut tape, Mode::Train).unwrap();
        let (_, dlogits) = mean_cross_entropy(&output.logits, &[0, 3]).unwrap();
        let mut gradients = Gradients::wanted(model.parameters());
        model.backward(dlogits, tape, &mut gradients).unwrap();
        for (id, name, _) in model.parameters().iter() {
            let gradient = values(gradients.get(id).unwrap_or_else(|| panic!("{name} has no gradient")));
            assert!(gradient.iter().any(|value| *value != 0.0), "the gradient of {name} is zero");
        }
    }
}

#[test]
fn initial_values_follow_timm_and_the_paper() {
    let architecture = Architecture::Vit(VitConfig { num_classes: 100, ..VitConfig::tiny_64() });
    let model = Model::new(architecture.clone(), DType::F32, &mut uniforms(3)).unwrap();
    let get = |name: &str| values(model.parameters().get(model.parameters().id(name).unwrap()));
    let deviation = |v: &[f64]| (v.iter().map(|x| x * x).sum::<f64>() / v.len() as f64).sqrt();
    let largest = |v: &[f64]| v.iter().fold(0.0_f64, |largest, x| largest.max(x.abs()));
    // 110,592 draws: the standard error of their deviation is 0.2 %.
    assert!((deviation(&get("blocks.1.attn.qkv.weight")) - 0.02).abs() < 2e-4);
    assert!(get("blocks.0.norm1.weight").iter().all(|value| *value == 1.0));
    assert!(get("blocks.0.mlp.fc1.bias").iter().all(|value| *value == 0.0));
    let bound = 1.0 / 192.0_f64.sqrt();
    for name in ["head.weight", "head.bias", "patch_embed.proj.weight"] {
        let largest = largest(&get(name));
        assert!(largest <= bound * 1.000_001 && largest > 0.9 * bound, "{name}: {largest}");
    }
    let again = Model::new(architecture, DType::F32, &mut uniforms(3)).unwrap();
    assert_eq!(model.to_safetensors().unwrap(), again.to_safetensors().unwrap());
    assert!(model.is_head("head.weight") && model.is_head("head.bias") && !model.is_head("norm.weight"));
}

#[test]
fn all_differences_of_a_checkpoint_are_reported_at_once() {
    let config = std::fs::read_to_string(data("vit/config.json")).unwrap();
    let architecture = HubConfig::parse(&config).unwrap().architecture().unwrap();
    let mut stored = tensors("vit/model.safetensors");
    stored.remove("norm.bias");
    stored.remove("blocks.0.attn.qkv.weight");
    stored.insert("decoder.weight".to_owned(), stored["norm.weight"].clone());
    stored.insert("pos_embed".to_owned(), Tensor::zeros((1, 5, 48), DType::F32, &Device::Cpu).unwrap());
    let Err(Error::Mismatch(mismatch)) = Model::from_tensors(architecture, DType::F32, stored, Head::Stored)
    else {
        panic!("a damaged checkpoint was accepted")
    };
    assert_eq!(mismatch.missing, ["blocks.0.attn.qkv.weight", "norm.bias"]);
    assert_eq!(mismatch.unexpected, ["decoder.weight"]);
    let expected = Misshaped { name: "pos_embed".to_owned(), got: vec![1, 5, 48], expected: vec![1, 17, 48] };
    assert_eq!(mismatch.misshaped, [expected]);
    assert!(mismatch.to_string().contains("not resampled"));
}

#[test]
fn a_fresh_head_replaces_the_stored_one_and_nothing_else() {
    let weights = data("vit/model.safetensors");
    let config = std::fs::read_to_string(data("vit/config.json")).unwrap();
    let architecture = HubConfig::parse(&config).unwrap().architecture().unwrap().with_classes(7);
    assert!(Model::load(architecture.clone(), DType::F32, &weights, Head::Stored).is_err());
    let model = Model::load(architecture, DType::F32, &weights, Head::Fresh(&mut uniforms(4))).unwrap();
    let stored = tensors("vit/model.safetensors");
    for (_, name, tensor) in model.parameters().iter() {
        if model.is_head(name) {
            assert_eq!(tensor.dim(0).unwrap(), 7);
        } else {
            assert_eq!(values(tensor), values(&stored[name]), "{name}");
        }
    }
}

#[test]
fn saved_models_come_back_to_the_bit() {
    let folder = std::env::temp_dir().join(format!("sweep-models-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    for fixture in ["vit", "clip_vit", "clip_vit_quickgelu"] {
        let model = Model::load_folder(&data(fixture), DType::F32).unwrap();
        model.save(&folder).unwrap();
        let again = Model::load_folder(&folder, DType::F32).unwrap();
        assert_eq!(model.architecture(), again.architecture());
        let images = tensors(&format!("{fixture}/reference.safetensors"))["x"].clone();
        assert_eq!(values(&model.logits(&images).unwrap()), values(&again.logits(&images).unwrap()));
        let theirs: serde_json::Value = common::json(&format!("{fixture}/config.json"));
        let ours = serde_json::to_value(HubConfig::describe(model.architecture()).unwrap()).unwrap();
        for key in ["architecture", "num_classes", "num_features", "global_pool"] {
            assert_eq!(ours[key], theirs[key], "{fixture} {key}");
        }
        for (key, value) in theirs["model_args"].as_object().unwrap() {
            assert_eq!(&ours["model_args"][key], value, "{fixture} {key}");
        }
        for key in ["mean", "std", "input_size", "classifier", "first_conv", "num_classes"] {
            assert_eq!(ours["pretrained_cfg"][key], theirs["pretrained_cfg"][key], "{fixture} {key}");
        }
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn what_cannot_be_honoured_is_refused() {
    let config = std::fs::read_to_string(data("vit/config.json")).unwrap();
    let with = |from: &str, to: &str| HubConfig::parse(&config.replace(from, to)).unwrap().architecture();
    assert!(with("nothing", "nothing").is_ok());
    assert!(
        matches!(with("\"depth\": 3", "\"class_token\": false"), Err(Error::HubSetting { key, .. }) if key == "model_args.class_token")
    );
    assert!(matches!(with("\"in_chans\": 3", "\"in_chans\": 1"), Err(Error::HubSetting { .. })));
    assert!(matches!(
        with("\"num_heads\": 3", "\"num_heads\": 5"),
        Err(Error::Architecture { name: "embed_dim", .. })
    ));
    let odd = VitConfig { norm_pre: true, ..VitConfig::tiny_32() };
    assert!(matches!(HubConfig::describe(&Architecture::Vit(odd)), Err(Error::NotInTimm { .. })));
    for bad in [
        VitConfig { image_size: 33, ..VitConfig::tiny_32() },
        VitConfig { depth: 0, ..VitConfig::tiny_32() },
        VitConfig { std: [0.0; 3], ..VitConfig::tiny_32() },
        VitConfig { mlp_ratio: f64::NAN, ..VitConfig::tiny_32() },
        VitConfig { norm_stability: 0.0, ..VitConfig::tiny_32() },
    ] {
        assert!(matches!(bad.validate(), Err(Error::Architecture { .. })));
    }
}

#[test]
fn configurations_survive_serialisation() {
    let architecture =
        Architecture::Vit(VitConfig { activation: VitActivation::QuickGelu, ..VitConfig::clip_base() });
    let text = serde_json::to_string(&architecture).unwrap();
    assert!(text.contains("\"family\":\"vit\"") && text.contains("\"quick_gelu\""));
    assert_eq!(serde_json::from_str::<Architecture>(&text).unwrap(), architecture);
    assert!(serde_json::from_str::<VitConfig>("{\"image_size\": 32, \"colour\": 1}").is_err());
}
