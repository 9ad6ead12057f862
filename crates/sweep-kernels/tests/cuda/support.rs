//! The comparison that all tests of operations share.

use candle_core::{DType, Device, Tensor};
use sweep_kernels::{Compute, Gradients, Layer, Mode, Noise, ParameterId, Parameters, Tape};

/// Largest error in F32, relative to the largest element: sums of a few hundred products.
pub(crate) const F32_TOLERANCE: f64 = 2e-5;
/// The same in BF16, whose numbers have 8 bits: inputs are rounded before both computations, so what is left are the
/// roundings of outputs and intermediate values.
pub(crate) const BF16_TOLERANCE: f64 = 2e-2;

/// The GPU that tests run on: one for each of their threads.
pub(crate) fn gpu() -> Device {
    thread_local! {
        static GPU: Device =
            Device::new_cuda(0).expect("tests with the feature `cuda` need a GPU, or the emulated device");
    }
    GPU.with(Clone::clone)
}

/// Numbers in [-1, 1) that look random and repeat (a SplitMix64 stream).
pub(crate) fn numbers(count: usize, seed: u64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut next = || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64 * 2.0 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// A tensor of such numbers on the CPU in F64, each exactly representable in `dtype`.
pub(crate) fn random(shape: &[usize], seed: u64, dtype: DType) -> Tensor {
    let tensor = Tensor::from_vec(numbers(shape.iter().product(), seed), shape, &Device::Cpu).unwrap();
    tensor.to_dtype(dtype).unwrap().to_dtype(DType::F64).unwrap()
}

/// A tensor as numbers, wherever it lives.
pub(crate) fn values(tensor: &Tensor) -> Vec<f64> {
    let tensor = tensor.to_device(&Device::Cpu).unwrap().to_dtype(DType::F64).unwrap();
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Fails unless `found` is `expected` up to `tolerance` times the largest expected magnitude.
pub(crate) fn assert_close(what: &str, found: &Tensor, expected: &Tensor, tolerance: f64) {
    assert_eq!(found.dims(), expected.dims(), "{what}: shapes differ");
    let (found, expected) = (values(found), values(expected));
    let scale = expected.iter().fold(1e-30, |largest: f64, value| largest.max(value.abs()));
    for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
        let error = (found - expected).abs() / scale;
        assert!(error <= tolerance, "{what}: element {index} is {found}, not {expected} (error {error:.2e})");
    }
}

/// One layer with what it needs, described on the CPU in F64.
pub(crate) struct Case<'a> {
    pub(crate) name: &'a str,
    pub(crate) layer: &'a dyn Layer,
    pub(crate) parameters: &'a Parameters,
    /// Shape of the input.
    pub(crate) shape: &'a [usize],
    pub(crate) mode: Mode,
}

/// What a pass through a layer gives.
struct Outcome {
    y: Tensor,
    dx: Tensor,
    gradients: Vec<(String, Tensor)>,
}

/// Compares a layer on the GPU with itself on the CPU in F64, in F32 and in BF16, with all parameter gradients and with
/// none.
pub(crate) fn check(case: &Case<'_>) {
    check_within(case, [F32_TOLERANCE, BF16_TOLERANCE]);
}

/// The same with tolerances in F32 and BF16 of its own.
pub(crate) fn check_within(case: &Case<'_>, tolerances: [f64; 2]) {
    let kinds = [(Compute::Full, DType::F32), (Compute::Bf16, DType::BF16)];
    for ((compute, dtype), tolerance) in kinds.into_iter().zip(tolerances) {
        let name = format!("{} in {dtype:?}", case.name);
        let x = random(case.shape, 1, dtype);
        let expected = pass(case, &rounded(case.parameters, dtype, DType::F64), x.clone(), None, true);
        let device = gpu();
        let moved = rounded(case.parameters, dtype, DType::F32).to_device(&device, compute).unwrap();
        let x = x.to_dtype(dtype).unwrap().to_device(&device).unwrap();
        let found = pass(case, &moved, x.clone(), Some(&expected.y), true);
        assert_close(&format!("{name}: output"), &found.y, &expected.y, tolerance);
        assert_close(&format!("{name}: input gradient"), &found.dx, &expected.dx, tolerance);
        assert_eq!(found.gradients.len(), expected.gradients.len(), "{name}: number of gradients");
        for ((parameter, found), (_, expected)) in found.gradients.iter().zip(&expected.gradients) {
            assert_eq!(found.dtype(), DType::F32, "{name}: gradients are F32");
            assert_close(&format!("{name}: gradient of {parameter}"), found, expected, tolerance);
        }
        let frozen = pass(case, &moved, x, Some(&expected.y), false);
        assert!(frozen.gradients.is_empty());
        assert_eq!(values(&frozen.dx), values(&found.dx), "{name}: frozen weights change the input gradient");
        assert_eq!(values(&frozen.y), values(&found.y), "{name}: a pass does not repeat");
    }
}

/// Copies of `parameters` with every floating-point number rounded to `dtype` and kept in `kept`.
pub(crate) fn rounded(parameters: &Parameters, dtype: DType, kept: DType) -> Parameters {
    let mut copy = Parameters::new();
    for (id, name, tensor) in parameters.iter() {
        let tensor = if tensor.dtype().is_float() {
            tensor.to_dtype(dtype).unwrap().to_dtype(kept).unwrap()
        } else {
            tensor.clone()
        };
        if parameters.is_buffer(id) {
            copy.add_buffer(name, tensor).unwrap();
        } else {
            copy.add(name, tensor).unwrap();
        }
    }
    copy
}

/// Forward and backward with a fixed gradient of the output.
fn pass(case: &Case<'_>, parameters: &Parameters, x: Tensor, like: Option<&Tensor>, trains: bool) -> Outcome {
    let (device, dtype) = (x.device().clone(), x.dtype());
    let mut tape = Tape::recording();
    let y = case.layer.forward(parameters, x, &mut tape, case.mode).unwrap();
    let dy_dtype = if like.is_some() { y.dtype() } else { DType::F64 };
    // The same numbers on both sides: multiples of 1/64 are exact in BF16.
    let dy = numbers(y.elem_count(), 2).into_iter().map(|value| (value * 64.0).round() / 64.0).collect();
    let dy = Tensor::from_vec(dy, y.dims(), &Device::Cpu).unwrap().to_dtype(dy_dtype).unwrap();
    let mut gradients = if trains { Gradients::wanted(parameters) } else { Gradients::none() };
    let dy = dy.to_device(&device).unwrap();
    let dx = case.layer.backward(parameters, dy, &mut tape, &mut gradients).unwrap();
    assert!(like.is_none() || dx.dtype() == dtype || dx.dtype() == DType::F32);
    tape.finish().unwrap();
    let gradients = gradients.iter().map(|(id, g)| (parameters.name(id).to_owned(), g.clone())).collect();
    Outcome { y, dx, gradients }
}

/// Parameters under names, with random numbers of these shapes, in F64.
pub(crate) fn parameters(shapes: &[(&str, &[usize])]) -> (Parameters, Vec<ParameterId>) {
    let mut parameters = Parameters::new();
    let ids = shapes.iter().enumerate().map(|(index, (name, shape))| {
        parameters.add(*name, random(shape, 100 + index as u64, DType::F64)).unwrap()
    });
    let ids = ids.collect();
    (parameters, ids)
}

/// Training mode with some noise.
pub(crate) fn train() -> Mode {
    Mode::Train(Noise::new(7, 3))
}
