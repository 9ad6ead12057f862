//! The networks on a GPU against what timm and PyTorch gave for the stored weights: outputs, gradients, and training steps.
//!
//! Runs on a real GPU, or on the emulated device of sweep-kernels.
#![cfg(feature = "cuda")]
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]
#![expect(clippy::print_stdout, reason = "the errors that were found are worth reading, whatever the limits")]

mod common;

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use common::{data, json, labels, loss_and_gradients, norm, relative_difference, tensors, values};
use sweep_kernels::{
    AdamW, AdamWSettings, Classifier, Compute, Gradients, Mode, Noise, Optimizer, ParameterGroup, Sgd,
    SgdSettings, Tape, mean_cross_entropy,
};
use sweep_models::Model;

/// Largest relative differences (norm of the difference by norm of the reference, which is in F32) of one kind of arithmetic.
#[derive(Clone, Copy)]
struct Limits {
    compute: Compute,
    /// Of logits, features and the loss.
    outputs: f64,
    /// Of the gradients with respect to images and parameters.
    gradients: f64,
}

/// F32 differs from PyTorch's by the order of sums.
const FULL: Limits = Limits { compute: Compute::Full, outputs: 1e-4, gradients: 1e-4 };

/// BF16 keeps 8 bits of every activation: errors of 2⁻⁹ each, which add up over the depth of a network.
fn bf16(outputs: f64, gradients: f64) -> Limits {
    Limits { compute: Compute::Bf16, outputs, gradients }
}

/// A stored network, and its limits in BF16.
struct Fixture {
    name: &'static str,
    bf16: Limits,
}

fn fixtures() -> [Fixture; 8] {
    let fixture = |name, outputs, gradients| Fixture { name, bf16: bf16(outputs, gradients) };
    [
        fixture("vit", 5e-2, 5e-2),
        fixture("clip_vit", 5e-2, 5e-2),
        fixture("clip_vit_quickgelu", 5e-2, 5e-2),
        fixture("swin", 5e-2, 5e-2),
        fixture("swin_padded", 5e-2, 5e-2),
        fixture("convnext", 5e-2, 5e-2),
        fixture("clip_convnext", 5e-2, 5e-2),
        // Random batch norms and ReLUs of few channels: in PyTorch 2.15's own autocast the gradient with respect to the images is
        // off by 0.60 of its length here, the worst of a parameter by 1.03.
        fixture("resnet50", 5e-2, 0.9),
    ]
}

/// The GPU that tests run on: one for each of their threads.
fn gpu() -> Device {
    thread_local! {
        static GPU: Device =
            Device::new_cuda(0).expect("tests with the feature `cuda` need a GPU, or the emulated device");
    }
    GPU.with(Clone::clone)
}

/// The network on the GPU, and the reference with its images there too.
fn moved(name: &str, compute: Compute) -> (Model, HashMap<String, Tensor>) {
    let model = Model::load_folder(&data(name), DType::F32).unwrap().to_device(&gpu(), compute).unwrap();
    let mut reference = tensors(&format!("{name}/reference.safetensors"));
    let images = reference["x"].to_device(&gpu()).unwrap();
    reference.insert("x".to_owned(), images);
    (model, reference)
}

/// Collects what lies too far from the reference, and the largest differences.
#[derive(Default)]
struct Report {
    problems: Vec<String>,
    outputs: f64,
    gradients: f64,
}

impl Report {
    fn output(&mut self, what: &str, difference: f64, limits: Limits) {
        self.outputs = self.outputs.max(difference);
        self.check(what, difference, limits.outputs);
    }

    fn gradient(&mut self, what: &str, difference: f64, limits: Limits) {
        self.gradients = self.gradients.max(difference);
        self.check(what, difference, limits.gradients);
    }

    fn check(&mut self, what: &str, difference: f64, limit: f64) {
        // NaN is a problem too.
        if difference.is_nan() || difference > limit {
            self.problems.push(format!("{what}: {difference:.1e} is above {limit:.0e}"));
        }
    }

    /// Says how far all was, and fails if anything was too far.
    fn finish(self, name: &str, limits: Limits) {
        let Self { problems, outputs, gradients } = self;
        println!("{name} in {:?}: outputs {outputs:.1e}, gradients {gradients:.1e}", limits.compute);
        assert!(problems.is_empty(), "{name} in {:?}:\n{}", limits.compute, problems.join("\n"));
    }
}

