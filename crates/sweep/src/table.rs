//! Rows for standard output, in every form that the program prints.

use std::collections::HashSet;

use anyhow::{Context as _, Result};
use comfy_table::{CellAlignment, ContentArrangement, TableStyle, presets};
use serde_json::{Map, Value};

use crate::cli::Format;
use crate::exit::bad_input;
use crate::latex::{self, Heading, Tabular};

/// Named columns and their rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Rows {
    pub(crate) columns: Vec<String>,
    /// One value a column in each.
    pub(crate) rows: Vec<Vec<Value>>,
}

impl Rows {
    pub(crate) fn new(columns: &[&str]) -> Self {
        Self { columns: columns.iter().map(|&name| name.to_owned()).collect(), rows: Vec::new() }
    }

    pub(crate) fn push(&mut self, row: Vec<Value>) {
        debug_assert_eq!(row.len(), self.columns.len());
        self.rows.push(row);
    }

    /// Returns the rows as text in the asked form, with a newline at the end.
    pub(crate) fn render(&self, format: Format) -> Result<String> {
        Ok(match format {
            Format::Table => self.table(presets::NOTHING),
            Format::Markdown => self.escaped().table(presets::ASCII_MARKDOWN),
            Format::Json => self.json()?,
            Format::Csv => self.csv()?,
            Format::Latex => self.latex(),
        })
    }

    fn table(&self, style: TableStyle) -> String {
        let mut table = comfy_table::Table::new();
        table.load_style(style).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(&self.columns);
        for row in &self.rows {
            table.add_row(row.iter().map(text));
        }
        for (index, column) in table.column_iter_mut().enumerate() {
            if self.is_numeric(index) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let lines = table.to_string();
        lines.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
    }

    /// Returns whether a column has numbers, or texts that all are.
    fn is_numeric(&self, column: usize) -> bool {
        let mut values = self.rows.iter().map(|row| &row[column]).filter(|value| !value.is_null()).peekable();
        let is_number = |value: &Value| {
            value.is_number() || value.as_str().is_some_and(|text| text.parse::<f64>().is_ok())
        };
        self.rows.iter().any(|row| row[column].is_number())
            || values.peek().is_some() && values.all(is_number)
    }

    fn latex(&self) -> String {
        let heading = |(place, title): (usize, &String)| Heading {
            title: title.clone(),
            is_number: self.is_numeric(place),
        };
        let cells = |row: &Vec<Value>| row.iter().map(|value| latex::number(&text(value))).collect();
        Tabular {
            columns: self.columns.iter().enumerate().map(heading).collect(),
            rows: self.rows.iter().map(cells).collect(),
            ..Tabular::default()
        }
        .render()
    }

    /// Returns the rows with texts that do not break a Markdown table.
    fn escaped(&self) -> Self {
        let escape = |text: &str| text.replace('|', "\\|").replace('\n', " ");
        let value =
            |value: &Value| value.as_str().map_or_else(|| value.clone(), |text| Value::from(escape(text)));
        Self {
            columns: self.columns.iter().map(|name| escape(name)).collect(),
            rows: self.rows.iter().map(|row| row.iter().map(value).collect()).collect(),
        }
    }

    /// Returns the rows as JSON objects, one a line. Columns have different names.
    pub(crate) fn lines(&self) -> Result<String> {
        let mut text = String::new();
        for row in &self.rows {
            let object: Map<String, Value> = self.columns.iter().cloned().zip(row.iter().cloned()).collect();
            text.push_str(&serde_json::to_string(&object).context("failed to write JSON")?);
            text.push('\n');
        }
        Ok(text)
    }

    fn json(&self) -> Result<String> {
        let mut names = HashSet::new();
        if let Some(name) = self.columns.iter().find(|name| !names.insert(*name)) {
            let message = format!("two columns are called `{name}`, and JSON would keep only one");
            return Err(bad_input(format!("{message}\n  hint: rename one with AS")));
        }
        let object = |row: &Vec<Value>| -> Value {
            Value::Object(self.columns.iter().cloned().zip(row.iter().cloned()).collect::<Map<_, _>>())
        };
        let objects: Vec<Value> = self.rows.iter().map(object).collect();
        Ok(serde_json::to_string_pretty(&objects).context("failed to write JSON")? + "\n")
    }

    fn csv(&self) -> Result<String> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record(&self.columns).context("failed to write CSV")?;
        for row in &self.rows {
            writer.write_record(row.iter().map(text)).context("failed to write CSV")?;
        }
        let bytes = writer.into_inner().context("failed to write CSV")?;
        String::from_utf8(bytes).context("CSV of texts is a text")
    }
}

/// A value as people read it: texts without quotes, nothing for null.
fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Returns a percentage with two places, as a number.
pub(crate) fn percent(fraction: f64) -> Value {
    Value::from((fraction * 1e4).round() / 1e2)
}

/// Returns a number rounded to `places`.
pub(crate) fn rounded(number: f64, places: i32) -> Value {
    let scale = 10_f64.powi(places);
    Value::from((number * scale).round() / scale)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn one_table_in_every_form() {
        let mut rows = Rows::new(&["name", "value"]);
        rows.push(vec![json!("a,b"), json!(1.5)]);
        rows.push(vec![Value::Null, json!(10)]);
        assert_eq!(rows.render(Format::Csv).unwrap(), "name,value\n\"a,b\",1.5\n,10\n");
        assert_eq!(
            rows.render(Format::Markdown).unwrap(),
            "| name | value |\n|------|-------|\n| a,b  |   1.5 |\n|      |    10 |\n"
        );
        assert_eq!(rows.render(Format::Table).unwrap(), " name  value\n a,b     1.5\n          10\n");
        let latex = rows.render(Format::Latex).unwrap();
        assert!(latex.contains("\\begin{tabular}{lr}") && latex.contains("\na,b & 1.5 \\\\\n"), "{latex}");
        let json: Value = serde_json::from_str(&rows.render(Format::Json).unwrap()).unwrap();
        assert_eq!(json, json!([{"name": "a,b", "value": 1.5}, {"name": null, "value": 10}]));
    }
}
