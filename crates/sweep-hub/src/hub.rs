//! The Hub, seen from the rest of the program.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::answer::{Question, Subject};
use crate::cache::{Cache, Place};
use crate::download::{Downloads, blocking};
use crate::error::{Error, Result};
use crate::http::{Http, Page};
use crate::listing::{self, RemoteFile};
use crate::lock::Lock;
use crate::repository::{Commit, Repository, check_path, check_revision, shortened};
use crate::retry::Attempts;
use crate::settings::Settings;

/// The files of a commit, sorted by path.
type Listing = Arc<Vec<RemoteFile>>;

/// How far a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress<'a> {
    /// Its path in the repository.
    pub file: &'a str,
    /// Bytes received; begins again at 0 where a transfer had to be repeated, and reaches `total` once the file is verified
    /// and in its place.
    pub done: u64,
    /// Its size in bytes.
    pub total: u64,
}

/// A Hub and the cache in front of it.
#[derive(Debug)]
pub struct Hub {
    settings: Settings,
    http: Http,
    cache: Cache,
    /// The listings seen so far, by the place they are remembered at.
    listings: Mutex<HashMap<PathBuf, Listing>>,
}

/// What the Hub says about a revision.
#[derive(Deserialize)]
struct Revision {
    sha: String,
}

impl Hub {
    /// A client with these settings. Makes no request and touches no file.
    ///
    /// # Errors
    /// [`Error::Setting`] for an unusable address.
    pub fn new(settings: Settings) -> Result<Self> {
        let http = Http::new(&settings)?;
        let cache = Cache::new(&settings.cache);
        Ok(Self { settings, http, cache, listings: Mutex::default() })
    }

    /// The settings it was made with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The commit that a branch, tag or commit names. 40 lower-case hexadecimal digits are returned as they are, without a
    /// request. Otherwise the Hub is asked and its answer kept in the cache's `refs`, from which it is taken when offline.
    ///
    /// # Errors
    /// [`Error::RepositoryMissing`], [`Error::RevisionMissing`], [`Error::Gated`], [`Error::NeedsToken`],
    /// [`Error::TokenRefused`]; [`Error::Offline`] where the cache does not know; the network's errors after the retries.
    pub async fn resolve(&self, repository: &Repository, revision: &str) -> Result<Commit> {
        if let Ok(commit) = revision.parse() {
            return Ok(commit);
        }
        check_revision(revision)?;
        if self.settings.offline {
            let known = self.cache.read_reference(repository, revision)?;
            return known.ok_or_else(|| self.offline(format!("{repository} at `{revision}`"), Vec::new()));
        }
        let commit = self.ask_revision(repository, revision).await?;
        self.cache.write_reference(repository, revision, &commit)?;
        Ok(commit)
    }

    async fn ask_revision(&self, repository: &Repository, revision: &str) -> Result<Commit> {
        let with_token = self.settings.token.is_some();
        let question = Question { repository, subject: Subject::Revision(revision), with_token };
        let url = self.http.api(repository, &["revision", revision]);
        let mut attempts = Attempts::new(&self.settings);
        loop {
            match self.http.json(&question, url.clone()).await {
                Ok(Page { content: Revision { sha }, .. }) => {
                    let odd =
                        |_| Error::Hostile { what: question.what(), kind: "commit", value: shortened(&sha) };
                    return sha.parse().map_err(odd);
                }
                Err(error) => attempts.pause(error).await?,
            }
        }
    }

    /// All files of the repository at the commit, sorted by path. The Hub is asked once; the answer is remembered in
    /// `.locks/sweep` in the cache. Offline without that memory: the files that the cache has, which may not be all.
    ///
    /// # Errors
    /// As [`Hub::resolve`]; [`Error::Offline`] where the cache has no file of the commit; [`Error::Hostile`] for a path
    /// that would lead out of the cache.
    pub async fn files(&self, repository: &Repository, commit: &Commit) -> Result<Vec<RemoteFile>> {
        let place = place(repository, commit);
        if self.settings.offline && self.known(&place).is_none() {
            let present = self.cache.present(&place)?;
            let what = || format!("{repository} at {commit}");
            return if present.is_empty() { Err(self.offline(what(), Vec::new())) } else { Ok(present) };
        }
        Ok(self.listing(&place).await?.to_vec())
    }

    async fn listing(&self, place: &Place) -> Result<Listing> {
        if let Some(known) = self.known(place) {
            return Ok(known);
        }
        let files = listing::ask(&self.http, &self.settings, place).await?;
        listing::remember(&self.cache, place, &files)?;
        Ok(self.keep(place, files))
    }

    /// The listing, as far as no request is needed.
    fn known(&self, place: &Place) -> Option<Listing> {
        let listings = self.listings.lock().unwrap_or_else(PoisonError::into_inner);
        let known = listings.get(&self.cache.listing(place)).map(Arc::clone);
        drop(listings);
        known.or_else(|| Some(self.keep(place, listing::recall(&self.cache, place)?)))
    }

