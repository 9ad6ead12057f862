//! Sweep files as users write them: what is read, what is refused and how, and in which order a grid comes out.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use sweep_core::micro_batch::MicroBatch;
use sweep_core::spec::{Norm, RunSpec};
use sweep_core::{Assignment, Grid, Problems, Resolve, Sweep, json_schema};

/// Stands in for the file system: `missing` is not there, everything else has a digest made of its name.
struct Names;

impl Resolve for Names {
    fn weights(&self, path: &Path) -> Result<(PathBuf, String), String> {
        if path == Path::new("missing") {
            return Err("no such file".to_owned());
        }
        Ok((Path::new("/base").join(path), format!("digest of {}", path.display())))
    }

    fn dataset(&self, path: &Path) -> Result<(PathBuf, String), String> {
        self.weights(path)
    }
}

fn expand(text: &str) -> Result<Grid, Problems> {
    Sweep::parse(text.as_bytes(), &[])?.expand(&Names)
}

fn problems(text: &str) -> String {
    expand(text).expect_err("the file has problems").to_string()
}

const SMALL: &str = "
name: small
run: {backbone: tiny-vit, target_epsilon: 4/255, epsilon_schedule: {kind: fixed}, epochs: 10}
matrix:
  dataset: [shapes, blobs]
  seed: [0, 1]
";

fn labels(grid: &Grid, label: impl Fn(&RunSpec) -> String) -> Vec<String> {
    grid.runs.iter().map(|(_, spec)| label(spec)).collect()
}

#[test]
fn the_first_key_is_slowest_and_pretraining_comes_first() {
    let grid = expand(SMALL).unwrap();
    let found = labels(&grid, |spec| format!("{} {}", spec.dataset.name, spec.seed));
    assert_eq!(found, ["upstream 0", "shapes 0", "shapes 1", "blobs 0", "blobs 1"]);
    let pretraining = grid.runs[0].0;
    assert!(grid.runs[1..].iter().all(|(_, spec)| spec.depends_on() == Some(pretraining)));
    assert!(grid.runs[0].1.target_epsilon.is_zero());
}

#[test]
fn a_condition_means_by_a_key_what_its_kind_means_by_it() {
    let axis = "matrix: {epsilon_schedule: [{kind: ramp, start: 3, end: 6}, {kind: auto, end: auto}], dataset: [shapes]}";
    let of = |exclude: &str| {
        let text = SMALL
            .replace("matrix:\n  dataset: [shapes, blobs]\n  seed: [0, 1]\n", "")
            .replace(", epsilon_schedule: {kind: fixed}", "");
        expand(&format!("{text}{axis}\nexclude: [{{epsilon_schedule: {exclude}}}]\n"))
    };
    for (exclude, left) in [
        ("{kind: auto, end: auto}", "ramp 3-6"),
        ("{end: auto}", "ramp 3-6"),
        ("{kind: ramp, end: 6}", "ramp auto"),
    ] {
        let labels = labels(&of(exclude).unwrap(), |spec| spec.epsilon_schedule.label());
        assert!(labels.len() == 2 && labels[1].starts_with(left), "{exclude}: {labels:?}");
    }
    assert!(
        of("{kind: ramp, end: auto}")
            .unwrap_err()
            .to_string()
            .contains("`auto` is a text, expected an epoch")
    );
}

#[test]
fn exclude_include_and_overrides_work_as_in_github_actions() {
    let text = format!(
        "{SMALL}
exclude: [{{dataset: shapes, seed: 1}}]
include:
  - {{dataset: blobs, batch_size: 16}}
  - {{dataset: glyphs, seed: 7}}
overrides:
  - {{when: {{dataset: glyphs}}, set: {{optimizer.learning_rate: 3e-4}}}}
"
    );
    let grid = expand(&text).unwrap();
    let rate = |spec: &RunSpec| serde_json::to_value(&spec.optimizer).unwrap()["learning_rate"].to_string();
    let found = labels(&grid, |spec| {
        format!("{} {} {} {}", spec.dataset.name, spec.seed, spec.batch_size, rate(spec))
    });
    let expected =
        ["shapes 0 1024 0.00012", "blobs 0 16 0.00012", "blobs 1 16 0.00012", "glyphs 7 1024 0.0003"];
    assert_eq!(found[1..], expected);
}

