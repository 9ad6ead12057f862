//! YAML as a tree, read with bounds. The only module that knows `serde_yaml`.

use std::cell::Cell;
use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use crate::problem::Problem;

/// Largest sweep file, in bytes.
pub(crate) const MAX_BYTES: usize = 1 << 20;
/// Most values in a file after its aliases are expanded.
const MAX_NODES: usize = 200_000;
/// Most bytes of texts in a file after its aliases are expanded.
const MAX_TEXT: usize = 4 * MAX_BYTES;
/// Most brackets open at once and most `- ` or `? ` at the beginning of one line. The reader of YAML refuses far fewer levels,
/// but only after its scanner has taken a time that grows with the square of their number.
const MAX_OPEN: usize = 1000;

/// One YAML value. Keys keep their order; it is the order of the grid.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Node {
    Null,
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

impl Node {
    /// Reads one YAML document. Duplicate keys, tags, several documents, and more values than a sweep can need
    /// (an alias bomb) are refused.
    pub(crate) fn parse(text: &str) -> Result<Self, Problem> {
        if text.len() > MAX_BYTES {
            return Err(Problem::new(
                "",
                format!("the file has {} bytes, expected at most {MAX_BYTES}", text.len()),
            ));
        }
        if is_deep(text) {
            return Err(Problem::new("", format!("the file has more than {MAX_OPEN} levels of nesting")));
        }
        let left = Left { nodes: Cell::new(MAX_NODES), text: Cell::new(MAX_TEXT) };
        let document = serde_yaml::Deserializer::from_str(text);
        NodeSeed { left: &left }.deserialize(document).map_err(|error| Problem::new("", error.to_string()))
    }

    /// Returns the number of values, this one included.
    pub(crate) fn count(&self) -> usize {
        match self {
            Self::List(values) => 1 + values.iter().map(Self::count).sum::<usize>(),
            Self::Map(entries) => 1 + entries.iter().map(|(_, value)| value.count()).sum::<usize>(),
            _ => 1,
        }
    }

    /// Returns the kind of value in words.
    pub(crate) const fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "a boolean",
            Self::Integer(_) => "an integer",
            Self::Float(_) => "a number",
            Self::Text(_) => "a text",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
        }
    }

    /// Returns the value under a key of a mapping.
    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Map(entries) => entries.iter().find(|(name, _)| name == key).map(|(_, value)| value),
            _ => None,
        }
    }

    /// Returns the value at a dotted path. A key that is dotted itself, as in a matrix, is found under its whole name.
    pub(crate) fn at(&self, path: &str) -> Option<&Self> {
        self.get(path).or_else(|| {
            let (key, rest) = path.split_once('.')?;
            self.get(key)?.at(rest)
        })
    }

    /// Puts a value at a dotted path; what lies on the way and is no mapping becomes one.
    pub(crate) fn set(&mut self, path: &str, value: Self) {
        let (key, rest) = self.step(path);
        let slot = self.entry(key);
        match rest {
            Some(rest) => slot.set(rest, value),
            None => *slot = value,
        }
    }

    /// Removes the value at a dotted path and returns it.
    pub(crate) fn remove(&mut self, path: &str) -> Option<Self> {
        let (key, rest) = self.step(path);
        let Self::Map(entries) = self else { return None };
        let position = entries.iter().position(|(name, _)| name == key)?;
        match rest {
            Some(rest) => entries[position].1.remove(rest),
            None => Some(entries.remove(position).1),
        }
    }

    /// Splits the first key off a dotted path; all of the path where that is a key as a whole.
    fn step<'p>(&self, path: &'p str) -> (&'p str, Option<&'p str>) {
        match path.split_once('.') {
            Some((key, rest)) if self.get(path).is_none() => (key, Some(rest)),
            _ => (path, None),
        }
    }

    fn entry(&mut self, key: &str) -> &mut Self {
        if !matches!(self, Self::Map(_)) {
            *self = Self::Map(Vec::new());
        }
        let Self::Map(entries) = self else { unreachable!("it was just made a mapping") };
        let position = entries.iter().position(|(name, _)| name == key).unwrap_or_else(|| {
            entries.push((key.to_owned(), Self::Null));
            entries.len() - 1
        });
        &mut entries[position].1
    }
}

/// Whether a text opens more levels than [`MAX_OPEN`]. Brackets within texts and comments count as well, which harms nobody.
fn is_deep(text: &str) -> bool {
    let mut open = 0_usize;
    let brackets = text.bytes().any(|byte| {
        match byte {
            b'[' | b'{' => open += 1,
            b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        open > MAX_OPEN
    });
    brackets || text.lines().any(|line| leading_indicators(line) > MAX_OPEN)
}

/// Returns how many levels a line opens by `- ` and `? ` before anything else.
fn leading_indicators(line: &str) -> usize {
    let is_indicator = |part: &&str| matches!(*part, "-" | "?" | ":");
    line.split_ascii_whitespace().take_while(is_indicator).count()
}

impl fmt::Display for Node {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => formatter.write_str(text),
            // JSON has no such numbers.
            Self::Float(value) if !value.is_finite() => write!(formatter, "{value}"),
            node => write!(formatter, "{}", Value::from(node)),
        }
    }
}

impl From<&Node> for Value {
    fn from(node: &Node) -> Self {
        match node {
            Node::Null => Self::Null,
            Node::Bool(value) => Self::from(*value),
            Node::Integer(value) => Self::from(*value),
            Node::Float(value) => Self::from(*value),
            Node::Text(value) => Self::from(value.as_str()),
            Node::List(values) => values.iter().map(Self::from).collect(),
            Node::Map(entries) => {
                Self::Object(entries.iter().map(|(key, value)| (key.clone(), Self::from(value))).collect())
            }
        }
    }
}

