//! The list of sweeps.

use sweep_store::State;

use super::Page;
use crate::app::App;
use crate::error::Failure;
use crate::html::{Html, Table};

/// Sweeps that are listed, at most.
const LISTED: usize = 200;

/// Returns the list, the one that ran last first.
pub(super) async fn page(app: &App) -> Result<Page, Failure> {
    let sweeps = app.reader.sweeps().await?;
    let mut page = Page { title: "Sweeps".to_owned(), ..Page::default() };
    if sweeps.is_empty() {
        page.body.raw("<p>There is no sweep yet: <code>sweep run quickstart</code> makes one.</p>");
        return Ok(page);
    }
    let mut table = Table::new("Sweeps", &["sweep", "#runs", "states", "last run"]);
    for sweep in sweeps.iter().take(LISTED) {
        let counts = app.reader.state_counts(Some(sweep.id)).await?;
        let states: Vec<String> =
            State::ALL.iter().filter_map(|state| Some(format!("{} {state}", counts.get(state)?))).collect();
        let (mut name, mut ran) = (Html::new(), Html::new());
        name.link(&format!("/sweep/{}", sweep.id.number()), &sweep.name);
        ran.moment(sweep.updated_ms);
        table.rows.push(vec![name, Html::of(sweep.runs), Html::of(states.join(", ")), ran]);
    }
    page.body.html(&table.written());
    Ok(page)
}
