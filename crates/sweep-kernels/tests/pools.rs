//! Pools, patch merging, layer scale and stochastic depth against central differences, PyTorch's values and their laws.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;

use candle_core::{DType, Device, Tensor};
use common::{check_layer, check_layer_in, parameters, tensor, values};
use proptest::prelude::*;
use sweep_kernels::{
    Error, Gradients, Layer, LayerScale, MaxPool, MeanPool, Mode, Noise, Parameters, PatchMerging,
    StochasticDepth, Tape,
};

fn none() -> Parameters {
    Parameters::new()
}

fn evaluate(layer: &impl Layer, x: &Tensor) -> Result<Tensor, Error> {
    layer.forward(&none(), x.clone(), &mut Tape::off(), Mode::Evaluation)
}

/// The output at `x` and the gradient of the sum of `dy` times the output.
fn both_passes(layer: &impl Layer, mode: Mode, x: &Tensor, dy: &Tensor) -> (Tensor, Tensor) {
    let mut tape = Tape::recording();
    let y = layer.forward(&none(), x.clone(), &mut tape, mode).unwrap();
    let dx = layer.backward(&none(), dy.clone(), &mut tape, &mut Gradients::none()).unwrap();
    tape.finish().unwrap();
    (y, dx)
}

fn map(shape: &[usize], elements: impl IntoIterator<Item = f64>) -> Tensor {
    Tensor::from_vec(elements.into_iter().collect::<Vec<_>>(), shape, &Device::Cpu).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn max_pool(
        images in 1_usize..3, height in 3_usize..8, width in 3_usize..8, channels in 1_usize..4,
        kernel in 1_usize..4, stride in 1_usize..5, padding in 0_usize..2,
    ) {
        // Distinct values far enough apart that no step of the differences changes a winner.
        let len = images * height * width * channels;
        let spread = (0..len).map(|index| (index * 7919 % 10_007) as f64 * 1e-3);
        let x = map(&[images, height, width, channels], spread);
        check_layer(&MaxPool::new(kernel, stride, padding.min(kernel / 2)), &mut none(), &x);
    }

    #[test]
    fn mean_pool(images in 1_usize..3, height in 1_usize..5, width in 1_usize..5, channels in 1_usize..6) {
        check_layer(&MeanPool, &mut none(), &tensor(1, &[images, height, width, channels]));
        check_layer(&MeanPool, &mut none(), &tensor(1, &[images, height, channels]));
    }

    #[test]
    fn patch_merging(images in 1_usize..3, height in 1_usize..6, width in 1_usize..6, channels in 1_usize..4) {
        check_layer(&PatchMerging, &mut none(), &tensor(2, &[images, height, width, channels]));
    }

    #[test]
    fn layer_scale(images in 1_usize..3, places in 1_usize..70, channels in 1_usize..9) {
        let mut p = parameters(&[("gamma", &[channels])]);
        let layer = LayerScale::new(p.id("gamma").unwrap());
        check_layer(&layer, &mut p, &tensor(3, &[images, places, channels]));
    }

    #[test]
    fn stochastic_depth(samples in 1_usize..6, width in 1_usize..5, probability in 0.0..0.95) {
        let layer = StochasticDepth::new(probability, 3).unwrap();
        let x = tensor(4, &[samples, 2, width]);
        check_layer_in(Mode::Train(Noise::new(5, 7)), &layer, &mut none(), &x);
        check_layer_in(Mode::Evaluation, &layer, &mut none(), &x);
    }
}

