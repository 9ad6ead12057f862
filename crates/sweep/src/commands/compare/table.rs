//! The table of rows × columns in every form.

use anyhow::Result;
use serde_json::Value;
use sweep_report::pivot::{Number, Pivot, Row};
use sweep_report::statistics::Interval;
use sweep_store::{At, Metric};

use super::{Answer, exact, heading, is_for_reading, list, shown, split};
use crate::cli::Format;
use crate::latex::{self, Heading, Span};
use crate::table::Rows;

pub(super) fn answer(pivot: &Pivot, at: At, format: Format, interval: bool) -> Result<Answer> {
    let table = Table { pivot, interval };
    let text = match format {
        Format::Table | Format::Markdown => table.for_reading(format).render(format)?,
        Format::Latex => table.latex(at),
        Format::Csv | Format::Json => table.for_programs().render(format)?,
    };
    Ok(Answer { text, notes: table.notes(at, format) })
}

struct Table<'a> {
    pivot: &'a Pivot,
    interval: bool,
}

/// A number as it is printed.
struct Shown {
    mean: String,
    spread: Option<(String, usize)>,
    interval: Option<(String, String)>,
    best: bool,
}

impl Table<'_> {
    /// Every column of the comparison with every metric.
    fn places(&self) -> impl Iterator<Item = (usize, usize, Metric)> + '_ {
        let metrics = || self.pivot.metrics.iter().enumerate();
        (0..self.pivot.columns.len())
            .flat_map(move |column| metrics().map(move |(place, metric)| (column, place, *metric)))
    }

    fn title(&self, column: usize) -> String {
        let values: Vec<String> = self.pivot.columns[column].iter().map(ToString::to_string).collect();
        values.join(" ")
    }

    fn keys(&self) -> impl Iterator<Item = String> + '_ {
        self.pivot.row_keys.iter().map(ToString::to_string)
    }

    /// One column a row key, then one a column and metric; below, the means over the complete rows.
    fn for_reading(&self, format: Format) -> Rows {
        let mut rows = Rows { columns: self.keys().collect(), rows: Vec::new() };
        for (column, _, metric) in self.places() {
            rows.columns.push(format!("{} {}", self.title(column), heading(metric)).trim().to_owned());
        }
        let mut texts: Vec<Vec<Option<String>>> =
            self.pivot.rows.iter().map(|row| self.cells(row, |shown| shown.text(format))).collect();
        let mut names: Vec<Vec<Value>> = self.pivot.rows.iter().map(names).collect();
        if let Some(means) = self.means() {
            let mut name = vec![Value::from("mean")];
            name.resize(self.pivot.row_keys.len(), Value::Null);
            names.push(name);
            texts.push(means);
        }
        if format == Format::Table {
            align(&mut texts);
        }
        for (name, texts) in names.into_iter().zip(texts) {
            let cells = texts.into_iter().map(|text| text.map_or(Value::Null, Value::from));
            rows.rows.push(name.into_iter().chain(cells).collect());
        }
        rows
    }

    fn cells(&self, row: &Row, text: impl Fn(&Shown) -> String) -> Vec<Option<String>> {
        let cell = |(column, place, metric): (usize, usize, Metric)| {
            self.shown(metric, &row.cells[column].numbers[place]).map(|shown| text(&shown))
        };
        self.places().map(cell).collect()
    }

    fn shown(&self, metric: Metric, number: &Number) -> Option<Shown> {
        let summary = number.summary?;
        let interval = number.interval().filter(|_| self.interval);
        Some(Shown {
            mean: shown(metric, summary.mean),
            spread: summary.standard_deviation.map(|deviation| (shown(metric, deviation), summary.n)),
            interval: interval.map(|Interval { low, high }| (shown(metric, low), shown(metric, high))),
            best: number.best,
        })
    }

    /// Returns the means of the columns over the complete rows, where there are several rows of something.
    fn means(&self) -> Option<Vec<Option<String>>> {
        if self.pivot.rows.len() < 2 || self.pivot.row_keys.is_empty() {
            return None;
        }
        let mean = |(column, place, metric)| Some(shown(metric, self.pivot.mean(column, place)?));
        Some(self.places().map(mean).collect())
    }

    /// The same columns whatever the numbers are: mean, standard deviation, n, and the interval if it is asked for.
    fn for_programs(&self) -> Rows {
        let mut rows =
            Rows { columns: self.pivot.row_keys.iter().map(ToString::to_string).collect(), rows: Vec::new() };
        for (column, _, metric) in self.places() {
            let name = format!("{} {metric}", self.title(column)).trim().to_owned();
            let more = ["sd", "n"]
                .into_iter()
                .chain(if self.interval { &["low", "high"][..] } else { &[] }.iter().copied());
            let more: Vec<String> = more.map(|what| format!("{name} {what}")).collect();
            rows.columns.push(name);
            rows.columns.extend(more);
        }
        for row in &self.pivot.rows {
            let numbers = self
                .places()
                .flat_map(|(column, place, metric)| self.numbers(metric, &row.cells[column].numbers[place]));
            rows.rows.push(names(row).into_iter().chain(numbers).collect());
        }
        rows
    }

    fn numbers(&self, metric: Metric, number: &Number) -> Vec<Value> {
        let value = |value: Option<f64>| value.map_or(Value::Null, |value| exact(metric, value));
        let summary = number.summary;
        let mut values = vec![
            value(summary.map(|summary| summary.mean)),
            value(summary.and_then(|summary| summary.standard_deviation)),
            Value::from(summary.map_or(0, |summary| summary.n)),
        ];
        if self.interval {
            let interval = number.interval();
            values.push(value(interval.map(|interval| interval.low)));
            values.push(value(interval.map(|interval| interval.high)));
        }
        values
    }

    /// Columns stand over their metrics; with one metric, its name is in the remark above the table.
    fn latex(&self, at: At) -> String {
        let metrics: Vec<String> = self.pivot.metrics.iter().map(|metric| heading(*metric)).collect();
        let titles: Vec<String> = (0..self.pivot.columns.len()).map(|column| self.title(column)).collect();
        let (spans, headings): (Vec<Span>, Vec<String>) = if metrics.len() == 1 && titles.len() > 1 {
            (Vec::new(), titles)
        } else {
            let span = |title: &String| Span { title: title.clone(), columns: metrics.len() };
            let spans = titles.iter().filter(|title| !title.is_empty()).map(span).collect();
            (spans, titles.iter().flat_map(|_| metrics.clone()).collect())
        };
        let line = |names: Vec<String>, cells: Vec<Option<String>>| {
            names
                .into_iter()
                .chain(cells.into_iter().map(|cell| cell.unwrap_or_else(|| "--".to_owned())))
                .collect()
        };
        let row = |row: &Row| {
            let names = row.names.iter().map(|name| latex::escape(&name.to_string())).collect();
            line(names, self.cells(row, Shown::latex))
        };
        let mean = self.means().map(|means| {
            let mut name = vec!["mean".to_owned()];
            name.resize(self.pivot.row_keys.len(), String::new());
            line(name, means)
        });
        let heading = |is_number| move |title| Heading { title, is_number };
        latex::Tabular {
            remark: format!("{}: accuracies in % of {}", metrics.join(", "), split(at)),
            columns: self.keys().map(heading(false)).chain(headings.into_iter().map(heading(true))).collect(),
            spans,
            rows: self.pivot.rows.iter().map(row).collect(),
            last: mean.into_iter().collect(),
        }
        .render()
    }

    /// What a reader must know besides the numbers.
    fn notes(&self, at: At, format: Format) -> Vec<String> {
        let mut notes = vec![format!(
            "accuracies in % of {}; robust: at the target epsilon; expected: expected robustness",
            split(at)
        )];
        let numbers = || self.pivot.rows.iter().flat_map(|row| &row.cells).flat_map(|cell| &cell.numbers);
        if numbers().any(|number| number.summary.is_some_and(|summary| summary.n > 1)) {
            notes.push("mean ± sample standard deviation (number of seeds)".to_owned());
        }
        if is_for_reading(format) && numbers().any(|number| number.best) {
            let mark = if format == Format::Table { "*: " } else { "bold: " };
            notes.push(format!("{mark}best of its row and metric, ties included"));
        }
        if self.interval {
            notes.push("[low, high]: Wilson's 95 % interval of an accuracy of a single run".to_owned());
        }
        if !self.pivot.mixed.is_empty() {
            let keys: Vec<&str> = self.pivot.mixed.iter().map(sweep_report::Key::label).collect();
            notes.push(format!(
                "warning: cells mix runs that differ in {}; add them with --rows",
                keys.join(", ")
            ));
        }
        let holes: Vec<String> = self.pivot.holes().iter().map(ToString::to_string).collect();
        notes.extend(list(
            &format!("incomplete: {} cells", holes.len()),
            &holes,
            "; `sweep status` lists the runs",
        ));
        notes
    }
}

