//! What runs have in common: prefixes of trajectories, who follows whom, and the names of checkpoints.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use sweep_core::spec::{RunId, RunSpec};
use sweep_core::trajectory::{CheckpointName, Follower, followers};
use sweep_core::{Resolve, Sweep};

struct Nowhere;

impl Resolve for Nowhere {
    fn weights(&self, path: &Path) -> Result<(PathBuf, String), String> {
        Err(path.display().to_string())
    }

    fn dataset(&self, path: &Path) -> Result<(PathBuf, String), String> {
        self.weights(path)
    }
}

/// Returns the only run of a grid of ten epochs with `keys` added.
fn run(keys: &str) -> RunSpec {
    let text = format!(
        "name: one
run: {{backbone: b, dataset: blobs, target_epsilon: 4/255, epochs: 10, learning_rate_schedule: {{kind: constant}}}}
overrides: [{{when: {{backbone: b}}, set: {{{keys}}}}}]
backbones: {{b: {{architecture: {{kind: vit, image_size: 16, patch_size: 8, embed_dim: 8, depth: 1, num_heads: 1}}, weights: {{kind: random}}}}}}"
    );
    let grid = Sweep::parse(text.as_bytes(), &[]).and_then(|sweep| sweep.expand(&Nowhere));
    grid.unwrap_or_else(|problems| panic!("{text}: {problems}")).runs.remove(0).1
}

/// Returns how many epochs two runs have in common. Once they differ, they never meet again.
fn common(left: &RunSpec, right: &RunSpec) -> usize {
    let (left, right) = (left.trajectory(), right.trajectory());
    let equal: Vec<bool> = left.iter().zip(&right).map(|(left, right)| left == right).collect();
    assert!(equal.is_sorted_by(|before, after| before >= after), "{equal:?}");
    equal.iter().filter(|equal| **equal).count().saturating_sub(1)
}

#[test]
fn runs_share_their_epochs_until_they_first_differ() {
    let none = "epsilon_schedule: {kind: none}";
    let fixed = "epsilon_schedule: {kind: fixed}";
    let ramp = "epsilon_schedule: {kind: ramp, start: 3, end: 6}";
    let by_steps = "epsilon_schedule: {kind: ramp, start: 3, end: 6, per: step}";
    let cosine = "epsilon_schedule: {kind: fixed}, learning_rate_schedule: {kind: cosine, warmup_epochs: 4, per: step}";
    for (left, right, expected) in [
        (ramp, ramp, 10),
        (ramp, "epsilon_schedule: {kind: ramp, start: 3, end: 9}", 4),
        (ramp, none, 4),
        (by_steps, none, 3),
        (ramp, by_steps, 3),
        (ramp, "epsilon_schedule: {kind: ramp, start: 3, end: 6}, objective: {kind: trades, beta: 6}", 4),
        (ramp, fixed, 0),
        (fixed, "epsilon_schedule: {kind: fixed}, target_epsilon: 8/255", 0),
        (ramp, "epsilon_schedule: {kind: ramp, start: 3, end: 6}, target_epsilon: 8/255", 4),
        (none, "epsilon_schedule: {kind: none}, attack: {kind: apgd, steps: 3}", 10),
        (fixed, "epsilon_schedule: {kind: fixed}, attack: {kind: apgd, steps: 3}", 0),
        (fixed, "epsilon_schedule: {kind: fixed}, objective: {kind: trades, beta: 6}", 0),
        (fixed, "epsilon_schedule: {kind: fixed}, epochs: 14", 10),
        (
            cosine,
            "epsilon_schedule: {kind: fixed}, learning_rate_schedule: {kind: cosine, warmup_epochs: 4, per: step}, epochs: 14",
            4,
        ),
        (
            fixed,
            "epsilon_schedule: {kind: fixed}, evaluation.max_epsilon: 16/255, validation: {attack: {kind: apgd, steps: 3}}",
            10,
        ),
        (fixed, "epsilon_schedule: {kind: fixed}, micro_batch_size: 4", 10),
        (fixed, "epsilon_schedule: {kind: fixed}, precision: f32", 10),
        (fixed, "epsilon_schedule: {kind: fixed}, precision: tf32", 0),
        (none, "epsilon_schedule: {kind: none}, precision: bf16", 0),
        (fixed, "epsilon_schedule: {kind: fixed}, seed: 1", 0),
        (fixed, "epsilon_schedule: {kind: fixed}, batch_size: 32", 0),
        (fixed, "epsilon_schedule: {kind: fixed}, clip_norm: 1", 0),
        (fixed, "epsilon_schedule: {kind: fixed}, ema: {decay: 0.9}", 0),
        (fixed, "epsilon_schedule: {kind: fixed}, optimizer.weight_decay: 0.3", 0),
        (fixed, "epsilon_schedule: {kind: fixed}, dataset: shapes", 0),
        (
            "epsilon_schedule: {kind: auto}",
            "epsilon_schedule: {kind: auto}, evaluation.max_epsilon: 16/255",
            10,
        ),
        ("epsilon_schedule: {kind: auto}", none, 0),
    ] {
        assert_eq!(common(&run(left), &run(right)), expected, "{left} | {right}");
    }
    let seeds = ["epsilon_schedule: {kind: fixed}", "epsilon_schedule: {kind: fixed}, seed: 1"].map(run);
    assert_ne!(seeds[0].trajectory()[0], seeds[1].trajectory()[0]);
}

