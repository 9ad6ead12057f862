//! Pages: what is read for each, and how it is written. Every page is whole without a script; its parts that change have names.

mod compare;
mod frame;
mod grid;
mod run;
mod runs;
mod sweeps;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, RawQuery, State};
use axum::http::header::{CONTENT_TYPE, LOCATION};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use sweep_core::spec::RunId;
use sweep_store::SweepRow;

use crate::app::{App, Haste};
use crate::assets;
use crate::error::Failure;
use crate::html::Html;
use crate::live::{Content, Part, follow};
use crate::query::Query;

pub(crate) use frame::failure;

/// A page that can be followed.
pub(crate) enum View {
    /// The grid of a sweep.
    Grid(SweepRow, Query),
    /// The list of its runs.
    Runs(SweepRow, Query),
    /// A table of its numbers.
    Compare(SweepRow, Query),
    /// One run.
    Run(RunId),
}

/// A page before its frame.
#[derive(Default)]
pub(crate) struct Page {
    pub(crate) title: String,
    /// Links above the title: address and text.
    pub(crate) way: Vec<(String, String)>,
    pub(crate) body: Html,
    /// What may change, in the order of the page.
    pub(crate) parts: Vec<Part>,
    /// The change of the database that all of it was read after.
    pub(crate) change: u64,
    /// Where changes come from; empty where none do.
    pub(crate) events: String,
    pub(crate) has_charts: bool,
}

