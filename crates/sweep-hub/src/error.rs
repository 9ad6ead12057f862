//! What can go wrong between here and a file of the Hub: where, with which value, and what to do about it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::repository::{Commit, Repository};

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why something of the Hub could not be had. No text holds a token or the signature of a download address.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The repository does not exist, or hides itself from whoever asks.
    #[error(
        "there is no {repository} on the Hub, or it is private\nhint: check the spelling and whether it is a model or a dataset; {}",
        if *with_token { "the token in use may not be allowed to see it" } else { "a private one needs a token: set HF_TOKEN" }
    )]
    RepositoryMissing {
        /// What was asked for.
        repository: Repository,
        /// Whether a token was sent.
        with_token: bool,
    },
    /// The repository has no such branch, tag or commit.
    #[error(
        "{repository} has no revision `{revision}`\nhint: give a branch or tag of the repository, or the 40 digits of a commit"
    )]
    RevisionMissing {
        /// The repository.
        repository: Repository,
        /// What was asked for.
        revision: String,
    },
    /// The commit has no such file.
    #[error(
        "{repository} has no file `{path}` at {commit}\nhint: the names are case-sensitive; look at the repository's files at this commit"
    )]
    FileMissing {
        /// The repository.
        repository: Repository,
        /// The commit.
        commit: Commit,
        /// The file that was asked for.
        path: String,
    },
    /// The repository is open only to those who accepted its conditions.
    #[error(
        "{repository} is gated\nhint: accept its conditions on its page with your account, then set HF_TOKEN to a token of that account"
    )]
    Gated {
        /// The repository.
        repository: Repository,
    },
    /// The Hub wants to know who asks.
    #[error(
        "{repository} needs a token\nhint: set HF_TOKEN, or put the token into the file `token` in HF_HOME"
    )]
    NeedsToken {
        /// The repository.
        repository: Repository,
    },
    /// The token is wrong, expired, or may not read the repository.
    #[error(
        "the Hub refused the token for {repository} (status {status})\nhint: see whether the token is still valid and may read this repository"
    )]
    TokenRefused {
        /// The repository.
        repository: Repository,
        /// 401 or 403.
        status: u16,
    },
    /// The repository was disabled by the Hub.
    #[error("{repository} is disabled on the Hub\nhint: its page says why; use another repository")]
    Disabled {
        /// The repository.
        repository: Repository,
    },
    /// Too many requests, also after waiting.
    #[error(
        "{what}: the Hub limits the rate of requests{}\nhint: try again later; requests with a token (HF_TOKEN) have higher limits",
        retry_after.map(|wait| format!(" and asks to wait {} s", wait.as_secs())).unwrap_or_default()
    )]
    RateLimited {
        /// What was asked for.
        what: String,
        /// How long the Hub asks to wait.
        retry_after: Option<Duration>,
    },
    /// The server answered with a failure of its own, or one that has no other name here.
    #[error(
        "{what}: the server answered with status {status}{}\nhint: {}",
        if message.is_empty() { String::new() } else { format!(" ({message})") },
        if *status >= 500 { "the failure is the server's; try again later" } else { "see whether HF_ENDPOINT is a Hub" }
    )]
    Server {
        /// What was asked for.
        what: String,
        /// The HTTP status.
        status: u16,
        /// The server's words, shortened.
        message: String,
        /// How long the server asks to wait.
        retry_after: Option<Duration>,
    },
    /// There was no answer, or it broke off.
    #[error(
        "{what}: no complete answer from {endpoint}: {reason}\nhint: check the network, the proxy and HF_ENDPOINT; without a network set HF_HUB_OFFLINE=1"
    )]
    Unreachable {
        /// What was asked for.
        what: String,
        /// The Hub's address.
        endpoint: String,
        /// What the network said.
        reason: String,
    },
    /// Nothing came for longer than the settings' patience.
    #[error(
        "{what}: nothing came from {endpoint} for {} s\nhint: the connection hangs; check the network, or try again later",
        patience.as_secs_f64()
    )]
    TimedOut {
        /// What was asked for.
        what: String,
        /// The Hub's address.
        endpoint: String,
        /// How long it was waited for.
        patience: Duration,
    },
    /// The transfer failed in a way that only the transfer's own words tell.
    #[error(
        "{what}: the transfer failed: {reason}\nhint: large files come from the Hub's Xet service, which must be reachable as well as the Hub"
    )]
    Transfer {
        /// What was asked for.
        what: String,
        /// What the transfer said.
        reason: String,
    },
    /// The content is not what the Hub's listing says, also after loading it again.
    #[error(
        "{what} is damaged: expected {expected}, found {found}\nhint: something between here and the Hub changes or cuts the data; try again, or use another mirror"
    )]
    Damaged {
        /// The file.
        what: String,
        /// Digest or size in the listing.
        expected: String,
        /// Digest or size of what came.
        found: String,
    },
    /// An answer is not what the Hub's protocol says.
    #[error("{what}: the answer makes no sense: {reason}\nhint: see whether HF_ENDPOINT is a Hub")]
    Unexpected {
        /// What was asked for.
        what: String,
        /// What is wrong with the answer.
        reason: String,
    },
    /// A name from the Hub would lead out of its place in the cache.
    #[error(
        "{what}: refused the {kind} {value:?}\nhint: no honest Hub sends this; see what HF_ENDPOINT points to"
    )]
    Hostile {
        /// What was asked for.
        what: String,
        /// What kind of name it is: `path`, `etag`, `commit`.
        kind: &'static str,
        /// The name.
        value: String,
    },
    /// No request may be made, and the cache does not have it.
    #[error(
        "offline, and the cache {} lacks {what}{}\nhint: fetch it where there is a network and copy the cache, or unset HF_HUB_OFFLINE",
        cache.display(), names(missing)
    )]
    Offline {
        /// What was asked for.
        what: String,
        /// The cache.
        cache: PathBuf,
        /// The files that are missing; empty where it is not about files.
        missing: Vec<String>,
    },
    /// The text is not a repository's id.
    #[error(
        "`{given}` is not a repository: {reason}\nhint: write `owner/name`, as in the address of its page"
    )]
    BadRepository {
        /// The text.
        given: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The text is not a revision.
    #[error(
        "`{given}` is not a revision: {reason}\nhint: give a branch, a tag, or the 40 digits of a commit"
    )]
    BadRevision {
        /// The text.
        given: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The text is not a path inside a repository.
    #[error(
        "{given:?} is not a path in a repository: {reason}\nhint: write it as the repository lists it, `folder/file`"
    )]
    BadPath {
        /// The text.
        given: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A setting is unusable. Its value is not told where it may be secret.
    #[error("{name} is unusable: {reason}\nhint: correct or unset it")]
    Setting {
        /// The variable or field.
        name: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The cache cannot be read or written.
    #[error("cannot {action} {}: {source}\nhint: the cache must be writable and have room; HF_HUB_CACHE moves it", path.display())]
    Cache {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
}

/// Whether trying again can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The network, the server or the transfer failed; the same request may work later.
    Transient,
    /// The same request fails again until somebody changes something.
    Permanent,
}

impl Error {
    /// Whether trying again can help: rate limits, statuses 408, 425 and 5xx, broken connections, time-outs and damaged
    /// content are transient, everything else is permanent. Transient errors were already tried again when they are seen.
    pub fn class(&self) -> Class {
        match self {
            Self::RateLimited { .. }
            | Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::Transfer { .. }
            | Self::Damaged { .. }
            | Self::Server { status: 408 | 425 | 500.., .. } => Class::Transient,
            _ => Class::Permanent,
        }
    }

    /// How long the server asks to wait before the next request.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after, .. } | Self::Server { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Returns a function that wraps an operating-system error met while trying to `action` the `path` in the cache.
    pub(crate) fn cache(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Cache { action, path, source }
    }
}

fn names(missing: &[String]) -> String {
    if missing.is_empty() { String::new() } else { format!(":\n  {}", missing.join("\n  ")) }
}
