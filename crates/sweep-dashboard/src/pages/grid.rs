//! A sweep: how it stands, who works, what happened, and the grid as a heat map.

use std::collections::{HashMap, HashSet};

use sweep_core::event::Phase;
use sweep_core::spec::RunId;
use sweep_report::{Key, Runs, Value};
use sweep_store::{Metric, News, Progress, State, SweepRow, Workers, now_ms};

use super::Page;
use crate::app::{App, Haste, stopped};
use crate::assets::HEATS;
use crate::cell::{Standing, number, percent, spread, title};
use crate::error::Failure;
use crate::forecast::{Forecast, forecast};
use crate::grid::{Cell, Grid, Panel, usual_axes};
use crate::html::{Html, Table, duration};
use crate::live::{Content, Part};
use crate::query::Query;

/// Attempts that are listed, at most: those that run, and those that ended last.
const RUNNING: u32 = 12;
const ENDED: u32 = 6;
/// Letters of a failure's message.
const MESSAGE: usize = 160;
/// Runs without a cell that are listed, at most.
const OUTSIDE: usize = 20;
/// Steps of the legend's colours.
const LEGEND: u32 = 10;

/// Everything about a sweep but its cells.
struct Facts {
    counts: HashMap<State, u64>,
    forecast: Forecast,
    workers: Workers,
    running: Vec<News>,
    ended: Vec<News>,
}

/// Returns the page of a sweep.
pub(super) async fn page(app: &App, sweep: &SweepRow, query: &Query, haste: Haste) -> Result<Page, Failure> {
    let metric = query.one("metric")?.unwrap_or(Metric::Robust);
    let conditions = query.conditions()?;
    let (runs, change) = app.runs(sweep.id, &[metric], haste).await?;
    let facts = facts(app, sweep).await?;
    let outside = outside(app, sweep, &runs).await?;
    let (sweep, query) = (sweep.clone(), query.clone());
    let writing = move || {
        let chosen =
            if conditions.is_empty() { None } else { Some(Runs::clone(&runs).matching(&conditions)?) };
        let shown = chosen.as_ref().unwrap_or(&runs);
        let (rows, columns) = usual_axes(shown);
        let (rows, columns) = (query.keys("rows").unwrap_or(rows), query.keys("columns").unwrap_or(columns));
        let grid = Grid::new(shown, rows, columns)?;
        Ok(Page { change, ..written(&sweep, &query, &facts, &grid, &outside) })
    };
    tokio::task::spawn_blocking(writing).await.map_err(|_| stopped())?
}

async fn facts(app: &App, sweep: &SweepRow) -> Result<Facts, Failure> {
    let reader = &app.reader;
    Ok(Facts {
        counts: reader.state_counts(Some(sweep.id)).await?,
        forecast: forecast(&reader.paces(sweep.id, now_ms()).await?),
        workers: reader.workers(sweep.id).await?,
        running: reader.running_in(sweep.id, RUNNING).await?,
        ended: reader.ended_in(sweep.id, ENDED).await?,
    })
}

/// Returns the runs that have no cell because others start from their models: pretraining.
async fn outside(app: &App, sweep: &SweepRow, runs: &Runs) -> Result<Vec<(RunId, State)>, Failure> {
    if runs.runs().len() == sweep.runs as usize {
        return Ok(Vec::new());
    }
    let inside: HashSet<RunId> = runs.runs().iter().map(|run| run.id).collect();
    let states = app.reader.run_states(sweep.id).await?;
    Ok(states.into_iter().filter(|run| !inside.contains(&run.id)).map(|run| (run.id, run.state)).collect())
}

fn written(
    sweep: &SweepRow,
    query: &Query,
    facts: &Facts,
    grid: &Grid<'_>,
    outside: &[(RunId, State)],
) -> Page {
    let own = format!("/sweep/{}", sweep.id.number());
    let mut page =
        Page { title: sweep.name.clone(), events: query.link(&format!("{own}/events")), ..Page::default() };
    page.body.html(&links(&own, sweep));
    page.part("div", "states", &[], states(&facts.counts));
    page.part("p", "progress", &[("aria-live", "polite")], progress(facts));
    page.body.raw("<section aria-labelledby=\"now\"><h2 id=\"now\">Now</h2>\n");
    page.part("div", "running", &[], running(&facts.running));
    page.body.raw("</section><section aria-labelledby=\"grid\"><h2 id=\"grid\">Grid</h2>\n");
    page.body.html(&choices(&own, query, grid));
    page.part("div", "scale", &[("class", "scale")], scale(grid));
    cells(&mut page, &own, query, grid);
    page.body.html(&beside(grid, outside));
    page.body.raw("</section><section aria-labelledby=\"news\"><h2 id=\"news\">Last news</h2>\n");
    page.part("div", "ended", &[], ended(&facts.ended));
    page.body.raw("</section>\n");
    page
}

