//! Linear layers, activations, layer norm, tokens and residual connections.

use candle_core::{DType, Device, Tensor};
use sweep_kernels::{
    Activation, Branches, Chain, ChannelsLast, ClassTokenAndPositions, Compute, Gradients, Layer, LayerNorm,
    LayerScale, Linear, Mode, Noise, Parameters, Residual, SelectToken, StochasticDepth, Tape,
};

use super::support::{
    Case, F32_TOLERANCE, assert_close, check, check_within, gpu, parameters, random, train, values,
};

const ACTIVATIONS: [Activation; 3] = [Activation::Gelu, Activation::QuickGelu, Activation::Relu];

/// Stability of the layer norms.
const STABILITY: f64 = 1e-6;

fn check_layer(name: &str, layer: &dyn Layer, parameters: &Parameters, shape: &[usize]) {
    check(&Case { name, layer, parameters, shape, mode: Mode::Evaluation });
}

#[test]
fn linear() {
    // Input and output features, and the shape in front of them: products with the bias in the epilogue, with rows that
    // cuBLASLt does not take, with one row, and with more columns and rows than a block of the column sums has.
    let sizes: [(usize, usize, &[usize]); 6] = [
        (8, 16, &[3, 5]),
        (7, 5, &[2, 3]),
        (24, 10, &[4]),
        (40, 264, &[1]),
        (16, 24, &[2, 150]),
        (9, 33, &[601]),
    ];
    for (inputs, outputs, front) in sizes {
        let (parameters, ids) = parameters(&[("weight", &[outputs, inputs]), ("bias", &[outputs])]);
        let shape = [front, &[inputs]].concat();
        for bias in [None, Some(ids[1])] {
            for activation in [None, Some(Activation::Gelu), Some(Activation::Relu)] {
                let layer = Linear::new(ids[0], bias);
                let layer = activation.map_or(layer, |activation| layer.with_activation(activation));
                let name = format!("Linear {inputs} to {outputs} with {bias:?} and {activation:?}");
                check_layer(&name, &layer, &parameters, &shape);
            }
        }
    }
}

#[test]
fn linear_overwrites_nothing_that_is_kept() {
    let (parameters, ids) = parameters(&[("weight", &[16, 8]), ("bias", &[16])]);
    let layer = Linear::new(ids[0], Some(ids[1])).with_activation(Activation::Gelu);
    let moved = to_gpu(&parameters, Compute::Full);
    let x = random(&[5, 8], 1, DType::F32).to_dtype(DType::F32).unwrap().to_device(&gpu()).unwrap();
    let forward = |tape: &mut Tape| layer.forward(&moved, x.clone(), tape, Mode::Evaluation).unwrap();
    let mut tape = Tape::recording();
    let recorded = values(&forward(&mut tape));
    assert_eq!(values(&forward(&mut Tape::off())), recorded, "a pass without a tape differs");
    assert_eq!(values(&x), values(&random(&[5, 8], 1, DType::F32)), "the input changed");
}

#[test]
fn linear_takes_gradients_of_logits_in_f32() {
    let (parameters, ids) = parameters(&[("weight", &[10, 16]), ("bias", &[10])]);
    let layer = Linear::new(ids[0], Some(ids[1]));
    let moved = to_gpu(&parameters, Compute::Bf16);
    let x = random(&[3, 16], 1, DType::BF16).to_dtype(DType::BF16).unwrap().to_device(&gpu()).unwrap();
    let dy = random(&[3, 10], 2, DType::BF16);
    let backward = |dy: Tensor| {
        let mut tape = Tape::recording();
        layer.forward(&moved, x.clone(), &mut tape, Mode::Evaluation).unwrap();
        layer.backward(&moved, dy, &mut tape, &mut Gradients::none()).unwrap()
    };
    let in_f32 = backward(dy.to_dtype(DType::F32).unwrap().to_device(&gpu()).unwrap());
    let in_bf16 = backward(dy.to_dtype(DType::BF16).unwrap().to_device(&gpu()).unwrap());
    assert_eq!(in_f32.dtype(), DType::BF16);
    assert_eq!(values(&in_f32), values(&in_bf16));
}

