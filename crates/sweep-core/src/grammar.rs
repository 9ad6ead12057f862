//! The grammar of a sweep file as data: one table says which keys there are, what values they take and what stands in
//! for a key that is not written. The checker here and the JSON Schema of [`crate::schema`] both read it.

use serde_json::{Map, Value};

use crate::budget::{MAX_EPOCHS, Share};
use crate::epsilon::Epsilon;
use crate::node::Node;
use crate::problem::{Collector, Problem, unknown};
use crate::quantity;
use crate::slurm::{self, Gpus};

/// Longest text, in characters: that of a path. Every run of a grid has its own copy.
pub(crate) const LONGEST_TEXT: usize = 1000;

/// What a value may be.
#[derive(Debug)]
pub(crate) enum Kind {
    Bool,
    Integer {
        min: i64,
        max: i64,
    },
    Number {
        min: f64,
        max: f64,
        open: Open,
    },
    Epsilon,
    /// An epoch, or a percentage of the epochs of the run such as `24%`, which [`crate::budget`] turns into one.
    Epoch,
    /// A length of time such as `90s`, `30m`, `12h` or `7d`; seconds in normal form.
    Duration,
    /// An amount of memory or disk such as `500GB` or `64GiB`; bytes in normal form.
    Size,
    /// GPUs of a job, such as `1` or `a100:1`; text in normal form.
    Gpus,
    /// Memory of a job as Slurm writes it, or a size; MiB in normal form.
    Memory,
    /// A time limit as Slurm writes it, or a length of time; seconds in normal form.
    TimeLimit,
    /// A flag of `sbatch` that is not set by other means.
    SbatchFlag,
    Text,
    /// A name, or `owner/name`: letters, digits, `.`, `_`, `-` and `/`. It never leads out of a folder: no part of it is
    /// empty, `.` or `..`.
    Name,
    Choice(&'static [&'static str]),
    /// The word, which becomes a JSON null, or a value of the other kind.
    Or {
        word: &'static str,
        kind: &'static Kind,
    },
    List {
        item: &'static Kind,
        min: usize,
        max: usize,
    },
    Object(&'static [Field]),
    /// A mapping whose `kind` says which other keys it has.
    Tagged(&'static [Variant]),
    /// A part of a run: the keys of [`crate::tables::RUN`], none of them required.
    PartialRun,
}

/// Which ends of a range are not allowed themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Open {
    Neither,
    Min,
    Max,
    Both,
}

/// A key of a mapping.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) presence: Presence,
    pub(crate) doc: &'static str,
}

/// What holds where a key is not written.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Presence {
    /// It must be.
    Required,
    /// It stays away; what that means is said in its documentation.
    Optional,
    /// This YAML text stands in.
    Default(&'static str),
}

/// One kind of a tagged mapping.
#[derive(Debug)]
pub(crate) struct Variant {
    pub(crate) kind: &'static str,
    pub(crate) fields: &'static [Field],
    pub(crate) doc: &'static str,
}

impl Kind {
    /// Returns what would be accepted, in words.
    pub(crate) fn accepted(&self) -> String {
        match self {
            Self::Bool => "true or false".to_owned(),
            Self::Integer { min, max: i64::MAX } => format!("an integer of at least {min}"),
            Self::Integer { min, max } => format!("an integer from {min} to {max}"),
            Self::Number { min, max, open } => {
                let (left, right) = (
                    if matches!(open, Open::Min | Open::Both) { '(' } else { '[' },
                    if matches!(open, Open::Max | Open::Both) { ')' } else { ']' },
                );
                format!("a number in {left}{min}, {max}{right}")
            }
            Self::Epsilon => "a fraction such as 4/255, in [0, 1]".to_owned(),
            Self::Epoch => {
                format!("an epoch from 0 to {MAX_EPOCHS} or a percentage of `epochs` such as 24%")
            }
            Self::Duration => format!("a length of time such as {}", quantity::DURATION_EXAMPLES),
            Self::Size => format!("an amount such as {}", quantity::SIZE_EXAMPLES),
            Self::Gpus => format!("a number of GPUs such as {}", slurm::GPUS_EXAMPLES),
            Self::Memory => format!("an amount of memory such as {}", slurm::MEMORY_EXAMPLES),
            Self::TimeLimit => format!("a time limit such as {}", slurm::TIME_EXAMPLES),
            Self::SbatchFlag => "a flag of sbatch such as --constraint=a100".to_owned(),
            Self::Or { word, kind } => format!("`{word}` or {}", kind.accepted()),
            Self::Text => format!("a text of at most {LONGEST_TEXT} characters"),
            Self::Name => {
                "a name of at most 200 letters, digits, `.`, `_`, `-` and `/`, no part of it empty, `.` or `..`".to_owned()
            }
            Self::Choice(choices) => format!("one of: {}", choices.join(", ")),
            Self::List { item, min, max } if min == max => {
                format!("a list of {min}, each {}", item.accepted())
            }
            Self::List { item, .. } => format!("a list, each {}", item.accepted()),
            Self::Object(_) | Self::PartialRun => "a mapping".to_owned(),
            Self::Tagged(variants) => {
                format!("a mapping with `kind`, one of: {}", kinds(variants).join(", "))
            }
        }
    }

