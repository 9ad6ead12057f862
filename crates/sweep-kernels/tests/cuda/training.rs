//! Losses, optimizer steps, moving averages and gradient norms.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use sweep_kernels::{
    AdamW, AdamWSettings, BatchNorm, Compute, Convolution, Error, Gradients, Labels, Layer, Mode, Optimizer,
    ParameterGroup, Parameters, PatchEmbedding, Sgd, SgdSettings, StatisticsIds, Tape, clip_norm,
    cross_entropy, cross_entropy_of, kullback_leibler, mean_cross_entropy, move_average,
};

use crate::support::{F32_TOLERANCE, assert_close, gpu, random, train, values};

/// Losses and gradients are sums of few terms in F32.
const LOSS_TOLERANCE: f64 = 5e-6;
/// Ten optimizer steps in F32 lie this close to the same in F64, in units of the largest parameter (about 1): the tests of
/// the CPU demand the same of it.
const STEPS_TOLERANCE: f64 = 2e-6;

/// `scale` times random logits, exact in `dtype`, on the CPU in F64 and on the GPU in `dtype`.
fn logits(shape: [usize; 2], seed: u64, scale: f64, dtype: DType) -> (Tensor, Tensor) {
    let logits = (random(&shape, seed, DType::F64) * scale).unwrap().to_dtype(dtype).unwrap();
    (logits.to_dtype(DType::F64).unwrap(), logits.to_device(&gpu()).unwrap())
}

/// Rows shorter than a warp, as long as one, longer than a block, and many rows.
const SHAPES: [[usize; 2]; 7] = [[1, 1], [3, 2], [5, 10], [2, 32], [300, 101], [3, 1000], [2, 5001]];

#[test]
fn cross_entropies() {
    for (index, shape) in SHAPES.into_iter().enumerate() {
        for dtype in [DType::F32, DType::BF16] {
            let (on_cpu, on_gpu) = logits(shape, index as u64, 12.0, dtype);
            let labels: Vec<u32> = (0..shape[0]).map(|sample| (sample * 7 % shape[1]) as u32).collect();
            let expected = cross_entropy(&on_cpu, &labels).unwrap();
            let found = cross_entropy(&on_gpu, &labels).unwrap();
            let name = format!("{shape:?} in {dtype:?}");
            assert_eq!((found.losses.dtype(), found.gradient.dtype()), (DType::F32, DType::F32));
            assert_close(&format!("{name}: losses"), &found.losses, &expected.losses, LOSS_TOLERANCE);
            assert_close(&format!("{name}: gradient"), &found.gradient, &expected.gradient, LOSS_TOLERANCE);
            let (mean, gradient) = mean_cross_entropy(&on_gpu, &labels).unwrap();
            let (expected_mean, expected_gradient) = mean_cross_entropy(&on_cpu, &labels).unwrap();
            assert!(
                (mean - expected_mean).abs() <= LOSS_TOLERANCE * expected_mean.max(1.0),
                "{name}: {mean}"
            );
            assert_close(&name, &gradient, &expected_gradient, LOSS_TOLERANCE);
            let kept = Labels::new(&labels, shape[1], on_gpu.device()).unwrap();
            assert_eq!(
                values(kept.tensor()),
                labels.iter().map(|label| f64::from(*label)).collect::<Vec<_>>()
            );
            let again = cross_entropy_of(&on_gpu, &kept).unwrap();
            assert_eq!(values(&again.gradient), values(&found.gradient));
        }
    }
}

