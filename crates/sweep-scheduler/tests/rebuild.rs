//! Rebuilding from files that were tampered with: never a crash, and never at the cost of other runs.
#![expect(clippy::unwrap_used, reason = "a test ends where something unexpected happens")]

use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;
use sweep_core::event::{Event, FailureClass, Record};
use sweep_core::spec::{RunId, RunSpec};
use sweep_core::verdict::{Cause, Outcome, Verdict};
use sweep_scheduler::{Error, Home, rebuild};
use sweep_store::{Reader, State, Store, SweepFile};
use sweep_testkit::{Workspace, id_of, sample_run, sample_run_after};

/// Each case makes a database of its own, which takes a good part of a second on a busy machine.
const CASES: u32 = 32;

const NOW: i64 = 1_700_000_000_000;

/// A home folder with the files of runs, and no database.
struct Files {
    _workspace: Workspace,
    home: Home,
}

impl Files {
    fn new() -> Self {
        let workspace = Workspace::new();
        Self { home: workspace.layout(), _workspace: workspace }
    }

    fn run(&self, spec: &RunSpec) -> RunId {
        let run = spec.id();
        fs::create_dir_all(self.home.run(run)).unwrap();
        fs::write(self.home.spec(run), serde_json::to_vec(spec).unwrap()).unwrap();
        run
    }

    fn attempt(&self, run: RunId, attempt: u32, events: Vec<Event>) -> PathBuf {
        fs::create_dir_all(self.home.attempt(run, attempt)).unwrap();
        let path = self.home.events(run, attempt);
        fs::write(&path, lines(events)).unwrap();
        path
    }

    fn sweep(&self, name: &str, runs: Vec<RunId>) {
        SweepFile::write(&self.home, name, "name: it", runs, NOW).unwrap();
    }

    async fn states(&self, runs: &[RunId]) -> Vec<State> {
        let reader = Reader::open(self.home.database()).await.unwrap();
        let states = reader.states_of(runs).await.unwrap();
        states.into_iter().map(|run| run.state).collect()
    }
}

fn lines(events: Vec<Event>) -> Vec<u8> {
    let record = |(sequence, event)| Record { sequence, time_ms: NOW + sequence as i64, event };
    let line = |record: Record| format!("{}\n", serde_json::to_string(&record).unwrap());
    (0..).zip(events).map(record).map(line).collect::<String>().into_bytes()
}

fn started(run: RunId, attempt: u32) -> Event {
    Event::Started {
        run,
        attempt,
        pid: 1,
        host: "elsewhere.invalid".to_owned(),
        device: "cpu".to_owned(),
        threads: 1,
        version: "0".to_owned(),
        resumed_from: 0,
        resumed_run: None,
        micro_batch_size: None,
        process_start: Some(1),
    }
}

fn epoch(epoch: u32) -> Event {
    Event::EpochFinished {
        epoch,
        epsilon: 0.0,
        learning_rate: 0.01,
        train_loss: 1.0,
        train_correct: 5,
        train_total: 10,
        clean_correct: 5,
        robust_correct: 2,
        validation_total: 10,
        clean_loss: 1.0,
        robust_loss: 2.0,
        train_seconds: 0.5,
        validation_seconds: 0.5,
        trained_by: None,
    }
}

fn complete(run: RunId, attempt: u32) -> Vec<Event> {
    vec![
        started(run, attempt),
        epoch(0),
        epoch(1),
        Event::CheckpointSaved {
            epochs: 2,
            step: 0,
            file: "trajectories/a".to_owned(),
            digest: "d".repeat(64),
            bytes: 9,
        },
        epoch(2),
        Event::Succeeded,
    ]
}

fn verdict(outcome: Outcome) -> Verdict {
    Verdict { outcome, exit_code: None, signal: Some(9), micro_batch_limit: Some(4), ended_ms: NOW + 99 }
}

