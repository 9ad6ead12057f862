//! The client against commands that answer as told. What a real Slurm answers is tested in `slurm/tests.rs`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use sweep_core::SlurmOptions;
use tempfile::TempDir;

use super::*;
use crate::slurm::states::TaskState;

/// A folder of commands.
struct Commands(TempDir);

impl Commands {
    fn new(commands: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, lines) in commands {
            let (text, file) = (folder.path().join("text"), folder.path().join(name));
            fs::write(&text, format!("#!/bin/sh\n{lines}\n")).unwrap();
            fs::set_permissions(&text, fs::Permissions::from_mode(0o755)).unwrap();
            // Copied by another process: what a process of ours had open for writing while another was being started cannot
            // be run for a moment.
            assert!(std::process::Command::new("cp").args([&text, &file]).status().unwrap().success());
        }
        Self(folder)
    }

    fn slurm(&self, variables: &[(&str, &str)]) -> Slurm {
        let mut path = self.0.path().as_os_str().to_owned();
        path.push(":/usr/bin:/bin");
        let variables = variables.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        Slurm::within(std::iter::once(("PATH".into(), path)).chain(variables))
    }
}

async fn submit(slurm: &Slurm) -> Result<JobId, SlurmError> {
    let submission = Submission {
        token: &Token::new("token"),
        tasks: NonZeroU32::MIN,
        throttle: None,
        options: &SlurmOptions::default(),
        logs: Path::new("/logs"),
        folder: Path::new("/"),
        script: Path::new("job.sh"),
    };
    slurm.submit(&submission).await
}

#[tokio::test]
async fn an_id_is_read_whatever_stands_around_it() {
    for (answer, id) in [("12", 12), ("12;second", 12), ("Welcome!\\n7\\n", 7)] {
        let commands = Commands::new(&[("sbatch", &format!("printf '{answer}'"))]);
        assert_eq!(submit(&commands.slurm(&[])).await.unwrap(), JobId(id), "{answer}");
    }
    let commands = Commands::new(&[("sbatch", "echo Submitted batch job")]);
    assert!(matches!(
        submit(&commands.slurm(&[])).await,
        Err(SlurmError::Unreadable { program: "sbatch", .. })
    ));
}

#[tokio::test]
async fn variables_of_slurm_are_kept_from_its_commands() {
    let commands = Commands::new(&[("sbatch", "env | sort | tr '\\n' ' ' >&2; exit 1")]);
    let variables = [
        ("SBATCH_PARTITION", "low"),
        ("SLURM_JOB_ID", "3"),
        ("SQUEUE_FORMAT", "%i"),
        ("SCANCEL_STATE", "PENDING"),
        ("SACCT_FORMAT", "JobID"),
        ("SLURM_CONF", "/etc/slurm.conf"),
        ("LC_ALL", "de_DE"),
        ("HOME", "/home/x"),
        ("HF_TOKEN", "secret"),
    ];
    let Err(SlurmError::Rejected { text }) = submit(&commands.slurm(&variables)).await else {
        panic!("the command refuses")
    };
    for (name, value) in [("SLURM_CONF", "/etc/slurm.conf"), ("HOME", "/home/x")] {
        assert!(text.split(' ').any(|pair| pair == format!("{name}={value}")), "{text}");
    }
    for name in ["SBATCH_", "SLURM_JOB", "SQUEUE_", "SCANCEL_", "SACCT_", "de_DE", "secret"] {
        assert!(!text.contains(name), "{name} in {text}");
    }
}

#[test]
fn the_environment_is_that_of_this_process() {
    let slurm = Slurm::new();
    let path = slurm.environment.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value.clone());
    assert_eq!(path, std::env::var_os("PATH"));
}

#[tokio::test]
async fn a_command_that_is_not_there_is_missing() {
    let commands = Commands::new(&[]);
    let slurm = Slurm::within([("PATH".into(), commands.0.path().into())]);
    let error = submit(&slurm).await.unwrap_err();
    assert!(matches!(error, SlurmError::Missing { program: "sbatch", .. }));
    assert!(error.to_string().contains("--executor local"), "{error}");
}

#[tokio::test]
async fn a_command_that_hangs_or_is_killed_says_nothing_about_jobs() {
    let commands = Commands::new(&[("sbatch", "exec sleep 1000"), ("squeue", "kill -9 $$")]);
    let slurm = Slurm { limit: Duration::from_millis(50), ..commands.slurm(&[]) };
    assert!(matches!(submit(&slurm).await, Err(SlurmError::Unreachable { .. })));
    let slurm = commands.slurm(&[]);
    assert!(matches!(slurm.tasks(&[JobId(1)], &[]).await, Err(SlurmError::Unreachable { .. })));
}

