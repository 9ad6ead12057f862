//! What is submitted: the script of an array and the flags of `sbatch`.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::num::NonZeroU32;
use std::path::Path;
use std::time::Duration;

use sweep_core::SlurmOptions;

/// How long before its time is up a job is warned, where it has that long. Slurm looks at its clock every half minute, and
/// a worker needs some seconds to save its work.
const WARNING: Duration = Duration::from_mins(2);

/// Longest name of a job.
const LONGEST_NAME: usize = 100;

/// Name of a job by which it is found again: letters, digits, `.`, `_` and `-`. Other characters become `-`, since a name
/// is also a part of lists and patterns.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Token(String);

impl Token {
    pub(crate) fn new(name: &str) -> Self {
        let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
        Self(name.chars().take(LONGEST_NAME).map(plain).collect())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// An array to be submitted. Its folders must exist: where they do not, jobs fail without a log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Submission<'a> {
    pub(crate) token: &'a Token,
    /// Tasks, numbered from 0.
    pub(crate) tasks: NonZeroU32,
    /// Most tasks that run at the same time.
    pub(crate) throttle: Option<NonZeroU32>,
    pub(crate) options: &'a SlurmOptions,
    /// Folder of what the tasks print, `JOB_TASK.out`. It is written as a path below `folder` where it lies there.
    pub(crate) logs: &'a Path,
    /// Folder that the tasks start in.
    pub(crate) folder: &'a Path,
    pub(crate) script: &'a Path,
}

impl Submission<'_> {
    /// Returns the arguments of `sbatch` but for how it answers. The user's own flags come last, then the script.
    pub(crate) fn arguments(&self) -> Vec<OsString> {
        let mut arguments = vec![
            flag("job-name", self.token.as_str()),
            flag("array", self.indices()),
            flag("nodes", "1"),
            flag("ntasks", "1"),
            "--requeue".into(),
            flag("open-mode", "append"),
            // `B:` reaches the batch shell, which has become the worker's parent by `exec`.
            flag("signal", format!("B:USR1@{}", self.warning().as_secs())),
            // The environment of `sbatch`, which is what little a job is to have: see the client.
            flag("export", "ALL"),
            flag("output", self.output()),
            flag("chdir", self.folder),
        ];
        arguments.extend(self.requests());
        arguments.extend(self.options.sbatch.iter().map(OsString::from));
        arguments.push(self.script.into());
        arguments
    }

    fn indices(&self) -> String {
        let last = self.tasks.get() - 1;
        match self.throttle {
            Some(throttle) => format!("0-{last}%{throttle}"),
            None => format!("0-{last}"),
        }
    }

    /// A job that is shorter than four times the warning is warned in its last quarter.
    fn warning(&self) -> Duration {
        let quarter = |time: Duration| Duration::from_secs((time.as_secs() / 4).max(1));
        self.options.time.map_or(WARNING, |time| WARNING.min(quarter(time)))
    }

    /// In this pattern `%` begins a field, so that of a path is doubled. A backslash would switch fields off, which is why
    /// the path is kept as short as it can be.
    fn output(&self) -> OsString {
        let logs = self.logs.strip_prefix(self.folder).unwrap_or(self.logs);
        let mut escaped = Vec::new();
        for byte in logs.as_os_str().as_encoded_bytes() {
            escaped.push(*byte);
            if *byte == b'%' {
                escaped.push(b'%');
            }
        }
        let mut path = os_string(escaped);
        path.push(if path.is_empty() { "%A_%a.out" } else { "/%A_%a.out" });
        path
    }

