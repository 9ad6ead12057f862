//! The paper's figures from the runs of a sweep, one file a figure: pure functions from [`Material`] to [`Figure`].
//!
//! Seeds are folded into a mean with a band of one sample standard deviation. Runs that differ in anything but the seed never
//! share a point (see [`crate::ReportedRun`]). A figure that the runs at hand cannot fill is left out, with the reason.

mod ablation;
mod accuracy_over_radius;
mod accuracy_over_target;
mod aggregated;
mod delay;
mod schedules;
mod severity;
mod shared;
mod training_curves;
mod validation_curves;

use crate::chart::Figure;
use crate::material::Material;

/// Panels of a figure, at most: the paper's grid of 6 backbones, 5 datasets and 2 targets.
const PANELS: usize = 60;

/// The figures of a sweep.
#[derive(Clone, Debug)]
pub struct Drawn {
    /// In the paper's order.
    pub figures: Vec<Figure>,
    /// What is not drawn, in the same order.
    pub omitted: Vec<Omitted>,
}

/// A figure, or part of one, that is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Omitted {
    /// What it would reproduce, such as `Figure 1`.
    pub reference: &'static str,
    /// What it would show.
    pub title: &'static str,
    /// Why it is left out.
    pub reason: String,
}

/// Why a figure cannot be drawn from the runs at hand.
type Reason = String;

/// A figure before it is known whether the runs can fill it.
struct Plan {
    reference: &'static str,
    title: &'static str,
    draw: fn(&Material) -> Result<Figure, Reason>,
}

const PLANS: [Plan; 9] = [
    accuracy_over_target::PLAN,
    schedules::PLAN,
    validation_curves::PLAN,
    accuracy_over_radius::PLAN,
    aggregated::PLAN,
    training_curves::PLAN,
    delay::PLAN,
    severity::PLAN,
    ablation::PLAN,
];

/// Figures of the paper that show nothing that a run measures here.
const NEVER: [(&str, &str, &str); 2] = [
    ("Figure 7", "Sketch of the loss landscape", "no loss landscape is measured"),
    (
        "Figure 10",
        "Accuracy over radius under AutoAttack",
        "points under other attacks than the runs' own are in `sweep show` and `sweep query` only",
    ),
];

/// Draws what the runs at hand can fill, and names the rest.
pub fn draw(material: &Material) -> Drawn {
    let mut drawn = Drawn { figures: Vec::new(), omitted: Vec::new() };
    for Plan { reference, title, draw } in PLANS {
        match draw(material) {
            Ok(mut figure) => {
                if figure.panels.len() > PANELS {
                    let reason =
                        format!("{PANELS} of {} panels are drawn, the first ones", figure.panels.len());
                    drawn.omitted.push(Omitted { reference, title, reason });
                    figure.panels.truncate(PANELS);
                }
                drawn.figures.push(figure);
            }
            Err(reason) => drawn.omitted.push(Omitted { reference, title, reason }),
        }
    }
    drawn.omitted.extend(NEVER.map(|(reference, title, reason)| Omitted {
        reference,
        title,
        reason: reason.to_owned(),
    }));
    drawn
}
