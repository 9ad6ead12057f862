//! The scheduler is killed with SIGKILL, as by a power cut, at many moments; then the same sweep is run again.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use sweep_core::trajectory::CheckpointName;
use sweep_scheduler::{Stop, Update, dispatch};
use sweep_store::State;
use sweep_testkit::{Action, FAKE_WORKER_VARIABLE, Script, fake_worker, sample_run, wait_until};
use tokio::sync::watch;

use crate::beginnings::{COMMON, family};
use crate::fixture::{Fixture, listed, register, settings, two_epochs};

/// Runs of the sweep that is killed.
const RUNS: u64 = 5;

/// Tells [`scheduler_process`] where to work; its absence tells it that it is not wanted.
const HOME_VARIABLE: &str = "SWEEP_TEST_HOME";

/// Tells it which sweep to run: [`FAMILY`], or anything else for runs that have nothing in common.
const SWEEP_VARIABLE: &str = "SWEEP_TEST_SWEEP";

const FAMILY: &str = "family";

/// Not a test: the process that the tests of this file kill.
#[test]
#[ignore = "the other tests of this file start and kill it"]
fn scheduler_process() {
    let Some(home) = std::env::var_os(HOME_VARIABLE) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let home = Path::new(&home);
        let is_family = std::env::var(SWEEP_VARIABLE).is_ok_and(|sweep| sweep == FAMILY);
        let specs = if is_family { family() } else { (0..RUNS).map(sample_run).collect() };
        let (store, runs) = register(home, specs).await;
        let (_stop, stopped) = watch::channel(Stop::None);
        let settings = settings(home, "cpu:2");
        dispatch(&store, &listed(&runs), &settings, stopped, &mut |_| {}).await.unwrap();
    });
}

fn start_scheduler(home: &Path) -> Child {
    start("", home)
}

