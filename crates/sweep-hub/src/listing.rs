//! What a commit holds: asked from the Hub once, then remembered, for a commit never changes.

use serde::{Deserialize, Serialize};

use crate::answer::{Question, Subject};
use crate::cache::{Cache, Place, read_json, remove, write_json};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::http::{Http, Page};
use crate::repository::{path_fault, shortened};
use crate::retry::Attempts;
use crate::settings::Settings;

/// Pages that a listing may have; the Hub puts 1000 files on one.
const MOST_PAGES: usize = 10_000;
/// Files that a listing may have: ten times those of the largest repositories.
const MOST_FILES: usize = 1_000_000;
/// Bytes that all files of a listing may have together: the largest number that every reader of JSON takes as it is, so that
/// sums over many repositories cannot overflow.
const MOST_BYTES: u64 = 1 << 53;

/// A file of a repository at a commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteFile {
    /// Its path in the repository, `/` between folders; checked to lead nowhere else.
    pub path: String,
    /// Its size in bytes.
    pub size: u64,
    /// Its digest, which is its blob's name in the cache; `None` only where neither the listing nor the cache tells.
    pub digest: Option<Digest>,
}

/// A listing as it is remembered.
#[derive(Serialize, Deserialize)]
struct Remembered {
    repository: String,
    commit: String,
    files: Vec<RemoteFile>,
}

/// An entry of the Hub's listing.
#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    oid: Option<String>,
    size: Option<u64>,
    lfs: Option<Large>,
}

/// A file that is kept outside git; in git itself lies a pointer, whose id is the entry's `oid`.
#[derive(Deserialize)]
struct Large {
    #[serde(alias = "sha256")]
    oid: Option<String>,
    size: Option<u64>,
}

/// The listing as it was remembered, if it was.
pub(crate) fn recall(cache: &Cache, place: &Place) -> Option<Vec<RemoteFile>> {
    let kept: Remembered = read_json(&cache.listing(place))?;
    let right = kept.repository == place.repository.folder() && kept.commit == place.commit.as_str();
    let clean = kept.files.iter().all(|file| path_fault(&file.path).is_none());
    // Files are found by bisection, so one that is out of order would not be found.
    let ordered = kept.files.is_sorted_by(|one, other| one.path < other.path);
    (right && clean && ordered && size_fault(&kept.files).is_none()).then_some(kept.files)
}

/// Remembers a listing beside the repository's folder of the cache.
pub(crate) fn remember(cache: &Cache, place: &Place, files: &[RemoteFile]) -> Result<()> {
    let kept = Remembered {
        repository: place.repository.folder(),
        commit: place.commit.to_string(),
        files: files.to_vec(),
    };
    write_json(&cache.listing(place), &kept)
}

/// Removes a listing that is not to be trusted.
pub(crate) fn forget(cache: &Cache, place: &Place) -> Result<()> {
    remove(&cache.listing(place))
}

/// Asks the Hub for all files of a commit, sorted by path.
pub(crate) async fn ask(http: &Http, settings: &Settings, place: &Place) -> Result<Vec<RemoteFile>> {
    let Place { repository, commit } = place;
    let question =
        Question { repository, subject: Subject::Listing(commit), with_token: settings.token.is_some() };
    let unexpected = |reason: &str| Error::Unexpected { what: question.what(), reason: reason.to_owned() };
    let mut url = http.api(repository, &["tree", commit.as_str()]);
    url.set_query(Some("recursive=true"));
    let mut files = Vec::new();
    for _ in 0..MOST_PAGES {
        let page = page(http, settings, &question, &url).await?;
        for entry in page.content {
            files.extend(entry.file(&question)?);
        }
        if let Some(fault) = size_fault(&files) {
            return Err(unexpected(&fault));
        }
        let Some(link) = page.next else { return Ok(ordered(files)) };
        let next = http.at_home(&link).ok_or_else(|| unexpected("the next page has no address"))?;
        if next == url {
            return Err(unexpected("its next page is itself"));
        }
        url = next;
    }
    Err(unexpected("it has no last page"))
}

