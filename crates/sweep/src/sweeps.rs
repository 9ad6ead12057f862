//! From the name of a sweep file to its grid, and the connection to the store.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use sweep_core::dataset::DatasetSpec;
use sweep_core::home::Home;
use sweep_core::spec::Named;
use sweep_core::{Grid, Sweep};
use sweep_store::{Reader, SweepId};

use crate::cli::SweepArgs;
use crate::exit::bad_input;
use crate::hub::Unknown;
use crate::printer;
use crate::sources::Sources;

/// Sweeps that are part of the program.
const BUILT_IN: [(&str, &str); 7] = [
    ("quickstart", include_str!("../../../sweeps/quickstart.yaml")),
    ("paper", include_str!("../../../sweeps/paper.yaml")),
    ("diagnosis", include_str!("../../../sweeps/diagnosis.yaml")),
    ("ablation", include_str!("../../../sweeps/ablation.yaml")),
    ("schedules", include_str!("../../../sweeps/schedules.yaml")),
    ("phenomenon", include_str!("../../../sweeps/phenomenon.yaml")),
    ("pretrain", include_str!("../../../sweeps/pretrain.yaml")),
];

/// A sweep file, read and expanded.
pub(crate) struct Loaded {
    pub(crate) sweep: Sweep,
    pub(crate) grid: Grid,
    /// The text of the file, with the changes of the command line as comments at its end.
    pub(crate) text: String,
    /// Digests of local files and commits of the Hub; not written down by reading alone.
    pub(crate) sources: Sources,
}

impl Loaded {
    /// Says what in the file may be a slip of the pen.
    pub(crate) fn tell(&self) {
        for note in &self.grid.notes {
            printer::note(&format!("note: {note}"));
        }
    }
}

/// Reads and expands a sweep file; whatever is wrong with it is bad input and leaves everything untouched.
pub(crate) fn load(arguments: &SweepArgs, home: &Home, unknown: Unknown) -> Result<Loaded> {
    let sources = Sources::new(folder_of(&arguments.file), home, unknown)?;
    load_with(arguments, sources)
}

/// The same with what is known about files and the Hub.
pub(crate) fn load_with(arguments: &SweepArgs, sources: Sources) -> Result<Loaded> {
    let file = &arguments.file;
    let text = read(file)?;
    let wrong = |problems| bad_input(format!("{}: {problems}", file.display()));
    let sweep = Sweep::parse(&text, &arguments.set).map_err(wrong)?;
    let grid = sweep.expand(&sources).map_err(|problems| {
        // That a server does not answer is nobody's bad input.
        if sources.hub().is_unreachable() {
            anyhow!("{}: {problems}", file.display())
        } else {
            wrong(problems)
        }
    })?;
    let mut text = String::from_utf8_lossy(&text).into_owned();
    for assignment in &arguments.set {
        text.push_str(&format!("# --set {assignment}\n"));
    }
    Ok(Loaded { sweep, grid, text, sources })
}

/// Returns the dataset that a sweep file, or without one the program itself, defines under `name`.
pub(crate) fn dataset(name: &str, file: Option<&Path>, home: &Home) -> Result<Named<DatasetSpec>> {
    let (sweep, base) = match file {
        None => (Sweep::built_in(), Path::new(".")),
        Some(file) => {
            let sweep = Sweep::parse(&read(file)?, &[]);
            (sweep.map_err(|problems| bad_input(format!("{}: {problems}", file.display())))?, folder_of(file))
        }
    };
    let sources = Sources::new(base, home, Unknown::Refuse)?;
    let mut found = sweep.dataset(name, &sources).map_err(|problems| {
        let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
        bad_input(problems.join("\n  "))
    })?;
    sources.hub().bring_dataset(&mut found.definition)?;
    sources.store()?;
    Ok(found)
}

/// Returns the folder that relative paths of a sweep file start from.
pub(crate) fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
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

/// Opens the results for reading, and says what people should know about the file. That there are none yet is bad input.
pub(crate) async fn open(home: &Home) -> Result<Reader> {
    let reader = Reader::open(home.database()).await.map_err(|error| match error {
        sweep_store::Error::Missing { .. } => bad_input(error),
        error => anyhow::Error::new(error),
    })?;
    if let Some(note) = reader.note() {
        printer::note(&format!("note: {note}"));
    }
    Ok(reader)
}

/// Returns the sweep of a name; without a name the one that ran last, and says so; nothing where none has run.
pub(crate) async fn named_or_latest(reader: &Reader, name: Option<&str>) -> Result<Option<SweepId>> {
    if name.is_some() {
        return named(reader, name).await;
    }
    let latest = reader.sweeps().await?.into_iter().next();
    if let Some(sweep) = &latest {
        printer::note(&format!("note: sweep {}, which ran last", sweep.name));
    }
    Ok(latest.map(|sweep| sweep.id))
}

/// Returns the sweep of a name; without a name, nothing.
pub(crate) async fn named(reader: &Reader, name: Option<&str>) -> Result<Option<SweepId>> {
    match name {
        Some(name) => Ok(Some(reader.sweep_named(name).await.map_err(bad_input)?)),
        None => Ok(None),
    }
}
