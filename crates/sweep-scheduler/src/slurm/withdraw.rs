//! Taking runs back from Slurm, with or without a controller at work.

use std::collections::{BTreeMap, HashSet};

use sweep_core::home::Home;
use sweep_core::spec::RunId;
use sweep_store::{Reader, Submission};

use super::client::{JobId, Slurm};
use super::orders::Folder;
use crate::error::Error;

/// What taking runs back did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Withdrawn {
    /// Runs that were with Slurm: their tasks leave them alone from now on.
    pub runs: usize,
    /// Tasks that Slurm was told to cancel, since they have no other run.
    pub tasks: usize,
    /// Why it could not be told, in its words; the tasks then find out for themselves.
    pub problem: Option<String>,
}

/// Takes runs back from Slurm: tells their tasks to leave them and, where a task has no other run, Slurm to cancel it. Runs
/// that are not with Slurm are left alone.
///
/// # Errors
/// Fails where the database or the folder of an array does; that Slurm does not answer is told in [`Withdrawn::problem`].
pub async fn withdraw(reader: &Reader, home: &Home, runs: &[RunId]) -> Result<Withdrawn, Error> {
    let chosen: HashSet<RunId> = runs.iter().copied().collect();
    let open = reader.open_submissions().await?;
    let mut withdrawn = Withdrawn::default();
    for Submission { generation, run, .. } in open.iter().filter(|row| chosen.contains(&row.run)) {
        let folder = Folder::new(home, generation);
        folder.withdraw(*run).map_err(|source| Error::Task { path: folder.withdrawal(*run), source })?;
        withdrawn.runs += 1;
    }
    let slurm = Slurm::new();
    for (job, tasks) in tasks_of_nothing_else(&open, &chosen) {
        match slurm.cancel(job, Some(&tasks)).await {
            Ok(()) => withdrawn.tasks += tasks.len(),
            Err(error) => withdrawn.problem = Some(error.to_string()),
        }
    }
    Ok(withdrawn)
}

/// Returns the tasks all of whose runs that are left are `chosen`, by job.
fn tasks_of_nothing_else(open: &[Submission], chosen: &HashSet<RunId>) -> BTreeMap<JobId, Vec<u32>> {
    let mut tasks: BTreeMap<(JobId, u32), bool> = BTreeMap::new();
    for Submission { job, task, run, .. } in open {
        if let Some(job) = job {
            *tasks.entry((JobId(*job), *task)).or_insert(true) &= chosen.contains(run);
        }
    }
    let mut jobs: BTreeMap<JobId, Vec<u32>> = BTreeMap::new();
    for ((job, task), all) in tasks {
        if all {
            jobs.entry(job).or_default().push(task);
        }
    }
    jobs
}

#[cfg(test)]
mod tests {
    use sweep_testkit::id_of;

    use super::*;

    #[test]
    fn a_task_with_another_run_is_not_cancelled() {
        let row = |job, task, seed| Submission {
            generation: "g".to_owned(),
            job,
            task,
            place: 0,
            run: id_of(seed),
            after: 0,
            created_ms: 0,
            reason: None,
        };
        let open =
            [row(Some(7), 0, 0), row(Some(7), 1, 1), row(Some(7), 1, 2), row(Some(9), 4, 3), row(None, 0, 4)];
        let chosen = [0, 1, 3, 4].into_iter().map(id_of).collect();
        let tasks = tasks_of_nothing_else(&open, &chosen);
        assert_eq!(tasks, BTreeMap::from([(JobId(7), vec![0]), (JobId(9), vec![4])]));
    }
}
