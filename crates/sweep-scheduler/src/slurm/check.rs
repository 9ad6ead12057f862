//! What would be submitted, for people to read and for Slurm to judge before anything else is done.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::num::NonZeroU32;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use super::client::Slurm;
use super::controller::{SlurmSettings, script};
use super::error::SlurmError;
use super::orders::Folder;
use super::script::{Submission, Token, command_line};
use crate::error::Error;
use crate::settings::Settings;

/// The name of an array that is only shown or asked about.
const EXAMPLE: &str = "sweep-example-g1";

/// What would be submitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preview {
    /// The script.
    pub script: String,
    /// The command that submits it.
    pub command: String,
}

/// Returns what an array of so many tasks would look like. Writes nothing.
pub fn preview(settings: &Settings, plan: &SlurmSettings, tasks: NonZeroU32) -> Preview {
    let folder = Folder::new(&settings.home, EXAMPLE);
    let script = String::from_utf8_lossy(&script(&folder, settings, plan)).into_owned();
    let token = Token::new(EXAMPLE);
    let submission = submission(&token, tasks, plan, &folder, settings.home.root());
    let mut arguments = vec![OsString::from("--parsable")];
    arguments.extend(submission.as_submission().arguments());
    Preview { script, command: command_line(&arguments) }
}

/// Asks Slurm whether it would take an array of this kind, with a script in a temporary folder. That it does not answer, or
/// takes nothing more for now, is no refusal; it returns its words then.
///
/// # Errors
/// [`Error::Slurm`] where it refuses or its commands are missing, [`Error::Task`] where the script cannot be written.
pub async fn check(settings: &Settings, plan: &SlurmSettings) -> Result<Option<String>, Error> {
    let place = Temporary::new().map_err(|(path, source)| Error::Task { path, source })?;
    let folder = Folder::new(&sweep_core::home::Home::new(&place.path), EXAMPLE);
    let written = fs::create_dir_all(folder.logs())
        .and_then(|()| fs::write(folder.script(), script(&folder, settings, plan)));
    written.map_err(|source| Error::Task { path: folder.script(), source })?;
    let token = Token::new(EXAMPLE);
    let submission = submission(&token, NonZeroU32::MIN, plan, &folder, &place.path);
    match Slurm::new().test_only(&submission.as_submission()).await {
        Ok(_) => Ok(None),
        Err(error @ (SlurmError::Unreachable { .. } | SlurmError::Limit { .. })) => {
            Ok(Some(error.to_string()))
        }
        Err(error) => Err(Error::Slurm { message: error.to_string() }),
    }
}

/// What a [`Submission`] borrows.
struct Arguments<'a> {
    token: &'a Token,
    tasks: NonZeroU32,
    plan: &'a SlurmSettings,
    logs: PathBuf,
    script: PathBuf,
    folder: &'a Path,
}

impl Arguments<'_> {
    fn as_submission(&self) -> Submission<'_> {
        Submission {
            token: self.token,
            tasks: self.tasks,
            throttle: self.plan.options.array_limit,
            options: &self.plan.options,
            logs: &self.logs,
            folder: self.folder,
            script: &self.script,
        }
    }
}

fn submission<'a>(
    token: &'a Token,
    tasks: NonZeroU32,
    plan: &'a SlurmSettings,
    folder: &Folder,
    root: &'a Path,
) -> Arguments<'a> {
    Arguments { token, tasks, plan, logs: folder.logs(), script: folder.script(), folder: root }
}

/// A folder that goes with this value.
struct Temporary {
    path: PathBuf,
}

impl Temporary {
    fn new() -> Result<Self, (PathBuf, io::Error)> {
        // A folder that is there already is somebody else's: what is written into it could go anywhere.
        let name = format!("sweep-check-{}-{}", std::process::id(), sweep_store::now_ms());
        let path = std::env::temp_dir().join(name);
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => Ok(Self { path }),
            Err(error) => Err((path, error)),
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "a temporary folder stays");
        }
    }
}
