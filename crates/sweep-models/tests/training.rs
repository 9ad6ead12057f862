//! Ten training steps against those of timm and PyTorch, from the stored weights on stored batches.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;

use candle_core::DType;
use common::{data, labels, largest_difference, tensors, values};
use sweep_kernels::{
    AdamW, AdamWSettings, Classifier, Gradients, Mode, Noise, Optimizer, ParameterGroup, Sgd, SgdSettings,
    Tape, mean_cross_entropy,
};
use sweep_models::Model;

/// The limit that the stored runs name for themselves (loss of each of ten steps, final weights of the head).
const TRAINING: f64 = 1e-5;
/// Final logits move further: those of the residual network lie 4e-5 from float64 themselves.
const LOGITS: f64 = 1e-4;

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
fn step(
    model: &mut Model,
    optimizer: &mut dyn Optimizer,
    images: &candle_core::Tensor,
    labels: &[u32],
) -> f64 {
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

fn ten_steps(name: &str, head: &str, optimizer: fn(&Model) -> Box<dyn Optimizer>) {
    let reference = tensors(&format!("train10/{name}.safetensors"));
    let mut model = Model::load_folder(&data(name), DType::F32).unwrap();
    let mut optimizer = optimizer(&model);
    let images = (reference[&format!("{name}.x_u8")].to_dtype(DType::F32).unwrap() / 255.0).unwrap();
    let expected = values(&reference[&format!("{name}.clean.losses")]);
    for (index, expected) in expected.iter().enumerate() {
        let batch = images.get(index).unwrap();
        let labels = labels(&reference[&format!("{name}.labels")].get(index).unwrap());
        let loss = step(&mut model, optimizer.as_mut(), &batch, &labels);
        assert!((loss - expected).abs() < TRAINING, "{name}, step {index}: {loss} is not {expected}");
    }
    let weight = model.parameters().get(model.parameters().id(head).unwrap());
    let difference = largest_difference(weight, &reference[&format!("{name}.clean.final.{head}")]);
    assert!(difference < TRAINING, "{name}, head: {difference:e}");
    let logits = model.logits(&images.get(0).unwrap()).unwrap();
    let difference =
        largest_difference(&logits, &reference[&format!("{name}.clean.final_eval_logits_batch0")]);
    assert!(difference < LOGITS, "{name}, logits: {difference:e}");
}

#[test]
fn vision_transformer() {
    ten_steps("vit", "head.weight", adamw);
}

#[test]
fn convnext() {
    ten_steps("convnext", "head.fc.weight", adamw);
}

#[test]
fn resnet_with_running_statistics() {
    ten_steps("resnet50", "fc.weight", sgd);
}
