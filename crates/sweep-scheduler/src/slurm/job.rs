//! What a task knows of the job that it is.

use std::time::Duration;

use tokio::process::Command;

/// How long Slurm is waited for where only it knows when the job ends.
const LIMIT: Duration = Duration::from_secs(20);

/// The job that this process belongs to, in Slurm's words. Everything is empty outside of one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Job {
    /// Number of the array, of the task as a job of its own, and how often it was requeued.
    pub(crate) array: String,
    pub(crate) id: String,
    pub(crate) restart: String,
    /// Name of the node.
    pub(crate) node: String,
    /// Processors that the task has been given.
    processors: Option<u32>,
    /// When Slurm ends it, in seconds since 1970; `None` where it does not say.
    pub(crate) end: Option<u64>,
}

impl Job {
    /// Asks the environment, and Slurm itself for the end of the job where that is of a version that does not put it there.
    pub(crate) async fn of_this_process() -> Self {
        let job = Self::within(|name| std::env::var(name).ok());
        if job.end.is_some() || job.id.is_empty() {
            return job;
        }
        Self { end: ask_for_end(&job.id).await, ..job }
    }

    fn within(variable: impl Fn(&str) -> Option<String>) -> Self {
        let text = |name| variable(name).unwrap_or_default();
        let number = |name| variable(name)?.parse::<u32>().ok().filter(|number| *number > 0);
        Self {
            array: variable("SLURM_ARRAY_JOB_ID").unwrap_or_else(|| text("SLURM_JOB_ID")),
            id: text("SLURM_JOB_ID"),
            restart: variable("SLURM_RESTART_COUNT").unwrap_or_else(|| "0".to_owned()),
            node: text("SLURMD_NODENAME"),
            processors: number("SLURM_CPUS_PER_TASK").or_else(|| number("SLURM_CPUS_ON_NODE")),
            end: variable("SLURM_JOB_END_TIME").and_then(|text| text.parse().ok()),
        }
    }

    pub(crate) const fn processors(&self) -> Option<u32> {
        self.processors
    }
}

/// Asks Slurm when a job ends. That it does not answer only means that nothing is planned by it: its warning still comes.
async fn ask_for_end(id: &str) -> Option<u64> {
    let mut command = Command::new("squeue");
    // Seconds since 1970, whatever the time zone of the node is.
    command.args(["--noheader", "--jobs", id, "--format", "%e"]).env("SLURM_TIME_FORMAT", "%s");
    let output = tokio::time::timeout(LIMIT, command.kill_on_drop(true).output()).await.ok()?.ok()?;
    String::from_utf8_lossy(&output.stdout).trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_of_a_task_is_read() {
        let variables = [
            ("SLURM_ARRAY_JOB_ID", "2"),
            ("SLURM_JOB_ID", "3"),
            ("SLURMD_NODENAME", "n1"),
            ("SLURM_CPUS_PER_TASK", "4"),
            ("SLURM_CPUS_ON_NODE", "8"),
            ("SLURM_JOB_END_TIME", "1700000000"),
        ];
        let find = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        let job = Job::within(find);
        assert_eq!((job.array.as_str(), job.id.as_str(), job.restart.as_str()), ("2", "3", "0"));
        assert_eq!((job.node.as_str(), job.processors(), job.end), ("n1", Some(4), Some(1_700_000_000)));
        let outside = Job::within(|_| None);
        assert_eq!(outside, Job { restart: "0".to_owned(), ..Job::default() });
    }
}