impl Shown {
    /// `58.60 ± 0.31 (3) [57.2, 60.0]*`, or with bold in Markdown.
    fn text(&self, format: Format) -> String {
        let mut text = self.mean.clone();
        let is_marked = self.best && format == Format::Markdown;
        if is_marked {
            text = format!("**{text}**");
        }
        if let Some((deviation, n)) = &self.spread {
            text.push_str(&format!(" ± {deviation} ({n})"));
        }
        if let Some((low, high)) = &self.interval {
            text.push_str(&format!(" [{low}, {high}]"));
        }
        if format == Format::Table {
            text.push(if self.best { '*' } else { ' ' });
        }
        text
    }

    fn latex(&self) -> String {
        let mut text =
            if self.best { format!("\\textbf{{{}}}", self.mean) } else { latex::number(&self.mean) };
        if let Some((deviation, _)) = &self.spread {
            text.push_str(&format!(" {{\\scriptsize$\\pm$\\,{deviation}}}"));
        }
        if let Some((low, high)) = &self.interval {
            text.push_str(&format!(" {{\\scriptsize[{low}, {high}]}}"));
        }
        text
    }
}

fn names(row: &Row) -> Vec<Value> {
    // A value is a text, a number or nothing, all of which JSON has.
    row.names.iter().map(|name| serde_json::to_value(name).unwrap_or(Value::Null)).collect()
}

/// Pads the texts of each column on the left, so that their last digits stand below one another.
fn align(rows: &mut [Vec<Option<String>>]) {
    let columns = rows.first().map_or(0, Vec::len);
    for column in 0..columns {
        let length = |text: &Option<String>| text.as_ref().map_or(0, |text| text.chars().count());
        let width = rows.iter().map(|row| length(&row[column])).max().unwrap_or(0);
        for text in rows.iter_mut().filter_map(|row| row[column].as_mut()) {
            // The line of means has no marks, but the place for one.
            let padding = if text.ends_with(['*', ' ']) { "" } else { " " };
            *text = format!("{:>width$}", format!("{text}{padding}"));
        }
    }
}
