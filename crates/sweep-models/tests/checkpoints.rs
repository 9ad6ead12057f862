//! Names, shapes, initial values, and the way of models into folders and back.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use common::{architecture, data, listed, loss_and_gradients, noise, tensors, uniforms, values};
use sweep_kernels::{Classifier, Mode, Noise};
use sweep_models::{
    Architecture, CLIP_MEAN, ConvnextConfig, Error, Head, HubConfig, IMAGENET_STD, Misshaped, Model,
    ResnetBlock, ResnetConfig, SwinConfig, VitActivation, VitConfig,
};

/// Where none of the paper's numbers says how many parameters there are.
const ANY: usize = 0;

fn zeros(entries: &[(String, Vec<usize>)]) -> HashMap<String, Tensor> {
    let zeros = |(name, shape): &(String, Vec<usize>)| {
        let dtype = if name.ends_with("num_batches_tracked") { DType::I64 } else { DType::F32 };
        (name.clone(), Tensor::zeros(shape.as_slice(), dtype, &Device::Cpu).unwrap())
    };
    entries.iter().map(zeros).collect()
}

/// A convolution of 1 × 1 pixels as the matrix that it is stored as here.
fn as_matrix(shape: &[usize]) -> Vec<usize> {
    match shape {
        [outputs, inputs, 1, 1] => vec![*outputs, *inputs],
        shape => shape.to_vec(),
    }
}

#[test]
fn timm_architectures_have_the_listed_tensors_in_the_listed_order() {
    for (name, parameters) in [
        ("vit_base_patch16_224", 86_567_656),
        ("vit_base_patch16_clip_224", 86_568_424),
        ("vit_base_patch16_clip_quickgelu_224", ANY),
        ("vit_base_patch32_clip_224", ANY),
        ("vit_small_patch16_224", ANY),
        ("vit_small_patch32_224", ANY),
        ("vit_tiny_patch16_224", ANY),
        ("deit_tiny_patch16_224", ANY),
        ("swin_base_patch4_window7_224", 87_768_224),
        ("swin_tiny_patch4_window7_224", 28_288_354),
        ("convnext_base", 88_591_464),
        ("convnext_tiny", 28_589_128),
        ("convnext_atto", 3_695_520),
        ("convnext_femto", ANY),
        ("resnet18", 11_689_512),
        ("resnet26", 15_995_176),
        ("resnet50", 25_557_032),
    ] {
        let mut expected = listed(name);
        // The lists of CLIP towers without a classifier of their own give its width; timm's defaults are 1000 classes.
        let is_bias = |name: &str| matches!(name, "head.bias" | "head.fc.bias" | "fc.bias");
        let classes = expected.iter().find(|(name, _)| is_bias(name)).unwrap().1[0];
        let architecture = Architecture::from_timm_name(name).unwrap().with_classes(classes);
        let model = Model::from_tensors(architecture, DType::F32, zeros(&expected), Head::Stored).unwrap();
        if matches!(name, "convnext_atto" | "convnext_femto") {
            for (_, shape) in &mut expected {
                *shape = as_matrix(shape);
            }
        }
        let got: Vec<_> = model
            .parameters()
            .iter()
            .map(|(_, name, tensor)| (name.to_owned(), tensor.dims().to_vec()))
            .collect();
        assert_eq!(got, expected, "{name}");
        if parameters != ANY {
            assert_eq!(model.parameters().element_count(), parameters, "{name}");
        }
    }
}

#[test]
fn names_that_timm_has_and_this_crate_cannot_build_are_refused() {
    for name in ["vit_huge", "swin_s3_tiny_224", "convnext_zepto_rms", "test_convnext", "resnet10t"] {
        let refused = Architecture::from_timm_name(name);
        assert!(
            matches!(refused, Err(Error::UnknownArchitecture { known, .. }) if known.len() == 26),
            "{name}"
        );
    }
}