#[test]
fn cross_entropy_of_extreme_logits() {
    let rows = |values: &[f32]| {
        Tensor::from_slice(values, (1, values.len()), &Device::Cpu).unwrap().to_device(&gpu()).unwrap()
    };
    let huge = cross_entropy(&rows(&[1e30, -1e30, 0.0]), &[0]).unwrap();
    assert_eq!(values(&huge.losses), [0.0]);
    assert_eq!(values(&huge.gradient), [0.0; 3]);
    let broken = cross_entropy(&rows(&[0.0, f32::NAN, 1.0]), &[0]).unwrap();
    assert!(
        values(&broken.losses)[0].is_nan() && values(&broken.gradient).iter().all(|value| value.is_nan())
    );
    let refused = cross_entropy(&rows(&[0.0; 3]), &[3]);
    assert!(matches!(refused, Err(Error::Label { sample: 0, label: 3, classes: 3 })));
    assert!(matches!(cross_entropy(&rows(&[0.0; 3]), &[0, 1]), Err(Error::Shape { .. })));
    let others = Labels::new(&[1], 2, &gpu()).unwrap();
    assert!(matches!(cross_entropy_of(&rows(&[0.0; 3]), &others), Err(Error::Shape { .. })));
}

#[test]
fn divergences() {
    for (index, shape) in SHAPES.into_iter().enumerate() {
        for dtype in [DType::F32, DType::BF16] {
            let (clean, clean_on_gpu) = logits(shape, index as u64, 8.0, dtype);
            let (perturbed, perturbed_on_gpu) = logits(shape, 50 + index as u64, 8.0, dtype);
            let expected = kullback_leibler(&clean, &perturbed).unwrap();
            let found = kullback_leibler(&clean_on_gpu, &perturbed_on_gpu).unwrap();
            let name = format!("{shape:?} in {dtype:?}");
            assert_close(&format!("{name}: losses"), &found.losses, &expected.losses, 1e-12);
            // Rounded once to F32.
            let pairs = [
                (&found.clean_gradient, &expected.clean_gradient),
                (&found.perturbed_gradient, &expected.perturbed_gradient),
            ];
            for (found, expected) in pairs {
                assert_eq!(found.dtype(), DType::F32);
                assert_close(&format!("{name}: gradient"), found, expected, 1e-7);
            }
            let same = kullback_leibler(&clean_on_gpu, &clean_on_gpu).unwrap();
            for tensor in [same.losses, same.clean_gradient, same.perturbed_gradient] {
                assert!(values(&tensor).iter().all(|value| *value == 0.0), "{name}: equal logits");
            }
        }
    }
    let ((_, single), (_, half)) = (logits([2, 3], 1, 1.0, DType::F32), logits([2, 3], 1, 1.0, DType::BF16));
    assert!(matches!(kullback_leibler(&single, &half), Err(Error::UnsupportedDtype { .. })));
}

/// Shapes of less than a pack, of no whole number of packs, and of several blocks.
const TENSORS: [(&str, &[usize]); 6] =
    [("w", &[130, 127]), ("b", &[130]), ("s", &[1]), ("t", &[3, 1, 3]), ("e", &[8192]), ("u", &[4])];

fn parameters(dtype: DType) -> Parameters {
    let mut parameters = Parameters::new();
    for (index, (name, shape)) in TENSORS.into_iter().enumerate() {
        parameters.add(name, random(shape, index as u64, DType::F32).to_dtype(dtype).unwrap()).unwrap();
    }
    parameters
}

/// Gradients of step `step` for all parameters but those `without`, on the device and in the dtype of the parameters.
fn gradients(parameters: &Parameters, step: u64, without: &str) -> Gradients {
    let mut gradients = Gradients::wanted_where(parameters, |name| name != without);
    for (index, (id, _, parameter)) in parameters.iter().enumerate() {
        let gradient = random(parameter.dims(), 1000 * (step + 1) + index as u64, DType::F32);
        let gradient = gradient.to_dtype(parameter.dtype()).unwrap().to_device(parameter.device()).unwrap();
        gradients.add(id, gradient).unwrap();
    }
    gradients
}

fn groups(parameters: &Parameters) -> Vec<ParameterGroup> {
    let group = |names: &[&str], learning_rate, weight_decay| ParameterGroup {
        parameters: names.iter().map(|name| parameters.id(name).unwrap()).collect(),
        learning_rate,
        weight_decay,
    };
    // `u` is in no group.
    vec![group(&["w", "t", "e"], 0.01, 0.1), group(&["s", "b"], 0.03, 0.0)]
}

