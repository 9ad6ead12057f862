//! Changes to a sweep file from the command line, in Hydra's words: `a.b=1` changes what is there, `+a.b=1` adds what is
//! not, `~a.b` removes.

use std::fmt;
use std::str::FromStr;

use crate::node::Node;
use crate::problem::{Problem, did_you_mean};

/// One `--set`.
#[derive(Clone, Debug, PartialEq)]
pub struct Assignment {
    path: String,
    action: Action,
}

#[derive(Clone, Debug, PartialEq)]
enum Action {
    Change(Node),
    Add(Node),
    Remove,
}

impl FromStr for Assignment {
    type Err = Problem;

    /// Reads `a.b=VALUE`, `+a.b=VALUE` or `~a.b`; the value is YAML.
    fn from_str(text: &str) -> Result<Self, Problem> {
        let syntax = || {
            Problem::new(
                "",
                format!("`--set {text}` is no assignment, expected a.b=VALUE, +a.b=VALUE or ~a.b"),
            )
        };
        if let Some(path) = text.strip_prefix('~') {
            return (is_path(path))
                .then(|| Self { path: path.to_owned(), action: Action::Remove })
                .ok_or_else(syntax);
        }
        let (path, value) = text.split_once('=').ok_or_else(syntax)?;
        let (path, adds) = path.strip_prefix('+').map_or((path, false), |path| (path, true));
        if !is_path(path) {
            return Err(syntax());
        }
        let node = Node::parse(value)
            .map_err(|problem| Problem::new("", format!("`--set {text}`: {}", problem.message)))?;
        let action = if adds { Action::Add(node) } else { Action::Change(node) };
        Ok(Self { path: path.to_owned(), action })
    }
}

impl fmt::Display for Assignment {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.action {
            Action::Change(value) => write!(formatter, "{}={value}", self.path),
            Action::Add(value) => write!(formatter, "+{}={value}", self.path),
            Action::Remove => write!(formatter, "~{}", self.path),
        }
    }
}

/// Most keys of a path; the deepest of a sweep file has six.
const DEEPEST: usize = 32;

fn is_path(text: &str) -> bool {
    text.split('.').count() <= DEEPEST
        && text.split('.').all(|key| {
            !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
        })
}

impl Assignment {
    /// Returns the key at the top of the file that it changes.
    pub(crate) fn section(&self) -> &str {
        self.path.split('.').next().unwrap_or(&self.path)
    }

    /// Applies the change to the tree of a whole file.
    pub(crate) fn apply(&self, root: &mut Node) -> Result<(), Problem> {
        let path = &self.path;
        let is_there = root.at(path).is_some();
        match &self.action {
            Action::Change(_) | Action::Remove if !is_there => {
                let problem = Problem::new(format!("--set {path}"), "the file has no such key");
                Err(self.hint_for_missing(root, problem))
            }
            Action::Add(_) if is_there => {
                Err(Problem::new(format!("--set +{path}"), "the file already has this key")
                    .hint(format!("write --set {path}=… to change it")))
            }
            Action::Change(value) | Action::Add(value) => {
                root.set(path, value.clone());
                Ok(())
            }
            Action::Remove => {
                root.remove(path);
                Ok(())
            }
        }
    }

    fn hint_for_missing(&self, root: &Node, problem: Problem) -> Problem {
        let (parent, last) = self.path.rsplit_once('.').unwrap_or(("", &self.path));
        let parent_node = if parent.is_empty() { Some(root) } else { root.at(parent) };
        let siblings: Vec<&str> = match parent_node {
            Some(Node::Map(entries)) => entries.iter().map(|(key, _)| key.as_str()).collect(),
            _ => Vec::new(),
        };
        match (did_you_mean(last, siblings), &self.action) {
            (Some(near), _) => problem.hint(format!("did you mean `{near}`?")),
            (None, Action::Change(_)) => problem.hint(format!("write --set +{}=… to add it", self.path)),
            (None, _) => problem,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(file: &str, set: &str) -> Result<String, String> {
        let mut root = Node::parse(file).unwrap();
        let assignment: Assignment = set.parse().map_err(|problem: Problem| problem.to_string())?;
        assignment.apply(&mut root).map_err(|problem| problem.to_string())?;
        Ok(root.to_string())
    }

    #[test]
    fn hydras_three_forms() {
        let file = "run: {epochs: 50, seed: 1}";
        assert_eq!(apply(file, "run.epochs=2").unwrap(), r#"{"run":{"epochs":2,"seed":1}}"#);
        assert_eq!(
            apply(file, "+run.batch_size=8").unwrap(),
            r#"{"run":{"batch_size":8,"epochs":50,"seed":1}}"#
        );
        assert_eq!(apply(file, "~run.seed").unwrap(), r#"{"run":{"epochs":50}}"#);
        assert_eq!(
            apply(file, "run.seed=[1, {a: 4/255}]").unwrap(),
            r#"{"run":{"epochs":50,"seed":[1,{"a":"4/255"}]}}"#
        );
    }

    #[test]
    fn what_is_refused_and_the_hint() {
        let file = "run: {epochs: 50}";
        assert!(apply(file, "run.epoch=2").unwrap_err().contains("did you mean `epochs`?"));
        assert!(apply(file, "run.batch_size=2").unwrap_err().contains("--set +run.batch_size="));
        assert!(apply(file, "+run.epochs=2").unwrap_err().contains("already has"));
        assert!(apply(file, "~run.seed").is_err());
        let deep = format!("+{}=1", vec!["a"; 100_000].join("."));
        for text in [deep.as_str(), "", "=", "run.epochs", "run..epochs=1", "~", "+=1", "run.epochs=[1"] {
            assert!(text.parse::<Assignment>().is_err(), "{text}");
        }
    }
}
