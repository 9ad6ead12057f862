//! Which checkpoints are found, kept and deleted.

use candle_core::{Device, Tensor};
use sweep_core::spec::{EmaSpec, Precision};
use sweep_testkit::{Workspace, id_of, sample_run};

use super::*;
use crate::average::Average;
use crate::checkpoint::position::tests::position;
use crate::checkpoint::state::Shape;
use crate::network;

const EPOCHS: u32 = 6;
const SHAPE: Shape = Shape { train: 50, validation: 10, batch_size: 8 };

/// A run whose every epoch tells what run 0's records tell.
fn spec() -> RunSpec {
    RunSpec { epochs: EPOCHS, ..sample_run(0) }
}

fn open(workspace: &Workspace, shared: &[u32]) -> Checkpoints {
    Checkpoints::open(&workspace.layout(), &spec(), 1, shared.to_vec()).unwrap()
}

fn model(classes: u32, seed: u64) -> Model {
    let workspace = Workspace::new();
    network::load(&RunSpec { seed, ..spec() }, classes, &workspace.layout()).unwrap().model
}

fn save(checkpoints: &Checkpoints, position: &Position, model: &Model) -> CheckpointName {
    let optimizer = network::optimizer(&spec().optimizer, model).unwrap();
    checkpoints.save(position, model, None, optimizer.as_ref(), || Ok(())).unwrap().name
}

/// Completed epochs and steps of the files in the folder, sorted.
fn places(checkpoints: &Checkpoints) -> Vec<(u32, u32)> {
    let place = |candidate: &Candidate| (candidate.completed(), candidate.name.step.unwrap_or(0));
    let mut places: Vec<_> = checkpoints.candidates().unwrap().iter().map(place).collect();
    places.sort_unstable();
    places
}

fn found_place(checkpoints: &Checkpoints) -> Option<(u32, u32)> {
    checkpoints.find().unwrap().map(|found| found.position().place())
}

#[test]
fn the_latest_is_found_whoever_wrote_it_and_the_own_before_others() {
    let workspace = Workspace::new();
    let own = open(&workspace, &[]);
    let other = Checkpoints { run: id_of(7), ..own.clone() };
    let model = model(4, 0);
    assert_eq!(found_place(&own), None);
    for (writer, place) in
        [(&own, (0, 3)), (&other, (1, 0)), (&own, (1, 0)), (&own, (1, 1)), (&other, (1, 2)), (&other, (2, 0))]
    {
        save(writer, &position(place.0, place.1), &model);
        assert_eq!(found_place(&own), Some(place));
        assert_eq!(own.find().unwrap().unwrap().writer(), writer.run);
    }
    let name = save(&own, &position(2, 0), &model);
    assert_eq!(own.find().unwrap().unwrap().name, name);
    assert_eq!(other.find().unwrap().unwrap().writer(), other.run);
}

#[test]
fn a_run_keeps_its_newest_two_and_what_others_wait_for() {
    let workspace = Workspace::new();
    let (own, model) = (open(&workspace, &[1, 3]), model(4, 0));
    let other = Checkpoints { run: id_of(7), ..own.clone() };
    save(&other, &position(2, 0), &model);
    for place in [(0, 2), (1, 0), (1, 4), (2, 0), (2, 5), (3, 0), (3, 1), (4, 0)] {
        save(&own, &position(place.0, place.1), &model);
        own.prune().unwrap();
    }
    assert_eq!(places(&own), [(1, 0), (2, 0), (3, 0), (3, 1), (4, 0)], "the second is another run's");
    save(&own, &position(4, 2), &model);
    own.prune_finished().unwrap();
    assert_eq!(places(&own), [(1, 0), (2, 0), (3, 0), (4, 0)]);
}

#[test]
fn an_epoch_that_was_trained_again_has_one_checkpoint() {
    let workspace = Workspace::new();
    let own = open(&workspace, &[]);
    save(&own, &position(1, 0), &model(4, 0));
    let name = save(&own, &position(1, 0), &model(4, 1));
    assert_eq!(own.candidates().unwrap().len(), 1);
    assert_eq!(own.find().unwrap().unwrap().name, name);
}

/// Spoils the file of a checkpoint.
type Spoil = fn(&PathBuf);

#[test]
fn damaged_files_go_and_unreadable_ones_stay() {
    let spoils: [(&str, Spoil, bool); 4] = [
        ("a bit", |path| flip(path, 40), false),
        ("its end", |path| fs::write(path, &fs::read(path).unwrap()[..100]).unwrap(), false),
        ("everything", |path| fs::write(path, "").unwrap(), false),
        (
            "a folder",
            |path| {
                fs::remove_file(path).unwrap();
                fs::create_dir(path).unwrap();
            },
            true,
        ),
    ];
    for (what, spoil, stays) in spoils {
        let workspace = Workspace::new();
        let (own, model) = (open(&workspace, &[]), model(4, 0));
        save(&own, &position(1, 0), &model);
        let name = save(&own, &position(2, 0), &model);
        spoil(&own.folder.join(name.to_string()));
        assert_eq!(found_place(&own), Some((1, 0)), "{what}");
        assert_eq!(places(&own).len(), 1 + usize::from(stays), "{what}");
    }
}

