//! The `sweep` program: where it is, how it is started, and what it says about a home folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Map, Value};

/// A row of a query, by column.
pub(crate) type Row = Map<String, Value>;

/// A row of a query, as it is printed, by column.
pub(crate) type Printed = BTreeMap<String, String>;

/// The program that is tried.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    path: PathBuf,
}

impl Program {
    /// Returns the program at `told`, or the one that Cargo builds.
    pub(crate) fn find(told: Option<&Path>) -> Result<Self> {
        let path = match told {
            Some(path) => {
                path.canonicalize().with_context(|| format!("`{}` is not there", path.display()))?
            }
            None => build()?,
        };
        Ok(Self { path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns a command on `home` that reaches for no network, waits for no retry, and is not changed by the caller's
    /// environment.
    pub(crate) fn command(&self, home: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.path);
        command.args(arguments).arg("--home").arg(home);
        for name in ["SWEEP_HOME", "SWEEP_WORKER", "SWEEP_LOG"] {
            command.env_remove(name);
        }
        command.env("SWEEP_RETRY_DELAY", "0");
        command.env("HF_HUB_OFFLINE", "1").env("HF_HOME", home.join("huggingface"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Puts a question to the results of `home`.
    pub(crate) fn query(&self, home: &Path, sql: &str) -> Result<Vec<Row>> {
        let output = self.output(home, &["query", sql, "--limit", "1000000", "--format", "json"])?;
        ensure!(output.status.success(), "`{sql}` failed: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).with_context(|| format!("the answer to `{sql}` is no table"))
    }

    /// Asks the same way for a table whose every digit counts: the values as they are printed, since reading a number from
    /// JSON may lose its last bit.
    pub(crate) fn printed(&self, home: &Path, sql: &str) -> Result<Vec<Printed>> {
        let output = self.output(home, &["query", sql, "--limit", "1000000", "--format", "csv"])?;
        ensure!(output.status.success(), "`{sql}` failed: {}", String::from_utf8_lossy(&output.stderr));
        let text =
            String::from_utf8(output.stdout).with_context(|| format!("the answer to `{sql}` is no text"))?;
        printed(&text).with_context(|| format!("the answer to `{sql}` needs a better reader"))
    }

    /// Returns what the doctor finds wrong with the database of `home`, if anything.
    pub(crate) fn database_fault(&self, home: &Path) -> Result<Option<String>> {
        let output = self.output(home, &["doctor", "--format", "json"])?;
        let checks: Vec<Row> =
            serde_json::from_slice(&output.stdout).context("what the doctor says is no table")?;
        let check = checks.iter().find(|check| text(check, "check") == "database");
        let check = check.context("the doctor does not look at the database")?;
        let (verdict, detail) = (text(check, "verdict"), text(check, "detail"));
        Ok((verdict != "fine").then(|| format!("the doctor on the database: {verdict}, {detail}")))
    }

    fn output(&self, home: &Path, arguments: &[&str]) -> Result<Output> {
        let mut command = self.command(home, arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.output().with_context(|| format!("failed to start `{}`", self.path.display()))
    }
}

/// Returns the text in a column; empty where there is none.
pub(crate) fn text<'a>(row: &'a Row, column: &str) -> &'a str {
    row.get(column).and_then(Value::as_str).unwrap_or_default()
}

/// Returns the integer in a column; 0 where there is none.
pub(crate) fn integer(row: &Row, column: &str) -> i64 {
    row.get(column).and_then(Value::as_i64).unwrap_or_default()
}

/// Reads a table of numbers and names, of which none needs quotes; `None` where one does.
fn printed(csv: &str) -> Option<Vec<Printed>> {
    let mut lines = csv.lines();
    let columns: Vec<&str> = lines.next()?.split(',').collect();
    lines
        .map(|line| {
            let values: Vec<&str> = line.split(',').collect();
            let fits = values.len() == columns.len() && !line.contains('"');
            fits.then(|| {
                columns
                    .iter()
                    .zip(values)
                    .map(|(column, value)| ((*column).to_owned(), value.to_owned()))
                    .collect()
            })
        })
        .collect()
}

/// Builds the program in the profile and target folder of this one, as `cargo run` left it.
fn build() -> Result<PathBuf> {
    let this = std::env::current_exe().context("failed to find this program's own file")?;
    let profile = this.parent().context("a program lies in a folder")?;
    let target = profile.parent().context("a profile's folder lies in the target folder")?;
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--package", "sweep", "--target-dir"]).arg(target);
    cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    let status = cargo.status().context("failed to start cargo")?;
    if !status.success() {
        bail!("cargo could not build `sweep`: {status}");
    }
    Ok(profile.join("sweep"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_printed_table_is_read_digit_by_digit_and_quotes_are_refused() {
        let rows = printed("run,loss,seconds\na,0.30000000000000004,\nb,0.3,1\n").unwrap();
        assert_eq!(rows[0]["loss"], "0.30000000000000004");
        assert_eq!((rows[0]["seconds"].as_str(), rows[1]["run"].as_str()), ("", "b"));
        assert_eq!(printed("run\n\"a\"\n"), None);
        assert_eq!(printed("run,loss\na\n"), None);
    }
}
