//! How numbers and states are written: never by colour alone.

use sweep_report::Run;
use sweep_report::pivot::{printed, printing};
use sweep_store::{Metric, State, Unit};

use crate::html::Html;

/// What a run's state looks like: a sign and a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Standing {
    Running,
    Failed,
    Blocked,
    Interrupted,
    Pending,
    Cancelled,
    Succeeded,
}

impl Standing {
    /// In the order of urgency.
    pub(crate) const ALL: [Self; 7] = [
        Self::Running,
        Self::Failed,
        Self::Blocked,
        Self::Interrupted,
        Self::Pending,
        Self::Cancelled,
        Self::Succeeded,
    ];

    pub(crate) const fn of(run: &Run) -> Self {
        if run.blocked { Self::Blocked } else { Self::of_state(run.state) }
    }

    pub(crate) const fn of_state(state: State) -> Self {
        match state {
            State::Pending => Self::Pending,
            State::Running => Self::Running,
            State::Succeeded => Self::Succeeded,
            State::Failed => Self::Failed,
            State::Interrupted => Self::Interrupted,
            State::Cancelled => Self::Cancelled,
        }
    }

    pub(crate) const fn sign(self) -> &'static str {
        match self {
            Self::Running => "▶",
            Self::Failed => "✕",
            Self::Blocked => "⊘",
            Self::Interrupted => "‖",
            Self::Pending => "○",
            Self::Cancelled => "–",
            Self::Succeeded => "✓",
        }
    }

    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Failed => "failed",
            Self::Blocked => "blocked",
            Self::Interrupted => "interrupted",
            Self::Pending => "pending",
            Self::Cancelled => "cancelled",
            Self::Succeeded => "succeeded",
        }
    }

    /// Returns sign and word; the sign is for the eye only.
    pub(crate) fn html(self) -> Html {
        let mut html = Html::new();
        html.open("span", &[("class", "state"), ("data-state", self.word())]);
        html.raw("<span aria-hidden=\"true\">").text(self.sign()).raw("</span> ").text(self.word());
        html.close("span");
        html
    }
}

/// Returns a number of a metric, with `decimals` of its unit.
pub(crate) fn number(metric: Metric, value: f64) -> String {
    let (decimals, _) = printing(metric);
    format!("{:.decimals$}", printed(metric, value))
}

/// Returns a spread of a metric: it has no sign and no offset.
pub(crate) fn spread(metric: Metric, value: f64) -> String {
    let (decimals, factor) = printing(metric);
    format!("{:.decimals$}", value * factor)
}

/// Returns a metric's name with its unit, as headings say it.
pub(crate) fn title(metric: Metric) -> String {
    let name = metric.to_string().replace('_', " ");
    match metric.unit() {
        Unit::Fraction => format!("{name} %"),
        Unit::Epochs => format!("{name} (epochs)"),
        Unit::Seconds => format!("{name} (s)"),
    }
}

/// Returns a fraction in percent.
pub(crate) fn percent(fraction: Option<f64>) -> String {
    fraction.map_or_else(|| "–".to_owned(), |fraction| format!("{:.2}", fraction * 100.0))
}
