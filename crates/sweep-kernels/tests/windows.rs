//! Windows and the attention inside them against central differences, timm's values and their laws.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;

use candle_core::{DType, Tensor};
use common::{check_layer, parameters, tensor, values};
use proptest::prelude::*;
use sweep_kernels::{
    Chain, Error, Gradients, Layer, Linear, Mode, Parameters, SelfAttention, Tape, WindowMerge,
    WindowPartition, Windows,
};

fn evaluate(layer: &impl Layer, x: &Tensor) -> Tensor {
    layer.forward(&Parameters::new(), x.clone(), &mut Tape::off(), Mode::Evaluation).unwrap()
}

/// The partition put together from candle's operations: roll, pad, cut, reorder.
fn partition_by_definition(x: &Tensor, window: usize, shift: usize) -> Tensor {
    let (images, height, width, channels) = x.dims4().unwrap();
    let (rows, columns) = (height.div_ceil(window), width.div_ceil(window));
    let rolled = x.roll(-(shift as i32), 1).unwrap().roll(-(shift as i32), 2).unwrap();
    let padded = rolled.pad_with_zeros(1, 0, rows * window - height).unwrap();
    let padded = padded.pad_with_zeros(2, 0, columns * window - width).unwrap();
    let cut = padded.reshape(&[images, rows, window, columns, window, channels][..]).unwrap();
    let ordered = cut.permute([0, 1, 3, 2, 4, 5]).unwrap().contiguous().unwrap();
    ordered.reshape((images * rows * columns, window * window, channels)).unwrap()
}