/// In F32 the largest difference of an element, relative to the largest element. In BF16 the length of the difference,
/// relative to that of the gradient: where a rounding changes the side of a ReLU or the winner of a pool, single elements
/// are others altogether.
fn gradient_difference(found: &Tensor, expected: &Tensor, limits: Limits) -> f64 {
    if limits.compute == Compute::Full {
        return relative_difference(found, expected);
    }
    let (found, expected) = (values(found), values(expected));
    let length =
        |numbers: &mut dyn Iterator<Item = f64>| numbers.map(|number| number * number).sum::<f64>().sqrt();
    length(&mut found.iter().zip(&expected).map(|(a, b)| a - b)) / length(&mut expected.iter().copied())
}

/// Outputs, loss and gradients in `mode`, whose values are stored under `prefix`.
fn compare(name: &str, limits: Limits, mode: Mode, prefix: &str, norms: &str) {
    let (model, reference) = moved(name, limits.compute);
    let labels = labels(&reference["labels"]);
    let mut report = Report::default();
    let output = model.forward(&reference["x"], &mut Tape::off(), mode).unwrap();
    let stored = |key: &str| reference.get(&format!("{prefix}.{key}"));
    for (what, found) in [("logits", output.logits), ("pre_logits", output.features)] {
        assert_eq!(found.dtype(), DType::F32);
        if let Some(expected) = stored(what) {
            report.output(what, relative_difference(&found, expected), limits);
        }
    }
    let (loss, dx, gradients) = loss_and_gradients(&model, &reference["x"], &labels, mode);
    let expected = values(&reference[&format!("{prefix}.loss.f64")])[0];
    report.output("loss", (loss - expected).abs() / expected, limits);
    assert_eq!(dx.dtype(), DType::F32);
    let difference = gradient_difference(&dx, stored("grad_x").unwrap(), limits);
    report.gradient("input gradient", difference, limits);
    let mut compared = 0;
    for (key, expected) in &reference {
        let Some(parameter) = key.strip_prefix(&format!("{prefix}.grad.")) else { continue };
        let found = gradients.get(model.parameters().id(parameter).unwrap()).unwrap();
        assert_eq!(found.dtype(), DType::F32);
        report.gradient(parameter, gradient_difference(found, expected, limits), limits);
        compared += 1;
    }
    assert!(compared >= 15, "{name}: only {compared} parameter gradients are stored");
    let norms = &json(&format!("{name}/norms.json"))[norms];
    for (id, parameter, _) in model.parameters().trainable() {
        let expected = norms[parameter].as_f64().unwrap();
        let found = norm(&values(gradients.get(id).unwrap()));
        report.gradient(&format!("norm of {parameter}"), (found - expected).abs() / expected, limits);
    }
    report.finish(name, limits);
}

#[test]
fn outputs_and_gradients_in_f32() {
    for fixture in fixtures() {
        compare(fixture.name, FULL, Mode::Evaluation, "eval", "grad_norms");
    }
}

#[test]
fn outputs_and_gradients_in_bf16() {
    for fixture in fixtures() {
        compare(fixture.name, fixture.bf16, Mode::Evaluation, "eval", "grad_norms");
    }
}

#[test]
fn batch_statistics_in_training_mode() {
    let train = Mode::Train(Noise::new(0, 0));
    compare("resnet50", FULL, train, "train", "train_grad_norms");
    let (mut model, reference) = moved("resnet50", Compute::Full);
    for pass in ["1", "2"] {
        let mut tape = Tape::off();
        model.forward(&reference["x"], &mut tape, train).unwrap();
        model.update_statistics(&tape.take_statistics()).unwrap();
        let prefix = format!("train.buffers_after{pass}.");
        for (key, expected) in &reference {
            let Some(name) = key.strip_prefix(&prefix) else { continue };
            let found = model.parameters().get(model.parameters().id(name).unwrap());
            // The counters are stored as lists of one.
            let difference = relative_difference(found, &expected.reshape(found.dims()).unwrap());
            assert!(difference < FULL.outputs, "{key}: {difference:e}");
        }
    }
}

