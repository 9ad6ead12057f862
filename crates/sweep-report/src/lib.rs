//! From stored results to what a paper shows: tables, figures and one HTML page. Reads the store, never writes it.
//!
//! [`Runs`] holds the runs of a sweep with their keys and numbers; [`Condition`]s choose among them. [`pivot`] makes a table
//! of rows × columns, [`pairs`] pairs runs that are equal in everything but one key and tests their differences
//! ([`statistics`]), [`paper`] lays them beside the published numbers.

mod error;
mod filter;
mod key;
pub mod pairs;
pub mod paper;
pub mod pivot;
mod runs;
mod specification;
pub mod statistics;

pub use error::{Error, Result};
pub use filter::Condition;
pub use key::{Key, Value};
pub use runs::{Column, Run, Runs};