fn optimizers(parameters: &Parameters) -> Vec<Box<dyn Optimizer>> {
    let adamw = |beta2| AdamWSettings { betas: [0.9, beta2], stability: 1e-8 };
    let sgd = |momentum, dampening, nesterov| SgdSettings { momentum, dampening, nesterov };
    let groups = || groups(parameters);
    vec![
        Box::new(AdamW::new(adamw(0.999), groups()).unwrap()),
        Box::new(AdamW::new(adamw(0.95), groups()).unwrap()),
        Box::new(Sgd::new(sgd(0.0, 0.0, false), groups()).unwrap()),
        Box::new(Sgd::new(sgd(0.9, 0.0, true), groups()).unwrap()),
        Box::new(Sgd::new(sgd(0.9, 0.1, false), groups()).unwrap()),
    ]
}

fn assert_parameters_close(what: &str, found: &Parameters, expected: &Parameters, tolerance: f64) {
    for ((_, name, found), (.., expected)) in found.iter().zip(expected.iter()) {
        assert_close(&format!("{what}, {name}"), found, expected, tolerance);
    }
}

/// Ten steps, of which one parameter misses the second: its moments then count one step less.
fn walk(optimizer: &mut dyn Optimizer, parameters: &mut Parameters, steps: std::ops::Range<u64>) {
    for step in steps {
        let gradients = gradients(parameters, step, if step == 1 { "t" } else { "" });
        optimizer.step(parameters, &gradients, 1.0 - 0.05 * step as f64).unwrap();
    }
}

#[test]
fn optimizers_follow_the_cpu_and_their_state_goes_both_ways() {
    for index in 0..optimizers(&parameters(DType::F64)).len() {
        let (mut double, mut single) = (parameters(DType::F64), parameters(DType::F32));
        let mut moved = single.to_device(&gpu(), Compute::Full).unwrap();
        let before = values(moved.get(moved.id("u").unwrap()));
        let [mut of_double, mut of_single, mut of_moved, mut restored] =
            [&double, &single, &moved, &moved].map(|parameters| optimizers(parameters).remove(index));
        walk(of_double.as_mut(), &mut double, 0..10);
        walk(of_single.as_mut(), &mut single, 0..5);
        walk(of_moved.as_mut(), &mut moved, 0..5);
        let what = format!("optimizer {index}");
        assert_parameters_close(&what, &moved, &single, STEPS_TOLERANCE);
        let state = of_moved.state(&moved).unwrap();
        let expected = of_single.state(&single).unwrap();
        assert_eq!(state.len(), expected.len());
        for ((key, found), (expected_key, expected)) in state.iter().zip(&expected) {
            assert_eq!(key, expected_key);
            assert!(found.device().is_cpu() && found.dtype() == expected.dtype(), "{key}");
            assert_close(&format!("{what}, {key}"), found, expected, F32_TOLERANCE);
        }

        // What was saved on the GPU continues there to the same bits, and on the CPU to nearly the same numbers.
        let state: HashMap<String, Tensor> = state.into_iter().collect();
        let mut copy = moved.to_device(&gpu(), Compute::Full).unwrap();
        let mut back = moved.to_device(&Device::Cpu, Compute::Full).unwrap();
        restored.restore(&copy, &state).unwrap();
        of_single.restore(&back, &state).unwrap();
        walk(of_moved.as_mut(), &mut moved, 5..10);
        walk(restored.as_mut(), &mut copy, 5..10);
        walk(of_single.as_mut(), &mut back, 5..10);
        for ((_, name, found), (.., expected)) in copy.iter().zip(moved.iter()) {
            assert_eq!(values(found), values(expected), "{what}, {name}: continued from its state");
        }
        assert_parameters_close(&what, &back, &moved, STEPS_TOLERANCE);
        assert_parameters_close(&what, &moved, &double, STEPS_TOLERANCE);
        assert_eq!(values(moved.get(moved.id("u").unwrap())), before, "{what}: in no group");

        let mut misshaped = state.clone();
        let stolen = misshaped
            .keys()
            .find(|key| key.split_once('.').is_some_and(|(kind, name)| kind != "step" && name == "b"))
            .unwrap()
            .clone();
        misshaped.insert(stolen.clone(), state[&stolen.replace(".b", ".w")].clone());
        assert!(matches!(restored.restore(&copy, &misshaped), Err(Error::OptimizerState { .. })));
    }
}