/// A map, a window and a shift, sizes of all kinds: padded or not, windows larger than the map.
fn geometries() -> impl Strategy<Value = (usize, usize, usize, usize)> {
    (1_usize..9, 1_usize..9, 1_usize..5)
        .prop_flat_map(|(height, width, window)| (Just(height), Just(width), Just(window), 0..window))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn partition_and_merge((height, width, window, shift) in geometries(), images in 1_usize..3) {
        let windows = Windows::new(height, width, window, shift).unwrap();
        let x = tensor(1, &[images, height, width, 3]);
        let cut = evaluate(&WindowPartition::new(windows), &x);
        let expected = partition_by_definition(&x, window, shift);
        prop_assert_eq!(cut.dims(), [images * windows.count(), windows.tokens(), 3]);
        prop_assert_eq!(cut.dims(), expected.dims());
        prop_assert_eq!(values(&cut), values(&expected));
        let merged = evaluate(&WindowMerge::new(windows), &cut);
        prop_assert_eq!(merged.dims(), x.dims());
        prop_assert_eq!(values(&merged), values(&x));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn gradients_of_partition_and_merge((height, width, window, shift) in geometries(), images in 1_usize..3) {
        let windows = Windows::new(height, width, window, shift).unwrap();
        let x = tensor(2, &[images, height, width, 2]);
        check_layer(&WindowPartition::new(windows), &mut Parameters::new(), &x);
        let cut = tensor(3, &[images * windows.count(), windows.tokens(), 2]);
        check_layer(&WindowMerge::new(windows), &mut Parameters::new(), &cut);
    }

    #[test]
    fn attention(
        height in 1_usize..6, width in 1_usize..6,
        (window, shift) in (1_usize..4).prop_flat_map(|window| (Just(window), 0..window)),
        images in 1_usize..3, heads in 1_usize..3, depth in 1_usize..3,
    ) {
        let windows = Windows::new(height, width, window, shift).unwrap();
        let mut p = parameters(&[("table", &[(2 * window - 1).pow(2), heads])]);
        let layer = SelfAttention::new(heads).with_windows(p.id("table").unwrap(), windows);
        let x = tensor(4, &[images * windows.count(), windows.tokens(), 3 * heads * depth]);
        check_layer(&layer, &mut p, &x);
    }
}

/// Outputs and gradients of timm 1.0.31's `SwinTransformerBlock(4, (5, 7), num_heads=2, window_size=3)._attn`: every
/// eleventh element of the output, every eleventh of the input gradient, and the gradient of the bias table. The
/// parameters and the input are those of [`block`].
struct Expected {
    shift: usize,
    y: [f64; 26],
    dx: [f64; 26],
    dtable: [f64; 50],
}

const EXPECTED: [Expected; 2] = [
    Expected {
        shift: 0,
        y: [
            -0.617_776_080,
            -0.663_488_544,
            -0.893_188_989,
            0.088_561_977,
            -0.686_867_753,
            -0.913_870_272,
            -0.655_352_264,
            -0.215_350_609,
            -0.451_177_045,
            -1.003_408_955,
            -1.084_666_224,
            -0.531_451_002,
            -0.593_014_427,
            -0.783_537_851,
            -0.520_066_857,
            -0.123_836_599,
            -0.635_410_726,
            -0.814_056_139,
            -1.023_702_858,
            -0.470_069_596,
            -0.854_515_341,
            -0.901_076_629,
            -0.421_120_111,
            -0.312_191_206,
            -0.557_623_380,
            -0.642_474_097,
        ],
        dx: [
            0.168_311_845,
            -0.153_193_207,
            0.047_170_597,
            -0.309_076_489,
            -0.119_246_373,
            0.005_485_353,
            -0.152_828_825,
            -0.146_050_040,
            -0.044_014_824,
            -0.126_960_960,
            0.126_050_984,
            0.044_288_349,
            0.363_082_218,
            0.087_082_366,
            -0.095_542_730,
            0.055_577_687,
            -0.199_487_180,
            -0.110_846_077,
            0.099_641_615,
            -0.439_554_191,
            0.152_616_995,
            0.235_903_741,
            -0.143_445_614,
            -0.310_133_980,
            0.365_934_749,
            0.188_779_905,
        ],
        dtable: [
            0.057_420_776,
            0.188_448_925,
            -0.023_664_094,
            -0.167_429_186,
            0.080_545_623,
            0.112_089_071,
            -0.036_809_428,
            0.259_022_500,
            0.005_588_754,
            -0.056_255_860,
            0.010_363_381,
            -0.098_265_855,
            0.115_478_737,
            -0.138_342_278,
            0.021_475_178,
            0.278_540_387,
            0.048_701_049,
            -0.252_957_834,
            0.191_879_738,
            0.259_362_960,
            0.062_607_046,
            0.154_887_150,
            -0.246_482_916,
            -0.464_197_693,
            -0.352_564_680,
            0.171_692_740,
            -0.134_814_908,
            0.074_166_013,
            -0.113_171_708,
            0.008_392_304,
            0.056_931_214,
            0.389_322_141,
            0.063_273_310,
            -0.166_843_476,
            -0.282_765_342,
            -0.807_206_696,
            -0.033_665_522,
            0.193_673_151,
            -0.385_657_804,
            0.030_191_984,
            0.130_945_606,
            -0.028_787_424,
            0.592_725_937,
            -0.060_777_642,
            -0.037_694_579,
            0.084_532_146,
            0.109_585_002,
            -0.017_990_079,
            0.099_769_629,
            0.054_732_553,
        ],
    },
    Expected {
        shift: 1,
        y: [
            -0.123_916_539,
            -1.288_350_339,
            -1.095_993_384,
            -0.394_907_332,
            -0.822_987_507,
            -0.957_528_970,
            -0.751_051_217,
            -0.166_142_226,
            -0.684_564_561,
            -0.720_024_005,
            -0.499_654_644,
            -0.539_960_761,
            -0.569_653_747,
            -0.859_952_799,
            -0.264_243_237,
            -0.280_216_311,
            -0.844_851_529,
            -0.754_828_413,
            -1.364_143_777,
            -0.437_915_725,
            -0.837_426_074,
            -0.769_446_617,
            -0.418_337_347,
            -0.422_941_519,
            -0.280_739_772,
            -0.535_819_702,
        ],
        dx: [
            -0.156_840_597,
            -0.231_891_124,
            0.601_680_176,
            0.114_533_632,
            0.071_292_863,
            0.306_909_897,
            0.106_894_682,
            -0.247_731_176,
            1.141_895_172,
            0.222_164_528,
            0.798_160_090,
            0.090_650_094,
            -0.225_710_437,
            0.539_800_465,
            0.689_642_912,
            0.389_940_183,
            -0.589_274_221,
            0.065_602_238,
            -0.008_049_248,
            -0.524_064_145,
            0.151_039_934,
            -0.469_806_340,
            0.218_983_979,
            -0.349_283_281,
            -0.087_921_044,
            0.220_810_753,
        ],
        dtable: [
            0.022_017_989,
            0.118_635_892,
            -0.050_544_417,
            -0.275_580_265,
            0.049_241_877,
            0.088_344_908,
            -0.013_551_941,
            -0.273_490_089,
            0.000_142_675,
            0.108_574_975,
            0.077_738_391,
            0.058_672_353,
            -0.090_353_212,
            -0.018_616_701,
            0.240_049_746,
            -0.270_066_276,
            0.190_914_463,
            0.008_625_375,
            0.045_076_247,
            0.087_604_824,
            -0.475_127_020,
            0.103_661_021,
            -0.084_212_048,
            -0.341_121_854,
            -0.080_903_474,
            0.589_457_185,
            -0.007_865_002,
            0.480_285_399,
            0.422_257_869,
            0.037_642_123,
            -0.013_919_310,
            -0.032_086_658,
            0.064_639_735,
            0.004_258_845,
            -0.180_048_576,
            -0.049_072_002,
            0.025_845_400,
            -0.078_501_475,
            -0.146_918_833,
            -0.589_986_197,
            -0.268_308_920,
            -0.073_465_490,
            0.100_870_583,
            -0.072_832_799,
            0.115_099_720,
            0.115_020_511,
            -0.016_800_604,
            0.225_991_245,
            0.074_658_663,
            0.048_045_149,
        ],
    },
];

/// The stored values have nine decimals.
const STORED: f64 = 1e-9;

fn block(shift: usize) -> (Chain, Parameters) {
    let windows = Windows::new(5, 7, 3, shift).unwrap();
    let mut p = Parameters::new();
    let mut add = |name: &str, seed: u64, shape: &[usize]| p.add(name, tensor(seed, shape)).unwrap();
    let table = add("table", 1, &[25, 2]);
    let qkv = Linear::new(add("qkv.weight", 2, &[12, 4]), Some(add("qkv.bias", 3, &[12])));
    let proj = Linear::new(add("proj.weight", 4, &[4, 4]), Some(add("proj.bias", 5, &[4])));
    let layer = Chain::new()
        .then(WindowPartition::new(windows))
        .then(qkv)
        .then(SelfAttention::new(2).with_windows(table, windows))
        .then(proj)
        .then(WindowMerge::new(windows));
    (layer, p)
}

#[test]
fn window_attention_follows_timm() {
    for Expected { shift, y, dx, dtable } in &EXPECTED {
        let (layer, p) = block(*shift);
        let (mut tape, mut gradients) = (Tape::recording(), Gradients::wanted(&p));
        let got_y = layer.forward(&p, tensor(6, &[2, 5, 7, 4]), &mut tape, Mode::Evaluation).unwrap();
        let got_dx = layer.backward(&p, tensor(7, &[2, 5, 7, 4]), &mut tape, &mut gradients).unwrap();
        tape.finish().unwrap();
        let got_dtable = gradients.get(p.id("table").unwrap()).unwrap();
        let compare = |what: &str, got: &[f64], expected: &[f64]| {
            assert_eq!(got.len(), expected.len());
            for (index, (got, expected)) in got.iter().zip(expected).enumerate() {
                assert!(
                    (got - expected).abs() < STORED,
                    "{what} {index} with shift {shift}: {got} is not {expected}"
                );
            }
        };
        let sampled = |tensor: &Tensor| values(tensor).into_iter().step_by(11).collect::<Vec<_>>();
        compare("y", &sampled(&got_y), y);
        compare("dx", &sampled(&got_dx), dx);
        compare("dtable", &values(got_dtable), dtable);
    }
}

/// Attention put together from candle's operations.
fn attention_by_definition(qkv: &Tensor, heads: usize, table: &Tensor, window: usize) -> Tensor {
    let (images, tokens, width) = qkv.dims3().unwrap();
    let depth = width / 3 / heads;
    let parts = qkv.reshape((images, tokens, 3, heads, depth)).unwrap().permute((2, 0, 3, 1, 4)).unwrap();
    let part = |index: usize| parts.get(index).unwrap().contiguous().unwrap();
    let scale = 1.0 / (depth as f64).sqrt();
    let scores = (part(0).matmul(&part(1).t().unwrap().contiguous().unwrap()).unwrap() * scale).unwrap();
    let offset = |a: usize, b: usize| a + window - 1 - b;
    let row = |query: usize, key: usize| {
        let (down, right) = (offset(query / window, key / window), offset(query % window, key % window));
        (down * (2 * window - 1) + right) as u32
    };
    let rows: Vec<u32> = (0..tokens * tokens).map(|pair| row(pair / tokens, pair % tokens)).collect();
    let rows = Tensor::new(rows, table.device()).unwrap();
    let bias = table.index_select(&rows, 0).unwrap().reshape((tokens, tokens, heads)).unwrap();
    let exponentials = scores.broadcast_add(&bias.permute((2, 0, 1)).unwrap()).unwrap().exp().unwrap();
    let weights = exponentials.broadcast_div(&exponentials.sum_keepdim(3).unwrap()).unwrap();
    let y = weights.matmul(&part(2)).unwrap().transpose(1, 2).unwrap();
    y.reshape((images, tokens, heads * depth)).unwrap()
}

#[test]
fn attention_follows_its_definition_for_rows_of_every_length() {
    /// Rounding of sums of some dozens of products of numbers below 1, in f64.
    const DOUBLE: f64 = 1e-13;
    // 1 to 64 tokens: less than a vector register, whole ones, and whole ones with a rest.
    for window in 1..=8 {
        let windows = Windows::new(2 * window, window, window, 0).unwrap();
        let p = parameters(&[("table", &[(2 * window - 1).pow(2), 2])]);
        let table = p.id("table").unwrap();
        let layer = SelfAttention::new(2).with_windows(table, windows);
        let x = tensor(5, &[4, window * window, 18]);
        let y = layer.forward(&p, x.clone(), &mut Tape::off(), Mode::Evaluation).unwrap();
        let expected = attention_by_definition(&x, 2, p.get(table), window);
        for (got, expected) in values(&y).iter().zip(values(&expected)) {
            assert!((got - expected).abs() < DOUBLE, "window {window}: {got} is not {expected}");
        }
    }
}

#[test]
fn gradients_of_attention_for_rows_longer_than_a_register() {
    for window in [4, 5] {
        let windows = Windows::new(window, window + 1, window, 1).unwrap();
        let mut p = parameters(&[("table", &[(2 * window - 1).pow(2), 1])]);
        let layer = SelfAttention::new(1).with_windows(p.id("table").unwrap(), windows);
        check_layer(&layer, &mut p, &tensor(6, &[2, window * window, 3]));
    }
}

#[test]
fn the_bias_table_gets_a_gradient_only_where_it_is_wanted() {
    let (layer, p) = block(1);
    let x = tensor(6, &[2, 5, 7, 4]);
    let run = |mut gradients: Gradients| {
        let mut tape = Tape::recording();
        let y = layer.forward(&p, x.clone(), &mut tape, Mode::Evaluation).unwrap();
        layer.backward(&p, y, &mut tape, &mut gradients).unwrap();
        gradients.iter().count()
    };
    assert_eq!(run(Gradients::wanted(&p)), 5);
    assert_eq!(run(Gradients::wanted_where(&p, |name| name != "table")), 4);
    assert_eq!(run(Gradients::none()), 0);
}

#[test]
fn results_are_the_same_for_any_number_of_threads() {
    // With 9 heads the 16 tokens of a window need more than one group of heads and of images.
    let (heads, depth) = (9, 8);
    let windows = Windows::new(30, 26, 4, 2).unwrap();
    let mut p = Parameters::new();
    let table = p.add("table", tensor(1, &[49, heads]).to_dtype(DType::F32).unwrap()).unwrap();
    let layer = SelfAttention::new(heads).with_windows(table, windows);
    let x = tensor(2, &[3 * windows.count(), 16, 3 * heads * depth]).to_dtype(DType::F32).unwrap();
    let run = |threads: usize| {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| {
            let (mut tape, mut gradients) = (Tape::recording(), Gradients::wanted(&p));
            let y = layer.forward(&p, x.clone(), &mut tape, Mode::Evaluation).unwrap();
            let dx = layer.backward(&p, y.clone(), &mut tape, &mut gradients).unwrap();
            (values(&y), values(&dx), values(gradients.get(table).unwrap()))
        })
    };
    let one = run(1);
    for threads in [2, 3, 7] {
        assert!(run(threads) == one, "{threads} threads give other bits than one");
    }
}

