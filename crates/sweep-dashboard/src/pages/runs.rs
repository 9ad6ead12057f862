//! The runs of a sweep: filtered, sorted, a hundred a page.

use sweep_core::spec::RunId;
use sweep_report::{Key, Runs};
use sweep_store::{Metric, ResultRow, SweepRow};

use super::Page;
use super::grid::{run_link, share};
use crate::app::{App, Haste, stopped};
use crate::cell::Standing;
use crate::error::Failure;
use crate::html::{Html, Table};
use crate::query::Query;

/// Rows a page.
const ROWS: usize = 100;
/// Fields for conditions that a form has beside those in use.
const SPARE: usize = 1;

/// What runs can be sorted by.
const METRICS: [Metric; 3] = [Metric::Clean, Metric::Robust, Metric::ExpectedRobustness];

/// A column: its title, its name in `sort`, and whether it holds numbers.
const COLUMNS: [(&str, &str, bool); 12] = [
    ("run", "", false),
    ("state", "state", false),
    ("backbone", "backbone", false),
    ("dataset", "dataset", false),
    ("target", "target_epsilon", false),
    ("schedule", "epsilon_schedule", false),
    ("seed", "seed", true),
    ("epochs", "epochs_done", true),
    ("clean %", "clean", true),
    ("robust %", "robust", true),
    ("expected %", "expected_robustness", true),
    ("why", "", false),
];

/// The runs of one page.
struct Chosen {
    ids: Vec<RunId>,
    total: usize,
    page: usize,
}

/// Returns the list.
pub(super) async fn page(app: &App, sweep: &SweepRow, query: &Query, haste: Haste) -> Result<Page, Failure> {
    let (runs, change) = app.runs(sweep.id, &METRICS, haste).await?;
    let chosen = match choose(&runs, query).await {
        Ok(chosen) => chosen,
        // A condition that does not fit is said above the form, which is there to mend it.
        Err(failure) if failure.status.is_client_error() => return Ok(refused(sweep, query, &failure)),
        Err(failure) => return Err(failure),
    };
    let rows = app.reader.results_of(&chosen.ids).await?;
    Ok(Page { change, ..written(sweep, query, &chosen, &rows) })
}

async fn choose(runs: &std::sync::Arc<Runs>, query: &Query) -> Result<Chosen, Failure> {
    let conditions = query.conditions()?;
    let page = query.one::<usize>("page")?.unwrap_or(1).max(1);
    let (sort, is_down) = match query.get("sort") {
        Some(name) => (Some(name.trim_start_matches('-').to_owned()), name.starts_with('-')),
        None => (None, false),
    };
    let runs = std::sync::Arc::clone(runs);
    let work = move || {
        let matching =
            if conditions.is_empty() { None } else { Some(Runs::clone(&runs).matching(&conditions)?) };
        let runs = matching.as_ref().unwrap_or(&runs);
        let mut order: Vec<usize> = (0..runs.runs().len()).collect();
        if let Some(name) = sort {
            let keys = sort_keys(runs, &name)?;
            order.sort_by(|one, other| match (keys[*one], keys[*other]) {
                // What has no number comes last, whichever way.
                (Some(one), Some(other)) if is_down => other.total_cmp(&one),
                (Some(one), Some(other)) => one.total_cmp(&other),
                (one, other) => one.is_none().cmp(&other.is_none()),
            });
        }
        let begin = (page - 1).saturating_mul(ROWS);
        let ids = order.iter().skip(begin).take(ROWS).map(|index| runs.runs()[*index].id).collect();
        Ok(Chosen { ids, total: order.len(), page })
    };
    tokio::task::spawn_blocking(work).await.map_err(|_| stopped())?
}

/// Returns one number a run to sort by: a metric, the epochs done, or the place of a key's value among all values.
fn sort_keys(runs: &Runs, name: &str) -> Result<Vec<Option<f64>>, Failure> {
    if name == "epochs_done" {
        return Ok(runs.runs().iter().map(|run| Some(f64::from(run.epochs_done))).collect());
    }
    if let Some(place) = METRICS.iter().position(|metric| metric.to_string() == name) {
        return Ok(runs.runs().iter().map(|run| run.values[place].map(|measured| measured.value)).collect());
    }
    let column = runs.column(&Key::new(name))?;
    let mut order: Vec<usize> = (0..column.values.len()).collect();
    order.sort_by_key(|place| (column.values[*place].number().is_none(), column.values[*place].to_string()));
    let is_numeric = column.values.iter().all(|value| value.number().is_some());
    let mut rank = vec![0; order.len()];
    order.iter().enumerate().for_each(|(index, place)| rank[*place] = index);
    let key = |place: &u32| Some(if is_numeric { f64::from(*place) } else { rank[*place as usize] as f64 });
    Ok(column.of.iter().map(key).collect())
}