/// The stored ten steps of PyTorch: parameters of both optimizers after each.
#[test]
fn optimizers_follow_pytorch() {
    // Where the tests run, which may be another machine than where they were built.
    let folder = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), std::path::PathBuf::from);
    let path = folder.join("tests/data/optimizers.safetensors");
    let reference: HashMap<String, Tensor> = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    let names = ["w", "b", "gamma"];
    for setting in ["adamw_095", "adamw_clip1", "sgd_nesterov_wd"] {
        let mut parameters = Parameters::new();
        let ids = names.map(|name| parameters.add(name, reference[&format!("init.{name}")].clone()).unwrap());
        let mut parameters = parameters.to_device(&gpu(), Compute::Full).unwrap();
        let group = |learning_rate, weight_decay| {
            vec![ParameterGroup { parameters: ids.to_vec(), learning_rate, weight_decay }]
        };
        let adamw = |beta2, groups| -> Box<dyn Optimizer> {
            Box::new(AdamW::new(AdamWSettings { betas: [0.9, beta2], stability: 1e-8 }, groups).unwrap())
        };
        let mut optimizer = match setting {
            "adamw_095" => adamw(0.95, group(0.03, 0.1)),
            "adamw_clip1" => adamw(0.999, group(0.01, 0.0)),
            _ => {
                let settings = SgdSettings { momentum: 0.9, dampening: 0.0, nesterov: true };
                Box::new(Sgd::new(settings, group(0.05, 0.01)).unwrap())
            }
        };
        for step in 0..10 {
            let mut gradients = Gradients::wanted(&parameters);
            for (id, name) in ids.into_iter().zip(names) {
                let stored = reference[&format!("grad.{name}")].get(step).unwrap();
                gradients.add(id, stored.to_device(&gpu()).unwrap()).unwrap();
            }
            if setting == "adamw_clip1" {
                assert!(clip_norm(&mut gradients, 1.0).unwrap().finish().unwrap().is_finite());
            }
            optimizer.step(&mut parameters, &gradients, 1.0).unwrap();
            for (_, name, found) in parameters.iter() {
                let expected = reference[&format!("{setting}.{name}")].get(step + 1).unwrap();
                assert_close(&format!("{setting}.{name}, step {step}"), found, &expected, STEPS_TOLERANCE);
            }
        }
    }
}

