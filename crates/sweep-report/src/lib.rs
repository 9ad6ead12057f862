//! From stored results to what a paper shows: tables, figures and one HTML page. Reads the store, never writes it.
//!
//! [`Material`] is everything that a report of a sweep needs, read once. [`draw`] turns it into [`Figure`]s, which are data:
//! series, axes, labels. [`page`] and [`Figure::sheet`] draw them, and [`write`] puts page and figures into a folder.

mod chart;
mod error;
mod escape;
mod figures;
mod fold;
mod folder;
mod html;
mod material;

pub use chart::{
    Axis, Bar, Body, Cell, Entry, Figure, Group, Panel, Point, Series, Style, Swatch, Trace,
};
pub use error::{Error, Result};
pub use figures::{Drawn, Omitted, draw};
pub use folder::{Form, Written, write};
pub use html::page;
pub use material::{Material, Onset, Run};
