//! Optimizer steps: one fused pass over parameter, gradient and state, in place. On a GPU all parameters of all groups are
//! one launch, which also renews the copies in BF16 that products read.
//!
//! A learning-rate schedule lives outside: it is the multiplier given to each step.

mod adamw;
mod sgd;
mod state;

use std::collections::HashMap;

use candle_core::Tensor;

pub use adamw::{AdamW, AdamWSettings};
pub use sgd::{Sgd, SgdSettings};

use crate::{Error, Gradients, ParameterId, Parameters, Result};

/// Parameters that share a learning rate and a weight decay.
#[derive(Clone, Debug)]
pub struct ParameterGroup {
    /// The members. A parameter may be in one group only; one in no group is never changed.
    pub parameters: Vec<ParameterId>,
    /// The learning rate before the schedule's multiplier, not negative.
    pub learning_rate: f64,
    /// The weight decay, not negative.
    pub weight_decay: f64,
}

/// Changes parameters along their gradients.
pub trait Optimizer: Send {
    /// Does one step with each group's learning rate times `multiplier` (the learning-rate schedule's value).
    ///
    /// A parameter without a gradient is left alone, its state too, as in PyTorch. The parameters' storage is
    /// overwritten in place.
    fn step(&mut self, parameters: &mut Parameters, gradients: &Gradients, multiplier: f64) -> Result<()>;

    /// A copy of the state, as named tensors from which [`Optimizer::restore`] continues to the same bits:
    /// `step.NAME` (I64 scalar) and one tensor for each moment of parameter NAME, under PyTorch's name for it. All are on
    /// the CPU, wherever the parameters are.
    fn state(&self, parameters: &Parameters) -> Result<Vec<(String, Tensor)>>;

    /// Replaces the state by one that [`Optimizer::state`] returned.
    ///
    /// # Errors
    /// [`Error::OptimizerState`] for a name or shape that does not belong to `parameters`; the state is then unchanged.
    fn restore(&mut self, parameters: &Parameters, state: &HashMap<String, Tensor>) -> Result<()>;
}

/// Refuses rates that would walk uphill or produce NaN, and parameters in two groups.
fn check_groups(groups: &[ParameterGroup]) -> Result<()> {
    let mut seen = std::collections::HashSet::new();
    for group in groups {
        check_setting("learning_rate", group.learning_rate, 0.0..=f64::MAX, "a number that is not negative")?;
        check_setting("weight_decay", group.weight_decay, 0.0..=f64::MAX, "a number that is not negative")?;
        if let Some(id) = group.parameters.iter().find(|id| !seen.insert(**id)) {
            let value = id.index() as f64;
            return Err(Error::Setting {
                name: "parameter",
                value,
                expected: "a parameter in no other group",
            });
        }
    }
    Ok(())
}

fn check_setting(
    name: &'static str,
    value: f64,
    range: std::ops::RangeInclusive<f64>,
    expected: &'static str,
) -> Result<()> {
    if range.contains(&value) { Ok(()) } else { Err(Error::Setting { name, value, expected }) }
}