#[test]
fn each_follows_the_earliest_run_with_which_it_shares_most() {
    let specs = [
        "epsilon_schedule: {kind: fixed}",
        "epsilon_schedule: {kind: ramp, start: 3, end: 6}",
        "epsilon_schedule: {kind: ramp, start: 5, end: 6}",
        "epsilon_schedule: {kind: ramp, start: 5, end: 6}, target_epsilon: 8/255",
        "epsilon_schedule: {kind: fixed}, evaluation.max_epsilon: 12/255",
    ]
    .map(run);
    let runs: Vec<(RunId, &RunSpec)> = specs.iter().map(|spec| (spec.id(), spec)).collect();
    let follower =
        |run: usize, leader: usize, epochs| Follower { run: runs[run].0, leader: runs[leader].0, epochs };
    assert_eq!(followers(&runs), [follower(2, 1, 4), follower(3, 2, 6), follower(4, 0, 10)]);
    let twice = [runs[0], runs[0]];
    assert_eq!(followers(&twice), [], "no run follows itself");
}

#[test]
fn only_names_of_checkpoints_are_names_of_checkpoints() {
    let (id, digest) = ("0123456789abcdef0123456789abcdef", "a".repeat(64));
    for text in [
        String::new(),
        format!("{id}-{id}-whole-{digest}"),
        format!("{id}-{id}-all-{digest}.safetensors"),
        format!("{id}-{id}--1-{digest}.safetensors"),
        format!("{id}-{id}-99999999999-{digest}.safetensors"),
        format!("{id}-{id}-whole-{digest}-x.safetensors"),
        format!("{id}-{id}-whole-../../x.safetensors"),
        format!("{id}-whole-{digest}.safetensors"),
        format!("{id}-{id}-whole-{digest}.safetensors.tmp"),
    ] {
        assert!(text.parse::<CheckpointName>().is_err(), "{text}");
    }
}

proptest! {
    #[test]
    fn the_name_of_a_checkpoint_says_all_of_it(step: Option<u32>, run: u128, seed in 0_u8..8, epochs in 0_usize..10) {
        let prefix = crate::run(&format!("epsilon_schedule: {{kind: fixed}}, seed: {seed}")).trajectory()[epochs];
        let name = CheckpointName { prefix, run: format!("{run:032x}").parse().unwrap(), step, digest: "0b".repeat(32) };
        prop_assert_eq!(name.to_string().parse::<CheckpointName>().unwrap(), name);
    }

    #[test]
    fn a_prefix_is_common_exactly_where_every_epoch_does_the_same(
        starts in [0_u32..9, 0..9], lengths in [1_u32..5, 1..5], targets in [1_u8..3, 1..3],
    ) {
        let spec = |side: usize| {
            let (start, end) = (starts[side], (starts[side] + lengths[side]).min(10));
            run(&format!("epsilon_schedule: {{kind: ramp, start: {start}, end: {end}}}, target_epsilon: {}/255", targets[side]))
        };
        let (left, right) = (spec(0), spec(1));
        let radius = |spec: &RunSpec, epoch| {
            let moment = sweep_core::schedule::Moment { epoch, epochs: 10, ..Default::default() };
            spec.epsilon_schedule.epsilon_at(moment, spec.target_epsilon)
        };
        let alike = (0..10).take_while(|epoch| radius(&left, *epoch) == radius(&right, *epoch)).count();
        prop_assert_eq!(common(&left, &right), alike);
    }
}
