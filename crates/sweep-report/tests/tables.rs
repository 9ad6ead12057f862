//! Tables of runs that are made up in memory: folding, marks, holes, filters, pairs.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::str::FromStr;

use proptest::prelude::*;
use sweep_core::dataset::{DatasetSource, Decoding};
use sweep_core::epsilon::Epsilon;
use sweep_core::event::FailureClass;
use sweep_core::metrics::Count;
use sweep_core::micro_batch::MicroBatch;
use sweep_core::schedule::{EpsilonSchedule, Granularity};
use sweep_core::spec::{EmaSpec, Objective, OptimizerSpec, Precision, RunSpec};
use sweep_report::pairs::{Pairing, Reason, Seeds, pairs};
use sweep_report::pivot::{Missing, Pivot, pivot};
use sweep_report::{Condition, Error, Key, Runs};
use sweep_store::{At, Measured, MeasuredRun, Metric, State};
use sweep_testkit::sample_run;

const RAMP: EpsilonSchedule = EpsilonSchedule::Ramp { start: 1, end: 2, per: Granularity::Epoch };
const METRICS: [Metric; 2] = [Metric::Clean, Metric::Delay];

/// A finished run with this many of 100 images correct, and a delay of as many epochs.
fn run(spec: &RunSpec, correct: u32) -> MeasuredRun {
    let count = Count { correct, total: 100 };
    let clean = Measured { value: count.accuracy(), count: Some(count) };
    MeasuredRun {
        id: spec.id(),
        state: State::Succeeded,
        failure: None,
        blocked: false,
        depends_on: None,
        epochs_done: 3,
        spec: serde_json::to_string(spec).unwrap(),
        values: vec![Some(clean), Some(Measured { value: f64::from(correct), count: None })],
    }
}

fn unfinished(spec: &RunSpec, state: State) -> MeasuredRun {
    MeasuredRun { state, values: vec![None, None], epochs_done: 1, ..run(spec, 0) }
}

fn spec(backbone: &str, schedule: EpsilonSchedule, seed: u64) -> RunSpec {
    let mut spec = sample_run(seed);
    backbone.clone_into(&mut spec.backbone.name);
    // Names alone make no other experiment.
    spec.backbone.definition.normalization.mean = [backbone.len() as f64 / 100.0; 3];
    spec.epsilon_schedule = schedule;
    spec
}

fn runs(runs: Vec<MeasuredRun>) -> Runs {
    Runs::new(runs, &METRICS, At::Last).unwrap()
}

fn keys(names: &[&str]) -> Vec<Key> {
    names.iter().map(|name| Key::new(name)).collect()
}

fn names(keys: &[Key]) -> Vec<&str> {
    keys.iter().map(Key::label).collect()
}

/// Two backbones × two schedules × two seeds, all finished.
fn grid() -> Vec<MeasuredRun> {
    let mut all = Vec::new();
    for (backbone, correct) in [("vit", 40), ("convnext", 60)] {
        for (schedule, more) in [(EpsilonSchedule::Fixed, 0), (RAMP, 10)] {
            for seed in 0..2 {
                all.push(run(&spec(backbone, schedule.clone(), seed), correct + more + seed as u32));
            }
        }
    }
    all
}

fn usual(runs: &Runs) -> Pivot {
    let columns = keys(&["epsilon_schedule"]);
    pivot(runs, &runs.varying(&columns), &columns).unwrap()
}

#[test]
fn seeds_are_folded_and_the_best_is_marked() {
    let table = usual(&runs(grid()));
    assert_eq!(names(&table.row_keys), ["backbone"]);
    let columns: Vec<String> = table.columns.iter().map(|column| column[0].to_string()).collect();
    assert_eq!(columns, ["fixed", "ramp 1-2"], "names in the order of the sweep");
    let cell = &table.rows[0].cells[1];
    let summary = cell.numbers[0].summary.unwrap();
    assert!((summary.mean - 0.505).abs() < 1e-12 && summary.n == 2);
    assert!((summary.standard_deviation.unwrap() - 0.5_f64.sqrt() / 100.0).abs() < 1e-12);
    assert!(cell.numbers[0].count.is_none(), "a mean of two runs is no count");
    let marks = |row: usize, metric: usize| -> Vec<bool> {
        table.rows[row].cells.iter().map(|cell| cell.numbers[metric].best).collect()
    };
    assert_eq!((marks(0, 0), marks(0, 1)), (vec![false, true], vec![true, false]), "accuracy up, delay down");
    assert!(table.holes().is_empty() && table.mixed.is_empty());
    assert!((table.mean(0, 0).unwrap() - 0.505).abs() < 1e-12);
}