#[test]
fn equal_points_are_one_run() {
    let grid = expand(&format!("{SMALL}include: [{{dataset: shapes, seed: 0}}]")).unwrap();
    assert_eq!(grid.runs.len(), 5);
    let twice = expand(&SMALL.replace("seed: [0, 1]", "target_epsilon: [4/255, 8/510]")).unwrap();
    assert_eq!(twice.runs.len(), 3);
}

#[test]
fn points_that_are_equal_in_other_words_are_told() {
    let notes = |text: &str| {
        let notes = expand(text).unwrap().notes;
        notes.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(notes(SMALL), "");
    let twice = notes(&SMALL.replace("seed: [0, 1]", "target_epsilon: [4/255, 8/510]"));
    assert!(
        twice.starts_with("4 points are 2 runs: 2 say in other words what an earlier one says"),
        "{twice}"
    );
    let same = format!("{SMALL}include: [{{dataset: shapes, seed: 0}}]");
    assert_eq!(notes(&same), "", "an entry that agrees with a point is that point");
}

#[test]
fn conditions_that_match_nothing_are_told() {
    for (entry, place, part) in [
        ("exclude: [{seed: 1}, {seed: 7}]", "exclude[1].seed", "`7` is the value of no point"),
        ("exclude: [{epsilon_schedule: {kind: ramp}}]", "exclude[0].epsilon_schedule", "kind"),
        ("exclude: [{dataset: glyphs}]", "exclude[0].dataset", "`glyphs` is the value of no point"),
    ] {
        let found = problems(&format!("{SMALL}{entry}"));
        assert!(found.contains(&format!("{place}: ")) && found.contains(part), "{entry}: {found}");
    }
    let diagonal = SMALL.replace("seed: [0, 1]", "seed: [0, 1]\n  epochs: [10, 11]");
    let both =
        "exclude: [{dataset: shapes, seed: 0}, {dataset: shapes, seed: 0, epochs: 10, batch_size: 16}]";
    assert!(problems(&format!("{diagonal}{both}")).contains("exclude[1].batch_size: `16`"));
    let overridden =
        expand(&format!("{SMALL}overrides: [{{when: {{seed: 7}}, set: {{epochs: 9}}}}]")).unwrap();
    assert_eq!(overridden.notes.len(), 1);
    assert!(overridden.notes[0].to_string().starts_with("overrides[0].when.seed: `7`"));
}

#[test]
fn a_grid_that_set_has_narrowed_may_have_nothing_to_exclude() {
    let text = format!("{SMALL}exclude: [{{dataset: shapes, seed: 1}}]");
    let expand_with = |set: &str| {
        let set: Assignment = set.parse().unwrap();
        Sweep::parse(text.as_bytes(), &[set]).unwrap().expand(&Names)
    };
    let grid = expand_with("matrix.seed=[0]").unwrap();
    assert_eq!((grid.runs.len(), grid.notes.len()), (3, 1));
    assert!(grid.notes[0].to_string().starts_with("exclude[0].seed: `1`"), "{}", grid.notes[0]);
    assert!(expand_with("exclude=[{seed: 7}]").is_err());
    assert_eq!(expand_with("name=other").unwrap().notes, []);
}

#[test]
fn conditions_compare_what_values_come_to() {
    let left = |schedules: &str, exclude: &str| {
        let text = SMALL
            .replace(", epsilon_schedule: {kind: fixed}", "")
            .replace("seed: [0, 1]", &format!("epsilon_schedule: {schedules}"));
        expand(&format!("{text}exclude: [{exclude}]\n")).map(|grid| grid.runs.len())
    };
    let two = "[{kind: ramp, start: 20%, end: 50%}, {kind: fixed}]";
    for exclude in [
        "{epsilon_schedule: {kind: ramp, start: 2}}",
        "{epsilon_schedule.start: 2}",
        "{epsilon_schedule: {kind: ramp, start: 20.0%, end: 5, per: epoch}}",
        "{epsilon_schedule: {kind: ramp}, evaluation: {max_epsilon: 16/255}}",
        "{epsilon_schedule: {kind: ramp}, evaluation.max_epsilon: 32/510}",
        "{epsilon_schedule: {kind: ramp}, optimizer.weight_decay: 1e-6}",
        "{epsilon_schedule: {kind: ramp}, attack: {steps: 7, norm: linf}}",
    ] {
        assert_eq!(left(two, exclude), Ok(3), "{exclude}");
    }
    for exclude in ["{epsilon_schedule: {kind: ramp, start: 3}}", "{evaluation.max_epsilon: 8/255}"] {
        assert!(left(two, exclude).is_err(), "{exclude}");
    }
}

#[test]
fn an_include_that_names_a_part_of_a_value_is_a_point_of_its_own() {
    let text = SMALL
        .replace(", epsilon_schedule: {kind: fixed}", "")
        .replace("seed: [0, 1]", "epsilon_schedule: [{kind: fixed}, {kind: auto, patience: 2}]");
    let added = |entry: &str| expand(&format!("{text}include: [{entry}]")).unwrap();
    let own = added("{dataset: shapes, epsilon_schedule: {kind: auto}, seed: 3}");
    assert_eq!(own.runs.len(), 6);
    assert_eq!(own.runs[5].1.seed, 3);
    let overlaid =
        added("{dataset: shapes, epsilon_schedule: {kind: auto, patience: 2, tolerance: 0.02}, seed: 3}");
    assert_eq!(overlaid.runs.len(), 5);
    assert_eq!(overlaid.runs[2].1.seed, 3);
}

#[test]
fn the_training_attack_has_the_papers_steps_where_a_part_of_it_is_written() {
    let spec = with_keys("attack: {kind: apgd, loss: dlr}, evaluation: {attack: {kind: apgd, loss: dlr}}");
    assert_eq!((spec.attack.steps(), spec.evaluation.attack.label().as_str()), (7, "apgd-10-dlr"));
}

#[test]
fn a_run_is_measured_in_the_ball_that_it_is_trained_for() {
    let keys = |keys: &str| SMALL.replace("epochs: 10", &format!("epochs: 10, {keys}"));
    let found = problems(&keys("attack: {kind: apgd, norm: l2}"));
    for part in [
        "run.validation: `attack.norm` of `validation` is `linf`, expected `l2` as in the training attack",
        "run.evaluation: `attack.norm` of `evaluation` is `linf`",
        "write `norm: l2` in `validation.attack` and `evaluation.attack` too",
    ] {
        assert!(found.contains(part), "{found}");
    }
    let l2 = "attack: {kind: apgd, norm: l2}";
    expand(&keys(&format!("{l2}, validation: {{{l2}}}, evaluation: {{{l2}}}"))).unwrap();
    let standard = keys(l2).replace(
        "target_epsilon: 4/255, epsilon_schedule: {kind: fixed}",
        "target_epsilon: 0, epsilon_schedule: {kind: none}",
    );
    expand(&standard).unwrap();
}

#[test]
fn with_batch_norm_a_micro_batch_of_another_size_is_another_run() {
    let with = |backbone: &str, keys: &str| {
        let text = SMALL
            .replace("tiny-vit", backbone)
            .replace("epochs: 10", &format!("epochs: 10, batch_size: 64{keys}"));
        expand(&text).unwrap().runs.pop().unwrap().1
    };
    let ids = |spec: &RunSpec| (spec.id(), spec.training_id(), spec.trajectory()[10]);
    let usual = ids(&with("tiny-resnet50", ""));
    assert_eq!(usual, ids(&with("tiny-resnet50", ", micro_batch_size: 32")));
    let other = ids(&with("tiny-resnet50", ", micro_batch_size: 16"));
    assert!(usual.0 != other.0 && usual.1 != other.1 && usual.2 != other.2);
    assert_eq!(ids(&with("tiny-vit", "")), ids(&with("tiny-vit", ", micro_batch_size: 16")));
}

#[test]
fn what_is_no_part_of_the_identity() {
    let ids = |text: &str| expand(text).unwrap().runs.iter().map(|(id, _)| *id).collect::<Vec<_>>();
    let renamed = SMALL.replace("name: small", "name: other\nexecution: {devices: cpu:2}");
    assert_eq!(ids(SMALL), ids(&renamed));
    let smaller = SMALL.replace("epochs: 10", "epochs: 10, micro_batch_size: 4");
    assert_eq!(ids(SMALL), ids(&smaller));
    let found = SMALL.replace("epochs: 10", "epochs: 10, micro_batch_size: auto");
    assert_eq!(ids(SMALL), ids(&found));
    let longer = SMALL.replace("epochs: 10", "epochs: 11");
    assert!(ids(SMALL)[1..].iter().zip(&ids(&longer)[1..]).all(|(left, right)| left != right));
}

#[test]
fn more_evaluation_is_another_run_of_the_same_training() {
    let more = SMALL.replace("epochs: 10", "epochs: 10, evaluation: {max_epsilon: 4/255}");
    let (few, many) = (expand(&more).unwrap(), expand(SMALL).unwrap());
    assert_ne!(few.runs[1].0, many.runs[1].0);
    assert_eq!(few.runs[1].1.training_id(), many.runs[1].1.training_id());
}

#[test]
fn local_files_count_by_digest_not_by_path() {
    let text = "
name: local
run: {backbone: mine, dataset: birds, target_epsilon: 4/255, epsilon_schedule: {kind: fixed}}
backbones: {mine: {architecture: {kind: vit}, weights: {kind: file, path: vit.safetensors}}}
datasets: {birds: {source: {kind: parquet, path: birds}}}
";
    let grid = expand(text).unwrap();
    let canonical = grid.runs[0].1.canonical();
    assert!(canonical.contains("digest of birds") && !canonical.contains("/base"), "{canonical}");
    let missing = problems(&text.replace("path: birds", "path: missing"));
    assert!(missing.contains("datasets.birds.source.path: no such file"), "{missing}");
}

/// Stored results are found by these ids: if this test fails, raise `CANONICAL_FORMAT` or undo the change.
#[test]
fn golden_ids() {
    let paper = include_bytes!("../../../sweeps/paper.yaml");
    let grid = Sweep::parse(paper, &[]).unwrap().expand(&Names).unwrap();
    assert_eq!(grid.runs.len(), 360);
    let small = expand(SMALL).unwrap();
    let ids = [&grid.runs[0], &grid.runs[359], &small.runs[0], &small.runs[1]].map(|(id, _)| id.to_string());
    insta::assert_snapshot!("golden_ids", ids.join("\n"));
    insta::assert_snapshot!("golden_canonical_form", grid.runs[3].1.canonical());
}

/// The paper's other grids (its figures of the diagnosis, Table 7, Tables 4 and 8) have its sizes, and share with the main grid
/// the runs that the paper has in both.
#[test]
fn the_papers_grids_share_their_runs() {
    let grid = |text: &[u8]| {
        let grid = Sweep::parse(text, &[]).unwrap().expand(&Names).unwrap();
        assert!(grid.notes.is_empty(), "{:?}", grid.notes);
        grid.runs.into_iter().map(|(id, _)| id).collect::<BTreeSet<_>>()
    };
    let main = grid(include_bytes!("../../../sweeps/paper.yaml"));
    let others = [
        grid(include_bytes!("../../../sweeps/diagnosis.yaml")),
        grid(include_bytes!("../../../sweeps/ablation.yaml")),
        grid(include_bytes!("../../../sweeps/schedules.yaml")),
    ];
    let found = others.map(|other| (other.len(), other.intersection(&main).count()));
    assert_eq!(found, [(100, 20), (30, 4), (30, 0)]);
}

/// Returns the last run of the small file with these keys of `run` besides.
fn with_keys(keys: &str) -> RunSpec {
    let text = SMALL.replace("epochs: 10", &format!("epochs: 10, {keys}"));
    expand(&text).unwrap_or_else(|problems| panic!("{keys}: {problems}")).runs.pop().expect("one run").1
}

fn with_schedule(schedule: &str, epochs: u32) -> RunSpec {
    let text = SMALL.replace("{kind: fixed}", schedule).replace("epochs: 10", &format!("epochs: {epochs}"));
    expand(&text).unwrap_or_else(|problems| panic!("{schedule}: {problems}")).runs.pop().expect("one run").1
}

#[test]
fn what_is_off_by_default_changes_the_identity_only_where_it_is_on() {
    let plain = with_keys("seed: 0");
    let off = "precision: f32, clip_norm: none, ema: none, objective: {kind: adversarial}, optimizer: {kind: adamw, no_decay: sibling}";
    assert_eq!(with_keys(off), plain);
    let ramp = with_schedule("{kind: ramp, start: 2, end: 4}", 10);
    assert_eq!(with_schedule("{kind: ramp, start: 2, end: 4, per: epoch}", 10), ramp);
    let on = [
        with_keys("precision: tf32"),
        with_keys("precision: bf16"),
        with_keys("clip_norm: 1"),
        with_keys("ema: {decay: 0.9}"),
        with_keys("objective: {kind: trades}"),
        with_keys("objective: {kind: trades, beta: 1}"),
        with_keys("optimizer: {kind: adamw, no_decay: usual}"),
        with_schedule("{kind: ramp, start: 2, end: 4, per: step}", 10),
        with_schedule("{kind: warmup, end: 4, per: step}", 10),
        with_schedule("{kind: auto}", 10),
        with_schedule("{kind: auto, end: auto}", 10),
        with_schedule("{kind: auto, patience: 3, per: step}", 10),
    ];
    let ids: std::collections::HashSet<_> =
        on.iter().chain([&plain, &ramp]).map(|spec| (spec.id(), spec.training_id())).collect();
    assert_eq!(ids.len(), on.len() + 2);
    for spec in &on {
        let text = serde_json::to_string(spec).unwrap();
        assert_eq!(&serde_json::from_str::<RunSpec>(&text).unwrap(), spec, "a worker reads {text}");
    }
}

#[test]
fn the_micro_batch_is_a_number_or_is_found() {
    let size = |keys: &str| with_keys(keys).micro_batch_size;
    assert_eq!(size("batch_size: 96"), MicroBatch::Images(32));
    assert_eq!(size("batch_size: 100"), MicroBatch::Images(25));
    assert_eq!(size("batch_size: 96, micro_batch_size: 48"), MicroBatch::Images(48));
    assert_eq!(size("batch_size: 96, micro_batch_size: auto"), MicroBatch::Auto);
    let both = SMALL.replace("seed: [0, 1]", "micro_batch_size: [auto, 4]");
    assert_eq!(expand(&both).unwrap().runs.len(), 3, "no part of the identity, and so no axis");
}

#[test]
fn autoattack_is_for_finished_models_and_trains_nothing_anew() {
    let (usual, tested) = (with_keys(""), with_keys("evaluation: {attack: {kind: autoattack}}"));
    assert_eq!(
        (tested.evaluation.attack.label(), tested.evaluation.attack.norm()),
        ("autoattack".into(), Norm::Linf)
    );
    assert_eq!(tested.training_id(), usual.training_id());
    assert_ne!(tested.id(), usual.id());
    let text = serde_json::to_string(&tested).unwrap();
    assert_eq!(serde_json::from_str::<RunSpec>(&text).unwrap(), tested, "a worker reads {text}");
    for keys in ["attack: {kind: autoattack}", "validation: {attack: {kind: autoattack}}"] {
        let found = problems(&SMALL.replace("epochs: 10", &format!("epochs: 10, {keys}")));
        assert!(found.contains("unknown kind `autoattack`, expected one of: apgd"), "{found}");
    }
}

#[test]
fn precision_is_an_axis() {
    let grid = expand(&SMALL.replace("seed: [0, 1]", "precision: [f32, tf32, bf16]")).unwrap();
    assert_eq!(labels(&grid, |spec| spec.precision.to_string())[1..4], ["f32", "tf32", "bf16"]);
}

#[test]
fn shares_of_the_budget_are_epochs_in_other_words() {
    for (share, epochs) in [
        ("{kind: ramp, start: 24%, end: 74%}", "{kind: ramp, start: 12, end: 37}"),
        ("{kind: warmup, end: 20%}", "{kind: warmup, end: 10}"),
        ("{kind: step, start: 50%}", "{kind: step, start: 25}"),
        ("{kind: auto}", "{kind: auto, end: 50}"),
        (
            "{kind: piecewise, points: [{epoch: 10%, fraction: 0}, {epoch: 100%, fraction: 1}]}",
            "{kind: piecewise, points: [{epoch: 5, fraction: 0}, {epoch: 50, fraction: 1}]}",
        ),
    ] {
        assert_eq!(with_schedule(share, 50), with_schedule(epochs, 50), "{share}");
    }
    let both =
        SMALL.replace("{kind: fixed}", "{kind: ramp, start: 25%, end: 75%}").replace("epochs: 10, ", "");
    let both = both.replace(", epochs: 10", "") + "  epochs: [8, 16]\n";
    let found = labels(&expand(&both).unwrap(), |spec| spec.epsilon_schedule.label());
    assert_eq!(found[1..3], ["ramp 2-6", "ramp 4-12"]);
}

#[test]
fn recipes_that_make_no_sense_are_refused_with_a_hint() {
    let keys = |keys: &str| SMALL.replace("epochs: 10", &format!("epochs: 10, {keys}"));
    let schedule = |schedule: &str| SMALL.replace("{kind: fixed}", schedule);
    let texts = [
        keys("clip_norm: 0"),
        keys("precision: fp16"),
        keys("micro_batch_size: all"),
        keys("batch_size: 96, micro_batch_size: 64"),
        keys("micro_batch_size: auto").replace("tiny-vit", "tiny-resnet50"),
        keys("ema: {decay: 1}"),
        keys("ema: 0.9"),
        keys("objective: trades"),
        keys("objective: {kind: trades, beta: 0}"),
        keys("optimizer: {kind: adamw, no_decay: norms}"),
        schedule("{kind: ramp, start: 24.5, end: 120%}"),
        schedule("{kind: ramp, start: 60%, end: 50%}"),
        schedule("{kind: auto, patience: 9}"),
        schedule("{kind: auto, end: auto, per: step}"),
        schedule("{kind: auto, end: later}"),
        schedule("{kind: none}, objective: {kind: trades}"),
        keys("objective: {kind: trades}, attack: {kind: apgd, loss: dlr}"),
    ];
    let found: Vec<String> = texts.iter().map(|text| problems(text)).collect();
    insta::assert_snapshot!("recipes", found.join("\n"));
}

#[test]
fn every_problem_is_reported_at_once_with_its_place() {
    let text = "
name: wrong
runs: {}
run:
  backbone: tiny-vit
  epoch: 3
  target_epsilon: 4
  epsilon_schedule: fixed
  optimizer: {kind: adamv, learning_rate: -1}
matrix:
  dataset: [shapes, shapes]
  seed: []
  attack.stepz: [1]
include: [{batch_size: 0}]
datasets: {mine: {source: {kind: parquet}}}
";
    insta::assert_snapshot!("every_problem", problems(text));
}

#[test]
fn problems_between_keys_are_reported_once_not_once_a_point() {
    let text = SMALL
        .replace("kind: fixed", "kind: ramp, start: 8, end: 4")
        .replace("[shapes, blobs]", "[shape, blobs]");
    insta::assert_snapshot!("between_keys", problems(&text));
}

#[test]
fn the_readmes_sweep_file_is_a_good_one() {
    let readme = include_str!("../../../README.md");
    let yaml =
        readme.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a YAML block");
    let grid = expand(yaml).unwrap();
    // Two datasets × two schedules × three seeds, less two excluded, and one more.
    assert_eq!(grid.runs.len(), 11);
}

#[test]
fn slips_of_the_pen_in_patterns_are_refused() {
    for (entry, part) in [
        ("exclude: [{dataset: shape}]", "did you mean `shapes`?"),
        ("exclude: [{epsilon_schedule: {kin: fixed}}]", "unknown key `kin`"),
        ("exclude: [{optimizer.kind: sgd}]", "hint: write optimizer: {kind: sgd}"),
        (
            "exclude: [{optimizer.kinds: sgd}]",
            "expected one of: learning_rate, head_learning_rate, weight_decay, head_weight_decay, betas, stability, no_decay, momentum",
        ),
        ("  optimizer.kind: [adamw, sgd]", "hint: write optimizer: [{kind: adamw}, {kind: sgd}]"),
        ("overrides: [{when: {target_epsilon: 0.0157}, set: {epochs: 9}}]", "hint: write 4/255"),
        ("exclude: [{epsilon_schedule: {kind: rampp}}]", "did you mean `ramp`?"),
        ("overrides: [{when: {backbone: tiny}, set: {epochs: 9}}]", "did you mean `tiny-vit`?"),
        (
            "datasets: {shapes: {source: {kind: procedural, family: shapes, train: 9, test: 9}, splits: {kind: given, train: trian}}}",
            "no split `trian`",
        ),
    ] {
        let found = problems(&format!("{SMALL}{entry}"));
        assert!(found.contains(part), "{entry}: {found}");
    }
}

#[test]
fn lists_that_would_overwrite_each_other_are_refused() {
    let text = format!("{SMALL}  optimizer.learning_rate: [1e-3, 1e-4]\n  optimizer: [{{kind: adamw}}]\n");
    assert!(
        problems(&text).contains("`optimizer` and `optimizer.learning_rate` set the same key"),
        "{}",
        problems(&text)
    );
    let swept = text.replace(
        "  optimizer: [{kind: adamw}]\n",
        "include: [{optimizer: {kind: adamw, learning_rate: 5e-2}, seed: 1, dataset: glyphs}]",
    );
    let grid = expand(&swept).unwrap();
    let rates =
        labels(&grid, |spec| serde_json::to_value(&spec.optimizer).unwrap()["learning_rate"].to_string());
    assert_eq!(
        rates.iter().filter(|rate| *rate == "0.05").count(),
        1,
        "include overwrote the matrix: {rates:?}"
    );
}

#[test]
fn thousands_of_faults_are_told_without_delay() {
    let keys: Vec<String> = (0..60_000).map(|key| format!("  k{key}: 1\n")).collect();
    let found = problems(&format!("name: x\nrun:\n{}", keys.concat()));
    assert!(found.starts_with("1000 problems"), "{found:.200}");
}

#[test]
fn how_a_pretraining_is_measured_does_not_change_what_starts_from_it() {
    let text = |steps: u32| {
        let weights = format!(
            "{{kind: pretrain, run: {{dataset: upstream, epochs: 9, evaluation: {{max_epsilon: {steps}/255}}}}}}"
        );
        let architecture = "{kind: vit, image_size: 32, patch_size: 8, embed_dim: 8, depth: 1, num_heads: 1}";
        let mine = format!("backbones: {{mine: {{architecture: {architecture}, weights: {weights}}}}}");
        format!("{}\n{mine}", SMALL.replace("tiny-vit", "mine"))
    };
    let (one, other) = (expand(&text(1)).unwrap(), expand(&text(2)).unwrap());
    assert_ne!(one.runs[0].0, other.runs[0].0);
    assert_eq!(one.runs[1].0, other.runs[1].0);
}

#[test]
fn a_warm_up_as_long_as_the_training_is_refused() {
    let text = SMALL.replace("epochs: 10", "epochs: 5");
    assert!(
        problems(&text).contains("run.learning_rate_schedule: a warm-up of 5 epochs"),
        "{}",
        problems(&text)
    );
}

#[test]
fn set_changes_the_file() {
    let sets: Vec<Assignment> = ["run.epochs=7", "+run.batch_size=8", "matrix.seed=[5]"]
        .iter()
        .map(|set| set.parse().unwrap())
        .collect();
    let grid = Sweep::parse(SMALL.as_bytes(), &sets).unwrap().expand(&Names).unwrap();
    let found = labels(&grid, |spec| format!("{} {} {}", spec.epochs, spec.batch_size, spec.seed));
    assert_eq!(found[1..], ["7 8 5", "7 8 5"]);
}

/// Bounds the work, not the speed of the machine: each of these would take hours or all memory if it were expanded.
#[test]
fn bombs_are_refused_at_once() {
    let axis = |key: &str| {
        format!("  {key}: [{}]\n", (1..=1000).map(|value| value.to_string()).collect::<Vec<_>>().join(", "))
    };
    let billion = format!("{SMALL}  epochs: [1]\n")
        .replace("epochs: 10", "batch_size: 1")
        .replace("  seed: [0, 1]\n", &format!("{}{}{}", axis("seed"), axis("batch_size"), axis("input_size")))
        .replace("  input_size: [1, 2, 3, 4, 5, 6, 7, ", "  input_size: [");
    let aliases = (1..40).fold("a0: &a0 [1]\n".to_owned(), |text, level| {
        format!("{text}a{level}: &a{level} [{}]\n", vec![format!("*a{}", level - 1); 9].join(","))
    });
    let cases = [
        (billion.into_bytes(), "points, expected at most"),
        (aliases.into_bytes(), ""),
        (b"name: \xff".to_vec(), "not UTF-8 from byte 6"),
        (b"name: a\nname: b".to_vec(), "stands twice"),
        ("[".repeat(900_000).into_bytes(), ""),
        (vec![b'x'; 2_000_000], "bytes, expected at most"),
    ];
    for (text, part) in cases {
        let begin = Instant::now();
        let error =
            Sweep::parse(&text, &[]).and_then(|sweep| sweep.expand(&Names)).expect_err("refused").to_string();
        assert!(error.contains(part), "{error:.300}");
        assert!(begin.elapsed() < Duration::from_mins(2));
    }
}

#[test]
fn the_schema_accepts_what_the_parser_accepts() {
    let validator = jsonschema::validator_for(&json_schema()).unwrap();
    let accepted =
        [SMALL, include_str!("../../../sweeps/paper.yaml"), include_str!("../../../sweeps/quickstart.yaml")];
    for text in accepted {
        let value: serde_json::Value = serde_yaml::from_str(text).unwrap();
        let errors: Vec<_> = validator.iter_errors(&value).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{errors:?}");
    }
}

proptest! {
    /// One value of a good file is replaced by something else: parser and schema agree whether it is still good.
    #[test]
    fn schema_and_parser_agree_on_values(
        key in prop::sample::select(vec!["backbone", "target_epsilon", "epsilon_schedule", "epochs", "seed", "optimizer", "evaluation", "clip_norm", "ema", "objective", "unknown"]),
        value in prop::sample::select(vec![
            "1", "0", "-1", "1.5", "4/255", "'0.5'", "2/1", "tiny-vit", "fixed", "{}", "[]", "true", "null",
            "{kind: fixed}", "{kind: ramp}", "{kind: ramp, start: 1, end: 2}", "{kind: ramp, start: 1, end: 2, x: 1}",
            "{kind: adamw}", "{kind: adamw, betas: [0.1]}", "{kind: adamw, betas: [0.1, 0.2]}", "{kind: sgd}",
            "{kind: sgd, learning_rate: 1}", "{max_epsilon: 8/255}", "{attack: {kind: apgd, norm: l2}}", "{attack: {kind: pgd}}",
            "none", "{decay: 0.9}", "{decay: 1}", "{kind: trades}", "{kind: trades, beta: 0}", "{kind: adamw, no_decay: usual}",
            "{kind: ramp, start: 5%, end: 99.5%}", "{kind: ramp, start: 5 %, end: 101%}", "{kind: warmup, end: 007%}",
            "{kind: auto}", "{kind: auto, end: auto}", "{kind: auto, end: none}", "{kind: auto, end: 20%, per: step}",
        ]),
    ) {
        let text = format!("name: x\nrun: {{{key}: {value}}}\n");
        let parsed = Sweep::parse(text.as_bytes(), &[]);
        let tree: serde_json::Value = serde_yaml::from_str(&text).unwrap();
        let valid = jsonschema::validator_for(&json_schema()).unwrap().is_valid(&tree);
        // Whether a fraction lies in [0, 1] is beyond a pattern.
        prop_assume!(!(key == "target_epsilon" && value == "2/1"));
        prop_assert_eq!(parsed.is_ok(), valid, "{}: {:?}", text, parsed.err());
    }

    #[test]
    fn grid_size_is_the_product_and_ids_are_unique(seeds in 1_u64..6, batches in 1_u64..4, sets in 1_usize..6) {
        let datasets = ["shapes", "blobs", "glyphs", "details", "textures"][..sets].join(", ");
        let numbers = |count: u64| (1..=count).map(|value| value.to_string()).collect::<Vec<_>>().join(", ");
        let text = format!(
            "name: x\nrun: {{backbone: tiny-vit, target_epsilon: 4/255, epsilon_schedule: {{kind: fixed}}}}\n\
             matrix: {{dataset: [{datasets}], seed: [{}], batch_size: [{}]}}\n", numbers(seeds), numbers(batches));
        let grid = expand(&text).unwrap();
        prop_assert_eq!(grid.runs.len() as u64, 1 + sets as u64 * seeds * batches);
        let ids: std::collections::HashSet<_> = grid.runs.iter().map(|(id, _)| *id).collect();
        prop_assert_eq!(ids.len(), grid.runs.len());
    }
}
