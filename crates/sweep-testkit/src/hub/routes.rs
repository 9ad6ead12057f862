//! Which answer a request gets.

use std::net::SocketAddr;

use serde_json::json;

use super::address::{Address, Place};
use super::http::{Answer, Incoming};
use super::repository::{Access, Caller, Repository, Store};
use super::{api, files};

/// Error code of a repository that is not there, or not for the caller to know.
const NO_REPOSITORY: &str = "RepoNotFound";

/// Error code of a repository whose files need permission.
const GATED: &str = "GatedRepo";

/// Answers a request to the Hub.
pub(super) fn hub(request: &Incoming, store: &Store, hub: SocketAddr, cdn: SocketAddr) -> Answer {
    try_hub(request, store, hub, cdn).unwrap_or_else(|refusal| refusal)
}

fn try_hub(request: &Incoming, store: &Store, hub: SocketAddr, cdn: SocketAddr) -> Result<Answer, Answer> {
    let address = Address::parse(request.path()).ok_or_else(|| refusal(404, None, "no such address"))?;
    check_method(request, &address.place)?;
    let caller = store.caller(request.header("Authorization"));
    let repository = find(store, &address, caller)?;
    if repository.id != address.id {
        let (asked, right) = (format!("/{}", address.id), format!("/{}", repository.id));
        return Ok(files::redirect(307, &request.target.replacen(&asked, &right, 1)));
    }
    match &address.place {
        Place::References => Ok(api::references(repository)),
        Place::Info { revision } => {
            let (commit, tree) = repository.at(revision).ok_or_else(|| no_revision(revision))?;
            Ok(api::info(request, repository, commit, tree))
        }
        Place::Tree { revision, path } => {
            let (commit, tree) = repository.at(revision).ok_or_else(|| no_revision(revision))?;
            let answer = api::tree(request, tree, path, store.page_size, &format!("http://{hub}"));
            answer.ok_or_else(|| no_entry(path, commit))
        }
        Place::PathsInfo { revision } => {
            let (_, tree) = repository.at(revision).ok_or_else(|| no_revision(revision))?;
            api::paths_info(request, tree).ok_or_else(|| refusal(400, None, "the body names no paths"))
        }
        Place::File { revision, path } | Place::Cached { commit: revision, path } => {
            open(repository, caller)?;
            let (commit, tree) = repository.at(revision).ok_or_else(|| no_revision(revision))?;
            let entry = tree.get(path).ok_or_else(|| no_entry(path, commit))?;
            if matches!(address.place, Place::Cached { .. }) && entry.lfs.is_none() {
                return Ok(files::from_git(request, commit, entry));
            }
            Ok(files::resolve(request, repository, commit, path, entry, &format!("http://{cdn}")))
        }
    }
}

fn check_method(request: &Incoming, place: &Place) -> Result<(), Answer> {
    let is_right = match place {
        Place::PathsInfo { .. } => request.method == "POST",
        _ => request.method == "GET" || request.is_head(),
    };
    if is_right { Ok(()) } else { Err(refusal(405, None, "this method is not for this address")) }
}

/// Finds a repository, unless the caller may not know of it.
fn find<'a>(store: &'a Store, address: &Address, caller: Caller) -> Result<&'a Repository, Answer> {
    let found = store.find(address.kind, &address.id).filter(|found| found.is_visible_to(caller));
    let missing = || match caller {
        // The Hub does not tell strangers whether it is the repository or the permission that is missing.
        Caller::Anonymous => refusal(401, Some(NO_REPOSITORY), "Invalid username or password."),
        _ => refusal(404, Some(NO_REPOSITORY), "Repository not found"),
    };
    let repository = found.ok_or_else(missing)?;
    if repository.access == Access::Disabled {
        return Err(refusal(403, None, "Access to this resource is disabled."));
    }
    Ok(repository)
}

/// Checks that the caller may read the files of a repository.
fn open(repository: &Repository, caller: Caller) -> Result<(), Answer> {
    match (repository.access, caller) {
        (Access::Gated, Caller::Anonymous) => {
            Err(refusal(401, Some(GATED), "access to this repository is restricted: log in"))
        }
        (Access::Gated, Caller::Stranger) => {
            Err(refusal(403, Some(GATED), "access to this repository is restricted: ask for it"))
        }
        _ => Ok(()),
    }
}

fn no_revision(revision: &str) -> Answer {
    refusal(404, Some("RevisionNotFound"), &format!("Invalid rev id: {revision}"))
}

fn no_entry(path: &str, commit: &str) -> Answer {
    refusal(404, Some("EntryNotFound"), &format!("no entry {path:?}")).header("X-Repo-Commit", commit)
}

fn refusal(status: u16, code: Option<&str>, message: &str) -> Answer {
    let mut answer = Answer::new(status).header("X-Error-Message", message);
    if let Some(code) = code {
        answer = answer.header("X-Error-Code", code);
    }
    answer.json(&json!({ "error": message }))
}
