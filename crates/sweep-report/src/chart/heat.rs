//! Panels of coloured cells with their values in them.

use plotters::style::RGBColor;
use plotters::style::text_anchor::{HPos, VPos};

use super::canvas::{Hint, Mark, Shape};
use super::lines::{Area, Fault, Margins, frame};
use super::palette::{FAINT, heat};
use super::{Axis, Body, Cell, Panel};

/// Height of a row, in units.
const ROW: u32 = 26;
/// Room for the names of the rows and what they are.
const LEFT: u32 = 48;
/// Part of the space between cells that stays empty, on each side.
const GAP: f64 = 0.03;

/// Returns the height of the chart, in units.
pub(crate) const fn height(rows: usize) -> u32 {
    let rows = rows as u32 * ROW;
    // Below this, the quantity of the y axis would not fit.
    if rows < 5 * ROW { 5 * ROW } else { rows }
}

/// Draws the cells; nothing for another kind of panel.
pub(crate) fn draw(root: &Area<'_>, panel: &Panel) -> Result<(), Fault> {
    let Body::Heat { x_label, y_label, columns, rows, cells } = &panel.body else { return Ok(()) };
    let axis = |label: &str, count: usize| Axis {
        label: label.to_owned(),
        low: 0.0,
        high: count as f64,
        ticks: Vec::new(),
    };
    let (x, y) = (axis(x_label, columns.len()), axis(y_label, rows.len()));
    let mut plot = frame(root, (&x, &y), &Margins::of(panel, LEFT), false)?;
    plot.draw_series((0..).zip(columns).map(|(place, name)| below(f64::from(place), name)))?;
    plot.draw_series((0..).zip(rows).map(|(place, name)| beside(f64::from(place), name)))?;
    let range = range(cells);
    for (row, values) in (0..).zip(cells) {
        for (column, cell) in (0..).zip(values) {
            let at = (f64::from(column), f64::from(row));
            plot.draw_series(cell.iter().flat_map(|cell| marks(cell, at, range)))?;
        }
    }
    Ok(())
}

/// Returns the smallest and largest value.
fn range(cells: &[Vec<Option<Cell>>]) -> (f64, f64) {
    let values = cells.iter().flatten().flatten().map(|cell| cell.value);
    values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)))
}

fn marks(cell: &Cell, (x, y): (f64, f64), (low, high): (f64, f64)) -> [Mark; 2] {
    let part = if high > low { (cell.value - low) / (high - low) } else { 0.5 };
    let (colour, is_dark) = heat(part);
    let (left, right, lower, upper) = (x + GAP, x + 1.0 - GAP, y + GAP, y + 1.0 - GAP);
    let text = format!("{:.1}", cell.value);
    let mut solid =
        Mark::new(vec![(left, lower), (right, lower), (right, upper), (left, upper)], Shape::Solid(colour));
    solid.hint = Some(Hint { run: cell.run, text: format!("{text} %") });
    // Black and white of their own: the cell's colour is the same on light and dark pages.
    let colour = if is_dark { RGBColor(1, 1, 1) } else { RGBColor(254, 254, 254) };
    let shape = Shape::Text { text, colour, anchor: (HPos::Center, VPos::Center), shift: (0.0, 0.0) };
    [solid, Mark::new(vec![(x + 0.5, y + 0.5)], shape)]
}

fn below(place: f64, name: &str) -> Mark {
    let anchor = (HPos::Center, VPos::Top);
    let shape = Shape::Text { text: name.to_owned(), colour: FAINT, anchor, shift: (0.0, 4.0) };
    Mark::new(vec![(place + 0.5, 0.0)], shape)
}

fn beside(place: f64, name: &str) -> Mark {
    let anchor = (HPos::Right, VPos::Center);
    let shape = Shape::Text { text: name.to_owned(), colour: FAINT, anchor, shift: (-5.0, 0.0) };
    Mark::new(vec![(0.0, place + 0.5)], shape)
}
