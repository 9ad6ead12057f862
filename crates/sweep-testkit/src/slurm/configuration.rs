//! The files that a cluster of a test is made of.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::ClusterSize;

/// Where a cluster lies and what it is.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) folder: PathBuf,
    pub(super) size: ClusterSize,
    ports: Ports,
}

/// TCP ports of a cluster.
#[derive(Debug)]
pub(super) struct Ports {
    controller: u16,
    nodes: Vec<u16>,
}

impl Ports {
    /// Returns ports that are free at this moment.
    pub(super) fn free(nodes: u32) -> Self {
        let bind =
            |_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("the loopback interface has free ports");
        // All at once, so that none comes twice.
        let listeners: Vec<TcpListener> = (0..=nodes).map(bind).collect();
        let port =
            |listener: &TcpListener| listener.local_addr().expect("a bound socket has an address").port();
        Self { controller: port(&listeners[0]), nodes: listeners[1..].iter().map(port).collect() }
    }
}

impl Site {
    pub(super) fn new(folder: &Path, size: ClusterSize, ports: Ports) -> Self {
        Self { folder: folder.to_owned(), size, ports }
    }

    /// Returns the path of `slurm.conf`, by which processes of this cluster are known.
    pub(super) fn configuration(&self) -> PathBuf {
        self.folder.join("etc/slurm.conf")
    }

    pub(super) fn socket(&self) -> String {
        self.path("run/munge.sock")
    }

    /// Returns the file of what a daemon prints.
    pub(super) fn log(&self, daemon: &str) -> PathBuf {
        self.folder.join("log").join(format!("{daemon}.out"))
    }

    /// Returns the end of what a daemon printed.
    pub(super) fn last_words(&self, daemon: &str) -> String {
        let text = fs::read_to_string(self.log(daemon)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(10).collect();
        format!("{daemon}: {}", lines.into_iter().rev().collect::<Vec<_>>().join("\n"))
    }

    /// Returns `munged` and its arguments. `--force` turns into warnings what it has against folders that everybody may
    /// write to, which a temporary one lies in.
    pub(super) fn munged(&self) -> Vec<String> {
        vec![
            "munged".to_owned(),
            "--foreground".to_owned(),
            "--force".to_owned(),
            "--num-threads=2".to_owned(),
            "--origin=127.0.0.1".to_owned(),
            format!("--socket={}", self.socket()),
            format!("--key-file={}", self.path("etc/munge.key")),
            format!("--log-file={}", self.path("log/munged.log")),
            format!("--pid-file={}", self.path("run/munged.pid")),
            format!("--seed-file={}", self.path("run/munged.seed")),
        ]
    }

    /// Writes everything that the daemons read.
    pub(super) fn write(&self) {
        for folder in ["etc", "run", "log", "state", "spool", "work", "dev"] {
            let folder = self.folder.join(folder);
            fs::create_dir(&folder).expect("the temporary folder is writable");
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).expect("the folder is ours");
        }
        for node in 1..=self.size.nodes {
            fs::create_dir(self.folder.join(format!("spool/n{node}")))
                .expect("the temporary folder is writable");
        }
        self.write_key();
        self.write_file("etc/slurm.conf", &format!("{}{}", self.general(), self.nodes_and_partitions()));
        self.write_gpus();
    }

    fn write_key(&self) {
        // Nobody is kept out by it: the cluster lives on the loopback interface for as long as a test.
        self.write_file("etc/munge.key", &"a key of a test, known to everybody ".repeat(4));
        let key = self.folder.join("etc/munge.key");
        fs::set_permissions(key, fs::Permissions::from_mode(0o600)).expect("the key is ours");
    }

    /// `slurmd` wants a character device for each GPU and takes its number from the digits of its name.
    fn write_gpus(&self) {
        for number in 0..self.size.gpus {
            let device = self.folder.join(format!("dev/nvidia{number}"));
            symlink("/dev/null", device).expect("the temporary folder is writable");
        }
        let text = match self.size.gpus.checked_sub(1) {
            Some(last) => format!("Name=gpu File={}[0-{last}]\n", self.path("dev/nvidia")),
            None => String::new(),
        };
        self.write_file("etc/gres.conf", &text);
    }

    /// Without control groups and process tracking by them, so that no privilege is needed; and quick, so that tests need
    /// not wait for what suits a real cluster.
    fn general(&self) -> String {
        let (host, user) = (host(), user());
        let (folder, port) = (self.folder.display(), self.ports.controller);
        let socket = self.socket();
        let cluster = format!("sweep{}x{port}", std::process::id());
        format!(
            "ClusterName={cluster}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
# A requeued job waits until its credential has expired: two minutes by default, and at least 5 s.
AuthInfo=socket={socket},cred_expire=5
CredType=cred/munge
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd-%n.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
# Nodes may claim more than this machine has.
SlurmdParameters=config_overrides
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SwitchType=switch/none
GresTypes=gpu
DefMemPerCPU=100
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,sched_min_interval=0,bf_interval=1,bf_continue,batch_sched_delay=0
KillWait=2
SlurmdTimeout=10
SlurmctldTimeout=10
MessageTimeout=10
UnkillableStepTimeout=30
# A node that was lost heals when it is back; one that was set down stays down.
ReturnToService=1
MinJobAge=300
MaxArraySize=20001
MaxJobCount=50000
JobRequeue=1
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
"
        )
    }

    fn nodes_and_partitions(&self) -> String {
        let ClusterSize { cpus, gpus, .. } = self.size;
        let gpus = if gpus == 0 { String::new() } else { format!(" Gres=gpu:{gpus}") };
        let nodes = self.ports.nodes.iter().enumerate().map(|(index, port)| {
            let name =
                format!("NodeName=n{} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port}", index + 1);
            format!("{name} CPUs={cpus} RealMemory=64000{gpus}\n")
        });
        let partitions = [
            "PartitionName=main Nodes=ALL Default=YES PriorityTier=10 PreemptMode=OFF MaxTime=INFINITE State=UP\n",
            "PartitionName=low Nodes=ALL PriorityTier=1 PreemptMode=REQUEUE GraceTime=0 MaxTime=INFINITE State=UP\n",
            "PartitionName=high Nodes=ALL PriorityTier=100 PreemptMode=OFF MaxTime=INFINITE State=UP\n",
        ];
        nodes.chain(partitions.map(str::to_owned)).collect()
    }

    fn path(&self, below: &str) -> String {
        self.folder.join(below).display().to_string()
    }

    fn write_file(&self, below: &str, text: &str) {
        fs::write(self.folder.join(below), text).expect("the temporary folder is writable");
    }
}

/// Returns the host's short name, which is what the controller compares its own with.
fn host() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").expect("Linux says how the host is called");
    name.trim().split('.').next().unwrap_or_default().to_owned()
}

fn user() -> String {
    let output = Command::new("id").arg("-un").output().expect("`id` can be started");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
