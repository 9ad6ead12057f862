//! Values and gradients against those of timm and PyTorch, stored with the weights they belong to.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;

use std::collections::HashMap;

use candle_core::{DType, Tensor};
use common::{
    architecture, data, json, labels, largest_difference, loss_and_gradients, norm, relative_difference,
    tensors, values,
};
use sweep_kernels::{Classifier, Gradients, Mode, Noise, Tape, cross_entropy, mean_cross_entropy};
use sweep_models::{Architecture, Head, Model};

/// In f64 nothing but the order of summation is left; the stored values are f64 too.
const DOUBLE: f64 = 1e-10;
/// PyTorch keeps running statistics in f32; the order of summation moves a variance by about 1e-6 of its value.
const STATISTICS: f64 = 1e-5;

/// A network of the reference set and how far it may lie from it: about ten times the distance between float32 and
/// float64 that the references name for themselves.
struct Fixture {
    name: &'static str,
    /// Largest difference of a logit, a feature, or the loss of an image.
    logits: f64,
    /// Relative difference of losses and gradients.
    relative: f64,
}

const FIXTURES: [Fixture; 8] = [
    Fixture { name: "vit", logits: 2e-5, relative: 1e-5 },
    Fixture { name: "clip_vit", logits: 2e-5, relative: 1e-5 },
    Fixture { name: "clip_vit_quickgelu", logits: 2e-5, relative: 1e-5 },
    Fixture { name: "swin", logits: 2e-5, relative: 1e-5 },
    // Maps of 11 and 6 patches a side, which windows of 4 do not divide.
    Fixture { name: "swin_padded", logits: 2e-5, relative: 1e-5 },
    Fixture { name: "convnext", logits: 2e-5, relative: 1e-5 },
    Fixture { name: "clip_convnext", logits: 2e-5, relative: 1e-5 },
    // Its logits reach 17, and lie within 2e-5 of float64 themselves.
    Fixture { name: "resnet50", logits: 1e-4, relative: 5e-5 },
];

impl Fixture {
    fn model(&self) -> Model {
        Model::load_folder(&data(self.name), DType::F32).unwrap()
    }

    fn reference(&self) -> HashMap<String, Tensor> {
        tensors(&format!("{}/reference.safetensors", self.name))
    }

    fn check(&self, what: &str, difference: f64, limit: f64) {
        assert!(difference < limit, "{} {what}: {difference:e}", self.name);
    }

    /// Compares the stored parameter gradients of `mode` (`eval` or `train`) and tells how many there are.
    fn check_gradients(&self, mode: &str, model: &Model, gradients: &Gradients) -> usize {
        let mut compared = 0;
        for (name, expected) in self.reference() {
            let Some(parameter) = name.strip_prefix(&format!("{mode}.grad.")) else { continue };
            let id = model.parameters().id(parameter).unwrap();
            let difference = relative_difference(gradients.get(id).unwrap(), &expected);
            self.check(&name, difference, self.relative);
            compared += 1;
        }
        compared
    }

    /// Compares the norm of the gradient of every parameter with a table.
    fn check_norms(&self, norms: &serde_json::Value, model: &Model, gradients: &Gradients) {
        assert_eq!(norms.as_object().unwrap().len(), model.parameters().trainable().count());
        for (id, name, _) in model.parameters().trainable() {
            let expected = norms[name].as_f64().unwrap();
            let gradient =
                gradients.get(id).unwrap_or_else(|| panic!("{}: {name} has no gradient", self.name));
            let difference = (norm(&values(gradient)) - expected).abs() / expected;
            self.check(name, difference, self.relative);
        }
    }
}

#[test]
fn logits_features_and_losses() {
    for fixture in FIXTURES {
        let reference = fixture.reference();
        let output = fixture.model().forward(&reference["x"], &mut Tape::off(), Mode::Evaluation).unwrap();
        let losses = cross_entropy(&output.logits, &labels(&reference["labels"])).unwrap().losses;
        for (got, name) in
            [(output.logits, "logits"), (output.features, "pre_logits"), (losses, "loss_indiv")]
        {
            let difference = largest_difference(&got, &reference[&format!("eval.{name}")]);
            fixture.check(name, difference, fixture.logits);
        }
    }
}

#[test]
fn loss_input_gradient_and_parameter_gradients() {
    for fixture in FIXTURES {
        let (model, reference) = (fixture.model(), fixture.reference());
        let labels = labels(&reference["labels"]);
        let (loss, dx, gradients) = loss_and_gradients(&model, &reference["x"], &labels, Mode::Evaluation);
        let expected = values(&reference["eval.loss.f64"])[0];
        fixture.check("loss", (loss - expected).abs() / expected, fixture.relative);
        let difference = relative_difference(&dx, &reference["eval.grad_x"]);
        fixture.check("input gradient", difference, fixture.relative);
        let compared = fixture.check_gradients("eval", &model, &gradients);
        assert!(compared >= 15, "{}: only {compared} parameter gradients are stored", fixture.name);
        let stored = json(&format!("{}/norms.json", fixture.name));
        assert_eq!(stored["params"].as_u64().unwrap(), model.parameters().element_count() as u64);
        fixture.check_norms(&stored["grad_norms"], &model, &gradients);
    }
}

