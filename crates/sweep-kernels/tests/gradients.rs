//! Every layer and loss against central differences in f64, over random shapes.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;

use candle_core::{DType, Device, Tensor};
use common::{check_layer, differences, parameters, scattered, tensor, values};
use proptest::prelude::*;
use sweep_kernels::{
    Activation, Chain, ClassTokenAndPositions, Error, Gradients, Layer, LayerNorm, Linear, Mode, Normalize,
    Parameters, PatchEmbedding, Residual, SelectToken, SelfAttention, Tape, cross_entropy,
    mean_cross_entropy,
};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn linear(rows in 1_usize..6, inputs in 1_usize..9, outputs in 1_usize..9, kind in 0..4) {
        let mut p = parameters(&[("weight", &[outputs, inputs]), ("bias", &[outputs])]);
        let weight = p.id("weight").unwrap();
        let bias = p.id("bias").unwrap();
        let layer = Linear::new(weight, Some(bias));
        let layer = match kind {
            0 => layer,
            1 => layer.with_activation(Activation::Gelu),
            2 => layer.with_activation(Activation::QuickGelu),
            _ => {
                p = parameters(&[("weight", &[outputs, inputs])]);
                Linear::new(weight, None)
            }
        };
        check_layer(&layer, &mut p, &tensor(1, &[rows, inputs]));
        check_layer(&layer, &mut p, &tensor(1, &[2, rows, inputs]));
    }

    #[test]
    fn layer_norm(rows in 1_usize..5, width in 2_usize..70) {
        let mut p = parameters(&[("weight", &[width]), ("bias", &[width])]);
        let layer = LayerNorm::new(p.id("weight").unwrap(), p.id("bias").unwrap(), 1e-5);
        check_layer(&layer, &mut p, &tensor(2, &[rows, 2, width]));
    }

    #[test]
    fn attention(images in 1_usize..3, tokens in 1_usize..7, heads in 1_usize..4, depth in 1_usize..5) {
        let x = tensor(3, &[images, tokens, 3 * heads * depth]);
        check_layer(&SelfAttention::new(heads), &mut Parameters::new(), &x);
    }

    #[test]
    fn activations(rows in 1_usize..4, columns in 1_usize..40) {
        let x = (tensor(4, &[rows, columns]) * 5.0).unwrap();
        check_layer(&Activation::Gelu, &mut Parameters::new(), &x);
        check_layer(&Activation::QuickGelu, &mut Parameters::new(), &x);
    }

    #[test]
    fn patch_embedding(images in 1_usize..3, down in 1_usize..4, across in 1_usize..4, patch in 1_usize..4, width in 1_usize..6) {
        let mut p = parameters(&[("weight", &[width, 3, patch, patch]), ("bias", &[width])]);
        let (weight, bias) = (p.id("weight").unwrap(), p.id("bias").unwrap());
        let x = tensor(5, &[images, 3, down * patch, across * patch]);
        check_layer(&PatchEmbedding::new(weight, Some(bias), patch), &mut p, &x);
        let mut p = parameters(&[("weight", &[width, 3, patch, patch])]);
        check_layer(&PatchEmbedding::new(weight, None, patch), &mut p, &x);
    }

    #[test]
    fn tokens(images in 1_usize..4, patches in 1_usize..5, width in 1_usize..5) {
        let mut p = parameters(&[("class", &[1, 1, width]), ("positions", &[1, patches + 1, width])]);
        let x = tensor(6, &[images, patches, width]);
        let layer = ClassTokenAndPositions::new(p.id("class").unwrap(), p.id("positions").unwrap());
        check_layer(&layer, &mut p, &x);
        check_layer(&SelectToken::new(patches - 1), &mut Parameters::new(), &x);
    }

    #[test]
    fn normalize(images in 1_usize..3, side in 1_usize..5) {
        let layer = Normalize::new(&[0.4, 0.5, 0.6], &[0.2, 0.3, 1.5]).unwrap();
        check_layer(&layer, &mut Parameters::new(), &tensor(7, &[images, 3, side, side + 1]));
    }

    #[test]
    fn losses(samples in 1_usize..5, classes in 1_usize..40) {
        let logits = (tensor(8, &[samples, classes]) * 4.0).unwrap();
        let labels: Vec<u32> = (0..samples).map(|sample| (sample * 7 % classes) as u32).collect();
        let result = cross_entropy(&logits, &labels).unwrap();
        let strided = cross_entropy(&scattered(&logits), &labels).unwrap();
        prop_assert_eq!(values(&result.gradient), values(&strided.gradient));
        let expected = differences(&logits, |x| values(&cross_entropy(&x, &labels).unwrap().losses).iter().sum());
        for (got, expected) in values(&result.gradient).iter().zip(expected) {
            prop_assert!((got - expected).abs() < 1e-8, "{got} is not {expected}");
        }
        let (mean, gradient) = mean_cross_entropy(&logits, &labels).unwrap();
        let sum: f64 = values(&result.losses).iter().sum();
        prop_assert!((mean - sum / samples as f64).abs() < 1e-12);
        prop_assert!((values(&gradient)[0] * samples as f64 - values(&result.gradient)[0]).abs() < 1e-12);
    }
}

