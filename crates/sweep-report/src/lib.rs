//! From stored results to what a paper shows: tables, figures and one HTML page. Reads the store, never writes it.
//!
//! Tables: [`Runs`] holds the runs of a sweep with their keys and numbers; [`Condition`]s choose among them. [`pivot`] makes a
//! table of rows × columns, [`pairs`] pairs runs that are equal in everything but one key and tests their differences
//! ([`statistics`]), [`paper`] lays them beside the published numbers.
//!
//! Reports: [`Material`] is everything that a report of a sweep needs, read once. [`draw`] turns it into [`Figure`]s, which are
//! data: series, axes, labels. [`page`] and [`Figure::sheet`] draw them, and [`write()`] puts page and figures into a folder.
//!
//! Exports: [`export`] writes Parquet files, and a folder that MLflow shows.

mod chart;
mod error;
mod escape;
pub mod export;
mod figures;
mod filter;
mod fold;
mod folder;
mod html;
mod key;
mod material;
pub mod pairs;
pub mod paper;
pub mod pivot;
mod runs;
mod specification;
pub mod statistics;

pub use chart::{
    Axis, Bar, Body, Cell, Entry, Figure, Group, Panel, Point, Series, Style, Swatch, Trace, heat_rules,
    stylesheet,
};
pub use error::{Error, Result};
pub use escape::escape;
pub use figures::{Drawn, Omitted, draw};
pub use filter::Condition;
pub use folder::{Form, Written, write};
pub use html::page;
pub use key::{Key, Value};
pub use material::{Material, Onset, Ramp, Run as ReportedRun};
pub use runs::{Column, Run, Runs};
