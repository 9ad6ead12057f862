//! Whether a point fits a condition: an entry of `exclude`, a `when`, or what an entry of `include` shares with the matrix.
//!
//! Values count as they are resolved: what a point does not write has its default, and `24%` is the epoch that it comes to.
//! Defaults that depend on other keys or on a definition (`input_size`, the head's rates) count only where they are written.

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::budget::Share;
use crate::epsilon::Epsilon;
use crate::grammar::{Field, Kind, Presence, default_node};
use crate::node::Node;

/// The defaults of all keys of a run, by their text: parsing them again for every point would take most of the time.
static DEFAULTS: LazyLock<HashMap<&'static str, Node>> = LazyLock::new(|| {
    let mut known = HashMap::new();
    let mut kinds: Vec<&'static Kind> = vec![&Kind::PartialRun];
    while let Some(kind) = kinds.pop() {
        for field in kind.fields() {
            if let Presence::Default(text) = field.presence {
                known.insert(text, default_node(text));
            }
            kinds.push(&field.kind);
        }
    }
    known
});

/// Returns whether every key of `pattern` has the same value in `point`. Below the top, a mapping in the pattern may name
/// a part of the keys only.
pub(super) fn matches(pattern: &Node, point: &Node) -> bool {
    fits(pattern, point, &Kind::PartialRun, epochs(point))
}

/// Returns whether the value at a dotted path is `value`, whole: neither says more than the other.
pub(super) fn is_at(value: &Node, point: &Node, path: &str) -> bool {
    let epochs = epochs(point);
    value_at(point, path, &Kind::PartialRun)
        .is_some_and(|(found, kind)| fits(value, found, kind, epochs) && fits(found, value, kind, epochs))
}

fn epochs(point: &Node) -> Option<u32> {
    match point.get("epochs") {
        Some(Node::Integer(epochs)) => u32::try_from(*epochs).ok(),
        _ => None,
    }
}

fn fits(pattern: &Node, node: &Node, kind: &'static Kind, epochs: Option<u32>) -> bool {
    match (pattern, node) {
        (Node::Map(keys), _) => keys.iter().all(|(key, pattern)| {
            value_at(node, key, kind).is_some_and(|(value, kind)| fits(pattern, value, kind, epochs))
        }),
        (Node::List(patterns), Node::List(values)) => {
            let item = if let Kind::List { item, .. } = kind { item } else { &Kind::Text };
            patterns.len() == values.len()
                && patterns.iter().zip(values).all(|(left, right)| fits(left, right, item, epochs))
        }
        (Node::Integer(left), Node::Float(right)) | (Node::Float(right), Node::Integer(left)) => {
            *left as f64 == *right
        }
        (left, right) => left == right || is_same_in_other_words(left, right, kind, epochs),
    }
}

fn is_same_in_other_words(left: &Node, right: &Node, kind: &Kind, epochs: Option<u32>) -> bool {
    match kind {
        Kind::Epsilon => {
            let read = |node: &Node| node.to_string().parse::<Epsilon>().ok();
            read(left).is_some_and(|left| read(right) == Some(left))
        }
        Kind::Epoch => {
            let read = |node: &Node| match node {
                Node::Integer(epoch) => u32::try_from(*epoch).ok(),
                Node::Text(text) => Some(Share::parse(text)?.of(epochs?)),
                _ => None,
            };
            read(left).is_some_and(|left| read(right) == Some(left))
        }
        Kind::Or { kind, .. } => is_same_in_other_words(left, right, kind, epochs),
        _ => false,
    }
}

/// Returns the value at a dotted path, or the default that stands in for it, and what it is.
fn value_at<'n>(node: &'n Node, path: &str, kind: &'static Kind) -> Option<(&'n Node, &'static Kind)> {
    if let (Kind::Tagged(_), "kind") = (kind, path) {
        return Some((node.get("kind")?, &Kind::Text));
    }
    let (key, rest) = path.split_once('.').map_or((path, None), |(key, rest)| (key, Some(rest)));
    let field = field_of(node, key, kind)?;
    let value = node.get(key).or_else(|| default_of(field))?;
    match rest {
        Some(rest) => value_at(value, rest, &field.kind),
        None => Some((value, &field.kind)),
    }
}

/// Returns a key of a mapping; of a tagged one only a key that its `kind` has.
fn field_of(node: &Node, key: &str, kind: &'static Kind) -> Option<&'static Field> {
    match kind {
        Kind::Tagged(variants) => {
            let tag = node.get("kind")?;
            let variant =
                variants.iter().find(|variant| matches!(tag, Node::Text(tag) if tag == variant.kind))?;
            variant.fields.iter().find(|field| field.name == key)
        }
        Kind::Or { kind, .. } => field_of(node, key, kind),
        kind => kind.fields().find(|field| field.name == key),
    }
}

fn default_of(field: &Field) -> Option<&'static Node> {
    match field.presence {
        Presence::Default(text) => DEFAULTS.get(text),
        _ => None,
    }
}
