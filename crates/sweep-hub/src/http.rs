//! Plain requests to the Hub: revisions, listings, and what a file's headers announce.

use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, RANGE, USER_AGENT};
use reqwest::{Client, Method, Request, Response, StatusCode, Url};
use serde::de::DeserializeOwned;

use crate::answer::{Question, Refusal, scrubbed, text};
use crate::error::{Error, Result};
use crate::repository::{Repository, RepositoryKind};
use crate::settings::Settings;

/// Redirections that are followed; the Hub uses two at most.
const REDIRECTIONS: usize = 10;
/// Largest body that is read into memory; a page of a listing has a few hundred kilobytes.
const LARGEST_BODY: usize = 64 << 20;
/// Largest part of a refusal's body that is read for its words.
const LARGEST_WORDS: usize = 64 << 10;

/// A client for one endpoint. It follows redirections itself, so that the token stays at the endpoint's origin.
#[derive(Debug)]
pub(crate) struct Http {
    client: Client,
    endpoint: Url,
    settings: Settings,
}

/// What to do with a redirection to another origin.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Abroad {
    /// Go there, without the token.
    Follow,
    /// Take the redirection itself as the answer: its headers describe the file.
    Stop,
}

impl Http {
    pub(crate) fn new(settings: &Settings) -> Result<Self> {
        let agent = HeaderValue::from_static(concat!("sweep/", env!("CARGO_PKG_VERSION")));
        let client = Client::builder()
            .default_headers(HeaderMap::from_iter([(USER_AGENT, agent)]))
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| Error::Setting { name: "the HTTP client", reason: chain(&error) })?;
        Ok(Self { client, endpoint: settings.address()?, settings: settings.clone() })
    }

    /// Address of something of a repository in the API, for example `["tree", "main"]`.
    pub(crate) fn api(&self, repository: &Repository, rest: &[&str]) -> Url {
        self.url(["api", repository.kind().plural()].into_iter().chain(repository.id().split('/')), rest)
    }

    /// Address of a file's content.
    pub(crate) fn resolve(&self, repository: &Repository, revision: &str, path: &str) -> Url {
        let prefix = (repository.kind() == RepositoryKind::Dataset).then_some("datasets");
        let rest: Vec<&str> = ["resolve", revision].into_iter().chain(path.split('/')).collect();
        self.url(prefix.into_iter().chain(repository.id().split('/')), &rest)
    }

    fn url<'a>(&self, first: impl Iterator<Item = &'a str>, rest: &[&str]) -> Url {
        let mut url = self.endpoint.clone();
        url.path_segments_mut()
            .expect("http and https addresses have a path")
            .pop_if_empty()
            .extend(first)
            .extend(rest);
        url
    }

    /// The address of the next page: a link to another origin (a mirror that passes the Hub's links on) is brought home,
    /// for the token goes nowhere else.
    pub(crate) fn at_home(&self, link: &str) -> Option<Url> {
        let mut url = self.endpoint.join(link).ok()?;
        if url.origin() != self.endpoint.origin() {
            let (path, query) = (url.path().to_owned(), url.query().map(str::to_owned));
            url = self.endpoint.clone();
            url.set_path(&path);
            url.set_query(query.as_deref());
        }
        Some(url)
    }

    /// Reads an answer of the API; `None` of `next` where there is no further page.
    pub(crate) async fn json<T: DeserializeOwned>(
        &self,
        question: &Question<'_>,
        url: Url,
    ) -> Result<Page<T>> {
        let what = question.what();
        let response = self.accepted(question, Method::GET, url, Abroad::Follow).await?;
        let next = text(response.headers(), "link").and_then(next_link).map(str::to_owned);
        let body = self.body(&what, response, LARGEST_BODY).await?;
        // JSON that breaks off was cut on its way, like any other content.
        let content = serde_json::from_slice(&body).map_err(|error| {
            let (expected, found) = ("the Hub's JSON".to_owned(), scrubbed(&error.to_string()));
            Error::Damaged { what, expected, found }
        })?;
        Ok(Page { content, next })
    }

    /// The headers that describe a file: those of the redirection to where its content is, if there is one.
    pub(crate) async fn describe(&self, question: &Question<'_>, url: Url) -> Result<HeaderMap> {
        let response = self.accepted(question, Method::HEAD, url, Abroad::Stop).await?;
        Ok(response.headers().clone())
    }

    /// The refusal that a file's content is behind, if it is one: the transfer does not tell. Asks for one byte.
    pub(crate) async fn refusal(&self, what: &str, url: Url) -> Option<(Refusal, bool)> {
        let response = self.send(what, Method::GET, url, Abroad::Follow).await.ok()?;
        let abroad = response.url().origin() != self.endpoint.origin();
        let status = response.status();
        // 416 is right where the file is empty and has no first byte.
        let refused = !status.is_success() && status != StatusCode::RANGE_NOT_SATISFIABLE;
        refused.then(|| (self.refusal_in(&response), abroad))
    }

    /// Whether anything at all answers at the endpoint.
    pub(crate) async fn knock(&self) -> Result<()> {
        let what = "the Hub";
        let response = self.send(what, Method::HEAD, self.endpoint.clone(), Abroad::Stop).await?;
        let Refusal { status, message, retry_after, .. } = self.refusal_in(&response);
        match status {
            429 => Err(Error::RateLimited { what: what.to_owned(), retry_after }),
            500.. => Err(Error::Server { what: what.to_owned(), status, message, retry_after }),
            _ => Ok(()),
        }
    }

    async fn accepted(
        &self,
        question: &Question<'_>,
        method: Method,
        url: Url,
        abroad: Abroad,
    ) -> Result<Response> {
        let what = question.what();
        let response = self.send(&what, method, url, abroad).await?;
        let status = response.status();
        if status.is_success() || (abroad == Abroad::Stop && status.is_redirection()) {
            return Ok(response);
        }
        let mut refusal = self.refusal_in(&response);
        if refusal.message.is_empty() {
            refusal.message = self.words(&what, response).await;
        }
        Err(question.refused(refusal))
    }

    /// What an answer's headers say about why it is a refusal.
    fn refusal_in(&self, response: &Response) -> Refusal {
        let refusal = Refusal::new(response.status().as_u16(), response.headers());
        Refusal { message: self.settings.hidden(&refusal.message), ..refusal }
    }

    /// What a refusal's body says in JSON; nothing where it says it otherwise.
    async fn words(&self, what: &str, response: Response) -> String {
        let Ok(body) = self.body(what, response, LARGEST_WORDS).await else { return String::new() };
        let body: Option<serde_json::Value> = serde_json::from_slice(&body).ok();
        let words = body.as_ref().and_then(|body| body.get("error")?.as_str());
        words.map(|words| self.settings.hidden(&scrubbed(words))).unwrap_or_default()
    }

    async fn send(&self, what: &str, method: Method, mut url: Url, abroad: Abroad) -> Result<Response> {
        for _ in 0..=REDIRECTIONS {
            let request = self.request(method.clone(), url.clone());
            let answer = self.timely(what, self.client.execute(request)).await?;
            let response = answer.map_err(|error| self.broken(what, &error))?;
            let Some(target) = redirection(&response) else { return Ok(response) };
            let described = response.headers().contains_key("x-linked-etag");
            if abroad == Abroad::Stop && (described || target.origin() != self.endpoint.origin()) {
                return Ok(response);
            }
            url = target;
        }
        Err(Error::Unexpected { what: what.to_owned(), reason: "it redirects without end".to_owned() })
    }

    fn request(&self, method: Method, url: Url) -> Request {
        let home = url.origin() == self.endpoint.origin();
        let mut request = Request::new(method, url);
        if let Some(token) = self.settings.token.as_ref().filter(|_| home) {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", token.secret()))
                .expect("a token has visible ASCII characters only");
            value.set_sensitive(true);
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        if !home {
            // Elsewhere lies the content itself, of which only the status is wanted.
            request.headers_mut().insert(RANGE, HeaderValue::from_static("bytes=0-0"));
        }
        request
    }

    async fn body(&self, what: &str, mut response: Response, largest: usize) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        while let Some(chunk) =
            self.timely(what, response.chunk()).await?.map_err(|error| self.broken(what, &error))?
        {
            body.extend_from_slice(&chunk);
            if body.len() > largest {
                let reason = format!("it is longer than {largest} bytes");
                return Err(Error::Unexpected { what: what.to_owned(), reason });
            }
        }
        Ok(body)
    }

    async fn timely<T>(&self, what: &str, step: impl Future<Output = T>) -> Result<T> {
        tokio::time::timeout(self.settings.patience, step).await.map_err(|_| self.settings.timed_out(what))
    }

    fn broken(&self, what: &str, error: &reqwest::Error) -> Error {
        self.settings.unreachable(what, &chain(error))
    }
}

