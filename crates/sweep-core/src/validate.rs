//! Whether a run makes sense as a whole: checks that look at more than one key.

use crate::dataset::{DatasetSource, DatasetSpec, SplitPolicy, ValidationPolicy};
use crate::micro_batch::MicroBatch;
use crate::schedule::{AutoRamp, EpsilonSchedule, Granularity, LearningRateSchedule};
use crate::spec::{Architecture, AttackLoss, AttackSpec, Norm, Objective, RunSpec};

/// Something wrong between the keys of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// The key to change, at the top of a run.
    pub(crate) key: &'static str,
    pub(crate) message: String,
    pub(crate) hint: Option<&'static str>,
}

/// Returns what is wrong with a run.
pub(crate) fn validate(spec: &RunSpec) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut fault = |key, message: String, hint| faults.push(Fault { key, message, hint });
    for (name, before, after) in ordered_epochs(spec) {
        if before > after {
            fault(
                "epsilon_schedule",
                format!("{name}: {before} is after {after}, expected 0 <= start <= end <= epochs"),
                None,
            );
        }
    }
    if let EpsilonSchedule::Piecewise { points } = &spec.epsilon_schedule
        && !points.is_sorted_by(|left, right| left.epoch < right.epoch)
    {
        fault("epsilon_schedule", "the points are not in order, expected epochs that rise".to_owned(), None);
    }
    if let Some((message, hint)) = auto_fault(spec) {
        fault("epsilon_schedule", message, Some(hint));
    }
    if let Some((message, hint)) = objective_fault(spec) {
        fault("objective", message, Some(hint));
    }
    if spec.target_epsilon.is_zero() && spec.epsilon_schedule != EpsilonSchedule::None {
        let message =
            format!("`{}` has nothing to schedule at a target epsilon of 0", spec.epsilon_schedule.label());
        fault("epsilon_schedule", message, Some("write {kind: none} for standard fine-tuning"));
    }
    if let LearningRateSchedule::Cosine { warmup_epochs, .. } = spec.learning_rate_schedule
        && warmup_epochs >= spec.epochs
    {
        let message = format!("a warm-up of {warmup_epochs} epochs leaves nothing of {} epochs", spec.epochs);
        fault(
            "learning_rate_schedule",
            message,
            Some("write {kind: cosine, warmup_epochs: …} with less than `epochs`"),
        );
    }
    if spec.evaluation.max_epsilon < spec.target_epsilon {
        let (max, target) = (spec.evaluation.max_epsilon, spec.target_epsilon);
        let message = format!(
            "`max_epsilon` {max} is below the target epsilon {target}: expected robustness needs every point up to it"
        );
        fault("evaluation", message, None);
    }
    for (key, message, hint) in norm_faults(spec) {
        fault(key, message, Some(hint));
    }
    if let Some((message, hint)) = micro_batch_fault(spec) {
        fault("micro_batch_size", message, hint);
    }
    if let Some(message) = shape_fault(&spec.backbone.definition.architecture, spec.input_size) {
        fault("backbone", message, None);
    }
    if let Some(message) = split_fault(&spec.dataset.definition) {
        fault("dataset", message, None);
    }
    faults
}

/// Returns where robust accuracy would be measured in another ball than the run is trained for, and what to write instead.
fn norm_faults(spec: &RunSpec) -> Vec<(&'static str, String, &'static str)> {
    // Without perturbed images there is no ball to agree with.
    if spec.target_epsilon.is_zero() || spec.epsilon_schedule == EpsilonSchedule::None {
        return Vec::new();
    }
    let norm = spec.attack.norm();
    let hint = match norm {
        Norm::Linf => {
            "write `norm: linf` in `attack`, `validation.attack` and `evaluation.attack`, or the other norm in all three"
        }
        Norm::L2 => {
            "write `norm: l2` in `validation.attack` and `evaluation.attack` too; `sweep evaluate --norm` measures in another"
        }
    };
    let measured =
        [("validation", spec.validation.attack.norm()), ("evaluation", spec.evaluation.attack.norm())];
    let differing = measured.into_iter().filter(|(_, measured)| *measured != norm);
    let fault = |(key, measured): (&'static str, Norm)| {
        let message = format!(
            "`attack.norm` of `{key}` is `{}`, expected `{}` as in the training attack",
            measured.label(),
            norm.label()
        );
        (key, message, hint)
    };
    differing.map(fault).collect()
}

/// Returns why a run cannot have its micro batches, if it cannot, and what to write instead.
fn micro_batch_fault(spec: &RunSpec) -> Option<(String, Option<&'static str>)> {
    match spec.micro_batch_size {
        MicroBatch::Images(images) => (!spec.batch_size.is_multiple_of(images))
            .then(|| (format!("{images} does not divide the batch size {}", spec.batch_size), None)),
        MicroBatch::Auto if spec.backbone.definition.architecture.has_batch_norm() => {
            let message = format!(
                "`auto` with backbone `{}`: batch norm normalises over a micro batch, so that results would depend on what fits; expected an integer",
                spec.backbone.name
            );
            Some((
                message,
                Some("write a number, or leave it out: the largest divisor of `batch_size` up to 32"),
            ))
        }
        MicroBatch::Auto => None,
    }
}

