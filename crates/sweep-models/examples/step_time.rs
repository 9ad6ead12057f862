//! Times a forward pass, an attack pass (input gradient only) and a training step of a preset.
//!
//! `cargo run --release -p sweep-models --example step_time -- PRESET BATCH THREADS REPETITIONS`
//! with PRESET one of base, clip_base, tiny_32, tiny_64. Prints the median and the smallest wall time in milliseconds,
//! and on Linux the mean processor time, which is steadier where a machine is shared.
#![expect(clippy::print_stdout, reason = "a program whose output is the point")]

use std::error::Error;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use sweep_kernels::{
    AdamW, AdamWSettings, Classifier, Gradients, Mode, Noise, Optimizer, ParameterGroup, Tape,
    mean_cross_entropy,
};
use sweep_models::{Architecture, Model, VitConfig};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let text = |index: usize, default: &'static str| arguments.get(index).map_or(default, String::as_str);
    let config = preset(text(0, "tiny_64"))?;
    let (batch, threads, repetitions) =
        (text(1, "32").parse()?, text(2, "2").parse()?, text(3, "5").parse()?);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    pool.install(|| measure(config, batch, repetitions))
}

fn preset(name: &str) -> Result<VitConfig> {
    match name {
        "base" => Ok(VitConfig { num_classes: 100, ..VitConfig::base() }),
        "clip_base" => Ok(VitConfig { num_classes: 100, ..VitConfig::clip_base() }),
        "tiny_32" => Ok(VitConfig::tiny_32()),
        "tiny_64" => Ok(VitConfig::tiny_64()),
        _ => Err(format!("preset {name} is unknown; known are base, clip_base, tiny_32, tiny_64").into()),
    }
}

fn measure(config: VitConfig, batch: usize, repetitions: usize) -> Result<()> {
    let (size, classes) = (config.image_size, config.num_classes);
    let mut state = 1_u64;
    let mut uniforms = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1_u64 << 53) as f64
    };
    let mut model = Model::new(Architecture::Vit(config), DType::F32, &mut uniforms)?;
    let images: Vec<f32> = (0..batch * 3 * size * size).map(|_| uniforms() as f32).collect();
    let images = Tensor::from_vec(images, (batch, 3, size, size), &Device::Cpu)?;
    let labels: Vec<u32> = (0..batch).map(|sample| (sample % classes) as u32).collect();
    let group = ParameterGroup {
        parameters: model.parameters().iter().map(|(id, ..)| id).collect(),
        learning_rate: 1e-4,
        weight_decay: 0.01,
    };
    let mut optimizer = AdamW::new(AdamWSettings::default(), vec![group])?;
    report("forward", repetitions, || {
        model.logits(&images)?;
        Ok(())
    })?;
    report("attack pass", repetitions, || {
        let (logits, tape) = model.record(&images)?;
        let (_, dlogits) = mean_cross_entropy(&logits, &labels)?;
        model.input_gradient(tape, dlogits)?;
        Ok(())
    })?;
    report("clean step", repetitions, || {
        let mut tape = Tape::recording();
        let output = model.forward(&images, &mut tape, Mode::Train(Noise::new(0, 0)))?;
        let (_, dlogits) = mean_cross_entropy(&output.logits, &labels)?;
        let mut gradients = Gradients::wanted(model.parameters());
        model.backward(dlogits, tape, &mut gradients)?;
        Ok(optimizer.step(model.parameters_mut(), &gradients, 1.0)?)
    })
}

fn report(name: &str, repetitions: usize, mut work: impl FnMut() -> Result<()>) -> Result<()> {
    work()?;
    let mut times = Vec::with_capacity(repetitions);
    let before = processor_ms();
    for _ in 0..repetitions {
        let start = Instant::now();
        work()?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    let processor = processor_ms().zip(before).map(|(after, before)| (after - before) / repetitions as f64);
    times.sort_by(f64::total_cmp);
    println!("{name}: median {:.1} ms, smallest {:.1} ms", times[times.len() / 2], times[0]);
    if let Some(processor) = processor {
        println!("{name}: processor time {processor:.1} ms");
    }
    Ok(())
}

/// Processor time of this process so far in milliseconds (user and system), where Linux tells it.
fn processor_ms() -> Option<f64> {
    // Linux counts in hundredths of a second, in the 14th and 15th field; the second may contain spaces.
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: f64 = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    Some(ticks * 10.0)
}