#[test]
fn wrong_shapes_are_refused() {
    let (parameters, ids) =
        parameters(&[("weight", &[4, 8]), ("bias", &[4]), ("gamma", &[8]), ("beta", &[8])]);
    let moved = to_gpu(&parameters, Compute::Full);
    let layers: [&dyn Layer; 3] = [
        &Linear::new(ids[0], Some(ids[1])),
        &LayerNorm::new(ids[2], ids[3], STABILITY),
        &LayerScale::new(ids[2]),
    ];
    for layer in layers {
        let x = Tensor::zeros((3, 7), DType::F32, &gpu()).unwrap();
        layer.forward(&moved, x, &mut Tape::off(), Mode::Evaluation).unwrap_err();
        let x = Tensor::zeros((3, 8), DType::F64, &gpu()).unwrap();
        layer.forward(&moved, x, &mut Tape::off(), Mode::Evaluation).unwrap_err();
    }
}

fn to_gpu(parameters: &Parameters, compute: Compute) -> Parameters {
    let mut rounded = Parameters::new();
    for (_, name, tensor) in parameters.iter() {
        rounded.add(name, tensor.to_dtype(DType::F32).unwrap()).unwrap();
    }
    rounded.to_device(&gpu(), compute).unwrap()
}

#[test]
fn activations() {
    for activation in ACTIVATIONS {
        for shape in [&[1, 1][..], &[3, 5], &[2, 3, 7, 8], &[9, 1027]] {
            check_layer(&format!("{activation:?}"), &activation, &Parameters::new(), shape);
        }
    }
}

/// Far from 0, and where numbers are not finite.
#[test]
fn activations_in_their_tails() {
    let points: Vec<f32> = (-160..=160).map(|step| step as f32 / 8.0).collect();
    for activation in ACTIVATIONS {
        let x = Tensor::from_slice(&points, points.len(), &Device::Cpu).unwrap();
        let pass = |x: Tensor| {
            let mut tape = Tape::recording();
            let one =
                Tensor::ones(x.shape(), x.dtype(), &Device::Cpu).unwrap().to_device(x.device()).unwrap();
            let y = activation.forward(&Parameters::new(), x, &mut tape, Mode::Evaluation).unwrap();
            let dx = activation.backward(&Parameters::new(), one, &mut tape, &mut Gradients::none()).unwrap();
            (y, dx)
        };
        let expected = pass(x.to_dtype(DType::F64).unwrap());
        let found = pass(x.to_device(&gpu()).unwrap());
        // Relative to 20, the largest value, and to about 1, the largest slope.
        assert_close(&format!("{activation:?}"), &found.0, &expected.0, 3e-7);
        assert_close(&format!("slope of {activation:?}"), &found.1, &expected.1, 2e-6);
        let nan = Tensor::from_slice(&[f32::NAN; 5], 5, &Device::Cpu).unwrap().to_device(&gpu()).unwrap();
        assert!(values(&pass(nan).0).iter().all(|value| value.is_nan()), "{activation:?} hides NaN");
    }
}

#[test]
fn layer_norm() {
    // Widths for each number of packs in a thread, in both dtypes, for parts of warps, and for a block per row.
    for width in [7, 8, 16, 24, 64, 96, 128, 200, 256, 264, 520, 768, 1024, 1544, 2048] {
        for rows in [1, 37] {
            let (parameters, ids) = parameters(&[("weight", &[width]), ("bias", &[width])]);
            let layer = LayerNorm::new(ids[0], ids[1], STABILITY);
            let name = format!("LayerNorm of {rows} rows of {width}");
            check_layer(&name, &layer, &parameters, &[rows, width]);
        }
    }
}

#[test]
fn layer_norm_of_many_rows() {
    let (parameters, ids) = parameters(&[("weight", &[24]), ("bias", &[24])]);
    check_layer("LayerNorm", &LayerNorm::new(ids[0], ids[1], STABILITY), &parameters, &[2, 9, 70, 24]);
}