#[test]
fn no_room_for_more_jobs_is_a_limit_though_sbatch_does_not_leave() {
    let said = "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying\n";
    assert!(matches!(no_answer("sbatch", LIMIT, said), SlurmError::Limit { .. }));
    let error = no_answer("sbatch", LIMIT, "");
    assert_eq!(error.to_string(), "Slurm cannot be reached: `sbatch` gave no answer within 30 s");
}

#[tokio::test]
async fn the_queue_is_asked_once_for_all_jobs() {
    let lines = "echo '1|0|12|RUNNING|0|0|n1|None|'; echo; echo \"2|N/A|2|PENDING|0|0||$*|\"";
    let commands = Commands::new(&[("squeue", lines)]);
    let rows = commands.slurm(&[]).tasks(&[JobId(1), JobId(2), JobId(7)], &[]).await.unwrap();
    assert_eq!(
        rows.iter().map(|row| (row.job, row.task)).collect::<Vec<_>>(),
        [(JobId(1), Some(0)), (JobId(2), None)]
    );
    assert!(rows[1].reason.contains("--array --states=all --jobs 1,2,7 "), "{}", rows[1].reason);
    // Not even a command is there to be asked.
    assert_eq!(Commands::new(&[]).slurm(&[]).tasks(&[], &[]).await.unwrap(), []);
    let commands = Commands::new(&[("squeue", "echo What?")]);
    assert!(matches!(commands.slurm(&[]).tasks(&[JobId(1)], &[]).await, Err(SlurmError::Unreadable { .. })));
}

#[tokio::test]
async fn tasks_are_cancelled_by_ranges() {
    let commands = Commands::new(&[("scancel", "echo \"$*\" >&2; exit 1")]);
    let slurm = commands.slurm(&[]);
    for (tasks, target) in [(None, "9"), (Some(&[3_u32, 1, 2, 2, 7][..]), "9_[1-3,7]"), (Some(&[0]), "9_[0]")]
    {
        match slurm.cancel(JobId(9), tasks).await {
            Err(SlurmError::Rejected { text }) => assert_eq!(text, target),
            other => panic!("{other:?}"),
        }
    }
    slurm.cancel(JobId(9), Some(&[])).await.unwrap();
    let commands =
        Commands::new(&[("scancel", "echo 'scancel: error: Invalid job id specified' >&2; exit 1")]);
    commands.slurm(&[]).cancel(JobId(9), None).await.unwrap();
}

#[tokio::test]
async fn a_job_is_found_by_name_in_the_queue_and_in_the_accounting() {
    let squeue = "printf '4|RUNNING|None|\\n4|PENDING|Resources|\\n6|FAILED|BadConstraints|\\n'";
    let sacct = "printf '3_0|COMPLETED|2026-01-01T00:00:00\\n3_[1-3]|PENDING|Unknown\\n5|FAILED|None\\n'";
    let token = Token::new("token");
    let with = Commands::new(&[("squeue", squeue), ("sacct", sacct)]);
    let found = with.slurm(&[]).find(&token).await.unwrap();
    assert_eq!(found, Found { jobs: vec![JobId(3), JobId(4)], surely_all: true });
    let off = "echo 'Slurm accounting storage is disabled' >&2; exit 1";
    let without = Commands::new(&[("squeue", squeue), ("sacct", off)]);
    let found = without.slurm(&[]).find(&token).await.unwrap();
    assert_eq!(found, Found { jobs: vec![JobId(4)], surely_all: false });
}

#[tokio::test]
async fn what_has_ended_long_ago_is_known_to_the_accounting() {
    let sacct = "printf '13_0|14|COMPLETED|0:0|n1\\n13_1|15|CANCELLED by 0|75:0|n2\\n13_[2-3%%1]|13|PENDING|0:0|None assigned\\n'";
    let commands = Commands::new(&[("sacct", sacct)]);
    let rows = commands.slurm(&[]).ended(&[JobId(13)], &[]).await.unwrap().unwrap();
    let seen: Vec<_> = rows.iter().map(|row| (row.task, row.state.clone())).collect();
    assert_eq!(seen, [(Some(0), TaskState::Completed), (Some(1), TaskState::Cancelled)]);
}

#[tokio::test]
async fn the_longest_array_is_read_from_the_configuration() {
    let of = async |value: &str| {
        let lines = format!("printf 'MaxArrayX = 3\\nMaxArraySize            = {value}\\n'");
        Commands::new(&[("scontrol", &lines)]).slurm(&[]).max_array_size().await
    };
    assert_eq!(of("1001").await.unwrap().get(), 1001);
    assert!(matches!(of("0").await, Err(SlurmError::Rejected { .. })));
    assert!(matches!(of("many").await, Err(SlurmError::Unreadable { .. })));
}
