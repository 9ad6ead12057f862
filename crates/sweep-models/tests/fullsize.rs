//! timm's own architectures at 224 × 224 pixels against timm, with weights given by a formula instead of a file.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use common::{
    json, largest_difference, listed, loss_and_gradients, norm, relative_difference, tensors, values,
};
use rayon::prelude::*;
use sweep_kernels::{Classifier, Mode};
use sweep_models::{Architecture, Head, Model};

/// float32 logits of the references lie within 5e-6 of float64; the rest is room for another order of summation.
const LOGITS: f64 = 5e-5;
/// The same for losses and gradients, relative to their norm.
const RELATIVE: f64 = 5e-5;

/// The filling rule of the references: a hash of tensor position and element index, as a number in [-1, 1).
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

/// How an element of a tensor follows from its hash.
fn element(architecture: &str, name: &str, shape: &[usize], u: f64) -> f64 {
    match name.rsplit('.').next().unwrap() {
        "cls_token" | "pos_embed" => 0.3 * u,
        "running_mean" => 0.1 * u,
        "running_var" => 1.0 + 0.5 * u,
        "gamma" => 0.3 + 0.1 * u,
        "relative_position_bias_table" => 0.5 * u,
        "bias" => 0.05 * u,
        _ if shape.len() == 1 => 1.0 + 0.2 * u,
        _ => {
            let fan_in = shape[1..].iter().product::<usize>() as f64;
            let gain: f64 = if architecture.starts_with("resnet") && shape.len() == 4 { 3.0 } else { 6.0 };
            u * (gain / fan_in).sqrt()
        }
    }
}

/// The weights that the references were computed with, in timm's shapes. Counters of batch norms are not among them.
fn formula_weights(architecture: &str, classes: usize, salt: u32) -> HashMap<String, Tensor> {
    let mut shapes = listed(architecture);
    shapes.retain(|(name, _)| !name.ends_with("num_batches_tracked"));
    shapes.sort_unstable();
    let fill = |(position, (name, mut shape)): (usize, (String, Vec<usize>))| {
        if ["head.weight", "head.bias", "head.fc.weight", "head.fc.bias", "fc.weight", "fc.bias"]
            .contains(&name.as_str())
        {
            shape[0] = classes;
        }
        let len: usize = shape.iter().product();
        let value = |index| element(architecture, &name, &shape, hashed(position as u32, salt, index)) as f32;
        let filled: Vec<f32> = (0..len as u32).into_par_iter().map(value).collect();
        (name.clone(), Tensor::from_vec(filled, shape.as_slice(), &Device::Cpu).unwrap())
    };
    shapes.into_iter().enumerate().map(fill).collect()
}

/// The images of the references: blocks of 8 × 8 pixels with some noise, in steps of 1/255.
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
    let pixels: Vec<f32> = (0..2 * 3 * SIDE * SIDE).into_par_iter().map(value).collect();
    Tensor::from_vec(pixels, (2, 3, SIDE, SIDE), &Device::Cpu).unwrap()
}

/// Every 16th pixel in both directions.
fn sample(images: &Tensor) -> Tensor {
    let steps = Tensor::arange_step(0_u32, 224, 16, &Device::Cpu).unwrap();
    images.index_select(&steps, 2).unwrap().index_select(&steps, 3).unwrap()
}

/// A network of the references, in f32 and in f64.
struct FullSize {
    name: &'static str,
    info: serde_json::Value,
    architecture: Architecture,
}

impl FullSize {
    fn new(name: &'static str) -> Self {
        let info = json(&format!("fullsize/{name}.json"));
        // timm keeps mean and standard deviation in float32.
        let constants = |key: &str| {
            let constants: [f32; 3] = serde_json::from_value(info[key].clone()).unwrap();
            constants.map(f64::from)
        };
        let architecture = Architecture::from_timm_name(name)
            .unwrap()
            .with_classes(100)
            .with_normalization(constants("mean"), constants("std"));
        Self { name, info, architecture }
    }

    fn salt(&self) -> u32 {
        self.info["salt"].as_u64().unwrap() as u32
    }

    fn model(&self, dtype: DType) -> Model {
        let weights = formula_weights(self.name, 100, self.salt());
        Model::from_tensors(self.architecture.clone(), dtype, weights, Head::Stored).unwrap()
    }

    fn check(&self, what: &str, difference: f64, limit: f64) {
        assert!(difference < limit, "{} {what}: {difference:e}", self.name);
    }

    /// Compares logits in f32, and loss and gradients in `dtype`.
    fn compare(&self, dtype: DType) {
        let reference = tensors(&format!("fullsize/{}.safetensors", self.name));
        let images = formula_images(self.salt());
        assert_eq!(largest_difference(&sample(&images), &reference["x_sample"]), 0.0);
        let model = self.model(DType::F32);
        let difference = largest_difference(&model.logits(&images).unwrap(), &reference["logits.f64"]);
        self.check("logits", difference, LOGITS);

        let model = if dtype == DType::F32 { model } else { self.model(dtype) };
        let labels: Vec<u32> = serde_json::from_value(self.info["labels"].clone()).unwrap();
        let (loss, dx, gradients) =
            loss_and_gradients(&model, &images.to_dtype(dtype).unwrap(), &labels, Mode::Evaluation);
        let expected = self.info["loss"].as_f64().unwrap();
        self.check("loss", (loss - expected).abs() / expected, RELATIVE);
        let difference = relative_difference(&sample(&dx), &reference["grad_x_sample"]);
        self.check("input gradient", difference, RELATIVE);
        for (id, parameter, _) in model.parameters().trainable() {
            let expected = self.info["grad_l2"][parameter].as_f64().unwrap();
            let got = norm(&values(gradients.get(id).unwrap()));
            self.check(parameter, (got - expected).abs() / expected, RELATIVE);
        }
    }
}

#[test]
fn vit_tiny() {
    FullSize::new("vit_tiny_patch16_224").compare(DType::F32);
}

#[test]
fn vit_base() {
    FullSize::new("vit_base_patch16_224").compare(DType::F32);
}

#[test]
fn clip_vit_base() {
    FullSize::new("vit_base_patch16_clip_224").compare(DType::F32);
}

#[test]
fn clip_vit_base_with_quickgelu() {
    FullSize::new("vit_base_patch16_clip_quickgelu_224").compare(DType::F32);
}

#[test]
fn swin_tiny() {
    FullSize::new("swin_tiny_patch4_window7_224").compare(DType::F32);
}

#[test]
fn swin_base() {
    FullSize::new("swin_base_patch4_window7_224").compare(DType::F32);
}

#[test]
fn convnext_atto() {
    FullSize::new("convnext_atto").compare(DType::F32);
}

#[test]
fn convnext_base() {
    FullSize::new("convnext_base").compare(DType::F32);
}

// Of the ten million ReLUs of a residual network some lie so close to their kink that rounding decides on which side:
// PyTorch's own float32 gradient of this ResNet-50 lies 0.4 % from its float64 gradient. So gradients are compared in
// f64, where that does not happen, and those of ResNet-50 with PyTorch's float64 run of the same weights.

#[test]
fn resnet18() {
    FullSize::new("resnet18").compare(DType::F64);
}

#[test]
fn resnet50() {
    FullSize::new("resnet50").compare(DType::F64);
}
