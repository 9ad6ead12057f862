//! What `plotters` draws on: SVG text, with what its own SVG lacks: dashes, links, hints on hovering, and colours as variables.

use std::convert::Infallible;
use std::fmt::Write as _;

use plotters::element::{Drawable, PointCollection};
use plotters::style::RGBColor;
use plotters_backend::text_anchor::{HPos, VPos};
use plotters_backend::{
    BackendColor, BackendCoord, BackendStyle, BackendTextStyle, DrawingBackend, DrawingErrorKind, FontStyle,
    FontTransform,
};
use sweep_core::spec::RunId;

use super::text::{self, SMALL};
use super::{Style, palette};
use crate::escape::escape;

/// Plotters counts in whole pixels; a tenth of a unit is one of them, so that curves are smooth.
pub(crate) const TENTHS: u32 = 10;

/// Half the height of a marker, in units.
const MARKER: f64 = 3.2;

/// Where a drawing is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the page: colours are its variables, points link to its rows.
    Page,
    /// In a file of its own: a paper's figure, dark on white.
    File,
}

impl Place {
    /// Returns a colour as an attribute takes it.
    pub(crate) fn colour(self, colour: (u8, u8, u8)) -> String {
        match (self, palette::variable(colour)) {
            (Self::Page, Some(name)) => format!("var(--{name})"),
            _ => format!("#{:02x}{:02x}{:02x}", colour.0, colour.1, colour.2),
        }
    }
}

/// A drawing as it grows.
pub(crate) struct Canvas<'a> {
    out: &'a mut String,
    /// In tenths of a unit.
    size: (u32, u32),
    pub(crate) place: Place,
}

impl<'a> Canvas<'a> {
    /// Returns an empty canvas of a size in units that writes elements to `out`.
    pub(crate) const fn new(out: &'a mut String, (width, height): (u32, u32), place: Place) -> Self {
        Self { out, size: (width * TENTHS, height * TENTHS), place }
    }

    fn write(&mut self, element: std::fmt::Arguments<'_>) {
        self.out.write_fmt(element).expect("a String takes every text");
    }

    fn path(&mut self, points: &[BackendCoord], colour: (u8, u8, u8), alpha: f64, width: f64, dash: &str) {
        if points.len() < 2 || alpha == 0.0 {
            return;
        }
        let stroke = self.place.colour(colour);
        let dash = if dash.is_empty() { String::new() } else { format!(" stroke-dasharray=\"{dash}\"") };
        let opacity = opacity(alpha, "stroke");
        self.write(format_args!(
            "<polyline fill=\"none\" stroke=\"{stroke}\" stroke-width=\"{width}\"{dash}{opacity} points=\"{}\"/>",
            listed(points)
        ));
    }

    fn polygon(&mut self, points: &[BackendCoord], colour: (u8, u8, u8), alpha: f64) {
        let (fill, opacity) = (self.place.colour(colour), opacity(alpha, "fill"));
        self.write(format_args!("<polygon fill=\"{fill}\"{opacity} points=\"{}\"/>", listed(points)));
    }

    /// Writes text whose `anchor` is at a point in units.
    fn text(&mut self, words: &Words<'_>, (x, y): (f64, f64), turned: bool) {
        if words.text.is_empty() {
            return;
        }
        let size = words.size;
        let anchor = match words.anchor.0 {
            HPos::Left => "start",
            HPos::Center => "middle",
            HPos::Right => "end",
        };
        // The parts of a letter's size that the capitals of common fonts take.
        let base = y + f64::from(size)
            * match words.anchor.1 {
                VPos::Top => 0.76,
                VPos::Center => 0.36,
                VPos::Bottom => -0.2,
            };
        let weight = if words.bold { " font-weight=\"bold\"" } else { "" };
        let turn = if turned {
            format!(" transform=\"rotate(-90 {} {})\"", short(x), short(y))
        } else {
            String::new()
        };
        let (fill, text) = (self.place.colour(words.colour), escape(words.text));
        self.write(format_args!(
            "<text x=\"{}\" y=\"{}\" font-size=\"{size}\" text-anchor=\"{anchor}\" fill=\"{fill}\"{weight}{turn}>{text}</text>",
            short(x),
            short(base)
        ));
    }

    /// Draws what belongs to a run, so that it leads there and says what it is.
    fn linked(&mut self, hint: &Hint, draw: impl FnOnce(&mut Self)) {
        let is_page = self.place == Place::Page;
        if is_page {
            self.write(format_args!("<a href=\"#run-{}\">", hint.run));
        }
        self.write(format_args!("<g><title>{}</title>", escape(&hint.text)));
        draw(self);
        self.out.push_str("</g>");
        if is_page {
            self.out.push_str("</a>");
        }
    }
}

/// A text and its look.
pub(crate) struct Words<'a> {
    pub(crate) text: &'a str,
    pub(crate) size: u32,
    pub(crate) colour: (u8, u8, u8),
    pub(crate) bold: bool,
    pub(crate) anchor: (HPos, VPos),
}

