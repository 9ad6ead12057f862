//! The moving average of parameters on a GPU.

use crate::cuda::{Gpu, Table};
use crate::{ParameterId, Parameters, Result};

/// Moves the parameters `ids` of `average` towards those of `current`, by one launch.
pub(super) fn interpolate_all(
    gpu: &Gpu,
    average: &mut Parameters,
    current: &Parameters,
    ids: &[ParameterId],
    decay: f64,
) -> Result<()> {
    let mut table = Table::new(gpu);
    let scalars = [decay as f32, (1.0 - decay) as f32, f32::from(decay > 0.5)];
    for id in ids {
        table.push("move_average", &[average.get(*id), current.get(*id)], None, &scalars)?;
    }
    table.launch("move_averages", &[])?;
    average.forget_converted();
    Ok(())
}
