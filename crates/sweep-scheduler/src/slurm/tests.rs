//! The client against a real Slurm on this machine; nothing is checked, and a line says so, where none is installed.

use std::ffi::OsStr;
use std::fs;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use sweep_core::SlurmOptions;
use sweep_testkit::PATIENCE;
use sweep_testkit::slurm::{Cluster, ClusterSize};

use super::client::{Found, JobId, Slurm};
use super::error::SlurmError;
use super::rows::TaskRow;
use super::script::{Script, Submission, Token};
use super::states::{Block, Meaning};

const SIZE: ClusterSize = ClusterSize { nodes: 2, cpus: 8, gpus: 2 };

/// How often Slurm is asked while a test waits.
const INTERVAL: Duration = Duration::from_millis(50);

/// A cluster, the way to it, and a home folder with a name that has to be quoted everywhere.
struct Fixture {
    cluster: Cluster,
    slurm: Slurm,
    home: PathBuf,
    logs: PathBuf,
    script: PathBuf,
}

impl Fixture {
    fn new() -> Option<Self> {
        let cluster = Cluster::start(&SIZE)?;
        let mut environment: Vec<_> = std::env::vars_os().collect();
        // The last of a name counts.
        environment.extend(cluster.environment());
        // Jobs begin as login shells of their user: here one without a profile.
        environment.push(("HOME".into(), cluster.work().into()));
        let home = cluster.work().join("it's 100% \"$HOME\"");
        let (logs, script) = (home.join("slurm/logs"), home.join("job.sh"));
        fs::create_dir_all(&logs).unwrap();
        fs::write(&script, "#!/bin/sh\n").unwrap();
        Some(Self { cluster, slurm: Slurm::within(environment), home, logs, script })
    }

    /// Submits an array whose tasks run `program` in `sh`.
    async fn submit(
        &self,
        token: &str,
        tasks: u32,
        options: &SlurmOptions,
        program: &str,
    ) -> Result<JobId, SlurmError> {
        let command = ["sh", "-c", program].map(OsStr::new);
        let variables = [("GREETING", OsStr::new("a, b"))];
        let text = Script { variables: &variables, setup: &options.setup, command: &command }.text();
        fs::write(&self.script, text).unwrap();
        let token = Token::new(token);
        let submission = self.submission(&token, tasks, options);
        self.slurm.test_only(&submission).await?;
        self.slurm.submit(&submission).await
    }

    fn submission<'a>(&'a self, token: &'a Token, tasks: u32, options: &'a SlurmOptions) -> Submission<'a> {
        let tasks = NonZeroU32::new(tasks).unwrap();
        let (logs, folder, script) = (&self.logs, &self.home, &self.script);
        Submission { token, tasks, throttle: None, options, logs, folder, script }
    }

    async fn rows_once(&self, job: JobId, ready: impl Fn(&[TaskRow]) -> bool) -> Vec<TaskRow> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let rows = self.slurm.tasks(&[job], &[]).await.unwrap();
            if ready(&rows) {
                return rows;
            }
            assert!(Instant::now() < deadline, "waited in vain: {rows:#?}");
            tokio::time::sleep(INTERVAL).await;
        }
    }

    fn log(&self, job: JobId, task: u32) -> String {
        fs::read_to_string(self.home.join(format!("slurm/logs/{job}_{task}.out"))).unwrap()
    }
}

/// What each task does, by its number: the meanings are those of [`MEANINGS`].
const ENDS: &str = r#"echo "$GREETING $SET_UP $CUDA_VISIBLE_DEVICES"
case "$SLURM_ARRAY_TASK_ID" in
  0) exit 0 ;; 1) exit 76 ;; 2) exit 80 ;; 3) exit 3 ;; 4) kill -9 $$ ;; 5) exit 127 ;; *) exec sleep 1000 ;;
esac"#;

const MEANINGS: [Meaning; 8] = [
    Meaning::Lost,
    Meaning::Interrupted,
    Meaning::Look,
    Meaning::Failed { hopeless: false },
    Meaning::Failed { hopeless: false },
    Meaning::Failed { hopeless: true },
    Meaning::Cancelled,
    Meaning::Running,
];