    /// Returns the kind of the value at a dotted path below this one. Below a tagged mapping a key of any of its
    /// variants counts.
    pub(crate) fn below(&self, path: &str) -> Option<&Self> {
        let (key, rest) = path.split_once('.').map_or((path, None), |(key, rest)| (key, Some(rest)));
        self.fields().find(|field| field.name == key).and_then(|field| match rest {
            Some(rest) => field.kind.below(rest),
            None => Some(&field.kind),
        })
    }

    /// Returns the keys that a mapping of this kind may have; `kind` of a tagged mapping is none of them.
    pub(crate) fn fields(&self) -> Box<dyn Iterator<Item = &'static Field> + '_> {
        match self {
            Self::Object(fields) => Box::new(fields.iter()),
            Self::PartialRun => Box::new(crate::tables::RUN.iter()),
            Self::Tagged(variants) => Box::new(variants.iter().flat_map(|variant| variant.fields)),
            Self::Or { kind, .. } => kind.fields(),
            _ => Box::new(std::iter::empty()),
        }
    }
}

pub(crate) fn kinds(variants: &[Variant]) -> Vec<&'static str> {
    variants.iter().map(|variant| variant.kind).collect()
}

/// Checks `node` against `kind` and returns it as JSON in normal form: defaults filled in, epsilons as exact text,
/// numbers as floats. Problems go to `problems`; the value is then of no use.
pub(crate) fn check(node: &Node, kind: &Kind, path: &str, problems: &mut Collector) -> Value {
    let value = match (kind, node) {
        (Kind::Bool, Node::Bool(value)) => Some(Value::from(*value)),
        (Kind::Integer { min, max }, Node::Integer(value)) => {
            (min..=max).contains(&value).then(|| Value::from(*value))
        }
        (Kind::Number { .. }, Node::Integer(value)) => number(*value as f64, kind),
        (Kind::Number { .. }, Node::Float(value)) => number(*value, kind),
        (Kind::Epsilon, Node::Text(_) | Node::Integer(_) | Node::Float(_)) => {
            return epsilon(node, path, problems);
        }
        (Kind::Epoch, Node::Integer(value)) => {
            (0..=i64::from(MAX_EPOCHS)).contains(value).then(|| Value::from(*value))
        }
        (Kind::Epoch, Node::Text(text)) => Share::parse(text).map(|_| Value::from(text.as_str())),
        (Kind::Duration, Node::Text(text)) => quantity::seconds(text).map(Value::from),
        (Kind::Size, Node::Text(text)) => quantity::bytes(text).map(Value::from),
        (Kind::Gpus, Node::Text(_) | Node::Integer(_)) => {
            node.to_string().parse::<Gpus>().ok().map(|gpus| Value::from(gpus.to_string()))
        }
        (Kind::Memory, Node::Text(text)) => slurm::parse_memory(text).map(Value::from),
        (Kind::TimeLimit, Node::Text(_) | Node::Integer(_)) => {
            slurm::parse_time_limit(&node.to_string()).map(Value::from)
        }
        (Kind::SbatchFlag, Node::Text(text)) => return sbatch_flag(text, path, problems),
        (Kind::Or { word, .. }, Node::Text(text)) if text == word => return Value::Null,
        (Kind::Or { kind, .. }, Node::Map(_)) => return check(node, kind, path, problems),
        (Kind::Or { kind, .. }, _) if accepts(node, kind) => return check(node, kind, path, problems),
        (Kind::Text, Node::Text(text)) => {
            (1..=LONGEST_TEXT).contains(&text.chars().count()).then(|| Value::from(text.as_str()))
        }
        (Kind::Name, Node::Text(text)) => is_name(text).then(|| Value::from(text.as_str())),
        (Kind::Choice(choices), Node::Text(text)) => {
            if !choices.contains(&text.as_str()) {
                problems.add(unknown("value", path, text, choices));
                return Value::Null;
            }
            Some(Value::from(text.as_str()))
        }
        (Kind::List { item, min, max }, Node::List(items)) if (*min..=*max).contains(&items.len()) => {
            let each = items.iter().enumerate();
            return each
                .map(|(index, node)| check(node, item, &format!("{path}[{index}]"), problems))
                .collect();
        }
        (Kind::Object(fields), Node::Map(entries)) => return object(entries, fields, path, problems),
        (Kind::PartialRun, Node::Map(entries)) => return partial_run(entries, path, problems),
        (Kind::Tagged(variants), Node::Map(entries)) => return tagged(entries, variants, path, problems),
        _ => None,
    };
    value.unwrap_or_else(|| {
        let problem = Problem::new(
            path,
            format!("`{}` is {}, expected {}", shortened(node), node.kind(), kind.accepted()),
        );
        let tag_alone = match (kind, node) {
            (Kind::Tagged(variants), Node::Text(text)) => {
                kinds(variants).contains(&text.as_str()).then_some(text)
            }
            _ => None,
        };
        problems.add(match tag_alone {
            Some(text) => problem.hint(format!("write {{kind: {text}}}")),
            None => problem,
        });
        Value::Null
    })
}

