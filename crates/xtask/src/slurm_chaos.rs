//! `cargo xtask slurm-chaos`: a grid on a real Slurm whose every part is killed, and that must not show it.
//!
//! The controller is killed three times, Slurm's own twice, a node is lost and comes back, another is preempted, tasks are
//! requeued and cancelled by hand. In the end each run has succeeded exactly once, no two workers were at one run at the same
//! time, and every number is that of a grid that ran here undisturbed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use sweep_core::event::Record;
use sweep_core::home::Home;
use sweep_core::spec::RunId;
use sweep_testkit::Workspace;
use sweep_testkit::slurm::{Cluster, ClusterSize};

use crate::console;
use crate::program::{Printed, Program, integer, text};

/// How often the grid is looked at.
const POLL: Duration = Duration::from_millis(200);

/// Looks at the grid after which the nodes are looked at.
const HEAL_EVERY: u32 = 10;

/// Longest time between two moments of the plan; what is then missing will not come.
const STUCK: Duration = Duration::from_mins(5);

/// How many times faster than usual Slurm and tasks are looked at.
const HURRY: &str = "10";

/// What must be the same as without Slurm, however it came about.
const OUTCOME: [&str; 3] = [
    "SELECT run, digest FROM models ORDER BY run",
    "SELECT run, epoch, train_loss, train_correct, clean_correct, robust_correct, clean_loss, robust_loss \
     FROM epochs ORDER BY run, epoch",
    "SELECT run, epsilon, correct, total FROM evaluations ORDER BY run, epsilon",
];

/// The command line of `cargo xtask slurm-chaos`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Arguments {
    /// Runs of the grid; the plan is spread over them.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(12..=1000))]
    runs: u64,
}

/// Does it; returns whether everything held. Where there is no Slurm, that is said, and nothing is proved.
pub(crate) fn run(program: &Program, arguments: &Arguments) -> Result<bool> {
    let Some(cluster) = Cluster::start(&ClusterSize { nodes: 3, cpus: 4, gpus: 4 }) else { return Ok(true) };
    let workspace = Workspace::new();
    let file = workspace.home().join("chaos.yaml");
    fs::write(&file, sweep_of(arguments.runs))?;
    let grid = Grid { program, cluster, home: workspace.layout(), file, runs: arguments.runs };
    let begin = Instant::now();
    grid.torment()?;
    console::say(&format!("the grid is complete after {} s", begin.elapsed().as_secs()));
    let mut faults = grid.faults_of_runs()?;
    faults.extend(grid.overlaps()?);
    faults.extend(program.database_fault(grid.home.root())?);
    faults.extend(grid.differences()?);
    console::faults(&faults);
    console::say(if faults.is_empty() { "everything held" } else { "it did not hold" });
    Ok(faults.is_empty())
}

struct Grid<'a> {
    program: &'a Program,
    cluster: Cluster,
    home: Home,
    file: PathBuf,
    runs: u64,
}

