//! The folder: the layout of MLflow's file store, which appears whole or not at all and replaces nothing but an export.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::export::mlflow::{Experiment, Point, Tracked, Tracking};
use crate::folder::{beside, remove, replace};

/// What a folder is known by as an export; names its experiments.
const MARKER: &str = "sweep-export.json";
/// What a file of MLflow's description is called.
const META: &str = "meta.yaml";
/// Folders that MLflow makes by itself wherever it looks; nobody's results are in them while they hold nothing but files.
const MADE_BY_MLFLOW: [&str; 3] = [".trash", "0", "models"];

/// Writes an export. One that is there already is replaced, with what was changed in it: everything is written beside it first.
///
/// # Errors
/// [`Error::ForeignExport`] where the folder holds anything that no export writes; nothing is touched then.
pub fn write(tracking: &Tracking, folder: &Path) -> Result<()> {
    // MLflow finds artifacts by absolute paths.
    let folder = std::path::absolute(folder).map_err(|source| failed(folder, source))?;
    refuse_foreign(&folder)?;
    let temporary = beside(&folder, "tmp");
    remove(&temporary)?;
    let filled = fill(tracking, &temporary, &folder).and_then(|()| replace(&folder, &temporary));
    if filled.is_err() {
        // What is half written is of no use; where not even that can be removed, the first failure is what matters.
        let _ = fs::remove_dir_all(&temporary);
    }
    filled
}

fn failed(path: &Path, source: io::Error) -> Error {
    Error::Write { path: path.to_owned(), source }
}

/// Writes everything into `at`; `place` is where it will lie.
fn fill(tracking: &Tracking, at: &Path, place: &Path) -> Result<()> {
    let ids: Vec<&str> = tracking.experiments.iter().map(|experiment| experiment.id.as_str()).collect();
    let marker = json!({"program": "sweep", "version": env!("CARGO_PKG_VERSION"), "experiments": ids});
    put(&at.join(MARKER), &format!("{marker:#}\n"))?;
    for experiment in &tracking.experiments {
        let (at, place) = (at.join(&experiment.id), place.join(&experiment.id));
        put(&at.join(META), &described(experiment, &place))?;
        put_all(&at.join("tags"), &experiment.tags)?;
        for run in &experiment.runs {
            let artifacts = place.join(&run.id).join("artifacts");
            put_run(&at.join(&run.id), run, &described_run(run, &experiment.id, &artifacts))?;
        }
    }
    Ok(())
}

fn put_run(at: &Path, run: &Tracked, meta: &str) -> Result<()> {
    let names = run.parameters.keys().chain(run.tags.keys()).chain(run.metrics.keys());
    if let Some(key) = names.into_iter().find(|key| !is_name(key)) {
        return Err(Error::MlflowName { run: run.run, key: key.clone() });
    }
    put(&at.join(META), meta)?;
    put_all(&at.join("params"), &run.parameters)?;
    put_all(&at.join("tags"), &run.tags)?;
    let metrics = run.metrics.iter().map(|(name, points)| (name.clone(), history(points))).collect();
    put_all(&at.join("metrics"), &metrics)?;
    put(&at.join("artifacts").join("spec.json"), &run.spec)
}

/// Writes a file for each entry; the folder is there even without any.
fn put_all(folder: &Path, entries: &BTreeMap<String, String>) -> Result<()> {
    fs::create_dir_all(folder).map_err(|source| failed(folder, source))?;
    entries.iter().try_for_each(|(name, text)| put(&folder.join(name), text))
}

fn put(path: &Path, text: &str) -> Result<()> {
    let folder = path.parent().map_or(Ok(()), fs::create_dir_all);
    folder.and_then(|()| fs::write(path, text)).map_err(|source| failed(path, source))
}

/// Whether MLflow takes a key; then it stays within its folder, too.
fn is_name(key: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-. :".contains(&byte);
    let is_part = |part: &str| !matches!(part, "" | "." | "..") && part.bytes().all(is_plain);
    key.split('/').all(is_part)
}

/// One line a point. Numbers have the shortest digits that read back to the same bits.
fn history(points: &[Point]) -> String {
    let mut text = String::new();
    for Point { time_ms, value, step } in points {
        text.push_str(&format!("{time_ms} {value} {step}\n"));
    }
    text
}

fn described(experiment: &Experiment, place: &Path) -> String {
    yaml(&[
        ("artifact_location", quoted(&address(place))),
        ("creation_time", experiment.created_ms.to_string()),
        ("experiment_id", quoted(&experiment.id)),
        ("last_update_time", experiment.updated_ms.to_string()),
        ("lifecycle_stage", "active".to_owned()),
        ("name", quoted(&experiment.name)),
    ])
}

