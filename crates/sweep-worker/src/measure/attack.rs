//! Attacks by the names that `sweep evaluate` takes and the database keeps.

use std::fmt;
use std::num::NonZeroUsize;
use std::str::FromStr;

use candle_core::Tensor;
use sweep_attacks::{Attack, BrokenSamples, Cascade, CascadeOutcome, Loss, Norm, Stage, Start, Uniform};
use sweep_core::epsilon::Epsilon;
use sweep_core::random::{Purpose, Stream};
use sweep_core::spec::{self, AttackLoss, AttackSpec, CascadeSpec, EvaluationAttack};
use sweep_kernels::Classifier;

use crate::Result;

/// An attack with its norm and its name.
///
/// `autoattack` is AutoAttack's standard version; `apgd-STEPS-t`, `fab-STEPS` and `square-QUERIES` are the last three of its
/// four attacks alone. The other names are METHOD-LOSS: `apgd-STEPS`, `pgd-STEPS` or `fgsm`, then `ce` (cross entropy), `dlr`
/// (difference of logits ratio) or `tRANK` (targeted DLR towards the class that ranks so among the wrong ones). `-xCOUNT` behind
/// them starts from that many random points instead of the clean image. `apgd-10-ce` is the paper's evaluation.
///
/// ```
/// use sweep_worker::NamedAttack;
/// let attack: NamedAttack = "apgd-100-t1-x5".parse()?;
/// assert_eq!(attack.to_string(), "apgd-100-t1-x5");
/// # Ok::<(), sweep_worker::ParseAttackError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct NamedAttack {
    kind: Kind,
    norm: spec::Norm,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Search {
        method: Method,
        loss: Loss,
        restarts: Option<NonZeroUsize>,
    },
    /// One of AutoAttack's attacks, as that makes it.
    Stage(Stage),
    AutoAttack,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Method {
    Apgd(NonZeroUsize),
    Pgd(NonZeroUsize),
    Fgsm,
}

/// Images that an attack is tried on: (N, 3, H, W), their classes, and what they are called in their split.
#[derive(Clone, Copy)]
pub(crate) struct Tested<'a> {
    pub(crate) images: &'a Tensor,
    pub(crate) labels: &'a [u32],
    pub(crate) indices: &'a [u32],
}

/// Sum of PGD's constant steps in multiples of epsilon (a usual choice: far enough to cross the ball once and come back).
const PGD_REACH: f64 = 2.5;

/// A text that names no attack.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no attack, expected `autoattack`, one of its parts (`apgd-STEPS-t`, `fab-STEPS`, `square-QUERIES`), or METHOD-LOSS \
     such as `apgd-10-ce`: method apgd-STEPS, pgd-STEPS or fgsm; loss ce, dlr or tRANK (targeted, t1 for the most likely wrong \
     class); `-xCOUNT` behind them for random starts"
)]
pub struct ParseAttackError(String);

impl NamedAttack {
    /// Returns the attack in another norm; the name says nothing of it.
    #[must_use]
    pub const fn in_norm(mut self, norm: spec::Norm) -> Self {
        self.norm = norm;
        self
    }

    /// Returns the norm of its ball; l-infinity unless it was changed.
    pub const fn norm(&self) -> spec::Norm {
        self.norm
    }

    /// Returns whether there is such an attack in its norm: AutoAttack and its parts are in l-infinity.
    pub fn has_norm(&self) -> bool {
        matches!(self.kind, Kind::Search { .. }) || self.norm == spec::Norm::Linf
    }

    /// Returns whether it draws random numbers.
    pub const fn is_random(&self) -> bool {
        match self.kind {
            Kind::Search { restarts, .. } => restarts.is_some(),
            Kind::Stage(Stage::Fab { .. }) => false,
            Kind::Stage(_) | Kind::AutoAttack => true,
        }
    }

    /// Returns the name under which points at `epsilon` are kept: at 0 there is no attack.
    pub fn label_at(&self, epsilon: Epsilon) -> String {
        if epsilon.is_zero() { "none".to_owned() } else { self.to_string() }
    }

    /// Returns the fewest classes that it is defined for.
    pub fn needed_classes(&self) -> usize {
        match self.kind {
            Kind::Search { loss: Loss::Dlr, .. } => 3,
            // Four logits in the denominator; and as many wrong classes as the rank says.
            Kind::Search { loss: Loss::TargetedDlr { rank }, .. } => (rank.get() + 1).max(4),
            Kind::Search { loss: Loss::CrossEntropy | Loss::KullbackLeibler, .. } => 1,
            Kind::Stage(stage) => stage.needed_classes(),
            Kind::AutoAttack => Cascade::autoattack().needed_classes(),
        }
    }