/// Layers see the new weights after a step: the copies in BF16, which the step writes itself, and rearranged ones.
#[test]
fn copies_follow_a_step() {
    for (optimizer, compute) in [("AdamW", Compute::Bf16), ("Sgd", Compute::Bf16), ("Sgd", Compute::Full)] {
        // 11 · 2 · 9 elements: not a whole number of packs.
        let mut parameters = Parameters::new();
        let weights = [("patches", 5), ("filters", 6)].map(|(name, seed)| {
            let weight = random(&[11, 2, 3, 3], seed, DType::F32).to_dtype(DType::F32).unwrap();
            parameters.add(name, weight).unwrap()
        });
        let mut moved = parameters.to_device(&gpu(), compute).unwrap();
        let patches = PatchEmbedding::new(weights[0], None, 3);
        let convolution = Convolution::new(weights[1], None).with_padding(1);
        let group = ParameterGroup { parameters: weights.to_vec(), learning_rate: 0.5, weight_decay: 0.0 };
        let mut optimizer: Box<dyn Optimizer> = match optimizer {
            "AdamW" => Box::new(AdamW::new(AdamWSettings::default(), vec![group]).unwrap()),
            _ => Box::new(Sgd::new(SgdSettings::default(), vec![group]).unwrap()),
        };
        let dtype = compute.activations(DType::F32);
        let x = |shape: &[usize]| random(shape, 9, dtype).to_dtype(dtype).unwrap().to_device(&gpu()).unwrap();
        let (images, map) = (x(&[2, 2, 6, 3]), x(&[2, 6, 3, 2]));
        let outputs = |parameters: &Parameters| {
            let (mut tape, mode) = (Tape::off(), Mode::Evaluation);
            let patches = patches.forward(parameters, images.clone(), &mut tape, mode).unwrap();
            let maps = convolution.forward(parameters, map.clone(), &mut tape, mode).unwrap();
            [values(&patches), values(&maps)]
        };
        let before = outputs(&moved);
        let gradients = gradients(&moved, 0, "");
        optimizer.step(&mut moved, &gradients, 1.0).unwrap();
        let after = outputs(&moved);
        assert!(before[0] != after[0] && before[1] != after[1]);
        assert_eq!(after, outputs(&moved.to_device(&gpu(), compute).unwrap()), "{compute:?}");
        // A weight that is replaced takes its copies with it, and no others.
        for id in weights {
            moved.set(id, parameters.get(id).to_device(&gpu()).unwrap()).unwrap();
        }
        assert_eq!(before, outputs(&moved), "{compute:?}");
    }
}

#[test]
fn norms_and_clipping() {
    let double = parameters(DType::F64);
    let moved = parameters(DType::F32).to_device(&gpu(), Compute::Full).unwrap();
    let mut expected = gradients(&double, 3, "b");
    let mut found = gradients(&moved, 3, "b");
    let norm = expected.norm().unwrap();
    assert!((found.norm().unwrap() / norm - 1.0).abs() < 1e-12, "squares of F32 are exact in F64");
    // Above the norm nothing changes.
    let before: Vec<_> = found.iter().map(|(_, gradient)| values(gradient)).collect();
    assert!((clip_norm(&mut found, 2.0 * norm).unwrap().finish().unwrap() / norm - 1.0).abs() < 1e-12);
    assert_eq!(before, found.iter().map(|(_, gradient)| values(gradient)).collect::<Vec<_>>());
    for gradients in [&mut expected, &mut found] {
        assert!((clip_norm(gradients, 0.5).unwrap().finish().unwrap() / norm - 1.0).abs() < 1e-12);
    }
    for ((_, found), (_, expected)) in found.iter().zip(expected.iter()) {
        assert_close("clipped", found, expected, F32_TOLERANCE);
    }
    let mut none = Gradients::wanted(&moved);
    assert_eq!(none.norm().unwrap(), 0.0);
    none.scale(2.0).unwrap();
    let mut broken = Gradients::wanted(&moved);
    broken.add(moved.id("s").unwrap(), Tensor::new(&[f32::INFINITY], &gpu()).unwrap()).unwrap();
    let kept = moved.id("b").unwrap();
    broken.add(kept, Tensor::new(&[3.0_f32, -4.0], &gpu()).unwrap()).unwrap();
    assert!(clip_norm(&mut broken, 1.0).unwrap().finish().unwrap().is_infinite());
    assert_eq!(values(broken.get(kept).unwrap()), [3.0, -4.0], "what is not finite is left to the caller");
}

