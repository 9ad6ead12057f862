//! Tests of what stays and what goes.

use std::time::Duration;

use proptest::prelude::*;
use sweep_core::event::FailureClass;
use sweep_core::spec::RunSpec;
use sweep_core::trajectory::{CheckpointName, Prefix};
use sweep_store::{Failure, Outcome, Settlement, Store};
use sweep_testkit::{Workspace, sample_run};

use super::*;

/// Now, for tests that do not care.
const NOW_MS: i64 = 1;

fn id(number: usize) -> RunId {
    format!("{number:032x}").parse().unwrap()
}

/// When plans are made.
fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000)
}

/// The prefix after `epochs` epochs of the trajectory called `path`.
fn prefix(path: usize, epochs: usize) -> Prefix {
    format!("{:032x}", path * 1000 + epochs).parse().unwrap()
}

/// Trajectory `path` of nine epochs, of which the first `common` are those of trajectory 0.
fn trajectory(path: usize, common: usize) -> Vec<Prefix> {
    (0..10).map(|epochs| prefix(if epochs <= common { 0 } else { path }, epochs)).collect()
}

fn stored(name: String, age: u64) -> StoredFile {
    let modified = now() - Duration::from_secs(age);
    StoredFile { path: Path::new("trajectories").join(name), bytes: 10, modified }
}

fn checkpoint(run: usize, prefix: Prefix, step: Option<u32>) -> String {
    CheckpointName { prefix, run: id(run), step, digest: "a".repeat(64) }.to_string()
}

fn whole(run: usize, path: usize, epochs: usize) -> StoredFile {
    stored(checkpoint(run, prefix(path, epochs), None), 100 - epochs as u64)
}

fn partial(run: usize, path: usize, epochs: usize, step: u32) -> StoredFile {
    stored(checkpoint(run, prefix(path, epochs), Some(step)), 100 - epochs as u64)
}

fn known(files: &[StoredFile]) -> Known {
    let registered = files.iter().filter_map(|file| Name::of(&file.path)).map(|name| name.run()).collect();
    Known { registered, ..Known::default() }
}

fn unfinished(run: usize, trajectory: Vec<Prefix>) -> Unfinished {
    Unfinished { run: id(run), trajectory }
}

/// Returns the places in `files` of what goes, in order, each with the reason.
fn gone(files: &[StoredFile], known: &Known, keep: KeepCheckpoints) -> Vec<(usize, Why)> {
    let place = |doomed: &Doomed| files.iter().position(|file| file.path == doomed.path).unwrap();
    let mut gone: Vec<_> =
        plan(files, known, keep, now()).iter().map(|doomed| (place(doomed), doomed.why)).collect();
    gone.sort_by_key(|(place, _)| *place);
    gone
}

#[test]
fn an_unfinished_run_keeps_the_two_deepest_files_of_its_trajectory_whoever_wrote_them() {
    let files = [
        whole(1, 0, 1),
        whole(1, 0, 2),
        whole(2, 0, 3),
        partial(1, 0, 4, 7),
        partial(2, 0, 4, 90),
        whole(1, 5, 4),
    ];
    let known = Known { unfinished: vec![unfinished(3, trajectory(0, 9))], ..known(&files) };
    let unneeded = [0, 1, 2, 5].map(|place| (place, Why::Unneeded));
    assert_eq!(gone(&files, &known, KeepCheckpoints::Last), unneeded);
}

#[test]
fn a_whole_epoch_is_deeper_than_any_part_of_it() {
    let files = [whole(1, 0, 4), partial(1, 0, 4, u32::MAX - 1), whole(1, 0, 3)];
    let known = Known { unfinished: vec![unfinished(1, trajectory(0, 9))], ..known(&files) };
    assert_eq!(gone(&files, &known, KeepCheckpoints::Last), [(2, Why::Unneeded)]);
}

#[test]
fn a_follower_keeps_its_beginning_when_its_leader_is_done() {
    let files = [whole(1, 0, 2), whole(1, 0, 3), whole(1, 0, 9)];
    let known = Known {
        unfinished: vec![unfinished(2, trajectory(7, 3))],
        succeeded: [(id(1), Some(trajectory(0, 9)))].into(),
        ..known(&files)
    };
    assert_eq!(gone(&files, &known, KeepCheckpoints::Last), []);
    assert_eq!(gone(&files, &known, KeepCheckpoints::None), [(2, Why::LastOfSucceeded)]);
}