#[test]
fn max_pool_breaks_ties_as_pytorch_does() {
    // Output and input gradient of torch 2.15's `max_pool2d(x, 3, stride=2, padding=1)` in channels-last order.
    let y: [u8; 36] = [
        4, 2, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 2, 4, 4, 4, 4, 4, 4, 2, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 2, 4, 4, 4,
        4, 4,
    ];
    let dx: [u8; 120] = [
        0, 0, 4, 2, 0, 0, 0, 10, 0, 0, 0, 0, 7, 0, 9, 0, 0, 10, 0, 12, 0, 0, 16, 0, 0, 0, 0, 8, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 14, 13, 16, 0, 0, 32, 0, 0, 0, 0, 18, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 40,
        20, 0, 0, 0, 46, 0, 0, 0, 0, 25, 0, 27, 0, 0, 28, 0, 30, 0, 0, 52, 0, 0, 0, 0, 26, 0, 0, 0, 0, 0, 0,
        0, 0, 0, 32, 31, 34, 0, 0, 68, 0, 0, 0, 0, 36, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    let x = map(&[2, 5, 6, 2], (0..120_u32).map(|i| f64::from((i * i * 7 + 3 * i) % 5)));
    let dy = map(&[2, 3, 3, 2], (1..=36).map(f64::from));
    for dtype in [DType::F32, DType::F64] {
        let (x, dy) = (x.to_dtype(dtype).unwrap(), dy.to_dtype(dtype).unwrap());
        let (got_y, got_dx) = both_passes(&MaxPool::new(3, 2, 1), Mode::Evaluation, &x, &dy);
        assert_eq!(got_y.dims(), [2, 3, 3, 2]);
        assert_eq!(values(&got_y), y.map(f64::from));
        assert_eq!(values(&got_dx), dx.map(f64::from));
    }
}

#[test]
fn max_pool_handles_numbers_that_are_not_finite_as_pytorch_does() {
    let (nan, low) = (f64::NAN, f64::NEG_INFINITY);
    let x = map(&[1, 3, 3, 1], [1.0, nan, 3.0, nan, 0.0, -1.0, low, low, low]);
    let dy = map(&[1, 2, 2, 1], [1.0, 2.0, 3.0, 4.0]);
    let (y, dx) = both_passes(&MaxPool::new(2, 1, 0), Mode::Evaluation, &x, &dy);
    let y = values(&y);
    assert!(y[..3].iter().all(|value| value.is_nan()) && y[3] == 0.0, "{y:?}");
    assert_eq!(values(&dx), [0.0, 2.0, 0.0, 4.0, 4.0, 0.0, 0.0, 0.0, 0.0]);

    let x = map(&[1, 3, 3, 1], [low; 9]);
    let (y, dx) = both_passes(&MaxPool::new(3, 2, 1), Mode::Evaluation, &x, &dy.ones_like().unwrap());
    assert_eq!(values(&y), [low; 4]);
    assert_eq!(values(&dx), [1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
}

#[test]
fn max_pool_keeps_places_of_the_largest_neighbourhood_apart() {
    let x = map(&[1, 16, 16, 1], (0..256).map(f64::from));
    let (y, dx) = both_passes(&MaxPool::new(16, 1, 0), Mode::Evaluation, &x, &map(&[1, 1, 1, 1], [1.0]));
    assert_eq!(values(&y), [255.0]);
    let dx = values(&dx);
    assert_eq!((dx[255], dx.iter().sum::<f64>()), (1.0, 1.0));
}

#[test]
fn pools_refuse_what_they_cannot_do() {
    let x = tensor(0, &[1, 3, 3, 2]);
    for (kernel, stride, padding) in [(0, 1, 0), (17, 1, 0), (2, 0, 0), (2, 1, 2)] {
        let result = evaluate(&MaxPool::new(kernel, stride, padding), &x);
        assert!(matches!(result, Err(Error::Setting { .. })), "{kernel} {stride} {padding}");
    }
    assert!(matches!(evaluate(&MaxPool::new(4, 1, 0), &x), Err(Error::Shape { operation: "MaxPool", .. })));
    assert!(matches!(evaluate(&MaxPool::new(2, 1, 0), &tensor(0, &[3, 3])), Err(Error::Shape { .. })));
    assert!(matches!(evaluate(&MeanPool, &tensor(0, &[3])), Err(Error::Shape { operation: "MeanPool", .. })));
    let flat = tensor(0, &[3, 3, 2]);
    assert!(matches!(evaluate(&PatchMerging, &flat), Err(Error::Shape { operation: "PatchMerging", .. })));
    let p = parameters(&[("gamma", &[3])]);
    let scale = LayerScale::new(p.id("gamma").unwrap());
    let result = scale.forward(&p, x, &mut Tape::off(), Mode::Evaluation);
    assert!(matches!(result, Err(Error::Shape { operation: "LayerScale", .. })));
}

#[test]
fn mean_pool_of_known_values() {
    let y = evaluate(&MeanPool, &map(&[2, 1, 2, 2], (0..8).map(f64::from))).unwrap();
    assert_eq!(y.dims(), [2, 2]);
    assert_eq!(values(&y), [1.0, 2.0, 5.0, 6.0]);
}

#[test]
fn patch_merging_has_the_order_of_timm() {
    // Output of timm 1.0.31's Swin `PatchMerging` without norm and reduction.
    let expected: [u8; 24] = [1, 6, 2, 7, 3, 8, 4, 9, 5, 10, 0, 0, 11, 0, 12, 0, 13, 0, 14, 0, 15, 0, 0, 0];
    let y = evaluate(&PatchMerging, &map(&[1, 3, 5, 1], (1..=15).map(f64::from))).unwrap();
    assert_eq!(y.dims(), [1, 2, 3, 4]);
    assert_eq!(values(&y), expected.map(f64::from));
}

/// What stochastic depth multiplies the samples of a batch by.
fn factors(probability: f64, layer: u64, noise: Noise, samples: usize) -> Vec<f64> {
    let ones = Tensor::ones((samples, 1), DType::F64, &Device::Cpu).unwrap();
    let depth = StochasticDepth::new(probability, layer).unwrap();
    values(&depth.forward(&none(), ones, &mut Tape::off(), Mode::Train(noise)).unwrap())
}

#[test]
fn stochastic_depth_is_a_function_of_seed_layer_and_position() {
    let noise = Noise::new(1, 0);
    let whole = factors(0.5, 0, noise, 64);
    assert_eq!(whole, factors(0.5, 0, noise, 64));
    assert_ne!(whole, factors(0.5, 0, Noise::new(2, 0), 64), "the seed has no effect");
    assert_ne!(whole, factors(0.5, 1, noise, 64), "layers draw the same");
    let parts = [factors(0.5, 0, noise, 32), factors(0.5, 0, Noise::new(1, 32), 32)];
    assert_eq!(whole, parts.concat(), "micro batches change the draws");
}

#[test]
fn stochastic_depth_keeps_the_mean_and_has_the_stated_frequency() {
    const SAMPLES: usize = 20_000;
    for probability in [0.1, 0.5, 0.8] {
        let factors = factors(probability, 4, Noise::new(9, 0), SAMPLES);
        let kept = 1.0 / (1.0 - probability);
        assert!(factors.iter().all(|factor| *factor == 0.0 || *factor == kept));
        let dropped = factors.iter().filter(|factor| **factor == 0.0).count() as f64;
        // Four standard deviations of a binomial count.
        let bound = 4.0 * (SAMPLES as f64 * probability * (1.0 - probability)).sqrt();
        let expected = SAMPLES as f64 * probability;
        assert!((dropped - expected).abs() < bound, "{probability}: {dropped} dropped");
    }
}

#[test]
fn stochastic_depth_in_evaluation_is_the_identity() {
    let x = tensor(6, &[3, 4]);
    let (y, dx) = both_passes(&StochasticDepth::new(0.9, 0).unwrap(), Mode::Evaluation, &x, &x);
    assert_eq!(y.id(), x.id(), "the input was copied");
    assert_eq!(dx.id(), x.id(), "the gradient was copied");
}

#[test]
fn stochastic_depth_refuses_other_probabilities() {
    for probability in [-0.1, 1.0, 1.5, f64::NAN] {
        assert!(matches!(StochasticDepth::new(probability, 0), Err(Error::Setting { .. })), "{probability}");
    }
    assert!(StochasticDepth::new(0.0, 0).is_ok());
}

#[test]
fn results_are_the_same_for_any_number_of_threads() {
    let x = tensor(7, &[3, 57, 31, 40]).to_dtype(DType::F32).unwrap();
    let mut p = Parameters::new();
    let gamma = p.add("gamma", tensor(8, &[40]).to_dtype(DType::F32).unwrap()).unwrap();
    let layers: [Box<dyn Layer>; 5] = [
        Box::new(MaxPool::new(3, 2, 1)),
        Box::new(MeanPool),
        Box::new(PatchMerging),
        Box::new(LayerScale::new(gamma)),
        Box::new(StochasticDepth::new(0.4, 0).unwrap()),
    ];
    let run = |threads: usize| -> Vec<Vec<f64>> {
        let pass = |layer: &dyn Layer| {
            let mut tape = Tape::recording();
            let y = layer.forward(&p, x.clone(), &mut tape, Mode::Train(Noise::new(0, 0))).unwrap();
            let mut gradients = Gradients::wanted(&p);
            let dx = layer.backward(&p, y.clone(), &mut tape, &mut gradients).unwrap();
            let gradients = gradients.iter().flat_map(|(_, gradient)| values(gradient));
            values(&y).into_iter().chain(values(&dx)).chain(gradients).collect()
        };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| layers.iter().map(|layer| pass(layer.as_ref())).collect())
    };
    let one = run(1);
    for threads in [2, 3, 7] {
        assert!(run(threads) == one, "{threads} threads give other bits than one");
    }
}
