//! What the configurations of all families share: normalisation constants, checks, rates of stochastic depth.

use crate::{Error, Result};

/// Normalisation constants of ImageNet, which the paper's code feeds to every backbone but the CLIP ones (A.3).
pub const IMAGENET_MEAN: [f64; 3] = [0.485, 0.456, 0.406];
/// See [`IMAGENET_MEAN`].
pub const IMAGENET_STD: [f64; 3] = [0.229, 0.224, 0.225];
/// Normalisation constants of CLIP.
pub const CLIP_MEAN: [f64; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
/// See [`CLIP_MEAN`].
pub const CLIP_STD: [f64; 3] = [0.268_629_54, 0.261_302_58, 0.275_777_11];

/// Refuses a value of the field `name`.
pub(crate) fn refuse(name: &'static str, value: &impl ToString, expected: impl Into<String>) -> Result<()> {
    Err(Error::Architecture { name, value: value.to_string(), expected: expected.into() })
}

/// Largest number in a configuration: far beyond any network, and small enough that what is computed from a few of them
/// fits a `usize`.
const LARGEST: usize = 1 << 20;

/// Refuses fields that are 0 or beyond [`LARGEST`].
pub(crate) fn at_least_one(fields: &[(&'static str, usize)]) -> Result<()> {
    match fields.iter().find(|(_, value)| !(1..=LARGEST).contains(value)) {
        Some((name, value)) => refuse(name, value, format!("at least 1 and at most {LARGEST}")),
        None => Ok(()),
    }
}

/// Refuses a list that does not hold one positive number, at most [`LARGEST`], for each of `stages` stages.
pub(crate) fn one_per_stage(name: &'static str, values: &[usize], stages: usize) -> Result<()> {
    if values.len() == stages && values.iter().all(|value| (1..=LARGEST).contains(value)) {
        return Ok(());
    }
    let shown = &values[..values.len().min(stages + 1)];
    let expected = format!("{stages} positive numbers of at most {LARGEST}, one for each stage");
    refuse(name, &format!("{shown:?}"), expected)
}

/// Refuses a number that is not a multiple of another.
pub(crate) fn multiple_of(name: &'static str, value: usize, factor: usize, what: &str) -> Result<()> {
    if value.is_multiple_of(factor) {
        return Ok(());
    }
    refuse(name, &value, format!("a multiple of {what} {factor}"))
}

/// Refuses standard deviations that nothing can be divided by.
pub(crate) fn positive_std(std: [f64; 3]) -> Result<()> {
    match std.into_iter().find(|value| !value.is_finite() || *value <= 0.0) {
        Some(value) => refuse("std", &value, "positive numbers"),
        None => Ok(()),
    }
}

/// Refuses a rate of stochastic depth that is no probability below 1.
pub(crate) fn drop_path_rate(rate: f64) -> Result<()> {
    if (0.0..1.0).contains(&rate) {
        return Ok(());
    }
    refuse("drop_path", &rate, "a probability below 1")
}

/// Width of the hidden layer of an MLP, rounded down as in timm.
pub(crate) fn hidden_width(width: usize, mlp_ratio: f64) -> usize {
    (width as f64 * mlp_ratio) as usize
}

/// Refuses an MLP without hidden units.
pub(crate) fn some_hidden_units(width: usize, mlp_ratio: f64) -> Result<()> {
    if mlp_ratio.is_finite() && hidden_width(width, mlp_ratio) > 0 {
        return Ok(());
    }
    refuse("mlp_ratio", &mlp_ratio, "a number that leaves at least one hidden unit")
}

/// The rate of stochastic depth of each block of each stage: linear over all blocks of the network, from 0 at the first
/// to `rate` at the last (timm's `calculate_drop_path_rates`).
pub(crate) fn drop_path_rates(rate: f64, depths: &[usize]) -> Vec<Vec<f64>> {
    let last = depths.iter().sum::<usize>().saturating_sub(1).max(1) as f64;
    let mut rates = (0..).map(|block| rate * f64::from(block) / last);
    depths.iter().map(|depth| rates.by_ref().take(*depth).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::drop_path_rates;

    #[test]
    fn rates_grow_linearly_over_all_blocks() {
        let rates = drop_path_rates(0.1, &[2, 1, 3]);
        let sizes: Vec<usize> = rates.iter().map(Vec::len).collect();
        assert_eq!(sizes, [2, 1, 3]);
        for (rate, expected) in rates.concat().into_iter().zip([0.0, 0.02, 0.04, 0.06, 0.08, 0.1]) {
            // 0.1 and its multiples have no exact binary form.
            assert!((rate - expected).abs() < 1e-15, "{rate} is not {expected}");
        }
        assert_eq!(drop_path_rates(0.3, &[1]), [[0.0]]);
        assert!(drop_path_rates(0.0, &[4, 4]).concat().iter().all(|rate| *rate == 0.0));
    }
}