/// What a mark leads to and says on hovering.
#[derive(Clone, Debug)]
pub(crate) struct Hint {
    pub(crate) run: RunId,
    pub(crate) text: String,
}

/// Something of a series, at points of the chart's own coordinates.
pub(crate) struct Mark {
    pub(crate) points: Vec<(f64, f64)>,
    pub(crate) shape: Shape,
    pub(crate) hint: Option<Hint>,
}

/// What is drawn there.
pub(crate) enum Shape {
    /// A line through the points.
    Line(Style),
    /// A light area with the points as corners, with this opacity.
    Area(Style, f64),
    /// A filled area with the points as corners.
    Solid(RGBColor),
    /// The marker of a series, at each point.
    Marker(Style),
    /// A cross at each point.
    Cross,
    /// Text at each point, shifted to the right and down by so many units.
    Text { text: String, colour: RGBColor, anchor: (HPos, VPos), shift: (f64, f64) },
}

impl Mark {
    pub(crate) const fn new(points: Vec<(f64, f64)>, shape: Shape) -> Self {
        Self { points, shape, hint: None }
    }

    fn paint(&self, points: &[BackendCoord], canvas: &mut Canvas<'_>) {
        match &self.shape {
            Shape::Line(style) => {
                canvas.path(points, rgb(palette::curve(style.colour)), 1.0, 1.8, palette::dash(style.dash));
            }
            Shape::Area(style, alpha) => canvas.polygon(points, rgb(palette::curve(style.colour)), *alpha),
            Shape::Solid(colour) => canvas.polygon(points, rgb(*colour), 1.0),
            Shape::Marker(style) => points.iter().for_each(|point| marker(canvas, *style, units(*point))),
            Shape::Cross => points.iter().for_each(|point| cross(canvas, units(*point))),
            Shape::Text { text, colour, anchor, shift } => {
                let words = Words { text, size: SMALL, colour: rgb(*colour), bold: false, anchor: *anchor };
                for point in points {
                    let (x, y) = units(*point);
                    canvas.text(&words, (x + shift.0, y + shift.1), false);
                }
            }
        }
    }
}

impl<'a> PointCollection<'a, (f64, f64)> for &'a Mark {
    type Point = &'a (f64, f64);
    type IntoIter = std::slice::Iter<'a, (f64, f64)>;

    fn point_iter(self) -> Self::IntoIter {
        self.points.iter()
    }
}

impl Drawable<Canvas<'_>> for Mark {
    fn draw<I: Iterator<Item = BackendCoord>>(
        &self,
        points: I,
        canvas: &mut Canvas<'_>,
        _: (u32, u32),
    ) -> Result<(), DrawingErrorKind<Infallible>> {
        let points: Vec<BackendCoord> = points.collect();
        match &self.hint {
            Some(hint) => canvas.linked(hint, |canvas| self.paint(&points, canvas)),
            None => self.paint(&points, canvas),
        }
        Ok(())
    }
}