    fn keep(&self, place: &Place, files: Vec<RemoteFile>) -> Listing {
        let files = Arc::new(files);
        let mut listings = self.listings.lock().unwrap_or_else(PoisonError::into_inner);
        listings.insert(self.cache.listing(place), Arc::clone(&files));
        files
    }

    /// Where the file is in the cache, if it is there and its size and digest are right. A wrong one is removed, with a
    /// warning. Makes no request. A file that was not verified before is read completely; its stamp is remembered, so that
    /// this happens once.
    ///
    /// # Errors
    /// [`Error::BadPath`]; [`Error::Cache`] where the cache cannot be read, or a wrong file not removed.
    pub fn cached(&self, repository: &Repository, commit: &Commit, path: &str) -> Result<Option<PathBuf>> {
        check_path(path)?;
        let place = place(repository, commit);
        let listing = self.known(&place);
        self.cache.sound(&place, path, listing.as_ref().and_then(|listing| find(listing, path)))
    }

    /// Brings the files that the cache does not have, and returns where all of them are, in the order of `paths`. Each is
    /// verified; one that is cached and right costs no request. Of several tasks or processes that want files of one
    /// commit, one downloads and the others wait for it. May be dropped at any time; an unfinished file starts anew.
    ///
    /// # Errors
    /// [`Error::Offline`] with every missing file; [`Error::FileMissing`] and the other refusals of the Hub;
    /// [`Error::Damaged`], [`Error::TimedOut`] and the network's other errors after the retries; [`Error::Cache`].
    pub async fn fetch(
        &self,
        repository: &Repository,
        commit: &Commit,
        paths: &[&str],
        progress: &mut (dyn FnMut(Progress<'_>) + Send),
    ) -> Result<Vec<PathBuf>> {
        paths.iter().try_for_each(|path| check_path(path))?;
        let place = place(repository, commit);
        let missing = self.missing(&place, paths).await?;
        if !missing.is_empty() && self.settings.offline {
            return Err(self.offline(format!("files of {repository} at {commit}"), missing));
        }
        if !missing.is_empty() {
            self.bring(&place, &missing, progress).await?;
        }
        Ok(paths.iter().map(|path| self.cache.link(&place, path)).collect())
    }

    async fn bring(
        &self,
        place: &Place,
        missing: &[String],
        progress: &mut (dyn FnMut(Progress<'_>) + Send),
    ) -> Result<()> {
        let _lock = Lock::acquire(&self.cache.lock(place)?, &place.repository.to_string()).await?;
        let listing = self.listing(place).await?;
        let paths: Vec<&str> = missing.iter().map(String::as_str).collect();
        let downloads = Downloads { settings: &self.settings, http: &self.http, cache: &self.cache, place };
        // Somebody else may have brought them while this one waited.
        for path in self.missing(place, &paths).await? {
            let file = find(&listing, &path).ok_or_else(|| Error::FileMissing {
                repository: place.repository.clone(),
                commit: place.commit.clone(),
                path: path.clone(),
            })?;
            let brought = downloads.bring(file, &mut *progress).await;
            // It may be the listing that was damaged on its way; the next call asks anew.
            brought.or_else(|error| self.doubt(place, error))?;
        }
        Ok(())
    }

    /// Gives the error back; forgets the listing where the file and the listing disagree.
    fn doubt(&self, place: &Place, error: Error) -> Result<()> {
        if matches!(error, Error::Damaged { .. }) {
            self.listings.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.cache.listing(place));
            listing::forget(&self.cache, place)?;
        }
        Err(error)
    }

    /// Those of the files that the cache does not have, or has wrong; each once.
    async fn missing(&self, place: &Place, paths: &[&str]) -> Result<Vec<String>> {
        let mut missing = Vec::new();
        for path in paths {
            let listing = self.known(place);
            let (cache, place, path) = (self.cache.clone(), place.clone(), (*path).to_owned());
            let found = blocking(move || {
                let listed = listing.as_ref().and_then(|listing| find(listing, &path));
                Ok(cache.sound(&place, &path, listed)?.is_none().then_some(path))
            });
            missing.extend(found.await?.filter(|path| !missing.contains(path)));
        }
        Ok(missing)
    }

    /// How long the endpoint takes to answer a single request, whatever it answers short of a failure of its own.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::TimedOut`], [`Error::Server`] or [`Error::RateLimited`], at once and without
    /// retries; [`Error::Offline`] where the settings forbid requests.
    pub async fn probe(&self) -> Result<Duration> {
        if self.settings.offline {
            return Err(self.offline("the answer of the Hub".to_owned(), Vec::new()));
        }
        let start = Instant::now();
        self.http.knock().await?;
        Ok(start.elapsed())
    }

    fn offline(&self, what: String, missing: Vec<String>) -> Error {
        Error::Offline { what, cache: self.cache.root().to_owned(), missing }
    }
}

fn place(repository: &Repository, commit: &Commit) -> Place {
    Place { repository: repository.clone(), commit: commit.clone() }
}

/// A file of a listing, which is sorted.
fn find<'a>(listing: &'a [RemoteFile], path: &str) -> Option<&'a RemoteFile> {
    let index = listing.binary_search_by(|file| file.path.as_str().cmp(path)).ok()?;
    Some(&listing[index])
}
