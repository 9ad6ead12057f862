//! What a sweep asks of Slurm: the keys of `execution` that count where `executor` is `slurm`.
//!
//! Amounts are read as people of Slurm write them (`sbatch(1)`: `--time`, `--mem`, `--gres`) or with this program's own
//! units, and kept as numbers, so that whoever submits writes them in one form.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use crate::quantity;

/// What runs the workers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(tag = "executor", rename_all = "snake_case")]
pub enum Executor {
    /// Processes of this machine.
    #[default]
    Local,
    /// Jobs of Slurm.
    Slurm(Box<SlurmOptions>),
}

/// What is asked of Slurm for every job of a sweep. What is `None` is left to the cluster's defaults.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct SlurmOptions {
    /// Partition, or several with commas between them.
    pub partition: Option<String>,
    /// Account that the jobs are charged to.
    pub account: Option<String>,
    /// Quality of service.
    pub qos: Option<String>,
    /// GPUs of a job.
    #[serde(default, deserialize_with = "gpus")]
    pub gpus: Option<Gpus>,
    /// Processors of a job.
    pub cpus: Option<NonZeroU32>,
    /// Memory of a job in MiB, at least 1.
    pub memory: Option<u64>,
    /// Longest time a job may take, at least a second.
    #[serde(default, deserialize_with = "quantity::optional_seconds")]
    pub time: Option<Duration>,
    /// Most jobs of an array that run at the same time.
    pub array_limit: Option<NonZeroU32>,
    /// Runs that one job does, one after the other.
    pub runs_per_job: NonZeroU32,
    /// Lines of shell that a job begins with.
    pub setup: Vec<String>,
    /// Words by which a job calls this program, where that is not its own path: a container's command and what is called in
    /// it. Empty: the path.
    pub program: Vec<String>,
    /// Further flags of `sbatch`; each has passed [`check_sbatch_flag`].
    pub sbatch: Vec<String>,
}

impl Default for SlurmOptions {
    /// Asks for nothing: one run a job, all else as the cluster's defaults have it.
    fn default() -> Self {
        Self {
            partition: None,
            account: None,
            qos: None,
            gpus: None,
            cpus: None,
            memory: None,
            time: None,
            array_limit: None,
            runs_per_job: NonZeroU32::MIN,
            setup: Vec::new(),
            program: Vec::new(),
            sbatch: Vec::new(),
        }
    }
}

/// GPUs of a job: how many, and of which type where that matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpus {
    /// Type in the cluster's words, such as `a100`.
    pub kind: Option<String>,
    /// How many, from 1 to 1024.
    pub count: u32,
}

/// Most GPUs that a job may ask for: more than any machine has.
pub(crate) const MOST_GPUS: u32 = 1024;

/// What GPUs may look like, in words.
pub(crate) const GPUS_EXAMPLES: &str = "1 or a100:1";
/// What GPUs look like where they are text, for the JSON Schema.
pub(crate) const GPUS_PATTERN: &str = r"^([A-Za-z0-9][A-Za-z0-9._-]{0,63}:)?[0-9]{1,4}$";

impl Gpus {
    /// Reads `COUNT` or `TYPE:COUNT`.
    fn parse(text: &str) -> Option<Self> {
        let (kind, count) = text.rsplit_once(':').map_or((None, text), |(kind, count)| (Some(kind), count));
        let digits = (1..=4).contains(&count.len()) && count.bytes().all(|byte| byte.is_ascii_digit());
        let count = if digits { count.parse().ok()? } else { return None };
        let fits = (1..=MOST_GPUS).contains(&count) && kind.is_none_or(is_gpu_type);
        fits.then(|| Self { kind: kind.map(str::to_owned), count })
    }
}

fn is_gpu_type(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let begins_well = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    text.len() <= 64 && begins_well && text.bytes().all(allowed)
}

/// A text that says no GPUs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no number of GPUs, expected a count or a type and a count, such as {GPUS_EXAMPLES}")]
pub struct GpusError {
    /// What was written.
    pub text: String,
}

impl FromStr for Gpus {
    type Err = GpusError;

    fn from_str(text: &str) -> Result<Self, GpusError> {
        Self::parse(text).ok_or_else(|| GpusError { text: text.to_owned() })
    }
}

impl fmt::Display for Gpus {
    /// Writes what [`Gpus::from_str`] reads.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Some(kind) => write!(formatter, "{kind}:{}", self.count),
            None => write!(formatter, "{}", self.count),
        }
    }
}

fn gpus<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Gpus>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| text.parse().map_err(serde::de::Error::custom)).transpose()
}

