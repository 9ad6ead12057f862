//! Whether a text is a single SQL statement that reads.
//!
//! The connection is opened read-only, so no statement can change the database. This keeps out what a read-only
//! connection still allows: writing other files (`VACUUM INTO`), opening them (`ATTACH`), and settings (`PRAGMA`).

use crate::error::{Error, Result};

/// Words that a reading statement begins with.
const READING: [&str; 4] = ["SELECT", "WITH", "VALUES", "EXPLAIN"];

/// Checks that `sql` is one statement that begins with a reading word.
pub(crate) fn check_reads(sql: &str) -> Result<()> {
    let code = without_comments_and_literals(sql);
    let statements: Vec<&str> =
        code.split(';').map(str::trim).filter(|statement| !statement.is_empty()).collect();
    match statements.as_slice() {
        [statement] => check_first_word(statement),
        [] => Err(not_readable("there is none")),
        several => Err(not_readable(format!("there are {}", several.len()))),
    }
}

fn check_first_word(statement: &str) -> Result<()> {
    let mut words = statement.split(|letter: char| !letter.is_ascii_alphabetic());
    let first = words.next().unwrap_or_default().to_ascii_uppercase();
    if !READING.contains(&first.as_str()) {
        return Err(not_readable(format!("it begins with `{first}` instead of {}", READING.join(", "))));
    }
    Ok(())
}

fn not_readable(reason: impl Into<String>) -> Error {
    Error::NotReadable { reason: reason.into() }
}

/// Returns the text with comments replaced by a space, and literals and quoted names by an empty one.
fn without_comments_and_literals(sql: &str) -> String {
    let mut code = String::with_capacity(sql.len());
    let mut rest = sql;
    while let Some(letter) = rest.chars().next() {
        let (length, shown) = match letter {
            '\'' | '"' | '`' => (through(rest, 1, &letter.to_string()), "''"),
            '[' => (through(rest, 1, "]"), "''"),
            '-' if rest.starts_with("--") => (through(rest, 2, "\n"), " "),
            '/' if rest.starts_with("/*") => (through(rest, 2, "*/"), " "),
            _ => (letter.len_utf8(), &rest[..letter.len_utf8()]),
        };
        code.push_str(shown);
        rest = &rest[length..];
    }
    code
}

/// Returns the length of `text` through the first `end` at or after `from`; all of it where there is none. A doubled
/// quote ends one literal and begins the next, which comes to the same.
fn through(text: &str, from: usize, end: &str) -> usize {
    text[from..].find(end).map_or(text.len(), |at| from + at + end.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_statements_pass() {
        for sql in [
            "select 1",
            "  SELECT ';' AS \"a;b\", [c;d], `e;f` FROM runs;  ",
            "-- a comment; with a semicolon\nWITH t AS (SELECT 1) SELECT * FROM t /* ; */ ; -- end",
            "VALUES (1), (2)",
            "EXPLAIN QUERY PLAN SELECT 1",
            "SELECT 'it''s; fine'",
        ] {
            assert!(check_reads(sql).is_ok(), "{sql}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for sql in [
            "",
            " ; ",
            "-- nothing",
            "DELETE FROM runs",
            "SELECT 1; DELETE FROM runs",
            "SELECT 1; -- '\nDELETE FROM runs; -- '",
            "ATTACH 'x' AS y",
            "PRAGMA query_only = OFF",
            "VACUUM INTO 'copy.db'",
            "/* SELECT */ DROP TABLE runs",
            "selected",
        ] {
            assert!(matches!(check_reads(sql), Err(Error::NotReadable { .. })), "{sql}");
        }
    }
}
