//! Whole drawings: a panel for the page, and a figure with its legend as a file of its own.

use std::fmt::Write as _;

use super::canvas::{Canvas, Place, cross, marker, rgb, short};
use super::lines::{draw, height};
use super::palette::{FAINT, INK, PAPER, curve, dash};
use super::text::{FAMILIES, NORMAL, SMALL, fitted, width};
use super::{Entry, Figure, Panel, Swatch, WIDTH, png};
use crate::error::Result;
use crate::escape::escape;

/// Size of a legend's swatch, in units.
const SWATCH: (u32, u32) = (30, 14);
/// Gap between entries of a legend.
const GAP: f64 = 16.0;
/// Margin around a figure.
const MARGIN: u32 = 12;
/// Height of a line of the legend.
const LINE: u32 = 18;
/// Gap between panels.
const BETWEEN: u32 = 14;
/// Pixels a unit in PNG: for print at about 190 dots an inch.
const PIXELS: f32 = 2.0;

/// Returns a panel as an SVG element for the page.
pub(crate) fn panel_svg(panel: &Panel) -> Result<String> {
    let (elements, title) = (draw(panel, Place::Page)?, escape(&panel.title));
    let (wide, tall) = (WIDTH, height(panel));
    Ok(format!(
        "<svg class=\"panel\" viewBox=\"0 0 {wide} {tall}\" role=\"img\" aria-label=\"{title}\">\
         <title>{title}</title>{elements}</svg>"
    ))
}

/// Returns the picture of a legend's entry as an SVG element for the page.
pub(crate) fn swatch_svg(swatch: Swatch) -> String {
    let (wide, tall) = SWATCH;
    format!(
        "<svg class=\"swatch\" viewBox=\"0 0 {wide} {tall}\" width=\"{wide}\" height=\"{tall}\" aria-hidden=\"true\">{}</svg>",
        picture(swatch, Place::Page)
    )
}

fn picture(swatch: Swatch, place: Place) -> String {
    let mut out = String::new();
    let (wide, tall) = SWATCH;
    let middle = (f64::from(wide) / 2.0, f64::from(tall) / 2.0);
    let line = |colour: usize, pattern: usize| {
        let (stroke, pattern) = (place.colour(rgb(curve(colour))), dash(pattern));
        let pattern =
            if pattern.is_empty() { String::new() } else { format!(" stroke-dasharray=\"{pattern}\"") };
        format!("<path stroke=\"{stroke}\" stroke-width=\"1.8\"{pattern} d=\"M1 7H{}\"/>", wide - 1)
    };
    let block = |colour: &str, opacity: f64| {
        format!(
            "<rect x=\"1\" y=\"2\" width=\"28\" height=\"10\" fill=\"{colour}\" fill-opacity=\"{opacity}\"/>"
        )
    };
    match swatch {
        Swatch::Line(style, _) => out.push_str(&line(style.colour, style.dash)),
        Swatch::Bar(style) => out.push_str(&block(&place.colour(rgb(curve(style.colour))), 1.0)),
        Swatch::Band => out.push_str(&block(&place.colour(rgb(FAINT)), 0.25)),
        Swatch::Marker(_) | Swatch::Cross => {}
    }
    let mut canvas = Canvas::new(&mut out, SWATCH, place);
    match swatch {
        Swatch::Line(style, true) | Swatch::Marker(style) | Swatch::Bar(style) => {
            marker(&mut canvas, style, middle);
        }
        Swatch::Cross => cross(&mut canvas, middle),
        Swatch::Line(_, false) | Swatch::Band => {}
    }
    out
}

/// A part of a figure's file, at its place.
struct Placed {
    at: (f64, f64),
    elements: String,
}