/// An answer of the API.
pub(crate) struct Page<T> {
    pub(crate) content: T,
    /// Where the next page is.
    pub(crate) next: Option<String>,
}

impl Settings {
    pub(crate) fn unreachable(&self, what: &str, reason: &str) -> Error {
        let reason = self.hidden(reason);
        Error::Unreachable { what: what.to_owned(), endpoint: self.endpoint.clone(), reason }
    }

    pub(crate) fn timed_out(&self, what: &str) -> Error {
        let patience: Duration = self.patience;
        Error::TimedOut { what: what.to_owned(), endpoint: self.endpoint.clone(), patience }
    }

    /// Foreign text without the token, should a server send it back.
    pub(crate) fn hidden(&self, text: &str) -> String {
        match &self.token {
            Some(token) => text.replace(token.secret(), "…"),
            None => text.to_owned(),
        }
    }
}

/// An error and its causes in one line, without addresses' signatures.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let mut words: Vec<String> = causes.map(|cause| scrubbed(&cause.to_string())).collect();
    words.dedup();
    words.join(": ")
}

fn redirection(response: &Response) -> Option<Url> {
    if !response.status().is_redirection() {
        return None;
    }
    response.url().join(text(response.headers(), LOCATION.as_str())?).ok()
}

/// The link of a `Link` header to the next page: `<https://…>; rel="next"`.
fn next_link(header: &str) -> Option<&str> {
    header.split(',').find_map(|link| {
        let (target, relation) = link.split_once('>')?;
        relation.contains("rel=\"next\"").then(|| target.trim().trim_start_matches('<'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http(endpoint: &str) -> Http {
        Http::new(&Settings { endpoint: endpoint.to_owned(), ..Settings::new("/nowhere") }).unwrap()
    }

    #[test]
    fn addresses_are_those_of_the_hub() {
        let http = http("http://host:1");
        let model = Repository::new(RepositoryKind::Model, "gpt2").unwrap();
        let dataset = Repository::new(RepositoryKind::Dataset, "owner/name").unwrap();
        assert_eq!(http.api(&model, &["tree", "main"]).as_str(), "http://host:1/api/models/gpt2/tree/main");
        assert_eq!(
            http.api(&dataset, &["revision", "refs/convert/parquet"]).as_str(),
            "http://host:1/api/datasets/owner/name/revision/refs%2Fconvert%2Fparquet"
        );
        assert_eq!(
            http.resolve(&dataset, "main", "a b/c#?%.txt").as_str(),
            "http://host:1/datasets/owner/name/resolve/main/a%20b/c%23%3F%25.txt"
        );
        assert_eq!(http.resolve(&model, "main", "x").as_str(), "http://host:1/gpt2/resolve/main/x");
    }

    #[test]
    fn an_endpoint_may_have_a_path() {
        let model = Repository::new(RepositoryKind::Model, "a/b").unwrap();
        assert_eq!(http("http://host/hub").api(&model, &["x"]).as_str(), "http://host/hub/api/models/a/b/x");
    }

    #[test]
    fn pages_stay_at_home() {
        let http = http("http://host:1");
        let next =
            next_link("<http://a/b>; rel=\"prev\", <https://huggingface.co/api/x?cursor=1>; rel=\"next\"");
        assert_eq!(http.at_home(next.unwrap()).unwrap().as_str(), "http://host:1/api/x?cursor=1");
        assert_eq!(http.at_home("/api/y").unwrap().as_str(), "http://host:1/api/y");
        assert_eq!(next_link("<http://a/b>; rel=\"prev\""), None);
    }

    #[test]
    fn the_token_stays_at_home() {
        let token = crate::settings::Token::new("hf_secret").unwrap();
        let settings = Settings { endpoint: "http://host:1".into(), token, ..Settings::new("/nowhere") };
        let http = Http::new(&settings).unwrap();
        let sent = |url: &str| {
            let request = http.request(Method::GET, Url::parse(url).unwrap());
            assert!(!format!("{request:?}").contains("secret"));
            request.headers().contains_key(AUTHORIZATION)
        };
        assert!(sent("http://host:1/x"));
        assert!(!sent("http://host:2/x") && !sent("https://host:1/x") && !sent("http://other:1/x"));
    }
}