#[tokio::test]
async fn the_last_word_and_the_verdict_decide() {
    let files = Files::new();
    let cause = || Cause { class: FailureClass::WorkerDied, message: "killed".to_owned() };
    let failed = |class| Event::Failed { class, message: "broken".to_owned() };
    let ends = [
        (Some(Event::Succeeded), None, State::Succeeded),
        (Some(Event::Interrupted { epochs: 1 }), None, State::Interrupted),
        (None, None, State::Interrupted),
        (Some(failed(FailureClass::Data)), None, State::Failed),
        (Some(failed(FailureClass::Hub)), None, State::Pending),
        (Some(failed(FailureClass::DiskFull)), None, State::Interrupted),
        (None, Some(Outcome::Failed { cause: cause(), retry: true }), State::Pending),
        (Some(Event::Succeeded), Some(Outcome::Failed { cause: cause(), retry: false }), State::Failed),
        (Some(Event::Interrupted { epochs: 1 }), Some(Outcome::Cancelled), State::Cancelled),
        (
            Some(failed(FailureClass::DiskFull)),
            Some(Outcome::Interrupted { cause: Some(cause()) }),
            State::Interrupted,
        ),
        (Some(failed(FailureClass::OutOfMemory)), None, State::Pending),
    ];
    let mut expected = Vec::new();
    for (seed, (word, judged, state)) in (0..).zip(ends) {
        let run = files.run(&sample_run(seed));
        files.attempt(run, 1, [started(run, 1)].into_iter().chain(word).collect());
        if let Some(outcome) = judged {
            let text = serde_json::to_vec(&verdict(outcome)).unwrap();
            fs::write(files.home.verdict(run, 1), text).unwrap();
        }
        expected.push((run, state));
    }
    let (runs, states): (Vec<_>, Vec<_>) = expected.into_iter().unzip();
    files.sweep("all", runs.clone());
    let rebuilt = rebuild(&files.home).await.unwrap();
    assert_eq!((rebuilt.sweeps, rebuilt.runs, rebuilt.attempts), (1, runs.len(), runs.len()));
    assert_eq!((rebuilt.problems, rebuilt.kept), (vec![], None));
    assert_eq!(files.states(&runs).await, states);
    let reader = Reader::open(files.home.database()).await.unwrap();
    let killed = &reader.attempts_of(runs[6]).await.unwrap()[0];
    assert_eq!((killed.signal, killed.ended_ms), (Some(9), Some(NOW + 99)));
    assert_eq!(reader.states_of(&runs[6..7]).await.unwrap()[0].micro_batch_limit, Some(4));
}

#[tokio::test]
async fn runs_that_start_from_runs_that_are_gone_are_left_out() {
    let files = Files::new();
    let gone = id_of(7);
    let first = files.run(&sample_run_after(1, gone));
    let second = files.run(&sample_run_after(2, first));
    let whole = files.run(&sample_run(3));
    let after = files.run(&sample_run_after(4, whole));
    let rebuilt = rebuild(&files.home).await.unwrap();
    assert_eq!(rebuilt.runs, 2);
    for run in [first, second] {
        assert!(rebuilt.problems.iter().any(|problem| problem.contains(&format!("run {run} is left out"))));
    }
    assert_eq!(files.states(&[whole, after]).await, [State::Pending, State::Pending]);
}

#[tokio::test]
async fn a_database_in_use_or_a_locked_log_is_left_alone() {
    let files = Files::new();
    assert!(matches!(rebuild(&files.home).await, Err(Error::NothingToRebuild { .. })));
    let run = files.run(&sample_run(0));
    files.attempt(run, 1, complete(run, 1));
    let store = Store::open(files.home.database()).await.unwrap();
    let in_use = rebuild(&files.home).await.unwrap_err();
    assert!(matches!(in_use, Error::Store(sweep_store::Error::InUse { .. })), "{in_use}");
    store.close().await.unwrap();
    let log = fs::File::create(files.home.log(run, 1)).unwrap();
    log.lock().unwrap();
    assert!(matches!(rebuild(&files.home).await, Err(Error::Alive { attempt: 1, .. })));
    // Not by closing it: that leaves the lock with any process that is being started just now.
    log.unlock().unwrap();
    let rebuilt = rebuild(&files.home).await.unwrap();
    assert!(rebuilt.kept.unwrap().exists());
    assert_eq!(files.states(&[run]).await, [State::Succeeded]);
}

#[tokio::test]
async fn the_events_of_another_run_are_not_believed() {
    let files = Files::new();
    let (run, other) = (files.run(&sample_run(0)), files.run(&sample_run(1)));
    files.attempt(run, 1, complete(other, 1));
    let rebuilt = rebuild(&files.home).await.unwrap();
    assert!(rebuilt.problems[0].contains("event 0 of attempt 1"), "{:?}", rebuilt.problems);
    let reader = Reader::open(files.home.database()).await.unwrap();
    assert!(reader.epochs_of(run).await.unwrap().is_empty());
}

