//! Panels of grouped horizontal bars: names stand upright however long they are.

use plotters::style::text_anchor::{HPos, VPos};

use super::canvas::{Hint, Mark, Shape};
use super::lines::{Area, Fault, Margins, frame};
use super::palette::{FAINT, INK};
use super::text::{SMALL, fitted, width};
use super::{Axis, Bar, Group, Panel, WIDTH, canvas, palette};

/// Height of a bar with the gap below it, in units.
const BAR: u32 = 14;
/// Gap between groups, in units.
const GAP: u32 = 10;
/// Names are cut at this width, in units.
const NAMES: f64 = 124.0;
/// Part of a bar's room that it fills.
const FILL: f64 = 0.84;

/// Returns the height of the chart, in units.
pub(crate) fn height(groups: &[Group]) -> u32 {
    groups.iter().map(|group| group.bars.len() as u32 * BAR + GAP).sum()
}

/// Draws the bars. The y axis counts units from the lower edge.
pub(crate) fn draw(root: &Area<'_>, panel: &Panel, x: &Axis, groups: &[Group]) -> Result<(), Fault> {
    let names: Vec<String> = groups.iter().map(|group| fitted(&group.label, SMALL, NAMES)).collect();
    let longest = names.iter().map(|name| width(name, SMALL)).fold(0.0, f64::max);
    let total = f64::from(height(groups));
    let y = Axis { label: String::new(), low: 0.0, high: total, ticks: Vec::new() };
    let left = (longest.ceil() as u32 + 12).min(WIDTH / 2);
    let mut plot = frame(root, (x, &y), &Margins::of(panel, left), true)?;
    let mut top = total;
    for (group, name) in groups.iter().zip(&names) {
        let tall = f64::from(group.bars.len() as u32 * BAR);
        top -= f64::from(GAP) / 2.0;
        plot.draw_series([text((0.0, top - tall / 2.0), name, HPos::Right, -6.0)])?;
        for (place, bar) in (0..).zip(&group.bars) {
            let upper = f64::from(place).mul_add(-f64::from(BAR), top);
            plot.draw_series(bar.iter().flat_map(|bar| marks(bar, &group.label, upper, x)))?;
        }
        top -= tall + f64::from(GAP) / 2.0;
    }
    Ok(())
}

/// A bar, its marker at its foot, and its value behind its end.
fn marks(bar: &Bar, group: &str, upper: f64, x: &Axis) -> [Mark; 3] {
    let lower = f64::from(BAR).mul_add(-FILL, upper);
    let middle = f64::midpoint(upper, lower);
    let corners = vec![(0.0, upper), (bar.value, upper), (bar.value, lower), (0.0, lower)];
    let number = format!("{:.1}", bar.value);
    let mut solid = Mark::new(corners, Shape::Solid(palette::curve(bar.style.colour)));
    solid.hint = Some(Hint { run: bar.run, text: format!("{group}: {number}, {}", x.label) });
    let foot = canvas::Mark::new(vec![(x.high * 0.022, middle)], Shape::Marker(bar.style));
    [solid, foot, text((bar.value, middle), &number, HPos::Left, 3.0)]
}

fn text(at: (f64, f64), text: &str, side: HPos, shift: f64) -> Mark {
    let colour = if matches!(side, HPos::Right) { INK } else { FAINT };
    let shape =
        Shape::Text { text: text.to_owned(), colour, anchor: (side, VPos::Center), shift: (shift, 0.0) };
    Mark::new(vec![at], shape)
}
