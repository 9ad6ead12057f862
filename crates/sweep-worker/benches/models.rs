//! Times the six backbones of the paper and six small ones: a clean training step, an adversarial step (APGD-7, then
//! AdamW) and an evaluation with APGD-10, with random weights, beside the same work in PyTorch if that is at hand.
//!
//! ```text
//! cargo bench -p sweep-worker --bench models [-- OPTION…] [MODEL…]
//!   --modes train,adv_train,eval   what to time (also: forward)
//!   --threads N, --batch N, --rounds N, --iterations N
//!   --device cpu|cuda              where to compute (cuda: with the feature `cuda`); 0 threads leave the pool as it is
//!   --precision f32|tf32|bf16      what to compute in; the latter two on cuda
//!   --pytorch COMMAND              a command that takes `--model --mode --batch --threads --iters` and prints a JSON line
//!                                  with `sec_per_step_median`, `cpu_sec_per_step` and `max_rss_mib`; on cuda it gets
//!                                  `--device cuda`, `--bf16` or `--tf32` too
//!   --compile                      a second turn of PyTorch with `--compile`, which takes minutes a row
//! ```
//!
//! `routes` alone in place of models tells whether cuDNN or cuBLAS does ResNet-50's 3×3 convolutions on cuda.
//!
//! Every measurement is a process of its own, so that its peak memory means something, and the two programs take turns.
//! The ratio is PyTorch's median time by ours: above 1 we are faster. On a GPU the table begins with its measured ceilings,
//! and each row tells images per second and the share of the matrix ceiling that the model's own products amount to.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark prints, and stops at the first surprise"
)]

use std::num::NonZeroUsize;
use std::process::Command;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use nix::sys::resource::{UsageWho, getrusage};
use serde_json::{Value, json};
use sweep_attacks::{Attack, Crafting, Loss, Norm};
use sweep_kernels::{
    AdamW, AdamWSettings, Classifier, Compute, Convolution, Gradients, Layer, Linear, Mode, Noise, Optimizer,
    ParameterGroup, Parameters, Tape, add, cross_entropy, scale,
};
use sweep_models::{Architecture, ConvnextConfig, Model, ResnetConfig, SwinConfig, VitConfig};

/// The allocator of the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Radius of the attacks.
const EPSILON: f64 = 4.0 / 255.0;

const MODELS: [&str; 12] = [
    "vit_base",
    "clip_vit",
    "swin_base",
    "convnext_base",
    "clip_convnext",
    "resnet50",
    "tiny_vit",
    "tiny_clip_vit",
    "tiny_swin",
    "tiny_convnext",
    "tiny_clip_convnext",
    "tiny_resnet50",
];

/// The base sizes have 100 classes; the small sizes are those of the reference networks in the test data.
fn architecture(name: &str) -> Architecture {
    match name {
        "vit_base" => Architecture::Vit(VitConfig::base()).with_classes(100),
        "clip_vit" => Architecture::Vit(VitConfig::clip_base()).with_classes(100),
        "swin_base" => Architecture::Swin(SwinConfig::base()).with_classes(100),
        "convnext_base" | "clip_convnext" => Architecture::Convnext(ConvnextConfig::base()).with_classes(100),
        "resnet50" => Architecture::Resnet(ResnetConfig::base()).with_classes(100),
        "tiny_vit" => Architecture::Vit(tiny_vit(&VitConfig::base())).with_classes(10),
        "tiny_clip_vit" => Architecture::Vit(tiny_vit(&VitConfig::clip_base())).with_classes(10),
        "tiny_swin" => Architecture::Swin(SwinConfig {
            image_size: 64,
            window_size: 4,
            embed_dim: 16,
            depths: vec![2, 2, 2],
            num_heads: vec![2, 4, 8],
            ..SwinConfig::base()
        })
        .with_classes(10),
        "tiny_convnext" => tiny_convnext([2, 2, 3, 2], [16, 24, 40, 64]),
        "tiny_clip_convnext" => tiny_convnext([1, 2, 2, 1], [12, 24, 36, 48]),
        "tiny_resnet50" => Architecture::Resnet(ResnetConfig {
            image_size: 48,
            layers: vec![2, 2, 2, 2],
            channels: vec![8, 12, 16, 24],
            ..ResnetConfig::base()
        })
        .with_classes(10),
        _ => panic!("model {name} is unknown; known are {}", MODELS.join(", ")),
    }
}