/// What may happen to a file.
#[derive(Clone, Debug)]
enum Damage {
    Flip { at: usize, bits: u8 },
    Cut { at: usize },
    Insert { at: usize, bytes: Vec<u8> },
    Swap { from: usize, length: usize, to: usize },
    Number { nth: usize, text: &'static str },
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = || any::<usize>();
    let numbers = ["-1", "4294967295", "4294967296", "18446744073709551615", "1e999", "0.5", "null", "\"1\""];
    prop_oneof![
        (at(), 1..=255_u8).prop_map(|(at, bits)| Damage::Flip { at, bits }),
        at().prop_map(|at| Damage::Cut { at }),
        (at(), prop::collection::vec(any::<u8>(), 1..40))
            .prop_map(|(at, bytes)| Damage::Insert { at, bytes }),
        (at(), 1..200_usize, at()).prop_map(|(from, length, to)| Damage::Swap { from, length, to }),
        (at(), prop::sample::select(numbers.to_vec())).prop_map(|(nth, text)| Damage::Number { nth, text }),
    ]
}

fn apply(bytes: &mut Vec<u8>, damage: &Damage) {
    if bytes.is_empty() {
        return;
    }
    let within = |at: usize| at % bytes.len();
    match damage {
        Damage::Flip { at, bits } => {
            let at = within(*at);
            bytes[at] ^= bits;
        }
        Damage::Cut { at } => {
            let at = within(*at);
            bytes.truncate(at);
        }
        Damage::Insert { at, bytes: more } => {
            let at = within(*at);
            bytes.splice(at..at, more.iter().copied());
        }
        Damage::Swap { from, length, to } => {
            let from = within(*from);
            let part: Vec<u8> = bytes[from..(from + length).min(bytes.len())].to_vec();
            let to = within(*to);
            bytes.splice(to..to, part);
        }
        Damage::Number { nth, text } => replace_number(bytes, *nth, text),
    }
}

/// Replaces one of the numbers in a text.
fn replace_number(bytes: &mut Vec<u8>, nth: usize, text: &str) {
    let is_start = |at: usize| bytes[at].is_ascii_digit() && (at == 0 || bytes[at - 1] == b':');
    let starts: Vec<usize> = (0..bytes.len()).filter(|at| is_start(*at)).collect();
    if starts.is_empty() {
        return;
    }
    let start = starts[nth % starts.len()];
    let length = bytes[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    bytes.splice(start..start + length, text.bytes());
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 20, ..ProptestConfig::with_cases(CASES) })]

    #[test]
    fn tampering_with_the_files_of_a_run_harms_no_other(
        which in 0..4_usize,
        damages in prop::collection::vec(damage(), 1..4),
    ) {
        let files = Files::new();
        let (run, other) = (files.run(&sample_run(0)), files.run(&sample_run(1)));
        let events = files.attempt(run, 1, complete(run, 1));
        files.attempt(other, 1, complete(other, 1));
        files.sweep("both", vec![run, other]);
        let judged = serde_json::to_vec(&verdict(Outcome::Succeeded)).unwrap();
        fs::write(files.home.verdict(run, 1), judged).unwrap();
        let target = match which {
            0 => files.home.spec(run),
            1 => files.home.verdict(run, 1),
            _ => events,
        };
        let mut bytes = fs::read(&target).unwrap();
        for damage in &damages {
            apply(&mut bytes, damage);
        }
        fs::write(&target, bytes).unwrap();

        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            rebuild(&files.home).await.unwrap();
            let reader = Reader::open(files.home.database()).await.unwrap();
            let results = reader.results(None).await.unwrap();
            let mine = results.iter().find(|result| result.id == other).unwrap();
            assert_eq!((mine.state, mine.epochs_done), (State::Succeeded, 3));
            for result in &results {
                reader.epochs_of(result.id).await.unwrap();
                reader.attempts_of(result.id).await.unwrap();
                reader.checkpoints_of(result.id).await.unwrap();
            }
            assert!(reader.running_attempts().await.unwrap().is_empty());
        });
    }
}
