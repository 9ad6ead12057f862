//! What this build cannot do yet, said before any work starts.

use anyhow::Result;
use sweep_core::Grid;
use sweep_core::dataset::DatasetSource;
use sweep_core::spec::WeightsSource;

use crate::exit::bad_input;

/// Refuses a grid with runs that this build cannot carry out; every reason once.
pub(crate) fn check(grid: &Grid) -> Result<()> {
    let mut reasons: Vec<String> = Vec::new();
    let mut add = |reason: String| {
        if !reasons.contains(&reason) {
            reasons.push(reason);
        }
    };
    for (_, spec) in &grid.runs {
        let (backbone, dataset) = (&spec.backbone, &spec.dataset);
        if let Some(reason) = sweep_worker::unsupported(spec) {
            add(format!("backbone `{}`: {reason}", backbone.name));
        }
        if let WeightsSource::Hub { repository, .. } = &backbone.definition.weights {
            add(format!(
                "backbone `{}`: its weights `{repository}` are on the Hub, which this build does not reach",
                backbone.name
            ));
        }
        if let DatasetSource::Hub { repository, .. } = &dataset.definition.source {
            add(format!(
                "dataset `{}`: `{repository}` is on the Hub, which this build does not reach",
                dataset.name
            ));
        }
    }
    if reasons.is_empty() {
        return Ok(());
    }
    let hint = "redefine them under `backbones` and `datasets` with local files: {kind: file, path: …}, {kind: parquet, path: …}";
    Err(bad_input(format!("this build cannot run the sweep\n  {}\n  hint: {hint}", reasons.join("\n  "))))
}