/// What a time limit may look like, in words.
pub(crate) const TIME_EXAMPLES: &str = "12:00:00, 2-00:00:00, 90 (minutes) or 12h";
/// What a time limit looks like where it is text, for the JSON Schema.
pub(crate) const TIME_PATTERN: &str =
    "^([0-9]{1,6}(s|m|h|d)?|[0-9]{1,4}:[0-5][0-9]:[0-5][0-9]|[0-9]{1,4}-[0-9]{1,2}(:[0-5][0-9]){0,2})$";

/// Reads a time limit, at least a second, and returns it in seconds: minutes, `HH:MM:SS`, `D-HH`, `D-HH:MM` or
/// `D-HH:MM:SS` as in Slurm, or a number with `s`, `m`, `h` or `d`. Slurm's `MM:SS` is refused, since who writes `24:00`
/// rarely means minutes.
pub fn parse_time_limit(text: &str) -> Option<u64> {
    let seconds = match text.split_once('-') {
        Some((days, clock)) => number(days, 4)? * 86_400 + clock_below_a_day(clock)?,
        None if text.contains(':') => clock(text, 4, 3)?,
        None => number(text, 6).map(|minutes| minutes * 60).or_else(|| quantity::seconds(text))?,
    };
    (seconds > 0).then_some(seconds)
}

fn clock_below_a_day(text: &str) -> Option<u64> {
    let parts = text.split(':').count();
    clock(text, 2, parts).filter(|seconds| *seconds < 86_400)
}

/// Reads `HH:MM:SS`, or the first `parts` of it, in seconds. The hours have at most `digits` digits.
fn clock(text: &str, digits: usize, parts: usize) -> Option<u64> {
    let fields: Vec<&str> = text.split(':').collect();
    let units = [3600, 60, 1];
    if fields.len() != parts || parts > units.len() {
        return None;
    }
    fields.iter().zip(units).try_fold(0, |seconds, (field, unit)| {
        let hours = unit == 3600;
        let value = number(field, if hours { digits } else { 2 })?;
        (hours || (field.len() == 2 && value < 60)).then(|| seconds + value * unit)
    })
}

fn number(text: &str, digits: usize) -> Option<u64> {
    let plain = (1..=digits).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    if plain { text.parse().ok() } else { None }
}

/// What memory may look like, in words.
pub(crate) const MEMORY_EXAMPLES: &str = "16G, 16000M or 16GiB";
/// What memory looks like, for the JSON Schema.
pub(crate) const MEMORY_PATTERN: &str = "^[0-9]{1,6}(B|kB|MB|GB|TB|KiB|MiB|GiB|TiB|M|G|T)$";

const MEBIBYTE: u64 = 1 << 20;

/// Reads an amount of memory and returns it in MiB, rounded up: `M`, `G` and `T` are powers of 1024 as in Slurm; other
/// units are those of [`crate::parse_bytes`].
pub fn parse_memory(text: &str) -> Option<u64> {
    let bytes = match text.chars().next_back()? {
        'M' | 'G' | 'T' => quantity::bytes(&format!("{text}iB")),
        _ => quantity::bytes(text),
    };
    bytes.map(|bytes| bytes.div_ceil(MEBIBYTE))
}

/// Flags of `sbatch` that are this program's own, or that would take from it what it must see.
const OURS: [&str; 21] = [
    "array",
    "chdir",
    "clusters",
    "error",
    "export",
    "export-file",
    "help",
    "input",
    "job-name",
    "no-requeue",
    "nodes",
    "ntasks",
    "open-mode",
    "output",
    "parsable",
    "requeue",
    "signal",
    "test-only",
    "usage",
    "version",
    "wait",
];

/// Flags of `sbatch` that have a key of their own.
const KEYS: [(&str, &str); 7] = [
    ("account", "account"),
    ("cpus-per-task", "cpus"),
    ("mem", "memory"),
    ("partition", "partition"),
    ("qos", "qos"),
    ("time", "time"),
    ("wrap", "setup"),
];

/// What is wrong with an entry of `sbatch`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SbatchFlagError {
    /// It is no long flag.
    #[error("`{flag}` is no long flag of sbatch, expected one flag an entry such as --constraint=a100")]
    Form {
        /// What was written.
        flag: String,
    },
    /// It is a flag that this program sets.
    #[error("`{flag}` is set by sweep itself")]
    Ours {
        /// What was written.
        flag: String,
    },
    /// There is a key for it.
    #[error("`{flag}` has a key of its own, write `{key}`")]
    Key {
        /// What was written.
        flag: String,
        /// The key of `execution`.
        key: &'static str,
    },
}