#[test]
fn attention_over_more_tokens_than_a_block_of_queries() {
    // 300 tokens make blocks of 218 queries, so that the last block is a partial one.
    let x = tensor(9, &[1, 300, 6]);
    let layer = SelfAttention::new(1);
    let mut tape = Tape::recording();
    let y = layer.forward(&Parameters::new(), x.clone(), &mut tape, Mode::Evaluation).unwrap();
    let direction = tensor(10, y.dims());
    let p = Parameters::new();
    let dx = values(&layer.backward(&p, direction.clone(), &mut tape, &mut Gradients::none()).unwrap());
    let scalar = |x: Tensor| -> f64 {
        let y = layer.forward(&p, x, &mut Tape::off(), Mode::Evaluation).unwrap();
        (y * &direction).unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap()
    };
    let along = tensor(11, x.dims());
    let step = 1e-5;
    let moved = |sign: f64| scalar((&x + (&along * (sign * step)).unwrap()).unwrap());
    let expected = (moved(1.0) - moved(-1.0)) / (2.0 * step);
    let got: f64 = dx.iter().zip(values(&along)).map(|(a, b)| a * b).sum();
    assert!((got - expected).abs() < 1e-6 * expected.abs(), "{got} is not {expected}");
}

#[test]
fn combinators() {
    let mut p = parameters(&[("w1", &[5, 4]), ("b1", &[5]), ("w2", &[4, 5]), ("g", &[4]), ("b", &[4])]);
    let id = |name: &str| p.id(name).unwrap();
    let branch = Chain::new()
        .then(LayerNorm::new(id("g"), id("b"), 1e-6))
        .then(Linear::new(id("w1"), Some(id("b1"))).with_activation(Activation::Gelu))
        .then(Linear::new(id("w2"), None));
    let layer = Chain::new().then(Residual(branch)).then(Activation::QuickGelu);
    check_layer(&layer, &mut p, &tensor(12, &[3, 4]));
    check_layer(&Residual(Chain::new()), &mut Parameters::new(), &tensor(13, &[2, 3]));
}

/// The element-wise error that single precision may show: a few roundings (6e-8 each), which QuickGELU's slope
/// multiplies by its argument.
const SINGLE: f64 = 1e-6;

#[test]
fn single_precision_activations_follow_double_precision_everywhere() {
    let x: Vec<f64> = (-2000..=2000).map(|index| f64::from(index) * 0.01).collect();
    let x = Tensor::new(x, &Device::Cpu).unwrap();
    let ones = x.ones_like().unwrap();
    for activation in [Activation::Gelu, Activation::QuickGelu] {
        let run = |dtype: DType| {
            let mut tape = Tape::recording();
            let p = Parameters::new();
            let y = activation.forward(&p, x.to_dtype(dtype).unwrap(), &mut tape, Mode::Evaluation).unwrap();
            let dy = ones.to_dtype(dtype).unwrap();
            let dx = activation.backward(&p, dy, &mut tape, &mut Gradients::none()).unwrap();
            (values(&y), values(&dx))
        };
        let ((y32, dx32), (y64, dx64)) = (run(DType::F32), run(DType::F64));
        for (index, (got, expected)) in y32.iter().zip(&y64).chain(dx32.iter().zip(&dx64)).enumerate() {
            let error = (got - expected).abs() / expected.abs().max(1.0);
            assert!(error < SINGLE, "{activation:?} {index}: {got} is not {expected}");
        }
    }
}

#[test]
fn not_a_number_survives_every_activation_and_the_loss() {
    let x = Tensor::new(&[[f32::NAN, 1.0, 2.0]], &Device::Cpu).unwrap();
    for activation in [Activation::Gelu, Activation::QuickGelu] {
        let y =
            activation.forward(&Parameters::new(), x.clone(), &mut Tape::off(), Mode::Evaluation).unwrap();
        let y = values(&y);
        assert!(y[0].is_nan() && !y[1].is_nan());
    }
    for label in 0..3 {
        let (loss, gradient) = mean_cross_entropy(&x, &[label]).unwrap();
        assert!(loss.is_nan() && values(&gradient).iter().all(|value| value.is_nan()));
    }
}