#[test]
fn ties_are_both_the_best_and_a_lone_number_is_not() {
    let of = |first, second: Option<u32>| {
        let mut all = vec![run(&spec("vit", EpsilonSchedule::Fixed, 0), first)];
        all.extend(second.map(|second| run(&spec("vit", RAMP, 0), second)));
        let table = usual(&runs(all));
        table.rows[0].cells.iter().map(|cell| cell.numbers[0].best).collect::<Vec<_>>()
    };
    assert_eq!(of(40, Some(40)), [true, true]);
    assert_eq!(of(40, None), [false]);
}

#[test]
fn an_accuracy_of_one_run_has_an_interval() {
    let table = usual(&runs(vec![run(&spec("vit", RAMP, 0), 50)]));
    let numbers = &table.rows[0].cells[0].numbers;
    assert!(numbers[0].interval().unwrap().contains(0.5));
    assert_eq!(numbers[1].interval(), None);
}

#[test]
fn holes_say_why() {
    let mut all = grid();
    all[1] = unfinished(&spec("vit", EpsilonSchedule::Fixed, 1), State::Running);
    all[2] = MeasuredRun {
        failure: Some(FailureClass::OutOfMemory),
        ..unfinished(&spec("vit", RAMP, 0), State::Failed)
    };
    all[3] = MeasuredRun { blocked: true, ..unfinished(&spec("vit", RAMP, 1), State::Pending) };
    all[7].values[1] = None;
    all.truncate(8);
    all.push(run(&spec("r", RAMP, 0), 1));
    let holes: Vec<String> = usual(&runs(all)).holes().iter().map(ToString::to_string).collect();
    assert_eq!(
        holes,
        [
            "vit · fixed: 1 of 2 running, 1 epochs done",
            "vit · ramp 1-2: 1 of 2 failed: out_of_memory; 1 of 2 blocked by a run that failed or was cancelled",
            "convnext · ramp 1-2: 1 of 2 complete, but not measured or not defined",
            "r · fixed: not in the sweep",
        ]
    );
}

#[test]
fn rows_are_the_keys_it_takes() {
    let varying = |specs: Vec<RunSpec>| {
        let all = specs.iter().map(|spec| run(spec, 1)).collect();
        names(&runs(all).varying(&keys(&["epsilon_schedule"]))).join(",")
    };
    let base = || spec("vit", RAMP, 0);
    let with = |change: &dyn Fn(&mut RunSpec)| {
        let mut spec = base();
        change(&mut spec);
        spec
    };
    let rates = |rate: f64, head: f64| {
        with(&move |spec| {
            if let OptimizerSpec::Sgd { learning_rate, head_learning_rate, .. } = &mut spec.optimizer {
                (*learning_rate, *head_learning_rate) = (rate, head);
            }
        })
    };
    assert_eq!(varying(vec![base(), spec("vit", EpsilonSchedule::Fixed, 3)]), "");
    assert_eq!(varying(vec![rates(0.1, 0.1), rates(0.2, 0.2)]), "learning_rate", "the head's follows");
    assert_eq!(varying(vec![rates(0.1, 0.1), rates(0.1, 0.2)]), "optimizer.head_learning_rate");
    assert_eq!(
        varying(vec![base(), with(&|spec| spec.micro_batch_size = MicroBatch::Images(2))]),
        "",
        "no part of the result"
    );
    assert_eq!(varying(vec![base(), with(&|spec| spec.ema = Some(EmaSpec { decay: 0.9 }))]), "ema.decay");
    let narrow = with(&|spec| spec.precision = Precision::Bf16);
    assert_eq!(varying(vec![base(), narrow]), "precision");
    let trades = with(&|spec| spec.objective = Objective::Trades { beta: 6.0 });
    assert_eq!(varying(vec![base(), trades]), "objective.beta");
    let epochs = with(&|spec| spec.epochs = 9);
    assert_eq!(varying(vec![base(), spec("r", RAMP, 0), epochs]), "backbone,epochs");
    let renamed = with(&|spec| spec.backbone.definition.normalization.std = [0.1; 3]);
    assert_eq!(varying(vec![base(), renamed]), "backbone.normalization.std", "one name, two networks");
}

