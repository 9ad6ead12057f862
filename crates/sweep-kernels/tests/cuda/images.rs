//! What begins a network: normalisation and patch embedding.

use candle_core::{DType, Tensor};
use sweep_kernels::{Compute, Error, Gradients, Layer, Mode, Normalize, Parameters, PatchEmbedding, Tape};

use crate::support::{
    BF16_TOLERANCE, Case, F32_TOLERANCE, assert_close, check, gpu, parameters, random, rounded, train, values,
};

/// Forward and backward with a gradient of the output in the dtype of the output.
fn pass(layer: &Normalize, compute: Compute, x: &Tensor) -> (Tensor, Tensor) {
    let parameters = Parameters::new().to_device(x.device(), compute).unwrap();
    let mut tape = Tape::recording();
    let y = layer.forward(&parameters, x.clone(), &mut tape, Mode::Evaluation).unwrap();
    let dy = random(y.dims(), 2, DType::BF16).to_dtype(y.dtype()).unwrap().to_device(x.device()).unwrap();
    let dx = layer.backward(&parameters, dy, &mut tape, &mut Gradients::none()).unwrap();
    tape.finish().unwrap();
    (y, dx)
}

/// Images are F32 whatever the model computes in, and so is their gradient.
#[test]
fn normalisation() {
    // Planes that are no multiple of 4 and such that are, one channel and more than one launch handles.
    let shapes: [&[usize]; 6] =
        [&[2, 3, 5, 7], &[1, 3, 8, 8], &[3, 1, 1, 1], &[2, 9, 4, 4], &[1, 4, 3, 3], &[2, 3, 33, 36]];
    for shape in shapes {
        let constants = |seed| -> Vec<f64> {
            values(&random(&[shape[1]], seed, DType::F32)).iter().map(|value| value.abs() + 0.1).collect()
        };
        let layer = Normalize::new(&constants(3), &constants(4)).unwrap();
        let x = random(shape, 1, DType::F32);
        let (y, dx) = pass(&layer, Compute::Full, &x);
        let x = x.to_dtype(DType::F32).unwrap();
        let single = pass(&layer, Compute::Full, &x);
        let x = x.to_device(&gpu()).unwrap();
        for (compute, dtype, tolerance) in
            [(Compute::Full, DType::F32, F32_TOLERANCE), (Compute::Bf16, DType::BF16, BF16_TOLERANCE)]
        {
            let found = pass(&layer, compute, &x);
            assert_eq!((found.0.dtype(), found.1.dtype()), (dtype, DType::F32));
            assert_close(&format!("{shape:?} in {dtype:?}"), &found.0, &y, tolerance);
            assert_close(&format!("{shape:?} in {dtype:?}: input gradient"), &found.1, &dx, tolerance);
            if compute == Compute::Full {
                assert_eq!(values(&found.0), values(&single.0), "in F32 the CPU's bits");
                assert_eq!(values(&found.1), values(&single.1), "in F32 the CPU's bits");
            }
        }
    }
}

#[test]
fn normalisation_refuses_what_it_cannot_normalise() {
    let layer = Normalize::new(&[0.5; 3], &[0.2; 3]).unwrap();
    let parameters = Parameters::new().to_device(&gpu(), Compute::Bf16).unwrap();
    let refuse = |shape: &[usize], dtype| {
        let x = random(shape, 1, dtype).to_dtype(dtype).unwrap().to_device(&gpu()).unwrap();
        layer.forward(&parameters, x, &mut Tape::off(), Mode::Evaluation).unwrap_err()
    };
    assert!(matches!(refuse(&[2, 4, 3, 3], DType::F32), Error::Shape { .. }));
    assert!(matches!(refuse(&[2, 3, 3], DType::F32), Error::Shape { .. }));
    assert!(matches!(refuse(&[2, 3, 3, 3], DType::BF16), Error::UnsupportedDtype { .. }));
}

#[test]
fn patch_embedding() {
    // Units of 2, 4, 8 and 16 bytes; widths that are no multiple of 8; images that are not square; batch 1.
    let cases: [(usize, usize, [usize; 4], bool); 7] = [
        (16, 10, [2, 3, 32, 48], true),
        (4, 8, [3, 3, 20, 12], true),
        (2, 5, [1, 1, 6, 4], false),
        (7, 9, [2, 2, 14, 21], true),
        (1, 3, [2, 3, 5, 5], true),
        (8, 33, [1, 3, 8, 8], true),
        (6, 17, [5, 3, 18, 12], false),
    ];
    for (patch, width, shape, has_bias) in cases {
        let shapes: [(&str, &[usize]); 2] =
            [("weight", &[width, shape[1], patch, patch]), ("bias", &[width])];
        let (parameters, ids) = parameters(if has_bias { &shapes } else { &shapes[..1] });
        let layer = PatchEmbedding::new(ids[0], ids.get(1).copied(), patch);
        for (layer, mode) in [(layer, Mode::Evaluation), (layer.as_map(), train())] {
            let name = format!("patches of {patch} to {width}");
            check(&Case { name: &name, layer: &layer, parameters: &parameters, shape: &shape, mode });
        }
    }
}

#[test]
fn patch_embedding_refuses_images_that_patches_do_not_divide() {
    let (parameters, ids) = parameters(&[("weight", &[4, 3, 4, 4])]);
    let moved = rounded(&parameters, DType::F32, DType::F32).to_device(&gpu(), Compute::Bf16).unwrap();
    let x = random(&[1, 3, 10, 8], 1, DType::BF16).to_dtype(DType::BF16).unwrap().to_device(&gpu()).unwrap();
    let layer = PatchEmbedding::new(ids[0], None, 4);
    let error = layer.forward(&moved, x, &mut Tape::off(), Mode::Evaluation).unwrap_err();
    assert!(matches!(error, Error::Shape { .. }));
}
