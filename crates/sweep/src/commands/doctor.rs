//! `sweep doctor`: checks what runs need, and says what to do about what is wrong.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use indicatif::BinaryBytes;
use sweep_core::home::Home;
use sweep_scheduler::GpusError;

use crate::cli::DoctorArgs;
use crate::devices;
use crate::exit::Exit;
use crate::hub::{Connection, Unknown, free_space};
use crate::table::Rows;
use crate::{printer, sweeps};

/// Below this, a cache of decoded images and a few checkpoints of base-size models (1 GiB each) may not fit.
const LITTLE_SPACE: u64 = 10 << 30;
/// How long the check of the database may take; a gigabyte needs seconds.
const PATIENCE: Duration = Duration::from_mins(1);

/// How a check ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Fine,
    /// Runs work without it, or until it is used up.
    Warning,
    Wrong,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Fine => "fine",
            Self::Warning => "warning",
            Self::Wrong => "wrong",
        }
    }
}

struct Check {
    what: &'static str,
    verdict: Verdict,
    detail: String,
}

pub(crate) fn run(home: &Home, arguments: &DoctorArgs) -> Result<Exit> {
    let connection = Connection::new(home, Unknown::Refuse)?;
    let checks = [
        folder("home folder", home.root()),
        locks(home.root()),
        database(home),
        space("disk of the home folder", home.root()),
        devices(),
        hub(&connection),
        hub_cache(&connection),
        image_cache(home),
    ];
    let mut rows = Rows::new(&["check", "verdict", "detail"]);
    for check in &checks {
        rows.push(vec![check.what.into(), check.verdict.word().into(), check.detail.as_str().into()]);
    }
    printer::rows(&rows, arguments.form.format)?;
    let wrong = checks.iter().any(|check| check.verdict == Verdict::Wrong);
    Ok(if wrong { Exit::Unexpected } else { Exit::Success })
}

/// Returns a folder, or the nearest one above it that is there.
fn existing(path: &Path) -> &Path {
    let existing = path.ancestors().find(|folder| folder.as_os_str().is_empty() || folder.exists());
    existing.filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Whether a lock keeps others out: it is how the living are told from the dead.
fn locks(home: &Path) -> Check {
    let probe = existing(home).join(format!(".sweep-doctor-lock-{}", std::process::id()));
    let tried = || {
        let (first, second) = (fs::File::create(&probe)?, fs::File::open(&probe)?);
        first.lock()?;
        Ok(matches!(second.try_lock(), Err(fs::TryLockError::WouldBlock)))
    };
    let held: std::io::Result<bool> = tried();
    // Nothing is lost with a probe that stays.
    let _ = fs::remove_file(&probe);
    let (verdict, detail) = match held {
        Ok(true) => (Verdict::Fine, "a locked file keeps others out".to_owned()),
        Ok(false) => (
            Verdict::Wrong,
            "locks do nothing on this file system: a live worker could be taken for dead; --home names another".to_owned(),
        ),
        Err(error) => (Verdict::Wrong, format!("`{}` cannot be locked: {error}", probe.display())),
    };
    Check { what: "locks of the home folder", verdict, detail }
}

/// Whether a folder, or the nearest one that is there, can be written.
fn folder(what: &'static str, path: &Path) -> Check {
    let existing = existing(path);
    let probe = existing.join(format!(".sweep-doctor-{}", std::process::id()));
    let written = fs::write(&probe, "probe").and_then(|()| fs::remove_file(&probe));
    let (verdict, detail) = match written {
        Ok(()) if path.exists() => (Verdict::Fine, format!("`{}` can be written", path.display())),
        Ok(()) => (Verdict::Fine, format!("`{}` will be made by the first run", path.display())),
        Err(error) => {
            (Verdict::Wrong, format!("`{}`: {error}; --home or SWEEP_HOME names another", existing.display()))
        }
    };
    Check { what, verdict, detail }
}

fn database(home: &Home) -> Check {
    let what = "database";
    if !home.database().exists() {
        return Check { what, verdict: Verdict::Fine, detail: "there is none yet".to_owned() };
    }
    let faults = sweeps::block_on(async {
        let reader = sweep_store::Reader::open(home.database()).await?;
        Ok(reader.faults(PATIENCE).await?)
    });
    let (verdict, detail) = match faults {
        Ok(faults) if faults.is_empty() => {
            (Verdict::Fine, format!("`{}` is sound", home.database().display()))
        }
        Ok(faults) => (Verdict::Wrong, format!("`{}`: {}", home.database().display(), faults.join("; "))),
        Err(error) => (Verdict::Wrong, format!("{error:#}").replace('\n', " ")),
    };
    Check { what, verdict, detail }
}

fn space(what: &'static str, path: &Path) -> Check {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let (verdict, detail) = match free_space(&path) {
        Some(free) if free < LITTLE_SPACE => {
            (Verdict::Warning, format!("only {} are free", BinaryBytes(free)))
        }
        Some(free) => (Verdict::Fine, format!("{} are free", BinaryBytes(free))),
        None => (Verdict::Warning, "the system does not say how much is free".to_owned()),
    };
    Check { what, verdict, detail }
}

fn devices() -> Check {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let (verdict, gpus) = match sweep_scheduler::gpus() {
        Ok(gpus) if gpus.is_empty() => (Verdict::Warning, "no GPU".to_owned()),
        Ok(gpus) => (Verdict::Fine, devices::list(&gpus)),
        Err(error @ GpusError::NotBuilt) => (Verdict::Fine, error.to_string()),
        Err(error) => (Verdict::Warning, error.to_string()),
    };
    Check { what: "devices", verdict, detail: format!("{cores} CPU cores; {gpus}") }
}

fn hub(connection: &Connection) -> Check {
    let (endpoint, answer) = connection.probe();
    let (verdict, detail) = match answer {
        Ok(latency) => (Verdict::Fine, format!("{endpoint} answers in {} ms", latency.as_millis())),
        Err(sweep_hub::Error::Offline { .. }) => {
            (Verdict::Warning, "HF_HUB_OFFLINE is set: only what the cache has can be used".to_owned())
        }
        Err(error) => (Verdict::Warning, error.to_string().replace('\n', "; ")),
    };
    Check { what: "Hub", verdict, detail }
}

fn hub_cache(connection: &Connection) -> Check {
    let what = "cache of the Hub";
    match connection.cache() {
        Ok(path) => {
            let written = folder(what, &path);
            let free = space(what, &path);
            if written.verdict == Verdict::Fine {
                Check { what, verdict: free.verdict, detail: format!("{}, {}", written.detail, free.detail) }
            } else {
                written
            }
        }
        Err(error) => Check { what, verdict: Verdict::Wrong, detail: error.to_string().replace('\n', "; ") },
    }
}

/// How much the decoded images take.
fn image_cache(home: &Home) -> Check {
    let files = fs::read_dir(home.cache()).into_iter().flatten().filter_map(Result::ok);
    let sizes: Vec<u64> =
        files.filter_map(|file| file.metadata().ok()).map(|metadata| metadata.len()).collect();
    let detail = format!("{} in `{}`", BinaryBytes(sizes.iter().sum()), home.cache().display());
    Check { what: "prepared images", verdict: Verdict::Fine, detail }
}