/// Without batch norm and stochastic depth, training mode computes what evaluation mode does.
#[test]
fn training_mode_changes_nothing_without_stochastic_depth() {
    for fixture in FIXTURES.into_iter().filter(|fixture| fixture.name != "resnet50") {
        let mut architecture = architecture(fixture.name);
        if let Architecture::Swin(config) = &mut architecture {
            config.drop_path = 0.0;
        }
        let weights = data(fixture.name).join("model.safetensors");
        let model = Model::load(architecture, DType::F32, &weights, Head::Stored).unwrap();
        let images = &fixture.reference()["x"];
        let mut tape = Tape::off();
        let trained = model.forward(images, &mut tape, Mode::Train(Noise::new(0, 0))).unwrap();
        assert!(tape.take_statistics().is_empty());
        assert_eq!(values(&trained.logits), values(&model.logits(images).unwrap()), "{}", fixture.name);
    }
}

#[test]
fn stochastic_depth_acts_in_training_mode_only() {
    let model = Model::load_folder(&data("swin"), DType::F32).unwrap();
    let images = &tensors("swin/reference.safetensors")["x"];
    let logits = |mode| values(&model.forward(images, &mut Tape::off(), mode).unwrap().logits);
    let trained = logits(Mode::Train(Noise::new(1, 0)));
    assert_ne!(trained, logits(Mode::Evaluation));
    assert_eq!(trained, logits(Mode::Train(Noise::new(1, 0))));
    assert_ne!(trained, logits(Mode::Train(Noise::new(2, 0))));
}

#[test]
fn batch_statistics_in_training_mode() {
    let fixture = Fixture { name: "resnet50", logits: 2e-4, relative: 1e-4 };
    let (mut model, reference) = (fixture.model(), fixture.reference());
    let labels = labels(&reference["labels"]);
    let train = Mode::Train(Noise::new(0, 0));
    let (loss, dx, gradients) = loss_and_gradients(&model, &reference["x"], &labels, train);
    let expected = values(&reference["train.loss.f64"])[0];
    fixture.check("loss", (loss - expected).abs() / expected, fixture.relative);
    fixture.check("input gradient", relative_difference(&dx, &reference["train.grad_x"]), fixture.relative);
    assert!(fixture.check_gradients("train", &model, &gradients) >= 15);
    fixture.check_norms(&json("resnet50/norms.json")["train_grad_norms"], &model, &gradients);

    for passes in ["1", "2"] {
        let mut tape = Tape::off();
        let output = model.forward(&reference["x"], &mut tape, train).unwrap();
        // Running statistics do not enter in training mode: the second pass gives the same.
        let difference = largest_difference(&output.logits, &reference["train.logits"]);
        fixture.check("logits", difference, fixture.logits);
        model.update_statistics(&tape.take_statistics()).unwrap();
        let prefix = format!("train.buffers_after{passes}.");
        let stored: Vec<_> = reference
            .iter()
            .filter_map(|(name, tensor)| Some((name.strip_prefix(&prefix)?, tensor)))
            .collect();
        assert_eq!(stored.len(), 15);
        for (name, expected) in stored {
            let got = model.parameters().get(model.parameters().id(name).unwrap());
            // The counters are stored as lists of one.
            let difference = largest_difference(got, &expected.reshape(got.dims()).unwrap());
            fixture.check(&format!("{name} after {passes}"), difference, STATISTICS);
        }
    }
}

#[test]
fn double_precision_agrees_with_double_precision() {
    for fixture in FIXTURES {
        // timm keeps mean and standard deviation in float32, and converts those to float64.
        let single = |constants: [f64; 3]| constants.map(|value| f64::from(value as f32));
        let architecture = architecture(fixture.name);
        let (mean, std) = architecture.normalization();
        let architecture = architecture.with_normalization(single(mean), single(std));
        let weights = data(fixture.name).join("model.safetensors");
        let model = Model::load(architecture, DType::F64, &weights, Head::Stored).unwrap();
        let reference = fixture.reference();
        let logits = model.logits(&reference["x"].to_dtype(DType::F64).unwrap()).unwrap();
        let difference = largest_difference(&logits, &reference["eval.logits.f64"]);
        fixture.check("logits in f64", difference, DOUBLE);
    }
}

#[test]
fn frozen_weights_leave_the_input_gradient_unchanged_to_the_bit() {
    for fixture in FIXTURES {
        let (model, reference) = (fixture.model(), fixture.reference());
        let labels = labels(&reference["labels"]);
        let (_, trained, _) = loss_and_gradients(&model, &reference["x"], &labels, Mode::Evaluation);
        let (logits, tape) = model.record(&reference["x"]).unwrap();
        let (_, dlogits) = mean_cross_entropy(&logits, &labels).unwrap();
        let frozen = model.input_gradient(tape, dlogits).unwrap();
        assert_eq!(values(&trained), values(&frozen), "{}", fixture.name);
        assert!(norm(&values(&frozen)) > 0.0);
    }
}