fn start(sweep: &str, home: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::scheduler_process", "--ignored", "--nocapture"])
        .env(HOME_VARIABLE, home)
        .env(SWEEP_VARIABLE, sweep)
        .env(FAKE_WORKER_VARIABLE, fake_worker())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Kills a scheduler as soon as `moment` has come, or lets it end if that never comes.
fn kill_at(mut scheduler: Child, mut moment: impl FnMut() -> bool) {
    wait_until("the moment to kill", || (moment() || scheduler.try_wait().unwrap().is_some()).then_some(()));
    scheduler.kill().unwrap();
    scheduler.wait().unwrap();
}

/// Runs the sweep again and checks that nothing done is done twice, nothing stays behind, and everything gets done.
async fn finish(fixture: &Fixture) {
    let before = fixture.states().await;
    let starts = |position: usize| fixture.workspace.starts(fixture.id(position));
    let starts_before: Vec<usize> = (0..before.len()).map(starts).collect();
    let session = fixture.session(&fixture.settings("cpu:2")).await;
    assert!(session.summary.is_complete(), "{:?}", session.summary);
    fixture.assert_complete().await;
    for (position, state) in before.into_iter().enumerate() {
        if state == State::Succeeded {
            assert_eq!(starts(position), starts_before[position], "run {position} was done already");
        }
        assert!(starts(position) <= 2, "run {position} was started {} times", starts(position));
        let attempts = fixture.attempts(position).await;
        assert!(attempts.iter().all(|attempt| attempt.state != State::Running));
        let successes = attempts.iter().filter(|attempt| attempt.state == State::Succeeded);
        assert_eq!(successes.count(), 1, "{attempts:?}");
    }
}

#[tokio::test]
async fn killed_while_a_worker_trains() {
    for position in 0..RUNS as usize {
        let fixture = Fixture::new(RUNS).await;
        fixture.workspace.script(&Script::always(two_epochs()));
        let trains = [Action::Start, Action::Epoch { clean: 9, robust: 3 }];
        let hangs = [Action::Touch { file: "trains".to_owned() }, Action::Hang];
        fixture.script(position, &Script { first: vec![[trains, hangs].concat()], then: two_epochs() });
        let scheduler = start_scheduler(fixture.workspace.home());
        let flag = fixture.workspace.flag("trains");
        kill_at(scheduler, || flag.exists());
        finish(&fixture).await;
        let states: Vec<State> =
            fixture.attempts(position).await.iter().map(|attempt| attempt.state).collect();
        assert_eq!(states, [State::Interrupted, State::Succeeded]);
    }
}

#[tokio::test]
async fn killed_around_the_start_and_the_end_of_every_worker() {
    for position in 0..RUNS as usize {
        for file in ["attempt-1", "attempt-1/log.txt", "spec.json", "starts.txt", "attempt-1/events.jsonl"] {
            let fixture = Fixture::new(RUNS).await;
            fixture.workspace.script(&Script::always(two_epochs()));
            let path = fixture.workspace.layout().run(fixture.id(position)).join(file);
            kill_at(start_scheduler(fixture.workspace.home()), || path.exists());
            finish(&fixture).await;
        }
    }
}

/// Asserts that a sweep which is run again now gets everything done, whatever its failures on the way.
async fn get_done(fixture: &Fixture) {
    let session = fixture.session(&fixture.settings("cpu:2")).await;
    assert!(session.summary.is_complete(), "{:?}", session.summary);
    fixture.assert_complete().await;
    for position in 0..fixture.runs.len() {
        let attempts = fixture.attempts(position).await;
        let successes = attempts.iter().filter(|attempt| attempt.state == State::Succeeded);
        assert_eq!(successes.count(), 1, "{attempts:?}");
    }
}

#[tokio::test]
async fn killed_around_what_is_written_about_a_failure() {
    for file in ["attempt-1/verdict.json.new", "attempt-1/verdict.json", "attempt-2"] {
        let fixture = Fixture::new(RUNS).await;
        let dies = vec![Action::Start, Action::Die { signal: 9 }];
        fixture.workspace.script(&Script { first: vec![dies], then: two_epochs() });
        let path = fixture.workspace.layout().run(fixture.id(2)).join(file);
        kill_at(start_scheduler(fixture.workspace.home()), || path.exists());
        get_done(&fixture).await;
        let first = &fixture.attempts(2).await[0];
        assert!([State::Failed, State::Interrupted].contains(&first.state), "{first:?}");
    }
}

#[tokio::test]
async fn killed_around_the_common_beginning_of_a_family() {
    for moment in ["sharing.json", "saved", "second", "collected"] {
        let fixture = Fixture::with(family()).await;
        let home = fixture.workspace.layout();
        let saves = Action::CheckpointSaved { epochs: COMMON };
        let flag = |file: &str| Action::Touch { file: file.to_owned() };
        let leads = [Action::Start, saves, flag("saved"), Action::CheckpointSaved { epochs: 3 }];
        fixture.script(0, &Script::always([&leads[..], &[Action::Succeed]].concat()));
        fixture.script(1, &Script::always([Action::Start, flag("second"), Action::Succeed]));
        let path = match moment {
            "sharing.json" => home.sharing(fixture.id(0)),
            flag => fixture.workspace.flag(flag),
        };
        let beginning = beginning_of(&fixture);
        let mut was_there = false;
        let collected = || {
            was_there |= beginning.exists();
            was_there && !beginning.exists()
        };
        let scheduler = start(FAMILY, fixture.workspace.home());
        if moment == "collected" {
            kill_at(scheduler, collected);
        } else {
            kill_at(scheduler, || path.exists());
        }
        get_done(&fixture).await;
        assert!(!beginning.exists(), "{moment}: a checkpoint that nobody needs is left");
    }
}

/// Returns the checkpoint from which the followers of a family start.
fn beginning_of(fixture: &Fixture) -> PathBuf {
    let (run, spec) = &fixture.runs[0];
    let prefix = spec.trajectory()[COMMON as usize];
    let name = CheckpointName { prefix, run: *run, step: None, digest: "0".repeat(64) };
    fixture.workspace.layout().trajectories().join(name.to_string())
}

#[tokio::test]
async fn killed_again_and_again() {
    let fixture = Fixture::new(RUNS).await;
    fixture.workspace.script(&Script::always(two_epochs()));
    for position in 0..RUNS as usize {
        let path = fixture.workspace.layout().spec(fixture.id(position));
        kill_at(start_scheduler(fixture.workspace.home()), || path.exists());
    }
    fixture.session(&fixture.settings("cpu:2")).await;
    fixture.assert_complete().await;
}

#[tokio::test]
async fn a_worker_that_outlives_its_scheduler_is_awaited_and_believed() {
    let fixture = Fixture::new(RUNS).await;
    let wait = Action::WaitFor { file: "go".to_owned() };
    let deaf =
        [Action::BeDeaf, Action::Start, Action::Touch { file: "alive".to_owned() }, wait, Action::Succeed];
    fixture.script(1, &Script::always(deaf));
    let flag = fixture.workspace.flag("alive");
    kill_at(start_scheduler(fixture.workspace.home()), || flag.exists());
    let workspace = &fixture.workspace;
    let orphan = fixture.id(1);
    let let_go = |update: &Update| {
        if matches!(update, Update::Elsewhere { run, .. } if *run == orphan) {
            workspace.raise("go");
        }
        None
    };
    let session = fixture.session_until(&fixture.settings("cpu:2"), let_go).await;
    assert!(session.summary.is_complete(), "{:?}", session.summary);
    assert_eq!(fixture.workspace.starts(orphan), 1);
    fixture.assert_complete().await;
}
