//! Values and gradients against those of timm and PyTorch, stored with the weights they belong to.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use common::{data, json, labels, largest_difference, norm, relative_difference, tensors, values};
use sweep_kernels::{
    AdamW, AdamWSettings, Classifier, Gradients, Mode, Optimizer, ParameterGroup, Tape, cross_entropy,
    mean_cross_entropy,
};
use sweep_models::{Architecture, Head, HubConfig, Model, VitConfig};

/// float32 logits of the references lie within 4e-6 of float64; the rest is room for another order of summation.
const LOGITS: f64 = 2e-5;
/// Losses and gradients of the references lie within 4e-6 (relative) of float64.
const RELATIVE: f64 = 1e-5;
/// The limit that the stored training runs name for themselves (loss of each of ten steps, final weights).
const TRAINING: f64 = 1e-5;
/// In f64 nothing but the order of summation is left; the stored values are f64 too.
const DOUBLE: f64 = 1e-10;

const FIXTURES: [&str; 3] = ["vit", "clip_vit", "clip_vit_quickgelu"];

/// Loss, gradient of the mean loss with respect to the images, and parameter gradients.
fn loss_and_gradients(model: &Model, images: &Tensor, labels: &[u32]) -> (f64, Tensor, Gradients) {
    let mut tape = Tape::recording();
    let output = model.forward(images, &mut tape, Mode::Train).unwrap();
    let (loss, dlogits) = mean_cross_entropy(&output.logits, labels).unwrap();
    let mut gradients = Gradients::wanted(model.parameters());
    let dx = model.backward(dlogits, tape, &mut gradients).unwrap();
    (loss, dx, gradients)
}

#[test]
fn logits_features_and_losses() {
    for fixture in FIXTURES {
        let model = Model::load_folder(&data(fixture), DType::F32).unwrap();
        let reference = tensors(&format!("{fixture}/reference.safetensors"));
        let output = model.forward(&reference["x"], &mut Tape::off(), Mode::Evaluation).unwrap();
        let losses = cross_entropy(&output.logits, &labels(&reference["labels"])).unwrap().losses;
        for (got, name) in
            [(output.logits, "logits"), (output.features, "pre_logits"), (losses, "loss_indiv")]
        {
            let difference = largest_difference(&got, &reference[&format!("eval.{name}")]);
            assert!(difference < LOGITS, "{fixture} {name}: {difference:e}");
        }
    }
}

#[test]
fn loss_input_gradient_and_parameter_gradients() {
    for fixture in FIXTURES {
        let model = Model::load_folder(&data(fixture), DType::F32).unwrap();
        let reference = tensors(&format!("{fixture}/reference.safetensors"));
        let (loss, dx, gradients) =
            loss_and_gradients(&model, &reference["x"], &labels(&reference["labels"]));
        let expected = values(&reference["eval.loss.f64"])[0];
        assert!((loss - expected).abs() < RELATIVE * expected, "{fixture}: {loss} is not {expected}");
        let difference = relative_difference(&dx, &reference["eval.grad_x"]);
        assert!(difference < RELATIVE, "{fixture} input gradient: {difference:e}");
        let mut compared = 0;
        for (name, expected) in &reference {
            let Some(parameter) = name.strip_prefix("eval.grad.") else { continue };
            let id = model.parameters().id(parameter).unwrap();
            let difference = relative_difference(gradients.get(id).unwrap(), expected);
            assert!(difference < RELATIVE, "{fixture} {parameter}: {difference:e}");
            compared += 1;
        }
        assert!(compared >= 15, "{fixture}: only {compared} parameter gradients are stored");
    }
}

#[test]
fn every_parameter_gradient_has_the_norm_of_the_reference() {
    for fixture in FIXTURES {
        let model = Model::load_folder(&data(fixture), DType::F32).unwrap();
        let reference = tensors(&format!("{fixture}/reference.safetensors"));
        let (_, _, gradients) = loss_and_gradients(&model, &reference["x"], &labels(&reference["labels"]));
        let stored = json(&format!("{fixture}/norms.json"));
        assert_eq!(stored["params"].as_u64().unwrap(), model.parameters().element_count() as u64);
        let norms = stored["grad_norms"].as_object().unwrap();
        assert_eq!(norms.len(), model.parameters().len());
        for (id, name, _) in model.parameters().iter() {
            let expected = norms[name].as_f64().unwrap();
            let got = norm(&values(
                gradients.get(id).unwrap_or_else(|| panic!("{fixture}: {name} has no gradient")),
            ));
            assert!(
                (got - expected).abs() < RELATIVE * expected,
                "{fixture} {name}: {got} is not {expected}"
            );
        }
    }
}