#[tokio::test]
async fn tasks_are_submitted_followed_found_and_cancelled() {
    let Some(fixture) = Fixture::new() else { return };
    let slurm = &fixture.slurm;
    let options = SlurmOptions {
        partition: Some("main".to_owned()),
        cpus: NonZeroU32::new(1),
        memory: Some(100),
        time: Some(Duration::from_hours(30)),
        setup: vec!["SET_UP=yes; export SET_UP".to_owned()],
        sbatch: vec!["--comment=a test".to_owned()],
        ..SlurmOptions::default()
    };
    let job = fixture.submit("sweep-1-g1", 8, &options, ENDS).await.unwrap();
    let is_over = |row: &TaskRow| !matches!(row.meaning(), Meaning::Queued | Meaning::Running);
    fixture.rows_once(job, |rows| rows.iter().filter(|row| is_over(row)).count() == 6).await;
    fixture
        .rows_once(job, |rows| rows.iter().filter(|row| row.meaning() == Meaning::Running).count() == 2)
        .await;
    slurm.cancel(job, Some(&[6])).await.unwrap();
    let mut rows = fixture.rows_once(job, |rows| rows.iter().filter(|row| is_over(row)).count() == 7).await;
    rows.sort_by_key(|row| row.task);
    assert_eq!(rows.iter().map(TaskRow::meaning).collect::<Vec<_>>(), MEANINGS);
    assert!(
        rows.iter().all(|row| row.job == job && row.node.is_some() && row.restarts == Some(0)),
        "{rows:#?}"
    );
    assert_eq!(fixture.log(job, 0).trim_end(), "a, b yes");

    let found = Found { jobs: vec![job], surely_all: false };
    assert_eq!(slurm.find(&Token::new("sweep-1-g1")).await.unwrap(), found);
    assert_eq!(slurm.find(&Token::new("sweep-1-g2")).await.unwrap().jobs, []);
    assert_eq!(slurm.ended(&[job], &[]).await.unwrap(), None);
    assert_eq!(slurm.max_array_size().await.unwrap().get(), 20_001);

    slurm.cancel(job, None).await.unwrap();
    fixture.rows_once(job, |rows| rows.iter().all(is_over)).await;
    // What is over or was never there is cancelled without a word.
    slurm.cancel(job, None).await.unwrap();
    slurm.cancel(JobId(9999), Some(&[1])).await.unwrap();
    assert_eq!(slurm.tasks(&[JobId(9999)], &[]).await.unwrap(), []);
    assert_eq!(slurm.tasks(&[JobId(9998), JobId(9999)], &[]).await.unwrap(), []);
    assert_eq!(slurm.tasks(&[JobId(9999), job], &[]).await.unwrap().len(), 8);
}

#[tokio::test]
async fn what_slurm_refuses_is_told_in_its_words() {
    let Some(fixture) = Fixture::new() else { return };
    let too_many_gpus = SlurmOptions { gpus: Some("99".parse().unwrap()), ..SlurmOptions::default() };
    let no_partition = SlurmOptions { partition: Some("nope".to_owned()), ..SlurmOptions::default() };
    let no_flag = SlurmOptions { sbatch: vec!["--bogus".to_owned()], ..SlurmOptions::default() };
    for (options, words) in [
        (&too_many_gpus, "Requested node configuration is not available"),
        (&no_partition, "invalid partition specified: nope"),
        (&no_flag, "unrecognized option '--bogus'"),
    ] {
        match fixture.submit("refused", 1, options, "true").await {
            Err(SlurmError::Rejected { text }) => assert!(text.contains(words), "{text}"),
            other => panic!("{other:?}"),
        }
    }
    // Without asking first, a refused job stays in the queue as failed; it is none of ours.
    let token = Token::new("refused");
    let submission = fixture.submission(&token, 3, &too_many_gpus);
    assert!(matches!(fixture.slurm.submit(&submission).await, Err(SlurmError::Rejected { .. })));
    assert_eq!(fixture.slurm.find(&token).await.unwrap().jobs, []);
}

