//! The grid that is killed.

/// The sweep file for one seed.
const GRID: &str = include_str!("grid.yaml");
/// The line of the file that lists the seeds.
const SEEDS: &str = "  seed: [0]\n";
/// Runs that the file lists for each seed; the pretraining that some start from comes on top.
const RUNS_A_SEED: usize = 13;

/// Returns a sweep file of at least `runs` runs.
pub(crate) fn of_at_least(runs: usize) -> String {
    let seeds: Vec<String> = (0..runs.div_ceil(RUNS_A_SEED).max(1)).map(|seed| seed.to_string()).collect();
    GRID.replace(SEEDS, &format!("  seed: [{}]\n", seeds.join(", ")))
}

#[cfg(test)]
mod tests {
    use sweep_core::Sweep;

    use super::*;
    use crate::no_files::NoFiles;

    #[test]
    fn the_grid_has_as_many_runs_as_asked_for() {
        for (asked, seeds) in [(0, 1), (1, 1), (13, 1), (14, 2), (40, 4)] {
            let sweep = Sweep::parse(of_at_least(asked).as_bytes(), &[]).unwrap();
            let grid = sweep.expand(&NoFiles).unwrap();
            let fine_tuned = grid.runs.iter().filter(|(_, run)| run.dataset.name == "small").count();
            assert_eq!(fine_tuned, seeds * RUNS_A_SEED, "{asked}");
            assert!(grid.runs.len() > fine_tuned, "nothing is pretrained");
        }
    }
}