#[test]
fn double_precision_agrees_with_double_precision() {
    for fixture in FIXTURES {
        // timm keeps mean and standard deviation in float32, and converts those to float64.
        let single = |constants: [f64; 3]| constants.map(|value| f64::from(value as f32));
        let config = std::fs::read_to_string(data(fixture).join("config.json")).unwrap();
        let Architecture::Vit(config) = HubConfig::parse(&config).unwrap().architecture().unwrap();
        let config = VitConfig { mean: single(config.mean), std: single(config.std), ..config };
        let weights = data(fixture).join("model.safetensors");
        let model = Model::load(Architecture::Vit(config), DType::F64, &weights, Head::Stored).unwrap();
        let reference = tensors(&format!("{fixture}/reference.safetensors"));
        let logits = model.logits(&reference["x"].to_dtype(DType::F64).unwrap()).unwrap();
        let difference = largest_difference(&logits, &reference["eval.logits.f64"]);
        assert!(difference < DOUBLE, "{fixture}: {difference:e}");
    }
}

#[test]
fn frozen_weights_leave_the_input_gradient_unchanged_to_the_bit() {
    let model = Model::load_folder(&data("clip_vit"), DType::F32).unwrap();
    let reference = tensors("clip_vit/reference.safetensors");
    let labels = labels(&reference["labels"]);
    let (_, trained, _) = loss_and_gradients(&model, &reference["x"], &labels);
    let (logits, tape) = model.record(&reference["x"]).unwrap();
    let (_, dlogits) = mean_cross_entropy(&logits, &labels).unwrap();
    let frozen = model.input_gradient(tape, dlogits).unwrap();
    assert_eq!(values(&trained), values(&frozen));
    assert!(norm(&values(&frozen)) > 0.0);
}

/// The filling rule of the full-size references: a hash of tensor position and element index, as a number in [-1, 1).
fn hashed(position: u32, salt: u32, index: u32) -> f64 {
    let offset = position.wrapping_mul(40503).wrapping_add(salt.wrapping_mul(69069)).wrapping_add(12345);
    let mut h = index.wrapping_mul(2_654_435_761).wrapping_add(offset);
    h ^= h >> 16;
    h = h.wrapping_mul(0x85EB_CA6B);
    h ^= h >> 13;
    h = h.wrapping_mul(0xC2B2_AE35);
    h ^= h >> 16;
    f64::from(h) / 2_147_483_648.0 - 1.0
}

/// The weights that the full-size references were computed with.
fn formula_weights(model: &Model, salt: u32) -> HashMap<String, Tensor> {
    let mut shapes: Vec<(&str, &[usize])> =
        model.parameters().iter().map(|(_, name, tensor)| (name, tensor.dims())).collect();
    shapes.sort_unstable();
    let fill = |(position, (name, shape)): (usize, (&str, &[usize]))| {
        let len: usize = shape.iter().product();
        let value = |index| {
            let u = hashed(position as u32, salt, index);
            match name.rsplit('.').next().unwrap() {
                "cls_token" | "pos_embed" => 0.3 * u,
                "bias" => 0.05 * u,
                _ if shape.len() == 1 => 1.0 + 0.2 * u,
                _ => u * (6.0 / (len / shape[0]) as f64).sqrt(),
            }
        };
        let filled: Vec<f32> = (0..len as u32).map(|index| value(index) as f32).collect();
        (name.to_owned(), Tensor::from_vec(filled, shape, &Device::Cpu).unwrap())
    };
    shapes.into_iter().enumerate().map(fill).collect()
}

