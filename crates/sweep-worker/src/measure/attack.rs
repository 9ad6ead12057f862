//! Attacks by the names that `sweep evaluate` takes and the database keeps.

use std::fmt;
use std::num::NonZeroUsize;
use std::str::FromStr;

use sweep_attacks::{Attack, Loss, Norm};
use sweep_core::spec;

/// An attack with its norm and its name.
///
/// Names are METHOD-LOSS: `apgd-STEPS`, `pgd-STEPS` or `fgsm`, then `ce` (cross entropy), `dlr` (difference of logits
/// ratio) or `tRANK` (targeted DLR towards the class that ranks so among the wrong ones). `-xCOUNT` behind them starts from
/// that many random points instead of the clean image. `apgd-10-ce` is the paper's evaluation.
///
/// ```
/// use sweep_worker::NamedAttack;
/// let attack: NamedAttack = "apgd-100-t1-x5".parse()?;
/// assert_eq!(attack.to_string(), "apgd-100-t1-x5");
/// # Ok::<(), sweep_worker::ParseAttackError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct NamedAttack {
    method: Method,
    loss: Loss,
    norm: spec::Norm,
    restarts: Option<NonZeroUsize>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Method {
    Apgd(NonZeroUsize),
    Pgd(NonZeroUsize),
    Fgsm,
}

/// Sum of PGD's constant steps in multiples of epsilon (a usual choice: far enough to cross the ball once and come back).
const PGD_REACH: f64 = 2.5;

/// A text that names no attack.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no attack, expected METHOD-LOSS such as `apgd-10-ce`: method apgd-STEPS, pgd-STEPS or fgsm; loss ce, dlr or \
     tRANK (targeted, t1 for the most likely wrong class); `-xCOUNT` behind them for random starts"
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

    /// Returns the name under which points at `epsilon` are kept: at 0 there is no attack.
    pub fn label_at(&self, epsilon: sweep_core::epsilon::Epsilon) -> String {
        if epsilon.is_zero() { "none".to_owned() } else { self.to_string() }
    }

    /// Returns the fewest classes that its loss is defined for.
    pub fn needed_classes(&self) -> usize {
        match self.loss {
            Loss::Dlr => 3,
            // Four logits in the denominator; and as many wrong classes as the rank says.
            Loss::TargetedDlr { rank } => (rank.get() + 1).max(4),
            Loss::CrossEntropy | Loss::KullbackLeibler => 1,
        }
    }

    /// Returns the cost of one image that withstands it, in forward passes, a backward pass counted as one.
    pub fn cost(&self) -> f64 {
        let steps = match self.method {
            Method::Apgd(steps) | Method::Pgd(steps) => steps.get(),
            Method::Fgsm => 1,
        };
        let searches = self.restarts.map_or(1, NonZeroUsize::get);
        1.0 + searches as f64 * (2.0 * steps as f64 + 1.0)
    }

    pub(super) const fn restarts(&self) -> Option<NonZeroUsize> {
        self.restarts
    }

    pub(super) fn attack(&self) -> Attack {
        let norm = match self.norm {
            spec::Norm::Linf => Norm::Linf,
            spec::Norm::L2 => Norm::L2,
        };
        match self.method {
            Method::Apgd(steps) => Attack::apgd(norm, self.loss, steps),
            Method::Pgd(steps) => Attack::pgd(norm, self.loss, steps, PGD_REACH / steps.get() as f64)
                .expect("a positive number divided by a count is a positive number"),
            Method::Fgsm => Attack::fgsm(norm, self.loss),
        }
    }
}

impl FromStr for NamedAttack {
    type Err = ParseAttackError;

    fn from_str(text: &str) -> Result<Self, ParseAttackError> {
        parse(text).ok_or_else(|| ParseAttackError(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<NamedAttack> {
    let (method, rest) = text.split_once('-')?;
    let (method, rest) = match method {
        "fgsm" => (Method::Fgsm, rest),
        "apgd" | "pgd" => {
            let (steps, rest) = rest.split_once('-')?;
            let steps = count(steps)?;
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
    Some(NamedAttack { method, loss, norm: spec::Norm::Linf, restarts })
}

/// Reads a positive number that is written as it would be printed, so that equal attacks have equal names.
fn count(text: &str) -> Option<NonZeroUsize> {
    let count: NonZeroUsize = text.parse().ok()?;
    (count.to_string() == text && count.get() <= 100_000).then_some(count)
}

impl fmt::Display for NamedAttack {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.method {
            Method::Apgd(steps) => write!(formatter, "apgd-{steps}")?,
            Method::Pgd(steps) => write!(formatter, "pgd-{steps}")?,
            Method::Fgsm => write!(formatter, "fgsm")?,
        }
        match self.loss {
            Loss::CrossEntropy => write!(formatter, "-ce")?,
            Loss::Dlr => write!(formatter, "-dlr")?,
            Loss::TargetedDlr { rank } => write!(formatter, "-t{rank}")?,
            Loss::KullbackLeibler => write!(formatter, "-kl")?,
        }
        match self.restarts {
            Some(restarts) => write!(formatter, "-x{restarts}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use sweep_core::spec::{AttackLoss, AttackSpec};

    use super::*;

    #[test]
    fn names_are_read_and_printed() {
        for name in ["apgd-10-ce", "apgd-100-dlr", "apgd-7-t3-x5", "pgd-20-ce", "fgsm-dlr", "fgsm-ce-x1"] {
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
        ] {
            let error = name.parse::<NamedAttack>().unwrap_err();
            assert!(error.to_string().contains("apgd-STEPS"), "{error}");
        }
    }

    #[test]
    fn a_runs_attack_has_the_same_name() {
        for (loss, name) in [(AttackLoss::CrossEntropy, "apgd-10-ce"), (AttackLoss::Dlr, "apgd-10-dlr")] {
            let spec = AttackSpec::Apgd { steps: 10, norm: spec::Norm::Linf, loss };
            assert_eq!(spec.label(), name);
            assert_eq!(name.parse::<NamedAttack>().unwrap().attack(), crate::network::attack(&spec));
        }
    }

    #[test]
    fn classes_and_cost() {
        let attack = |name: &str| name.parse::<NamedAttack>().unwrap();
        let needed = ["fgsm-ce", "fgsm-dlr", "fgsm-t1", "fgsm-t9"].map(|name| attack(name).needed_classes());
        assert_eq!(needed, [1, 3, 4, 10]);
        assert!((attack("apgd-10-ce").cost() - 22.0).abs() < f64::EPSILON);
        assert!((attack("apgd-10-ce-x3").cost() - 64.0).abs() < f64::EPSILON);
    }
}
