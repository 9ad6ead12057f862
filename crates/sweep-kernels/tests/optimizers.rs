//! Optimizer steps against PyTorch's, and the way of their state through named tensors.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

#[expect(dead_code, reason = "optimizers need no finite differences")]
mod common;

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use common::values;
use sweep_kernels::{
    AdamW, AdamWSettings, Error, Gradients, Optimizer, ParameterGroup, Parameters, Sgd, SgdSettings,
};

/// Ours follow PyTorch's to this; its own float32 results lie within 8e-7 of its float64 ones after ten steps.
const SINGLE: f64 = 1e-6;
/// In f64 only the order of operations differs.
const DOUBLE: f64 = 1e-12;

const NAMES: [&str; 3] = ["w", "b", "gamma"];

/// A setting of the reference: learning rate and weight decay of each of [`NAMES`], and how they develop.
struct Setting {
    name: &'static str,
    rules: Rules,
    rates: [f64; 3],
    decays: [f64; 3],
    cosine: bool,
    clip: Option<f64>,
}

#[derive(Clone, Copy)]
enum Rules {
    AdamW([f64; 2]),
    Sgd(SgdSettings),
}

impl Setting {
    fn adamw(name: &'static str, beta2: f64, rate: f64, decay: f64) -> Self {
        let rules = Rules::AdamW([0.9, beta2]);
        Self { name, rules, rates: [rate; 3], decays: [decay; 3], cosine: false, clip: None }
    }

    fn sgd(name: &'static str, momentum: f64, dampening: f64, nesterov: bool, decay: f64) -> Self {
        let rules = Rules::Sgd(SgdSettings { momentum, dampening, nesterov });
        Self { name, rules, rates: [0.05; 3], decays: [decay; 3], cosine: false, clip: None }
    }

    fn optimizer(&self, parameters: &Parameters) -> Box<dyn Optimizer> {
        let group = |(index, name): (usize, &&str)| ParameterGroup {
            parameters: vec![parameters.id(name).unwrap()],
            learning_rate: self.rates[index],
            weight_decay: self.decays[index],
        };
        let groups = NAMES.iter().enumerate().map(group).collect();
        match self.rules {
            Rules::AdamW(betas) => {
                Box::new(AdamW::new(AdamWSettings { betas, stability: 1e-8 }, groups).unwrap())
            }
            Rules::Sgd(settings) => Box::new(Sgd::new(settings, groups).unwrap()),
        }
    }

    /// The multiplier of step `step` (PyTorch's cosine over ten steps to 0, or 1).
    fn multiplier(&self, step: usize) -> f64 {
        if self.cosine { 0.5 * (1.0 + (std::f64::consts::PI * step as f64 / 10.0).cos()) } else { 1.0 }
    }
}

fn settings() -> Vec<Setting> {
    vec![
        Setting::adamw("adamw_default", 0.999, 1e-3, 0.01),
        Setting::adamw("adamw_095", 0.95, 0.03, 0.1),
        Setting {
            rates: [0.01, 0.01, 0.05],
            decays: [0.05, 0.0, 0.2],
            cosine: true,
            ..Setting::adamw("adamw_groups_cosine", 0.95, 0.0, 0.0)
        },
        Setting { clip: Some(1.0), ..Setting::adamw("adamw_clip1", 0.999, 0.01, 0.0) },
        Setting::sgd("sgd", 0.0, 0.0, false, 0.0),
        Setting::sgd("sgd_momentum", 0.9, 0.0, false, 0.0),
        Setting::sgd("sgd_momentum_wd", 0.9, 0.0, false, 0.01),
        Setting::sgd("sgd_nesterov_wd", 0.9, 0.0, true, 0.01),
        Setting::sgd("sgd_momentum_damp", 0.9, 0.1, false, 0.0),
    ]
}

fn reference() -> HashMap<String, Tensor> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/optimizers.safetensors");
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

fn initial(reference: &HashMap<String, Tensor>, dtype: DType) -> Parameters {
    let mut parameters = Parameters::new();
    for name in NAMES {
        parameters.add(name, reference[&format!("init.{name}")].to_dtype(dtype).unwrap()).unwrap();
    }
    parameters
}

/// The stored gradients of one step, clipped as the setting asks (PyTorch adds 1e-6 to the norm).
fn gradients(
    reference: &HashMap<String, Tensor>,
    parameters: &Parameters,
    step: usize,
    clip: Option<f64>,
) -> Gradients {
    let mut gradients = Gradients::wanted(parameters);
    for (id, name, parameter) in parameters.iter() {
        let stored = reference[&format!("grad.{name}")].get(step).unwrap();
        gradients.add(id, stored.to_dtype(parameter.dtype()).unwrap()).unwrap();
    }
    if let Some(limit) = clip {
        let factor = limit / (gradients.norm().unwrap() + 1e-6);
        gradients.scale(factor.min(1.0)).unwrap();
    }
    gradients
}

