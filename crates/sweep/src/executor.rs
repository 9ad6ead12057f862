//! Flags of `sweep run` that say what runs the workers, and how they meet what the sweep file says.

use std::num::NonZeroU32;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, ValueEnum};
use sweep_core::{Executor, Gpus, SlurmOptions, check_sbatch_flag, parse_memory, parse_time_limit};

use crate::exit::bad_input;

/// What runs the workers, and what it is asked for. A flag outweighs the key of that name in `execution`.
#[derive(Debug, Default, Args)]
pub(crate) struct ExecutorArgs {
    /// What runs the workers: processes of this machine, or jobs of Slurm. Default: what the sweep file says, or local.
    #[arg(long, value_name = "EXECUTOR")]
    executor: Option<ExecutorName>,

    /// Slurm: partition, or several with commas between them.
    #[arg(long, help_heading = SLURM)]
    partition: Option<String>,

    /// Slurm: account that the jobs are charged to.
    #[arg(long, help_heading = SLURM)]
    account: Option<String>,

    /// Slurm: quality of service.
    #[arg(long, help_heading = SLURM)]
    qos: Option<String>,

    /// Slurm: GPUs of a job, such as 1 or a100:1.
    #[arg(long, help_heading = SLURM)]
    gpus: Option<Gpus>,

    /// Slurm: processors of a job.
    #[arg(long, help_heading = SLURM, value_name = "COUNT")]
    cpus: Option<NonZeroU32>,

    /// Slurm: memory of a job, such as 16G.
    #[arg(long, help_heading = SLURM, value_name = "SIZE", value_parser = memory)]
    memory: Option<u64>,

    /// Slurm: longest time of a job, such as 12:00:00, 2-00:00:00, 90 (minutes) or 12h.
    #[arg(long, help_heading = SLURM, value_parser = time)]
    time: Option<Duration>,

    /// Slurm: most jobs that run at the same time.
    #[arg(long, help_heading = SLURM, value_name = "COUNT")]
    array_limit: Option<NonZeroU32>,

    /// Slurm: runs that one job does, one after the other.
    #[arg(long, help_heading = SLURM, value_name = "COUNT", value_parser = runs_per_job)]
    runs_per_job: Option<NonZeroU32>,

    /// Slurm: a line of shell that a job begins with, after those of the sweep file. May be repeated.
    #[arg(long, help_heading = SLURM, value_name = "LINE")]
    setup: Vec<String>,

    /// Slurm: words by which a job calls this program, with spaces between them, such as "apptainer exec --nv /shared/sweep.sif
    /// sweep". Default: its own path.
    #[arg(long, help_heading = SLURM, value_name = "WORDS", value_parser = program)]
    program: Option<String>,

    /// Slurm: a further flag of sbatch, such as --sbatch=--constraint=a100, after those of the sweep file. May be repeated.
    #[arg(long, help_heading = SLURM, value_name = "FLAG", allow_hyphen_values = true, value_parser = sbatch_flag)]
    sbatch: Vec<String>,

    /// Slurm: show what would be submitted, and submit nothing.
    #[arg(long, help_heading = SLURM)]
    pub(crate) print: bool,

    /// Slurm: leave once everything is submitted; the same command comes back to it.
    #[arg(long, help_heading = SLURM, conflicts_with = "print")]
    pub(crate) detach: bool,
}

const SLURM: &str = "Options for Slurm";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ExecutorName {
    Local,
    Slurm,
}

fn memory(text: &str) -> Result<u64, String> {
    parse_memory(text).ok_or_else(|| "expected an amount of memory such as 16G, 16000M or 16GiB".to_owned())
}

fn time(text: &str) -> Result<Duration, String> {
    let seconds = parse_time_limit(text);
    seconds
        .map(Duration::from_secs)
        .ok_or_else(|| "expected a time limit such as 12:00:00, 2-00:00:00, 90 (minutes) or 12h".to_owned())
}

/// Refuses words by which nothing can be called.
fn program(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        return Err("no words; expected such as \"apptainer exec /shared/sweep.sif sweep\"".to_owned());
    }
    Ok(text.to_owned())
}

fn runs_per_job(text: &str) -> Result<NonZeroU32, String> {
    let count = text.parse().ok().filter(|count: &NonZeroU32| count.get() <= 1000);
    count.ok_or_else(|| "expected a number from 1 to 1000".to_owned())
}

fn sbatch_flag(text: &str) -> Result<String, String> {
    check_sbatch_flag(text).map(|()| text.to_owned()).map_err(|error| error.to_string())
}

impl ExecutorArgs {
    /// Returns what runs the workers when these flags are laid over what the sweep file says.
    ///
    /// # Errors
    /// Bad input: a flag of Slurm where something else runs the workers, since there it would change nothing.
    pub(crate) fn merged(&self, file: &Executor) -> Result<Executor> {
        let options = match (self.executor, file) {
            (Some(ExecutorName::Local), _) | (None, Executor::Local) => return self.local(),
            (_, Executor::Slurm(options)) => SlurmOptions::clone(options),
            (Some(ExecutorName::Slurm), Executor::Local) => SlurmOptions::default(),
        };
        Ok(Executor::Slurm(Box::new(self.over(options))))
    }

    fn local(&self) -> Result<Executor> {
        match self.of_slurm() {
            None => Ok(Executor::Local),
            Some(flag) => Err(bad_input(format!(
                "--{flag} only counts where Slurm runs the workers\n  hint: add --executor slurm"
            ))),
        }
    }

