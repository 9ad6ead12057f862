//! Metadata and listings as JSON.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use sha1::{Digest as _, Sha1};

use super::content::Entry;
use super::encoding::{fields, hex};
use super::http::{Answer, Incoming};
use super::repository::{Access, Repository, Tree};

/// Time at which everything was made.
const TIME: &str = "2024-01-01T00:00:00.000Z";

/// Folder of the branches that the Hub makes itself.
const CONVERTS: &str = "refs/convert/";

/// Folder of the branches of pull requests.
const PULL_REQUESTS: &str = "refs/pr/";

/// Answers what a repository is and which files it holds at a commit.
pub(super) fn info(request: &Incoming, repository: &Repository, commit: &str, tree: &Tree) -> Answer {
    let with_blobs = request.query("blobs").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let siblings: Vec<Value> = tree.iter().map(|(path, entry)| sibling(path, entry, with_blobs)).collect();
    let author = repository.id.split_once('/').map(|(owner, _)| owner);
    let gated = if repository.access == Access::Gated { json!("auto") } else { json!(false) };
    Answer::new(200).json(&json!({
        "_id": &commit[..24],
        "id": repository.id,
        "modelId": repository.id,
        "author": author,
        "sha": commit,
        "private": repository.access == Access::Private,
        "gated": gated,
        "disabled": repository.access == Access::Disabled,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "createdAt": TIME,
        "lastModified": TIME,
        "siblings": siblings,
    }))
}

fn sibling(path: &str, entry: &Entry, with_blobs: bool) -> Value {
    if !with_blobs {
        return json!({ "rfilename": path });
    }
    let mut sibling = json!({ "rfilename": path, "blobId": entry.oid, "size": entry.blob.size() });
    if let Some(pointer) = &entry.lfs {
        sibling["lfs"] =
            json!({ "sha256": pointer.sha256, "size": entry.blob.size(), "pointerSize": pointer.size });
    }
    sibling
}

/// Answers which branches a repository has.
pub(super) fn references(repository: &Repository) -> Answer {
    let list = |folder: &str| -> Vec<Value> {
        let named = repository.branches.iter().filter_map(|(name, commit)| {
            let name = name.strip_prefix(folder)?;
            Some(json!({ "name": name, "ref": format!("{folder}{name}"), "targetCommit": commit }))
        });
        named.collect()
    };
    let branches = repository.branches.iter().filter(|(name, _)| !name.starts_with("refs/"));
    let branches: Vec<Value> = branches
        .map(|(name, commit)| json!({ "name": name, "ref": format!("refs/heads/{name}"), "targetCommit": commit }))
        .collect();
    Answer::new(200).json(&json!({
        "branches": branches,
        "converts": list(CONVERTS),
        "tags": [],
        "pullRequests": list(PULL_REQUESTS),
    }))
}

/// Answers a page of the listing of a folder; `origin` goes before the address of the next page. Returns nothing if
/// there is no such folder.
pub(super) fn tree(
    request: &Incoming,
    tree: &Tree,
    folder: &str,
    page_size: usize,
    origin: &str,
) -> Option<Answer> {
    let recursive = request.query("recursive").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let listing = list(tree, folder, recursive);
    if listing.is_empty() && !folder.is_empty() {
        return None;
    }
    let start = request.query("cursor").map_or(0, |cursor| cursor.parse().unwrap_or(listing.len()));
    let page: Vec<&Value> = listing.values().skip(start).take(page_size).collect();
    let answer = Answer::new(200).json(&json!(page));
    let end = start.saturating_add(page_size);
    if end >= listing.len() {
        return Some(answer);
    }
    let next = format!("{origin}{}?recursive={recursive}&cursor={end}", request.path());
    Some(answer.header("Link", format!("<{next}>; rel=\"next\"")))
}

/// Returns the entries below a folder by path: with `recursive` all, otherwise those right in it.
fn list(tree: &Tree, folder: &str, recursive: bool) -> BTreeMap<String, Value> {
    let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
    let mut listing = BTreeMap::new();
    for (path, entry) in tree {
        let Some(rest) = path.strip_prefix(&prefix) else { continue };
        let mut folders: Vec<usize> = rest.match_indices('/').map(|(position, _)| position).collect();
        if !recursive && !folders.is_empty() {
            folders.truncate(1);
        } else {
            listing.insert(path.clone(), file(path, entry));
        }
        for end in folders {
            let path = format!("{prefix}{}", &rest[..end]);
            listing.entry(path).or_insert_with_key(|path| directory(tree, path));
        }
    }
    listing
}

/// Answers facts about the paths that a request names, in JSON or as a form. Paths that are not there are left away.
/// Returns nothing if the request cannot be read.
pub(super) fn paths_info(request: &Incoming, tree: &Tree) -> Option<Answer> {
    let facts = |path: &String| {
        let found = tree.get(path).map(|entry| file(path, entry));
        let is_folder = || tree.keys().any(|other| other.starts_with(&format!("{path}/")));
        found.or_else(|| is_folder().then(|| directory(tree, path)))
    };
    let facts: Vec<Value> = named_paths(request)?.iter().filter_map(facts).collect();
    Some(Answer::new(200).json(&json!(facts)))
}

fn named_paths(request: &Incoming) -> Option<BTreeSet<String>> {
    let is_json = request.header("Content-Type").is_some_and(|kind| kind.starts_with("application/json"));
    if is_json {
        let body: Value = serde_json::from_slice(&request.body).ok()?;
        let paths = body.get("paths")?.as_array()?;
        return paths.iter().map(|path| path.as_str().map(str::to_owned)).collect();
    }
    let body = std::str::from_utf8(&request.body).ok()?;
    Some(fields(body).into_iter().filter(|(name, _)| name == "paths").map(|(_, path)| path).collect())
}

fn file(path: &str, entry: &Entry) -> Value {
    let mut file = json!({ "type": "file", "oid": entry.oid, "size": entry.blob.size(), "path": path });
    if let Some(pointer) = &entry.lfs {
        file["lfs"] =
            json!({ "oid": pointer.sha256, "size": entry.blob.size(), "pointerSize": pointer.size });
    }
    file
}

/// The name of a folder is a digest of what is below it, but not the one that Git gives.
fn directory(tree: &Tree, path: &str) -> Value {
    let mut digest = Sha1::new();
    let prefix = format!("{path}/");
    for (name, entry) in tree.iter().filter(|(name, _)| name.starts_with(&prefix)) {
        digest.update(format!("{} {name}\n", entry.oid));
    }
    json!({ "type": "directory", "oid": hex(&digest.finalize()), "size": 0, "path": path })
}