fn links(own: &str, sweep: &SweepRow) -> Html {
    let mut html = Html::new();
    html.raw("<nav class=\"tabs\" aria-label=\"Views of this sweep\"><ul><li>");
    html.labelled("a", &[("href", own), ("aria-current", "page")], "Grid").raw("</li><li>");
    html.link(&format!("{own}/runs"), "Runs").raw("</li><li>");
    html.link(&format!("/compare?sweep={}", sweep.id.number()), "Compare").raw("</li></ul></nav>\n");
    html
}

/// Writes a bar of all runs, and the same in numbers.
fn states(counts: &HashMap<State, u64>) -> Html {
    let total: u64 = counts.values().sum();
    let mut html = Html::new();
    let view = format!("0 0 {} 1", total.max(1));
    html.open(
        "svg",
        &[("class", "bar"), ("viewBox", &view), ("preserveAspectRatio", "none"), ("aria-hidden", "true")],
    );
    let mut begin = 0;
    for state in State::ALL {
        let count = counts.get(&state).copied().unwrap_or(0);
        let (x, width) = (begin.to_string(), count.to_string());
        let class = format!("fill-{}", state.label());
        html.open("rect", &[("x", &x), ("width", &width), ("height", "1"), ("class", &class)]).close("rect");
        begin += count;
    }
    html.raw("</svg><ul class=\"counts\">");
    for state in State::ALL {
        let Some(count) = counts.get(&state) else { continue };
        html.raw("<li>").html(&Standing::of_state(state).html()).raw(" <b>").text(count).raw("</b></li>");
    }
    html.raw("<li>of <b>").text(total).raw("</b> runs</li></ul>");
    html
}

fn progress(facts: &Facts) -> Html {
    let Forecast { done, work_seconds } = facts.forecast;
    let workers = facts.workers.running;
    let mut html = Html::new();
    // A grid that is nearly done is not done.
    html.raw("<b>")
        .text(format!("{:.1} %", (done * 1000.0).floor() / 10.0))
        .raw("</b> of the work is done. ");
    match (work_seconds, workers) {
        (Some(seconds), _) if seconds <= 0.0 => html.text("Nothing is left to do. "),
        (Some(seconds), 0) => {
            html.text(format!("One worker would need about {} for the rest. ", duration(seconds)))
        }
        (Some(seconds), _) => {
            html.text(format!("About {} left at this rate. ", duration(seconds / f64::from(workers))))
        }
        (None, _) => html.text("How long the rest takes is known after the first epoch. "),
    };
    match workers {
        0 => html.text("No worker runs now."),
        1 => html.text("1 worker runs now"),
        _ => html.text(format!("{workers} workers run now")),
    };
    if let (1.., Some(quietest)) = (workers, facts.workers.quietest_ms) {
        html.text(if workers == 1 { ", heard " } else { ", the quietest heard " }).moment(quietest).text(".");
    } else if let Some(news) = facts.workers.news_ms {
        html.text(" Last news ").moment(news).text(".");
    }
    html
}

fn running(list: &[News]) -> Html {
    if list.is_empty() {
        return paragraph("Nothing runs.");
    }
    let mut table = Table::new(
        "Running attempts",
        &["run", "what", "where it is", "#epochs", "#attempt", "worker", "heard"],
    );
    for news in list {
        let mut heard = Html::new();
        heard.moment(news.heard_ms.unwrap_or(news.started_ms));
        table.rows.push(vec![
            run_link(news.run),
            Html::of(&news.description),
            position(news),
            Html::of(format!("{}/{}", news.epochs.1, news.epochs.0)),
            Html::of(news.attempt),
            Html::of(news.place.as_deref().unwrap_or("starting")),
            heard,
        ]);
    }
    table.written()
}

/// Returns what an attempt does.
pub(super) fn phase(progress: &Progress) -> String {
    match progress.phase {
        Phase::Loading => "loading".to_owned(),
        Phase::Training => format!("training epoch {}", progress.epoch + 1),
        Phase::Validation => format!("validating epoch {}", progress.epoch + 1),
        Phase::Evaluation => "evaluating".to_owned(),
    }
}

/// Writes where an attempt is within its phase.
fn position(news: &News) -> Html {
    let Some(progress) = news.progress else { return Html::of("starting") };
    let mut html = Html::of(phase(&progress));
    if progress.steps > 0 {
        let (step, steps) = (progress.step.to_string(), progress.steps.to_string());
        html.raw(" ").labelled("progress", &[("value", &step), ("max", &steps), ("aria-label", "steps")], "");
        html.raw(" ").labelled("small", &[], format!("{step}/{steps}"));
    }
    html
}

