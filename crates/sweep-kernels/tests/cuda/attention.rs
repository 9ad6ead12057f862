//! Attention, windows and patch merging.

use sweep_kernels::{
    Layer, Mode, Parameters, PatchMerging, SelfAttention, WindowMerge, WindowPartition, Windows,
};

use crate::support::{Case, check, parameters, train};

fn check_without_parameters(name: &str, layer: &dyn Layer, shape: &[usize]) {
    let parameters = Parameters::new();
    for mode in [Mode::Evaluation, train()] {
        check(&Case { name, layer, parameters: &parameters, shape, mode });
    }
}

/// Depths with and without tensor cores; tokens below, at and above tiles of 8, 16, 32 and 64.
#[test]
fn attention() {
    let cases = [
        // images, tokens, heads, depth
        [1, 1, 1, 1],
        [2, 5, 3, 7],
        [1, 16, 1, 16],
        [3, 17, 2, 16],
        [1, 49, 2, 32],
        [1, 64, 1, 33],
        [1, 65, 2, 64],
        [1, 131, 1, 40],
        [1, 197, 1, 64],
        [1, 33, 2, 96],
        [1, 50, 1, 128],
        [1, 70, 1, 160],
        [1, 20, 1, 256],
    ];
    for [images, tokens, heads, depth] in cases {
        let name = format!("attention of {images} x {tokens} tokens, {heads} heads of {depth}");
        check_without_parameters(&name, &SelfAttention::new(heads), &[images, tokens, 3 * heads * depth]);
    }
}

/// So many tokens that the keys of a head need several blocks on tensor cores.
#[test]
fn attention_over_many_tokens() {
    for [tokens, depth] in [[259, 16], [261, 64], [150, 96], [137, 128]] {
        let name = format!("attention of {tokens} tokens, depth {depth}");
        check_without_parameters(&name, &SelfAttention::new(1), &[1, tokens, 3 * depth]);
    }
}

#[test]
fn attention_in_windows() {
    let cases = [
        // images, height, width, window, shift, heads, depth
        [1, 7, 7, 7, 0, 3, 32],
        [2, 14, 11, 7, 3, 2, 32],
        [2, 5, 6, 3, 1, 2, 16],
        [3, 4, 4, 4, 2, 1, 5],
        [1, 1, 1, 1, 0, 2, 16],
        [1, 12, 20, 12, 6, 1, 32],
        [1, 9, 9, 9, 4, 2, 64],
        [1, 8, 9, 9, 2, 1, 96],
        [1, 15, 14, 15, 7, 1, 32],
    ];
    for [images, height, width, window, shift, heads, depth] in cases {
        let windows = Windows::new(height, width, window, shift).unwrap();
        let (parameters, ids) = parameters(&[("table", &[(2 * window - 1).pow(2), heads])]);
        let layer = SelfAttention::new(heads).with_windows(ids[0], windows);
        let name = format!("windows of {window} shifted by {shift} on {height} x {width}, depth {depth}");
        let shape = [images * windows.count(), windows.tokens(), 3 * heads * depth];
        for mode in [Mode::Evaluation, train()] {
            check(&Case { name: &name, layer: &layer, parameters: &parameters, shape: &shape, mode });
        }
    }
}

/// More windows than blocks that add up the table's gradient, so that blocks handle several.
#[test]
fn attention_in_many_windows() {
    let windows = Windows::new(6, 8, 2, 1).unwrap();
    let heads = 66;
    let (parameters, ids) = parameters(&[("table", &[9, heads])]);
    let layer = SelfAttention::new(heads).with_windows(ids[0], windows);
    for depth in [1, 16] {
        let shape = [5 * windows.count(), 4, 3 * heads * depth];
        let name = format!("many windows, depth {depth}");
        check(&Case { name: &name, layer: &layer, parameters: &parameters, shape: &shape, mode: train() });
    }
}

#[test]
fn windows() {
    let cases = [
        // images, height, width, window, shift, channels
        [1, 1, 1, 1, 0, 1],
        [2, 5, 7, 3, 1, 3],
        [1, 8, 8, 4, 2, 8],
        [3, 14, 14, 7, 3, 36],
        [1, 3, 2, 4, 3, 6],
        [1, 9, 4, 2, 0, 1030],
    ];
    for [images, height, width, window, shift, channels] in cases {
        let windows = Windows::new(height, width, window, shift).unwrap();
        let name = format!("windows of {window} shifted by {shift} on {height} x {width} x {channels}");
        let map = [images, height, width, channels];
        check_without_parameters(&name, &WindowPartition::new(windows), &map);
        let cut = [images * windows.count(), windows.tokens(), channels];
        check_without_parameters(&name, &WindowMerge::new(windows), &cut);
    }
}

#[test]
fn patch_merging() {
    for shape in [[1, 1, 1, 1], [2, 4, 6, 8], [3, 5, 7, 3], [1, 3, 4, 34], [2, 9, 2, 520]] {
        check_without_parameters(&format!("merging of {shape:?}"), &PatchMerging, &shape);
    }
}