#[test]
fn a_succeeded_run_keeps_its_last_whole_file_only() {
    let files = [whole(1, 0, 8), whole(1, 0, 9), partial(1, 0, 9, 4), whole(2, 3, 9)];
    let ends = [(id(1), Some(trajectory(0, 9))), (id(2), None)];
    let known = Known { succeeded: ends.into(), ..known(&files) };
    let superseded = [(0, Why::Unneeded), (2, Why::Unneeded)];
    assert_eq!(gone(&files, &known, KeepCheckpoints::Last), superseded);
    let all = [(0, Why::Unneeded), (1, Why::LastOfSucceeded), (2, Why::Unneeded), (3, Why::LastOfSucceeded)];
    assert_eq!(gone(&files, &known, KeepCheckpoints::None), all);
}

#[test]
fn what_a_running_run_wrote_and_what_nobody_knows_is_left_alone() {
    let files = [
        whole(1, 0, 1),
        partial(1, 0, 2, 3),
        stored(format!("{}-2.tmp", id(1)), 0),
        whole(2, 0, 1),
        stored(format!("{}-1.tmp", id(2)), 0),
        stored("notes.txt".to_owned(), 0),
        stored("x.tmp".to_owned(), 0),
    ];
    let known = Known {
        running: [(id(1), 2)].into(),
        registered: [id(1)].into(),
        unfinished: vec![unfinished(1, trajectory(0, 9))],
        ..Known::default()
    };
    assert_eq!(gone(&files, &known, KeepCheckpoints::None), []);
}

#[test]
fn leftovers_of_attempts_that_are_over_go() {
    let files = [1, 2, 3].map(|attempt| stored(format!("{}-{attempt}.tmp", id(1)), 3600));
    let known = Known { running: [(id(1), 2)].into(), ..known(&files) };
    let leftovers = [(0, Why::Leftover), (2, Why::Leftover)];
    assert_eq!(gone(&files, &known, KeepCheckpoints::Last), leftovers);
}

#[test]
fn what_somebody_may_be_writing_stays() {
    let files = [3599, 3600, 0].map(|age| stored(format!("{}-{age}.tmp", id(1)), age));
    assert_eq!(gone(&files, &known(&files), KeepCheckpoints::None), [(1, Why::Leftover)]);
    let ahead = StoredFile { modified: now() + Duration::from_secs(9), ..files[1].clone() };
    assert_eq!(gone(&[ahead], &known(&files), KeepCheckpoints::None), [], "its clock is ahead");
}

#[test]
fn the_oldest_goes_first() {
    let files = [(1, 5), (2, 50), (3, 20)].map(|(run, age)| {
        let name = checkpoint(run, prefix(run, 1), None);
        stored(name, age)
    });
    let ages: Vec<SystemTime> = plan(&files, &known(&files), KeepCheckpoints::Last, now())
        .iter()
        .map(|doomed| files.iter().find(|file| file.path == doomed.path).unwrap().modified)
        .collect();
    assert_eq!(ages.len(), 3);
    assert!(ages.is_sorted());
}

/// Runs of one random folder.
const RUNS: usize = 4;

proptest! {
    /// Whatever lies there: no file of a running run goes, and every unfinished run can go on from where it could.
    #[test]
    fn nobody_loses_what_it_needs(
        files in prop::collection::hash_set((0..RUNS, 0..3_usize, 1..6_usize, prop::option::of(1..4_u32)), 0..40),
        common in prop::collection::vec(0..6_usize, RUNS),
        states in prop::collection::vec(0..4_u8, RUNS),
    ) {
        let files: Vec<StoredFile> = files
            .into_iter()
            .map(|(run, path, epochs, step)| stored(checkpoint(run, prefix(path, epochs), step), 0))
            .collect();
        let path_of = |run: usize| trajectory(run % 3, common[run]);
        let mut known = known(&files);
        for (run, state) in states.into_iter().enumerate() {
            match state {
                0 => drop(known.running.insert(id(run), 1)),
                1 => drop(known.succeeded.insert(id(run), Some(path_of(run)))),
                2 => known.unfinished.push(unfinished(run, path_of(run))),
                _ => {}
            }
        }
        let doomed = plan(&files, &known, KeepCheckpoints::None, now());
        let is_doomed = |file: &StoredFile| doomed.iter().any(|doomed| doomed.path == file.path);
        let checkpoint = |file: &StoredFile| match Name::of(&file.path) {
            Some(Name::Checkpoint(name)) => name,
            other => panic!("{other:?}"),
        };
        for file in files.iter().filter(|file| known.running.contains_key(&checkpoint(file).run)) {
            prop_assert!(!is_doomed(file));
        }
        for run in &known.unfinished {
            let depth = |file: &StoredFile| {
                let name = checkpoint(file);
                let epochs = run.trajectory.iter().position(|prefix| *prefix == name.prefix)?;
                (epochs > 0).then_some((epochs, name.step.unwrap_or(u32::MAX)))
            };
            let mut all: Vec<_> = files.iter().filter_map(depth).collect();
            let mut left: Vec<_> = files.iter().filter(|file| !is_doomed(file)).filter_map(depth).collect();
            for depths in [&mut all, &mut left] {
                depths.sort_unstable();
                depths.reverse();
                depths.truncate(2);
            }
            prop_assert_eq!(all, left);
        }
    }
}

