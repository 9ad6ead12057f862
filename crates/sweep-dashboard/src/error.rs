//! What can go wrong, with the server and with one request.

use std::net::SocketAddr;

use axum::http::StatusCode;

/// Why a server cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The address is taken, or not this machine's.
    #[error("cannot listen at `{address}`")]
    Bind {
        /// What was asked for.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The results cannot be read.
    #[error(transparent)]
    Store(#[from] sweep_store::Error),
    /// Listening has ended.
    #[error("the server has stopped")]
    Serve(#[from] std::io::Error),
}

/// Why a request has no answer: what the page says, and its status.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) status: StatusCode,
    pub(crate) title: &'static str,
    /// What is wrong, and what would be right; may have several lines.
    pub(crate) message: String,
    /// Runs that may be meant: id and description.
    pub(crate) candidates: Vec<(String, String)>,
}

impl Failure {
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "Not found", message)
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "This cannot be shown", message)
    }

    pub(crate) fn new(status: StatusCode, title: &'static str, message: impl Into<String>) -> Self {
        Self { status, title, message: message.into(), candidates: Vec::new() }
    }
}

impl From<sweep_store::Error> for Failure {
    fn from(error: sweep_store::Error) -> Self {
        use sweep_store::Error::{AmbiguousRun, UnknownRun};
        let (message, candidates) = match error {
            error if error.is_timed_out() => {
                let message = "Reading took longer than a page may take; it was stopped. Choose fewer runs.";
                return Self::new(StatusCode::SERVICE_UNAVAILABLE, "Too slow", message);
            }
            UnknownRun { prefix, candidates } => (format!("No run begins with `{prefix}`."), candidates),
            AmbiguousRun { prefix, count, candidates } => {
                (format!("`{prefix}` fits {count} runs. Which one?"), candidates)
            }
            error => {
                tracing::error!("{error}: {:?}", std::error::Error::source(&error));
                return Self::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "The results cannot be read",
                    error.to_string(),
                );
            }
        };
        let candidates = candidates.into_iter().map(|one| (one.id, one.description)).collect();
        Self { candidates, ..Self::not_found(message) }
    }
}

impl From<sweep_report::Error> for Failure {
    fn from(error: sweep_report::Error) -> Self {
        match error {
            sweep_report::Error::Store(error) => error.into(),
            error @ sweep_report::Error::Specification { .. } => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "The results cannot be read", error.to_string())
            }
            error => Self::bad_request(error.to_string()),
        }
    }
}
