//! Slurm, driven by its commands.
//!
//! Each call is a process of its own with a time limit and without a shell. Variables that would change what Slurm's
//! commands do are kept from them, so that a scheduler inside a job, or a user's `SBATCH_PARTITION`, changes nothing.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::num::NonZeroU32;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};

use super::error::{BUSY, SlurmError};
use super::rows::{ACCOUNT_FORMAT, QUEUE_FORMAT, TaskRow, account_rows, job_id_of, queue_rows};
use super::script::{Submission, Token};

/// Longest time that a command may take. Slurm's own give up on their controller after 9 s.
const LIMIT: Duration = Duration::from_secs(30);

/// What Slurm's commands read from the environment, by how it begins; only the place of the configuration is left to them.
const MEANINGFUL: [&str; 5] = ["SLURM_", "SBATCH_", "SQUEUE_", "SCANCEL_", "SACCT_"];
const CONFIGURATION: &str = "SLURM_CONF";

/// What a job gets of the environment: enough to find its user's folder and programs. Anything else stays here, above all
/// tokens of other programs. That Slurm itself loads the user's login environment instead, as it does for `--export=NONE`, is
/// slow and has a time limit; the script does that.
const OF_A_JOB: [&str; 8] = ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TZ", CONFIGURATION];

/// Tasks that one question names.
const TASKS_A_QUESTION: usize = 500;

/// How far back a job is looked for in the accounting by its name.
const ACCOUNT_SINCE: &str = "now-60days";

/// Id of a submitted job, which is that of its whole array.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct JobId(pub(crate) u64);

impl fmt::Display for JobId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// What a search by name has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// The jobs of that name that Slurm took, in ascending order. One that it refused at submission is none.
    pub(crate) jobs: Vec<JobId>,
    /// Whether there are surely no others. Without accounting, Slurm forgets jobs some minutes after their end
    /// (`MinJobAge`).
    pub(crate) surely_all: bool,
}

/// A way to Slurm. Cheap to make and to copy: it holds nothing open.
#[derive(Clone, Debug)]
pub(crate) struct Slurm {
    environment: Vec<(OsString, OsString)>,
    limit: Duration,
}

/// What a command printed.
struct Answer {
    output: String,
    errors: String,
}

impl Slurm {
    /// Returns the way to the Slurm that the commands on the `PATH` lead to.
    pub(crate) fn new() -> Self {
        Self::within(std::env::vars_os())
    }

    /// Returns the way to Slurm in this environment instead of that of this process.
    pub(crate) fn within(environment: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let kept = environment.into_iter().filter(|(name, _)| is_harmless(name));
        let mut environment: Vec<_> = kept.collect();
        environment.push(("LC_ALL".into(), "C".into()));
        Self { environment, limit: LIMIT }
    }

    /// Returns the same way with the environment that jobs are to have.
    fn for_jobs(&self) -> Self {
        let is_for_jobs = |(name, _): &&(OsString, OsString)| OF_A_JOB.iter().any(|kept| name == kept);
        let environment = self.environment.iter().filter(is_for_jobs).cloned().collect();
        Self { environment, limit: self.limit }
    }

    /// Submits an array and returns its id.
    ///
    /// # Errors
    /// After [`SlurmError::Unreachable`] the job may be there nonetheless: look for its name before it is submitted again.
    pub(crate) async fn submit(&self, submission: &Submission<'_>) -> Result<JobId, SlurmError> {
        let mut arguments = vec![OsString::from("--parsable")];
        arguments.extend(submission.arguments());
        let answer = self.for_jobs().call("sbatch", arguments).await?;
        // Plugins of a site may print before the id.
        let id = answer.output.lines().rev().find_map(job_id_of);
        id.ok_or_else(|| unreadable("sbatch", &answer.output))
    }

    /// Asks whether an array would be taken, and returns what Slurm says about its start.
    pub(crate) async fn test_only(&self, submission: &Submission<'_>) -> Result<String, SlurmError> {
        let mut arguments = vec![OsString::from("--test-only")];
        arguments.extend(submission.arguments());
        let answer = self.for_jobs().call("sbatch", arguments).await?;
        let said = if answer.errors.trim().is_empty() { answer.output } else { answer.errors };
        Ok(said.trim().trim_start_matches("sbatch: ").to_owned())
    }

    /// Returns the tasks of these jobs with one question, as far as the jobs have one of these names: a controller of Slurm
    /// that died may give a number away twice. A job that Slurm does not know (any more) has no rows.
    pub(crate) async fn tasks(&self, jobs: &[JobId], names: &[String]) -> Result<Vec<TaskRow>, SlurmError> {
        if jobs.is_empty() {
            return Ok(Vec::new());
        }
        let (list, names) = (listed(jobs), only(names));
        let arguments = ["--noheader", "--array", "--states=all", "--jobs", &list, "--Format", QUEUE_FORMAT];
        let arguments = arguments.into_iter().chain(names.as_deref());
        // A single id that is unknown is an error to Slurm; among several it is left out.
        let answer = match self.call("squeue", arguments).await {
            Err(SlurmError::UnknownJob { .. }) => return Ok(Vec::new()),
            other => other?,
        };
        queue_rows(&answer.output).map_err(|line| unreadable("squeue", line))
    }