fn accepts(node: &Node, kind: &Kind) -> bool {
    let mut problems = Collector::default();
    check(node, kind, "", &mut problems);
    problems.reports() == 0
}

/// Returns a value as text, cut where it is long.
pub(crate) fn shortened(node: &Node) -> String {
    let text = node.to_string();
    if text.chars().count() > 60 { text.chars().take(57).chain("...".chars()).collect() } else { text }
}

fn number(value: f64, kind: &Kind) -> Option<Value> {
    let Kind::Number { min, max, open } = kind else { return None };
    let above = if matches!(open, Open::Min | Open::Both) { value > *min } else { value >= *min };
    let below = if matches!(open, Open::Max | Open::Both) { value < *max } else { value <= *max };
    (above && below).then(|| Value::from(value))
}

fn epsilon(node: &Node, path: &str, problems: &mut Collector) -> Value {
    match node.to_string().parse::<Epsilon>() {
        Ok(epsilon) => Value::from(epsilon.to_string()),
        Err(error) => {
            let problem = Problem::new(path, format!("{error}, expected {}", Kind::Epsilon.accepted()));
            let above_one = matches!(node, Node::Integer(2..=255)).then(|| format!("write `{node}/255`"));
            problems.add(match error.hint().or(above_one) {
                Some(hint) => problem.hint(hint),
                None => problem,
            });
            Value::Null
        }
    }
}

fn sbatch_flag(text: &str, path: &str, problems: &mut Collector) -> Value {
    match slurm::check_sbatch_flag(text) {
        Ok(()) => Value::from(text),
        Err(error) => {
            problems.add(Problem::new(path, error.to_string()));
            Value::Null
        }
    }
}

fn is_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte);
    let leads_on = |part: &str| !matches!(part, "" | "." | "..");
    text.len() <= 200 && text.bytes().all(allowed) && text.split('/').all(leads_on)
}

fn object(
    entries: &[(String, Node)],
    fields: &'static [Field],
    path: &str,
    problems: &mut Collector,
) -> Value {
    refuse_unknown_keys(entries, fields, &[], path, problems);
    checked_fields(entries, fields, path, problems)
}

fn tagged(
    entries: &[(String, Node)],
    variants: &'static [Variant],
    path: &str,
    problems: &mut Collector,
) -> Value {
    let names = kinds(variants);
    let variant = match entries.iter().find(|(key, _)| key == "kind") {
        None => {
            problems
                .add(Problem::new(path, format!("`kind` is missing, expected one of: {}", names.join(", "))));
            return Value::Null;
        }
        Some((_, kind)) => {
            let found =
                variants.iter().find(|variant| matches!(kind, Node::Text(text) if text == variant.kind));
            let Some(variant) = found else {
                problems.add(unknown("kind", &join(path, "kind"), &shortened(kind), &names));
                return Value::Null;
            };
            variant
        }
    };
    refuse_unknown_keys(entries, variant.fields, &["kind"], path, problems);
    let mut value = checked_fields(entries, variant.fields, path, problems);
    value["kind"] = Value::from(variant.kind);
    value
}

fn partial_run(entries: &[(String, Node)], path: &str, problems: &mut Collector) -> Value {
    refuse_unknown_keys(entries, crate::tables::RUN, &[], path, problems);
    for (key, node) in entries {
        if let Some(field) = crate::tables::RUN.iter().find(|field| field.name == key) {
            check(node, &field.kind, &join(path, key), problems);
        }
    }
    Value::from(&Node::Map(entries.to_vec()))
}

fn refuse_unknown_keys(
    entries: &[(String, Node)],
    fields: &[Field],
    also: &[&'static str],
    path: &str,
    problems: &mut Collector,
) {
    let known: Vec<&str> = also.iter().copied().chain(fields.iter().map(|field| field.name)).collect();
    for (key, _) in entries.iter().filter(|(key, _)| !known.contains(&key.as_str())) {
        problems.add(unknown("key", path, key, &known));
    }
}

fn checked_fields(
    entries: &[(String, Node)],
    fields: &'static [Field],
    path: &str,
    problems: &mut Collector,
) -> Value {
    let mut map = Map::new();
    for field in fields {
        let written = entries.iter().find(|(key, _)| key == field.name).map(|(_, node)| node);
        let place = join(path, field.name);
        let value = match (written, field.presence) {
            (Some(node), _) => check(node, &field.kind, &place, problems),
            (None, Presence::Optional) => continue,
            (None, Presence::Default(text)) => check(&default_node(text), &field.kind, &place, problems),
            (None, Presence::Required) => {
                let message = format!("`{}` is missing, expected {}", field.name, field.kind.accepted());
                problems.add(Problem::new(path, message));
                continue;
            }
        };
        map.insert(field.name.to_owned(), value);
    }
    Value::Object(map)
}

/// Returns a default of the table as a node.
pub(crate) fn default_node(text: &str) -> Node {
    Node::parse(text).expect("defaults of the table are YAML; a test reads them all")
}

/// Returns `path.key`, or `key` at the top.
pub(crate) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}
