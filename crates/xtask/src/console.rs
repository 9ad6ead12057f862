//! The only module that prints.

use std::io::Write as _;

/// Writes a line to standard output.
pub(crate) fn say(text: &str) {
    // There is nobody left to tell when standard output is gone.
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// Writes what was found wrong.
pub(crate) fn faults(faults: &[String]) {
    for fault in faults {
        say(&format!("FAULT: {fault}"));
    }
}

/// Writes two columns, the second one aligned.
pub(crate) fn table(rows: &[(&str, String)]) {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, value) in rows {
        say(&format!("  {name:width$}  {value}"));
    }
}