/// What is wrong with the numbers of a listing, if anything is.
fn size_fault(files: &[RemoteFile]) -> Option<String> {
    if files.len() > MOST_FILES {
        return Some(format!("it has more than {MOST_FILES} files"));
    }
    let mut total = 0_u64;
    let file = files.iter().find(|file| {
        total = total.saturating_add(file.size);
        total > MOST_BYTES
    })?;
    let (path, size) = (shortened(&file.path), file.size);
    Some(format!(
        "its files have more than {MOST_BYTES} bytes together: `{path}` alone is said to have {size}"
    ))
}

async fn page(
    http: &Http,
    settings: &Settings,
    question: &Question<'_>,
    url: &reqwest::Url,
) -> Result<Page<Vec<Entry>>> {
    let mut attempts = Attempts::new(settings);
    loop {
        match http.json(question, url.clone()).await {
            Ok(page) => return Ok(page),
            Err(error) => attempts.pause(error).await?,
        }
    }
}

fn ordered(mut files: Vec<RemoteFile>) -> Vec<RemoteFile> {
    files.sort_by(|one, other| one.path.cmp(&other.path));
    files.dedup_by(|one, other| one.path == other.path);
    files
}

impl Entry {
    /// The file, if it is one and not a folder.
    fn file(self, question: &Question<'_>) -> Result<Option<RemoteFile>> {
        if self.kind != "file" {
            return Ok(None);
        }
        if path_fault(&self.path).is_some() {
            return Err(Error::Hostile { what: question.what(), kind: "path", value: shortened(&self.path) });
        }
        let (name, size) = match self.lfs {
            Some(large) => (large.oid, large.size.or(self.size)),
            None => (self.oid, self.size),
        };
        let digest = name.as_deref().and_then(Digest::from_name);
        let size = size.ok_or_else(|| Error::Unexpected {
            what: question.what(),
            reason: format!("it gives no size for `{}`", shortened(&self.path)),
        })?;
        Ok(Some(RemoteFile { path: self.path, size, digest }))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::repository::{Repository, RepositoryKind};

    const GIT: &str = "ce013625030ba8dba906f756967f9e9ca394464a";
    const SHA256: &str = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";

    fn place() -> Place {
        let repository = Repository::new(RepositoryKind::Model, "owner/name").unwrap();
        Place { repository, commit: GIT.parse().unwrap() }
    }

    fn read(json: &str) -> Result<Option<RemoteFile>> {
        let place = place();
        let question = Question {
            repository: &place.repository,
            subject: Subject::Listing(&place.commit),
            with_token: false,
        };
        serde_json::from_str::<Entry>(json).unwrap().file(&question)
    }

    #[test]
    fn entries_are_read_as_the_hub_writes_them() {
        let small = format!(r#"{{"type":"file","oid":"{GIT}","size":7,"path":"config.json"}}"#);
        let small = read(&small).unwrap().unwrap();
        assert_eq!((small.size, small.digest), (7, Digest::from_name(GIT)));
        let large = format!(
            r#"{{"type":"file","oid":"{GIT}","size":9,"path":"a/b","lfs":{{"oid":"{SHA256}","size":9,"pointerSize":130}},"xetHash":"x"}}"#
        );
        assert_eq!(read(&large).unwrap().unwrap().digest, Digest::from_name(SHA256));
        assert_eq!(read(r#"{"type":"directory","oid":"x","size":0,"path":"a"}"#).unwrap(), None);
    }

    #[test]
    fn hostile_and_senseless_entries_are_refused() {
        for path in ["../x", "/etc/passwd", "a/../../b", ""] {
            let json = format!(r#"{{"type":"file","size":1,"path":"{path}"}}"#);
            assert!(matches!(read(&json), Err(Error::Hostile { kind: "path", .. })), "{path}");
        }
        assert!(matches!(read(r#"{"type":"file","path":"x"}"#), Err(Error::Unexpected { .. })));
    }

    #[test]
    fn numbers_that_lie_are_refused() {
        let file = |path: &str, size| RemoteFile { path: path.to_owned(), size, digest: None };
        assert_eq!(size_fault(&[file("a", MOST_BYTES - 1), file("b", 1)]), None);
        for sizes in [[u64::MAX, u64::MAX], [1 << 63, 1 << 63], [MOST_BYTES, 1]] {
            let fault = size_fault(&[file("a", sizes[0]), file("b", sizes[1])]).unwrap();
            assert!(fault.contains("is said to have"), "{fault}");
        }
        assert!(size_fault(&vec![file("a", 0); MOST_FILES + 1]).unwrap().contains("more than 1000000 files"));
        for size in ["-1", "1e3", "18446744073709551616", "\"1\"", "null", "NaN"] {
            let json = format!(r#"{{"type":"file","path":"x","size":{size}}}"#);
            let entry = serde_json::from_str::<Entry>(&json);
            assert!(entry.is_err() || entry.unwrap().size.is_none(), "{size}");
        }
        let deep = format!(r#"{{"type":{}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        assert!(serde_json::from_str::<Entry>(&deep).is_err());
    }

    #[test]
    fn a_remembered_listing_that_lies_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let (cache, place) = (Cache::new(folder.path()), place());
        let file = |path: &str, size| RemoteFile { path: path.to_owned(), size, digest: None };
        for files in [
            vec![file("../../x", 1)],
            vec![file("/etc/passwd", 1)],
            vec![file("b", 1), file("a", 1)],
            vec![file("a", 1), file("a", 1)],
            vec![file("a", u64::MAX)],
        ] {
            remember(&cache, &place, &files).unwrap();
            assert_eq!(recall(&cache, &place), None, "{files:?}");
        }
        for text in ["", "{", "[]", "{\"repository\": 1}", &"[".repeat(100_000)] {
            std::fs::write(cache.listing(&place), text).unwrap();
            assert_eq!(recall(&cache, &place), None);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn whatever_an_entry_says_its_path_stays_below_the_snapshot(path in "[a./\\\\~:\u{0}-\u{20}]{0,12}", size: u64) {
            let json = serde_json::json!({ "type": "file", "path": path, "size": size }).to_string();
            match read(&json) {
                Ok(Some(file)) => {
                    let link = Cache::new(Path::new("/cache")).link(&place(), &file.path);
                    let inside = link.strip_prefix(Cache::new(Path::new("/cache")).link(&place(), "")).unwrap();
                    let plain = |part| matches!(part, std::path::Component::Normal(_));
                    prop_assert!(inside.components().count() > 0 && inside.components().all(plain));
                }
                Ok(None) => prop_assert!(false, "an entry of a file is one"),
                Err(error) => prop_assert!(matches!(error, Error::Hostile { kind: "path", .. }), "{error}"),
            }
        }

        #[test]
        fn mutated_entries_are_entries_or_errors(place in any::<prop::sample::Index>(), byte: u8) {
            let json = format!(r#"{{"type":"file","oid":"{GIT}","size":9,"path":"a/b","lfs":{{"oid":"{SHA256}","size":9}}}}"#);
            let mut bytes = json.into_bytes();
            let place = place.index(bytes.len());
            bytes[place] = byte;
            if let Ok(text) = String::from_utf8(bytes)
                && serde_json::from_str::<Entry>(&text).is_ok()
                && let Ok(Some(file)) = read(&text)
            {
                prop_assert!(path_fault(&file.path).is_none());
            }
        }
    }

    #[test]
    fn a_listing_is_remembered_for_its_commit_only() {
        let folder = tempfile::tempdir().unwrap();
        let (cache, place) = (Cache::new(folder.path()), place());
        let files = vec![RemoteFile { path: "x".into(), size: 1, digest: Digest::from_name(SHA256) }];
        assert_eq!(recall(&cache, &place), None);
        remember(&cache, &place, &files).unwrap();
        assert_eq!(recall(&cache, &place), Some(files));
        let other = Place { commit: GIT.replace('c', "d").parse().unwrap(), ..place.clone() };
        std::fs::copy(cache.listing(&place), cache.listing(&other)).unwrap();
        assert_eq!(recall(&cache, &other), None);
        std::fs::write(cache.listing(&place), "{").unwrap();
        assert_eq!(recall(&cache, &place), None);
    }
}
