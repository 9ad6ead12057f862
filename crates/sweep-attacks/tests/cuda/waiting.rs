//! How often an attack waits for the GPU, counted by the emulated device.

use std::ffi::{CStr, c_char, c_void};
use std::num::NonZeroUsize;

use candle_core::Tensor;
use sweep_attacks::{Attack, BrokenSamples, Loss, Norm, Start};
use sweep_kernels::{Classifier, Result, Tape};

use crate::support::{device, images};

unsafe extern "C" {
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
}

const COUNTER: &CStr = c"sweep_emulator_synchronizations";

/// How often this thread has waited so far; `None` on a real GPU.
fn synchronizations() -> Option<u64> {
    // SAFETY: a null handle asks the libraries of this process; the function, where there is one, has this type.
    let count = unsafe {
        std::mem::transmute::<*mut c_void, Option<extern "C" fn() -> u64>>(dlsym(
            std::ptr::null_mut(),
            COUNTER.as_ptr(),
        ))
    };
    count.map(|count| count())
}

/// Always gives the same answers, which are on the GPU already.
struct Constant {
    logits: Tensor,
    gradient: Tensor,
}

impl Classifier for Constant {
    fn logits(&self, images: &Tensor) -> Result<Tensor> {
        Ok(self.logits.narrow(0, 0, images.dims()[0])?)
    }

    fn record(&self, images: &Tensor) -> Result<(Tensor, Tape)> {
        Ok((self.logits(images)?, Tape::off()))
    }

    fn input_gradient(&self, _: Tape, logits_gradient: Tensor) -> Result<Tensor> {
        Ok(self.gradient.narrow(0, 0, logits_gradient.dims()[0])?)
    }
}

/// Counts what `work` adds, the second time: the first use of a device loads kernels.
fn waits(mut work: impl FnMut()) -> Option<u64> {
    work();
    let before = synchronizations()?;
    work();
    Some(synchronizations()? - before)
}

#[test]
fn crafting_waits_once_and_its_beginning_never() {
    let clean = images(1, [4, 3, 8, 8]).to_device(&device()).unwrap();
    let logits = Tensor::new(&[[1.0_f32, 0.5, 0.25, 0.0]; 4], &device()).unwrap();
    let model = Constant { logits, gradient: images(2, [4, 3, 8, 8]).to_device(&device()).unwrap() };
    let losses = [Loss::CrossEntropy, Loss::Dlr, Loss::TargetedDlr { rank: NonZeroUsize::MIN }];
    for (norm, loss) in [Norm::Linf, Norm::L2].into_iter().flat_map(|norm| losses.map(|loss| (norm, loss))) {
        let attack = Attack::apgd(norm, loss, NonZeroUsize::new(7).unwrap());
        let craft = || drop(attack.craft(&model, &clean, &[0; 4], 0.1).unwrap());
        if let Some(waits) = waits(craft) {
            assert_eq!(waits, 1, "{norm:?} {loss:?}");
        }
        let mut begun = Vec::new();
        let begin = || begun.push(attack.begin(&model, &clean, &[0; 4], 0.1).unwrap());
        if let Some(waits) = waits(begin) {
            assert_eq!(waits, 0, "{norm:?} {loss:?}");
        }
        for crafting in begun {
            crafting.report.check().unwrap();
        }
    }
}

/// For the clean images, at the end and for a look at the points; where broken images leave, after each query but the last.
#[test]
fn evaluations_wait_as_often_as_they_must() {
    let clean = images(1, [4, 3, 8, 8]).to_device(&device()).unwrap();
    let logits = Tensor::new(&[[1.0_f32, 0.5, 0.25, 0.0]; 4], &device()).unwrap();
    let model = Constant { logits, gradient: images(2, [4, 3, 8, 8]).to_device(&device()).unwrap() };
    let attack = Attack::apgd(Norm::Linf, Loss::CrossEntropy, NonZeroUsize::new(10).unwrap());
    for (broken, most) in [(BrokenSamples::Stay, 3), (BrokenSamples::Leave, 13)] {
        let evaluate = || drop(attack.evaluate(&model, &clean, &[0; 4], 0.1, Start::Clean, broken).unwrap());
        if let Some(waits) = waits(evaluate) {
            assert!(waits <= most, "{broken:?}: {waits}");
        }
    }
}
