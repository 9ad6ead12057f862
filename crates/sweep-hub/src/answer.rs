//! What the Hub's refusals mean. The Hub tells them apart by the header `X-Error-Code`; where a mirror leaves it out, the
//! status and the question decide.

use std::time::Duration;

use reqwest::header::{HeaderMap, RETRY_AFTER};

use crate::error::Error;
use crate::repository::{Commit, Repository, shortened};

/// What was asked, as far as it decides what a refusal means.
#[derive(Clone, Copy)]
pub(crate) struct Question<'a> {
    pub(crate) repository: &'a Repository,
    pub(crate) subject: Subject<'a>,
    pub(crate) with_token: bool,
}

/// What a bare 404 says is missing.
#[derive(Clone, Copy)]
pub(crate) enum Subject<'a> {
    Revision(&'a str),
    Listing(&'a Commit),
    File(&'a Commit, &'a str),
}

/// A refusal.
#[derive(Debug, Default)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) code: Option<String>,
    /// The server's words, without any token.
    pub(crate) message: String,
    pub(crate) retry_after: Option<Duration>,
}

impl Question<'_> {
    /// What was asked, as the beginning of a message.
    pub(crate) fn what(&self) -> String {
        let Self { repository, .. } = self;
        match self.subject {
            Subject::Revision(revision) => format!("{repository} at `{revision}`"),
            Subject::Listing(commit) => format!("files of {repository} at {commit}"),
            Subject::File(commit, path) => format!("`{path}` of {repository} at {commit}"),
        }
    }

    /// The error that a refusal of this question is.
    pub(crate) fn refused(&self, refusal: Refusal) -> Error {
        let repository = self.repository.clone();
        let Refusal { status, code, message, retry_after } = refusal;
        let with_token = self.with_token;
        match (status, code.as_deref()) {
            (408 | 500.., _) => Error::Server { what: self.what(), status, message, retry_after },
            (429, _) => Error::RateLimited { what: self.what(), retry_after },
            (_, Some("GatedRepo")) => Error::Gated { repository },
            (_, Some("RepoNotFound")) => Error::RepositoryMissing { repository, with_token },
            (_, Some("RevisionNotFound")) => self.revision_missing(),
            (_, Some("EntryNotFound")) | (404, _) => self.missing(),
            (403, _) if message.contains("disabled") => Error::Disabled { repository },
            (401 | 403, _) if with_token => Error::TokenRefused { repository, status },
            (401 | 403, _) => Error::NeedsToken { repository },
            _ => Error::Server { what: self.what(), status, message, retry_after },
        }
    }

    fn missing(&self) -> Error {
        match self.subject {
            Subject::File(commit, path) => Error::FileMissing {
                repository: self.repository.clone(),
                commit: commit.clone(),
                path: path.to_owned(),
            },
            _ => self.revision_missing(),
        }
    }

    fn revision_missing(&self) -> Error {
        let revision = match self.subject {
            Subject::Revision(revision) => revision,
            Subject::Listing(commit) | Subject::File(commit, _) => commit.as_str(),
        };
        Error::RevisionMissing { repository: self.repository.clone(), revision: revision.to_owned() }
    }
}

impl Refusal {
    pub(crate) fn new(status: u16, headers: &HeaderMap) -> Self {
        Self {
            status,
            code: text(headers, "x-error-code").map(str::to_owned),
            message: text(headers, "x-error-message").map(scrubbed).unwrap_or_default(),
            retry_after: text(headers, RETRY_AFTER.as_str())
                .and_then(|seconds| seconds.trim().parse().ok())
                .map(Duration::from_secs),
        }
    }
}

/// A header's text.
pub(crate) fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Foreign text, shortened and without the part of its addresses that may be a signature.
pub(crate) fn scrubbed(text: &str) -> String {
    let mut result = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("://") {
        let ends = |character: char| character.is_whitespace() || "\"'<>()".contains(character);
        let end = rest[start..].find(ends).map_or(rest.len(), |length| start + length);
        let (address, after) = rest.split_at(end);
        match address[start..].find(['?', '#']) {
            Some(cut) => result.extend([&address[..start + cut], "?…"]),
            None => result.push_str(address),
        }
        rest = after;
    }
    result.push_str(rest);
    shortened(&result)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::RepositoryKind;

    fn refused(status: u16, code: Option<&str>, with_token: bool) -> Error {
        let repository = Repository::new(RepositoryKind::Model, "owner/name").unwrap();
        let commit = "0".repeat(40).parse().unwrap();
        let question =
            Question { repository: &repository, subject: Subject::File(&commit, "file"), with_token };
        question.refused(Refusal { status, code: code.map(str::to_owned), ..Refusal::default() })
    }

    #[test]
    fn every_refusal_has_its_error() {
        assert!(matches!(refused(401, Some("RepoNotFound"), false), Error::RepositoryMissing { .. }));
        assert!(matches!(refused(404, Some("RepoNotFound"), true), Error::RepositoryMissing { .. }));
        assert!(matches!(refused(404, Some("RevisionNotFound"), true), Error::RevisionMissing { .. }));
        assert!(matches!(refused(404, Some("EntryNotFound"), true), Error::FileMissing { .. }));
        assert!(matches!(refused(404, None, false), Error::FileMissing { .. }));
        assert!(matches!(refused(401, Some("GatedRepo"), false), Error::Gated { .. }));
        assert!(matches!(refused(403, Some("GatedRepo"), true), Error::Gated { .. }));
        assert!(matches!(refused(401, None, false), Error::NeedsToken { .. }));
        assert!(matches!(refused(401, None, true), Error::TokenRefused { status: 401, .. }));
        assert!(matches!(refused(403, None, true), Error::TokenRefused { status: 403, .. }));
        assert!(matches!(refused(429, Some("Anything"), false), Error::RateLimited { .. }));
        assert!(matches!(refused(503, Some("RepoNotFound"), false), Error::Server { status: 503, .. }));
        assert!(matches!(refused(418, None, false), Error::Server { status: 418, .. }));
    }

    #[test]
    fn signatures_are_cut_from_addresses() {
        let text =
            "GET (https://cdn.example/a/b?Signature=abc&Key=d) failed for http://host/c and https://x?y";
        assert_eq!(
            scrubbed(text),
            "GET (https://cdn.example/a/b?…) failed for http://host/c and https://x?…"
        );
        assert_eq!(scrubbed("no address? none"), "no address? none");
        assert_eq!(scrubbed(&"ä".repeat(1000)).chars().count(), 201);
    }
}