/// Corners of the markers, in parts of [`MARKER`]; a circle has none.
const MARKERS: [&[(f64, f64)]; 8] = [
    &[],
    &[(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
    &[(0.0, -1.2), (1.1, 0.9), (-1.1, 0.9)],
    &[(0.0, -1.3), (1.3, 0.0), (0.0, 1.3), (-1.3, 0.0)],
    &[(0.0, 1.2), (1.1, -0.9), (-1.1, -0.9)],
    &[(-1.2, 0.0), (0.9, -1.1), (0.9, 1.1)],
    &[(1.2, 0.0), (-0.9, -1.1), (-0.9, 1.1)],
    &[(-1.4, -0.5), (1.4, -0.5), (1.4, 0.5), (-1.4, 0.5)],
];

/// Draws the marker of a style at a point in units. Thin outlines in the colour of the page keep neighbours apart.
pub(crate) fn marker(canvas: &mut Canvas<'_>, style: Style, (x, y): (f64, f64)) {
    let place = canvas.place;
    let (fill, edge) = (place.colour(rgb(palette::curve(style.colour))), place.colour(rgb(palette::PAPER)));
    let look = format!("fill=\"{fill}\" stroke=\"{edge}\" stroke-width=\"0.6\"");
    let corners = MARKERS[style.marker % MARKERS.len()];
    if corners.is_empty() {
        canvas.write(format_args!("<circle cx=\"{}\" cy=\"{}\" r=\"{MARKER}\" {look}/>", short(x), short(y)));
        return;
    }
    let points: Vec<String> = corners
        .iter()
        .map(|(right, down)| {
            format!("{},{}", short(right.mul_add(MARKER, x)), short(down.mul_add(MARKER, y)))
        })
        .collect();
    canvas.write(format_args!("<polygon {look} points=\"{}\"/>", points.join(" ")));
}

/// Draws the cross of an onset at a point in units.
pub(crate) fn cross(canvas: &mut Canvas<'_>, (x, y): (f64, f64)) {
    let stroke = canvas.place.colour(rgb(palette::INK));
    let [left, right, top, bottom] = [x - 4.5, x + 4.5, y - 4.5, y + 4.5].map(short);
    canvas.write(format_args!(
        "<path stroke=\"{stroke}\" stroke-width=\"1.8\" d=\"M{left} {top}L{right} {bottom}M{left} {bottom}L{right} {top}\"/>"
    ));
}

pub(crate) const fn rgb(colour: RGBColor) -> (u8, u8, u8) {
    (colour.0, colour.1, colour.2)
}

fn units((x, y): BackendCoord) -> (f64, f64) {
    (f64::from(x) / f64::from(TENTHS), f64::from(y) / f64::from(TENTHS))
}

/// Writes a number with at most one place.
pub(crate) fn short(number: f64) -> String {
    let text = format!("{number:.1}");
    text.strip_suffix(".0").map_or_else(|| text.clone(), str::to_owned)
}

fn listed(points: &[BackendCoord]) -> String {
    let point = |point: &BackendCoord| {
        let (x, y) = units(*point);
        format!("{},{}", short(x), short(y))
    };
    points.iter().map(point).collect::<Vec<_>>().join(" ")
}

fn opacity(alpha: f64, what: &str) -> String {
    if alpha < 1.0 { format!(" {what}-opacity=\"{alpha}\"") } else { String::new() }
}

impl DrawingBackend for Canvas<'_> {
    type ErrorType = Infallible;

    fn get_size(&self) -> (u32, u32) {
        self.size
    }

    fn ensure_prepared(&mut self) -> Result<(), DrawingErrorKind<Infallible>> {
        Ok(())
    }

    fn present(&mut self) -> Result<(), DrawingErrorKind<Infallible>> {
        Ok(())
    }

    fn draw_pixel(
        &mut self,
        (x, y): BackendCoord,
        colour: BackendColor,
    ) -> Result<(), DrawingErrorKind<Infallible>> {
        self.polygon(&[(x, y), (x + 1, y), (x + 1, y + 1), (x, y + 1)], colour.rgb, colour.alpha);
        Ok(())
    }

    fn draw_line<S: BackendStyle>(
        &mut self,
        from: BackendCoord,
        to: BackendCoord,
        style: &S,
    ) -> Result<(), DrawingErrorKind<Infallible>> {
        self.draw_path([from, to], style)
    }

    fn draw_rect<S: BackendStyle>(
        &mut self,
        (left, top): BackendCoord,
        (right, bottom): BackendCoord,
        style: &S,
        fill: bool,
    ) -> Result<(), DrawingErrorKind<Infallible>> {
        let corners = [(left, top), (right, top), (right, bottom), (left, bottom)];
        if fill { self.fill_polygon(corners, style) } else { self.draw_path(corners, style) }
    }

    fn draw_path<S: BackendStyle, I: IntoIterator<Item = BackendCoord>>(
        &mut self,
        path: I,
        style: &S,
    ) -> Result<(), DrawingErrorKind<Infallible>> {
        let points: Vec<BackendCoord> = path.into_iter().collect();
        let width = f64::from(style.stroke_width()) / f64::from(TENTHS);
        self.path(&points, style.color().rgb, style.color().alpha, width, "");
        Ok(())
    }

    fn draw_circle<S: BackendStyle>(
        &mut self,
        center: BackendCoord,
        radius: u32,
        style: &S,
        _: bool,
    ) -> Result<(), DrawingErrorKind<Infallible>> {
        let ((x, y), fill) = (units(center), self.place.colour(style.color().rgb));
        let radius = f64::from(radius) / f64::from(TENTHS);
        self.write(format_args!(
            "<circle cx=\"{}\" cy=\"{}\" r=\"{radius}\" fill=\"{fill}\"/>",
            short(x),
            short(y)
        ));
        Ok(())
    }

    fn fill_polygon<S: BackendStyle, I: IntoIterator<Item = BackendCoord>>(
        &mut self,
        corners: I,
        style: &S,
    ) -> Result<(), DrawingErrorKind<Infallible>> {
        let corners: Vec<BackendCoord> = corners.into_iter().collect();
        self.polygon(&corners, style.color().rgb, style.color().alpha);
        Ok(())
    }

    fn draw_text<T: BackendTextStyle>(
        &mut self,
        text: &str,
        style: &T,
        at: BackendCoord,
    ) -> Result<(), DrawingErrorKind<Infallible>> {
        let words = Words {
            text,
            size: (style.size() / f64::from(TENTHS)).round() as u32,
            colour: style.color().rgb,
            bold: matches!(style.style(), FontStyle::Bold),
            anchor: (style.anchor().h_pos, style.anchor().v_pos),
        };
        let turned = matches!(style.transform(), FontTransform::Rotate270 | FontTransform::Rotate90);
        self.text(&words, units(at), turned);
        Ok(())
    }

    fn estimate_text_size<T: BackendTextStyle>(
        &self,
        text: &str,
        style: &T,
    ) -> Result<(u32, u32), DrawingErrorKind<Infallible>> {
        let tenths = f64::from(TENTHS);
        let size = (style.size() / tenths).round() as u32;
        Ok(((text::width(text, size) * tenths).ceil() as u32, size * TENTHS))
    }
}
