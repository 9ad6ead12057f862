//! Convolutions, batch norm and pools.

use candle_core::{DType, Device, Tensor};
use sweep_kernels::{
    BatchNorm, Compute, Convolution, DepthwiseConvolution, Gradients, Layer, MaxPool, MeanPool, Mode,
    Parameters, StatisticsIds, Tape,
};

use crate::support::{
    BF16_TOLERANCE, Case, F32_TOLERANCE, assert_close, check, check_within, gpu, parameters, random, rounded,
    train, values,
};

/// Sizes of one convolution.
struct Setting {
    /// (N, H, W, C).
    x: [usize; 4],
    outputs: usize,
    kernel: [usize; 2],
    stride: usize,
    padding: usize,
    groups: usize,
    bias: bool,
}

fn check_convolution(setting: &Setting) {
    let &Setting { x, outputs, kernel, stride, padding, groups, bias } = setting;
    let shape = [outputs, x[3] / groups, kernel[0], kernel[1]];
    let (parameters, ids) = if bias {
        parameters(&[("weight", &shape), ("bias", &[outputs])])
    } else {
        parameters(&[("weight", &shape)])
    };
    let layer = Convolution::new(ids[0], ids.get(1).copied());
    let layer = layer.with_stride(stride).with_padding(padding).with_groups(groups);
    let name = format!("{x:?} to {outputs}, {kernel:?} / {stride}, padding {padding}, {groups} groups");
    check(&Case { name: &name, layer: &layer, parameters: &parameters, shape: &x, mode: Mode::Evaluation });
}

#[test]
fn pointwise_convolutions() {
    let settings = [
        ([1, 1, 1, 1], 1, true),
        ([2, 5, 3, 8], 16, false),
        ([3, 7, 5, 13], 10, true),
        ([1, 9, 11, 40], 33, true),
    ];
    for (x, outputs, bias) in settings {
        let kernel = [1, 1];
        check_convolution(&Setting { x, outputs, kernel, stride: 1, padding: 0, groups: 1, bias });
    }
}

#[test]
fn packed_convolutions() {
    let settings = [
        // Patches that do not overlap: ConvNeXt's, ResNet's, and with pixels left over.
        ([2, 6, 4, 16], 24, [2, 2], 2, 0, 1, true),
        ([2, 7, 9, 8], 5, [2, 2], 2, 0, 1, true),
        ([3, 5, 7, 8], 16, [1, 1], 2, 0, 1, false),
        ([2, 9, 8, 5], 7, [2, 1], 3, 0, 1, false),
        // Channels that are no multiple of 8: images, and others.
        ([2, 19, 17, 3], 8, [7, 7], 2, 3, 1, false),
        ([1, 6, 5, 5], 9, [3, 3], 1, 1, 1, true),
        ([2, 5, 4, 6], 10, [3, 2], 2, 1, 2, true),
        ([2, 4, 6, 3], 3, [3, 3], 1, 2, 3, false),
        ([1, 3, 3, 12], 4, [3, 3], 1, 3, 1, false),
        // Only the outputs are none: gradients of the input are added in packs of channels.
        ([2, 5, 7, 16], 10, [3, 3], 1, 1, 1, false),
        ([3, 6, 5, 48], 12, [3, 2], 2, 1, 2, true),
    ];
    for (x, outputs, kernel, stride, padding, groups, bias) in settings {
        check_convolution(&Setting { x, outputs, kernel, stride, padding, groups, bias });
    }
}

#[test]
fn convolutions_of_the_library() {
    let settings = [
        ([2, 9, 7, 16], 24, [3, 3], 1, 1, 1, false),
        ([3, 8, 9, 8], 16, [3, 3], 2, 1, 1, true),
        ([1, 7, 7, 8], 8, [5, 3], 1, 2, 1, true),
        ([2, 6, 5, 16], 32, [3, 3], 1, 1, 2, false),
        ([2, 4, 4, 8], 8, [1, 1], 1, 1, 1, true),
    ];
    for (x, outputs, kernel, stride, padding, groups, bias) in settings {
        check_convolution(&Setting { x, outputs, kernel, stride, padding, groups, bias });
    }
}