#[test]
fn presets_describe_the_networks_of_the_paper() {
    let clip = ConvnextConfig::clip_base();
    for (name, preset) in [
        ("vit_base_patch16_224", Architecture::Vit(VitConfig::base())),
        ("vit_base_patch16_clip_224", Architecture::Vit(VitConfig::clip_base())),
        ("swin_base_patch4_window7_224", Architecture::Swin(SwinConfig::base())),
        ("convnext_base", Architecture::Convnext(ConvnextConfig::base())),
        ("resnet50", Architecture::Resnet(ResnetConfig::base())),
    ] {
        assert_eq!(Architecture::from_timm_name(name).unwrap(), preset);
        assert_eq!((preset.image_size(), preset.num_classes()), (224, 1000));
        preset.validate().unwrap();
    }
    assert_eq!((SwinConfig::base().drop_path, ConvnextConfig::base().drop_path), (0.1, 0.0));
    assert_eq!((clip.drop_path, clip.mean, clip.dims), (0.1, CLIP_MEAN, ConvnextConfig::base().dims));
    let base = VitConfig::base();
    let clip = VitConfig::clip_base();
    assert_eq!(
        (base.norm_stability, base.std, clip.norm_stability, clip.mean),
        (1e-6, IMAGENET_STD, 1e-5, CLIP_MEAN)
    );
    assert!(clip.norm_pre && !clip.patch_bias && clip.activation == VitActivation::Gelu);
}

/// The small presets with their sizes in thousands of parameters.
fn small_presets() -> Vec<(Architecture, usize)> {
    vec![
        (Architecture::Vit(VitConfig::tiny_32()), 214),
        (Architecture::Vit(VitConfig::tiny_64()), 1831),
        (Architecture::Vit(VitConfig::clip_tiny_32()), 214),
        (Architecture::Vit(VitConfig::clip_tiny_64()), 1831),
        (Architecture::Swin(SwinConfig::tiny_32()), 303),
        (Architecture::Swin(SwinConfig::tiny_64()), 1270),
        (Architecture::Convnext(ConvnextConfig::tiny_32()), 421),
        (Architecture::Convnext(ConvnextConfig::tiny_64()), 1625),
        (Architecture::Convnext(ConvnextConfig::clip_tiny_32()), 421),
        (Architecture::Convnext(ConvnextConfig::clip_tiny_64()), 1625),
        (Architecture::Resnet(ResnetConfig::tiny_32()), 518),
        (Architecture::Resnet(ResnetConfig::tiny_64()), 1492),
    ]
}

#[test]
fn small_presets_train_every_parameter() {
    for (architecture, thousands) in small_presets() {
        let size = architecture.image_size();
        let model = Model::new(architecture.clone(), DType::F32, &mut uniforms(1)).unwrap();
        assert_eq!(model.parameters().element_count() / 1000, thousands, "{architecture:?}");
        let (_, dx, gradients) =
            loss_and_gradients(&model, &noise(2, size), &[0, 3], Mode::Train(Noise::new(0, 0)));
        assert!(values(&dx).iter().all(|value| value.is_finite()));
        // Residual networks start as their shortcuts, so that their other convolutions do not matter yet.
        let all_matter = !matches!(architecture, Architecture::Resnet(_));
        for (id, name, _) in model.parameters().trainable() {
            let gradient = values(gradients.get(id).unwrap_or_else(|| panic!("{name} has no gradient")));
            let is_zero = gradient.iter().all(|value| *value == 0.0);
            assert!(!(all_matter && is_zero), "the gradient of {name} is zero");
        }
    }
}

#[test]
fn networks_of_convolutions_take_images_of_other_sizes() {
    for (architecture, (height, width)) in [
        (Architecture::Convnext(ConvnextConfig::tiny_32()), (36, 64)),
        (Architecture::Resnet(ResnetConfig::tiny_32()), (33, 50)),
    ] {
        assert!(!architecture.has_fixed_image_size());
        let model = Model::new(architecture, DType::F32, &mut uniforms(1)).unwrap();
        let images = Tensor::ones((2, 3, height, width), DType::F32, &Device::Cpu).unwrap();
        assert_eq!(model.logits(&images).unwrap().dims(), [2, 10]);
    }
    let fixed = Architecture::Swin(SwinConfig::tiny_32());
    assert!(fixed.has_fixed_image_size());
    let model = Model::new(fixed, DType::F32, &mut uniforms(1)).unwrap();
    assert!(model.logits(&noise(1, 64)).is_err());
}

/// Root of the mean square.
fn deviation(values: &[f64]) -> f64 {
    (values.iter().map(|x| x * x).sum::<f64>() / values.len() as f64).sqrt()
}

fn parameter(model: &Model, name: &str) -> Vec<f64> {
    values(model.parameters().get(model.parameters().id(name).unwrap()))
}

fn all_are(model: &Model, name: &str, expected: f64) {
    let values = parameter(model, name);
    // Parameters are f32.
    assert!(
        values.iter().all(|value| (value - expected).abs() <= 1e-7 * expected),
        "{name} is not {expected}"
    );
}

