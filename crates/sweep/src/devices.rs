//! Which devices a sweep gets, and whether its runs can use them: said before any work starts.

use anyhow::Result;
use indicatif::BinaryBytes;
use sweep_core::{Execution, Grid};
use sweep_scheduler::{Device, Gpu, GpusError, Slot, SlotRequest, every_gpu, gpus};

use crate::cli::RunArgs;
use crate::exit::bad_input;
use crate::printer;

/// Whether workers of this build compute on GPUs.
const HAS_GPUS: bool = cfg!(feature = "cuda");

/// Returns the slots of the command line, else those of the sweep file, else one on every GPU, else one on all cores.
pub(crate) fn slots(arguments: &RunArgs, execution: &Execution, grid: &Grid) -> Result<Vec<Slot>> {
    let mask = std::env::var("CUDA_VISIBLE_DEVICES").ok();
    let asked = arguments.devices.as_deref().or(execution.devices.as_deref());
    let gpus = if asked.is_some_and(is_cpu_only) { None } else { known_gpus(asked.is_some())? };
    let devices = match (asked, &gpus) {
        (Some(devices), _) => devices.to_owned(),
        (None, Some(gpus)) => every_gpu(gpus, mask.as_deref()),
        (None, None) => "cpu".to_owned(),
    };
    let slots = Slot::plan(&SlotRequest {
        devices: &devices,
        threads: arguments.threads.or(execution.threads),
        cores: std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32),
        visible_devices: mask.as_deref(),
        gpus: gpus.as_deref(),
    })
    .map_err(bad_input)?;
    if let Some(slot) = slots.iter().find(|slot| slot.device() != Device::Cpu)
        && arguments.worker.is_none()
    {
        check_build(&format!("`{}` is not available", slot.device()), "write --devices cpu")?;
    }
    check_precision(grid, slots.iter().any(|slot| slot.device() == Device::Cpu))?;
    Ok(slots)
}

/// Returns whether a `--devices` text names no GPU; what is wrong with it otherwise is found later.
fn is_cpu_only(devices: &str) -> bool {
    !devices.contains("cuda")
}

/// Returns the GPUs of this machine; `None` where nobody can say, which is told where it matters.
fn known_gpus(asked_for: bool) -> Result<Option<Vec<Gpu>>> {
    match gpus() {
        Ok(gpus) => Ok(Some(gpus)),
        Err(GpusError::NotBuilt) => Ok(None),
        // GPUs in trouble are no reason to compute days on the CPU.
        Err(error) if !asked_for && !error.is_without_gpus() => {
            Err(bad_input(format!("{error}\n  hint: see what nvidia-smi says, or write --devices cpu")))
        }
        Err(error) => {
            let then = if asked_for { "GPUs go by their numbers" } else { "computing on the CPU" };
            printer::note(&format!("warning: {error}; {then}"));
            Ok(None)
        }
    }
}

/// Returns GPUs in words.
pub(crate) fn list(gpus: &[Gpu]) -> String {
    let one =
        |(index, gpu): (usize, &Gpu)| format!("cuda:{index} {}, {}", gpu.name, BinaryBytes(gpu.memory_bytes));
    gpus.iter().enumerate().map(one).collect::<Vec<_>>().join("; ")
}

/// Refuses GPUs in a build that does not compute on them.
pub(crate) fn check_build(problem: &str, hint: &str) -> Result<()> {
    if HAS_GPUS {
        return Ok(());
    }
    Err(bad_input(format!(
        "{problem}: this build computes on the CPU only\n  hint: {hint}; a build with `--features cuda` computes on GPUs"
    )))
}

/// Refuses runs whose numbers the CPU does not have, where one of the slots is there: any slot gets any run.
pub(crate) fn check_precision(grid: &Grid, uses_cpu: bool) -> Result<()> {
    let narrow = grid.runs.iter().find(|(_, spec)| !spec.precision.is_f32());
    let Some((run, spec)) = narrow.filter(|_| uses_cpu) else { return Ok(()) };
    Err(bad_input(format!(
        "run {}: precision `{}` is not available on the CPU, expected `f32`\n  hint: write precision: f32, or --devices with GPUs only, such as cuda:0",
        run.short(),
        spec.precision
    )))
}
