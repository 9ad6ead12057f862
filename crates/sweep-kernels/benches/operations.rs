//! Times every operation at a size that it has in one of the six backbones (batch 4, 224 × 224 pixels).
//!
//! `cargo bench -p sweep-kernels --bench operations [-- [--threads N] [--batch N] [--processor] [FILTER…]]` prints, for each
//! operation, the typical wall time in milliseconds of a forward pass, of a forward and backward pass with frozen weights
//! (what an attack does) and of one with all gradients (what training does). With `--processor` it is processor time by
//! the number of threads, which is steadier on a busy machine.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark prints, and stops at the first surprise"
)]

use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use sweep_kernels::{
    Activation, AdamW, AdamWSettings, BatchNorm, Chain, Convolution, DepthwiseConvolution, Gradients, Layer,
    LayerNorm, LayerScale, Linear, MaxPool, Mode, Noise, Optimizer, ParameterGroup, ParameterId, Parameters,
    PatchEmbedding, SelfAttention, Sgd, SgdSettings, StatisticsIds, Tape, WindowMerge, WindowPartition,
    Windows,
};

/// The allocator of the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Repetitions go on for about this long, and at least [`FEWEST`] times.
const SECONDS: f64 = 0.4;
const FEWEST: usize = 5;

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let (mut threads, mut batch, mut filters) = (2, 4, Vec::new());
    let mut clock: Clock = |begin, _| begin.elapsed().as_secs_f64();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--threads" => threads = arguments.next().unwrap().parse().unwrap(),
            "--batch" => batch = arguments.next().unwrap().parse().unwrap(),
            "--processor" => clock = |_, threads| processor_seconds() / threads as f64,
            _ => filters.push(argument),
        }
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    println!(
        "{:42} {:>10} {:>10} {:>10}   ms, {threads} threads",
        "operation", "forward", "frozen", "training"
    );
    let begin = Instant::now();
    let now = move || clock(begin, threads);
    pool.install(|| {
        for (name, make) in operations() {
            if filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str())) {
                let mut case = Case::default();
                let layer = make(&mut case, batch);
                case.measure(name, layer.as_ref(), &now);
            }
        }
        if filters.is_empty() || filters.iter().any(|filter| "optimizer".contains(filter.as_str())) {
            optimizers(&now);
        }
    });
}

/// One step over 20 million parameters.
fn optimizers(now: &dyn Fn() -> f64) {
    let mut parameters = Parameters::new();
    let id = parameters.add("weight", random(&[20, 1_000_000])).unwrap();
    let mut gradients = Gradients::wanted(&parameters);
    gradients.add(id, random(&[20, 1_000_000])).unwrap();
    let group = || vec![ParameterGroup { parameters: vec![id], learning_rate: 1e-4, weight_decay: 0.01 }];
    let mut adamw = AdamW::new(AdamWSettings::default(), group()).unwrap();
    let mut sgd = Sgd::new(SgdSettings { momentum: 0.9, ..SgdSettings::default() }, group()).unwrap();
    let adamw_time = middle_mean(now, || adamw.step(&mut parameters, &gradients, 1.0).unwrap());
    let sgd_time = middle_mean(now, || sgd.step(&mut parameters, &gradients, 1.0).unwrap());
    for (name, time) in
        [("optimizer: AdamW, 20 M", adamw_time), ("optimizer: SGD with momentum, 20 M", sgd_time)]
    {
        println!("{name:42} {time:>10.3}");
    }
}

/// Seconds since a beginning, for a number of threads.
type Clock = fn(Instant, usize) -> f64;

/// Processor time of all threads of this process so far.
fn processor_seconds() -> f64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID)
        .map(|time| time.tv_sec() as f64 + time.tv_nsec() as f64 * 1e-9)
        .unwrap()
}

/// Parameters and input of one operation.
#[derive(Default)]
struct Case {
    parameters: Parameters,
    shape: Vec<usize>,
}

type Make = fn(&mut Case, usize) -> Box<dyn Layer>;