impl Grid<'_> {
    /// Carries out the plan; each step waits until that part of the runs has succeeded.
    fn torment(&self) -> Result<()> {
        let mut session = self.start("1")?;
        self.wait("attempts", self.runs / 10)?;
        session = self.kill_and_start(session, "2")?;
        self.wait_for_part(1, 10)?;
        self.cluster.kill_node(1);
        console::say("node n1 is lost");
        self.wait_for_part(2, 10)?;
        self.cluster.start_node(1);
        console::say("node n1 is back");
        self.preempt()?;
        self.wait_for_part(3, 10)?;
        self.kill_slurm();
        self.wait_for_part(4, 10)?;
        session = self.kill_and_start(session, "3")?;
        self.strike_tasks("scontrol", &["requeue"], 2)?;
        self.wait_for_part(5, 10)?;
        self.strike_tasks("scancel", &[], 2)?;
        self.wait_for_part(6, 10)?;
        self.kill_slurm();
        self.wait_for_part(7, 10)?;
        session = self.kill_and_start(session, "4")?;
        self.heal()?;
        let code = self.end(&mut session)?;
        ensure!(
            code == Some(0) || code == Some(3),
            "the last session ended with {code:?}\n{}",
            session.tail()
        );
        // What was cancelled stays so until somebody wants it.
        let cancelled = self.count("runs WHERE state = 'cancelled'")?;
        console::say(&format!("{cancelled} runs were cancelled by hand and are taken in again"));
        if cancelled > 0 {
            self.sweep(&["retry", "--sweep", "chaos"])?;
        }
        self.heal()?;
        let mut session = self.start("5")?;
        let code = self.end(&mut session)?;
        ensure!(code == Some(0), "the grid did not become complete: {code:?}\n{}", session.tail());
        Ok(())
    }

    fn start(&self, name: &str) -> Result<Session> {
        let file = self.file.to_str().context("the sweep file's path is text")?;
        let arguments = [
            "run",
            file,
            "--executor",
            "slurm",
            "--partition",
            "low",
            "--gpus",
            "1",
            "--devices",
            "cpu",
            "--threads",
            "1",
            "--no-early-stop",
        ];
        let output = self.home.root().join(format!("session-{name}.txt"));
        let mut command = self.program.command(self.home.root(), &arguments);
        command.envs(self.cluster.environment()).env("SWEEP_SLURM_HURRY", HURRY);
        // Jobs begin as login shells of their user: here one without a profile.
        command.env("HOME", self.home.root());
        let child = command.stderr(File::create(&output)?).spawn().context("failed to start the program")?;
        Ok(Session { child, output })
    }

    fn kill_and_start(&self, mut session: Session, name: &str) -> Result<Session> {
        match session.child.try_wait()? {
            None => {
                session.child.kill()?;
                session.child.wait()?;
                console::say("the controller is killed and started again");
            }
            // Everything was done before its time had come.
            Some(status) if status.success() => {
                console::say("the controller had ended, and is started again");
            }
            Some(status) => bail!("the controller ended before its time with {status}\n{}", session.tail()),
        }
        self.start(name)
    }

    /// Takes a node away from its jobs for one that matters more.
    fn preempt(&self) -> Result<()> {
        self.slurm("sbatch", &["--wrap=sleep 2", "-p", "high", "-w", "n2", "-c", "4", "-o", "/dev/null"])?;
        console::say("the jobs of node n2 are preempted");
        Ok(())
    }

    fn kill_slurm(&self) {
        self.cluster.kill_controller();
        thread::sleep(Duration::from_secs(3));
        self.cluster.start_controller();
        console::say("Slurm's controller was killed, and is back");
    }

    /// Does what an administrator would: wakes nodes that Slurm has drained because it found jobs there that it had forgotten,
    /// which it may do long after it was killed.
    fn heal(&self) -> Result<()> {
        // While Slurm does not answer there is nothing to see; there will be another look.
        let states = self.slurm("sinfo", &["-h", "-N", "-o", "%N %T"]).unwrap_or_default();
        let drained = states.lines().filter_map(|line| line.split_once(' '));
        for (node, _) in drained.filter(|(_, state)| state.starts_with("drain")) {
            // One that has woken up meanwhile cannot be resumed, which is no matter.
            let _ = self.try_slurm("scontrol", &["update", &format!("NodeName={node}"), "State=RESUME"])?;
        }
        Ok(())
    }

    /// Does something to the first tasks that run.
    fn strike_tasks(&self, program: &str, verb: &[&str], count: usize) -> Result<()> {
        let running = self.slurm("squeue", &["-h", "-r", "-t", "R", "-p", "low", "-o", "%F_%K"])?;
        for task in running.lines().take(count) {
            let arguments = [verb, &[task.trim()]].concat();
            // It may be over by now.
            let done = self.try_slurm(program, &arguments)?;
            console::say(&format!(
                "{program} {}: {}",
                arguments.join(" "),
                if done { "done" } else { "too late" }
            ));
        }
        Ok(())
    }

    fn slurm(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let output = Command::new(program)
            .args(arguments)
            .envs(self.cluster.environment())
            .stdin(Stdio::null())
            .output()?;
        ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn try_slurm(&self, program: &str, arguments: &[&str]) -> Result<bool> {
        let mut command = Command::new(program);
        command.args(arguments).envs(self.cluster.environment());
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
        Ok(status.success())
    }

    fn sweep(&self, arguments: &[&str]) -> Result<()> {
        let mut command = self.program.command(self.home.root(), arguments);
        let status = command.envs(self.cluster.environment()).status()?;
        ensure!(status.success(), "`sweep {}` ended with {status}", arguments.join(" "));
        Ok(())
    }

    fn count(&self, of: &str) -> Result<u64> {
        let rows = self.program.query(self.home.root(), &format!("SELECT count(*) AS n FROM {of}"))?;
        Ok(rows.first().map_or(0, |row| integer(row, "n").unsigned_abs()))
    }

    fn wait_for_part(&self, part: u64, of: u64) -> Result<()> {
        self.wait("runs WHERE state = 'succeeded'", self.runs * part / of)
    }

    fn wait(&self, of: &str, count: u64) -> Result<()> {
        let deadline = Instant::now() + STUCK;
        let mut looks = 0;
        loop {
            // At first there is no database.
            let found = self.count(of).unwrap_or(0);
            if found >= count {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("the grid is stuck: {found} of {count} {of}");
            }
            self.rest(&mut looks)?;
        }
    }

    /// Waits for the end of a session and returns its exit code.
    fn end(&self, session: &mut Session) -> Result<Option<i32>> {
        let deadline = Instant::now() + STUCK;
        let mut looks = 0;
        loop {
            if let Some(status) = session.child.try_wait()? {
                return Ok(status.code());
            }
            if Instant::now() > deadline {
                bail!("the session does not end\n{}", session.tail());
            }
            self.rest(&mut looks)?;
        }
    }

    /// Waits between two looks at the grid, and looks after the nodes now and then.
    fn rest(&self, looks: &mut u32) -> Result<()> {
        *looks += 1;
        if looks.is_multiple_of(HEAL_EVERY) {
            self.heal()?;
        }
        thread::sleep(POLL);
        Ok(())
    }

    /// Every run has succeeded, once, and Slurm has nothing of it any more.
    fn faults_of_runs(&self) -> Result<Vec<String>> {
        let sql = "SELECT r.id, r.state, sum(a.state = 'succeeded') AS good, sum(a.state = 'running') AS open, count(*) AS n \
                   FROM runs r JOIN attempts a ON a.run = r.id GROUP BY r.id";
        let rows = self.program.query(self.home.root(), sql)?;
        let mut faults = Vec::new();
        if rows.len() as u64 != self.runs {
            faults.push(format!("{} of {} runs were tried", rows.len(), self.runs));
        }
        for row in &rows {
            let (state, good, open) = (text(row, "state"), integer(row, "good"), integer(row, "open"));
            if (state, good, open) != ("succeeded", 1, 0) {
                let run = text(row, "id");
                faults.push(format!("run {run} is {state}: {good} attempts succeeded, {open} are open"));
            }
        }
        let attempts: i64 = rows.iter().map(|row| integer(row, "n")).sum();
        console::say(&format!("{} runs took {attempts} attempts", rows.len()));
        let left = self.count("submissions WHERE is_open = 1")?;
        if left > 0 {
            faults.push(format!("{left} runs are still with Slurm"));
        }
        Ok(faults)
    }

    /// Returns attempts at one run that wrote at the same time.
    fn overlaps(&self) -> Result<Vec<String>> {
        let rows =
            self.program.query(self.home.root(), "SELECT run, number FROM attempts ORDER BY run, number")?;
        let mut faults = Vec::new();
        let mut before: Option<(String, i64)> = None;
        for row in &rows {
            let (run, number) = (text(row, "run"), integer(row, "number"));
            let id: RunId = run.parse().context("the database has ids of runs")?;
            let Some((first, last)) = span(&self.home.events(id, number as u32)) else { continue };
            if before.as_ref().is_some_and(|(other, end)| other == run && *end > first) {
                faults.push(format!("attempt {number} at run {run} began before the one before had ended"));
            }
            before = Some((run.to_owned(), last));
        }
        Ok(faults)
    }

    /// Compares the numbers with those of the same grid without Slurm.
    fn differences(&self) -> Result<Vec<String>> {
        let calm = Workspace::new();
        let file = self.file.to_str().context("the sweep file's path is text")?;
        let arguments = ["run", file, "--devices", "cpu:2", "--threads", "1"];
        let status = self.program.command(calm.home(), &arguments).status()?;
        ensure!(status.success(), "the undisturbed grid ended with {status}");
        let mut faults = Vec::new();
        for sql in OUTCOME {
            let [here, there]: [Vec<Printed>; 2] =
                [self.program.printed(self.home.root(), sql)?, self.program.printed(calm.home(), sql)?];
            if here != there {
                let differing = here.iter().zip(&there).filter(|(one, other)| one != other).count();
                faults.push(format!("{differing} of {} rows differ: {sql}", there.len()));
            }
        }
        Ok(faults)
    }
}