/// The images of the full-size references: blocks of 8 × 8 pixels with some noise, in steps of 1/255.
fn formula_images(salt: u32) -> Tensor {
    const SIDE: usize = 224;
    let pixel =
        |index: usize| ((hashed(999_983, salt, index as u32) + 1.0) * 128.0).floor().clamp(0.0, 255.0);
    let value = |index: usize| {
        let (plane, row, column) = (index / (SIDE * SIDE), index / SIDE % SIDE, index % SIDE);
        let corner = plane * SIDE * SIDE + row / 8 * 8 * SIDE + column / 8 * 8;
        let block: f64 = (0..64).map(|inner| pixel(corner + inner / 8 * SIDE + inner % 8)).sum();
        let shade = 3.0 * (block / 64.0) - 256.0 + pixel(index) / 4.0;
        (shade.clamp(0.0, 255.0).floor() / 255.0) as f32
    };
    let pixels: Vec<f32> = (0..2 * 3 * SIDE * SIDE).map(value).collect();
    Tensor::from_vec(pixels, (2, 3, SIDE, SIDE), &Device::Cpu).unwrap()
}

/// Every 16th pixel in both directions.
fn sample(images: &Tensor) -> Tensor {
    let steps = Tensor::arange_step(0_u32, 224, 16, &Device::Cpu).unwrap();
    images.index_select(&steps, 2).unwrap().index_select(&steps, 3).unwrap()
}

#[test]
fn full_size_network_with_weights_by_formula() {
    let info = json("fullsize/vit_tiny_patch16_224.json");
    let reference = tensors("fullsize/vit_tiny_patch16_224.safetensors");
    let salt = info["salt"].as_u64().unwrap() as u32;
    let architecture = Architecture::from_timm_name("vit_tiny_patch16_224").unwrap().with_classes(100);
    let Architecture::Vit(config) = architecture;
    let architecture = Architecture::Vit(VitConfig { mean: [0.5; 3], std: [0.5; 3], ..config });
    let blank = Model::new(architecture.clone(), DType::F32, &mut || 0.5).unwrap();
    let weights = formula_weights(&blank, salt);
    let model = Model::from_tensors(architecture, DType::F32, weights, Head::Stored).unwrap();
    let images = formula_images(salt);
    assert_eq!(largest_difference(&sample(&images), &reference["x_sample"]), 0.0);
    let labels: Vec<u32> = serde_json::from_value(info["labels"].clone()).unwrap();
    let logits = model.logits(&images).unwrap();
    let difference = largest_difference(&logits, &reference["logits.f64"]);
    assert!(difference < LOGITS, "logits: {difference:e}");
    let (loss, dx, gradients) = loss_and_gradients(&model, &images, &labels);
    let expected = info["loss"].as_f64().unwrap();
    assert!((loss - expected).abs() < RELATIVE * expected, "{loss} is not {expected}");
    let difference = relative_difference(&sample(&dx), &reference["grad_x_sample"]);
    assert!(difference < RELATIVE, "input gradient: {difference:e}");
    for (id, name, _) in model.parameters().iter() {
        let expected = info["grad_l2"][name].as_f64().unwrap();
        let got = norm(&values(gradients.get(id).unwrap()));
        assert!((got - expected).abs() < RELATIVE * expected, "{name}: {got} is not {expected}");
    }
}

#[test]
fn ten_training_steps() {
    let reference = tensors("train10/vit.safetensors");
    let mut model = Model::load_folder(&data("vit"), DType::F32).unwrap();
    let settings = AdamWSettings { betas: [0.9, 0.95], stability: 1e-8 };
    let group = ParameterGroup {
        parameters: model.parameters().iter().map(|(id, ..)| id).collect(),
        learning_rate: 5e-4,
        weight_decay: 0.05,
    };
    let mut optimizer = AdamW::new(settings, vec![group]).unwrap();
    let images = (reference["vit.x_u8"].to_dtype(DType::F32).unwrap() / 255.0).unwrap();
    let expected = values(&reference["vit.clean.losses"]);
    for (step, expected) in expected.iter().enumerate() {
        let batch = images.get(step).unwrap();
        let (loss, _, gradients) =
            loss_and_gradients(&model, &batch, &labels(&reference["vit.labels"].get(step).unwrap()));
        assert!((loss - expected).abs() < TRAINING, "step {step}: {loss} is not {expected}");
        optimizer.step(model.parameters_mut(), &gradients, 1.0).unwrap();
    }
    let head = model.parameters().get(model.parameters().id("head.weight").unwrap());
    let difference = largest_difference(head, &reference["vit.clean.final.head.weight"]);
    assert!(difference < TRAINING, "head: {difference:e}");
    let logits = model.logits(&images.get(0).unwrap()).unwrap();
    let difference = largest_difference(&logits, &reference["vit.clean.final_eval_logits_batch0"]);
    assert!(difference < 2.0 * TRAINING, "logits: {difference:e}");
}
