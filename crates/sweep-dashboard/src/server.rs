//! Listening, and what happens to every request before and after its page is made.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{ALLOW, CONTENT_TYPE, LOCATION, SET_COOKIE};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use sweep_core::home::Home;
use sweep_store::{Reader, SweepId};
use tokio::net::TcpListener;

use crate::access::{Access, Verdict, without_token};
use crate::app::App;
use crate::error::{Error, Failure};
use crate::headers::harden;
use crate::pages;

/// What a server shows.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The sweep that the first page shows; without one, the only sweep, or a list.
    pub sweep: Option<SweepId>,
    /// Where logs of running attempts lie.
    pub home: Home,
}

/// A server that listens and has not answered yet.
pub struct Server {
    listener: TcpListener,
    access: Access,
    app: Arc<App>,
}

impl Server {
    /// Takes the address of the rules and begins to watch the database.
    ///
    /// # Errors
    /// [`Error::Bind`] where the address is taken; [`Error::Store`].
    pub async fn bind(reader: &Reader, settings: Settings, access: Access) -> Result<Self, Error> {
        let address = access.address();
        let failed = |source| Error::Bind { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let access = access.at(listener.local_addr().map_err(failed)?);
        let app = App::new(reader, settings.home, settings.sweep).await?;
        Ok(Self { listener, access, app: Arc::new(app) })
    }

    /// Returns the address of its first page; it holds the token, if there is one.
    pub fn url(&self) -> String {
        self.access.url()
    }

    /// Answers requests, without an end of its own: drop the future to stop.
    pub async fn serve(self) -> Result<(), Error> {
        let Self { listener, access, app } = self;
        let router = router(Arc::clone(&app), access);
        tokio::select! {
            served = axum::serve(listener, router).into_future() => Ok(served?),
            () = app.follow() => Ok(()),
        }
    }
}

fn router(app: Arc<App>, access: Access) -> Router {
    pages::routes().with_state(app).layer(from_fn_with_state(Arc::new(access), guard))
}

/// Lets through what may be answered, and hardens every response.
async fn guard(State(access): State<Arc<Access>>, request: Request, next: Next) -> Response {
    let mut response = match access.judge(request.uri(), request.headers()) {
        Verdict::WrongHost => {
            plain(StatusCode::MISDIRECTED_REQUEST, "This server does not go by that name.\n")
        }
        _ if !matches!(*request.method(), Method::GET | Method::HEAD) => {
            let mut refused = plain(StatusCode::METHOD_NOT_ALLOWED, "Nothing can be changed here.\n");
            refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            refused
        }
        _ if is_from_a_strangers_page(request.headers()) => {
            plain(StatusCode::FORBIDDEN, "Pages of other sites may link here, and no more.\n")
        }
        Verdict::NoToken => no_token(),
        Verdict::WelcomeOnce => sent_on(&access, &request),
        Verdict::Welcome => next.run(request).await,
    };
    harden(response.headers_mut());
    response
}

/// Returns whether a browser says that a page of another site makes this request, and not somebody who follows a link.
fn is_from_a_strangers_page(headers: &HeaderMap) -> bool {
    let says = |name: &str, value: &str| headers.get(name).is_some_and(|found| found == value);
    says("sec-fetch-site", "cross-site") && !says("sec-fetch-mode", "navigate")
}

fn no_token() -> Response {
    let message = "Open the address that `sweep serve` printed: it holds the token.";
    pages::failure(&Failure::new(StatusCode::UNAUTHORIZED, "A token is needed", message))
}

/// Answers a request that has the token in its address: the same without it, and a cookie.
fn sent_on(access: &Access, request: &Request) -> Response {
    let mut response = StatusCode::SEE_OTHER.into_response();
    let location = HeaderValue::from_str(&without_token(request.uri()));
    let cookie = access.cookie().map(|cookie| HeaderValue::from_str(&cookie));
    match (location, cookie) {
        (Ok(location), Some(Ok(cookie))) => {
            response.headers_mut().insert(LOCATION, location);
            response.headers_mut().insert(SET_COOKIE, cookie);
            response
        }
        _ => plain(StatusCode::BAD_REQUEST, "This address cannot be read.\n"),
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response {
    (status, [(CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response()
}