#[tokio::test]
async fn what_is_held_and_what_can_never_start_is_blocked() {
    let Some(fixture) = Fixture::new() else { return };
    let submit = async |flag: String, program| {
        let options = SlurmOptions { sbatch: vec![flag], ..SlurmOptions::default() };
        fixture.submit("blocked", 2, &options, program).await.unwrap()
    };
    let blocked = async |job| {
        let is_blocked = |row: &TaskRow| matches!(row.meaning(), Meaning::Blocked { .. });
        let rows = fixture.rows_once(job, |rows| rows.iter().all(is_blocked)).await;
        (rows.len(), rows[0].meaning())
    };
    let expected = |block, reason: &str| (2, Meaning::Blocked { block, reason: reason.to_owned() });

    let held = submit("--hold".to_owned(), "true").await;
    assert_eq!(blocked(held).await, expected(Block::Held, "JobHeldUser"));

    let failing = submit("--comment=fails".to_owned(), "exit 3").await;
    let late = submit(format!("--dependency=afterok:{failing}"), "true").await;
    assert_eq!(blocked(late).await, expected(Block::Never, "DependencyNeverSatisfied"));

    let running = submit("--comment=runs".to_owned(), "exec sleep 1000").await;
    fixture.rows_once(running, |rows| rows.iter().all(|row| row.meaning() == Meaning::Running)).await;
    fixture.cluster.command("scontrol", ["requeuehold", &running.to_string()]);
    assert_eq!(blocked(running).await, expected(Block::Held, "job requeued in held state"));
}

#[tokio::test]
async fn a_requeued_task_counts_its_restarts() {
    let Some(fixture) = Fixture::new() else { return };
    let job = fixture.submit("again", 1, &SlurmOptions::default(), "exec sleep 1000").await.unwrap();
    let running = |restarts| {
        move |rows: &[TaskRow]| {
            rows.iter().all(|row| row.meaning() == Meaning::Running && row.restarts == Some(restarts))
                && !rows.is_empty()
        }
    };
    fixture.rows_once(job, running(0)).await;
    fixture.cluster.command("scontrol", ["requeue", &format!("{job}_0")]);
    fixture.rows_once(job, running(1)).await;
}

#[tokio::test]
async fn a_controller_that_is_away_is_unreachable_and_nothing_else() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.cluster.stop_controller();
    // At the same time, since each gives up after 9 s only.
    let token = Token::new("away");
    let options = SlurmOptions::default();
    let submission = fixture.submission(&token, 1, &options);
    let slurm = &fixture.slurm;
    let (submitted, tasks, cancelled, found, size) = tokio::join!(
        slurm.submit(&submission),
        slurm.tasks(&[JobId(1)], &[]),
        slurm.cancel(JobId(1), None),
        slurm.find(&token),
        slurm.max_array_size(),
    );
    let errors = [submitted.err(), tasks.err(), cancelled.err(), found.err(), size.err()];
    for error in errors {
        assert!(matches!(error, Some(SlurmError::Unreachable { .. })), "{error:?}");
    }
    fixture.cluster.start_controller();
    assert_eq!(slurm.tasks(&[JobId(1)], &[]).await.unwrap(), []);
}

/// Where what waits of an array has a step in its numbers, `squeue` leaves one task out of its list.
#[tokio::test]
async fn a_waiting_task_that_the_list_leaves_out_is_found_by_its_number() {
    let Some(fixture) = Fixture::new() else { return };
    let slurm = &fixture.slurm;
    let options = SlurmOptions { sbatch: vec!["--begin=now+1hour".to_owned()], ..SlurmOptions::default() };
    let job = fixture.submit("sweep-1-g1", 60, &options, "true").await.unwrap();
    let odd: Vec<u32> = (0..60).filter(|task| task % 2 == 1).collect();
    slurm.cancel(job, Some(&odd)).await.unwrap();
    let even: Vec<(JobId, u32)> = (0..60).step_by(2).map(|task| (job, task)).collect();
    let own = ["sweep-1-g1".to_owned()];
    let mut found: Vec<Option<u32>> =
        slurm.tasks_by_number(&even, &own).await.unwrap().iter().map(|row| row.task).collect();
    found.sort_unstable();
    assert_eq!(found, (0..60).step_by(2).map(Some).collect::<Vec<_>>());
    let other = ["sweep-1-g2".to_owned()];
    assert_eq!(slurm.tasks_by_number(&even, &other).await.unwrap(), []);
    assert_eq!(slurm.tasks(&[job], &other).await.unwrap(), []);
    slurm.cancel(job, None).await.unwrap();
}
