//! Files: where they are, and their bytes.

use std::ops::Range;

use sha2::{Digest as _, Sha256};

use super::address::cached_path;
use super::content::{Blob, Entry};
use super::encoding::{decode, encode, hex, is_hex};
use super::http::{Answer, Incoming, Part};
use super::repository::{Access, Repository, Store};

/// End of the time of signed addresses, in seconds since 1970: far away, so that only a fault ends it.
const EXPIRES: u64 = 4_102_444_800;

/// Answers a request for a file at the Hub: files in LFS are at the CDN; those in Git, if everybody may read them,
/// behind another address of the Hub.
pub(super) fn resolve(
    request: &Incoming,
    repository: &Repository,
    commit: &str,
    path: &str,
    entry: &Entry,
    cdn: &str,
) -> Answer {
    let Some(pointer) = &entry.lfs else {
        if repository.access != Access::Public {
            return from_git(request, commit, entry);
        }
        let target = cached_path(repository.kind, &repository.id, commit, path);
        return redirect(307, &target).header("X-Repo-Commit", commit);
    };
    let place = format!("/{}/{}/{}/{path}", repository.kind.plural(), repository.id, pointer.sha256);
    let target = format!("{cdn}{}?Expires={EXPIRES}&Signature={}", encode(&place), sign(&place));
    redirect(302, &target)
        .header("X-Repo-Commit", commit)
        .header("X-Linked-Etag", quoted(&pointer.sha256))
        .header("X-Linked-Size", entry.blob.size().to_string())
        .header("Accept-Ranges", "bytes")
}

/// Answers with the contents of a file in Git.
pub(super) fn from_git(request: &Incoming, commit: &str, entry: &Entry) -> Answer {
    send(request, &entry.blob, &entry.oid, "text/plain; charset=utf-8").header("X-Repo-Commit", commit)
}

/// Answers a request to the CDN. It knows neither commits nor tokens, and its ETag is no SHA-256 of the file.
pub(super) fn from_cdn(request: &Incoming, store: &Store) -> Answer {
    if request.header("Authorization").is_some() {
        return xml(400, "InvalidArgument", "a signed address and a token exclude each other");
    }
    if request.query("Signature") != Some(sign(&decode(request.path()))) {
        return forbidden();
    }
    let digest = request.path().split('/').find(|segment| is_hex(segment, 64));
    let Some((digest, blob)) = digest.and_then(|digest| Some((digest, store.large(digest)?))) else {
        return xml(404, "NoSuchKey", "no such file");
    };
    send(request, blob, &cdn_etag(digest), "application/octet-stream")
}

/// Answers as the CDN does when an address is no longer valid.
pub(super) fn forbidden() -> Answer {
    xml(403, "AccessDenied", "the signed address is not valid, or no longer")
}

/// Answers that something is elsewhere.
pub(super) fn redirect(status: u16, target: &str) -> Answer {
    let text = format!("It is at {target}");
    Answer::new(status).header("Location", target).body("text/plain; charset=utf-8", text)
}

fn send(request: &Incoming, blob: &Blob, etag: &str, content_type: &str) -> Answer {
    let etag = quoted(etag);
    if request.header("If-None-Match").is_some_and(|known| is_among(&etag, known)) {
        return Answer::new(304).header("ETag", etag);
    }
    cut(blob, request.header("Range"))
        .header("ETag", etag)
        .header("Accept-Ranges", "bytes")
        .header("Content-Type", content_type)
}

fn cut(blob: &Blob, range: Option<&str>) -> Answer {
    let size = blob.size();
    match range.map_or(Wanted::Whole, |range| Wanted::parse(range, size)) {
        Wanted::Whole => Answer::new(200).part(Part::whole(blob)),
        Wanted::Part(Range { start, end }) => Answer::new(206)
            .header("Content-Range", format!("bytes {start}-{}/{size}", end - 1))
            .part(Part { blob: blob.clone(), start, length: end - start }),
        Wanted::Nothing => Answer::new(416)
            .header("Content-Range", format!("bytes */{size}"))
            .part(Part::whole(&Blob::from(Vec::new()))),
    }
}

/// What a header `Range` asks for.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    /// Everything: the header is none that this server understands, such as one with several ranges.
    Whole,
    /// These bytes, at least one.
    Part(Range<u64>),
    /// Bytes that are not there.
    Nothing,
}

impl Wanted {
    fn parse(range: &str, size: u64) -> Self {
        let Some((first, last)) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-')) else {
            return Self::Whole;
        };
        let (start, end) = match (first.parse::<u64>(), last.parse::<u64>()) {
            (Ok(first), Ok(last)) if first <= last => (first, last.saturating_add(1).min(size)),
            (Ok(first), Err(_)) if last.is_empty() => (first, size),
            (Err(_), Ok(count)) if first.is_empty() => (size.saturating_sub(count), size),
            _ => return Self::Whole,
        };
        if start < end { Self::Part(start..end) } else { Self::Nothing }
    }
}

fn is_among(etag: &str, known: &str) -> bool {
    known.split(',').map(str::trim).any(|other| other == "*" || other.trim_start_matches("W/") == etag)
}

fn quoted(text: &str) -> String {
    format!("\"{text}\"")
}

/// Signs a path without percent escapes, which clients may write in other ways.
fn sign(path: &str) -> String {
    hex(&Sha256::digest(format!("signed {path}")))
}

fn cdn_etag(digest: &str) -> String {
    hex(&Sha256::digest(format!("etag {digest}")))
}

fn xml(status: u16, code: &str, message: &str) -> Answer {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    );
    Answer::new(status).body("application/xml", body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let cases = [
            ("bytes=0-9", Wanted::Part(0..10)),
            ("bytes=5-", Wanted::Part(5..100)),
            ("bytes=-5", Wanted::Part(95..100)),
            ("bytes=-500", Wanted::Part(0..100)),
            ("bytes=99-18446744073709551615", Wanted::Part(99..100)),
            ("bytes=100-", Wanted::Nothing),
            ("bytes=-0", Wanted::Nothing),
            ("bytes=9-0", Wanted::Whole),
            ("bytes=0-1,5-6", Wanted::Whole),
            ("lines=0-1", Wanted::Whole),
            ("bytes=-", Wanted::Whole),
        ];
        for (range, expected) in cases {
            assert_eq!(Wanted::parse(range, 100), expected, "{range}");
        }
        assert_eq!(Wanted::parse("bytes=0-", 0), Wanted::Nothing);
    }
}