fn tiny_vit(base: &VitConfig) -> VitConfig {
    VitConfig { image_size: 32, patch_size: 8, embed_dim: 48, depth: 3, num_heads: 3, ..base.clone() }
}

fn tiny_convnext(depths: [usize; 4], dims: [usize; 4]) -> Architecture {
    let (depths, dims) = (depths.to_vec(), dims.to_vec());
    Architecture::Convnext(ConvnextConfig { image_size: 32, depths, dims, ..ConvnextConfig::base() })
        .with_classes(10)
}

/// What the command line asks for.
#[derive(Clone)]
struct Options {
    models: Vec<String>,
    modes: Vec<String>,
    threads: usize,
    batch: usize,
    rounds: usize,
    /// Steps of one measurement; by default few for large models and many for small ones.
    iterations: Option<usize>,
    pytorch: Option<String>,
    /// Measure PyTorch compiled, too.
    compile: bool,
    is_cuda: bool,
    precision: String,
    /// Measure the one model in the one mode, in this process.
    here: bool,
}

impl Options {
    fn read() -> Self {
        let mut options = Self {
            models: Vec::new(),
            modes: ["train", "adv_train", "eval"].map(str::to_owned).to_vec(),
            threads: 2,
            batch: 4,
            rounds: 2,
            iterations: None,
            pytorch: None,
            compile: false,
            is_cuda: false,
            precision: "f32".to_owned(),
            here: false,
        };
        let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().unwrap();
            match argument.as_str() {
                "--modes" => options.modes = value().split(',').map(str::to_owned).collect(),
                "--threads" => options.threads = value().parse().unwrap(),
                "--batch" => options.batch = value().parse().unwrap(),
                "--rounds" => options.rounds = value().parse().unwrap(),
                "--iterations" => options.iterations = Some(value().parse().unwrap()),
                "--pytorch" => options.pytorch = Some(value()),
                "--compile" => options.compile = true,
                "--device" => {
                    options.is_cuda = match value().as_str() {
                        "cpu" => false,
                        "cuda" => true,
                        device => panic!("device {device} is unknown; known are cpu, cuda"),
                    }
                }
                "--precision" => options.precision = value(),
                "--here" => options.here = true,
                _ => options.models.push(argument),
            }
        }
        if options.models.is_empty() {
            options.models = MODELS.map(str::to_owned).to_vec();
        }
        options
    }

    fn iterations(&self, model: &str) -> usize {
        self.iterations.unwrap_or(if model.starts_with("tiny") { 30 } else { 3 })
    }
}

fn main() {
    let options = Options::read();
    if options.here {
        println!("{}", measure(&options));
        return;
    }
    if options.models == ["routes"] {
        print_routes(options.batch);
        return;
    }
    let ceiling = options.is_cuda.then(|| ceilings(&options));
    println!(
        "{:20} {:10} {:>12} {:>12} {:>8} {:>10} {:>7}   PyTorch ms (ratio)",
        "model", "mode", "ms a step", "cpu ms", "MiB", "images/s", "share"
    );
    for model in &options.models {
        for mode in &options.modes {
            compare(&options, model, mode, ceiling);
        }
    }
}

/// Measures and prints what the GPU can do at best: products of matrices in the precision asked for, and moving memory.
/// Returns the former in operations per second.
fn ceilings(options: &Options) -> f64 {
    let found = spawn_ours(options, "ceilings", "forward");
    let (matrix, memory) = (found["operations_per_second"].as_f64(), found["bytes_per_second"].as_f64());
    let (matrix, memory) = (matrix.unwrap(), memory.unwrap());
    println!(
        "measured ceilings: {:.1} TFLOP/s in {}, {:.2} TB/s",
        matrix * 1e-12,
        options.precision,
        memory * 1e-12
    );
    matrix
}

