//! Bad input and bad classifiers are refused, naming the sample.

use std::num::NonZeroUsize;

use crate::support::{IMAGE, Linear, PIXELS, images, matrix};
use candle_core::{DType, Device, Tensor};
use sweep_attacks::{Attack, BrokenSamples, Error, Loss, Norm, Start};
use sweep_kernels::{Classifier, Result, Tape};

fn attack() -> Attack {
    Attack::apgd(Norm::Linf, Loss::CrossEntropy, NonZeroUsize::new(3).unwrap())
}

fn refused(model: &dyn Classifier, images: &Tensor, labels: &[u32], epsilon: f64) -> Error {
    let evaluated = attack().evaluate(model, images, labels, epsilon, Start::Clean, BrokenSamples::Stay);
    let crafted = attack().craft(model, images, labels, epsilon).unwrap_err();
    assert_eq!(crafted.to_string(), evaluated.unwrap_err().to_string(), "both uses refuse alike");
    crafted
}

#[test]
fn bad_input_is_refused() {
    let model = Linear::new(1, 3, DType::F32);
    let good = images(1, 2, (0.0, 1.0), DType::F32);
    assert!(matches!(
        refused(&model, &good, &[0, 3], 0.1),
        Error::ClassOutOfRange { sample: 1, class: 3, classes: 3 }
    ));
    assert!(matches!(refused(&model, &good, &[0], 0.1), Error::LabelCount { labels: 1, images: 2 }));
    assert!(matches!(refused(&model, &good, &[0, 1], -0.1), Error::Epsilon { .. }));
    assert!(matches!(refused(&model, &good, &[0, 1], f64::NAN), Error::Epsilon { .. }));
    let flat = good.flatten_from(1).unwrap();
    assert!(matches!(refused(&model, &flat, &[0, 1], 0.1), Error::ImageRank { .. }));
    let integers = good.to_dtype(DType::U8).unwrap();
    assert!(matches!(refused(&model, &integers, &[0, 1], 0.1), Error::ImageType { dtype: DType::U8 }));
    let bright = (&good + 0.5).unwrap();
    assert!(matches!(refused(&model, &bright, &[0, 1], 0.1), Error::PixelOutOfRange { sample: 0, .. }));
}

#[test]
fn a_target_beyond_the_last_class_is_refused() {
    let model = Linear::new(1, 5, DType::F32);
    let clean = images(1, 2, (0.0, 1.0), DType::F32);
    let targeted = |rank: usize| {
        let loss = Loss::TargetedDlr { rank: NonZeroUsize::new(rank).unwrap() };
        Attack::apgd(Norm::Linf, loss, NonZeroUsize::MIN).craft(&model, &clean, &[0, 1], 0.1)
    };
    assert!(targeted(4).is_ok());
    assert!(matches!(targeted(5).unwrap_err(), Error::TooFewClasses { needed: 6, classes: 5 }));
}

#[test]
fn a_start_outside_the_ball_is_refused() {
    let model = Linear::new(1, 3, DType::F32);
    let clean = images(1, 2, (0.2, 0.8), DType::F32);
    let start = (&clean + 0.11).unwrap();
    let from = |start: &Tensor| attack().craft_from(&model, &clean, start, &[0, 1], 0.1).unwrap_err();
    assert!(matches!(from(&start), Error::StartOutsideBall { sample: 0, .. }));
    assert!(matches!(from(&clean.narrow(0, 0, 1).unwrap()), Error::Shape { .. }));
}

#[test]
fn a_divergence_is_not_climbed_from_where_it_is_flat() {
    let model = Linear::new(1, 3, DType::F32);
    let clean = images(1, 2, (0.2, 0.8), DType::F32);
    let attack = Attack::apgd(Norm::Linf, Loss::KullbackLeibler, NonZeroUsize::MIN);
    assert!(matches!(attack.craft(&model, &clean, &[0, 1], 0.1), Err(Error::FlatStart)));
    assert!(attack.craft(&model, &clean, &[0, 1], 0.0).is_ok(), "epsilon 0 needs no slope");
    let evaluated = attack.evaluate(&model, &clean, &[0, 1], 0.1, Start::Clean, BrokenSamples::Stay);
    assert!(matches!(evaluated, Err(Error::FlatStart)));
}

