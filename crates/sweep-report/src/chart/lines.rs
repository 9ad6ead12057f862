//! Panels of lines and points, and the frame that all panels have: title, axes, grid, notes.

use std::convert::Infallible;

use plotters::chart::{ChartBuilder, ChartContext, LabelAreaPosition};
use plotters::coord::Shift;
use plotters::coord::cartesian::Cartesian2d;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::drawing::{DrawingArea, DrawingAreaErrorKind, IntoDrawingArea as _};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color as _, FontFamily, FontStyle, IntoFont as _, RGBColor, TextStyle};

use super::canvas::{Canvas, Hint, Mark, Place, Shape, TENTHS};
use super::palette::{FAINT, GRID, INK};
use super::text::{NORMAL, ROOM, SMALL, fitted};
use super::{Axis, Body, Panel, Point, Series, Trace, WIDTH, bars, heat};
use crate::error::{Error, Result};
use crate::fold::evenly;

/// Where the chart begins below the title.
const TOP: u32 = 24;
/// Room at the left edge: letters are higher than plotters reckons.
const EDGE: u32 = 4;
/// Room at the right edge, for half a label.
const RIGHT: u32 = 14;
/// Room for the labels of the x axis and its quantity.
pub(crate) const BOTTOM: u32 = 36;
/// Room below that: some letters reach lower than plotters reckons.
const FOOT: u32 = 3;
/// Room for the labels of the y axis and its quantity.
const LEFT: u32 = 48;
/// Height of a panel of lines without notes.
const HEIGHT: u32 = 235;
/// Height of a line of notes.
const NOTE: u32 = 14;
/// Gap between the chart and its notes.
const NOTES: u32 = 8;
/// Labels of an axis, at most.
const LABELS: i32 = 7;
/// Points that a line is drawn through, at most.
const POINTS: usize = 240;
/// Markers of a line, at most.
const MARKERS: usize = 17;

/// What plotters says when it cannot draw.
pub(crate) type Fault = DrawingAreaErrorKind<Infallible>;
/// A drawing area without coordinates of its own.
pub(crate) type Area<'a> = DrawingArea<Canvas<'a>, Shift>;
/// A chart with its coordinates.
pub(crate) type Plot<'a, 'b> = ChartContext<'a, Canvas<'b>, Cartesian2d<Scale, Scale>>;

/// Returns the height of a panel, in units.
pub(crate) fn height(panel: &Panel) -> u32 {
    notes(panel)
        + match &panel.body {
            Body::Lines { .. } => HEIGHT,
            Body::Bars { groups, .. } => TOP + bars::height(groups) + BOTTOM + FOOT,
            Body::Heat { rows, .. } => TOP + heat::height(rows.len()) + BOTTOM + FOOT,
        }
}

/// Returns the room that notes need, in units.
fn notes(panel: &Panel) -> u32 {
    if panel.notes.is_empty() { 0 } else { NOTES + panel.notes.len() as u32 * NOTE }
}

/// Draws a panel and returns its SVG elements, for a canvas of [`WIDTH`] × [`height`].
pub(crate) fn draw(panel: &Panel, place: Place) -> Result<String> {
    let mut out = String::new();
    let root = Canvas::new(&mut out, (WIDTH, height(panel)), place).into_drawing_area();
    let failed = |fault: Fault| Error::Draw { panel: panel.title.clone(), reason: fault.to_string() };
    around(&root, panel).map_err(failed)?;
    let drawn = match &panel.body {
        Body::Lines { x, y, series } => lines(&root, panel, (x, y), series),
        Body::Bars { x, groups } => bars::draw(&root, panel, x, groups),
        Body::Heat { .. } => heat::draw(&root, panel),
    };
    drawn.map_err(failed)?;
    drop(root);
    Ok(out)
}

/// Draws title and notes.
fn around(root: &Area<'_>, panel: &Panel) -> Result<(), Fault> {
    let normal = style(NORMAL, INK);
    let bold = TextStyle { font: normal.font.style(FontStyle::Bold), ..normal };
    root.draw_text(&fitted(&panel.title, NORMAL, ROOM), &bold, (80, 40))?;
    let first = height(panel) - panel.notes.len() as u32 * NOTE;
    for (line, note) in (0..).zip(&panel.notes) {
        let at = (80, ((first + line * NOTE) * TENTHS) as i32);
        root.draw_text(&fitted(note, SMALL, ROOM), &style(SMALL, FAINT), at)?;
    }
    Ok(())
}

