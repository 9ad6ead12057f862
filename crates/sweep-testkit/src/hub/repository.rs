//! Repositories: their commits, branches and who may read them.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use sha1::{Digest as _, Sha1};

use super::content::{Blob, Content, Entry};
use super::encoding::{hex, is_hex};

/// Branch that every repository has.
pub(super) const MAIN: &str = "main";

/// What a repository holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Weights.
    Model,
    /// Data.
    Dataset,
}

impl Kind {
    /// Returns the word that stands for it in addresses below `/api/`.
    pub(super) const fn plural(self) -> &'static str {
        match self {
            Self::Model => "models",
            Self::Dataset => "datasets",
        }
    }

    pub(super) fn of_plural(word: &str) -> Option<Self> {
        [Self::Model, Self::Dataset].into_iter().find(|kind| kind.plural() == word)
    }
}

/// Who may read a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody.
    Public,
    /// Who has the token; for others it does not exist.
    Private,
    /// Everybody sees what it holds; its files are for who has the token.
    Gated,
    /// Nobody.
    Disabled,
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    /// Somebody without a token.
    Anonymous,
    /// Somebody with another token than the one that opens repositories.
    Stranger,
    /// Somebody with that token.
    Trusted,
}

/// Files of a commit by path.
pub(super) type Tree = BTreeMap<String, Entry>;

/// A repository.
#[derive(Debug)]
pub(super) struct Repository {
    pub(super) kind: Kind,
    pub(super) id: String,
    pub(super) access: Access,
    /// Commits of the branches.
    pub(super) branches: BTreeMap<String, String>,
    commits: BTreeMap<String, Arc<Tree>>,
}

impl Repository {
    fn new(kind: Kind, id: &str) -> Self {
        let mut new = Self {
            kind,
            id: id.to_owned(),
            access: Access::Public,
            branches: BTreeMap::new(),
            commits: BTreeMap::new(),
        };
        new.add(MAIN, Tree::new());
        new
    }

    fn add(&mut self, revision: &str, tree: Tree) -> String {
        let commit = self.name(&tree);
        self.commits.insert(commit.clone(), Arc::new(tree));
        self.branches.insert(revision.to_owned(), commit.clone());
        commit
    }

    /// Returns the name of a commit: a digest of the repository and of what the commit holds.
    fn name(&self, tree: &Tree) -> String {
        let mut digest = Sha1::new();
        digest.update(format!("{}/{}\n", self.kind.plural(), self.id));
        for (path, entry) in tree {
            digest.update(format!("{} {path}\n", entry.oid));
        }
        hex(&digest.finalize())
    }

    /// Returns the commit that a branch or a commit's name stands for, and its files.
    pub(super) fn at(&self, revision: &str) -> Option<(&str, &Arc<Tree>)> {
        let commit = self.branches.get(revision).map_or(revision, String::as_str);
        let (commit, tree) = self.commits.get_key_value(commit)?;
        Some((commit, tree))
    }

    /// Returns whether `caller` knows that the repository exists.
    pub(super) fn is_visible_to(&self, caller: Caller) -> bool {
        self.access != Access::Private || caller == Caller::Trusted
    }
}

/// Everything that the server holds.
#[derive(Debug)]
pub(super) struct Store {
    repositories: BTreeMap<(Kind, String), Repository>,
    /// Files in LFS by their SHA-256, as the CDN keeps them.
    large: BTreeMap<String, Blob>,
    /// The token that opens private and gated repositories.
    pub(super) token: Option<String>,
    /// Entries on a page of a listing.
    pub(super) page_size: usize,
}

impl Store {
    pub(super) fn new(page_size: usize) -> Self {
        Self { repositories: BTreeMap::new(), large: BTreeMap::new(), token: None, page_size }
    }

    /// Adds a commit that holds exactly `tree`.
    pub(super) fn commit(&mut self, kind: Kind, id: &str, revision: &str, tree: Tree) -> String {
        for entry in tree.values() {
            if let Some(pointer) = &entry.lfs {
                self.large.insert(pointer.sha256.clone(), entry.blob.clone());
            }
        }
        self.repository(kind, id).add(revision, tree)
    }

    /// Returns a repository, made where it is missing.
    pub(super) fn repository(&mut self, kind: Kind, id: &str) -> &mut Repository {
        self.repositories.entry((kind, id.to_owned())).or_insert_with(|| Repository::new(kind, id))
    }

    /// Returns the repository of that id in any letter case; the exact one goes before others.
    pub(super) fn find(&self, kind: Kind, id: &str) -> Option<&Repository> {
        let exact = self.repositories.get(&(kind, id.to_owned()));
        exact.or_else(|| {
            self.repositories.values().find(|other| other.kind == kind && other.id.eq_ignore_ascii_case(id))
        })
    }

    /// Returns the file in LFS of that SHA-256.
    pub(super) fn large(&self, sha256: &str) -> Option<&Blob> {
        self.large.get(sha256)
    }

    /// Tells who sends this `Authorization` header.
    pub(super) fn caller(&self, authorization: Option<&str>) -> Caller {
        let token = authorization.map(|value| value.trim_start_matches("Bearer "));
        match token {
            None => Caller::Anonymous,
            Some(token) if self.token.as_deref() == Some(token) => Caller::Trusted,
            Some(_) => Caller::Stranger,
        }
    }
}

/// Builds the files of a commit.
///
/// # Panics
/// Panics if a path is one that no repository can hold, or if a revision looks like a commit: a mistake of the test.
pub(super) fn tree(revision: &str, files: &[(&str, Content)]) -> io::Result<Tree> {
    assert!(!is_hex(revision, 40), "`{revision}` is a commit's name, not a branch's");
    let mut tree = Tree::new();
    for (path, content) in files {
        assert!(path.split('/').all(|part| !part.is_empty()), "`{path}` is no path in a repository");
        let earlier = tree.insert((*path).to_owned(), Entry::new(content.clone())?);
        assert!(earlier.is_none(), "`{path}` is in the commit twice");
    }
    Ok(tree)
}