fn described_run(run: &Tracked, experiment: &str, artifacts: &Path) -> String {
    yaml(&[
        ("artifact_uri", quoted(&address(artifacts))),
        ("deleted_time", "null".to_owned()),
        ("end_time", run.ended_ms.map_or_else(|| "null".to_owned(), |time| time.to_string())),
        ("entry_point_name", quoted("")),
        ("experiment_id", quoted(experiment)),
        ("lifecycle_stage", "active".to_owned()),
        ("run_id", quoted(&run.id)),
        ("run_name", quoted(&run.name)),
        ("source_name", quoted("")),
        // A local program; what it is stands in the tags.
        ("source_type", "4".to_owned()),
        ("source_version", quoted("")),
        ("start_time", run.started_ms.to_string()),
        ("status", (run.status as u8).to_string()),
        ("tags", "[]".to_owned()),
        ("user_id", quoted("")),
    ])
}

fn yaml(entries: &[(&str, String)]) -> String {
    entries.iter().fold(String::new(), |text, (key, value)| format!("{text}{key}: {value}\n"))
}

/// A text as YAML quotes it, in ASCII.
fn quoted(text: &str) -> String {
    let letter = |letter: char| match letter {
        '"' | '\\' => format!("\\{letter}"),
        ' '..='~' => letter.to_string(),
        other => format!("\\U{:08x}", u32::from(other)),
    };
    format!("\"{}\"", text.chars().map(letter).collect::<String>())
}

/// A path as a `file:` address.
fn address(path: &Path) -> String {
    let byte = |byte: &u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'/' | b'-' | b'.' | b'_' | b'~' => {
            char::from(*byte).to_string()
        }
        other => format!("%{other:02X}"),
    };
    format!("file://{}", path.as_os_str().as_bytes().iter().map(byte).collect::<String>())
}

/// Refuses a folder with entries that no export writes, nor MLflow where it looks at one.
fn refuse_foreign(folder: &Path) -> Result<()> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(folder, error)),
    };
    let written = written(&folder.join(MARKER));
    for entry in entries {
        let entry = entry.map_err(|source| failed(folder, source))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_ours = written.as_ref().is_some_and(|written| {
            name == MARKER || written.contains(&name) || is_made_by_mlflow(&name, &entry.path())
        });
        if !is_ours {
            return Err(Error::ForeignExport { folder: folder.to_owned(), entry: name });
        }
        if written.as_ref().is_some_and(|written| written.contains(&name)) {
            refuse_foreign_runs(folder, &name)?;
        }
    }
    Ok(())
}

/// Refuses an experiment of an export into which somebody has logged runs of their own: they would go with the old one.
fn refuse_foreign_runs(folder: &Path, experiment: &str) -> Result<()> {
    for entry in fs::read_dir(folder.join(experiment)).map_err(|source| failed(folder, source))? {
        let entry = entry.map_err(|source| failed(folder, source))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_ours = name == META || name == "tags" || entry.path().join("artifacts/spec.json").is_file();
        if !is_ours {
            let entry = format!("{experiment}/{name}");
            return Err(Error::ForeignExport { folder: folder.to_owned(), entry });
        }
    }
    Ok(())
}

/// Returns the experiments that an export has written, by its marker; `None` for what is no export's.
fn written(marker: &Path) -> Option<BTreeSet<String>> {
    let text = fs::read_to_string(marker).ok()?;
    let marker: Value = serde_json::from_str(&text).ok()?;
    let ids = marker.get("experiments").filter(|_| marker["program"] == "sweep")?.as_array()?;
    Some(ids.iter().filter_map(|id| id.as_str().map(str::to_owned)).collect())
}

fn is_made_by_mlflow(name: &str, path: &Path) -> bool {
    let folders = |path: &PathBuf| path.is_dir();
    MADE_BY_MLFLOW.contains(&name)
        && fs::read_dir(path).is_ok_and(|entries| {
            !entries.filter_map(|entry| Some(entry.ok()?.path())).any(|path| folders(&path))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_within_their_folder() {
        for good in ["a", "epoch/train_loss", "optimizer.learning_rate", "a b:c-d"] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "..", "../a", "a/../b", "/a", "a/", "a//b", "robust@4/255", "a\nb", "ä"] {
            assert!(!is_name(bad), "{bad:?}");
        }
    }

    #[test]
    fn texts_and_paths_are_quoted() {
        assert_eq!(quoted("a \"b\" \\ ü\n"), "\"a \\\"b\\\" \\\\ \\U000000fc\\U0000000a\"");
        assert_eq!(address(Path::new("/a b/ü%")), "file:///a%20b/%C3%BC%25");
    }

    #[test]
    fn a_history_reads_back_to_the_bits() {
        let values = [0.1 + 0.2, 1.0 / 3.0, 5e-324, 1.797e308, -0.0, 3.0];
        let points: Vec<Point> =
            values.iter().map(|value| Point { time_ms: 1, value: *value, step: 2 }).collect();
        let text = history(&points);
        for (line, value) in text.lines().zip(values) {
            let parts: Vec<&str> = line.split(' ').collect();
            assert_eq!((parts[0], parts[2], parts.len()), ("1", "2", 3));
            assert_eq!(parts[1].parse::<f64>().unwrap().to_bits(), value.to_bits(), "{line}");
        }
    }
}
