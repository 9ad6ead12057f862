//! Convolutions and batch norm against central differences in f64, direct sums and PyTorch's conventions.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;

use candle_core::{DType, Device, Tensor};
use common::{check_layer, check_layer_in, parameters, tensor, values};
use proptest::prelude::*;
use sweep_kernels::{
    Activation, BatchNorm, ChannelsLast, Convolution, DepthwiseConvolution, Error, Gradients, Layer, Mode,
    Noise, Parameters, StatisticsIds, Tape,
};

fn evaluate(layer: &impl Layer, parameters: &Parameters, x: &Tensor) -> Tensor {
    layer.forward(parameters, x.clone(), &mut Tape::off(), Mode::Evaluation).unwrap()
}

/// A convolution by its definition, with seven nested loops.
fn by_definition(x: &Tensor, weight: &Tensor, stride: usize, padding: usize, groups: usize) -> Vec<f64> {
    let (images, height, width, channels) = x.dims4().unwrap();
    let (outputs, group_channels, kernel_height, kernel_width) = weight.dims4().unwrap();
    let (x, weight) = (values(x), values(weight));
    let out_height = (height + 2 * padding - kernel_height) / stride + 1;
    let out_width = (width + 2 * padding - kernel_width) / stride + 1;
    let mut y = Vec::new();
    for image in 0..images {
        for (row, column) in (0..out_height).flat_map(|row| (0..out_width).map(move |column| (row, column))) {
            for output in 0..outputs {
                let first = output / (outputs / groups) * group_channels;
                let mut sum = 0.0;
                for channel in 0..group_channels {
                    for (i, j) in (0..kernel_height).flat_map(|i| (0..kernel_width).map(move |j| (i, j))) {
                        let (r, c) = (row * stride + i, column * stride + j);
                        if r < padding || c < padding || r - padding >= height || c - padding >= width {
                            continue;
                        }
                        let pixel = (image * height + r - padding) * width + c - padding;
                        let tap =
                            ((output * group_channels + channel) * kernel_height + i) * kernel_width + j;
                        sum += x[pixel * channels + first + channel] * weight[tap];
                    }
                }
                y.push(sum);
            }
        }
    }
    y
}

/// Rounding of sums of at most some hundred products of numbers below 1, in f64.
const DOUBLE: f64 = 1e-13;

fn assert_equal(got: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len());
    for (got, expected) in got.iter().zip(expected) {
        assert!((got - expected).abs() < tolerance, "{got} is not {expected}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn convolution(
        images in 1_usize..3, height in 1_usize..6, width in 1_usize..6, kernel in (1_usize..4, 1_usize..4),
        stride in 1_usize..4, padding in 0_usize..3, groups in 1_usize..3, channels in 1_usize..3, outputs in 1_usize..3,
    ) {
        let (height, width) = (height.max(kernel.0), width.max(kernel.1));
        let shape = [groups * outputs, channels, kernel.0, kernel.1];
        let mut p = parameters(&[("weight", &shape), ("bias", &[groups * outputs])]);
        let (weight, bias) = (p.id("weight").unwrap(), p.id("bias").unwrap());
        let x = tensor(1, &[images, height, width, groups * channels]);
        let configured = |bias| Convolution::new(weight, bias).with_stride(stride).with_padding(padding).with_groups(groups);
        let expected = by_definition(&x, p.get(weight), stride, padding, groups);
        assert_equal(&values(&evaluate(&configured(None), &p, &x)), &expected, DOUBLE);
        check_layer(&configured(Some(bias)), &mut p, &x);
    }

    #[test]
    fn depthwise(
        images in 1_usize..3, height in 1_usize..10, width in 1_usize..10, channels in 1_usize..20, half in 0_usize..3,
    ) {
        let kernel = 2 * half + 1;
        let mut p = parameters(&[("weight", &[channels, 1, kernel, kernel]), ("bias", &[channels])]);
        let (weight, bias) = (p.id("weight").unwrap(), p.id("bias").unwrap());
        let x = tensor(2, &[images, height, width, channels]);
        let dense = Convolution::new(weight, None).with_padding(half).with_groups(channels);
        let layer = DepthwiseConvolution::new(weight, None);
        assert_equal(&values(&evaluate(&layer, &p, &x)), &values(&evaluate(&dense, &p, &x)), DOUBLE);
        if channels < 5 && height < 4 {
            check_layer(&DepthwiseConvolution::new(weight, Some(bias)), &mut p, &x);
        }
    }

    #[test]
    fn channels_last(images in 1_usize..3, channels in 1_usize..4, height in 1_usize..5, width in 1_usize..5) {
        check_layer(&ChannelsLast, &mut Parameters::new(), &tensor(3, &[images, channels, height, width]));
    }

    #[test]
    fn batch_norm(images in 1_usize..4, pixels in 2_usize..6, channels in 1_usize..20) {
        let (layer, mut p) = norm(channels);
        let x = tensor(4, &[images, pixels, channels]);
        check_layer_in(Mode::Train(Noise::new(0, 0)), &layer, &mut p, &x);
        check_layer_in(Mode::Evaluation, &layer, &mut p, &x);
    }
}

