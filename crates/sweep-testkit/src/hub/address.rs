//! What the paths of the Hub stand for.

use super::encoding::{decode, is_hex};
use super::repository::Kind;

/// Path below which the Hub serves the contents of files in Git.
const CACHE: &str = "resolve-cache";

/// Words that end an id below `/api/`.
const WORDS: [&str; 4] = ["revision", "tree", "paths-info", "refs"];

/// Something of a repository.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) kind: Kind,
    /// As it was asked for, in any letter case.
    pub(super) id: String,
    pub(super) place: Place,
}

/// What of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// What the repository is and which files it holds.
    Info { revision: String },
    /// Listing of a folder; the path of the whole repository is empty.
    Tree { revision: String, path: String },
    /// Facts about the paths that the request names.
    PathsInfo { revision: String },
    /// Branches.
    References,
    /// A file, which may be elsewhere.
    File { revision: String, path: String },
    /// Contents of a file in Git.
    Cached { commit: String, path: String },
}

impl Address {
    /// Reads a path without its query. Revisions occupy one segment, in which slashes are escaped.
    pub(super) fn parse(path: &str) -> Option<Self> {
        let segments: Vec<String> = path.strip_prefix('/')?.split('/').map(decode).collect();
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        match &*segments {
            ["api", CACHE, kind, rest @ ..] => Self::cached(Kind::of_plural(kind)?, rest),
            ["api", kind, rest @ ..] => Self::api(Kind::of_plural(kind)?, rest),
            ["datasets", rest @ ..] => Self::file(Kind::Dataset, rest),
            _ => Self::file(Kind::Model, &segments),
        }
    }

    fn api(kind: Kind, segments: &[&str]) -> Option<Self> {
        let (id, rest) = split(segments, |segment| WORDS.contains(segment));
        let place = match rest {
            [] => Place::Info { revision: super::repository::MAIN.to_owned() },
            ["revision", revision] => Place::Info { revision: (*revision).to_owned() },
            ["tree", revision, path @ ..] => {
                Place::Tree { revision: (*revision).to_owned(), path: path.join("/") }
            }
            ["paths-info", revision] => Place::PathsInfo { revision: (*revision).to_owned() },
            ["refs"] => Place::References,
            _ => return None,
        };
        Self::new(kind, id, place)
    }

    fn file(kind: Kind, segments: &[&str]) -> Option<Self> {
        let (id, rest) = split(segments, |segment| *segment == "resolve");
        let ["resolve", revision, path @ ..] = rest else { return None };
        Self::new(kind, id, Place::File { revision: (*revision).to_owned(), path: path.join("/") })
    }

    fn cached(kind: Kind, segments: &[&str]) -> Option<Self> {
        let (id, rest) = split(segments, |segment| is_hex(segment, 40));
        let [commit, path @ ..] = rest else { return None };
        Self::new(kind, id, Place::Cached { commit: (*commit).to_owned(), path: path.join("/") })
    }

    fn new(kind: Kind, id: &[&str], place: Place) -> Option<Self> {
        let is_id = matches!(id.len(), 1 | 2) && id.iter().all(|part| !part.is_empty());
        is_id.then(|| Self { kind, id: id.join("/"), place })
    }
}

/// Splits an id of one or two segments from what comes behind it.
fn split<'a, 'b>(segments: &'a [&'b str], ends: impl Fn(&&str) -> bool) -> (&'a [&'b str], &'a [&'b str]) {
    let end = [2, 1].into_iter().find(|end| segments.get(*end).is_some_and(&ends));
    segments.split_at(end.unwrap_or(segments.len()))
}

/// Returns the path, at the Hub, of the contents of a file in Git.
pub(super) fn cached_path(kind: Kind, id: &str, commit: &str, path: &str) -> String {
    format!("/api/{CACHE}/{}/{id}/{commit}/{}", kind.plural(), super::encoding::encode(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_told_apart() {
        let commit = "0123456789012345678901234567890123456789";
        let text = str::to_owned;
        let cases = [
            ("/api/models/o/n", Kind::Model, "o/n", Place::Info { revision: text("main") }),
            ("/api/models/gpt2", Kind::Model, "gpt2", Place::Info { revision: text("main") }),
            ("/api/datasets/o/n/revision/a%2Fb", Kind::Dataset, "o/n", Place::Info { revision: text("a/b") }),
            ("/api/models/gpt2/refs", Kind::Model, "gpt2", Place::References),
            (
                "/api/models/o/n/tree/main/data%20x/y",
                Kind::Model,
                "o/n",
                Place::Tree { revision: text("main"), path: text("data x/y") },
            ),
            (
                "/datasets/o/n/resolve/refs%2Fconvert%2Fparquet/default/train/0000.parquet",
                Kind::Dataset,
                "o/n",
                Place::File {
                    revision: text("refs/convert/parquet"),
                    path: text("default/train/0000.parquet"),
                },
            ),
            (
                "/gpt2/resolve/main/resolve/x",
                Kind::Model,
                "gpt2",
                Place::File { revision: text("main"), path: text("resolve/x") },
            ),
            (
                &*format!("/api/resolve-cache/models/gpt2/{commit}/a/b"),
                Kind::Model,
                "gpt2",
                Place::Cached { commit: text(commit), path: text("a/b") },
            ),
        ];
        for (path, kind, id, place) in cases {
            assert_eq!(Address::parse(path), Some(Address { kind, id: text(id), place }), "{path}");
        }
    }

    #[test]
    fn other_paths_are_none() {
        for path in [
            "/",
            "/x",
            "/api/spaces/o/n",
            "/o/n/blob/main/x",
            "/a/b/c/resolve/main/x",
            "/api/models/o/n/tree",
        ] {
            assert_eq!(Address::parse(path), None, "{path}");
        }
    }
}