/// What is still allowed.
struct Left {
    nodes: Cell<usize>,
    text: Cell<usize>,
}

/// Reads a [`Node`] and counts down what is left.
#[derive(Clone, Copy)]
struct NodeSeed<'a> {
    left: &'a Left,
}

impl<'de> DeserializeSeed<'de> for NodeSeed<'_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        let left = self.left.nodes.get().checked_sub(1);
        let many = || D::Error::custom(format!("more than {MAX_NODES} values in one file, aliases expanded"));
        self.left.nodes.set(left.ok_or_else(many)?);
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for NodeSeed<'_> {
    type Value = Node;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a plain YAML value without a tag")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_u128<E: serde::de::Error>(self, value: u128) -> Result<Node, E> {
        Err(E::custom(format!("integer `{value}` is too large, expected at most {}", i64::MAX)))
    }

    fn visit_i128<E: serde::de::Error>(self, value: i128) -> Result<Node, E> {
        Err(E::custom(format!("integer `{value}` is too large, expected {} to {}", i64::MIN, i64::MAX)))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Integer(value))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Node, E> {
        let message = |_| E::custom(format!("integer `{value}` is too large, expected at most {}", i64::MAX));
        i64::try_from(value).map(Node::Integer).map_err(message)
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Float(value))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Node, E> {
        let left = self.left.text.get().checked_sub(value.len());
        let long = || E::custom(format!("more than {MAX_TEXT} bytes of texts in one file, aliases expanded"));
        self.left.text.set(left.ok_or_else(long)?);
        Ok(Node::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = access.next_element_seed(self)? {
            values.push(value);
        }
        Ok(Node::List(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut entries: Vec<(String, Node)> = Vec::new();
        let mut seen = HashSet::new();
        while let Some(key) = access.next_key_seed(self)? {
            let key = match key {
                Node::Text(key) => key,
                other => {
                    return Err(A::Error::custom(format!(
                        "key `{other}` is {}, expected a text",
                        other.kind()
                    )));
                }
            };
            if key == "<<" {
                return Err(A::Error::custom(
                    "merge keys (`<<`) are not supported, expected each key to be written; an anchor and its alias (`&name`, `*name`) stand for a whole value",
                ));
            }
            if !seen.insert(key.clone()) {
                return Err(A::Error::custom(format!("key `{key}` stands twice in one mapping")));
            }
            entries.push((key, access.next_value_seed(self)?));
        }
        Ok(Node::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_keep_their_kinds_and_keys_their_order() {
        let node = Node::parse("b: 4/255\na: [1, 2.5, yes, null, 1e-4]\n").unwrap();
        let list =
            vec![Node::Integer(1), Node::Float(2.5), Node::Text("yes".into()), Node::Null, Node::Float(1e-4)];
        assert_eq!(
            node,
            Node::Map(vec![("b".into(), Node::Text("4/255".into())), ("a".into(), Node::List(list))])
        );
    }

    #[test]
    fn what_is_refused() {
        let bomb = format!(
            "a0: &a0 [x]\n{}",
            (1..30).fold(String::new(), |text, level| {
                format!("{text}a{level}: &a{level} [{}]\n", vec![format!("*a{}", level - 1); 10].join(", "))
            })
        );
        let cases = [
            ("a: 1\na: 2", "stands twice"),
            ("a: {b: 1, b: 2}", "stands twice"),
            ("a: !tag x", "without a tag"),
            ("a: 1\n---\nb: 2", "more than one document"),
            ("1: 2", "expected a text"),
            ("a: &a {b: 1}\nc: {<<: *a, d: 2}", "merge keys (`<<`) are not supported"),
            ("a: [1, 2", "did not find expected"),
            ("a: 99999999999999999999", ""),
            (bomb.as_str(), ""),
        ];
        for (text, part) in cases {
            match Node::parse(text) {
                Err(problem) => assert!(problem.message.contains(part), "{text:.40}: {problem}"),
                Ok(node) => assert!(part.is_empty() && text.len() < 40, "{text:.40} was read as {node}"),
            }
        }
        assert!(Node::parse(&"a".repeat(MAX_BYTES + 1)).is_err());
    }

    #[test]
    fn aliases_multiply_neither_values_nor_texts() {
        let long = format!("a: &a {}\nb: [{}]", "x".repeat(500_000), "*a,".repeat(1000));
        assert!(Node::parse(&long).unwrap_err().message.contains("more than 4194304 bytes of texts"));
        let many = format!("a: &a [{}]\nb: [{}]", "1,".repeat(1000), "*a,".repeat(1000));
        let problem = Node::parse(&many).unwrap_err().message;
        assert!(
            problem.contains("more than 200000 values") || problem.contains("repetition limit"),
            "{problem}"
        );
    }

    #[test]
    fn numbers_without_a_place_in_json_are_shown_as_they_are() {
        let shown = |text| Node::parse(text).unwrap().to_string();
        assert_eq!([".nan", ".inf", "-.inf"].map(shown), ["NaN", "inf", "-inf"]);
    }

    #[test]
    fn deep_nesting_is_refused_and_no_stack_overflow() {
        assert!(Node::parse(&"[".repeat(100_000)).is_err());
    }

    #[test]
    fn dotted_paths() {
        let mut node = Node::parse("run: {epochs: 3}").unwrap();
        node.set("run.optimizer.kind", Node::Text("sgd".into()));
        assert_eq!(node.at("run.optimizer.kind"), Some(&Node::Text("sgd".into())));
        assert_eq!(node.remove("run.epochs"), Some(Node::Integer(3)));
        assert_eq!(node.remove("run.epochs"), None);
    }
}