fn ended(list: &[News]) -> Html {
    if list.is_empty() {
        return paragraph("No attempt has ended yet.");
    }
    let mut table = Table::new("Attempts that ended last", &["run", "what", "how", "#took", "when", "why"]);
    for news in list {
        let ended_ms = news.ended_ms.unwrap_or(news.started_ms);
        let mut when = Html::new();
        when.moment(ended_ms);
        let why = news.failure.as_ref().map_or_else(String::new, |failure| {
            let message: String = failure.message.chars().take(MESSAGE).collect();
            format!("{}: {message}", failure.class.label())
        });
        table.rows.push(vec![
            run_link(news.run),
            Html::of(&news.description),
            Standing::of_state(news.state).html(),
            Html::of(duration((ended_ms - news.started_ms) as f64 / 1e3)),
            when,
            Html::of(why),
        ]);
    }
    table.written()
}

/// Writes which metric is shown and what the axes are, as a form that needs no script.
fn choices(own: &str, query: &Query, grid: &Grid<'_>) -> Html {
    let joined = |keys: &[Key]| keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let mut html = Html::new();
    html.open("form", &[("class", "choices"), ("method", "get"), ("action", own)]);
    html.raw("<label>Metric <select name=\"metric\">");
    let chosen = grid.metric;
    let known = Metric::PLAIN.contains(&chosen);
    for metric in Metric::PLAIN.into_iter().chain((!known).then_some(chosen)) {
        let name = metric.to_string();
        let selected = if metric == chosen { "selected" } else { "" };
        html.labelled("option", &[("value", &name), ("selected", selected)], name.replace('_', " "));
    }
    html.raw("</select></label>");
    for (name, label, value) in
        [("rows", "Rows", joined(&grid.row_keys)), ("columns", "Columns", joined(&grid.column_keys))]
    {
        html.raw("<label>").text(label).raw(" ");
        html.open("input", &[("name", name), ("value", &value), ("size", "14"), ("autocomplete", "off")])
            .raw("</label>");
    }
    let conditions: Vec<&str> = query.all("where").collect();
    html.html(&super::runs::filters(&conditions));
    html.raw("<button>Show</button></form>\n");
    html
}

fn scale(grid: &Grid<'_>) -> Html {
    let mut html = Html::new();
    let Some((least, most)) = grid.range else {
        return paragraph("No run has this number yet; cells show where runs stand.");
    };
    html.raw("<span>")
        .text(title(grid.metric))
        .raw("</span> <span>")
        .text(number(grid.metric, least))
        .raw("</span>");
    html.raw("<svg viewBox=\"0 0 11 1\" preserveAspectRatio=\"none\" aria-hidden=\"true\">");
    for step in 0..=LEGEND {
        let (x, class) = (step.to_string(), format!("heat-{}", step * HEATS / LEGEND));
        html.open("rect", &[("x", &x), ("width", "1.02"), ("height", "1"), ("class", &class)]).close("rect");
    }
    html.raw("</svg><span>").text(number(grid.metric, most)).raw("</span>");
    html
}

/// Adds the tables; every cell is a part.
fn cells(page: &mut Page, own: &str, query: &Query, grid: &Grid<'_>) {
    let shape = grid.shape();
    page.body.raw("<div class=\"panels\">\n");
    let mut count = 0;
    for panel in &grid.panels {
        head(&mut page.body, panel, grid);
        for (names, cells) in &panel.rows {
            page.body.raw("<tr><th scope=\"row\">").text(joined(names)).raw("</th>");
            for (cell, column) in cells.iter().zip(&panel.columns) {
                let id = format!("c{shape:x}-{count}");
                count += 1;
                let content = content(cell, own, query, grid, panel, names, column);
                let class = class(cell, grid);
                page.body.element("td", &[("id", &id), ("class", &class)], &content);
                page.parts.push(Part { id, content: Content::Html(content, Some(class)) });
            }
            page.body.raw("</tr>\n");
        }
        page.body.raw("</tbody></table></div></figure>\n");
    }
    page.body.raw("</div>\n");
}

fn head(html: &mut Html, panel: &Panel<'_>, grid: &Grid<'_>) {
    let what = panel
        .names
        .iter()
        .map(|(key, value)| format!("{} {value}", plain(key)))
        .collect::<Vec<_>>()
        .join(" · ");
    let what = if what.is_empty() { "all runs".to_owned() } else { what };
    html.raw("<figure class=\"panel\"><figcaption>").text(&what).raw("</figcaption>");
    html.open("div", &[("class", "scroll"), ("tabindex", "0"), ("role", "region"), ("aria-label", &what)]);
    html.raw("<table class=\"heat\"><thead><tr><th scope=\"col\">");
    let axis = |keys: &[Key]| keys.iter().map(plain).collect::<Vec<_>>().join(", ");
    html.text(axis(&grid.row_keys))
        .raw(" <span class=\"faint\">\u{5c} ")
        .text(axis(&grid.column_keys))
        .raw("</span></th>");
    for column in &panel.columns {
        html.labelled("th", &[("scope", "col")], joined(column));
    }
    html.raw("</tr></thead><tbody>\n");
}

