//! `sweep serve`: a local page on a running grid. Read-only; it writes nothing and nothing can be changed through it.
//!
//! [`Server::bind`] takes an address, [`Server::serve`] answers until its task is dropped. Pages are written on this side
//! (`html`) and are complete without a script; a script of our own brings charts, which the crate `plotly` describes and draws
//! in the browser, and what changes while one looks: the server watches the database once a second while somebody does, and
//! sends the parts of a page that have changed (`live`).
//!
//! Who may read: see [`Access`]. Every response carries a strict content policy (`headers`), nothing is loaded from elsewhere,
//! and every text of the results is escaped in one place (`html::Html::text`).

mod access;
mod app;
mod assets;
mod cell;
mod charts;
mod curve;
mod error;
mod forecast;
mod grid;
mod headers;
mod html;
mod live;
mod pages;
mod query;
mod server;

pub use access::{Access, Refused, Token, WeakToken};
pub use error::Error;
pub use server::{Server, Settings};
