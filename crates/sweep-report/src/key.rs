//! What runs are grouped by: keys of the specification, and their values.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};
use sweep_core::epsilon::Epsilon;

/// A key of a run's specification as a sweep file writes it: `backbone`, `epsilon_schedule`, `seed`; with dots what lies
/// deeper: `optimizer.weight_decay`, `epsilon_schedule.start`, `backbone.weights.revision`. Besides there is `state`, where
/// the run stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(String);

/// Short forms that are in use, and what they stand for.
const SHORT: [(&str, &str); 1] = [("learning_rate", "optimizer.learning_rate")];

impl Key {
    /// Name of the backbone.
    pub const BACKBONE: &str = "backbone";
    /// Name of the dataset.
    pub const DATASET: &str = "dataset";
    /// The radius that training ends at.
    pub const TARGET_EPSILON: &str = "target_epsilon";
    /// How it gets there, such as `ramp 12-37`.
    pub const EPSILON_SCHEDULE: &str = "epsilon_schedule";
    /// The seed.
    pub const SEED: &str = "seed";
    /// Where the run stands.
    pub const STATE: &str = "state";

    /// Returns the key of a name; `learning_rate` is short for `optimizer.learning_rate`.
    pub fn new(name: &str) -> Self {
        let long = SHORT.iter().find(|(short, _)| *short == name).map_or(name, |(_, long)| long);
        Self(long.to_owned())
    }

    /// Returns its full name.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// Returns the name that tables print.
    pub fn label(&self) -> &str {
        SHORT.iter().find(|(_, long)| *long == self.0).map_or(&self.0, |(short, _)| short)
    }

    /// Returns the first part of its name, which is a key itself.
    pub(crate) fn member(&self) -> &str {
        self.0.split('.').next().unwrap_or(&self.0)
    }

    /// Returns whether `other` is this key or lies within it.
    pub(crate) fn contains(&self, other: &Self) -> bool {
        other.0.strip_prefix(&self.0).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }
}

impl FromStr for Key {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self::new(text.trim()))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.label())
    }
}

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.label())
    }
}

/// A value of a key.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// The key is not there: an option that is off.
    None,
    /// Yes or no.
    Flag(bool),
    /// A radius.
    Epsilon(Epsilon),
    /// A number, with the digits it was written with.
    Number {
        /// Rounded to the nearest binary fraction.
        value: f64,
        /// As it is stored.
        digits: String,
    },
    /// A name, a label, or a list.
    Text(String),
}

impl Value {
    /// Returns the value as a number, where it is one.
    pub fn number(&self) -> Option<f64> {
        match self {
            Self::Epsilon(epsilon) => Some(epsilon.value()),
            Self::Number { value, .. } => Some(*value),
            Self::None | Self::Flag(_) | Self::Text(_) => None,
        }
    }

    /// Orders numbers by size, after what is not there and before names; names are equal in order (tables keep them in
    /// the order of the sweep).
    pub(crate) fn order(&self, other: &Self) -> Ordering {
        let rank = |value: &Self| match value {
            Self::None => 0,
            Self::Flag(_) => 1,
            Self::Epsilon(_) | Self::Number { .. } => 2,
            Self::Text(_) => 3,
        };
        match (self, other) {
            (Self::Flag(left), Self::Flag(right)) => left.cmp(right),
            (Self::Epsilon(left), Self::Epsilon(right)) => left.cmp(right),
            (left, right) => match (left.number(), right.number()) {
                (Some(left), Some(right)) => left.total_cmp(&right),
                _ => rank(left).cmp(&rank(right)),
            },
        }
    }

    /// Returns whether `text` means this value: written as tables print it, as an equal number or radius, or, for labels of
    /// several words, with a colon after the first (`ramp:12-37`) or the first alone (`ramp`, any ramp).
    pub(crate) fn fits(&self, text: &str) -> bool {
        let text = text.trim();
        match self {
            Self::Epsilon(epsilon) => text.parse() == Ok(*epsilon),
            Self::Number { value, digits } => {
                text == digits || text.parse::<f64>().is_ok_and(|number| number == *value)
            }
            Self::Text(label) => {
                let label = label.as_str();
                label == text
                    || text.split_once(':').is_some_and(|(word, rest)| {
                        label.split_once(' ').is_some_and(|(first, others)| first == word && others == rest)
                    })
                    || label.split_once(' ').is_some_and(|(first, _)| first == text)
            }
            Self::None | Self::Flag(_) => self.to_string() == text,
        }
    }

    /// Returns whether `text` is exactly what tables print for this value.
    pub(crate) fn is_written(&self, text: &str) -> bool {
        self.to_string() == text.trim()
    }
}

impl fmt::Display for Value {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => formatter.pad("none"),
            Self::Flag(flag) => flag.fmt(formatter),
            Self::Epsilon(epsilon) => epsilon.fmt(formatter),
            Self::Number { digits, .. } => formatter.pad(digits),
            Self::Text(text) => formatter.pad(text),
        }
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::None => serializer.serialize_none(),
            Self::Flag(flag) => serializer.serialize_bool(*flag),
            Self::Number { value, digits } => match digits.parse::<u64>() {
                Ok(whole) => serializer.serialize_u64(whole),
                Err(_) => serializer.serialize_f64(*value),
            },
            Self::Epsilon(_) | Self::Text(_) => serializer.collect_str(self),
        }
    }
}
