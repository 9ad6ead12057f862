//! `sweep plan`: the grid, what is done already, and what the rest costs. Touches nothing.

use std::collections::HashMap;

use anyhow::Result;
use serde_json::Value;
use sweep_core::home::Home;
use sweep_core::spec::{RunId, RunSpec};
use sweep_core::{Execution, Executor, Grid};
use sweep_scheduler::{Device, Slot, SlotRequest};
use sweep_store::{Reader, ResultRow, RunState, State};

use crate::cli::PlanArgs;
use crate::cost::{self, Cost};
use crate::devices;
use crate::disk::{Forecast, Room, used};
use crate::exit::{Exit, bad_input};
use crate::hub::Unknown;
use crate::printer;
use crate::progress::duration;
use crate::sweeps::{self, Loaded};
use crate::table::{Rows, rounded};

pub(crate) fn run(home: &Home, arguments: &PlanArgs) -> Result<Exit> {
    let loaded = sweeps::load(&arguments.sweep, home, Unknown::Keep)?;
    loaded.tell();
    let Loaded { sweep, grid, .. } = loaded;
    let known = sweeps::block_on(known(home, &grid.runs))?;
    let plan = Plan { runs: &grid.runs, states: known.states, speed: known.speed };
    let room = Room::of(home, sweep.execution.disk_budget, used(home));
    let slots = slots(&sweep.execution, &grid)?;
    if !arguments.summary {
        printer::rows(&plan.rows(), arguments.output.format)?;
    }
    printer::note(&format!(
        "sweep {}: {}{}",
        sweep.name,
        plan.summary(),
        plan.disk(room, slots, &sweep.execution)
    ));
    Ok(Exit::Success)
}

/// Returns the number of slots that the sweep file names; a run at a time where it names none. The number of cores and
/// GPUs is this machine's; whether the text names devices, and such as the runs can use, is not.
fn slots(execution: &Execution, grid: &Grid) -> Result<usize> {
    let Some(devices) = &execution.devices else { return Ok(1) };
    let request = SlotRequest { devices, threads: None, cores: 1, visible_devices: None, gpus: None };
    let slots = Slot::plan(&request).map_err(|error| bad_input(format!("execution.devices: {error}")))?;
    if matches!(execution.executor, Executor::Local) {
        devices::check_precision(grid, slots.iter().any(|slot| slot.device() == Device::Cpu))?;
    }
    Ok(slots.len())
}

/// What the store can say about a grid.
#[derive(Default)]
struct Known {
    states: HashMap<RunId, RunState>,
    /// Floating-point operations a second of training, measured over the finished runs.
    speed: Option<f64>,
}

async fn known(home: &Home, runs: &[(RunId, RunSpec)]) -> Result<Known> {
    if !home.database().exists() {
        return Ok(Known::default());
    }
    let reader = Reader::open(home.database()).await?;
    let ids: Vec<RunId> = runs.iter().map(|(run, _)| *run).collect();
    let states: HashMap<RunId, RunState> =
        reader.states_of(&ids).await?.into_iter().map(|state| (state.id, state)).collect();
    let some_left =
        runs.iter().any(|(run, _)| states.get(run).is_none_or(|state| state.state != State::Succeeded));
    let speed = if some_left { speed(&reader, runs).await? } else { None };
    Ok(Known { states, speed })
}

/// How many finished runs the speed is measured over, at most.
const SPEED_RUNS: usize = 200;

async fn speed(reader: &Reader, runs: &[(RunId, RunSpec)]) -> Result<Option<f64>> {
    let (mut operations, mut seconds) = (0.0, 0.0);
    for (run, spec) in runs.iter().take(SPEED_RUNS) {
        let result: Option<ResultRow> = reader.result_of(*run).await?;
        let spent =
            result.filter(|result| result.state == State::Succeeded).and_then(|result| result.train_seconds);
        if let (Some(spent), Some(cost)) = (spent, cost::of(spec)) {
            operations += cost.training;
            seconds += spent;
        }
    }
    Ok((seconds > 0.0).then(|| operations / seconds))
}

struct Plan<'a> {
    runs: &'a [(RunId, RunSpec)],
    states: HashMap<RunId, RunState>,
    speed: Option<f64>,
}

impl Plan<'_> {
    fn state(&self, run: RunId) -> &'static str {
        self.states.get(&run).map_or("new", |state| state.state.label())
    }

    fn is_left(&self, run: RunId) -> bool {
        self.states.get(&run).is_none_or(|state| !state.state.is_final())
    }

    fn rows(&self) -> Rows {
        let mut rows = Rows::new(&[
            "run", "backbone", "dataset", "target", "schedule", "seed", "epochs", "batch", "state", "TFLOP",
        ]);
        for (run, spec) in self.runs {
            rows.push(vec![
                run.short().into(),
                spec.backbone.name.as_str().into(),
                spec.dataset.name.as_str().into(),
                spec.target_epsilon.to_string().into(),
                spec.epsilon_schedule.label().into(),
                spec.seed.into(),
                spec.epochs.into(),
                spec.batch_size.into(),
                self.state(*run).into(),
                cost::of(spec).map_or(Value::Null, |cost| rounded(cost.total() / 1e12, 1)),
            ]);
        }
        rows
    }

    fn summary(&self) -> String {
        let mut counts: Vec<(&str, usize)> = Vec::new();
        let (mut left, mut unknown) = (Cost::default(), 0);
        for (run, spec) in self.runs {
            let state = self.state(*run);
            match counts.iter_mut().find(|(name, _)| *name == state) {
                Some((_, count)) => *count += 1,
                None => counts.push((state, 1)),
            }
            match cost::of(spec) {
                Some(cost) if self.is_left(*run) => {
                    left.training += cost.training;
                    left.measuring += cost.measuring;
                }
                None if self.is_left(*run) => unknown += 1,
                _ => {}
            }
        }
        let counts: Vec<String> = counts.iter().map(|(name, count)| format!("{count} {name}")).collect();
        let mut text = format!("{} runs: {}", self.runs.len(), counts.join(", "));
        if left.total() > 0.0 {
            text.push_str(&format!(
                "\nleft: {} of training, {} of validation and evaluation{}",
                operations(left.training),
                operations(left.measuring),
                self.time(left)
            ));
        }
        if unknown > 0 {
            text.push_str(&format!(
                "\nnot counted: {unknown} runs on datasets whose size is known only when they are loaded"
            ));
        }
        text
    }

    /// Says what the rest takes of the disk, and whether that is there.
    fn disk(&self, room: Room, slots: usize, execution: &Execution) -> String {
        let left: Vec<(RunId, &RunSpec)> =
            self.runs.iter().filter(|(run, _)| self.is_left(*run)).map(|(run, spec)| (*run, spec)).collect();
        if left.is_empty() {
            return String::new();
        }
        let forecast = Forecast::of(&left, slots, execution.keep_checkpoints);
        let (judgement, refused) = room.judge(forecast);
        let mark = if refused { "\nwarning: " } else { "\n" };
        format!("{mark}{}; {judgement}", forecast.in_words())
    }

    fn time(&self, left: Cost) -> String {
        match self.speed {
            Some(speed) => {
                let time = duration(left.total() / speed);
                format!("; {time} on one slot at the {:.3} TFLOP/s of the finished runs", speed / 1e12)
            }
            None => format!("; {} on one slot that reaches 1 TFLOP/s", duration(left.total() / 1e12)),
        }
    }
}

fn operations(count: f64) -> String {
    if count >= 1e15 { format!("{:.1} PFLOP", count / 1e15) } else { format!("{:.2} TFLOP", count / 1e12) }
}