#[test]
fn copies_of_a_dataset_in_two_places_are_one_dataset() {
    let at = |folder: &str, schedule, seed| {
        let mut spec = spec("vit", schedule, seed);
        spec.dataset.definition.source = DatasetSource::Hub {
            repository: "some/birds".to_owned(),
            revision: "a".repeat(40),
            config: None,
            image_column: "image".to_owned(),
            label_column: "label".to_owned(),
            folder: Some(folder.into()),
            decoding: Decoding::default(),
        };
        spec
    };
    let all = [at("/a", RAMP, 0), at("/b", RAMP, 1), at("/b", EpsilonSchedule::Fixed, 0)];
    let all = runs(all.iter().map(|spec| run(spec, 40)).collect());
    let table = usual(&all);
    assert_eq!((table.rows.len(), names(&table.row_keys)), (1, vec![]));
    assert_eq!(table.rows[0].cells[0].numbers[0].summary.unwrap().n, 2, "both seeds of the ramp");
    assert_eq!(pairs(&all, &pairing(), &[], Seeds::Folded).unwrap().pairs.len(), 1);
}

#[test]
fn means_over_different_experiments_are_pointed_out() {
    let table = pivot(&runs(grid()), &keys(&["dataset"]), &[]).unwrap();
    assert_eq!(names(&table.mixed), ["backbone", "epsilon_schedule"]);
    assert_eq!(table.columns, [Vec::new()]);
    let table = pivot(&runs(grid()), &keys(&["backbone"]), &keys(&["epsilon_schedule", "seed"])).unwrap();
    assert_eq!((table.columns.len(), table.mixed.len()), (4, 0));
}

#[test]
fn any_key_makes_rows_and_columns() {
    let ramp = |start, end| EpsilonSchedule::Ramp { start, end, per: Granularity::Epoch };
    let all = [(2, 3, 10), (0, 3, 20), (0, 1, 30)]
        .map(|(start, end, correct)| run(&spec("vit", ramp(start, end), 0), correct));
    let table =
        pivot(&runs(all.into()), &keys(&["epsilon_schedule.start"]), &keys(&["epsilon_schedule.end"]))
            .unwrap();
    let values: Vec<Vec<Option<f64>>> = table
        .rows
        .iter()
        .map(|row| row.cells.iter().map(|cell| cell.numbers[1].summary.map(|summary| summary.mean)).collect())
        .collect();
    assert_eq!(values, [[Some(30.0), Some(20.0)], [None, Some(10.0)]], "numbers by size");
    assert_eq!(table.holes()[0].missing, [(Missing::NotInSweep, 0)]);
}

#[test]
fn rows_are_sorted_best_first() {
    let mut all = grid();
    all.push(unfinished(&spec("r", RAMP, 0), State::Pending));
    let mut table = usual(&runs(all));
    let order = |table: &Pivot| table.rows.iter().map(|row| row.names[0].to_string()).collect::<Vec<_>>();
    table.sort(Metric::Clean).unwrap();
    assert_eq!(order(&table), ["convnext", "vit", "r"]);
    table.sort(Metric::Delay).unwrap();
    assert_eq!(order(&table), ["vit", "convnext", "r"]);
    assert!(matches!(table.sort(Metric::Robust), Err(Error::MetricNotRead { .. })));
}

fn count(conditions: &[&str]) -> usize {
    let conditions: Vec<Condition> = conditions.iter().map(|text| text.parse().unwrap()).collect();
    let mut all = grid();
    let mut wide = spec("vit", RAMP, 0);
    wide.target_epsilon = Epsilon::from_255ths(8);
    all.push(unfinished(&wide, State::Failed));
    runs(all).matching(&conditions).unwrap().runs().len()
}

