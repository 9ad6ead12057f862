//! Code, machines, weights and data behind the numbers, and the commands that make them again.

use super::table::{Cell, Table};
use crate::escape::escape;
use crate::fold::grouped;
use crate::material::{Material, Run};

/// Rows of a table, at most.
const ROWS: usize = 200;

/// Returns the tables of machines, datasets and backbones.
pub(super) fn tables(material: &Material) -> String {
    let mut html = format!(
        "<p>Sweep file: SHA-256 <code class=\"wrap\">{}</code>. This page: sweep {}.</p>\n",
        escape(&material.sweep.digest),
        env!("CARGO_PKG_VERSION")
    );
    html.push_str(&machines(material));
    html.push_str(&datasets(material));
    html.push_str(&backbones(material));
    html
}

fn machines(material: &Material) -> String {
    let mut table = Table::new(&["sweep", "host", "device", "threads", "runs"]);
    let unknown = || "not said".to_owned();
    let key = |run: &&Run| {
        run.origin.as_ref().map(|origin| {
            (
                origin.version.clone().unwrap_or_else(unknown),
                origin.host.clone().unwrap_or_else(unknown),
                origin.device.clone().unwrap_or_else(unknown),
                origin.threads,
            )
        })
    };
    for (machine, runs) in grouped(material.runs.iter(), key).into_iter().take(ROWS) {
        let Some((version, host, device, threads)) = machine else { continue };
        table.rows.push(vec![
            Cell::text(&version),
            Cell::text(&host),
            Cell::text(&device),
            threads.map_or_else(Cell::empty, |threads| Cell::number(threads.to_string())),
            Cell::number(runs.len().to_string()),
        ]);
    }
    titled("Code and machines", &table)
}

fn datasets(material: &Material) -> String {
    let mut table = Table::new(&[
        "dataset",
        "classes",
        "train",
        "validation",
        "test",
        "left out",
        "digest of the prepared images",
    ]);
    let loaded = material.runs.iter().filter_map(|run| Some((run, run.origin.as_ref()?.loaded.as_ref()?)));
    let key = |(run, loaded): &(&Run, &sweep_store::Loaded)| {
        (run.result.dataset.clone(), loaded.dataset_digest.clone())
    };
    for ((name, digest), runs) in grouped(loaded, key).into_iter().take(ROWS) {
        let loaded = runs[0].1;
        let count = |number: u32| Cell::number(number.to_string());
        table.rows.push(vec![
            Cell::text(&name),
            count(loaded.classes),
            count(loaded.train),
            count(loaded.validation),
            count(loaded.test),
            Cell::number(loaded.skipped.to_string()),
            digest_cell(&digest),
        ]);
    }
    titled("Data", &table)
}

fn backbones(material: &Material) -> String {
    let mut table = Table::new(&["backbone", "parameters", "SHA-256 of the weights", "runs"]);
    let loaded = material.runs.iter().filter_map(|run| Some((run, run.origin.as_ref()?.loaded.as_ref()?)));
    let key = |(run, loaded): &(&Run, &sweep_store::Loaded)| {
        (run.result.backbone.clone(), loaded.weights_digest.clone())
    };
    for ((name, digest), runs) in grouped(loaded, key).into_iter().take(ROWS) {
        let sizes = runs.iter().map(|(_, loaded)| loaded.parameters);
        let (least, most) = (sizes.clone().min().unwrap_or(0), sizes.max().unwrap_or(0));
        let parameters = if least == most { least.to_string() } else { format!("{least} to {most}") };
        table.rows.push(vec![
            Cell::text(&name),
            Cell::number(parameters),
            digest.map_or_else(|| Cell::text("random weights"), |digest| digest_cell(&digest)),
            Cell::number(runs.len().to_string()),
        ]);
    }
    titled("Weights", &table)
}

fn digest_cell(digest: &str) -> Cell {
    Cell::html(format!("<code>{}</code>", escape(digest)))
}

fn titled(title: &str, table: &Table) -> String {
    if table.rows.is_empty() {
        return format!("<h3>{title}</h3>\n<p>No run has said yet.</p>\n");
    }
    format!("<h3>{title}</h3>\n{}", table.written())
}

/// Returns the commands, and the sweep file.
pub(super) fn commands(material: &Material) -> String {
    let name = &material.sweep.name;
    let file = quoted(&format!("{name}.yaml"));
    let name = quoted(name);
    let commands = format!(
        "sweep run {file}            # what is done already is not done again\nsweep report {name}\nsweep compare --sweep {name}"
    );
    format!(
        "<p>With the sweep file below, changes of the command line included (<code># --set</code> at its end):</p>\n\
         <pre><code>{}</code></pre>\n<details><summary>The sweep file</summary><pre><code>{}</code></pre></details>\n",
        escape(&commands),
        escape(&material.sweep.yaml)
    )
}

/// Returns a word as a shell takes it.
fn quoted(word: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_./".contains(letter);
    if !word.is_empty() && !word.starts_with('-') && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn words_for_a_shell() {
        let cases = [
            ("paper.yaml", "paper.yaml"),
            ("a b", "'a b'"),
            ("it's", "'it'\\''s'"),
            ("", "''"),
            ("-x", "'-x'"),
        ];
        for (word, written) in cases {
            assert_eq!(quoted(word), written);
        }
    }
}
