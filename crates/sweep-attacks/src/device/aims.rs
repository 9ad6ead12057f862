//! What the images of a batch are pushed away from or towards.

use candle_core::{Device, Tensor};
use sweep_kernels::attack_steps::{Goal, Goals, Kind};

use crate::attack::{Aim, Loss};
use crate::objective::Objective;
use crate::{Error, Result};

/// The goals of a batch: on the device, and as far as the host must check them.
pub(super) struct Aims<'a> {
    aim: Aim<'a>,
    loss: Loss,
    labels: Vec<u32>,
    goals: Goals,
}

impl<'a> Aims<'a> {
    pub(super) fn new(loss: Loss, aim: Aim<'a>, device: &Device) -> Result<Self> {
        let goals: Vec<Goal> = match aim {
            Aim::Labels(labels) => {
                labels.iter().map(|&label| Goal { kind: kind_of(loss), label, target: label }).collect()
            }
            Aim::Objectives(objectives) => objectives.iter().map(goal_of).collect(),
        };
        let clean = match aim {
            Aim::Labels(_) => None,
            Aim::Objectives(objectives) => clean_probabilities(objectives)?,
        };
        let labels = goals.iter().map(|goal| goal.label).collect();
        let goals = Goals::new(device, &goals, clean.as_deref())?;
        Ok(Self { aim, loss, labels, goals })
    }

    /// The true classes.
    pub(super) fn labels(&self) -> &[u32] {
        &self.labels
    }

    pub(super) fn goals(&self) -> Goals {
        self.goals.clone()
    }

    /// Whether [`Aims::settle`] must come before a search.
    pub(super) fn need_clean_logits(&self) -> bool {
        let looks_first = matches!(self.loss, Loss::TargetedDlr { .. } | Loss::KullbackLeibler);
        looks_first && matches!(self.aim, Aim::Labels(_))
    }

    /// Completes the goals by the logits of the clean images.
    pub(super) fn settle(&mut self, logits: &Tensor) -> Result<()> {
        self.check(logits, self.labels.len())?;
        match self.loss {
            Loss::TargetedDlr { rank } => Ok(self.goals.choose_targets(logits, rank.get())?),
            Loss::KullbackLeibler => Ok(self.goals.diverge_from(logits)?),
            Loss::CrossEntropy | Loss::Dlr => Ok(()),
        }
    }

    /// Refuses `logits` that are not one row for each of `rows` images, and classes that they do not have.
    pub(super) fn check(&self, logits: &Tensor, rows: usize) -> Result<()> {
        let classes = crate::objective::class_count(logits, rows)?;
        match self.aim {
            Aim::Labels(labels) => labels
                .iter()
                .enumerate()
                .try_for_each(|(sample, &label)| self.check_label(sample, label, classes)),
            Aim::Objectives(objectives) => objectives
                .iter()
                .enumerate()
                .try_for_each(|(sample, objective)| objective.check(sample, classes)),
        }
    }

    fn check_label(&self, sample: usize, label: u32, classes: usize) -> Result<()> {
        Objective::CrossEntropy { label }.check(sample, classes)?;
        match self.loss {
            Loss::CrossEntropy | Loss::KullbackLeibler => Ok(()),
            Loss::Dlr => Objective::Dlr { label }.check(sample, classes),
            Loss::TargetedDlr { rank } if rank.get() >= classes => {
                Err(Error::TooFewClasses { needed: rank.get() + 1, classes })
            }
            Loss::TargetedDlr { .. } => {
                Objective::TargetedDlr { label, target: label }.check(sample, classes)
            }
        }
    }
}

fn kind_of(loss: Loss) -> Kind {
    match loss {
        Loss::CrossEntropy => Kind::CrossEntropy,
        Loss::Dlr => Kind::Dlr,
        Loss::TargetedDlr { .. } => Kind::TargetedDlr,
        Loss::KullbackLeibler => Kind::KullbackLeibler,
    }
}

fn goal_of(objective: &Objective) -> Goal {
    let (kind, target) = match *objective {
        Objective::CrossEntropy { label } => (Kind::CrossEntropy, label),
        Objective::Dlr { label } => (Kind::Dlr, label),
        Objective::TargetedDlr { target, .. } => (Kind::TargetedDlr, target),
        Objective::KullbackLeibler { label, .. } => (Kind::KullbackLeibler, label),
    };
    Goal { kind, label: objective.label(), target }
}

/// One row of probabilities per image, if any objective has some; zeros for the others.
fn clean_probabilities(objectives: &[Objective]) -> Result<Option<Vec<f32>>> {
    let probabilities = |objective: &Objective| match objective {
        Objective::KullbackLeibler { clean, .. } => Some(clean.clone()),
        _ => None,
    };
    let Some(classes) = objectives.iter().find_map(probabilities).map(|clean| clean.len()) else {
        return Ok(None);
    };
    let mut rows = Vec::with_capacity(objectives.len() * classes);
    for objective in objectives {
        match probabilities(objective) {
            Some(clean) if clean.len() == classes => rows.extend(clean.iter().map(|&share| share as f32)),
            Some(clean) => {
                let (found, expected) = (clean.len().into(), classes.into());
                return Err(Error::Shape { what: "the clean probabilities", found, expected });
            }
            None => rows.extend(std::iter::repeat_n(0.0, classes)),
        }
    }
    Ok(Some(rows))
}
