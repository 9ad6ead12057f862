//! `execution` for Slurm: what is read, what is refused, and that none of it is part of a run.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sweep_core::{Executor, Resolve, SlurmOptions, Sweep, json_schema};

/// Every path is a file with the same content.
struct Anything;

impl Resolve for Anything {
    fn weights(&self, path: &Path) -> Result<(PathBuf, String), String> {
        Ok((path.to_owned(), "digest".to_owned()))
    }

    fn dataset(&self, path: &Path) -> Result<(PathBuf, String), String> {
        self.weights(path)
    }
}

fn file(execution: &str) -> String {
    format!(
        "name: small\nrun: {{backbone: tiny-vit, dataset: shapes, target_epsilon: 4/255, epsilon_schedule: {{kind: fixed}}}}\n{execution}"
    )
}

fn parse(execution: &str) -> Executor {
    Sweep::parse(file(execution).as_bytes(), &[]).expect("the file is good").execution.executor
}

fn options(keys: &str) -> SlurmOptions {
    match parse(&format!("execution: {{executor: slurm, {keys}}}")) {
        Executor::Slurm(options) => *options,
        Executor::Local => panic!("{keys}"),
    }
}

const EVERYTHING: &str = "
execution:
  executor: slurm
  partition: gpu,long
  account: lab
  qos: high
  gpus: a100:1
  cpus: 8
  memory: 16G
  time: 1-12:00:00
  array_limit: 20
  runs_per_job: 4
  setup:
    - module load cuda
    - source ~/environment
  program: [apptainer, exec, --nv, /shared/sweep.sif, sweep]
  sbatch: [--constraint=a100, --exclusive]
";

#[test]
fn everything_that_can_be_asked_for() {
    let expected = SlurmOptions {
        partition: Some("gpu,long".to_owned()),
        account: Some("lab".to_owned()),
        qos: Some("high".to_owned()),
        gpus: Some("a100:1".parse().unwrap()),
        cpus: NonZeroU32::new(8),
        memory: Some(16_384),
        time: Some(Duration::from_hours(36)),
        array_limit: NonZeroU32::new(20),
        runs_per_job: NonZeroU32::new(4).unwrap(),
        setup: vec!["module load cuda".to_owned(), "source ~/environment".to_owned()],
        program: ["apptainer", "exec", "--nv", "/shared/sweep.sif", "sweep"].map(str::to_owned).to_vec(),
        sbatch: vec!["--constraint=a100".to_owned(), "--exclusive".to_owned()],
    };
    assert_eq!(parse(EVERYTHING), Executor::Slurm(Box::new(expected)));
}

#[test]
fn nothing_is_asked_for_by_itself() {
    assert_eq!(parse(""), Executor::Local);
    assert_eq!(parse("execution: {executor: local}"), Executor::Local);
    assert_eq!(parse("execution: {executor: slurm}"), Executor::Slurm(Box::default()));
}

#[test]
fn numbers_need_no_quotes() {
    assert_eq!(options("gpus: 2").gpus, Some("2".parse().unwrap()));
    assert_eq!(options("time: 90").time, Some(Duration::from_mins(90)));
    assert_eq!(options("time: 12:00:00").time, Some(Duration::from_hours(12)));
}

#[test]
fn what_is_refused_and_where() {
    let cases = [
        ("gpus: 0", "execution.gpus: `0`", "expected a number of GPUs such as 1 or a100:1"),
        ("gpus: a100", "execution.gpus: `a100`", "expected a number of GPUs"),
        ("cpus: 0", "execution.cpus: `0`", "from 1 to"),
        ("memory: 16", "execution.memory: `16`", "expected an amount of memory such as 16G"),
        ("time: 24:00", "execution.time: `24:00`", "expected a time limit such as 12:00:00"),
        ("time: 0", "execution.time: `0`", "expected a time limit"),
        ("array_limit: 0", "execution.array_limit: `0`", "from 1 to"),
        ("runs_per_job: 0", "execution.runs_per_job: `0`", "from 1 to"),
        ("setup: module load cuda", "execution.setup: `module load cuda`", "a list"),
        ("program: apptainer", "execution.program: `apptainer`", "a list"),
        (
            "sbatch: [--exclusive, --array=0-9]",
            "execution.sbatch[1]: `--array=0-9`",
            "is set by sweep itself",
        ),
        ("sbatch: [--wrap=true]", "execution.sbatch[0]: `--wrap=true`", "write `setup`"),
        ("sbatch: [--time=1]", "execution.sbatch[0]: `--time=1`", "write `time`"),
        ("sbatch: [-C a100]", "execution.sbatch[0]: `-C a100`", "such as --constraint=a100"),
        ("partitoin: gpu", "execution", "partition"),
    ];
    for (keys, place, words) in cases {
        let text = file(&format!("execution: {{executor: slurm, {keys}}}"));
        let problems = Sweep::parse(text.as_bytes(), &[]).unwrap_err().to_string();
        assert!(problems.starts_with("1 problem\n"), "{keys}: {problems}");
        assert!(problems.contains(place) && problems.contains(words), "{keys}: {problems}");
    }
}

#[test]
fn keys_of_slurm_are_refused_where_it_does_not_run_the_workers() {
    for (section, count) in [
        ("execution: {partition: gpu, gpus: 1}", "2 problems"),
        ("execution: {executor: local, setup: [true]}", "execution.setup"),
    ] {
        let problems = Sweep::parse(file(section).as_bytes(), &[]).unwrap_err().to_string();
        assert!(problems.contains(count) && problems.contains("write `executor: slurm`"), "{problems}");
    }
}

#[test]
fn the_schema_knows_it() {
    let validator = jsonschema::validator_for(&json_schema()).unwrap();
    let is_valid = |execution: &str| {
        let tree: serde_json::Value = serde_yaml::from_str(&file(execution)).unwrap();
        validator.is_valid(&tree)
    };
    assert!(is_valid(EVERYTHING));
    assert!(is_valid("execution: {executor: slurm, gpus: 2, time: 90}"));
    for keys in [
        "gpus: 0",
        "gpus: [1]",
        "memory: 16",
        "time: 24:00",
        "runs_per_job: 0",
        "sbatch: [-C]",
        "executor: moon",
    ] {
        assert!(!is_valid(&format!("execution: {{{keys}}}")), "{keys}");
    }
    let properties = &json_schema()["properties"]["execution"]["anyOf"][1]["properties"];
    assert_eq!(properties["runs_per_job"]["default"], 1);
    assert_eq!(properties["executor"]["default"], "local");
}

#[test]
fn none_of_it_is_part_of_a_run() {
    let ids = |execution: &str| {
        let grid = Sweep::parse(file(execution).as_bytes(), &[]).unwrap().expand(&Anything).unwrap();
        grid.runs.iter().map(|(id, _)| *id).collect::<Vec<_>>()
    };
    assert_eq!(ids(EVERYTHING), ids(""));
}