#[test]
fn conditions_choose_runs() {
    for (conditions, expected) in [
        (&[][..], 9),
        (&["backbone=vit"], 5),
        (&["backbone=vit,convnext"], 9),
        (&["backbone!=vit"], 4),
        (&["target_epsilon>4/255"], 1),
        (&["target_epsilon>=8/510"], 9),
        (&["target_epsilon = 4/255", "seed<1"], 4),
        (&["epsilon_schedule=ramp"], 5),
        (&["epsilon_schedule=ramp:1-2"], 5),
        (&["epsilon_schedule=ramp 1-2", "seed=1"], 2),
        (&["epsilon_schedule.kind=fixed"], 4),
        (&["learning_rate=1e-2"], 9),
        (&["learning_rate<=0.01"], 9),
        (&["state=failed"], 1),
        (&["ema=none"], 9),
    ] {
        assert_eq!(count(conditions), expected, "{conditions:?}");
    }
}

#[test]
fn texts_that_are_no_conditions_or_pairings() {
    for text in ["", "backbone", "=vit", "backbone=", "backbone!vit", "backbone>"] {
        assert!(Condition::from_str(text).is_err(), "{text}");
    }
    for text in ["", "backbone", "backbone=vit", "=a,b"] {
        assert!(Pairing::from_str(text).is_err(), "{text}");
    }
    assert_eq!("target_epsilon >= 4/255".parse::<Condition>().unwrap().to_string(), "target_epsilon>=4/255");
}

#[test]
fn unknown_keys_and_values_say_what_there_is() {
    let error = |text: &str| runs(grid()).matching(&[text.parse().unwrap()]).unwrap_err().to_string();
    assert!(error("backbones=vit").contains("did you mean `backbone`?"));
    assert!(error("weight=1").contains("there is backbone, dataset, target_epsilon"));
    assert!(error("backbone=swin").contains("there is vit, convnext"));
    assert!(error("seed=7").contains("there is 0, 1"));
    assert!(error("backbone<vit").contains("no order"));
    assert!(error("seed<few").contains("no number"));
}

fn pairing() -> Pairing {
    "epsilon_schedule=fixed,ramp".parse().unwrap()
}

#[test]
fn pairs_are_equal_in_everything_else() {
    let mut all = grid();
    // A ramp whose seed the fixed epsilon lacks, and one with another batch size.
    all.push(run(&spec("vit", RAMP, 7), 99));
    let mut other = spec("vit", RAMP, 0);
    other.batch_size = 4;
    all.push(run(&other, 99));
    let found = pairs(&runs(all), &pairing(), &[], Seeds::Folded).unwrap();
    let values: Vec<_> = found.pairs.iter().map(|pair| pair.numbers[1].values.unwrap()).collect();
    assert_eq!(values, [(40.5, 50.5), (60.5, 70.5)], "means over the two seeds that both have");
    assert!(found.pairs.iter().all(|pair| pair.numbers[0].seeds == 2));
    let reasons: Vec<&Reason> = found.unpaired.iter().map(|unpaired| &unpaired.reason).collect();
    assert!(matches!(reasons[..], [Reason::NoCounterpart(_), Reason::NoCounterpart(_)]), "{reasons:?}");
    let comparison = &found.comparisons()[0];
    assert_eq!((comparison.wins, comparison.losses, comparison.ties), (2, 0, 0));
    assert!((comparison.difference.unwrap().mean - 0.1).abs() < 1e-12);
    let delay = &found.comparisons()[1];
    assert_eq!((delay.wins, delay.losses), (0, 2), "a longer delay is worse");
}

#[test]
fn seeds_may_be_pairs_of_their_own() {
    let separate = pairs(&runs(grid()), &pairing(), &[], Seeds::Separate).unwrap();
    assert_eq!(separate.pairs.len(), 4);
    assert_eq!(names(&separate.names), ["backbone", "seed"]);
    let by_seed = pairs(&runs(grid()), &pairing(), &keys(&["seed"]), Seeds::Folded).unwrap();
    assert_eq!((by_seed.pairs.len(), by_seed.seeds, by_seed.comparisons().len()), (4, Seeds::Separate, 4));
}

