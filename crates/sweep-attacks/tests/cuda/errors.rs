//! Bad input and bad classifiers are refused in the words of the CPU, although the answers are read at the end.

use std::num::NonZeroUsize;

use candle_core::{DType, Device, Tensor};
use sweep_attacks::{Attack, BrokenSamples, Error, Loss, Norm, Objective, Start};
use sweep_kernels::{Classifier, Result, Tape};

use crate::support::{Network, device, images};

fn attack(norm: Norm) -> Attack {
    Attack::apgd(norm, Loss::CrossEntropy, NonZeroUsize::new(3).unwrap())
}

/// The same error from crafting and evaluating, on both devices. `clean` is on the CPU.
fn refused(model: &dyn Classifier, clean: &Tensor, labels: &[u32], epsilon: f64) -> Error {
    let mut first = None;
    for norm in [Norm::Linf, Norm::L2] {
        for images in [clean.clone(), clean.to_device(&device()).unwrap()] {
            let attack = attack(norm);
            let crafted = attack.craft(model, &images, labels, epsilon).unwrap_err();
            for broken in [BrokenSamples::Stay, BrokenSamples::Leave] {
                let evaluated = attack.evaluate(model, &images, labels, epsilon, Start::Clean, broken);
                assert_eq!(evaluated.unwrap_err().to_string(), crafted.to_string(), "{broken:?}");
            }
            let first = first.get_or_insert_with(|| crafted.to_string());
            assert_eq!(*first, crafted.to_string(), "{norm:?} on {:?}", images.device().location());
        }
    }
    attack(Norm::Linf).craft(model, &clean.to_device(&device()).unwrap(), labels, epsilon).unwrap_err()
}

#[test]
fn bad_input_is_refused() {
    let model = Network::linear(1, 48, 3);
    let good = images(1, [2, 3, 4, 4]);
    assert!(matches!(refused(&model, &good, &[0, 3], 0.1), Error::ClassOutOfRange { sample: 1, .. }));
    assert!(matches!(refused(&model, &good, &[0], 0.1), Error::LabelCount { .. }));
    assert!(matches!(refused(&model, &good, &[0, 1], -0.1), Error::Epsilon { .. }));
    assert!(matches!(refused(&model, &good, &[0, 1], f64::NAN), Error::Epsilon { .. }));
    let flat = good.flatten_from(1).unwrap();
    assert!(matches!(refused(&model, &flat, &[0, 1], 0.1), Error::ImageRank { .. }));
    for bad in [1.5, -0.25, f32::NAN] {
        let mut pixels: Vec<f32> = good.flatten_all().unwrap().to_vec1().unwrap();
        (pixels[48 + 31], pixels[48 + 40]) = (bad, 7.0);
        let spoilt = Tensor::from_vec(pixels, good.dims(), &Device::Cpu).unwrap();
        match refused(&model, &spoilt, &[0, 1], 0.1) {
            Error::PixelOutOfRange { sample: 1, value } => {
                assert_eq!(value.to_string(), f64::from(bad).to_string());
            }
            other => panic!("{other:?}"),
        }
        let at_zero = attack(Norm::Linf).craft(&model, &spoilt.to_device(&device()).unwrap(), &[0, 1], 0.0);
        assert!(matches!(at_zero, Err(Error::PixelOutOfRange { sample: 1, .. })));
    }
    let wide = good.to_dtype(DType::F64).unwrap().to_device(&device()).unwrap();
    let wide = attack(Norm::Linf).craft(&model, &wide, &[0, 1], 0.1);
    assert!(matches!(wide, Err(Error::ImageTypeOnGpu { dtype: DType::F64 })));
}