fn frame(sweep: &SweepRow, query: &Query) -> (String, Page) {
    let own = format!("/sweep/{}", sweep.id.number());
    let mut page = Page {
        title: format!("Runs of {}", sweep.name),
        way: vec![(own.clone(), sweep.name.clone())],
        events: query.link(&format!("{own}/runs/events")),
        ..Page::default()
    };
    page.body
        .raw("<nav class=\"tabs\" aria-label=\"Views of this sweep\"><ul><li>")
        .link(&own, "Grid")
        .raw("</li><li>");
    page.body
        .labelled("a", &[("href", &format!("{own}/runs")), ("aria-current", "page")], "Runs")
        .raw("</li><li>");
    page.body.link(&format!("/compare?sweep={}", sweep.id.number()), "Compare").raw("</li></ul></nav>\n");
    let conditions: Vec<&str> = query.all("where").collect();
    page.body.open("form", &[("class", "choices"), ("method", "get"), ("action", &format!("{own}/runs"))]);
    page.body.html(&filters(&conditions));
    if let Some(sort) = query.get("sort") {
        page.body.open("input", &[("type", "hidden"), ("name", "sort"), ("value", sort)]);
    }
    page.body.raw("<button>Filter</button></form>\n");
    (own, page)
}

fn refused(sweep: &SweepRow, query: &Query, failure: &Failure) -> Page {
    let (_, mut page) = frame(sweep, query);
    page.events = String::new();
    page.body.labelled("p", &[("class", "wrong"), ("role", "alert")], &failure.message);
    page
}

fn written(sweep: &SweepRow, query: &Query, chosen: &Chosen, rows: &[ResultRow]) -> Page {
    let (own, mut page) = frame(sweep, query);
    let address = format!("{own}/runs");
    page.part("p", "found", &[("aria-live", "polite")], found(chosen));
    let mut table = table(query, &address);
    table.rows = rows.iter().map(row).collect();
    let body = table.body();
    page.body.html(&table.written());
    page.parts
        .push(crate::live::Part { id: "rows".to_owned(), content: crate::live::Content::Html(body, None) });
    page.body.html(&turning(query, &address, chosen));
    page
}

fn found(chosen: &Chosen) -> Html {
    let begin = (chosen.page - 1).saturating_mul(ROWS);
    match (chosen.total, chosen.ids.len()) {
        (0, _) => Html::of("No runs."),
        (1, _) => Html::of("1 run."),
        (total, 0) => Html::of(format!("{total} runs; this page is behind the last one.")),
        (total, shown) => Html::of(format!("{total} runs, {} to {}.", begin + 1, begin + shown)),
    }
}

/// Returns the table without rows; heads are links that sort.
fn table(query: &Query, address: &str) -> Table {
    let sorted = query.get("sort").unwrap_or("");
    let mut table = Table { label: "Runs".to_owned(), part: "rows", ..Table::default() };
    for (title, name, is_number) in COLUMNS {
        let mut head = Html::new();
        let (is_up, is_down) = (sorted == name, sorted.strip_prefix('-') == Some(name));
        match (name, is_up) {
            ("", _) => drop(head.text(title)),
            (name, true) => drop(
                head.link(&query.with("sort", &format!("-{name}")).with("page", "").link(address), title),
            ),
            (name, false) => drop(head.link(&query.with("sort", name).with("page", "").link(address), title)),
        }
        if !name.is_empty() && (is_up || is_down) {
            let (sign, word) = if is_up { (" ▲", "ascending") } else { (" ▼", "descending") };
            head.raw("<span aria-hidden=\"true\">").text(sign).raw("</span>").labelled(
                "span",
                &[("class", "hidden")],
                word,
            );
        }
        table.columns.push((head, is_number));
    }
    table
}

fn row(result: &ResultRow) -> Vec<Html> {
    let standing = if result.blocked { Standing::Blocked } else { Standing::of_state(result.state) };
    let why = result.failure.as_ref().map_or("", |failure| failure.class.label());
    vec![
        run_link(result.id),
        standing.html(),
        Html::of(&result.backbone),
        Html::of(&result.dataset),
        Html::of(result.target_epsilon),
        Html::of(&result.epsilon_schedule),
        Html::of(result.seed),
        Html::of(format!("{}/{}", result.epochs_done, result.epochs)),
        share(result.clean),
        share(result.robust),
        share(result.expected_robustness),
        Html::of(why),
    ]
}

/// Writes links to the pages around this one.
fn turning(query: &Query, address: &str, chosen: &Chosen) -> Html {
    let last = chosen.total.div_ceil(ROWS).max(1);
    let mut html = Html::new();
    if last == 1 && chosen.page == 1 {
        return html;
    }
    let to = |page: usize| query.with("page", &page.to_string()).link(address);
    html.raw("<nav class=\"turn\" aria-label=\"Pages\"><ul>");
    for (text, page) in
        [("First", 1), ("Previous", chosen.page.saturating_sub(1)), ("Next", chosen.page + 1), ("Last", last)]
    {
        if (1..=last).contains(&page) && page != chosen.page {
            html.raw("<li>").link(&to(page), text).raw("</li>");
        }
    }
    html.raw("<li>page ").text(chosen.page).raw(" of ").text(last).raw("</li></ul></nav>\n");
    html
}

/// Writes the fields of conditions, with one to add another.
pub(super) fn filters(conditions: &[&str]) -> Html {
    let mut html = Html::new();
    let spare = std::iter::repeat_n(&"", SPARE);
    for (index, condition) in conditions.iter().chain(spare).enumerate() {
        html.raw("<label>").text(if index == 0 { "Where" } else { "and" }).raw(" ");
        let width = condition.chars().count().clamp(18, 40).to_string();
        html.open(
            "input",
            &[
                ("name", "where"),
                ("value", condition),
                ("size", &width),
                ("placeholder", "state=failed"),
                ("autocomplete", "off"),
                ("spellcheck", "false"),
            ],
        );
        html.raw("</label>");
    }
    html
}
