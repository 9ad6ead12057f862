//! The report as one HTML page: no script, no font, nothing from elsewhere; readable offline, on paper, light and dark.

mod facts;
mod main_table;
mod paired;
mod paper;
mod provenance;
mod runs;
mod table;

use sweep_core::spec::RunId;

use crate::chart::{Entry, Figure, panel_svg, stylesheet, swatch_svg};
use crate::error::Result;
use crate::escape::escape;
use crate::figures::Drawn;
use crate::material::Material;

/// What the first line of a report says, so that a program knows it again.
pub(crate) const GENERATOR: &str = "<meta name=\"generator\" content=\"sweep report\">";

/// The look of the page, but its colours.
const STYLE: &str = include_str!("page.css");

/// Nothing may be loaded and nothing run, even if a text of the results were markup.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

/// A part of the page.
struct Section {
    /// Its anchor.
    id: &'static str,
    title: &'static str,
    body: String,
}

/// Returns the whole page. The same results give the same bytes.
///
/// # Errors
/// [`crate::Error::Draw`] where a chart cannot be laid out.
pub fn page(material: &Material, drawn: &Drawn) -> Result<String> {
    let section = |id, title, body| Section { id, title, body };
    let sections = [
        section("overview", "What was run", facts::overview(material)),
        section("results", "Results", main_table::table(material)),
        section("pairs", "Pairs of schedules", paired::tables(material)),
        section("paper", "Beside the paper", paper::table(material)),
        section("figures", "Figures", figures(drawn)?),
        section("runs", "Runs", runs::table(material)),
        section("checks", "Checks", facts::checks(material)),
        section("provenance", "Provenance", provenance::tables(material)),
        section("repeat", "How to repeat it", provenance::commands(material)),
        section("left-out", "What is not drawn", facts::omitted(drawn)),
    ];
    let name = escape(&material.sweep.name);
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">{GENERATOR}\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{name} – sweep report</title>\n<style>\n{}</style></head>\n<body>\n",
        style()
    );
    page.push_str(&format!("<header><p class=\"kicker\">sweep report</p><h1>{name}</h1>"));
    page.push_str(&facts::summary(material));
    page.push_str("</header>\n<nav aria-label=\"Sections\"><ul>");
    for Section { id, title, .. } in &sections {
        page.push_str(&format!("<li><a href=\"#{id}\">{title}</a></li>"));
    }
    page.push_str("</ul></nav>\n<main>\n");
    for Section { id, title, body } in &sections {
        page.push_str(&format!("<section id=\"{id}\"><h2>{title}</h2>\n{body}</section>\n"));
    }
    page.push_str("</main>\n</body></html>\n");
    Ok(page)
}

/// Returns the style sheet: colours by the reader's choice, on paper always light.
fn style() -> String {
    let (light, dark) = (stylesheet(false), stylesheet(true));
    format!(
        ":root{{color-scheme:light dark;{light}}}\n@media (prefers-color-scheme:dark){{:root{{{dark}}}}}\n\
         @media print{{:root{{color-scheme:light;{light}}}}}\n{STYLE}"
    )
}

fn figures(drawn: &Drawn) -> Result<String> {
    if drawn.figures.is_empty() {
        let why = "No figure can be drawn from the runs at hand; the end of this page says why.";
        return Ok(format!(
            "<p>{why}</p>
"
        ));
    }
    let mut text = "<p class=\"note\">Points are means over the seeds, bands one sample standard deviation to each side. Panels \
        of a figure have the same axes. Every point leads to the (first) run behind it.</p>
"
        .to_owned();
    for figure in &drawn.figures {
        text.push_str(&one_figure(figure)?);
    }
    Ok(text)
}

fn one_figure(figure: &Figure) -> Result<String> {
    let mut text = format!(
        "<figure id=\"{0}\"><h3>{1} <span class=\"faint\">({2} of the paper)</span></h3>\n",
        figure.name,
        escape(figure.title),
        figure.reference
    );
    if !figure.legend.is_empty() {
        let entry = |entry: &Entry| format!("<li>{}{}</li>", swatch_svg(entry.swatch), escape(&entry.label));
        let entries: String = figure.legend.iter().map(entry).collect();
        text.push_str(&format!("<ul class=\"legend\">{entries}</ul>\n"));
    }
    let class = if figure.in_threes { "panels wide" } else { "panels" };
    text.push_str(&format!("<div class=\"{class}\">\n"));
    for panel in &figure.panels {
        text.push_str(&panel_svg(panel)?);
        text.push('\n');
    }
    text.push_str(&format!("</div>\n<figcaption>{}</figcaption></figure>\n", escape(&figure.caption)));
    Ok(text)
}

/// Returns a link to a run's row, if the page has it.
fn link(run: RunId, text: &str, listed: bool) -> String {
    if listed { format!("<a href=\"#run-{run}\">{text}</a>") } else { text.to_owned() }
}