    /// Returns the cost of one image that withstands it, in forward passes, a backward pass counted as one.
    pub fn cost(&self) -> f64 {
        match self.kind {
            Kind::Search { method, restarts, .. } => {
                let steps = match method {
                    Method::Apgd(steps) | Method::Pgd(steps) => steps.get(),
                    Method::Fgsm => 1,
                };
                let searches = restarts.map_or(1, NonZeroUsize::get);
                1.0 + searches as f64 * (2.0 * steps as f64 + 1.0)
            }
            Kind::Stage(stage) => 1.0 + stage.cost(),
            Kind::AutoAttack => 1.0 + Cascade::autoattack().cost(),
        }
    }

    /// Returns the names of its parts, where it has more than one.
    pub(super) fn stages(&self) -> Vec<String> {
        match self.kind {
            Kind::AutoAttack => Cascade::autoattack().stages().iter().map(ToString::to_string).collect(),
            Kind::Search { .. } | Kind::Stage(_) => Vec::new(),
        }
    }

    /// Says of each image whether it withstands the attack within `epsilon`. `seed` is that of its random numbers, which are
    /// keyed by the image, so that neither the batch nor its neighbours matter.
    pub(crate) fn test(
        &self,
        model: &dyn Classifier,
        batch: Tested<'_>,
        epsilon: Epsilon,
        seed: u64,
    ) -> Result<Vec<CascadeOutcome>> {
        let Tested { images, labels, indices } = batch;
        let generator = |position: usize, purpose: usize| -> Uniform {
            let mut stream = Stream::new(seed, Purpose::Attack, purpose as u64, indices[position].into());
            Box::new(move || stream.uniform())
        };
        let cascade = match self.kind {
            Kind::Search { method, loss, restarts } => {
                let start = match restarts {
                    None => Start::Clean,
                    Some(restarts) => Start::Random { restarts, generator: &generator },
                };
                let attack = self.search(method, loss);
                let leave = BrokenSamples::Leave;
                let found = attack.evaluate(model, images, labels, epsilon.value(), start, leave)?;
                return Ok(found.outcomes.iter().map(CascadeOutcome::from).collect());
            }
            Kind::Stage(stage) => Cascade::only(stage),
            Kind::AutoAttack => Cascade::autoattack(),
        };
        Ok(cascade.evaluate(model, images, labels, epsilon.value(), &generator)?.outcomes)
    }

    fn search(&self, method: Method, loss: Loss) -> Attack {
        let norm = match self.norm {
            spec::Norm::Linf => Norm::Linf,
            spec::Norm::L2 => Norm::L2,
        };
        match method {
            Method::Apgd(steps) => Attack::apgd(norm, loss, steps),
            Method::Pgd(steps) => Attack::pgd(norm, loss, steps, PGD_REACH / steps.get() as f64)
                .expect("a positive number divided by a count is a positive number"),
            Method::Fgsm => Attack::fgsm(norm, loss),
        }
    }
}

impl From<&EvaluationAttack> for NamedAttack {
    fn from(attack: &EvaluationAttack) -> Self {
        let kind = match attack {
            EvaluationAttack::Single(AttackSpec::Apgd { steps, loss, .. }) => Kind::Search {
                method: Method::Apgd(NonZeroUsize::new(*steps as usize).unwrap_or(NonZeroUsize::MIN)),
                loss: match loss {
                    AttackLoss::CrossEntropy => Loss::CrossEntropy,
                    AttackLoss::Dlr => Loss::Dlr,
                },
                restarts: None,
            },
            EvaluationAttack::Cascade(CascadeSpec::Autoattack) => Kind::AutoAttack,
        };
        Self { kind, norm: attack.norm() }
    }
}

impl FromStr for NamedAttack {
    type Err = ParseAttackError;

    fn from_str(text: &str) -> Result<Self, ParseAttackError> {
        let kind = parse(text).ok_or_else(|| ParseAttackError(text.to_owned()))?;
        Ok(Self { kind, norm: spec::Norm::Linf })
    }
}