fn operations() -> Vec<(&'static str, Make)> {
    vec![
        ("linear 768 to 3072, gelu, 197 tokens", |case, batch| {
            case.shape = vec![batch, 197, 768];
            let (weight, bias) = (case.add(&[3072, 768]), case.add(&[3072]));
            Box::new(Linear::new(weight, Some(bias)).with_activation(Activation::Gelu))
        }),
        ("linear 3072 to 768, 197 tokens", |case, batch| {
            case.shape = vec![batch, 197, 3072];
            let (weight, bias) = (case.add(&[768, 3072]), case.add(&[768]));
            Box::new(Linear::new(weight, Some(bias)))
        }),
        ("linear 128 to 512, gelu, 56 x 56", |case, batch| {
            case.shape = vec![batch, 56, 56, 128];
            let (weight, bias) = (case.add(&[512, 128]), case.add(&[512]));
            Box::new(Linear::new(weight, Some(bias)).with_activation(Activation::Gelu))
        }),
        ("linear 512 to 128, 56 x 56", |case, batch| {
            case.shape = vec![batch, 56, 56, 512];
            let (weight, bias) = (case.add(&[128, 512]), case.add(&[128]));
            Box::new(Linear::new(weight, Some(bias)))
        }),
        ("gelu 197 x 3072", |case, batch| {
            case.shape = vec![batch, 197, 3072];
            Box::new(Activation::Gelu)
        }),
        ("layer norm 197 x 768", |case, batch| {
            case.shape = vec![batch, 197, 768];
            Box::new(LayerNorm::new(case.add(&[768]), case.add(&[768]), 1e-6))
        }),
        ("layer norm 56 x 56 x 128", |case, batch| {
            case.shape = vec![batch, 56, 56, 128];
            Box::new(LayerNorm::new(case.add(&[128]), case.add(&[128]), 1e-6))
        }),
        ("attention 12 heads, 197 tokens", |case, batch| {
            case.shape = vec![batch, 197, 3 * 768];
            Box::new(SelfAttention::new(12))
        }),
        ("patch embedding 16", |case, batch| {
            case.shape = vec![batch, 3, 224, 224];
            let (weight, bias) = (case.add(&[768, 3, 16, 16]), case.add(&[768]));
            Box::new(PatchEmbedding::new(weight, Some(bias), 16))
        }),
        ("conv 7x7/2 3 to 64, 224", |case, batch| case.convolution([64, 3, 7], 224, batch, 2)),
        ("conv 3x3 64 to 64, 56", |case, batch| case.convolution([64, 64, 3], 56, batch, 1)),
        ("conv 3x3 128 to 128, 28", |case, batch| case.convolution([128, 128, 3], 28, batch, 1)),
        ("conv 3x3/2 128 to 128, 56", |case, batch| case.convolution([128, 128, 3], 56, batch, 2)),
        ("conv 3x3 256 to 256, 14", |case, batch| case.convolution([256, 256, 3], 14, batch, 1)),
        ("conv 3x3 512 to 512, 7", |case, batch| case.convolution([512, 512, 3], 7, batch, 1)),
        ("conv 1x1 64 to 256, 56", |case, batch| case.convolution([256, 64, 1], 56, batch, 1)),
        ("conv 1x1 256 to 64, 56", |case, batch| case.convolution([64, 256, 1], 56, batch, 1)),
        ("conv 1x1 1024 to 256, 14", |case, batch| case.convolution([256, 1024, 1], 14, batch, 1)),
        ("conv 1x1 512 to 2048, 7", |case, batch| case.convolution([2048, 512, 1], 7, batch, 1)),
        ("conv 1x1/2 256 to 512, 56", |case, batch| case.convolution([512, 256, 1], 56, batch, 2)),
        ("conv 2x2/2 128 to 256, 56", |case, batch| {
            case.shape = vec![batch, 56, 56, 128];
            let (weight, bias) = (case.add(&[256, 128, 2, 2]), case.add(&[256]));
            Box::new(Convolution::new(weight, Some(bias)).with_stride(2))
        }),
        ("depthwise 7x7 128, 56", |case, batch| case.depthwise(128, 56, batch)),
        ("depthwise 7x7 512, 14", |case, batch| case.depthwise(512, 14, batch)),
        ("max pool 3x3/2 64, 112", |case, batch| {
            case.shape = vec![batch, 112, 112, 64];
            Box::new(MaxPool::new(3, 2, 1))
        }),
        ("window attention 4 heads, 56, shifted", |case, batch| case.windows(4, 56, 3, batch)),
        ("window attention 16 heads, 14", |case, batch| case.windows(16, 14, 0, batch)),
        ("windows there and back 128, 56", |case, batch| {
            case.shape = vec![batch, 56, 56, 128];
            let windows = Windows::new(56, 56, 7, 3).unwrap();
            Box::new(Chain::new().then(WindowPartition::new(windows)).then(WindowMerge::new(windows)))
        }),
        ("layer scale 56 x 56 x 128", |case, batch| {
            case.shape = vec![batch, 56, 56, 128];
            Box::new(LayerScale::new(case.add(&[128])))
        }),
        ("batch norm, relu 64, 112", |case, batch| case.batch_norm(64, 112, batch)),
        ("batch norm, relu 256, 56", |case, batch| case.batch_norm(256, 56, batch)),
        ("batch norm, relu 2048, 7", |case, batch| case.batch_norm(2048, 7, batch)),
    ]
}