    fn requests(&self) -> Vec<OsString> {
        let SlurmOptions { partition, account, qos, gpus, cpus, memory, time, .. } = self.options;
        let requests = [
            partition.as_ref().map(|name| flag("partition", name)),
            account.as_ref().map(|name| flag("account", name)),
            qos.as_ref().map(|name| flag("qos", name)),
            gpus.as_ref().map(|gpus| flag("gres", format!("gpu:{gpus}"))),
            cpus.map(|cpus| flag("cpus-per-task", cpus.to_string())),
            memory.map(|mebibytes| flag("mem", format!("{mebibytes}M"))),
            time.map(|time| flag("time", clock(time))),
        ];
        requests.into_iter().flatten().collect()
    }
}

fn flag(name: &str, value: impl AsRef<OsStr>) -> OsString {
    let mut flag = OsString::from(format!("--{name}="));
    flag.push(value);
    flag
}

/// Returns a length of time as Slurm writes it, `D-HH:MM:SS`.
fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    format!("{days}-{hours:02}:{minutes:02}:{:02}", seconds % 60)
}

/// The script that every task of an array runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Script<'a> {
    /// Variables that the program gets, since jobs inherit none.
    pub(crate) variables: &'a [(&'a str, &'a OsStr)],
    /// The user's lines.
    pub(crate) setup: &'a [String],
    /// The program and its arguments, to which `--task` and the number of the task are added.
    pub(crate) command: &'a [&'a OsStr],
}

impl Script<'_> {
    /// Returns the script's text: Bash as a login shell, since that is what modules and environments want.
    ///
    /// `exec` makes the program the batch process itself, so that it gets Slurm's signals and Slurm its exit code.
    pub(crate) fn text(&self) -> Vec<u8> {
        let mut text = b"#!/bin/bash -l\n".to_vec();
        // A job must not go on without what its set-up was to bring. Nothing stricter: modules use variables that are not
        // set. It stands first so that no line of the set-up is read as a directive of sbatch.
        text.extend_from_slice(b"set -e\n");
        for (name, value) in self.variables {
            text.extend_from_slice(format!("export {name}=").as_bytes());
            text.extend(quoted(value));
            text.push(b'\n');
        }
        for line in self.setup {
            text.extend_from_slice(line.as_bytes());
            text.push(b'\n');
        }
        text.extend_from_slice(b"exec");
        for word in self.command {
            text.push(b' ');
            text.extend(quoted(word));
        }
        text.extend_from_slice(b" --task \"$SLURM_ARRAY_TASK_ID\"\n");
        text
    }
}

/// Returns `word` as the shell reads it back whatever is in it: within single quotes only their end needs care.
fn quoted(word: &OsStr) -> Vec<u8> {
    let mut quoted = vec![b'\''];
    for byte in word.as_encoded_bytes() {
        match byte {
            b'\'' => quoted.extend_from_slice(b"'\\''"),
            byte => quoted.push(*byte),
        }
    }
    quoted.push(b'\'');
    quoted
}

/// Returns `sbatch` and its arguments as a line that a shell would take, for people.
pub(crate) fn command_line(arguments: &[OsString]) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_=./,:%@+".contains(byte);
    let words = arguments.iter().map(|word| {
        let bytes = word.as_encoded_bytes();
        let bytes = if bytes.iter().all(plain) { bytes.to_vec() } else { quoted(word) };
        String::from_utf8_lossy(&bytes).into_owned()
    });
    std::iter::once("sbatch".to_owned()).chain(words).collect::<Vec<_>>().join(" ")
}

