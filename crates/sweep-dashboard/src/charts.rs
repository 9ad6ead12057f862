//! Charts of one run, as the crate `plotly` describes them. Colours are the page's and come from the script.

use plotly::common::{AxisSide, DashType, Line, Mode, Orientation};
use plotly::configuration::{Configuration, DisplayModeBar};
use plotly::layout::{Annotation, Axis, AxisRange, HoverMode, Layout, Legend, Margin, RangeMode};
use plotly::{Plot, Scatter};
use sweep_store::{EpochRow, EvaluationRow};

use crate::curve::{MOST, kept};

/// Height in pixels, with room for the legend above the plot.
const HEIGHT: usize = 340;

/// Radii are shown in units of 1/255.
const UNIT: f64 = 255.0;

/// Takes a loss out of an epoch; `None` where it was not finite.
type Loss = fn(&EpochRow) -> Option<f64>;

/// Returns validation accuracy over epochs, with the radius of training.
pub(crate) fn accuracy(epochs: &[EpochRow], budget: u32) -> String {
    let share = |part: u32, whole: u32| 100.0 * f64::from(part) / f64::from(whole);
    let mut plot = over_epochs(budget);
    add(
        &mut plot,
        "clean %",
        epochs,
        |epoch| share(epoch.clean_correct, epoch.validation_total),
        DashType::Solid,
        "y",
    );
    add(
        &mut plot,
        "robust %",
        epochs,
        |epoch| share(epoch.robust_correct, epoch.validation_total),
        DashType::Dash,
        "y",
    );
    add(&mut plot, "epsilon · 255", epochs, |epoch| epoch.epsilon * UNIT, DashType::Dot, "y2");
    let radius = axis("epsilon · 255").overlaying("y").side(AxisSide::Right).range_mode(RangeMode::ToZero);
    let layout = plot.layout().clone();
    let percent = axis("accuracy %").range(AxisRange::new(0.0, 100.0));
    plot.set_layout(noted(layout, epochs.is_empty()).y_axis(percent).y_axis2(radius.show_grid(false)));
    plot.to_json()
}

/// Returns losses over epochs.
pub(crate) fn losses(epochs: &[EpochRow], budget: u32) -> String {
    let mut plot = over_epochs(budget);
    let series: [(&str, Loss, DashType); 3] = [
        ("clean", |epoch| epoch.clean_loss, DashType::Solid),
        ("robust", |epoch| epoch.robust_loss, DashType::Dash),
        ("training", |epoch| epoch.train_loss, DashType::Dot),
    ];
    for (name, of, dash) in series {
        add(&mut plot, name, epochs, |epoch| of(epoch).unwrap_or(f64::NAN), dash, "y");
    }
    let layout =
        noted(plot.layout().clone(), epochs.is_empty()).y_axis(axis("loss").range_mode(RangeMode::ToZero));
    plot.set_layout(layout);
    plot.to_json()
}

/// Returns accuracy over the radius; `points` are of one attack, by radius.
pub(crate) fn over_epsilon(points: &[&EvaluationRow]) -> String {
    let mut plot = Plot::new();
    let radii: Vec<f64> = points.iter().map(|point| point.epsilon.value() * UNIT).collect();
    let shares = points.iter().map(|point| Some(100.0 * point.count.accuracy())).collect();
    plot.add_trace(trace("test accuracy %", radii, shares, DashType::Solid, "y"));
    let layout = noted(layout(axis("epsilon · 255").range_mode(RangeMode::ToZero)), points.is_empty());
    plot.set_layout(layout.y_axis(axis("accuracy %").range(AxisRange::new(0.0, 100.0))));
    plot.set_configuration(configuration());
    plot.to_json()
}

fn over_epochs(budget: u32) -> Plot {
    let mut plot = Plot::new();
    let end = f64::from(budget.max(1));
    let margin = 0.02 * end;
    plot.set_layout(layout(axis("epoch").range(AxisRange::new(1.0 - margin - 0.2, end + margin + 0.2))));
    plot.set_configuration(configuration());
    plot
}

/// Adds a curve, with as many points as can be told apart.
fn add(
    plot: &mut Plot,
    name: &str,
    epochs: &[EpochRow],
    value: impl Fn(&EpochRow) -> f64,
    dash: DashType,
    y_axis: &'static str,
) {
    let values: Vec<f64> = epochs.iter().map(value).collect();
    let places = kept(&values, MOST);
    let x = places.iter().map(|place| f64::from(epochs[*place].epoch + 1)).collect();
    let y = places.iter().map(|place| Some(values[*place]).filter(|value| value.is_finite())).collect();
    plot.add_trace(trace(name, x, y, dash, y_axis));
}

fn trace(
    name: &str,
    x: Vec<f64>,
    y: Vec<Option<f64>>,
    dash: DashType,
    y_axis: &'static str,
) -> Box<Scatter<f64, Option<f64>>> {
    let mode = if x.len() > 60 { Mode::Lines } else { Mode::LinesMarkers };
    Scatter::new(x, y).name(name).mode(mode).line(Line::new().dash(dash).width(2.0)).y_axis(y_axis)
}

fn axis(title: &str) -> Axis {
    Axis::new().title(title).zero_line(false).auto_margin(true)
}

fn layout(x: Axis) -> Layout {
    let legend = Legend::new()
        .orientation(Orientation::Horizontal)
        .x(0.0)
        .y(1.02)
        .y_anchor(plotly::common::Anchor::Bottom);
    Layout::new()
        .auto_size(true)
        .height(HEIGHT)
        .margin(Margin::new().left(48).right(48).top(36).bottom(44))
        .hover_mode(HoverMode::XUnified)
        .show_legend(true)
        .legend(legend)
        .x_axis(x)
}

/// Says in the middle of a chart that nothing is there, where that is so.
fn noted(layout: Layout, is_empty: bool) -> Layout {
    if !is_empty {
        return layout;
    }
    let note = Annotation::new().text("nothing measured yet").show_arrow(false);
    layout.annotations(vec![note.x_ref("paper").y_ref("paper").x(0.5).y(0.5)])
}

fn configuration() -> Configuration {
    Configuration::new().responsive(true).display_logo(false).display_mode_bar(DisplayModeBar::False)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn a_long_curve_is_sent_short_and_a_gap_stays_a_gap() {
        let epoch = |epoch: u32| EpochRow {
            epoch,
            attempt: 1,
            epsilon: f64::from(epoch) / 1e6,
            learning_rate: None,
            train_loss: None,
            train_correct: 0,
            train_total: 1,
            clean_correct: epoch % 100,
            robust_correct: 0,
            validation_total: 100,
            clean_loss: Some(1.0),
            robust_loss: Some(2.0),
            train_seconds: 0.0,
            validation_seconds: 0.0,
            trained_by: None,
            finished_ms: 0,
        };
        let epochs: Vec<EpochRow> = (0..5_000).map(epoch).collect();
        let figure: Value = serde_json::from_str(&accuracy(&epochs, 5_000)).unwrap();
        for trace in figure["data"].as_array().unwrap() {
            let points = trace["x"].as_array().unwrap();
            assert!(points.len() <= MOST && points[0] == 1.0 && points[points.len() - 1] == 5_000.0);
        }
        let figure: Value = serde_json::from_str(&losses(&epochs[..3], 3)).unwrap();
        assert_eq!(figure["data"][2]["y"], serde_json::json!([null, null, null]));
        assert_eq!(figure["data"][0]["y"][2], 1.0);
    }
}