#[test]
fn images_and_whole_pixels_are_not_for_the_library() {
    let (host, ids) = parameters(&[("images", &[8, 3, 3, 3]), ("pixels", &[8, 8, 1, 1])]);
    let moved = rounded(&host, DType::F32, DType::F32).to_device(&gpu(), Compute::Full).unwrap();
    for (id, channels) in ids.into_iter().zip([3, 8]) {
        let layer = Convolution::new(id, None);
        assert!(!layer.is_by_cudnn(&moved, &[2, 5, 5, channels]).unwrap());
        assert!(layer.is_by_cudnn(&moved, &[2, 5, 5, 1]).is_err());
    }
}

#[test]
fn a_filter_that_changes_is_rearranged_again() {
    let device = gpu();
    let (mut host, ids) = parameters(&[("weight", &[8, 8, 3, 3]), ("depthwise", &[8, 1, 7, 7])]);
    let mut moved = rounded(&host, DType::F32, DType::F32).to_device(&device, Compute::Bf16).unwrap();
    let x = random(&[1, 8, 8, 8], 3, DType::BF16);
    let layers: [Box<dyn Layer>; 2] = [
        Box::new(Convolution::new(ids[0], None).with_padding(1)),
        Box::new(DepthwiseConvolution::new(ids[1], None)),
    ];
    for seed in [0, 50] {
        for (index, id) in ids.iter().enumerate() {
            let weight = random(host.get(*id).dims(), seed + index as u64, DType::BF16);
            host.set(*id, weight.clone()).unwrap();
            let weight = weight.to_dtype(DType::F32).unwrap().to_device(&device).unwrap();
            moved.set(*id, weight).unwrap();
        }
        for layer in &layers {
            let evaluate = |parameters: &Parameters, x: Tensor| {
                layer.forward(parameters, x, &mut Tape::off(), Mode::Evaluation).unwrap()
            };
            let on_device = x.to_dtype(DType::BF16).unwrap().to_device(&device).unwrap();
            let (found, expected) = (evaluate(&moved, on_device), evaluate(&host, x.clone()));
            assert_close("after a change", &found, &expected, BF16_TOLERANCE);
        }
    }
}

#[test]
fn depthwise_convolutions() {
    let settings = [
        // ConvNeXt's kernel: one strip and two, several tiles, slabs that are not full, single channels.
        ([1, 7, 7, 128], 7, true),
        ([2, 5, 3, 40], 7, true),
        ([1, 15, 16, 8], 7, false),
        ([2, 14, 14, 72], 7, true),
        ([1, 30, 29, 33], 7, true),
        ([1, 1, 1, 1], 7, true),
        ([3, 20, 6, 17], 7, false),
        // Other kernels.
        ([2, 5, 4, 9], 3, true),
        ([1, 6, 7, 32], 5, false),
        ([2, 3, 3, 5], 1, true),
        ([1, 4, 5, 3], 9, true),
    ];
    for (x, kernel, bias) in settings {
        let weight = [x[3], 1, kernel, kernel];
        let (parameters, ids) = if bias {
            parameters(&[("weight", &weight), ("bias", &[x[3]])])
        } else {
            parameters(&[("weight", &weight)])
        };
        let layer = DepthwiseConvolution::new(ids[0], ids.get(1).copied());
        let name = format!("depthwise {kernel} of {x:?}");
        check(&Case {
            name: &name,
            layer: &layer,
            parameters: &parameters,
            shape: &x,
            mode: Mode::Evaluation,
        });
    }
}

#[test]
fn a_bias_alone_is_trained() {
    let (parameters, ids) = parameters(&[("weight", &[6, 1, 7, 7]), ("bias", &[6])]);
    let layer = DepthwiseConvolution::new(ids[0], Some(ids[1]));
    let moved = rounded(&parameters, DType::F32, DType::F32).to_device(&gpu(), Compute::Full).unwrap();
    let gradient = |parameters: &Parameters, x: Tensor| {
        let mut tape = Tape::recording();
        let y = layer.forward(parameters, x, &mut tape, Mode::Evaluation).unwrap();
        let mut gradients = Gradients::wanted_where(parameters, |name| name == "bias");
        layer.backward(parameters, y, &mut tape, &mut gradients).unwrap();
        assert!(gradients.get(ids[0]).is_none());
        gradients.get(ids[1]).unwrap().clone()
    };
    let x = random(&[2, 9, 8, 6], 4, DType::F32);
    let on_device = x.to_dtype(DType::F32).unwrap().to_device(&gpu()).unwrap();
    let host = rounded(&parameters, DType::F32, DType::F64);
    let (found, expected) = (gradient(&moved, on_device), gradient(&host, x));
    assert_close("bias", &found, &expected, F32_TOLERANCE);
}