/// Procedural images have a training and a test split; of other sources the splits are known when they are read.
fn split_fault(dataset: &DatasetSpec) -> Option<String> {
    let (DatasetSource::Procedural { .. }, SplitPolicy::Given { train, validation, test, .. }) =
        (&dataset.source, &dataset.splits)
    else {
        return None;
    };
    let validation = match validation {
        ValidationPolicy::Split { name } => Some(name),
        _ => None,
    };
    let unknown = [Some(train), validation, Some(test)]
        .into_iter()
        .flatten()
        .find(|name| *name != "train" && *name != "test");
    unknown.map(|name| format!("procedural images have no split `{name}`, only `train` and `test`"))
}

/// Returns pairs of epochs of which the first must not lie after the second.
fn ordered_epochs(spec: &RunSpec) -> Vec<(&'static str, u32, u32)> {
    match &spec.epsilon_schedule {
        EpsilonSchedule::Ramp { start, end, .. } => {
            vec![("start of the ramp", *start, *end), ("end of the ramp", *end, spec.epochs)]
        }
        EpsilonSchedule::Warmup { end, .. } => vec![("end of the warm-up", *end, spec.epochs)],
        EpsilonSchedule::Step { start } => vec![("start of the step", *start, spec.epochs)],
        EpsilonSchedule::Auto(AutoRamp { end: Some(end), .. }) => {
            vec![("end of the ramp", *end, spec.epochs)]
        }
        _ => Vec::new(),
    }
}

/// Returns why a ramp cannot find its ends, if it cannot, and what to write instead.
fn auto_fault(spec: &RunSpec) -> Option<(String, &'static str)> {
    let EpsilonSchedule::Auto(auto) = &spec.epsilon_schedule else { return None };
    if auto.patience.saturating_add(1) >= spec.epochs {
        // The first epoch is the one that the others are compared with.
        let message =
            format!("a patience of {} epochs leaves nothing of {} epochs", auto.patience, spec.epochs);
        return Some((message, "write {kind: auto, patience: …} with less than `epochs` - 1"));
    }
    if auto.end.is_none() && auto.per == Granularity::Step {
        let message =
            "an end that is found moves on after each validation, so epsilon cannot change with steps";
        return Some((message.to_owned(), "write `per: epoch`, or an epoch as `end`"));
    }
    None
}

/// Returns why an objective makes no sense in this run, if it makes none, and what to write instead.
fn objective_fault(spec: &RunSpec) -> Option<(String, &'static str)> {
    let Objective::Trades { .. } = spec.objective else { return None };
    // Without perturbation the divergence is 0: such a run would be the same one under another name.
    if spec.epsilon_schedule == EpsilonSchedule::None {
        let message = "trades has nothing to add to cross entropy without perturbed images";
        let hint =
            "drop the point with `exclude: [{objective: {kind: trades}, epsilon_schedule: {kind: none}}]`";
        return Some((message.to_owned(), hint));
    }
    let AttackSpec::Apgd { loss, .. } = spec.attack;
    (loss != AttackLoss::CrossEntropy).then(|| {
        let message = "the training attack of trades maximises the divergence, and no other loss".to_owned();
        (message, "leave out `attack.loss`; it counts for validation and evaluation")
    })
}

/// Returns why a network of these numbers cannot take images of `input_size`, if it cannot.
fn shape_fault(architecture: &Architecture, input_size: u32) -> Option<String> {
    let patches = |patch_size: u32| {
        (!input_size.is_multiple_of(patch_size))
            .then(|| format!("input_size {input_size} is no multiple of patch_size {patch_size}"))
    };
    let heads = |width: u32, heads: u32| {
        (!width.is_multiple_of(heads))
            .then(|| format!("a width of {width} is no multiple of {heads} attention heads"))
    };
    match architecture {
        Architecture::Vit(vit) => heads(vit.embed_dim, vit.num_heads).or_else(|| patches(vit.patch_size)),
        Architecture::Swin { patch_size, embed_dim, depths, num_heads, .. } => {
            if depths.len() != num_heads.len() {
                return Some(format!(
                    "`depths` has {} stages and `num_heads` {}",
                    depths.len(),
                    num_heads.len()
                ));
            }
            let mut stages = num_heads.iter().enumerate();
            stages
                .find_map(|(stage, count)| heads(embed_dim << stage, *count))
                .or_else(|| patches(*patch_size))
        }
        Architecture::Convnext { .. } => {
            let fits = input_size >= 32 && input_size.is_multiple_of(4);
            (!fits).then(|| format!("input_size {input_size} is no multiple of 4 of at least 32"))
        }
        Architecture::Resnet { .. } => None,
    }
}
