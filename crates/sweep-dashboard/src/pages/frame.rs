//! What is around every page, and pages that say what is wrong.

use axum::http::StatusCode;
use axum::response::Response;

use super::{Page, html};
use crate::assets::{PLOTLY, SCRIPT, STYLE};
use crate::error::Failure;
use crate::html::Html;

/// An icon that is not asked for: browsers want one.
const ICON: &str = "<link rel=\"icon\" href=\"data:,\">";

/// Returns a page in its frame.
pub(super) fn framed(page: &Page) -> Response {
    html(StatusCode::OK, written(page))
}

/// Returns a page that says what is wrong.
pub(crate) fn failure(failure: &Failure) -> Response {
    let mut page = Page { title: failure.title.to_owned(), ..Page::default() };
    for line in failure.message.lines() {
        page.body.labelled("p", &[], line);
    }
    if !failure.candidates.is_empty() {
        page.body.raw("<ul>");
        for (run, description) in &failure.candidates {
            page.body.raw("<li>").link(&format!("/run/{run}"), run.get(..10).unwrap_or(run));
            page.body.raw(" ").text(description).raw("</li>");
        }
        page.body.raw("</ul>");
    }
    page.body.raw("<p>").link("/", "To the first page").raw("</p>");
    html(failure.status, written(&page))
}

fn written(page: &Page) -> String {
    let mut html = Html::new();
    html.raw("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">");
    html.raw("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">").raw(ICON);
    html.raw("<title>").text(&page.title).raw(" – sweep</title>");
    html.open("link", &[("rel", "stylesheet"), ("href", &STYLE.path())]);
    if page.has_charts {
        html.open("script", &[("defer", "defer"), ("src", &PLOTLY.path())]).close("script");
    }
    html.open("script", &[("defer", "defer"), ("src", &SCRIPT.path())]).close("script");
    html.raw("</head>\n");
    html.open("body", &[("data-events", &page.events), ("data-since", &page.change.to_string())]);
    html.raw(
        "<a class=\"skip\" href=\"#main\">To the content</a>\n<header><nav aria-label=\"Where this is\"><ol>",
    );
    html.raw("<li>").link("/sweeps", "sweeps").raw("</li>");
    for (address, text) in &page.way {
        html.raw("<li>").link(address, text).raw("</li>");
    }
    html.raw("</ol><span id=\"live\" role=\"status\"></span></nav><h1>")
        .text(&page.title)
        .raw("</h1></header>\n");
    html.raw("<main id=\"main\">\n").html(&page.body).raw("</main>\n</body></html>\n");
    html.into_string()
}