#[test]
fn cross_entropy_of_huge_logits_is_finite() {
    let logits = Tensor::new(&[[1e30_f32, -1e30, 0.0]], &Device::Cpu).unwrap();
    let result = cross_entropy(&logits, &[0]).unwrap();
    assert_eq!(values(&result.losses), [0.0]);
    assert!(values(&result.gradient).iter().all(|value| value.is_finite()));
}

#[test]
fn wrong_inputs_are_refused() {
    let p = parameters(&[("weight", &[4, 3]), ("bias", &[4])]);
    let layer = Linear::new(p.id("weight").unwrap(), p.id("bias"));
    let run = |x: Tensor| layer.forward(&p, x, &mut Tape::off(), Mode::Evaluation).unwrap_err();
    assert!(matches!(run(tensor(0, &[2, 5])), Error::Shape { operation: "Linear", .. }));
    let half = tensor(0, &[2, 3]).to_dtype(DType::F16).unwrap();
    assert!(matches!(run(half), Error::UnsupportedDtype { dtype: DType::F16, .. }));
    assert!(matches!(
        cross_entropy(&tensor(0, &[2, 3]), &[0, 3]),
        Err(Error::Label { sample: 1, label: 3, classes: 3 })
    ));
    assert!(matches!(cross_entropy(&tensor(0, &[2, 3]), &[0]), Err(Error::Shape { .. })));
    assert!(matches!(
        SelfAttention::new(2).forward(&p, tensor(0, &[1, 2, 9]), &mut Tape::off(), Mode::Evaluation),
        Err(Error::Shape { .. })
    ));
    let empty = layer.backward(&p, tensor(0, &[2, 4]), &mut Tape::off(), &mut Gradients::none());
    assert!(matches!(empty, Err(Error::EmptyTape)));
    assert!(Normalize::new(&[0.0], &[0.0]).is_err());
}

#[test]
fn gradients_accumulate_and_scale() {
    let mut p = parameters(&[("a", &[3]), ("b", &[2])]);
    let (a, b) = (p.id("a").unwrap(), p.id("b").unwrap());
    let mut gradients = Gradients::wanted_where(&p, |name| name == "a");
    let ones = Tensor::ones(3, DType::F64, &Device::Cpu).unwrap();
    gradients.add(a, ones.clone()).unwrap();
    gradients.add(a, (&ones * 3.0).unwrap()).unwrap();
    gradients.add(b, Tensor::ones(2, DType::F64, &Device::Cpu).unwrap()).unwrap();
    gradients.scale(0.5).unwrap();
    assert_eq!(values(gradients.get(a).unwrap()), [2.0, 2.0, 2.0]);
    assert_eq!(values(&ones), [1.0, 1.0, 1.0]);
    assert!(gradients.get(b).is_none() && !gradients.wants(b));
    assert_eq!(gradients.iter().count(), 1);
    assert!((gradients.norm().unwrap() - 12.0_f64.sqrt()).abs() < 1e-12);
    assert!(p.add("a", ones.clone()).is_err());
    assert!(p.set(b, ones).is_err());
}

#[test]
fn results_are_the_same_for_any_number_of_threads() {
    let width = 96;
    let mut p = Parameters::new();
    let mut add = |name: &str, shape: &[usize]| {
        p.add(name, tensor(name.len() as u64, shape).to_dtype(DType::F32).unwrap()).unwrap()
    };
    let norm = LayerNorm::new(add("gain", &[width]), add("offset", &[width]), 1e-6);
    let qkv = Linear::new(add("qkv", &[3 * width, width]), Some(add("qkvbias", &[3 * width])));
    let fc1 = Linear::new(add("hidden_weight", &[4 * width, width]), Some(add("hidden_bias", &[4 * width])));
    let fc2 = Linear::new(add("weight", &[width, 4 * width]), None);
    let layer = Chain::new()
        .then(Residual(Chain::new().then(norm).then(qkv).then(SelfAttention::new(3))))
        .then(Residual(Chain::new().then(norm).then(fc1.with_activation(Activation::Gelu)).then(fc2)));
    let x = tensor(14, &[5, 67, width]).to_dtype(DType::F32).unwrap();
    let run = |threads: usize| {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| {
            let mut tape = Tape::recording();
            let y = layer.forward(&p, x.clone(), &mut tape, Mode::Evaluation).unwrap();
            let mut gradients = Gradients::wanted(&p);
            let dx = layer.backward(&p, y.clone(), &mut tape, &mut gradients).unwrap();
            let gradients: Vec<f64> = gradients.iter().flat_map(|(_, gradient)| values(gradient)).collect();
            (values(&y), values(&dx), gradients)
        })
    };
    let one = run(1);
    for threads in [2, 3, 7] {
        assert!(run(threads) == one, "{threads} threads give other bits than one");
    }
}
