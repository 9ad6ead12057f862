//! Learning rates against those of PyTorch and timm, epoch by epoch and step by step.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

use serde_json::Value;
use sweep_core::schedule::{Granularity, LearningRateSchedule};

/// Of the base rate; both sides compute a cosine in f64.
const LIMIT: f64 = 1e-12;

/// A stored trajectory: rates of the epochs or updates from 0 on, its base rate, and its smallest rate.
struct Trajectory {
    rates: Vec<f64>,
    base: f64,
    smallest: f64,
}

impl Trajectory {
    fn read(name: &str) -> Self {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/schedules.json");
        let all: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let stored = &all[name];
        let smallest = stored["eta_min"].as_f64().or(stored["args"]["lr_min"].as_f64()).unwrap();
        let rates = stored["lr"].as_array().unwrap().iter().map(|rate| rate.as_f64().unwrap()).collect();
        Self { rates, base: stored["base_lr"].as_f64().unwrap(), smallest }
    }

    /// What the rate of `index` is, as a part of the way from the smallest to the base rate. Ours ends at 0.
    fn multiplier(&self, index: u32) -> f64 {
        (self.rates[index as usize] - self.smallest) / (self.base - self.smallest)
    }
}

fn cosine(warmup_epochs: u32, per: Granularity) -> LearningRateSchedule {
    LearningRateSchedule::Cosine { warmup_epochs, per }
}

fn assert_near(found: f64, expected: f64, place: &str) {
    assert!((found - expected).abs() < LIMIT, "{place}: {found} instead of {expected}");
}

#[test]
fn epochs_without_warm_up() {
    for (name, epochs) in [
        ("torch_cosine.T50.eta0", 50),
        ("torch_cosine.T50.eta1e-6", 50),
        ("torch_cosine.T7.eta0", 7),
        ("timm_cosine.plain", 50),
    ] {
        let stored = Trajectory::read(name);
        for epoch in 0..epochs {
            let found = cosine(0, Granularity::Epoch).multiplier(epoch, epochs, 3, 4);
            assert_near(found, stored.multiplier(epoch), name);
        }
    }
}

/// timm's warm-up with `warmup_prefix` has the cosine after it, as ours; a budget of 55 epochs leaves it 50.
#[test]
fn the_cosine_follows_the_warm_up() {
    let stored = Trajectory::read("timm_cosine.warmup5_prefix");
    for epoch in 5..55 {
        let found = cosine(5, Granularity::Epoch).multiplier(epoch, 55, 0, 4);
        assert_near(found, stored.multiplier(epoch), "after the warm-up");
    }
}

/// timm's warm-up has its first update at rate 0, ours at the first part of the way: ours is one ahead, and the last of
/// it is at the full rate.
#[test]
fn the_warm_up_rises_evenly_by_steps_and_by_epochs() {
    let stored = Trajectory::read("timm_cosine.updates");
    let (warmup, steps) = (2, 6);
    for update in 0..warmup * steps - 1 {
        let found = cosine(warmup, Granularity::Step).multiplier(update / steps, 20, update % steps, steps);
        assert_near(found, stored.multiplier(update + 1), "by steps");
        let by_epochs = cosine(12, Granularity::Epoch).multiplier(update, 120, 0, 1);
        assert_near(by_epochs, stored.multiplier(update + 1), "by epochs");
    }
    assert_near(cosine(warmup, Granularity::Step).multiplier(1, 20, steps - 1, steps), 1.0, "its last step");
}

/// A cosine over ten epochs of five steps each is PyTorch's over fifty.
#[test]
fn steps_without_warm_up() {
    let stored = Trajectory::read("torch_cosine.T50.eta0");
    for update in 0..50 {
        let found = cosine(0, Granularity::Step).multiplier(update / 5, 10, update % 5, 5);
        assert_near(found, stored.multiplier(update), "by steps");
    }
}