#[test]
fn a_start_outside_the_ball_is_refused() {
    let model = Network::linear(1, 48, 3);
    let clean = (images(1, [3, 3, 4, 4]) * 0.5).unwrap();
    let shift = |by: f64, sample: usize| {
        let rows = (0..3).map(|row| clean.narrow(0, row, 1)? + if row == sample { by } else { 0.0 });
        let rows = rows.collect::<candle_core::Result<Vec<_>>>().unwrap();
        Tensor::cat(&rows, 0).unwrap().to_device(&device()).unwrap()
    };
    let on_gpu = clean.to_device(&device()).unwrap();
    // 48 pixels that are off by as much have about seven times the length.
    for (norm, size) in [(Norm::Linf, 0.1), (Norm::L2, 0.1 * 48_f64.sqrt())] {
        let from = |start: &Tensor| attack(norm).craft_from(&model, &on_gpu, start, &[0, 1, 2], size);
        assert!(from(&shift(0.0999, 1)).is_ok());
        assert!(matches!(from(&shift(0.1002, 1)), Err(Error::StartOutsideBall { sample: 1, .. })));
        assert!(matches!(from(&on_gpu.narrow(0, 0, 1).unwrap()), Err(Error::Shape { .. })));
    }
}

#[test]
fn impossible_losses_are_refused() {
    let clean = images(1, [2, 3, 4, 4]).to_device(&device()).unwrap();
    let craft = |loss, classes| {
        let attack = Attack::apgd(Norm::Linf, loss, NonZeroUsize::MIN);
        attack.craft(&Network::linear(1, 48, classes), &clean, &[0, 1], 0.1)
    };
    let targeted = |rank| Loss::TargetedDlr { rank: NonZeroUsize::new(rank).unwrap() };
    assert!(craft(targeted(4), 5).is_ok());
    assert!(matches!(craft(targeted(5), 5), Err(Error::TooFewClasses { needed: 6, classes: 5 })));
    assert!(matches!(craft(targeted(1), 3), Err(Error::TooFewClasses { needed: 4, classes: 3 })));
    assert!(matches!(craft(Loss::Dlr, 2), Err(Error::TooFewClasses { needed: 3, classes: 2 })));
    assert!(matches!(craft(Loss::KullbackLeibler, 5), Err(Error::FlatStart)));
    let objective = Objective::KullbackLeibler { label: 0, clean: [0.5, 0.5].into() };
    let objectives = [Objective::CrossEntropy { label: 0 }, objective];
    let given = attack(Norm::Linf).craft_with(&Network::linear(1, 48, 3), &clean, &clean, &objectives, 0.1);
    assert!(matches!(given, Err(Error::Shape { what: "the clean probabilities", .. })));
}

/// Answers fine except for the second image.
struct Broken {
    logit: f32,
    slope: f32,
    gradient_columns: usize,
}

impl Broken {
    const FINE: Self = Self { logit: 0.0, slope: 1.0, gradient_columns: 4 };
}

impl Classifier for Broken {
    fn logits(&self, images: &Tensor) -> Result<Tensor> {
        let mut logits = vec![0.0; images.dims()[0] * 2];
        logits[2] = self.logit;
        Ok(Tensor::from_vec(logits, (images.dims()[0], 2), images.device())?)
    }

    fn record(&self, images: &Tensor) -> Result<(Tensor, Tape)> {
        Ok((self.logits(images)?, Tape::off()))
    }

    fn input_gradient(&self, _: Tape, logits_gradient: Tensor) -> Result<Tensor> {
        let (count, columns) = (logits_gradient.dims()[0], self.gradient_columns);
        let mut slopes = vec![1.0; count * 12 * columns];
        slopes[12 * columns + 5] = self.slope;
        Ok(Tensor::from_vec(slopes, (count, 3, 4, columns), logits_gradient.device())?)
    }
}

#[test]
fn numbers_that_are_not_finite_name_the_sample() {
    let clean = images(1, [3, 3, 4, 4]);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let model = Broken { logit: bad, ..Broken::FINE };
        assert!(matches!(
            refused(&model, &clean, &[0; 3], 0.1),
            Error::NonFiniteLoss { sample: 1, query: 0, .. }
        ));
        let model = Broken { slope: bad, ..Broken::FINE };
        assert!(matches!(
            refused(&model, &clean, &[0; 3], 0.1),
            Error::NonFiniteGradient { sample: 1, query: 0 }
        ));
    }
    let model = Broken { gradient_columns: 3, ..Broken::FINE };
    assert!(matches!(refused(&model, &clean, &[0; 3], 0.1), Error::Shape { what: "the input gradient", .. }));
}
