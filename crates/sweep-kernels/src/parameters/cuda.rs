//! Running statistics on a GPU.

use std::collections::HashSet;

use super::Parameters;
use crate::cuda::{Gpu, Table};
use crate::{BatchStatistics, Result};

/// [`Parameters::update_statistics`] in place, by one launch for each pass that noted statistics.
pub(super) fn update_statistics(
    parameters: &mut Parameters,
    gpu: &Gpu,
    statistics: &[BatchStatistics],
) -> Result<()> {
    let mut rest = statistics;
    while !rest.is_empty() {
        let (pass, later) = rest.split_at(length_of_pass(rest));
        move_statistics(parameters, gpu, pass)?;
        rest = later;
    }
    statistics.iter().try_for_each(|statistics| parameters.count_update(statistics.buffers.updates))
}

/// How many statistics belong to different batch norms: the next ones depend on what these leave.
fn length_of_pass(statistics: &[BatchStatistics]) -> usize {
    let mut seen = HashSet::new();
    statistics.iter().take_while(|statistics| seen.insert(statistics.buffers.mean)).count()
}

fn move_statistics(parameters: &Parameters, gpu: &Gpu, pass: &[BatchStatistics]) -> Result<()> {
    let mut table = Table::new(gpu);
    for BatchStatistics { buffers, momentum, mean, variance } in pass {
        let scalars = [(1.0 - momentum) as f32, *momentum as f32];
        table.push("update_statistics", &[parameters.get(buffers.mean), mean], None, &scalars)?;
        table.push("update_statistics", &[parameters.get(buffers.variance), variance], None, &scalars)?;
    }
    table.launch("move_statistics", &[])
}
