//! What the integration tests share: fixtures, comparisons, a deterministic source of uniforms.
#![expect(dead_code, reason = "each test binary uses its own part")]

use std::collections::HashMap;
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use sweep_kernels::{Gradients, Mode, Tape, mean_cross_entropy};
use sweep_models::{Architecture, HubConfig, Model};

/// A path below `tests/data`.
pub(crate) fn data(path: &str) -> PathBuf {
    // Where the tests run, which may be another machine than where they were built.
    let folder = std::env::var_os("CARGO_MANIFEST_DIR");
    folder.map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from).join("tests/data").join(path)
}

/// The tensors of a safetensors fixture.
pub(crate) fn tensors(path: &str) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(data(path), &Device::Cpu).unwrap()
}

/// A JSON fixture.
pub(crate) fn json(path: &str) -> serde_json::Value {
    serde_json::from_str(&std::fs::read_to_string(data(path)).unwrap()).unwrap()
}

/// The architecture in a fixture's `config.json`.
pub(crate) fn architecture(fixture: &str) -> Architecture {
    let config = std::fs::read_to_string(data(fixture).join("config.json")).unwrap();
    HubConfig::parse(&config).unwrap().architecture().unwrap()
}

/// Names and shapes of timm's state dictionary.
pub(crate) fn listed(architecture: &str) -> Vec<(String, Vec<usize>)> {
    let table = std::fs::read_to_string(data(&format!("keys/{architecture}.tsv"))).unwrap();
    let shape = |text: &str| match text {
        "scalar" => Vec::new(),
        text => text.split('x').map(|size| size.parse().unwrap()).collect(),
    };
    let entry = |line: &str| {
        let mut fields = line.split('\t');
        (fields.next().unwrap().to_owned(), shape(fields.next().unwrap()))
    };
    table.lines().skip(1).map(entry).collect()
}

/// Images of uniform noise.
pub(crate) fn noise(count: usize, size: usize) -> Tensor {
    let mut next = uniforms(2);
    let pixels: Vec<f32> = (0..count * 3 * size * size).map(|_| next() as f32).collect();
    Tensor::from_vec(pixels, (count, 3, size, size), &Device::Cpu).unwrap()
}

/// Loss, gradient of the mean loss with respect to the images, and parameter gradients.
pub(crate) fn loss_and_gradients(
    model: &Model,
    images: &Tensor,
    labels: &[u32],
    mode: Mode,
) -> (f64, Tensor, Gradients) {
    let mut tape = Tape::recording();
    let output = model.forward(images, &mut tape, mode).unwrap();
    let (loss, dlogits) = mean_cross_entropy(&output.logits, labels).unwrap();
    let mut gradients = Gradients::wanted(model.parameters());
    let dx = model.backward(dlogits, tape, &mut gradients).unwrap();
    (loss, dx, gradients)
}

/// All elements as f64, in order, wherever they are.
pub(crate) fn values(tensor: &Tensor) -> Vec<f64> {
    let tensor = tensor.to_device(&Device::Cpu).unwrap().to_dtype(DType::F64).unwrap();
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Labels as the losses take them.
pub(crate) fn labels(tensor: &Tensor) -> Vec<u32> {
    tensor.to_dtype(DType::U32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// The Euclidean norm.
pub(crate) fn norm(values: &[f64]) -> f64 {
    values.iter().map(|value| value * value).sum::<f64>().sqrt()
}

/// The largest absolute difference.
pub(crate) fn largest_difference(got: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(got.dims(), expected.dims());
    values(got).iter().zip(values(expected)).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// The norm of the difference relative to the norm of `expected`.
pub(crate) fn relative_difference(got: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(got.dims(), expected.dims());
    let expected = values(expected);
    let difference: Vec<f64> = values(got).iter().zip(&expected).map(|(a, b)| a - b).collect();
    norm(&difference) / norm(&expected)
}

/// Uniform numbers in [0, 1) from a small generator (SplitMix64), enough for test networks.
pub(crate) fn uniforms(seed: u64) -> impl FnMut() -> f64 {
    let mut state = seed;
    move || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}