/// One row of the table: both programs in turn, and the medians over the rounds.
fn compare(options: &Options, model: &str, mode: &str, ceiling: Option<f64>) {
    let variants: &[&[&str]] = match (&options.pytorch, options.compile) {
        (None, _) => &[],
        (Some(_), false) => &[&[]],
        (Some(_), true) => &[&[], &["--compile"]],
    };
    let mut ours = Vec::new();
    let mut theirs = vec![Vec::new(); variants.len()];
    for _ in 0..options.rounds {
        ours.push(spawn_ours(options, model, mode));
        for (results, variant) in theirs.iter_mut().zip(variants) {
            results.push(spawn_pytorch(options, variant, model, mode));
        }
    }
    let column = |results: &[Value], key: &str| {
        middle(results.iter().map(|result| result[key].as_f64().unwrap()).collect())
    };
    let seconds = column(&ours, "sec_per_step_median");
    let (processor, memory) = (column(&ours, "cpu_sec_per_step") * 1e3, column(&ours, "max_rss_mib"));
    let images = options.batch as f64 / seconds;
    let share = ceiling.and_then(|ceiling| Some(images * operations(model, mode)? / ceiling));
    let share = share.map_or_else(String::new, |share| format!("{:.1} %", share * 100.0));
    print!(
        "{model:20} {mode:10} {:>12.2} {processor:>12.2} {memory:>8.0} {images:>10.1} {share:>7} ",
        seconds * 1e3
    );
    for (results, variant) in theirs.iter().zip(variants) {
        let their_seconds = column(results, "sec_per_step_median");
        print!("  {} {:.2} ({:.2})", variant.concat(), their_seconds * 1e3, their_seconds / seconds);
    }
    println!();
}

/// Operations for one image that a step consists of, twice the multiply-adds of the products and convolutions of a
/// forward pass at 224 pixels, counted from the architectures; a backward pass to inputs costs as much again, one to weights
/// too. `None` for other models.
fn operations(model: &str, mode: &str) -> Option<f64> {
    let multiply_adds = match model {
        "vit_base" | "clip_vit" => 17.57e9,
        "swin_base" => 15.47e9,
        "convnext_base" | "clip_convnext" => 15.36e9,
        "resnet50" => 4.09e9,
        _ => return None,
    };
    let passes = match mode {
        "forward" => 1.0,
        "train" => 3.0,
        "adv_train" => 7.0 * 2.0 + 1.0 + 3.0,
        "eval" => 1.0 + 10.0 * 2.0 + 1.0 + 1.0,
        _ => return None,
    };
    Some(2.0 * multiply_adds * passes)
}

fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.iter().skip((values.len() - 1) / 2).take(2 - values.len() % 2).sum::<f64>()
        / (2 - values.len() % 2) as f64
}

fn spawn_ours(options: &Options, model: &str, mode: &str) -> Value {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--here", model, "--modes", mode, "--precision", &options.precision]);
    command.args(["--device", if options.is_cuda { "cuda" } else { "cpu" }]);
    for (name, value) in [
        ("--threads", options.threads),
        ("--batch", options.batch),
        ("--iterations", options.iterations(model)),
    ] {
        command.args([name, &value.to_string()]);
    }
    // As the scheduler starts its workers.
    command.env("MIMALLOC_PURGE_DELAY", "-1");
    last_line(&mut command)
}

fn spawn_pytorch(options: &Options, variant: &[&str], model: &str, mode: &str) -> Value {
    let mut words = options.pytorch.as_ref().unwrap().split_whitespace();
    let mut command = Command::new(words.next().unwrap());
    command.args(words).args(variant).args(["--model", model, "--mode", mode]);
    if options.is_cuda {
        command.args(["--device", "cuda"]);
    }
    if options.precision != "f32" {
        command.arg(format!("--{}", options.precision));
    }
    for (name, value) in
        [("--threads", options.threads), ("--batch", options.batch), ("--iters", options.iterations(model))]
    {
        command.args([name, &value.to_string()]);
    }
    last_line(&mut command)
}