#[test]
fn initial_values_follow_timm_and_the_paper() {
    let architecture = Architecture::Vit(VitConfig { num_classes: 100, ..VitConfig::tiny_64() });
    let model = Model::new(architecture.clone(), DType::F32, &mut uniforms(3)).unwrap();
    let largest = |v: &[f64]| v.iter().fold(0.0_f64, |largest, x| largest.max(x.abs()));
    // 110,592 draws: the standard error of their deviation is 0.2 %.
    assert!((deviation(&parameter(&model, "blocks.1.attn.qkv.weight")) - 0.02).abs() < 2e-4);
    all_are(&model, "blocks.0.norm1.weight", 1.0);
    all_are(&model, "blocks.0.mlp.fc1.bias", 0.0);
    let bound = 1.0 / 192.0_f64.sqrt();
    for name in ["head.weight", "head.bias", "patch_embed.proj.weight"] {
        let largest = largest(&parameter(&model, name));
        assert!(largest <= bound * 1.000_001 && largest > 0.9 * bound, "{name}: {largest}");
    }
    let again = Model::new(architecture, DType::F32, &mut uniforms(3)).unwrap();
    assert_eq!(model.to_safetensors().unwrap(), again.to_safetensors().unwrap());
    assert!(model.is_head("head.weight") && model.is_head("head.bias") && !model.is_head("norm.weight"));
}

#[test]
fn initial_values_of_the_other_families() {
    let new = |architecture| Model::new(architecture, DType::F32, &mut uniforms(3)).unwrap();
    let swin = new(Architecture::Swin(SwinConfig::tiny_64()));
    // 73,728 draws: the standard error of their deviation is 0.3 %.
    let reduction = "layers.2.downsample.reduction.weight";
    assert!((deviation(&parameter(&swin, reduction)) - 0.02).abs() < 3e-4);
    assert!(deviation(&parameter(&swin, "layers.0.blocks.1.attn.relative_position_bias_table")) > 0.01);

    let convnext = new(Architecture::Convnext(ConvnextConfig::tiny_64()));
    all_are(&convnext, "stages.2.blocks.1.gamma", 1e-6);
    all_are(&convnext, "stem.0.bias", 0.0);
    assert!((deviation(&parameter(&convnext, "stages.3.downsample.1.weight")) - 0.02).abs() < 3e-4);
    assert!(convnext.is_head("head.fc.weight") && !convnext.is_head("head.norm.weight"));

    let resnet = new(Architecture::Resnet(ResnetConfig::tiny_64()));
    all_are(&resnet, "layer1.0.bn1.weight", 1.0);
    all_are(&resnet, "layer1.0.bn3.weight", 0.0);
    all_are(&resnet, "layer2.0.downsample.1.weight", 1.0);
    all_are(&resnet, "bn1.running_mean", 0.0);
    all_are(&resnet, "bn1.running_var", 1.0);
    // Fan out: 128 channels of 3 × 3 pixels.
    let expected = (2.0 / (128.0 * 9.0_f64)).sqrt();
    let got = deviation(&parameter(&resnet, "layer4.1.conv2.weight"));
    assert!((got / expected - 1.0).abs() < 0.01, "{got} is not {expected}");
    assert!(resnet.is_head("fc.bias"));
    let buffers: Vec<_> =
        resnet.parameters().iter().filter(|(id, ..)| resnet.parameters().is_buffer(*id)).collect();
    assert_eq!(buffers.len(), 3 * 52);
}

#[test]
fn all_differences_of_a_checkpoint_are_reported_at_once() {
    let architecture = architecture("vit");
    let mut stored = tensors("vit/model.safetensors");
    stored.remove("norm.bias");
    stored.remove("blocks.0.attn.qkv.weight");
    stored.insert("decoder.weight".to_owned(), stored["norm.weight"].clone());
    stored.insert("pos_embed".to_owned(), Tensor::zeros((1, 6, 48), DType::F32, &Device::Cpu).unwrap());
    let Err(Error::Mismatch(mismatch)) = Model::from_tensors(architecture, DType::F32, stored, Head::Stored)
    else {
        panic!("a damaged checkpoint was accepted")
    };
    assert_eq!(mismatch.missing, ["blocks.0.attn.qkv.weight", "norm.bias"]);
    assert_eq!(mismatch.unexpected, ["decoder.weight"]);
    let expected = Misshaped { name: "pos_embed".to_owned(), got: vec![1, 6, 48], expected: vec![1, 17, 48] };
    assert_eq!(mismatch.misshaped, [expected]);
    assert!(mismatch.to_string().contains("only square grids"));
}