fn style(size: u32, colour: RGBColor) -> TextStyle<'static> {
    let font = (FontFamily::SansSerif, size * TENTHS).into_font();
    let pos = Pos::new(HPos::Left, VPos::Top);
    TextStyle { font, color: colour.to_backend_color(), pos }
}

/// Room around the chart, in units.
pub(crate) struct Margins {
    pub(crate) left: u32,
    pub(crate) notes: u32,
}

impl Margins {
    pub(crate) fn of(panel: &Panel, left: u32) -> Self {
        Self { left, notes: notes(panel) }
    }
}

/// Lays out a chart and draws its axes and grid.
pub(crate) fn frame<'a, 'b>(
    root: &'a Area<'b>,
    (x, y): (&Axis, &Axis),
    margins: &Margins,
    grid: bool,
) -> Result<Plot<'a, 'b>, Fault> {
    let mut plot = ChartBuilder::on(root)
        .margin_top(TOP * TENTHS)
        .margin_left(EDGE * TENTHS)
        .margin_right(RIGHT * TENTHS)
        .margin_bottom((margins.notes + FOOT) * TENTHS)
        .set_label_area_size(LabelAreaPosition::Left, (margins.left - EDGE) * TENTHS)
        .set_label_area_size(LabelAreaPosition::Bottom, BOTTOM * TENTHS)
        .build_cartesian_2d(scale(x), scale(y))?;
    let (label, quantity) = (style(SMALL, FAINT), style(SMALL, INK));
    let mut mesh = plot.configure_mesh();
    mesh.x_desc(x.label.clone())
        .y_desc(y.label.clone())
        .axis_desc_style(quantity)
        .label_style(label)
        .axis_style(FAINT.stroke_width(TENTHS))
        .bold_line_style(GRID.stroke_width(TENTHS))
        .light_line_style(GRID.mix(0.0))
        .x_label_formatter(&whole)
        .y_label_formatter(&whole)
        .set_all_tick_mark_size(3 * TENTHS);
    if !grid {
        mesh.disable_mesh();
    }
    mesh.draw()?;
    Ok(plot)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "plotters calls it with a reference")]
fn whole(value: &f64) -> String {
    format!("{value:.0}")
}

/// An axis as plotters asks for it: straight, with labels where the axis says.
pub(crate) struct Scale {
    low: f64,
    high: f64,
    ticks: Vec<f64>,
}

impl Ranged for Scale {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let part = (value - self.low) / (self.high - self.low);
        let (from, to) = (f64::from(limit.0), f64::from(limit.1));
        part.mul_add(to - from, from).round() as i32
    }

    fn key_points<H: KeyPointHint>(&self, _: H) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> std::ops::Range<f64> {
        self.low..self.high
    }
}

fn scale(axis: &Axis) -> Scale {
    let ticks = axis.ticks.iter().map(|tick| f64::from(*tick)).collect();
    Scale { low: axis.low, high: axis.high, ticks }
}

/// Returns the multiples of 1, 2 or 5 times a power of ten within a range: of the smallest step that gives few labels.
pub(crate) fn ticks(low: f64, high: f64) -> Vec<i32> {
    let (first, last) = (low.ceil() as i32, high.floor() as i32);
    let steps = (0..9).flat_map(|power| [1, 2, 5].map(|step| step * 10_i32.pow(power)));
    let step = steps.into_iter().find(|step| (last - first) / step < LABELS).unwrap_or(i32::MAX);
    (first..=last).filter(|tick| tick % step == 0).collect()
}

fn lines(root: &Area<'_>, panel: &Panel, axes: (&Axis, &Axis), series: &[Series]) -> Result<(), Fault> {
    let mut plot = frame(root, axes, &Margins::of(panel, LEFT), true)?;
    for series in series {
        plot.draw_series(below(series))?;
    }
    for series in series {
        plot.draw_series(line(series))?;
    }
    for series in series {
        plot.draw_series(above(series, axes))?;
    }
    Ok(())
}

