//! What this build cannot do yet, said before any work starts.

use anyhow::Result;
use sweep_core::Grid;

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
        if let Some(reason) = sweep_worker::unsupported(spec) {
            add(format!("backbone `{}`: {reason}", spec.backbone.name));
        }
    }
    if reasons.is_empty() {
        return Ok(());
    }
    let hint = "redefine them under `backbones` and `datasets` with local files: {kind: file, path: …}, {kind: parquet, path: …}";
    Err(bad_input(format!("this build cannot run the sweep\n  {}\n  hint: {hint}", reasons.join("\n  "))))
}