fn parse(text: &str) -> Option<Kind> {
    if text == "autoattack" {
        return Some(Kind::AutoAttack);
    }
    let (method, rest) = text.split_once('-')?;
    let (method, rest) = match method {
        "fab" => return Some(Kind::Stage(Stage::Fab { steps: count(rest)? })),
        "square" => return Some(Kind::Stage(Stage::Square { queries: count(rest)? })),
        "fgsm" => (Method::Fgsm, rest),
        "apgd" | "pgd" => {
            let (steps, rest) = rest.split_once('-')?;
            let steps = count(steps)?;
            if (method, rest) == ("apgd", "t") {
                return Some(Kind::Stage(Stage::ApgdTargeted { steps }));
            }
            (if method == "apgd" { Method::Apgd(steps) } else { Method::Pgd(steps) }, rest)
        }
        _ => return None,
    };
    let (loss, restarts) = match rest.split_once("-x") {
        Some((loss, restarts)) => (loss, Some(count(restarts)?)),
        None => (rest, None),
    };
    let loss = match loss {
        "ce" => Loss::CrossEntropy,
        "dlr" => Loss::Dlr,
        other => Loss::TargetedDlr { rank: count(other.strip_prefix('t')?)? },
    };
    Some(Kind::Search { method, loss, restarts })
}

/// Reads a positive number that is written as it would be printed, so that equal attacks have equal names.
fn count(text: &str) -> Option<NonZeroUsize> {
    let count: NonZeroUsize = text.parse().ok()?;
    (count.to_string() == text && count.get() <= 100_000).then_some(count)
}

impl fmt::Display for NamedAttack {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (method, loss, restarts) = match self.kind {
            Kind::Search { method, loss, restarts } => (method, loss, restarts),
            Kind::Stage(stage) => return write!(formatter, "{stage}"),
            Kind::AutoAttack => return write!(formatter, "autoattack"),
        };
        match method {
            Method::Apgd(steps) => write!(formatter, "apgd-{steps}")?,
            Method::Pgd(steps) => write!(formatter, "pgd-{steps}")?,
            Method::Fgsm => write!(formatter, "fgsm")?,
        }
        match loss {
            Loss::CrossEntropy => write!(formatter, "-ce")?,
            Loss::Dlr => write!(formatter, "-dlr")?,
            Loss::TargetedDlr { rank } => write!(formatter, "-t{rank}")?,
            Loss::KullbackLeibler => write!(formatter, "-kl")?,
        }
        match restarts {
            Some(restarts) => write!(formatter, "-x{restarts}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_printed() {
        for name in [
            "apgd-10-ce",
            "apgd-100-dlr",
            "apgd-7-t3-x5",
            "pgd-20-ce",
            "fgsm-dlr",
            "fgsm-ce-x1",
            "autoattack",
            "apgd-100-t",
            "fab-100",
            "square-5000",
        ] {
            assert_eq!(name.parse::<NamedAttack>().map(|attack| attack.to_string()), Ok(name.to_owned()));
        }
        for name in [
            "",
            "apgd",
            "apgd-10",
            "apgd-0-ce",
            "apgd-010-ce",
            "apgd-+1-ce",
            "agpd-10-ce",
            "fgsm",
            "fgsm-t0",
            "apgd-10-ce-x",
            "apgd-10-ce-x0",
            "apgd-10-kl",
            "pgd-10-t",
            "fab",
            "fab-0",
            "square-1-ce",
            "autoattack-x2",
        ] {
            let error = name.parse::<NamedAttack>().unwrap_err();
            assert!(error.to_string().contains("apgd-STEPS"), "{error}");
        }
    }

    #[test]
    fn a_runs_attack_has_the_same_name() {
        for (loss, name) in [(AttackLoss::CrossEntropy, "apgd-10-ce"), (AttackLoss::Dlr, "apgd-10-dlr")] {
            let attack =
                EvaluationAttack::Single(AttackSpec::Apgd { steps: 10, norm: spec::Norm::Linf, loss });
            assert_eq!(attack.label(), name);
            assert_eq!(name.parse(), Ok(NamedAttack::from(&attack)));
        }
        let autoattack = EvaluationAttack::Cascade(CascadeSpec::Autoattack);
        assert_eq!(autoattack.label().parse(), Ok(NamedAttack::from(&autoattack)));
    }

    #[test]
    fn classes_and_cost() {
        let attack = |name: &str| name.parse::<NamedAttack>().unwrap();
        let names = ["fgsm-ce", "fgsm-dlr", "fgsm-t1", "fgsm-t9", "fab-9", "autoattack"];
        assert_eq!(names.map(|name| attack(name).needed_classes()), [1, 3, 4, 10, 2, 4]);
        assert!((attack("apgd-10-ce").cost() - 22.0).abs() < f64::EPSILON);
        assert!((attack("apgd-10-ce-x3").cost() - 64.0).abs() < f64::EPSILON);
    }
}