    /// Returns a flag that was given and only counts for Slurm.
    fn of_slurm(&self) -> Option<&'static str> {
        let given = [
            ("partition", self.partition.is_some()),
            ("account", self.account.is_some()),
            ("qos", self.qos.is_some()),
            ("gpus", self.gpus.is_some()),
            ("cpus", self.cpus.is_some()),
            ("memory", self.memory.is_some()),
            ("time", self.time.is_some()),
            ("array-limit", self.array_limit.is_some()),
            ("runs-per-job", self.runs_per_job.is_some()),
            ("setup", !self.setup.is_empty()),
            ("program", self.program.is_some()),
            ("sbatch", !self.sbatch.is_empty()),
            ("print", self.print),
            ("detach", self.detach),
        ];
        given.iter().find(|(_, given)| *given).map(|(flag, _)| *flag)
    }

    fn over(&self, file: SlurmOptions) -> SlurmOptions {
        let both = |file: Vec<String>, flags: &[String]| [file, flags.to_vec()].concat();
        SlurmOptions {
            partition: self.partition.clone().or(file.partition),
            account: self.account.clone().or(file.account),
            qos: self.qos.clone().or(file.qos),
            gpus: self.gpus.clone().or(file.gpus),
            cpus: self.cpus.or(file.cpus),
            memory: self.memory.or(file.memory),
            time: self.time.or(file.time),
            array_limit: self.array_limit.or(file.array_limit),
            runs_per_job: self.runs_per_job.unwrap_or(file.runs_per_job),
            setup: both(file.setup, &self.setup),
            program: match &self.program {
                None => file.program,
                Some(program) => program.split_whitespace().map(str::to_owned).collect(),
            },
            sbatch: both(file.sbatch, &self.sbatch),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        executor: ExecutorArgs,
    }

    fn parse(line: &str) -> Result<ExecutorArgs, clap::Error> {
        parse_words(&line.split_whitespace().collect::<Vec<_>>())
    }

    fn parse_words(words: &[&str]) -> Result<ExecutorArgs, clap::Error> {
        let words = std::iter::once(&"sweep").chain(words);
        Program::try_parse_from(words).map(|program| program.executor)
    }

    fn of_file() -> Executor {
        Executor::Slurm(Box::new(SlurmOptions {
            partition: Some("file".to_owned()),
            qos: Some("high".to_owned()),
            cpus: NonZeroU32::new(4),
            setup: vec!["first".to_owned()],
            program: vec!["file".to_owned()],
            ..SlurmOptions::default()
        }))
    }

    #[test]
    fn flags_outweigh_the_file_and_add_to_its_lists() {
        let flags = "--partition flag --gpus a100:2 --cpus 8 --memory 16G --time 1-12 --array-limit 5 --runs-per-job 3 \
                     --account lab --setup second --sbatch=--constraint=x --sbatch --exclusive";
        let mut words: Vec<&str> = flags.split_whitespace().collect();
        words.extend(["--program", "apptainer exec sweep.sif sweep"]);
        let Executor::Slurm(options) = parse_words(&words).unwrap().merged(&of_file()).unwrap() else {
            panic!("the file says Slurm")
        };
        let expected = SlurmOptions {
            partition: Some("flag".to_owned()),
            account: Some("lab".to_owned()),
            qos: Some("high".to_owned()),
            gpus: Some("a100:2".parse().unwrap()),
            cpus: NonZeroU32::new(8),
            memory: Some(16_384),
            time: Some(Duration::from_hours(36)),
            array_limit: NonZeroU32::new(5),
            runs_per_job: NonZeroU32::new(3).unwrap(),
            setup: vec!["first".to_owned(), "second".to_owned()],
            program: ["apptainer", "exec", "sweep.sif", "sweep"].map(str::to_owned).to_vec(),
            sbatch: vec!["--constraint=x".to_owned(), "--exclusive".to_owned()],
        };
        assert_eq!(*options, expected);
    }

    #[test]
    fn the_flag_decides_who_runs_the_workers() {
        let merged = |line: &str, file: &Executor| parse(line).unwrap().merged(file).unwrap();
        assert_eq!(merged("", &Executor::Local), Executor::Local);
        assert_eq!(merged("", &of_file()), of_file());
        assert_eq!(merged("--executor local", &of_file()), Executor::Local);
        assert_eq!(merged("--executor slurm", &of_file()), of_file());
        assert_eq!(merged("--executor slurm", &Executor::Local), Executor::Slurm(Box::default()));
    }

    #[test]
    fn flags_of_slurm_are_refused_where_it_does_not_run_the_workers() {
        for line in
            ["--partition x", "--print", "--detach", "--setup x", "--program x", "--executor local --gpus 1"]
        {
            let error = parse(line).unwrap().merged(&Executor::Local).unwrap_err();
            assert!(error.to_string().contains("--executor slurm"), "{line}: {error}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let nonsense = [
            "--executor moon",
            "--gpus none",
            "--cpus 0",
            "--memory 16",
            "--time 24:00",
            "--array-limit 0",
            "--runs-per-job 0",
            "--runs-per-job 1001",
            "--sbatch=--array=0-3",
            "--sbatch=-C",
            "--print --detach",
        ];
        for line in nonsense {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