#[test]
fn single_precision_follows_double_precision() {
    /// Some hundred roundings of 6e-8, on values near 1.
    const SINGLE: f64 = 1e-5;
    let windows = Windows::new(14, 14, 7, 3).unwrap();
    let run = |dtype: DType| {
        let mut p = Parameters::new();
        let table = p.add("table", tensor(1, &[169, 2]).to_dtype(dtype).unwrap()).unwrap();
        let layer = SelfAttention::new(2).with_windows(table, windows);
        let x = tensor(2, &[4, 49, 192]).to_dtype(dtype).unwrap();
        let (mut tape, mut gradients) = (Tape::recording(), Gradients::wanted(&p));
        let y = layer.forward(&p, x, &mut tape, Mode::Evaluation).unwrap();
        let dx = layer.backward(&p, y.clone(), &mut tape, &mut gradients).unwrap();
        [values(&y), values(&dx), values(gradients.get(table).unwrap())].concat()
    };
    for (single, double) in run(DType::F32).iter().zip(run(DType::F64)) {
        assert!((single - double).abs() < SINGLE * double.abs().max(1.0), "{single} is not {double}");
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    for (height, width, window, shift) in [(0, 4, 2, 0), (4, 0, 2, 0), (4, 4, 0, 0), (4, 4, 2, 2)] {
        let result = Windows::new(height, width, window, shift);
        assert!(matches!(result, Err(Error::Setting { .. })), "{height} {width} {window} {shift}");
    }
    let windows = Windows::new(4, 4, 2, 1).unwrap();
    let p = parameters(&[("table", &[9, 2]), ("other", &[9, 3])]);
    let run = |layer: &dyn Layer, shape: &[usize]| {
        layer.forward(&p, tensor(0, shape), &mut Tape::off(), Mode::Evaluation)
    };
    let refused = |result| matches!(result, Err(Error::Shape { .. }));
    assert!(refused(run(&WindowPartition::new(windows), &[1, 4, 5, 2])));
    assert!(refused(run(&WindowMerge::new(windows), &[6, 4, 2])));
    assert!(refused(run(&WindowMerge::new(windows), &[4, 5, 2])));
    let attention = SelfAttention::new(2).with_windows(p.id("table").unwrap(), windows);
    assert!(run(&attention, &[4, 4, 6]).is_ok());
    assert!(refused(run(&attention, &[6, 4, 6])));
    assert!(refused(run(&attention, &[4, 9, 6])));
    let wrong_table = SelfAttention::new(2).with_windows(p.id("other").unwrap(), windows);
    assert!(refused(run(&wrong_table, &[4, 4, 6])));
}