fn batch_norm(channels: usize) -> (BatchNorm, Parameters, StatisticsIds) {
    let (mut p, ids) = parameters(&[("weight", &[channels]), ("bias", &[channels])]);
    let variance = (random(&[channels], 22, DType::BF16) + 1.5).unwrap();
    let statistics = StatisticsIds {
        mean: p.add_buffer("running_mean", random(&[channels], 21, DType::F64)).unwrap(),
        variance: p.add_buffer("running_var", variance).unwrap(),
        updates: p.add_buffer("updates", Tensor::new(0_i64, &Device::Cpu).unwrap()).unwrap(),
    };
    (BatchNorm::new(ids[0], ids[1], statistics, 1e-5, 0.1), p, statistics)
}

/// Through batch statistics errors are divided by standard deviations and multiplied by the counts' reciprocals; few values
/// for each channel make that worse.
const STATISTICS_TOLERANCES: [f64; 2] = [1e-4, BF16_TOLERANCE];

#[test]
fn batch_norms() {
    let shapes: [&[usize]; 7] =
        [&[8, 64], &[3, 5, 7, 13], &[2, 9, 9, 40], &[700, 8], &[4, 11, 1, 1], &[1, 3, 5, 300], &[2100, 33]];
    for shape in shapes {
        let (layer, parameters, _) = batch_norm(*shape.last().unwrap());
        for (mode, mode_name) in [(train(), "training"), (Mode::Evaluation, "evaluation")] {
            let name = format!("batch norm of {shape:?} in {mode_name}");
            for (layer, rectifier) in [(layer, "without"), (layer.with_relu(), "with")] {
                let name = format!("{name}, {rectifier} rectifier");
                let case = Case { name: &name, layer: &layer, parameters: &parameters, shape, mode };
                check_within(&case, STATISTICS_TOLERANCES);
            }
        }
    }
}

#[test]
fn batch_statistics() {
    for (shape, offset) in [([6, 3, 3, 5], 0.0), ([40, 7, 9, 16], 100.0), ([1, 1, 2, 3], -3.0)] {
        let (layer, mut host, ids) = batch_norm(shape[3]);
        let mut moved = Parameters::new();
        for (id, name, tensor) in host.iter() {
            let tensor = match tensor.dtype() {
                DType::F64 => tensor.to_dtype(DType::F32).unwrap(),
                _ => tensor.clone(),
            };
            if host.is_buffer(id) {
                moved.add_buffer(name, tensor).unwrap();
            } else {
                moved.add(name, tensor).unwrap();
            }
        }
        let mut moved = moved.to_device(&gpu(), Compute::Full).unwrap();
        // Far from 0, a variance from sums of squares would be wrong in most digits.
        let x = (random(&shape, 9, DType::BF16) + offset).unwrap().to_dtype(DType::F32).unwrap();
        let on_device = x.to_device(&gpu()).unwrap();
        for (parameters, x) in [(&mut host, x.to_dtype(DType::F64).unwrap()), (&mut moved, on_device)] {
            let mut tape = Tape::off();
            layer.forward(parameters, x, &mut tape, train()).unwrap();
            parameters.update_statistics(&tape.take_statistics()).unwrap();
        }
        for id in [ids.mean, ids.variance] {
            assert_close("running statistics", moved.get(id), host.get(id), F32_TOLERANCE);
        }
        assert_eq!(values(moved.get(ids.updates)), [1.0]);
    }
}