#[test]
fn what_is_in_no_pair_is_listed() {
    let mut all = grid();
    all[0] = unfinished(&spec("vit", EpsilonSchedule::Fixed, 0), State::Running);
    all[5].values[1] = None;
    let found = pairs(&runs(all), &pairing(), &[], Seeds::Folded).unwrap();
    let lines: Vec<String> = found.unpaired.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "vit · seed 0: fixed lacks clean, delay: running, 1 epochs done",
            "convnext · seed 1: fixed lacks delay: complete, but not measured or not defined",
        ]
    );
    let seeds: Vec<usize> =
        found.pairs.iter().flat_map(|pair| &pair.numbers).map(|sides| sides.seeds).collect();
    assert_eq!(seeds, [1, 1, 2, 1]);
}

#[test]
fn a_value_that_fits_several_is_refused() {
    let mut all = grid();
    let steep = EpsilonSchedule::Ramp { start: 1, end: 1, per: Granularity::Epoch };
    all.push(run(&spec("vit", steep, 0), 5));
    let runs = runs(all);
    let error = pairs(&runs, &pairing(), &[], Seeds::Folded).unwrap_err().to_string();
    assert!(error.contains("fits ramp 1-2, ramp 1-1; say which"), "{error}");
    let exact = "epsilon_schedule=ramp:1-1,ramp:1-2".parse().unwrap();
    assert_eq!(pairs(&runs, &exact, &[], Seeds::Folded).unwrap().pairs.len(), 1);
}

#[test]
fn a_damaged_specification_is_an_error() {
    let mut one = run(&spec("vit", RAMP, 0), 1);
    one.spec = "{".to_owned();
    assert!(matches!(Runs::new(vec![one], &METRICS, At::Last), Err(Error::Specification { .. })));
    assert!(Runs::new(Vec::new(), &METRICS, At::Last).unwrap().varying(&[]).is_empty());
}

proptest! {
    /// However runs are grouped, every one of them is in exactly one cell.
    #[test]
    fn every_run_is_in_one_cell(
        points in prop::collection::btree_set((0_u32..3, 0_u32..3, 0_u64..3), 1..20),
        rows in prop::sample::subsequence(vec!["backbone", "seed", "epsilon_schedule", "dataset"], 0..=4),
        columns in prop::sample::subsequence(vec!["epsilon_schedule.start", "seed", "backbone"], 0..=3),
    ) {
        let ramp = |start| EpsilonSchedule::Ramp { start, end: 3, per: Granularity::Epoch };
        let all: Vec<_> = points
            .iter()
            .map(|(backbone, start, seed)| run(&spec(["a", "bb", "ccc"][*backbone as usize], ramp(*start), *seed), 9))
            .collect();
        let table = pivot(&runs(all), &keys(&rows), &keys(&columns)).unwrap();
        let cells = table.rows.iter().flat_map(|row| &row.cells);
        prop_assert_eq!(cells.map(|cell| cell.runs).sum::<usize>(), points.len());
        prop_assert!(table.rows.iter().all(|row| row.cells.iter().any(|cell| cell.runs > 0)));
    }

    /// With the rows of its own choice a table mixes nothing.
    #[test]
    fn the_usual_rows_mix_nothing(points in prop::collection::btree_set((0_u32..2, 1_u32..4, 1_u32..4, 0_u64..2), 1..24)) {
        let all: Vec<_> = points
            .iter()
            .map(|(backbone, epochs, batch_size, seed)| {
                let mut spec = spec(["a", "bb"][*backbone as usize], RAMP, *seed);
                (spec.epochs, spec.batch_size) = (*epochs, *batch_size);
                run(&spec, 9)
            })
            .collect();
        prop_assert_eq!(usual(&runs(all)).mixed, []);
    }
}

#[test]
fn a_table_that_nobody_could_read_is_refused_before_it_is_made() {
    let many = (0..600).map(|seed| run(&spec("a", EpsilonSchedule::Fixed, seed), 1)).collect();
    let error = pivot(&runs(many), &keys(&["seed"]), &keys(&["seed", "backbone"])).unwrap_err();
    assert!(matches!(error, Error::TooManyCells { rows: 600, columns: 600 }), "{error}");
}
