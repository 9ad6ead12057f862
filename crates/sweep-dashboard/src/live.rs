//! Pages that change while one looks at them: the parts that differ from what was sent last, as server-sent events.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::Stream;
use futures_util::stream::unfold;
use serde::Serialize;
use tokio::sync::watch;

use crate::app::{App, Client, Haste};
use crate::error::Failure;
use crate::html::Html;
use crate::pages::View;

/// Pages that are followed at once, at most.
const CLIENTS: usize = 64;
/// How often a word is sent that says nothing, so that both sides notice a connection that is gone.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Pause between two times that a page is written; reading all runs of a large grid has longer ones of its own.
const REST: Duration = Duration::from_millis(500);

/// A part of a page that may change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// The `id` of its element.
    pub(crate) id: String,
    pub(crate) content: Content,
}

/// What a part shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// What is in the element, and the element's class, if that changes too.
    Html(Html, Option<String>),
    /// A chart, as JSON.
    Figure(String),
}

/// A part as the script takes it.
#[derive(Serialize)]
struct Message<'a> {
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    html: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    class: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    figure: Option<&'a str>,
}

impl Part {
    fn message(&self) -> Message<'_> {
        let (html, class, figure) = match &self.content {
            Content::Html(html, class) => (Some(html.as_str()), class.as_deref(), None),
            Content::Figure(figure) => (None, None, Some(figure.as_str())),
        };
        Message { id: &self.id, html, class, figure }
    }
}

/// A browser that follows a page.
struct Follower {
    app: Arc<App>,
    view: View,
    changes: watch::Receiver<u64>,
    /// What it has, by the parts' ids; `None` where that is not known.
    has: Option<HashMap<String, Content>>,
    /// The change that its page was written after.
    since: Option<u64>,
    _client: Client,
}

/// Answers with the changes of a view, from those after the change `since` on. A browser that comes back says in
/// `Last-Event-ID` what it has.
pub(crate) fn follow(
    app: &Arc<App>,
    view: View,
    since: Option<u64>,
    headers: &HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>> + use<>>, Failure> {
    let busy = || {
        Failure::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "Too many",
            format!("{CLIENTS} pages are followed already."),
        )
    };
    let client = Client::new(app, CLIENTS).ok_or_else(busy)?;
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
    let follower = Follower {
        changes: app.changes(),
        app: Arc::clone(app),
        view,
        has: None,
        since: last.or(since),
        _client: client,
    };
    let events = unfold(follower, |mut follower| async move {
        let event = follower.next().await?;
        Some((Ok(event), follower))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(HEARTBEAT)))
}

impl Follower {
    /// Waits for the next change that shows; `None` when the server ends.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if self.has.is_some() {
                tokio::time::sleep(REST).await;
                self.changes.changed().await.ok()?;
            }
            self.changes.mark_unchanged();
            let page = match self.view.page(&self.app, Haste::Fresh).await {
                Ok(page) => page,
                Err(failure) => {
                    tracing::debug!("{}: {}", failure.title, failure.message);
                    // What the browser has is not known to be right any more.
                    self.has = Some(HashMap::new());
                    tokio::time::sleep(HEARTBEAT).await;
                    // What could not be read may have been the last change.
                    self.changes.mark_changed();
                    continue;
                }
            };
            let is_known = self.has.is_some() || self.has_page_of(page.change).await;
            let changed = self.changed(&page.parts, is_known);
            let change = page.change;
            self.has = Some(page.parts.into_iter().map(|part| (part.id, part.content)).collect());
            if let Some(data) = changed {
                return Some(Event::default().event("parts").id(change.to_string()).data(data));
            }
        }
    }

    /// Returns whether the browser's page is the one just written, after `change`. Where something has changed while that was
    /// read, it may hold more than the browser has.
    async fn has_page_of(&self, change: u64) -> bool {
        self.since == Some(change) && self.app.look().await.is_ok_and(|now| now == change)
    }

    /// Returns what to send, as JSON: the parts that differ, or that there are others now, which needs a new page.
    fn changed(&self, parts: &[Part], is_known: bool) -> Option<String> {
        let empty = HashMap::new();
        let has = self.has.as_ref().unwrap_or(&empty);
        let is_new =
            |part: &&Part| !is_known || self.has.is_some() && has.get(&part.id) != Some(&part.content);
        let messages: Vec<Message<'_>> = parts.iter().filter(is_new).map(Part::message).collect();
        if messages.is_empty() {
            return None;
        }
        serde_json::to_string(&messages).ok()
    }
}