/// The variance is that of centred numbers: a large mean does not cancel it.
#[test]
fn layer_norm_far_from_zero() {
    let (parameters, ids) = parameters(&[("weight", &[64]), ("bias", &[64])]);
    let layer = LayerNorm::new(ids[0], ids[1], STABILITY);
    let x = (random(&[5, 64], 1, DType::BF16) + 1000.0).unwrap().to_dtype(DType::F32).unwrap();
    let expected = layer
        .forward(&parameters, x.to_dtype(DType::F64).unwrap(), &mut Tape::off(), Mode::Evaluation)
        .unwrap();
    let moved = to_gpu(&parameters, Compute::Full);
    let y = layer.forward(&moved, x.to_device(&gpu()).unwrap(), &mut Tape::off(), Mode::Evaluation).unwrap();
    // Numbers near 1000 are known to 6e-5 only.
    assert_close("LayerNorm far from zero", &y, &expected, 2e-4);
}

#[test]
fn parameters_are_wanted_one_by_one() {
    let (parameters, ids) = parameters(&[("weight", &[20]), ("bias", &[20])]);
    let layer = LayerNorm::new(ids[0], ids[1], STABILITY);
    let moved = to_gpu(&parameters, Compute::Full);
    let on_gpu =
        |seed| random(&[9, 20], seed, DType::F32).to_dtype(DType::F32).unwrap().to_device(&gpu()).unwrap();
    let gradients_of = |wanted: &str| {
        let mut gradients = Gradients::wanted_where(&moved, |name| wanted.contains(name));
        let mut tape = Tape::recording();
        layer.forward(&moved, on_gpu(1), &mut tape, Mode::Evaluation).unwrap();
        layer.backward(&moved, on_gpu(2), &mut tape, &mut gradients).unwrap();
        gradients
    };
    let both = gradients_of("weight and bias");
    for (index, name) in ["weight", "bias"].into_iter().enumerate() {
        let alone = gradients_of(name);
        assert_eq!(alone.iter().count(), 1);
        assert_close(name, alone.get(ids[index]).unwrap(), both.get(ids[index]).unwrap(), F32_TOLERANCE);
    }
}

#[test]
fn layer_scale() {
    for shape in [&[1, 1][..], &[3, 5], &[2, 3, 7, 8], &[700, 16], &[5, 1032], &[70, 33]] {
        let (parameters, ids) = parameters(&[("gamma", &[*shape.last().unwrap()])]);
        check_layer(&format!("LayerScale of {shape:?}"), &LayerScale::new(ids[0]), &parameters, shape);
    }
}

#[test]
fn stochastic_depth() {
    for shape in [&[40, 3][..], &[1, 8], &[7, 3, 16], &[5, 2300]] {
        for (probability, mode) in [(0.0, train()), (0.3, train()), (0.9, train()), (0.3, Mode::Evaluation)] {
            let layer = StochasticDepth::new(probability, 4).unwrap();
            let name = format!("StochasticDepth of {shape:?} by {probability}");
            check(&Case { name: &name, layer: &layer, parameters: &Parameters::new(), shape, mode });
        }
    }
}

/// The same samples are dropped as on the CPU, also where a probability is a number that may be drawn exactly.
#[test]
fn stochastic_depth_draws_as_on_the_cpu() {
    for (seed, first) in [(0, 0), (7, 3), (u64::MAX, u64::MAX - 5), (12_345_678_901, 1 << 40)] {
        for probability in [1e-3, 0.1, 0.5, 0.1_f64.mul_add(3.0, 0.0), 0.999] {
            let layer = StochasticDepth::new(probability, 11).unwrap();
            let ones = Tensor::ones((500, 1), DType::F32, &Device::Cpu).unwrap();
            let pass = |x: Tensor| {
                let mode = Mode::Train(Noise::new(seed, first));
                values(&layer.forward(&Parameters::new(), x, &mut Tape::off(), mode).unwrap())
            };
            assert_eq!(pass(ones.to_device(&gpu()).unwrap()), pass(ones), "probability {probability}");
        }
    }
}