impl Page {
    /// Adds an element whose content may change.
    pub(crate) fn part(
        &mut self,
        tag: &'static str,
        id: &str,
        attributes: &[(&'static str, &str)],
        content: Html,
    ) {
        self.body.element(tag, &[&[("id", id)], attributes].concat(), &content);
        self.parts.push(Part { id: id.to_owned(), content: Content::Html(content, None) });
    }

    /// Adds a chart.
    pub(crate) fn chart(&mut self, id: &str, label: &str, figure: String) {
        self.has_charts = true;
        let attributes = [
            ("id", id),
            ("class", "chart"),
            ("role", "img"),
            ("aria-label", label),
            ("data-figure", &figure),
        ];
        self.body.open("div", &attributes).close("div");
        self.parts.push(Part { id: id.to_owned(), content: Content::Figure(figure) });
    }
}

impl View {
    /// Reads and writes the page.
    pub(crate) async fn page(&self, app: &App, haste: Haste) -> Result<Page, Failure> {
        match self {
            Self::Grid(sweep, query) => grid::page(app, sweep, query, haste).await,
            Self::Runs(sweep, query) => runs::page(app, sweep, query, haste).await,
            Self::Compare(sweep, query) => compare::page(app, sweep, query, haste).await,
            Self::Run(run) => run::page(app, *run, haste).await,
        }
    }
}

/// Who answers what.
pub(crate) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/", get(first))
        .route("/sweeps", get(list))
        .route("/sweep/{sweep}", get(show_grid))
        .route("/sweep/{sweep}/events", get(follow_grid))
        .route("/sweep/{sweep}/runs", get(show_runs))
        .route("/sweep/{sweep}/runs/events", get(follow_runs))
        .route("/compare", get(show_compare))
        .route("/compare/events", get(follow_compare))
        .route("/run/{run}", get(show_run))
        .route("/run/{run}/events", get(follow_run))
        .route("/assets/{digest}/{name}", get(asset))
        .fallback(nothing)
}

type Shared = State<Arc<App>>;
type Answer = Result<Response, Failure>;

impl axum::response::IntoResponse for Failure {
    fn into_response(self) -> Response {
        failure(&self)
    }
}

async fn first(State(app): Shared) -> Answer {
    let sweeps = app.reader.sweeps().await?;
    let chosen = app.chosen.or(if let [only] = sweeps.as_slice() { Some(only.id) } else { None });
    match chosen {
        Some(sweep) => sent_to(&format!("/sweep/{}", sweep.number())),
        None => Ok(frame::framed(&sweeps::page(&app).await?)),
    }
}

async fn list(State(app): Shared) -> Answer {
    Ok(frame::framed(&sweeps::page(&app).await?))
}

async fn show_grid(State(app): Shared, Path(sweep): Path<String>, RawQuery(query): RawQuery) -> Answer {
    show(&app, &View::Grid(sweep_of(&app, &sweep).await?, parsed(query)?)).await
}

async fn show_runs(State(app): Shared, Path(sweep): Path<String>, RawQuery(query): RawQuery) -> Answer {
    show(&app, &View::Runs(sweep_of(&app, &sweep).await?, parsed(query)?)).await
}

async fn show_compare(State(app): Shared, RawQuery(query): RawQuery) -> Answer {
    let query = parsed(query)?;
    show(&app, &View::Compare(compared(&app, &query).await?, query)).await
}

/// A run may be named by the first digits of its id.
async fn show_run(State(app): Shared, Path(run): Path<String>) -> Answer {
    let found = app.reader.resolve_run(&run).await?;
    if run != found.to_string() {
        return sent_to(&format!("/run/{found}"));
    }
    show(&app, &View::Run(found)).await
}

async fn follow_grid(
    State(app): Shared,
    Path(sweep): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Answer {
    let query = parsed(query)?;
    let since = query.one("since")?;
    let view = View::Grid(sweep_of(&app, &sweep).await?, query);
    Ok(follow(&app, view, since, &headers)?.into_response())
}

async fn follow_runs(
    State(app): Shared,
    Path(sweep): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Answer {
    let query = parsed(query)?;
    let since = query.one("since")?;
    let view = View::Runs(sweep_of(&app, &sweep).await?, query);
    Ok(follow(&app, view, since, &headers)?.into_response())
}

async fn follow_compare(State(app): Shared, RawQuery(query): RawQuery, headers: HeaderMap) -> Answer {
    let query = parsed(query)?;
    let since = query.one("since")?;
    let view = View::Compare(compared(&app, &query).await?, query);
    Ok(follow(&app, view, since, &headers)?.into_response())
}

async fn follow_run(
    State(app): Shared,
    Path(run): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Answer {
    let since = parsed(query)?.one("since")?;
    let view = View::Run(app.reader.resolve_run(&run).await?);
    Ok(follow(&app, view, since, &headers)?.into_response())
}

async fn asset(uri: Uri) -> Answer {
    let found = assets::find(uri.path()).ok_or_else(|| Failure::not_found("There is no such file."))?;
    Ok((found.headers(), found.content.as_str()).into_response())
}

async fn nothing(uri: Uri) -> Failure {
    Failure::not_found(format!("There is nothing at {}.", uri.path()))
}

async fn show(app: &App, view: &View) -> Answer {
    Ok(frame::framed(&view.page(app, Haste::Soon).await?))
}

async fn sweep_of(app: &App, number: &str) -> Result<SweepRow, Failure> {
    match number.parse() {
        Ok(number) => app.sweep(number).await,
        Err(_) => Err(Failure::not_found(format!("`{number}` is no number of a sweep."))),
    }
}

/// Returns the sweep whose number or name `sweep` says; without it the chosen one, or the one that changed last.
async fn compared(app: &App, query: &Query) -> Result<SweepRow, Failure> {
    let sweeps = app.reader.sweeps().await?;
    let named = query.get("sweep");
    let is_meant = |sweep: &SweepRow| match named {
        Some(name) => sweep.id.number().to_string() == name || sweep.name == name,
        None => app.chosen.is_none_or(|chosen| chosen == sweep.id),
    };
    let found = sweeps.into_iter().find(is_meant);
    found.ok_or_else(|| Failure::not_found(format!("There is no sweep `{}`.", named.unwrap_or_default())))
}

/// Reads the parameters of an address.
fn parsed(query: Option<String>) -> Result<Query, Failure> {
    let address: Uri = format!("/?{}", query.unwrap_or_default())
        .parse()
        .map_err(|_| Failure::bad_request("The parameters of this address cannot be read."))?;
    axum::extract::Query::try_from_uri(&address)
        .map(|read| Query(read.0))
        .map_err(|error| Failure::bad_request(error.to_string()))
}

fn sent_to(path: &str) -> Answer {
    let location =
        HeaderValue::from_str(path).map_err(|_| Failure::not_found("There is no such address."))?;
    Ok((StatusCode::SEE_OTHER, [(LOCATION, location)]).into_response())
}

/// Returns a page as a response.
fn html(status: StatusCode, text: String) -> Response {
    (status, [(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"))], text).into_response()
}