/// A batch norm with numbers that are not those of an identity.
fn norm(channels: usize) -> (BatchNorm, Parameters) {
    let mut p = parameters(&[("weight", &[channels]), ("bias", &[channels])]);
    let mean = p.add_buffer("running_mean", tensor(21, &[channels])).unwrap();
    let variance = p.add_buffer("running_var", (tensor(22, &[channels]) + 1.5).unwrap()).unwrap();
    let updates = p.add_buffer("num_batches_tracked", Tensor::new(3_i64, &Device::Cpu).unwrap()).unwrap();
    let statistics = StatisticsIds { mean, variance, updates };
    let layer = BatchNorm::new(p.id("weight").unwrap(), p.id("bias").unwrap(), statistics, 1e-5, 0.1);
    (layer, p)
}

#[test]
fn a_larger_convolution_is_cut_into_blocks_and_stays_the_same() {
    // More patches than one task takes, and for the second more weights than every task should read.
    for (channels, outputs, side) in [(24, 8, 40), (96, 320, 12)] {
        let mut p = Parameters::new();
        let weight = p.add("weight", tensor(5, &[outputs, channels, 3, 3])).unwrap();
        let x = tensor(6, &[2, side, side, channels]);
        let layer = Convolution::new(weight, None).with_padding(1);
        let expected = by_definition(&x, p.get(weight), 1, 1, 1);
        assert_equal(&values(&evaluate(&layer, &p, &x)), &expected, 10.0 * DOUBLE);
    }
}

#[test]
fn gradients_of_a_larger_convolution_follow_a_direction() {
    // Single elements are checked above on small shapes; here all of them at once along one random direction.
    let mut p = Parameters::new();
    let weight = p.add("weight", tensor(7, &[16, 20, 3, 3])).unwrap();
    for stride in [1, 2] {
        let layer = Convolution::new(weight, None).with_padding(1).with_stride(stride);
        let x = tensor(8, &[2, 37, 41, 20]);
        let mut tape = Tape::recording();
        let y = layer.forward(&p, x.clone(), &mut tape, Mode::Evaluation).unwrap();
        let direction = tensor(9, y.dims());
        let mut gradients = Gradients::wanted(&p);
        let dx = layer.backward(&p, direction.clone(), &mut tape, &mut gradients).unwrap();
        let inner =
            |a: &Tensor, b: &Tensor| -> f64 { values(a).iter().zip(values(b)).map(|(a, b)| a * b).sum() };
        // The convolution is linear in both, so that <direction, y> = <dx, x> = <dw, w>.
        let scalar = inner(&direction, &y);
        assert!((inner(&dx, &x) - scalar).abs() < 1e-9 * scalar.abs().max(1.0));
        assert!(
            (inner(gradients.get(weight).unwrap(), p.get(weight)) - scalar).abs()
                < 1e-9 * scalar.abs().max(1.0)
        );
    }
}

#[test]
fn the_rectifier_in_a_batch_norm_is_the_one_behind_it() {
    let (layer, p) = norm(5);
    let x = tensor(10, &[3, 4, 5]);
    for mode in [Mode::Train(Noise::new(0, 0)), Mode::Evaluation] {
        let direction = tensor(11, x.dims());
        let mut fused = Tape::recording();
        let y = layer.with_relu().forward(&p, x.clone(), &mut fused, mode).unwrap();
        let mut apart = Tape::recording();
        let z = layer.forward(&p, x.clone(), &mut apart, mode).unwrap();
        let z = Activation::Relu.forward(&p, z, &mut apart, mode).unwrap();
        assert_eq!(values(&y), values(&z));
        assert!(values(&y).contains(&0.0));
        let (mut one, mut other) = (Gradients::wanted(&p), Gradients::wanted(&p));
        let dy = layer.with_relu().backward(&p, direction.clone(), &mut fused, &mut one).unwrap();
        let dz = Activation::Relu.backward(&p, direction, &mut apart, &mut other).unwrap();
        let dz = layer.backward(&p, dz, &mut apart, &mut other).unwrap();
        assert_eq!(values(&dy), values(&dz));
        for ((_, one), (_, other)) in one.iter().zip(other.iter()) {
            assert_eq!(values(one), values(other));
        }
    }
}