#[test]
fn tokens() {
    for (images, length, width) in [(1, 1, 1), (3, 4, 5), (2, 7, 8), (70, 3, 16), (2, 9, 260)] {
        let (parameters, ids) =
            parameters(&[("class_token", &[1, 1, width]), ("positions", &[1, length + 1, width])]);
        let layer = ClassTokenAndPositions::new(ids[0], ids[1]);
        let name = format!("ClassTokenAndPositions {images}, {length}, {width}");
        check_layer(&name, &layer, &parameters, &[images, length, width]);
        for index in [0, length - 1] {
            let name = format!("SelectToken {index} of {images}, {length}, {width}");
            check_layer(&name, &SelectToken::new(index), &Parameters::new(), &[images, length, width]);
        }
    }
    let x = Tensor::zeros((2, 3, 4), DType::F32, &gpu()).unwrap();
    SelectToken::new(3).forward(&Parameters::new(), x, &mut Tape::off(), Mode::Evaluation).unwrap_err();
}

#[test]
fn channels_last() {
    for shape in [
        [1, 1, 1, 1],
        [2, 3, 5, 7],
        [1, 3, 20, 30],
        [3, 16, 4, 4],
        [2, 17, 3, 5],
        [2, 40, 7, 9],
        [1, 64, 8, 8],
    ] {
        check_layer(&format!("ChannelsLast of {shape:?}"), &ChannelsLast, &Parameters::new(), &shape);
    }
}

/// In BF16: the sign of a sum near 0 depends on rounding, and with it a whole element of the gradient.
const TOLERANCE_AT_THE_EDGE: f64 = 0.3;

#[test]
fn residual_branches() {
    let (parameters, ids) = parameters(&[("main", &[8, 8]), ("shortcut", &[8, 8]), ("gamma", &[8])]);
    let linear = |index: usize| Chain::new().then(Linear::new(ids[index], None));
    let cases: [(&str, &dyn Layer); 3] = [
        ("Branches with a shortcut", &Branches::new(linear(0), Some(linear(1)))),
        ("Branches without a shortcut", &Branches::new(linear(0), None)),
        ("Residual", &Residual(Chain::new().then(LayerScale::new(ids[2])))),
    ];
    for (name, layer) in cases {
        for rows in [1, 3, 301] {
            let case = Case { name, layer, parameters: &parameters, shape: &[rows, 8], mode: train() };
            check_within(&case, [F32_TOLERANCE, TOLERANCE_AT_THE_EDGE]);
        }
    }
}

/// Tensors that begin in the middle of another, where 16 bytes at once cannot be read.
#[test]
fn tensors_that_are_not_aligned() {
    let whole = random(&[7, 5], 1, DType::F32).to_dtype(DType::F32).unwrap();
    let (parameters, ids) = parameters(&[("gamma", &[5]), ("weight", &[8, 5])]);
    let moved = to_gpu(&parameters, Compute::Full);
    let layers: [&dyn Layer; 5] = [
        &Activation::Gelu,
        &LayerScale::new(ids[0]),
        &Linear::new(ids[1], None),
        &LayerNorm::new(ids[0], ids[0], STABILITY),
        &StochasticDepth::new(0.5, 1).unwrap(),
    ];
    for (index, layer) in layers.into_iter().enumerate() {
        let part = |x: &Tensor| x.narrow(0, 1, 5).unwrap();
        let expected = part(&whole).to_dtype(DType::F64).unwrap();
        let expected = layer.forward(&parameters, expected, &mut Tape::off(), train()).unwrap();
        let x = part(&whole.to_device(&gpu()).unwrap());
        let y = layer.forward(&moved, x, &mut Tape::off(), train()).unwrap();
        assert_close(&format!("layer {index}"), &y, &expected, F32_TOLERANCE);
    }
}