    /// Returns those of these tasks that Slurm knows, each asked for by its number: in the list of an array, `squeue` leaves out
    /// the last of the waiting tasks where their numbers have a step (`0-58:2`; seen with 22.05).
    pub(crate) async fn tasks_by_number(
        &self,
        tasks: &[(JobId, u32)],
        names: &[String],
    ) -> Result<Vec<TaskRow>, SlurmError> {
        let names = only(names);
        let mut rows = Vec::new();
        for some in tasks.chunks(TASKS_A_QUESTION) {
            let list: Vec<String> = some.iter().map(|(job, task)| format!("{job}_{task}")).collect();
            let list = list.join(",");
            let arguments =
                ["--noheader", "--array", "--states=all", "--jobs", &list, "--Format", QUEUE_FORMAT];
            let arguments = arguments.into_iter().chain(names.as_deref());
            let answer = match self.call("squeue", arguments).await {
                Err(SlurmError::UnknownJob { .. }) => continue,
                other => other?,
            };
            rows.extend(queue_rows(&answer.output).map_err(|line| unreadable("squeue", line))?);
        }
        Ok(rows)
    }

    /// Cancels a whole array, or some tasks of it. What has ended or is unknown is left as it is, without an error.
    pub(crate) async fn cancel(&self, job: JobId, tasks: Option<&[u32]>) -> Result<(), SlurmError> {
        let target = match tasks {
            None => job.to_string(),
            Some([]) => return Ok(()),
            Some(tasks) => format!("{job}_[{}]", ranges(tasks)),
        };
        match self.call("scancel", [target]).await {
            Ok(_) | Err(SlurmError::UnknownJob { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Looks for jobs by their name: in the queue, then in the accounting where the cluster has one.
    pub(crate) async fn find(&self, token: &Token) -> Result<Found, SlurmError> {
        let (name, format) = (format!("--name={token}"), "ArrayJobID:|,State:|,Reason:|");
        let queued = ["--noheader", "--me", "--states=all", &name, "--Format", format];
        let answer = self.call("squeue", queued).await?;
        let mut jobs = accepted_jobs(&answer.output);
        let past = ["-X", "-P", "-n", "-S", ACCOUNT_SINCE, &name, "-o", "JobID,State,Start"];
        let surely_all = match self.account(past).await? {
            Some(answer) => {
                jobs.extend(accounted_jobs(&answer.output));
                true
            }
            None => false,
        };
        jobs.sort_unstable();
        jobs.dedup();
        Ok(Found { jobs, surely_all })
    }

    /// Returns the tasks of these jobs that have ended, also those that the queue has forgotten; `None` where the
    /// cluster's accounting cannot say.
    pub(crate) async fn ended(
        &self,
        jobs: &[JobId],
        names: &[String],
    ) -> Result<Option<Vec<TaskRow>>, SlurmError> {
        let (list, names) = (listed(jobs), only(names));
        let arguments = ["-X", "-P", "-n", "-j", &list, "-o", ACCOUNT_FORMAT];
        let arguments = arguments.into_iter().chain(names.as_deref());
        let Some(answer) = self.account(arguments).await? else { return Ok(None) };
        account_rows(&answer.output).map(Some).map_err(|line| unreadable("sacct", line))
    }

    /// Returns how many tasks an array may have at most, numbered from 0 (`MaxArraySize`).
    pub(crate) async fn max_array_size(&self) -> Result<NonZeroU32, SlurmError> {
        let answer = self.call("scontrol", ["show", "config"]).await?;
        let value = setting(&answer.output, "MaxArraySize").and_then(|value| value.parse::<u32>().ok());
        let value = value.ok_or_else(|| unreadable("scontrol", "a configuration without MaxArraySize"))?;
        NonZeroU32::new(value).ok_or_else(|| SlurmError::Rejected {
            text: "job arrays are switched off (MaxArraySize=0)".to_owned(),
        })
    }

    /// Puts a question to the accounting; `None` where there is none or it does not answer, which is no reason to stop:
    /// it only knows more of the past than the queue does.
    async fn account<'a>(
        &self,
        arguments: impl IntoIterator<Item = &'a str>,
    ) -> Result<Option<Answer>, SlurmError> {
        match self.call("sacct", arguments).await {
            Ok(answer) => Ok(Some(answer)),
            Err(error) => {
                tracing::debug!(%error, "the accounting does not answer");
                Ok(None)
            }
        }
    }

    async fn call<A: AsRef<OsStr>>(
        &self,
        program: &'static str,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<Answer, SlurmError> {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let child = command.spawn().map_err(|source| not_started(program, source))?;
        let (mut output, mut errors) = (Vec::new(), Vec::new());
        let end = tokio::time::timeout(self.limit, follow(child, &mut output, &mut errors)).await;
        let [output, errors] = [output, errors].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        match end {
            Ok(Ok(status)) if status.success() => Ok(Answer { output, errors }),
            Ok(Ok(status)) => Err(failure(program, status, &errors)),
            Ok(Err(error)) => Err(SlurmError::Unreachable { text: format!("`{program}`: {error}") }),
            Err(_) => Err(no_answer(program, self.limit, &errors)),
        }
    }
}

/// Reads what a process prints until it ends. What was read stays where this is dropped before.
async fn follow(mut child: Child, output: &mut Vec<u8>, errors: &mut Vec<u8>) -> io::Result<ExitStatus> {
    async fn read(pipe: Option<impl AsyncRead + Unpin>, bytes: &mut Vec<u8>) -> io::Result<()> {
        match pipe {
            Some(mut pipe) => pipe.read_to_end(bytes).await.map(drop),
            None => Ok(()),
        }
    }
    let pipes = (child.stdout.take(), child.stderr.take());
    tokio::try_join!(read(pipes.0, output), read(pipes.1, errors))?;
    child.wait().await
}

fn is_harmless(name: &OsStr) -> bool {
    let bytes = name.as_encoded_bytes();
    name == CONFIGURATION || !MEANINGFUL.iter().any(|beginning| bytes.starts_with(beginning.as_bytes()))
}

/// A program that is not there will not come; anything else, such as too many processes, may pass.
fn not_started(program: &'static str, source: io::Error) -> SlurmError {
    match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => SlurmError::Missing { program, source },
        _ => SlurmError::Unreachable { text: format!("`{program}` could not be started: {source}") },
    }
}

fn failure(program: &'static str, status: ExitStatus, errors: &str) -> SlurmError {
    if status.code().is_none() {
        SlurmError::Unreachable { text: format!("`{program}` was killed ({status})") }
    } else if errors.trim().is_empty() {
        SlurmError::Rejected { text: format!("`{program}` left without a word ({status})") }
    } else {
        SlurmError::of(errors)
    }
}

/// Returns what it means that a command did not end in time. Where Slurm has no room for more jobs, `sbatch` says so
/// and tries again for a quarter of an hour.
fn no_answer(program: &'static str, limit: Duration, errors: &str) -> SlurmError {
    if errors.contains(BUSY) {
        return SlurmError::of(errors);
    }
    let text = format!("`{program}` gave no answer within {} s {}", limit.as_secs(), errors.trim());
    SlurmError::Unreachable { text: text.trim_end().to_owned() }
}

fn unreadable(program: &'static str, text: &str) -> SlurmError {
    SlurmError::Unreadable { program, text: text.trim().chars().take(200).collect() }
}

/// Returns the flag that asks for jobs of these names only; none for any name.
fn only(names: &[String]) -> Option<String> {
    (!names.is_empty()).then(|| format!("--name={}", names.join(",")))
}

fn listed(jobs: &[JobId]) -> String {
    jobs.iter().map(JobId::to_string).collect::<Vec<_>>().join(",")
}

/// Returns numbers as Slurm lists them, such as `1-3,7`; a list of thousands stays one argument.
fn ranges(tasks: &[u32]) -> String {
    let mut sorted = tasks.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    let runs = sorted.chunk_by(|first, second| first + 1 == *second);
    let written = runs.map(|run| match run {
        [only] => only.to_string(),
        [first, .., last] => format!("{first}-{last}"),
        [] => unreachable!("chunks are never empty"),
    });
    written.collect::<Vec<_>>().join(",")
}

/// Returns the jobs in lines `id|state|reason|`. A submission that Slurm refused for what it asks leaves a failed job
/// behind, which is none of ours.
fn accepted_jobs(output: &str) -> Vec<JobId> {
    let lines = output.lines().filter(|line| !line.contains("|FAILED|BadConstraints"));
    lines.filter_map(job_id_of_line).collect()
}

/// Returns the jobs in lines `id|state|start` of the accounting, without those that were refused.
fn accounted_jobs(output: &str) -> Vec<JobId> {
    let refused = |line: &str| line.ends_with("|FAILED|Unknown") || line.ends_with("|FAILED|None");
    output.lines().filter(|line| !refused(line.trim_end())).filter_map(job_id_of_line).collect()
}

fn job_id_of_line(line: &str) -> Option<JobId> {
    line.split('|').next().and_then(job_id_of)
}

/// Returns the value of a setting in what `scontrol show config` prints.
fn setting<'a>(configuration: &'a str, name: &str) -> Option<&'a str> {
    let pairs = configuration.lines().filter_map(|line| line.split_once('='));
    pairs.map(|(key, value)| (key.trim(), value.trim())).find(|(key, _)| *key == name).map(|(_, value)| value)
}

#[cfg(test)]
mod tests;