/// Returns when an attempt's first and last events were written, in milliseconds.
fn span(events: &Path) -> Option<(i64, i64)> {
    let text = fs::read_to_string(events).ok()?;
    let mut times = text.lines().filter_map(|line| serde_json::from_str::<Record>(line).ok());
    let first = times.next()?.time_ms;
    Some((first, times.next_back().map_or(first, |record| record.time_ms)))
}

/// A `sweep run` that follows Slurm, and is killed where the harness gives up.
struct Session {
    child: Child,
    output: PathBuf,
}

impl Session {
    fn tail(&self) -> String {
        let said = fs::read_to_string(&self.output).unwrap_or_default();
        let lines: Vec<&str> = said.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // One that was waited for is not touched by this.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Real runs of a few seconds.
fn sweep_of(runs: u64) -> String {
    let seeds: Vec<String> = (0..runs).map(|seed| seed.to_string()).collect();
    format!(
        "name: chaos\n\
         run: {{backbone: b, dataset: small, target_epsilon: 8/255, epsilon_schedule: {{kind: fixed}}, epochs: 40, batch_size: 16, \
         micro_batch_size: 8, learning_rate_schedule: {{kind: constant}}, attack: {{kind: apgd, steps: 2}}, \
         validation: {{attack: {{kind: apgd, steps: 2}}}}, evaluation: {{attack: {{kind: apgd, steps: 2}}, max_epsilon: 8/255}}}}\n\
         matrix: {{seed: [{}]}}\n\
         backbones: {{b: {{architecture: {{kind: vit, image_size: 16, patch_size: 4, embed_dim: 16, depth: 1, num_heads: 2}}, \
         weights: {{kind: random}}}}}}\n\
         datasets: {{small: {{source: {{kind: procedural, family: shapes, train: 160, test: 60}}}}}}\n",
        seeds.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::no_files::NoFiles;

    #[test]
    fn the_sweep_has_a_seed_a_run() {
        let sweep = sweep_core::Sweep::parse(sweep_of(12).as_bytes(), &[]).unwrap();
        assert_eq!(sweep.expand(&NoFiles).unwrap().runs.len(), 12);
    }

    #[test]
    fn an_attempt_spans_its_events() {
        let workspace = Workspace::new();
        let path = workspace.home().join("events.jsonl");
        assert_eq!(span(&path), None);
        let line = |time: i64| {
            format!("{{\"sequence\":0,\"time_ms\":{time},\"event\":{{\"kind\":\"succeeded\"}}}}\n")
        };
        fs::write(&path, [line(5), line(9), "{\"torn".to_owned()].concat()).unwrap();
        assert_eq!(span(&path), Some((5, 9)));
    }
}