fn last_line(command: &mut Command) -> Value {
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().last();
    line.and_then(|line| serde_json::from_str(line).ok())
        .unwrap_or_else(|| panic!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr)))
}

fn measure(options: &Options) -> Value {
    // The calling thread is one of the pool, as in a worker.
    rayon::ThreadPoolBuilder::new().num_threads(options.threads).use_current_thread().build_global().unwrap();
    let device = if options.is_cuda { Device::new_cuda(0).unwrap() } else { Device::Cpu };
    let compute = compute(&options.precision);
    let iterations = options.iterations(&options.models[0]);
    if options.models[0] == "ceilings" {
        return measure_ceilings(&device, compute, iterations);
    }
    let mut bench = Bench::new(architecture(&options.models[0]), options.batch, &device, compute);
    let step: fn(&mut Bench) = match options.modes[0].as_str() {
        "forward" => |bench| drop(bench.model.logits(&bench.images).unwrap()),
        "train" => |bench| bench.train(&bench.images.clone()),
        "adv_train" => |bench| {
            let crafting = bench.craft(7);
            bench.train(&crafting.images);
            crafting.report.check().unwrap();
        },
        "eval" => |bench| {
            bench.model.logits(&bench.images).unwrap();
            let perturbed = bench.craft(10).finish().unwrap();
            bench.model.logits(&perturbed.images).unwrap();
        },
        mode => panic!("mode {mode} is unknown; known are forward, train, adv_train, eval"),
    };
    step(&mut bench);
    device.synchronize().unwrap();
    let before = processor_seconds();
    let times = (0..iterations).map(|_| {
        let start = Instant::now();
        step(&mut bench);
        device.synchronize().unwrap();
        start.elapsed().as_secs_f64()
    });
    let median = middle(times.collect());
    json!({
        "sec_per_step_median": median,
        "cpu_sec_per_step": (processor_seconds() - before) / iterations as f64,
        "max_rss_mib": getrusage(UsageWho::RUSAGE_SELF).unwrap().max_rss() / 1024,
    })
}

fn compute(precision: &str) -> Compute {
    match precision {
        "f32" => Compute::Full,
        "tf32" => Compute::Tf32,
        "bf16" => Compute::Bf16,
        precision => panic!("precision {precision} is unknown; known are f32, tf32, bf16"),
    }
}

/// Prints who does the 3×3 convolutions of ResNet-50 at 224 pixels, in each precision.
fn print_routes(batch: usize) {
    /// Channels, side of the input and stride.
    const SHAPES: [(usize, usize, usize); 7] =
        [(64, 56, 1), (128, 56, 2), (128, 28, 1), (256, 28, 2), (256, 14, 1), (512, 14, 2), (512, 7, 1)];
    let device = Device::new_cuda(0).unwrap();
    for precision in ["f32", "tf32", "bf16"] {
        let routes = SHAPES.map(|(channels, side, stride)| {
            let mut parameters = Parameters::new();
            let filter = Tensor::zeros((channels, channels, 3, 3), DType::F32, &Device::Cpu).unwrap();
            let weight = parameters.add("weight", filter).unwrap();
            let parameters = parameters.to_device(&device, compute(precision)).unwrap();
            let layer = Convolution::new(weight, None).with_stride(stride).with_padding(1);
            let found = layer.is_by_cudnn(&parameters, &[batch, side, side, channels]);
            let by = match &found {
                Ok(true) => "cuDNN",
                Ok(false) => "packed, cuBLAS",
                Err(error) => &error.to_string(),
            };
            format!("{channels} at {side} / {stride}: {by}")
        });
        println!("{precision}, {batch} images: {}", routes.join("; "));
    }
}

