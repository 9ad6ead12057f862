//! Rows × columns in numbers, as `sweep compare` computes them.

use sweep_report::pivot::{Cell, Pivot, pivot};
use sweep_report::{Key, Runs};
use sweep_store::{Metric, SweepRow};

use super::Page;
use super::grid::{joined, plain};
use super::runs::filters;
use crate::app::{App, Haste, stopped};
use crate::cell::{number, spread, title};
use crate::error::Failure;
use crate::html::{Html, Table};
use crate::query::Query;

/// Rows that are shown, at most.
const ROWS: usize = 500;
/// Columns that are shown, at most.
const COLUMNS: usize = 60;

/// What is compared where nobody says.
const USUAL: [Metric; 3] = [Metric::Clean, Metric::Robust, Metric::ExpectedRobustness];

/// Returns the table of a sweep.
pub(super) async fn page(app: &App, sweep: &SweepRow, query: &Query, haste: Haste) -> Result<Page, Failure> {
    let mut metrics = query.metrics()?;
    if metrics.is_empty() {
        metrics = USUAL.to_vec();
    }
    let sort = query.one::<Metric>("sort")?;
    let conditions = query.conditions()?;
    let (runs, change) = app.runs(sweep.id, &metrics, haste).await?;
    let columns = query.keys("columns").unwrap_or_else(|| vec![Key::new(Key::EPSILON_SCHEDULE)]);
    let rows = query.keys("rows");
    let work = move || -> Result<Pivot, Failure> {
        let chosen =
            if conditions.is_empty() { None } else { Some(Runs::clone(&runs).matching(&conditions)?) };
        let runs = chosen.as_ref().unwrap_or(&runs);
        let rows = rows.unwrap_or_else(|| runs.varying(&columns));
        let mut table = pivot(runs, &rows, &columns)?;
        if let Some(metric) = sort {
            table.sort(metric)?;
        }
        Ok(table)
    };
    let found = tokio::task::spawn_blocking(work).await.map_err(|_| stopped())?;
    let mut page = Page { change, ..frame(sweep, query, found.as_ref().ok()) };
    match found {
        Ok(pivot) => page.part("div", "table", &[], table(&pivot)),
        Err(failure) if failure.status.is_client_error() => {
            page.events = String::new();
            page.body.labelled("p", &[("class", "wrong"), ("role", "alert")], &failure.message);
        }
        Err(failure) => return Err(failure),
    }
    Ok(page)
}

fn frame(sweep: &SweepRow, query: &Query, pivot: Option<&Pivot>) -> Page {
    let number = sweep.id.number().to_string();
    let own = format!("/sweep/{number}");
    let mut page = Page {
        title: format!("Comparison of {}", sweep.name),
        way: vec![(own.clone(), sweep.name.clone())],
        events: query.with("sweep", &number).link("/compare/events"),
        ..Page::default()
    };
    page.body
        .raw("<nav class=\"tabs\" aria-label=\"Views of this sweep\"><ul><li>")
        .link(&own, "Grid")
        .raw("</li><li>");
    page.body.link(&format!("{own}/runs"), "Runs").raw("</li><li>");
    page.body.labelled(
        "a",
        &[("href", &format!("/compare?sweep={number}")), ("aria-current", "page")],
        "Compare",
    );
    page.body.raw("</li></ul></nav>\n<form class=\"choices\" method=\"get\" action=\"/compare\">");
    page.body.open("input", &[("type", "hidden"), ("name", "sweep"), ("value", &number)]);
    let list = |keys: &[Key]| keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let metrics = |pivot: &Pivot| pivot.metrics.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let said = |name: &str, otherwise: Option<String>| {
        query.get(name).map(str::to_owned).or(otherwise).unwrap_or_default()
    };
    for (name, label, value) in [
        ("rows", "Rows", said("rows", pivot.map(|pivot| list(&pivot.row_keys)))),
        ("columns", "Columns", said("columns", pivot.map(|pivot| list(&pivot.column_keys)))),
        ("metric", "Metrics", said("metric", pivot.map(metrics))),
    ] {
        page.body.raw("<label>").text(label).raw(" ");
        let width = value.chars().count().clamp(14, 40).to_string();
        page.body
            .open("input", &[("name", name), ("value", &value), ("size", &width), ("autocomplete", "off")]);
        page.body.raw("</label>");
    }
    let conditions: Vec<&str> = query.all("where").collect();
    page.body.html(&filters(&conditions)).raw("<button>Compare</button></form>\n");
    page
}

fn table(pivot: &Pivot) -> Html {
    let mut table = Table { label: "Comparison".to_owned(), ..Table::default() };
    table.columns = pivot.row_keys.iter().map(|key| (Html::of(plain(key)), false)).collect();
    if pivot.row_keys.is_empty() {
        table.columns.push((Html::of("runs"), false));
    }
    let columns = pivot.columns.len().min(COLUMNS);
    for column in &pivot.columns[..columns] {
        for metric in &pivot.metrics {
            let mut head = Html::new();
            if !pivot.column_keys.is_empty() {
                head.labelled("span", &[("class", "above")], joined(column));
            }
            head.text(title(*metric));
            table.columns.push((head, true));
        }
    }
    for row in pivot.rows.iter().take(ROWS) {
        let mut cells: Vec<Html> = row.names.iter().map(Html::of).collect();
        if cells.is_empty() {
            cells.push(Html::of("all"));
        }
        for cell in &row.cells[..columns] {
            cells.extend((0..pivot.metrics.len()).map(|place| content(cell, place, pivot.metrics[place])));
        }
        table.rows.push(cells);
    }
    let mut html = table.written();
    html.html(&notes(pivot, columns));
    html
}

fn content(cell: &Cell, place: usize, metric: Metric) -> Html {
    let found = &cell.numbers[place];
    let mut html = Html::new();
    let Some(summary) = found.summary else {
        let why = cell.missing.first().map_or_else(String::new, |(missing, _)| missing.to_string());
        html.labelled("span", &[("class", "faint"), ("title", &why)], "–");
        return html;
    };
    let mean = number(metric, summary.mean);
    if found.best {
        html.labelled("b", &[], mean);
    } else {
        html.text(mean);
    }
    if let Some(deviation) = summary.standard_deviation {
        html.raw(" <small>±").text(spread(metric, deviation)).raw("</small>");
    }
    if summary.n < cell.runs {
        html.raw(" ").labelled("small", &[], format!("{} of {}", summary.n, cell.runs));
    }
    html
}

fn notes(pivot: &Pivot, columns: usize) -> Html {
    let mut html = Html::new();
    html.raw("<p class=\"note\">Means over the seeds, ± the sample standard deviation; bold: the best of a row.</p>");
    if !pivot.mixed.is_empty() {
        let keys: Vec<String> = pivot.mixed.iter().map(plain).collect();
        html.raw("<p class=\"wrong\">Means mix runs that differ in ").text(keys.join(", "));
        html.raw(": name these keys as rows or columns, or choose one value of each.</p>");
    }
    if pivot.rows.len() > ROWS {
        html.labelled("p", &[("class", "note")], format!("The first {ROWS} of {} rows.", pivot.rows.len()));
    }
    if pivot.columns.len() > columns {
        html.labelled(
            "p",
            &[("class", "note")],
            format!("The first {columns} of {} columns.", pivot.columns.len()),
        );
    }
    html
}