/// A home with two runs, of which the first has succeeded, and whole checkpoints of both after every epoch.
async fn home() -> (Workspace, Store, Vec<PathBuf>) {
    let workspace = Workspace::new();
    let home = workspace.layout();
    let store = Store::open(home.database()).await.unwrap();
    let specs = [sample_run(0), sample_run(1)];
    let runs: Vec<(RunId, &RunSpec)> = specs.iter().map(|spec| (spec.id(), spec)).collect();
    store.register_runs(&runs, NOW_MS).await.unwrap();
    let attempt = store.claim(runs[0].0, "test", NOW_MS).await.unwrap().unwrap();
    let end = Settlement::new(Outcome::Succeeded);
    assert!(store.settle(runs[0].0, attempt, &end, NOW_MS).await.unwrap());
    fs::create_dir_all(home.trajectories()).unwrap();
    let mut paths = Vec::new();
    for (run, spec) in &runs {
        for prefix in &spec.trajectory()[1..] {
            let name = CheckpointName { prefix: *prefix, run: *run, step: None, digest: "b".repeat(64) };
            paths.push(home.trajectories().join(name.to_string()));
            fs::write(paths.last().unwrap(), "12345").unwrap();
        }
    }
    (workspace, store, paths)
}

fn left(paths: &[PathBuf]) -> Vec<bool> {
    paths.iter().map(|path| path.exists()).collect()
}

#[tokio::test]
async fn collecting_deletes_what_the_database_has_no_use_for_and_a_dry_run_nothing() {
    let (workspace, store, paths) = home().await;
    let home = workspace.layout();
    let dry = collect(store.reader(), &home, KeepCheckpoints::Last, true).await.unwrap();
    assert_eq!(dry.removed_size(), Size { files: 3, bytes: 15 });
    assert_eq!(left(&paths), [true; 6]);
    let done = collect(store.reader(), &home, KeepCheckpoints::Last, false).await.unwrap();
    assert_eq!(done.removed, dry.removed);
    assert_eq!(done.kept, Size { files: 3, bytes: 15 });
    assert_eq!(left(&paths), [false, false, true, false, true, true]);
    let again = collect(store.reader(), &home, KeepCheckpoints::Last, false).await.unwrap();
    assert_eq!(again.removed, []);
    collect(store.reader(), &home, KeepCheckpoints::None, false).await.unwrap();
    assert_eq!(left(&paths), [false, false, false, false, true, true]);
}

#[tokio::test]
async fn whatever_became_of_a_run_that_has_not_succeeded_it_can_go_on() {
    let failure = Failure { class: FailureClass::Data, message: String::new() };
    let failed = Outcome::Failed { failure, retry: false };
    for end in [failed, Outcome::Interrupted, Outcome::Cancelled] {
        let (workspace, store, paths) = home().await;
        let run = sample_run(1).id();
        let attempt = store.claim(run, "test", NOW_MS).await.unwrap().unwrap();
        store.settle(run, attempt, &Settlement::new(end.clone()), NOW_MS).await.unwrap();
        collect(store.reader(), &workspace.layout(), KeepCheckpoints::None, false).await.unwrap();
        assert_eq!(left(&paths)[3..], [false, true, true], "{end:?}");
    }
}

#[tokio::test]
async fn reclaiming_takes_last_checkpoints_only_as_far_as_needed() {
    for (wanted, last_stays) in [(1, true), (15, true), (16, false)] {
        let (workspace, store, paths) = home().await;
        let home = workspace.layout();
        reclaim(store.reader(), &home, KeepCheckpoints::Last, wanted).await.unwrap();
        assert_eq!(left(&paths), [false, false, last_stays, false, true, true], "{wanted}");
    }
}

#[tokio::test]
async fn a_home_without_checkpoints_has_nothing_to_collect() {
    let workspace = Workspace::new();
    let store = Store::open(workspace.layout().database()).await.unwrap();
    let done = collect(store.reader(), &workspace.layout(), KeepCheckpoints::None, false).await.unwrap();
    assert_eq!((done.removed, done.kept), (Vec::new(), Size::default()));
}
