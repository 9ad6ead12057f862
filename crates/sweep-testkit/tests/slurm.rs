//! The cluster for tests: it is a Slurm, and breaks as told.

use std::collections::BTreeSet;
use std::fs;
use std::time::Instant;

use sweep_testkit::slurm::{Cluster, ClusterSize};
use sweep_testkit::wait_until;

const SIZE: ClusterSize = ClusterSize { nodes: 3, cpus: 4, gpus: 2 };

/// A job that says which GPU it has and goes on for ever.
const JOB: &str = "#!/bin/sh
echo \"$SLURMD_NODENAME $CUDA_VISIBLE_DEVICES\" >>devices.$SLURM_ARRAY_TASK_ID
sleep 1000
";

fn submit(cluster: &Cluster, flags: &[&str]) -> String {
    let script = cluster.work().join("job.sh");
    fs::write(&script, JOB).expect("the work folder is writable");
    let flags = flags.iter().copied().chain(["--parsable", "--output=%A_%a.out", "job.sh"]);
    cluster.command("sbatch", flags).trim().to_owned()
}

/// Returns how many tasks of a job are in a state.
fn count(cluster: &Cluster, job: &str, state: &str) -> usize {
    let states =
        cluster.command("squeue", ["--noheader", "--array", "--states=all", "--format=%T", "--jobs", job]);
    states.lines().filter(|line| *line == state).count()
}

fn wait_for(cluster: &Cluster, job: &str, state: &str, tasks: usize) {
    wait_until(state, || (count(cluster, job, state) == tasks).then_some(()));
}

fn devices(cluster: &Cluster, task: usize) -> Vec<String> {
    let text = fs::read_to_string(cluster.work().join(format!("devices.{task}"))).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn tasks_have_gpus_of_their_own_and_survive_what_is_done_to_the_cluster() {
    let Some(cluster) = Cluster::start(&SIZE) else { return };
    let job = submit(&cluster, &["--array=0-5", "--gres=gpu:1", "--requeue"]);
    wait_for(&cluster, &job, "RUNNING", 6);
    let of_tasks =
        || (0..6).filter_map(|task| devices(&cluster, task).last().cloned()).collect::<BTreeSet<_>>();
    let places =
        wait_until("six tasks that say where they are", || Some(of_tasks()).filter(|all| all.len() == 6));
    let expected: BTreeSet<String> =
        (1..=3).flat_map(|node| (0..2).map(move |gpu| format!("n{node} {gpu}"))).collect();
    assert_eq!(places, expected);

    cluster.stop_controller();
    cluster.start_controller();
    wait_for(&cluster, &job, "RUNNING", 6);

    cluster.down_node(2);
    wait_for(&cluster, &job, "PENDING", 2);
    cluster.resume_node(2);
    wait_for(&cluster, &job, "RUNNING", 6);

    cluster.kill_node(3);
    cluster.start_node(3);
    cluster.command("scancel", [&job]);
    wait_until("an empty queue", || cluster.command("squeue", ["--noheader"]).is_empty().then_some(()));

    // Last, since what it forgets is up to chance.
    cluster.kill_controller();
    cluster.start_controller();
}

#[test]
fn low_tasks_are_requeued_for_high_ones() {
    let Some(cluster) = Cluster::start(&ClusterSize { nodes: 1, cpus: 1, gpus: 0 }) else { return };
    let low = submit(&cluster, &["--array=0-0", "--partition=low", "--requeue"]);
    wait_for(&cluster, &low, "RUNNING", 1);
    let high = submit(&cluster, &["--array=1-1", "--partition=high"]);
    wait_for(&cluster, &high, "RUNNING", 1);
    wait_for(&cluster, &low, "PENDING", 1);
}

#[test]
fn nothing_of_a_cluster_outlives_it() {
    let before = Instant::now();
    let Some(cluster) = Cluster::start(&SIZE) else { return };
    let job = submit(&cluster, &["--array=0-3"]);
    wait_for(&cluster, &job, "RUNNING", 4);
    let mark = format!("SLURM_CONF={}", cluster.environment()[0].1.display());
    // A job counts as running before its process is there.
    wait_until("a controller, three nodes and four jobs", || (processes_with(&mark) >= 8).then_some(()));
    drop(cluster);
    assert_eq!(processes_with(&mark), 0, "after {:?}", before.elapsed());
}

fn processes_with(variable: &str) -> usize {
    let environments = fs::read_dir("/proc")
        .expect("Linux lists its processes")
        .flatten()
        .map(|entry| fs::read(entry.path().join("environ")));
    let bears = |bytes: &Vec<u8>| bytes.split(|byte| *byte == 0).any(|pair| pair == variable.as_bytes());
    environments.flatten().filter(bears).count()
}
