//! One file's way into the cache. The transfer is hf-hub's, which also speaks the Hub's Xet protocol, but into a folder of
//! its own: it stores an error page, a cut file or a wrong one as readily as the right one, and neither times out nor
//! tries again where a connection breaks.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hf_hub::progress::{DownloadEvent, ProgressEvent, ProgressHandler};
use hf_hub::repository::{HFRepository, RepoType};
use hf_hub::{HFClient, HFError, split_id};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::{Instant, sleep_until};
use tracing::instrument::WithSubscriber;
use tracing::subscriber::NoSubscriber;

use crate::answer::{Question, Refusal, Subject, scrubbed, text};
use crate::cache::{Cache, Place, create_folder, remove_folder};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::http::{Http, chain};
use crate::hub::Progress;
use crate::listing::RemoteFile;
use crate::repository::{RepositoryKind, shortened};
use crate::retry::Attempts;
use crate::settings::Settings;

/// What the caller learns while bytes come.
pub(crate) type Report<'a> = &'a mut (dyn FnMut(Progress<'_>) + Send);

/// Downloads into one snapshot, by the holder of its lock.
pub(crate) struct Downloads<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) http: &'a Http,
    pub(crate) cache: &'a Cache,
    pub(crate) place: &'a Place,
}

impl Downloads<'_> {
    /// Brings one file, or finds its content under another commit.
    pub(crate) async fn bring(&self, file: &RemoteFile, report: Report<'_>) -> Result<()> {
        let (cache, place, wanted) = (self.cache.clone(), self.place.clone(), file.clone());
        if !blocking(move || cache.adopt(&place, &wanted)).await? {
            self.persist(file, report).await?;
        }
        report(Progress { file: &file.path, done: file.size, total: file.size });
        Ok(())
    }

    async fn persist(&self, file: &RemoteFile, report: Report<'_>) -> Result<()> {
        let mut attempts = Attempts::new(self.settings);
        loop {
            match self.attempt(file, report).await {
                Ok(()) => return Ok(()),
                Err(error) => attempts.pause(error).await?,
            }
        }
    }

    async fn attempt(&self, file: &RemoteFile, report: Report<'_>) -> Result<()> {
        let question = self.question(&file.path);
        let digest = self.announced(&question, file).await?;
        let staging = Staging::new(self.cache.staging(self.place))?;
        let received = match self.receive(&staging, file, &question, report).await {
            Ok(path) => self.judged(&staging, path, file, digest, &question).await,
            Err(error) => Err(error),
        };
        let received = match received {
            Err(error @ Error::Damaged { .. }) => return Err(self.explained(&question, file, error).await),
            other => other?,
        };
        let (cache, place, path) = (self.cache.clone(), self.place.clone(), file.path.clone());
        blocking(move || cache.publish(&place, &path, digest, &received)).await
    }

    fn question<'q>(&'q self, path: &'q str) -> Question<'q> {
        Question {
            repository: &self.place.repository,
            subject: Subject::File(&self.place.commit, path),
            with_token: self.settings.token.is_some(),
        }
    }

    fn url(&self, path: &str) -> reqwest::Url {
        self.http.resolve(&self.place.repository, self.place.commit.as_str(), path)
    }

    /// Asks for the file's headers and refuses what would become an odd file name before the transfer meets it.
    async fn announced(&self, question: &Question<'_>, file: &RemoteFile) -> Result<Digest> {
        let headers = self.http.describe(question, self.url(&file.path)).await?;
        let hostile =
            |kind, value: &str| Error::Hostile { what: question.what(), kind, value: shortened(value) };
        let unexpected =
            |reason: &str| Error::Unexpected { what: question.what(), reason: reason.to_owned() };
        if let Some(commit) =
            text(&headers, "x-repo-commit").filter(|found| *found != self.place.commit.as_str())
        {
            return Err(hostile("commit", commit));
        }
        let etag = text(&headers, "x-linked-etag").or_else(|| text(&headers, "etag"));
        let etag = etag.ok_or_else(|| unexpected("it has no ETag"))?;
        let name = etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"');
        let found = Digest::from_name(name).ok_or_else(|| hostile("etag", name))?;
        match file.digest {
            Some(listed) if listed != found => Err(damaged(question, &listed, &found)),
            _ => Ok(found),
        }
    }

    /// Runs the transfer for as long as something comes. Returns where the file lies, still unjudged.
    async fn receive(
        &self,
        staging: &Staging,
        file: &RemoteFile,
        question: &Question<'_>,
        report: Report<'_>,
    ) -> Result<PathBuf> {
        let client = self.client(staging)?;
        let (owner, name) = split_id(self.place.repository.id());
        match self.place.repository.kind() {
            RepositoryKind::Model => self.transfer(&client.model(owner, name), file, question, report).await,
            RepositoryKind::Dataset => {
                self.transfer(&client.dataset(owner, name), file, question, report).await
            }
        }
    }

    async fn transfer<T: RepoType>(
        &self,
        repository: &HFRepository<T>,
        file: &RemoteFile,
        question: &Question<'_>,
        report: Report<'_>,
    ) -> Result<PathBuf> {
        let (sender, mut steps) = unbounded_channel();
        let download = repository
            .download_file()
            .filename(file.path.clone())
            .revision(self.place.commit.as_str())
            .progress(Arc::new(Watcher(sender)))
            .send()
            // Its own log lines hold signed addresses, and what they say is said here.
            .with_subscriber(NoSubscriber::new());
        tokio::pin!(download);
        let mut done = None;
        let mut deadline = Instant::now() + self.settings.patience;
        loop {
            tokio::select! {
                biased;
                result = &mut download => return result.map_err(|error| self.failed(question, error)),
                Some(bytes) = steps.recv() => if done != Some(bytes) {
                    done = Some(bytes);
                    if bytes > file.size {
                        // Dropped here, the transfer cannot fill the disk with what nobody asked for.
                        let (expected, found) = (format!("{} bytes", file.size), "more".to_owned());
                        return Err(damaged(question, &expected, &found));
                    }
                    deadline = Instant::now() + self.settings.patience;
                    report(Progress { file: &file.path, done: bytes, total: file.size });
                },
                () = sleep_until(deadline) => return Err(self.settings.timed_out(&question.what())),
            }
        }
    }

    /// hf-hub's client for a staging folder. Retries are made here, where they are logged and counted.
    fn client(&self, staging: &Staging) -> Result<HFClient> {
        // Without a token hf-hub would look for one itself. One that fits no header is one that is never sent.
        let token = self.settings.token.as_ref().map_or("\n", |token| token.secret());
        HFClient::builder()
            .endpoint(&self.settings.endpoint)
            .token(token)
            .cache_dir(&staging.0)
            .retry_max_attempts(0)
            .retry_base_delay(Duration::ZERO)
            .user_agent(concat!("sweep/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| Error::Setting { name: "the HTTP client", reason: chain(&error) })
    }

    /// The received file's real place, if it is what was wanted.
    async fn judged(
        &self,
        staging: &Staging,
        path: PathBuf,
        file: &RemoteFile,
        digest: Digest,
        question: &Question<'_>,
    ) -> Result<PathBuf> {
        let root = staging.0.canonicalize().map_err(Error::cache("find", &staging.0))?;
        let real = path.canonicalize().map_err(Error::cache("find the download", &path))?;
        if !real.starts_with(root) {
            let value = real.display().to_string();
            return Err(Error::Hostile { what: question.what(), kind: "path", value });
        }
        let size = std::fs::metadata(&real).map_err(Error::cache("look at", &real))?.len();
        if size != file.size {
            let (expected, found) = (format!("{} bytes", file.size), format!("{size} bytes"));
            return Err(damaged(question, &expected, &found));
        }
        let reading = real.clone();
        let found =
            blocking(move || digest.of_file(&reading).map_err(Error::cache("read", &reading))).await?;
        if found == digest { Ok(real) } else { Err(damaged(question, &digest, &found)) }
    }

    /// The refusal behind content that is not the file, if that is what it is; else the damage itself.
    async fn explained(&self, question: &Question<'_>, file: &RemoteFile, damage: Error) -> Error {
        match self.http.refusal(&question.what(), self.url(&file.path)).await {
            // An address that was signed for a while only has expired; the next try gets a new one.
            Some((refusal, true)) if matches!(refusal.status, 401 | 403 | 404) => {
                let reason = format!("the storage behind the Hub refused it with status {}", refusal.status);
                Error::Transfer { what: question.what(), reason }
            }
            Some((refusal, _)) => question.refused(refusal),
            None => damage,
        }
    }

    fn failed(&self, question: &Question<'_>, error: HFError) -> Error {
        let reason = || self.settings.hidden(&chain(&error));
        match &error {
            HFError::Request { .. } => self.settings.unreachable(&question.what(), &reason()),
            HFError::RateLimited { retry_after, .. } => {
                Error::RateLimited { what: question.what(), retry_after: *retry_after }
            }
            HFError::Http { context }
            | HFError::AuthRequired { context }
            | HFError::Forbidden { context } => question.refused(Refusal {
                status: context.status.as_u16(),
                code: context.error_code.clone(),
                message: self
                    .settings
                    .hidden(&scrubbed(context.server_message.as_deref().unwrap_or_default())),
                retry_after: None,
            }),
            _ => match error {
                HFError::Io(source) => Error::cache("write the download below", self.cache.root())(source),
                error => {
                    Error::Transfer { what: question.what(), reason: self.settings.hidden(&chain(&error)) }
                }
            },
        }
    }
}

fn damaged(question: &Question<'_>, expected: &dyn ToString, found: &dyn ToString) -> Error {
    Error::Damaged { what: question.what(), expected: expected.to_string(), found: found.to_string() }
}

/// Runs what reads or writes much away from the tasks.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(stopped) => std::panic::resume_unwind(stopped.into_panic()),
    }
}

/// The folder that a file is received in; empty at first, and gone with whoever made it. What a killed process has left
/// is removed by the next holder of the lock.
struct Staging(PathBuf);

impl Staging {
    fn new(path: PathBuf) -> Result<Self> {
        remove_folder(&path)?;
        create_folder(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        let path: &Path = &self.0;
        if let Err(error) = remove_folder(path) {
            tracing::warn!("a download's rest is left behind: {error}");
        }
    }
}

/// Hands the transfer's news on: bytes received so far.
struct Watcher(UnboundedSender<u64>);

impl ProgressHandler for Watcher {
    fn on_progress(&self, event: &ProgressEvent) {
        let ProgressEvent::Download(event) = event else { return };
        let done = match event {
            DownloadEvent::Progress { files } => files.iter().map(|file| file.bytes_completed).max(),
            DownloadEvent::AggregateProgress { bytes_completed, .. } => Some(*bytes_completed),
            DownloadEvent::Start { .. } => Some(0),
            DownloadEvent::Complete => None,
        };
        if let Some(done) = done {
            // Nobody listens once the download was given up.
            let _ = self.0.send(done);
        }
    }
}