impl Figure {
    /// Returns the figure as an SVG file, dark on white, for papers and slides. The same figure gives the same bytes.
    pub fn sheet(&self) -> Result<String> {
        let columns = if self.in_threes { 3 } else { columns(self.panels.len()) };
        let wide = columns as u32 * (WIDTH + BETWEEN) - BETWEEN + 2 * MARGIN;
        let (mut parts, mut y) = self.legend_at(f64::from(wide), f64::from(MARGIN));
        for row in self.panels.chunks(columns) {
            for (column, panel) in row.iter().enumerate() {
                let x = f64::from(MARGIN) + f64::from(WIDTH + BETWEEN) * column as f64;
                parts.push(Placed { at: (x, y), elements: draw(panel, Place::File)? });
            }
            y += f64::from(row.iter().map(height).max().unwrap_or(0) + BETWEEN);
        }
        let tall = y.ceil() as u32 - BETWEEN + MARGIN;
        Ok(document(&parts, self.title, (wide, tall)))
    }

    /// Returns the figure as a PNG file: the pixels of [`Self::sheet`], two a unit.
    pub fn png(&self) -> Result<Vec<u8>> {
        png::of(self.name, &self.sheet()?, PIXELS)
    }

    /// Lays out title and legend; returns them with the y below.
    fn legend_at(&self, wide: f64, top: f64) -> (Vec<Placed>, f64) {
        let left = f64::from(MARGIN);
        let room = 2.0_f64.mul_add(-left, wide);
        let title = words(&fitted(self.title, NORMAL, room), NORMAL, rgb(INK), true);
        let mut parts = vec![Placed { at: (left, top), elements: title }];
        let (mut x, mut y) = (left, top + f64::from(LINE) + 4.0);
        for entry in &self.legend {
            let needed = f64::from(SWATCH.0) + 6.0 + width(&entry.label, SMALL).min(room - 40.0);
            if x > left && x + needed > wide - left {
                (x, y) = (left, y + f64::from(LINE));
            }
            parts.push(Placed { at: (x, y), elements: swatch_and_label(entry, room - 40.0) });
            x += needed + GAP;
        }
        let below = if self.legend.is_empty() { 0.0 } else { f64::from(LINE) + 6.0 };
        (parts, y + below)
    }
}

/// Returns how many panels stand side by side: of three to five, the number that leaves the fewest places empty.
pub(super) fn columns(panels: usize) -> usize {
    let empty = |columns: &usize| panels.next_multiple_of(*columns) - panels;
    if panels <= 5 { panels.max(1) } else { [5, 4, 3].into_iter().min_by_key(empty).unwrap_or(3) }
}

fn swatch_and_label(entry: &Entry, room: f64) -> String {
    let label = words(&fitted(&entry.label, SMALL, room), SMALL, rgb(INK), false);
    format!(
        "{}<g transform=\"translate({} 1)\">{label}</g>",
        picture(entry.swatch, Place::File),
        SWATCH.0 + 6
    )
}

fn words(text: &str, size: u32, colour: (u8, u8, u8), bold: bool) -> String {
    let weight = if bold { " font-weight=\"bold\"" } else { "" };
    let (fill, base) = (Place::File.colour(colour), short(f64::from(size) * 0.86));
    format!("<text x=\"0\" y=\"{base}\" font-size=\"{size}\" fill=\"{fill}\"{weight}>{}</text>", escape(text))
}

fn document(parts: &[Placed], title: &str, (wide, tall): (u32, u32)) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {wide} {tall}\" width=\"{wide}\" height=\"{tall}\" \
         font-family=\"{FAMILIES}\"><title>{}</title><rect width=\"{wide}\" height=\"{tall}\" fill=\"{}\"/>\n",
        escape(title),
        Place::File.colour(rgb(PAPER))
    );
    for Placed { at: (x, y), elements } in parts {
        writeln!(svg, "<g transform=\"translate({} {})\">{elements}</g>", short(*x), short(*y))
            .expect("a String takes every text");
    }
    svg.push_str("</svg>\n");
    svg
}
