//! `cargo xtask gpu-check`: everything that only a GPU can show, in one command.
//!
//! Operation tests, backbones against the stored tensors of the reference implementations, a two-epoch grid, its
//! resumption after a kill to the same bits, and the speed of the six base-size models beside PyTorch. Everything it
//! starts can be packed on a machine that has cargo (`--pack FOLDER`) and run on one that has only the GPU
//! (`FOLDER/xtask gpu-check --from FOLDER`, in a checkout of the repository).

mod grid;
mod pack;

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result};
use clap::Args;

use crate::console;
use crate::program::Program;
use pack::Pack;

/// The command line of `cargo xtask gpu-check`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Arguments {
    /// Build everything, pack it into this folder and stop.
    #[arg(long, value_name = "FOLDER", conflicts_with = "from")]
    pack: Option<PathBuf>,
    /// Use what was packed there; needs no cargo, network or registry.
    #[arg(long, value_name = "FOLDER")]
    from: Option<PathBuf>,
    /// The device of the grid.
    #[arg(long, default_value = "cuda:0", value_name = "SLOTS")]
    devices: String,
    /// A program with the options of the reference benchmark, such as `python3 pytorch.py`; without it our speed stands
    /// alone.
    #[arg(long, value_name = "COMMAND")]
    pytorch: Option<String>,
    /// Time PyTorch compiled, too: minutes for each row.
    #[arg(long, requires = "pytorch")]
    compile: bool,
    /// Models of the benchmark; several by commas. `none` leaves it out.
    #[arg(long, default_value = "vit_base,clip_vit,swin_base,convnext_base,clip_convnext,resnet50")]
    models: String,
    /// Images per batch of the benchmark.
    #[arg(long, default_value_t = 64)]
    batch: u32,
    /// Steps of a measurement.
    #[arg(long, default_value_t = 10)]
    iterations: u32,
    /// Precisions of the benchmark.
    #[arg(long, default_value = "bf16", value_name = "f32|tf32|bf16")]
    precisions: String,
}

/// Does it; returns whether everything held.
pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    pack::check_folder()?;
    let pack = match (&arguments.pack, &arguments.from) {
        (Some(folder), _) => {
            Pack::build(&pack::default_folder()?)?.write(folder)?;
            return Ok(true);
        }
        (None, Some(folder)) => Pack::open(folder)?,
        (None, None) => Pack::build(&pack::default_folder()?)?,
    };
    pack.check_start()?;
    describe_machine();
    let mut failed = Vec::new();
    for test in pack::TESTS {
        let held = stage(&format!("tests of {}", test.owner), || pack.run_test(test));
        failed.extend((!held).then(|| format!("tests of {}", test.owner)));
    }
    let program = Program::find(Some(&pack.program()))?;
    let held =
        stage("a two-epoch grid, and the same after a kill", || grid::check(&program, &arguments.devices));
    failed.extend((!held).then(|| "the grid".to_owned()));
    // Whoever does them, nothing has failed.
    stage("who does ResNet-50's 3x3 convolutions", || routes(&pack, arguments.batch));
    if arguments.models != "none" {
        let held = stage("speed", || benchmark(&pack, arguments));
        failed.extend((!held).then(|| "the benchmark".to_owned()));
    }
    console::faults(&failed);
    console::say(if failed.is_empty() { "everything held" } else { "it did not hold" });
    Ok(failed.is_empty())
}

/// Announces a part of the check, does it and says how long it took.
fn stage(name: &str, work: impl FnOnce() -> Result<bool>) -> bool {
    console::say(&format!("== {name}"));
    let begin = Instant::now();
    // What goes wrong in one part must not cost the others.
    let held = work().unwrap_or_else(|error| {
        console::say(&format!("FAULT: {error:#}"));
        false
    });
    let verdict = if held { "holds" } else { "FAILS" };
    console::say(&format!("== {name}: {verdict} ({:.1} s)", begin.elapsed().as_secs_f64()));
    held
}

/// Says what GPU and driver this is, as far as the driver's own tool tells.
fn describe_machine() {
    let mut query = Command::new("nvidia-smi");
    query.args([
        "--query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit",
        "--format=csv,noheader",
    ]);
    match query.stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => {
            console::say(&format!("GPU: {}", String::from_utf8_lossy(&output.stdout).trim()));
        }
        _ => console::say("GPU: nvidia-smi does not answer"),
    }
}

/// Tells where cuDNN has no deterministic algorithms, which costs time.
fn routes(pack: &Pack, batch: u32) -> Result<bool> {
    let mut command = Command::new(pack.benchmark());
    let status = command.args(["routes", "--batch", &batch.to_string()]).status();
    Ok(status.context("failed to start the benchmark")?.success())
}

/// Times clean steps, adversarial steps and evaluations, each precision by itself.
fn benchmark(pack: &Pack, arguments: &Arguments) -> Result<bool> {
    let mut held = true;
    for precision in arguments.precisions.split(',') {
        console::say(&format!("precision {precision}, batches of {}", arguments.batch));
        let mut command = Command::new(pack.benchmark());
        command.args(["--device", "cuda", "--precision", precision, "--modes", "train,adv_train,eval"]);
        command.args(["--batch", &arguments.batch.to_string()]);
        command.args(["--iterations", &arguments.iterations.to_string(), "--rounds", "1"]);
        if let Some(pytorch) = &arguments.pytorch {
            command.args(["--pytorch", pytorch]);
        }
        if arguments.compile {
            command.arg("--compile");
        }
        let status =
            command.args(arguments.models.split(',')).status().context("failed to start the benchmark")?;
        held &= status.success();
    }
    Ok(held)
}