fn flip(path: &PathBuf, place: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[place] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_name_that_lies_about_its_epochs_is_damage() {
    let workspace = Workspace::new();
    let (own, model) = (open(&workspace, &[]), model(4, 0));
    let optimizer = network::optimizer(&spec().optimizer, &model).unwrap();
    // The prefix of three epochs, and two in the history.
    let prefix = own.trajectory[3];
    let state = tensors(&model, None, optimizer.as_ref()).unwrap();
    let bytes = encode(prefix, own.run, &position(2, 0), state).unwrap();
    let name = CheckpointName { prefix, run: own.run, step: None, digest: digest_bytes(&bytes) };
    fs::write(own.folder.join(name.to_string()), bytes).unwrap();
    assert_eq!((found_place(&own), places(&own)), (None, Vec::new()));
}

#[test]
fn what_lacks_the_needed_probe_stays_for_others() {
    let workspace = Workspace::new();
    let (own, model) = (open(&workspace, &[]), model(4, 0));
    save(&own, &position(1, 0), &model);
    let other = Checkpoints { probe: Some(crate::checkpoint::record::tests::probe(9)), ..own.clone() };
    assert_eq!((found_place(&other), found_place(&own)), (None, Some((1, 0))));
    let clean = Checkpoints { probe: None, ..own };
    assert_eq!(found_place(&clean), Some((1, 0)));
}

fn weights(model: &Model) -> Vec<Vec<f32>> {
    let values = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1().unwrap();
    model.parameters().iter().map(|(.., tensor)| values(tensor)).collect()
}

/// Puts what is found into `model` and returns where that is.
fn restore(checkpoints: &Checkpoints, model: &mut Model, average: Option<&mut Average>) -> Position {
    let mut optimizer = network::optimizer(&spec().optimizer, model).unwrap();
    let mut state = State { model, average, optimizer: optimizer.as_mut(), shape: SHAPE };
    checkpoints.restore(checkpoints.find().unwrap(), &mut state).unwrap()
}

#[test]
fn what_does_not_fit_changes_nothing_and_the_one_before_is_taken() {
    let workspace = Workspace::new();
    let (own, stored) = (open(&workspace, &[]), model(4, 1));
    save(&own, &position(1, 0), &stored);
    save(&own, &position(1, 5), &model(3, 0));
    // More steps than an epoch has, and a last step that ends beyond its images.
    for step in [7, 8] {
        save(&own, &position(1, step), &stored);
    }
    let mut model = model(4, 0);
    assert_eq!(restore(&own, &mut model, None), position(1, 0));
    assert!(weights(&model) == weights(&stored));
    assert_eq!(places(&own), [(1, 0)]);
}

#[test]
fn averages_are_restored_where_the_run_has_them_and_nowhere_else() {
    let [initial, trained, averaged] = [0, 1, 2].map(|seed| weights(&model(4, seed)));
    for (stored, wanted) in [(true, true), (true, false), (false, true)] {
        let workspace = Workspace::new();
        let (own, mut receiver, sender) = (open(&workspace, &[]), model(4, 0), model(4, 1));
        let mut average = wanted
            .then(|| Average::new(&receiver, EmaSpec { decay: 0.9 }, &Device::Cpu, Precision::F32).unwrap());
        let of_average = stored.then(|| model(4, 2));
        let optimizer = network::optimizer(&spec().optimizer, &sender).unwrap();
        own.save(&position(1, 0), &sender, of_average.as_ref(), optimizer.as_ref(), || Ok(())).unwrap();
        let fits = stored == wanted;
        let found = restore(&own, &mut receiver, average.as_mut());
        assert_eq!(found.place(), if fits { (1, 0) } else { (0, 0) });
        assert!(weights(&receiver) == if fits { trained.clone() } else { initial.clone() });
        if let Some(average) = &average {
            assert!(weights(average.model()) == if fits { averaged.clone() } else { initial.clone() });
        }
    }
}

#[test]
fn what_killed_workers_of_the_run_left_is_cleared_away() {
    let workspace = Workspace::new();
    let own = open(&workspace, &[]);
    let leftovers = [format!("{}-1.tmp", own.run), format!("{}-1.tmp", id_of(7))];
    for name in &leftovers {
        fs::write(own.folder.join(name), "half").unwrap();
    }
    open(&workspace, &[]);
    assert_eq!(names(&own.folder).unwrap(), leftovers[1..]);
}