#[test]
fn max_pools() {
    let settings = [
        ([2, 8, 8, 16], 3, 2, 1),
        ([1, 9, 7, 13], 3, 2, 1),
        ([3, 6, 5, 8], 2, 2, 0),
        ([1, 5, 5, 4], 2, 1, 1),
        ([2, 9, 8, 5], 2, 3, 0),
        ([1, 17, 16, 3], 16, 1, 8),
        ([2, 11, 10, 40], 5, 2, 2),
    ];
    for (shape, kernel, stride, padding) in settings {
        let layer = MaxPool::new(kernel, stride, padding);
        let name = format!("max pool {kernel} / {stride}, padding {padding} of {shape:?}");
        let parameters = Parameters::new();
        let mode = Mode::Evaluation;
        check(&Case { name: &name, layer: &layer, parameters: &parameters, shape: &shape, mode });
    }
}

#[test]
fn equal_values_and_nan_win_as_on_the_cpu() {
    let layer = MaxPool::new(3, 2, 1);
    for channels in [3, 8] {
        let shape = [2, 9, 10, channels];
        // Few different values: most neighbourhoods have several largest ones. Some are not numbers.
        let numbers: Vec<f32> = values(&random(&shape, 11, DType::F64))
            .into_iter()
            .map(|value| if value > 0.98 { f32::NAN } else { (value * 2.0).round() as f32 })
            .collect();
        let x = Tensor::from_vec(numbers, &shape, &Device::Cpu).unwrap();
        let passes = |x: Tensor| {
            let parameters = Parameters::new();
            let mut tape = Tape::recording();
            let y = layer.forward(&parameters, x, &mut tape, Mode::Evaluation).unwrap();
            let dy = random(y.dims(), 12, DType::BF16).to_dtype(DType::F32).unwrap();
            let dy = dy.to_device(y.device()).unwrap();
            let dx = layer.backward(&parameters, dy, &mut tape, &mut Gradients::none()).unwrap();
            [values(&y), values(&dx)].map(|values| values.into_iter().map(f64::to_bits).collect::<Vec<_>>())
        };
        assert_eq!(passes(x.to_device(&gpu()).unwrap()), passes(x));
    }
}

#[test]
fn mean_pools() {
    let shapes: [&[usize]; 6] =
        [&[2, 7, 7, 16], &[1, 1, 1, 1], &[3, 5, 13], &[2, 50, 3, 300], &[5, 40], &[1, 9, 8, 2056]];
    for shape in shapes {
        let name = format!("mean pool of {shape:?}");
        let parameters = Parameters::new();
        let mode = Mode::Evaluation;
        check(&Case { name: &name, layer: &MeanPool, parameters: &parameters, shape, mode });
    }
}

#[test]
fn what_the_cpu_refuses_is_refused() {
    let (host, ids) = parameters(&[("weight", &[4, 2, 3, 3]), ("depthwise", &[4, 1, 7, 7])]);
    let (norm, norms, _) = batch_norm(4);
    let in_f32 = |parameters: &Parameters| rounded(parameters, DType::F32, DType::F32);
    let norms_moved = in_f32(&norms).to_device(&gpu(), Compute::Full).unwrap();
    let moved = in_f32(&host).to_device(&gpu(), Compute::Full).unwrap();
    let convolution = Convolution::new(ids[0], None);
    let refused: [(&dyn Layer, &Parameters, &[usize], Mode); 7] = [
        (&convolution, &moved, &[1, 2, 5, 2], Mode::Evaluation),
        (&convolution, &moved, &[1, 5, 5, 3], Mode::Evaluation),
        (&DepthwiseConvolution::new(ids[1], None), &moved, &[1, 5, 5, 3], Mode::Evaluation),
        (&norm, &norms_moved, &[5, 3], Mode::Evaluation),
        (&norm, &norms_moved, &[1, 4], train()),
        (&MaxPool::new(17, 1, 0), &moved, &[1, 20, 20, 2], Mode::Evaluation),
        (&MeanPool, &moved, &[2, 0, 3], Mode::Evaluation),
    ];
    for (layer, parameters, shape, mode) in refused {
        let x = Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
        let x = if x.elem_count() == 0 { x } else { x.to_device(&gpu()).unwrap() };
        assert!(layer.forward(parameters, x, &mut Tape::recording(), mode).is_err(), "{shape:?}");
    }
}
