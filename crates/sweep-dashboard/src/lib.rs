//! A local page on a running grid, read-only.