/// Shaded areas and bands.
fn below(series: &Series) -> Vec<Mark> {
    let mut marks = Vec::new();
    if let Some(end) = series.shaded_to {
        let corners = area_below(&series.points, end);
        marks.push(Mark::new(corners, Shape::Area(series.style, 0.16)));
    }
    if series.trace != Trace::None
        && series.points.len() > 1
        && series.points.iter().any(|point| point.deviation > 0.0)
    {
        let upper = series.points.iter().map(|point| (point.x, point.y + point.deviation));
        let lower = series.points.iter().rev().map(|point| (point.x, point.y - point.deviation));
        marks.push(Mark::new(upper.chain(lower).collect(), Shape::Area(series.style, 0.2)));
    }
    marks
}

/// Returns the corners of the area between a line and the x axis, from the line's beginning to `end`.
pub(crate) fn area_below(points: &[Point], end: f64) -> Vec<(f64, f64)> {
    let inside: Vec<(f64, f64)> =
        points.iter().filter(|point| point.x <= end).map(|point| (point.x, point.y)).collect();
    let (Some(first), Some(last)) = (inside.first(), inside.last()) else { return Vec::new() };
    let (left, right) = (first.0, last.0);
    inside.into_iter().chain([(right, 0.0), (left, 0.0)]).collect()
}

fn line(series: &Series) -> Option<Mark> {
    let chosen = evenly(series.points.len(), POINTS).into_iter().map(|index| &series.points[index]);
    let points: Vec<(f64, f64)> = match series.trace {
        Trace::None => return None,
        Trace::Straight => chosen.map(|point| (point.x, point.y)).collect(),
        Trace::Steps => chosen.flat_map(|point| [(point.x - 1.0, point.y), (point.x, point.y)]).collect(),
    };
    Some(Mark::new(points, Shape::Line(series.style)))
}

/// Markers and crosses.
fn above(series: &Series, axes: (&Axis, &Axis)) -> Vec<Mark> {
    let mut marks = Vec::new();
    if series.markers {
        for index in evenly(series.points.len(), MARKERS) {
            let point = &series.points[index];
            let mut mark = Mark::new(vec![(point.x, point.y)], Shape::Marker(series.style));
            mark.hint = Some(Hint { run: point.run, text: hint(series, point, axes) });
            marks.push(mark);
        }
    }
    if let Some(at) = series.onset.and_then(|onset| Some((onset, height_at(&series.points, onset)?))) {
        marks.push(Mark::new(vec![at], Shape::Cross));
    }
    marks
}

fn hint(series: &Series, point: &Point, (x, y): (&Axis, &Axis)) -> String {
    let spread =
        if point.n > 1 { format!(" ± {:.2} (n = {})", point.deviation, point.n) } else { String::new() };
    let place = (point.x * 100.0).round() / 100.0;
    format!("{}: {:.2}{spread}, {}, at {place}, {}", series.label, point.y, y.label, x.label)
}

/// Returns the height of a line at `x`: straight between its points; `None` beyond its ends.
pub(crate) fn height_at(points: &[Point], x: f64) -> Option<f64> {
    let after = points.iter().position(|point| point.x >= x)?;
    let right = &points[after];
    if right.x == x {
        return Some(right.y);
    }
    let left = &points[after.checked_sub(1)?];
    Some((right.y - left.y).mul_add((x - left.x) / (right.x - left.x), left.y))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ticks_are_whole_and_inside() {
        assert_eq!(ticks(0.0, 100.0), [0, 20, 40, 60, 80, 100]);
        assert_eq!(ticks(0.0, 3.0), [0, 1, 2, 3]);
        assert_eq!(ticks(0.0, 0.5), [0]);
        assert_eq!(ticks(0.0, 6.0), [0, 1, 2, 3, 4, 5, 6]);
    }

    proptest! {
        #[test]
        fn few_ticks_on_every_axis(low in -50..50_i32, length in 1..3_000_i32) {
            let (low, high) = (f64::from(low), f64::from(low + length));
            let ticks = ticks(low, high);
            prop_assert!(!ticks.is_empty() && ticks.len() <= LABELS as usize);
            prop_assert!(ticks.iter().all(|tick| (low..=high).contains(&f64::from(*tick))));
        }
    }
}