#[test]
fn moving_averages() {
    let with_counter = |dtype, count: i64| {
        let mut parameters = parameters(dtype);
        parameters.add_buffer("updates", Tensor::new(count, &Device::Cpu).unwrap()).unwrap();
        parameters
    };
    for decay in [0.0, 0.3, 0.75, 0.999, 1.0] {
        let (mut expected, mut current) = (with_counter(DType::F64, 1), with_counter(DType::F64, 9));
        for (index, (name, shape)) in TENSORS.into_iter().enumerate() {
            let id = current.id(name).unwrap();
            current.set(id, random(shape, 70 + index as u64, DType::F32)).unwrap();
        }
        let single = |from: &Parameters| {
            let mut single = Parameters::new();
            for (_, name, tensor) in from.iter() {
                let dtype = if tensor.dtype().is_float() { DType::F32 } else { tensor.dtype() };
                single.add_buffer(name, tensor.to_dtype(dtype).unwrap()).unwrap();
            }
            single.to_device(&gpu(), Compute::Full).unwrap()
        };
        let (mut found, current_on_gpu) = (single(&expected), single(&current));
        move_average(&mut expected, &current, decay).unwrap();
        move_average(&mut found, &current_on_gpu, decay).unwrap();
        assert_parameters_close(&format!("decay {decay}"), &found, &expected, 2e-7);
        if decay == 0.0 {
            assert_parameters_close("the average becomes current", &found, &current_on_gpu, 0.0);
        }
    }
}

/// Three passes noted at once, as micro batches leave them, two of them of the same batch norms.
#[test]
fn running_statistics() {
    let channels = 37;
    let mut parameters = Parameters::new();
    let mut layers = Vec::new();
    for index in 0..2_u64 {
        let mut add = |name: &str, seed| {
            let tensor = random(&[channels], seed, DType::F32).to_dtype(DType::F32).unwrap();
            parameters.add(format!("{index}.{name}"), tensor).unwrap()
        };
        let (weight, bias) = (add("weight", 1 + index), add("bias", 3 + index));
        let mut add = |name: &str, tensor| parameters.add_buffer(format!("{index}.{name}"), tensor).unwrap();
        let ids = StatisticsIds {
            mean: add("mean", Tensor::zeros(channels, DType::F32, &Device::Cpu).unwrap()),
            variance: add("variance", Tensor::ones(channels, DType::F32, &Device::Cpu).unwrap()),
            updates: add("updates", Tensor::new(0_i64, &Device::Cpu).unwrap()),
        };
        layers.push(BatchNorm::new(weight, bias, ids, 1e-5, 0.1));
    }
    let mut moved = parameters.to_device(&gpu(), Compute::Full).unwrap();
    let run = |parameters: &mut Parameters, device: &Device| {
        let mut statistics = Vec::new();
        for pass in 0..3 {
            let mut tape = Tape::off();
            let x = random(&[4, 5, channels], 20 + pass, DType::F32).to_dtype(DType::F32).unwrap();
            let x = x.to_device(device).unwrap();
            for layer in &layers {
                layer.forward(parameters, x.clone(), &mut tape, train()).unwrap();
            }
            statistics.extend(tape.take_statistics());
        }
        parameters.update_statistics(&statistics).unwrap();
    };
    run(&mut parameters, &Device::Cpu);
    run(&mut moved, &gpu());
    assert_parameters_close("after three passes", &moved, &parameters, F32_TOLERANCE);
    assert_eq!(values(moved.get(moved.id("1.updates").unwrap())), [3.0]);
}

/// A snapshot lives on the CPU and does not follow the parameters.
#[test]
fn snapshots() {
    let mut moved = parameters(DType::F32).to_device(&gpu(), Compute::Full).unwrap();
    let snapshot = moved.snapshot().unwrap();
    let before: Vec<_> = moved.iter().map(|(.., tensor)| values(tensor)).collect();
    let mut optimizer = optimizers(&moved).remove(0);
    walk(optimizer.as_mut(), &mut moved, 0..1);
    for ((name, tensor), before) in snapshot.iter().zip(before) {
        assert!(tensor.device().is_cpu(), "{name}");
        assert_eq!(values(tensor), before, "{name}");
    }
}