impl Case {
    fn add(&mut self, shape: &[usize]) -> ParameterId {
        let name = self.parameters.len().to_string();
        self.parameters.add(name, random(shape)).unwrap()
    }

    fn convolution(
        &mut self,
        [outputs, channels, kernel]: [usize; 3],
        side: usize,
        batch: usize,
        stride: usize,
    ) -> Box<dyn Layer> {
        self.shape = vec![batch, side, side, channels];
        let weight = self.add(&[outputs, channels, kernel, kernel]);
        Box::new(Convolution::new(weight, None).with_stride(stride).with_padding(kernel / 2))
    }

    fn depthwise(&mut self, channels: usize, side: usize, batch: usize) -> Box<dyn Layer> {
        self.shape = vec![batch, side, side, channels];
        let (weight, bias) = (self.add(&[channels, 1, 7, 7]), self.add(&[channels]));
        Box::new(DepthwiseConvolution::new(weight, Some(bias)))
    }

    /// Attention in windows of 7 × 7, with queries, keys and values of 32 numbers a head.
    fn windows(&mut self, heads: usize, side: usize, shift: usize, batch: usize) -> Box<dyn Layer> {
        let windows = Windows::new(side, side, 7, shift).unwrap();
        self.shape = vec![batch * windows.count(), windows.tokens(), 3 * heads * 32];
        Box::new(SelfAttention::new(heads).with_windows(self.add(&[169, heads]), windows))
    }

    fn batch_norm(&mut self, channels: usize, side: usize, batch: usize) -> Box<dyn Layer> {
        self.shape = vec![batch, side, side, channels];
        let (weight, bias) = (self.add(&[channels]), self.add(&[channels]));
        let mut buffer = |name: &str, tensor| self.parameters.add_buffer(name, tensor).unwrap();
        let ones = Tensor::ones(channels, DType::F32, &Device::Cpu).unwrap();
        let statistics = StatisticsIds {
            mean: buffer("mean", ones.zeros_like().unwrap()),
            variance: buffer("variance", ones),
            updates: buffer("updates", Tensor::new(0_i64, &Device::Cpu).unwrap()),
        };
        Box::new(BatchNorm::new(weight, bias, statistics, 1e-5, 0.1).with_relu())
    }

    fn measure(&self, name: &str, layer: &dyn Layer, now: &dyn Fn() -> f64) {
        let x = random(&self.shape);
        let train = Mode::Train(Noise::new(0, 0));
        let forward = |tape: &mut Tape, mode| layer.forward(&self.parameters, x.clone(), tape, mode).unwrap();
        let dy = random(forward(&mut Tape::off(), train).dims());
        let both = |mode, mut gradients: Gradients| {
            let mut tape = Tape::recording();
            forward(&mut tape, mode);
            layer.backward(&self.parameters, dy.clone(), &mut tape, &mut gradients).unwrap();
        };
        let times = [
            middle_mean(now, || drop(forward(&mut Tape::off(), Mode::Evaluation))),
            middle_mean(now, || both(Mode::Evaluation, Gradients::none())),
            middle_mean(now, || both(train, Gradients::wanted(&self.parameters))),
        ];
        println!("{name:42} {:>10.3} {:>10.3} {:>10.3}", times[0], times[1], times[2]);
    }
}

/// Numbers in (-0.5, 0.5) that look random.
fn random(shape: &[usize]) -> Tensor {
    let mut state = 1_u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    let values: Vec<f32> = std::iter::repeat_with(next).take(shape.iter().product()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// Mean of the middle half of the times in milliseconds, after one run that does not count.
fn middle_mean(now: &dyn Fn() -> f64, mut work: impl FnMut()) -> f64 {
    work();
    let begin = Instant::now();
    let mut times = Vec::new();
    while times.len() < FEWEST || begin.elapsed().as_secs_f64() < SECONDS {
        let start = now();
        work();
        times.push((now() - start) * 1e3);
    }
    times.sort_by(f64::total_cmp);
    let middle = &times[times.len() / 4..times.len() - times.len() / 4];
    middle.iter().sum::<f64>() / middle.len() as f64
}