#[test]
fn a_fresh_head_replaces_the_stored_one_and_nothing_else() {
    for fixture in ["vit", "swin", "convnext", "resnet50"] {
        let weights = data(fixture).join("model.safetensors");
        let architecture = architecture(fixture).with_classes(7);
        assert!(Model::load(architecture.clone(), DType::F32, &weights, Head::Stored).is_err());
        let model = Model::load(architecture, DType::F32, &weights, Head::Fresh(&mut uniforms(4))).unwrap();
        let stored = tensors(&format!("{fixture}/model.safetensors"));
        for (_, name, tensor) in model.parameters().iter() {
            if model.is_head(name) {
                assert_eq!(tensor.dim(0).unwrap(), 7);
            } else {
                assert_eq!(values(tensor), values(&stored[name]), "{fixture} {name}");
            }
        }
    }
}

#[test]
fn saved_models_come_back_to_the_bit() {
    let folder = std::env::temp_dir().join(format!("sweep-models-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    for fixture in ["vit", "clip_vit", "clip_vit_quickgelu", "swin", "convnext", "clip_convnext", "resnet50"]
    {
        let model = Model::load_folder(&data(fixture), DType::F32).unwrap();
        model.save(&folder).unwrap();
        let again = Model::load_folder(&folder, DType::F32).unwrap();
        assert_eq!(model.architecture(), again.architecture());
        let images = tensors(&format!("{fixture}/reference.safetensors"))["x"].clone();
        assert_eq!(values(&model.logits(&images).unwrap()), values(&again.logits(&images).unwrap()));
        // Buffers are saved too, counters as whole numbers.
        let (theirs, ours) = (tensors(&format!("{fixture}/model.safetensors")), again.parameters());
        assert_eq!(theirs.len(), ours.len());
        for (_, name, tensor) in ours.iter() {
            assert_eq!(tensor.dtype(), theirs[name].dtype(), "{fixture} {name}");
        }
        check_config(fixture, model.architecture());
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

/// Our `config.json` says what timm's says, and maybe more.
fn check_config(fixture: &str, architecture: &Architecture) {
    let theirs: serde_json::Value = common::json(&format!("{fixture}/config.json"));
    let ours = serde_json::to_value(HubConfig::describe(architecture).unwrap()).unwrap();
    for key in ["architecture", "num_classes", "num_features", "global_pool"] {
        assert_eq!(ours[key], theirs[key], "{fixture} {key}");
    }
    for (key, value) in theirs["model_args"].as_object().unwrap() {
        assert_eq!(&ours["model_args"][key], value, "{fixture} {key}");
    }
    for key in ["mean", "std", "input_size", "classifier", "first_conv", "num_classes", "fixed_input_size"] {
        assert_eq!(ours["pretrained_cfg"][key], theirs["pretrained_cfg"][key], "{fixture} {key}");
    }
}

#[test]
fn descriptions_of_presets_lead_back_to_them() {
    for (architecture, _) in small_presets() {
        let described = HubConfig::describe(&architecture).unwrap();
        let text = serde_json::to_string(&described).unwrap();
        assert_eq!(HubConfig::parse(&text).unwrap().architecture().unwrap(), architecture);
    }
    let basic = ResnetConfig { block: ResnetBlock::Basic, ..ResnetConfig::tiny_32() };
    let described = HubConfig::describe(&Architecture::Resnet(basic.clone())).unwrap();
    assert_eq!((described.architecture.as_str(), described.num_features), ("resnet18", 128));
    assert_eq!(described.architecture().unwrap(), Architecture::Resnet(basic));
}

#[test]
fn what_cannot_be_honoured_is_refused() {
    let with = |fixture: &str, from: &str, to: &str| {
        let config = std::fs::read_to_string(data(fixture).join("config.json")).unwrap();
        assert!(config.contains(from), "{fixture} has no {from}");
        HubConfig::parse(&config.replace(from, to)).unwrap().architecture()
    };
    for (fixture, from, to, key) in [
        ("vit", "\"depth\": 3", "\"class_token\": false", "model_args.class_token"),
        ("vit", "\"in_chans\": 3", "\"in_chans\": 1", "model_args.in_chans"),
        ("swin", "\"window_size\": 4", "\"window_size\": [4, 4, 2]", "window_size"),
        ("swin", "\"window_size\": 4", "\"always_partition\": true", "model_args.always_partition"),
        ("convnext", "\"in_chans\": 3", "\"conv_mlp\": \"yes\"", "model_args.conv_mlp"),
        ("convnext", "\"in_chans\": 3", "\"use_grn\": true", "model_args.use_grn"),
        ("resnet50", "\"in_chans\": 3", "\"stem_type\": \"deep\"", "model_args.stem_type"),
        ("resnet50", "\"global_pool\": \"avg\"", "\"global_pool\": \"max\"", "global_pool"),
    ] {
        let refused = with(fixture, from, to);
        assert!(matches!(&refused, Err(Error::HubSetting { key: got, .. }) if got == key), "{refused:?}");
    }
    with("convnext", "\"in_chans\": 3", "\"conv_mlp\": true").unwrap();
    with("swin", "\"window_size\": 4", "\"window_size\": [4, 4, 4]").unwrap();
    assert!(matches!(
        with("vit", "\"num_heads\": 3", "\"num_heads\": 5"),
        Err(Error::Architecture { name: "embed_dim", .. })
    ));
    let odd = VitConfig { norm_pre: true, ..VitConfig::tiny_32() };
    assert!(matches!(HubConfig::describe(&Architecture::Vit(odd)), Err(Error::NotInTimm { .. })));
}

#[test]
fn numbers_that_describe_no_network_are_refused() {
    let vit = VitConfig::tiny_32;
    let swin = SwinConfig::tiny_32;
    let convnext = ConvnextConfig::tiny_32;
    let resnet = ResnetConfig::tiny_32;
    for bad in [
        Architecture::Vit(VitConfig { image_size: 33, ..vit() }),
        Architecture::Vit(VitConfig { depth: 0, ..vit() }),
        Architecture::Vit(VitConfig { std: [0.0; 3], ..vit() }),
        Architecture::Vit(VitConfig { mlp_ratio: f64::NAN, ..vit() }),
        Architecture::Vit(VitConfig { norm_stability: 0.0, ..vit() }),
        Architecture::Swin(SwinConfig { image_size: 30, ..swin() }),
        Architecture::Swin(SwinConfig { depths: vec![], num_heads: vec![], ..swin() }),
        Architecture::Swin(SwinConfig { depths: vec![2, 0], ..swin() }),
        Architecture::Swin(SwinConfig { depths: vec![1; 70], num_heads: vec![3; 70], ..swin() }),
        Architecture::Swin(SwinConfig { num_heads: vec![3], ..swin() }),
        Architecture::Swin(SwinConfig { num_heads: vec![3, 5], ..swin() }),
        Architecture::Swin(SwinConfig { window_size: 0, ..swin() }),
        Architecture::Swin(SwinConfig { drop_path: 1.0, ..swin() }),
        Architecture::Convnext(ConvnextConfig { depths: vec![1, 1, 1], ..convnext() }),
        Architecture::Convnext(ConvnextConfig { dims: vec![8, 8, 0, 8], ..convnext() }),
        Architecture::Convnext(ConvnextConfig { image_size: 28, ..convnext() }),
        Architecture::Convnext(ConvnextConfig { image_size: 35, ..convnext() }),
        Architecture::Convnext(ConvnextConfig { drop_path: -0.1, ..convnext() }),
        Architecture::Resnet(ResnetConfig { layers: vec![1; 5], ..resnet() }),
        Architecture::Resnet(ResnetConfig { channels: vec![], ..resnet() }),
        Architecture::Resnet(ResnetConfig { num_classes: 0, ..resnet() }),
    ] {
        assert!(matches!(bad.validate(), Err(Error::Architecture { .. })), "{bad:?}");
        assert!(Model::new(bad, DType::F32, &mut uniforms(1)).is_err());
    }
}

#[test]
fn configurations_survive_serialisation() {
    let quick = VitConfig { activation: VitActivation::QuickGelu, ..VitConfig::clip_base() };
    let presets = small_presets().into_iter().map(|(architecture, _)| architecture);
    for architecture in presets.chain([Architecture::Vit(quick)]) {
        let text = serde_json::to_string(&architecture).unwrap();
        assert_eq!(serde_json::from_str::<Architecture>(&text).unwrap(), architecture);
    }
    let text = serde_json::to_string(&Architecture::Resnet(ResnetConfig::base())).unwrap();
    assert!(text.contains("\"family\":\"resnet\"") && text.contains("\"bottleneck\""));
    assert!(serde_json::from_str::<VitConfig>("{\"image_size\": 32, \"colour\": 1}").is_err());
}