fn os_string(bytes: Vec<u8>) -> OsString {
    std::os::unix::ffi::OsStringExt::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    fn arguments(options: &SlurmOptions, logs: &str, throttle: Option<u32>) -> String {
        let submission = Submission {
            token: &Token::new("sweep-ab12-g3"),
            tasks: NonZeroU32::new(60).unwrap(),
            throttle: throttle.and_then(NonZeroU32::new),
            options,
            logs: Path::new(logs),
            folder: Path::new("/shared/my runs"),
            script: Path::new("/shared/my runs/slurm/job.sh"),
        };
        command_line(&submission.arguments())
    }

    #[test]
    fn a_submission_that_asks_for_nothing() {
        assert_eq!(
            arguments(&SlurmOptions::default(), "/shared/my runs/slurm/100%", None),
            "sbatch --job-name=sweep-ab12-g3 --array=0-59 --nodes=1 --ntasks=1 --requeue --open-mode=append \
             --signal=B:USR1@120 --export=ALL --output=slurm/100%%/%A_%a.out '--chdir=/shared/my runs' \
             '/shared/my runs/slurm/job.sh'"
        );
    }

    #[test]
    fn a_submission_that_asks_for_everything() {
        let options = SlurmOptions {
            partition: Some("gpu,long".to_owned()),
            account: Some("lab".to_owned()),
            qos: Some("high".to_owned()),
            gpus: Some("a100:1".parse().unwrap()),
            cpus: NonZeroU32::new(8),
            memory: Some(16_384),
            time: Some(Duration::from_secs(100_000)),
            sbatch: vec!["--constraint=a&b".to_owned(), "--exclusive".to_owned()],
            ..SlurmOptions::default()
        };
        let line = arguments(&options, "/logs", Some(4));
        assert!(line.contains(" --array=0-59%4 ") && line.contains(" --output=/logs/%A_%a.out "), "{line}");
        assert!(
            line.ends_with(
                " --partition=gpu,long --account=lab --qos=high --gres=gpu:a100:1 --cpus-per-task=8 --mem=16384M \
                 --time=1-03:46:40 '--constraint=a&b' --exclusive '/shared/my runs/slurm/job.sh'"
            ),
            "{line}"
        );
    }

    #[test]
    fn short_jobs_are_warned_in_their_last_quarter() {
        for (seconds, warning) in [(60, 15), (2, 1), (480, 120), (86_400, 120)] {
            let options =
                SlurmOptions { time: Some(Duration::from_secs(seconds)), ..SlurmOptions::default() };
            let line = arguments(&options, "/logs", None);
            assert!(line.contains(&format!("--signal=B:USR1@{warning} ")), "{line}");
        }
    }

    #[test]
    fn tokens_are_plain() {
        assert_eq!(Token::new("sweep-a/b c,d%x-g1").as_str(), "sweep-a-b-c-d-x-g1");
        assert_eq!(Token::new(&"é".repeat(300)).as_str().len(), LONGEST_NAME);
    }

    /// Runs a script as a node would and returns what the program was given.
    fn run(script: &Script<'_>) -> String {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("job.sh");
        std::fs::write(&file, script.text()).unwrap();
        let output = Command::new("bash").arg(&file).env("SLURM_ARRAY_TASK_ID", "7").output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    #[test]
    fn the_setup_runs_before_the_program_and_its_failure_ends_the_job() {
        let (printf, format) = (OsStr::new("printf"), OsStr::new("%s|"));
        let command = [printf, format, OsStr::new("--home"), OsStr::new("it's $HOME \"here\"")];
        let setup = ["unset NOTHING; export A=\"$B\"".to_owned(), "printf 'set up %s|' \"$A\"".to_owned()];
        let variables = [("B", OsStr::new("a, 'b'"))];
        let script = Script { variables: &variables, setup: &setup, command: &command };
        assert_eq!(run(&script), "set up a, 'b'|--home|it's $HOME \"here\"|--task|7|");
        let broken = Script { setup: &["false".to_owned()], ..script };
        assert_eq!(run(&broken), "");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(50))]

        /// Checked by a shell, which is who reads it.
        #[test]
        fn the_shell_reads_any_path_back(bytes in proptest::collection::vec(1_u8.., 0..40)) {
            let word = os_string(bytes.clone());
            let mut line = b"printf %s ".to_vec();
            line.extend(quoted(&word));
            let output = Command::new("/bin/sh").arg("-c").arg(os_string(line)).output().unwrap();
            prop_assert_eq!(output.stdout, bytes);
        }
    }
}
