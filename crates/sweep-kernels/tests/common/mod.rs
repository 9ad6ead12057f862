//! The finite-difference check that every layer and loss goes through.

use candle_core::{DType, Device, Tensor};
use sweep_kernels::{Gradients, Layer, Mode, Noise, Parameters, Tape};

/// Relative error (norm) allowed between gradients and central differences in f64. The differences themselves are
/// good to about 1e-9 at the step below.
pub(crate) const RELATIVE: f64 = 1e-6;
/// Step of the central differences: truncation (its square) and rounding (1e-16 / step) are both near 1e-10.
const STEP: f64 = 1e-5;

/// Numbers in (-1, 1) that look random and do not repeat; `seed` picks the sequence.
pub(crate) fn numbers(seed: u64, len: usize) -> Vec<f64> {
    let hash = |index: u64| {
        let mut z =
            (index + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ seed.wrapping_mul(0xD134_2543_DE82_EF95);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
    };
    (0..len as u64).map(hash).collect()
}

/// An f64 tensor of [`numbers`].
pub(crate) fn tensor(seed: u64, shape: &[usize]) -> Tensor {
    Tensor::from_vec(numbers(seed, shape.iter().product()), shape, &Device::Cpu).unwrap()
}

/// All elements in order, as f64.
pub(crate) fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// The same elements in a layout that is not row-major: every second element of a larger tensor.
pub(crate) fn scattered(tensor: &Tensor) -> Tensor {
    let rank = tensor.rank();
    let interleaved = Tensor::stack(&[tensor, &tensor.ones_like().unwrap()], rank).unwrap();
    let view = interleaved.narrow(rank, 0, 1).unwrap().squeeze(rank).unwrap();
    assert!(tensor.elem_count() < 2 || !view.is_contiguous());
    view
}

/// Parameters of the given names and shapes.
pub(crate) fn parameters(entries: &[(&str, &[usize])]) -> Parameters {
    let mut parameters = Parameters::new();
    for (seed, (name, shape)) in entries.iter().enumerate() {
        parameters.add(*name, tensor(seed as u64 + 10, shape)).unwrap();
    }
    parameters
}

fn assert_close(what: &str, got: &[f64], expected: &[f64]) {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    let difference = norm(&mut got.iter().zip(expected).map(|(a, b)| a - b));
    // A gradient that vanishes altogether is compared absolutely.
    let size = norm(&mut expected.iter().copied()).max(1e-3);
    assert!(difference < RELATIVE * size, "{what}: off by {difference:e} of {size:e}");
}

/// Central differences of `f` at `x`, one element at a time.
pub(crate) fn differences(x: &Tensor, mut f: impl FnMut(Tensor) -> f64) -> Vec<f64> {
    let base = values(x);
    let mut moved = |index: usize, step: f64| {
        let mut changed = base.clone();
        changed[index] += step;
        f(Tensor::from_vec(changed, x.shape(), &Device::Cpu).unwrap())
    };
    (0..base.len()).map(|index| (moved(index, STEP) - moved(index, -STEP)) / (2.0 * STEP)).collect()
}

/// Checks the input gradient and every parameter gradient of `layer` at `x` against central differences of a random
/// linear function of its output; that frozen weights leave the input gradient as it is, to the bit; and that a
/// non-contiguous input and output gradient change nothing.
pub(crate) fn check_layer(layer: &impl Layer, parameters: &mut Parameters, x: &Tensor) {
    check_layer_in(Mode::Train(Noise::new(0, 0)), layer, parameters, x);
}

/// [`check_layer`] in a mode of the caller's choice.
pub(crate) fn check_layer_in(mode: Mode, layer: &impl Layer, parameters: &mut Parameters, x: &Tensor) {
    let y = layer.forward(parameters, x.clone(), &mut Tape::off(), mode).unwrap();
    let direction = tensor(77, y.dims());
    let scalar = |parameters: &Parameters, x: Tensor| -> f64 {
        let y = layer.forward(parameters, x, &mut Tape::off(), mode).unwrap();
        values(&y).iter().zip(values(&direction)).map(|(y, d)| y * d).sum()
    };
    let run = |x: &Tensor, direction: &Tensor, mut gradients: Gradients| {
        let mut tape = Tape::recording();
        let recorded = layer.forward(parameters, x.clone(), &mut tape, mode).unwrap();
        assert_eq!(values(&recorded), values(&y), "recording changes the output");
        let dx = layer.backward(parameters, direction.clone(), &mut tape, &mut gradients).unwrap();
        tape.finish().unwrap();
        assert_eq!(dx.dims(), x.dims());
        (values(&dx), gradients)
    };
    let (dx, gradients) = run(x, &direction, Gradients::wanted(parameters));
    assert_close("input gradient", &dx, &differences(x, |x| scalar(parameters, x)));
    assert_eq!(run(x, &direction, Gradients::none()).0, dx, "frozen weights change the input gradient");
    let (strided, strided_gradients) =
        run(&scattered(x), &scattered(&direction), Gradients::wanted(parameters));
    assert_eq!(strided, dx, "the layout changes the input gradient");
    let trainable: Vec<_> =
        parameters.trainable().map(|(id, name, tensor)| (id, name.to_owned(), tensor.clone())).collect();
    for (id, name, original) in trainable {
        let gradient = gradients.get(id).unwrap_or_else(|| panic!("{name} has no gradient"));
        assert_eq!(gradient.dims(), original.dims());
        assert_eq!(
            values(gradient),
            values(strided_gradients.get(id).unwrap()),
            "the layout changes that of {name}"
        );
        let expected = differences(&original, |value| {
            parameters.set(id, value).unwrap();
            scalar(parameters, x.clone())
        });
        parameters.set(id, original).unwrap();
        assert_close(&name, &values(gradient), &expected);
    }
}