/// Checks one further flag of `sbatch`, such as `--constraint=a100`.
///
/// `sbatch` takes any unambiguous beginning of a flag for the flag, so beginnings are refused like the flags themselves.
pub fn check_sbatch_flag(flag: &str) -> Result<(), SbatchFlagError> {
    let text = || flag.to_owned();
    let name = flag.strip_prefix("--").map(|rest| rest.split_once('=').map_or(rest, |(name, _)| name));
    let plain = |name: &&str| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || b"-_".contains(&byte))
    };
    let Some(name) = name.filter(plain) else { return Err(SbatchFlagError::Form { flag: text() }) };
    if flag.contains('\0') {
        return Err(SbatchFlagError::Form { flag: text() });
    }
    if let Some((_, key)) = KEYS.iter().find(|(reserved, _)| reserved.starts_with(name)) {
        return Err(SbatchFlagError::Key { flag: text(), key });
    }
    if OURS.iter().any(|reserved| reserved.starts_with(name)) {
        return Err(SbatchFlagError::Ours { flag: text() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_limits_as_slurm_and_as_we_write_them() {
        let cases = [
            ("90", 5400),
            ("30m", 1800),
            ("12h", 43_200),
            ("12:00:00", 43_200),
            ("100:00:01", 360_001),
            ("2-00:00:00", 172_800),
            ("1-12", 129_600),
            ("1-12:30", 131_400),
            ("0-00:00:01", 1),
        ];
        for (text, seconds) in cases {
            assert_eq!(parse_time_limit(text), Some(seconds), "{text}");
        }
        let nonsense = [
            "",
            "0",
            "0s",
            "24:00",
            "1:2:3",
            "00:60:00",
            "1-24",
            "1-",
            "-1",
            "1-1-1",
            "00:00:00",
            "1:00:00:00",
            "UNLIMITED",
            "1.5",
            "99999999",
            "+1",
            "٣",
        ];
        for text in nonsense {
            assert_eq!(parse_time_limit(text), None, "{text}");
        }
    }

    #[test]
    fn memory_as_slurm_and_as_we_write_it() {
        for (text, mebibytes) in
            [("16G", 16_384), ("512M", 512), ("2T", 2 << 20), ("1B", 1), ("1GB", 954), ("64GiB", 65_536)]
        {
            assert_eq!(parse_memory(text), Some(mebibytes), "{text}");
        }
        for text in ["", "16", "16g", "G", "0G", "1.5G", "16K"] {
            assert_eq!(parse_memory(text), None, "{text}");
        }
    }

    #[test]
    fn gpus_are_a_count_or_a_type_and_a_count() {
        for text in ["1", "8", "a100:1", "nvidia_a100_3g.39gb:2", "1024"] {
            assert_eq!(text.parse::<Gpus>().unwrap().to_string(), text);
        }
        for text in ["", "0", "a100", "a100:0", ":1", "a,b:1", "-1", "1025", "a100:1:x", "a b:1", "+1"] {
            assert!(text.parse::<Gpus>().is_err(), "{text}");
        }
    }

    #[test]
    fn flags_that_are_ours_are_refused_with_their_beginnings() {
        for flag in [
            "--constraint=a100",
            "--exclusive",
            "--mem-per-cpu=4G",
            "--gres=gpu:1,shard:2",
            "--wait-all-nodes=1",
        ] {
            assert_eq!(check_sbatch_flag(flag), Ok(()), "{flag}");
        }
        for flag in [
            "--array=0-3",
            "--arr=0-3",
            "--job-name=x",
            "--parsable",
            "--output=/x",
            "--export=ALL",
            "--clusters=b",
        ] {
            assert!(matches!(check_sbatch_flag(flag), Err(SbatchFlagError::Ours { .. })), "{flag}");
        }
        for (flag, expected) in [
            ("--wrap=true", "setup"),
            ("--time=1", "time"),
            ("--part=x", "partition"),
            ("--mem=4G", "memory"),
        ] {
            let key = match check_sbatch_flag(flag) {
                Err(SbatchFlagError::Key { key, .. }) => key,
                other => panic!("{flag}: {other:?}"),
            };
            assert_eq!(key, expected);
        }
        for flag in [
            "",
            "x",
            "-C",
            "-a0-3",
            "--",
            "--=x",
            "constraint=a100",
            "-- x",
            "--constraint a100",
            "--Array=1",
        ] {
            assert!(matches!(check_sbatch_flag(flag), Err(SbatchFlagError::Form { .. })), "{flag}");
        }
    }
}
