//! Figures as data, and how they are drawn.
//!
//! A [`Figure`] says what there is to see: small panels with equal axes, series with their points, one legend. Nothing here
//! knows where the numbers come from. `plotters` lays out axes, ticks and coordinates; [`canvas`] turns what it draws into SVG
//! with real dashes, links to runs, and colours that follow the reader's light or dark page.

mod bars;
mod canvas;
mod heat;
mod lines;
mod palette;
mod png;
mod sheet;
mod text;

pub(crate) use palette::CURVES;
pub use palette::{heat_rules, stylesheet};
pub(crate) use sheet::{panel_svg, swatch_svg};
pub(crate) use text::in_lines;

use sweep_core::spec::RunId;

/// Width of a panel, in units of a CSS pixel.
pub(crate) const WIDTH: u32 = 320;

/// A figure: panels under one legend.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// Stem of its files, such as `accuracy-over-target-epsilon`.
    pub name: &'static str,
    /// What it reproduces, such as `Figure 1`.
    pub reference: &'static str,
    /// What it shows.
    pub title: &'static str,
    /// One sentence of numbers.
    pub caption: String,
    /// What colours, dashes and markers mean.
    pub legend: Vec<Entry>,
    /// At least one.
    pub panels: Vec<Panel>,
    /// Whether three panels each belong side by side.
    pub in_threes: bool,
}

/// A line of the legend.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// What it stands for.
    pub label: String,
    /// What it looks like.
    pub swatch: Swatch,
}

/// How a legend shows a style.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swatch {
    /// A line, with its marker where the series have them.
    Line(Style, bool),
    /// A marker alone.
    Marker(Style),
    /// A filled bar.
    Bar(Style),
    /// The cross that marks an onset.
    Cross,
    /// The band of a standard deviation.
    Band,
}

/// Which colour, dash and marker a series has: indices into the palettes, taken modulo their lengths. Series that differ in
/// colour differ in dash or marker too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Style {
    /// Index of the colour.
    pub colour: usize,
    /// Index of the dash; 0 is a solid line.
    pub dash: usize,
    /// Index of the marker.
    pub marker: usize,
}

impl Style {
    /// Returns the style of the `index`-th series.
    pub const fn nth(index: usize) -> Self {
        Self { colour: index, dash: index, marker: index }
    }
}

/// A small chart.
#[derive(Clone, Debug, PartialEq)]
pub struct Panel {
    /// What it is about; cut where it is too long, with the whole text on hovering.
    pub title: String,
    /// Lines of small print below it.
    pub notes: Vec<String>,
    /// The chart.
    pub body: Body,
}

/// What a panel shows.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// Lines or points over two axes.
    Lines {
        /// From left to right.
        x: Axis,
        /// From bottom to top.
        y: Axis,
        /// In the order in which they are drawn.
        series: Vec<Series>,
    },
    /// Horizontal bars, grouped by a name.
    Bars {
        /// From left to right, from 0.
        x: Axis,
        /// From top to bottom.
        groups: Vec<Group>,
    },
    /// A table of coloured cells.
    Heat {
        /// What the columns are.
        x_label: String,
        /// What the rows are.
        y_label: String,
        /// Names of the columns, from left to right.
        columns: Vec<String>,
        /// Names of the rows, from bottom to top.
        rows: Vec<String>,
        /// One entry a column in every row; `None` where there is no value.
        cells: Vec<Vec<Option<Cell>>>,
    },
}

/// An axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    /// Quantity and unit.
    pub label: String,
    /// Where it begins.
    pub low: f64,
    /// Where it ends; larger than `low`.
    pub high: f64,
    /// Where it has labels, all of them whole numbers.
    pub ticks: Vec<i32>,
}

/// A value with what it is made of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Position on the x axis.
    pub x: f64,
    /// Mean over the runs.
    pub y: f64,
    /// Sample standard deviation; 0 for one run.
    pub deviation: f64,
    /// Number of runs.
    pub n: usize,
    /// The first of them.
    pub run: RunId,
}

/// Points that belong together.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// What it is, as in the legend.
    pub label: String,
    /// What it looks like.
    pub style: Style,
    /// By increasing x.
    pub points: Vec<Point>,
    /// How the points are joined.
    pub trace: Trace,
    /// Whether each point has a marker.
    pub markers: bool,
    /// The area below the line is shaded from 0 to this x.
    pub shaded_to: Option<f64>,
    /// Where a cross is drawn: the x of an onset.
    pub onset: Option<f64>,
}

/// How points are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trace {
    /// By straight lines.
    Straight,
    /// Each value holds for the unit of x that ends at its point.
    Steps,
    /// Not at all.
    None,
}

/// Bars that belong together.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// Its name.
    pub label: String,
    /// From top to bottom; `None` leaves the place empty.
    pub bars: Vec<Option<Bar>>,
}

/// A bar.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bar {
    /// What it looks like.
    pub style: Style,
    /// Its length.
    pub value: f64,
    /// The first run that it is made of.
    pub run: RunId,
}

/// A cell of a heat map.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cell {
    /// Decides the colour and is written into it.
    pub value: f64,
    /// The first run that it is made of.
    pub run: RunId,
}

impl Axis {
    /// Returns an axis of percentages from 0 to the next ten above `largest`, at least 10 and at most 100.
    pub(crate) fn percent(label: &str, largest: f64) -> Self {
        let high = ((largest / 10.0).ceil() * 10.0).clamp(10.0, 100.0);
        Self::new(label, 0.0, high)
    }

    /// Returns an axis with about five labels.
    pub(crate) fn new(label: &str, low: f64, high: f64) -> Self {
        let high = if high > low { high } else { low + 1.0 };
        Self { label: label.to_owned(), low, high, ticks: lines::ticks(low, high) }
    }
}
