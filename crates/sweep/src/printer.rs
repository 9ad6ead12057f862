//! The only module that writes to standard output and standard error.

use std::io::Write as _;

use anyhow::{Context as _, Result};

use crate::cli::Format;
use crate::table::Rows;

/// Writes data to standard output.
///
/// A reader that has seen enough (`| head`) is no error.
pub(crate) fn data(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("failed to write to standard output"),
    }
}

/// Writes rows to standard output.
pub(crate) fn rows(rows: &Rows, format: Format) -> Result<()> {
    data(&rows.render(format)?)
}

/// Writes a line to standard error.
pub(crate) fn note(text: &str) {
    // There is nobody left to tell when standard error is gone.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Writes an error with its causes to standard error. A cause that an earlier one quotes already is left out.
pub(crate) fn error(error: &anyhow::Error) {
    let mut text = format!("error: {error}");
    let mut said = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !said.contains(&cause) {
            text.push_str("\n  caused by: ");
            text.push_str(&cause);
            said = cause;
        }
    }
    note(&text);
}
