//! What lies in a home folder.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use sweep_core::home::Home;
use sweep_core::spec::{RunId, RunSpec};
use sweep_store::SweepFile;

use super::read_small;

/// Everything that a database can be made from, and what is passed over.
#[derive(Debug)]
pub(super) struct Census {
    /// The first one registered first.
    pub(super) sweeps: Vec<SweepFile>,
    pub(super) runs: BTreeMap<RunId, Found>,
    pub(super) problems: Vec<String>,
    /// Length of each event file.
    traces: Vec<(PathBuf, u64)>,
}

/// The files of a run.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) spec: RunSpec,
    /// Numbers, in order.
    pub(super) attempts: Vec<u32>,
    /// Numbers, in order.
    pub(super) measurements: Vec<u32>,
}

impl Census {
    pub(super) fn take(home: &Home) -> Self {
        let mut census =
            Self { sweeps: Vec::new(), runs: BTreeMap::new(), problems: Vec::new(), traces: Vec::new() };
        census.count_sweeps(home);
        census.count_runs(home);
        census.leave_out_orphans();
        census
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sweeps.is_empty() && self.runs.is_empty()
    }

    pub(super) fn attempts(&self) -> impl Iterator<Item = (RunId, u32)> {
        self.runs.iter().flat_map(|(run, found)| found.attempts.iter().map(|attempt| (*run, *attempt)))
    }

    /// Returns what changes when somebody works in the home folder.
    pub(super) fn traces(&self) -> &[(PathBuf, u64)] {
        &self.traces
    }

    fn count_sweeps(&mut self, home: &Home) {
        for name in self.names(&home.sweeps()) {
            let path = home.sweeps().join(name);
            // Others are halves that a killed process left.
            if path.extension().is_some_and(|extension| extension == "json") {
                match SweepFile::read(&path) {
                    Ok(sweep) => self.sweeps.push(sweep),
                    Err(error) => self.problems.push(with_cause(&error)),
                }
            }
        }
        self.sweeps.sort_by(|one, other| (one.created_ms, &one.name).cmp(&(other.created_ms, &other.name)));
    }

    fn count_runs(&mut self, home: &Home) {
        let folder = home.root().join("runs");
        for name in self.names(&folder) {
            match name.parse::<RunId>() {
                Ok(run) if run.to_string() == name => self.count_run(home, run),
                _ => self.problems.push(format!("`{}` is no folder of a run", folder.join(name).display())),
            }
        }
    }

    fn count_run(&mut self, home: &Home, run: RunId) {
        let path = home.spec(run);
        match specification(&path, run) {
            Ok(spec) => {
                let attempts = self.numbers(home, run, "attempt-");
                let measurements = self.numbers(home, run, "measurement-");
                self.runs.insert(run, Found { spec, attempts, measurements });
            }
            Err(problem) => {
                self.problems.push(format!("run {run} is left out: `{}`: {problem}", path.display()));
            }
        }
    }

    /// Returns the numbers of the folders of a run that begin with `kind`, in order.
    fn numbers(&mut self, home: &Home, run: RunId, kind: &str) -> Vec<u32> {
        let folder = home.run(run);
        let mut numbers = Vec::new();
        for name in self.names(&folder) {
            let Some(digits) = name.strip_prefix(kind) else { continue };
            match digits.parse::<u32>() {
                // As it would be written, so that no two folders have one number.
                Ok(number) if number > 0 && number.to_string() == digits => numbers.push(number),
                _ => self
                    .problems
                    .push(format!("`{}` is passed over: no number", folder.join(&name).display())),
            }
            let events = folder.join(&name).join("events.jsonl");
            let length = fs::metadata(&events).map_or(0, |metadata| metadata.len());
            self.traces.push((events, length));
        }
        numbers.sort_unstable();
        numbers
    }

    /// Leaves runs out that start from runs that are not there, and what starts from them in turn.
    fn leave_out_orphans(&mut self) {
        loop {
            let known: HashSet<RunId> = self.runs.keys().copied().collect();
            let missing = |found: &Found| found.spec.depends_on().filter(|run| !known.contains(run));
            let orphans: Vec<(RunId, RunId)> =
                self.runs.iter().filter_map(|(run, found)| Some((*run, missing(found)?))).collect();
            if orphans.is_empty() {
                return;
            }
            for (run, dependency) in orphans {
                self.runs.remove(&run);
                self.problems.push(format!(
                    "run {run} is left out: it starts from run {dependency}, which is not there"
                ));
            }
        }
    }

    /// Returns the names in a folder, in order; none where there is no folder.
    fn names(&mut self, folder: &Path) -> Vec<String> {
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
            Err(error) => {
                self.problems.push(format!("`{}` is passed over: {error}", folder.display()));
                return Vec::new();
            }
        };
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.ok().map(|entry| entry.file_name().to_string_lossy().into_owned()))
            .collect();
        names.sort_unstable();
        names
    }
}

/// Reads the specification of a run.
fn specification(path: &Path, run: RunId) -> Result<RunSpec, String> {
    let text = read_small(path)?.ok_or("it is missing")?;
    let spec: RunSpec = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    if spec.id() == run { Ok(spec) } else { Err(format!("it is of run {}", spec.id())) }
}

/// Returns the events of a measurement.
pub(super) fn measurement(home: &Home, run: RunId, number: u32) -> PathBuf {
    home.run(run).join(format!("measurement-{number}")).join("events.jsonl")
}

fn with_cause(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
