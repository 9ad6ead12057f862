//! From the name of a sweep file to its grid, and the connection to the store.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use sweep_core::home::Home;
use sweep_core::{Grid, Sweep};
use sweep_store::{Reader, SweepId};

use crate::cli::SweepArgs;
use crate::exit::bad_input;
use crate::sources::LocalSources;

/// Sweeps that are part of the program.
const BUILT_IN: [(&str, &str); 2] = [
    ("quickstart", include_str!("../../../sweeps/quickstart.yaml")),
    ("paper", include_str!("../../../sweeps/paper.yaml")),
];

/// A sweep file, read and expanded.
pub(crate) struct Loaded {
    pub(crate) sweep: Sweep,
    pub(crate) grid: Grid,
    /// The text of the file, with the changes of the command line as comments at its end.
    pub(crate) text: String,
    /// Digests of local files; not written down by reading alone.
    pub(crate) sources: LocalSources,
}

/// Reads and expands a sweep file; whatever is wrong with it is bad input and leaves everything untouched.
pub(crate) fn load(arguments: &SweepArgs, home: &Home) -> Result<Loaded> {
    let file = &arguments.file;
    let text = read(file)?;
    let wrong = |problems| bad_input(format!("{}: {problems}", file.display()));
    let sweep = Sweep::parse(&text, &arguments.set).map_err(wrong)?;
    let base = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let sources = LocalSources::new(base, home);
    let grid = sweep.expand(&sources).map_err(wrong)?;
    let mut text = String::from_utf8_lossy(&text).into_owned();
    for assignment in &arguments.set {
        text.push_str(&format!("# --set {assignment}\n"));
    }
    Ok(Loaded { sweep, grid, text, sources })
}

/// Reads a file, or a built-in sweep where there is no file of that name.
fn read(file: &Path) -> Result<Vec<u8>> {
    let built_in = BUILT_IN.iter().find(|(name, _)| Path::new(name) == file);
    match (fs::read(file), built_in) {
        (Ok(bytes), _) => Ok(bytes),
        (Err(_), Some((_, text))) => Ok(text.as_bytes().to_vec()),
        (Err(error), None) => {
            let names: Vec<&str> = BUILT_IN.iter().map(|(name, _)| *name).collect();
            Err(bad_input(format!(
                "cannot read `{}`: {error}\n  hint: give a sweep file, or one of the built-in sweeps: {}",
                file.display(),
                names.join(", ")
            )))
        }
    }
}

/// Runs async work on this thread.
pub(crate) fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("failed to start the asynchronous runtime")?.block_on(work)
}

/// Opens the results for reading. That there are none yet is bad input.
pub(crate) async fn open(home: &Home) -> Result<Reader> {
    Reader::open(home.database()).await.map_err(|error| match error {
        sweep_store::Error::Missing { .. } => bad_input(error),
        error => anyhow::Error::new(error),
    })
}

/// Returns the sweep of a name; without a name, nothing.
pub(crate) async fn named(reader: &Reader, name: Option<&str>) -> Result<Option<SweepId>> {
    match name {
        Some(name) => Ok(Some(reader.sweep_named(name).await.map_err(bad_input)?)),
        None => Ok(None),
    }
}