#[test]
fn an_impossible_pgd_step_is_refused() {
    for relative_step in [0.0, -1.0, f64::INFINITY, f64::NAN] {
        let pgd = Attack::pgd(Norm::Linf, Loss::CrossEntropy, NonZeroUsize::MIN, relative_step);
        assert!(matches!(pgd, Err(Error::RelativeStep { .. })));
    }
}

/// Answers fine except in one place.
struct Broken {
    logit_of_second_image: f32,
    slope_of_second_image: f32,
    gradient_columns: usize,
}

impl Broken {
    const FINE: Self = Self { logit_of_second_image: 0.0, slope_of_second_image: 1.0, gradient_columns: 4 };
}

impl Classifier for Broken {
    fn logits(&self, images: &Tensor) -> Result<Tensor> {
        let mut logits = vec![0.0; images.dims()[0] * 2];
        logits[2] = self.logit_of_second_image;
        Ok(Tensor::from_vec(logits, (images.dims()[0], 2), &Device::Cpu)?)
    }

    fn record(&self, images: &Tensor) -> Result<(Tensor, Tape)> {
        Ok((self.logits(images)?, Tape::off()))
    }

    fn input_gradient(&self, _: Tape, logits_gradient: Tensor) -> Result<Tensor> {
        let count = logits_gradient.dims()[0];
        let mut slopes = vec![1.0; count * PIXELS];
        slopes[PIXELS + 5] = self.slope_of_second_image;
        let gradient = Tensor::from_vec(slopes, (count, IMAGE[0], IMAGE[1], IMAGE[2]), &Device::Cpu)?;
        Ok(gradient.narrow(3, 0, self.gradient_columns)?)
    }
}

#[test]
fn numbers_that_are_not_finite_name_the_sample() {
    let clean = images(1, 3, (0.0, 1.0), DType::F32);
    for bad in [f32::NAN, f32::INFINITY] {
        let model = Broken { logit_of_second_image: bad, ..Broken::FINE };
        assert!(matches!(
            refused(&model, &clean, &[0; 3], 0.1),
            Error::NonFiniteLoss { sample: 1, query: 0, .. }
        ));
        let model = Broken { slope_of_second_image: bad, ..Broken::FINE };
        assert!(matches!(
            refused(&model, &clean, &[0; 3], 0.1),
            Error::NonFiniteGradient { sample: 1, query: 0 }
        ));
    }
}

/// Differentiable only where the first of two classes is the more likely one.
struct BrokenWhereWrong(Linear);

impl Classifier for BrokenWhereWrong {
    fn logits(&self, images: &Tensor) -> Result<Tensor> {
        self.0.logits(images)
    }

    fn record(&self, images: &Tensor) -> Result<(Tensor, Tape)> {
        self.0.record(images)
    }

    fn input_gradient(&self, tape: Tape, logits_gradient: Tensor) -> Result<Tensor> {
        let spoil = |row: Vec<f32>| if row[1] > 0.5 { vec![f32::NAN; 2] } else { row };
        let rows: Vec<Vec<f32>> = logits_gradient.to_vec2()?.into_iter().map(spoil).collect();
        self.0.input_gradient(tape, Tensor::new(rows, &Device::Cpu)?)
    }
}

#[test]
fn an_image_that_leaves_needs_no_gradient() {
    // Weights that sum to zero over the pixels, so that no class is preferred by bright images.
    let half = matrix(1, PIXELS / 2, 2, 1.0, DType::F32);
    let weights = Tensor::cat(&[&half, &half.neg().unwrap()], 0).unwrap();
    let model = BrokenWhereWrong(Linear { weights });
    let clean = images(1, 12, (0.0, 1.0), DType::F32);
    let labels = [0; 12];
    let evaluate = |broken| attack().evaluate(&model, &clean, &labels, 0.03, Start::Clean, broken);
    let evaluation = evaluate(BrokenSamples::Leave).unwrap();
    let (clean_correct, still_correct) = (evaluation.clean_correct_count(), evaluation.still_correct_count());
    assert!(0 < still_correct && still_correct < clean_correct, "{still_correct} of {clean_correct}");
    assert!(matches!(evaluate(BrokenSamples::Stay), Err(Error::NonFiniteGradient { .. })));
}

#[test]
fn a_gradient_of_another_shape_is_refused() {
    let clean = images(1, 3, (0.0, 1.0), DType::F32);
    let model = Broken { gradient_columns: 3, ..Broken::FINE };
    assert!(matches!(refused(&model, &clean, &[0; 3], 0.1), Error::Shape { what: "the input gradient", .. }));
}