#[test]
fn frozen_weights_leave_the_input_gradient_unchanged_to_the_bit() {
    for fixture in fixtures() {
        for compute in [Compute::Full, Compute::Bf16] {
            let (model, reference) = moved(fixture.name, compute);
            let labels = labels(&reference["labels"]);
            let (_, trained, _) = loss_and_gradients(&model, &reference["x"], &labels, Mode::Evaluation);
            let (logits, tape) = model.record(&reference["x"]).unwrap();
            let (_, dlogits) = mean_cross_entropy(&logits, &labels).unwrap();
            let frozen = model.input_gradient(tape, dlogits).unwrap();
            assert_eq!(values(&trained), values(&frozen), "{} in {compute:?}", fixture.name);
        }
    }
}

fn group(model: &Model, learning_rate: f64, weight_decay: f64) -> Vec<ParameterGroup> {
    let parameters = model.parameters().trainable().map(|(id, ..)| id).collect();
    vec![ParameterGroup { parameters, learning_rate, weight_decay }]
}

fn adamw(model: &Model) -> Box<dyn Optimizer> {
    let settings = AdamWSettings { betas: [0.9, 0.95], stability: 1e-8 };
    Box::new(AdamW::new(settings, group(model, 5e-4, 0.05)).unwrap())
}

fn sgd(model: &Model) -> Box<dyn Optimizer> {
    let settings = SgdSettings { momentum: 0.9, ..SgdSettings::default() };
    Box::new(Sgd::new(settings, group(model, 2e-5, 1e-4)).unwrap())
}

/// The loss of one step on a batch, after which parameters and running statistics have changed.
fn step(model: &mut Model, optimizer: &mut dyn Optimizer, images: &Tensor, labels: &[u32]) -> f64 {
    let mut tape = Tape::recording();
    let output = model.forward(images, &mut tape, Mode::Train(Noise::new(0, 0))).unwrap();
    let statistics = tape.take_statistics();
    let (loss, dlogits) = mean_cross_entropy(&output.logits, labels).unwrap();
    let mut gradients = Gradients::wanted(model.parameters());
    model.backward(dlogits, tape, &mut gradients).unwrap();
    optimizer.step(model.parameters_mut(), &gradients, 1.0).unwrap();
    model.update_statistics(&statistics).unwrap();
    loss
}

/// The first steps of the stored runs; `limit` is the largest relative difference of a loss.
fn steps(name: &str, compute: Compute, limit: f64, optimizer: fn(&Model) -> Box<dyn Optimizer>) {
    /// Of the ten that are stored: enough for moments and copies in BF16 to matter.
    const STEPS: usize = 4;
    let reference = tensors(&format!("train10/{name}.safetensors"));
    let (mut model, _) = moved(name, compute);
    let mut optimizer = optimizer(&model);
    let images = (reference[&format!("{name}.x_u8")].to_dtype(DType::F32).unwrap() / 255.0).unwrap();
    let expected = values(&reference[&format!("{name}.clean.losses")]);
    let mut largest = 0.0_f64;
    for (index, expected) in expected.iter().enumerate().take(STEPS) {
        let batch = images.get(index).unwrap().to_device(&gpu()).unwrap();
        let labels = labels(&reference[&format!("{name}.labels")].get(index).unwrap());
        let loss = step(&mut model, optimizer.as_mut(), &batch, &labels);
        let difference = (loss - expected).abs() / expected;
        largest = largest.max(difference);
        assert!(difference < limit, "{name} in {compute:?}, step {index}: {loss} is not {expected}");
    }
    println!("{name} in {compute:?}: losses of {STEPS} steps within {largest:.1e}");
}

#[test]
fn training_steps_in_f32() {
    steps("vit", Compute::Full, 1e-4, adamw);
    steps("convnext", Compute::Full, 1e-4, adamw);
    steps("resnet50", Compute::Full, 1e-4, sgd);
}

#[test]
fn training_steps_in_bf16() {
    steps("vit", Compute::Bf16, 5e-2, adamw);
    steps("convnext", Compute::Bf16, 5e-2, adamw);
    steps("resnet50", Compute::Bf16, 5e-2, sgd);
}

/// A network that moved to the CPU is the one that is there, and refuses what only GPUs compute in.
#[test]
fn there_and_back() {
    let model = Model::load_folder(&data("vit"), DType::F32).unwrap();
    let back =
        model.to_device(&gpu(), Compute::Bf16).unwrap().to_device(&Device::Cpu, Compute::Full).unwrap();
    let images = &tensors("vit/reference.safetensors")["x"];
    assert_eq!(values(&back.logits(images).unwrap()), values(&model.logits(images).unwrap()));
    assert!(model.to_device(&Device::Cpu, Compute::Bf16).is_err());
}
