//! Names: repositories, commits, revisions and paths, checked before they become part of an address or a file name.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// Longest id that the Hub gives out.
const LONGEST_ID: usize = 96;
/// Longest name of one folder or file that file systems take, in bytes.
const LONGEST_COMPONENT: usize = 255;
/// Longest path in a repository, in bytes: with the cache's own folder it still is one that systems take.
const LONGEST_PATH: usize = 2048;

/// What a repository holds, and with it where the Hub keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RepositoryKind {
    /// Weights.
    Model,
    /// Images and labels.
    Dataset,
}

impl RepositoryKind {
    /// `models` or `datasets`: the word in addresses of the API and in folders of the cache.
    pub(crate) fn plural(self) -> &'static str {
        match self {
            Self::Model => "models",
            Self::Dataset => "datasets",
        }
    }
}

impl fmt::Display for RepositoryKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Model => "model",
            Self::Dataset => "dataset",
        })
    }
}

/// A repository of the Hub. Its id is checked, so it is safe in addresses and file names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Repository {
    kind: RepositoryKind,
    id: String,
}

impl Repository {
    /// A repository by its id: `owner/name`, or `name` alone for the oldest ones.
    ///
    /// # Errors
    /// [`Error::BadRepository`] where the Hub would not give out such an id: other characters than ASCII letters, digits,
    /// `-`, `_` and `.`; `--` or `..`; a part that begins or ends with `-` or `.`; `.git` at the end; over 96 characters.
    pub fn new(kind: RepositoryKind, id: &str) -> Result<Self> {
        let bad = |reason| Error::BadRepository { given: shortened(id), reason };
        if id.len() > LONGEST_ID {
            return Err(bad("it has more than 96 characters"));
        }
        if id.split('/').count() > 2 {
            return Err(bad("it has more than one `/`"));
        }
        if id.contains("--") || id.contains("..") {
            return Err(bad("it contains `--` or `..`"));
        }
        if id.strip_suffix(".git").is_some() {
            return Err(bad("it ends with `.git`"));
        }
        for part in id.split('/') {
            check_part(part).map_err(bad)?;
        }
        Ok(Self { kind, id: id.to_owned() })
    }

    /// What it holds.
    pub fn kind(&self) -> RepositoryKind {
        self.kind
    }

    /// `owner/name`, or `name`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Name of its folder in the cache: `models--owner--name`.
    pub(crate) fn folder(&self) -> String {
        format!("{}--{}", self.kind.plural(), self.id.replace('/', "--"))
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.kind, self.id)
    }
}

fn check_part(part: &str) -> Result<(), &'static str> {
    let usable = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if part.is_empty() {
        return Err("a part of it is empty");
    }
    if !part.bytes().all(usable) {
        return Err("only ASCII letters, digits, `-`, `_` and `.` may stand in it");
    }
    if part.starts_with(['-', '.']) || part.ends_with(['-', '.']) {
        return Err("a part of it begins or ends with `-` or `.`");
    }
    Ok(())
}

/// A commit of a repository: 40 lower-case hexadecimal digits, which never mean anything else.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Commit(String);

impl Commit {
    /// The 40 digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Commit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl FromStr for Commit {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if text.len() == 40 && text.bytes().all(digit) {
            return Ok(Self(text.to_owned()));
        }
        Err(Error::BadRevision {
            given: shortened(text),
            reason: "a commit has 40 lower-case hexadecimal digits",
        })
    }
}

/// Refuses what is no branch, tag or commit, or could not be a file name below `refs`.
pub(crate) fn check_revision(revision: &str) -> Result<()> {
    let odd = |character: char| {
        character.is_control() || character.is_whitespace() || "\\~^:?*[".contains(character)
    };
    let bad = |reason| Error::BadRevision { given: shortened(revision), reason };
    if revision.contains(odd) {
        return Err(bad("git allows no such character in a name"));
    }
    check_components(revision).map_err(bad)
}

/// Refuses what does not name a file strictly below a folder, on any system.
pub(crate) fn check_path(path: &str) -> Result<()> {
    path_fault(path).map_or(Ok(()), |reason| Err(Error::BadPath { given: shortened(path), reason }))
}

/// What is wrong with a path in a repository, if anything is.
pub(crate) fn path_fault(path: &str) -> Option<&'static str> {
    if path.contains(|character: char| character.is_control() || character == '\\') {
        return Some("it has a control character or a backslash");
    }
    check_components(path).err()
}

fn check_components(path: &str) -> Result<(), &'static str> {
    if path.is_empty() {
        return Err("it is empty");
    }
    if path.len() > LONGEST_PATH {
        return Err("it has more than 2048 bytes");
    }
    for component in path.split('/') {
        match component {
            "" => return Err("it begins or ends with `/`, or has two in a row"),
            "." | ".." => return Err("`.` and `..` lead elsewhere"),
            long if long.len() > LONGEST_COMPONENT => return Err("a part of it has more than 255 bytes"),
            _ => {}
        }
    }
    Ok(())
}

/// Text from outside, short enough for a message.
pub(crate) fn shortened(text: &str) -> String {
    const LONGEST: usize = 200;
    if text.chars().count() <= LONGEST {
        return text.to_owned();
    }
    text.chars().take(LONGEST).chain(std::iter::once('…')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_of_the_hub() {
        for good in ["timm/vit_small_patch16_224.augreg_in21k", "gpt2", "a/b", "A-b/c_d.e"] {
            assert_eq!(Repository::new(RepositoryKind::Model, good).unwrap().id(), good);
        }
        let long = "a".repeat(97);
        for bad in [
            "", "/", "a/", "/a", "a/b/c", "a--b", "../a", "a/..", ".a/b", "a/b-", "a/b.git", "a b", "ä/b",
            "a/b?x", &long,
        ] {
            assert!(Repository::new(RepositoryKind::Dataset, bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_folder_is_pythons() {
        let model = Repository::new(RepositoryKind::Model, "owner/name").unwrap();
        let dataset = Repository::new(RepositoryKind::Dataset, "mnist").unwrap();
        assert_eq!(
            (model.folder(), dataset.folder()),
            ("models--owner--name".into(), "datasets--mnist".into())
        );
        assert_eq!(model.to_string(), "model owner/name");
    }

    #[test]
    fn commits_have_forty_lower_case_digits() {
        let digits = "0123456789abcdef0123456789abcdef01234567";
        assert_eq!(digits.parse::<Commit>().unwrap().as_str(), digits);
        for bad in [
            "",
            "main",
            &digits[1..],
            &digits.to_uppercase(),
            &format!("{digits}0"),
            &digits.replace('0', "g"),
        ] {
            assert!(bad.parse::<Commit>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn paths_stay_below_their_folder() {
        for good in [
            "a",
            "a/b.parquet",
            "data/train-00000-of-00001.parquet",
            "ä ö/#1?.txt",
            "..a/b..",
            ".gitattributes",
        ] {
            assert!(check_path(good).is_ok(), "{good:?}");
        }
        let long = "x".repeat(256);
        let deep = "x/".repeat(1024) + "x";
        for bad in [
            &deep, "", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/./b", "a\\b", "a\0b", "a\nb",
            &long,
        ] {
            assert!(check_path(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn revisions_are_names_that_git_allows() {
        for good in ["main", "refs/convert/parquet", "v1.0", "feature/x-y_z"] {
            assert!(check_revision(good).is_ok(), "{good:?}");
        }
        for bad in ["", "a b", "../main", "refs/../x", "a~1", "a^", "a:b", "/main", "main/", "a\nb"] {
            assert!(check_revision(bad).is_err(), "{bad:?}");
        }
    }
}