/// The best of some turns at a large product of matrices and at adding two large tensors.
fn measure_ceilings(device: &Device, compute: Compute, iterations: usize) -> Value {
    /// Rows and columns of the matrices: large enough that nothing but arithmetic counts.
    const SIDE: usize = 8192;
    let dtype = compute.activations(DType::F32);
    let random = || Tensor::rand(-1.0_f32, 1.0, (SIDE, SIDE), &Device::Cpu).unwrap();
    let mut parameters = Parameters::new();
    let weight = parameters.add("weight", random()).unwrap();
    let parameters = parameters.to_device(device, compute).unwrap();
    let x = random().to_dtype(dtype).unwrap().to_device(device).unwrap();
    let best = |turn: &dyn Fn() -> sweep_kernels::Result<Tensor>| {
        let times = (0..=iterations).map(|_| {
            let start = Instant::now();
            turn().unwrap();
            device.synchronize().unwrap();
            start.elapsed().as_secs_f64()
        });
        times.fold(f64::INFINITY, f64::min)
    };
    let layer = Linear::new(weight, None);
    let product = best(&|| layer.forward(&parameters, x.clone(), &mut Tape::off(), Mode::Evaluation));
    // Two tensors are read and one is written.
    let other = x.copy().unwrap();
    let sum = best(&|| add(&x, &other));
    let bytes = 3.0 * (SIDE * SIDE * dtype.size_in_bytes()) as f64;
    json!({"operations_per_second": 2.0 * (SIDE as f64).powi(3) / product, "bytes_per_second": bytes / sum})
}

/// Processor time of this process so far.
fn processor_seconds() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 * 1e-6;
    seconds(usage.user_time()) + seconds(usage.system_time())
}

/// A model, its optimizer and a batch.
struct Bench {
    model: Model,
    optimizer: AdamW,
    images: Tensor,
    labels: Vec<u32>,
    steps: u64,
}

impl Bench {
    fn new(architecture: Architecture, batch: usize, device: &Device, compute: Compute) -> Self {
        let (size, classes) = (architecture.image_size(), architecture.num_classes());
        let mut state = 1_u64;
        let mut uniforms = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1_u64 << 53) as f64
        };
        let model = Model::new(architecture, DType::F32, &mut uniforms).unwrap();
        let model = model.to_device(device, compute).unwrap();
        let pixels: Vec<f32> = (0..batch * 3 * size * size).map(|_| uniforms() as f32).collect();
        let group = ParameterGroup {
            parameters: model.parameters().trainable().map(|(id, ..)| id).collect(),
            learning_rate: 1e-4,
            weight_decay: 0.01,
        };
        Self {
            model,
            optimizer: AdamW::new(AdamWSettings::default(), vec![group]).unwrap(),
            images: Tensor::from_vec(pixels, (batch, 3, size, size), device).unwrap(),
            labels: (0..batch).map(|sample| (sample % classes) as u32).collect(),
            steps: 0,
        }
    }

    /// Every sample takes every step, as in PyTorch's benchmark; an evaluation would leave broken samples out.
    fn craft(&self, steps: usize) -> Crafting {
        let attack = Attack::apgd(Norm::Linf, Loss::CrossEntropy, NonZeroUsize::new(steps).unwrap());
        attack.begin(&self.model, &self.images, &self.labels, EPSILON).unwrap()
    }

    fn train(&mut self, images: &Tensor) {
        let mut tape = Tape::recording();
        let mode = Mode::Train(Noise::new(self.steps, 0));
        let output = self.model.forward(images, &mut tape, mode).unwrap();
        let gradient = cross_entropy(&output.logits, &self.labels).unwrap().gradient;
        let statistics = tape.take_statistics();
        let mut gradients = Gradients::wanted(self.model.parameters());
        let mean = 1.0 / self.labels.len() as f64;
        self.model.backward(scale(&gradient, mean).unwrap(), tape, &mut gradients).unwrap();
        self.model.update_statistics(&statistics).unwrap();
        self.optimizer.step(self.model.parameters_mut(), &gradients, 1.0).unwrap();
        self.steps += 1;
    }
}