fn class(cell: &Cell<'_>, grid: &Grid<'_>) -> String {
    match cell.summary {
        Some(summary) => format!("heat-{}", (grid.part(summary.mean) * f64::from(HEATS)).round() as u32),
        None if cell.runs.is_empty() => "none".to_owned(),
        None => cell
            .unfinished()
            .first()
            .map_or("bare", |(standing, _)| match standing {
                Standing::Running => "bare is-running",
                Standing::Failed | Standing::Blocked => "bare is-failed",
                _ => "bare",
            })
            .to_owned(),
    }
}

/// Writes a cell: its number or where its runs stand, and a link to those.
fn content(
    cell: &Cell<'_>,
    own: &str,
    query: &Query,
    grid: &Grid<'_>,
    panel: &Panel<'_>,
    row: &[Value],
    column: &[Value],
) -> Html {
    let mut html = Html::new();
    let Some(first) = cell.runs.first() else { return html };
    let address = if cell.runs.len() == 1 {
        format!("/run/{}", first.id)
    } else {
        let names = panel.names.iter().map(|(key, value)| (key, value));
        let mut filter =
            Query(query.all("where").map(|text| ("where".to_owned(), text.to_owned())).collect());
        let axes = grid.row_keys.iter().zip(row).chain(grid.column_keys.iter().zip(column));
        for (key, value) in names.chain(axes) {
            filter = filter.and("where", &format!("{}={value}", key.name()));
        }
        filter.link(&format!("{own}/runs"))
    };
    html.open("a", &[("href", &address)]);
    let unfinished = cell.unfinished();
    if let Some(summary) = cell.summary {
        html.raw("<b>").text(number(grid.metric, summary.mean)).raw("</b>");
        if let Some(deviation) = summary.standard_deviation {
            html.raw(" <small>±").text(spread(grid.metric, deviation)).raw("</small>");
        }
        if summary.n < cell.runs.len() {
            html.raw("<small class=\"line\">")
                .text(format!("{} of {}", summary.n, cell.runs.len()))
                .raw("</small>");
        }
    }
    for (standing, count) in &unfinished {
        html.raw("<small class=\"line\"><span aria-hidden=\"true\">").text(standing.sign()).raw("</span> ");
        if cell.runs.len() > 1 {
            html.text(count).raw(" ");
        }
        html.text(standing.word());
        if cell.runs.len() == 1 && cell.epochs_done() > 0 {
            html.text(format!(", epoch {}", cell.epochs_done()));
        }
        html.raw("</small>");
    }
    if cell.summary.is_none() && unfinished.is_empty() {
        html.raw("<small class=\"line\">✓ not measured</small>");
    }
    html.close("a");
    html
}

/// Writes what the tables do not show.
fn beside(grid: &Grid<'_>, outside: &[(RunId, State)]) -> Html {
    let mut html = Html::new();
    if grid.left_out > 0 {
        html.raw("<p class=\"note\">").text(format!("{} more tables are left out; ", grid.left_out));
        html.raw("conditions, or other rows and columns, show them.</p>");
    }
    html.raw("<p class=\"note\">A cell is the mean over its runs, ± the sample standard deviation. ");
    html.raw("It leads to its runs.</p>\n");
    if !outside.is_empty() {
        html.raw("<p class=\"note\">Not in the grid, since others start from their models: ");
        for (run, state) in outside.iter().take(OUTSIDE) {
            html.html(&run_link(*run)).text(format!(" {state} "));
        }
        if outside.len() > OUTSIDE {
            html.text(format!("and {} more", outside.len() - OUTSIDE));
        }
        html.raw("</p>\n");
    }
    html
}

/// Writes a link to a run by the first digits of its id.
pub(super) fn run_link(run: RunId) -> Html {
    let mut html = Html::new();
    html.open("a", &[("href", &format!("/run/{run}"))]).labelled("code", &[], run.short()).close("a");
    html
}

/// Writes a key as a heading says it.
pub(super) fn plain(key: &Key) -> String {
    key.label().replace('_', " ")
}

pub(super) fn joined(values: &[Value]) -> String {
    if values.is_empty() {
        return "all".to_owned();
    }
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(" · ")
}

pub(super) fn paragraph(text: &'static str) -> Html {
    let mut html = Html::new();
    html.raw("<p>").raw(text).raw("</p>");
    html
}

/// Writes an accuracy in percent.
pub(super) fn share(fraction: Option<f64>) -> Html {
    Html::of(percent(fraction))
}