fn largest_difference(a: &Tensor, b: &Tensor) -> f64 {
    values(a).iter().zip(values(b)).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

#[test]
fn ten_steps_follow_pytorch() {
    let reference = reference();
    for (dtype, suffix, limit) in [(DType::F32, "", SINGLE), (DType::F64, ".f64", DOUBLE)] {
        for setting in settings() {
            let mut parameters = initial(&reference, dtype);
            let mut optimizer = setting.optimizer(&parameters);
            for step in 0..10 {
                let gradients = gradients(&reference, &parameters, step, setting.clip);
                optimizer.step(&mut parameters, &gradients, setting.multiplier(step)).unwrap();
                for (_, name, got) in parameters.iter() {
                    let expected =
                        reference[&format!("{}.{name}{suffix}", setting.name)].get(step + 1).unwrap();
                    let difference = largest_difference(got, &expected);
                    assert!(
                        difference < limit,
                        "{}.{name}{suffix} step {step}: {difference:e}",
                        setting.name
                    );
                }
            }
        }
    }
}

#[test]
fn exported_state_is_that_of_pytorch() {
    let reference = reference();
    for setting in settings() {
        let mut parameters = initial(&reference, DType::F32);
        let mut optimizer = setting.optimizer(&parameters);
        for step in 0..10 {
            let gradients = gradients(&reference, &parameters, step, setting.clip);
            optimizer.step(&mut parameters, &gradients, setting.multiplier(step)).unwrap();
        }
        for (key, tensor) in optimizer.state(&parameters).unwrap() {
            let (moment, name) = key.split_once('.').unwrap();
            let Some(expected) = reference.get(&format!("{}.state.{name}.{moment}", setting.name)) else {
                continue;
            };
            let difference = largest_difference(&tensor, expected);
            assert!(difference < 10.0 * SINGLE, "{} {key}: {difference:e}", setting.name);
        }
    }
}

#[test]
fn restored_state_continues_to_the_same_bits() {
    let reference = reference();
    for setting in settings() {
        let mut parameters = initial(&reference, DType::F32);
        let mut optimizer = setting.optimizer(&parameters);
        for step in 0..5 {
            let gradients = gradients(&reference, &parameters, step, None);
            optimizer.step(&mut parameters, &gradients, 1.0).unwrap();
        }
        let mut copy = Parameters::new();
        for (name, tensor) in parameters.snapshot().unwrap() {
            copy.add(name, tensor).unwrap();
        }
        let mut restored = setting.optimizer(&copy);
        restored.restore(&copy, &optimizer.state(&parameters).unwrap().into_iter().collect()).unwrap();
        for step in 5..10 {
            let gradients = gradients(&reference, &parameters, step, None);
            optimizer.step(&mut parameters, &gradients, 1.0).unwrap();
            restored.step(&mut copy, &gradients, 1.0).unwrap();
        }
        for ((_, name, a), (_, _, b)) in parameters.iter().zip(copy.iter()) {
            assert_eq!(values(a), values(b), "{} {name}", setting.name);
        }
    }
}

#[test]
fn foreign_state_and_impossible_settings_are_refused() {
    let reference = reference();
    let mut parameters = initial(&reference, DType::F32);
    let adamw = &settings()[0];
    let mut optimizer = adamw.optimizer(&parameters);
    let first = gradients(&reference, &parameters, 0, None);
    optimizer.step(&mut parameters, &first, 1.0).unwrap();
    let state: HashMap<String, Tensor> = optimizer.state(&parameters).unwrap().into_iter().collect();
    let mut unknown = state.clone();
    unknown.insert("exp_avg.other".to_owned(), state["exp_avg.w"].clone());
    let mut incomplete = state.clone();
    incomplete.remove("exp_avg.w");
    let mut misshaped = state.clone();
    misshaped.insert("exp_avg.w".to_owned(), state["exp_avg.b"].clone());
    for bad in [unknown, incomplete, misshaped] {
        assert!(matches!(optimizer.restore(&parameters, &bad), Err(Error::OptimizerState { .. })));
    }
    optimizer.restore(&parameters, &state).unwrap();
    let group = |learning_rate: f64| ParameterGroup {
        parameters: vec![parameters.id("w").unwrap()],
        learning_rate,
        weight_decay: 0.0,
    };
    assert!(AdamW::new(AdamWSettings::default(), vec![group(-1.0)]).is_err());
    assert!(AdamW::new(AdamWSettings::default(), vec![group(f64::NAN)]).is_err());
    assert!(AdamW::new(AdamWSettings { betas: [0.9, 1.0], stability: 1e-8 }, vec![group(1.0)]).is_err());
    assert!(AdamW::new(AdamWSettings::default(), vec![group(1.0), group(1.0)]).is_err());
    assert!(Sgd::new(SgdSettings { momentum: 2.0, ..SgdSettings::default() }, vec![group(1.0)]).is_err());
}

#[test]
fn parameters_without_gradient_or_group_stay() {
    let reference = reference();
    let mut parameters = initial(&reference, DType::F32);
    let before = parameters.snapshot().unwrap();
    let group = ParameterGroup {
        parameters: vec![parameters.id("w").unwrap(), parameters.id("b").unwrap()],
        learning_rate: 0.1,
        weight_decay: 0.1,
    };
    let mut optimizer = AdamW::new(AdamWSettings::default(), vec![group]).unwrap();
    let mut only_w_and_gamma = Gradients::wanted_where(&parameters, |name| name != "b");
    for (id, _, parameter) in parameters.iter() {
        only_w_and_gamma.add(id, parameter.ones_like().unwrap()).unwrap();
    }
    optimizer.step(&mut parameters, &only_w_and_gamma, 1.0).unwrap();
    let changed: Vec<&str> = parameters
        .iter()
        .zip(&before)
        .filter(|((_, _, now), (_, then))| values(now) != values(then))
        .map(|((_, name, _), _)| name)
        .collect();
    assert_eq!(changed, ["w"]);
    assert_eq!(optimizer.state(&parameters).unwrap().len(), 3);
}