#[test]
fn the_rectifier_follows_pytorch_at_zero_and_for_nan() {
    let x = Tensor::new(&[-1.0_f32, -0.0, 0.0, 2.0, f32::NAN], &Device::Cpu).unwrap();
    let mut tape = Tape::recording();
    let y = Activation::Relu.forward(&Parameters::new(), x, &mut tape, Mode::Evaluation).unwrap();
    assert_eq!(values(&y)[..4], [0.0, 0.0, 0.0, 2.0]);
    assert!(values(&y)[4].is_nan());
    let dy = Tensor::ones(5, DType::F32, &Device::Cpu).unwrap();
    let dx = Activation::Relu.backward(&Parameters::new(), dy, &mut tape, &mut Gradients::none()).unwrap();
    assert_eq!(values(&dx)[..4], [0.0, 0.0, 0.0, 1.0]);
}

#[test]
fn running_statistics_move_only_when_told() {
    let (layer, mut p) = norm(3);
    // 700 rows are more than one block of rows.
    let x = (tensor(12, &[700, 3]) + 100.0).unwrap();
    let before = p.snapshot().unwrap();
    let mut tape = Tape::off();
    layer.forward(&p, x.clone(), &mut tape, Mode::Train(Noise::new(0, 0))).unwrap();
    let statistics = tape.take_statistics();
    for ((_, old), (_, _, new)) in before.iter().zip(p.iter()) {
        assert_eq!(values(old), values(new));
    }
    p.update_statistics(&statistics).unwrap();
    let x = values(&x);
    for channel in 0..3 {
        let column: Vec<f64> = x.iter().skip(channel).step_by(3).copied().collect();
        let mean = column.iter().sum::<f64>() / 700.0;
        let variance = column.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 699.0;
        for (name, batch) in [("running_mean", mean), ("running_var", variance)] {
            let index = p.iter().position(|(_, other, _)| other == name).unwrap();
            let expected = 0.9 * values(&before[index].1)[channel] + 0.1 * batch;
            let got = values(p.get(p.id(name).unwrap()))[channel];
            assert!((got - expected).abs() < 1e-12 * expected.abs(), "{name}: {got} is not {expected}");
        }
    }
    assert_eq!(p.get(p.id("num_batches_tracked").unwrap()).to_scalar::<i64>().unwrap(), 4);
    let mut evaluation = Tape::off();
    evaluate(&layer, &p, &tensor(13, &[2, 3]));
    layer.forward(&p, tensor(13, &[2, 3]), &mut evaluation, Mode::Evaluation).unwrap();
    assert!(evaluation.take_statistics().is_empty());
}

#[test]
fn buffers_get_no_gradient() {
    let (layer, p) = norm(4);
    let mut tape = Tape::recording();
    let y = layer.forward(&p, tensor(14, &[5, 4]), &mut tape, Mode::Train(Noise::new(0, 0))).unwrap();
    let mut gradients = Gradients::wanted(&p);
    layer.backward(&p, y, &mut tape, &mut gradients).unwrap();
    let with: Vec<&str> = gradients.iter().map(|(id, _)| p.name(id)).collect();
    assert_eq!(with, ["weight", "bias"]);
    assert_eq!(p.element_count(), 8);
}

#[test]
fn impossible_inputs_are_refused() {
    let p = parameters(&[("weight", &[4, 2, 3, 3])]);
    let weight = p.id("weight").unwrap();
    let refused = |layer: Convolution, shape: &[usize]| {
        let result = layer.forward(&p, tensor(15, shape), &mut Tape::off(), Mode::Evaluation);
        matches!(result, Err(Error::Shape { .. }))
    };
    assert!(refused(Convolution::new(weight, None), &[1, 2, 5, 2]), "smaller than the kernel");
    assert!(refused(Convolution::new(weight, None), &[1, 5, 5, 3]), "another number of channels");
    assert!(refused(Convolution::new(weight, None).with_stride(0), &[1, 5, 5, 2]), "no stride");
    assert!(refused(Convolution::new(weight, None).with_groups(3), &[1, 5, 5, 6]), "groups do not divide O");
    let (norm, p) = norm(2);
    let alone = norm.forward(&p, tensor(16, &[1, 2]), &mut Tape::off(), Mode::Train(Noise::new(0, 0)));
    assert!(matches!(alone, Err(Error::Shape { .. })), "one value has no variance");
}
